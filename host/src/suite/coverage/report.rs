//! The report of coverage.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::Serialize;
use serde_json::Value;

use super::{Answer, Answers};
use crate::limits;
use crate::text;

/// Bytes of a value that a message quotes.
const QUOTED: usize = 64;

/// The coverage of the policies under test.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Coverage {
    /// The coverage of each configuration, in the order of the suites.
    Of(Vec<ConfigCoverage>),
    /// A case failed, so that no failure after a change would tell anything.
    NotMeasured,
}

/// The coverage of the policies of one configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ConfigCoverage {
    /// The host.yaml or suite file that names the policies, escaped. Empty for a policy of the command line.
    pub file: String,
    /// The policies, in the order of the file.
    pub policies: Vec<PolicyCoverage>,
    /// The number of entries of settings over the limit, which were not changed.
    pub untried: usize,
}

/// The coverage of a policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyCoverage {
    /// The policy's name.
    pub policy: String,
    /// The number of cases that the policy takes part in.
    pub cases: usize,
    /// The decisions, each with the number of its cases.
    pub answers: Vec<Counted>,
    /// Decisions that came out with changed settings alone. The settings under test may rule them out.
    pub only_with_changed_settings: Vec<Answer>,
    /// The entries of its settings.
    pub settings: SettingsCoverage,
    /// The gaps.
    pub missing: Vec<Missing>,
}

/// A decision, and the number of cases with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Counted {
    /// The decision.
    #[serde(flatten)]
    pub answer: Answer,
    /// The number of cases.
    pub cases: usize,
}

/// The number of entries of a policy's settings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SettingsCoverage {
    /// The entries that were changed. The entries of an entry that no case depends on are not among them.
    pub all: usize,
    /// Those that a case depends on, or that the policy requires.
    pub needed: usize,
}

/// A gap in the cases of a policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Missing {
    /// The policy takes part in no case.
    Case,
    /// No case makes the policy deny an image.
    Denial,
    /// In no case the policy does anything but deny.
    OtherThanDenial,
    /// No case depends on an entry of the settings.
    Setting {
        /// The place and the name of the entry: `host.yaml:12:5: settings/allow/0`.
        place: String,
        /// The value, unless it is a map or a list.
        value: Option<Value>,
    },
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Missing::Case => f.write_str("no case asks it"),
            Missing::Denial => f.write_str("no case makes it deny"),
            Missing::OtherThanDenial => f.write_str("no case makes it do anything but deny"),
            Missing::Setting { place, value: None } => write!(f, "{place}: no case depends on it"),
            Missing::Setting { place, value: Some(value) } => {
                let value = text::escape_and_truncate(&value.to_string(), QUOTED);
                write!(f, "{place} {value}: no case depends on it")
            }
        }
    }
}

impl PolicyCoverage {
    /// Returns the coverage of a policy by its decisions in cases. The settings follow.
    pub fn of<'a>(policy: &str, cases: impl Iterator<Item = &'a Answers>) -> PolicyCoverage {
        let mut counts: BTreeMap<&Answer, usize> = BTreeMap::new();
        let (mut all, mut denials) = (0, 0);
        for answers in cases {
            all += 1;
            denials += usize::from(answers.denies);
            answers.all.iter().for_each(|answer| *counts.entry(answer).or_default() += 1);
        }
        let is_other = |answer: &&Answer| answer.outcome == "allow" || answer.outcome == super::ABSTAIN;
        let missing = match () {
            () if all == 0 => Some(Missing::Case),
            () if denials == 0 => Some(Missing::Denial),
            () if !counts.keys().any(is_other) => Some(Missing::OtherThanDenial),
            () => None,
        };
        let answers = counts.into_iter().map(|(answer, cases)| Counted { answer: answer.clone(), cases });
        PolicyCoverage {
            policy: policy.to_owned(),
            cases: all,
            answers: answers.collect(),
            only_with_changed_settings: Vec::new(),
            settings: SettingsCoverage::default(),
            missing: missing.into_iter().collect(),
        }
    }

    /// Adds an entry of the settings. `gap` is None if the entry is needed. `seen` has the decisions with
    /// changes of the entry.
    pub fn add_setting(&mut self, gap: Option<Missing>, seen: BTreeSet<Answer>) {
        self.settings.all += 1;
        self.settings.needed += usize::from(gap.is_none());
        self.missing.extend(gap);
        for answer in seen {
            let is_known = self.answers.iter().any(|counted| counted.answer == answer)
                || self.only_with_changed_settings.contains(&answer);
            if !is_known {
                self.only_with_changed_settings.push(answer);
            }
        }
        self.only_with_changed_settings.sort();
    }

    /// Returns the decisions and the entries in one line: `allow 4, deny 7; 3 of 3 settings needed`. The
    /// number of an outcome is that of its decisions in cases.
    pub fn summary(&self) -> String {
        let mut outcomes: Vec<(&str, usize)> = Vec::new();
        for Counted { answer, cases } in &self.answers {
            match outcomes.last_mut().filter(|(outcome, _)| *outcome == answer.outcome) {
                Some((_, count)) => *count += cases,
                None => outcomes.push((answer.outcome, *cases)),
            }
        }
        let outcomes: Vec<_> = outcomes.iter().map(|(outcome, count)| format!("{outcome} {count}")).collect();
        let outcomes = if outcomes.is_empty() { "no decision".to_owned() } else { outcomes.join(", ") };
        match self.settings {
            SettingsCoverage { all: 0, .. } => outcomes,
            SettingsCoverage { all, needed } => format!("{outcomes}; {needed} of {all} settings needed"),
        }
    }

    /// Describes the decisions that came out with changed settings alone. Returns None if there are none.
    pub fn others(&self) -> Option<String> {
        let others = self.only_with_changed_settings.iter();
        let others: Vec<_> = others.map(|Answer { outcome, code }| format!("{outcome} {code}")).collect();
        (!others.is_empty()).then(|| format!("with changed settings alone: {}", others.join(", ")))
    }
}

