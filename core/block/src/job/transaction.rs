//! Jobs that succeed or fail together.

use super::Job;
use crate::sync::{Notify, lock};
use std::sync::{Arc, Mutex, Weak};

/// A group of jobs. A job by itself is a group of one.
#[derive(Default)]
pub(crate) struct Transaction {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    jobs: Vec<Weak<Job>>,
    /// Jobs whose work is done.
    waiting: usize,
    /// Jobs that have prepared, or need not any more.
    settled: usize,
    failed: bool,
}

impl Transaction {
    pub(super) fn join(&self, job: &Arc<Job>) {
        lock(&self.state).jobs.push(Arc::downgrade(job));
    }

    /// Waits until every job has done its work, or one has failed.
    pub(super) async fn wait(&self, job: &Job) {
        lock(&self.state).waiting += 1;
        self.changed.notify();
        let all = || {
            let state = lock(&self.state);
            (state.failed || state.waiting >= state.jobs.len()).then_some(())
        };
        self.changed.until(all).await;
        self.take_over(job);
    }

    /// Waits until every job has prepared, or one has failed.
    pub(super) async fn settle(&self, job: &Job) {
        lock(&self.state).settled += 1;
        self.changed.notify();
        let all = || {
            let state = lock(&self.state);
            (state.failed || state.settled >= state.jobs.len()).then_some(())
        };
        self.changed.until(all).await;
        self.take_over(job);
    }

    /// The failure of one is the failure of all.
    fn take_over(&self, job: &Job) {
        if lock(&self.state).failed && !job.failed() {
            let _ = job.cancel(true);
            job.fail(None);
        }
    }

    pub(super) fn fail(&self, job: &Job) {
        let others: Vec<_> = {
            let mut state = lock(&self.state);
            if std::mem::replace(&mut state.failed, true) {
                return;
            }
            state.jobs.iter().filter_map(Weak::upgrade).collect()
        };
        self.changed.notify();
        for other in others.iter().filter(|other| !std::ptr::eq(&***other, job)) {
            let _ = other.cancel(true);
        }
    }

    pub(super) fn finalize(&self) {
        let jobs: Vec<_> = lock(&self.state).jobs.iter().filter_map(Weak::upgrade).collect();
        jobs.iter().for_each(|job| job.allow_finalize());
    }

    pub(super) fn leave(&self, _job: &Job) {
        self.changed.notify();
    }
}
