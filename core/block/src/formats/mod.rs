//! Image formats other than `raw` and `qcow2`, and what all formats tell the tools.

pub(crate) mod bochs;
pub(crate) mod chunked;
pub mod create;
pub(crate) mod flat;
pub mod luks;
pub(crate) mod mapped;
pub mod parallels;
pub mod qcow;
pub mod qed;
pub mod vdi;
pub mod vhdx;
pub mod vmdk;
pub mod vpc;

use crate::driver::{Access, BlockStatus, Driver, Map};
use crate::graph::{Edge, Node};
use crate::qcow2::{CheckResult, Preallocation, Qcow2Info, Repair, Snapshot};
use crate::{BlockError, IoBuf, Op, Result};
use mapped::{Layout, Mapped};
use serde::Serialize;
use std::sync::Arc;

/// Another file that an image names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoredName {
    /// The name as stored.
    pub name: String,
    /// The format recorded beside it.
    pub format: Option<String>,
}

/// What an image says about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Bytes in a cluster, where the format has any.
    pub cluster_size: Option<u64>,
    /// Its data is encrypted.
    pub encrypted: bool,
    /// It was not closed cleanly.
    pub dirty: bool,
    /// It marks itself as corrupt.
    pub corrupt: bool,
    /// What only this format has.
    pub specific: Option<Specific>,
    /// What was repaired when it was opened, in words.
    pub repairs: Vec<String>,
}

/// Facts of one format.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "type", content = "data", rename_all = "lowercase")]
pub enum Specific {
    /// `qcow2`.
    Qcow2(Qcow2Info),
    /// `vmdk`.
    Vmdk(vmdk::VmdkInfo),
    /// `luks`.
    Luks(luks::LuksInfo),
}

/// What image tools need of a format besides requests.
pub(crate) trait Image: Driver {
    /// The backing file that the image names.
    fn backing_name(&self) -> Option<StoredName> {
        None
    }

    /// Attaches the backing file.
    fn set_backing(&self, node: &Arc<Node>) -> Result<()> {
        let _ = node;
        Err(BlockError::unsupported(format!("'{}' has no backing files", self.name())))
    }

    /// Other files without which the image cannot be used, by name, in order.
    fn extent_names(&self) -> Vec<String> {
        Vec::new()
    }

    /// Attaches one of [`Image::extent_names`].
    fn set_extent(self: Arc<Self>, index: usize, node: Arc<Node>) -> Op<()> {
        let _ = (index, node);
        Op::err(BlockError::unsupported("no such extent"))
    }

    /// Snapshots inside the image.
    fn snapshots(&self) -> Vec<Snapshot> {
        Vec::new()
    }

    /// Packs clusters, on any thread; `None` when the image has no packed clusters.
    fn packer(&self) -> Option<Packer> {
        None
    }

    /// Stores what [`Image::packer`] made of the cluster at `at`.
    fn store_packed(self: Arc<Self>, at: u64, packed: Vec<u8>) -> Op<()> {
        let _ = (at, packed);
        Op::err(BlockError::Errno(crate::errno::ENOTSUP))
    }

    /// Ranges of the disk that a bitmap inside the image marks.
    fn bitmap_ranges(self: Arc<Self>, name: String) -> Op<Vec<(u64, u64)>> {
        Op::err(BlockError::Invalid(format!("Dirty bitmap '{name}' not found")))
    }

    /// Changes what is stored with the image.
    fn change(self: Arc<Self>, change: Change) -> Op<()> {
        let _ = change;
        Op::err(BlockError::Errno(crate::errno::ENOTSUP))
    }

    /// Goes back to a snapshot and gives the state of the machine that is kept with it.
    fn load_state(self: Arc<Self>, name: String) -> Op<Vec<u8>> {
        let _ = name;
        Op::err(BlockError::Errno(crate::errno::ENOTSUP))
    }

    /// Reads the state of the machine that the image holds now.
    fn read_state(self: Arc<Self>, at: u64, len: usize) -> Op<Vec<u8>> {
        let _ = (at, len);
        Op::err(BlockError::Errno(crate::errno::ENOTSUP))
    }

    /// Writes the state of the machine that the image holds now.
    fn write_state(self: Arc<Self>, at: u64, state: Vec<u8>) -> Op<()> {
        let _ = (at, state);
        Op::err(BlockError::Errno(crate::errno::ENOTSUP))
    }

