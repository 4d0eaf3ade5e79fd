//! The variables of an expression, and the fields that each has. Every field that is not here is refused
//! when the policy is loaded.

use serde_json::Value;

/// The fields and elements of a value, as far as they are known before an evaluation.
#[derive(Debug, Clone, Copy)]
pub enum Shape<'a> {
    /// Nothing is known.
    Any,
    /// A string.
    Text,
    /// A value of another type, which is written in the expression.
    Other(&'static str),
    /// A list of such elements.
    List(&'a Shape<'a>),
    /// An object with exactly these fields. Some may be absent in an image or a review.
    Fields(&'a [(&'a str, Shape<'a>)]),
    /// A part of the setting `params`.
    Json(&'a Value),
}

use Shape::{Any, Fields, List, Text};

/// The fields of an image.
pub const IMAGE: Shape<'static> = Fields(&[
    ("original", Text),
    ("registry", Text),
    ("repository", Text),
    ("tag", Text),
    ("digest", Text),
    ("name", Text),
    ("reference", Text),
]);

const CONTAINERS: Shape<'static> = List(&Fields(&[("name", Text), ("image", Text)]));

const OBJECT: Shape<'static> = Fields(&[
    ("apiVersion", Text),
    ("kind", Text),
    ("metadata", Fields(&[("namespace", Text), ("annotations", Any)])),
    (
        "spec",
        Fields(&[
            ("containers", CONTAINERS),
            ("initContainers", CONTAINERS),
            ("ephemeralContainers", CONTAINERS),
        ]),
    ),
]);

const REQUEST: Shape<'static> = Fields(&[
    ("kind", Fields(&[("group", Text), ("version", Text), ("kind", Text)])),
    ("resource", Fields(&[("group", Text), ("version", Text), ("resource", Text)])),
    ("operation", Text),
    ("namespace", Text),
]);

/// The variables that are always there.
pub const VARIABLES: [(&str, Shape<'static>); 6] = [
    ("image", IMAGE),
    ("annotations", Any),
    ("object", OBJECT),
    ("oldObject", Any),
    ("request", REQUEST),
    ("namespaceObject", Fields(&[("metadata", Fields(&[("name", Text)]))])),
];

/// Variables of ValidatingAdmissionPolicy that are not here, and the reason.
pub const ABSENT: [(&str, &str); 1] = [("authorizer", "a policy of images cannot ask what a user may do")];

/// The names of types.
pub const TYPES: [&str; 10] =
    ["bool", "bytes", "double", "int", "list", "map", "null_type", "string", "type", "uint"];

impl<'a> Shape<'a> {
    /// Returns the shape of a field. Returns None if there is no such field.
    pub fn field(self, name: &str) -> Option<Shape<'a>> {
        match self {
            Any => Some(Any),
            Text | List(_) | Shape::Other(_) => None,
            Fields(fields) => fields.iter().find(|(field, _)| *field == name).map(|(_, shape)| *shape),
            Shape::Json(Value::Object(fields)) => fields.get(name).map(Shape::Json),
            Shape::Json(_) => None,
        }
    }

    /// Returns the shape of the elements that a comprehension goes through.
    pub fn element(self) -> Shape<'a> {
        match self {
            List(element) => *element,
            Fields(_) | Shape::Json(Value::Object(_)) => Text,
            Any | Text | Shape::Other(_) | Shape::Json(_) => Any,
        }
    }

    /// Returns the words for a value without the field that was asked for: `there are …`.
    pub fn fields(self) -> String {
        let names: Vec<&str> = match self {
            Fields(fields) => fields.iter().map(|(name, _)| *name).collect(),
            Shape::Json(Value::Object(fields)) => fields.keys().map(String::as_str).take(16).collect(),
            List(_) | Shape::Json(Value::Array(_)) => return "a list has none".to_owned(),
            _ => return "it is no object".to_owned(),
        };
        format!("there are {}", names.join(", "))
    }
}
