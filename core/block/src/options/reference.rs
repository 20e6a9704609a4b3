//! A child, given by name or in place.

use super::NodeOptions;
use crate::qapi::{Registry, Schema};
use serde::de::{self, Deserialize, Deserializer, MapAccess, Visitor};
use serde::ser::{Serialize, Serializer};
use serde_json::{Map, Value};
use std::fmt;

/// A node by name, or what to open.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum NodeRef {
    Name(String),
    Inline(Box<NodeOptions>),
}

/// The same, or nothing.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum NodeRefOrNull {
    Null,
    Node(NodeRef),
}

struct RefVisitor;

impl<'de> Visitor<'de> for RefVisitor {
    type Value = NodeRefOrNull;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BlockdevRef")
    }

    fn visit_unit<E: de::Error>(self) -> Result<NodeRefOrNull, E> {
        Ok(NodeRefOrNull::Null)
    }

    fn visit_str<E: de::Error>(self, name: &str) -> Result<NodeRefOrNull, E> {
        // An empty name is the older spelling of "none".
        Ok(if name.is_empty() {
            NodeRefOrNull::Null
        } else {
            NodeRefOrNull::Node(NodeRef::Name(name.into()))
        })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<NodeRefOrNull, A::Error> {
        let mut map = Map::new();
        while let Some((key, value)) = access.next_entry::<String, Value>()? {
            map.insert(key, value);
        }
        let options = NodeOptions::from_value(Value::Object(map)).map_err(de::Error::custom)?;
        Ok(NodeRefOrNull::Node(NodeRef::Inline(Box::new(options))))
    }
}

impl<'de> Deserialize<'de> for NodeRefOrNull {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RefVisitor)
    }
}

impl<'de> Deserialize<'de> for NodeRef {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match deserializer.deserialize_any(RefVisitor)? {
            NodeRefOrNull::Node(node) => Ok(node),
            NodeRefOrNull::Null => Err(de::Error::custom("a node is needed here")),
        }
    }
}

impl Serialize for NodeRef {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Name(name) => serializer.serialize_str(name),
            Self::Inline(options) => options.to_value().serialize(serializer),
        }
    }
}

impl Serialize for NodeRefOrNull {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Null => serializer.serialize_str(""),
            Self::Node(node) => node.serialize(serializer),
        }
    }
}

impl Schema for NodeRef {
    fn define(registry: &mut Registry) -> String {
        registry.alternate("BlockdevRef", |registry| {
            vec![NodeOptions::define(registry), String::define(registry)]
        })
    }
}

impl Schema for NodeRefOrNull {
    fn define(registry: &mut Registry) -> String {
        registry.alternate("BlockdevRefOrNull", |registry| {
            vec![
                NodeOptions::define(registry),
                String::define(registry),
                registry.builtin("null", "null"),
            ]
        })
    }
}
