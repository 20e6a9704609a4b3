//! Rewriting the first cluster: names, features, extensions. What is not known stays.

use super::Qcow2;
use super::header::{V2_LEN, V3_LEN, be32, be64, extension};
use crate::graph::Node;
use crate::{BlockError, IoBuf, Result};

/// The first cluster, taken apart.
#[derive(Clone, Debug)]
pub(super) struct FirstCluster {
    /// The fixed fields, as long as the header says.
    pub(super) fixed: Vec<u8>,
    pub(super) extensions: Vec<(u32, Vec<u8>)>,
    pub(super) backing: Option<String>,
}

impl FirstCluster {
    pub(super) async fn read(file: &Node, cluster: u64) -> Result<Self> {
        let len = cluster.min(file.len()) as usize;
        let head = file.read(0, IoBuf::zeroed(len)).await?;
        let bad = || BlockError::corrupt("the header is damaged");
        let fixed_len = if be32(&head, 4) < 3 { V2_LEN } else { be32(&head, 100) as usize };
        let fixed = head.get(..fixed_len).ok_or_else(bad)?.to_vec();
        let (backing_at, backing_len) = (be64(&head, 8) as usize, be32(&head, 16) as usize);
        let end = if backing_at == 0 { len } else { backing_at.min(len) };
        let mut extensions = Vec::new();
        let mut at = fixed_len;
        while at + 8 <= end {
            let (kind, n) = (be32(&head, at), be32(&head, at + 4) as usize);
            if kind == 0 {
                break;
            }
            let data = head.get(at + 8..).and_then(|rest| rest.get(..n)).ok_or_else(bad)?;
            extensions.push((kind, data.to_vec()));
            at += 8 + n.next_multiple_of(8);
        }
        let mut backing = None;
        if backing_at != 0 && backing_len != 0 {
            let name = head.get(backing_at..).and_then(|rest| rest.get(..backing_len));
            let name = name.ok_or_else(bad)?.to_vec();
            backing = Some(String::from_utf8(name).map_err(|_| bad())?);
        }
        Ok(Self { fixed, extensions, backing })
    }

    /// Sets, replaces or removes an extension.
    pub(super) fn set(&mut self, kind: u32, data: Option<Vec<u8>>) {
        let at = self.extensions.iter().position(|(k, _)| *k == kind);
        let mut seen = false;
        self.extensions.retain(|(k, _)| *k != kind || !std::mem::replace(&mut seen, true));
        match (at, data) {
            (Some(at), Some(data)) => self.extensions[at].1 = data,
            (Some(at), None) => drop(self.extensions.remove(at)),
            (None, Some(data)) if kind == extension::BACKING_FORMAT => {
                self.extensions.insert(0, (kind, data));
            }
            (None, Some(data)) => self.extensions.push((kind, data)),
            (None, None) => {}
        }
    }

    pub(super) fn put32(&mut self, at: usize, value: u32) {
        self.fixed[at..at + 4].copy_from_slice(&value.to_be_bytes());
    }

    pub(super) fn put64(&mut self, at: usize, value: u64) {
        self.fixed[at..at + 8].copy_from_slice(&value.to_be_bytes());
    }

    /// Changes the version: adds or drops the fields of the third one.
    pub(super) fn set_version(&mut self, version: u32) {
        self.put32(4, version);
        if version < 3 {
            self.fixed.truncate(V2_LEN);
            self.set(extension::FEATURE_NAMES, None);
        } else if self.fixed.len() < V3_LEN {
            self.fixed.resize(V3_LEN + 8, 0);
            self.put32(96, 4);
            self.put32(100, V3_LEN as u32 + 8);
        }
    }

    fn to_bytes(&self, cluster: u64) -> Result<Vec<u8>> {
        let mut out = self.fixed.clone();
        for (kind, data) in &self.extensions {
            out.extend(kind.to_be_bytes());
            out.extend((data.len() as u32).to_be_bytes());
            out.extend(data);
            out.resize(out.len().next_multiple_of(8), 0);
        }
        out.extend([0; 8]);
        let name = self.backing.as_deref().unwrap_or_default();
        let at = if name.is_empty() { 0 } else { out.len() as u64 };
        out[8..16].copy_from_slice(&at.to_be_bytes());
        out[16..20].copy_from_slice(&(name.len() as u32).to_be_bytes());
        out.extend(name.as_bytes());
        if out.len() as u64 > cluster {
            return Err(BlockError::NoSpace);
        }
        out.resize(cluster as usize, 0);
        Ok(out)
    }

    pub(super) async fn write(&self, file: &Node, cluster: u64) -> Result<()> {
        let bytes = self.to_bytes(cluster)?;
        file.write(0, bytes.into()).await?;
        file.flush().await
    }
}

impl Qcow2 {
    /// Changes the first cluster.
    pub(super) async fn edit_header(
        &self,
        edit: impl FnOnce(&mut FirstCluster) + Send,
    ) -> Result<()> {
        let file = self.file()?;
        let mut first = FirstCluster::read(&file, self.shape.cluster()).await?;
        edit(&mut first);
        first.write(&file, self.shape.cluster()).await
    }
}
