//! TLS, by rustls, with credentials in the files that QEMU's tools name: `ca-cert.pem`,
//! `server-cert.pem`, `server-key.pem`, `client-cert.pem` and `client-key.pem` of a folder.
//!
//! A record is read as its header and its body, so that a connection that fills whole buffers is
//! all that is needed below.

use orrery_block::host::{ByteStream, HostTls};
use orrery_block::{BlockError, IoBuf, Op, Result};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{
    ClientConfig, ClientConnection, Connection, RootCertStore, ServerConfig, ServerConnection,
};
use serde_json::{Map, Value};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Bytes in front of every record.
const HEAD: usize = 5;
/// Longest body of a record (RFC 8446, 5.2; 2048 more in older versions).
const LONGEST: usize = (16 << 10) + 2048;

/// One end's certificates and whom it trusts.
pub(super) enum Credentials {
    Server(Arc<ServerConfig>),
    Client(Arc<ClientConfig>),
}

fn invalid(text: impl Into<String>) -> BlockError {
    BlockError::Invalid(text.into())
}

fn broken(what: &str, error: &dyn std::fmt::Display) -> BlockError {
    BlockError::Host(format!("TLS {what}: {error}"))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    read.map_err(|e| invalid(format!("Unable to load certificate {}: {e}", path.display())))
}

fn key(path: &Path) -> Result<PrivateKeyDer<'static>> {
    PrivateKeyDer::from_pem_file(path)
        .map_err(|e| invalid(format!("Unable to load key {}: {e}", path.display())))
}

/// The switch of this name; on where nothing is said.
fn switch(properties: &Map<String, Value>, name: &str) -> Result<bool> {
    match properties.get(name) {
        None => Ok(true),
        Some(Value::Bool(on)) => Ok(*on),
        Some(Value::String(text)) if ["on", "yes", "true"].contains(&&**text) => Ok(true),
        Some(Value::String(text)) if ["off", "no", "false"].contains(&&**text) => Ok(false),
        Some(_) => Err(invalid(format!("Parameter '{name}' expects 'on' or 'off'"))),
    }
}

impl Credentials {
    /// Reads the files that the properties of an object of this type name.
    pub(super) fn load(kind: &str, properties: &Map<String, Value>) -> Result<Self> {
        if kind != "tls-creds-x509" {
            return Err(BlockError::Unsupported(format!("'{kind}' is not supported here")));
        }
        let text = |name: &str| properties.get(name).and_then(Value::as_str);
        let folder =
            PathBuf::from(text("dir").ok_or_else(|| invalid("Missing 'dir' property value"))?);
        let verify = switch(properties, "verify-peer")?;
        let mut roots = RootCertStore::empty();
        for certificate in certificates(&folder.join("ca-cert.pem"))? {
            roots.add(certificate).map_err(|e| invalid(format!("ca-cert.pem: {e}")))?;
        }
        let provider: Arc<CryptoProvider> = Arc::new(ring::default_provider());
        let wrong = |e: rustls::Error| invalid(format!("TLS credentials: {e}"));
        match text("endpoint").unwrap_or("client") {
            "server" => {
                let builder = ServerConfig::builder_with_provider(provider.clone());
                let builder = builder.with_safe_default_protocol_versions().map_err(wrong)?;
                let builder = if verify {
                    let verifier =
                        WebPkiClientVerifier::builder_with_provider(roots.into(), provider);
                    let verifier = verifier.build().map_err(|e| invalid(e.to_string()))?;
                    builder.with_client_cert_verifier(verifier)
                } else {
                    builder.with_no_client_auth()
                };
                let chain = certificates(&folder.join("server-cert.pem"))?;
                let key = key(&folder.join("server-key.pem"))?;
                Ok(Self::Server(builder.with_single_cert(chain, key).map_err(wrong)?.into()))
            }
            "client" if !verify => {
                Err(BlockError::Unsupported("a client always verifies its server here".into()))
            }
            "client" => {
                let builder = ClientConfig::builder_with_provider(provider);
                let builder = builder.with_safe_default_protocol_versions().map_err(wrong)?;
                let builder = builder.with_root_certificates(roots);
                let own = folder.join("client-cert.pem");
                let config = if own.exists() {
                    let key = key(&folder.join("client-key.pem"))?;
                    builder.with_client_auth_cert(certificates(&own)?, key).map_err(wrong)?
                } else {
                    builder.with_no_client_auth()
                };
                Ok(Self::Client(config.into()))
            }
            other => Err(invalid(format!("Parameter 'endpoint' does not accept value '{other}'"))),
        }
    }
}

impl HostTls for Credentials {
    fn serves(&self) -> bool {
        matches!(self, Self::Server(_))
    }

