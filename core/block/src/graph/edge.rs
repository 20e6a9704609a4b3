//! Typed edges and the permissions they carry.
//!
//! An edge has needs of its own, fixed by its owner. What it asks of its child follows from
//! them, from its role and from what the users of its owner ask: a filter asks for what is asked
//! of it. [`refresh`] carries a change down the graph, or undoes it when somebody objects.

use super::Node;
use crate::sync::lock;
use crate::{BlockError, Result};
use bitflags::bitflags;
use std::sync::{Arc, Mutex, Weak};

bitflags! {
    /// What a user of a node does with it, or lets others do.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Perm: u8 {
        /// Reads and relies on the content being consistent.
        const CONSISTENT_READ = 1;
        /// Writes.
        const WRITE = 2;
        /// Writes what is there already.
        const WRITE_UNCHANGED = 4;
        /// Changes the length.
        const RESIZE = 8;
    }
}

impl Perm {
    /// Names as the monitor spells them.
    pub fn names(self) -> Vec<String> {
        self.iter_names().map(|(name, _)| name.to_lowercase().replace('_', "-")).collect()
    }
}

/// What a child is to its parent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Medium of a backend.
    Root,
    /// Holds data and metadata of a format.
    File,
    /// Holds data and nothing else.
    Data,
    /// Read where the parent has nothing of its own.
    Backing,
    /// Passed through by a filter.
    Filtered,
}

impl Role {
    fn edge_name(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::File | Self::Filtered => "file",
            Self::Data => "data-file",
            Self::Backing => "backing",
        }
    }
}

/// What a user does with a node, and what it bears from others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Used.
    pub perm: Perm,
    /// Left to others.
    pub shared: Perm,
}

impl Grant {
    /// Asks for nothing and bears everything.
    pub const NONE: Self = Self { perm: Perm::empty(), shared: Perm::all() };

    fn and(self, other: Self) -> Self {
        Self { perm: self.perm | other.perm, shared: self.shared & other.shared }
    }
}

/// A parent's reference to a node; what it points to can be replaced.
pub struct Edge {
    role: Role,
    name: String,
    state: Mutex<State>,
}

struct State {
    own: Grant,
    grant: Grant,
    child: Option<Arc<Node>>,
    parent: Weak<Node>,
    /// Whatever those above bear.
    shares_all: bool,
    /// A job relies on where it points.
    frozen: bool,
    /// Says who it is when the parent is not a node.
    label: String,
}

impl Edge {
    /// Refers to `child`, when its other users allow.
    pub(crate) fn attach(
        role: Role,
        child: &Arc<Node>,
        perm: Perm,
        shared: Perm,
    ) -> Result<Arc<Self>> {
        Self::attach_as(role.edge_name(), "an unnamed block device", role, child, perm, shared)
    }

    /// The same with a name for the edge and for the parent (where it is not a node).
    pub(crate) fn attach_as(
        name: &str,
        label: &str,
        role: Role,
        child: &Arc<Node>,
        perm: Perm,
        shared: Perm,
    ) -> Result<Arc<Self>> {
        let own = Grant { perm, shared };
        let edge = Arc::new(Self {
            role,
            name: name.to_owned(),
            state: Mutex::new(State {
                own,
                grant: Grant::NONE,
                child: None,
                parent: Weak::new(),
                shares_all: false,
                frozen: false,
                label: label.to_owned(),
            }),
        });
        edge.point_at(child)?;
        Ok(edge)
    }

    /// Points a free edge at a node.
    fn point_at(self: &Arc<Self>, child: &Arc<Node>) -> Result<()> {
        let parent = lock(&self.state).parent.upgrade();
        let grant = self.needs(parent.map_or(Grant::NONE, |node| node.cumulative()));
        child.check_grant(self, grant)?;
        {
            let mut state = lock(&self.state);
            state.grant = grant;
            state.child = Some(child.clone());
        }
        child.add_user(self);
        match refresh(child) {
            Ok(()) => Ok(()),
            Err(error) => {
                self.cut();
                Err(error)
            }
        }
    }

    /// Points the edge at another node, or leaves everything as it was.
    pub(crate) fn replace(self: &Arc<Self>, child: &Arc<Node>) -> Result<()> {
        let old = self.cut();
        match self.point_at(child) {
            Ok(()) => Ok(()),
            Err(error) => {
                if let Some(old) = old {
                    self.point_at(&old)?;
                }
                Err(error)
            }
        }
    }

    /// Refuses a change of an edge that a job relies on.
    pub(crate) fn check_thawed(&self) -> Result<()> {
        let frozen = {
            let state = lock(&self.state);
            state.frozen.then(|| (state.parent.upgrade(), state.child.clone()))
        };
        let Some((parent, child)) = frozen else { return Ok(()) };
        let name = |node: Option<Arc<Node>>| node.map_or(String::new(), |n| n.name().to_owned());
        Err(BlockError::InUse(format!(
            "Cannot change '{}' link from '{}' to '{}'",
            self.name,
            name(parent),
            name(child)
        )))
    }

