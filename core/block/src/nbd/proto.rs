//! Numbers and layouts of the protocol.

use crate::host::ByteStream;
use crate::{BlockError, IoBuf, Result, errno};
use bitflags::bitflags;

pub(super) const MAGIC: u64 = 0x4e42_444d_4147_4943;
pub(super) const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
/// What an oldstyle server says in the place of [`OPTION_MAGIC`].
pub(super) const OLD_MAGIC: u64 = 0x0000_4202_8186_1253;
pub(super) const REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
pub(super) const REQUEST: u32 = 0x2560_9513;
pub(super) const REQUEST_EXTENDED: u32 = 0x21e4_1c71;
pub(super) const SIMPLE_REPLY: u32 = 0x6744_6698;
pub(super) const CHUNK: u32 = 0x668e_33ef;
pub(super) const CHUNK_EXTENDED: u32 = 0x6e8a_278c;

/// Most bytes of data in a request or a reply.
pub(super) const MAX_DATA: u64 = 32 << 20;
/// Longest string.
pub(super) const MAX_STRING: usize = 4096;

bitflags! {
    /// Flags of both sides at the start.
    #[derive(Clone, Copy)]
    pub(super) struct Hello: u16 {
        const FIXED = 1;
        const NO_ZEROES = 2;
    }

    /// What an export can do.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) struct Features: u16 {
        const HAS_FLAGS = 1;
        const READ_ONLY = 1 << 1;
        const FLUSH = 1 << 2;
        const FUA = 1 << 3;
        const ROTATIONAL = 1 << 4;
        const TRIM = 1 << 5;
        const WRITE_ZEROES = 1 << 6;
        const DF = 1 << 7;
        const MULTI_CONN = 1 << 8;
        const RESIZE = 1 << 9;
        const CACHE = 1 << 10;
        const FAST_ZERO = 1 << 11;
        const STATUS_PAYLOAD = 1 << 12;
    }

    /// Flags of a request.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) struct Flags: u16 {
        const FUA = 1;
        const NO_HOLE = 1 << 1;
        const DF = 1 << 2;
        const REQ_ONE = 1 << 3;
        const FAST_ZERO = 1 << 4;
        const PAYLOAD = 1 << 5;
    }
}

/// Options of the negotiation.
pub(super) mod option {
    pub(in super::super) const EXPORT_NAME: u32 = 1;
    pub(in super::super) const ABORT: u32 = 2;
    pub(in super::super) const LIST: u32 = 3;
    pub(in super::super) const STARTTLS: u32 = 5;
    pub(in super::super) const INFO: u32 = 6;
    pub(in super::super) const GO: u32 = 7;
    pub(in super::super) const STRUCTURED: u32 = 8;
    pub(in super::super) const LIST_CONTEXTS: u32 = 9;
    pub(in super::super) const SET_CONTEXTS: u32 = 10;
    pub(in super::super) const EXTENDED: u32 = 11;
}

/// Replies to options.
pub(super) mod reply {
    pub(in super::super) const ACK: u32 = 1;
    pub(in super::super) const SERVER: u32 = 2;
    pub(in super::super) const INFO: u32 = 3;
    pub(in super::super) const CONTEXT: u32 = 4;
    pub(in super::super) const ERROR: u32 = 1 << 31;
    pub(in super::super) const UNSUPPORTED: u32 = ERROR | 1;
    pub(in super::super) const POLICY: u32 = ERROR | 2;
    pub(in super::super) const INVALID: u32 = ERROR | 3;
    pub(in super::super) const TLS_REQUIRED: u32 = ERROR | 5;
    pub(in super::super) const UNKNOWN: u32 = ERROR | 6;
    pub(in super::super) const TOO_BIG: u32 = ERROR | 9;
}

/// Kinds of information about an export.
pub(super) mod info {
    pub(in super::super) const EXPORT: u16 = 0;
    pub(in super::super) const NAME: u16 = 1;
    pub(in super::super) const DESCRIPTION: u16 = 2;
    pub(in super::super) const BLOCK_SIZE: u16 = 3;
}

