//! Opening images for a tool: files, formats, chains, secrets.

use super::{Fail, args::key_values};
use crate::host::NativeFs;
use orrery_block::crypto::HashAlg;
use orrery_block::formats::ImageHandle;
use orrery_block::formats::create::Host;
use orrery_block::graph::{BlockGraph, Node};
use orrery_block::host::{BlockFile, HostFs, LockMode};
use orrery_block::qcow2::Qcow2Options;
use orrery_block::{BlockError, Format, Op, OpenOptions};
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

impl HostFs for ToolFs {
    fn open(&self, name: &str, write: bool) -> Op<Arc<dyn BlockFile>> {
        match std::fs::OpenOptions::new().read(true).write(write).open(name) {
            Err(e) => Op::err(BlockError::Host(format!("Could not open '{name}': {}", words(&e)))),
            Ok(file) if file.metadata().is_ok_and(|m| m.is_dir()) => {
                drop(file);
                Op::err(BlockError::Host(format!(
                    "Could not open '{name}': A regular file was expected by the 'file' driver, but something else was given"
                )))
            }
            Ok(_) => NativeFs.open(name, write),
        }
    }

    fn create(&self, name: &str) -> Op<Arc<dyn BlockFile>> {
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
        use std::io::Read;
        std::fs::File::open("/dev/urandom").and_then(|mut f| f.read_exact(buf)).is_ok()
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
    let base = base.strip_prefix("file:").unwrap_or(base);
    match base.rfind('/') {
        Some(slash) => format!("{}{name}", &base[..=slash]),
        None => name.to_owned(),
    }
}

/// How to open an image.
#[derive(Clone, Default)]
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
        Self { graph: BlockGraph::new(), secrets: BTreeMap::new() }
    }

    /// Runs to the end. Files finish in place, so nothing ever waits for long.
    pub(crate) fn run<T>(&self, future: impl Future<Output = T>) -> T {
        let park = || std::thread::sleep(Duration::from_millis(1));
        self.graph.executor().block_on(future, &park)
    }

    /// `--object secret,id=...,data=...`
    pub(crate) fn add_object(&mut self, text: &str) -> Result<(), Fail> {
        let pairs = key_values(text);
        let get = |name: &str| pairs.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str());
        let kind = get("qom-type").unwrap_or(text.split(',').next().unwrap_or_default());
        if kind != "secret" {
            return match kind {
                "throttle-group" | "iothread" | "main-loop" | "tls-creds-x509" => Ok(()),
                _ => Err(Fail::new(format!("invalid object type: {kind}"))),
            };
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
        let mut options: Options = spec.options.iter().cloned().collect();
        if spec.image_opts {
            options.extend(key_values(&spec.name));
        } else if let Some(json) = spec.name.strip_prefix("json:") {
            let value: Value = parse_json(json).map_err(|e| {
                Fail::new(format!(
                    "Could not open '{}': Could not parse the JSON options: {e}",
                    spec.name
                ))
            })?;
            flatten("", &value, &mut options);
        } else {
            options.insert("filename".into(), spec.name.clone());
        }
        if let Some(format) = &spec.format {
            options.entry("driver".into()).or_insert_with(|| format.clone());
        }
        let result = self.run(self.open_options(options, spec.clone()));
        result.map_err(|text| {
            let shown = &spec.name;
            match text.starts_with("Could not open '") || text.starts_with('\u{1}') {
                true => Fail::new(text.trim_start_matches('\u{1}').to_owned()),
                false => Fail::new(format!("Could not open '{shown}': {text}")),
            }
        })
    }

    fn open_options<'a>(
        &'a self,
        mut options: Options,
        spec: Spec,
    ) -> Pin<Box<dyn Future<Output = Result<Image, String>> + 'a>> {
        Box::pin(async move {
            let driver = options.remove("driver");
            let driver = driver.as_deref();
            let write = spec.write && options.remove("read-only").as_deref() != Some("on");
            let share = spec.share || options.remove("force-share").as_deref() == Some("on");
            let mut below = child(&mut options, "file");
            let filename = match options.remove("filename") {
                Some(name) => name,
                None => below.remove("filename").unwrap_or_default(),
            };
            if let Some(json) = filename.strip_prefix("json:") {
                let value: Value = parse_json(json)
                    .map_err(|e| format!("Could not parse the JSON options: {e}"))?;
                flatten("", &value, &mut options);
                if let Some(driver) = driver {
                    options.entry("driver".into()).or_insert_with(|| driver.into());
                }
                return self.open_options(options, spec).await;
            }
            if let Some(Err(_)) = driver
                .filter(|name| !["file", "host_device", "copy-on-read", "compress"].contains(name))
                .map(Format::from_name)
            {
                return Err(format!("\u{1}Unknown driver '{}'", driver.unwrap_or_default()));
            }
            if below.contains_key("driver")
                && !["file", "host_device"].contains(&below["driver"].as_str())
            {
                // Another layer in between.
                below.insert("filename".into(), filename.clone());
                let inner =
                    self.open_options(below, Spec { no_backing: true, ..spec.clone() }).await?;
                return self.open_format(inner.node, options, driver, write, spec, filename).await;
            }
            // Without rules there is nothing to inject: what is below does the work.
            let filename = match filename.strip_prefix("blkdebug::") {
                Some(below) => below.to_owned(),
                None => filename,
            };
            let plain = filename.strip_prefix("file:").unwrap_or(&filename).to_owned();
            if plain.is_empty() {
                return Err("The 'file' block driver requires a file name".into());
            }
            let file = ToolFs.open(&plain, write).await.map_err(|e| reason(&e))?;
            let locking = below.remove("locking").or_else(|| options.remove("locking"));
            if !share && locking.as_deref() != Some("off") {
                let mode = if write { LockMode::Write } else { LockMode::Read };
                file.lock(mode).map_err(|_| {
                    let what = if write { "write" } else { "shared \"write\"" };
                    format!(
                        "Failed to get {}lock\nIs another process using the image [{plain}]?",
                        if write { format!("\"{what}\" ") } else { format!("{what} ") }
                    )
                })?;
            }
            let file = self.graph.open_file(None, &filename, file).map_err(|e| reason(&e))?;
            if matches!(driver, Some("file" | "host_device")) {
                return Ok(Image {
                    node: file.clone(),
                    handle: None,
                    file,
                    name: spec.name,
                    backing_path: None,
                });
            }
            self.open_format(file, options, driver, write, spec, filename).await
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
            Some("copy-on-read" | "compress") | None => {
                let format = self.graph.probe(&file).await.map_err(|e| reason(&e))?;
                if format == Format::Raw && write && !spec.quiet {
                    super::warn(&format!(
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
        let mut open = OpenOptions {
            format: driver.is_some().then_some(format),
            read_only: !write,
            secret,
            no_io: spec.no_io,
            for_check: spec.for_check,
            qcow2: Qcow2Options { snapshot: spec.snapshot.clone(), ..Qcow2Options::default() },
            ..OpenOptions::default()
        };
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
        let mut image = Image { node, handle, file, name: spec.name.clone(), backing_path: None };
        let Some(handle) = image.handle.clone() else { return Ok(image) };
        let data_file = child(&mut options, "data-file");
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
            backing.insert("filename".into(), combine(&filename, &stored.name));
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
        let below = self.open_options(backing, below).await.map_err(|text| {
            let text = text.trim_start_matches('\u{1}');
            match text.starts_with("Could not open ") {
                true => format!("Could not open backing file: {text}"),
                false => format!("Could not open backing file: Could not open '{path}': {text}"),
            }
        });
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
