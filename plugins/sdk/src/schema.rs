//! JSON Schema of setting types.

use alloc::borrow::Cow;
use alloc::format;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use crate::Line;

impl<const MOST: usize> JsonSchema for Line<MOST> {
    fn schema_name() -> Cow<'static, str> {
        format!("Line{MOST}").into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "minLength": 1, "maxLength": MOST, "description": "One line." })
    }
}
