//! Properties of every input, for each part of the host that reads untrusted data. A target panics if a
//! property does not hold, and may return a text that describes the result.

use std::path::Path;
use std::sync::LazyLock;

use host::config::yaml::edit::{Change, EditError, edited};
use host::config::yaml::{Document, Problem};
use host::config::{Config, ConfigError, HostLimits, Placement, PolicyLimits, Rules, Unjudged};
use host::evaluate::{self, Facts, Options};
use host::image::{Image, refuse_image_id};
use host::policy::{Engine, Entry, LoadError, Policy, PolicySet, Purpose, check};
use host::review::verdict::{Decision, Malfunction, Verdict};
use host::review::{API_VERSION, Review, ReviewError, image_review};
use host::text::{escape, image as shown_image, truncate};
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::{Value, json};

/// Reads one input. A returned text is further guidance for the fuzzer.
pub(crate) type Target = fn(&[u8]) -> Option<String>;

/// The targets, by the name of their folder in `corpus`.
pub(crate) const TARGETS: &[(&str, Target)] = &[
    ("text", text),
    ("image", image),
    ("review", review),
    ("config", config),
    ("edit", edit),
    ("component", component),
    ("result", result),
];

static ENGINE: LazyLock<Option<Engine>> = LazyLock::new(|| Engine::new(Purpose::Serve { policies: 1 }).ok());

/// Maximum length of a message about a problem, in bytes.
const MESSAGE: usize = 2048;

fn assert_message(message: &str) {
    assert!(!message.is_empty() && message.len() <= MESSAGE, "{} bytes", message.len());
    assert_eq!(escape(message), message, "a message is one line that cannot forge another");
}

/// Checks that text is shown escaped and truncated. The input is a limit of two bytes, and a text.
fn text(input: &[u8]) -> Option<String> {
    let (bound, text) = input.split_first_chunk::<2>()?;
    let bound = usize::from(u16::from_le_bytes(*bound));
    let text = String::from_utf8_lossy(text);

    let printed = escape(&text);
    assert_eq!(escape(&printed), printed);
    assert!(!printed.contains(char::is_control));
    assert!(printed.len() <= 10 * text.len());

    let kept = truncate(&text, bound);
    assert!(kept.len() <= bound);
    assert!(kept == text || text.starts_with(kept.trim_end_matches('…')));

    let shown = shown_image(&text);
    assert!(!shown.is_empty() && shown.len() <= 256);
    assert_eq!(escape(&shown), shown);
    None
}

/// Checks that an image reference is parsed or rejected, and that its normal form parses to itself.
fn image(input: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(input).ok()?;
    if let Err(error) = refuse_image_id(text) {
        assert_message(&error.to_string());
    }
    let image = match Image::parse(text) {
        Ok(image) => image,
        Err(error) => {
            assert_message(&error.to_string());
            return None;
        }
    };
    assert_eq!(image.original, text);
    let fields = |image: &Image| Image { original: String::new(), ..image.clone() };
    let normal = image.to_string();
    assert!(normal.len() < 1024 && normal.bytes().all(|byte| byte.is_ascii_graphic()), "{normal:?}");
    let again = Image::parse(&normal).unwrap();
    assert_eq!((fields(&again), again.to_string()), (fields(&image), normal.clone()));

    // A registry has one spelling, so that rules need no other.
    assert!(!image.registry.bytes().any(|byte| byte.is_ascii_uppercase()));
    let port = image.registry.rsplit_once(':').filter(|(_, port)| !port.contains(']'));
    assert!(port.is_none_or(|(_, port)| port.parse().is_ok_and(|n: u16| n > 0 && n.to_string() == port)));
    assert!(image.registry != "docker.io" || image.repository.contains('/'));

    // Every spelling of Docker Hub gives the same image, and no other registry is one of them.
    if let Some(short) = normal.strip_prefix("docker.io/") {
        let mut others = vec![format!("index.docker.io/{short}")];
        // The image is the same without the registry, unless its first part then becomes one.
        let first = short.split('/').next().unwrap_or_default();
        if !first.contains('.') && first != "localhost" {
            others.push(short.to_owned());
        }
        others.extend(short.strip_prefix("library/").filter(|name| !name.contains('/')).map(str::to_owned));
        for other in others {
            assert_eq!(fields(&Image::parse(&other).unwrap()), fields(&image), "{other}");
        }
    } else {
        assert!(text.starts_with(&image.registry), "{text} does not begin with {}", image.registry);
    }
    // The parts are those of the text: none is invented, none is dropped.
    let tag = image.tag.as_deref().map(|tag| format!(":{tag}")).unwrap_or_default();
    let digest = image.digest.as_deref().map(|digest| format!("@{digest}")).unwrap_or_default();
    let repository = image.repository.strip_prefix("library/").unwrap_or(&image.repository);
    let ends = [format!("{repository}{tag}{digest}"), format!("{repository}{digest}")];
    assert!(ends.iter().any(|end| text.ends_with(end)), "{text} does not end with {ends:?}");
    None
}

