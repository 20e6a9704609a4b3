//! Commands that change images: `amend`, `bitmap`, `commit`, `rebase`, `resize`, `snapshot`.

use super::create::{print_options, values, wants_help};
use super::map::stored;
use super::{
    Args, Done, Fail, Image, Progress, Session, Spec, prepare, reason, say, size_argument,
    system_words,
};
use orrery_block::formats::create::{Values, options, parse_size};
use orrery_block::formats::{Amend, BitmapChange, Change, StoredName};
use orrery_block::qcow2::Preallocation;
use orrery_block::{BlockError, Format, IoBuf};
use std::time::SystemTime;

const CHUNK: u64 = 2 << 20;

fn spec(args: &Args, name: &str) -> Spec {
    Spec {
        name: name.to_owned(),
        format: args.get("f").map(str::to_owned),
        image_opts: args.has("image-opts"),
        write: true,
        share: args.has("U") || args.has("force-share"),
        ..Spec::default()
    }
}

fn change(session: &Session, image: &Image, what: Change) -> Result<(), BlockError> {
    match &image.handle {
        None => Err(BlockError::Errno(orrery_block::errno::ENOTSUP)),
        Some(handle) => session.run(handle.change(what)),
    }
}

fn close(session: &Session, image: &Image) -> Done {
    session
        .run(image.node.close())
        .map_err(|e| Fail::new(format!("Could not close: {}", system_words(&e))))
}

pub(super) fn snapshot(session: &mut Session, args: &[String]) -> Done {
    let args =
        Args::parse(args, "la:c:d:hqUf:", &["object=", "image-opts", "force-share", "help"])?;
    prepare(session, &args)?;
    let actions: Vec<_> =
        args.options.iter().filter(|(n, _)| ["l", "a", "c", "d"].contains(&n.as_str())).collect();
    if actions.len() > 1 {
        return Err(Fail::usage("Cannot mix '-l', '-a', '-c', '-d'"));
    }
    let [name] = &args.rest[..] else { return Err(Fail::usage("Expecting one image file name")) };
    let list = actions.first().is_none_or(|(name, _)| name == "l");
    let image = session.open(&Spec {
        write: !list,
        no_io: list,
        quiet: true,
        no_backing: list,
        ..spec(&args, name)
    })?;
    let snapshots = image.handle.as_ref().map(|handle| handle.snapshots()).unwrap_or_default();
    if list {
        if !snapshots.is_empty() {
            super::info::snapshot_table(&snapshots);
        }
        return Ok(());
    }
    let (action, target) = (actions[0].0.as_str(), actions[0].1.clone());
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let what = match action {
        "c" => Change::CreateSnapshot {
            name: target.clone(),
            date: (now.as_secs() as u32, now.subsec_nanos()),
            vm_clock_nsec: 0,
        },
        "a" => Change::ApplySnapshot(target.clone()),
        _ => Change::DeleteSnapshot(target.clone()),
    };
    let known = snapshots.iter().any(|s| s.id == target || s.name == target);
    if action == "d" && !known {
        return Err(Fail::new(format!("Could not delete snapshot '{target}': snapshot not found")));
    }
    change(session, &image, what).map_err(|e| {
        Fail::new(match action {
            "c" => format!("Could not create snapshot '{target}': {}", errno_or_text(&e)),
            "a" => format!("Could not apply snapshot '{target}': {}", errno_or_text(&e)),
            _ => format!("Could not delete snapshot '{target}': {}", errno_or_text(&e)),
        })
    })?;
    close(session, &image)
}

fn errno_or_text(e: &BlockError) -> String {
    match e {
        BlockError::NotFound(_) => "No such file or directory".into(),
        other => reason(other),
    }
}

