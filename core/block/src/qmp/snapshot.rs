//! Commands that take external snapshots.

use super::args::*;
use super::node::create_overlay;
use super::{Answer, Monitor, QmpError};
use crate::formats::{Change, Image};
use crate::graph::Node;
use crate::open::Format;
use crate::options::NodeOptions;
use crate::qcow2::Snapshot;
use serde_json::json;
use std::sync::Arc;

impl Monitor {
    pub(super) async fn blockdev_snapshot(&self, args: SnapshotArgs) -> Answer<Nothing> {
        let (node, overlay) = (self.node(&args.node)?, self.node(&args.overlay)?);
        let _drained = self.graph().drain(&node).await;
        self.put_overlay(&node, &overlay)?;
        self.settle_snapshot(&node).await;
        Ok(Nothing {})
    }

    /// Puts `overlay` on `node`, for everybody who used `node`. The caller has drained both.
    pub(super) fn put_overlay(&self, node: &Arc<Node>, overlay: &Arc<Node>) -> Answer<()> {
        if overlay.users().iter().any(|edge| edge.parent().is_none()) {
            return Err(QmpError::generic(format!(
                "The overlay '{}' is already in use",
                overlay.name()
            )));
        }
        if overlay.backing().is_some() {
            return Err(QmpError::generic("The overlay already has a backing image"));
        }
        self.graph().set_backing(overlay, Some(node))?;
        if let Err(error) = self.graph().replace_node(node, overlay) {
            self.graph().set_backing(overlay, None)?;
            return Err(error.into());
        }
        Ok(())
    }

    /// Undoes it.
    pub(super) fn drop_overlay(&self, node: &Arc<Node>, overlay: &Arc<Node>) {
        let undone = self
            .graph()
            .set_backing(overlay, None)
            .and_then(|()| self.graph().replace_node(overlay, node));
        if let Err(error) = undone {
            tracing::warn!(%error, "snapshot could not be undone");
        }
    }

    /// What is below a snapshot is not written any more.
    pub(super) async fn settle_snapshot(&self, node: &Arc<Node>) {
        if let Err(error) = self.graph().set_read_only(node, true).await {
            tracing::debug!(%error, "stays writable");
        }
    }

    pub(super) async fn snapshot_internal(&self, args: SnapshotInternal) -> Answer<Nothing> {
        let node = self.node(&args.device)?.skip_filters();
        let image = self.internal(&node, &args.device)?;
        if args.name.is_empty() {
            return Err(QmpError::generic("Name is empty"));
        }
        if image.snapshots().iter().any(|snapshot| snapshot.name == args.name) {
            return Err(QmpError::generic(format!(
                "Snapshot with name '{}' already exists on device '{}'",
                args.name, args.device
            )));
        }
        let _drained = self.graph().drain(&node).await;
        node.flush().await?;
        let (seconds, nanoseconds) = self.graph().context().wall();
        let date = (seconds as u32, nanoseconds);
        image.change(Change::CreateSnapshot { name: args.name, date, vm_clock_nsec: 0 }).await?;
        Ok(Nothing {})
    }

    pub(super) async fn snapshot_delete_internal(
        &self,
        args: SnapshotDelete,
    ) -> Answer<SnapshotInfo> {
        let node = self.node(&args.device)?.skip_filters();
        let image = self.internal(&node, &args.device)?;
        if args.id.is_none() && args.name.is_none() {
            return Err(QmpError::generic("Name or id must be provided"));
        }
        let wanted = |snapshot: &Snapshot| {
            args.id.as_ref().is_none_or(|id| *id == snapshot.id)
                && args.name.as_ref().is_none_or(|name| *name == snapshot.name)
        };
        let found = image.snapshots().into_iter().find(|snapshot| wanted(snapshot));
        let found = found.ok_or_else(|| {
            QmpError::generic(format!(
                "Snapshot with id '{}' and name '{}' does not exist on device '{}'",
                args.id.as_deref().unwrap_or("(null)"),
                args.name.as_deref().unwrap_or("(null)"),
                args.device
            ))
        })?;
        let _drained = self.graph().drain(&node).await;
        image.change(Change::DeleteSnapshot(found.id.clone())).await?;
        Ok(SnapshotInfo {
            id: found.id,
            name: found.name,
            vm_state_size: found.vm_state_size,
            date_sec: found.date_sec.into(),
            date_nsec: found.date_nsec.into(),
            vm_clock_sec: found.vm_clock_nsec / 1_000_000_000,
            vm_clock_nsec: found.vm_clock_nsec % 1_000_000_000,
            icount: None,
        })
    }

    fn internal(&self, node: &Arc<Node>, device: &str) -> Answer<Arc<dyn Image>> {
        node.driver().image().ok_or_else(|| {
            QmpError::generic(format!(
                "Block format '{}' used by device '{device}' does not support internal snapshots",
                node.driver_name()
            ))
        })
    }

    pub(super) async fn blockdev_snapshot_sync(&self, args: SnapshotSync) -> Answer<Nothing> {
        let (node, overlay) = self.make_snapshot_file(&args).await?;
        let _drained = self.graph().drain(&node).await;
        self.put_overlay(&node, &overlay)?;
        self.settle_snapshot(&node).await;
        Ok(Nothing {})
    }

    /// Makes and opens the image of a `blockdev-snapshot-sync`.
    pub(super) async fn make_snapshot_file(
        &self,
        args: &SnapshotSync,
    ) -> Answer<(Arc<Node>, Arc<Node>)> {
        let name = match (&args.device, &args.node_name) {
            (Some(name), None) | (None, Some(name)) => name,
            _ => return Err(QmpError::generic("Need exactly one of 'device' and 'node-name'")),
        };
        let node = self.node(name)?;
        let format = Format::from_name(args.format.as_deref().unwrap_or("qcow2"))?;
        if args.mode != Some(ImageMode::Existing) {
            let backing = (node.filename(), node.driver_name());
            create_overlay(self.graph(), &args.snapshot_file, format, node.len(), backing).await?;
        }
        let mut options = json!({
            "driver": format.name(), "backing": null,
            "file": {"driver": "file", "filename": args.snapshot_file},
        });
        if let Some(name) = &args.snapshot_node_name {
            options["node-name"] = name.as_str().into();
        }
        let options = NodeOptions::from_value(options)?;
        let overlay = self.graph().open_options(&options).await?;
        Ok((node, overlay))
    }
}
