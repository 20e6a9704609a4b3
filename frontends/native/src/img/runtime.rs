//! Options that say how an image is used while it is open.

use super::session::Options;
use orrery_block::IoBuf;
use orrery_block::formats::create::parse_size;
use orrery_block::graph::Node;
use orrery_block::qcow2::Qcow2Options;
use std::sync::Arc;

/// Takes a size out of the options.
pub(super) fn size(options: &mut Options, name: &str) -> Result<Option<u64>, String> {
    match options.remove(name) {
        None => Ok(None),
        Some(text) => parse_size(&text)
            .map(Some)
            .ok_or_else(|| format!("Parameter '{name}' expects a non-negative number below 2^64")),
    }
}

/// Takes the options of `qcow2` out of `options`, and refuses those that contradict each other.
pub(super) async fn qcow2(options: &mut Options, file: Arc<Node>) -> Result<Qcow2Options, String> {
    let defaults = Qcow2Options::default();
    let cache = size(options, "cache-size")?;
    let l2 = size(options, "l2-cache-size")?;
    let refcounts = size(options, "refcount-cache-size")?;
    let entry = size(options, "l2-cache-entry-size")?;
    if let Some(cache) = cache {
        if l2.is_some() && refcounts.is_some() {
            return Err(
                "cache-size, l2-cache-size and refcount-cache-size may not be set at the same time"
                    .into(),
            );
        }
        if l2.is_some_and(|l2| l2 > cache) {
            return Err("l2-cache-size may not exceed cache-size".into());
        }
        if refcounts.is_some_and(|refcounts| refcounts > cache) {
            return Err("refcount-cache-size may not exceed cache-size".into());
        }
    }
    if let Some(entry) = entry {
        let head = file.read(0, IoBuf::zeroed(file.len().min(24) as usize)).await;
        let bits = head.ok().and_then(|head| head.get(20..24).map(|b| b[3])).unwrap_or(16);
        let cluster = 1u64 << bits.clamp(9, 21);
        if !entry.is_power_of_two() || entry < 512 || entry > cluster {
            return Err(format!(
                "L2 cache entry size must be a power of two between 512 and the cluster size ({cluster})"
            ));
        }
    }
    // Entries are counted in 32 bits.
    let too_big =
        |bytes: Option<u64>, entry: u64| bytes.is_some_and(|bytes| bytes / entry > i32::MAX as u64);
    if too_big(l2, entry.unwrap_or(65536)) {
        return Err("L2 cache size too big".into());
    }
    if too_big(refcounts, 65536) {
        return Err("Refcount cache size too big".into());
    }
    let short = options.remove("overlap-check");
    let template = options.remove("overlap-check.template");
    if let (Some(a), Some(b)) = (&short, &template)
        && a != b
    {
        return Err(format!(
            "Conflicting values for qcow2 options 'overlap-check' ('{a}') and 'overlap-check.template' ('{b}')"
        ));
    }
    if let Some(value) = short.or(template)
        && !["none", "constant", "cached", "all"].contains(&value.as_str())
    {
        return Err(format!(
            "Unsupported value '{value}' for qcow2 option 'overlap-check'. Allowed are any of the following: none, constant, cached, all"
        ));
    }
    if let Some(text) = options.remove("cache-clean-interval")
        && text.parse::<u32>().is_err()
    {
        return Err("Cache clean interval too big".into());
    }
    let lazy_refcounts = options.remove("lazy-refcounts").map(|value| value == "on");
    Ok(Qcow2Options {
        lazy_refcounts,
        l2_cache_size: l2.or(cache).unwrap_or(defaults.l2_cache_size),
        refcount_cache_size: refcounts.unwrap_or(defaults.refcount_cache_size),
        ..defaults
    })
}
