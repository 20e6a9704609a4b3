//! Making images of any format from options in words.
//!
//! One table per format names its options, in the order in which tools report them; a typed
//! structure per format takes their values.

use super::{luks, parallels, qcow, qed, vdi, vhdx, vmdk, vpc};
use crate::crypto::luks::LuksOptions;
use crate::filter::Fixed;
use crate::graph::{BlockGraph, Node};
use crate::host::HostFs;
use crate::open::Format;
use crate::qcow2::{CreateOptions, Preallocation};
use crate::{BlockError, NodeOptions, Result, qcow2};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use std::sync::Arc;

/// What an option's value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Text.
    Text,
    /// `on` or `off`.
    Flag,
    /// Bytes, with a suffix.
    Size,
    /// A number.
    Number,
}

/// One option.
#[derive(Clone, Copy, Debug)]
pub struct OptionSpec {
    /// Name.
    pub name: &'static str,
    /// What its value is.
    pub kind: Kind,
    /// One line of help.
    pub help: &'static str,
    /// What tools report when it is not given.
    pub default: Option<&'static str>,
}

const fn opt(
    name: &'static str,
    kind: Kind,
    help: &'static str,
    default: Option<&'static str>,
) -> OptionSpec {
    OptionSpec { name, kind, help, default }
}

const SIZE: OptionSpec = opt("size", Kind::Size, "Virtual disk size", None);
const BACKING: OptionSpec = opt("backing_file", Kind::Text, "File name of a base image", None);

const RAW: &[OptionSpec] = &[SIZE];

/// What host files add to every format.
pub const FILE: &[OptionSpec] = &[
    opt("nocow", Kind::Flag, "Turn off copy-on-write (valid only on btrfs)", None),
    opt(
        "preallocation",
        Kind::Text,
        "Preallocation mode (allowed values: off, falloc, full)",
        None,
    ),
    opt("extent_size_hint", Kind::Size, "Extent size hint for the image file, 0 to disable", None),
];

const QCOW2: &[OptionSpec] = &[
    opt(
        "encryption",
        Kind::Flag,
        "Encrypt the image with format 'aes'. (Deprecated in favor of encrypt.format=aes)",
        None,
    ),
    opt(
        "encrypt.key-secret",
        Kind::Text,
        "ID of secret providing qcow AES key or LUKS passphrase",
        None,
    ),
    opt("encrypt.cipher-alg", Kind::Text, "Name of encryption cipher algorithm", None),
    opt("encrypt.cipher-mode", Kind::Text, "Name of encryption cipher mode", None),
    opt("encrypt.ivgen-alg", Kind::Text, "Name of IV generator algorithm", None),
    opt("encrypt.ivgen-hash-alg", Kind::Text, "Name of IV generator hash algorithm", None),
    opt("encrypt.hash-alg", Kind::Text, "Name of encryption hash algorithm", None),
    opt("encrypt.iter-time", Kind::Number, "Time to spend in PBKDF in milliseconds", None),
    opt("encrypt.format", Kind::Text, "Encrypt the image, format choices: 'aes', 'luks'", None),
    opt("cluster_size", Kind::Size, "qcow2 cluster size", Some("65536")),
    opt("extended_l2", Kind::Flag, "Extended L2 tables", Some("off")),
    opt(
        "preallocation",
        Kind::Text,
        "Preallocation mode (allowed values: off, metadata, falloc, full)",
        None,
    ),
    opt(
        "compression_type",
        Kind::Text,
        "Compression method used for image cluster compression",
        Some("zlib"),
    ),
    SIZE,
    opt("compat", Kind::Text, "Compatibility level (v2 [0.10] or v3 [1.1])", None),
    BACKING,
    opt("backing_fmt", Kind::Text, "Image format of the base image", None),
    opt("data_file", Kind::Text, "File name of an external data file", None),
    opt("data_file_raw", Kind::Flag, "The external data file must stay valid as a raw image", None),
    opt("lazy_refcounts", Kind::Flag, "Postpone refcount updates", Some("off")),
    opt("refcount_bits", Kind::Number, "Width of a reference count entry in bits", Some("16")),
];

