//! Image references: their grammar and their normal form, the way the container runtime reads them. Pure.
//!
//! ```text
//! reference      := name [ ":" tag ] [ "@" digest ]
//! name           := [ registry "/" ] repository
//! registry       := host [ ":" port ]
//! host           := host-part *( "." host-part ) | "[" IPv6 address "]"
//! host-part      := /[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9]/
//! port           := /[0-9]+/
//! repository     := component *( "/" component )             at most 255 bytes, with `library/`
//! component      := alpha-numeric *( separator alpha-numeric )
//! alpha-numeric  := /[a-z0-9]+/
//! separator      := /[._]|__|[-]+/
//! tag            := /[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}/
//! digest         := algorithm ":" /[0-9a-f]+/                as many digits as the algorithm makes
//! ```
//!
//! The grammar is that of <https://github.com/distribution/reference> (`reference.go`, `regexp.go`), the
//! normal form its `ParseNormalizedNamed` and `TagNameOnly` (`normalize.go`), by which the container runtimes
//! pull: a policy must judge the image that will run. One thing is kept that containerd drops
//! (`ParseDockerRef`): the tag beside a digest, so that a policy may look at it. The digest alone is pulled.
//!
//! # Refused although that grammar takes them
//!
//! These kinds, and no others, are refused here and read by distribution/reference v0.6.0: two readers would
//! disagree about which registry is meant, a runtime would dial them to a place that has another name, or no
//! registry can be there. Whatever both read has the same fields.
//!
//! 1. Upper-case letters in a registry: parsers disagree whether `FOO/bar` names a host, and DNS ignores case
//!    where a comparison does not.
//! 2. `_` in what looks like a registry: upstream finds none in `foo_bar.com/app`, containerd pulls from it.
//! 3. A port that is not 1 to 65535, is empty or has leading zeros: `:0443` would hide from a rule about
//!    `:443`.
//! 4. Brackets around what is no IPv6 address, and an IPv6 address in another form than that of RFC 5952:
//!    `[0::1]` and `[::0001]` are `[::1]`.
//! 5. An IPv4 address as IPv6: `[::ffff:c000:201]` is `192.0.2.1`.
//! 6. A host that ends in a number and is no IPv4 address of four decimal numbers without leading zeros:
//!    `127.1`, `0177.0.0.1`, `2130706433:5000` and `0x7f.1` are `127.0.0.1` to `getaddrinfo` and names to
//!    Go's own resolver.
//! 7. The unspecified addresses `[::]` and `0.0.0.0/8`, which a runtime dials as its own node.
//! 8. Host names longer than DNS allows, 253 bytes.
//! 9. References longer than [`MAX_REFERENCE`].
//!
//! A port is part of the registry here as it is there: `ghcr.io:443` is another field than `ghcr.io`. A list
//! that denies takes them as one ([`Patterns::denying`](crate::Patterns::denying)).

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::String;
use core::fmt;
use core::str::FromStr;

use crate::excerpt::Excerpt;
use crate::registry::{self, DOCKER_HUB, DOCKER_INDEX, RegistryError, is_lower_hex};

/// Longest reference that is looked at, in bytes; every reference in normal form is shorter than 1024.
pub const MAX_REFERENCE: usize = 4096;
/// `RepositoryNameTotalLengthMax` of distribution/reference, in bytes.
const MAX_REPOSITORY: usize = 255;
/// Longest tag of the grammar, in bytes.
const MAX_TAG: usize = 128;

/// The digest algorithms of opencontainers/go-digest, and the hexadecimal digits each makes.
const ALGORITHMS: [(&str, usize); 3] = [("sha256", 64), ("sha384", 96), ("sha512", 128)];

/// An image reference in normal form, as `image` of the contract (`wit/types.wit`).
///
/// Two references name the same image when all fields but `original` are equal.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Image {
    /// The parsed text, unchanged: for messages, never for decisions.
    pub original: String,
    /// Host, with its port if it has one, in lower case; `docker.io` where the reference names none.
    pub registry: String,
    /// Path below the registry; `library/nginx` for `nginx`.
    pub repository: String,
    /// The tag; `latest` where the reference has neither tag nor digest.
    pub tag: Option<String>,
    /// `ALGORITHM:HEX`. Where there is one the runtime ignores the tag.
    pub digest: Option<String>,
}

