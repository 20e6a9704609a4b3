//! Objects that options refer to by name: limits, secrets, threads.

use super::{BlockGraph, is_well_formed};
use crate::backend::BlockBackend;
use crate::host::HostTls;
use crate::options::keyval;
use crate::qapi;
use crate::sync::lock;
use crate::throttle::{ThrottleGroup, ThrottleLimits};
use crate::{BlockError, Result};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::sync::Arc;

/// An object made by `-object` or `object-add`.
#[derive(Clone)]
pub struct Object {
    /// Its type, such as `throttle-group`.
    pub kind: String,
    /// What it was made with.
    pub properties: Map<String, Value>,
    group: Option<Arc<ThrottleGroup>>,
}

pub(super) type Objects = BTreeMap<String, Object>;

/// Types that can be made.
pub const OBJECT_TYPES: &[&str] = &[
    "iothread",
    "main-loop",
    MEMORY,
    "rng-builtin",
    "rng-random",
    "secret",
    "throttle-group",
    "tls-creds-psk",
    "tls-creds-x509",
];

/// Memory that a machine is given by name.
const MEMORY: &str = "memory-backend-ram";

impl BlockGraph {
    /// Makes an object.
    pub fn add_object(&self, kind: &str, id: &str, properties: Map<String, Value>) -> Result<()> {
        if !OBJECT_TYPES.contains(&kind) {
            return Err(BlockError::Invalid(format!(
                "Parameter 'qom-type' does not accept value '{kind}'"
            )));
        }
        if !is_well_formed(id) {
            return Err(BlockError::Invalid("Parameter 'id' expects an identifier".into()));
        }
        if lock(&self.0.objects).contains_key(id) {
            return Err(BlockError::Exists(format!(
                "attempt to add duplicate property '{id}' to object (type 'container')"
            )));
        }
        if kind == MEMORY && properties.get("size").and_then(Value::as_u64).is_none_or(|n| n == 0) {
            return Err(BlockError::Invalid("property 'size' must be a number above 0".into()));
        }
        let group =
            if kind == "throttle-group" { Some(self.make_group(&properties)?) } else { None };
        let object = Object { kind: kind.into(), properties, group };
        lock(&self.0.objects).insert(id.into(), object);
        Ok(())
    }

    /// Makes an object from `type,id=...,name=value` or JSON.
    pub fn add_object_argument(&self, text: &str) -> Result<()> {
        let mut map = if text.trim_start().starts_with('{') {
            serde_json::from_str(text)
                .map_err(|error| BlockError::Invalid(format!("JSON parse error, {error}")))?
        } else {
            keyval(text, Some("qom-type"))?
        };
        if map.get("qom-type").is_some_and(|kind| kind == MEMORY)
            && let Some(Value::String(size)) = map.get("size")
        {
            let bytes = qapi::size(size).and_then(|n| u64::try_from(n).ok());
            let wrong = || BlockError::Invalid(format!("'{size}' is not a size such as 512M"));
            map.insert("size".into(), bytes.ok_or_else(wrong)?.into());
        }
        self.add_object_value(map)
    }

    /// Makes an object from what `object-add` is given.
    pub fn add_object_value(&self, map: Map<String, Value>) -> Result<()> {
        let mut map = qapi::nest(map)?;
        let mut text = |name: &str| match map.remove(name) {
            Some(Value::String(text)) => Ok(text),
            _ => Err(BlockError::Invalid(format!("Parameter '{name}' is missing"))),
        };
        let (kind, id) = (text("qom-type")?, text("id")?);
        self.add_object(&kind, &id, map)
    }

    /// The group that a drive has joined or an object made under this name.
    pub(crate) fn group_of(&self, name: &str) -> Option<Arc<ThrottleGroup>> {
        let drives = self.backends();
        let mut groups = drives.iter().filter_map(BlockBackend::throttle_group);
        let joined = groups.find(|(other, _)| other == name).map(|(_, group)| group);
        joined.or_else(|| self.throttle_group(name).ok())
    }

    /// Limits a drive's rate, with the properties of a `throttle-group`; drives that name the same
    /// `group` share it.
    pub fn limit(&self, drive: &BlockBackend, mut properties: Map<String, Value>) -> Result<()> {
        let usual = drive.name().unwrap_or_default();
        let name = match properties.remove("group") {
            Some(Value::String(name)) => name,
            _ => usual,
        };
        let group = match self.group_of(&name) {
            Some(group) => group,
            None => self.make_group(&properties)?,
        };
        drive.set_throttle(Some((&name, &group)));
        Ok(())
    }

