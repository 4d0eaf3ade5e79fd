//! Settings and images against decisions, natively. The suite has the same through the host.

#[cfg(test)]
mod tests {
    use cel::Policy;
    use cel::contract::{Context, Decision, Image, Outcome, SettingsError};
    use serde_json::{Value, json};

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

    fn context(annotations: &[(&str, &str)]) -> Context {
        let annotations = annotations.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        Context { namespace: "shop".to_owned(), annotations: annotations.collect() }
    }

    fn policy(settings: Value) -> Policy {
        Policy::read(&settings.to_string()).unwrap_or_else(|mistakes| panic!("{mistakes:#?}"))
    }

    fn mistakes(settings: Value) -> Vec<SettingsError> {
        match Policy::read(&settings.to_string()) {
            Ok(_) => panic!("accepted: {settings}"),
            Err(mistakes) => mistakes,
        }
    }

    fn judge(settings: Value, reference: &str) -> Decision {
        policy(settings).judge(&image(reference), &context(&[])).unwrap()
    }

    /// The outcome of one expression for an image.
    fn holds(expression: &str, reference: &str) -> bool {
        judge(json!({ "validations": [{ "expression": expression }] }), reference).outcome == Outcome::Allow
    }

    #[test]
    fn the_fields_of_an_image() {
        let digest = format!("sha256:{}", "ab".repeat(32));
        let pinned = format!("quay.io/acme/app:1@{digest}");
        for (expression, reference) in [
            ("image.original == 'nginx' && image.registry == 'docker.io'", "nginx"),
            ("image.repository == 'library/nginx' && image.tag == 'latest' && !has(image.digest)", "nginx"),
            ("image.name == 'docker.io/library/nginx' && image.reference == image.name + ':latest'", "nginx"),
            ("image.name == 'quay.io/acme/app' && image.reference == image.original", &pinned),
            ("image.digest.startsWith('sha256:') && image.?tag == optional.of('1')", &pinned),
            ("image == image(image.original) && isImage('nginx') && !isImage('-')", &pinned),
            ("image('nginx').reference == 'docker.io/library/nginx:latest'", "a"),
            ("object.kind == 'Pod' && object.spec.containers[0].image == image.original", "nginx"),
            ("object.spec.containers.map(c, image(c.image).registry) == ['docker.io']", "nginx"),
            (
                "object.metadata.namespace == 'shop' && request.namespace == namespaceObject.metadata.name",
                "a",
            ),
            (
                "request.operation == 'CREATE' && request.resource.resource == 'pods' && oldObject == null",
                "a",
            ),
        ] {
            assert!(holds(expression, reference), "{expression} of {reference}");
        }
    }

    #[test]
    fn regular_expressions_are_those_of_cel() {
        for (expression, expected) in [
            ("'v1.2'.matches('[0-9]+')", true),
            ("matches('v1.2', '^[0-9]+$')", false),
            // `\\d` is a digit of ASCII.
            (r"'\u0663'.matches('\\d')", false),
            ("'a1b22'.find('[0-9]+') == '1' && 'a1b22'.findAll('[0-9]+') == ['1', '22']", true),
            ("'a1b22'.findAll('[0-9]+', 1) == ['1'] && 'x'.find('[0-9]') == ''", true),
        ] {
            assert_eq!(holds(expression, "a"), expected, "{expression}");
        }
    }

    #[test]
    fn the_order_of_keys_is_no_chance() {
        let annotations: Vec<(String, String)> =
            (0..40).map(|number| (format!("a.image-policy.k8s.io/{number:02}"), "x".to_owned())).collect();
        let context = Context { namespace: String::new(), annotations };
        let policy = policy(json!({ "validations": [{
            "expression": "annotations.map(key, key).join(',').size() < 0",
            "messageExpression":
                "annotations.map(key, key.substring(22)).join(',') + {'b': 1, 'a': 2}.map(k, k).join('')",
        }] }));
        let expected: Vec<String> = (0..40).map(|number| format!("{number:02}")).collect();
        for _ in 0..3 {
            let decision = policy.judge(&image("nginx"), &context).unwrap();
            assert_eq!(decision.reason, format!("{}ab", expected.join(",")));
        }
    }

    #[test]
    fn a_reason_is_one_line_of_the_contract() {
        let long = "é".repeat(400);
        let rules: Vec<Value> = (0..4).map(|_| json!({ "expression": "false", "message": long })).collect();
        let decision = judge(json!({ "validations": rules }), "nginx");
        assert!(decision.reason.len() <= 1024 && decision.reason.ends_with('…'), "{}", decision.reason.len());
        // As in Kubernetes, `message` is the reason where `messageExpression` gives none.
        for made in ["''", "'a\\nb'", "string(1 / (image.tag == 'latest' ? 0 : 1))"] {
            let rule = json!({ "expression": "false", "message": "plain", "messageExpression": made });
            assert_eq!(judge(json!({ "validations": [rule] }), "nginx").reason, "plain", "{made}");
        }
    }

