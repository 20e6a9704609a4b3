//! An operation that may already be done.
//!
//! Futures are `Send`: whoever must wait for something that is bound to a thread (a promise, a
//! ring) keeps it in its own table and finishes a [`Completion`] from there. In return a lock
//! held over a suspension point does not compile, and a backend may be used from any thread.

use crate::{BlockError, Result};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

pub(crate) type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Result of starting an operation: done in place, or to be waited for.
///
/// It is a future either way; [`Op::Done`] costs no allocation.
pub enum Op<T> {
    /// Finished before it returned.
    Done(Option<Result<T>>),
    /// Still going on; owns its memory.
    Pending(BoxFuture<'static, Result<T>>),
}

impl<T> Op<T> {
    /// Finished well.
    pub fn ok(value: T) -> Self {
        Self::Done(Some(Ok(value)))
    }

    /// Finished badly.
    pub fn err(error: BlockError) -> Self {
        Self::Done(Some(Err(error)))
    }

    /// Waits for `future`.
    pub fn pending(future: impl Future<Output = Result<T>> + Send + 'static) -> Self {
        Self::Pending(Box::pin(future))
    }
}

impl<T> From<Result<T>> for Op<T> {
    fn from(result: Result<T>) -> Self {
        Self::Done(Some(result))
    }
}

// The value is moved out, never pinned.
impl<T> Unpin for Op<T> {}

impl<T> Future for Op<T> {
    type Output = Result<T>;
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<T>> {
        match self.get_mut() {
            Self::Done(result) => Poll::Ready(result.take().expect("polled after it was done")),
            Self::Pending(future) => future.as_mut().poll(cx),
        }
    }
}

struct Slot<T> {
    result: Option<Result<T>>,
    waker: Option<Waker>,
    finisher_gone: bool,
}

/// The finishing end of an operation that something outside this crate works on.
///
/// Dropping it unfinished fails the operation with [`BlockError::Cancelled`].
pub struct Completion<T>(Arc<Mutex<Slot<T>>>);

/// A pending operation and the handle that finishes it, from any thread or callback.
pub fn completion<T: Send + 'static>() -> (Completion<T>, Op<T>) {
    let slot = Arc::new(Mutex::new(Slot { result: None, waker: None, finisher_gone: false }));
    (Completion(slot.clone()), Op::Pending(Box::pin(Waiting(slot))))
}

impl<T> Completion<T> {
    /// Finishes the operation.
    pub fn finish(self, result: Result<T>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).result = Some(result);
        // the waker fires in drop
    }
}

impl<T> Drop for Completion<T> {
    fn drop(&mut self) {
        let waker = {
            let mut slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            slot.finisher_gone = true;
            slot.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

struct Waiting<T>(Arc<Mutex<Slot<T>>>);

impl<T> Future for Waiting<T> {
    type Output = Result<T>;
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<T>> {
        let mut slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(result) = slot.result.take() {
            return Poll::Ready(result);
        }
        if slot.finisher_gone {
            return Poll::Ready(Err(BlockError::Cancelled));
        }
        slot.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}

/// Waits for whichever of two futures is first, and drops the other.
pub(crate) async fn race<A: Future, B: Future>(
    mut a: Pin<&mut A>,
    mut b: Pin<&mut B>,
) -> std::result::Result<A::Output, B::Output> {
    std::future::poll_fn(move |cx| {
        if let Poll::Ready(value) = a.as_mut().poll(cx) {
            return Poll::Ready(Ok(value));
        }
        b.as_mut().poll(cx).map(Err)
    })
    .await
}
