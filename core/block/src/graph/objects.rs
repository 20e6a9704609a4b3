//! Objects that options refer to by name: limits, secrets, threads.

use super::{BlockGraph, is_well_formed};
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
pub const OBJECT_TYPES: &[&str] =
    &["iothread", "main-loop", "secret", "throttle-group", "tls-creds-psk", "tls-creds-x509"];

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
        let group =
            if kind == "throttle-group" { Some(self.make_group(&properties)?) } else { None };
        let object = Object { kind: kind.into(), properties, group };
        lock(&self.0.objects).insert(id.into(), object);
        Ok(())
    }

    /// Makes an object from `type,id=...,name=value` or JSON.
    pub fn add_object_argument(&self, text: &str) -> Result<()> {
        let map = if text.trim_start().starts_with('{') {
            serde_json::from_str(text)
                .map_err(|error| BlockError::Invalid(format!("JSON parse error, {error}")))?
        } else {
            keyval(text, Some("qom-type"))?
        };
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
