//! Where a command's data is: page lists (4.3) and scatter gather lists (4.4).

use super::queue::Command;
use crate::dma::Pieces;
use orrery_system::Dma;

/// Status codes of this part (4.6.1).
const TRANSFER_ERROR: u16 = 0x04;
const SGL_DESCRIPTOR: u16 = 0x0d;
const SGL_COUNT: u16 = 0x0e;
const SGL_LENGTH: u16 = 0x0f;
const SGL_TYPE: u16 = 0x11;
const PRP_OFFSET: u16 = 0x13;

/// Most pieces of a command, and most segments of its list.
const PIECES: usize = 1024;
const SEGMENTS: usize = 256;

/// The pieces of memory that hold the `len` bytes of a command.
pub(super) fn pieces(dma: &Dma, command: &Command, len: u64, page: u64) -> Result<Pieces, u16> {
    if len == 0 {
        return Ok(Pieces::default());
    }
    if command.by_list() { by_list(dma, command, len) } else { by_pages(dma, command, len, page) }
}

fn by_pages(dma: &Dma, command: &Command, len: u64, page: u64) -> Result<Pieces, u16> {
    let mut pieces = Pieces::default();
    let first = command.long(6);
    if !first.is_multiple_of(4) {
        return Err(PRP_OFFSET);
    }
    let n = len.min(page - first % page);
    pieces.add(first, n as u32);
    let (mut left, mut list) = (len - n, command.long(8));
    if left == 0 {
        return Ok(pieces);
    }
    if left <= page {
        if list % page != 0 {
            return Err(PRP_OFFSET);
        }
        pieces.add(list, left as u32);
        return Ok(pieces);
    }
    if list % 8 != 0 {
        return Err(PRP_OFFSET);
    }
    while left > 0 {
        let entry = dma.read_u64(list).map_err(|_| TRANSFER_ERROR)?;
        if entry % page != 0 {
            return Err(PRP_OFFSET);
        }
        // The last entry of a page leads to the next list, if that is not the end.
        if (list + 8) % page == 0 && left > page {
            list = entry;
            if pieces.count() > PIECES {
                return Err(PRP_OFFSET);
            }
            let entry = dma.read_u64(list).map_err(|_| TRANSFER_ERROR)?;
            if entry % page != 0 {
                return Err(PRP_OFFSET);
            }
            add(&mut pieces, entry, &mut left, page);
        } else {
            add(&mut pieces, entry, &mut left, page);
        }
        list = list.wrapping_add(8);
    }
    Ok(pieces)
}

fn add(pieces: &mut Pieces, at: u64, left: &mut u64, most: u64) {
    let n = (*left).min(most);
    pieces.add(at, n as u32);
    *left -= n;
}

fn by_list(dma: &Dma, command: &Command, len: u64) -> Result<Pieces, u16> {
    let mut pieces = Pieces::default();
    let mut left = len;
    let w = [command.long(6), command.long(8)];
    let mut segment = match descriptor(w)? {
        Descriptor::Data(at, n) if u64::from(n) >= len => {
            pieces.add(at, len as u32);
            return Ok(pieces);
        }
        Descriptor::Data(..) => return Err(SGL_LENGTH),
        Descriptor::Segment(at, n) => Some((at, n)),
        Descriptor::Skip => return Err(SGL_TYPE),
    };
    let mut segments = 0;
    while let Some((at, bytes)) = segment.take() {
        segments += 1;
        let n = bytes / 16;
        if n == 0 || bytes % 16 != 0 || segments > SEGMENTS {
            return Err(SGL_DESCRIPTOR);
        }
        for i in 0..u64::from(n) {
            let at = at.wrapping_add(16 * i);
            let word = |at| dma.read_u64(at).map_err(|_| TRANSFER_ERROR);
            match descriptor([word(at)?, word(at.wrapping_add(8))?])? {
                Descriptor::Data(at, n) => add(&mut pieces, at, &mut left, n.into()),
                // Nothing is written there, and this controller does not offer it.
                Descriptor::Skip => return Err(SGL_TYPE),
                Descriptor::Segment(at, bytes) if i + 1 == u64::from(n) => {
                    segment = Some((at, bytes));
                }
                Descriptor::Segment(..) => return Err(SGL_DESCRIPTOR),
            }
            if left == 0 {
                return Ok(pieces);
            }
            if pieces.count() > PIECES {
                return Err(SGL_COUNT);
            }
        }
    }
    Err(SGL_LENGTH)
}

enum Descriptor {
    Data(u64, u32),
    Skip,
    Segment(u64, u32),
}

fn descriptor([addr, rest]: [u64; 2]) -> Result<Descriptor, u16> {
    let len = rest as u32;
    // Type in the upper four bits of the last byte; the lower ones say what sort of address.
    match (rest >> 60, rest >> 56 & 15) {
        (0, 0) => Ok(Descriptor::Data(addr, len)),
        (1, 0) => Ok(Descriptor::Skip),
        (2 | 3, 0) => Ok(Descriptor::Segment(addr, len)),
        _ => Err(SGL_TYPE),
    }
}
