//! The policy `cel` beside the reference implementation: the conformance tests of cel-spec, and expressions
//! over images, evaluated by the policy's parser and interpreter and by cel-go.
//!
//! `cargo test -p cel-reference` needs Go, and a module proxy or its cache. A policy refuses much that the
//! language has, by name and when it is loaded; the test prints what. A value that differs fails the test.

#[cfg(test)]
mod policy;
#[cfg(test)]
#[path = "../support/go.rs"]
mod go;
#[cfg(test)]
mod upstream;

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use anyhow::{Context as _, Result, ensure};
    use cel_policy::contract::{Context, Image};
    use cel_policy::document::{Document, of_json};
    use serde_json::{Map, Value, json};

    use crate::policy;
    use crate::upstream::{Answer, Upstream};

    /// The expressions over images, one a line.
    const EXPRESSIONS: &str = include_str!("expressions.txt");

    const REFERENCES: [&str; 24] = [
        "nginx",
        "nginx:1.27",
        "docker.io/library/nginx:latest",
        "acme/app",
        "acme/app:dev",
        "ghcr.io/acme/app:v1.2.3",
        "ghcr.io/acme/app:v1.2.3-rc.1",
        "ghcr.io/acme/team/app:2024-01-01",
        "ghcr.io/acme/app@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
        "ghcr.io/acme/app:1@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
        "registry.k8s.io/pause:3.10",
        "registry.k8s.io/kube-apiserver:v1.31.0",
        "k8s.gcr.io/pause:3.1",
        "quay.io/prometheus/node-exporter:v1.8.2",
        "quay.io/acme/app:latest",
        "localhost:5000/app",
        "localhost:5000/app:1",
        "localhost/app:1",
        "111122223333.dkr.ecr.eu-west-1.amazonaws.com/app:7",
        "us-docker.pkg.dev/project/repository/app:1",
        "mcr.microsoft.com/dotnet/aspnet:8.0-alpine",
        "gcr.io/distroless/static-debian12:nonroot",
        "192.168.0.1:5000/app:x",
        "[::1]:5000/app:x",
    ];

    fn lines(table: &'static str) -> Vec<&'static str> {
        table.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')).collect()
    }

    fn has_message(value: &Value) -> bool {
        value.to_string().contains("\"message\"")
    }

    /// Returns whether two answers agree: the same value, or no value. A policy may refuse early what fails
    /// in every review.
    fn agree(expected: &Answer, found: &Answer) -> bool {
        match (&expected.value, &found.value) {
            (Some(expected), Some(found)) => expected == found,
            (None, None) => true,
            _ => false,
        }
    }

    #[test]
    fn conformance() {
        let env = policy::environment().unwrap();
        let tests = Upstream::build().unwrap().conformance().unwrap();
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        let mut refused: BTreeMap<String, usize> = BTreeMap::new();
        let mut differ: BTreeMap<String, String> = BTreeMap::new();
        for test in &tests {
            let bound = Value::Object(test.bindings.clone());
            let unknown = test.expected.failed.as_deref() == Some("unknown");
            let result = if !test.macros || unknown || !test.container.is_empty() || has_message(&bound) {
                "of another environment"
            } else {
                let names: Vec<&str> = test.bindings.keys().map(String::as_str).collect();
                let values: Vec<_> =
                    test.bindings.values().map(|value| policy::read(value).unwrap()).collect();
                let prepare = |scope: &mut cel_interpreter::Context<'_, '_>| {
                    for (name, value) in names.iter().zip(values) {
                        scope.add_variable_as_val(*name, value);
                    }
                };
                let found = policy::evaluate(&test.expression, &names, None, prepare, &env);
                if found.failed.as_deref() == Some("compilation") && test.expected.value.is_some() {
                    *refused.entry(found.error.clone()).or_default() += 1;
                    "refused when loaded"
                } else if agree(&test.expected, &found) {
                    "equal"
                } else {
                    differ.insert(
                        test.name.clone(),
                        format!("{}\n    expected {:?}\n    found {found:?}", test.expression, test.expected),
                    );
                    "different"
                }
            };
            *counts.entry(result).or_default() += 1;
        }
        println!("{} tests: {counts:?}", tests.len());
        for (reason, count) in &refused {
            println!("refused {count}: {reason}");
        }
        let differ: Vec<_> = differ.iter().map(|(name, answers)| format!("{name}: {answers}")).collect();
        assert!(differ.is_empty(), "{} differ:\n{}", differ.len(), differ.join("\n"));
        assert!(counts.get("equal").is_some_and(|equal| *equal >= 1286), "{counts:?}");
    }

    /// The variables of cel-go for an image. What the image does not have is absent.
    fn variables(image: &Image, context: &Context, params: &Value) -> Value {
        let name = format!("{}/{}", image.registry, image.repository);
        let reference = image_reference::Image::parse(&image.original).unwrap().to_string();
        let mut fields = Map::new();
        for (field, value) in [
            ("original", Some(&image.original)),
            ("registry", Some(&image.registry)),
            ("repository", Some(&image.repository)),
            ("tag", image.tag.as_ref()),
            ("digest", image.digest.as_ref()),
            ("name", Some(&name)),
            ("reference", Some(&reference)),
        ] {
            fields.extend(value.map(|value| (field.to_owned(), json!(value))));
        }
        let annotations: Map<String, Value> =
            context.annotations.iter().map(|(key, value)| (key.clone(), json!(value))).collect();
        let container = json!({ "name": image.original, "image": image.original });
        json!({
            "image": fields,
            "annotations": annotations,
            "params": params,
            "request": {
                "namespace": context.namespace,
                "operation": "CREATE",
                "kind": { "group": "", "version": "v1", "kind": "Pod" },
                "resource": { "group": "", "version": "v1", "resource": "pods" },
            },
            "object": {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": { "namespace": context.namespace, "annotations": annotations },
                "spec": { "containers": [container] },
            },
        })
    }

    fn image(reference: &str) -> Image {
        let parsed = image_reference::Image::parse(reference).unwrap();
        Image {
            original: parsed.original,
            registry: parsed.registry,
            repository: parsed.repository,
            tag: parsed.tag,
            digest: parsed.digest,
        }
    }

    #[test]
    fn images() {
        compare_images().unwrap();
    }

    fn compare_images() -> Result<()> {
        let env = policy::environment()?;
        let params = json!({
            "registries": ["ghcr.io", "registry.k8s.io", "docker.io"],
            "frozen": { "k8s.gcr.io": "registry.k8s.io" },
            "teams": { "shop": ["ghcr.io/acme/"], "default": [] },
        });
        let expressions = lines(EXPRESSIONS);
        ensure!(expressions.len() >= 60, "{} expressions", expressions.len());
        let distinct: BTreeSet<_> = expressions.iter().collect();
        ensure!(distinct.len() == expressions.len(), "an expression occurs twice");
        let contexts = [("shop", vec![("team.image-policy.k8s.io/exempt", "yes")]), ("default", Vec::new())];
        let contexts = contexts.map(|(namespace, annotations)| Context {
            namespace: namespace.to_owned(),
            annotations: annotations
                .into_iter()
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .collect(),
        });
        let mut inputs = Vec::new();
        let mut found = Vec::new();
        let values = of_json(&params);
        for reference in REFERENCES {
            let image = image(reference);
            for context in &contexts {
                let bound = variables(&image, context, &params);
                for expression in &expressions {
                    let document = Document::new(&image, context, values.as_ref());
                    inputs.push(json!({ "expression": expression, "variables": bound }));
                    found.push(evaluate(expression, &document, &params, &env));
                }
            }
        }
        let expected = Upstream::build()?.evaluate(&inputs)?;
        let mut differ = Vec::new();
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for ((input, expected), found) in inputs.iter().zip(&expected).zip(&found) {
            let stage = expected.failed.clone().unwrap_or_else(|| "value".to_owned());
            *counts.entry(stage).or_default() += 1;
            if !agree(expected, found) {
                let reference = input.pointer("/variables/image/original").context("no image")?;
                differ.push(format!(
                    "{} of {reference}:\n    {expected:?}\n    {found:?}",
                    input["expression"]
                ));
            }
        }
        println!("{} evaluations: {counts:?}, {} differ", inputs.len(), differ.len());
        differ.truncate(20);
        ensure!(differ.is_empty(), "{}", differ.join("\n"));
        Ok(())
    }

    fn evaluate<'v>(
        expression: &str,
        document: &'v Document<'_>,
        params: &Value,
        env: &std::sync::Arc<cel_interpreter::Env>,
    ) -> Answer {
        let prepare = |scope: &mut cel_interpreter::Context<'v, 'v>| scope.set_variable_resolver(document);
        policy::evaluate(expression, &[], Some(params), prepare, env)
    }
}
