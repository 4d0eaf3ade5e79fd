//! Kubernetes manifests of repositories and charts -> the reviews that the apiserver would make of them.
//! Pure.
//!
//! A text holds YAML documents, or JSON values one after the other. A document is an ImageReview, an
//! AdmissionReview, a workload with a pod template, or a list of these. Every other kind has no pods and is
//! skipped; its name is recorded.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::config::HostLimits;
use crate::config::yaml::{Document, Location, Problem, documents};
use crate::limits;
use crate::review::{Refusal, Review, ReviewError, image_review};
use crate::text;

/// Maximum length of a kind or a name in a message, in bytes. Kubernetes has no longer names.
const NAME_SHOWN: usize = 253;

/// A text with manifests.
#[derive(Debug, Default, PartialEq)]
pub struct Manifest {
    /// Number of documents that are not empty.
    pub documents: usize,
    /// Objects with pods, in the order of the text.
    pub objects: Vec<Object>,
    /// Kinds without pods, with the number of objects of each.
    pub skipped: BTreeMap<String, usize>,
    /// Documents and objects that cannot be read, in the order of the text.
    pub problems: Vec<Problem>,
}

/// An object with pods.
#[derive(Debug, PartialEq)]
pub struct Object {
    /// Place of the object in the text.
    pub at: Location,
    /// Number of its document, from 1; empty documents have no number.
    pub document: usize,
    /// Its kind, escaped.
    pub kind: String,
    /// Its name, escaped. None where it has none.
    pub name: Option<String>,
    /// The review, or the reason for which the server would deny it before any policy runs.
    pub review: Result<Review, Refusal>,
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&title(&self.kind, self.name.as_deref()))
    }
}

fn title(kind: &str, name: Option<&str>) -> String {
    match name {
        Some(name) => format!("{kind}/{name}"),
        None => kind.to_owned(),
    }
}

impl Manifest {
    /// Reads a text. Objects without a namespace get `namespace`.
    #[must_use]
    pub fn read(bytes: &[u8], namespace: &str, limits: &HostLimits) -> Manifest {
        let bytes = bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(bytes);
        let mut reader = Reader { namespace, limits, read: 0, manifest: Manifest::default() };
        match json_values(bytes) {
            Some(values) => reader.json(bytes, &values),
            None => reader.yaml(bytes),
        }
        reader.manifest
    }
}

struct Reader<'a> {
    namespace: &'a str,
    limits: &'a HostLimits,
    /// Number of documents read, including empty ones.
    read: usize,
    manifest: Manifest,
}

/// An object and its place.
struct Found<'a> {
    document: &'a Document,
    pointer: String,
    value: &'a Value,
    /// Kind and apiVersion of an item of a typed list, which may leave them out.
    default: Option<(String, String)>,
    /// Namespace of the AdmissionReview around it.
    namespace: Option<String>,
}

