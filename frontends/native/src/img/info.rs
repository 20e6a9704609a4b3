//! `info` and `check`.

use super::session::Image;
use super::{Args, Done, Fail, Session, Spec, human, prepare, reason, say, system_words, warn};
use orrery_block::BlockError;
use orrery_block::formats::{Facts, Specific};
use orrery_block::qcow2::{CheckResult, Qcow2Info, Repair, Snapshot};
use serde_json::{Map, Value, json};
use std::os::unix::fs::MetadataExt;

/// Bytes that the host has given to a file; a server does not say.
fn disk_size(name: &str) -> Option<u64> {
    if name.starts_with("nbd:") || name.starts_with("nbd+") || name.starts_with("nbd://") {
        return None;
    }
    Some(std::fs::metadata(name).map_or(0, |meta| meta.blocks() * 512))
}

fn disk_size_text(name: &str) -> String {
    disk_size(name).map_or("unavailable".into(), human)
}

fn qcow2_data(info: &Qcow2Info) -> Value {
    let mut out = Map::new();
    out.insert("compat".into(), if info.version < 3 { "0.10" } else { "1.1" }.into());
    out.insert(
        "compression-type".into(),
        serde_json::to_value(info.compression).unwrap_or_default(),
    );
    if info.version >= 3 {
        out.insert("lazy-refcounts".into(), info.lazy_refcounts.into());
        if !info.bitmaps.is_empty() {
            let list: Vec<_> = info
                .bitmaps
                .iter()
                .map(|bitmap| {
                    let mut flags = Vec::new();
                    if bitmap.in_use {
                        flags.push("in-use");
                    }
                    if bitmap.auto {
                        flags.push("auto");
                    }
                    json!({"flags": flags, "name": bitmap.name, "granularity": bitmap.granularity})
                })
                .collect();
            out.insert("bitmaps".into(), list.into());
        }
    }
    out.insert("refcount-bits".into(), info.refcount_bits.into());
    if let Some(encryption) = &info.encryption {
        let Ok(Value::Object(mut given)) = serde_json::to_value(encryption) else {
            return Value::Object(out);
        };
        let format = given.shift_remove("format").unwrap_or_default();
        let mut encrypt = Map::new();
        for (name, value) in given {
            if name == "cipher-mode" {
                encrypt.insert("format".into(), format.clone());
            }
            encrypt.insert(name, value);
        }
        encrypt.entry("format").or_insert(format);
        out.insert("encrypt".into(), Value::Object(encrypt));
    }
    if info.version >= 3 {
        if let Some(name) = &info.data_file {
            out.insert("data-file".into(), name.clone().into());
        }
        if info.external_data {
            out.insert("data-file-raw".into(), info.data_file_raw.into());
        }
        out.insert("corrupt".into(), info.corrupt.into());
        out.insert("extended-l2".into(), info.extended_l2.into());
    }
    Value::Object(out)
}

fn specific(facts: &Facts) -> Option<(&'static str, Value)> {
    Some(match facts.specific.as_ref()? {
        Specific::Qcow2(info) => ("qcow2", qcow2_data(info)),
        Specific::Vmdk(info) => ("vmdk", serde_json::to_value(info).unwrap_or_default()),
        Specific::Luks(info) => ("luks", serde_json::to_value(info).unwrap_or_default()),
    })
}

fn snapshot_json(snapshot: &Snapshot) -> Value {
    json!({
        "icount": snapshot.icount.unwrap_or(0),
        "vm-clock-nsec": snapshot.vm_clock_nsec % 1_000_000_000,
        "name": snapshot.name,
        "date-sec": snapshot.date_sec,
        "date-nsec": snapshot.date_nsec,
        "vm-clock-sec": snapshot.vm_clock_nsec / 1_000_000_000,
        "id": snapshot.id,
        "vm-state-size": snapshot.vm_state_size,
    })
}