/// Checks that a request body is an ImageReview or is rejected, hides no image, and has a response of limited
/// size.
fn review(input: &[u8]) -> Option<String> {
    static LIMITS: LazyLock<HostLimits> =
        LazyLock::new(|| HostLimits { images: 4, annotations: 64, ..HostLimits::default() });
    static SETS: LazyLock<[PolicySet; 2]> = LazyLock::new(|| {
        [Unjudged::Deny, Unjudged::Allow].map(|unjudged| {
            PolicySet::new(Rules { unjudged, ..Rules::default() }, LIMITS.clone(), Vec::new())
        })
    });
    let value: Option<Value> = serde_json::from_slice(input).ok();
    // A body with a duplicate key is an ImageReview if one of the two values says so.
    let fields = serde_json::from_slice::<Fields>(input).map(|Fields(fields)| fields).unwrap_or_default();
    let says = |name: &str, wanted| fields.iter().any(|(key, value)| key == name && value == wanted);
    let is_image_review = says("kind", "ImageReview") && says("apiVersion", API_VERSION);

    let [deny, allow] = &*SETS;
    match image_review::parse(input, &LIMITS) {
        Ok(review) => {
            assert!(value.is_none() || is_image_review);
            assert_review(&review, &LIMITS);
            if let Some(value) = &value {
                let containers = value.pointer("/spec/containers").and_then(Value::as_array);
                let image = |container: &Value| match container.get("image") {
                    Some(image) => image.as_str().unwrap_or_default().to_owned(),
                    None => container.get(0).and_then(Value::as_str).unwrap_or_default().to_owned(),
                };
                let images: Vec<String> = containers.into_iter().flatten().map(image).collect();
                assert_eq!(review.images, images);
            }
            let denied = evaluate(deny, &review);
            assert_eq!(denied.allowed(), review.images.is_empty());
            assert_verdict(&denied);
            let allowed = evaluate(allow, &review);
            let good = |image: &String| refuse_image_id(image).is_ok() && Image::parse(image).is_ok();
            assert_eq!(allowed.allowed(), review.images.iter().all(good));
            assert_verdict(&allowed);
        }
        Err(ReviewError::Refused(refusal)) => {
            let message = refusal.to_string();
            assert!(value.is_none() || is_image_review);
            assert_message(&message);
            let refused = Verdict::refuse(&deny.rules, &deny.generation(), &message);
            assert!(!refused.allowed());
            assert_verdict(&refused);
        }
        Err(ReviewError::NotAnImageReview(message)) => {
            assert!(!is_image_review);
            assert_message(&message);
        }
    }
    // `host review` reads such values from a file.
    if let Some(value) = value {
        match Review::of_pod(value, "default", &LIMITS) {
            Ok(review) => assert_review(&review, &LIMITS),
            Err(error) => assert_message(&error.to_string()),
        }
    }
    None
}

/// The fields of a JSON object, including duplicates.
struct Fields(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct FieldsVisitor;
        impl<'de> Visitor<'de> for FieldsVisitor {
            type Value = Fields;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(Fields(fields))
            }
        }
        deserializer.deserialize_map(FieldsVisitor)
    }
}

