//! Namespace patterns of host.yaml: a single name, or a common prefix of names.

use std::collections::BTreeSet;
use std::ops::Bound;

use serde::{Deserialize, Serialize};

use super::name::{MAX_LABEL, NameError, check_label, is_label};
use crate::config::yaml::quote;

/// The syntax of a [`NamespacePattern`], as a regular expression.
pub(super) const NAMESPACE_PATTERN: &str =
    "^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$|^[a-z0-9][-a-z0-9]{0,61}[*]$";

/// A namespace, or with a `*` at its end every namespace whose name begins with the text before:
/// `openshift-*`.
///
/// No other character is a wildcard. `*` alone is no pattern, because every key that takes patterns has a
/// plainer notation for "all".
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum NamespacePattern {
    /// One namespace.
    Name(String),
    /// Every namespace whose name begins with this prefix.
    Prefix(String),
}

impl TryFrom<&str> for NamespacePattern {
    type Error = NameError;

    fn try_from(text: &str) -> Result<Self, NameError> {
        let Some(prefix) = text.strip_suffix('*') else {
            return match text.contains(['*', '?', '[']) {
                true => Err(wildcard(text)),
                false => check_label(text).map(|()| Self::Name(text.to_owned())),
            };
        };
        if prefix.is_empty() {
            return Err(NameError::new(
                "`*` is every namespace: name them, or a part of them such as `kube-*`".to_owned(),
            ));
        }
        // With a letter appended, a prefix such as `kube-` is a label.
        if prefix.contains(['*', '?', '[']) || !is_label(&format!("{prefix}a")) {
            return Err(wildcard(text));
        }
        Ok(Self::Prefix(prefix.to_owned()))
    }
}

fn wildcard(text: &str) -> NameError {
    let lower = text.to_ascii_lowercase();
    let hint = match lower != text && NamespacePattern::try_from(lower.as_str()).is_ok() {
        true => format!(": did you mean `{lower}`?"),
        false => ", such as `kube-*`".to_owned(),
    };
    NameError::new(format!(
        "{} is no namespace: write a DNS label (1 to {MAX_LABEL} of a-z, 0-9 and inner `-`), or the \
         beginning of one and a single `*` at its end{hint}",
        quote(text)
    ))
}

impl TryFrom<String> for NamespacePattern {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        Self::try_from(text.as_str())
    }
}

impl From<NamespacePattern> for String {
    fn from(pattern: NamespacePattern) -> Self {
        match pattern {
            NamespacePattern::Name(name) => name,
            NamespacePattern::Prefix(prefix) => format!("{prefix}*"),
        }
    }
}

/// A set of namespaces. A lookup takes two tree searches, whatever the number of patterns.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<NamespacePattern>", into = "Vec<NamespacePattern>")]
pub struct NamespacePatterns {
    names: BTreeSet<String>,
    /// Prefixes, none of which begins with another.
    prefixes: BTreeSet<String>,
}

impl NamespacePatterns {
    /// Returns whether a pattern matches the namespace.
    #[must_use]
    pub fn matches(&self, namespace: &str) -> bool {
        self.names.contains(namespace) || self.prefix_of(namespace).is_some_and(|_| is_label(namespace))
    }

    /// Returns whether there is no pattern.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.names.is_empty() && self.prefixes.is_empty()
    }

    /// Returns every pattern: the names, then the prefixes.
    pub(crate) fn iter(&self) -> impl Iterator<Item = NamespacePattern> + '_ {
        let names = self.names.iter().cloned().map(NamespacePattern::Name);
        names.chain(self.prefixes.iter().cloned().map(NamespacePattern::Prefix))
    }

    /// Returns the prefix that a name begins with. In sorted order, every text between a prefix and a name
    /// with that prefix has the prefix too. No prefix begins with another, so the last prefix at or before
    /// the name is the only candidate.
    fn prefix_of(&self, name: &str) -> Option<&String> {
        let mut up_to = self.prefixes.range::<str, _>((Bound::Unbounded, Bound::Included(name)));
        up_to.next_back().filter(|prefix| name.starts_with(prefix.as_str()))
    }

    fn insert(&mut self, pattern: NamespacePattern) {
        match pattern {
            NamespacePattern::Name(name) => {
                self.names.insert(name);
            }
            NamespacePattern::Prefix(prefix) => {
                if self.prefix_of(&prefix).is_none() {
                    self.prefixes.retain(|longer| !longer.starts_with(&prefix));
                    self.prefixes.insert(prefix);
                }
            }
        }
    }
}

