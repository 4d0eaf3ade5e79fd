//! Patterns over container images: the form of one.
//!
//! ```text
//! registry / segment / … [/ **] [:tag] [@digest]
//! ```
//!
//! A pattern is compared with an image field by field, in normal form; it is never a string prefix:
//! `gcr.io/foo` does not match `gcr.io/foobar`.
//!
//! | part | matches |
//! |---|---|
//! | `ghcr.io`, `localhost:5000` | this registry with this port, nothing else |
//! | `*` as a label of the host | any one label: `111122223333.dkr.ecr.*.amazonaws.com`, `*.gcr.io`. The last two labels have none |
//! | `*` in the first label | any characters of that label: `*-docker.pkg.dev` |
//! | `acme` | this path segment |
//! | `*`, `team-*` | any number of characters, none included, inside one path segment |
//! | `**` | one path segment or more. Only as the whole last segment: `ghcr.io/acme/**` matches `ghcr.io/acme/x` and `ghcr.io/acme/x/y`, and not `ghcr.io/acme` |
//! | no tag, no digest; `:*` | every tag and every digest |
//! | `:v1.*` | this tag, `*` as above, and only where the image has **no digest**: a runtime that is given both pulls by the digest and ignores the tag |
//! | `@sha256:…` | this digest, in full. A tag beside it is checked and then ignored, as the runtime ignores it |
//!
//! A `*` never meets a `.` of a host or a `/`, so no wildcard of a host is met by a path, nor the reverse.
//!
//! A pattern names its registry: `nginx` and `docker.io/nginx` are mistakes that say
//! `docker.io/library/nginx`. Upper-case letters are mistakes too, and so is a pattern that no image in
//! normal form can match. The message about a pattern of another tool, a regular expression or a URL says so.
//!
//! Matching takes time linear in the image, however many `*` a pattern has.

mod error;
mod foreign;
mod glob;
mod parse;
mod services;

use alloc::borrow::Cow;
use alloc::boxed::Box;
use alloc::format;
use core::cmp::Ordering;
use core::fmt;

pub use self::error::PatternError;
use crate::Reference;
use crate::registry::is_label;

/// A set of images: see the [module's page](self) for the form.
///
/// The type holds the text and the ends of its parts: a policy's memory is copied for every review, so it is
/// small.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    text: Box<str>,
    /// The text before [`Pattern::everywhere`], where that changed it.
    written: Option<Box<str>>,
    shape: Shape,
    /// End of the registry.
    registry: u16,
    /// End of the segments before `**`.
    path: u16,
    /// End of those of them before the first that has a `*`.
    literal: u16,
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

/// The labels of a host that have a `*`: bit `n` for the label `n` from the left, and a bit above all labels.
/// 0 where none has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Shape(u16);

/// Most labels of a host with a `*`.
const MAX_LABELS: usize = 15;

impl Shape {
    /// The shape of a host without `*`.
    pub(crate) const LITERAL: Shape = Shape(0);

    /// Returns the shape of a host, or `None` if it has more labels than a host with a `*` may have.
    fn of(host: &str) -> Option<Shape> {
        if !host.contains('*') {
            return Some(Shape::LITERAL);
        }
        let mut bits = 0;
        let mut labels = 0;
        for label in host.split('.') {
            if labels == MAX_LABELS {
                return None;
            }
            bits |= u16::from(label.contains('*')) << labels;
            labels = labels.saturating_add(1);
        }
        Some(Shape(bits | 1 << labels))
    }

    /// Returns whether a registry has as many labels as the hosts of this shape.
    pub(crate) fn fits(self, registry: &str) -> bool {
        let dots = registry.bytes().filter(|b| *b == b'.').count();
        self == Shape::LITERAL
            || u32::try_from(dots).is_ok_and(|dots| dots.saturating_add(1) == self.0.ilog2())
    }

    /// Compares two registries with as many labels by the labels that have no `*` in hosts of this shape.
    pub(crate) fn compare(self, left: &str, right: &str) -> Ordering {
        if self == Shape::LITERAL {
            return left.cmp(right);
        }
        let labels = left.split('.').zip(right.split('.')).enumerate();
        labels
            .filter(|(number, _)| self.0 >> *number & 1 == 0)
            .map(|(_, (left, right))| left.cmp(right))
            .find(|order| order.is_ne())
            .unwrap_or(Ordering::Equal)
    }
}

