//! Components that are rejected by their bytes alone. Cases without a row in the table of limits are in
//! `cases/load`.

use std::time::Instant;

use host::config::PolicyLimits;
use host::limits::{ALL, Limit};
use serde_json::json;

use crate::support;

fn limit(name: &str) -> &'static Limit {
    ALL.iter().flat_map(|group| group.limits).find(|limit| limit.name == name).unwrap()
}

fn component(items: &str) -> Vec<u8> {
    wat::parse_str(format!("(component {items})")).unwrap()
}

/// Makes a component of no world with `count` of the items that a limit counts.
fn with(name: &str, count: u64) -> Vec<u8> {
    let times = |text: &str| text.repeat(usize::try_from(count).unwrap());
    let numbered = |text: &str| (0..count).map(|n| text.replace('#', &n.to_string())).collect::<String>();
    match name {
        "externs" => component(&format!("(instance $i) {}", numbered(r#"(export "a#" (instance $i))"#))),
        "functions" => component(&format!("(core module {})", times("(func)"))),
        // The locals' count, the `nop`s and the `end`.
        "function" => {
            component(&format!("(core module (func {}))", "nop ".repeat(usize::try_from(count - 2).unwrap())))
        }
        "core-modules" => component(&times("(core module)")),
        "components" => component(&times("(component)")),
        "core-instances" => {
            component(&format!("(core module $m) {}", times("(core instance (instantiate $m))")))
        }
        "memories" => {
            let made = times("(core instance (instantiate $m))");
            component(&format!("(core module $m (memory 1)) {made}"))
        }
        "tables" => {
            let made = times("(core instance (instantiate $m))");
            component(&format!("(core module $m (table 1 funcref)) {made}"))
        }
        "type-depth" => type_depth(count),
        other => panic!("{other}"),
    }
}

/// Makes an instance type that declares an instance type, and so on. The parsers behind the scan follow these
/// recursively.
fn type_depth(depth: u64) -> Vec<u8> {
    const OPEN: [u8; 3] = [0x42, 1, 1];
    let innermost = [0x42, 0];
    let depth = usize::try_from(depth).unwrap();
    let section = [&[1][..], &OPEN.repeat(depth - 1), &innermost].concat();
    [b"\0asm\x0d\0\x01\0\x07", leb128(section.len()).as_slice(), &section].concat()
}

fn leb128(mut number: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let low = u8::try_from(number & 0x7f).unwrap();
        number >>= 7;
        if number == 0 {
            bytes.push(low);
            return bytes;
        }
        bytes.push(low | 0x80);
    }
}

fn refusal(bytes: &[u8]) -> String {
    let loaded = support::load(bytes, &json!({}), &PolicyLimits::default());
    loaded.map_or_else(|error| error.to_string(), |_| "it is loaded".to_owned())
}

/// At its limit each is rejected for its missing exports, before it is compiled; with one more, for the
/// limit.
///
/// limit: externs within, functions within, function within, core-modules within, components within
/// limit: core-instances within, memories within, tables within, type-depth within
/// limit: externs breaks, functions breaks, function breaks, core-modules breaks, components breaks
/// limit: core-instances breaks, memories breaks, tables breaks, type-depth breaks
#[test]
fn one_more_is_too_many() {
    let names = [
        "externs",
        "functions",
        "function",
        "core-modules",
        "components",
        "core-instances",
        "memories",
        "tables",
        "type-depth",
    ];
    let mut found = Vec::new();
    for name in names {
        let limit = limit(name).default;
        let within = refusal(&with(name, limit));
        if !within.starts_with("it is a component of another world: ") {
            found.push(format!("{name}, {limit}: {within}"));
        }
        let over = refusal(&with(name, limit + 1));
        let figures = [(limit + 1).to_string(), limit.to_string()];
        if !figures.iter().all(|figure| over.contains(figure))
            || !over.ends_with(&format!("the limit is {limit}"))
        {
            found.push(format!("{name}, {}: {over}", limit + 1));
        }
    }
    support::assert_none(&found);
}

#[test]
fn what_multiplies_is_counted_without_being_made() {
    // 2^40 instances in forty nested components, each of which instantiates the one before it twice.
    let doubled: String = (1..40)
        .map(|n| {
            let before = n - 1;
            format!(
                "(component $c{n} (alias outer 1 $c{before} (component $x)) (instance (instantiate $x)) \
                 (instance (instantiate $x)))"
            )
        })
        .collect();
    let first =
        "(component $c0 (core module $m) (core instance (instantiate $m)) (core instance (instantiate $m)))";
    let began = Instant::now();
    let refused = refusal(&component(&format!("{first} {doubled} (instance (instantiate $c39))")));
    assert!(refused.ends_with("core instances, the limit is 64"), "{refused}");
    assert!(began.elapsed().as_secs() < 5, "{:?}", began.elapsed());
}

#[test]
fn what_is_given_by_another_is_refused() {
    let through = "(component $c (import \"m\" (core module $m)) (core instance (instantiate $m)))";
    for items in [through, "(component $c (import \"c\" (component $c)) (instance (instantiate $c)))"] {
        let refused = refusal(&component(items));
        assert!(refused.starts_with("it is given a core module or a component by another"), "{refused}");
    }
}

/// A stack overflow would end the process for all clients.
#[test]
fn nothing_is_too_deep_to_be_read() {
    let depth = 4 << 20;
    let began = Instant::now();
    let deep = type_depth(depth);
    // Id of the section of nested components.
    let inside = [&deep[..8], &[4], leb128(deep.len()).as_slice(), &deep].concat();
    for component in [deep, inside] {
        assert_eq!(refusal(&component), "its types are nested 17 deep, the limit is 16");
    }
    assert!(began.elapsed().as_secs() < 5, "{:?}", began.elapsed());
}

/// A header may announce any count: memory is allocated for the actual content only.
#[test]
fn counts_are_not_believed() {
    let header = b"\0asm\x0d\0\x01\0";
    let most = [0xff, 0xff, 0xff, 0xff, 0x0f];
    for section in 1..=12 {
        let bytes = [&header[..], &[section, 5], &most].concat();
        let refused = refusal(&bytes);
        let invalid = refused.starts_with("the file is no valid component");
        // Sections that the scan skips are left to the compiler, and here is nothing to compile.
        assert!(
            invalid || refused.starts_with("it is a component of another world: "),
            "{section}: {refused}"
        );
    }
    // The same in a core module: section 1 of the component.
    for (section, refusal_is) in
        [(3, "functions, the limit is"), (4, "tables, the limit is"), (5, "memories, the limit is")]
    {
        let module = [&b"\0asm\x01\0\0\0"[..], &[section, 5], &most].concat();
        let bytes = [&header[..], &[1, u8::try_from(module.len()).unwrap()], &module].concat();
        let refused = refusal(&bytes);
        assert!(refused.contains(refusal_is), "{section}: {refused}");
    }
}
