//! Opening images by name, with everything they stand on.

use crate::driver::Driver;
use crate::graph::{BlockGraph, Node, RawOptions};
use crate::host::{Gate, HostFs, ImplicitOpen, LockMode};
use crate::qcow2::{Qcow2, Qcow2Options};
use crate::{BlockError, IoBuf, Result, probe};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Image formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// The disk as it is.
    Raw,
    /// QEMU copy-on-write, versions 2 and 3.
    Qcow2,
}

impl Format {
    /// The format with this name.
    pub fn from_name(name: &str) -> Result<Self> {
        match name {
            "raw" => Ok(Self::Raw),
            "qcow2" => Ok(Self::Qcow2),
            _ => Err(BlockError::unsupported(format!("unknown image format '{name}'"))),
        }
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
        }
    }
}

/// Where the content of unallocated clusters comes from.
#[derive(Clone, Default)]
pub enum Backing {
    /// From the file that the image names, when the gate lets it through.
    #[default]
    FromImage,
    /// From nowhere: they are zeros, whatever the image says.
    None,
    /// From this node.
    Node(Arc<Node>),
}

/// How to open an image.
#[derive(Clone, Default)]
pub struct OpenOptions {
    /// Name of the node.
    pub node_name: Option<String>,
    /// Format; guessed when absent.
    pub format: Option<Format>,
    /// Refuse writes.
    pub read_only: bool,
    /// Policy for names found inside the image.
    pub gate: Gate,
    /// Where unallocated clusters come from.
    pub backing: Backing,
    /// Options of `raw`.
    pub raw: RawOptions,
    /// Options of `qcow2`.
    pub qcow2: Qcow2Options,
}

/// File name and format in a description of a node, as images may have it in place of a name.
/// Names in it are not relative to the image.
fn described(json: &str) -> Result<(String, Option<String>)> {
    /// A protocol node.
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct File {
        driver: Option<String>,
        filename: String,
    }
    /// A format node on a protocol node.
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Description {
        driver: String,
        file: Option<File>,
        #[serde(rename = "file.driver")]
        file_driver: Option<String>,
        #[serde(rename = "file.filename")]
        file_filename: Option<String>,
    }
    let bad =
        |text: String| BlockError::invalid(format!("description of the backing file: {text}"));
    let node: Description = serde_json::from_str(json).map_err(|error| bad(error.to_string()))?;
    let (protocol, filename) = match node.file {
        Some(file) => (file.driver, Some(file.filename)),
        None => (node.file_driver, node.file_filename),
    };
    if let Some(protocol) = protocol.filter(|name| name != "file") {
        return Err(BlockError::unsupported(format!("protocol '{protocol}' is not supported")));
    }
    let filename = filename.ok_or_else(|| bad("it names no file".into()))?;
    Ok((filename, Some(node.driver)))
}

/// Longest chain of backing files.
const MAX_CHAIN: usize = 200;

impl BlockGraph {
    /// Opens the image `filename` and its backing files.
    pub async fn open(
        &self,
        fs: &dyn HostFs,
        filename: &str,
        options: &OpenOptions,
    ) -> Result<Arc<Node>> {
        let mut seen = vec![filename.to_owned()];
        let file = self.open_host_file(fs, filename, !options.read_only).await?;
        let (top, mut image) = self.open_format(&file, options).await?;
        let mut wants = match &options.backing {
            Backing::FromImage => true,
            Backing::None => false,
            Backing::Node(node) => {
                if let Some(image) = &image {
                    image.set_backing(node)?;
                }
                false
            }
        };
        while let Some(overlay) = image.take() {
            let overlay_name = seen.last().expect("never empty").clone();
            let info = overlay.info();
            if overlay.wants_data_file() {
                let name = info.data_file.as_deref().unwrap_or_default();
                let open = ImplicitOpen { image: &overlay_name, name, format: Some("raw") };
                options.gate.check(&open)?;
                let name = fs.resolve(&overlay_name, name);
                let file = self.open_host_file(fs, &name, !overlay.read_only()).await?;
                overlay.set_data_file(&file)?;
            }
            let Some(stored) = info.backing_file.filter(|_| wants) else { break };
            wants = true;
            let open = ImplicitOpen {
                image: &overlay_name,
                name: &stored,
                format: info.backing_format.as_deref(),
            };
            options.gate.check(&open)?;
            let (name, format) = match stored.strip_prefix("json:") {
                Some(json) => described(json)?,
                None => (fs.resolve(&overlay_name, &stored), info.backing_format),
            };
            let Some(format) = format else {
                return Err(BlockError::invalid(format!(
                    "image '{overlay_name}' does not record the format of its backing file '{stored}'"
                )));
            };
            if seen.contains(&name) || seen.len() >= MAX_CHAIN {
                return Err(BlockError::invalid(format!(
                    "backing file '{name}' is part of its own chain, or the chain is too long"
                )));
            }
            let below = OpenOptions {
                format: Some(Format::from_name(&format)?),
                read_only: true,
                ..OpenOptions::default()
            };
            let file = self.open_host_file(fs, &name, false).await?;
            seen.push(name);
            let (node, next) = self.open_format(&file, &below).await?;
            overlay.set_backing(&node)?;
            image = next;
        }
        Ok(top)
    }

    /// Puts a format on a node that is open already. The image's own backing file is not opened:
    /// `options.backing` is a node or nothing.
    pub async fn open_over(&self, file: &Arc<Node>, options: &OpenOptions) -> Result<Arc<Node>> {
        let (top, image) = self.open_format(file, options).await?;
        if let (Some(image), Backing::Node(node)) = (image, &options.backing) {
            image.set_backing(node)?;
        }
        Ok(top)
    }

    /// A node over a file of the host.
    pub async fn open_host_file(
        &self,
        fs: &dyn HostFs,
        name: &str,
        write: bool,
    ) -> Result<Arc<Node>> {
        let file = fs.open(name, write).await?;
        file.lock(if write { LockMode::Write } else { LockMode::Read })?;
        self.open_file(None, name, file)
    }

    /// Guesses what is in a file.
    pub async fn probe(&self, file: &Arc<Node>) -> Result<Format> {
        let head = file.read(0, IoBuf::zeroed(file.len().min(512) as usize)).await?;
        match probe::looks_like(&head) {
            None => Ok(Format::Raw),
            Some(name) => Format::from_name(name),
        }
    }

    /// Puts a format on a file, without what else it needs.
    pub(crate) async fn open_format(
        &self,
        file: &Arc<Node>,
        options: &OpenOptions,
    ) -> Result<(Arc<Node>, Option<Arc<Qcow2>>)> {
        let format = match options.format {
            Some(format) => format,
            None => self.probe(file).await?,
        };
        let name = options.node_name.as_deref();
        match format {
            Format::Raw => {
                let raw = RawOptions {
                    read_only: options.read_only || options.raw.read_only,
                    probed: options.format.is_none(),
                    ..options.raw.clone()
                };
                Ok((self.open_raw(name, file, &raw)?, None))
            }
            Format::Qcow2 => {
                let qcow2 = Qcow2Options {
                    read_only: options.read_only || options.qcow2.read_only,
                    ..options.qcow2.clone()
                };
                let driver = Qcow2::open(file, &qcow2).await?;
                Ok((self.add_node(name, file.filename(), driver.clone())?, Some(driver)))
            }
        }
    }
}