    /// The node at the other end; `None` only after the edge was cut.
    pub fn node(&self) -> Option<Arc<Node>> {
        lock(&self.state).child.clone()
    }

    /// What the child is to its parent.
    pub fn role(&self) -> Role {
        self.role
    }

    /// Name of the edge, as the option of the parent that made it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it asks of its child.
    pub fn grant(&self) -> Grant {
        lock(&self.state).grant
    }

    /// The node that refers through it.
    pub fn parent(&self) -> Option<Arc<Node>> {
        lock(&self.state).parent.upgrade()
    }

    pub(super) fn set_parent(&self, parent: &Weak<Node>) {
        lock(&self.state).parent = parent.clone();
    }

    /// Changes the needs of the owner itself.
    pub(crate) fn set_own(self: &Arc<Self>, perm: Perm, shared: Perm) -> Result<()> {
        let old = std::mem::replace(&mut lock(&self.state).own, Grant { perm, shared });
        let Some(child) = self.node() else { return Ok(()) };
        let parent = self.parent().map_or(Grant::NONE, |node| node.cumulative());
        let before = self.grant();
        let result = child.check_grant(self, self.needs(parent)).and_then(|()| {
            lock(&self.state).grant = self.needs(parent);
            refresh(&child)
        });
        if result.is_err() {
            let mut state = lock(&self.state);
            (state.own, state.grant) = (old, before);
        }
        result
    }

    /// Bears every other use of the child, whatever those above bear: the filter of a job that
    /// knows what it does.
    pub(crate) fn set_shares_all(&self, on: bool) {
        lock(&self.state).shares_all = on;
    }

    /// What to ask of the child when the owner's users ask `from_above`.
    fn needs(&self, from_above: Grant) -> Grant {
        let (own, shares_all) = {
            let state = lock(&self.state);
            (state.own, state.shares_all)
        };
        match self.role {
            Role::Root | Role::File | Role::Data => own,
            Role::Filtered if shares_all => {
                Grant { perm: own.perm | from_above.perm, shared: Perm::all() }
            }
            Role::Filtered => own.and(from_above),
            Role::Backing => Grant {
                perm: own.perm & (from_above.perm | !Perm::CONSISTENT_READ),
                shared: if from_above.shared.contains(Perm::WRITE) {
                    Perm::all()
                } else {
                    own.shared
                },
            },
        }
    }

    /// Says who refers, for a message.
    fn user(&self) -> String {
        let state = lock(&self.state);
        match state.parent.upgrade() {
            Some(node) => format!("node '{}'", node.name()),
            None => state.label.clone(),
        }
    }

    /// Lets go of the node.
    pub(crate) fn cut(&self) -> Option<Arc<Node>> {
        let old = {
            let mut state = lock(&self.state);
            state.grant = Grant::NONE;
            state.child.take()
        };
        if let Some(old) = &old {
            old.remove_user(self);
            // Asking for less cannot be refused.
            let _ = refresh(old);
        }
        old
    }
}

/// Links of a chain that must stay as they are; lets them go when dropped.
pub(crate) struct Frozen(Vec<Arc<Edge>>);

impl Frozen {
    /// Freezes the links from `top` down to `base`, or to the end of the chain; fails when some
    /// other job relies on one of them.
    pub(crate) fn chain(top: &Arc<Node>, base: Option<&Arc<Node>>) -> Result<Self> {
        let mut frozen = Self(Vec::new());
        let mut node = top.clone();
        while base.is_none_or(|base| !Arc::ptr_eq(base, &node)) {
            let below = |edge: &Arc<Edge>| matches!(edge.role(), Role::Backing | Role::Filtered);
            let Some(edge) = node.children().into_iter().find(below) else { break };
            let Some(child) = edge.node() else { break };
            edge.check_thawed()?;
            lock(&edge.state).frozen = true;
            frozen.0.push(edge);
            node = child;
        }
        Ok(frozen)
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        self.0.iter().for_each(|edge| lock(&edge.state).frozen = false);
    }
}

impl Drop for Edge {
    fn drop(&mut self) {
        self.cut();
    }
}

/// Recomputes what the edges below `node` ask for, all the way down; nothing changes when
/// somebody objects. New edges learn who their parent is on the way.
pub(super) fn refresh(node: &Arc<Node>) -> Result<()> {
    let mut undo = Vec::new();
    let result = refresh_below(node, &mut undo);
    if result.is_err() {
        for (edge, grant) in undo.into_iter().rev() {
            lock(&edge.state).grant = grant;
        }
    }
    result
}