    #[test]
    fn an_audit_annotation_fits_the_contract_and_changes_no_denial() {
        let settings = |outcome: &str| {
            json!({
                "validations": [{ "expression": outcome }],
                "auditAnnotations": [
                    { "key": "value", "valueExpression": "image.original + 'é'" },
                    { "key": "long", "valueExpression": "'é'.replace('é', '0123456789é').split('').map(x,
                        '0123456789'.split('').map(y, '0123456789é').join('')).join('')" },
                    { "key": "none", "valueExpression": "null" },
                    { "key": "fails", "valueExpression":
                        "image.tag == 'latest' ? string(1 / (image.registry.size() - 9)) : ''" },
                ],
            })
        };
        let denied = judge(settings("false"), "nginx");
        let [(_, value), (_, long)] = &denied.audit_annotations[..] else { panic!("{denied:?}") };
        assert_eq!(value, "nginxé");
        assert!(long.len() <= 1024 && long.len() > 1020 && long.ends_with('…'), "{long}");
        assert!(policy(settings("true")).judge(&image("nginx"), &context(&[])).is_err());
    }

    #[test]
    fn keys_that_only_a_review_has_are_accepted_with_a_warning() {
        let rule = |expression: &str| json!({ "validations": [{ "expression": expression }] });
        let fixed = policy(rule("annotations['team.image-policy.k8s.io/ok'] == 'true'"));
        assert_eq!(fixed.warnings(), [] as [String; 0]);
        let other = policy(rule("int(image.tag.substring(1)) > 6"));
        assert_eq!(other.warnings().len(), 1, "{:?}", other.warnings());
        let made = policy(rule("annotations[request.namespace + '.image-policy.k8s.io/ok'] == 'true'"));
        assert_eq!(made.warnings().len(), 1, "{:?}", made.warnings());
        let annotated = context(&[("shop.image-policy.k8s.io/ok", "true")]);
        assert_eq!(made.judge(&image("nginx"), &annotated).unwrap().outcome, Outcome::Allow);
        assert!(made.judge(&image("nginx"), &context(&[])).is_err());
    }

    #[test]
    fn ignored_keys_are_told() {
        let policy = policy(json!({
            "matchConstraints": {}, "failurePolicy": "Ignore",
            "validations": [{ "expression": true }],
        }));
        let [warning] = policy.warnings() else { panic!("{:?}", policy.warnings()) };
        assert!(warning.ends_with("failurePolicy, matchConstraints"), "{warning}");
        assert_eq!(policy.to_string(), "1 validation");
    }

    #[test]
    fn settings_have_limits() {
        let rules = |count: usize| {
            let rules: Vec<Value> = (0..count).map(|_| json!({ "expression": "true" })).collect();
            json!({ "validations": rules })
        };
        policy(rules(64));
        assert_eq!(mistakes(rules(65))[0].message, "65 expressions: a policy has at most 64");
        let nested = |depth: usize| {
            format!(
                "{{\"params\":{}1{}, \"validations\": [{{\"expression\": true}}]}}",
                "[".repeat(depth),
                "]".repeat(depth)
            )
        };
        assert!(Policy::read(&nested(31)).is_ok());
        assert_eq!(
            Policy::read(&nested(32)).unwrap_err()[0].message,
            "the settings nest deeper than 32 levels"
        );
        let long = "a".repeat(1025);
        assert_eq!(
            mistakes(json!({ "validations": [{ "expression": "true", "message": long }] }))[0].pointer,
            "/validations/0/message"
        );
        let text = format!("'{}' == ''", "a".repeat(8192));
        let [mistake] = &mistakes(json!({ "validations": [{ "expression": text }] }))[..] else { panic!() };
        assert_eq!(mistake.message, "8200 bytes: an expression has at most 8192");
        let many: Vec<Value> = (0..64).map(|_| json!({ "expression": "x" })).collect();
        assert_eq!(mistakes(json!({ "validations": many })).len(), 32);
    }

    #[test]
    fn every_mistake_has_its_place() {
        let text = "// é\n'é' == imge.tag || image.tag.foo()";
        let found = mistakes(json!({ "validations": [{ "expression": text }] }));
        let places: Vec<_> =
            found.iter().map(|mistake| mistake.position.map(|p| (p.line, p.column))).collect();
        assert_eq!(places, [Some((2, 8)), Some((2, 33))], "{found:#?}");
    }
}