impl ConfigCoverage {
    /// Describes the entries over the limit. Returns None if there are none.
    pub fn over_limit(&self) -> Option<String> {
        let limit = limits::COVERAGE_SETTINGS;
        let found = limit.size() + self.untried;
        (self.untried > 0).then(|| limit.says(found, limit.default))
    }
}

impl Coverage {
    /// Returns the number of gaps.
    pub fn missing(&self) -> usize {
        let Coverage::Of(all) = self else { return 0 };
        let of_config = |config: &ConfigCoverage| {
            config.policies.iter().map(|policy| policy.missing.len()).sum::<usize>() + config.untried
        };
        all.iter().map(of_config).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answers(of: &[(&'static str, &str)], denies: bool) -> Answers {
        let all = of.iter().map(|(outcome, code)| Answer { outcome, code: (*code).to_owned() });
        Answers { all: all.collect(), denies }
    }

    #[test]
    fn a_policy_needs_a_denial_and_another_decision() {
        let allow = answers(&[("allow", "a")], false);
        let deny = answers(&[("deny", "b")], true);
        let abstain = answers(&[("abstain", "c")], false);
        let unjudged = answers(&[("abstain", "c")], true);
        let broken = answers(&[("malfunction", "trap")], false);
        for (cases, summary, expected) in [
            (vec![], "no decision", Some(Missing::Case)),
            (vec![&allow, &abstain], "abstain 1, allow 1", Some(Missing::Denial)),
            (vec![&deny, &deny], "deny 2", Some(Missing::OtherThanDenial)),
            (vec![&broken], "malfunction 1", Some(Missing::Denial)),
            (vec![&broken, &deny], "deny 1, malfunction 1", Some(Missing::OtherThanDenial)),
            (vec![&allow, &deny], "allow 1, deny 1", None),
            (vec![&abstain, &deny], "abstain 1, deny 1", None),
            (vec![&allow, &unjudged], "abstain 1, allow 1", None),
        ] {
            let coverage = PolicyCoverage::of("p", cases.into_iter());
            assert_eq!((coverage.summary().as_str(), coverage.missing.first()), (summary, expected.as_ref()));
        }
    }

    #[test]
    fn decisions_of_changed_settings_are_told_once_and_are_no_gap() {
        let deny = answers(&[("deny", "b")], true);
        let allow = answers(&[("allow", "a")], false);
        let mut coverage = PolicyCoverage::of("p", [&deny, &allow].into_iter());
        let seen = answers(&[("deny", "b"), ("deny", "other"), ("abstain", "c")], false).all;
        coverage.add_setting(None, seen.clone());
        let gap = Missing::Setting { place: "settings/a".to_owned(), value: Some("x\u{1b}".into()) };
        coverage.add_setting(Some(gap), seen);
        assert_eq!(coverage.summary(), "allow 1, deny 1; 1 of 2 settings needed");
        let others = coverage.others();
        assert_eq!(others.as_deref(), Some("with changed settings alone: abstain c, deny other"));
        let told: Vec<_> = coverage.missing.iter().map(Missing::to_string).collect();
        assert_eq!(told, ["settings/a \"x\\u001b\": no case depends on it"]);
        let of = |untried| ConfigCoverage { file: String::new(), policies: vec![coverage.clone()], untried };
        assert_eq!(Coverage::Of(vec![of(0), of(2)]).missing(), 4);
        assert_eq!(Coverage::NotMeasured.missing(), 0);
        assert_eq!((of(0).over_limit(), of(2).over_limit().is_some()), (None, true));
    }
}