fn date(seconds: u32) -> String {
    // Days since 1970 to a date, by the civil calendar.
    let days = i64::from(seconds / 86400) + 719_468;
    let era = days / 146_097;
    let day = days % 146_097;
    let year = (day - day / 1460 + day / 36524 - day / 146_096) / 365;
    let rest = day - (365 * year + year / 4 - year / 100);
    let month = (5 * rest + 2) / 153;
    let (d, m) = (rest - (153 * month + 2) / 5 + 1, if month < 10 { month + 3 } else { month - 9 });
    let y = year + era * 400 + i64::from(m <= 2);
    let s = seconds % 86400;
    format!("{y:04}-{m:02}-{d:02} {:02}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60)
}

/// The table of snapshots.
pub(super) fn snapshot_table(list: &[Snapshot]) {
    say("Snapshot list:");
    say(&format!(
        "{:<7} {:<16} {:>8} {:>19} {:>15} {:>10}",
        "ID", "TAG", "VM_SIZE", "DATE", "VM_CLOCK", "ICOUNT"
    ));
    // A name ends where the text in it does.
    let word = |name: &str| name.split('\0').next().unwrap_or_default().to_owned();
    for s in list {
        let clock = s.vm_clock_nsec / 1_000_000;
        let clock = format!(
            "{:04}:{:02}:{:02}.{:03}",
            clock / 3_600_000,
            clock / 60_000 % 60,
            clock / 1000 % 60,
            clock % 1000
        );
        let icount = s.icount.map_or(String::from("--"), |n| n.to_string());
        say(&format!(
            "{:<7} {:<16} {:>8} {:>19} {:>15} {:>10}",
            word(&s.id),
            word(&s.name),
            human(s.vm_state_size),
            date(s.date_sec),
            clock,
            icount
        ));
    }
}

fn file_json(name: &str, size: u64) -> Value {
    json!({
        "children": [],
        "virtual-size": size.next_multiple_of(512),
        "filename": name,
        "format": "file",
        "actual-size": disk_size(name),
        "format-specific": {"type": "file", "data": {}},
        "dirty-flag": false,
    })
}

fn image_json(image: &Image, facts: &Facts, snapshots: &[Snapshot]) -> Value {
    let mut out = Map::new();
    let path = image.file.filename();
    out.insert(
        "children".into(),
        json!([{"name": "file", "info": file_json(path, image.file.len())}]),
    );
    if !snapshots.is_empty() {
        out.insert("snapshots".into(), snapshots.iter().map(snapshot_json).collect());
    }
    let backing = image.handle.as_ref().and_then(|handle| handle.backing_name());
    if let Some(format) = backing.as_ref().and_then(|b| b.format.clone()) {
        out.insert("backing-filename-format".into(), format.into());
    }
    out.insert("virtual-size".into(), image.node.len().into());
    out.insert("filename".into(), image.name.clone().into());
    if let Some(size) = facts.cluster_size {
        out.insert("cluster-size".into(), size.into());
    }
    out.insert("format".into(), image.node.driver_name().into());
    if let Some(size) = disk_size(path) {
        out.insert("actual-size".into(), size.into());
    }
    if let Some((kind, data)) = specific(facts) {
        out.insert("format-specific".into(), json!({"type": kind, "data": data}));
    }
    if let Some(backing) = backing.filter(|b| !b.name.is_empty()) {
        let full = super::session::combine(path, &backing.name);
        out.insert("full-backing-filename".into(), full.into());
        out.insert("backing-filename".into(), backing.name.into());
    }
    if facts.encrypted {
        out.insert("encrypted".into(), true.into());
    }
    out.insert("dirty-flag".into(), facts.dirty.into());
    Value::Object(out)
}

/// Prints facts of a format as indented lines.
fn dump(value: &Value, depth: usize) {
    let pad = "    ".repeat(depth);
    let line = |name: &str, value: &Value| match value {
        Value::Object(_) | Value::Array(_) => {
            say(&format!("{pad}{name}:"));
            dump(value, depth + 1);
        }
        Value::String(text) => say(&format!("{pad}{name}: {text}")),
        other => say(&format!("{pad}{name}: {other}")),
    };
    match value {
        Value::Object(map) => map.iter().for_each(|(name, v)| line(&name.replace('-', " "), v)),
        Value::Array(list) => {
            list.iter().enumerate().for_each(|(i, v)| line(&format!("[{i}]"), v));
        }
        _ => {}
    }
}

fn image_text(image: &Image, facts: &Facts, snapshots: &[Snapshot]) {
    let path = image.file.filename();
    say(&format!("image: {}", image.name));
    say(&format!("file format: {}", image.node.driver_name()));
    let len = image.node.len();
    say(&format!("virtual size: {} ({len} bytes)", human(len)));
    say(&format!("disk size: {}", disk_size_text(path)));
    if facts.encrypted {
        say("encrypted: yes");
    }
    if let Some(size) = facts.cluster_size {
        say(&format!("cluster_size: {size}"));
    }
    if facts.dirty {
        say("cleanly shut down: no");
    }
    let backing = image.handle.as_ref().and_then(|handle| handle.backing_name());
    if let Some(backing) = backing {
        if !backing.name.is_empty() {
            let full = super::session::combine(path, &backing.name);
            let actual = if path.is_empty() && !full.starts_with('/') {
                " (cannot determine actual path)".into()
            } else if full == backing.name {
                String::new()
            } else {
                format!(" (actual path: {full})")
            };
            say(&format!("backing file: {}{actual}", backing.name));
        }
        if let Some(format) = backing.format {
            say(&format!("backing file format: {format}"));
        }
    }
    if !snapshots.is_empty() {
        snapshot_table(snapshots);
    }
    if let Some((_, data)) = specific(facts) {
        say("Format specific information:");
        dump(&data, 1);
    }
    let size = image.file.len();
    say(&format!(
        "Child node '/file':\n    filename: {path}\n    protocol type: file\n    file length: {} ({size} bytes)\n    disk size: {}",
        human(size),
        disk_size_text(path)
    ));
}

pub(super) fn info(session: &mut Session, args: &[String]) -> Done {
    let args = Args::parse(
        args,
        "f:Ut:h",
        &["output=", "backing-chain", "object=", "image-opts", "force-share", "limits", "help"],
    )?;
    prepare(session, &args)?;
    let json = output(&args)?;
    let [name] = &args.rest[..] else { return Err(Fail::usage("Expecting one image file name")) };
    if args.has("image-opts") && args.has("f") {
        return Err(Fail::new("--image-opts and --format are mutually exclusive"));
    }
    let mut spec = Spec {
        name: name.clone(),
        format: args.get("f").map(str::to_owned),
        image_opts: args.has("image-opts"),
        no_backing: true,
        no_io: true,
        share: args.has("U") || args.has("force-share"),
        ..Spec::default()
    };
    let chain = args.has("backing-chain");
    let mut list = Vec::new();
    let mut seen = Vec::new();
    loop {
        if seen.contains(&spec.name) {
            return Err(Fail::new(format!(
                "Backing file '{}' creates an infinite loop.",
                spec.name
            )));
        }
        seen.push(spec.name.clone());
        let image = session.open(&spec)?;
        let (facts, snapshots) =
            image.handle.as_ref().map_or_else(Default::default, |h| (h.facts(), h.snapshots()));
        let next = image
            .handle
            .as_ref()
            .and_then(|handle| handle.backing_name())
            .filter(|b| !b.name.is_empty());
        let from = image.file.filename().to_owned();
        list.push((image, facts, snapshots));
        match next.filter(|_| chain) {
            None => break,
            Some(backing) => {
                spec = Spec {
                    name: super::session::combine(&from, &backing.name),
                    format: backing.format,
                    image_opts: false,
                    ..spec
                };
            }
        }
    }
    if json {
        let all: Vec<_> = list.iter().map(|(i, f, s)| image_json(i, f, s)).collect();
        let value =
            if chain { Value::Array(all) } else { all.into_iter().next().unwrap_or_default() };
        print_json(&value);
    } else {
        for (i, (image, facts, snapshots)) in list.iter().enumerate() {
            if i > 0 {
                say("");
            }
            image_text(image, facts, snapshots);
        }
    }
    Ok(())
}

/// Prints JSON with four spaces.
pub(super) fn print_json(value: &Value) {
    fn walk(value: &Value, depth: usize, out: &mut String) {
        let pad = "    ".repeat(depth + 1);
        let (open, close, items): (_, _, Vec<(Option<&String>, &Value)>) = match value {
            Value::Object(map) => ('{', '}', map.iter().map(|(k, v)| (Some(k), v)).collect()),
            Value::Array(list) => ('[', ']', list.iter().map(|v| (None, v)).collect()),
            other => return out.push_str(&other.to_string()),
        };
        out.push(open);
        for (i, (key, item)) in items.iter().enumerate() {
            out.push_str(if i > 0 { ",\n" } else { "\n" });
            out.push_str(&pad);
            if let Some(key) = key {
                out.push_str(&format!("{}: ", Value::String((*key).clone())));
            }
            walk(item, depth + 1, out);
        }
        out.push('\n');
        out.push_str(&"    ".repeat(depth));
        out.push(close);
    }
    let mut out = String::new();
    walk(value, 0, &mut out);
    say(&out);
}

pub(super) fn output(args: &Args) -> Result<bool, Fail> {
    match args.get("output") {
        None | Some("human") => Ok(false),
        Some("json") => Ok(true),
        Some(_) => Err(Fail::new("--output must be used with human or json as argument.")),
    }
}

fn check_json(name: &str, format: &str, result: &CheckResult, left: (u64, u64)) -> Value {
    let mut out = Map::new();
    if result.image_end_offset > 0 {
        out.insert("image-end-offset".into(), result.image_end_offset.into());
    }
    if result.total_clusters > 0 {
        out.insert("total-clusters".into(), result.total_clusters.into());
    }
    out.insert("check-errors".into(), 0.into());
    for (key, value) in [
        ("corruptions", left.0),
        ("leaks", left.1),
        ("corruptions-fixed", result.corruptions_fixed),
        ("leaks-fixed", result.leaks_fixed),
        ("allocated-clusters", result.allocated_clusters),
    ] {
        if value > 0 {
            out.insert(key.into(), value.into());
        }
    }
    out.insert("filename".into(), name.into());
    out.insert("format".into(), format.into());
    for (key, value) in [
        ("fragmented-clusters", result.fragmented_clusters),
        ("compressed-clusters", result.compressed_clusters),
    ] {
        if value > 0 {
            out.insert(key.into(), value.into());
        }
    }
    Value::Object(out)
}

pub(super) fn check(session: &mut Session, args: &[String]) -> Done {
    let args = Args::parse(
        args,
        "f:r:T:qUh",
        &["output=", "object=", "image-opts", "force-share", "repair=", "help"],
    )?;
    prepare(session, &args)?;
    let json = output(&args)?;
    let repair = match args.get("r").or(args.get("repair")) {
        None => Repair::Nothing,
        Some("leaks") => Repair::Leaks,
        Some("all") => Repair::All,
        Some(_) => return Err(Fail::new("--repair (-r) expects 'leaks' or 'all'")),
    };
    let [name] = &args.rest[..] else { return Err(Fail::usage("Expecting one image file name")) };
    let spec = Spec {
        name: name.clone(),
        format: args.get("f").map(str::to_owned),
        image_opts: args.has("image-opts"),
        write: repair != Repair::Nothing,
        no_backing: true,
        no_io: true,
        for_check: true,
        share: args.has("U") || args.has("force-share"),
        quiet: true,
        ..Spec::default()
    };
    let image = session.open(&spec)?;
    let unsupported = || {
        if json {
            warn_check("This image format does not support checks");
        }
        Fail::new("This image format does not support checks").with_code(63)
    };
    let Some(handle) = &image.handle else { return Err(unsupported()) };
    let quiet = args.has("q");
    let result = match session.run(handle.check(repair)) {
        Ok(result) => result,
        Err(error) if reason(&error).contains("does not support checks") => {
            return Err(unsupported());
        }
        Err(error @ BlockError::TooLarge(_)) => {
            let (text, words) = (reason(&error), system_words(&error));
            return Err(Fail::new(format!("{text}\nqemu-img: Check failed: {words}")));
        }
        Err(error) => return Err(Fail::new(format!("Check failed: {}", reason(&error)))),
    };
    let fixing = repair != Repair::Nothing;
    if !quiet {
        for message in &result.messages {
            if json { warn(message) } else { say_both(message) }
        }
    }
    // What is still wrong after a repair is found by looking again.
    let mut left = (result.corruptions, result.leaks);
    let mut shown = result.clone();
    if fixing && (result.corruptions_fixed > 0 || result.leaks_fixed > 0) {
        if !json && !quiet {
            say(&format!(
                "The following inconsistencies were found and repaired:\n\n    {} leaked clusters\n    {} corruptions\n\nDouble checking the fixed image now...",
                result.leaks_fixed, result.corruptions_fixed
            ));
        }
        match session.run(handle.check(Repair::Nothing)) {
            Ok(again) => {
                left = (again.corruptions, again.leaks);
                shown = CheckResult {
                    corruptions_fixed: result.corruptions_fixed,
                    leaks_fixed: result.leaks_fixed,
                    ..again
                };
            }
            Err(_) => {
                left = (
                    result.corruptions - result.corruptions_fixed,
                    result.leaks - result.leaks_fixed,
                );
            }
        }
    }
    if json {
        print_json(&check_json(&image.name, image.node.driver_name(), &shown, left));
    } else if !quiet {
        human_check(&shown, left);
    }
    let _ = session.run(image.node.close());
    match left {
        (0, 0) => Ok(()),
        (0, _) => Err(Fail::code(3)),
        _ => Err(Fail::code(2)),
    }
}

fn warn_check(_text: &str) {}

fn say_both(message: &str) {
    warn(message);
}

fn human_check(result: &CheckResult, left: (u64, u64)) {
    if left == (0, 0) {
        say("No errors were found on the image.");
    } else {
        if left.0 > 0 {
            say(&format!(
                "\n{} errors were found on the image.\nData may be corrupted, or further writes to the image may corrupt it.",
                left.0
            ));
        }
        if left.1 > 0 {
            say(&format!(
                "\n{} leaked clusters were found on the image.\nThis means waste of disk space, but no harm to data.",
                left.1
            ));
        }
    }
    if result.total_clusters != 0 && result.allocated_clusters != 0 {
        let part = |a: u64, b: u64| a as f64 * 100.0 / b as f64;
        say(&format!(
            "{}/{} = {:.2}% allocated, {:.2}% fragmented, {:.2}% compressed clusters",
            result.allocated_clusters,
            result.total_clusters,
            part(result.allocated_clusters, result.total_clusters),
            part(result.fragmented_clusters, result.allocated_clusters),
            part(result.compressed_clusters, result.allocated_clusters),
        ));
    }
    if result.image_end_offset > 0 {
        say(&format!("Image end offset: {}", result.image_end_offset));
    }
}
