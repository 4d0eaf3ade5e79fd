//! The values of the variables in one evaluation.

use std::collections::HashMap;
use std::sync::OnceLock;

use cel_interpreter::common::types::{
    CelBool, CelDouble, CelInt, CelList, CelMap, CelMapKey, CelNull, CelString, CelUInt,
};
use cel_interpreter::common::value::{CowVal, Val};
use cel_interpreter::context::VariableResolver;
use serde_json::Value;

use crate::contract::{Context, Image};

/// A value that may borrow from the image or the review.
type Boxed<'a> = Box<dyn Val + 'a>;

/// One image of one review, as the variables of an expression. A variable is made when an expression names
/// it.
#[derive(Debug)]
pub struct Document<'a> {
    image: &'a Image,
    context: &'a Context,
    params: &'a dyn Val,
    variables: [OnceLock<Boxed<'a>>; 5],
}

impl<'a> Document<'a> {
    /// Makes the document of an image.
    pub fn new(image: &'a Image, context: &'a Context, params: &'a dyn Val) -> Self {
        Self { image, context, params, variables: Default::default() }
    }

    fn annotations(&self) -> Boxed<'a> {
        map(self.context.annotations.iter().map(|(key, value)| (key.as_str(), text(value))))
    }

    /// Returns the Pod, as far as a review of images knows it. One image is judged at a time, so the Pod has
    /// one container. Its name is the image, since a review names no containers.
    fn object(&self) -> Boxed<'a> {
        let container = || map([("name", text(&self.image.original)), ("image", text(&self.image.original))]);
        map([
            ("apiVersion", text("v1")),
            ("kind", text("Pod")),
            (
                "metadata",
                map([("namespace", text(&self.context.namespace)), ("annotations", self.annotations())]),
            ),
            ("spec", map([("containers", list([container()]))])),
        ])
    }

    fn request(&self) -> Boxed<'a> {
        map([
            ("kind", map([("group", text("")), ("version", text("v1")), ("kind", text("Pod"))])),
            ("resource", map([("group", text("")), ("version", text("v1")), ("resource", text("pods"))])),
            ("operation", text("CREATE")),
            ("namespace", text(&self.context.namespace)),
        ])
    }
}

impl VariableResolver for Document<'_> {
    fn resolve<'b>(&'b self, variable: &str) -> Option<CowVal<'b, 'b>> {
        let [image, annotations, object, request, namespace] = &self.variables;
        let value: &'b (dyn Val + 'b) = match variable {
            "image" => image.get_or_init(|| Box::new(of_image(self.image))).as_ref(),
            "annotations" => annotations.get_or_init(|| self.annotations()).as_ref(),
            "object" => object.get_or_init(|| self.object()).as_ref(),
            "oldObject" => &CelNull,
            "request" => request.get_or_init(|| self.request()).as_ref(),
            "namespaceObject" => namespace
                .get_or_init(|| map([("metadata", map([("name", text(&self.context.namespace))]))]))
                .as_ref(),
            "params" => self.params,
            _ => return None,
        };
        Some(CowVal::Borrowed(value))
    }
}

fn text<'a>(text: &'a str) -> Boxed<'a> {
    Box::new(CelString::from(text))
}

fn list<'a, const N: usize>(elements: [Boxed<'a>; N]) -> Boxed<'a> {
    Box::new(CelList::from(Vec::from(elements)))
}

fn map<'a>(entries: impl IntoIterator<Item = (&'a str, Boxed<'a>)>) -> Boxed<'a> {
    let entries = entries.into_iter().map(|(key, value)| (CelMapKey::from(key), value));
    Box::new(CelMap::from(entries.collect::<HashMap<_, _>>()))
}

/// Returns the fields of an image. A field that the image does not have is absent.
fn of_image(image: &Image) -> CelMap<'_> {
    let name = format!("{}/{}", image.registry, image.repository);
    let mut reference = name.clone();
    for (mark, part) in [(':', &image.tag), ('@', &image.digest)] {
        if let Some(part) = part {
            reference.push(mark);
            reference.push_str(part);
        }
    }
    let mut fields: HashMap<CelMapKey<'_>, Boxed<'_>> = HashMap::with_capacity(7);
    let borrowed = [
        ("original", Some(&image.original)),
        ("registry", Some(&image.registry)),
        ("repository", Some(&image.repository)),
        ("tag", image.tag.as_ref()),
        ("digest", image.digest.as_ref()),
    ];
    for (field, value) in borrowed {
        if let Some(value) = value {
            fields.insert(CelMapKey::from(field), text(value));
        }
    }
    fields.insert(CelMapKey::from("name"), Box::new(CelString::from(name)));
    fields.insert(CelMapKey::from("reference"), Box::new(CelString::from(reference)));
    CelMap::from(fields)
}

/// Returns the fields of a reference that an expression has parsed.
pub fn parsed(image: image_reference::Image) -> CelMap<'static> {
    let reference = image.to_string();
    let name = format!("{}/{}", image.registry, image.repository);
    let fields = [
        ("original", Some(image.original)),
        ("registry", Some(image.registry)),
        ("repository", Some(image.repository)),
        ("tag", image.tag),
        ("digest", image.digest),
        ("name", Some(name)),
        ("reference", Some(reference)),
    ];
    let fields = fields.into_iter().filter_map(|(field, value)| {
        Some((CelMapKey::from(field), Box::new(CelString::from(value?)) as Boxed<'static>))
    });
    CelMap::from(fields.collect::<HashMap<_, _>>())
}

/// Returns a value of the settings, whose depth the reader of the settings limits.
pub fn of_json(value: &Value) -> Boxed<'static> {
    match value {
        Value::Null => Box::new(CelNull),
        Value::Bool(value) => Box::new(CelBool::from(*value)),
        Value::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(number), _) => Box::new(CelInt::from(number)),
            (None, Some(number)) => Box::new(CelUInt::from(number)),
            (None, None) => Box::new(CelDouble::from(number.as_f64().unwrap_or_default())),
        },
        Value::String(text) => Box::new(CelString::from(text.clone())),
        Value::Array(elements) => Box::new(CelList::from(elements.iter().map(of_json).collect::<Vec<_>>())),
        Value::Object(fields) => {
            let fields = fields.iter().map(|(key, value)| (CelMapKey::from(key.clone()), of_json(value)));
            Box::new(CelMap::from(fields.collect::<HashMap<_, _>>()))
        }
    }
}