const QCOW: &[OptionSpec] = &[
    SIZE,
    BACKING,
    opt("backing_fmt", Kind::Text, "Format of the backing image", None),
    opt(
        "encryption",
        Kind::Flag,
        "Encrypt the image with format 'aes'. (Deprecated in favor of encrypt.format=aes)",
        None,
    ),
    opt("encrypt.format", Kind::Text, "Encrypt the image, format choices: 'aes'", None),
    opt(
        "encrypt.key-secret",
        Kind::Text,
        "ID of the secret that provides the AES encryption key",
        None,
    ),
];

const QED: &[OptionSpec] = &[
    SIZE,
    BACKING,
    opt("backing_fmt", Kind::Text, "Image format of the base image", None),
    opt("cluster_size", Kind::Size, "Cluster size (in bytes)", Some("65536")),
    opt("table_size", Kind::Size, "L1/L2 table size (in clusters)", None),
];

const VMDK: &[OptionSpec] = &[
    SIZE,
    opt(
        "adapter_type",
        Kind::Text,
        "Virtual adapter type, can be one of ide (default), lsilogic, buslogic or legacyESX",
        None,
    ),
    BACKING,
    opt("backing_fmt", Kind::Text, "Must be 'vmdk' if present", None),
    opt("compat6", Kind::Flag, "VMDK version 6 image", Some("off")),
    opt("hwversion", Kind::Text, "VMDK hardware version", Some("undefined")),
    opt("toolsversion", Kind::Text, "VMware guest tools version", None),
    opt(
        "subformat",
        Kind::Text,
        "VMDK flat extent format, can be one of {monolithicSparse (default) | monolithicFlat | twoGbMaxExtentSparse | twoGbMaxExtentFlat | streamOptimized} ",
        None,
    ),
    opt(
        "zeroed_grain",
        Kind::Flag,
        "Enable efficient zero writes using the zeroed-grain GTE feature",
        None,
    ),
];

const VDI: &[OptionSpec] = &[
    SIZE,
    opt("static", Kind::Flag, "VDI static (pre-allocated) image", Some("off")),
    opt("preallocation", Kind::Text, "Preallocation mode", None),
];

const VHDX: &[OptionSpec] = &[
    opt("size", Kind::Size, "Virtual disk size; max of 64TB.", None),
    opt("log_size", Kind::Size, "Log size; min 1MB.", Some("1048576")),
    opt(
        "block_size",
        Kind::Size,
        "Block Size; min 1MB, max 256MB. 0 means auto-calculate based on image size.",
        Some("0"),
    ),
    opt(
        "subformat",
        Kind::Text,
        "VHDX format type, can be either 'dynamic' or 'fixed'. Default is 'dynamic'.",
        None,
    ),
    opt(
        "block_state_zero",
        Kind::Flag,
        "Force use of payload blocks of type 'ZERO'. Non-standard, but default.  Do not set to 'off' when using 'qemu-img convert' with subformat=dynamic.",
        None,
    ),
];

const VPC: &[OptionSpec] = &[
    SIZE,
    opt(
        "subformat",
        Kind::Text,
        "Type of virtual hard disk format. Supported formats are {dynamic (default) | fixed} ",
        None,
    ),
    opt(
        "force_size",
        Kind::Flag,
        "Force disk size calculation to use the actual size specified, rather than using the nearest CHS-based calculation",
        None,
    ),
];

const PARALLELS: &[OptionSpec] =
    &[SIZE, opt("cluster_size", Kind::Size, "Parallels image cluster size", Some("1048576"))];

const LUKS: &[OptionSpec] = &[
    SIZE,
    opt("key-secret", Kind::Text, "ID of the secret that provides the keyslot passphrase", None),
    opt("cipher-alg", Kind::Text, "Name of encryption cipher algorithm", None),
    opt("cipher-mode", Kind::Text, "Name of encryption cipher mode", None),
    opt("ivgen-alg", Kind::Text, "Name of IV generator algorithm", None),
    opt("ivgen-hash-alg", Kind::Text, "Name of IV generator hash algorithm", None),
    opt("hash-alg", Kind::Text, "Name of encryption hash algorithm", None),
    opt("iter-time", Kind::Number, "Time to spend in PBKDF in milliseconds", None),
    opt("detached-header", Kind::Flag, "Create a detached LUKS header", None),
];

