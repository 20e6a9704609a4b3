//! Requests and the tickets for their results.

use crate::sync::lock;
use crate::{IoBuf, Result};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

/// What a device may ask of a drive. Offsets and lengths are in bytes and need no alignment.
#[derive(Debug)]
pub enum Request {
    /// Fill `buf`; the result is the same memory.
    Read {
        /// First byte.
        offset: u64,
        /// Memory to fill; its length is the length of the request.
        buf: IoBuf,
    },
    /// Store `buf`; the result is the same memory.
    Write {
        /// First byte.
        offset: u64,
        /// What to store.
        buf: IoBuf,
        /// Stable when finished, whatever the write cache says.
        fua: bool,
    },
    /// Make every write that has finished stable.
    Flush,
    /// The range's content is not needed any more.
    Discard {
        /// First byte.
        offset: u64,
        /// Length in bytes.
        len: u64,
    },
    /// Make the range read as zeros without sending them.
    WriteZeroes {
        /// First byte.
        offset: u64,
        /// Length in bytes.
        len: u64,
        /// Storage may be given back.
        unmap: bool,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Read,
    Write,
    Flush,
    Discard,
}

impl Request {
    pub(super) fn kind(&self) -> Kind {
        match self {
            Self::Read { .. } => Kind::Read,
            Self::Write { .. } | Self::WriteZeroes { .. } => Kind::Write,
            Self::Flush => Kind::Flush,
            Self::Discard { .. } => Kind::Discard,
        }
    }

    pub(super) fn changes_medium(&self) -> bool {
        matches!(self.kind(), Kind::Write | Kind::Discard)
    }

    pub(super) fn offset(&self) -> u64 {
        match self {
            Self::Read { offset, .. }
            | Self::Write { offset, .. }
            | Self::Discard { offset, .. }
            | Self::WriteZeroes { offset, .. } => *offset,
            Self::Flush => 0,
        }
    }

    pub(super) fn len(&self) -> u64 {
        match self {
            Self::Read { buf, .. } | Self::Write { buf, .. } => buf.len() as u64,
            Self::Discard { len, .. } | Self::WriteZeroes { len, .. } => *len,
            Self::Flush => 0,
        }
    }
}

/// Claim to a request's result. Dropping it lets the request go on unobserved.
#[must_use = "the result of the request comes out of its ticket"]
#[derive(Debug)]
pub struct Ticket(State);

#[derive(Debug)]
enum State {
    Done(Option<Result<IoBuf>>),
    Waiting(Arc<Mutex<Slot>>),
}

#[derive(Debug, Default)]
pub(super) struct Slot {
    result: Option<Result<IoBuf>>,
    taken: bool,
    /// `submit` has returned.
    returned: bool,
    waker: Option<Waker>,
}

/// The finishing end of a ticket.
pub(super) struct Finish(Arc<Mutex<Slot>>);

impl Finish {
    /// Stores the result; true when `submit` had returned by then.
    pub(super) fn finish(self, result: Result<IoBuf>) -> bool {
        let (waker, late) = {
            let mut slot = lock(&self.0);
            slot.result = Some(result);
            (slot.waker.take(), slot.returned)
        };
        if let Some(waker) = waker {
            waker.wake();
        }
        late
    }
}

impl Ticket {
    pub(super) fn done(result: Result<IoBuf>) -> Self {
        Self(State::Done(Some(result)))
    }

    pub(super) fn waiting() -> (Self, Finish) {
        let slot = Arc::new(Mutex::new(Slot::default()));
        (Self(State::Waiting(slot.clone())), Finish(slot))
    }

    pub(super) fn returned(&self) {
        if let State::Waiting(slot) = &self.0 {
            lock(slot).returned = true;
        }
    }

    /// True when the result is there, or was and has been taken.
    pub fn poll(&self) -> bool {
        match &self.0 {
            State::Done(_) => true,
            State::Waiting(slot) => {
                let slot = lock(slot);
                slot.taken || slot.result.is_some()
            }
        }
    }

    /// The result, once.
    pub fn take(&mut self) -> Option<Result<IoBuf>> {
        match &mut self.0 {
            State::Done(result) => result.take(),
            State::Waiting(slot) => {
                let mut slot = lock(slot);
                let result = slot.result.take();
                slot.taken |= result.is_some();
                result
            }
        }
    }
}

impl Future for Ticket {
    type Output = Result<IoBuf>;
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<IoBuf>> {
        if let Some(result) = self.take() {
            return Poll::Ready(result);
        }
        match &self.0 {
            State::Done(_) => panic!("polled after its result was taken"),
            State::Waiting(slot) => {
                let mut slot = lock(slot);
                if let Some(result) = slot.result.take() {
                    slot.taken = true;
                    return Poll::Ready(result);
                }
                slot.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}
