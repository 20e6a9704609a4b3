//! Commands that make, change and remove nodes.

use super::args::*;
use super::{Answer, Monitor, QmpError};
use crate::graph::BlockGraph;
use crate::job::{Create, JobKind, JobOptions};
use crate::open::Format;
use crate::options::{Discard, NodeOptions, NodeRef, NodeRefOrNull};
use crate::qcow2::{Compression, CreateOptions};
use crate::{BlockError, Result, qapi};
use serde_json::{Value, json};
use std::sync::Arc;

impl Monitor {
    pub(super) async fn blockdev_add(&self, options: NodeOptions) -> Answer<Nothing> {
        self.graph().add(&options).await?;
        Ok(Nothing {})
    }

    pub(super) async fn blockdev_del(&self, args: NodeName) -> Answer<Nothing> {
        let name = &args.node_name;
        let node = self.graph().node(name).ok_or_else(|| {
            QmpError::generic(format!("Failed to find node with node-name='{name}'"))
        })?;
        if !self.graph().owns(&node) {
            return Err(QmpError::generic(format!("Node {name} is not owned by the monitor")));
        }
        if node.is_used() {
            return Err(QmpError::generic(format!("Node {name} is in use")));
        }
        self.graph().store_bitmaps(&node).await?;
        node.close().await?;
        self.graph().delete_node(name)?;
        Ok(Nothing {})
    }

    pub(super) async fn blockdev_reopen(&self, args: ReopenArgs) -> Answer<Nothing> {
        for options in args.options {
            let options = NodeOptions::from_value(options)?;
            let name =
                options.node_name().ok_or_else(|| QmpError::generic("node-name not specified"))?;
            let node = self.graph().node(name).ok_or_else(|| {
                QmpError::generic(format!("Failed to find node with node-name='{name}'"))
            })?;
            if options.driver_name() != node.driver_name() {
                return Err(QmpError::generic("Cannot change the option 'driver'"));
            }
            let _drained = self.graph().drain(&node).await;
            for (key, is_backing) in [("backing", true), ("file", false)] {
                let wanted = options.to_value().get(key).cloned();
                let Some(wanted) = wanted else { continue };
                let wanted: NodeRefOrNull = qapi::parse(wanted)?;
                let to = match &wanted {
                    NodeRefOrNull::Null => None,
                    NodeRefOrNull::Node(NodeRef::Name(name)) => Some(self.node(name)?),
                    NodeRefOrNull::Node(NodeRef::Inline(_)) => continue,
                };
                if is_backing {
                    self.graph().set_backing(&node, to.as_ref())?;
                } else if let Some(to) = to {
                    let edge = node.children().into_iter().find(|edge| edge.name() == "file");
                    if let Some(edge) = edge
                        && !edge.node().is_some_and(|node| Arc::ptr_eq(&node, &to))
                    {
                        edge.replace(&to)?;
                    }
                }
            }
            let read_only = options.common.read_only.unwrap_or(false);
            self.graph().set_read_only(&node, read_only).await?;
            node.set_ignore_discard(options.common.discard != Some(Discard::Unmap));
            node.set_detect_zeroes(options.common.detect_zeroes.unwrap_or_default());
            let cache = options.common.cache.clone().unwrap_or_default();
            node.set_no_flush(cache.no_flush.unwrap_or(false));
            node.set_options(options);
        }
        Ok(Nothing {})
    }

    pub(super) async fn blockdev_create(&self, args: CreateArgs) -> Answer<Nothing> {
        let graph = self.graph().clone();
        let id = graph.job_id(Some(&args.job_id), "")?;
        let Value::Object(mut map) = args.options else {
            return Err(QmpError::generic(
                "Invalid parameter type for 'options', expected: object",
            ));
        };
        let driver = match map.remove("driver") {
            Some(Value::String(driver)) => driver,
            _ => return Err(QmpError::generic("Parameter 'driver' is missing")),
        };
        let options = Value::Object(map);
        let work = match driver.as_str() {
            "file" => {
                let file: CreateFile = qapi::parse(options)?;
                Create::new(Box::pin(async move { create_file(&graph, &file).await }))
            }
            "qcow2" => {
                let qcow2: CreateQcow2 = qapi::parse(options)?;
                Create::new(Box::pin(async move { create_qcow2(&graph, &qcow2).await }))
            }
            other => {
                return Err(QmpError::generic(format!(
                    "Driver '{other}' does not support blockdev-create"
                )));
            }
        };
        // It stays until it is dismissed, so that its error can be read.
        let options = JobOptions { auto_dismiss: false, ..JobOptions::default() };
        self.graph().start_job(&id, JobKind::Create, options, work, None);
        Ok(Nothing {})
    }