    fn make_group(&self, properties: &Map<String, Value>) -> Result<Arc<ThrottleGroup>> {
        let mut properties = properties.clone();
        let mut limits = match properties.remove("limits") {
            Some(Value::Object(limits)) => limits,
            _ => Map::new(),
        };
        // The older spelling of single limits.
        for (name, value) in properties {
            let name = name.strip_prefix("x-").unwrap_or(&name).to_owned();
            limits.insert(name, value);
        }
        let limits: ThrottleLimits = qapi::parse(Value::Object(limits))?;
        ThrottleGroup::new(self.context(), limits)
    }

    /// Removes an object that nothing uses.
    pub fn remove_object(&self, id: &str) -> Result<()> {
        let mut objects = lock(&self.0.objects);
        let object = objects
            .get(id)
            .ok_or_else(|| BlockError::Invalid(format!("object '{id}' not found")))?;
        if object.group.as_ref().is_some_and(|group| Arc::strong_count(group) > 1) {
            return Err(BlockError::InUse(format!("object '{id}' is in use, can not be deleted")));
        }
        objects.remove(id);
        Ok(())
    }

    /// Finds an object.
    pub fn object(&self, id: &str) -> Option<Object> {
        lock(&self.0.objects).get(id).cloned()
    }

    /// Every object, by name.
    pub fn objects(&self) -> Vec<(String, Object)> {
        lock(&self.0.objects).iter().map(|(id, object)| (id.clone(), object.clone())).collect()
    }

    /// The group of this name.
    pub(crate) fn throttle_group(&self, name: &str) -> Result<Arc<ThrottleGroup>> {
        self.object(name)
            .and_then(|object| object.group)
            .ok_or_else(|| BlockError::NotFound(format!("throttle group {name}")))
    }

    /// Credentials by the name of their object, for a server or for a client.
    pub fn tls(&self, id: &str, server: bool) -> Result<Arc<dyn HostTls>> {
        let object = self.object(id);
        let object = object
            .ok_or_else(|| BlockError::Invalid(format!("No TLS credentials with id '{id}'")))?;
        if !object.kind.starts_with("tls-creds-") {
            return Err(BlockError::Invalid(format!(
                "Object with id '{id}' is not TLS credentials"
            )));
        }
        let tls = self.context().net()?.tls(&object.kind, &object.properties)?;
        if tls.serves() == server {
            return Ok(tls);
        }
        let end = if server { "server" } else { "client" };
        Err(BlockError::Invalid(format!("Expecting TLS credentials with a {end} endpoint")))
    }

    /// The bytes of a `secret`.
    pub fn secret(&self, id: &str) -> Result<String> {
        let object = self.object(id).filter(|object| object.kind == "secret");
        let object =
            object.ok_or_else(|| BlockError::NotFound(format!("No secret with id '{id}'")))?;
        match object.properties.get("data") {
            Some(Value::String(data)) => Ok(data.clone()),
            _ => Err(BlockError::unsupported(format!("secret '{id}' has no data"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_has_a_size_with_a_suffix_or_as_a_number() {
        let graph = BlockGraph::new();
        let size = |id: &str| graph.object(id).unwrap().properties["size"].as_u64();
        graph.add_object_argument("memory-backend-ram,id=a,size=128M").unwrap();
        assert_eq!(size("a"), Some(128 << 20));
        let json = |size: Value| {
            let mut map = Map::new();
            map.insert("qom-type".into(), MEMORY.into());
            map.insert("id".into(), "b".into());
            map.insert("size".into(), size);
            graph.add_object_value(map)
        };
        assert!(json("1048576".into()).is_err(), "JSON has numbers");
        assert!(json(0.into()).is_err());
        json(1048576.into()).unwrap();
        assert_eq!(size("b"), Some(1 << 20));
        assert!(graph.add_object_argument("memory-backend-ram,id=c").is_err());
    }

    #[test]
    fn drives_that_name_the_same_group_share_its_limits() {
        let graph = BlockGraph::new();
        let limits = |rate: &str| {
            let mut map = Map::new();
            map.insert("group".into(), "g".into());
            map.insert("bps-write".into(), rate.into());
            map
        };
        let drives = ["a", "b"].map(|id| graph.create_backend(id).unwrap());
        graph.limit(&drives[0], limits("1M")).unwrap();
        graph.limit(&drives[1], limits("2M")).unwrap();
        let groups = drives.map(|d| d.throttle_group().unwrap());
        assert!(groups[0].0 == "g" && Arc::ptr_eq(&groups[0].1, &groups[1].1));
    }
}
