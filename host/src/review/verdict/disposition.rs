//! The result of a review, and the basis of it. Pure.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The result of a review, with its basis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disposition {
    /// Every image is allowed.
    Allowed(DecidedBy),
    /// An image is denied.
    Denied(DecidedBy),
    /// The review is denied as a whole, before any policy runs: it is malformed, over a limit, or waited too
    /// long.
    Refused,
    /// The review is allowed because the host is in mode `audit`, and would be denied otherwise.
    WouldDeny(DecidedBy),
}

/// The basis of a result, ordered from the most judged to the least judged. A review has the basis of its
/// least judged image. Only the denied images count in a denial, and otherwise all images count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DecidedBy {
    /// Decisions of policies in mode `enforce`.
    Policies,
    /// A malfunction of a policy in mode `enforce`, and its failurePolicy: `Fail` denies the image, or
    /// `Ignore` allows an image that `Fail` would deny.
    FailurePolicy,
    /// A limit of the host: the policies did not end in time.
    Limit,
    /// A reference that does not parse.
    Reference,
    /// The review itself: it is malformed, over a limit, or waited too long.
    Request,
    /// Only policies in mode `audit` apply, and these deny nothing.
    AuditOnly,
    /// No policy allows or denies the image, so `unjudged` decides.
    Unjudged,
    /// An exemption in host.yaml. No policy judges the image.
    Exempt,
}

impl DecidedBy {
    /// Returns the name in metrics, logs and audit annotations.
    pub fn name(self) -> &'static str {
        match self {
            DecidedBy::Policies => "policies",
            DecidedBy::FailurePolicy => "failure-policy",
            DecidedBy::Limit => "limit",
            DecidedBy::Reference => "reference",
            DecidedBy::Request => "request",
            DecidedBy::AuditOnly => "audit-only",
            DecidedBy::Unjudged => "unjudged",
            DecidedBy::Exempt => "exempt",
        }
    }
}

impl fmt::Display for DecidedBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Disposition {
    /// All dispositions that can occur, in order.
    pub const ALL: [Disposition; 17] = {
        use DecidedBy::*;
        use Disposition::*;
        [
            Allowed(Policies),
            Allowed(FailurePolicy),
            Allowed(AuditOnly),
            Allowed(Unjudged),
            Allowed(Exempt),
            Denied(Policies),
            Denied(FailurePolicy),
            Denied(Limit),
            Denied(Reference),
            Denied(Unjudged),
            Refused,
            WouldDeny(Policies),
            WouldDeny(FailurePolicy),
            WouldDeny(Limit),
            WouldDeny(Reference),
            WouldDeny(Request),
            WouldDeny(Unjudged),
        ]
    };

    /// Returns the disposition with a name and a basis. Returns None if there is none.
    pub fn named(name: &str, by: DecidedBy) -> Option<Disposition> {
        Disposition::ALL.into_iter().find(|known| known.name() == name && known.decided_by() == by)
    }

    /// Returns whether the pod may run.
    pub fn allows(self) -> bool {
        matches!(self, Disposition::Allowed(_) | Disposition::WouldDeny(_))
    }

    /// Returns the name in metrics and logs.
    pub fn name(self) -> &'static str {
        match self {
            Disposition::Allowed(_) => "allowed",
            Disposition::Denied(_) => "denied",
            Disposition::Refused => "refused",
            Disposition::WouldDeny(_) => "would-deny",
        }
    }

    /// Returns the basis of the result.
    pub fn decided_by(self) -> DecidedBy {
        match self {
            Disposition::Allowed(by) | Disposition::Denied(by) | Disposition::WouldDeny(by) => by,
            Disposition::Refused => DecidedBy::Request,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_basis_has_one_name_and_a_disposition_its_own() {
        let mut shown: Vec<_> = Disposition::ALL.iter().map(|all| (all.name(), all.decided_by())).collect();
        for (name, by) in &shown {
            assert_eq!(serde_json::json!(by), by.name(), "{name}");
            assert_eq!(by.to_string(), by.name());
        }
        shown.dedup();
        assert_eq!(shown.len(), Disposition::ALL.len());
        let names = [("allowed", true), ("denied", false), ("refused", false), ("would-deny", true)];
        for (name, allows) in names {
            let mut named = Disposition::ALL.iter().filter(|all| all.name() == name).peekable();
            assert!(named.peek().is_some() && named.all(|all| all.allows() == allows), "{name}");
        }
    }
}
