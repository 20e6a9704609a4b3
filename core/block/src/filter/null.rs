//! `null-co` and `null-aio`: a disk that forgets.

use crate::driver::{BlockStatus, Driver};
use crate::graph::Edge;
use crate::options::NullOptions;
use crate::{Context, IoBuf, Op};
use std::sync::Arc;

pub(crate) struct Null {
    name: &'static str,
    len: u64,
    latency: u64,
    zeroes: bool,
    read_only: bool,
    context: Context,
}

impl Null {
    pub(crate) fn new(
        name: &'static str,
        options: &NullOptions,
        read_only: bool,
        context: &Context,
    ) -> Arc<Self> {
        Arc::new(Self {
            name,
            len: options.size.unwrap_or(1 << 30),
            latency: options.latency_ns.unwrap_or(0),
            zeroes: options.read_zeroes.unwrap_or(false),
            read_only,
            context: context.clone(),
        })
    }

    fn done<T: Send + 'static>(&self, value: T) -> Op<T> {
        if self.latency == 0 {
            return Op::ok(value);
        }
        let (context, latency) = (self.context.clone(), self.latency);
        Op::pending(async move {
            context.sleep(latency).await;
            Ok(value)
        })
    }
}

impl Driver for Null {
    fn name(&self) -> &'static str {
        self.name
    }

    fn len(&self) -> u64 {
        self.len
    }

    fn read_only(&self) -> bool {
        self.read_only
    }

    fn children(&self) -> Vec<Arc<Edge>> {
        Vec::new()
    }

    fn read(self: Arc<Self>, _: u64, mut buf: IoBuf) -> Op<IoBuf> {
        if self.zeroes {
            buf.fill(0);
        }
        self.done(buf)
    }

    fn write(self: Arc<Self>, _: u64, buf: IoBuf) -> Op<IoBuf> {
        self.done(buf)
    }

    fn write_zeroes(self: Arc<Self>, _: u64, _: u64, _: bool) -> Op<()> {
        self.done(())
    }

    fn discard(self: Arc<Self>, _: u64, _: u64) -> Op<()> {
        self.done(())
    }

    fn flush(self: Arc<Self>) -> Op<()> {
        self.done(())
    }

    fn status(self: Arc<Self>, offset: u64, len: u64) -> Op<BlockStatus> {
        Op::ok(BlockStatus {
            len,
            zero: self.zeroes,
            allocated: true,
            data: !self.zeroes,
            compressed: false,
            offset: Some(offset),
        })
    }
}