/// The options with which an image of a format can be made; nothing when it cannot be made.
pub fn options(format: Format) -> &'static [OptionSpec] {
    match format {
        Format::Raw => RAW,
        Format::Qcow2 => QCOW2,
        Format::Qcow => QCOW,
        Format::Qed => QED,
        Format::Vmdk => VMDK,
        Format::Vdi => VDI,
        Format::Vhdx => VHDX,
        Format::Vpc => VPC,
        Format::Parallels => PARALLELS,
        Format::Luks => LUKS,
        Format::Bochs | Format::Cloop | Format::Dmg => &[],
    }
}

/// Bytes in `4k`, `1.5M`, `2T`; without a suffix, bytes.
pub fn parse_size(text: &str) -> Option<u64> {
    let text = text.trim_start();
    if let Some(hex) = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        return u64::from_str_radix(hex, 16).ok();
    }
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(split);
    let shift = match suffix {
        "" | "B" | "b" => 0,
        "K" | "k" => 10,
        "M" | "m" => 20,
        "G" | "g" => 30,
        "T" | "t" => 40,
        "P" | "p" => 50,
        "E" | "e" => 60,
        _ => return None,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() {
        return None;
    }
    let whole = whole.parse::<u64>().ok()?.checked_mul(1 << shift)?;
    if fraction.is_empty() {
        return Some(whole);
    }
    if shift == 0 && fraction.bytes().any(|b| b != b'0') {
        return None;
    }
    let part = format!("0.{fraction}").parse::<f64>().ok()?;
    whole.checked_add((part * (1u64 << shift) as f64) as u64)
}

/// Names and values, checked against a format's table.
#[derive(Clone, Debug, Default)]
pub struct Values(pub Vec<(String, String)>);

impl Values {
    /// The value given last.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().rev().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// Sets a value.
    pub fn set(&mut self, name: &str, value: impl Into<String>) {
        self.0.retain(|(n, _)| n != name);
        self.0.push((name.to_owned(), value.into()));
    }

    /// A flag.
    pub fn flag(&self, name: &str) -> Result<bool> {
        match self.get(name) {
            None | Some("off" | "no" | "false" | "n") => Ok(false),
            Some("on" | "yes" | "true" | "y") => Ok(true),
            Some(_) => {
                Err(BlockError::invalid(format!("Parameter '{name}' expects 'on' or 'off'")))
            }
        }
    }

    /// A number of bytes.
    pub fn size(&self, name: &str) -> Result<Option<u64>> {
        let Some(text) = self.get(name) else { return Ok(None) };
        if text.strip_prefix('-').is_some_and(|rest| rest.parse::<u64>().is_ok()) {
            return Err(BlockError::invalid(format!(
                "Value '{text}' is out of range for parameter '{name}'"
            )));
        }
        parse_size(text).map(Some).ok_or_else(|| {
            BlockError::invalid(format!(
                "Parameter '{name}' expects a non-negative number below 2^64\nOptional suffix k, \
                 M, G, T, P or E means kilo-, mega-, giga-, tera-, peta-\nand exabytes, respectively."
            ))
        })
    }

    /// A number.
    pub fn number(&self, name: &str) -> Result<Option<u64>> {
        let Some(text) = self.get(name) else { return Ok(None) };
        // What is below zero counts from the other end.
        let wrapped = || text.parse::<i64>().ok().map(|n| n as u64);
        text.parse()
            .ok()
            .or_else(wrapped)
            .map(Some)
            .ok_or_else(|| BlockError::invalid(format!("Parameter '{name}' expects a number")))
    }

    /// Refuses names that the format has not, and values of the wrong kind.
    pub fn check(&self, format: Format) -> Result<()> {
        for (name, _) in &self.0 {
            let specs = || options(format).iter().chain(FILE);
            let Some(spec) = specs().find(|spec| spec.name == name) else {
                return Err(BlockError::invalid(format!("Invalid parameter '{name}'")));
            };
            match spec.kind {
                Kind::Flag => drop(self.flag(name)?),
                Kind::Size => drop(self.size(name)?),
                Kind::Number => drop(self.number(name)?),
                Kind::Text => {}
            }
        }
        Ok(())
    }