    /// What the image says about itself.
    fn facts(&self) -> Facts;

    /// Looks for contradictions, and repairs what `repair` allows.
    fn check(self: Arc<Self>, repair: Repair) -> Op<CheckResult> {
        let _ = repair;
        Op::err(BlockError::unsupported("This image format does not support checks"))
    }
}

/// An open image, for tools: what its format can do besides requests.
#[derive(Clone)]
pub struct ImageHandle(pub(crate) Arc<dyn Image>);

impl ImageHandle {
    /// The backing file that the image names.
    pub fn backing_name(&self) -> Option<StoredName> {
        self.0.backing_name()
    }

    /// Attaches the backing file.
    pub fn set_backing(&self, node: &Arc<Node>) -> Result<()> {
        self.0.set_backing(node)
    }

    /// Other files without which the image cannot be used, by name, in order.
    pub fn extent_names(&self) -> Vec<String> {
        self.0.extent_names()
    }

    /// Attaches one of [`ImageHandle::extent_names`].
    pub fn set_extent(&self, index: usize, node: Arc<Node>) -> Op<()> {
        self.0.clone().set_extent(index, node)
    }

    /// What the image says about itself.
    pub fn facts(&self) -> Facts {
        self.0.facts()
    }

    /// Looks for contradictions, and repairs what `repair` allows.
    pub fn check(&self, repair: Repair) -> Op<CheckResult> {
        self.0.clone().check(repair)
    }

    /// Snapshots inside the image.
    pub fn snapshots(&self) -> Vec<Snapshot> {
        self.0.snapshots()
    }

    /// Packs clusters, on any thread; `None` when the image has no packed clusters.
    pub fn packer(&self) -> Option<Packer> {
        self.0.packer()
    }

    /// Stores what [`ImageHandle::packer`] made of the cluster at `at`.
    pub fn store_packed(&self, at: u64, packed: Vec<u8>) -> Op<()> {
        self.0.clone().store_packed(at, packed)
    }

    /// Ranges of the disk that a bitmap inside the image marks.
    pub fn bitmap_ranges(&self, name: &str) -> Op<Vec<(u64, u64)>> {
        self.0.clone().bitmap_ranges(name.to_owned())
    }

    /// Goes back to a snapshot and gives the state of the machine that is kept with it.
    pub fn load_state(&self, name: &str) -> Op<Vec<u8>> {
        self.0.clone().load_state(name.to_owned())
    }

    /// Reads the state of the machine that the image holds now; what was never written is zeros.
    pub fn read_state(&self, at: u64, len: usize) -> Op<Vec<u8>> {
        self.0.clone().read_state(at, len)
    }

    /// Writes the state of the machine that the image holds now.
    pub fn write_state(&self, at: u64, state: Vec<u8>) -> Op<()> {
        self.0.clone().write_state(at, state)
    }

    /// Changes what is stored with the image: snapshots, names of other files, features.
    pub fn change(&self, change: Change) -> Op<()> {
        self.0.clone().change(change)
    }
}

/// Packs one cluster; `None` when that makes it no smaller.
pub type Packer = Arc<dyn Fn(&[u8]) -> Option<Vec<u8>> + Send + Sync>;

/// A change to an image that is no request.
#[derive(Clone, Debug)]
pub enum Change {
    /// Keep the present content as a snapshot.
    CreateSnapshot {
        /// Its name.
        name: String,
        /// Seconds and nanoseconds since 1970.
        date: (u32, u32),
        /// State of the machine to go with it.
        vm_clock_nsec: u64,
    },
    /// Keep the present content as a snapshot, and the state of the machine with it.
    SaveState {
        /// Its name.
        name: String,
        /// Seconds and nanoseconds since 1970.
        date: (u32, u32),
        /// Virtual time of the machine.
        vm_clock_nsec: u64,
        /// The machine's state.
        state: Arc<Vec<u8>>,
    },
    /// Go back to a snapshot, by number or name.
    ApplySnapshot(String),
    /// Remove a snapshot, by number or name.
    DeleteSnapshot(String),
    /// Name another backing file, or none.
    Backing(Option<StoredName>),
    /// Forget all content, so that the backing file shows.
    Empty,
    /// Make the disk shorter.
    Shrink(u64),
    /// Allocate a range of the disk.
    Preallocate {
        /// First byte.
        from: u64,
        /// End.
        to: u64,
        /// How.
        how: Preallocation,
    },
    /// Other features.
    Amend(Box<Amend>),
    /// Bitmaps.
    Bitmap(BitmapChange),
    /// From here on somebody else has the bitmaps follow what is written, and stores them at the
    /// end: until then the image says that they are in use.
    FollowBitmaps,
}

