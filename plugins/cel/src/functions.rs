//! The functions of an expression: the standard ones, the extension for strings, regular expressions, and
//! those over image references.

use std::cell::RefCell;
use std::collections::BTreeMap;

use cel_interpreter::common::types::{CelBool, CelInt, CelList, CelMap, CelMapKey, CelString, DYN_TYPE};
use cel_interpreter::common::value::{CowVal, Val};
use cel_interpreter::{DeclarationError, Env, ExecutionError, add_member_overload, add_overload, extensions};
use image_reference::{refuse_image_id, shorten};
use regex_lite::{Regex, RegexBuilder};

use crate::document;

/// The function around the range of each comprehension: see `ordered`. No text can name it.
pub const ORDERED: &str = "@ordered";

/// A function, and the number of its arguments.
type Signature = (&'static str, usize, usize);

/// The functions that are called without a target. The target of a function with a `.` is part of the name.
const GLOBAL: [Signature; 16] = [
    ("bool", 1, 1),
    ("bytes", 1, 1),
    ("double", 1, 1),
    ("dyn", 1, 1),
    ("image", 1, 1),
    ("int", 1, 1),
    ("isImage", 1, 1),
    ("matches", 2, 2),
    ("optional.none", 0, 0),
    ("optional.of", 1, 1),
    ("optional.ofNonZeroValue", 1, 1),
    ("size", 1, 1),
    ("string", 1, 1),
    ("strings.quote", 1, 1),
    ("type", 1, 1),
    ("uint", 1, 1),
];

/// The functions of a target.
const MEMBER: [Signature; 23] = [
    ("charAt", 1, 1),
    ("contains", 1, 1),
    ("endsWith", 1, 1),
    ("find", 1, 1),
    ("findAll", 1, 2),
    ("format", 1, 1),
    ("hasValue", 0, 0),
    ("indexOf", 1, 2),
    ("join", 0, 1),
    ("lastIndexOf", 1, 2),
    ("lowerAscii", 0, 0),
    ("matches", 1, 1),
    ("or", 1, 1),
    ("orValue", 1, 1),
    ("replace", 2, 3),
    ("reverse", 0, 0),
    ("size", 0, 0),
    ("split", 1, 2),
    ("startsWith", 1, 1),
    ("substring", 1, 2),
    ("trim", 0, 0),
    ("upperAscii", 0, 0),
    ("value", 0, 0),
];

/// The macros of a target. The parser leaves none of them but with the wrong number of arguments.
pub const MACROS: [&str; 9] = [
    "all",
    "exists",
    "existsOne",
    "exists_one",
    "filter",
    "map",
    "transformList",
    "transformMap",
    "transformMapEntry",
];

/// Functions of Kubernetes and Kyverno that are not here, and the remedy.
const ABSENT: [(&[&str], &str); 5] = [
    (
        &["registry", "repository", "tag", "digest", "identifier", "containsDigest"],
        "an image has fields: write `image.registry`, `image(x).repository`, `has(image.digest)`",
    ),
    (&["duration", "timestamp", "getFullYear", "getHours"], "a policy has no clock, so there are no times"),
    (
        &["quantity", "isQuantity", "url", "isURL", "ip", "isIP", "cidr", "isCIDR", "semver", "isSemver"],
        "the libraries of Kubernetes for resources, addresses and versions are not here",
    ),
    (
        &["sum", "min", "max", "isSorted", "sort", "distinct", "flatten", "slice"],
        "lists have no such function",
    ),
    (&["bind", "block", "sets", "math", "base64", "sortBy"], "this extension of CEL is not here"),
];

/// Limit of a compiled regular expression, in bytes.
const REGEX_BYTES: usize = 128 * 1024;

/// Limit of the compiled regular expressions that an instance keeps.
const REGEXES: usize = 64;

thread_local! {
    /// Compiled regular expressions by their text. Those of the samples stay in the snapshot, so a review
    /// compiles none that is written in the policy.
    static COMPILED: RefCell<BTreeMap<String, Regex>> = const { RefCell::new(BTreeMap::new()) };
}

/// Returns the functions of one kind.
pub fn signatures(member: bool) -> &'static [Signature] {
    if member { &MEMBER } else { &GLOBAL }
}

/// Returns the reason why a function is not here. Returns None if no language has it.
pub fn absent(name: &str) -> Option<&'static str> {
    let last = name.rsplit('.').next().unwrap_or(name);
    let first = name.split('.').next().unwrap_or(name);
    let found = ABSENT.iter().find(|(names, _)| names.contains(&last) || names.contains(&first));
    found.map(|(_, reason)| *reason)
}

