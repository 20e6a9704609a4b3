//! Media, the tray and what happens on errors.

use super::BlockBackend;
use crate::graph::{Edge, Node, Perm, Role};
use crate::sync::lock;
use crate::{BlockError, Result};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Something to put into a drive. A front end makes one from a node of the graph.
pub struct Medium {
    root: Arc<Node>,
    read_only: bool,
    shared: Perm,
}

impl Medium {
    pub(crate) fn new(root: &Arc<Node>, read_only: bool) -> Self {
        let shared = Perm::CONSISTENT_READ | Perm::WRITE_UNCHANGED | Perm::RESIZE;
        Self { root: root.clone(), read_only, shared }
    }

    /// Bears other writers, as a device with `share-rw=on` does.
    #[must_use]
    pub fn share_rw(mut self) -> Self {
        self.shared = Perm::all();
        self
    }

    /// Length in bytes.
    pub fn len(&self) -> u64 {
        self.root.len()
    }

    /// True when it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl fmt::Debug for Medium {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Medium({} bytes)", self.len())
    }
}

/// What a device does when a request failed (`rerror`, `werror`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnError {
    /// Stop the machine when the disk is full, report anything else on writes; report on reads.
    #[default]
    Auto,
    /// Tell the guest.
    Report,
    /// Pretend it worked.
    Ignore,
    /// Stop the machine when the disk is full, else report.
    Enospc,
    /// Stop the machine; the request is tried again when it goes on.
    Stop,
}

impl OnError {
    /// The policy of a name that `rerror` and `werror` take.
    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "auto" => Self::Auto,
            "report" => Self::Report,
            "ignore" => Self::Ignore,
            "enospc" => Self::Enospc,
            "stop" => Self::Stop,
            _ => return None,
        })
    }
}

#[derive(Default)]
pub(super) struct Tray {
    pub(super) open: bool,
    locked: bool,
    eject_requested: bool,
}

impl BlockBackend {
    /// True when there is a medium and the tray is closed.
    pub fn has_medium(&self) -> bool {
        let state = lock(&self.0.state);
        !state.tray.open && state.root.is_some()
    }

    /// Counts media changes: different from last time means that the guest must be told.
    pub fn media_generation(&self) -> u64 {
        self.0.generation.load(Ordering::Relaxed)
    }

    /// True while the tray is open. Drives without a tray leave it closed.
    pub fn tray_open(&self) -> bool {
        lock(&self.0.state).tray.open
    }

