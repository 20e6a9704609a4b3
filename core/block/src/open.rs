//! Opening images by name, with everything they stand on.

use crate::driver::Driver;
use crate::formats::vpc::SizeRule;
use crate::formats::{self, Image, OpenArgs};
use crate::graph::{BlockGraph, Node, RawOptions};
use crate::host::{Gate, HostFs, ImplicitOpen, LockMode};
use crate::qcow2::{Qcow2, Qcow2Options};
use crate::{BlockError, IoBuf, Result, probe};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

macro_rules! formats {
    ($($(#[$doc:meta])* $variant:ident = $name:literal;)*) => {
        /// Image formats.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(rename_all = "lowercase")]
        pub enum Format {
            $($(#[$doc])* $variant,)*
        }

        impl Format {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The format with this name.
            pub fn from_name(name: &str) -> Result<Self> {
                match name {
                    $($name => Ok(Self::$variant),)*
                    _ => Err(BlockError::unsupported(format!("unknown image format '{name}'"))),
                }
            }

            /// Its name.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }
        }
    };
}

formats! {
    /// The disk as it is.
    Raw = "raw";
    /// QEMU copy-on-write, versions 2 and 3.
    Qcow2 = "qcow2";
    /// QEMU copy-on-write, version 1.
    Qcow = "qcow";
    /// QEMU enhanced disk.
    Qed = "qed";
    /// VMware.
    Vmdk = "vmdk";
    /// VirtualBox.
    Vdi = "vdi";
    /// Hyper-V.
    Vhdx = "vhdx";
    /// Virtual PC and old Hyper-V.
    Vpc = "vpc";
    /// Parallels.
    Parallels = "parallels";
    /// A raw disk behind a LUKS header.
    Luks = "luks";
    /// Bochs, growing.
    Bochs = "bochs";
    /// Compressed loopback.
    Cloop = "cloop";
    /// Apple.
    Dmg = "dmg";
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
    /// Where data is, for images that keep it elsewhere; found by the image's name when absent.
    pub data_file: Option<Arc<Node>>,
    /// Options of `raw`.
    pub raw: RawOptions,
    /// Options of `qcow2`.
    pub qcow2: Qcow2Options,
    /// How the size of a `vpc` disk is found.
    pub vpc: SizeRule,
    /// Opens encrypted images.
    pub secret: Option<Arc<[u8]>>,
    /// Open images that are marked as broken, for `check` to look at.
    pub for_check: bool,
    /// Facts only: no data will be read, and no secret is needed.
    pub no_io: bool,
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
        let file = self.open_host_file(fs, filename, !options.read_only).await?;
        self.open_on(fs, &file, options).await
    }

    /// Puts a format on a node that is open already, with what its image names.
    pub async fn open_on(
        &self,
        fs: &dyn HostFs,
        file: &Arc<Node>,
        options: &OpenOptions,
    ) -> Result<Arc<Node>> {
        let mut seen = vec![file.filename().to_owned()];
        let (top, mut image) = self.open_format(file, options).await?;
        let mut data_file = options.data_file.clone();
        let mut overlay_node = top.clone();
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
            for (index, stored) in overlay.extent_names().iter().enumerate() {
                if let Some(file) = data_file.take() {
                    overlay.clone().set_extent(index, file).await?;
                    continue;
                }
                let open = ImplicitOpen { image: &overlay_name, name: stored, format: Some("raw") };
                options.gate.check(&open)?;
                let name = fs.resolve(&overlay_name, stored);
                let file = self.open_host_file(fs, &name, !overlay.read_only()).await?;
                overlay.clone().set_extent(index, file).await?;
            }
            overlay_node.adopt();
            let Some(stored) = overlay.backing_name().filter(|_| wants) else { break };
            wants = true;
            let open = ImplicitOpen {
                image: &overlay_name,
                name: &stored.name,
                format: stored.format.as_deref(),
            };
            options.gate.check(&open)?;
            let (name, format) = match stored.name.strip_prefix("json:") {
                Some(json) => described(json)?,
                None => (fs.resolve(&overlay_name, &stored.name), stored.format),
            };
            if seen.contains(&name) || seen.len() >= MAX_CHAIN {
                return Err(BlockError::invalid(format!(
                    "backing file '{name}' is part of its own chain, or the chain is too long"
                )));
            }
            let file = self.open_host_file(fs, &name, false).await?;
            let format = match format {
                Some(format) => Format::from_name(&format)?,
                // What a guest wrote there must not choose its driver.
                None if self.probe(&file).await? == Format::Raw => Format::Raw,
                None => {
                    return Err(BlockError::invalid(format!(
                        "image '{overlay_name}' does not record the format of its backing file '{name}'"
                    )));
                }
            };
            let below = OpenOptions {
                format: Some(format),
                read_only: true,
                secret: options.secret.clone(),
                ..OpenOptions::default()
            };
            seen.push(name);
            let (node, next) = self.open_format(&file, &below).await?;
            overlay.set_backing(&node)?;
            overlay_node.adopt();
            overlay_node = node;
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
        if !self.context().awaits() {
            file.lock(if write { LockMode::Write } else { LockMode::Read })?;
        }
        self.open_file(None, name, file)
    }

    /// Guesses what is in a file.
    pub async fn probe(&self, file: &Arc<Node>) -> Result<Format> {
        let head = file.read(0, IoBuf::zeroed(file.len().min(2048) as usize)).await?;
        let guess = probe::looks_like(&head).or_else(|| probe::by_name(file.filename()));
        match guess {
            None => Ok(Format::Raw),
            Some(name) => Format::from_name(name),
        }
    }

    /// Puts a format on a file, without what else it needs: its backing file and others that it
    /// names are attached through [`Node::image_handle`].
    pub async fn open_layer(&self, file: &Arc<Node>, options: &OpenOptions) -> Result<Arc<Node>> {
        self.open_format(file, options).await.map(|(node, _)| node)
    }

    /// Puts a format on a file, without what else it needs.
    pub(crate) async fn open_format(
        &self,
        file: &Arc<Node>,
        options: &OpenOptions,
    ) -> Result<(Arc<Node>, Option<Arc<dyn Image>>)> {
        let format = match options.format {
            Some(format) => format,
            None => self.probe(file).await?,
        };
        let name = options.node_name.as_deref();
        let args = OpenArgs {
            read_only: options.read_only,
            for_check: options.for_check,
            no_io: options.no_io,
            secret: options.secret.clone(),
        };
        let image: Arc<dyn Image> = match format {
            Format::Raw => {
                let raw = RawOptions {
                    read_only: options.read_only || options.raw.read_only,
                    probed: options.format.is_none(),
                    ..options.raw.clone()
                };
                return Ok((self.open_raw(name, file, &raw)?, None));
            }
            Format::Qcow2 => {
                let qcow2 = Qcow2Options {
                    read_only: options.read_only || options.qcow2.read_only,
                    for_check: options.for_check || options.qcow2.for_check,
                    ..options.qcow2.clone()
                };
                Qcow2::open(file, &qcow2, &args).await?
            }
            Format::Qcow => Arc::new(formats::qcow::open(file, &args).await?),
            Format::Qed => formats::qed::open(file, &args).await?,
            Format::Vmdk => Arc::new(formats::vmdk::open(file, &args).await?),
            Format::Vdi => Arc::new(formats::vdi::open(file, &args).await?),
            Format::Vhdx => Arc::new(formats::vhdx::open(file, &args).await?),
            Format::Vpc => match formats::vpc::open(file, &args, options.vpc).await? {
                formats::vpc::Vpc::Fixed(image) => image,
                formats::vpc::Vpc::Dynamic(image) => image,
            },
            Format::Parallels => formats::parallels::open(file, &args).await?,
            Format::Luks => Arc::new(formats::luks::open(file, &args).await?),
            Format::Bochs => Arc::new(formats::bochs::open(file, &args).await?),
            Format::Cloop => Arc::new(formats::chunked::open_cloop(file, &args).await?),
            Format::Dmg => Arc::new(formats::chunked::open_dmg(file, &args).await?),
        };
        let driver: Arc<dyn Driver> = image.clone();
        Ok((self.add_node(name, file.filename(), driver)?, Some(image)))
    }
}