/// Checks that a review is within the limits, and that its serialized form is read as itself.
fn assert_review(review: &Review, limits: &HostLimits) {
    assert!(review.images.len() <= limits.images);
    let bytes: usize = review.annotations.iter().map(|(key, value)| key.len() + value.len()).sum();
    assert!(bytes as u64 <= limits.annotations);
    assert!(review.annotations.is_sorted_by(|(one, _), (next, _)| one < next), "{:?}", review.annotations);
    let annotations: serde_json::Map<String, Value> =
        review.annotations.iter().map(|(key, value)| (key.clone(), json!(value))).collect();
    let containers: Vec<Value> = review.images.iter().map(|image| json!({ "image": image })).collect();
    let spec = json!({ "containers": containers, "annotations": annotations, "namespace": review.namespace });
    let written = json!({ "kind": "ImageReview", "apiVersion": API_VERSION, "spec": spec }).to_string();
    assert_eq!(image_review::parse(written.as_bytes(), limits).as_ref(), Ok(review));
}

/// Checks that a response has a form that the apiserver accepts, and a limited size.
fn assert_verdict(verdict: &Verdict) {
    assert_eq!(verdict.reason.is_empty(), verdict.allowed());
    assert!(verdict.reason.len() <= 1024);
    assert_eq!(escape(&verdict.reason), verdict.reason);
    let annotations = verdict.audit_annotations();
    assert!(annotations.len() <= 66);
    for (key, value) in &annotations {
        let part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        let ends = |c: char| c.is_ascii_alphanumeric();
        assert!(key.len() <= 63 && key.chars().all(part), "{key:?}");
        assert!(key.starts_with(ends) && key.ends_with(ends), "{key:?}");
        assert!(value.len() <= 1024 && escape(value) == *value, "{value:?}");
    }
    let answer = serde_json::to_value(image_review::render(verdict, annotations)).unwrap();
    assert_eq!(answer.pointer("/status/allowed"), Some(&json!(verdict.allowed())));
}

/// Checks that a host.yaml is read or rejected with a place in it, and that the same configuration is read
/// from JSON.
fn config(input: &[u8]) -> Option<String> {
    let path = Path::new("host.yaml");
    let read = Config::parse(path, input);
    match &read {
        Ok(config) => {
            for policy in &config.policies {
                let place = config.locate(&policy.pointer);
                assert!(place.starts_with("host.yaml:"), "{place}");
            }
            if let Err(error) = config.require_serving() {
                assert_problems(&error, input);
            }
        }
        Err(error) => assert_problems(error, input),
    }
    let document = match Document::parse(input) {
        Ok(document) => document,
        Err(error) => {
            assert!(read.is_err());
            error.problems.iter().for_each(|problem| assert_problem(problem, input));
            return None;
        }
    };
    let json = document.value.to_string();
    // Ten bytes for one if a character is escaped, and the copies of aliases.
    assert!(json.len() <= 10 * (input.len() + 100_000), "{} bytes of {}", json.len(), input.len());
    let again = Document::parse(json.as_bytes()).unwrap();
    assert_eq!(again.value, document.value, "{json}");
    if let Ok(config) = &read {
        let again = Config::parse(path, json.as_bytes()).unwrap();
        assert_eq!(parts(&again), parts(config));
    }
    None
}

/// Returns all parts of a configuration except the places in its file.
fn parts(config: &Config) -> impl PartialEq + std::fmt::Debug {
    let Config { serving, admin_listen, state_directory, rules, allow_empty, policy_directory, .. } = config;
    let listening = (serving.clone(), *admin_listen, state_directory.clone());
    let judging = (rules.clone(), *allow_empty, policy_directory.clone());
    (listening, judging, config.policies.clone(), config.limits.clone())
}

fn assert_problems(error: &ConfigError, input: &[u8]) {
    let ConfigError::Invalid { problems, .. } = error else { return };
    assert!((1..=50).contains(&problems.len()));
    assert!(problems.is_sorted_by_key(|problem| problem.problem.span.at));
    problems.iter().for_each(|problem| assert_problem(&problem.problem, input));
    error.to_string().lines().for_each(assert_message);
}

