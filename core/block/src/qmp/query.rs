//! Commands that show what there is.

use super::args::*;
use super::{Answer, Monitor};
use crate::backend::{BlockBackend, OpStats};
use crate::graph::{Node, Role};
use crate::qapi;
use serde_json::{Value, json};
use std::sync::Arc;

/// What is known about an image, from memory.
fn image_info(node: &Arc<Node>, deep: bool) -> Value {
    let mut out = json!({
        "virtual-size": node.len(), "filename": node.filename(), "format": node.driver_name(),
    });
    if let Some(image) = node.driver().image() {
        let facts = image.facts();
        if let Some(size) = facts.cluster_size {
            out["cluster-size"] = size.into();
        }
        if let Some(name) = image.backing_name() {
            out["backing-filename"] = name.name.clone().into();
            out["full-backing-filename"] =
                node.backing().map_or(name.name, |backing| backing.filename().to_owned()).into();
            if let Some(format) = name.format {
                out["backing-filename-format"] = format.into();
            }
        }
        out["dirty-flag"] = facts.dirty.into();
        if facts.encrypted {
            out["encrypted"] = true.into();
        }
        if let Some(specific) = facts.specific {
            out["format-specific"] = qapi::to_value(&specific);
        }
    }
    if deep && let Some(backing) = node.next_in_chain() {
        out["backing-image"] = image_info(&backing, true);
    }
    out
}

fn bitmaps(node: &Arc<Node>) -> Vec<Value> {
    let named = node.bitmaps().into_iter().filter(|bitmap| bitmap.name().is_some());
    named
        .map(|bitmap| {
            let info = bitmap.info();
            let mut out = json!({
                "name": bitmap.name(), "recording": info.recording,
                "persistent": info.persistent, "busy": info.busy,
                "granularity": info.granularity, "count": info.count,
            });
            if info.inconsistent {
                out["inconsistent"] = true.into();
            }
            out
        })
        .collect()
}

/// As `query-named-block-nodes` shows a node.
fn device_info(node: &Arc<Node>, flat: bool) -> Value {
    let mut depth = 0;
    let mut at = node.next_in_chain();
    while let Some(below) = at {
        depth += 1;
        at = below.next_in_chain();
    }
    let encrypted = node.driver().image().is_some_and(|image| image.facts().encrypted);
    let mut out = json!({
        "iops_rd": 0, "detect_zeroes": node.detect_zeroes(), "active": node.active(),
        "image": image_info(node, !flat), "iops_wr": 0, "ro": node.read_only(),
        "node-name": node.name(), "backing_file_depth": depth, "drv": node.driver_name(),
        "iops": 0, "bps_wr": 0, "write_threshold": node.write_threshold(),
        "encrypted": encrypted, "bps": 0, "bps_rd": 0,
        "cache": {"no-flush": node.no_flush(), "direct": false, "writeback": true},
        "file": node.filename(),
    });
    if let Some(backing) = node.next_in_chain() {
        out["backing_file"] = backing.filename().into();
    }
    let bitmaps = bitmaps(node);
    if !bitmaps.is_empty() {
        out["dirty-bitmaps"] = bitmaps.into();
    }
    out
}

fn op_stats(out: &mut Value, name: &str, stats: &OpStats) {
    out[format!("{name}_bytes")] = stats.bytes.into();
    out[format!("{name}_operations")] = stats.ops.into();
    out[format!("{name}_total_time_ns")] = stats.total_ns.into();
    out[format!("{name}_merged")] = 0.into();
    out[format!("failed_{name}_operations")] = stats.failed.into();
    out[format!("invalid_{name}_operations")] = stats.invalid.into();
}

impl Monitor {
    pub(super) async fn query_block(&self, _: Nothing) -> Answer<Vec<Value>> {
        Ok(self.drives().iter().map(|backend| self.describe_backend(backend)).collect())
    }

