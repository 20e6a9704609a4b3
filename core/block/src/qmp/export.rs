//! Commands about exports and the NBD server.

use super::args::*;
use super::{Answer, Monitor, QmpError};
use crate::nbd::{Export, ExportOptions, Limits, NbdServer};
use crate::options::BitmapRef;
use crate::sync::lock;
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};

/// What is exported, by id.
#[derive(Default)]
pub(super) struct Exports(Mutex<Vec<Entry>>);

struct Entry {
    id: String,
    export: Arc<Export>,
}

impl Monitor {
    fn nbd(&self) -> Answer<NbdServer> {
        lock(&self.0.nbd).clone().ok_or_else(|| QmpError::generic("NBD server not running"))
    }

    pub(super) async fn nbd_server_start(&self, args: NbdStart) -> Answer<Nothing> {
        if lock(&self.0.nbd).is_some() {
            return Err(QmpError::generic("NBD server already running"));
        }
        if args.tls_authz.is_some() {
            return Err(QmpError::generic("'tls-authz' is not supported by this NBD server"));
        }
        let limits = Limits {
            connections: args.max_connections.unwrap_or(100).into(),
            handshake_seconds: args.handshake_max_seconds.unwrap_or(10).into(),
        };
        let server = NbdServer::new(self.graph(), limits);
        if let Some(id) = &args.tls_creds {
            server.set_tls(self.graph().tls(id, true)?);
        }
        let listener = self.graph().context().net()?.listen(&args.addr.0).await?;
        server.listen(listener);
        *lock(&self.0.nbd) = Some(server);
        Ok(Nothing {})
    }

    pub(super) async fn nbd_server_stop(&self, _: Nothing) -> Answer<Nothing> {
        let server = self.nbd()?;
        let gone = std::mem::take(&mut *lock(&self.0.exports.0));
        *lock(&self.0.nbd) = None;
        server.stop();
        for entry in gone {
            entry.export.disconnect();
            self.deleted(&entry.id);
        }
        Ok(Nothing {})
    }

    /// Ends every export.
    pub(super) fn drop_exports(&self) {
        let gone = std::mem::take(&mut *lock(&self.0.exports.0));
        gone.iter().for_each(|entry| self.deleted(&entry.id));
    }

    fn deleted(&self, id: &str) {
        self.graph().context().emit("BLOCK_EXPORT_DELETED", json!({"id": id}));
    }

    pub(super) async fn nbd_server_add(&self, args: NbdAdd) -> Answer<Nothing> {
        self.nbd()?;
        let name = args.name.unwrap_or_else(|| args.device.clone());
        let node = self.node(&args.device)?;
        self.add_nbd(NbdExportArgs {
            id: name.clone(),
            node_name: node.name().into(),
            // The older command makes the best of a read-only node.
            writable: Some(args.writable.unwrap_or(false) && !node.read_only()),
            writethrough: None,
            iothread: None,
            fixed_iothread: None,
            allow_inactive: None,
            name: Some(name),
            description: args.description,
            bitmaps: args.bitmap.map(|name| vec![BitmapSource::Here(name)]),
            allocation_depth: None,
        })
        .await
    }

    pub(super) async fn nbd_server_remove(&self, args: NbdRemove) -> Answer<Nothing> {
        self.nbd()?;
        self.remove_export(&args.name, args.mode)
    }

    pub(super) async fn block_export_add(&self, args: ExportAdd) -> Answer<Nothing> {
        self.add_nbd(args.0).await
    }

    async fn add_nbd(&self, args: NbdExportArgs) -> Answer<Nothing> {
        if lock(&self.0.exports.0).iter().any(|entry| entry.id == args.id) {
            return Err(QmpError::generic(format!(
                "Block export id '{}' is already in use",
                args.id
            )));
        }
        let node = self.graph().node(&args.node_name).ok_or_else(|| {
            QmpError::generic(format!("Cannot find device='' nor node-name='{}'", args.node_name))
        })?;
        let server = self.nbd()?;
        let bitmaps = args.bitmaps.unwrap_or_default();
        let options = ExportOptions {
            name: args.name.unwrap_or_else(|| args.node_name.clone()),
            description: args.description,
            writable: args.writable.unwrap_or(false),
            writethrough: args.writethrough.unwrap_or(false),
            bitmaps: bitmaps
                .into_iter()
                .map(|source| match source {
                    BitmapSource::Here(name) => (None, name),
                    BitmapSource::There(BitmapRef { node, name }) => (Some(node), name),
                })
                .collect(),
            allocation_depth: args.allocation_depth.unwrap_or(false),
            multi_conn: true,
            window: (0, None),
            block: 1,
        };
        let export = Export::new(self.graph(), &node, options)?;
        server.add(export.clone())?;
        lock(&self.0.exports.0).push(Entry { id: args.id, export });
        Ok(Nothing {})
    }

    pub(super) async fn block_export_del(&self, args: ExportDel) -> Answer<Nothing> {
        self.remove_export(&args.id, args.mode)
    }

    fn remove_export(&self, id: &str, mode: Option<RemoveMode>) -> Answer<Nothing> {
        let entry = {
            let mut exports = lock(&self.0.exports.0);
            let at = exports.iter().position(|entry| entry.id == id);
            let at = at.ok_or_else(|| QmpError::generic(format!("Export '{id}' is not found")))?;
            if mode != Some(RemoveMode::Hard) && exports[at].export.connections() > 0 {
                return Err(QmpError::generic(format!("export '{id}' still in use")));
            }
            exports.remove(at)
        };
        if let Some(server) = &*lock(&self.0.nbd) {
            server.remove(entry.export.name(), true);
        }
        self.deleted(id);
        Ok(Nothing {})
    }

    pub(super) async fn query_block_exports(&self, _: Nothing) -> Answer<Vec<Value>> {
        let exports = lock(&self.0.exports.0);
        Ok(exports
            .iter()
            .map(|entry| {
                json!({
                    "node-name": entry.export.node().map(|node| node.name().to_owned()), "shutting-down": false,
                    "type": "nbd", "id": entry.id,
                })
            })
            .collect())
    }
}