    fn known<T: DeserializeOwned>(&self, name: &str, what: &str) -> Result<Option<T>> {
        let Some(text) = self.get(name) else { return Ok(None) };
        let value = Value::String(text.to_owned());
        serde_json::from_value(value).map(Some).map_err(|_| {
            BlockError::invalid(format!("Parameter '{what}' does not accept value '{text}'"))
        })
    }
}

/// What making an image needs besides its options.
pub struct Host<'a> {
    /// Files.
    pub fs: &'a dyn HostFs,
    /// Finds a secret by its name.
    pub secret: &'a (dyn Fn(&str) -> Option<Arc<[u8]>> + Sync),
    /// Rounds of the key derivation that take so many milliseconds here.
    pub rounds: &'a (dyn Fn(crate::crypto::HashAlg, u64) -> u32 + Sync),
    /// Seconds since 1970.
    pub now: u64,
}

/// What LUKS is given, with a prefix to its names.
fn luks_options(values: &Values, prefix: &str, host: &Host<'_>) -> Result<LuksOptions> {
    let mut map = Map::new();
    for name in ["cipher-alg", "cipher-mode", "ivgen-alg", "ivgen-hash-alg", "hash-alg"] {
        let full = format!("{prefix}{name}");
        if let Some(value) = values.get(&full) {
            map.insert(name.into(), Value::String(value.to_owned()));
        }
    }
    let mut options: LuksOptions = serde_json::from_value(Value::Object(map))
        .map_err(|error| BlockError::invalid(format!("Invalid parameter: {error}")))?;
    let millis = values.number(&format!("{prefix}iter-time"))?.unwrap_or(2000);
    if millis == 0 {
        return Err(BlockError::invalid("iter-time must be greater than zero"));
    }
    options.rounds = (host.rounds)(options.hash_alg, millis);
    Ok(options)
}

fn secret_of(values: &Values, name: &str, host: &Host<'_>) -> Result<Arc<[u8]>> {
    let id = values
        .get(name)
        .ok_or_else(|| BlockError::invalid(format!("Parameter '{name}' is required for cipher")))?;
    (host.secret)(id).ok_or_else(|| BlockError::invalid(format!("No secret with id '{id}'")))
}