impl Pattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// Returns an error if the text is no pattern.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        parse::pattern(text)
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        self.written.as_deref().unwrap_or(&self.text)
    }

    /// Returns whether this image matches.
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

    /// Returns whether this image matches, or would match by the tag beside its digest.
    pub(crate) fn claims(&self, image: &Reference<'_>) -> bool {
        match self.version {
            Version::Tag(_) => self.matches(&Reference { digest: None, ..*image }),
            _ => self.matches(image),
        }
    }

    /// Returns whether some image of this registry and repository matches.
    pub fn matches_name(&self, registry: &str, repository: &str) -> bool {
        self.matches_registry(registry) && self.matches_repository(repository)
    }

    /// Returns whether some image of this registry matches.
    pub fn matches_registry(&self, registry: &str) -> bool {
        let own = self.registry();
        if self.shape == Shape::LITERAL {
            return own == registry;
        }
        let mut labels = registry.split('.');
        let each = own.split('.').all(|glob| {
            labels.next().is_some_and(|label| {
                glob == label || glob.contains('*') && is_label(label) && glob::matches(glob, label)
            })
        });
        each && labels.next().is_none()
    }

    /// Returns whether the pattern has a tag.
    pub fn is_of_tag(&self) -> bool {
        matches!(self.version, Version::Tag(_))
    }

    /// Returns the registry as it was written, with its wildcards.
    pub fn registry(&self) -> &str {
        self.text.get(..usize::from(self.registry)).unwrap_or_default()
    }

    /// Returns a pattern of the same registry that names an owner, if strangers get names below this one.
    ///
    /// Some registries give a name below theirs to anyone: `ghcr.io/OWNER`, `OWNER.azurecr.io`,
    /// `REGION-docker.pkg.dev/OWNER`. A wildcard in the owner's place trusts all of them.
    pub fn trusts_strangers(&self) -> Option<Cow<'static, str>> {
        services::without_owner(self)
    }

    /// Returns the pattern for a list that denies: it names the registry in one form for all its known names
    /// and ports.
    pub(crate) fn everywhere(self) -> Pattern {
        let (registry, library) = known_as(self.registry(), self.is_one_segment());
        if registry == self.registry() {
            return self;
        }
        let rest = self.text.get(usize::from(self.registry)..).unwrap_or_default();
        let library = if library { "/library" } else { "" };
        let text = format!("{registry}{library}{rest}");
        match parse::parts(&text) {
            Ok(pattern) => Pattern { written: Some(self.text), ..pattern },
            Err(_) => self,
        }
    }

    /// Returns whether the path is one segment without `**`.
    fn is_one_segment(&self) -> bool {
        !self.deep && !self.path_text().contains('/')
    }

    /// Returns the number of path segments of a matching image, and whether it may have more.
    pub(crate) fn depth(&self) -> (usize, bool) {
        let named = self.globs().count();
        if self.deep { (named.saturating_add(1), true) } else { (named, false) }
    }

    /// Returns whether the path segments that both have match.
    pub(crate) fn matches_so_far(&self, repository: &str) -> bool {
        self.globs().zip(repository.split('/')).all(|(glob, text)| glob::matches(glob, text))
    }

    pub(crate) fn matches_repository(&self, repository: &str) -> bool {
        let mut segments = repository.split('/');
        let named = self
            .globs()
            .all(|glob| segments.next().is_some_and(|text| !text.is_empty() && glob::matches(glob, text)));
        let mut rest = segments.peekable();
        named && rest.peek().is_some() == self.deep && rest.all(|segment| !segment.is_empty())
    }

    /// Returns the beginning that the names of all matching images share: the shape of the host, the host,
    /// and the segments of the path before the first that has a `*`.
    pub(crate) fn beginning(&self) -> (Shape, &str, &str) {
        (self.shape, self.registry(), self.literal())
    }

    /// Returns the segments of the path before the first that has a `*`.
    pub(crate) fn literal(&self) -> &str {
        self.after_registry(self.literal)
    }

    fn path_text(&self) -> &str {
        self.after_registry(self.path)
    }

    fn after_registry(&self, end: u16) -> &str {
        self.text.get(usize::from(self.registry).saturating_add(1)..usize::from(end)).unwrap_or_default()
    }

    fn globs(&self) -> impl Iterator<Item = &str> {
        // No path has no segment; `split` would find an empty one.
        self.path_text().split('/').filter(|glob| !glob.is_empty())
    }

    fn from(&self, start: u16) -> &str {
        self.text.get(usize::from(start)..).unwrap_or_default()
    }
}

/// Returns the name under which a list that denies knows this registry, and whether its repositories of one
/// segment stand in `library`. The ports of HTTPS and HTTP, which a runtime uses where none is written, are
/// left out.
pub(crate) fn known_as(registry: &str, one_segment: bool) -> (Cow<'_, str>, bool) {
    let (host, port) = crate::registry::split_port(registry);
    let port = port.filter(|port| !matches!(*port, "443" | "80"));
    let hub = host == "docker.io"
        || host.ends_with(".docker.io") && !host.contains('*')
        || matches!(host, "registry.hub.docker.com" | "registry.ipv6.docker.com");
    if hub && port.is_none() {
        return (Cow::Borrowed("docker.io"), one_segment);
    }
    let loopback = host == "[::1]"
        || host.ends_with(".localhost") && !host.contains('*')
        || host.starts_with("127.") && host.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    let registry = match port {
        Some(port) if loopback => Cow::Owned(format!("localhost:{port}")),
        None if loopback => Cow::Borrowed("localhost"),
        Some(_) => Cow::Borrowed(registry),
        None => Cow::Borrowed(host),
    };
    (registry, false)
}

impl fmt::Display for Pattern {
    /// As it was written.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A set of tags: `*` is any number of characters, none included. `latest`, `*-dev`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TagPattern(Box<str>);

impl TagPattern {
    /// Reads a tag pattern.
    ///
    /// # Errors
    /// Returns an error if the text is no tag pattern.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        parse::tag(text)?;
        Ok(Self(text.into()))
    }

    /// Returns whether this tag matches.
    pub fn matches(&self, tag: &str) -> bool {
        glob::matches(&self.0, tag)
    }
}