/// Requests.
pub(super) mod command {
    pub(in super::super) const READ: u16 = 0;
    pub(in super::super) const WRITE: u16 = 1;
    pub(in super::super) const DISCONNECT: u16 = 2;
    pub(in super::super) const FLUSH: u16 = 3;
    pub(in super::super) const TRIM: u16 = 4;
    pub(in super::super) const CACHE: u16 = 5;
    pub(in super::super) const WRITE_ZEROES: u16 = 6;
    pub(in super::super) const BLOCK_STATUS: u16 = 7;
}

/// Kinds of reply chunks.
pub(super) mod chunk {
    pub(in super::super) const DONE: u16 = 1;
    pub(in super::super) const NONE: u16 = 0;
    pub(in super::super) const DATA: u16 = 1;
    pub(in super::super) const HOLE: u16 = 2;
    pub(in super::super) const STATUS: u16 = 5;
    pub(in super::super) const STATUS_EXTENDED: u16 = 6;
    pub(in super::super) const ERROR: u16 = 1 << 15 | 1;
}

pub(super) const BASE_ALLOCATION: &str = "base:allocation";
pub(super) const ALLOCATION_DEPTH: &str = "qemu:allocation-depth";
pub(super) const DIRTY_BITMAP: &str = "qemu:dirty-bitmap:";

/// Status flags of `base:allocation`.
pub(super) const STATE_HOLE: u32 = 1;
pub(super) const STATE_ZERO: u32 = 2;

/// The error numbers that the protocol knows; anything else is an input/output error.
pub(super) fn wire_errno(error: &BlockError) -> u32 {
    match error.errno() {
        errno::EROFS | errno::EACCES => errno::EPERM as u32,
        number
            if [
                errno::EPERM,
                errno::ENOMEM,
                errno::EINVAL,
                errno::ENOSPC,
                errno::EOVERFLOW,
                errno::ENOTSUP,
                errno::ESHUTDOWN,
            ]
            .contains(&number) =>
        {
            number as u32
        }
        _ => errno::EIO as u32,
    }
}

/// Collects big-endian fields.
#[derive(Default)]
pub(super) struct Pack(pub(super) Vec<u8>);

impl Pack {
    pub(super) fn with(capacity: usize) -> Self {
        Self(Vec::with_capacity(capacity))
    }
    pub(super) fn u16(mut self, value: u16) -> Self {
        self.0.extend(value.to_be_bytes());
        self
    }
    pub(super) fn u32(mut self, value: u32) -> Self {
        self.0.extend(value.to_be_bytes());
        self
    }
    pub(super) fn u64(mut self, value: u64) -> Self {
        self.0.extend(value.to_be_bytes());
        self
    }
    pub(super) fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }
    pub(super) fn string(self, text: &str) -> Self {
        self.u32(text.len() as u32).bytes(text.as_bytes())
    }
}

/// Takes big-endian fields apart; `None` when there is not enough.
pub(super) struct Unpack<'a>(pub(super) &'a [u8]);

impl<'a> Unpack<'a> {
    pub(super) fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(head)
    }
    pub(super) fn u16(&mut self) -> Option<u16> {
        self.take(2).map(|b| u16::from_be_bytes([b[0], b[1]]))
    }
    pub(super) fn u32(&mut self) -> Option<u32> {
        self.take(4).map(|b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]))
    }
    pub(super) fn u64(&mut self) -> Option<u64> {
        self.take(8).map(|b| u64::from_be_bytes(b.try_into().expect("eight bytes")))
    }
    pub(super) fn string(&mut self) -> Option<&'a str> {
        let len = self.u32()? as usize;
        std::str::from_utf8(self.take(len)?).ok()
    }
    pub(super) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }
}

/// Receives exactly `n` bytes.
pub(super) async fn recv(stream: &dyn ByteStream, n: usize) -> Result<IoBuf> {
    if n == 0 {
        return Ok(IoBuf::default());
    }
    stream.recv(IoBuf::zeroed(n)).await
}

/// Sends.
pub(super) async fn send(stream: &dyn ByteStream, bytes: Vec<u8>) -> Result<()> {
    stream.send(vec![bytes.into()]).await.map(drop)
}
