//! Opening nodes from their options.

use super::{BlockGraph, Node};
use crate::filter::{
    Blkdebug, Blkverify, CbwHow, Compress, CopyBeforeWrite, CopyOnRead, Null, Preallocate, Quorum,
    SnapshotAccess, Throttle,
};
use crate::graph::RawOptions;
use crate::host::{BlockFile, Gate, LockMode, MemFile};
use crate::job::{cluster_for, how_for};
use crate::nbd::NbdClient;
use crate::op::BoxFuture;
use crate::open::{Backing, Format, OpenOptions};
use crate::options::{
    BitmapRef, CommonOptions, Discard, DriverOptions, FileOptions, NodeOptions, NodeRef,
    NodeRefOrNull, Qcow2Format,
};
use crate::qcow2::{CreateOptions, Qcow2Options};
use crate::{BlockError, IoBuf, Result};
use std::sync::Arc;

/// What a child takes over from its parent where its own options are silent.
#[derive(Clone, Copy, Debug, Default)]
struct Inherited {
    child: bool,
    read_only: bool,
    direct: bool,
    no_flush: bool,
    force_share: bool,
}

/// The settings of one node.
struct Settings {
    read_only: bool,
    auto_read_only: bool,
    discard: bool,
    inherited: Inherited,
}

impl Settings {
    fn new(common: &CommonOptions, inherited: Inherited) -> Self {
        let cache = common.cache.clone().unwrap_or_default();
        let read_only = common.read_only.unwrap_or(inherited.read_only);
        let own = Inherited {
            child: true,
            read_only,
            direct: cache.direct.unwrap_or(inherited.direct),
            no_flush: cache.no_flush.unwrap_or(inherited.no_flush),
            force_share: common.force_share.unwrap_or(inherited.force_share),
        };
        Self {
            read_only,
            auto_read_only: common.auto_read_only.unwrap_or(inherited.child),
            discard: common.discard.map_or(inherited.child, |mode| mode == Discard::Unmap),
            inherited: own,
        }
    }
}

impl BlockGraph {
    /// Adds a node, as `blockdev-add` does: it lives until [`BlockGraph::delete_node`].
    pub async fn add(&self, options: &NodeOptions) -> Result<Arc<Node>> {
        if options.node_name().is_none() {
            return Err(BlockError::Invalid(
                "'node-name' must be specified for the root node".into(),
            ));
        }
        let node = self.open_options(options).await?;
        self.own_node(&node);
        Ok(node)
    }

    /// Opens a node and what it stands on.
    pub async fn open_options(&self, options: &NodeOptions) -> Result<Arc<Node>> {
        self.open_node(options, Inherited::default()).await
    }

    /// Opens an image by what a person types: a path, a URL or `json:{...}`. With `image_opts`
    /// the text is `name=value,...` instead.
    pub async fn open_by_name(
        &self,
        name: &str,
        image_opts: bool,
        options: &OpenOptions,
    ) -> Result<Arc<Node>> {
        let mut parsed = if image_opts {
            NodeOptions::from_argument(name)?
        } else {
            NodeOptions::from_filename(name)?
        };
        parsed.common.read_only = Some(options.read_only || parsed.common.read_only == Some(true));
        let node =
            self.open_node(&parsed, Inherited { direct: false, ..Inherited::default() }).await?;
        node.set_ignore_discard(false);
        if !parsed.driver.is_protocol() && options.format.is_none() {
            return Ok(node);
        }
        let top = self.open_image(&node, options).await?;
        top.set_ignore_discard(false);
        Ok(top)
    }

    /// A disk whose changes to `node` live in memory and go with it.
    pub async fn temporary_overlay(&self, node: &Arc<Node>) -> Result<Arc<Node>> {
        let create = CreateOptions { size: node.len(), ..CreateOptions::default() };
        let file: Arc<dyn BlockFile> = Arc::new(MemFile::new());
        crate::img::create(self, file.clone(), Format::Qcow2, &create).await?;
        let file = self.open_file(None, "", file)?;
        let options = OpenOptions {
            format: Some(Format::Qcow2),
            backing: Backing::Node(node.clone()),
            ..OpenOptions::default()
        };
        self.open_over(&file, &options).await
    }

