//! Images that an entry of host.yaml applies to.

use serde::{Deserialize, Serialize};

use crate::image::{Image, Pattern, PatternError, Patterns};

/// The images that a policy applies to. The default is all of them.
///
/// `include` covers a registry under every name and port by which a runtime is known to reach it. `exclude`
/// covers only the name as written. Another spelling of an image therefore cannot escape a policy.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, try_from = "Texts", into = "Texts")]
pub struct ImageScope {
    include: Option<Patterns>,
    exclude: Patterns,
}

impl ImageScope {
    /// Creates a scope of patterns. Without `include` the scope is all images except those of `exclude`.
    #[must_use]
    pub fn new(include: Option<Vec<Pattern>>, exclude: Vec<Pattern>) -> Self {
        Self { include: include.map(Patterns::denying), exclude: Patterns::new(exclude) }
    }

    /// Returns whether a policy of this scope judges an image.
    #[must_use]
    pub fn applies(&self, image: &Image) -> bool {
        let image = image.reference();
        self.include.as_ref().is_none_or(|include| include.matches(&image))
            && (self.exclude.all().is_empty() || !self.exclude.matches(&image))
    }

    /// Returns the patterns as written. Scopes with the same patterns are equal.
    pub(crate) fn written(&self) -> impl Ord {
        self.texts()
    }

    fn texts(&self) -> Written<'_> {
        (self.include.as_ref().map(texts), texts(&self.exclude))
    }

    /// Returns whether the scope is all images, so that no image needs a check.
    #[must_use]
    pub fn is_all(&self) -> bool {
        self.include.is_none() && self.exclude.all().is_empty()
    }
}

impl PartialEq for ImageScope {
    fn eq(&self, other: &Self) -> bool {
        self.texts() == other.texts()
    }
}

impl Eq for ImageScope {}

/// The texts of `include` and of `exclude`.
type Written<'a> = (Option<Vec<&'a str>>, Vec<&'a str>);

/// The patterns of a scope as written and recorded.
#[derive(Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct Texts {
    include: Option<Vec<String>>,
    exclude: Vec<String>,
}

fn texts(patterns: &Patterns) -> Vec<&str> {
    patterns.all().iter().map(Pattern::as_str).collect()
}

impl From<ImageScope> for Texts {
    fn from(scope: ImageScope) -> Self {
        let owned = |texts: Vec<&str>| texts.into_iter().map(str::to_owned).collect();
        let (include, exclude) = scope.texts();
        Self { include: include.map(owned), exclude: owned(exclude) }
    }
}

impl TryFrom<Texts> for ImageScope {
    type Error = PatternError;

    fn try_from(Texts { include, exclude }: Texts) -> Result<Self, PatternError> {
        let read = |texts: Vec<String>| texts.iter().map(|text| Pattern::parse(text)).collect();
        Ok(Self::new(include.map(read).transpose()?, read(exclude)?))
    }
}
