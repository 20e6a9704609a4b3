//! Commands about dirty bitmaps.

use super::args::*;
use super::{Answer, Monitor, QmpError};
use crate::bitmap::{DEFAULT_GRANULARITY, DirtyBitmap};
use crate::graph::Node;
use crate::options::BitmapRef;
use sha2::{Digest, Sha256 as Hash};
use std::sync::Arc;

/// Longest name.
const MAX_NAME: usize = 1023;

impl Monitor {
    pub(super) fn bitmap(&self, node: &str, name: &str) -> Answer<(Arc<Node>, Arc<DirtyBitmap>)> {
        let node = self.node(node)?;
        let bitmap = node
            .bitmap(name)
            .ok_or_else(|| QmpError::generic(format!("Dirty bitmap '{name}' not found")))?;
        Ok((node, bitmap))
    }

    pub(super) fn make_bitmap(&self, args: &BitmapAdd) -> Answer<(Arc<Node>, Arc<DirtyBitmap>)> {
        let node = self.node(&args.node)?;
        if args.name.is_empty() {
            return Err(QmpError::generic("Bitmap name cannot be empty"));
        }
        if args.name.len() > MAX_NAME {
            return Err(QmpError::generic("Bitmap name too long"));
        }
        let persistent = args.persistent.unwrap_or(false);
        if persistent && !node.driver().stores_bitmaps() {
            return Err(QmpError::generic(format!(
                "Cannot store dirty bitmaps in file '{}'",
                node.filename()
            )));
        }
        let cluster = || {
            let image = node.driver().image();
            let cluster = image.and_then(|image| image.facts().cluster_size);
            cluster.map_or(DEFAULT_GRANULARITY, |size| size.max(4096))
        };
        let granularity = args.granularity.map_or_else(cluster, u64::from);
        let bitmap = DirtyBitmap::new(Some(&args.name), node.len(), granularity)?;
        bitmap.set_enabled(!args.disabled.unwrap_or(false));
        bitmap.set_persistent(persistent);
        node.add_bitmap(bitmap.clone())?;
        Ok((node, bitmap))
    }

    /// The union of bitmaps, for a target of this granularity.
    pub(super) fn merged(
        &self,
        args: &BitmapMerge,
    ) -> Answer<(Arc<DirtyBitmap>, crate::bitmap::Bits)> {
        let (_, target) = self.bitmap(&args.node, &args.target)?;
        target.check(false, false)?;
        let mut bits = target.with(|bits| bits.clone());
        for source in &args.bitmaps {
            let (node, name) = match source {
                BitmapSource::Here(name) => (&args.node, name),
                BitmapSource::There(BitmapRef { node, name }) => (node, name),
            };
            let (_, source) = self.bitmap(node, name)?;
            source.check(true, false)?;
            if source.with(|bits| bits.size()) != bits.size() {
                return Err(QmpError::generic(format!(
                    "Bitmaps are of different sizes (destination size is {}, source size is {}) and can't be merged",
                    bits.size(),
                    source.with(|bits| bits.size())
                )));
            }
            let other = source.with(|bits| bits.clone());
            bits.merge(&other);
        }
        Ok((target, bits))
    }

    pub(super) async fn bitmap_add(&self, args: BitmapAdd) -> Answer<Nothing> {
        self.make_bitmap(&args)?;
        Ok(Nothing {})
    }

    pub(super) async fn bitmap_remove(&self, args: BitmapName) -> Answer<Nothing> {
        let (node, bitmap) = self.bitmap(&args.node, &args.name)?;
        bitmap.check(false, true)?;
        if let Some(image) = node.driver().image().filter(|_| bitmap.info().persistent) {
            self.graph().forget_stored(&image, &args.name).await?;
        }
        node.remove_bitmap(&bitmap);
        Ok(Nothing {})
    }

    pub(super) async fn bitmap_clear(&self, args: BitmapName) -> Answer<Nothing> {
        let (_, bitmap) = self.bitmap(&args.node, &args.name)?;
        bitmap.check(false, false)?;
        bitmap.with(|bits| bits.clear(0, u64::MAX));
        Ok(Nothing {})
    }

    pub(super) async fn bitmap_enable(&self, args: BitmapName) -> Answer<Nothing> {
        let (_, bitmap) = self.bitmap(&args.node, &args.name)?;
        bitmap.check(false, false)?;
        bitmap.set_enabled(true);
        Ok(Nothing {})
    }

    pub(super) async fn bitmap_disable(&self, args: BitmapName) -> Answer<Nothing> {
        let (_, bitmap) = self.bitmap(&args.node, &args.name)?;
        bitmap.check(false, false)?;
        bitmap.set_enabled(false);
        Ok(Nothing {})
    }

    pub(super) async fn bitmap_merge(&self, args: BitmapMerge) -> Answer<Nothing> {
        let (target, bits) = self.merged(&args)?;
        target.with(|old| *old = bits);
        Ok(Nothing {})
    }

    pub(super) async fn bitmap_sha256(&self, args: BitmapName) -> Answer<Sha256> {
        let (_, bitmap) = self.bitmap(&args.node, &args.name)?;
        let bytes = bitmap.with(|bits| {
            let words = bits.bits().div_ceil(64).max(1);
            bits.bytes(0, words as usize * 8)
        });
        let hash = Hash::digest(&bytes);
        Ok(Sha256 { sha256: hash.iter().map(|byte| format!("{byte:02x}")).collect() })
    }
}
