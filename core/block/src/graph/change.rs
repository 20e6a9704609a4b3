//! Changing the graph while it is in use.
//!
//! One thread changes it. A change happens while nobody's request is on its way through the
//! nodes concerned, and it happens whole or not at all.

use super::{BlockGraph, Edge, Node};
use crate::backend::{BlockBackend, WeakBackend};
use crate::sync::lock;
use crate::{BlockError, Result};
use std::sync::Arc;

/// Holds back the requests of some backends; lets them go on when dropped.
#[must_use]
pub struct Drained(Vec<BlockBackend>);

impl Drop for Drained {
    fn drop(&mut self) {
        self.0.iter().for_each(BlockBackend::drain_end);
    }
}

impl BlockGraph {
    /// Every living backend, also those that no list shows.
    pub fn all_backends(&self) -> Vec<BlockBackend> {
        lock(&self.0.names).all_backends.iter().filter_map(WeakBackend::upgrade).collect()
    }

    /// Waits until no request is on its way to `node` and holds back new ones.
    pub async fn drain(&self, node: &Arc<Node>) -> Drained {
        let reaches = |backend: &BlockBackend| backend.root().is_some_and(|r| r.reaches(node));
        let backends: Vec<_> = self.all_backends().into_iter().filter(reaches).collect();
        backends.iter().for_each(BlockBackend::drain_begin);
        let drained = Drained(backends);
        for backend in &drained.0 {
            backend.settled().await;
        }
        drained
    }

    /// Waits for everybody.
    pub async fn drain_all(&self) -> Drained {
        let backends = self.all_backends();
        backends.iter().for_each(BlockBackend::drain_begin);
        let drained = Drained(backends);
        for backend in &drained.0 {
            backend.settled().await;
        }
        drained
    }

    /// Points everybody who uses `from` at `to`, except `to` itself and what is below it. The
    /// caller has drained both.
    pub fn replace_node(&self, from: &Arc<Node>, to: &Arc<Node>) -> Result<()> {
        let stays = |edge: &Arc<Edge>| edge.parent().is_some_and(|parent| to.reaches(&parent));
        self.move_edges(from.users().into_iter().filter(|edge| !stays(edge)).collect(), from, to)
    }

    fn move_edges(&self, edges: Vec<Arc<Edge>>, from: &Arc<Node>, to: &Arc<Node>) -> Result<()> {
        for edge in &edges {
            edge.check_thawed()?;
        }
        for (moved, edge) in edges.iter().enumerate() {
            if let Err(error) = edge.replace(to) {
                for edge in &edges[..moved] {
                    edge.replace(from)?;
                }
                return Err(error);
            }
        }
        for backend in self.all_backends() {
            backend.root_changed();
        }
        Ok(())
    }

    /// Puts `filter`, which stands on `node`, between `node` and everybody who uses it.
    pub async fn insert_filter(&self, node: &Arc<Node>, filter: &Arc<Node>) -> Result<()> {
        let _drained = self.drain(node).await;
        self.replace_node(node, filter)
    }

    /// Takes a filter out: its users get what it stood on.
    pub async fn remove_filter(&self, filter: &Arc<Node>) -> Result<()> {
        let below = filter.filtered().ok_or_else(|| {
            BlockError::invalid(format!("node '{}' is not a filter", filter.name()))
        })?;
        let _drained = self.drain(filter).await;
        self.move_edges(filter.users(), filter, &below)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::IoBuf;
    use crate::backend::Request;
    use crate::graph::RawOptions;
    use crate::host::{HeldFile, MemFile};

    #[test]
    fn a_filter_goes_in_and_out_between_requests_of_a_running_drive() {
        let graph = BlockGraph::new();
        let file = Arc::new(HeldFile::new(MemFile::from_bytes(&[7; 4096])));
        let file_node = graph.open_file(Some("file"), "", file.clone()).unwrap();
        let disk = graph.create_backend("disk").unwrap();
        disk.insert(file_node.medium(false)).unwrap();
        let filter = graph.open_raw(Some("f"), &file_node, &RawOptions::default()).unwrap();
        let read = || Request::Read { offset: 0, buf: IoBuf::zeroed(1) };
        let mut early = disk.submit(read());
        let exec = graph.executor().clone();
        assert!(exec.run_in_place(graph.insert_filter(&file_node, &filter)).is_none());
        assert!(!Arc::ptr_eq(&graph.root_of(&disk).unwrap(), &filter), "a request is on its way");
        exec.block_on(graph.insert_filter(&file_node, &filter), &|| file.release_all()).unwrap();
        assert!(early.take().unwrap().is_ok());
        assert!(Arc::ptr_eq(&graph.root_of(&disk).unwrap(), &filter));
        let mut through = disk.submit(read());
        file.release_all();
        graph.poll();
        assert_eq!(through.take().unwrap().unwrap()[0], 7);
        exec.run_in_place(graph.remove_filter(&filter)).unwrap().unwrap();
        assert!(Arc::ptr_eq(&graph.root_of(&disk).unwrap(), &file_node));
        assert!(!filter.is_used());
    }
}
