//! `quorum`: several copies that vote.

use crate::driver::{BlockStatus, Driver};
use crate::graph::{Edge, Node, Perm, Role};
use crate::options::{QuorumOptions, ReadPattern};
use crate::sync::lock;
use crate::{BlockError, Context, IoBuf, Op, Result};
use serde_json::json;
use std::sync::{Arc, Mutex};

pub(crate) struct Quorum {
    context: Context,
    name: String,
    children: Mutex<Vec<Arc<Edge>>>,
    threshold: usize,
    fifo: bool,
    rewrite: bool,
}

impl Quorum {
    pub(crate) fn new(
        context: &Context,
        name: Option<&str>,
        children: &[Arc<Node>],
        options: &QuorumOptions,
    ) -> Result<Arc<Self>> {
        let bad = |text: &str| Err(BlockError::Invalid(text.into()));
        let threshold = options.vote_threshold;
        if threshold < 1 {
            return bad("Parameter 'vote-threshold' expects a value >= 1");
        }
        if threshold > children.len() as u64 {
            return bad("threshold may not exceed children count");
        }
        if children.is_empty() {
            return bad("Number of provided children must be 1 or more");
        }
        let fifo = options.read_pattern == Some(ReadPattern::Fifo);
        let rewrite = options.rewrite_corrupted.unwrap_or(false);
        if rewrite && options.blkverify == Some(true) {
            return bad("rewrite-corrupted=on cannot be used with blkverify=on");
        }
        let mut edges = Vec::new();
        for (i, node) in children.iter().enumerate() {
            let name = format!("children.{i}");
            let perm = Perm::CONSISTENT_READ;
            let edge = Edge::attach_as(&name, "", Role::Filtered, node, perm, Perm::all())?;
            edges.push(edge);
        }
        Ok(Arc::new(Self {
            context: context.clone(),
            name: name.unwrap_or_default().into(),
            children: Mutex::new(edges),
            threshold: threshold as usize,
            fifo,
            rewrite,
        }))
    }

    fn nodes(&self) -> Vec<Arc<Node>> {
        lock(&self.children).iter().filter_map(|edge| edge.node()).collect()
    }

    fn bad(&self, kind: &str, node: &Node, range: (u64, u64), error: Option<&BlockError>) {
        let mut data = json!({
            "node-name": node.name(), "sector-num": range.0 / 512,
            "sectors-count": range.1.div_ceil(512), "type": kind,
        });
        if let Some(error) = error {
            data["error"] = error.to_string().into();
        }
        self.context.emit("QUORUM_REPORT_BAD", data);
    }

    fn failure(&self, range: (u64, u64)) {
        let data = json!({
            "reference": self.name, "sector-num": range.0 / 512,
            "sectors-count": range.1.div_ceil(512),
        });
        self.context.emit("QUORUM_FAILURE", data);
    }

    async fn vote(&self, offset: u64, len: usize) -> Result<IoBuf> {
        let range = (offset, len as u64);
        let nodes = self.nodes();
        let mut last = BlockError::Errno(crate::errno::EIO);
        if self.fifo {
            for node in &nodes {
                match node.read(offset, IoBuf::zeroed(len)).await {
                    Ok(buf) => return Ok(buf),
                    Err(error) => {
                        self.bad("read", node, range, Some(&error));
                        last = error;
                    }
                }
            }
            return Err(last);
        }
        let mut versions: Vec<(IoBuf, Vec<usize>)> = Vec::new();
        for (i, node) in nodes.iter().enumerate() {
            match node.read(offset, IoBuf::zeroed(len)).await {
                Ok(buf) => match versions.iter_mut().find(|(version, _)| *version == buf) {
                    Some((_, voters)) => voters.push(i),
                    None => versions.push((buf, vec![i])),
                },
                Err(error) => {
                    self.bad("read", node, range, Some(&error));
                    last = error;
                }
            }
        }
        versions.sort_by_key(|(_, voters)| std::cmp::Reverse(voters.len()));
        let mut versions = versions.into_iter();
        match versions.next() {
            Some((winner, voters)) if voters.len() >= self.threshold => {
                for node in versions.flat_map(|(_, losers)| losers).map(|i| &nodes[i]) {
                    self.bad("read", node, range, None);
                    if self.rewrite {
                        let _ = node.write(offset, IoBuf::from(&winner[..])).await;
                    }
                }
                Ok(winner)
            }
            Some(_) => {
                self.failure(range);
                Err(BlockError::Errno(crate::errno::EIO))
            }
            None => {
                self.failure(range);
                Err(last)
            }
        }
    }

