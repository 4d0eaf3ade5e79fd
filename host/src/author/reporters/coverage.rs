//! Coverage of policies, for people and as JSON.

use serde_json::{Value, json};

use super::Detail;
use super::style::{BAD, BOLD, DIM, GOOD, LEFT_OUT, Line, PLAIN};
use crate::suite::coverage::{ConfigCoverage, Coverage, PolicyCoverage};

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