pub(super) fn resize(session: &mut Session, args: &[String]) -> Done {
    // A size may begin with '-': it is the last argument whatever it looks like.
    let Some((size, args)) = args.split_last() else {
        return Err(Fail::usage("Not enough arguments"));
    };
    let args =
        Args::parse(args, "f:hq", &["object=", "image-opts", "preallocation=", "shrink", "help"])?;
    prepare(session, &args)?;
    let how = match args.get("preallocation") {
        None | Some("off") => Preallocation::Off,
        Some("metadata") => Preallocation::Metadata,
        Some("falloc") => Preallocation::Falloc,
        Some("full") => Preallocation::Full,
        Some(other) => return Err(Fail::new(format!("Invalid preallocation mode '{other}'"))),
    };
    let [name] = &args.rest[..] else {
        return Err(Fail::new("Expecting image file name and size"));
    };
    let (sign, text) = match size.as_bytes().first() {
        Some(b'+') => (1, &size[1..]),
        Some(b'-') => (-1, &size[1..]),
        _ => (0, size.as_str()),
    };
    let amount = parse_size(text).filter(|n| *n <= i64::MAX as u64).ok_or_else(|| {
        Fail::new(
            "Parameter 'size' expects a non-negative number below 2^64\nOptional suffix k, M, G, T, \
             P or E means kilo-, mega-, giga-, tera-, peta-\nand exabytes, respectively.",
        )
    })?;
    let image = session.open(&spec(&args, name))?;
    let old = image.node.len();
    let total = match sign {
        0 => Some(amount),
        1 => old.checked_add(amount),
        _ => old.checked_sub(amount),
    };
    let Some(total) = total.filter(|n| *n > 0 && *n <= i64::MAX as u64) else {
        return Err(Fail::new("New image size must be positive"));
    };
    if total < old && how != Preallocation::Off {
        return Err(Fail::new("Preallocation can only be used for growing images"));
    }
    if total < old && !args.has("shrink") {
        return Err(Fail::new("Use the --shrink option to perform a shrink operation."))
            .inspect_err(|_| super::warn("qemu-img: warning: Shrinking an image will delete all data beyond the shrunken image's end. Before performing such an operation, make sure there is no important data there."));
    }
    let done = session.run(async {
        if total < old && image.node.driver_name() == "qcow2" {
            if let Some(handle) = &image.handle {
                handle.change(Change::Shrink(total)).await?;
            }
        } else {
            image.node.truncate(total).await?;
        }
        if how != Preallocation::Off {
            match &image.handle {
                Some(handle) => {
                    handle.change(Change::Preallocate { from: old, to: total, how }).await?;
                }
                None if how == Preallocation::Metadata => {
                    return Err(BlockError::Invalid(
                        "Unsupported preallocation mode 'metadata'".into(),
                    ));
                }
                None => image.node.write_zeroes(old, total - old, false).await?,
            }
        }
        image.node.close().await
    });
    done.map_err(|e| Fail::new(reason(&e)))?;
    if !args.has("q") {
        say("Image resized.");
    }
    Ok(())
}

pub(super) fn amend(session: &mut Session, args: &[String]) -> Done {
    let args = Args::parse(args, "ho:f:t:pq", &["object=", "image-opts", "force", "help"])?;
    prepare(session, &args)?;
    if !args.has("o") {
        return Err(Fail::usage("Must specify options (-o)"));
    }
    let format = args.get("f").map(str::to_owned);
    if wants_help(&args) {
        let name = match (format, args.rest.first()) {
            (Some(name), _) => name,
            (None, Some(file)) => session
                .open(&Spec { no_io: true, no_backing: true, ..spec(&args, file) })?
                .node
                .driver_name()
                .to_owned(),
            (None, None) => return Err(Fail::new("Expecting one image file name")),
        };
        let format = super::create::format_of(&name)?;
        if !matches!(format, Format::Qcow2 | Format::Luks) {
            return Err(Fail::new(format!(
                "Format driver '{}' does not support option amendment",
                format.name()
            )));
        }
        let specs: Vec<_> = options(format)
            .iter()
            .filter(|spec| {
                [
                    "size",
                    "backing_file",
                    "backing_fmt",
                    "compat",
                    "data_file",
                    "data_file_raw",
                    "lazy_refcounts",
                    "refcount_bits",
                    "encrypt.iter-time",
                    "encrypt.format",
                ]
                .contains(&spec.name)
            })
            .filter(|spec| spec.name != "encrypt.format")
            .collect();
        print_options(&format!("Amend options for '{}':", format.name()), &specs);
        return Ok(());
    }
    let values = values(&args)?;
    let [name] = &args.rest[..] else { return Err(Fail::new("Expecting one image file name")) };
    let image = session.open(&spec(&args, name))?;
    if image.node.driver_name() != "qcow2" {
        return Err(Fail::new(format!(
            "Format driver '{}' does not support option amendment",
            image.node.driver_name()
        )));
    }
    let failed = |text: String| Fail::new(format!("Error while amending options: {text}"));
    values.check(Format::Qcow2).map_err(|e| Fail::new(reason(&e)))?;
    let mut progress = Progress::new(args.has("p"));
    amend_qcow2(session, &image, &values).map_err(|e| match e {
        BlockError::Invalid(text) => Fail::new(text),
        other => failed(errno_or_text(&other)),
    })?;
    progress.show(1, 1);
    progress.end();
    close(session, &image)
}

