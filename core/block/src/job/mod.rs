//! Jobs: long work on nodes that runs beside the machine.
//!
//! A [`Job`] is the state machine that the monitor sees; what it does is a `Work`. Jobs of one
//! transaction wait for each other before they make their results count, and fail together.

mod backup;
mod commit;
pub(crate) mod copy;
mod create;
mod mirror;
mod stream;
mod table;
mod transaction;

pub(crate) use backup::{Backup, BackupOptions, BitmapMode, SyncMode, cluster_for, how_for};
pub(crate) use commit::{Commit, CommitOptions, check_chain};
pub(crate) use create::Create;
pub(crate) use mirror::{CopyMode, Mirror, MirrorOptions, MirrorWork};
pub(crate) use stream::{Stream, StreamOptions};
pub(crate) use transaction::Transaction;

use crate::backend::OnError;
use crate::op::BoxFuture;
use crate::sync::{Notify, lock};
use crate::{BlockError, Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};

/// What a job is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum JobKind {
    /// Moves data down a backing chain.
    Commit,
    /// Moves data up a backing chain.
    Stream,
    /// Keeps a copy like its source.
    Mirror,
    /// Copies what was there when it began.
    Backup,
    /// Makes an image.
    Create,
    /// Changes an image.
    Amend,
    /// Keeps the machine's state.
    SnapshotSave,
    /// Goes back to it.
    SnapshotLoad,
    /// Drops it.
    SnapshotDelete,
}

impl JobKind {
    /// Works on nodes, so that the older commands and events are about it too.
    fn is_block_job(self) -> bool {
        matches!(self, Self::Commit | Self::Stream | Self::Mirror | Self::Backup)
    }
}

/// Where a job is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum JobStatus {
    /// Made, not started.
    Created,
    /// At work.
    Running,
    /// Stopped for a while.
    Paused,
    /// Caught up; waits for the word to complete.
    Ready,
    /// Paused while ready.
    Standby,
    /// Its work is done; others of its transaction are not.
    Waiting,
    /// Waits for the word to make its result count.
    Pending,
    /// Failed or cancelled, and cleaning up.
    Aborting,
    /// Over; waits to be dismissed.
    Concluded,
    /// Gone.
    Null,
}

/// How a job is run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct JobOptions {
    pub(crate) speed: u64,
    pub(crate) auto_finalize: bool,
    pub(crate) auto_dismiss: bool,
}

impl Default for JobOptions {
    fn default() -> Self {
        Self { speed: 0, auto_finalize: true, auto_dismiss: true }
    }
}

/// What a job does. The graph is changed in `start`, `prepare`, `commit` and `abort` only.
pub(crate) trait Work: Send + Sync {
    /// Does the work. Ends early with an error when the job is cancelled.
    fn run<'a>(&'a self, job: &'a Arc<Job>) -> BoxFuture<'a, Result<()>>;

    /// The last step that may fail, when every job of the transaction has done its work.
    fn prepare<'a>(&'a self, job: &'a Arc<Job>) -> BoxFuture<'a, Result<()>> {
        let _ = job;
        Box::pin(async { Ok(()) })
    }

    /// Cleans up, whether it went well or not.
    fn clean<'a>(&'a self, job: &'a Arc<Job>, ok: bool) -> BoxFuture<'a, ()> {
        let _ = (job, ok);
        Box::pin(async {})
    }

    /// True when it can be told to complete.
    fn completes(&self) -> bool {
        false
    }

    /// Changes something while it runs.
    fn change(&self, options: &Value) -> Result<()> {
        let _ = options;
        Err(BlockError::Invalid("Job type does not support change".into()))
    }

    /// What `query-block-jobs` shows besides.
    fn facts(&self) -> Value {
        Value::Null
    }
}

/// A job.
pub struct Job {
    id: String,
    kind: JobKind,
    context: Context,
    work: Arc<dyn Work>,
    transaction: Arc<Transaction>,
    state: Mutex<State>,
    changed: Notify,
}

struct State {
    status: JobStatus,
    pauses: u32,
    user_paused: bool,
    /// Not at work right now because it was told to pause.
    resting: bool,
    cancelled: bool,
    /// Cancelled so that even a job that is ready drops its work.
    forced: bool,
    complete: bool,
    finalize: bool,
    offset: u64,
    len: u64,
    options: JobOptions,
    error: Option<BlockError>,
    io_status: &'static str,
    /// When the next piece may be moved.
    next: u64,
}

/// What becomes of a failed request of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ErrorAction {
    Report,
    Ignore,
    Stop,
}