/// Checks that the place of a problem is in the text, or right behind its end.
fn assert_problem(problem: &Problem, input: &[u8]) {
    assert_message(&problem.message);
    let text = String::from_utf8_lossy(input);
    let breaks = text.chars().filter(|character| matches!(character, '\n' | '\r')).count();
    let at = problem.span.at;
    assert!((1..=breaks + 2).contains(&at.line), "{problem:?}");
    assert!((1..=text.chars().count() + 2).contains(&at.column), "{problem:?}");
    assert!(problem.span.bytes.end <= input.len(), "{problem:?}");
    problem.excerpt(input).iter().flat_map(|excerpt| excerpt.lines()).for_each(assert_message);
}

/// Checks that an edit of a text gives the meant value or is refused. The input is a text, a pointer, a key
/// and a value, with a NUL byte after each of the first three.
fn edit(input: &[u8]) -> Option<String> {
    let mut parts = input.splitn(4, |byte| *byte == 0);
    let text = parts.next()?;
    let [pointer, key, value] = [parts.next()?, parts.next()?, parts.next()?].map(String::from_utf8_lossy);
    let (pointer, key) = (pointer.into_owned(), key.into_owned());
    let value: Value = serde_json::from_str(&value).unwrap_or_else(|_| json!(value));
    let changes = [
        Change::Value { pointer: pointer.clone(), value: value.clone() },
        Change::Key { pointer: pointer.clone(), key: key.clone(), value: value.clone() },
        Change::Insert { parent: pointer, key, value },
    ];
    for change in &changes {
        match edited(text, std::slice::from_ref(change)) {
            Ok(new) => assert_edited(text, &new, change),
            Err(EditError::Unreadable(error)) => {
                error.problems.iter().for_each(|problem| assert_problem(problem, text));
            }
            Err(EditError::Refused(refusals)) => {
                refusals.iter().for_each(|refusal| assert_problem(&refusal.problem, text));
            }
        }
    }
    None
}

/// Checks that the value at a change's place is the meant one and that no other value differs.
fn assert_edited(old: &[u8], new: &[u8], change: &Change) {
    let [mut before, mut after] = [old, new].map(|bytes| Document::parse(bytes).unwrap().value);
    let (at, found) = match change {
        Change::Value { pointer, value } => {
            assert_eq!(after.pointer(pointer), Some(value));
            (pointer.as_str(), after.pointer_mut(pointer).map(Value::take))
        }
        Change::Key { pointer, key, value } => {
            let (parent, old) = pointer.rsplit_once('/').unwrap();
            let old = old.replace("~1", "/").replace("~0", "~");
            before.pointer_mut(parent).unwrap().as_object_mut().unwrap().remove(&old).unwrap();
            let found = after.pointer_mut(parent).unwrap().as_object_mut().unwrap().remove(key);
            assert_eq!(found.as_ref(), Some(value));
            ("none", found)
        }
        Change::Insert { parent, key, value } => {
            let found = after.pointer_mut(parent).unwrap().as_object_mut().unwrap().remove(key);
            assert_eq!(found.as_ref(), Some(value));
            let parent = before.pointer_mut(parent).unwrap();
            if parent.is_null() {
                *parent = json!({});
            }
            ("none", found)
        }
    };
    assert!(found.is_some());
    before.pointer_mut(at).map(Value::take);
    assert_eq!(before, after);
}

/// Checks that a file is a policy's component or is rejected, and that the compiler does not panic.
fn component(input: &[u8]) -> Option<String> {
    let engine = ENGINE.as_ref().unwrap();
    match check(engine, input) {
        Ok(()) => None,
        Err(error) => {
            let message = error.to_string();
            assert_message(&message);
            assert!(!message.contains("panicked"), "{message}");
            // These two repeat names of the component, as many as the input has.
            let names = matches!(error, LoadError::World(_) | LoadError::Import(_));
            (!names).then(|| message.chars().filter(|character| !character.is_ascii_digit()).collect())
        }
    }
}

