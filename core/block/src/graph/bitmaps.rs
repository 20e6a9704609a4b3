//! Bitmaps that live in the image: loaded when it is opened, stored when it is closed.

use super::{BlockGraph, Node};
use crate::Result;
use crate::bitmap::DirtyBitmap;
use crate::formats::{BitmapChange, Change, Image, Specific};
use std::sync::Arc;

/// Names, granularities and states of what an image has.
fn stored(image: &Arc<dyn Image>) -> Vec<crate::qcow2::BitmapInfo> {
    match image.facts().specific {
        Some(Specific::Qcow2(info)) => info.bitmaps,
        _ => Vec::new(),
    }
}

impl BlockGraph {
    /// Has the bitmaps of an image follow what is written to its node. They are stored again by
    /// [`BlockGraph::keep_bitmaps`].
    pub async fn follow_writes(&self, node: &Arc<Node>) -> Result<()> {
        let Some(image) = node.driver().image() else { return Ok(()) };
        let any = stored(&image).iter().any(|info| !info.in_use);
        if any && !node.read_only() && node.bitmaps().is_empty() {
            self.load_bitmaps(node).await?;
            image.change(Change::FollowBitmaps).await?;
        }
        Ok(())
    }

    /// Has the bitmaps of a node and of those behind it there to look at, also where they are not
    /// written to.
    pub async fn show_bitmaps(&self, node: &Arc<Node>) -> Result<()> {
        let mut next = Some(node.clone());
        while let Some(node) = next {
            if node.bitmaps().is_empty() {
                self.load_bitmaps(&node).await?;
            }
            next = node.filtered().or_else(|| node.backing());
        }
        Ok(())
    }

    /// Stores the bitmaps of a node where those in the image are out of date: the last change
    /// before it is closed.
    pub async fn keep_bitmaps(&self, node: &Arc<Node>) -> Result<()> {
        match node.driver().image().and_then(|image| image.facts().specific) {
            Some(Specific::Qcow2(info)) if !info.bitmaps_valid => self.store_bitmaps(node).await,
            _ => Ok(()),
        }
    }

    /// Gives a node the bitmaps of its image.
    pub(crate) async fn load_bitmaps(&self, node: &Arc<Node>) -> Result<()> {
        let Some(image) = node.driver().image() else { return Ok(()) };
        for info in stored(&image) {
            let bitmap = DirtyBitmap::new(Some(&info.name), node.len(), info.granularity.into())?;
            if info.in_use {
                bitmap.set_inconsistent();
            } else {
                let ranges = image.clone().bitmap_ranges(info.name.clone()).await?;
                bitmap.with(|bits| ranges.iter().for_each(|(at, len)| bits.set(*at, *len)));
                bitmap.set_enabled(info.auto);
            }
            bitmap.set_persistent(true);
            node.add_bitmap(bitmap)?;
        }
        Ok(())
    }

    /// Stores a node's persistent bitmaps in its image: the last change before it is closed.
    pub(crate) async fn store_bitmaps(&self, node: &Arc<Node>) -> Result<()> {
        let keep = |bitmap: &Arc<DirtyBitmap>| {
            let info = bitmap.info();
            info.persistent && !info.inconsistent
        };
        let bitmaps: Vec<_> = node.bitmaps().into_iter().filter(keep).collect();
        let Some(image) = node.driver().image().filter(|_| !bitmaps.is_empty()) else {
            return Ok(());
        };
        if node.read_only() {
            return Ok(());
        }
        for bitmap in bitmaps {
            let Some(name) = bitmap.name().map(str::to_owned) else { continue };
            self.forget_stored(&image, &name).await?;
            let (granularity, ranges) = bitmap.with(|bits| {
                let (mut ranges, mut at) = (Vec::new(), 0);
                while let Some(range) = bits.next_dirty(at, u64::MAX) {
                    ranges.push((range.start, range.end - range.start));
                    at = range.end;
                }
                (bits.granularity() as u32, ranges)
            });
            let changes = [
                BitmapChange::Add { name: name.clone(), granularity },
                BitmapChange::Merge(name.clone(), ranges),
                BitmapChange::Enable(name, bitmap.info().recording),
            ];
            for change in changes {
                image.clone().change(Change::Bitmap(change)).await?;
            }
        }
        Ok(())
    }

    /// Removes a bitmap from the image, where it is.
    pub(crate) async fn forget_stored(&self, image: &Arc<dyn Image>, name: &str) -> Result<()> {
        if stored(image).iter().any(|info| info.name == name) {
            let change = Change::Bitmap(BitmapChange::Remove(name.to_owned()));
            image.clone().change(change).await?;
        }
        Ok(())
    }
}
