//! The executor that runs unfinished requests.
//!
//! It never waits. The machine's loop calls [`Executor::poll`]; when a task becomes ready in
//! between (a promise resolved, a ring completed) the wake hook tells the front end to call
//! again.

use crate::op::BoxFuture;
use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Wake, Waker};

/// Called when a task has become ready outside of [`Executor::poll`].
pub type WakeHook = Arc<dyn Fn() + Send + Sync>;

/// A queue of tasks, shared by everything that belongs to one machine. Cheap to clone.
#[derive(Clone, Default)]
pub struct Executor(Arc<Shared>);

#[derive(Default)]
struct Shared {
    ready: Mutex<VecDeque<Arc<Task>>>,
    tasks: Mutex<(u64, BTreeMap<u64, Arc<Task>>)>,
    hook: Mutex<Option<WakeHook>>,
}

struct Task {
    id: u64,
    state: Mutex<TaskState>,
    queued: AtomicBool,
    shared: Weak<Shared>,
}

enum TaskState {
    Idle(BoxFuture<'static, ()>),
    Running { again: bool },
    Done,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        let Some(shared) = self.shared.upgrade() else { return };
        if !self.queued.swap(true, Ordering::AcqRel) {
            lock(&shared.ready).push_back(self);
            let hook = lock(&shared.hook).clone();
            if let Some(hook) = hook {
                hook();
            }
        }
    }
}

impl Task {
    fn run(self: &Arc<Self>) {
        self.queued.store(false, Ordering::Release);
        let before =
            std::mem::replace(&mut *lock(&self.state), TaskState::Running { again: false });
        let mut future = match before {
            TaskState::Idle(future) => future,
            TaskState::Running { .. } => {
                *lock(&self.state) = TaskState::Running { again: true };
                return;
            }
            TaskState::Done => {
                *lock(&self.state) = TaskState::Done;
                return;
            }
        };
        let waker = Waker::from(self.clone());
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(()) => {
                *lock(&self.state) = TaskState::Done;
                if let Some(shared) = self.shared.upgrade() {
                    lock(&shared.tasks).1.remove(&self.id);
                }
            }
            Poll::Pending => {
                let mut state = lock(&self.state);
                let again = matches!(*state, TaskState::Running { again: true });
                *state = TaskState::Idle(future);
                drop(state);
                if again {
                    waker.wake();
                }
            }
        }
    }
}

impl Executor {
    /// An executor without tasks.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets what to call when there is work for [`Executor::poll`]. It may be called from any
    /// thread and from within `poll`; it must only take note.
    pub fn set_wake_hook(&self, hook: Option<WakeHook>) {
        *lock(&self.0.hook) = hook;
    }

    /// Starts a task and runs it until it first waits.
    pub fn spawn(&self, future: impl Future<Output = ()> + Send + 'static) {
        self.spawn_boxed(Box::pin(future));
    }

    pub(crate) fn spawn_boxed(&self, future: BoxFuture<'static, ()>) {
        let task = {
            let mut tasks = lock(&self.0.tasks);
            tasks.0 += 1;
            let task = Arc::new(Task {
                id: tasks.0,
                state: Mutex::new(TaskState::Idle(future)),
                queued: AtomicBool::new(true),
                shared: Arc::downgrade(&self.0),
            });
            let id = task.id;
            tasks.1.insert(id, task.clone());
            task
        };
        task.run();
    }

    /// Runs every task that is ready, and those that become ready meanwhile. Returns how many
    /// times a task was run; zero means that nothing could move.
    pub fn poll(&self) -> usize {
        // A bound, so that two tasks waking each other cannot hold up the machine for ever.
        const TURNS: usize = 100_000;
        let mut turns = 0;
        while turns < TURNS {
            let Some(task) = lock(&self.0.ready).pop_front() else { break };
            task.run();
            turns += 1;
        }
        turns
    }

    /// True when [`Executor::poll`] would run something.
    pub fn has_work(&self) -> bool {
        !lock(&self.0.ready).is_empty()
    }

    /// Number of tasks that are not finished.
    pub fn unfinished(&self) -> usize {
        lock(&self.0.tasks).1.len()
    }

