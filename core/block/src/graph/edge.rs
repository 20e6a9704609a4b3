//! Typed edges and the permissions they carry.

use super::Node;
use crate::sync::lock;
use crate::{BlockError, Result};
use bitflags::bitflags;
use std::sync::{Arc, Mutex};

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

/// What a child is to its parent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Medium of a backend.
    Root,
    /// Holds data and metadata of a format.
    File,
    /// Read where the parent has nothing of its own.
    Backing,
    /// Passed through by a filter.
    Filtered,
}

/// A parent's reference to a node; what it points to can be replaced.
pub struct Edge {
    role: Role,
    perm: Perm,
    shared: Perm,
    child: Mutex<Option<Arc<Node>>>,
}

impl Edge {
    /// Refers to `child`, when its other users allow.
    pub(crate) fn attach(
        role: Role,
        child: &Arc<Node>,
        perm: Perm,
        shared: Perm,
    ) -> Result<Arc<Self>> {
        child.add_user(perm, shared)?;
        Ok(Arc::new(Self { role, perm, shared, child: Mutex::new(Some(child.clone())) }))
    }

    /// The node at the other end; `None` only after the edge was cut.
    pub fn node(&self) -> Option<Arc<Node>> {
        lock(&self.child).clone()
    }

    /// What the child is to its parent.
    pub fn role(&self) -> Role {
        self.role
    }

    /// Lets go of the node.
    pub(crate) fn cut(&self) -> Option<Arc<Node>> {
        let old = lock(&self.child).take();
        if let Some(old) = &old {
            old.remove_user(self.perm, self.shared);
        }
        old
    }
}

impl Drop for Edge {
    fn drop(&mut self) {
        self.cut();
    }
}

/// Everyone who refers to a node. The check is a function of the list alone.
#[derive(Default)]
pub(super) struct Users(Vec<(Perm, Perm)>);

impl Users {
    pub(super) fn add(&mut self, perm: Perm, shared: Perm) -> Result<()> {
        for (their_perm, their_shared) in &self.0 {
            let refused = (perm - *their_shared) | (*their_perm - shared);
            if !refused.is_empty() {
                let names: Vec<_> = refused.iter_names().map(|(name, _)| name).collect();
                let names = names.join(", ").to_lowercase().replace('_', "-");
                return Err(BlockError::InUse(format!("permission '{names}' is not shared")));
            }
        }
        self.0.push((perm, shared));
        Ok(())
    }

    pub(super) fn remove(&mut self, perm: Perm, shared: Perm) {
        if let Some(at) = self.0.iter().position(|user| *user == (perm, shared)) {
            self.0.swap_remove(at);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_writers_conflict_unless_both_share() {
        let write = Perm::CONSISTENT_READ | Perm::WRITE;
        let mut users = Users::default();
        users.add(write, Perm::CONSISTENT_READ).unwrap();
        let error = users.add(write, Perm::all()).unwrap_err();
        assert_eq!(error, BlockError::InUse("permission 'write' is not shared".into()));
        assert!(
            users.add(Perm::CONSISTENT_READ, Perm::CONSISTENT_READ).is_err(),
            "a writer is there"
        );
        users.add(Perm::CONSISTENT_READ, Perm::all()).unwrap();
        users.remove(write, Perm::CONSISTENT_READ);
        users.add(write, Perm::all()).unwrap();
    }
}