impl Image {
    /// Reads a reference and brings it into normal form.
    pub fn parse(reference: &str) -> Result<Image, ImageError> {
        refuse_other_notations(reference)?;
        let (registry, rest) = split_registry(reference);
        let (name, digest) = split_at_first(rest, '@');
        let (path, tag) = split_at_first(name, ':');

        let registry = normal_registry(registry)?;
        let repository = normal_repository(registry, path)?;
        tag.map_or(Ok(()), check_tag)?;
        digest.map_or(Ok(()), check_digest)?;

        let tag = if digest.is_none() { tag.or(Some("latest")) } else { tag };
        Ok(Image {
            original: reference.to_owned(),
            registry: registry.to_owned(),
            repository,
            tag: tag.map(str::to_owned),
            digest: digest.map(str::to_owned),
        })
    }

    /// Returns the fields that are compared.
    pub fn reference(&self) -> Reference<'_> {
        Reference {
            registry: &self.registry,
            repository: &self.repository,
            tag: self.tag.as_deref(),
            digest: self.digest.as_deref(),
        }
    }
}

/// Refuses a reference that reads as one but that a container runtime, given it as it stands, takes for the
/// ID of an image that happens to be on the node, whatever registry that came from: containerd looks up
/// `sha256:HEX` by ID, the digits in full or not (internal/cri/server/images/service.go, LocalResolve), and
/// the kubelet hands it on because it seems to have a tag. A rule on `docker.io/library/**` must not let such
/// an image in.
///
/// # Errors
/// [`ImageError::ImageId`].
pub fn refuse_image_id(reference: &str) -> Result<(), ImageError> {
    match reference.split_once(':') {
        Some((algorithm, _)) if ALGORITHMS.iter().any(|(name, _)| *name == algorithm) => {
            Err(ImageError::ImageId(Excerpt::of(reference)))
        }
        _ => Ok(()),
    }
}

/// The fields of an image that are compared, borrowed.
///
/// They are in normal form, as those of [`Image`] are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Reference<'a> {
    /// As [`Image::registry`].
    pub registry: &'a str,
    /// As [`Image::repository`].
    pub repository: &'a str,
    /// As [`Image::tag`].
    pub tag: Option<&'a str>,
    /// As [`Image::digest`].
    pub digest: Option<&'a str>,
}

impl FromStr for Image {
    type Err = ImageError;

    fn from_str(reference: &str) -> Result<Image, ImageError> {
        Image::parse(reference)
    }
}

/// The normal form, `registry/repository[:tag][@digest]`: read again it gives the same fields but `original`.
impl fmt::Display for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

/// Splits off the registry by the rule of `splitDockerDomain` (`normalize.go`): what stands before the first
/// slash is one if it is `localhost`, or has a `.`, a `:` or an upper-case letter; else it is repository.
fn split_registry(reference: &str) -> (Option<&str>, &str) {
    let is_registry = |first: &str| {
        first == "localhost" || first.bytes().any(|b| matches!(b, b'.' | b':') || b.is_ascii_uppercase())
    };
    match reference.split_once('/') {
        Some((first, rest)) if is_registry(first) => (Some(first), rest),
        // An address without a repository: said here, lest its colons be taken for a tag.
        None if reference.starts_with('[') => (Some(reference), ""),
        _ => (None, reference),
    }
}

fn split_at_first(text: &str, separator: char) -> (&str, Option<&str>) {
    text.split_once(separator).map_or((text, None), |(before, after)| (before, Some(after)))
}

/// Refuses what is no reference at all, so that what follows sees printable ASCII of bounded length.
fn refuse_other_notations(reference: &str) -> Result<(), ImageError> {
    if reference.is_empty() {
        return Err(ImageError::Empty);
    }
    if reference.len() > MAX_REFERENCE {
        return Err(ImageError::TooLong(reference.len()));
    }
    // One pass over bytes sees that nearly all references are fine.
    if !reference.bytes().all(|b| b.is_ascii_graphic() && b != b'$' && b != b'{') {
        refuse_strange_characters(reference)?;
    }
    if let Some((scheme, rest)) = reference.split_once("://") {
        return Err(ImageError::Scheme(Excerpt::of(scheme), Excerpt::of(rest)));
    }
    // Upstream's `identifier`, refused there too: an ID says which image, but not whose.
    if reference.len() == 64 && reference.bytes().all(is_lower_hex) {
        return Err(ImageError::ImageId(Excerpt::of(reference)));
    }
    Ok(())
}

