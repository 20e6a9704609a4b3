//! Snapshots of the whole machine inside its disks, and as files.

use super::args::*;
use super::{Desk, Done, Reply};
use orrery_block::formats::Change;
use orrery_block::graph::{BlockGraph, Node};
use orrery_block::job::JobKind;
use orrery_block::qmp::{Answer, QmpError};
use orrery_block::{BlockError, completion};
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};

/// What to do with a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// Take it.
    Save,
    /// Go back to it.
    Load,
    /// Drop it.
    Delete,
}

/// Work that needs the machine, left by tasks that do not have it.
pub(crate) type Chores = Arc<Mutex<Vec<Box<dyn FnOnce(&mut Desk<'_>) + Send>>>>;

type Nodes = Vec<(String, Arc<Node>)>;

fn supports(node: &Arc<Node>) -> bool {
    node.driver_name() == "qcow2"
}

async fn drop_old(nodes: &Nodes, tag: &str) -> Result<bool, BlockError> {
    let mut found = false;
    for (_, node) in nodes {
        let Some(image) = node.image_handle() else { continue };
        let old: Vec<String> =
            image.snapshots().into_iter().filter(|s| s.name == tag).map(|s| s.id).collect();
        for id in old {
            found = true;
            image.change(Change::DeleteSnapshot(id)).await?;
        }
    }
    Ok(found)
}

/// Takes a snapshot of every node; `state` goes into `holder`.
async fn save(
    graph: BlockGraph,
    nodes: Nodes,
    holder: String,
    tag: String,
    clock: u64,
    state: Vec<u8>,
) -> Result<(), BlockError> {
    let mut drained = Vec::new();
    for (_, node) in &nodes {
        drained.push(graph.drain(node).await);
        node.flush().await?;
    }
    drop_old(&nodes, &tag).await?;
    let (seconds, nanoseconds) = graph.context().wall();
    let date = (seconds as u32, nanoseconds);
    let state = Arc::new(state);
    for (name, node) in &nodes {
        let Some(image) = node.image_handle() else { continue };
        let change = if *name == holder {
            let state = state.clone();
            Change::SaveState { name: tag.clone(), date, vm_clock_nsec: clock, state }
        } else {
            Change::CreateSnapshot { name: tag.clone(), date, vm_clock_nsec: clock }
        };
        image.change(change).await?;
    }
    Ok(())
}

/// Puts every node back, and gives the machine's state.
async fn load(
    graph: BlockGraph,
    nodes: Nodes,
    holder: String,
    tag: String,
) -> Result<Vec<u8>, BlockError> {
    let has = |node: &Arc<Node>| {
        node.image_handle().is_some_and(|i| i.snapshots().iter().any(|s| s.name == tag))
    };
    if let Some((name, _)) = nodes.iter().find(|(_, node)| !has(node)) {
        let text = format!("Snapshot '{tag}' does not exist in one or more devices ('{name}')");
        return Err(BlockError::Invalid(text));
    }
    let mut drained = Vec::new();
    for (_, node) in &nodes {
        drained.push(graph.drain(node).await);
    }
    let mut state = Vec::new();
    for (name, node) in &nodes {
        let Some(image) = node.image_handle() else { continue };
        if *name == holder {
            state = image.load_state(&tag).await?;
        } else {
            image.change(Change::ApplySnapshot(tag.clone())).await?;
        }
    }
    if state.is_empty() {
        return Err(BlockError::Invalid(format!(
            "This is a disk-only snapshot. Revert to it offline using qemu-img ('{tag}')"
        )));
    }
    Ok(state)
}

impl Desk<'_> {
    /// The disks that a snapshot is taken of: those that can be written to.
    fn disks(&self) -> Answer<Nodes> {
        let blocks = &self.machine.blocks;
        let mut out = Vec::new();
        for backend in blocks.all_backends() {
            let Some(node) = blocks.root_of(&backend) else { continue };
            if backend.read_only() {
                continue;
            }
            let node = node.skip_filters();
            let name = backend.name().unwrap_or_else(|| node.name().to_owned());
            if !supports(&node) {
                let text = format!("Device '{name}' is writable but does not support snapshots");
                return Err(QmpError::generic(text));
            }
            if !out.iter().any(|(_, other)| Arc::ptr_eq(other, &node)) {
                out.push((name, node));
            }
        }
        Ok(out)
    }

    fn named(&self, names: &[String]) -> Answer<Nodes> {
        let find = |name: &String| match self.machine.blocks.node(name) {
            Some(node) if supports(&node) => Ok((name.clone(), node)),
            Some(_) => Err(QmpError::generic(format!(
                "Device '{name}' is writable but does not support snapshots"
            ))),
            None => Err(QmpError::generic(format!("No block device node '{name}'"))),
        };
        names.iter().map(find).collect()
    }

    /// Stops the machine while a snapshot is made; says whether it ran.
    pub(super) fn hold(&mut self) -> bool {
        let ran = self.machine.stopped().is_none();
        if ran {
            self.machine.pause();
        }
        self.state.held += 1;
        ran
    }

    pub(super) fn release(&mut self, ran: bool) {
        self.state.held = self.state.held.saturating_sub(1);
        if ran {
            self.machine.resume();
        }
    }

    /// `savevm`, `loadvm`, `delvm`.
    pub(super) fn snapshot(&mut self, what: What, tag: &str) -> Reply {
        let tag = tag.trim().to_owned();
        if what == What::Load
            && let Err(error) = self.check_logged("snapshot-load")
        {
            return Reply::Now(Err(error));
        }
        let nodes = match self.disks() {
            Ok(nodes) => nodes,
            Err(error) => return Reply::Now(Err(error)),
        };
        let Some(holder) = nodes.first().map(|(name, _)| name.clone()) else {
            let text = "No block device can accept snapshots";
            return Reply::Now(Err(QmpError::generic(text)));
        };
        let tag = match (tag.is_empty(), what) {
            (false, _) => tag,
            (true, What::Save) => format!("vm-{}", self.machine.board.now().0),
            (true, _) => return Reply::Now(Err(QmpError::generic("a snapshot's name is missing"))),
        };
        let graph = self.machine.blocks.clone();
        match what {
            What::Delete => Reply::later(async move {
                if !drop_old(&nodes, &tag).await? {
                    return Err(QmpError::generic(format!("Snapshot '{tag}' not found")));
                }
                Ok("".into())
            }),
            What::Save => {
                let ran = self.hold();
                let (clock, state) = (self.machine.board.now().0, self.machine.save());
                Reply::Later(Box::pin(async move {
                    let saved = save(graph, nodes, holder, tag, clock, state).await;
                    Ok(Box::new(move |desk: &mut Desk<'_>| {
                        desk.release(ran);
                        saved.map_err(QmpError::from)?;
                        Ok("".into())
                    }) as Done)
                }))
            }
            What::Load => {
                let ran = self.hold();
                Reply::Later(Box::pin(async move {
                    let state = load(graph, nodes, holder, tag).await;
                    Ok(Box::new(move |desk: &mut Desk<'_>| {
                        let result = state.map_err(QmpError::from).and_then(|state| {
                            let restored = desk.machine.restore(&state);
                            restored.map_err(|e| QmpError::generic(e.to_string()))
                        });
                        desk.release(ran && result.is_ok());
                        result.map(|()| "".into())
                    }) as Done)
                }))
            }
        }
    }

    pub(super) fn run_chore<T: Send + 'static>(
        chores: &Chores,
        work: impl FnOnce(&mut Desk<'_>) -> T + Send + 'static,
    ) -> impl Future<Output = Result<T, BlockError>> + Send + 'static {
        let (finish, done) = completion::<T>();
        super::lock(chores).push(Box::new(move |desk| finish.finish(Ok(work(desk)))));
        done
    }

    pub(super) fn snapshot_save(&mut self, args: SnapshotJob) -> Answer<Reply> {
        let nodes = self.named(&args.devices)?;
        let holder = args.vmstate.or_else(|| args.devices.first().cloned()).unwrap_or_default();
        if !args.devices.contains(&holder) {
            let text = format!("vmstate block device '{holder}' does not exist");
            return Err(QmpError::generic(text));
        }
        let (graph, chores, tag) =
            (self.machine.blocks.clone(), self.state.chores.clone(), args.tag);
        let work = async move {
            let (ran, clock, state) = Self::run_chore(&chores, |desk| {
                let ran = desk.hold();
                (ran, desk.machine.board.now().0, desk.machine.save())
            })
            .await?;
            let saved = save(graph, nodes, holder, tag, clock, state).await;
            Self::run_chore(&chores, move |desk| desk.release(ran)).await?;
            saved
        };
        self.machine.blocks.start_task(&args.job_id, JobKind::SnapshotSave, work)?;
        Ok(Reply::Now(Ok(json!({}))))
    }

    pub(super) fn snapshot_load(&mut self, args: SnapshotJob) -> Answer<Reply> {
        let nodes = self.named(&args.devices)?;
        let holder = args.vmstate.or_else(|| args.devices.first().cloned()).unwrap_or_default();
        let (graph, chores, tag) =
            (self.machine.blocks.clone(), self.state.chores.clone(), args.tag);
        let work = async move {
            let ran = Self::run_chore(&chores, |desk| desk.hold()).await?;
            let state = load(graph, nodes, holder, tag).await;
            let result = Self::run_chore(&chores, move |desk| {
                let result = state.and_then(|state| {
                    let restored = desk.machine.restore(&state);
                    restored.map_err(|e| BlockError::Invalid(e.to_string()))
                });
                desk.release(ran && result.is_ok());
                result
            });
            result.await?
        };
        self.machine.blocks.start_task(&args.job_id, JobKind::SnapshotLoad, work)?;
        Ok(Reply::Now(Ok(json!({}))))
    }

    pub(super) fn snapshot_delete(&mut self, args: DeleteJob) -> Answer<Reply> {
        let (nodes, tag) = (self.named(&args.devices)?, args.tag);
        let work = async move { drop_old(&nodes, &tag).await.map(drop) };
        self.machine.blocks.start_task(&args.job_id, JobKind::SnapshotDelete, work)?;
        Ok(Reply::Now(Ok(json!({}))))
    }

    pub(super) fn info_snapshots(&mut self) -> Reply {
        let nodes = match self.disks() {
            Ok(nodes) => nodes,
            Err(error) => return Reply::Now(Err(error)),
        };
        let mut out = String::new();
        if let Some(image) = nodes.first().and_then(|(_, node)| node.image_handle()) {
            for s in image.snapshots() {
                let size = s.vm_state_size as f64 / f64::from(1 << 20);
                let seconds = s.vm_clock_nsec / 1_000_000_000;
                let (h, m, sec) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
                let milli = s.vm_clock_nsec / 1_000_000 % 1000;
                out.push_str(&format!(
                    "{:<8} {:<16} {size:>7.1} MiB {h:04}:{m:02}:{sec:02}.{milli:03}\n",
                    "--", s.name
                ));
            }
        }
        let text = if out.is_empty() {
            "There is no snapshot available.\n".to_owned()
        } else {
            format!(
                "List of snapshots present on all disks:\n{:<8} {:<16} {:>11} {:>13}\n{out}",
                "ID", "TAG", "VM SIZE", "VM CLOCK"
            )
        };
        Reply::Now(Ok(Value::from(text)))
    }
}
