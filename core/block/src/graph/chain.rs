//! Backing chains: what a node stands on, in the graph and in its image.

use super::{BlockGraph, Node, Role};
use crate::formats::{Change, StoredName};
use crate::{BlockError, Result};
use std::sync::Arc;

impl BlockGraph {
    /// Gives `overlay` another backing node, or none. The caller has drained it.
    pub(crate) fn set_backing(&self, overlay: &Arc<Node>, to: Option<&Arc<Node>>) -> Result<()> {
        let edges = overlay.children();
        let edge = edges.iter().find(|edge| edge.role() == Role::Backing);
        if let Some(edge) = edge {
            edge.check_thawed()?;
        }
        match (edge, to) {
            (Some(edge), Some(to)) if edge.node().is_some() => edge.replace(to),
            (Some(edge), None) => {
                edge.cut();
                Ok(())
            }
            (_, Some(to)) => {
                if to.reaches(overlay) {
                    return Err(BlockError::Invalid(format!(
                        "Making '{}' a backing child of '{}' would create a cycle",
                        to.name(),
                        overlay.name()
                    )));
                }
                let image = overlay.driver().image();
                let image = image.ok_or_else(|| {
                    BlockError::Invalid(format!(
                        "Driver '{}' of node '{}' does not support backing files",
                        overlay.driver_name(),
                        overlay.name()
                    ))
                })?;
                image.set_backing(to)?;
                overlay.adopt();
                overlay.refresh_grants()
            }
            (None, None) => Ok(()),
        }
    }

    /// Writes another name of the backing file into an image.
    pub(crate) async fn store_backing_name(
        &self,
        overlay: &Arc<Node>,
        name: Option<(&str, Option<&str>)>,
    ) -> Result<()> {
        let image = overlay.driver().image().ok_or_else(|| {
            BlockError::unsupported(format!("node '{}' is not an image", overlay.name()))
        })?;
        let name = name.map(|(name, format)| StoredName {
            name: name.to_owned(),
            format: format.map(str::to_owned),
        });
        image.change(Change::Backing(name)).await
    }

    /// The node of a chain whose backing node (filters apart) is `node`.
    pub(crate) fn overlay_of(&self, top: &Arc<Node>, node: &Arc<Node>) -> Option<Arc<Node>> {
        let node = node.skip_filters();
        let mut at = top.skip_filters();
        loop {
            let below = at.next_in_chain()?;
            if Arc::ptr_eq(&below, &node) {
                return Some(at);
            }
            at = below;
        }
    }

    /// Finds an image of a chain by its file name.
    pub(crate) fn find_in_chain(&self, top: &Arc<Node>, filename: &str) -> Option<Arc<Node>> {
        let mut at = Some(top.skip_filters());
        while let Some(node) = at {
            if node.filename() == filename {
                return Some(node);
            }
            at = node.next_in_chain();
        }
        None
    }

    /// Another program has the disks from now on: nothing is written to them here. Everything was
    /// flushed before.
    pub fn give_away(&self) -> Result<()> {
        for node in self.nodes() {
            node.set_active(false);
            node.claim(false)?;
        }
        Ok(())
    }

    /// The other program did not want them.
    pub fn take_back(&self) -> Result<()> {
        for node in self.nodes() {
            node.claim(true)?;
            node.set_active(true);
        }
        Ok(())
    }

    /// Another program has written to the disks and left them: they are ours, and what is known of
    /// them is read anew.
    pub async fn reload(&self) -> Result<()> {
        self.context().set_awaits(false);
        for node in self.nodes() {
            node.claim(true)?;
        }
        for node in self.nodes() {
            let _drained = self.drain(&node).await;
            // Only formats remember what they have read.
            if node.image_handle().is_none() {
                continue;
            }
            let driver = node.driver().reopen(self.context(), node.read_only()).await?;
            drop(node.set_driver(driver));
            node.refresh_grants()?;
        }
        Ok(())
    }

    /// Lets a node be written, or forbids it again, with its file below. The caller has drained
    /// it.
    pub async fn set_read_only(&self, node: &Arc<Node>, read_only: bool) -> Result<()> {
        if node.read_only() == read_only {
            return Ok(());
        }
        if !read_only {
            for edge in node.children() {
                let carries = matches!(edge.role(), Role::File | Role::Filtered | Role::Data);
                if let Some(child) = edge.node().filter(|_| carries) {
                    Box::pin(self.set_read_only(&child, false)).await?;
                }
            }
        }
        node.close().await?;
        let driver = node.driver().reopen(self.context(), read_only).await?;
        drop(node.set_driver(driver));
        node.refresh_grants()?;
        if read_only {
            for edge in node.children() {
                let carries = matches!(edge.role(), Role::File | Role::Filtered | Role::Data);
                let child = edge.node().filter(|child| carries && !child.is_written());
                if let Some(child) = child {
                    Box::pin(self.set_read_only(&child, true)).await?;
                }
            }
        }
        Ok(())
    }
}
