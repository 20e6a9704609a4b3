//! Bitmaps of an image in its copy.

use super::{Done, Fail, Image, Session, reason, warn};
use orrery_block::formats::{BitmapChange, Change, Specific};
use orrery_block::qcow2::BitmapInfo;

fn of(image: &Image) -> Option<Vec<BitmapInfo>> {
    match image.handle.as_ref()?.facts().specific {
        Some(Specific::Qcow2(info)) => Some(info.bitmaps),
        _ => None,
    }
}

/// Bytes that an image's bitmaps take in a copy with clusters of this size.
pub(super) fn size_of_all(image: &Image, cluster: u64) -> Option<u64> {
    let Some(Specific::Qcow2(info)) = image.handle.as_ref()?.facts().specific else { return None };
    let mut sum = 0;
    let mut directory = 0;
    for bitmap in &info.bitmaps {
        let bytes = image.node.len().div_ceil(u64::from(bitmap.granularity)).div_ceil(8);
        let clusters = bytes.div_ceil(cluster);
        sum += clusters * cluster + (clusters * 8).next_multiple_of(cluster);
        directory += (24 + bitmap.name.len() as u64).next_multiple_of(8);
    }
    Some(sum + u64::from(info.version >= 3) * directory.next_multiple_of(cluster))
}

/// The bitmaps that a copy in this format takes over. One whose bits mean nothing is an error, or
/// left out.
pub(super) fn to_copy(
    sources: &[Image],
    format: &str,
    skip_broken: bool,
) -> Result<Vec<BitmapInfo>, Fail> {
    let [source] = sources else {
        return Err(Fail::new("Copying bitmaps only possible with single source"));
    };
    if format != "qcow2" {
        return Err(Fail::new(format!("Format driver '{format}' does not support bitmaps")));
    }
    let mut list = of(source).unwrap_or_default();
    // (Those that were added last are looked at first.)
    if let Some(broken) = list.iter().rev().find(|info| info.in_use)
        && !skip_broken
    {
        return Err(Fail::new(format!(
            "Cannot copy inconsistent bitmap '{}'\nTry --skip-broken-bitmaps, or use 'qemu-img bitmap --remove' to delete it",
            broken.name
        )));
    }
    for info in list.iter().rev().filter(|info| info.in_use) {
        warn(&format!("qemu-img: warning: Skipping inconsistent bitmap '{}'", info.name));
    }
    list.retain(|info| !info.in_use);
    Ok(list)
}

/// Gives the copy the bitmaps of its source.
pub(super) fn copy(
    session: &Session,
    bitmaps: &[BitmapInfo],
    sources: &[Image],
    target: &Image,
) -> Done {
    let (Some(from), Some(to)) =
        (sources.first().and_then(|source| source.handle.as_ref()), target.handle.as_ref())
    else {
        return Ok(());
    };
    for info in bitmaps {
        let name = || info.name.clone();
        let copied = session.run(async {
            let marked = from.bitmap_ranges(&info.name).await?;
            for change in [
                BitmapChange::Add { name: name(), granularity: info.granularity },
                BitmapChange::Merge(name(), marked),
                BitmapChange::Enable(name(), info.auto),
            ] {
                to.change(Change::Bitmap(change)).await?;
            }
            Ok(())
        });
        copied.map_err(|e| {
            Fail::new(format!("Failed to populate bitmap {}: {}", info.name, reason(&e)))
        })?;
    }
    Ok(())
}
