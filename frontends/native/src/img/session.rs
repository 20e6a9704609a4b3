//! Opening images for a tool: files, formats, chains, secrets.

use super::{Fail, args::key_values, runtime, warn};
use crate::host::NativeFs;
use orrery_block::crypto::HashAlg;
use orrery_block::formats::ImageHandle;
use orrery_block::formats::create::Host;
use orrery_block::graph::{BlockGraph, Node};
use orrery_block::host::{BlockFile, HostFs, LockMode};
use orrery_block::qcow2::Qcow2Options;
use orrery_block::{BlockError, Format, NodeOptions, Op, OpenOptions};
use serde_json::Value;
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

/// The host's files, with errors in the words that tools use.
pub(crate) struct ToolFs;

/// The host's words for an error.
pub(crate) fn words(error: &std::io::Error) -> String {
    let text = error.to_string();
    match text.find(" (os error") {
        Some(at) => text[..at].to_owned(),
        None => text,
    }
}

impl ToolFs {
    /// Opens what the driver of this name takes: a file, or a device.
    fn open_as(
        name: &str,
        write: bool,
        driver: &str,
        direct: bool,
    ) -> orrery_block::Result<Arc<dyn BlockFile>> {
        use std::os::unix::fs::FileTypeExt;
        let error = |e| BlockError::Host(format!("Could not open '{name}': {}", words(&e)));
        let kind = std::fs::metadata(name).map_err(error)?.file_type();
        let device = kind.is_block_device() || kind.is_char_device();
        let mut options = std::fs::OpenOptions::new();
        options.read(true).write(write).open(name).map_err(error)?;
        if driver != "file" && !device {
            return Err(BlockError::Host(format!(
                "'{driver}' driver requires '{name}' to be either a character or block device"
            )));
        }
        if driver == "file" && (kind.is_dir() || kind.is_char_device()) {
            return Err(BlockError::Host(format!(
                "'file' driver requires '{name}' to be a regular file"
            )));
        }
        if direct { NativeFs::open_direct(name, write) } else { NativeFs::open_file(name, write) }
    }
}

impl HostFs for ToolFs {
    fn open(&self, name: &str, write: bool) -> Op<Arc<dyn BlockFile>> {
        let name = name.strip_prefix("file:").unwrap_or(name);
        match Self::open_as(name, write, "file", false) {
            Ok(file) => Op::ok(file),
            Err(error) => Op::err(error),
        }
    }

    fn create(&self, name: &str) -> Op<Arc<dyn BlockFile>> {
        let name = name.strip_prefix("file:").unwrap_or(name);
        let mut options = std::fs::OpenOptions::new();
        options.read(true).write(true).create(true).truncate(true);
        match options.open(name) {
            Err(e) => {
                Op::err(BlockError::Host(format!("Could not create '{name}': {}", words(&e))))
            }
            Ok(_) => NativeFs.create(name),
        }
    }

    fn random(&self, buf: &mut [u8]) -> bool {
        NativeFs.random(buf)
    }

    fn resolve(&self, base: &str, name: &str) -> String {
        combine(base, name)
    }
}

/// The path that a name stored in `base` stands for.
pub(crate) fn combine(base: &str, name: &str) -> String {
    let protocol = name.find(':').is_some_and(|colon| !name[..colon].contains('/'));
    if name.starts_with('/') || protocol {
        return name.to_owned();
    }
    let plain = if base.starts_with("file:") { plain_name(base) } else { base.to_owned() };
    let base = plain.as_str();
    match base.rfind('/') {
        Some(slash) => format!("{}{name}", &base[..=slash]),
        // A file whose name looks like that of a protocol.
        None if base.contains(':') && std::path::Path::new(base).exists() => format!("./{name}"),
        None => name.to_owned(),
    }
}

