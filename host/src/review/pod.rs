//! The review that an apiserver makes of a Pod.

use serde::Deserialize;
use serde_json::Value;

use super::json::{Object, Pairs, shown};
use super::{Container, Review, ReviewError, images_of};
use crate::config::HostLimits;

impl Review {
    /// Returns the review that an apiserver would make of a Pod: containers, then initContainers
    /// (plugin/pkg/admission/imagepolicy/admission.go), and then ephemeralContainers, which the apiserver
    /// sends in a separate review. `namespace` is used if the Pod names none.
    ///
    /// # Errors
    /// Returns an error if a field of the Pod has the wrong type, or a limit is exceeded.
    pub fn of_pod(pod: Value, namespace: &str, limits: &HostLimits) -> Result<Review, ReviewError> {
        let Object(pod) = serde_json::from_value::<Object<Pod>>(pod)
            .map_err(|error| ReviewError::NotAnImageReview(format!("malformed Pod: {}", shown(&error))))?;
        let (Object(metadata), Object(spec)) = (pod.metadata, pod.spec);
        let lists = [Some(spec.containers), spec.init_containers, spec.ephemeral_containers];
        let Pairs(mut annotations) = metadata.annotations.unwrap_or_default();
        annotations.retain(|(key, _)| key.contains(".image-policy.k8s.io/"));
        let review = Review {
            namespace: metadata.namespace.unwrap_or_else(|| namespace.to_owned()),
            annotations,
            images: images_of(lists.into_iter().flatten().flatten()),
        };
        Ok(review.bounded(limits)?)
    }
}

#[derive(Deserialize)]
struct Pod {
    #[serde(default)]
    metadata: Object<PodMetadata>,
    spec: Object<PodSpec>,
}

#[derive(Deserialize, Default)]
struct PodMetadata {
    namespace: Option<String>,
    annotations: Option<Pairs>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PodSpec {
    containers: Vec<Object<Container>>,
    init_containers: Option<Vec<Object<Container>>>,
    ephemeral_containers: Option<Vec<Object<Container>>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_is_reviewed_as_the_apiserver_would() {
        let pod = serde_json::json!({
            "metadata": {"annotations": {"a.image-policy.k8s.io/b": "1", "image-policy.k8s.io/c": "2"}},
            "spec": {
                "initContainers": [{"image": "init"}],
                "containers": [{"image": "one"}, {"image": "two"}],
            },
        });
        let review = Review::of_pod(pod, "default", &HostLimits::default()).unwrap();
        assert_eq!(review.images, ["one", "two", "init"]);
        assert_eq!(review.namespace, "default");
        assert_eq!(review.annotations, [("a.image-policy.k8s.io/b".to_owned(), "1".to_owned())]);
    }
}
