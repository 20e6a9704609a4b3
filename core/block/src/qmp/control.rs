//! Commands about the conversation, and about objects.

use super::args::*;
use super::{Answer, COMMANDS, Monitor, QmpError};
use crate::graph::OBJECT_TYPES;
use crate::qapi;
use serde_json::{Value, json};
use std::sync::atomic::Ordering;

impl Monitor {
    pub(super) async fn capabilities(&self, args: Capabilities) -> Answer<Nothing> {
        let odd = args.enable.unwrap_or_default().into_iter().find(|name| name != "oob");
        match odd {
            Some(name) => {
                Err(QmpError::generic(format!("Parameter 'enable' does not accept value '{name}'")))
            }
            None => Ok(Nothing {}),
        }
    }

    pub(super) async fn version(&self, _: Nothing) -> Answer<Value> {
        Ok(version())
    }

    pub(super) async fn commands(&self, _: Nothing) -> Answer<Vec<CommandInfo>> {
        Ok(COMMANDS.iter().map(|name| CommandInfo { name: (*name).into() }).collect())
    }

    pub(super) async fn quit(&self, _: Nothing) -> Answer<Nothing> {
        // What ends is told of before the answer.
        let ended = self.shutdown().await;
        self.0.quit.store(true, Ordering::Relaxed);
        ended?;
        Ok(Nothing {})
    }

    pub(super) async fn object_add(&self, args: NewObject) -> Answer<Nothing> {
        self.graph().add_object_value(args.0)?;
        Ok(Nothing {})
    }

    pub(super) async fn object_del(&self, args: ObjectId) -> Answer<Nothing> {
        self.graph().remove_object(&args.id)?;
        Ok(Nothing {})
    }

    pub(super) async fn qom_list(&self, args: QomPath) -> Answer<Vec<Value>> {
        match args.path.trim_end_matches('/') {
            "" => Ok(vec![json!({"name": "objects", "type": "child<container>"})]),
            "/objects" => Ok(self
                .graph()
                .objects()
                .into_iter()
                .map(|(id, object)| json!({"name": id, "type": format!("child<{}>", object.kind)}))
                .collect()),
            path => Err(missing(path)),
        }
    }

    pub(super) async fn qom_get(&self, args: QomGet) -> Answer<Value> {
        let id = args.path.strip_prefix("/objects/").unwrap_or(&args.path);
        let object = self.graph().object(id).ok_or_else(|| missing(&args.path))?;
        if args.property == "limits"
            && let Ok(group) = self.graph().throttle_group(id)
        {
            return Ok(qapi::to_value(&group.limits()));
        }
        match object.properties.get(&args.property) {
            Some(value) => Ok(value.clone()),
            None if args.property == "type" => Ok(object.kind.into()),
            None => Err(QmpError::generic(format!(
                "Property '{}.{}' not found",
                object.kind, args.property
            ))),
        }
    }

    pub(super) async fn qom_set(&self, args: QomSet) -> Answer<Nothing> {
        let id = args.path.strip_prefix("/objects/").unwrap_or(&args.path);
        let object = self.graph().object(id).ok_or_else(|| missing(&args.path))?;
        match (self.graph().throttle_group(id), args.property.as_str()) {
            (Ok(group), "limits") => {
                group.set_limits(qapi::parse(args.value)?)?;
                Ok(Nothing {})
            }
            _ => Err(QmpError::generic(format!(
                "Property '{}.{}' is not writable",
                object.kind, args.property
            ))),
        }
    }

    pub(super) async fn qom_list_types(&self, _: QomListTypes) -> Answer<Vec<Value>> {
        Ok(OBJECT_TYPES.iter().map(|name| json!({"name": name, "parent": "object"})).collect())
    }
}

fn missing(path: &str) -> QmpError {
    QmpError { class: "DeviceNotFound", desc: format!("Device '{path}' not found") }
}

/// The version as clients are told: they expect a number of QEMU's.
pub fn version() -> Value {
    json!({
        "qemu": {"micro": 2, "minor": 0, "major": 10},
        "package": concat!("orrery ", env!("CARGO_PKG_VERSION")),
    })
}
