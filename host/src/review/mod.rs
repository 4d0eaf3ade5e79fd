//! The [`Review`] that policies judge, its wire form, and the verdict on it. Pure.

pub mod differences;
pub mod image_review;
pub mod manifests;
pub mod verdict;
mod document;
mod failure_status;
mod json;
mod pod;

use serde::Deserialize;

pub use self::document::VerdictDocument;
pub use self::failure_status::FailureStatus;
pub use self::image_review::API_VERSION;
use self::json::Object;
use crate::config::HostLimits;
use crate::limits;
use crate::text;

/// The apiserver's question: may these images run in this namespace?
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Review {
    /// The pod's namespace.
    pub namespace: String,
    /// Annotations of the pod, sorted by key, keys distinct.
    pub annotations: Vec<(String, String)>,
    /// Image references as the pod spells them, in order, with duplicates.
    pub images: Vec<String>,
}

/// The reason why a body is no valid [`Review`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReviewError {
    /// The body is no ImageReview. The response has an error status.
    #[error("{0}")]
    NotAnImageReview(String),
    /// The review is denied: an error status would admit the pod where the apiserver's `defaultAllow` is
    /// true.
    #[error(transparent)]
    Refused(#[from] Refusal),
}

/// The reason why a review is denied before any policy runs: it is malformed, or over a limit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The body is too large, or did not arrive in time.
    #[error("{0}")]
    Body(String),
    /// The body is malformed.
    #[error("malformed ImageReview: {0}")]
    Malformed(String),
    /// The ImageReview has no `spec`.
    #[error("malformed ImageReview: it has no `spec`")]
    NoSpec,
    /// The key of an annotation that is given twice.
    #[error("malformed ImageReview: annotation `{}` is given twice", text::escape_and_truncate(.0, 128))]
    AnnotationTwice(String),
    /// The number of images, and the limit.
    #[error("{}", limits::IMAGES.says(*.0, *.1))]
    Images(usize, u64),
    /// The size of the annotations in bytes, and the limit.
    #[error("{}", limits::ANNOTATIONS.says(*.0, *.1))]
    Annotations(u64, u64),
    /// The length of the namespace in bytes.
    #[error("{}", limits::NAMESPACE.says(*.0, limits::NAMESPACE.default))]
    Namespace(usize),
}

impl Review {
    /// Returns the approximate memory use, in bytes.
    pub fn memory(&self) -> usize {
        let Review { namespace, annotations, images } = self;
        let strings = annotations.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>()
            + images.iter().map(String::len).sum::<usize>();
        size_of::<Review>()
            + namespace.len()
            + strings
            + size_of_val(annotations.as_slice())
            + size_of_val(images.as_slice())
    }

    /// Checks the review against the limits of a configuration, which may differ from the configuration at
    /// its arrival.
    ///
    /// # Errors
    /// Returns the reason of the denial if the review is over a limit.
    pub fn within(&self, limits: &HostLimits) -> Result<(), Refusal> {
        if self.images.len() > limits.images {
            return Err(Refusal::Images(self.images.len(), limits.images as u64));
        }
        let bytes = self.annotations.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>() as u64;
        if bytes > limits.annotations {
            return Err(Refusal::Annotations(bytes, limits.annotations));
        }
        if self.namespace.len() > limits::NAMESPACE.size() {
            return Err(Refusal::Namespace(self.namespace.len()));
        }
        Ok(())
    }

    /// Checks a review that was read, and sorts its annotations.
    fn bounded(mut self, limits: &HostLimits) -> Result<Review, Refusal> {
        self.within(limits)?;
        self.annotations.sort();
        let twice = self.annotations.windows(2).find_map(|pair| match pair {
            [(first, _), (second, _)] if first == second => Some(first),
            _ => None,
        });
        match twice {
            Some(key) => Err(Refusal::AnnotationTwice(key.clone())),
            None => Ok(self),
        }
    }
}

/// A container, of which a review has only the image.
#[derive(Deserialize)]
struct Container {
    image: Option<String>,
}

fn images_of(containers: impl IntoIterator<Item = Object<Container>>) -> Vec<String> {
    containers.into_iter().map(|Object(container)| container.image.unwrap_or_default()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_review_at_its_limits_is_within_them() {
        let limits = HostLimits { images: 2, annotations: 5, ..HostLimits::default() };
        let largest = limits::NAMESPACE.size();
        let review = |images, value: &str, namespace| Review {
            namespace: "n".repeat(namespace),
            annotations: vec![("k".to_owned(), value.to_owned()), ("l".to_owned(), String::new())],
            images: vec!["a".to_owned(); images],
        };
        assert_eq!(review(2, "123", largest).within(&limits), Ok(()));
        assert_eq!(review(3, "123", largest).within(&limits), Err(Refusal::Images(3, 2)));
        assert_eq!(review(2, "1234", largest).within(&limits), Err(Refusal::Annotations(6, 5)));
        assert_eq!(review(2, "123", largest + 1).within(&limits), Err(Refusal::Namespace(largest + 1)));
    }

    #[test]
    fn the_memory_of_a_review_counts_each_text_and_its_place() {
        let empty = Review { namespace: String::new(), annotations: Vec::new(), images: Vec::new() };
        let review = Review {
            namespace: "1234567".to_owned(),
            annotations: vec![("key".to_owned(), "value".to_owned())],
            images: vec!["nginx".to_owned(), "web".to_owned()],
        };
        assert_eq!(empty.memory(), size_of::<Review>());
        let places = size_of::<(String, String)>() + 2 * size_of::<String>();
        assert_eq!(review.memory(), size_of::<Review>() + 7 + (3 + 5) + (5 + 3) + places);
    }
}