impl Job {
    pub(crate) fn new(
        context: &Context,
        id: &str,
        kind: JobKind,
        options: JobOptions,
        work: Arc<dyn Work>,
        transaction: Option<&Arc<Transaction>>,
    ) -> Arc<Self> {
        let job = Arc::new(Self {
            id: id.into(),
            kind,
            context: context.clone(),
            work,
            transaction: transaction.cloned().unwrap_or_default(),
            state: Mutex::new(State {
                status: JobStatus::Created,
                pauses: 0,
                user_paused: false,
                resting: false,
                cancelled: false,
                forced: false,
                complete: false,
                finalize: false,
                offset: 0,
                len: 0,
                options,
                error: None,
                io_status: "ok",
                next: 0,
            }),
            changed: Notify::default(),
        });
        job.transaction.join(&job);
        job.tell_status();
        job
    }

    /// Its name.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// What it is for.
    pub fn kind(&self) -> JobKind {
        self.kind
    }

    /// Where it is in its life.
    pub fn status(&self) -> JobStatus {
        lock(&self.state).status
    }

    pub(crate) fn context(&self) -> &Context {
        &self.context
    }

    fn tell_status(&self) {
        let status = self.status();
        self.context.emit("JOB_STATUS_CHANGE", json!({"status": status, "id": self.id}));
    }

    fn set_status(&self, status: JobStatus) {
        let old = std::mem::replace(&mut lock(&self.state).status, status);
        if old != status {
            self.tell_status();
        }
        self.changed.notify();
    }

    fn tell(&self, event: &'static str, error: Option<&BlockError>) {
        if !self.kind.is_block_job() {
            return;
        }
        let data = {
            let state = lock(&self.state);
            let mut data = json!({
                "device": self.id, "len": state.len, "offset": state.offset,
                "speed": state.options.speed, "type": self.kind,
            });
            if let Some(error) = error {
                data["error"] = error.to_string().into();
            }
            data
        };
        self.context.emit(event, data);
    }

    /// Begins; the job goes on by itself.
    pub(crate) fn start(self: &Arc<Self>) {
        let job = self.clone();
        self.context.executor().spawn(async move { job.live().await });
    }

    async fn live(self: Arc<Self>) {
        self.set_status(JobStatus::Running);
        let result = match self.rest().await {
            Ok(()) => self.work.run(&self).await,
            error => error,
        };
        let failed = result.is_err() || lock(&self.state).forced;
        if failed {
            self.fail(result.err());
        } else {
            self.set_status(JobStatus::Waiting);
            self.transaction.wait(&self).await;
            if !self.failed() {
                self.pend().await;
            }
            if !self.failed()
                && let Err(error) = self.work.prepare(&self).await
            {
                self.fail(Some(error));
            }
            self.transaction.settle(&self).await;
        }
        let ok = !self.failed();
        if !ok {
            self.set_status(JobStatus::Aborting);
        }
        self.work.clean(&self, ok).await;
        self.transaction.leave(&self);
        let (error, cancelled, dismiss) = {
            let state = lock(&self.state);
            (state.error.clone(), state.cancelled, state.options.auto_dismiss)
        };
        if cancelled && !ok {
            self.tell("BLOCK_JOB_CANCELLED", None);
        } else {
            self.tell("BLOCK_JOB_COMPLETED", error.as_ref().filter(|_| !ok));
        }
        self.set_status(JobStatus::Concluded);
        if dismiss {
            self.set_status(JobStatus::Null);
        }
    }

    /// Waits for `job-finalize` where that is asked for.
    async fn pend(&self) {
        let auto = {
            let mut state = lock(&self.state);
            state.finalize |= state.options.auto_finalize;
            state.finalize
        };
        self.set_status(JobStatus::Pending);
        if !auto {
            let data = json!({"type": self.kind, "id": self.id});
            if self.kind.is_block_job() {
                self.context.emit("BLOCK_JOB_PENDING", data);
            }
            let go = || {
                let state = lock(&self.state);
                (state.finalize || state.cancelled).then_some(())
            };
            self.changed.until(go).await;
            let mut state = lock(&self.state);
            if state.cancelled {
                state.error.get_or_insert(BlockError::Cancelled);
            }
        }
    }

    fn failed(&self) -> bool {
        lock(&self.state).error.is_some()
    }

    pub(crate) fn fail(&self, error: Option<BlockError>) {
        {
            let mut state = lock(&self.state);
            let error = match error {
                Some(error) if !(state.cancelled && error == BlockError::Cancelled) => error,
                _ => BlockError::Cancelled,
            };
            state.error.get_or_insert(error);
        }
        self.transaction.fail(self);
        self.changed.notify();
    }

