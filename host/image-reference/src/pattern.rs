//! Patterns over container images: the form of one.
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

use alloc::boxed::Box;
use alloc::string::String;
use core::fmt;
use core::ops::Range;

use crate::Reference;

/// Which images: see the [module's page](self) for the form.
///
/// It is its text and where the parts of that are: a policy's memory is copied for every review.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    text: Box<str>,
    /// The registry, without `*.`.
    registry: Range<u16>,
    /// `*.` stands before the registry.
    below: bool,
    /// The segments before `**`.
    path: Range<u16>,
    /// Those of them before the first that has a `*`.
    literal: Range<u16>,
    /// `**` follows `path`.
    deep: bool,
    version: Version,
}

/// A tag, or a digest, goes from here to the end of the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    Any,
    Tag(u16),
    Digest(u16),
}

impl Pattern {
    /// Reads a pattern; the error says in one line what is wrong and what to write.
    pub fn parse(text: &str) -> Result<Self, String> {
        parse::pattern(text)
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether this image is one of those meant.
    pub fn matches(&self, image: &Reference<'_>) -> bool {
        self.matches_name(image.registry, image.repository)
            && match (self.version, image.digest) {
                (Version::Any, _) => true,
                (Version::Digest(start), digest) => digest == Some(self.from(start)),
                (Version::Tag(_), Some(_)) => false,
                (Version::Tag(start), None) => {
                    image.tag.is_some_and(|tag| glob::matches(self.from(start), tag))
                }
            }
    }

    /// Whether images of this registry and repository are meant, some tags or digests of it at least.
    pub fn matches_name(&self, registry: &str, repository: &str) -> bool {
        self.matches_registry(registry) && self.matches_repository(repository)
    }

    /// Whether images of this registry are meant, some of them at least.
    pub fn matches_registry(&self, registry: &str) -> bool {
        let registry = if self.below { one_label_less(registry) } else { Some(registry) };
        registry == Some(self.part(&self.registry))
    }

    /// Whether it means a version by its tag.
    pub fn is_of_tag(&self) -> bool {
        matches!(self.version, Version::Tag(_))
    }

    fn matches_repository(&self, repository: &str) -> bool {
        let mut segments = repository.split('/');
        let named = self
            .globs()
            .all(|glob| segments.next().is_some_and(|text| !text.is_empty() && glob::matches(glob, text)));
        let mut rest = segments.peekable();
        named && rest.peek().is_some() == self.deep && rest.all(|segment| !segment.is_empty())
    }

    /// What the name of every image meant begins with: whether a label more, the registry, and the segments of the path
    /// before the first that has a `*`.
    pub(crate) fn beginning(&self) -> (bool, &str, &str) {
        (self.below, self.part(&self.registry), self.part(&self.literal))
    }

    fn globs(&self) -> impl Iterator<Item = &str> {
        // No path has no segment; `split` would find an empty one.
        self.part(&self.path).split('/').filter(|glob| !glob.is_empty())
    }

    fn part(&self, range: &Range<u16>) -> &str {
        self.text.get(usize::from(range.start)..usize::from(range.end)).unwrap_or_default()
    }

    fn from(&self, start: u16) -> &str {
        self.text.get(usize::from(start)..).unwrap_or_default()
    }
}

/// What `*.` stands before, if this registry is one of those meant by it.
pub(crate) fn one_label_less(registry: &str) -> Option<&str> {
    registry.split_once('.').filter(|(label, _)| parse::is_label(label)).map(|(_, rest)| rest)
}

impl fmt::Display for Pattern {
    /// As it was written.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Which tags: `*` is any number of characters, none included. `latest`, `*-dev`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TagPattern(Box<str>);

impl TagPattern {
    /// Reads a tag pattern; the error says in one line what is wrong and what to write.
    pub fn parse(text: &str) -> Result<Self, String> {
        parse::tag(text)?;
        Ok(Self(text.into()))
    }

    /// Whether this tag is one of those meant.
    pub fn matches(&self, tag: &str) -> bool {
        glob::matches(&self.0, tag)
    }
}