/// Returns all functions that an expression may call.
///
/// # Errors
/// Two functions with the same name and arguments, which is a mistake of this file.
pub fn environment() -> Result<Env, DeclarationError> {
    let mut env = Env::stdlib();
    env.add_extension(extensions::strings)?;
    add_overload!(env, fn matches: (CelString<'_>, CelString<'_>) -> Result<CelBool>)?;
    add_member_overload!(env, fn matches: (CelString<'_>, CelString<'_>) -> Result<CelBool>)?;
    add_member_overload!(env, fn find: (CelString<'_>, CelString<'_>) -> Result<CelString<'_>>)?;
    add_member_overload!(env, fn find_all: (CelString<'_>, CelString<'_>) -> Result<CelList<'_>>)?;
    add_member_overload!(env, fn find_most: (CelString<'_>, CelString<'_>, CelInt) -> Result<CelList<'_>>,
        name = "findAll")?;
    add_overload!(env, fn image: (CelString<'_>) -> Result<CelMap<'_>>)?;
    add_overload!(env, fn is_image: (CelString<'_>) -> CelBool, name = "isImage")?;
    env.add_overload(ORDERED, "ordered", vec![DYN_TYPE], ordered)?;
    Ok(env)
}

/// Checks a regular expression that is written in a policy.
///
/// # Errors
/// Its mistake.
pub fn check_regex(text: &str) -> Result<(), ExecutionError> {
    with_regex("matches", text, |_| ())
}

/// Runs `with` on a compiled regular expression.
fn with_regex<T>(function: &str, text: &str, with: impl FnOnce(&Regex) -> T) -> Result<T, ExecutionError> {
    COMPILED.with_borrow_mut(|compiled| {
        if let Some(regex) = compiled.get(text) {
            return Ok(with(regex));
        }
        let built = RegexBuilder::new(text).size_limit(REGEX_BYTES).nest_limit(24).build();
        let regex = built.map_err(|error| {
            let message = format!("`{}` is no regular expression: {error}", shorten(text, 100));
            ExecutionError::function_error(function, message)
        })?;
        let result = with(&regex);
        if compiled.len() < REGEXES {
            compiled.insert(text.to_owned(), regex);
        }
        Ok(result)
    })
}

fn matches(text: &CelString<'_>, regex: &CelString<'_>) -> Result<CelBool, ExecutionError> {
    with_regex("matches", regex.inner(), |regex| regex.is_match(text.inner()).into())
}

/// Returns the first part of the text that matches, or the empty string.
fn find(text: &CelString<'_>, regex: &CelString<'_>) -> Result<CelString<'static>, ExecutionError> {
    with_regex("find", regex.inner(), |regex| {
        regex.find(text.inner()).map_or(String::new(), |found| found.as_str().to_owned()).into()
    })
}

fn find_all(text: &CelString<'_>, regex: &CelString<'_>) -> Result<CelList<'static>, ExecutionError> {
    find_most(text, regex, &CelInt::from(-1))
}

/// Returns the parts of the text that match, at most `most` of them unless it is negative.
fn find_most(
    text: &CelString<'_>,
    regex: &CelString<'_>,
    most: &CelInt,
) -> Result<CelList<'static>, ExecutionError> {
    let most = usize::try_from(*most.inner()).unwrap_or(usize::MAX);
    with_regex("findAll", regex.inner(), |regex| {
        let found = regex.find_iter(text.inner()).take(most);
        let parts = found.map(|part| Box::new(CelString::from(part.as_str().to_owned())) as Box<dyn Val>);
        CelList::from(parts.collect::<Vec<_>>())
    })
}

/// Returns the fields of a reference, read as the host reads those of a pod.
fn image(text: &CelString<'_>) -> Result<CelMap<'static>, ExecutionError> {
    let wrong = |error: image_reference::ImageError| ExecutionError::function_error("image", error);
    refuse_image_id(text.inner()).map_err(wrong)?;
    image_reference::Image::parse(text.inner()).map(document::parsed).map_err(wrong)
}

fn is_image(text: &CelString<'_>) -> CelBool {
    image(text).is_ok().into()
}

/// Returns the keys of a map in their order, and any other value unchanged.
///
/// A comprehension goes through the keys of a map. The interpreter's maps have an order of chance, which
/// differs from one evaluation to the next: a decision would not be a function of the image.
fn ordered<'b, 'v>(mut arguments: Vec<CowVal<'b, 'v>>) -> Result<CowVal<'b, 'v>, ExecutionError> {
    let Some(value) = arguments.pop() else { return Err(ExecutionError::missing_argument_or_target()) };
    let Some(map) = value.downcast_ref::<CelMap<'_>>() else { return Ok(value) };
    let mut keys: Vec<CelMapKey<'_>> = map.inner().keys().cloned().collect();
    keys.sort();
    let keys = keys.into_iter().map(|key| -> Box<dyn Val + 'v> {
        match key {
            CelMapKey::Bool(key) => Box::new(key),
            CelMapKey::Int(key) => Box::new(key),
            CelMapKey::UInt(key) => Box::new(key),
            CelMapKey::String(key) => Box::new(key),
        }
    });
    Ok(CowVal::owned(CelList::from(keys.collect::<Vec<_>>())))
}
