//! The policy's own parser, checks and interpreter.

use std::collections::HashMap;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use cel_interpreter::common::types::{
    CelBool, CelBytes, CelDouble, CelInt, CelList, CelMap, CelMapKey, CelNull, CelString, CelType, CelUInt,
};
use cel_interpreter::common::value::Val;
use cel_interpreter::{Context as Scope, Env, Value as Interpreter};
use cel_policy::{functions, names, source};
use serde_json::{Value, json};

use crate::upstream::Answer;

/// Returns all functions of the policy.
pub(crate) fn environment() -> Result<Arc<Env>> {
    Ok(Arc::new(functions::environment()?))
}

/// Evaluates an expression as the policy does: it is parsed, its names are checked but for `known` ones, and
/// it is run. `compilation` stands for what the policy refuses when it is loaded.
pub(crate) fn evaluate<'v>(
    text: &str,
    known: &[&str],
    params: Option<&Value>,
    prepare: impl FnOnce(&mut Scope<'v, 'v>),
    env: &Arc<Env>,
) -> Answer {
    let failed = |stage: &str, error: String| Answer { value: None, failed: Some(stage.to_owned()), error };
    let mut parsed = match source::parse(text) {
        Ok(parsed) => parsed,
        Err(faults) => {
            let faults: Vec<String> = faults.into_iter().map(|fault| fault.message).collect();
            return failed("compilation", faults.join("; "));
        }
    };
    let scope = names::Scope { params, variables: None };
    let mut mistakes = names::check(&parsed.tree, &scope).mistakes;
    mistakes.retain(|(_, mistake)| {
        !known.iter().any(|name| mistake.starts_with(&format!("there is no `{name}`")))
    });
    if let Some((_, mistake)) = mistakes.into_iter().next() {
        return failed("compilation", mistake);
    }
    names::order(&mut parsed.tree);
    let mut scope = Scope::with_env(Arc::clone(env));
    prepare(&mut scope);
    match Interpreter::resolve_val(&parsed.tree, &scope) {
        Ok(value) => Answer { value: Some(written(value.as_ref())), failed: None, error: String::new() },
        Err(error) => failed("evaluation", error.to_string()),
    }
}

/// Returns a value with its type, as `value` of upstream.go does.
fn written(value: &(dyn Val + '_)) -> Value {
    if value.downcast_ref::<CelNull>().is_some() {
        json!({ "null": true })
    } else if let Some(value) = value.downcast_ref::<CelBool>() {
        json!({ "bool": value.inner() })
    } else if let Some(value) = value.downcast_ref::<CelInt>() {
        json!({ "int": value.inner().to_string() })
    } else if let Some(value) = value.downcast_ref::<CelUInt>() {
        json!({ "uint": value.inner().to_string() })
    } else if let Some(value) = value.downcast_ref::<CelDouble>() {
        let value = *value.inner();
        let digits = if value.is_nan() { "NaN".to_owned() } else { format!("{:016x}", value.to_bits()) };
        json!({ "double": digits })
    } else if let Some(value) = value.downcast_ref::<CelString<'_>>() {
        json!({ "string": value.inner() })
    } else if let Some(value) = value.downcast_ref::<CelBytes<'_>>() {
        let digits: String = value.inner().iter().map(|byte| format!("{byte:02x}")).collect();
        json!({ "bytes": digits })
    } else if let Some(value) = value.downcast_ref::<CelList<'_>>() {
        json!({ "list": value.inner().iter().map(|value| written(value.as_ref())).collect::<Vec<_>>() })
    } else if let Some(value) = value.downcast_ref::<CelMap<'_>>() {
        let entries = value.inner().iter().map(|(key, value)| json!([key_of(key), written(value.as_ref())]));
        let mut entries: Vec<Value> = entries.collect();
        entries.sort_by_cached_key(|entry| entry.get(0).map(Value::to_string));
        json!({ "map": entries })
    } else if let Some(value) = value.downcast_ref::<CelType>() {
        json!({ "type": value.name() })
    } else {
        json!({ "message": true })
    }
}

fn key_of(key: &CelMapKey<'_>) -> Value {
    match key {
        CelMapKey::Bool(key) => written(key),
        CelMapKey::Int(key) => written(key),
        CelMapKey::UInt(key) => written(key),
        CelMapKey::String(key) => written(key),
    }
}

/// Returns the value that is written with its type.
pub(crate) fn read(value: &Value) -> Result<Box<dyn Val>> {
    let (kind, value) = value.as_object().and_then(|value| value.iter().next()).context("no value")?;
    let text = || value.as_str().context("no text");
    Ok(match kind.as_str() {
        "null" => Box::new(CelNull),
        "bool" => Box::new(CelBool::from(value.as_bool().context("no boolean")?)),
        "int" => Box::new(CelInt::from(text()?.parse::<i64>()?)),
        "uint" => Box::new(CelUInt::from(text()?.parse::<u64>()?)),
        "double" if value == "NaN" => Box::new(CelDouble::from(f64::NAN)),
        "double" => Box::new(CelDouble::from(f64::from_bits(u64::from_str_radix(text()?, 16)?))),
        "string" => Box::new(CelString::from(text()?.to_owned())),
        "bytes" => {
            let digits = text()?.as_bytes().chunks(2);
            let bytes = digits.map(|two| Ok(u8::from_str_radix(std::str::from_utf8(two)?, 16)?));
            Box::new(CelBytes::from(bytes.collect::<Result<Vec<u8>>>()?))
        }
        "list" => {
            let elements = value.as_array().context("no list")?.iter().map(read);
            Box::new(CelList::from(elements.collect::<Result<Vec<_>>>()?))
        }
        "map" => {
            let mut entries: HashMap<CelMapKey<'_>, Box<dyn Val>> = HashMap::new();
            for entry in value.as_array().context("no map")? {
                let part = |at: usize| entry.get(at).context("no entry").and_then(read);
                let key = CelMapKey::try_from(part(0)?).map_err(|error| anyhow::anyhow!("{error}"))?;
                entries.insert(key, part(1)?);
            }
            Box::new(CelMap::from(entries))
        }
        other => anyhow::bail!("no value of the policy: {other}"),
    })
}