/// A file's name without its protocol, such that it is not taken for one.
pub(crate) fn plain_name(name: &str) -> String {
    let name = name.strip_prefix("file:").unwrap_or(name);
    let protocol = name.find(':').is_some_and(|colon| !name[..colon].contains('/'));
    if protocol { format!("./{name}") } else { name.to_owned() }
}

/// How to open an image.
#[derive(Clone, Default, PartialEq)]
pub(crate) struct Spec {
    pub(crate) name: String,
    pub(crate) format: Option<String>,
    /// The name is a list of options.
    pub(crate) image_opts: bool,
    pub(crate) options: Vec<(String, String)>,
    pub(crate) write: bool,
    pub(crate) no_backing: bool,
    pub(crate) no_io: bool,
    pub(crate) for_check: bool,
    pub(crate) share: bool,
    pub(crate) snapshot: Option<String>,
    pub(crate) quiet: bool,
    pub(crate) copy_on_read: bool,
    /// Its bitmaps note what is written.
    pub(crate) follow: bool,
    /// Past the host's page cache.
    pub(crate) direct: bool,
}

/// An image that is open.
#[derive(Clone)]
pub(crate) struct Image {
    pub(crate) node: Arc<Node>,
    pub(crate) handle: Option<ImageHandle>,
    /// The node below the format.
    pub(crate) file: Arc<Node>,
    /// The name as the user gave it.
    pub(crate) name: String,
    /// The backing file's name as it was opened.
    pub(crate) backing_path: Option<String>,
}

pub(crate) type Options = BTreeMap<String, String>;

/// Everything that one run of a tool works with.
pub(crate) struct Session {
    host: crate::block::Host,
    pub(crate) graph: BlockGraph,
    secrets: BTreeMap<String, Arc<[u8]>>,
}

fn flatten(prefix: &str, value: &Value, out: &mut Options) {
    let join = |name: &str| match prefix {
        "" => name.to_owned(),
        _ => format!("{prefix}.{name}"),
    };
    match value {
        Value::Object(map) => map.iter().for_each(|(name, value)| flatten(&join(name), value, out)),
        Value::Array(list) => {
            list.iter()
                .enumerate()
                .for_each(|(i, value)| flatten(&join(&i.to_string()), value, out));
        }
        Value::String(text) => drop(out.insert(prefix.to_owned(), text.clone())),
        Value::Bool(on) => {
            drop(out.insert(prefix.to_owned(), if *on { "on" } else { "off" }.into()));
        }
        Value::Null => drop(out.insert(prefix.to_owned(), String::new())),
        Value::Number(n) => drop(out.insert(prefix.to_owned(), n.to_string())),
    }
}

/// Reads JSON, in which text may also stand in single quotes.
fn parse_json(text: &str) -> Result<Value, serde_json::Error> {
    let mut out = String::with_capacity(text.len());
    let mut quote = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (_, '\\') => match chars.next() {
                Some('\'') => out.push('\''),
                Some(next) => out.extend(['\\', next]),
                None => out.push('\\'),
            },
            (None, '"' | '\'') => {
                quote = Some(c);
                out.push('"');
            }
            (Some(q), c) if c == q => {
                quote = None;
                out.push('"');
            }
            (Some('\''), '"') => out.push_str("\\\""),
            _ => out.push(c),
        }
    }
    serde_json::from_str(&out)
}

/// Takes the options of a child, without their prefix.
fn child(options: &mut Options, name: &str) -> Options {
    let prefix = format!("{name}.");
    let keys: Vec<String> = options.keys().filter(|k| k.starts_with(&prefix)).cloned().collect();
    keys.into_iter()
        .filter_map(|key| options.remove(&key).map(|value| (key[prefix.len()..].to_owned(), value)))
        .collect()
}

/// What an error is called after a file's name.
pub(crate) fn reason(error: &BlockError) -> String {
    match error {
        BlockError::Corrupt(text) | BlockError::Host(text) | BlockError::Invalid(text) => {
            text.clone()
        }
        BlockError::NotFound(_) => "No such file or directory".into(),
        other => other.to_string(),
    }
}

