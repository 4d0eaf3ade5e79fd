//! Settings as serde reads them.

use alloc::format;
use core::ops::Range;

use serde_core::de::value::StrDeserializer;
use serde_core::de::{
    DeserializeSeed, Deserializer, EnumAccess, IntoDeserializer, MapAccess, SeqAccess, VariantAccess, Visitor,
};

use super::document::Document;
use super::error::{Error, list};
use super::json::Kind;

/// A value of the settings.
#[derive(Clone, Copy)]
pub(super) struct Value<'a> {
    document: &'a Document<'a>,
    at: usize,
}

impl<'a> Value<'a> {
    pub(super) fn new(document: &'a Document<'a>, at: usize) -> Value<'a> {
        Value { document, at }
    }

    fn kind(self) -> Kind {
        let node = self.document.node(self.at);
        if node.taken { Kind::Fill } else { node.kind }
    }

    fn is(self, wanted: Kind) -> bool {
        let kind = self.kind();
        kind == wanted || kind == Kind::Fill
    }

    fn wrong(self, wanted: impl core::fmt::Display) -> Error {
        Error::of_message(format!("wanted {wanted}, found {}", self.kind())).or_at(self.at)
    }

    /// Returns the text of a number.
    fn number(self) -> Result<&'a str, Error> {
        match self.kind() {
            Kind::Number => Ok(self.document.text(self.at)),
            Kind::Fill => Ok("0"),
            _ => Err(self.wrong("a number")),
        }
    }

    fn unsigned(self, most: u64) -> Result<u64, Error> {
        let text = self.number()?;
        let number = text.parse().ok().filter(|number| *number <= most);
        number.ok_or_else(|| self.beyond(text, 0, most))
    }

    fn signed(self, least: i64, most: i64) -> Result<i64, Error> {
        let text = self.number()?;
        let number = text.parse().ok().filter(|number| (least..=most).contains(number));
        number.ok_or_else(|| self.beyond(text, least, most.unsigned_abs()))
    }

    fn beyond(self, text: &str, least: i64, most: u64) -> Error {
        let text = image_reference::shorten(text, 40);
        let message = format!("wanted a whole number from {least} to {most}, found {text}");
        Error::of_message(message).or_at(self.at)
    }

    /// Returns the positions of what is inside, and the end.
    fn inside(self) -> Range<usize> {
        let end = match self.kind() {
            Kind::Fill => self.at,
            _ => self.document.node(self.at).next as usize,
        };
        self.at + 1..end
    }

    fn string<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if !self.is(Kind::String) {
            return Err(self.wrong("a string"));
        }
        let text = match self.kind() {
            Kind::Fill => Ok("".into()),
            _ => self.document.string(self.at),
        };
        match text {
            Ok(text) => visitor.visit_str(&text).map_err(|error: Error| error.or_at(self.at)),
            Err(error) => Err(Error::of_message(format!("{error}")).or_at(self.at)),
        }
    }

    /// Reads a list. The items of a tuple that were taken out keep their places.
    fn list<'de, V: Visitor<'de>>(self, is_tuple: bool, visitor: V) -> Result<V::Value, Error> {
        if !self.is(Kind::List) {
            return Err(self.wrong("a list"));
        }
        let mut items = Items { document: self.document, rest: self.inside(), is_tuple };
        let read = visitor.visit_seq(&mut items).map_err(|error: Error| error.or_at(self.at))?;
        match items.left() {
            0 => Ok(read),
            left => Err(Error::of_message(format!("{left} items too many")).or_at(self.at)),
        }
    }

    fn map<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if !self.is(Kind::Map) {
            return Err(self.wrong("a mapping"));
        }
        let members = Members {
            document: self.document,
            map: self.at,
            rest: self.inside(),
            filled: 0..self.document.filled().len(),
            value: self.at,
        };
        visitor.visit_map(members).map_err(|error: Error| error.or_at(self.at))
    }
}

macro_rules! numbers {
    ($($method:ident $visit:ident $read:ident $($bound:expr),*;)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            let number = self.$read($($bound.into()),*)?;
            visitor.$visit(number).map_err(|error: Error| error.or_at(self.at))
        }
    )*};
}