    /// Has every child do something; enough of them must succeed.
    async fn all<F: Future<Output = Result<()>>>(
        &self,
        kind: &str,
        range: (u64, u64),
        start: impl Fn(Arc<Node>) -> F,
    ) -> Result<()> {
        let (mut good, mut last) = (0, BlockError::Errno(crate::errno::EIO));
        for node in self.nodes() {
            match start(node.clone()).await {
                Ok(()) => good += 1,
                Err(error) => {
                    self.bad(kind, &node, range, Some(&error));
                    last = error;
                }
            }
        }
        if good >= self.threshold {
            return Ok(());
        }
        self.failure(range);
        Err(last)
    }
}

impl Driver for Quorum {
    fn name(&self) -> &'static str {
        "quorum"
    }

    fn len(&self) -> u64 {
        self.nodes().iter().map(|node| node.len()).min().unwrap_or(0)
    }

    fn read_only(&self) -> bool {
        self.nodes().iter().any(|node| node.read_only())
    }

    fn children(&self) -> Vec<Arc<Edge>> {
        lock(&self.children).clone()
    }

    fn read(self: Arc<Self>, offset: u64, mut buf: IoBuf) -> Op<IoBuf> {
        Op::pending(async move {
            let seen = self.vote(offset, buf.len()).await?;
            buf.copy_from_slice(&seen);
            Ok(buf)
        })
    }

    fn write(self: Arc<Self>, offset: u64, buf: IoBuf) -> Op<IoBuf> {
        Op::pending(async move {
            let range = (offset, buf.len() as u64);
            let start = |node: Arc<Node>| {
                let copy = IoBuf::from(&buf[..]);
                async move { node.write(offset, copy).await.map(drop) }
            };
            self.all("write", range, start).await?;
            Ok(buf)
        })
    }

    fn write_zeroes(self: Arc<Self>, offset: u64, len: u64, unmap: bool) -> Op<()> {
        Op::pending(async move {
            let start =
                |node: Arc<Node>| async move { node.write_zeroes(offset, len, unmap).await };
            self.all("write", (offset, len), start).await
        })
    }

    fn discard(self: Arc<Self>, _: u64, _: u64) -> Op<()> {
        // Copies that discard differently could not vote.
        Op::ok(())
    }

    fn flush(self: Arc<Self>) -> Op<()> {
        Op::pending(async move {
            self.all("flush", (0, 0), |node: Arc<Node>| async move { node.flush().await }).await
        })
    }

    fn status(self: Arc<Self>, offset: u64, len: u64) -> Op<BlockStatus> {
        Op::pending(async move {
            let mut zero = true;
            let mut n = len;
            for node in self.nodes() {
                let (status, _) = node.status_above(None, offset, n).await?;
                n = status.len.clamp(1, n);
                zero &= status.zero;
            }
            Ok(BlockStatus {
                len: n,
                zero,
                allocated: true,
                data: !zero,
                compressed: false,
                offset: None,
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NodeOptions;
    use crate::graph::BlockGraph;
    use crate::host::MemFile;

    #[test]
    fn the_majority_wins_and_repairs_the_others() {
        let graph = BlockGraph::new();
        let files: Vec<Arc<MemFile>> = (0..3).map(|_| Arc::new(MemFile::with_len(4096))).collect();
        for (i, file) in files.iter().enumerate() {
            let node = graph.open_file(Some(&format!("f{i}")), "", file.clone()).unwrap();
            graph.own_node(&node);
        }
        let options = json!({
            "driver": "quorum", "node-name": "q", "vote-threshold": 2, "rewrite-corrupted": true,
            "children": ["f0", "f1", "f2"],
        });
        let heard = Arc::new(Mutex::new(Vec::new()));
        let log = heard.clone();
        graph.context().on_event(Arc::new(move |event| lock(&log).push(event.name)));
        let exec = graph.executor().clone();
        let options = NodeOptions::from_value(options).unwrap();
        let node = exec.run_in_place(graph.open_options(&options)).unwrap().unwrap();
        exec.run_in_place(node.write(0, vec![7; 512].into())).unwrap().unwrap();
        exec.run_in_place(graph.node("f1").unwrap().write(3, vec![9].into())).unwrap().unwrap();
        let seen = exec.run_in_place(node.read(0, IoBuf::zeroed(512))).unwrap().unwrap();
        assert!(seen.iter().all(|byte| *byte == 7));
        assert_eq!(files[1].to_vec()[3], 7, "it was put right");
        exec.run_in_place(graph.node("f1").unwrap().write(3, vec![9].into())).unwrap().unwrap();
        exec.run_in_place(graph.node("f2").unwrap().write(3, vec![8].into())).unwrap().unwrap();
        assert!(exec.run_in_place(node.read(0, IoBuf::zeroed(512))).unwrap().is_err());
        assert_eq!(*lock(&heard), ["QUORUM_REPORT_BAD", "QUORUM_FAILURE"]);
    }
}
