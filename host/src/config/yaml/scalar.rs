//! Plain scalars.

use serde_json::{Number, Value};

/// Returns the value of a plain scalar by the core schema (YAML 1.2.2, section 10.3.2).
pub(super) fn plain(text: &str) -> Result<Value, &'static str> {
    const NOT_JSON: &str = "is a number that JSON cannot hold: put it in quotes if it is a text";
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Ok(Value::Null),
        "true" | "True" | "TRUE" => return Ok(Value::Bool(true)),
        "false" | "False" | "FALSE" => return Ok(Value::Bool(false)),
        ".nan" | ".NaN" | ".NAN" => return Err(NOT_JSON),
        _ if matches!(unsigned, ".inf" | ".Inf" | ".INF") => return Err(NOT_JSON),
        _ => {}
    }
    let radix = |prefix, radix| {
        let digits = text.strip_prefix(prefix).filter(|digits| !digits.is_empty())?;
        digits.chars().all(|c| c.is_digit(radix)).then(|| u64::from_str_radix(digits, radix))
    };
    if let Some(number) = radix("0x", 16).or_else(|| radix("0o", 8)) {
        return number.map(Value::from).map_err(|_| NOT_JSON);
    }
    if !unsigned.is_empty() && all_digits(unsigned) {
        let number = text.parse::<i64>().map(Number::from).or_else(|_| text.parse::<u64>().map(Number::from));
        return number.map(Value::Number).map_err(|_| NOT_JSON);
    }
    if is_float(unsigned) {
        let number = text.parse().ok().and_then(Number::from_f64);
        return number.map(Value::Number).ok_or(NOT_JSON);
    }
    Ok(Value::from(text))
}

fn is_float(unsigned: &str) -> bool {
    let (mantissa, exponent) = unsigned
        .split_once(['e', 'E'])
        .map_or((unsigned, None), |(mantissa, exponent)| (mantissa, Some(exponent)));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let exponent_fits = exponent.is_none_or(|exponent| {
        let digits = exponent.strip_prefix(['-', '+']).unwrap_or(exponent);
        !digits.is_empty() && all_digits(digits)
    });
    all_digits(whole) && all_digits(fraction) && !(whole.is_empty() && fraction.is_empty()) && exponent_fits
}

fn all_digits(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit())
}
