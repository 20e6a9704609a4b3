//! Options of nodes: one definition gives `blockdev-add`, `-blockdev`, `json:` names and
//! `--image-opts`.

mod drivers;
mod keyval;
mod name;
mod reference;
mod types;

pub(crate) use drivers::DriverOptions;
pub(crate) use keyval::keyval;
pub(crate) use name::from_filename;
pub(crate) use reference::{NodeRef, NodeRefOrNull};
pub(crate) use types::*;

use crate::qapi::{self, Registry, Schema, Variant};
use crate::{BlockError, Result};
use serde::de::{self, Deserialize, Deserializer};
use serde_json::{Map, Value};

/// Names of the drivers that a node can have.
pub fn driver_names() -> &'static [&'static str] {
    DriverOptions::NAMES
}

/// Reads `name=value,...` (a first part without `=` belongs to `implied`) or JSON.
pub fn parse_options(text: &str, implied: &str) -> Result<Map<String, Value>> {
    if text.trim_start().starts_with('{') {
        return serde_json::from_str(text)
            .map_err(|error| BlockError::Invalid(format!("JSON parse error, {error}")));
    }
    qapi::nest(keyval(text, Some(implied))?)
}

/// Everything that says what a node is.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeOptions {
    pub(crate) common: CommonOptions,
    pub(crate) driver: DriverOptions,
}

impl NodeOptions {
    /// Reads `{"driver": ..., ...}`; members of members may also be given as `"file.driver"`.
    pub fn from_value(value: Value) -> Result<Self> {
        let Value::Object(map) = value else {
            return Err(BlockError::Invalid("options must be an object".into()));
        };
        let mut map = qapi::nest(map)?;
        let driver = match map.remove("driver") {
            Some(Value::String(name)) => name,
            Some(_) => {
                return Err(BlockError::Invalid(
                    "Invalid parameter type for 'driver', expected: string".into(),
                ));
            }
            None => return Err(BlockError::Invalid("Parameter 'driver' is missing".into())),
        };
        if driver == "nbd" {
            name::nbd_server(&mut map)?;
        }
        let mut common = Map::new();
        for name in CommonOptions::NAMES {
            if let Some(value) = map.remove(name) {
                common.insert(name.into(), value);
            }
        }
        Ok(Self {
            common: qapi::parse(Value::Object(common))?,
            driver: DriverOptions::parse(&driver, Value::Object(map))?,
        })
    }

    /// Reads an argument of the command line: JSON, or `driver,name=value,...`.
    pub fn from_argument(text: &str) -> Result<Self> {
        if text.trim_start().starts_with('{') {
            let value: Value = serde_json::from_str(text)
                .map_err(|error| BlockError::Invalid(format!("JSON parse error, {error}")))?;
            return Self::from_value(value);
        }
        Self::from_value(Value::Object(keyval(text, Some("driver"))?))
    }

    /// What a file name means: a path, `json:{...}`, or a protocol with its own spelling.
    pub fn from_filename(name: &str) -> Result<Self> {
        from_filename(name).and_then(Self::from_value)
    }

    /// As the monitor prints it.
    pub fn to_value(&self) -> Value {
        let mut out = Map::new();
        out.insert("driver".into(), self.driver.name().into());
        for part in [qapi::to_value(&self.common), self.driver.to_value()] {
            if let Value::Object(part) = part {
                out.extend(part);
            }
        }
        Value::Object(out)
    }

    /// Name that the user gave the node.
    pub fn node_name(&self) -> Option<&str> {
        self.common.node_name.as_deref()
    }

    /// Name of the driver.
    pub fn driver_name(&self) -> &'static str {
        self.driver.name()
    }
}

impl<'de> Deserialize<'de> for NodeOptions {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        let map = Map::<String, Value>::deserialize(deserializer)?;
        Self::from_value(Value::Object(map)).map_err(de::Error::custom)
    }
}

impl Schema for NodeOptions {
    fn define(registry: &mut Registry) -> String {
        registry.union("BlockdevOptions", "driver", |registry| {
            let mut members = CommonOptions::members(registry);
            members.insert(0, registry.member::<DriverOptions>("driver", None));
            let variants = DriverOptions::variants(registry)
                .into_iter()
                .map(|(case, kind)| Variant { case: case.into(), kind })
                .collect();
            (members, variants)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn json_dotted_names_and_the_command_line_are_one() {
        let json = json!({
            "driver": "qcow2", "node-name": "n", "read-only": true,
            "file": {"driver": "file", "filename": "a,b"}, "l2-cache-size": 1_048_576,
        });
        let a = NodeOptions::from_value(json).unwrap();
        let b = NodeOptions::from_argument(
            "qcow2,node-name=n,read-only=on,file.driver=file,file.filename=a,,b,l2-cache-size=1M",
        )
        .unwrap();
        assert_eq!(a, b);
        assert_eq!(NodeOptions::from_value(a.to_value()).unwrap(), a);
        let c = NodeOptions::from_filename(&format!("json:{}", a.to_value())).unwrap();
        assert_eq!(a, c);
    }

    #[test]
    fn an_nbd_server_may_be_given_in_words_of_its_own() {
        let typed = |text: &str| NodeOptions::from_argument(text).map(|o| o.to_value());
        let server = |text: &str| typed(text).unwrap()["server"].clone();
        assert_eq!(server("nbd,path=/s"), json!({"type": "unix", "path": "/s"}));
        let inet = json!({"type": "inet", "host": "h", "port": "10809"});
        assert_eq!(server("nbd,host=h"), inet);
        let below = typed("raw,file.driver=nbd,file.host=h,file.port=10809,file.export=e").unwrap();
        assert_eq!(below["file"]["server"], inet);
        for (text, why) in [
            ("nbd,path=/s,host=h", "path and host may not be used at the same time"),
            ("nbd,path=/s,port=1", "port may not be used without host"),
            ("nbd,port=1", "port may not be used without host"),
            (
                "nbd,host=h,server.type=unix,server.path=/s",
                "'server' and path/host/port cannot be used at the same time",
            ),
        ] {
            assert_eq!(typed(text).unwrap_err().to_string(), why, "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_said_by_name() {
        let error = |value| NodeOptions::from_value(value).unwrap_err().to_string();
        assert_eq!(error(json!({"filename": "x"})), "Parameter 'driver' is missing");
        assert_eq!(error(json!({"driver": "raw"})), "Parameter 'file' is missing");
        assert_eq!(
            error(json!({"driver": "file", "filename": "x", "size": 1})),
            "Parameter 'size' is unexpected"
        );
        assert_eq!(
            error(json!({"driver": "qcow9"})),
            "Parameter 'driver' does not accept value 'qcow9'"
        );
    }
}