/// Makes an empty image.
pub async fn create(
    graph: &BlockGraph,
    host: &Host<'_>,
    filename: &str,
    format: Format,
    values: &Values,
) -> Result<()> {
    values.check(format)?;
    let fs = host.fs;
    let mut weak = 0u64;
    let mut random = move |buf: &mut [u8]| {
        if !fs.random(buf) {
            // Good enough to tell images apart; secrets are refused below.
            for byte in buf {
                weak = weak.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(host.now | 1);
                *byte = (weak >> 56) as u8;
            }
        }
    };
    let may_encrypt = || match fs.random(&mut [0; 8]) {
        true => Ok(()),
        false => Err(BlockError::unsupported("the host has no randomness for keys")),
    };
    let size = values.size("size")?;
    let need_size =
        || size.ok_or_else(|| BlockError::invalid("Image creation needs a size parameter"));
    let text = |name: &str| values.get(name).map(str::to_owned);
    let preallocation =
        values.known::<Preallocation>("preallocation", "preallocation")?.unwrap_or_default();
    if format == Format::Vmdk {
        let options = vmdk_options(graph, host, filename, values, need_size()?).await?;
        return vmdk::create(graph, fs, filename, &options, &mut random).await;
    }
    let open = async || -> Result<Arc<Node>> {
        match elsewhere(filename)? {
            Some(options) => existing(graph, filename, &options).await,
            None => graph.open_file(None, filename, fs.create(filename).await?),
        }
    };
    match format {
        Format::Raw => {
            let size = need_size()?.next_multiple_of(512);
            let node = open().await?;
            node.truncate(size).await?;
            preallocate(&node, 0, size, preallocation).await?;
            node.flush().await
        }
        Format::Qcow2 => {
            let mut options = qcow2_options(values, need_size()?, preallocation)?;
            let encrypt = match (values.get("encrypt.format"), values.flag("encryption")?) {
                (Some(_), true) => {
                    return Err(BlockError::invalid(
                        "Options encryption and encrypt.format are mutually exclusive",
                    ));
                }
                (Some("luks"), _) => Some(true),
                (Some("aes"), _) | (None, true) => Some(false),
                (Some(other), _) => {
                    return Err(BlockError::invalid(format!(
                        "Parameter 'encrypt.format' does not accept value '{other}'"
                    )));
                }
                (None, false) => None,
            };
            let mut luks = None;
            if let Some(is_luks) = encrypt {
                may_encrypt()?;
                let secret = secret_of(values, "encrypt.key-secret", host)?;
                options.encrypted = true;
                if is_luks {
                    luks = Some((luks_options(values, "encrypt.", host)?, secret));
                }
            }
            let mut data = None;
            if let Some(name) = &options.data_file {
                let file = fs.create(name).await?;
                file.set_len(options.size).await?;
                data = Some(graph.open_file(None, name, file)?);
            }
            let node = open().await?;
            qcow2::create_with(&node, data.as_ref(), &options, luks.as_ref(), &mut random).await
        }
        Format::Qcow => {
            let encrypted = values.flag("encryption")? || values.get("encrypt.format").is_some();
            if encrypted {
                secret_of(values, "encrypt.key-secret", host)?;
            }
            let options = qcow::QcowCreate {
                size: need_size()?,
                backing_file: text("backing_file"),
                encrypted,
            };
            qcow::create(&*open().await?, &options).await
        }
        Format::Qed => {
            let defaults = qed::QedCreate::default();
            let options = qed::QedCreate {
                size: need_size()?,
                backing_file: text("backing_file"),
                backing_format: text("backing_fmt"),
                cluster_size: values.size("cluster_size")?.unwrap_or(defaults.cluster_size),
                table_size: values.size("table_size")?.unwrap_or(defaults.table_size),
            };
            qed::create(&*open().await?, &options).await
        }
        Format::Vdi => {
            let preallocated = values.flag("static")? || preallocation == Preallocation::Metadata;
            if !matches!(preallocation, Preallocation::Off | Preallocation::Metadata) {
                return Err(BlockError::invalid("Preallocation mode not supported for vdi"));
            }
            let options = vdi::VdiCreate { size: need_size()?.next_multiple_of(512), preallocated };
            vdi::create(&*open().await?, &options, &mut random).await
        }
        Format::Vhdx => {
            let defaults = vhdx::VhdxCreate::default();
            let options = vhdx::VhdxCreate {
                size: need_size()?.next_multiple_of(512),
                log_size: values
                    .size("log_size")?
                    .unwrap_or(defaults.log_size)
                    .next_multiple_of(1 << 20),
                block_size: values.size("block_size")?.unwrap_or(0).next_multiple_of(1 << 20),
                subformat: values.known("subformat", "subformat")?.unwrap_or_default(),
                block_state_zero: values.get("block_state_zero").is_none()
                    || values.flag("block_state_zero")?,
            };
            vhdx::create(&*open().await?, &options, &mut random).await
        }
        Format::Vpc => {
            let fixed = match values.get("subformat") {
                None | Some("dynamic") => false,
                Some("fixed") => true,
                Some(other) => {
                    return Err(BlockError::invalid(format!("Invalid parameter '{other}'")));
                }
            };
            let force_size = values.flag("force_size")?;
            let options = vpc::VpcCreate { size: need_size()?, fixed, force_size };
            vpc::create(&*open().await?, &options, host.now, &mut random).await
        }
        Format::Parallels => {
            let defaults = parallels::ParallelsCreate::default();
            let options = parallels::ParallelsCreate {
                size: need_size()?.next_multiple_of(512),
                cluster_size: values.size("cluster_size")?.unwrap_or(defaults.cluster_size),
            };
            parallels::create(&*open().await?, &options).await
        }
        Format::Luks => {
            may_encrypt()?;
            let secret = secret_of(values, "key-secret", host)?;
            let options = luks_options(values, "", host)?;
            let size = need_size()?.next_multiple_of(512);
            luks::create(&*open().await?, size, &options, &secret, &mut random).await
        }
        Format::Vmdk => unreachable!("made above"),
        Format::Bochs | Format::Cloop | Format::Dmg => Err(BlockError::unsupported(format!(
            "Format driver '{}' does not support image creation",
            format.name()
        ))),
    }
}