impl Reader<'_> {
    fn yaml(&mut self, bytes: &[u8]) {
        for parsed in documents(bytes) {
            if self.is_too_long() {
                return;
            }
            match parsed {
                Ok(document) if document.value.is_null() => {}
                Ok(document) => {
                    self.manifest.documents += 1;
                    self.document(&document);
                }
                Err(error) => {
                    self.manifest.documents += 1;
                    self.manifest.problems.extend(error.problems);
                }
            }
        }
    }

    fn json(&mut self, bytes: &[u8], ends: &[usize]) {
        let mut start = 0;
        let mut line = 1;
        for end in ends {
            if self.is_too_long() {
                return;
            }
            let value = bytes.get(start..*end).unwrap_or_default();
            self.manifest.documents += 1;
            self.json_value(value, line);
            line += value.iter().filter(|byte| **byte == b'\n').count();
            start = *end;
        }
    }

    /// Reads one JSON value. White space before it belongs to it; `line` is the line on which that begins.
    fn json_value(&mut self, json: &[u8], line: usize) {
        let before = json.len() - json.trim_ascii_start().len();
        let before = json.get(..before).unwrap_or_default();
        let skipped = before.iter().filter(|byte| **byte == b'\n').count();
        let column = 1 + before.iter().rev().take_while(|byte| **byte != b'\n').count();
        let at = Location { line: line + skipped, column };
        let kind = serde_json::from_slice::<Value>(json).ok();
        let kind = kind.as_ref().and_then(|value| value.get("kind")).and_then(Value::as_str);
        // The server reads it byte by byte, with all its irregularities.
        if kind == Some("ImageReview") {
            return self.image_review(json, at);
        }
        let value = match serde_json::from_slice::<Unique>(json) {
            Ok(Unique(value)) => value,
            Err(error) => {
                let at = match error.line() {
                    1 => Location { line, column: error.column().max(1) },
                    further => Location { line: line + further - 1, column: error.column().max(1) },
                };
                let message = error.to_string();
                let message = message.split(" at line ").next().unwrap_or_default();
                self.manifest.problems.push(Problem::new(at, text::escape(message)));
                return;
            }
        };
        // JSON is YAML but for a few escapes. If the YAML parser fails, all places are the beginning of the
        // document.
        let mut document = Document::parse_from(json, line).unwrap_or_else(|_| Document::at(at));
        document.value = value;
        self.document(&document);
    }

    /// Returns whether the text exceeds the limit of documents, and records that problem.
    fn is_too_long(&mut self) -> bool {
        let limit = limits::MANIFEST_DOCUMENTS.size();
        if self.read < limit {
            self.read += 1;
            return false;
        }
        let message = limits::MANIFEST_DOCUMENTS.says("", limit as u64);
        self.manifest.problems.push(Problem::new(Location::default(), message));
        true
    }

    fn document(&mut self, document: &Document) {
        let root = Found {
            document,
            pointer: String::new(),
            value: &document.value,
            default: None,
            namespace: None,
        };
        self.object(root);
    }

    fn object(&mut self, found: Found<'_>) {
        let field = |name: &str| found.value.get(name).and_then(Value::as_str);
        let (kind, version) = match (field("kind"), field("apiVersion"), &found.default) {
            (Some(kind), Some(version), _) => (kind.to_owned(), version.to_owned()),
            (None, None, Some((kind, version))) if found.value.is_object() => (kind.clone(), version.clone()),
            _ => {
                let message = "it holds no Kubernetes object (apiVersion and kind): give manifests, \
                    ImageReviews or AdmissionReviews";
                return self.problem(&found, message);
            }
        };
        let group = version.split_once('/').map_or("", |(group, _)| group);
        match (group, kind.as_str()) {
            ("imagepolicy.k8s.io", "ImageReview") => {
                let at = found.document.locate(&found.pointer);
                self.image_review(found.value.to_string().as_bytes(), at);
            }
            ("admission.k8s.io", "AdmissionReview") => self.admission_review(found),
            (_, list) if list.ends_with("List") && found.value.get("items").is_some() => {
                self.list(found, &kind, &version);
            }
            _ => match template(group, &kind) {
                Some(pointer) => self.workload(&found, &kind, pointer),
                None => self.skip(&kind, group),
            },
        }
    }

    fn image_review(&mut self, json: &[u8], at: Location) {
        let review = match image_review::parse(json, self.limits) {
            Ok(review) if review.namespace.is_empty() => {
                Ok(Review { namespace: self.namespace.to_owned(), ..review })
            }
            Ok(review) => Ok(review),
            Err(ReviewError::Refused(refusal)) => Err(refusal),
            Err(ReviewError::NotAnImageReview(problem)) => {
                return self.manifest.problems.push(Problem::new(at, problem));
            }
        };
        self.add(at, "ImageReview".to_owned(), None, review);
    }

    /// Reads the object of an AdmissionReview. A DELETE or CONNECT has no object.
    fn admission_review(&mut self, found: Found<'_>) {
        let Some(request) = found.value.get("request") else {
            return self.problem(&found, "AdmissionReview: it has no `request`");
        };
        let namespace = request.get("namespace").and_then(Value::as_str).map(str::to_owned);
        match request.get("object") {
            None | Some(Value::Null) => self.skip("AdmissionReview", ""),
            Some(value) => self.object(Found {
                document: found.document,
                pointer: format!("{}/request/object", found.pointer),
                value,
                default: None,
                namespace: namespace.filter(|namespace| !namespace.is_empty()),
            }),
        }
    }

    fn list(&mut self, found: Found<'_>, kind: &str, version: &str) {
        let items = match found.value.get("items") {
            None | Some(Value::Null) => return,
            Some(Value::Array(items)) => items,
            Some(_) => return self.problem(&found, &format!("{}: `items` is no list", shown(kind))),
        };
        let of = kind.strip_suffix("List").filter(|of| !of.is_empty());
        for (index, value) in items.iter().enumerate() {
            self.object(Found {
                document: found.document,
                pointer: format!("{}/items/{index}", found.pointer),
                value,
                default: of.map(|of| (of.to_owned(), version.to_owned())),
                namespace: found.namespace.clone(),
            });
        }
    }

    /// Reviews a workload by its template, as the apiserver reviews the pods that are made of it.
    fn workload(&mut self, found: &Found<'_>, kind: &str, pointer: &str) {
        let metadata = |name: &str| {
            let value = found.value.get("metadata")?.get(name)?.as_str()?;
            (!value.is_empty()).then(|| value.to_owned())
        };
        let name = metadata("name").or_else(|| Some(format!("{}…", metadata("generateName")?)));
        let name = name.map(|name| shown(&name));
        let lacks = |what: &str, pointer: &str| {
            let place = pointer.trim_start_matches('/').replace('/', ".");
            format!("{}: it has no {what} at `{place}`", title(kind, name.as_deref()))
        };
        let Some(template) = found.value.pointer(pointer).filter(|template| template.is_object()) else {
            return self.problem(found, &lacks("pod template", pointer));
        };
        if template.get("spec").is_none_or(Value::is_null) {
            return self.problem(found, &lacks("pod spec", &format!("{pointer}/spec")));
        }
        let namespace = metadata("namespace").or_else(|| found.namespace.clone());
        let mut pod = Map::new();
        let annotations = template.get("metadata").and_then(|metadata| metadata.get("annotations"));
        let namespace = namespace.unwrap_or_else(|| self.namespace.to_owned());
        pod.insert("metadata".to_owned(), json!({ "annotations": annotations, "namespace": namespace }));
        pod.extend(template.get("spec").map(|spec| ("spec".to_owned(), spec.clone())));
        let review = match Review::of_pod(Value::Object(pod), self.namespace, self.limits) {
            Ok(review) => Ok(review),
            Err(ReviewError::Refused(refusal)) => Err(refusal),
            Err(ReviewError::NotAnImageReview(problem)) => {
                return self.problem(found, &format!("{}: {problem}", title(kind, name.as_deref())));
            }
        };
        self.add(found.document.locate(&found.pointer), kind.to_owned(), name, review);
    }

    fn add(&mut self, at: Location, kind: String, name: Option<String>, review: Result<Review, Refusal>) {
        let document = self.manifest.documents;
        self.manifest.objects.push(Object { at, document, kind, name, review });
    }

    fn skip(&mut self, kind: &str, group: &str) {
        // Kinds of the built-in groups are distinct without their group.
        let kind = match group.contains('.') && !group.ends_with(".k8s.io") {
            true => shown(&format!("{kind}.{group}")),
            false => shown(kind),
        };
        *self.manifest.skipped.entry(kind).or_default() += 1;
    }

    fn problem(&mut self, found: &Found<'_>, message: &str) {
        self.manifest.problems.push(Problem::new(found.document.locate(&found.pointer), message));
    }
}

