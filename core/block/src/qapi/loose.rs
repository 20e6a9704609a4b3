//! Reading options that may be strings.

use super::schema::spelled;
use crate::{BlockError, Result};
use serde::de::value::StringDeserializer;
use serde::de::{self, DeserializeOwned, DeserializeSeed, IntoDeserializer, Visitor};
use serde_json::{Map, Value};
use std::fmt;

/// Reads a `T`.
pub fn parse<T: DeserializeOwned>(value: Value) -> Result<T> {
    T::deserialize(Loose { value, name: String::new() })
        .map_err(|error| BlockError::Invalid(error.0))
}

/// Reads a structure in two parts: the members `own`, and the rest. (What serde's `flatten` reads
/// has forgotten the names that errors want, and that numbers may be strings.)
pub(crate) fn split<'de, D, Own, Base>(
    deserializer: D,
    own: &[&str],
) -> Result<(Own, Base), D::Error>
where
    D: de::Deserializer<'de>,
    Own: DeserializeOwned,
    Base: DeserializeOwned,
{
    let mut rest: Map<String, Value> = de::Deserialize::deserialize(deserializer)?;
    let own = own.iter().filter_map(|ident| rest.remove_entry(&spelled(ident))).collect();
    let own = parse(Value::Object(own)).map_err(de::Error::custom)?;
    Ok((own, parse(Value::Object(rest)).map_err(de::Error::custom)?))
}

/// Turns `{"a.b": 1, "a.c": 2}` into `{"a": {"b": 1, "c": 2}}`.
pub fn nest(flat: Map<String, Value>) -> Result<Map<String, Value>> {
    let mut out = Map::new();
    for (key, value) in flat {
        let mut at = &mut out;
        let mut parts = key.split('.').peekable();
        while let Some(part) = parts.next() {
            if parts.peek().is_none() {
                if at.insert(part.to_owned(), value).is_some() {
                    return Err(BlockError::Invalid(format!("Duplicate parameter '{key}'")));
                }
                break;
            }
            let next = at.entry(part).or_insert_with(|| Value::Object(Map::new()));
            at = next.as_object_mut().ok_or_else(|| {
                BlockError::Invalid(format!("Parameter '{part}' is given as a whole and in parts"))
            })?;
        }
    }
    Ok(out)
}

#[derive(Debug)]
pub(super) struct Error(String);

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Error {}

impl de::Error for Error {
    fn custom<T: fmt::Display>(text: T) -> Self {
        Self(text.to_string())
    }

    fn missing_field(field: &'static str) -> Self {
        Self(format!("Parameter '{field}' is missing"))
    }

    fn unknown_field(field: &str, _: &'static [&'static str]) -> Self {
        Self(format!("Parameter '{field}' is unexpected"))
    }
}

/// A value and the name of the member that has it.
struct Loose {
    value: Value,
    name: String,
}

impl Loose {
    fn wrong<T>(&self, expected: &str) -> Result<T, Error> {
        Err(Error(format!("Invalid parameter type for '{}', expected: {expected}", self.name)))
    }

    fn integer(&self) -> Result<i128, Error> {
        match &self.value {
            Value::Number(n) if n.is_u64() || n.is_i64() => {
                Ok(n.as_u64().map_or_else(|| i128::from(n.as_i64().unwrap_or(0)), i128::from))
            }
            Value::Number(n) => match n.as_f64() {
                Some(f) if f.fract() == 0.0 && f.abs() < 1e18 => Ok(f as i128),
                _ => self.wrong("integer"),
            },
            Value::String(text) => size(text).map_or_else(|| self.wrong("integer"), Ok),
            _ => self.wrong("integer"),
        }
    }
}

/// A number with an optional suffix for kibibytes and so on.
pub(crate) fn size(text: &str) -> Option<i128> {
    if let Some(hex) = text.strip_prefix("0x") {
        return i128::from_str_radix(hex, 16).ok();
    }
    let shift = match text.bytes().last()?.to_ascii_lowercase() {
        b'b' => 0,
        b'k' => 10,
        b'm' => 20,
        b'g' => 30,
        b't' => 40,
        b'p' => 50,
        b'e' => 60,
        _ => return text.parse().ok(),
    };
    let number = &text[..text.len() - 1];
    match number.parse::<i128>() {
        Ok(n) => n.checked_mul(1 << shift),
        Err(_) => number.parse::<f64>().ok().map(|f| (f * (1u64 << shift) as f64) as i128),
    }
}

macro_rules! integers {
    ($($method:ident $visit:ident $type:ty),*) => { $(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            match <$type>::try_from(self.integer()?) {
                Ok(n) => visitor.$visit(n),
                Err(_) => Err(Error(format!("Parameter '{}' is out of range", self.name))),
            }
        }
    )* };
}

