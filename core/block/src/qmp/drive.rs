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
        let target = Target {
            file: &args.target,
            format: args.format.as_deref(),
            mode: args.mode,
            node_name: args.node_name.as_deref(),
            sync: args.sync,
        };
        let source = self.node(&args.device)?;
        let target = self.open_target(&source, &target).await?;
        let mirror = MirrorArgs {
            job_id: args.job_id,
            device: args.device,
            target: target.name().to_owned(),
            replaces: args.replaces,
            sync: args.sync,
            speed: args.speed,
            granularity: args.granularity,
            buf_size: args.buf_size,
            on_source_error: args.on_source_error,
            on_target_error: args.on_target_error,
            filter_node_name: None,
            copy_mode: args.copy_mode,
            auto_finalize: args.auto_finalize,
            auto_dismiss: args.auto_dismiss,
            target_is_zero: Some(args.mode != Some(ImageMode::Existing)),
        };
        self.blockdev_mirror(mirror).await
    }

    pub(super) async fn drive_backup(&self, args: DriveBackup) -> Answer<Nothing> {
        let target = Target {
            file: &args.target,
            format: args.format.as_deref(),
            mode: args.mode,
            node_name: None,
            sync: args.sync,
        };
        let source = self.node(&args.device)?;
        let target = self.open_target(&source, &target).await?;
        let backup = BackupArgs {
            job_id: args.job_id,
            device: args.device,
            sync: args.sync,
            speed: args.speed,
            bitmap: args.bitmap,
            bitmap_mode: args.bitmap_mode,
            compress: args.compress,
            on_source_error: args.on_source_error,
            on_target_error: args.on_target_error,
            auto_finalize: args.auto_finalize,
            auto_dismiss: args.auto_dismiss,
            filter_node_name: args.filter_node_name,
            discard_source: args.discard_source,
            x_perf: args.x_perf,
            target: target.name().to_owned(),
        };
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
