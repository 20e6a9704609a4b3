//! `drive-mirror` and `drive-backup`: the same jobs as `blockdev-mirror` and `blockdev-backup`, with a target that is a file name.

use super::args::*;
use super::{Answer, Monitor, QmpError};
use crate::graph::Node;
use crate::img::create;
use crate::job::SyncMode;
use crate::open::Format;
use crate::options::NodeOptions;
use crate::qcow2::CreateOptions;
use serde_json::json;
use std::sync::Arc;

/// A target: its file, what it is, and whether it is made.
struct Target<'a> {
    file: &'a str,
    format: Option<&'a str>,
    mode: Option<ImageMode>,
    node_name: Option<&'a str>,
    sync: SyncMode,
}

impl Monitor {
    pub(super) async fn drive_mirror(&self, args: DriveMirror) -> Answer<Nothing> {
        let mut base = args.base;
        let target = Target {
            file: &base.target,
            format: args.format.as_deref(),
            mode: args.mode,
            node_name: args.node_name.as_deref(),
            sync: base.sync,
        };
        let source = self.node(&base.device)?;
        // The node lives on until the job holds it.
        let node = self.open_target(&source, &target).await?;
        base.target = node.name().to_owned();
        let target_is_zero = Some(args.mode != Some(ImageMode::Existing));
        self.blockdev_mirror(MirrorArgs { base, filter_node_name: None, target_is_zero }).await
    }

    pub(super) async fn drive_backup(&self, args: DriveBackup) -> Answer<Nothing> {
        let mut backup = args.base;
        let target = Target {
            file: &backup.target,
            format: args.format.as_deref(),
            mode: args.mode,
            node_name: None,
            sync: backup.sync,
        };
        let source = self.node(&backup.device)?;
        // The node lives on until the job holds it.
        let node = self.open_target(&source, &target).await?;
        backup.target = node.name().to_owned();
        self.blockdev_backup(backup).await
    }

    /// Makes the target's image, of the source's size and, unless another is asked for, format, and opens it. Where only
    /// the top of a chain is copied it lies over what the source lies over.
    async fn open_target(&self, source: &Arc<Node>, target: &Target<'_>) -> Answer<Arc<Node>> {
        let image = source.skip_filters();
        let same = || Format::from_name(image.driver_name());
        let format = target.format.map_or_else(same, Format::from_name)?;
        let over = match target.sync {
            SyncMode::Top => image.next_in_chain(),
            SyncMode::None => Some(image.clone()),
            _ => None,
        };
        if target.mode != Some(ImageMode::Existing) {
            if over.is_some() && format != Format::Qcow2 {
                let text = format!("Format '{}' has no backing files", format.name());
                return Err(QmpError::generic(text));
            }
            let file = self.graph().context().fs()?.create(target.file).await?;
            let options = CreateOptions {
                size: source.len(),
                backing_file: over.as_ref().map(|node| node.filename().into()),
                backing_format: over.as_ref().map(|node| node.driver_name().into()),
                ..CreateOptions::default()
            };
            create(self.graph(), file, format, &options).await?;
        }
        let mut options = json!({
            "driver": format.name(), "file": {"driver": "file", "filename": target.file},
        });
        if format == Format::Qcow2 {
            options["backing"] = over.map_or(json!(null), |node| node.name().into());
        }
        if let Some(name) = target.node_name {
            options["node-name"] = name.into();
        }
        Ok(self.graph().open_options(&NodeOptions::from_value(options)?).await?)
    }
}