impl<'de> de::Deserializer<'de> for Loose {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.value {
            Value::Null => visitor.visit_unit(),
            Value::Bool(on) => visitor.visit_bool(on),
            Value::Number(n) => match (n.as_u64(), n.as_i64(), n.as_f64()) {
                (Some(n), _, _) => visitor.visit_u64(n),
                (_, Some(n), _) => visitor.visit_i64(n),
                (_, _, n) => visitor.visit_f64(n.unwrap_or(0.0)),
            },
            Value::String(text) => visitor.visit_string(text),
            Value::Array(list) => visitor.visit_seq(Elements { list: list.into_iter() }),
            Value::Object(map) => visitor.visit_map(Members { map: map.into_iter(), value: None }),
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match &self.value {
            Value::Bool(on) => visitor.visit_bool(*on),
            Value::String(text) => match text.as_str() {
                "on" | "yes" | "true" | "y" => visitor.visit_bool(true),
                "off" | "no" | "false" | "n" => visitor.visit_bool(false),
                _ => Err(Error(format!("Parameter '{}' expects 'on' or 'off'", self.name))),
            },
            _ => self.wrong("boolean"),
        }
    }

    integers!(
        deserialize_u8 visit_u8 u8, deserialize_u16 visit_u16 u16, deserialize_u32 visit_u32 u32,
        deserialize_u64 visit_u64 u64, deserialize_i8 visit_i8 i8, deserialize_i16 visit_i16 i16,
        deserialize_i32 visit_i32 i32, deserialize_i64 visit_i64 i64
    );

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_string(visitor)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.value {
            Value::String(text) => visitor.visit_string(text),
            _ => self.wrong("string"),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.value {
            Value::Array(list) => visitor.visit_seq(Elements { list: list.into_iter() }),
            // `list.0=a,list.1=b`
            Value::Object(map) if map.keys().all(|key| key.parse::<usize>().is_ok()) => {
                let mut list: Vec<_> = map
                    .into_iter()
                    .map(|(key, value)| (key.parse::<usize>().unwrap_or(0), value))
                    .collect();
                list.sort_by_key(|(index, _)| *index);
                let list: Vec<_> = list.into_iter().map(|(_, value)| value).collect();
                visitor.visit_seq(Elements { list: list.into_iter() })
            }
            _ => self.wrong("array"),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        match self.value {
            Value::Object(map) => visitor.visit_map(Members { map: map.into_iter(), value: None }),
            _ => self.wrong("object"),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        match self.value {
            Value::String(text) if variants.contains(&text.as_str()) => {
                visitor.visit_enum(IntoDeserializer::<Error>::into_deserializer(text))
            }
            Value::String(text) => {
                Err(Error(format!("Parameter '{}' does not accept value '{text}'", self.name)))
            }
            _ => self.wrong("string"),
        }
    }

    serde::forward_to_deserialize_any! {
        i128 u128 f32 f64 char bytes byte_buf unit unit_struct tuple tuple_struct map identifier
        ignored_any
    }
}

struct Elements {
    list: std::vec::IntoIter<Value>,
}

impl<'de> de::SeqAccess<'de> for Elements {
    type Error = Error;
    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Error> {
        let Some(value) = self.list.next() else { return Ok(None) };
        seed.deserialize(Loose { value, name: "list".into() }).map(Some)
    }
}

struct Members {
    map: serde_json::map::IntoIter,
    value: Option<(String, Value)>,
}

impl<'de> de::MapAccess<'de> for Members {
    type Error = Error;
    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Error> {
        let Some((key, value)) = self.map.next() else { return Ok(None) };
        self.value = Some((key.clone(), value));
        let key: StringDeserializer<Error> = key.into_deserializer();
        seed.deserialize(key).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        let (name, value) = self.value.take().ok_or_else(|| Error("no value".into()))?;
        seed.deserialize(Loose { value, name })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;
    use serde_json::json;

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Mode {
        On,
        Unmap,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(rename_all = "kebab-case", deny_unknown_fields)]
    struct Sample {
        size: u64,
        read_only: Option<bool>,
        mode: Option<Mode>,
        list: Option<Vec<String>>,
    }

    fn error(value: Value) -> String {
        parse::<Sample>(value).unwrap_err().to_string()
    }

    #[test]
    fn strings_of_a_command_line_and_json_give_the_same() {
        let json = json!({"size": 65536, "read-only": true, "mode": "unmap", "list": ["a", "b"]});
        let flat = json!({"size": "64k", "read-only": "on", "mode": "unmap", "list.0": "a", "list.1": "b"});
        let Value::Object(flat) = flat else { unreachable!("it was made an object") };
        let nested = Value::Object(nest(flat).unwrap());
        assert_eq!(parse::<Sample>(json).unwrap(), parse::<Sample>(nested).unwrap());
    }

    #[test]
    fn errors_name_the_parameter() {
        assert_eq!(error(json!({})), "Parameter 'size' is missing");
        assert_eq!(error(json!({"size": 1, "x": 1})), "Parameter 'x' is unexpected");
        assert_eq!(
            error(json!({"size": true})),
            "Invalid parameter type for 'size', expected: integer"
        );
        assert_eq!(
            error(json!({"size": 1, "mode": "x"})),
            "Parameter 'mode' does not accept value 'x'"
        );
        assert_eq!(error(json!({"size": -1})), "Parameter 'size' is out of range");
    }
}