    /// Where work may be interrupted: waits while the job is paused. Fails once it is cancelled.
    pub(crate) async fn rest(&self) -> Result<()> {
        let must = {
            let state = lock(&self.state);
            state.pauses > 0 && !state.cancelled
        };
        if must {
            let before = self.status();
            let resting =
                if before == JobStatus::Ready { JobStatus::Standby } else { JobStatus::Paused };
            lock(&self.state).resting = true;
            self.set_status(resting);
            let go = || {
                let state = lock(&self.state);
                (state.pauses == 0 || state.cancelled).then_some(())
            };
            self.changed.until(go).await;
            lock(&self.state).resting = false;
            self.set_status(before);
        }
        if self.is_cancelled() { Err(BlockError::Cancelled) } else { Ok(()) }
    }

    /// True when it should drop its work.
    pub(crate) fn is_cancelled(&self) -> bool {
        let state = lock(&self.state);
        state.forced || state.error.is_some()
    }

    /// True when it should stop in good order: it was ready and was told to complete or cancel.
    pub(crate) fn should_complete(&self) -> bool {
        let state = lock(&self.state);
        state.complete || state.cancelled
    }

    /// True when a job that was ready was told to stop without making its result count.
    pub(crate) fn soft_cancelled(&self) -> bool {
        let state = lock(&self.state);
        state.cancelled && !state.complete
    }

    /// Waits until something about the job changes, or for `ns`.
    pub(crate) async fn wait(&self, ns: u64) {
        // It is asked twice before it waits.
        let mut asked = 0;
        let changed = self.changed.until(move || {
            asked += 1;
            (asked > 2).then_some(())
        });
        if !self.context.has_clock() {
            return changed.await;
        }
        let sleep = self.context.sleep(ns);
        let _ = crate::op::race(std::pin::pin!(changed), std::pin::pin!(sleep)).await;
    }

    /// Keeps to the speed limit: called after each piece of work.
    pub(crate) async fn pace(&self, bytes: u64) {
        let wait = {
            let mut state = lock(&self.state);
            if state.options.speed == 0 || !self.context.has_clock() {
                0
            } else {
                let now = self.context.now();
                state.next = state.next.max(now)
                    + (u128::from(bytes) * 1_000_000_000 / u128::from(state.options.speed)) as u64;
                state.next - now
            }
        };
        // Short waits are saved up.
        if wait > 10_000_000 {
            let end = self.context.now() + wait;
            while self.context.now() < end && !self.is_cancelled() {
                let speed = lock(&self.state).options.speed;
                self.wait(end - self.context.now()).await;
                if lock(&self.state).options.speed != speed {
                    break;
                }
            }
        }
    }

    /// The end of the work as it is known now.
    pub(crate) fn set_len(&self, len: u64) {
        lock(&self.state).len = len;
    }

    /// So much more is done.
    pub(crate) fn progress(&self, bytes: u64) {
        lock(&self.state).offset += bytes;
    }

    /// Everything is done.
    pub(crate) fn progress_to_end(&self) {
        let mut state = lock(&self.state);
        state.offset = state.len;
    }

    /// It has caught up.
    pub(crate) fn set_ready(&self) {
        self.set_status(JobStatus::Ready);
        self.tell("BLOCK_JOB_READY", None);
    }

    /// What to do about a failed request; stops the job where the policy says so.
    pub(crate) fn on_error(&self, error: &BlockError, read: bool, policy: OnError) -> ErrorAction {
        let full = error.is_no_space();
        let action = match policy {
            OnError::Ignore => ErrorAction::Ignore,
            OnError::Stop => ErrorAction::Stop,
            OnError::Enospc | OnError::Auto if full && !read => ErrorAction::Stop,
            _ => ErrorAction::Report,
        };
        let word = match action {
            ErrorAction::Report => "report",
            ErrorAction::Ignore => "ignore",
            ErrorAction::Stop => "stop",
        };
        let operation = if read { "read" } else { "write" };
        self.context.emit(
            "BLOCK_JOB_ERROR",
            json!({"device": self.id, "operation": operation, "action": word}),
        );
        if action == ErrorAction::Stop {
            let mut state = lock(&self.state);
            state.io_status = if full { "nospace" } else { "failed" };
            if !state.user_paused {
                state.user_paused = true;
                state.pauses += 1;
            }
        }
        action
    }

    fn refuse<T>(&self, verb: &str) -> Result<T> {
        let status = serde_json::to_value(self.status()).unwrap_or_default();
        Err(BlockError::Invalid(format!(
            "Job '{}' in state '{}' cannot accept command verb '{verb}'",
            self.id,
            status.as_str().unwrap_or_default()
        )))
    }

    fn allow(&self, verb: &str, states: &[JobStatus]) -> Result<()> {
        if states.contains(&self.status()) { Ok(()) } else { self.refuse(verb) }
    }

