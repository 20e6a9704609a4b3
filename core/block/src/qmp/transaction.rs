//! `transaction`: several actions at one moment, all or none.

use super::args::*;
use super::{Answer, Monitor, QmpError, read};
use crate::bitmap::{Bits, DirtyBitmap};
use crate::graph::Node;
use crate::job::{Backup, Job, Transaction};
use serde_json::Value;
use std::sync::Arc;

/// What was done, so that it can be undone.
enum Done {
    Added(Arc<Node>, Arc<DirtyBitmap>),
    Removed(Arc<Node>, Arc<DirtyBitmap>),
    Content(Arc<DirtyBitmap>, Bits),
    Enabled(Arc<DirtyBitmap>, bool),
    Backup(Arc<Job>, Arc<Backup>),
    Snapshot(Arc<Node>, Arc<Node>),
}

impl Monitor {
    pub(super) async fn transaction(&self, args: TransactionArgs) -> Answer<Nothing> {
        let mode = args.properties.and_then(|properties| properties.completion_mode);
        let grouped = mode == Some(CompletionMode::Grouped);
        let group = grouped.then(Arc::<Transaction>::default);
        let _drained = self.graph().drain_all().await;
        let mut done = Vec::new();
        for action in args.actions {
            match self.action(action, group.as_ref()).await {
                Ok(step) => done.push(step),
                Err(error) => {
                    for step in done.into_iter().rev() {
                        self.undo(step).await;
                    }
                    return Err(error);
                }
            }
        }
        for step in &done {
            match step {
                Done::Backup(job, _) => job.start(),
                Done::Snapshot(node, _) => self.settle_snapshot(node).await,
                _ => {}
            }
        }
        Ok(Nothing {})
    }

    async fn action(&self, action: Value, group: Option<&Arc<Transaction>>) -> Answer<Done> {
        let Value::Object(mut action) = action else {
            return Err(QmpError::generic(
                "Invalid parameter type for 'actions', expected: object",
            ));
        };
        let kind = match action.remove("type") {
            Some(Value::String(kind)) => kind,
            _ => return Err(QmpError::generic("Parameter 'type' is missing")),
        };
        let data = action.remove("data").unwrap_or(Value::Null);
        match kind.as_str() {
            "abort" => Err(QmpError::generic("Transaction aborted using Abort action")),
            "block-dirty-bitmap-add" => {
                let (node, bitmap) = self.make_bitmap(&read(data)?)?;
                Ok(Done::Added(node, bitmap))
            }
            "block-dirty-bitmap-remove" => {
                let BitmapName { node, name } = read(data)?;
                let (node, bitmap) = self.bitmap(&node, &name)?;
                bitmap.check(false, true)?;
                node.remove_bitmap(&bitmap);
                Ok(Done::Removed(node, bitmap))
            }
            "block-dirty-bitmap-clear" => {
                let BitmapName { node, name } = read(data)?;
                let (_, bitmap) = self.bitmap(&node, &name)?;
                bitmap.check(false, false)?;
                let old = bitmap.with(|bits| {
                    let old = bits.clone();
                    bits.clear(0, u64::MAX);
                    old
                });
                Ok(Done::Content(bitmap, old))
            }
            "block-dirty-bitmap-enable" | "block-dirty-bitmap-disable" => {
                let BitmapName { node, name } = read(data)?;
                let (_, bitmap) = self.bitmap(&node, &name)?;
                bitmap.check(false, false)?;
                let was = bitmap.info().recording;
                bitmap.set_enabled(kind == "block-dirty-bitmap-enable");
                Ok(Done::Enabled(bitmap, was))
            }
            "block-dirty-bitmap-merge" => {
                let (target, bits) = self.merged(&read(data)?)?;
                let old = target.with(|old| std::mem::replace(old, bits));
                Ok(Done::Content(target, old))
            }
            "blockdev-backup" => {
                let (job, work) = self.make_backup(read(data)?, group).await?;
                Ok(Done::Backup(job, work))
            }
            "blockdev-snapshot" => {
                let SnapshotArgs { node, overlay } = read(data)?;
                let (node, overlay) = (self.node(&node)?, self.node(&overlay)?);
                self.put_overlay(&node, &overlay)?;
                Ok(Done::Snapshot(node, overlay))
            }
            "blockdev-snapshot-sync" => {
                let (node, overlay) = self.make_snapshot_file(&read(data)?).await?;
                self.put_overlay(&node, &overlay)?;
                Ok(Done::Snapshot(node, overlay))
            }
            other => {
                Err(QmpError::generic(format!("Parameter 'type' does not accept value '{other}'")))
            }
        }
    }

    async fn undo(&self, step: Done) {
        match step {
            Done::Added(node, bitmap) => node.remove_bitmap(&bitmap),
            Done::Removed(node, bitmap) => drop(node.add_bitmap(bitmap)),
            Done::Content(bitmap, old) => bitmap.with(|bits| *bits = old),
            Done::Enabled(bitmap, was) => bitmap.set_enabled(was),
            Done::Backup(job, work) => {
                work.undo().await;
                job.discard();
            }
            Done::Snapshot(node, overlay) => self.drop_overlay(&node, &overlay),
        }
    }
}
