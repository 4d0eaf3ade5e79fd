//! Patterns over container images: what the policies beside this crate take in their settings.
//!
//! ```text
//! registry / segment / … [/ **] [:tag] [@digest]
//! ```
//!
//! A pattern is compared with an image field by field, in the normal form the host gives an image; it is never a
//! string prefix: `gcr.io/foo` does not match `gcr.io/foobar`.
//!
//! | part | matches |
//! |---|---|
//! | `ghcr.io`, `localhost:5000` | this registry with this port, nothing else |
//! | `*.gcr.io` | one label more: `eu.gcr.io`, not `gcr.io` and not `a.eu.gcr.io`. The one wildcard a registry may have; two labels or more must follow |
//! | `acme` | this path segment |
//! | `*`, `team-*` | any number of characters, none included, inside one path segment |
//! | `**` | one path segment or more. Only as the whole last segment: `ghcr.io/acme/**` matches `ghcr.io/acme/x` and `ghcr.io/acme/x/y`, and not `ghcr.io/acme` |
//! | no tag, no digest | every tag and every digest |
//! | `:v1.*` | this tag, `*` as above, and only where the image has **no digest**: a runtime that is given both pulls by the digest and ignores the tag |
//! | `@sha256:…` | this digest, in full. A tag beside it is checked and then ignored, as the runtime ignores it |
//!
//! A pattern names its registry: `nginx` and `docker.io/nginx` are mistakes that say `docker.io/library/nginx`.
//! So are upper-case letters, and whatever no image in normal form can match.
//!
//! Matching takes time linear in the image, however many `*` a pattern has.

mod glob;
mod parse;

use std::collections::BTreeMap;
use std::fmt;

use glob::Glob;

/// Which images: see the [module's page](self) for the form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    text: String,
    registry: Registry,
    path: Vec<Glob>,
    /// `**` follows `path`.
    deep: bool,
    version: Version,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Registry {
    Exactly(String),
    /// `*.` before this host, with its port if it has one.
    OneLabelBefore(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Version {
    Any,
    Tag(TagPattern),
    Digest(String),
}

impl Pattern {
    /// Reads a pattern; the error says in one line what is wrong and what to write.
    pub fn parse(text: &str) -> Result<Self, String> {
        parse::pattern(text)
    }

    /// Whether the image with these fields, in the host's normal form, is one of those meant.
    pub fn matches(&self, registry: &str, repository: &str, tag: Option<&str>, digest: Option<&str>) -> bool {
        self.matches_name(registry, repository)
            && match (&self.version, digest) {
                (Version::Any, _) => true,
                (Version::Digest(wanted), digest) => digest == Some(wanted),
                (Version::Tag(_), Some(_)) => false,
                (Version::Tag(wanted), None) => tag.is_some_and(|tag| wanted.matches(tag)),
            }
    }

    /// Whether images of this registry and repository are meant, some tags or digests of it at least.
    pub fn matches_name(&self, registry: &str, repository: &str) -> bool {
        self.matches_registry(registry) && self.matches_repository(repository)
    }

    /// Whether images of this registry are meant, some of them at least.
    pub fn matches_registry(&self, registry: &str) -> bool {
        match &self.registry {
            Registry::Exactly(wanted) => registry == wanted,
            Registry::OneLabelBefore(wanted) => {
                registry.split_once('.').is_some_and(|(label, rest)| parse::is_label(label) && rest == wanted)
            }
        }
    }

    fn matches_repository(&self, repository: &str) -> bool {
        let mut segments = repository.split('/');
        let named = self
            .path
            .iter()
            .all(|glob| segments.next().is_some_and(|segment| !segment.is_empty() && glob.matches(segment)));
        let mut rest = segments.peekable();
        named && rest.peek().is_some() == self.deep && rest.all(|segment| !segment.is_empty())
    }

    /// Whether it means a version by its tag.
    pub fn is_of_tag(&self) -> bool {
        matches!(self.version, Version::Tag(_))
    }
}

/// Patterns in the order in which they were written, found by the registry of an image: a thousand of other registries
/// cost nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Patterns {
    all: Vec<Pattern>,
    /// Sorted: a registry, and the place in `all` of each pattern that names it.
    exact: Vec<(String, Vec<usize>)>,
    /// The places of those whose registry has a wildcard.
    wild: Vec<usize>,
}

impl Patterns {
    /// Sorts them by registry.
    pub fn new(all: Vec<Pattern>) -> Self {
        let mut exact = BTreeMap::<String, Vec<usize>>::new();
        let mut wild = Vec::new();
        for (place, pattern) in all.iter().enumerate() {
            match &pattern.registry {
                Registry::Exactly(registry) => exact.entry(registry.clone()).or_default().push(place),
                Registry::OneLabelBefore(_) => wild.push(place),
            }
        }
        Self { all, exact: exact.into_iter().collect(), wild }
    }

    /// The first that matches the image with these fields, in the order in which they were written.
    pub fn first_match(
        &self,
        registry: &str,
        repository: &str,
        tag: Option<&str>,
        digest: Option<&str>,
    ) -> Option<&Pattern> {
        let first = |places: &[usize]| {
            let matching = |place: &&usize| {
                self.all
                    .get(**place)
                    .is_some_and(|pattern| pattern.matches(registry, repository, tag, digest))
            };
            places.iter().find(matching).copied()
        };
        let place = match (first(self.named(registry)), first(&self.wild)) {
            (Some(named), Some(wild)) => named.min(wild),
            (named, wild) => named.or(wild)?,
        };
        self.all.get(place)
    }

    /// Those of the registry of an image, in the order in which they were written.
    pub fn of_registry(&self, registry: &str) -> Vec<&Pattern> {
        let wild = self.wild.iter().filter_map(|place| Some((*place, self.all.get(*place)?)));
        let wild = wild.filter(|(_, pattern)| pattern.matches_registry(registry));
        let named = self.named(registry).iter().filter_map(|place| Some((*place, self.all.get(*place)?)));
        let mut found: Vec<_> = named.chain(wild).collect();
        found.sort_by_key(|(place, _)| *place);
        found.into_iter().map(|(_, pattern)| pattern).collect()
    }

    fn named(&self, registry: &str) -> &[usize] {
        let named = self.exact.binary_search_by(|(known, _)| known.as_str().cmp(registry)).ok();
        named.and_then(|at| self.exact.get(at)).map_or(&[], |(_, places)| places)
    }

    /// All of them, as written.
    pub fn all(&self) -> &[Pattern] {
        &self.all
    }
}

impl fmt::Display for Pattern {
    /// As it was written.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Which tags: `*` is any number of characters, none included. `latest`, `*-dev`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TagPattern(Glob);

impl TagPattern {
    /// Reads a tag pattern; the error says in one line what is wrong and what to write.
    pub fn parse(text: &str) -> Result<Self, String> {
        parse::tag(text).map(Self)
    }

    /// Whether this tag is one of those meant.
    pub fn matches(&self, tag: &str) -> bool {
        self.0.matches(tag)
    }
}