impl<'de> Deserializer<'de> for Value<'_> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.kind() {
            Kind::Null | Kind::Fill => self.deserialize_unit(visitor),
            Kind::Bool => self.deserialize_bool(visitor),
            Kind::Number => {
                let text = self.document.text(self.at);
                if let Ok(number) = text.parse() {
                    visitor.visit_u64(number).map_err(|error: Error| error.or_at(self.at))
                } else if let Some(number) = text.parse().ok().filter(|number| *number != 0) {
                    visitor.visit_i64(number).map_err(|error: Error| error.or_at(self.at))
                } else {
                    self.deserialize_f64(visitor)
                }
            }
            Kind::String => self.string(visitor),
            Kind::List => self.list(false, visitor),
            Kind::Map => self.map(visitor),
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if !self.is(Kind::Bool) {
            return Err(self.wrong("true or false"));
        }
        let value = self.document.text(self.at) == "true";
        visitor.visit_bool(value).map_err(|error: Error| error.or_at(self.at))
    }

    numbers! {
        deserialize_i8 visit_i64 signed i8::MIN, i8::MAX;
        deserialize_i16 visit_i64 signed i16::MIN, i16::MAX;
        deserialize_i32 visit_i64 signed i32::MIN, i32::MAX;
        deserialize_i64 visit_i64 signed i64::MIN, i64::MAX;
        deserialize_u8 visit_u64 unsigned u8::MAX;
        deserialize_u16 visit_u64 unsigned u16::MAX;
        deserialize_u32 visit_u64 unsigned u32::MAX;
        deserialize_u64 visit_u64 unsigned u64::MAX;
    }

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_f64(visitor)
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.number()?.parse::<f64>() {
            Ok(number) if number.is_finite() => {
                visitor.visit_f64(number).map_err(|error: Error| error.or_at(self.at))
            }
            _ => Err(self.wrong("a smaller number")),
        }
    }

    fn deserialize_char<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.string(visitor)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.string(visitor)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.string(visitor)
    }

    fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.list(false, visitor)
    }

    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.list(false, visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.kind() {
            Kind::Null => {
                let message = "null is no value: write one, or leave the key out";
                Err(Error::of_message(message.into()).or_at(self.at))
            }
            Kind::Fill => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if !self.is(Kind::Null) {
            return Err(self.wrong("null"));
        }
        visitor.visit_unit().map_err(|error: Error| error.or_at(self.at))
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.deserialize_unit(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self).map_err(|error: Error| error.or_at(self.at))
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.list(false, visitor)
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Error> {
        self.list(true, visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: usize,
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.list(true, visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.map(visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.map(visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let key = self.at + 1;
        let (name, value) = match self.kind() {
            Kind::String | Kind::Fill => (self.at, None),
            Kind::Map if self.document.node(key + 1).next as usize == self.inside().end => {
                (key, Some(key + 1))
            }
            _ => return Err(self.wrong(list(variants, " or "))),
        };
        let variant = Variant { document: self.document, name, value, variants };
        visitor.visit_enum(variant).map_err(|error: Error| error.or_at(self.at))
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.string(visitor)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_unit()
    }
}

/// The items of a list, without those that were taken out, or of a tuple.
struct Items<'a> {
    document: &'a Document<'a>,
    rest: Range<usize>,
    is_tuple: bool,
}

impl Items<'_> {
    fn next(&mut self) -> Option<usize> {
        while !self.rest.is_empty() {
            let at = self.rest.start;
            let node = self.document.node(at);
            self.rest.start = (node.next as usize).max(at + 1);
            if !node.taken || self.is_tuple {
                return Some(at);
            }
        }
        None
    }

    fn left(&mut self) -> usize {
        core::iter::from_fn(|| self.next()).count()
    }
}

impl<'de> SeqAccess<'de> for &mut Items<'_> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Error> {
        let Some(at) = self.next() else { return Ok(None) };
        seed.deserialize(Value::new(self.document, at)).map(Some).map_err(|error| error.or_at(at))
    }
}

/// The members of a mapping, without those that were taken out, and after them the keys that stand in.
struct Members<'a> {
    document: &'a Document<'a>,
    map: usize,
    rest: Range<usize>,
    filled: Range<usize>,
    value: usize,
}

impl<'de> MapAccess<'de> for Members<'_> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        while !self.rest.is_empty() {
            let key = self.rest.start;
            self.value = key + 1;
            let node = self.document.node(self.value);
            self.rest.start = (node.next as usize).max(key + 2);
            if !node.taken {
                return name(self.document, key, self.value, seed).map(Some);
            }
        }
        for filled in self.document.filled().get(self.filled.clone()).unwrap_or_default() {
            self.filled.start += 1;
            if filled.map == self.map {
                self.value = filled.node;
                return seed.deserialize(text(filled.key)).map(Some).map_err(|error| error.or_at(self.value));
            }
        }
        Ok(None)
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, Error> {
        let value = Value::new(self.document, self.value);
        seed.deserialize(value).map_err(|error| error.or_at(self.value))
    }
}

/// Returns text as serde reads it.
fn text(text: &str) -> StrDeserializer<'_, Error> {
    text.into_deserializer()
}

/// Reads a key. Its mistakes are those of its value, which is at `value`.
fn name<'de, T: DeserializeSeed<'de>>(
    document: &Document<'_>,
    key: usize,
    value: usize,
    seed: T,
) -> Result<T::Value, Error> {
    let read = match document.string(key) {
        Ok(key) => seed.deserialize(text(&key)),
        Err(error) => Err(Error::of_message(format!("{error}"))),
    };
    read.map_err(|error| error.or_at(value))
}

/// A variant of an enumeration: its name, or a mapping of its name to its value.
struct Variant<'a> {
    document: &'a Document<'a>,
    name: usize,
    value: Option<usize>,
    variants: &'static [&'static str],
}

impl<'a> Variant<'a> {
    /// Returns the value of a variant that has one.
    fn value(&self) -> Result<Value<'a>, Error> {
        let value = self.value.map(|at| Value::new(self.document, at));
        let names = || list(self.variants, " or ");
        value.ok_or_else(|| Error::of_message(format!("wanted a mapping of {} to its value", names())))
    }
}

impl<'de> EnumAccess<'de> for Variant<'_> {
    type Error = Error;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), Error> {
        let variant = if self.document.node(self.name).kind == Kind::Fill {
            seed.deserialize(text(self.variants.first().copied().unwrap_or_default()))?
        } else {
            name(self.document, self.name, self.value.unwrap_or(self.name), seed)?
        };
        Ok((variant, self))
    }
}

impl<'de> VariantAccess<'de> for Variant<'_> {
    type Error = Error;

    fn unit_variant(self) -> Result<(), Error> {
        match self.value {
            Some(at) => Err(Error::of_message("wanted the name alone, found a mapping".into()).or_at(at)),
            None => Ok(()),
        }
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Error> {
        let value = self.value()?;
        seed.deserialize(value).map_err(|error| error.or_at(value.at))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Error> {
        self.value()?.list(true, visitor)
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.value()?.map(visitor)
    }
}
