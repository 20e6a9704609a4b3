//! Commands that change images: `amend`, `bitmap`, `commit`, `rebase`, `resize`, `snapshot`.

use super::create::{print_options, values, wants_help};
use super::map::stored;
use super::session::ToolFs;
use super::{
    Args, Done, Fail, Image, Progress, Session, Spec, prepare, reason, say, size_argument,
    system_words, warn,
};
use orrery_block::formats::create::{Kind, OptionSpec, Values, options, parse_size};
use orrery_block::formats::{
    Amend, AmendProgress, BitmapChange, Change, KeyAction, KeyChange, Random, StoredName,
};
use orrery_block::host::HostFs;
use orrery_block::qcow2::Preallocation;
use orrery_block::{BlockError, Format, IoBuf};
use std::sync::{Arc, Mutex, PoisonError};
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
        .run(session.close(&image.node))
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
        follow: !list,
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
    let done = change(session, &image, what);
    if done.is_err() {
        // What has been taken is leaked, not forgotten.
        let _ = session.run(image.node.close());
    }
    done.map_err(|e| {
        if action == "d" && reason(&e).starts_with("Failed to free the cluster") {
            warn(&format!("qcow2_free_clusters failed: {}", system_words(&e)));
        }
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
    let image = session.open(&Spec { follow: true, ..spec(&args, name) })?;
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
            .inspect_err(|_| warn("qemu-img: warning: Shrinking an image will delete all data beyond the shrunken image's end. Before performing such an operation, make sure there is no important data there."));
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
        session.close(&image.node).await
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
    if wants_help(&args)? {
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
                ]
                .contains(&spec.name)
            })
            .chain(KEY_SLOTS)
            .collect();
        print_options(&format!("Amend options for '{}':", format.name()), &specs);
        return Ok(());
    }
    let mut values = values(&args)?;
    let [name] = &args.rest[..] else { return Err(Fail::new("Expecting one image file name")) };
    let mut image = session.open(&spec(&args, name))?;
    if let Some(key) = key_change(session, &mut values, args.has("force"))? {
        let amend = Amend { key: Some(key), ..Amend::default() };
        change(session, &image, Change::Amend(Box::new(amend)))
            .map_err(|e| Fail::new(reason(&e)))?;
        return close(session, &image);
    }
    if image.node.driver_name() != "qcow2" {
        return Err(Fail::new(format!(
            "Format driver '{}' does not support option amendment",
            image.node.driver_name()
        )));
    }
    let failed = |text: String| Fail::new(format!("Error while amending options: {text}"));
    values.check(Format::Qcow2).map_err(|e| Fail::new(reason(&e)))?;
    let progress = Arc::new(Mutex::new(Progress::new(args.has("p"))));
    let shown = progress.clone();
    let show = AmendProgress(Some(Arc::new(move |done, total| {
        shown.lock().unwrap_or_else(PoisonError::into_inner).show(done, total);
    })));
    amend_qcow2(session, &mut image, &values, &show).map_err(|e| match e {
        BlockError::Invalid(text) => Fail::new(text),
        other => failed(errno_or_text(&other)),
    })?;
    progress.lock().unwrap_or_else(PoisonError::into_inner).end();
    close(session, &image)
}

/// Options of `amend` that `create` has not.
const KEY_SLOTS: &[OptionSpec] = &[
    OptionSpec {
        name: "encrypt.keyslot",
        kind: Kind::Number,
        help: "Select a single keyslot to modify explicitly",
        default: None,
    },
    OptionSpec {
        name: "encrypt.new-secret",
        kind: Kind::Text,
        help: "New secret to set in the matching keyslots. Empty string to erase",
        default: None,
    },
    OptionSpec {
        name: "encrypt.old-secret",
        kind: Kind::Text,
        help: "Select all keyslots that match this password",
        default: None,
    },
    OptionSpec {
        name: "encrypt.state",
        kind: Kind::Text,
        help: "Select new state of affected keyslots (active/inactive)",
        default: None,
    },
];