fn evaluate(set: &PolicySet, review: &Review) -> Verdict {
    evaluate::evaluate(set, review, &Facts::default(), &Options::of(set)).verdict
}

/// Checks that any memory that an instance leaves for a result is a decision within the contract or a
/// malfunction. The input is the beginning of that memory, whose first four bytes point to the result.
fn result(input: &[u8]) -> Option<String> {
    static SET: LazyLock<Option<PolicySet>> = LazyLock::new(|| writer().ok());
    const MEMORY: usize = 2048;
    let letter = |nibble: u8| char::from(b'a' + nibble);
    let memory = input.iter().take(MEMORY);
    let letters = memory.flat_map(|byte| [letter(byte >> 4), letter(byte & 15)]).collect();
    let review = Review { namespace: letters, annotations: Vec::new(), images: vec!["nginx".to_owned()] };
    let verdict = evaluate(SET.as_ref().unwrap(), &review);
    assert_verdict(&verdict);
    let [image] = verdict.images.as_slice() else { panic!("one image, {} verdicts", verdict.images.len()) };
    let [said] = image.judged.said.as_slice() else { panic!("one policy, {}", image.judged.said.len()) };
    assert_eq!(image.judged.exhausted, None);
    match &said.judgement {
        Ok(decision) => assert_decision(decision),
        Err(malfunction) => {
            assert_message(&escape(&malfunction.to_string()));
            assert!(!verdict.allowed());
            assert!(!malfunction.to_string().contains("panicked"), "{malfunction}");
            if let Malfunction::Trap(why) = malfunction {
                return Some(why.chars().filter(|character| !character.is_ascii_digit()).collect());
            }
        }
    }
    None
}

fn assert_decision(decision: &Decision) {
    let Decision { code, reason, audit_annotations, warnings, .. } = decision;
    let kebab = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    assert!((1..=63).contains(&code.len()) && code.chars().all(kebab), "{code:?}");
    assert!(audit_annotations.len() <= 32 && warnings.len() <= 32);
    let values = audit_annotations.iter().map(|(_, value)| value);
    for text in values.chain(warnings).chain([reason]) {
        assert!(text.len() <= 1024 && escape(text) == *text, "{text:?}");
    }
    assert!(audit_annotations.iter().all(|(key, _)| key.len() <= 63));
}

/// Returns a set of one policy that writes the letters of the namespace, two for a byte, to the beginning of
/// its memory, and returns that memory as its result.
fn writer() -> Result<PolicySet, Box<dyn std::error::Error + Send + Sync>> {
    const TEMPLATE: &str = include_str!("../guests/policy.wat");
    const JUDGE: &str = r#"
      (func $nibble (param i32) (result i32) (i32.sub (i32.load8_u (local.get 0)) (i32.const 97)))
      (func $judge (param $letters i32) (param $length i32) (result i32) (local $end i32) (local $to i32)
        (local.set $end (i32.add (local.get $letters) (local.get $length)))
        (loop $next (if (i32.lt_u (local.get $letters) (local.get $end)) (then
          (i32.store8 (local.get $to) (i32.or
            (i32.shl (call $nibble (local.get $letters)) (i32.const 4))
            (call $nibble (i32.add (local.get $letters) (i32.const 1)))))
          (local.set $letters (i32.add (local.get $letters) (i32.const 2)))
          (local.set $to (i32.add (local.get $to) (i32.const 1)))
          (br $next))))
        (i32.load (i32.const 0)))"#;
    // The last four parameters of `evaluate` are the context, which begins with the namespace.
    let text = TEMPLATE
        .replace("(func $judge)", JUDGE)
        .replace("(call $judge)", "(return (call $judge (local.get 12) (local.get 13)))");
    let engine = ENGINE.as_ref().ok_or("no engine")?;
    let policy = Policy::compile(engine, &wat::parse_str(text)?, &json!({}), &PolicyLimits::default())?;
    let entry = Entry {
        name: "writer".try_into()?,
        placement: Placement::default(),
        message: None,
        loaded: Ok(policy.into()),
    };
    Ok(PolicySet::new(Rules::default(), HostLimits::default(), vec![entry]))
}