/// What `amend` sets; `None` leaves it.
#[derive(Clone, Debug, Default)]
pub struct Amend {
    /// Version of the format.
    pub version: Option<u32>,
    /// Refcounts may be updated late.
    pub lazy_refcounts: Option<bool>,
    /// Width of a refcount.
    pub refcount_bits: Option<u32>,
    /// Name of the data file.
    pub data_file: Option<String>,
    /// The data file is a raw disk.
    pub data_file_raw: Option<bool>,
    /// Who can open the image.
    pub key: Option<KeyChange>,
    /// Told how much is done, and of how much.
    pub progress: AmendProgress,
}

/// Called with what is done of a change, and how much there is to do.
#[derive(Clone, Default)]
pub struct AmendProgress(pub Option<Arc<dyn Fn(u64, u64) + Send + Sync>>);

impl AmendProgress {
    pub(crate) fn show(&self, done: u64, total: u64) {
        if let Some(show) = &self.0 {
            show(done, total);
        }
    }
}

impl std::fmt::Debug for AmendProgress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AmendProgress")
    }
}

/// A change to the key slots of an encrypted image.
#[derive(Clone, Debug)]
pub struct KeyChange {
    /// The slot; any that fits when absent.
    pub slot: Option<usize>,
    /// Even when that makes the data unreadable for ever.
    pub force: bool,
    /// Unpredictable bytes.
    pub random: Random,
    /// What to do.
    pub what: KeyAction,
}

/// What happens to key slots.
#[derive(Clone, Debug)]
pub enum KeyAction {
    /// Another password.
    Add {
        /// It.
        password: Arc<[u8]>,
        /// Rounds of its key derivation.
        rounds: u32,
    },
    /// The slot, or all slots that this password opens.
    Erase(Option<Arc<[u8]>>),
}

type Fill = dyn Fn(&mut [u8]) + Send + Sync;

/// A source of unpredictable bytes.
#[derive(Clone)]
pub struct Random(pub Arc<Fill>);

impl std::fmt::Debug for Random {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Random")
    }
}

/// What to do with a bitmap inside an image.
#[derive(Clone, Debug)]
pub enum BitmapChange {
    /// Make one.
    Add {
        /// Name.
        name: String,
        /// Bytes that a bit stands for.
        granularity: u32,
    },
    /// Remove one.
    Remove(String),
    /// Make all of it clean.
    Clear(String),
    /// Let it follow writes, or not.
    Enable(String, bool),
    /// Add what others mark: ranges of the disk.
    Merge(String, Vec<(u64, u64)>),
}

/// A format over the engine of [`mapped`]: the parts of [`Driver`] and [`Image`] that differ.
pub(crate) trait MappedImage: Layout + Sized {
    fn backing_name(_this: &Mapped<Self>) -> Option<StoredName> {
        None
    }

    fn facts(this: &Mapped<Self>) -> Facts;

    fn check(_this: Arc<Mapped<Self>>, _repair: Repair) -> Op<CheckResult> {
        Op::err(BlockError::unsupported("This image format does not support checks"))
    }

    fn truncate(_this: Arc<Mapped<Self>>, _len: u64) -> Op<()> {
        Op::err(BlockError::unsupported(format!("'{}' cannot be resized", Self::NAME)))
    }

    fn change(_this: Arc<Mapped<Self>>, _change: Change) -> Op<()> {
        Op::err(BlockError::Errno(crate::errno::ENOTSUP))
    }
}

