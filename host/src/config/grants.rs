//! Capabilities that host.yaml grants to a policy.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

/// Names of capabilities that a policy is granted. They are part of the digest of its generation, because a
/// policy may decide otherwise with another grant.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Grants(BTreeSet<String>);

impl Grants {
    /// Returns whether nothing is granted.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the names in order.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }
}

impl FromIterator<String> for Grants {
    fn from_iter<T: IntoIterator<Item = String>>(names: T) -> Grants {
        Grants(names.into_iter().collect())
    }
}
