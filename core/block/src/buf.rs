//! Owned memory of a request.

use std::ops::{Deref, DerefMut, Range};

/// Copies of this many bytes are twice as fast, and past the page cache possible at all, when
/// memory begins at a page.
const LARGE: usize = 64 << 10;
const PAGE: usize = 4096;

/// The memory of one request, owned by whoever is working on it.
///
/// It travels with the operation and comes back with the result, so that an operation whose
/// caller has gone still has valid memory. Dereferences to the bytes of the request.
#[derive(Clone, Debug, Default)]
pub struct IoBuf {
    data: Vec<u8>,
    start: usize,
    end: usize,
}

impl IoBuf {
    /// `len` zero bytes. Large memory begins at a page.
    pub fn zeroed(len: usize) -> Self {
        if len < LARGE {
            return Self { data: vec![0; len], start: 0, end: len };
        }
        let data = vec![0; len + PAGE];
        let start = data.as_ptr().align_offset(PAGE).min(PAGE);
        Self { data, start, end: start + len }
    }

    /// The memory as a vector; copies only when the buffer is a narrowed view.
    pub fn into_vec(mut self) -> Vec<u8> {
        if self.start == 0 {
            self.data.truncate(self.end);
            return self.data;
        }
        self[..].to_vec()
    }

    /// Narrows the view to `range` of the current one and gives the view to restore. Panics when
    /// the range is not in the view.
    pub fn narrow(&mut self, range: Range<usize>) -> Range<usize> {
        let old = self.start..self.end;
        assert!(range.start <= range.end && range.end <= old.len(), "view outside its buffer");
        self.end = self.start + range.end;
        self.start += range.start;
        old
    }

    /// Undoes [`IoBuf::narrow`].
    pub fn widen(&mut self, old: Range<usize>) {
        assert!(old.start <= old.end && old.end <= self.data.len(), "view outside its buffer");
        self.start = old.start;
        self.end = old.end;
    }
}

impl From<Vec<u8>> for IoBuf {
    fn from(data: Vec<u8>) -> Self {
        let end = data.len();
        Self { data, start: 0, end }
    }
}

impl From<&[u8]> for IoBuf {
    fn from(data: &[u8]) -> Self {
        data.to_vec().into()
    }
}

impl Deref for IoBuf {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.data[self.start..self.end]
    }
}

impl DerefMut for IoBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.data[self.start..self.end]
    }
}

impl PartialEq for IoBuf {
    fn eq(&self, other: &Self) -> bool {
        self[..] == other[..]
    }
}

impl Eq for IoBuf {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_memory_begins_at_a_page_and_has_no_more_than_was_asked_for() {
        let mut buf = IoBuf::zeroed(LARGE + 5);
        assert_eq!(buf.as_ptr() as usize % PAGE, 0);
        assert_eq!(buf.len(), LARGE + 5);
        buf[LARGE + 4] = 7;
        let bytes = buf.into_vec();
        assert_eq!((bytes.len(), bytes[LARGE + 4], bytes[0]), (LARGE + 5, 7, 0));
    }

    #[test]
    fn a_narrowed_buffer_shows_its_window_and_widens_back() {
        let mut buf = IoBuf::from(vec![0, 1, 2, 3, 4, 5]);
        let outer = buf.narrow(1..5);
        assert_eq!(&buf[..], [1, 2, 3, 4]);
        let inner = buf.narrow(2..3);
        buf[0] = 9;
        buf.widen(inner);
        assert_eq!(&buf[..], [1, 2, 9, 4]);
        assert_eq!(buf.clone().into_vec(), [1, 2, 9, 4]);
        buf.widen(outer);
        assert_eq!(buf.into_vec(), [0, 1, 2, 9, 4, 5]);
    }
}