    /// Stops it for a while.
    pub fn pause(&self) -> Result<()> {
        use JobStatus::{Created, Paused, Ready, Running, Standby};
        self.allow("pause", &[Created, Running, Paused, Ready, Standby])?;
        let mut state = lock(&self.state);
        if state.user_paused {
            return Err(BlockError::Invalid("Job is already paused".into()));
        }
        state.user_paused = true;
        state.pauses += 1;
        Ok(())
    }

    /// Lets it go on.
    pub fn resume(&self) -> Result<()> {
        use JobStatus::{Created, Paused, Ready, Running, Standby};
        self.allow("resume", &[Created, Running, Paused, Ready, Standby])?;
        {
            let mut state = lock(&self.state);
            if !state.user_paused {
                return Err(BlockError::Invalid("Can't resume a job that was not paused".into()));
            }
            state.user_paused = false;
            state.pauses -= 1;
            state.io_status = "ok";
        }
        self.changed.notify();
        Ok(())
    }

    /// Ends it. A job that is ready stops in good order, unless `force`.
    pub fn cancel(&self, force: bool) -> Result<()> {
        use JobStatus::{Concluded, Null};
        if [Concluded, Null].contains(&self.status()) {
            return self.refuse("cancel");
        }
        {
            let mut state = lock(&self.state);
            let soft =
                !force && state.status == JobStatus::Ready || state.status == JobStatus::Standby;
            state.cancelled = true;
            state.forced |= force || !soft;
            state.next = 0;
        }
        self.changed.notify();
        Ok(())
    }

    /// Tells a job that is ready to make its result count.
    pub fn complete(&self) -> Result<()> {
        self.allow("complete", &[JobStatus::Ready])?;
        if lock(&self.state).pauses > 0 || lock(&self.state).cancelled || !self.work.completes() {
            return Err(BlockError::Invalid(format!(
                "The active block job '{}' cannot be completed",
                self.id
            )));
        }
        lock(&self.state).complete = true;
        self.changed.notify();
        Ok(())
    }

    /// Lets a job that is pending make its result count.
    pub fn finalize(&self) -> Result<()> {
        self.allow("finalize", &[JobStatus::Pending])?;
        self.transaction.finalize();
        Ok(())
    }

    pub(crate) fn allow_finalize(&self) {
        lock(&self.state).finalize = true;
        self.changed.notify();
    }

    /// Forgets a job that is over.
    pub fn dismiss(&self) -> Result<()> {
        self.allow("dismiss", &[JobStatus::Concluded])?;
        self.set_status(JobStatus::Null);
        Ok(())
    }

    /// Forgets a job that was never started.
    pub(crate) fn discard(&self) {
        self.set_status(JobStatus::Null);
    }

    /// Limits its speed in bytes per second; zero is no limit.
    pub fn set_speed(&self, speed: u64) -> Result<()> {
        if !self.kind.is_block_job() || self.status() == JobStatus::Concluded {
            return self.refuse("set-speed");
        }
        {
            let mut state = lock(&self.state);
            state.options.speed = speed;
            state.next = 0;
        }
        self.changed.notify();
        Ok(())
    }

    /// Changes something while it runs.
    pub fn change(&self, options: &Value) -> Result<()> {
        self.allow(
            "change",
            &[JobStatus::Running, JobStatus::Paused, JobStatus::Ready, JobStatus::Standby],
        )?;
        self.work.change(options)
    }

    /// As `query-jobs` shows it.
    pub fn describe(&self) -> Value {
        let state = lock(&self.state);
        let mut out = json!({
            "current-progress": state.offset, "status": state.status,
            "total-progress": state.len, "type": self.kind, "id": self.id,
        });
        if let Some(error) = &state.error {
            out["error"] = error.to_string().into();
        }
        out
    }

    /// As `query-block-jobs` shows it.
    pub fn describe_block_job(&self) -> Option<Value> {
        if !self.kind.is_block_job() {
            return None;
        }
        let mut out = {
            let state = lock(&self.state);
            let mut out = json!({
                "auto-finalize": state.options.auto_finalize, "io-status": state.io_status,
                "device": self.id, "auto-dismiss": state.options.auto_dismiss,
                "busy": !state.resting && !matches!(state.status, JobStatus::Pending | JobStatus::Concluded),
                "len": state.len, "offset": state.offset, "status": state.status,
                "paused": state.pauses > 0, "speed": state.options.speed,
                "ready": matches!(state.status, JobStatus::Ready | JobStatus::Standby),
                "type": self.kind,
            });
            if let Some(error) = &state.error {
                out["error"] = error.to_string().into();
            }
            out
        };
        if let Value::Object(facts) = self.work.facts()
            && let Value::Object(out) = &mut out
        {
            out.extend(facts);
        }
        Some(out)
    }
}