/// What the options say about key slots; they are taken from the others.
fn key_change(
    session: &Session,
    values: &mut Values,
    force: bool,
) -> Result<Option<KeyChange>, Fail> {
    let mut take = |name: &str| {
        let found = values.get(name).or(values.get(&format!("encrypt.{name}"))).map(str::to_owned);
        values.0.retain(|(other, _)| other.strip_prefix("encrypt.").unwrap_or(other) != name);
        found
    };
    let Some(state) = take("state") else { return Ok(None) };
    let secret = |id: Option<String>| match id {
        Some(id) => session
            .secret(&id)
            .map(Some)
            .ok_or_else(|| Fail::new(format!("No secret with id '{id}'"))),
        None => Ok(None),
    };
    let slot = match take("keyslot") {
        Some(text) => Some(
            text.parse().map_err(|_| Fail::new("Parameter 'encrypt.keyslot' expects a number"))?,
        ),
        None => None,
    };
    let millis = take("iter-time").and_then(|text| text.parse().ok()).unwrap_or(2000);
    let what = match (state.as_str(), secret(take("new-secret"))?, secret(take("old-secret"))?) {
        ("active", Some(password), _) => {
            KeyAction::Add { password, rounds: session.rounds(millis) }
        }
        ("active", None, _) => {
            return Err(Fail::new("'new-secret' is required to activate a keyslot"));
        }
        ("inactive", _, old) => KeyAction::Erase(old),
        (other, ..) => {
            return Err(Fail::new(format!(
                "Parameter 'encrypt.state' does not accept value '{other}'"
            )));
        }
    };
    let random = Random(Arc::new(|buf: &mut [u8]| {
        // (The file system of the tools always has randomness.)
        let _ = ToolFs.random(buf);
    }));
    Ok(Some(KeyChange { slot, force, random, what }))
}

