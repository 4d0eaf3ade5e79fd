//! The schema of settings in the guide (host/docs/rust.md).

/// Images that namespaces may run.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Rules {
    /// Images that every namespace may run.
    pub shared: image_policy::Patterns,
}

#[test]
fn the_schema_is_of_these_settings() {
    let schema = schemars::schema_for!(Rules);
    assert_eq!(schema.pointer("/properties/shared/type"), None);
    assert_eq!(schema.pointer("/$defs/Patterns/type"), Some(&"array".into()));
    println!("{}", serde_json::to_string_pretty(&schema).unwrap());
}