/// Storage that is there and cannot be made: an export of a server.
fn elsewhere(filename: &str) -> Result<Option<NodeOptions>> {
    if !filename.starts_with("nbd:") && !filename.starts_with("nbd+") {
        return Ok(None);
    }
    NodeOptions::from_filename(filename).map(Some)
}

/// Opens such storage for an image. What it held is not an image any more.
async fn existing(graph: &BlockGraph, filename: &str, options: &NodeOptions) -> Result<Arc<Node>> {
    let node = graph.open_options(options).await?;
    let head = node.len().min(512);
    node.write_zeroes(0, head, true).await?;
    graph.add_node(None, filename, Fixed::new(&node)?)
}

/// Gives a range of a file its storage.
pub(crate) async fn preallocate(node: &Node, from: u64, to: u64, how: Preallocation) -> Result<()> {
    match how {
        Preallocation::Off | Preallocation::Metadata => Ok(()),
        Preallocation::Falloc | Preallocation::Full if from < to => {
            node.write_zeroes(from, to - from, false).await
        }
        _ => Ok(()),
    }
}

fn qcow2_options(
    values: &Values,
    size: u64,
    preallocation: Preallocation,
) -> Result<CreateOptions> {
    let text = |name: &str| values.get(name).map(str::to_owned);
    let version = match values.get("compat") {
        None | Some("1.1" | "v3") => 3,
        Some("0.10" | "v2") => 2,
        Some(other) => {
            return Err(BlockError::invalid(format!(
                "Parameter 'version' does not accept value '{other}'"
            )));
        }
    };
    let refcount_bits = values.number("refcount_bits")?.unwrap_or(16);
    Ok(CreateOptions {
        size: size.next_multiple_of(512),
        version,
        cluster_size: values.size("cluster_size")?.unwrap_or(64 << 10),
        refcount_bits: u32::try_from(refcount_bits).unwrap_or(u32::MAX),
        lazy_refcounts: values.flag("lazy_refcounts")?,
        extended_l2: values.flag("extended_l2")?,
        compression: values
            .known("compression_type", "compression-type")?
            .unwrap_or(qcow2::Compression::Zlib),
        backing_file: text("backing_file"),
        backing_format: text("backing_fmt"),
        data_file: text("data_file"),
        data_file_raw: values.flag("data_file_raw")?,
        preallocation,
        encrypted: false,
    })
}

async fn vmdk_options(
    graph: &BlockGraph,
    host: &Host<'_>,
    filename: &str,
    values: &Values,
    size: u64,
) -> Result<vmdk::VmdkCreate> {
    let text = |name: &str| values.get(name).map(str::to_owned);
    let mut parent_cid = None;
    if let Some(name) = values.get("backing_file") {
        let name = host.fs.resolve(filename, name);
        let info = crate::img::info(graph, host.fs, &name, None).await?;
        match info.facts.specific {
            Some(super::Specific::Vmdk(info)) => parent_cid = Some(info.cid),
            _ => return Err(BlockError::invalid("backing_file must be a vmdk image")),
        }
    }
    Ok(vmdk::VmdkCreate {
        size: size.next_multiple_of(512),
        adapter_type: text("adapter_type"),
        backing_file: text("backing_file"),
        parent_cid,
        compat6: values.flag("compat6")?,
        hwversion: text("hwversion").filter(|version| version != "undefined"),
        toolsversion: text("toolsversion"),
        subformat: values.known("subformat", "subformat")?.unwrap_or_default(),
        zeroed_grain: values.flag("zeroed_grain")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_suffixes_and_fractions() {
        assert_eq!(parse_size("64k"), Some(65536));
        assert_eq!(parse_size("1.5M"), Some(3 << 19));
        assert_eq!(parse_size("512"), Some(512));
        assert_eq!(parse_size("0x10"), Some(16));
        for bad in ["", "k", "1x", "-1", "1.5", "99999999999999999999", "16E"] {
            assert_eq!(parse_size(bad), None, "{bad}");
        }
    }
}
