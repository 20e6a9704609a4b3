//! The node graph: what is behind a backend.
//!
//! For the machine, the monitor and tools. A [`Node`] is one format, filter or protocol; typed
//! [`Edge`]s lead to the nodes it needs. A [`BlockGraph`] belongs to a machine: it knows nodes
//! and backends by name and owns the executor that runs their requests.

mod bitmaps;
mod blockdev;
mod chain;
mod change;
mod edge;
mod file;
mod node;
mod objects;
mod raw;
mod status;

pub use crate::driver::BlockStatus;
pub use change::Drained;
pub(crate) use edge::Frozen;
pub use edge::{Edge, Grant, Perm, Role};
pub use node::{DetectZeroes, Node, ThresholdHook};
pub use objects::{OBJECT_TYPES, Object};
pub use raw::RawOptions;

use crate::Context;
use crate::backend::{BlockBackend, WeakBackend};
use crate::driver::Driver;
use crate::exec::Executor;
use crate::host::BlockFile;
use crate::job::Job;
use crate::sync::lock;
use crate::{BlockError, Result};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, Weak};

/// Nodes, backends and their executor. Cheap to clone; all clones are the same graph.
#[derive(Clone, Default)]
pub struct BlockGraph(Arc<Inner>);

#[derive(Default)]
struct Inner {
    context: Context,
    names: Mutex<Names>,
    objects: Mutex<objects::Objects>,
    jobs: Mutex<Vec<Arc<Job>>>,
}

#[derive(Default)]
struct Names {
    /// Every living node, by name.
    nodes: BTreeMap<String, Weak<Node>>,
    /// Nodes the user added by name and has not deleted.
    owned: BTreeMap<String, Arc<Node>>,
    backends: Vec<(String, BlockBackend)>,
    /// Every living backend, listed or not.
    all_backends: Vec<WeakBackend>,
    next: u64,
}

impl Names {
    fn note_backend(&mut self, backend: &BlockBackend) {
        self.all_backends.retain(WeakBackend::is_alive);
        self.all_backends.push(backend.downgrade());
    }

    fn check_free(&mut self, name: &str) -> Result<()> {
        self.nodes.retain(|_, node| node.strong_count() > 0);
        if self.nodes.contains_key(name) || self.backends.iter().any(|(n, _)| n == name) {
            return Err(BlockError::Exists(name.to_owned()));
        }
        Ok(())
    }
}

/// Names start with a letter and go on with letters, digits, `-`, `.` and `_`.
pub(crate) fn is_well_formed(name: &str) -> bool {
    let mut chars = name.chars();
    chars.next().is_some_and(|c| c.is_ascii_alphabetic())
        && chars.all(|c| c.is_ascii_alphanumeric() || "-._".contains(c))
}

impl BlockGraph {
    /// An empty graph.
    pub fn new() -> Self {
        Self::default()
    }

    /// The executor on which this graph's requests run.
    pub fn executor(&self) -> &Executor {
        self.0.context.executor()
    }

    /// What the graph's nodes, backends and jobs share: what the host lends, and events.
    pub fn context(&self) -> &Context {
        &self.0.context
    }

    /// Runs what is ready; see [`Executor::poll`].
    pub fn poll(&self) -> usize {
        self.executor().poll()
    }

    /// Makes a named, empty backend, which the graph lists and keeps until
    /// [`BlockGraph::remove_backend`].
    pub fn create_backend(&self, name: &str) -> Result<BlockBackend> {
        if !is_well_formed(name) {
            return Err(BlockError::invalid(format!("'{name}' is not a valid name")));
        }
        let mut names = lock(&self.0.names);
        names.check_free(name)?;
        let backend = BlockBackend::empty(&self.0.context, Some(name));
        names.backends.push((name.to_owned(), backend.clone()));
        names.note_backend(&backend);
        Ok(backend)
    }

    /// Makes a backend that no list shows, for a job, an export or a tool.
    pub fn anonymous_backend(&self) -> BlockBackend {
        let backend = BlockBackend::empty(&self.0.context, None);
        lock(&self.0.names).note_backend(&backend);
        backend
    }

    /// Finds a backend by name.
    pub fn backend(&self, name: &str) -> Option<BlockBackend> {
        lock(&self.0.names).backends.iter().find(|(n, _)| n == name).map(|(_, b)| b.clone())
    }

    /// Every listed backend, in order of creation.
    pub fn backends(&self) -> Vec<BlockBackend> {
        lock(&self.0.names).backends.iter().map(|(_, backend)| backend.clone()).collect()
    }

    /// Drops the graph's hold on a backend: its name is free at once and its medium is gone for
    /// the device that still holds it. The nodes live on while anything else refers to them.
    pub fn remove_backend(&self, name: &str) -> Result<()> {
        let backend = {
            let mut names = lock(&self.0.names);
            let at = names.backends.iter().position(|(n, _)| n == name);
            let at = at.ok_or_else(|| BlockError::NotFound(name.to_owned()))?;
            names.backends.remove(at).1
        };
        backend.forget_name();
        backend.remove_root();
        Ok(())
    }

    /// The node under a backend.
    pub fn root_of(&self, backend: &BlockBackend) -> Option<Arc<Node>> {
        backend.root()
    }

    fn check_node_name(&self, name: &str) -> Result<()> {
        if !is_well_formed(name) || name.len() > 31 {
            return Err(BlockError::invalid(format!("Invalid node-name: '{name}'")));
        }
        let mut names = lock(&self.0.names);
        if names.backends.iter().any(|(n, _)| n == name) {
            return Err(BlockError::invalid(format!(
                "node-name={name} is conflicting with a device id"
            )));
        }
        names
            .check_free(name)
            .map_err(|_| BlockError::invalid(format!("Duplicate nodes with node-name='{name}'")))
    }

