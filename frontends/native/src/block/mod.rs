//! The block layer's programs: `orrery nbd` and `orrery storage-daemon`.

mod args;
mod daemon;
mod nbd;
mod net;
mod reactor;
mod signals;
#[cfg(feature = "tls")]
mod tls;

use crate::host::NativeFs;
use orrery_block::graph::BlockGraph;
use orrery_block::host::HostFs;
use reactor::Reactor;
use std::future::{Future, poll_fn};
use std::process::ExitCode;
use std::sync::Arc;
use std::task::Poll;

/// Waits for whichever is first.
async fn either(a: impl Future<Output = ()>, b: impl Future<Output = ()>) {
    let (mut a, mut b) = (std::pin::pin!(a), std::pin::pin!(b));
    poll_fn(|cx| {
        if a.as_mut().poll(cx).is_ready() || b.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        Poll::Pending
    })
    .await;
}

/// A graph with everything that this host lends, and the loop that drives it.
#[derive(Clone)]
pub(crate) struct Host {
    pub(crate) graph: BlockGraph,
    reactor: Arc<Reactor>,
}

impl Host {
    fn new() -> std::io::Result<Self> {
        Self::with_files(Arc::new(NativeFs))
    }

    /// With files of its own kind.
    pub(crate) fn with_files(files: Arc<dyn HostFs>) -> std::io::Result<Self> {
        let graph = BlockGraph::new();
        let reactor = Arc::new(Reactor::new()?);
        graph.context().set_clock(reactor.clone());
        graph.context().set_fs(files);
        graph.context().set_net(Arc::new(net::Net(reactor.clone())));
        Ok(Self { graph, reactor })
    }

    /// Runs `future` to its end, and everything else meanwhile.
    pub(crate) fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        self.graph.executor().block_on(future, &|| self.reactor.turn())
    }
}

/// What this host lends to the disks of a machine: sockets and time, waited for on a thread.
pub(crate) struct Lent {
    host: Host,
}

impl Lent {
    /// Begins to wait.
    pub(crate) fn new() -> std::io::Result<Self> {
        let host = Host::new()?;
        let reactor = host.reactor.clone();
        std::thread::spawn(move || {
            loop {
                reactor.turn();
            }
        });
        Ok(Self { host })
    }

    /// The graph to which all of it is lent.
    pub(crate) fn graph(&self) -> BlockGraph {
        self.host.graph.clone()
    }
}

/// Runs one of the programs, when the name under which this one was started or its first argument
/// asks for it.
pub(crate) fn program(name: &str, args: &[String]) -> Option<ExitCode> {
    let first = args.first().map(String::as_str);
    match (name, first) {
        ("orrery-nbd" | "qemu-nbd", _) => Some(nbd::main(name, args)),
        ("orrery-storage-daemon" | "qemu-storage-daemon", _) => Some(daemon::main(name, args)),
        (_, Some("storage-daemon")) => Some(daemon::main("orrery storage-daemon", &args[1..])),
        (_, Some("nbd")) => Some(nbd::main("orrery nbd", &args[1..])),
        _ => None,
    }
}