    /// Drives: backends that have a name, or a device.
    fn drives(&self) -> Vec<BlockBackend> {
        let mut all = self.graph().all_backends();
        all.retain(|backend| backend.name().is_some() || !backend.device().is_empty());
        all
    }

    fn describe_backend(&self, backend: &BlockBackend) -> Value {
        let mut out = json!({
            "device": backend.name().unwrap_or_default(), "locked": backend.locked(),
            "removable": backend.removable(), "type": "unknown", "qdev": backend.device(),
        });
        if backend.removable() {
            out["tray_open"] = backend.tray_open().into();
        }
        if let Some(root) = self.graph().root_of(backend) {
            out["inserted"] = device_info(&root, false);
            out["io-status"] = backend.io_status().into();
        }
        out
    }

    pub(super) async fn query_blockstats(&self, args: BlockStatsArgs) -> Answer<Vec<Value>> {
        if args.query_nodes == Some(true) {
            return Ok(self
                .graph()
                .nodes()
                .iter()
                .map(|node| json!({"node-name": node.name(), "stats": {"wr_highest_offset": 0}}))
                .collect());
        }
        let one = |backend: BlockBackend| {
            let stats = backend.stats();
            let mut shown = json!({});
            op_stats(&mut shown, "rd", &stats.read);
            op_stats(&mut shown, "wr", &stats.write);
            op_stats(&mut shown, "flush", &stats.flush);
            op_stats(&mut shown, "unmap", &stats.discard);
            shown["wr_highest_offset"] = stats.highest_write.into();
            for (name, histogram) in ["rd", "wr", "flush"].iter().zip(backend.histograms()) {
                if let Some(histogram) = histogram {
                    shown[format!("{name}_latency_histogram")] =
                        json!({"boundaries": histogram.boundaries, "bins": histogram.bins});
                }
            }
            let root = self.graph().root_of(&backend);
            json!({
                "device": backend.name().unwrap_or_default(), "qdev": backend.device(), "stats": shown,
                "node-name": root.map(|root| root.name().to_owned()),
            })
        };
        Ok(self.drives().into_iter().map(one).collect())
    }

    pub(super) async fn query_nodes(&self, args: QueryNodes) -> Answer<Vec<Value>> {
        let flat = args.flat.unwrap_or(false);
        let mut nodes = self.graph().nodes();
        nodes.reverse();
        Ok(nodes.iter().map(|node| device_info(node, flat)).collect())
    }

    pub(super) async fn query_graph(&self, _: Nothing) -> Answer<Value> {
        let (mut nodes, mut edges) = (Vec::new(), Vec::new());
        let all = self.graph().nodes();
        let number = |node: &Arc<Node>| {
            all.iter().position(|other| Arc::ptr_eq(other, node)).map_or(0, |i| i as u64 + 1)
        };
        let backends = self.graph().all_backends();
        for (i, backend) in backends.iter().enumerate() {
            let id = all.len() as u64 + 1 + i as u64;
            nodes.push(json!({
                "id": id, "type": "block-backend", "name": backend.name().unwrap_or_default(),
            }));
            if let Some(root) = self.graph().root_of(backend)
                && let Some(edge) = root.users().first()
            {
                edges.push(json!({
                    "parent": id, "child": number(&root), "name": "root",
                    "perm": edge.grant().perm.names(), "shared-perm": edge.grant().shared.names(),
                }));
            }
        }
        for node in &all {
            nodes.push(json!({"id": number(node), "type": "block-driver", "name": node.name()}));
            for edge in node.children() {
                let Some(child) = edge.node() else { continue };
                edges.push(json!({
                    "parent": number(node), "child": number(&child), "name": edge.name(),
                    "perm": edge.grant().perm.names(), "shared-perm": edge.grant().shared.names(),
                }));
                debug_assert!(edge.role() != Role::Root, "roots belong to backends");
            }
        }
        Ok(json!({"nodes": nodes, "edges": edges}))
    }
}