    /// Puts a node around a driver. Without a name it gets one of its own.
    pub(crate) fn add_node(
        &self,
        name: Option<&str>,
        filename: &str,
        driver: Arc<dyn Driver>,
    ) -> Result<Arc<Node>> {
        let mut names = lock(&self.0.names);
        let name = match name {
            Some(name) if !is_well_formed(name) => {
                return Err(BlockError::invalid(format!("'{name}' is not a valid name")));
            }
            Some(name) => {
                names.check_free(name)?;
                name.to_owned()
            }
            None => {
                names.next += 1;
                format!("#block{:03}", names.next)
            }
        };
        let node = Node::new(name.clone(), filename.to_owned(), driver);
        names.nodes.insert(name, Arc::downgrade(&node));
        Ok(node)
    }

    /// A node over a file that the host lent.
    pub fn open_file(
        &self,
        name: Option<&str>,
        filename: &str,
        file: Arc<dyn BlockFile>,
    ) -> Result<Arc<Node>> {
        self.add_node(name, filename, file::FileDriver::new(file, filename))
    }

    /// A `raw` node: the bytes of `file`, or a part of them.
    pub fn open_raw(
        &self,
        name: Option<&str>,
        file: &Arc<Node>,
        options: &RawOptions,
    ) -> Result<Arc<Node>> {
        let driver = raw::RawDriver::new(file, options)?;
        self.add_node(name, file.filename(), driver)
    }

    /// Keeps a node alive under its name until [`BlockGraph::delete_node`].
    pub fn own_node(&self, node: &Arc<Node>) {
        lock(&self.0.names).owned.insert(node.name().to_owned(), node.clone());
    }

    /// True when [`BlockGraph::own_node`] keeps it.
    pub fn owns(&self, node: &Arc<Node>) -> bool {
        lock(&self.0.names).owned.contains_key(node.name())
    }

    pub(crate) fn job_list(&self) -> &Mutex<Vec<Arc<Job>>> {
        &self.0.jobs
    }

    /// Gives up the hold of [`BlockGraph::own_node`]. Refused while something uses the node.
    pub fn delete_node(&self, name: &str) -> Result<()> {
        let mut names = lock(&self.0.names);
        let node = names.owned.get(name).ok_or_else(|| BlockError::NotFound(name.to_owned()))?;
        if node.is_used() {
            return Err(BlockError::InUse(format!("node '{name}' is in use")));
        }
        names.owned.remove(name);
        Ok(())
    }

    /// Finds a living node by name.
    pub fn node(&self, name: &str) -> Option<Arc<Node>> {
        lock(&self.0.names).nodes.get(name).and_then(Weak::upgrade)
    }

    /// Every living node, by name.
    pub fn nodes(&self) -> Vec<Arc<Node>> {
        lock(&self.0.names).nodes.values().filter_map(Weak::upgrade).collect()
    }

    /// Waits for every listed backend and leaves every image as a clean shutdown does: the last
    /// thing before a machine goes.
    pub async fn close(&self) -> Result<()> {
        for backend in self.backends() {
            backend.drain().await;
        }
        let mut result = Ok(());
        for node in self.nodes() {
            result = result.and(self.store_bitmaps(&node).await);
            result = result.and(node.close().await);
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::IoBuf;
    use crate::host::MemFile;

    fn raw_over_memory(graph: &BlockGraph, name: Option<&str>, bytes: &[u8]) -> Arc<Node> {
        let file = graph.open_file(None, "mem", Arc::new(MemFile::from_bytes(bytes))).unwrap();
        graph.open_raw(name, &file, &RawOptions::default()).unwrap()
    }

    #[test]
    fn names_are_shared_by_nodes_and_backends_and_must_be_well_formed() {
        let graph = BlockGraph::new();
        let _node = raw_over_memory(&graph, Some("disk0"), b"x");
        assert_eq!(graph.create_backend("disk0").err(), Some(BlockError::Exists("disk0".into())));
        assert!(graph.create_backend("0disk").is_err());
        graph.create_backend("ide0-hd0").unwrap();
        assert!(graph.backend("ide0-hd0").is_some());
        assert_eq!(graph.backends().len(), 1);
    }

    #[test]
    fn a_removed_backend_is_gone_at_once_and_a_used_node_lives_on() {
        let graph = BlockGraph::new();
        let backend = graph.create_backend("d").unwrap();
        let node = raw_over_memory(&graph, Some("n"), b"abcd");
        backend.insert(node.medium(false)).unwrap();
        let device = backend.clone();
        graph.remove_backend("d").unwrap();
        assert!(graph.backend("d").is_none());
        assert!(graph.create_backend("d").is_ok(), "the name is free");
        assert!(!device.has_medium());
        let read = graph.executor().run_in_place(node.read(0, IoBuf::zeroed(4))).unwrap().unwrap();
        assert_eq!(&read[..], b"abcd");
        drop(node);
        assert!(graph.node("n").is_none(), "the last reference is gone");
    }

    #[test]
    fn an_owned_node_cannot_be_deleted_while_it_is_used() {
        let graph = BlockGraph::new();
        let node = raw_over_memory(&graph, Some("n"), b"abcd");
        graph.own_node(&node);
        let backend = graph.create_backend("d").unwrap();
        backend.insert(node.medium(false)).unwrap();
        drop(node);
        assert!(matches!(graph.delete_node("n"), Err(BlockError::InUse(_))));
        graph.remove_backend("d").unwrap();
        graph.poll();
        graph.delete_node("n").unwrap();
        assert!(graph.node("n").is_none());
    }
}