impl<L: MappedImage> Driver for Mapped<L> {
    fn name(&self) -> &'static str {
        L::NAME
    }

    fn len(&self) -> u64 {
        Self::len(self)
    }

    fn read_only(&self) -> bool {
        Self::read_only(self)
    }

    fn children(&self) -> Vec<Arc<Edge>> {
        Self::children(self)
    }

    fn image(self: Arc<Self>) -> Option<Arc<dyn Image>> {
        Some(self)
    }

    fn map(&self, access: Access, offset: u64, len: u64) -> Map {
        Self::map(self, access, offset, len)
    }

    fn read(self: Arc<Self>, offset: u64, buf: IoBuf) -> Op<IoBuf> {
        Op::pending(async move { self.read_any(offset, buf).await })
    }

    fn write(self: Arc<Self>, offset: u64, buf: IoBuf) -> Op<IoBuf> {
        Op::pending(async move { self.write_any(offset, buf).await })
    }

    fn write_compressed(self: Arc<Self>, offset: u64, buf: IoBuf) -> Op<IoBuf> {
        Op::pending(async move { self.write_packed(offset, buf).await })
    }
    fn write_zeroes(self: Arc<Self>, offset: u64, len: u64, unmap: bool) -> Op<()> {
        Op::pending(async move { self.zero_any(offset, len, unmap).await })
    }

    fn discard(self: Arc<Self>, offset: u64, len: u64) -> Op<()> {
        Op::pending(async move { self.discard_any(offset, len).await })
    }

    fn flush(self: Arc<Self>) -> Op<()> {
        Op::pending(async move { self.flush_all().await })
    }

    fn truncate(self: Arc<Self>, len: u64) -> Op<()> {
        L::truncate(self, len)
    }

    fn status(self: Arc<Self>, offset: u64, len: u64) -> Op<BlockStatus> {
        Op::pending(async move { self.status_of(offset, len).await })
    }

    fn close(self: Arc<Self>) -> Op<()> {
        Op::pending(async move { self.close_all().await })
    }
}

impl<L: MappedImage> Image for Mapped<L> {
    fn backing_name(&self) -> Option<StoredName> {
        L::backing_name(self)
    }

    fn set_backing(&self, node: &Arc<Node>) -> Result<()> {
        Self::set_backing(self, node)
    }

    fn facts(&self) -> Facts {
        L::facts(self)
    }

    fn change(self: Arc<Self>, change: Change) -> Op<()> {
        L::change(self, change)
    }

    fn check(self: Arc<Self>, repair: Repair) -> Op<CheckResult> {
        L::check(self, repair)
    }
}

/// How an image is opened, for drivers.
#[derive(Clone, Default)]
pub(crate) struct OpenArgs {
    pub(crate) read_only: bool,
    /// Look at images that are marked as broken, too.
    pub(crate) for_check: bool,
    /// Facts only: no data will be read.
    pub(crate) no_io: bool,
    /// Opens encrypted images.
    pub(crate) secret: Option<Arc<[u8]>>,
}

impl OpenArgs {
    /// The secret, which an encrypted image cannot do without.
    pub(crate) fn secret(&self, what: &'static str) -> Result<&[u8]> {
        self.secret.as_deref().ok_or(BlockError::Encrypted(what))
    }
}

/// Reads `len` bytes that must be in the file.
pub(crate) async fn read_exactly(
    file: &Node,
    what: &str,
    offset: u64,
    len: u64,
) -> Result<Vec<u8>> {
    let end = offset.checked_add(len);
    if end.is_none_or(|end| end > file.len()) {
        return Err(BlockError::corrupt(format!("{what} is beyond the end of the file")));
    }
    let len =
        usize::try_from(len).map_err(|_| BlockError::corrupt(format!("{what} is too large")))?;
    Ok(file.read(offset, IoBuf::zeroed(len)).await?.into_vec())
}

macro_rules! readers {
    ($($name:ident $t:ty, $n:literal, $from:ident;)*) => {
        $(
            #[doc = concat!("An integer at a place that is known to exist (", stringify!($from), ").")]
            pub(crate) fn $name(bytes: &[u8], at: usize) -> $t {
                <$t>::$from(bytes[at..at + $n].try_into().expect("checked length"))
            }
        )*
    };
}

readers! {
    le16 u16, 2, from_le_bytes;
    le32 u32, 4, from_le_bytes;
    le64 u64, 8, from_le_bytes;
    be32 u32, 4, from_be_bytes;
    be64 u64, 8, from_be_bytes;
}

/// A name in a field that ends with a zero.
pub(crate) fn field_text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}