impl FromIterator<NamespacePattern> for NamespacePatterns {
    fn from_iter<T: IntoIterator<Item = NamespacePattern>>(patterns: T) -> Self {
        let mut set = Self::default();
        patterns.into_iter().for_each(|pattern| set.insert(pattern));
        set
    }
}

impl From<Vec<NamespacePattern>> for NamespacePatterns {
    fn from(patterns: Vec<NamespacePattern>) -> Self {
        patterns.into_iter().collect()
    }
}

impl From<NamespacePatterns> for Vec<NamespacePattern> {
    fn from(set: NamespacePatterns) -> Self {
        set.iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patterns(texts: &[&str]) -> NamespacePatterns {
        texts.iter().map(|&text| NamespacePattern::try_from(text).unwrap()).collect()
    }

    #[test]
    fn a_star_at_the_end_is_any_rest_and_nothing_else_is_a_wildcard() {
        let set = patterns(&["default", "openshift-*", "openshift-monitoring-*", "kube*"]);
        for namespace in
            ["default", "openshift-etcd", "openshift-monitoring-x", "kube", "kube-system", "kubevirt"]
        {
            assert!(set.matches(namespace), "{namespace}");
        }
        for namespace in [
            "",
            "default2",
            "defaul",
            "openshift",
            "openshif",
            "openshift-",
            "my-openshift-etcd",
            "kub",
            "akube",
            "openshift-*",
            "openshift-Etcd",
            "openshift-a\n",
            "kube-a.b",
            "openshift-a-",
        ] {
            assert!(!set.matches(namespace), "{namespace:?}");
        }
        for text in [
            "*",
            "**",
            "a**",
            "*-system",
            "a*b",
            "a-*-b",
            "kube-?",
            "kube-[ab]",
            "-*",
            "Kube-*",
            "kube_*",
            "kube.*",
            "",
            "kube-* ",
            " kube-*",
            "^kube-*",
        ] {
            assert!(NamespacePattern::try_from(text).is_err(), "{text:?}");
        }
        assert!(NamespacePattern::try_from(format!("{}*", "a".repeat(MAX_LABEL - 1))).is_ok());
        assert!(NamespacePattern::try_from(format!("{}*", "a".repeat(MAX_LABEL))).is_err());
    }

    /// Compares with the plain rule, since the lookup relies on an order.
    #[test]
    fn a_look_up_finds_what_a_walk_over_all_patterns_finds() {
        let alphabet = ["a", "ab", "a-", "b", "b-a", "a-b", "ab-", "ba", "a0", "aba"];
        for subset in 0..1_usize << alphabet.len() {
            let chosen = alphabet.iter().enumerate().filter(|(bit, _)| subset >> bit & 1 == 1);
            let chosen: Vec<&str> = chosen.map(|(_, prefix)| *prefix).collect();
            let stars: Vec<String> = chosen.iter().map(|prefix| format!("{prefix}*")).collect();
            let set = patterns(&stars.iter().map(String::as_str).collect::<Vec<_>>());
            for name in ["a", "ab", "aba", "abc", "a-b", "b", "b-a", "b-aa", "ba", "bb", "c", "a0", "a1"] {
                let expected = chosen.iter().any(|prefix| name.starts_with(prefix));
                assert_eq!(set.matches(name), expected, "{chosen:?} {name}");
            }
        }
    }

    #[test]
    fn a_set_is_recorded_as_it_is_written() {
        let set = patterns(&["openshift-*", "default", "openshift-a*", "a"]);
        let json = serde_json::to_string(&set).unwrap();
        assert_eq!(json, r#"["a","default","openshift-*"]"#);
        assert_eq!(serde_json::from_str::<NamespacePatterns>(&json).unwrap(), set);
        assert!(serde_json::from_str::<NamespacePatterns>(r#"["*"]"#).is_err());
    }
}