fn shown(text: &str) -> String {
    text::escape_and_truncate(text, NAME_SHOWN)
}

/// Returns the JSON Pointer to the pod or pod template of a built-in kind. Returns None for every other kind.
fn template(group: &str, kind: &str) -> Option<&'static str> {
    Some(match (group, kind) {
        ("", "Pod") => "",
        ("", "PodTemplate") => "/template",
        ("", "ReplicationController")
        | ("apps" | "extensions", "Deployment" | "ReplicaSet" | "DaemonSet")
        | ("apps", "StatefulSet")
        | ("batch", "Job") => "/spec/template",
        ("batch", "CronJob") => "/spec/jobTemplate/spec/template",
        _ => return None,
    })
}

/// Returns the end of each JSON value of a text, up to one more than the limit. Returns None if the text is
/// anything else.
fn json_values(bytes: &[u8]) -> Option<Vec<usize>> {
    let mut values = serde_json::Deserializer::from_slice(bytes).into_iter::<IgnoredAny>();
    let mut ends = Vec::new();
    while let Some(value) = values.next() {
        value.ok()?;
        ends.push(values.byte_offset());
        if ends.len() > limits::MANIFEST_DOCUMENTS.size() {
            break;
        }
    }
    (!ends.is_empty()).then_some(ends)
}

/// A JSON value in which no key is given twice, so that nothing in it is hidden from the policies.
struct Unique(Value);

impl<'de> Deserialize<'de> for Unique {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct UniqueVisitor;
        impl<'de> Visitor<'de> for UniqueVisitor {
            type Value = Value;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON value")
            }

            fn visit_unit<E: Error>(self) -> Result<Value, E> {
                Ok(Value::Null)
            }

            fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
                Ok(value.into())
            }

            fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
                Ok(value.into())
            }

            fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
                Ok(value.into())
            }

            fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
                Ok(value.into())
            }

            fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
                Ok(value.into())
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
                let mut list = Vec::new();
                while let Some(Unique(item)) = items.next_element()? {
                    list.push(item);
                }
                Ok(Value::Array(list))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
                let mut map = Map::new();
                while let Some(key) = entries.next_key::<String>()? {
                    if map.contains_key(&key) {
                        let key = text::escape_and_truncate(&key, NAME_SHOWN);
                        return Err(A::Error::custom(format!("duplicate key `{key}`")));
                    }
                    let Unique(value) = entries.next_value()?;
                    map.insert(key, value);
                }
                Ok(Value::Object(map))
            }
        }
        deserializer.deserialize_any(UniqueVisitor).map(Unique)
    }
}

/// Kinds that were skipped, displayed as `Service, ConfigMap (3)`.
#[derive(Debug, Default, Serialize)]
#[serde(transparent)]
pub struct Skipped(pub BTreeMap<String, usize>);

impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 16;
        for (index, (kind, count)) in self.0.iter().take(SHOWN).enumerate() {
            f.write_str(if index == 0 { "" } else { ", " })?;
            f.write_str(kind)?;
            if *count > 1 {
                write!(f, " ({count})")?;
            }
        }
        match self.0.len().saturating_sub(SHOWN) {
            0 => Ok(()),
            more => write!(f, " and {more} more kinds"),
        }
    }
}
