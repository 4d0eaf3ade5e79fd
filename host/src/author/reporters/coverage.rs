//! Coverage of policies: for people, as JSON, and as cases of the formats that have nothing but cases.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::Detail;
use super::broken::place_in;
use super::entry::Totals;
use super::style::{BAD, BOLD, DIM, GOOD, LEFT_OUT, Line, PLAIN};
use crate::config::yaml::Location;
use crate::suite::coverage::{ConfigCoverage, Coverage, PolicyCoverage};
use crate::text;

/// Columns before a gap.
const INDENT: usize = 5;

/// Returns a line for each policy, and a line for each gap.
pub(super) fn lines(coverage: &Coverage, detail: Detail) -> Vec<Line> {
    let all = match coverage {
        Coverage::Of(all) => all,
        Coverage::NotMeasured => {
            let why = "coverage: not measured, since a case failed";
            return vec![Line::default().with(LEFT_OUT, why)];
        }
    };
    let rows: Vec<_> =
        all.iter().flat_map(|config| config.policies.iter().map(move |policy| (config, policy))).collect();
    let widest =
        |width: fn(&(&ConfigCoverage, &PolicyCoverage)) -> usize| rows.iter().map(width).max().unwrap_or(0);
    let file = widest(|(config, _)| config.file.chars().count());
    let name = widest(|(_, policy)| policy.policy.chars().count());
    let mut lines = Vec::new();
    for config in all {
        for policy in &config.policies {
            if detail > Detail::Failures || !policy.missing.is_empty() {
                let mut line = Line::default();
                if file > 0 {
                    line = line.with(BOLD, format!("{:file$}   ", config.file));
                }
                let style = if policy.missing.is_empty() { GOOD } else { PLAIN };
                let line = line.with(PLAIN, format!("{:name$}  ", policy.policy)).hanging();
                lines.push(line.with(style, policy.summary()));
            }
            let gap = |text: String| Line::indented(INDENT).with(BAD, text);
            lines.extend(policy.missing.iter().map(|missing| gap(missing.to_string())));
            let others = policy.others().filter(|_| detail >= Detail::Cases);
            lines.extend(others.map(|text| Line::indented(INDENT).with(DIM, text)));
        }
        lines.extend(config.over_limit().map(|text| Line::indented(INDENT).with(BAD, text)));
    }
    let missing = coverage.missing();
    let (style, total) = match missing {
        0 => (GOOD, "coverage: complete".to_owned()),
        1 => (BAD, "coverage: 1 gap".to_owned()),
        more => (BAD, format!("coverage: {more} gaps")),
    };
    lines.push(Line::default().with(style, total));
    lines
}

/// The coverage of a policy as a case, which fails if there are gaps. Every text but `path` is escaped.
#[derive(Clone, Debug)]
pub(super) struct Finding {
    /// `coverage`, and the file that names the policies.
    pub(super) suite: String,
    /// The name of the policy, or the limit that the entries exceed.
    pub(super) name: String,
    pub(super) gaps: Vec<Gap>,
}

/// A gap in the coverage.
#[derive(Clone, Debug)]
pub(super) struct Gap {
    /// The file that names the policy, or has the entry. Empty for a policy of the command line.
    pub(super) path: PathBuf,
    pub(super) at: Location,
    pub(super) message: String,
}

impl Finding {
    /// Returns the name of the case in all suites.
    pub(super) fn id(&self) -> String {
        format!("{} › {}", self.suite, self.name)
    }
}

/// Returns the coverage as cases. Returns nothing if gaps do not fail the run, or if nothing was measured.
pub(super) fn findings(totals: &Totals) -> Vec<Finding> {
    let all = match &totals.coverage {
        Some(Coverage::Of(all)) if totals.is_coverage_required => all,
        _ => return Vec::new(),
    };
    let of_config = |config: &ConfigCoverage| {
        let suite = match config.file.as_str() {
            "" => "coverage".to_owned(),
            file => format!("coverage › {}", text::escape(file)),
        };
        let gap = |message: String| {
            let place = place_in(&message);
            let (path, at) = place.unwrap_or_else(|| (config.file.clone().into(), Location::default()));
            Gap { path, at, message: text::escape(&message) }
        };
        let mut findings: Vec<_> = config
            .policies
            .iter()
            .map(|policy| Finding {
                suite: suite.clone(),
                name: text::escape(&policy.policy),
                gaps: policy.missing.iter().map(|missing| gap(missing.to_string())).collect(),
            })
            .collect();
        let over_limit = config.over_limit().map(|message| Finding {
            suite,
            name: "entries of settings".to_owned(),
            gaps: vec![gap(message)],
        });
        findings.extend(over_limit);
        findings
    };
    all.iter().flat_map(of_config).collect()
}

/// Returns the coverage as JSON.
pub(super) fn document(coverage: &Coverage) -> Value {
    match coverage {
        Coverage::NotMeasured => json!({ "measured": false }),
        Coverage::Of(all) => {
            let of_config = |config: &ConfigCoverage| {
                let mut document = json!(config);
                let policies = document.get_mut("policies").and_then(Value::as_array_mut);
                for (policy, document) in config.policies.iter().zip(policies.into_iter().flatten()) {
                    add_messages(policy, document);
                }
                document
            };
            let files: Vec<_> = all.iter().map(of_config).collect();
            json!({ "measured": true, "missing": coverage.missing(), "configurations": files })
        }
    }
}

/// Adds the message for people to each gap.
fn add_messages(policy: &PolicyCoverage, document: &mut Value) {
    let gaps = document.get_mut("missing").and_then(Value::as_array_mut);
    for (missing, gap) in policy.missing.iter().zip(gaps.into_iter().flatten()) {
        if let Value::Object(gap) = gap {
            gap.insert("message".to_owned(), missing.to_string().into());
        }
    }
}