fn refuse_strange_characters(reference: &str) -> Result<(), ImageError> {
    if reference.contains('$') || reference.contains("{{") {
        return Err(ImageError::Template(Excerpt::of(reference)));
    }
    if let Some(blank) = reference.chars().find(|c| c.is_whitespace() || c.is_control()) {
        return Err(ImageError::Blank(u32::from(blank)));
    }
    match reference.chars().find(|c| !c.is_ascii()) {
        Some(foreign) => Err(ImageError::NotAscii(Excerpt::of_char(foreign), u32::from(foreign))),
        None => Ok(()),
    }
}

fn normal_registry(registry: Option<&str>) -> Result<&str, ImageError> {
    let Some(registry) = registry else { return Ok(DOCKER_HUB) };
    if registry.contains('@') {
        return Err(ImageError::AtBeforeSlash);
    }
    registry::check(registry).map_err(|error| ImageError::Registry(Excerpt::of(registry), error))?;
    Ok(if registry == DOCKER_INDEX { DOCKER_HUB } else { registry })
}

fn normal_repository(registry: &str, path: &str) -> Result<String, ImageError> {
    if path.is_empty() {
        return Err(ImageError::RepositoryMissing);
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '/');
    if let Some(c) = path.chars().find(|&c| !allowed(c)) {
        return Err(ImageError::RepositoryCharacter(Excerpt::of(path), Excerpt::of_char(c)));
    }
    if path.bytes().any(|b| b.is_ascii_uppercase()) {
        return Err(ImageError::RepositoryUpperCase(Excerpt::of(path)));
    }
    if path.split('/').any(str::is_empty) {
        return Err(ImageError::RepositorySlash(Excerpt::of(path)));
    }
    if let Some(component) = path.split('/').find(|component| !is_component(component)) {
        return Err(ImageError::RepositoryComponent(Excerpt::of(component)));
    }
    let official = registry == DOCKER_HUB && !path.contains('/');
    let repository = if official { format!("library/{path}") } else { path.to_owned() };
    if repository.len() > MAX_REPOSITORY {
        return Err(ImageError::RepositoryTooLong(repository.len()));
    }
    Ok(repository)
}

/// `component` of the grammar, for text that has only its characters.
fn is_component(text: &str) -> bool {
    let alphanumeric = |b: &u8| b.is_ascii_alphanumeric();
    let separator = |run: &[u8]| matches!(run, b"." | b"_" | b"__") || run.iter().all(|b| *b == b'-');
    let text = text.as_bytes();
    let mut runs = text.chunk_by(|a, b| alphanumeric(a) == alphanumeric(b));
    text.first().is_some_and(alphanumeric)
        && text.last().is_some_and(alphanumeric)
        && runs.all(|run| run.iter().all(alphanumeric) || separator(run))
}

fn check_tag(tag: &str) -> Result<(), ImageError> {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if tag.is_empty() {
        return Err(ImageError::TagMissing);
    }
    if let Some(c) = tag.chars().find(|&c| !(word(c) || c == '.' || c == '-')) {
        return Err(ImageError::TagCharacter(Excerpt::of(tag), Excerpt::of_char(c)));
    }
    if !tag.starts_with(word) {
        return Err(ImageError::TagStart(Excerpt::of(tag)));
    }
    if tag.len() > MAX_TAG {
        return Err(ImageError::TagTooLong(tag.len()));
    }
    Ok(())
}

fn check_digest(digest: &str) -> Result<(), ImageError> {
    let Some((algorithm, hex)) = digest.split_once(':') else {
        return Err(ImageError::DigestForm(Excerpt::of(digest)));
    };
    let Some(&(algorithm, digits)) = ALGORITHMS.iter().find(|(name, _)| *name == algorithm) else {
        return Err(ImageError::DigestAlgorithm(Excerpt::of(algorithm)));
    };
    if let Some(c) = hex.chars().find(|&c| !u8::try_from(c).is_ok_and(is_lower_hex)) {
        return Err(ImageError::DigestCharacter(Excerpt::of_char(c)));
    }
    if hex.len() != digits {
        return Err(ImageError::DigestLength(algorithm, digits, hex.len()));
    }
    Ok(())
}