fn amend_qcow2(session: &Session, image: &Image, values: &Values) -> Result<(), BlockError> {
    let invalid = |text: &str| Err(BlockError::Invalid(text.into()));
    for name in [
        "cluster_size",
        "preallocation",
        "compression_type",
        "extended_l2",
        "encrypt.format",
        "encryption",
    ] {
        if values.get(name).is_some() {
            return Err(BlockError::Invalid(format!(
                "Invalid parameter '{name}'\nThis option is only supported for image creation"
            )));
        }
    }
    let version = match values.get("compat") {
        None => None,
        Some("0.10" | "v2") => Some(2),
        Some("1.1" | "v3") => Some(3),
        Some(other) => {
            return Err(BlockError::Invalid(format!("Unknown compatibility level {other}")));
        }
    };
    let lazy = values.get("lazy_refcounts").map(|_| values.flag("lazy_refcounts")).transpose()?;
    let raw = values.get("data_file_raw").map(|_| values.flag("data_file_raw")).transpose()?;
    let bits = values.number("refcount_bits")?;
    if let Some(bits) = bits
        && (!bits.is_power_of_two() || bits > 64)
    {
        return invalid("Refcount width must be a power of two and may not exceed 64 bits");
    }
    let amend = Amend {
        version,
        lazy_refcounts: lazy,
        refcount_bits: bits.map(|bits| bits as u32),
        data_file: values.get("data_file").map(str::to_owned),
        data_file_raw: raw,
    };
    change(session, image, Change::Amend(Box::new(amend)))?;
    if values.get("backing_file").is_some() || values.get("backing_fmt").is_some() {
        let old = image.handle.as_ref().and_then(|handle| handle.backing_name());
        let name = values
            .get("backing_file")
            .map(str::to_owned)
            .or(old.as_ref().map(|b| b.name.clone()))
            .unwrap_or_default();
        let format = values.get("backing_fmt").map(str::to_owned).or(old.and_then(|b| b.format));
        let stored = (!name.is_empty()).then_some(StoredName { name, format });
        change(session, image, Change::Backing(stored))?;
    }
    if let Some(size) = values.size("size")? {
        session.run(image.node.truncate(size))?;
    }
    Ok(())
}

pub(super) fn rebase(session: &mut Session, args: &[String]) -> Done {
    let args = Args::parse(
        args,
        "hf:F:b:upt:T:qUc",
        &["object=", "image-opts", "force-share", "compress", "help"],
    )?;
    prepare(session, &args)?;
    let [name] = &args.rest[..] else { return Err(Fail::new("Expecting one image file name")) };
    let unsafely = args.has("u");
    if !unsafely && !args.has("b") {
        return Err(Fail::usage("Use backing file (-b) option"));
    }
    let image = session.open(&Spec { no_backing: unsafely, ..spec(&args, name) })?;
    let driver = image.node.driver_name();
    let format = args.get("F");
    if let Some(name) = format
        && Format::from_name(name).is_err()
    {
        return Err(Fail::new(format!("Invalid format name: '{name}'")));
    }
    let new = args.get("b").unwrap_or_default().to_owned();
    let from = image.file.filename().to_owned();
    let progress = Progress::new(args.has("p"));
    if !unsafely {
        let below = if new.is_empty() {
            None
        } else {
            let path = super::session::combine(&from, &new);
            Some(
                session
                    .open(&Spec {
                        name: path,
                        format: format.map(str::to_owned),
                        share: true,
                        ..Spec::default()
                    })
                    .map_err(|f| {
                        Fail::new(format!(
                            "Could not open new backing file '{new}': {}",
                            f.text().replace(&format!("Could not open '{new}': "), "")
                        ))
                    })?,
            )
        };
        copy_differences(session, &image, below.as_ref(), &args)?;
    }
    let stored = (!new.is_empty())
        .then(|| StoredName { name: new.clone(), format: format.map(str::to_owned) });
    if stored.as_ref().is_some_and(|s| s.format.is_none()) {
        return Err(Fail::new(format!(
            "Could not change the backing file to '{new}': backing format must be specified"
        )));
    }
    change(session, &image, Change::Backing(stored)).map_err(|e| {
        let text = match &e {
            BlockError::NoSpace => "No space left on device".to_owned(),
            other => errno_or_text(other),
        };
        match e {
            BlockError::NoSpace => Fail::new(format!(
                "Could not change the backing file to '{new}': No space left in the file header"
            )),
            _ => Fail::new(format!("Could not change the backing file to '{new}': {text}")),
        }
    })?;
    let _ = driver;
    progress.end();
    close(session, &image)
}

