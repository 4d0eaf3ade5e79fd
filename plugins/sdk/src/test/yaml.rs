//! YAML of suite files as JSON, with the core schema of YAML 1.2.

use saphyr_parser::{Event, Parser, ScalarStyle, StrInput};
use serde_json::{Map, Value};

use super::suite::SuiteError;

/// Limit on the depth of lists and maps.
const DEPTH: usize = 64;

/// Parses the first document of a text.
pub(super) fn parse(text: &str) -> Result<Value, SuiteError> {
    let mut reader = Reader(Parser::new_from_str(text));
    loop {
        match reader.next()? {
            Event::StreamEnd => return Ok(Value::Null),
            Event::DocumentStart(_) => break,
            _ => {}
        }
    }
    let first = reader.next()?;
    reader.value(first, 0)
}

struct Reader<'a>(Parser<'a, StrInput<'a>>);

impl<'a> Reader<'a> {
    fn next(&mut self) -> Result<Event<'a>, SuiteError> {
        match self.0.next_event() {
            Some(Ok((event, _))) => Ok(event),
            Some(Err(error)) => Err(SuiteError::Yaml(format!("not valid YAML: {error}"))),
            None => Ok(Event::StreamEnd),
        }
    }

    fn value(&mut self, event: Event<'a>, depth: usize) -> Result<Value, SuiteError> {
        let wrong = |part: &str| Err(SuiteError::Unsupported(part.to_owned()));
        if depth > DEPTH {
            return Err(SuiteError::Yaml(format!("nested deeper than {DEPTH} lists and maps")));
        }
        match event {
            Event::Scalar(_, _, anchor, _)
            | Event::SequenceStart(anchor, _)
            | Event::MappingStart(anchor, _)
                if anchor != 0 =>
            {
                wrong("an anchor")
            }
            Event::Scalar(_, _, _, Some(_))
            | Event::SequenceStart(_, Some(_))
            | Event::MappingStart(_, Some(_)) => wrong("a tag"),
            Event::Scalar(text, ScalarStyle::Plain, ..) => Ok(plain(&text)),
            Event::Scalar(text, ..) => Ok(Value::String(text.into_owned())),
            Event::SequenceStart(..) => {
                let mut items = Vec::new();
                loop {
                    match self.next()? {
                        Event::SequenceEnd => return Ok(Value::Array(items)),
                        event => items.push(self.value(event, depth.saturating_add(1))?),
                    }
                }
            }
            Event::MappingStart(..) => {
                let mut map = Map::new();
                loop {
                    let Event::Scalar(key, ..) = (match self.next()? {
                        Event::MappingEnd => return Ok(Value::Object(map)),
                        event => event,
                    }) else {
                        return Err(SuiteError::Yaml("a key must be a string".to_owned()));
                    };
                    let event = self.next()?;
                    let value = self.value(event, depth.saturating_add(1))?;
                    if map.insert(key.clone().into_owned(), value).is_some() {
                        return Err(SuiteError::Yaml(format!("duplicate key `{key}`")));
                    }
                }
            }
            Event::Alias(_) => wrong("an alias"),
            _ => Err(SuiteError::Yaml("not valid YAML: a value is missing".to_owned())),
        }
    }
}

/// Returns the value of a plain scalar.
fn plain(text: &str) -> Value {
    match text {
        "" | "~" | "null" => Value::Null,
        "true" => Value::Bool(true),
        "false" => Value::Bool(false),
        _ => match serde_json::from_str(text) {
            Ok(Value::Number(number)) => Value::Number(number),
            _ => Value::String(text.to_owned()),
        },
    }
}