/// A mistake in a reference, for the person whose pod was denied: one line with the mistake and the text to
/// write instead. A message repeats the reference only as [`Excerpt`]s.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    /// Nothing was written.
    #[error("the image reference is empty: write one, such as `registry.example/app:1.0`")]
    Empty,
    /// More than [`MAX_REFERENCE`] bytes; holds how many.
    #[error("the image reference has {0} bytes: at most {MAX_REFERENCE} are allowed")]
    TooLong(usize),
    /// A variable or a template that was to be replaced by something.
    #[error("`{0}` is an unfilled template: Kubernetes expands no variables here, write the image itself")]
    Template(Excerpt),
    /// White space or a control character; holds its code point.
    #[error("the image reference has white space or a control character (U+{0:04X}): remove it")]
    Blank(u32),
    /// A character outside ASCII, and its code point: many look like a Latin letter.
    #[error("`{0}` (U+{1:04X}) is not ASCII: remove or retype it, it may only look like what you mean")]
    NotAscii(Excerpt, u32),
    /// A URL; holds what stands before and after `://`.
    #[error("`{0}://` does not belong in an image reference: write `{1}`")]
    Scheme(Excerpt, Excerpt),
    /// 64 hexadecimal digits and nothing else, or an algorithm and digits.
    #[error("`{0}` looks like an image ID: write where it comes from, `registry/repository@sha256:...`")]
    ImageId(Excerpt),
    /// An `@` in what would be the registry.
    #[error("`@` stands before a `/`: write no user name before the registry, and nothing after a digest")]
    AtBeforeSlash,
    /// A registry, and its fault.
    #[error("registry `{0}` {1}")]
    Registry(Excerpt, RegistryError),
    /// Nothing where the repository should be.
    #[error("the image reference has no repository: write `registry/repository:tag` or `repository:tag`")]
    RepositoryMissing,
    /// A repository with upper-case letters.
    #[error("repository `{0}` has upper-case letters: write it in lower case")]
    RepositoryUpperCase(Excerpt),
    /// A character that no repository has.
    #[error("repository `{0}` has `{1}`: it takes lower-case letters, digits, `.`, `_`, `-`, `/`")]
    RepositoryCharacter(Excerpt, Excerpt),
    /// A slash at an edge, or two in a row.
    #[error("repository `{0}` has a `/` too many: write one, and only between two names")]
    RepositorySlash(Excerpt),
    /// A component with a separator at an edge, or with one the grammar does not know.
    #[error("`{0}` is no part of a repository: put `.`, `_`, `__` or dashes only between letters and digits")]
    RepositoryComponent(Excerpt),
    /// A repository of more than 255 bytes, with `library/`; holds how many.
    #[error("the repository has {0} bytes: at most {MAX_REPOSITORY} are allowed, `library/` included")]
    RepositoryTooLong(usize),
    /// A colon with no tag after it.
    #[error("the tag after `:` is missing: write one, or leave out the `:`")]
    TagMissing,
    /// A character that no tag has.
    #[error("tag `{0}` has `{1}`: it takes letters, digits, `_`, `.` and `-`")]
    TagCharacter(Excerpt, Excerpt),
    /// A `.` or `-` at the beginning.
    #[error("tag `{0}` begins with `.` or `-`: it must begin with a letter, a digit or `_`")]
    TagStart(Excerpt),
    /// A tag of more than 128 bytes; holds how many.
    #[error("the tag has {0} bytes: at most {MAX_TAG} are allowed")]
    TagTooLong(usize),
    /// No algorithm, or nothing at all, after `@`.
    #[error("`@{0}` is no digest: write `@sha256:` and 64 hexadecimal digits")]
    DigestForm(Excerpt),
    /// An algorithm the runtime does not know.
    #[error("digest algorithm `{0}` is unknown: write `sha256`, `sha384` or `sha512`")]
    DigestAlgorithm(Excerpt),
    /// A character that is no lower-case hexadecimal digit.
    #[error("the digest has `{0}`: after the algorithm write digits and the letters a to f, in lower case")]
    DigestCharacter(Excerpt),
    /// Algorithm, digits it makes, digits found.
    #[error("the {0} digest has {2} hexadecimal digits, not {1}: copy all of it")]
    DigestLength(&'static str, usize, usize),
}