    /// Runs `future` to its end for a native tool. `park` is the host's way to wait: it returns
    /// after the wake hook was called (earlier does no harm). Must not be called from a task.
    pub fn block_on<T>(&self, future: impl Future<Output = T>, park: &dyn Fn()) -> T {
        self.drive(future, &mut || {
            park();
            true
        })
        .expect("the loop only ends with a result")
    }

    /// Runs `future` as far as it goes without waiting for the host. `None` when it got stuck,
    /// which drops it; meant for storage that completes in place, such as memory.
    pub fn run_in_place<T>(&self, future: impl Future<Output = T>) -> Option<T> {
        self.drive(future, &mut || false)
    }

    fn drive<T>(
        &self,
        future: impl Future<Output = T>,
        wait: &mut dyn FnMut() -> bool,
    ) -> Option<T> {
        struct Flag(AtomicBool, Weak<Shared>);
        impl Wake for Flag {
            fn wake(self: Arc<Self>) {
                self.0.store(true, Ordering::Release);
                if let Some(shared) = self.1.upgrade() {
                    let hook = lock(&shared.hook).clone();
                    if let Some(hook) = hook {
                        hook();
                    }
                }
            }
        }
        let flag = Arc::new(Flag(AtomicBool::new(true), Arc::downgrade(&self.0)));
        let waker = Waker::from(flag.clone());
        let mut future = std::pin::pin!(future);
        loop {
            if flag.0.swap(false, Ordering::AcqRel)
                && let Poll::Ready(value) = future.as_mut().poll(&mut Context::from_waker(&waker))
            {
                return Some(value);
            }
            let moved = self.poll();
            if moved == 0 && !flag.0.load(Ordering::Acquire) && !wait() {
                return None;
            }
        }
    }
}

/// Lets every other task that is ready have its turn.
pub async fn yield_now() {
    let mut yielded = false;
    std::future::poll_fn(|cx| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::op::completion;
    use std::sync::atomic::AtomicUsize;

    #[test]
    fn a_task_runs_until_it_waits_and_again_when_woken() {
        let exec = Executor::new();
        let (finish, op) = completion::<u32>();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = seen.clone();
        let hooks = Arc::new(AtomicUsize::new(0));
        let count = hooks.clone();
        exec.set_wake_hook(Some(Arc::new(move || {
            count.fetch_add(1, Ordering::Relaxed);
        })));
        exec.spawn(async move {
            lock(&log).push(1);
            let value = op.await.unwrap();
            lock(&log).push(value);
        });
        assert_eq!(*lock(&seen), [1]);
        assert_eq!(exec.poll(), 0);
        finish.finish(Ok(7));
        assert_eq!(hooks.load(Ordering::Relaxed), 1);
        assert_eq!(*lock(&seen), [1], "woken tasks run in poll, not in the waker");
        assert_eq!(exec.poll(), 1);
        assert_eq!(*lock(&seen), [1, 7]);
        assert_eq!(exec.unfinished(), 0);
    }

    #[test]
    fn a_task_that_is_woken_after_its_end_stays_ended() {
        let exec = Executor::new();
        let waker = Arc::new(Mutex::new(None));
        let slot = waker.clone();
        exec.spawn(std::future::poll_fn(move |cx| {
            let first = lock(&slot).replace(cx.waker().clone()).is_none();
            if first { Poll::Pending } else { Poll::Ready(()) }
        }));
        let wake = || lock(&waker).clone().expect("polled").wake();
        wake();
        assert_eq!(exec.poll(), 1);
        wake();
        exec.poll();
        assert_eq!(exec.unfinished(), 0);
    }

    #[test]
    fn block_on_parks_until_the_host_finishes_the_operation() {
        let exec = Executor::new();
        let (finish, op) = completion::<u32>();
        let finish = Mutex::new(Some(finish));
        let value = exec.block_on(op, &|| lock(&finish).take().expect("parks once").finish(Ok(3)));
        assert_eq!(value, Ok(3));
    }

    #[test]
    fn an_operation_whose_finisher_is_dropped_is_cancelled() {
        let exec = Executor::new();
        let (finish, op) = completion::<u32>();
        drop(finish);
        assert_eq!(exec.run_in_place(op), Some(Err(crate::BlockError::Cancelled)));
    }
}