    fn accept(&self, stream: Arc<dyn ByteStream>) -> Op<Arc<dyn ByteStream>> {
        let Self::Server(config) = self else {
            return Op::err(invalid("Expecting TLS credentials with a server endpoint"));
        };
        match ServerConnection::new(config.clone()) {
            Ok(connection) => Inner::start(stream, connection.into()),
            Err(e) => Op::err(broken("handshake", &e)),
        }
    }

    fn connect(&self, stream: Arc<dyn ByteStream>, name: &str) -> Op<Arc<dyn ByteStream>> {
        let Self::Client(config) = self else {
            return Op::err(invalid("Expecting TLS credentials with a client endpoint"));
        };
        let Ok(server) = ServerName::try_from(name.to_owned()) else {
            return Op::err(invalid(format!("'{name}' is not the name of a TLS server")));
        };
        match ClientConnection::new(config.clone(), server) {
            Ok(connection) => Inner::start(stream, connection.into()),
            Err(e) => Op::err(broken("handshake", &e)),
        }
    }
}

/// An encrypted connection.
struct Secure(Arc<Inner>);

struct Inner {
    below: Arc<dyn ByteStream>,
    state: Mutex<Connection>,
}

impl Inner {
    fn start(below: Arc<dyn ByteStream>, mut state: Connection) -> Op<Arc<dyn ByteStream>> {
        // What is written goes out at once: nothing piles up.
        state.set_buffer_limit(None);
        let inner = Arc::new(Self { below, state: Mutex::new(state) });
        Op::pending(async move {
            inner.handshake().await?;
            Ok(Arc::new(Secure(inner)) as Arc<dyn ByteStream>)
        })
    }

    fn state(&self) -> MutexGuard<'_, Connection> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records that are to be sent.
    fn outgoing(state: &mut Connection) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        while state.wants_write() {
            state.write_tls(&mut out)?;
        }
        Ok(out)
    }

    async fn flush(&self) -> Result<()> {
        let out = Self::outgoing(&mut self.state()).map_err(|e| broken("connection", &e))?;
        if !out.is_empty() {
            self.below.send(vec![out.into()]).await?;
        }
        Ok(())
    }

    async fn handshake(&self) -> Result<()> {
        loop {
            self.flush().await?;
            if !self.state().is_handshaking() {
                return Ok(());
            }
            if let Err(error) = self.feed().await {
                // The other end may be told why.
                let _ = self.flush().await;
                return Err(error);
            }
        }
    }

    /// Takes one record in.
    async fn feed(&self) -> Result<()> {
        let head = self.below.recv(IoBuf::zeroed(HEAD)).await?;
        let len = usize::from(u16::from_be_bytes([head[3], head[4]]));
        if len > LONGEST {
            return Err(BlockError::Host("TLS connection: this is no record".into()));
        }
        let mut record = head.to_vec();
        if len > 0 {
            record.extend_from_slice(&self.below.recv(IoBuf::zeroed(len)).await?);
        }
        let mut state = self.state();
        let mut left = &record[..];
        while !left.is_empty() {
            state.read_tls(&mut left).map_err(|e| broken("connection", &e))?;
            state.process_new_packets().map_err(|e| broken("connection", &e))?;
        }
        Ok(())
    }

    /// What has been decrypted; says how much is in `buf` now.
    fn take(&self, buf: &mut [u8], mut done: usize) -> Result<usize> {
        let mut state = self.state();
        while done < buf.len() {
            match state.reader().read(&mut buf[done..]) {
                Ok(0) => return Err(BlockError::Host("connection closed".into())),
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) => return Err(broken("connection", &e)),
            }
        }
        Ok(done)
    }
}

impl ByteStream for Secure {
    fn recv(&self, mut buf: IoBuf) -> Op<IoBuf> {
        let inner = self.0.clone();
        Op::pending(async move {
            let mut done = inner.take(&mut buf, 0)?;
            while done < buf.len() {
                inner.feed().await?;
                done = inner.take(&mut buf, done)?;
            }
            Ok(buf)
        })
    }

    fn send(&self, bufs: Vec<IoBuf>) -> Op<Vec<IoBuf>> {
        let out = {
            let mut state = self.0.state();
            let written = bufs.iter().try_for_each(|buf| state.writer().write_all(buf));
            written.and_then(|()| Inner::outgoing(&mut state))
        };
        match out {
            Ok(out) => {
                // Under way at once, also where nobody waits for it: a record that is left out makes
                // nonsense of all behind it.
                let sent = self.0.below.send(vec![out.into()]);
                Op::pending(async move {
                    sent.await?;
                    Ok(bufs)
                })
            }
            Err(e) => Op::err(broken("connection", &e)),
        }
    }

    fn shutdown(&self) {
        let out = {
            let mut state = self.0.state();
            state.send_close_notify();
            Inner::outgoing(&mut state).unwrap_or_default()
        };
        // A farewell, if there is room for it.
        drop(self.0.below.send(vec![out.into()]));
        self.0.below.shutdown();
    }
}