fn refresh_below(node: &Arc<Node>, undo: &mut Vec<(Arc<Edge>, Grant)>) -> Result<()> {
    let from_above = node.cumulative();
    for edge in node.children() {
        edge.set_parent(&Arc::downgrade(node));
        let Some(child) = edge.node() else { continue };
        let (old, new) = (edge.grant(), edge.needs(from_above));
        if new != old {
            child.check_grant(&edge, new)?;
            lock(&edge.state).grant = new;
            undo.push((edge.clone(), old));
            refresh_below(&child, undo)?;
        }
    }
    Ok(())
}

/// Everyone who refers to a node.
#[derive(Default)]
pub(super) struct Users(Vec<Weak<Edge>>);

impl Users {
    pub(super) fn add(&mut self, edge: &Arc<Edge>) {
        self.0.push(Arc::downgrade(edge));
    }

    pub(super) fn remove(&mut self, edge: &Edge) {
        self.0.retain(|user| !std::ptr::eq(user.as_ptr(), edge));
    }

    /// The living ones.
    pub(super) fn edges(&self) -> Vec<Arc<Edge>> {
        self.0.iter().filter_map(Weak::upgrade).collect()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Says what is wrong with `edge` asking `wanted` of a node that these `users` have.
pub(super) fn conflict(
    node: &str,
    users: &[Arc<Edge>],
    edge: &Edge,
    wanted: Grant,
) -> Option<BlockError> {
    for user in users {
        if std::ptr::eq(&**user, edge) {
            continue;
        }
        let theirs = user.grant();
        let text = |needs: &Edge, bars: &Edge, perm: Perm| {
            let names = perm.names().join(", ");
            let who = |edge: &Edge| {
                format!("{} (uses node '{node}' as '{}' child)", edge.user(), edge.name)
            };
            BlockError::InUse(format!(
                "Permission conflict on node '{node}': permissions '{names}' are both required by {} and unshared by {}.",
                who(needs),
                who(bars)
            ))
        };
        let refused = wanted.perm - theirs.shared;
        if !refused.is_empty() {
            return Some(text(edge, user, refused));
        }
        let taken = theirs.perm - wanted.shared;
        if !taken.is_empty() {
            return Some(text(user, edge, taken));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{BlockGraph, RawOptions};
    use crate::host::MemFile;

    const READ: Perm = Perm::CONSISTENT_READ;

    fn file(graph: &BlockGraph) -> Arc<Node> {
        graph.open_file(Some("f"), "mem", Arc::new(MemFile::with_len(4096))).unwrap()
    }

    #[test]
    fn two_writers_conflict_unless_both_share() {
        let graph = BlockGraph::new();
        let node = file(&graph);
        let write = READ | Perm::WRITE;
        let first = Edge::attach(Role::Root, &node, write, READ).unwrap();
        let error = Edge::attach(Role::Root, &node, write, Perm::all()).err().unwrap();
        assert_eq!(
            error.to_string(),
            "Permission conflict on node 'f': permissions 'write' are both required by an unnamed \
             block device (uses node 'f' as 'root' child) and unshared by an unnamed block device \
             (uses node 'f' as 'root' child)."
        );
        assert!(Edge::attach(Role::Root, &node, READ, READ).is_err(), "a writer is there");
        let reader = Edge::attach(Role::Root, &node, READ, Perm::all()).unwrap();
        drop(first);
        Edge::attach(Role::Root, &node, write, Perm::all()).unwrap();
        drop(reader);
    }

    #[test]
    fn a_filter_asks_for_what_is_asked_of_it_and_no_more() {
        let graph = BlockGraph::new();
        let node = file(&graph);
        let raw = graph.open_raw(Some("r"), &node, &RawOptions::default()).unwrap();
        let below = &raw.children()[0];
        assert_eq!(below.grant(), Grant::NONE);
        let write = Edge::attach(Role::Root, &raw, READ | Perm::WRITE, READ).unwrap();
        assert_eq!(below.grant(), Grant { perm: READ | Perm::WRITE, shared: READ });
        let other = graph.open_raw(Some("s"), &node, &RawOptions::default()).unwrap();
        let conflict = Edge::attach(Role::Root, &other, Perm::WRITE, Perm::all()).err().unwrap();
        assert!(conflict.to_string().contains("unshared by node 'r' (uses node 'f'"), "{conflict}");
        assert_eq!(other.children()[0].grant(), Grant::NONE, "nothing has changed");
        drop(write);
        assert_eq!(below.grant(), Grant::NONE);
        Edge::attach(Role::Root, &other, Perm::WRITE, Perm::all()).unwrap();
    }

    #[test]
    fn an_edge_that_may_not_move_stays_where_it_was() {
        let graph = BlockGraph::new();
        let a = file(&graph);
        let b = graph.open_file(Some("g"), "mem", Arc::new(MemFile::with_len(8))).unwrap();
        let _owner = Edge::attach(Role::Root, &b, READ, READ).unwrap();
        let edge = Edge::attach(Role::Root, &a, Perm::WRITE, Perm::all()).unwrap();
        assert!(edge.replace(&b).is_err());
        assert!(Arc::ptr_eq(&edge.node().unwrap(), &a) && a.is_used());
    }
}