/// Writes into the image what the old backing file shows and the new one does not.
fn copy_differences(session: &Session, image: &Image, new: Option<&Image>, args: &Args) -> Done {
    let Some(old) = image.node.backing() else {
        if new.is_none() {
            return Ok(());
        }
        return fill_over(session, image, new, args);
    };
    let total = image.node.len();
    let result = session.run(async {
        let mut at = 0;
        let unit =
            image.handle.as_ref().and_then(|h| h.facts().cluster_size).unwrap_or(65536).min(CHUNK);
        while at < total {
            let s = image.node.status(at, total - at).await?;
            if s.allocated {
                at += s.len;
                continue;
            }
            let end = at + s.len;
            while at < end {
                let n = (end - at).min(CHUNK);
                let a = read_zero(&old, at, n).await?;
                let b = match new {
                    Some(new) => read_zero(&new.node, at, n).await?,
                    None => vec![0; n as usize],
                };
                let mut i = 0;
                while i < n as usize {
                    let next = ((at + i as u64) / unit + 1) * unit - at;
                    let j = (next as usize).min(n as usize);
                    if a[i..j] != b[i..j] {
                        if a[i..j].iter().all(|byte| *byte == 0) {
                            image.node.write_zeroes(at + i as u64, (j - i) as u64, true).await?;
                        } else if args.has("c") || args.has("compress") {
                            image
                                .node
                                .write_compressed(at + i as u64, IoBuf::from(&a[i..j]))
                                .await?;
                        } else {
                            image.node.write(at + i as u64, IoBuf::from(&a[i..j])).await?;
                        }
                    }
                    i = j;
                }
                at += n;
            }
        }
        image.node.flush().await
    });
    result.map_err(|e: BlockError| {
        Fail::new(format!("error while writing to COW image: {}", system_words(&e)))
    })
}

fn fill_over(session: &Session, image: &Image, new: Option<&Image>, _args: &Args) -> Done {
    let total = image.node.len();
    let result = session.run(async {
        let mut at = 0;
        while at < total {
            let s = image.node.status(at, total - at).await?;
            if !s.allocated {
                let mut done = 0;
                while done < s.len {
                    let n = (s.len - done).min(CHUNK);
                    let below = match new {
                        Some(new) => read_zero(&new.node, at + done, n).await?,
                        None => Vec::new(),
                    };
                    if below.iter().any(|b| *b != 0) {
                        image.node.write_zeroes(at + done, n, true).await?;
                    }
                    done += n;
                }
            }
            at += s.len;
        }
        image.node.flush().await
    });
    result.map_err(|e: BlockError| {
        Fail::new(format!("error while writing to COW image: {}", system_words(&e)))
    })
}

async fn read_zero(
    node: &orrery_block::graph::Node,
    at: u64,
    len: u64,
) -> Result<Vec<u8>, BlockError> {
    let there = node.len().saturating_sub(at).min(len);
    let mut bytes = node.read(at, IoBuf::zeroed(there as usize)).await?.into_vec();
    bytes.resize(len as usize, 0);
    Ok(bytes)
}

/// Two names of one file.
fn same_file(a: &str, b: &str) -> bool {
    let real = |name: &str| std::fs::canonicalize(name.strip_prefix("file:").unwrap_or(name)).ok();
    real(a).is_some() && real(a) == real(b)
}

