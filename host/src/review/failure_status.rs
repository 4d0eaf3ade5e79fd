//! The wire form of a response without a verdict.

use serde::Serialize;

/// A `metav1.Status` that reports a failure. kubectl shows its message.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FailureStatus<'a> {
    api_version: &'static str,
    kind: &'static str,
    status: &'static str,
    message: &'a str,
    reason: &'a str,
    code: u16,
}

impl<'a> FailureStatus<'a> {
    /// Returns a status whose `reason` is one of Kubernetes' `StatusReason`s, such as `BadRequest`.
    pub fn new(code: u16, reason: &'a str, message: &'a str) -> Self {
        FailureStatus { api_version: "v1", kind: "Status", status: "Failure", message, reason, code }
    }
}
