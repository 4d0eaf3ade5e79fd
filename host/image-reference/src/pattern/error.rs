//! Why a text is no pattern. Texts that a variant holds are shortened.

use alloc::string::String;

use super::parse::{MAX_BYTES, MAX_TAG};
use crate::registry::{DOCKER_HUB, DOCKER_INDEX, RegistryError};

/// The reason why a text is no [`Pattern`](super::Pattern) or [`TagPattern`](super::TagPattern), in one line,
/// and what to write.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// No text.
    #[error("an empty pattern: write a registry and a path, such as `ghcr.io/acme/**`")]
    Empty,
    /// More bytes than a pattern has; holds how many.
    #[error("{0} bytes: a pattern has at most {MAX_BYTES}")]
    TooLong(usize),
    /// A pattern of another tool; holds the message.
    #[error("{0}")]
    Foreign(String),
    /// A URL; holds what stands before and after `://`.
    #[error("a pattern is no URL and has no `{0}://`: write `{1}`")]
    Scheme(String, String),
    /// A visible character that no pattern has.
    #[error("`{0}` cannot stand in a pattern: write it like an image, such as `ghcr.io/acme/**`")]
    Character(char),
    /// Any other character that no pattern has; holds its code point.
    #[error("U+{0:04X} cannot stand in a pattern: write it like an image, such as `ghcr.io/acme/**`")]
    CodePoint(u32),
    /// A registry alone whose names belong to many owners; holds a pattern of one owner.
    #[error("a registry without a path: where `OWNER` is your account or project, write `{0}`")]
    Owner(&'static str),
    /// A registry alone.
    #[error("a registry without a path: for all of it write `{0}/**`")]
    RegistryAlone(String),
    /// No registry, or a `*` in its place.
    #[error("a pattern begins with its registry: write one pattern for each, such as `docker.io/**`")]
    AnyRegistry,
    /// A short name of Docker Hub with its version.
    #[error("a pattern begins with its registry: write `docker.io/library/{0}`")]
    ShortName(String),
    /// A short name of Docker Hub with a tag; holds the name with and without it.
    #[error(
        "a pattern begins with its registry: write `docker.io/library/{0}`, or `docker.io/library/{1}` for \
            every tag and digest"
    )]
    ShortNameTag(String, String),
    /// Upper-case letters in the registry; holds the pattern without.
    #[error("a registry is lower case: write `{0}`")]
    RegistryUpperCase(String),
    /// The former name of Docker Hub's registry; holds the pattern with its name.
    #[error("`{DOCKER_INDEX}` is `{DOCKER_HUB}` to a runtime: write `{0}`")]
    DockerIndex(String),
    /// An image of Docker Hub without an owner; holds the pattern with it.
    #[error("Docker Hub keeps images without an owner in `library`: write `{0}`")]
    DockerLibrary(String),
    /// An owner on Docker Hub in the place of the registry; holds the owner and the pattern.
    #[error("`{0}` is no registry but an owner on Docker Hub: write `{DOCKER_HUB}/{1}`")]
    DockerOwner(String, String),
    /// A registry, and its fault.
    #[error("registry `{0}` {1}")]
    Registry(String, RegistryError),
    /// `**` in a registry.
    #[error("`**` is for paths: `*` is one label of a registry, as in `*.gcr.io/my-project/**`")]
    DeepRegistry,
    /// An address with a `*`.
    #[error("`{0}` ends in a number: an address has no `*`, write it in full")]
    Address(String),
    /// A host whose domain is missing.
    #[error("`{0}` leaves the domain open: name each registry, or like `*.gcr.io/my-project/**`")]
    DomainOpen(String),
    /// A host of any owner of a top-level domain; holds the host and the domain.
    #[error("`{0}` is a whole top-level domain: name one label more, such as `*.example.{1}`")]
    TopLevelDomain(String, String),
    /// A host of many owners.
    #[error("`{0}` leaves the domain open to strangers: write it like `*.gcr.io/my-project/**`")]
    Strangers(String),
    /// A host of any owner of a public suffix; holds the host and the suffix.
    #[error("`{0}` is a whole public suffix: name one label more, such as `*.example.{1}`")]
    PublicSuffix(String, String),
    /// A `*` beside other characters in a label that is not the first.
    #[error("`{0}` has a part of a label open: but for the first one write `*` alone")]
    PartOfLabel(String),
    /// More labels than a host with a `*` may have.
    #[error("`{0}` has too many labels beside `*`")]
    Labels(String),
    /// A `/` at the end; holds the pattern without.
    #[error("nothing after the last `/`: for all below it write `{0}/**`")]
    LastSlash(String),
    /// Two `/` in a row.
    #[error("a path segment is empty: write one `/` between two segments")]
    SegmentEmpty,
    /// `**` before another segment.
    #[error("`**` stands last: write `*` for one segment in the middle")]
    DeepMiddle,
    /// `**` in a part of a segment; holds a segment to write.
    #[error("`**` is a whole segment: write `{0}`, or `*` inside a segment")]
    DeepPart(String),
    /// Upper-case letters in a segment; holds the segment without.
    #[error("a repository is lower case: write `{0}`")]
    SegmentUpperCase(String),
    /// A segment that ends with a separator.
    #[error("no image has the path segment `{0}`: `{0}*` begins with it")]
    SegmentBeginning(String),
    /// Any other segment that no image has.
    #[error(
        "no image has the path segment `{0}`: it is letters and digits, with `.`, `_`, `__` or `-` between \
            them"
    )]
    Segment(String),
    /// A colon with no tag after it; holds the pattern before.
    #[error("an empty tag: for every tag and digest leave it out, write `{0}`")]
    TagMissing(String),
    /// `**` as a tag; holds the pattern before.
    #[error("`**` in a tag: for every tag and digest leave it out, write `{0}`")]
    TagDeep(String),
    /// A tag pattern without a text.
    #[error("an empty tag: write a tag, such as `latest`")]
    TagEmpty,
    /// `**` in a tag pattern.
    #[error("`**` in a tag: write `*`, a tag has no segments")]
    TagSegments,
    /// A tag before the end of the path.
    #[error("`{0}` is no tag: write the tag after the whole path")]
    TagBeforePath(String),
    /// Any other text that no tag has.
    #[error(
        "`{0}` is no tag: it is at most {MAX_TAG} letters, digits, `_`, `.` and `-`, the first no `.` or `-`"
    )]
    Tag(String),
    /// No digest in normal form; holds the text and the pattern before.
    #[error(
        "`{0}` is no digest, `sha256:` and 64 lower-case hexadecimal digits: for every version write `{1}`"
    )]
    Digest(String, String),
}