    fn open_node<'a>(
        &'a self,
        options: &'a NodeOptions,
        inherited: Inherited,
    ) -> BoxFuture<'a, Result<Arc<Node>>> {
        Box::pin(async move {
            if let Some(name) = options.node_name() {
                self.check_node_name(name)?;
            }
            let settings = Settings::new(&options.common, inherited);
            let node = self.make_node(options, &settings).await?;
            node.set_ignore_discard(!settings.discard);
            node.set_no_flush(settings.inherited.no_flush);
            node.set_detect_zeroes(options.common.detect_zeroes.unwrap_or_default());
            node.set_active(options.common.active.unwrap_or(true));
            node.set_options(options.clone());
            Ok(node)
        })
    }

    async fn make_node(&self, options: &NodeOptions, settings: &Settings) -> Result<Arc<Node>> {
        let name = options.node_name();
        let read_only = settings.read_only;
        let own = settings.inherited;
        match &options.driver {
            DriverOptions::File(file) | DriverOptions::HostDevice(file) => {
                self.open_file_node(name, file, settings).await
            }
            DriverOptions::NullCo(null) => {
                let driver = Null::new("null-co", null, read_only, self.context());
                self.add_node(name, "null-co://", driver)
            }
            DriverOptions::NullAio(null) => {
                let driver = Null::new("null-aio", null, read_only, self.context());
                self.add_node(name, "null-aio://", driver)
            }
            DriverOptions::Raw(raw) => {
                let file = self.child(&raw.file, own).await?;
                let options = RawOptions {
                    offset: raw.offset.unwrap_or(0),
                    size: raw.size,
                    read_only,
                    probed: false,
                };
                self.open_raw(name, &file, &options)
            }
            DriverOptions::Qcow2(qcow2) => {
                let file = self.child(&qcow2.file, own).await?;
                let data_file = match &qcow2.data_file {
                    Some(data_file) => Some(self.child(data_file, own).await?),
                    None => None,
                };
                let secret = qcow2.encrypt.as_ref().and_then(|e| e.key_secret.as_deref());
                let secret = match secret {
                    Some(id) => Some(self.secret(id)?.into_bytes().into()),
                    None => None,
                };
                let options = OpenOptions {
                    secret,
                    qcow2: qcow2_options(qcow2),
                    data_file,
                    ..self.format_options(name, Format::Qcow2, qcow2.backing.as_ref(), own).await?
                };
                let node = self.open_image(&file, &options).await?;
                self.load_bitmaps(&node).await?;
                Ok(node)
            }
            DriverOptions::Qcow(cow) | DriverOptions::Qed(cow) | DriverOptions::Vmdk(cow) => {
                let file = self.child(&cow.file, own).await?;
                let format = Format::from_name(options.driver_name())?;
                let open = self.format_options(name, format, cow.backing.as_ref(), own).await?;
                self.open_image(&file, &open).await
            }
            DriverOptions::Bochs(format)
            | DriverOptions::Cloop(format)
            | DriverOptions::Dmg(format)
            | DriverOptions::Parallels(format)
            | DriverOptions::Vdi(format)
            | DriverOptions::Vhdx(format)
            | DriverOptions::Vpc(format) => {
                let file = self.child(&format.file, own).await?;
                let format = Format::from_name(options.driver_name())?;
                let open = self.format_options(name, format, None, own).await?;
                self.open_image(&file, &open).await
            }
            DriverOptions::Nbd(nbd) => {
                let auto = settings.auto_read_only;
                let tls = match &nbd.tls_creds {
                    Some(id) => Some(self.tls(id, false)?),
                    None => None,
                };
                let driver = NbdClient::open(self.context(), nbd, tls, read_only, auto).await?;
                self.add_node(name, &format!("nbd:{}", nbd.server.0), driver)
            }
            DriverOptions::Blkdebug(debug) => {
                let image = self.child(&debug.image, own).await?;
                let config = match &debug.config {
                    Some(name) => Some(self.read_text(name).await?),
                    None => None,
                };
                let driver = Blkdebug::new(&image, debug, config.as_deref())?;
                self.add_node(name, image.filename(), driver)
            }
            DriverOptions::Blkverify(verify) => {
                let test = self.child(&verify.test, own).await?;
                let raw = self.child(&verify.raw, own).await?;
                self.add_node(name, test.filename(), Blkverify::new(&test, &raw)?)
            }
            DriverOptions::Quorum(quorum) => {
                let mut children = Vec::new();
                for child in &quorum.children {
                    children.push(self.child(child, own).await?);
                }
                let driver = Quorum::new(self.context(), name, &children, quorum)?;
                self.add_node(name, "", driver)
            }
            DriverOptions::Compress(compress) => {
                let file = self.child(&compress.file, own).await?;
                self.add_node(name, file.filename(), Compress::new(&file)?)
            }
            DriverOptions::Preallocate(options) => {
                let file = self.child(&options.file, own).await?;
                let driver = Preallocate::new(&file, options)?;
                self.add_node(name, file.filename(), driver)
            }
            DriverOptions::Luks(luks) => {
                let file = self.child(&luks.file, own).await?;
                let secret = match &luks.key_secret {
                    Some(id) => Some(self.secret(id)?.into_bytes().into()),
                    None => None,
                };
                let open = self.format_options(name, Format::Luks, None, own).await?;
                self.open_image(&file, &OpenOptions { secret, ..open }).await
            }
            DriverOptions::CopyOnRead(cor) => {
                let file = self.child(&cor.file, own).await?;
                let bottom = match &cor.bottom {
                    Some(name) => Some(self.find_node(name)?),
                    None => None,
                };
                let driver = CopyOnRead::new(&file, bottom.as_ref())?;
                self.add_node(name, file.filename(), driver)
            }
            DriverOptions::CopyBeforeWrite(cbw) => {
                let file = self.child(&cbw.file, own).await?;
                let target = self.child(&cbw.target, own).await?;
                let wanted = match &cbw.bitmap {
                    None => None,
                    Some(BitmapRef { node, name }) => {
                        let bitmap = self.find_node(node)?.bitmap(name);
                        let bitmap = bitmap.ok_or_else(|| {
                            BlockError::Invalid(format!("Bitmap '{name}' is not found"))
                        })?;
                        Some(bitmap.with(|bits| bits.clone()))
                    }
                };
                let how = CbwHow {
                    on_error: cbw.on_cbw_error.unwrap_or_default(),
                    timeout_ns: u64::from(cbw.cbw_timeout.unwrap_or(0)) * 1_000_000_000,
                    cluster: cluster_for(&target).max(cbw.min_cluster_size.unwrap_or(0)),
                    how: how_for(false),
                };
                let driver =
                    CopyBeforeWrite::new(self.context(), &file, &target, wanted.as_ref(), how)?;
                self.add_node(name, file.filename(), driver)
            }
            DriverOptions::SnapshotAccess(access) => {
                let file = self.child(&access.file, own).await?;
                self.add_node(name, file.filename(), SnapshotAccess::new(&file)?)
            }
            DriverOptions::Throttle(throttle) => {
                let group = self.throttle_group(&throttle.throttle_group)?;
                let file = self.child(&throttle.file, own).await?;
                self.add_node(name, file.filename(), Throttle::new(&file, &group)?)
            }
        }
    }

    /// A small file of text.
    async fn read_text(&self, name: &str) -> Result<String> {
        let file = self.context().fs()?.open(name, false).await?;
        let len = file.len().min(1 << 20) as usize;
        let bytes = file.read_at(0, IoBuf::zeroed(len)).await?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// A child by name, or opened in place.
    async fn child(&self, reference: &NodeRef, inherited: Inherited) -> Result<Arc<Node>> {
        match reference {
            NodeRef::Name(name) => self.find_node(name),
            NodeRef::Inline(options) => self.open_node(options, inherited).await,
        }
    }

    /// The node of this name, or the one under the backend of this name.
    pub fn find_node(&self, name: &str) -> Result<Arc<Node>> {
        if let Some(node) = self.node(name) {
            return Ok(node);
        }
        let root = self.backend(name).and_then(|backend| self.root_of(&backend));
        root.ok_or_else(|| {
            BlockError::NotFound(format!("Cannot find device='{name}' nor node-name='{name}'"))
        })
    }

    async fn format_options(
        &self,
        name: Option<&str>,
        format: Format,
        backing: Option<&NodeRefOrNull>,
        inherited: Inherited,
    ) -> Result<OpenOptions> {
        let backing = match backing {
            None => Backing::FromImage,
            Some(NodeRefOrNull::Null) => Backing::None,
            Some(NodeRefOrNull::Node(reference)) => {
                let below = Inherited { read_only: true, ..inherited };
                Backing::Node(self.child(reference, below).await?)
            }
        };
        Ok(OpenOptions {
            node_name: name.map(str::to_owned),
            format: Some(format),
            read_only: inherited.read_only,
            gate: Gate::PlainFiles,
            backing,
            ..OpenOptions::default()
        })
    }

    async fn open_file_node(
        &self,
        name: Option<&str>,
        options: &FileOptions,
        settings: &Settings,
    ) -> Result<Arc<Node>> {
        let fs = self.context().fs()?;
        let write = !settings.read_only;
        let mut opened = fs.open(&options.filename, write).await;
        if write && settings.auto_read_only && opened.is_err() {
            opened = fs.open(&options.filename, false).await;
        }
        let file = opened?;
        let shared = settings.inherited.force_share
            || options.locking == Some(crate::options::OnOffAuto::Off);
        if !shared && !self.context().awaits() {
            file.lock(if file.read_only() { LockMode::Read } else { LockMode::Write })?;
        }
        let node = self.open_file(name, &options.filename, file)?;
        node.set_shared(shared);
        Ok(node)
    }

    /// Puts a format on `file`, with what the image or the options name below it.
    async fn open_image(&self, file: &Arc<Node>, options: &OpenOptions) -> Result<Arc<Node>> {
        match self.context().fs() {
            Ok(fs) => self.open_on(&*fs, file, options).await,
            Err(_) => self.open_over(file, options).await,
        }
    }
}

fn qcow2_options(options: &Qcow2Format) -> Qcow2Options {
    let default = Qcow2Options::default();
    Qcow2Options {
        l2_cache_size: options.l2_cache_size.unwrap_or(default.l2_cache_size),
        refcount_cache_size: options.refcount_cache_size.unwrap_or(default.refcount_cache_size),
        ..default
    }
}
