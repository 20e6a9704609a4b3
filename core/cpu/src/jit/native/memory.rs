//! Memory that code is put in and run from.
//!
//! One of the two modules of the JIT that are not safe Rust. What makes it sound:
//!
//! - The arena is one shared mapping seen at two addresses: a writable one, used in [`Arena::put`]
//!   alone, and an executable one. No address is both.
//! - Both mappings live until the arena is dropped, which its owner does only when no compiled
//!   code runs or will be entered again.
//! - A piece is given out once until it is freed, so that code that may run is not written to.
#![expect(unsafe_code, reason = "memory mappings")]

use std::collections::BTreeMap;
use std::io::Error;

/// An arena of executable memory.
pub(super) struct Arena {
    write: *mut u8,
    exec: *const u8,
    len: usize,
    /// Free pieces: start and length.
    free: BTreeMap<usize, usize>,
}

// SAFETY: the mappings are owned and not bound to a thread.
unsafe impl Send for Arena {}

const ALIGN: usize = 64;

impl Arena {
    /// Reserves `len` bytes, which take memory only when used.
    pub(super) fn new(len: usize) -> Result<Self, Error> {
        let fail = |ok: bool| if ok { Ok(()) } else { Err(Error::last_os_error()) };
        // SAFETY: a new file, mapped twice at addresses of the system's choice; results are checked.
        unsafe {
            let file = libc::memfd_create(c"orrery-jit".as_ptr(), libc::MFD_CLOEXEC);
            fail(file >= 0)?;
            let map =
                |access| libc::mmap(std::ptr::null_mut(), len, access, libc::MAP_SHARED, file, 0);
            let sized = fail(libc::ftruncate(file, len as libc::off_t) == 0);
            let write = map(libc::PROT_READ | libc::PROT_WRITE);
            let exec = map(libc::PROT_READ | libc::PROT_EXEC);
            libc::close(file);
            sized?;
            fail(write != libc::MAP_FAILED && exec != libc::MAP_FAILED)?;
            let free = BTreeMap::from([(0, len)]);
            Ok(Self { write: write.cast(), exec: exec.cast_const().cast(), len, free })
        }
    }

    /// Copies code in; answers where it can be run. `None` when it does not fit.
    pub(super) fn put(&mut self, code: &[u8]) -> Option<usize> {
        self.put_with(code.len(), |_| code)
    }

    /// The same for code of `len` bytes that is different from place to place.
    pub(super) fn put_with<'a>(
        &mut self,
        len: usize,
        code: impl FnOnce(usize) -> &'a [u8],
    ) -> Option<usize> {
        let need = len.max(1).next_multiple_of(ALIGN);
        let (&at, &len) = self.free.iter().find(|&(_, &len)| len >= need)?;
        self.free.remove(&at);
        if len > need {
            self.free.insert(at + need, len - need);
        }
        let place = self.exec as usize + at;
        let code = code(place);
        assert!(code.len() <= need, "code of the length said");
        // SAFETY: the piece is inside the mapping, long enough and free: nothing runs it.
        unsafe { std::ptr::copy_nonoverlapping(code.as_ptr(), self.write.add(at), code.len()) };
        Some(place)
    }

    /// Frees what [`put`](Self::put) gave for `len` bytes.
    pub(super) fn free(&mut self, place: usize, len: usize) {
        let (mut at, mut len) = (place - self.exec as usize, len.max(1).next_multiple_of(ALIGN));
        if let Some((&before, &n)) = self.free.range(..at).next_back()
            && before + n == at
        {
            self.free.remove(&before);
            (at, len) = (before, n + len);
        }
        if let Some(n) = self.free.remove(&(at + len)) {
            len += n;
        }
        self.free.insert(at, len);
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: mapped in `new` with this length, unmapped once.
        unsafe {
            libc::munmap(self.write.cast(), self.len);
            libc::munmap(self.exec.cast_mut().cast(), self.len);
        }
    }
}

/// The code at an address of the arena as a function.
///
/// It is the caller who calls it, and answers for it.
pub(super) fn entry(place: usize) -> crate::jit::abi::Entry {
    // SAFETY: a function pointer that is not null; what it points to is code made for this type.
    unsafe { std::mem::transmute::<usize, crate::jit::abi::Entry>(place) }
}

/// Processor time of this thread.
pub(super) fn thread_time(now: &mut libc::timespec) {
    // SAFETY: a valid place for the result.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, now) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_reused_and_grow_together() {
        let mut a = Arena::new(4096).unwrap();
        let one = a.put(&[1; 100]).unwrap();
        let two = a.put(&[2; 64]).unwrap();
        assert_eq!(two - one, 128);
        assert!(a.put(&[0; 4000]).is_none());
        a.free(one, 100);
        a.free(two, 64);
        assert_eq!(a.put(&[0; 4096]), Some(one));
    }
}