pub(super) fn commit(session: &mut Session, args: &[String]) -> Done {
    let args = Args::parse(args, "f:ht:b:dpqr:", &["object=", "image-opts", "help"])?;
    prepare(session, &args)?;
    let [name] = &args.rest[..] else { return Err(Fail::usage("Expecting one image file name")) };
    let image = session.open(&spec(&args, name))?;
    let none = || Fail::new("Image does not have a backing file");
    // The chain down to the base that takes the data.
    let mut path = image.backing_path.clone().ok_or_else(none)?;
    let mut over = vec![image.node.clone()];
    if let Some(base) = args.get("b") {
        let want = super::session::combine(image.file.filename(), base);
        let mut node = image.node.clone();
        loop {
            let Some(below) = node.backing() else {
                return Err(Fail::new(format!(
                    "Did not find '{base}' in the backing chain of '{name}'"
                )));
            };
            path = below.filename().to_owned();
            if path == want || same_file(&path, &want) {
                break;
            }
            over.push(below.clone());
            node = below;
        }
    }
    let lowest = over.last().expect("never empty").clone();
    let base_node = lowest.backing().ok_or_else(none)?;
    let format = base_node.driver_name().to_owned();
    let total = image.node.len();
    let base = session.open(&Spec {
        name: path,
        format: Some(format),
        write: true,
        share: true,
        ..Spec::default()
    })?;
    let progress = Progress::new(args.has("p"));
    let mut emptied = Ok(());
    let result = session.run(async {
        if base.node.len() < total {
            base.node.truncate(total).await?;
        }
        let mut at = 0;
        while at < total {
            let s = stored(&image.node, Some(&base_node), at, total - at).await?.status;
            if s.allocated {
                let mut done = 0;
                while done < s.len {
                    let n = (s.len - done).min(CHUNK);
                    if s.zero {
                        base.node.write_zeroes(at + done, n, true).await?;
                    } else {
                        let buf = image.node.read(at + done, IoBuf::zeroed(n as usize)).await?;
                        base.node.write(at + done, buf).await?;
                    }
                    done += n;
                }
            }
            at += s.len;
        }
        base.node.flush().await?;
        base.node.close().await?;
        if !args.has("d") && !args.has("b") {
            if let Some(handle) = &image.handle {
                match handle.change(Change::Empty).await {
                    Err(BlockError::Errno(orrery_block::errno::ENOTSUP)) | Ok(()) => {}
                    Err(error) => emptied = Err(error),
                }
            }
        }
        image.node.close().await
    });
    result.map_err(|e| Fail::new(format!("Block job failed: {}", system_words(&e))))?;
    emptied.map_err(|e| Fail::new(format!("Failed to empty {name}: {}", system_words(&e))))?;
    progress.end();
    if !args.has("q") {
        say("Image committed.");
    }
    Ok(())
}

pub(super) fn bitmap(session: &mut Session, args: &[String]) -> Done {
    let args = Args::parse(
        args,
        "hb:f:F:g:U",
        &[
            "object=",
            "image-opts",
            "add",
            "remove",
            "clear",
            "enable",
            "disable",
            "merge=",
            "granularity=",
            "source-file=",
            "source-format=",
            "force-share",
            "force",
            "help",
        ],
    )?;
    prepare(session, &args)?;
    let [file, name] = &args.rest[..] else {
        return Err(Fail::usage("Expecting filename and bitmap name"));
    };
    let actions: Vec<_> = args
        .options
        .iter()
        .filter(|(n, _)| {
            ["add", "remove", "clear", "enable", "disable", "merge"].contains(&n.as_str())
        })
        .cloned()
        .collect();
    if actions.is_empty() {
        return Err(Fail::new(
            "Need at least one of --add, --remove, --clear, --enable, --disable, or --merge",
        ));
    }
    let granularity = match args.get("g").or(args.get("granularity")) {
        Some(text) if !args.has("add") => {
            let _ = text;
            return Err(Fail::new("granularity only supported with --add"));
        }
        Some(text) => size_argument("granularity", text)?,
        None => 0,
    };
    if args.has("b") && !args.has("merge") {
        return Err(Fail::new("Merge bitmap source file only supported with --merge"));
    }
    let image = session.open(&Spec { no_backing: true, ..spec(&args, file) })?;
    let source = match args.get("b").or(args.get("source-file")) {
        Some(from) => Some(session.open(&Spec {
            name: from.to_owned(),
            format: args.get("F").map(str::to_owned),
            no_backing: true,
            share: true,
            ..Spec::default()
        })?),
        None => None,
    };
    let failed = |e: &BlockError, verb: &str| {
        Fail::new(format!("Operation {verb} on bitmap {name} failed: {}", errno_or_text(e)))
    };
    for (action, value) in actions {
        let name = name.clone();
        let what = match action.as_str() {
            "add" => BitmapChange::Add {
                name,
                granularity: if granularity == 0 { 65536 } else { granularity as u32 },
            },
            "remove" => BitmapChange::Remove(name),
            "clear" => BitmapChange::Clear(name),
            "enable" => BitmapChange::Enable(name, true),
            "disable" => BitmapChange::Enable(name, false),
            _ => {
                let from = source.as_ref().unwrap_or(&image);
                let marked = match &from.handle {
                    Some(handle) => session
                        .run(handle.bitmap_ranges(&value))
                        .map_err(|e| failed(&e, "merge"))?,
                    None => return Err(failed(&BlockError::NotFound(value), "merge")),
                };
                BitmapChange::Merge(name, marked)
            }
        };
        change(session, &image, Change::Bitmap(what)).map_err(|e| failed(&e, &action))?;
    }
    close(session, &image)
}