    /// The guest moves the tray; a lock is the device's business.
    pub fn set_tray_open(&self, open: bool) {
        let mut state = lock(&self.0.state);
        if state.tray.open != open {
            state.tray.open = open;
            self.0.generation.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// True while the guest forbids the host to take the medium.
    pub fn locked(&self) -> bool {
        lock(&self.0.state).tray.locked
    }

    /// The guest locks or unlocks the medium.
    pub fn set_locked(&self, locked: bool) {
        lock(&self.0.state).tray.locked = locked;
    }

    /// The host would like the medium; asked once per wish. The device tells its guest.
    pub fn take_eject_request(&self) -> bool {
        std::mem::take(&mut lock(&self.0.state).tray.eject_requested)
    }

    /// Puts a medium into an empty drive and closes the tray.
    pub fn insert(&self, medium: Medium) -> Result<()> {
        if lock(&self.0.state).root.is_some() {
            return Err(BlockError::InUse("there is a medium in the drive".into()));
        }
        self.put(Some(medium), false)
    }

    /// Takes the medium out. When the guest has locked it, the device is told that the host
    /// would like it and the answer is [`BlockError::Locked`], unless `force`.
    pub fn eject(&self, force: bool) -> Result<()> {
        self.ask_guest(force)?;
        self.put(None, true)
    }

    /// Swaps the medium, as one motion of the tray; `force` as for [`BlockBackend::eject`].
    pub fn replace(&self, medium: Medium, force: bool) -> Result<()> {
        self.ask_guest(force)?;
        self.put(Some(medium), false)
    }

    fn ask_guest(&self, force: bool) -> Result<()> {
        let mut state = lock(&self.0.state);
        if state.tray.locked && !state.tray.open && state.root.is_some() && !force {
            state.tray.eject_requested = true;
            return Err(BlockError::Locked);
        }
        Ok(())
    }

    /// The graph put another node under the drive.
    pub(crate) fn root_changed(&self) {
        let mut state = lock(&self.0.state);
        if let Some(root) = &state.root {
            let write = root.grant().perm.contains(Perm::WRITE);
            state.read_only = !write;
        }
    }

    /// Drops the root for good: the drive was deleted.
    pub(crate) fn remove_root(&self) {
        self.put(None, false).expect("taking out cannot conflict");
    }

    fn put(&self, medium: Option<Medium>, open: bool) -> Result<()> {
        let edge = match &medium {
            Some(medium) => {
                let mut perm = Perm::CONSISTENT_READ;
                if !medium.read_only && !medium.root.read_only() {
                    perm |= Perm::WRITE;
                }
                let label = self.describe();
                let root = &medium.root;
                Some(Edge::attach_as("root", &label, Role::Root, root, perm, medium.shared)?)
            }
            None => None,
        };
        let old = {
            let mut state = lock(&self.0.state);
            state.read_only = medium.as_ref().is_some_and(|m| m.read_only || m.root.read_only());
            state.tray.open = open;
            std::mem::replace(&mut state.root, edge)
        };
        self.0.generation.fetch_add(1, Ordering::Relaxed);
        if let Some(old) = old.and_then(|edge| edge.cut()) {
            // What the guest wrote reaches the image although nobody holds it any more.
            self.executor().spawn(async move {
                if let Err(error) = old.close().await {
                    tracing::warn!(%error, "medium was not closed cleanly");
                }
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::Request;
    use super::*;
    use crate::graph::{BlockGraph, RawOptions};
    use crate::host::MemFile;

    fn medium(graph: &BlockGraph, bytes: &[u8]) -> Medium {
        let file = graph.open_file(None, "mem", Arc::new(MemFile::from_bytes(bytes))).unwrap();
        graph.open_raw(None, &file, &RawOptions::default()).unwrap().medium(true)
    }

    fn first(backend: &BlockBackend) -> Result<u8> {
        let buf = crate::IoBuf::zeroed(1);
        backend.submit(Request::Read { offset: 0, buf }).take().unwrap().map(|buf| buf[0])
    }

    #[test]
    fn a_medium_change_replaces_the_tree_and_counts() {
        let graph = BlockGraph::new();
        let cd = graph.create_backend("cd").unwrap();
        assert!(!cd.has_medium() && !cd.read_only());
        cd.insert(medium(&graph, b"A")).unwrap();
        assert!(cd.insert(medium(&graph, b"B")).is_err(), "one at a time");
        assert_eq!((first(&cd), cd.read_only()), (Ok(b'A'), true));
        let before = cd.media_generation();
        cd.replace(medium(&graph, b"BC"), false).unwrap();
        assert_eq!((first(&cd), cd.len()), (Ok(b'B'), 2));
        assert_ne!(cd.media_generation(), before);
        cd.eject(false).unwrap();
        assert!(cd.tray_open() && !cd.has_medium());
        assert_eq!(first(&cd), Err(BlockError::NoMedium));
        cd.insert(medium(&graph, b"D")).unwrap();
        assert!(!cd.tray_open());
        assert_eq!(first(&cd), Ok(b'D'));
        graph.poll();
        assert_eq!(graph.nodes().len(), 2, "ejected trees are gone");
    }

    #[test]
    fn a_locked_medium_stays_until_the_guest_is_asked_or_force_is_used() {
        let graph = BlockGraph::new();
        let cd = graph.create_backend("cd").unwrap();
        cd.insert(medium(&graph, b"A")).unwrap();
        cd.set_locked(true);
        assert_eq!(cd.eject(false), Err(BlockError::Locked));
        assert!(cd.take_eject_request() && !cd.take_eject_request());
        cd.set_tray_open(true);
        assert_eq!((first(&cd), cd.len()), (Err(BlockError::NoMedium), 0));
        cd.set_tray_open(false);
        assert_eq!(first(&cd), Ok(b'A'), "the guest's own eject and load keep the disc");
        cd.eject(true).unwrap();
        assert!(!cd.has_medium());
    }
}
