//! The jobs of a graph.

use super::{Job, JobKind, JobOptions, JobStatus, Transaction, Work};
use crate::graph::{BlockGraph, is_well_formed};
use crate::sync::lock;
use crate::{BlockError, Result};
use serde_json::json;
use std::sync::Arc;

impl BlockGraph {
    /// Every job that was not dismissed, oldest first.
    pub fn jobs(&self) -> Vec<Arc<Job>> {
        let mut jobs = lock(self.job_list());
        jobs.retain(|job| job.status() != JobStatus::Null);
        jobs.clone()
    }

    /// The job of this name.
    pub fn job(&self, id: &str) -> Option<Arc<Job>> {
        self.jobs().into_iter().find(|job| job.id() == id)
    }

    /// Refuses names that a job cannot have. Without one, that of `device` is taken.
    pub(crate) fn job_id(&self, id: Option<&str>, device: &str) -> Result<String> {
        let id = id.unwrap_or(device);
        if id.is_empty() {
            return Err(BlockError::Invalid("An explicit job ID is required for this node".into()));
        }
        if !is_well_formed(id) {
            return Err(BlockError::Invalid(format!("Invalid job ID '{id}'")));
        }
        if self.job(id).is_some() {
            return Err(BlockError::Invalid(format!("Job ID '{id}' already in use")));
        }
        Ok(id.into())
    }

    /// Has `work` done as a job that is neither dismissed nor undone by itself.
    pub fn start_task(
        &self,
        id: &str,
        kind: JobKind,
        work: impl Future<Output = Result<()>> + Send + 'static,
    ) -> Result<()> {
        let id = self.job_id(Some(id), "")?;
        let options = JobOptions { auto_dismiss: false, ..JobOptions::default() };
        self.start_job(&id, kind, options, super::Create::new(Box::pin(work)), None);
        Ok(())
    }

    /// Makes a job and has it begin.
    pub(crate) fn start_job(
        &self,
        id: &str,
        kind: JobKind,
        options: JobOptions,
        work: Arc<dyn Work>,
        transaction: Option<&Arc<Transaction>>,
    ) -> Arc<Job> {
        let job = self.make_job(id, kind, options, work, transaction);
        job.start();
        job
    }

    /// Tells of a job that cannot be: it was made, and is gone.
    pub(crate) fn tell_stillborn(&self, id: &str) {
        for status in ["created", "null"] {
            self.context().emit("JOB_STATUS_CHANGE", json!({"status": status, "id": id}));
        }
    }

    /// Makes a job that waits to be started.
    pub(crate) fn make_job(
        &self,
        id: &str,
        kind: JobKind,
        options: JobOptions,
        work: Arc<dyn Work>,
        transaction: Option<&Arc<Transaction>>,
    ) -> Arc<Job> {
        let job = Job::new(self.context(), id, kind, options, work, transaction);
        lock(self.job_list()).push(job.clone());
        job
    }
}