    pub(super) async fn blockdev_set_active(&self, args: SetActive) -> Answer<Nothing> {
        let nodes = match &args.node_name {
            Some(name) => vec![self.node(name)?],
            None => self.graph().nodes(),
        };
        for node in nodes {
            let _drained = self.graph().drain(&node).await;
            if !args.active {
                node.flush().await?;
            }
            node.set_active(args.active);
        }
        Ok(Nothing {})
    }

    pub(super) async fn block_resize(&self, args: Resize) -> Answer<Nothing> {
        let name = match (&args.device, &args.node_name) {
            (Some(name), None) | (None, Some(name)) => name,
            _ => {
                return Err(QmpError::generic("Need exactly one of 'device' and 'node-name'"));
            }
        };
        let node = self.node(name)?;
        let _drained = self.graph().drain(&node).await;
        node.truncate(args.size).await?;
        Ok(Nothing {})
    }

    pub(super) async fn set_write_threshold(&self, args: Threshold) -> Answer<Nothing> {
        let node = self.node(&args.node_name)?;
        let (context, name) = (self.graph().context().clone(), node.name().to_owned());
        let hook = move |exceeded: u64, threshold: u64| {
            let data = json!({
                "amount-exceeded": exceeded, "write-threshold": threshold, "node-name": name,
            });
            context.emit("BLOCK_WRITE_THRESHOLD", data);
        };
        node.set_write_threshold(args.write_threshold, Arc::new(hook));
        Ok(Nothing {})
    }

    pub(super) async fn change_backing_file(&self, args: ChangeBacking) -> Answer<Nothing> {
        self.node(&args.device)?;
        let image = self.node(&args.image_node_name)?;
        let format = image.backing().map(|backing| backing.driver_name());
        let was_read_only = image.read_only();
        let _drained = self.graph().drain(&image).await;
        self.graph().set_read_only(&image, false).await?;
        let stored =
            self.graph().store_backing_name(&image, Some((&args.backing_file, format))).await;
        self.graph().set_read_only(&image, was_read_only).await?;
        stored?;
        Ok(Nothing {})
    }

    pub(super) async fn blockdev_change(&self, args: BlockdevChange) -> Answer<Nothing> {
        let parent = self.node(&args.parent)?;
        Err(QmpError::generic(format!(
            "The node {} does not support changing its children",
            parent.name()
        )))
    }
}

async fn create_file(graph: &BlockGraph, options: &CreateFile) -> Result<()> {
    let file = graph.context().fs()?.create(&options.filename).await?;
    file.set_len(options.size).await?;
    if options.preallocation.as_deref() == Some("full") {
        let node = graph.open_file(None, &options.filename, file)?;
        node.write_zeroes(0, options.size, false).await?;
    }
    Ok(())
}

async fn create_qcow2(graph: &BlockGraph, options: &CreateQcow2) -> Result<()> {
    let file = match &options.file {
        NodeRef::Name(name) => graph.find_node(name)?,
        NodeRef::Inline(options) => graph.open_options(options).await?,
    };
    let bad = |what: &str, value: &str| {
        BlockError::Invalid(format!("Parameter '{what}' does not accept value '{value}'"))
    };
    let default = CreateOptions::default();
    let create = CreateOptions {
        size: options.size,
        version: match options.version.as_deref() {
            None | Some("v3") => 3,
            Some("v2") => 2,
            Some(other) => return Err(bad("version", other)),
        },
        cluster_size: options.cluster_size.unwrap_or(default.cluster_size),
        refcount_bits: options.refcount_bits.unwrap_or(default.refcount_bits),
        lazy_refcounts: options.lazy_refcounts.unwrap_or(false),
        extended_l2: options.extended_l2.unwrap_or(false),
        compression: match options.compression_type.as_deref() {
            None | Some("zlib") => Compression::Zlib,
            Some("zstd") => Compression::Zstd,
            Some(other) => return Err(bad("compression-type", other)),
        },
        backing_file: options.backing_file.clone(),
        backing_format: options.backing_fmt.clone(),
        ..default
    };
    crate::qcow2::create(&file, &create).await
}

/// Makes an image in a file, over a backing file, as the snapshot commands do.
pub(super) async fn create_overlay(
    graph: &BlockGraph,
    filename: &str,
    format: Format,
    size: u64,
    backing: (&str, &str),
) -> Result<()> {
    let file = graph.context().fs()?.create(filename).await?;
    let options = CreateOptions {
        size,
        backing_file: Some(backing.0.into()),
        backing_format: Some(backing.1.into()),
        ..CreateOptions::default()
    };
    if format != Format::Qcow2 {
        return Err(BlockError::Invalid(format!(
            "Format '{}' cannot be made by this command; use blockdev-create",
            format.name()
        )));
    }
    crate::img::create(graph, file, format, &options).await
}
