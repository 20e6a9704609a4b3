//! Making an image, as a job.

use super::{Job, Work};
use crate::op::BoxFuture;
use crate::sync::lock;
use crate::{BlockError, Result};
use std::sync::{Arc, Mutex};

/// Runs something once.
pub(crate) struct Create(Mutex<Option<BoxFuture<'static, Result<()>>>>);

impl Create {
    pub(crate) fn new(work: BoxFuture<'static, Result<()>>) -> Arc<Self> {
        Arc::new(Self(Mutex::new(Some(work))))
    }
}

impl Work for Create {
    fn run<'a>(&'a self, job: &'a Arc<Job>) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            job.set_len(1);
            let work = lock(&self.0).take();
            work.ok_or(BlockError::Cancelled)?.await?;
            job.progress(1);
            Ok(())
        })
    }
}
