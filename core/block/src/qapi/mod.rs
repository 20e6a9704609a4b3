//! Typed options and commands: one definition gives the reader, the writer and the schema.
//!
//! [`parse`] takes a JSON value, or strings as a command line has them (`on`, `64k`), and says
//! what is wrong in the words of the monitor.

mod loose;
mod schema;

pub(crate) use crate::qapi_types as qapi;
pub use loose::{nest, parse};
pub(crate) use loose::{size, split};
pub use schema::{Member, Nothing, Registry, Schema, Variant};

use serde::Serialize;
use serde_json::Value;

/// A value as the monitor prints it: members that are absent are left out.
pub fn to_value(value: &impl Serialize) -> Value {
    strip(serde_json::to_value(value).unwrap_or_default())
}

fn strip(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let kept = map.into_iter().filter(|(_, value)| !value.is_null());
            Value::Object(kept.map(|(key, value)| (key, strip(value))).collect())
        }
        Value::Array(list) => Value::Array(list.into_iter().map(strip).collect()),
        value => value,
    }
}