fn amend_qcow2(
    session: &Session,
    image: &mut Image,
    values: &Values,
    progress: &AmendProgress,
) -> Result<(), BlockError> {
    let invalid = |text: &str| Err(BlockError::Invalid(text.into()));
    let old = image.handle.as_ref().and_then(|handle| handle.backing_name());
    for (name, now) in [
        ("backing_file", old.as_ref().map(|old| old.name.as_str())),
        ("backing_fmt", old.as_ref().and_then(|old| old.format.as_deref())),
    ] {
        if values.get(name).is_some_and(|value| Some(value) != now) {
            return invalid(
                "Cannot amend the backing file\nYou can use 'qemu-img rebase' instead.",
            );
        }
    }
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
    if bits.is_some_and(|bits| bits != 16) && version == Some(2) {
        return invalid(
            "Refcount widths other than 16 bits require compatibility level 1.1 or above (use compat=1.1 or greater)",
        );
    }
    let size = values.size("size")?;
    let newer = version.filter(|version| *version > 2);
    if bits.is_some() || newer.is_some() && size.is_some() {
        // Everything else is done in the new version, with refcounts of the new width.
        let bits = bits.map(|bits| bits as u32);
        let progress = progress.clone();
        let amend = Amend { version: newer, refcount_bits: bits, progress, ..Amend::default() };
        change(session, image, Change::Amend(Box::new(amend)))?;
        session.run(image.node.close())?;
        *image = Image { handle: None, ..image.clone() };
        let again = session.open_again(image).map_err(BlockError::Invalid)?;
        *image = again;
    }
    // The old version is the last step: it cannot do all that the new one can.
    let amend = Amend {
        version: newer,
        lazy_refcounts: lazy,
        refcount_bits: None,
        key: None,
        data_file: values.get("data_file").map(str::to_owned),
        data_file_raw: raw,
        progress: progress.clone(),
    };
    if version.is_none_or(|version| version > 2) || size.is_none() {
        change(session, image, Change::Amend(Box::new(Amend { version, ..amend.clone() })))?;
    }
    match size {
        Some(size) if size < image.node.len() => change(session, image, Change::Shrink(size))?,
        Some(size) => session.run(image.node.truncate(size))?,
        None => return Ok(()),
    }
    if version == Some(2) {
        change(session, image, Change::Amend(Box::new(Amend { version, ..amend })))?;
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
    let image = session.open(&Spec { no_backing: unsafely, follow: true, ..spec(&args, name) })?;
    let driver = image.node.driver_name();
    let format = args.get("F");
    if let Some(name) = format
        && !super::create::is_driver(name)
    {
        return Err(Fail::new(format!("Invalid format name: '{name}'")));
    }
    let packs = image.handle.as_ref().is_some_and(|handle| handle.packer().is_some());
    if (args.has("c") || args.has("compress")) && !packs {
        return Err(Fail::new("Compression not supported for this file format"));
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
                        if at + i as u64 >= old.len() {
                            image.node.write_zeroes(at + i as u64, (j - i) as u64, true).await?;
                        } else if args.has("c") || args.has("compress") {
                            // Clusters are packed as a whole.
                            let first = (at + i as u64) / unit * unit;
                            let len = unit.min(total - first);
                            let mut whole =
                                image.node.read(first, IoBuf::zeroed(len as usize)).await?;
                            let from = (at + i as u64 - first) as usize;
                            whole[from..from + (j - i)].copy_from_slice(&a[i..j]);
                            image.node.write_compressed(first, whole).await?;
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
    let unit = image.handle.as_ref().and_then(|h| h.facts().cluster_size).unwrap_or(65536);
    let result = session.run(async {
        let mut at = 0;
        while at < total {
            let s = image.node.status(at, total - at).await?;
            if !s.allocated {
                let mut done = 0;
                while done < s.len {
                    let n = (s.len - done).min(unit);
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
    let image = session.open(&Spec { follow: true, ..spec(&args, name) })?;
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
    let total = image.node.len();
    // What needs a secret has it already; everything else is opened anew.
    let secret = base_node.image_handle().is_some_and(|image| image.facts().encrypted);
    let base = if secret {
        let opened = session.run(session.graph.set_read_only(&base_node, false));
        opened.map_err(|e| Fail::new(format!("Could not open '{path}': {}", reason(&e))))?;
        base_node.clone()
    } else {
        let format = base_node.driver_name().to_owned();
        let spec = Spec {
            name: path,
            format: Some(format),
            write: true,
            share: true,
            follow: true,
            ..Spec::default()
        };
        session.open(&spec)?.node
    };
    let progress = Progress::new(args.has("p"));
    let mut emptied = Ok(());
    let result = session.run(async {
        if base.len() < total {
            base.truncate(total).await?;
        }
        let mut at = 0;
        while at < total {
            let s = stored(&image.node, Some(&base_node), at, total - at).await?.status;
            if s.allocated {
                let mut done = 0;
                while done < s.len {
                    let n = (s.len - done).min(CHUNK);
                    if s.zero {
                        base.write_zeroes(at + done, n, true).await?;
                    } else {
                        let buf = image.node.read(at + done, IoBuf::zeroed(n as usize)).await?;
                        base.write(at + done, buf).await?;
                    }
                    done += n;
                }
            }
            at += s.len;
        }
        base.flush().await?;
        session.close(&base).await?;
        if !args.has("d") && !args.has("b") {
            if let Some(handle) = &image.handle {
                match handle.change(Change::Empty).await {
                    Err(BlockError::Errno(orrery_block::errno::ENOTSUP)) | Ok(()) => {}
                    Err(error) => emptied = Err(error),
                }
            }
        }
        session.close(&image.node).await
    });
    emptied.map_err(|e| Fail::new(format!("Failed to empty {name}: {}", system_words(&e))))?;
    result.map_err(|e| Fail::new(format!("Block job failed: {}", system_words(&e))))?;
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
