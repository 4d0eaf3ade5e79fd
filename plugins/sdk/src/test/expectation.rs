//! Expectations of a suite, compared with decisions of one policy.

use serde_json::{Map, Value};

use super::suite::SuiteError;
use crate::{Decision, Malfunction, Outcome};

/// The answers on the images of a case.
pub(super) type Outcomes = Vec<(String, Result<Decision, Malfunction>)>;

type Answer = Result<Decision, Malfunction>;

/// Returns how the answers differ from the expectations of a case.
pub(super) fn unmet(
    case: &Map<String, Value>,
    judged: &Outcomes,
    policy: &str,
) -> Result<Vec<String>, SuiteError> {
    let mut wrong = Vec::new();
    let mut asserts = false;
    if let Some(expect) = case.get("expect") {
        asserts = true;
        let (outcome, code) = review(expect)?;
        let fits = |answer: &Answer| fits(answer, outcome, code, false);
        let met = if outcome == "allow" {
            judged.iter().all(|(_, answer)| fits(answer))
        } else {
            judged.iter().any(|(_, answer)| fits(answer))
        };
        if !met {
            let got: Vec<String> = judged.iter().map(|(image, answer)| show(image, answer)).collect();
            wrong.push(format!("expected {outcome} {}, got {}", code.unwrap_or_default(), got.join(", ")));
        }
    }
    if let Some(Value::Object(images)) = case.get("images") {
        for ((image, answer), expectation) in judged.iter().zip(images.values()) {
            asserts |= !expectation.is_null();
            for problem in of_image(expectation, answer, policy)? {
                wrong.push(format!("{}: {problem}", show(image, answer)));
            }
        }
    }
    if asserts { Ok(wrong) } else { Err(SuiteError::Format("a case expects nothing".to_owned())) }
}

/// Reads the expectation of a whole review: an outcome, and the code of a decision.
fn review(expect: &Value) -> Result<(&str, Option<&str>), SuiteError> {
    let (outcome, code) = match expect {
        Value::String(outcome) => (outcome, None),
        Value::Object(map) => match map.iter().collect::<Vec<_>>().as_slice() {
            [(outcome, code)] => (*outcome, code.as_str()),
            _ => return Err(SuiteError::Unsupported("`expect` with several keys".to_owned())),
        },
        _ => return Err(SuiteError::Format("`expect` is neither an outcome nor a map".to_owned())),
    };
    match outcome.as_str() {
        "allow" | "deny" | "malfunction" => Ok((outcome, code)),
        other => Err(SuiteError::Unsupported(format!("`expect: {other}`"))),
    }
}

/// Returns whether an answer has an outcome. An image on which the policy abstains is denied, unless the
/// outcome is that of the policy itself.
fn fits(answer: &Answer, outcome: &str, code: Option<&str>, own: bool) -> bool {
    let has_code = |decision: &Decision| code.is_none_or(|code| decision.code == code);
    match (answer, outcome) {
        (Err(_), "malfunction") => true,
        (Err(_), "deny") => !own && code.is_none(),
        (Ok(decision), "allow") => decision.outcome == Outcome::Allow && has_code(decision),
        (Ok(decision), "deny") if decision.outcome == Outcome::Abstain => !own && code.is_none(),
        (Ok(decision), "deny") => decision.outcome == Outcome::Deny && has_code(decision),
        (Ok(decision), "abstain") => own && decision.outcome == Outcome::Abstain && has_code(decision),
        _ => false,
    }
}

fn of_image(expectation: &Value, answer: &Answer, policy: &str) -> Result<Vec<String>, SuiteError> {
    let Value::Object(map) = expectation else { return of_policy(expectation, answer, false) };
    let mut rest = map.clone();
    let mut wrong = match rest.remove(policy) {
        Some(own) => of_policy(&own, answer, true)?,
        None => Vec::new(),
    };
    if !rest.is_empty() {
        wrong.extend(of_policy(&Value::Object(rest), answer, false)?);
    }
    Ok(wrong)
}

/// Compares an expectation of an image, or of the policy's own decision on it.
fn of_policy(expectation: &Value, answer: &Answer, own: bool) -> Result<Vec<String>, SuiteError> {
    let mut wrong = Vec::new();
    let outcome = |name: &str, code: Option<&str>| {
        (!fits(answer, name, code, own)).then(|| format!("expected {name} {}", code.unwrap_or_default()))
    };
    let map = match expectation {
        Value::String(name) if ["allow", "deny", "malfunction"].contains(&name.as_str()) || own => {
            wrong.extend(outcome(name, None));
            return Ok(wrong);
        }
        Value::Object(map) => map,
        _ => return Err(SuiteError::Format(format!("`{expectation}` is no expectation"))),
    };
    let empty = crate::abstain("", "");
    let decision = answer.as_ref().unwrap_or(&empty);
    for (key, value) in map {
        match key.as_str() {
            "allow" | "deny" => wrong.extend(outcome(key, value.as_str())),
            "abstain" if own => wrong.extend(outcome(key, value.as_str())),
            "malfunction" if value.is_null() => wrong.extend(outcome(key, None)),
            "reason" => {
                let reason = match answer {
                    Ok(decision) => &decision.reason,
                    Err(malfunction) => malfunction.message(),
                };
                wrong.extend(unmet_text(&[reason], value)?.map(|problem| format!("reason: {problem}")));
            }
            "warnings" => {
                let found: Vec<&str> = decision.warnings.iter().map(String::as_str).collect();
                wrong.extend(unmet_text(&found, value)?.map(|problem| format!("warnings: {problem}")));
            }
            "auditAnnotations" if own => {
                for (name, value) in value.as_object().into_iter().flatten() {
                    let annotations = decision.audit_annotations.iter();
                    let found: Vec<&str> =
                        annotations.filter(|(key, _)| key == name).map(|(_, value)| value.as_str()).collect();
                    wrong.extend(unmet_text(&found, value)?.map(|problem| format!("{name}: {problem}")));
                }
            }
            key => return Err(SuiteError::Unsupported(format!("the expectation `{key}`"))),
        }
    }
    Ok(wrong)
}

/// Returns how texts differ from the expected: a part, `{ is: TEXT }`, or a list of which each is met by one.
pub(super) fn unmet_text(found: &[&str], expected: &Value) -> Result<Option<String>, SuiteError> {
    let met = match expected {
        Value::String(part) if part.len() > 1 && part.starts_with('/') && part.ends_with('/') => {
            return Err(SuiteError::Unsupported("a regular expression".to_owned()));
        }
        Value::String(part) => found.iter().any(|text| text.contains(part.as_str())),
        Value::Object(map) => match (map.get("is").and_then(Value::as_str), map.len()) {
            (Some(whole), 1) => found.contains(&whole),
            _ => return Err(SuiteError::Format("a text is `{ is: TEXT }`".to_owned())),
        },
        Value::Array(texts) if texts.is_empty() => found.iter().all(|text| text.is_empty()),
        Value::Array(texts) => {
            for text in texts {
                if let Some(problem) = unmet_text(found, text)? {
                    return Ok(Some(problem));
                }
            }
            true
        }
        _ => return Err(SuiteError::Format(format!("`{expected}` is no text"))),
    };
    Ok((!met).then(|| format!("expected {expected}, got {found:?}")))
}

fn show(image: &str, answer: &Answer) -> String {
    match answer {
        Ok(Decision { outcome, code, reason, .. }) => format!("{image}: {outcome:?} {code}: {reason}"),
        Err(malfunction) => format!("{image}: malfunction: {}", malfunction.message()),
    }
}