/// The system's words for an error of a request.
pub(crate) fn system_words(error: &BlockError) -> String {
    BlockError::Errno(error.errno()).to_string()
}

impl Session {
    pub(crate) fn new() -> Self {
        let host = crate::block::Host::with_files(Arc::new(ToolFs)).expect("the host can wait");
        Self { graph: host.graph.clone(), host, secrets: BTreeMap::new() }
    }

    /// Runs to the end.
    pub(crate) fn run<T>(&self, future: impl Future<Output = T>) -> T {
        self.host.block_on(future)
    }

    /// `--object secret,id=...,data=...`
    pub(crate) fn add_object(&mut self, text: &str) -> Result<(), Fail> {
        let pairs = key_values(text);
        let get = |name: &str| pairs.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str());
        let kind = get("qom-type").unwrap_or(text.split(',').next().unwrap_or_default());
        if kind != "secret" {
            return self.graph.add_object_argument(text).map_err(|e| match &e {
                BlockError::Invalid(text) if text.contains("'qom-type'") => {
                    Fail::new(format!("invalid object type: {kind}"))
                }
                e => Fail::new(reason(e)),
            });
        }
        let id = get("id").ok_or_else(|| Fail::new("Parameter 'id' is missing"))?;
        let mut data = match (get("data"), get("file")) {
            (Some(data), _) => data.as_bytes().to_vec(),
            (None, Some(file)) => std::fs::read(file)
                .map_err(|e| Fail::new(format!("Unable to read {file}: {}", words(&e))))?,
            _ => return Err(Fail::new("Must provide 'file' or 'data' property")),
        };
        if get("format") == Some("base64") {
            data = base64(&data).ok_or_else(|| Fail::new("Base64 data is not valid"))?;
        }
        self.secrets.insert(id.to_owned(), data.into());
        Ok(())
    }

    pub(crate) fn secret(&self, id: &str) -> Option<Arc<[u8]>> {
        self.secrets.get(id).cloned()
    }

    /// Rounds of a key derivation that take so many milliseconds.
    pub(crate) fn rounds(&self, millis: u64) -> u32 {
        rounds(HashAlg::Sha256, millis)
    }

    /// What making images needs.
    pub(crate) fn with_host<T>(&self, work: impl FnOnce(&Host<'_>) -> T) -> T {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let host = Host {
            fs: &ToolFs,
            secret: &|id: &str| self.secret(id),
            rounds: &rounds,
            now: now.map_or(0, |now| now.as_secs()),
        };
        work(&host)
    }

    /// Opens an image with its backing chain.
    pub(crate) fn open(&self, spec: &Spec) -> Result<Image, Fail> {
        self.open_unnamed(spec)
            .map_err(|text| Fail::new(format!("Could not open '{}': {text}", spec.name)))
    }

    /// Closes what may have been written to.
    pub(crate) async fn close(&self, node: &Arc<Node>) -> Result<(), BlockError> {
        self.graph.keep_bitmaps(node).await?;
        node.close().await
    }

    /// Opens the format of an image again, after its file has changed.
    pub(crate) fn open_again(&self, image: &Image) -> Result<Image, String> {
        self.run(async {
            self.graph.set_read_only(&image.node, true).await.map_err(|e| reason(&e))?;
            self.graph.set_read_only(&image.node, false).await.map_err(|e| reason(&e))
        })?;
        Ok(Image { handle: image.node.image_handle(), ..image.clone() })
    }

    /// The same, with an error that does not name the image again.
    pub(crate) fn open_unnamed(&self, spec: &Spec) -> Result<Image, String> {
        let mut options: Options = spec.options.iter().cloned().collect();
        if spec.image_opts {
            options.extend(key_values(&spec.name));
        } else if !spec.name.is_empty() {
            options.insert("filename".into(), spec.name.clone());
        }
        if let Some(format) = &spec.format {
            options.entry("driver".into()).or_insert_with(|| format.clone());
        }
        self.check_switches(&spec.options)?;
        let secret = ["encrypt.key-secret", "key-secret"]
            .into_iter()
            .find_map(|key| options.get(key).map(|id| (key, id.clone())));
        let mut image = self.run(self.open_options(options, spec.clone(), false))?;
        if spec.follow {
            self.run(self.graph.follow_writes(&image.node)).map_err(|e| reason(&e))?;
        }
        if let Some(handle) = &image.handle {
            handle.facts().repairs.iter().for_each(|line| warn(line));
        }
        let described = ["json:", "file:"].iter().any(|mark| spec.name.starts_with(mark));
        if spec.image_opts || described || spec.name.is_empty() {
            image.name = match image.file.driver_name() {
                "file" => {
                    let name = plain_name(image.file.filename());
                    match secret {
                        // A name alone does not open it.
                        Some((key, id)) if spec.image_opts => {
                            let file = serde_json::json!({"driver": "file", "filename": name});
                            let mut all = serde_json::Map::new();
                            all.insert(key.into(), id.into());
                            all.insert("driver".into(), image.node.driver_name().into());
                            all.insert("file".into(), file);
                            format!("json:{}", Value::Object(all))
                        }
                        _ => name,
                    }
                }
                _ if spec.image_opts => format!("json:{{{}}}", spec.name),
                _ => image.name,
            };
        }
        Ok(image)
    }

    /// Refuses what is neither on nor off.
    pub(crate) fn check_switches(&self, options: &[(String, String)]) -> Result<(), String> {
        const SWITCHES: [&str; 8] = [
            "read-only",
            "auto-read-only",
            "force-share",
            "cache.direct",
            "cache.no-flush",
            "lazy-refcounts",
            "pass-discard-request",
            "discard-no-unref",
        ];
        for (name, value) in options {
            if SWITCHES.contains(&name.as_str()) && value != "on" && value != "off" {
                return Err(format!("Parameter '{name}' expects 'on' or 'off'"));
            }
        }
        Ok(())
    }

    /// Puts a filter on a node that keeps what is read from the backing file.
    pub(crate) fn copy_on_read(&self, node: &Arc<Node>, write: bool) -> Result<Arc<Node>, String> {
        if !write {
            return Err("Can't use copy-on-read on read-only device".into());
        }
        self.graph.own_node(node);
        let options = serde_json::json!({"driver": "copy-on-read", "file": node.name()});
        let options = NodeOptions::from_value(options).map_err(|e| reason(&e))?;
        self.run(self.graph.open_options(&options)).map_err(|e| reason(&e))
    }

    /// Opens a node from its options. `protocol`: it is what a format stands on, so nothing is
    /// guessed.
    fn open_options<'a>(
        &'a self,
        mut options: Options,
        spec: Spec,
        protocol: bool,
    ) -> Pin<Box<dyn Future<Output = Result<Image, String>> + 'a>> {
        Box::pin(async move {
            let json = options.get("filename").and_then(|name| name.strip_prefix("json:"));
            if let Some(json) = json.map(str::to_owned) {
                let value: Value = parse_json(&json)
                    .map_err(|e| format!("Could not parse the JSON options: {e}"))?;
                options.remove("filename");
                let mut described = Options::new();
                flatten("", &value, &mut described);
                described.extend(options);
                return self.open_options(described, spec, protocol).await;
            }
            // What is below does as it does, unless told.
            let direct = options.get("cache.direct").map(|value| value == "on");
            let spec = Spec { direct: direct.unwrap_or(spec.direct), ..spec };
            let driver = options.remove("driver");
            let format = driver.as_deref().and_then(|name| Format::from_name(name).ok());
            if let Some(name) = &driver
                && format.is_none()
                && name != "host_cdrom"
                && !orrery_block::driver_names().contains(&name.as_str())
            {
                return Err(format!("Unknown driver '{name}'"));
            }
            match driver.as_deref() {
                Some(name @ ("file" | "host_device" | "host_cdrom")) => {
                    self.open_file(options, &spec, name).await
                }
                Some(name) if format.is_none() => self.open_other(name, options, spec).await,
                None if protocol => {
                    let Some(name) = options.remove("filename") else {
                        return Err("The 'file' block driver requires a file name".into());
                    };
                    let meant = NodeOptions::from_filename(&name).map_err(|e| reason(&e))?;
                    let mut below = Options::new();
                    flatten("", &meant.to_value(), &mut below);
                    below.extend(options);
                    self.open_options(below, spec, true).await
                }
                // A format, named or to be guessed.
                _ => {
                    let write = spec.write && options.get("read-only").is_none_or(|on| on != "on");
                    let mut below = child(&mut options, "file");
                    if let Some(name) = options.remove("filename") {
                        below.insert("filename".into(), name);
                    }
                    if below.is_empty() {
                        return Err(match driver {
                            Some(_) => "A block device must be specified for \"file\"".into(),
                            None => "Must specify either driver or file".into(),
                        });
                    }
                    for name in ["force-share", "locking"] {
                        if let Some(value) = options.remove(name) {
                            below.entry(name.into()).or_insert(value);
                        }
                    }
                    let inner = Spec { no_backing: true, write, ..spec.clone() };
                    let below = self.open_options(below, inner, true).await?;
                    let filename = below.node.filename().to_owned();
                    let name = driver.as_deref();
                    self.open_format(below.node, options, name, write, spec, filename).await
                }
            }
        })
    }

    async fn open_file(
        &self,
        mut options: Options,
        spec: &Spec,
        driver: &str,
    ) -> Result<Image, String> {
        let filename = options.remove("filename").unwrap_or_default();
        let plain = filename.strip_prefix("file:").unwrap_or(&filename).to_owned();
        if plain.is_empty() {
            return Err(format!("The '{driver}' block driver requires a file name"));
        }
        let write = spec.write && options.get("read-only").is_none_or(|on| on != "on");
        let share = spec.share || options.remove("force-share").as_deref() == Some("on");
        let direct = options.remove("cache.direct").map_or(spec.direct, |value| value == "on");
        let file = ToolFs::open_as(&plain, write, driver, direct).map_err(|e| reason(&e))?;
        if !share && options.remove("locking").as_deref() != Some("off") {
            let mode = if write { LockMode::Write } else { LockMode::Read };
            file.lock(mode).map_err(|_| {
                let what = if write { "\"write\"" } else { "shared \"write\"" };
                format!("Failed to get {what} lock\nIs another process using the image [{plain}]?")
            })?;
        }
        let file = self.graph.open_file(None, &filename, file).map_err(|e| reason(&e))?;
        Ok(Image {
            node: file.clone(),
            handle: None,
            file,
            name: spec.name.clone(),
            backing_path: None,
        })
    }

    /// Opens a filter, or a protocol that is no file: its children first, then what the graph
    /// makes of it.
    async fn open_other(
        &self,
        driver: &str,
        mut options: Options,
        spec: Spec,
    ) -> Result<Image, String> {
        let mut names: Vec<String> = match driver {
            "blkdebug" => vec!["image".into()],
            "blkverify" => vec!["test".into(), "raw".into()],
            "copy-before-write" => vec!["file".into(), "target".into()],
            "quorum" => (0..64).map(|i| format!("children.{i}")).collect(),
            "null-co" | "null-aio" | "nbd" => Vec::new(),
            _ => vec!["file".into()],
        };
        let mut filename = options.remove("filename");
        let mut first: Option<Image> = None;
        for name in names.drain(..) {
            let mut below = child(&mut options, &name);
            if first.is_none()
                && let Some(filename) = filename.take()
            {
                below.insert("filename".into(), filename);
            }
            if below.is_empty() {
                continue;
            }
            let inner = Spec { snapshot: None, ..spec.clone() };
            // What blkdebug and blkverify stand on is a protocol.
            let protocol = matches!(driver, "blkdebug" | "blkverify");
            let image = self.open_options(below, inner, protocol && name != "test").await?;
            self.graph.own_node(&image.node);
            options.insert(name, image.node.name().to_owned());
            first.get_or_insert(image);
        }
        if spec.share {
            options.remove("force-share");
        }
        options.insert("driver".into(), driver.into());
        if !spec.write && driver != "copy-on-read" {
            options.insert("read-only".into(), "on".into());
        }
        if driver == "copy-on-read" && !spec.write {
            return Err("Block node is read-only".into());
        }
        let map = options.into_iter().map(|(name, value)| (name, Value::String(value))).collect();
        let parsed = NodeOptions::from_value(Value::Object(map)).map_err(|e| reason(&e))?;
        let node = self.graph.open_options(&parsed).await.map_err(|e| reason(&e))?;
        node.set_ignore_discard(false);
        Ok(match first {
            Some(image) => Image { node, name: spec.name, ..image },
            None => Image {
                file: node.clone(),
                node,
                handle: None,
                name: spec.name,
                backing_path: None,
            },
        })
    }

    async fn open_format(
        &self,
        file: Arc<Node>,
        mut options: Options,
        driver: Option<&str>,
        write: bool,
        spec: Spec,
        filename: String,
    ) -> Result<Image, String> {
        let format = match driver {
            None => {
                let format = self.graph.probe(&file).await.map_err(|e| reason(&e))?;
                if format == Format::Raw && write && !spec.quiet {
                    warn(&format!(
                        "WARNING: Image format was not specified for '{filename}' and probing guessed raw.\n         \
                         Automatically detecting the format is dangerous for raw images, write operations on block 0 will be restricted.\n         \
                         Specify the 'raw' format explicitly to remove the restrictions."
                    ));
                }
                format
            }
            Some(name) => Format::from_name(name).map_err(|e| reason(&e))?,
        };
        let key = if format == Format::Luks { "key-secret" } else { "encrypt.key-secret" };
        let secret = match options.remove(key) {
            // Nothing is read: it need not be known.
            Some(id) if spec.no_io => self.secret(&id),
            Some(id) => Some(self.secret(&id).ok_or_else(|| format!("No secret with id '{id}'"))?),
            None => None,
        };
        let number = |options: &mut Options, name: &str| -> Result<Option<u64>, String> {
            match options.remove(name) {
                None => Ok(None),
                Some(text) => {
                    orrery_block::formats::create::parse_size(&text).map(Some).ok_or_else(|| {
                        format!("Parameter '{name}' expects a non-negative number below 2^64")
                    })
                }
            }
        };
        let settings = if format == Format::Qcow2 {
            runtime::qcow2(&mut options, file.clone()).await?
        } else {
            Qcow2Options::default()
        };
        let mut open = OpenOptions {
            format: driver.is_some().then_some(format),
            read_only: !write,
            secret,
            no_io: spec.no_io,
            for_check: spec.for_check,
            qcow2: Qcow2Options { snapshot: spec.snapshot.clone(), ..settings },
            ..OpenOptions::default()
        };
        if let Some(text) = options.remove("force_size_calc").filter(|_| format == Format::Vpc) {
            open.vpc = serde_json::from_value(Value::String(text.clone()))
                .map_err(|_| format!("Invalid size calculation algorithm '{text}'"))?;
        }
        if format == Format::Raw {
            open.raw.offset = number(&mut options, "offset")?.unwrap_or(0);
            open.raw.size = number(&mut options, "size")?;
        }
        let node = match self.graph.open_layer(&file, &open).await {
            Ok(node) => node,
            Err(BlockError::Encrypted(_)) => {
                return Err(format!("Parameter '{key}' is required for cipher"));
            }
            Err(error) => return Err(reason(&error)),
        };
        let handle = node.image_handle();
        let image = Image { node, handle, file, name: spec.name.clone(), backing_path: None };
        let Some(handle) = image.handle.clone() else { return Ok(image) };
        let data_file = child(&mut options, "data-file");
        if data_file.keys().any(|key| key != "filename") && !spec.no_io {
            let inner = Spec { no_backing: true, write, snapshot: None, ..spec.clone() };
            let data = self.open_options(data_file, inner, false).await?;
            handle.set_extent(0, data.node).await.map_err(|e| reason(&e))?;
            return self.open_backing(image, &handle, options, spec, &filename).await;
        }
        for (index, stored) in handle.extent_names().iter().enumerate() {
            let stored = data_file.get("filename").unwrap_or(stored);
            // A data file's name counts from the folder of the program, others from the image's.
            let path = match format {
                Format::Qcow2 if !stored.is_empty() => stored.clone(),
                _ => combine(&filename, stored),
            };
            let plain = stored.find(':').is_none_or(|colon| stored[..colon].contains('/'));
            if stored.is_empty() || !plain && format == Format::Qcow2 {
                return Err("'data-file' is required for this image".into());
            }
            if spec.no_io && format == Format::Qcow2 {
                continue;
            }
            let file = ToolFs.open(&path, write).await.map_err(|e| reason(&e))?;
            let node = self.graph.open_file(None, &path, file).map_err(|e| reason(&e))?;
            handle.set_extent(index, node).await.map_err(|e| reason(&e))?;
        }
        self.open_backing(image, &handle, options, spec, &filename).await
    }

    /// Opens what an image stands on.
    async fn open_backing(
        &self,
        mut image: Image,
        handle: &ImageHandle,
        mut options: Options,
        spec: Spec,
        filename: &str,
    ) -> Result<Image, String> {
        let mut backing = child(&mut options, "backing");
        let override_none = options.get("backing").is_some_and(String::is_empty);
        let stored = handle.backing_name();
        if spec.no_backing || override_none {
            return Ok(image);
        }
        let given = !backing.is_empty();
        let Some(stored) = stored.or_else(|| given.then(Default::default)) else {
            return Ok(image);
        };
        if !backing.keys().any(|key| key.ends_with("filename")) {
            if stored.name.is_empty() {
                return Ok(image);
            }
            backing.insert("filename".into(), combine(filename, &stored.name));
        }
        if let Some(format) = &stored.format {
            if !backing.contains_key("driver") {
                backing.insert("driver".into(), format.clone());
            }
        }
        let path = backing
            .get("filename")
            .or_else(|| backing.get("file.filename"))
            .cloned()
            .unwrap_or_default();
        image.backing_path = Some(path.clone());
        let below =
            Spec { name: path.clone(), write: false, snapshot: None, options: Vec::new(), ..spec };
        if path.contains('\u{0}') {
            return Err("Could not open backing file: Invalid argument".into());
        }
        let below = self.open_options(backing, below, false).await;
        let below = below.map_err(|text| format!("Could not open backing file: {text}"));
        match below {
            Ok(below) => handle.set_backing(&below.node).map_err(|e| reason(&e))?,
            Err(text) => return Err(text),
        }
        Ok(image)
    }
}

/// Rounds of the key derivation that take so many milliseconds.
fn rounds(hash: HashAlg, millis: u64) -> u32 {
    let mut out = [0; 32];
    let start = Instant::now();
    let mut done = 0u64;
    while start.elapsed() < Duration::from_millis(20) {
        hash.pbkdf2(b"password", b"salt", 1000, &mut out);
        done += 1000;
    }
    let per_ms = done as f64 / (start.elapsed().as_secs_f64() * 1000.0);
    (per_ms * millis as f64).clamp(1000.0, f64::from(u32::MAX)) as u32
}

fn base64(text: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let (mut bits, mut word) = (0, 0u32);
    for byte in text.iter().filter(|b| !b.is_ascii_whitespace() && **b != b'=') {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        word = word << 6 | u32::from(value);
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            out.push((word >> bits) as u8);
        }
    }
    Some(out)
}
