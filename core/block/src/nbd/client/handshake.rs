//! The client's side of the negotiation.

use crate::host::{ByteStream, HostTls};
use crate::nbd::proto::{self, *};
use crate::{BlockError, IoBuf, Result};
use std::sync::Arc;

/// Credentials, and who the server has to be.
pub type Tls = (Arc<dyn HostTls>, String);

/// What a client would like.
#[derive(Clone)]
pub(super) struct Wish {
    /// Encrypted, or not at all.
    pub(super) tls: Option<Tls>,
    pub(super) export: String,
    /// The metadata context that answers for block status.
    pub(super) context: String,
}

/// What was agreed.
pub(super) struct Agreed {
    /// The connection as it goes on.
    pub(super) stream: Arc<dyn ByteStream>,
    pub(super) info: ExportInfo,
    pub(super) structured: bool,
    pub(super) extended: bool,
    /// Number of the context.
    pub(super) context: Option<u32>,
}

/// What a server says about an export.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExportInfo {
    /// Name.
    pub name: String,
    /// Words for people.
    pub description: Option<String>,
    /// Bytes.
    pub size: u64,
    /// Flags as they came.
    pub flags: u16,
    /// Smallest block; zero when the server does not say.
    pub min_block: u32,
    /// Best block.
    pub opt_block: u32,
    /// Largest block.
    pub max_block: u32,
    /// Lengths have 64 bits.
    pub extended: bool,
    /// Metadata contexts.
    pub contexts: Vec<String>,
}

impl ExportInfo {
    pub(super) fn features(&self) -> Features {
        Features::from_bits_retain(self.flags)
    }
}

const MAX_REPLY: u32 = 1 << 20;

fn broken(text: &str) -> BlockError {
    BlockError::Host(format!("server: {text}"))
}

/// A connection that breaks before anything is agreed.
fn unheard(what: &'static str) -> impl Fn(BlockError) -> BlockError {
    move |error| BlockError::Host(format!("Failed to {what} while negotiating: {error}"))
}

async fn recv(stream: &dyn ByteStream, n: usize) -> Result<IoBuf> {
    proto::recv(stream, n).await.map_err(unheard("receive"))
}

async fn send(stream: &dyn ByteStream, bytes: Vec<u8>) -> Result<()> {
    proto::send(stream, bytes).await.map_err(unheard("send"))
}

async fn ask(stream: &dyn ByteStream, option: u32, data: &[u8]) -> Result<()> {
    let head = Pack::with(16 + data.len()).u64(OPTION_MAGIC).u32(option).u32(data.len() as u32);
    send(stream, head.bytes(data).0).await
}

/// One reply to an option: its kind and data.
async fn answer(stream: &dyn ByteStream, option: u32) -> Result<(u32, Vec<u8>)> {
    let head = recv(stream, 20).await?;
    let mut head = Unpack(&head);
    let (magic, to, kind, len) = (head.u64(), head.u32(), head.u32(), head.u32());
    let (Some(REPLY_MAGIC), Some(to), Some(kind), Some(len)) = (magic, to, kind, len) else {
        return Err(broken("not a reply"));
    };
    if to != option || len > MAX_REPLY {
        return Err(broken("unexpected reply"));
    }
    Ok((kind, recv(stream, len as usize).await?.into_vec()))
}

/// Asks for something that is granted or not.
async fn wish(stream: &dyn ByteStream, option: u32) -> Result<bool> {
    ask(stream, option, &[]).await?;
    Ok(answer(stream, option).await?.0 == reply::ACK)
}

/// How a server begins.
enum Greeting {
    /// It has one export, and says all about it at once.
    Old {
        size: u64,
        flags: u16,
    },
    New(Hello),
}

/// The start of every conversation.
async fn hello(stream: &dyn ByteStream) -> Result<Greeting> {
    let head = recv(stream, 16).await?;
    let mut head = Unpack(&head);
    match (head.u64(), head.u64()) {
        (Some(MAGIC), Some(OPTION_MAGIC)) => {
            let flags = recv(stream, 2).await?;
            let flags = Hello::from_bits_truncate(Unpack(&flags).u16().unwrap_or(0));
            send(stream, Pack::default().u32(flags.bits().into()).0).await?;
            Ok(Greeting::New(flags))
        }
        (Some(MAGIC), Some(OLD_MAGIC)) => {
            let rest = recv(stream, 12 + 124).await?;
            let mut rest = Unpack(&rest);
            // The flags of the protocol; those of the export are below them.
            let (size, flags) = (rest.u64().unwrap_or(0), rest.u32().unwrap_or(0));
            Ok(Greeting::Old { size, flags: flags as u16 })
        }
        _ => Err(broken("this is not an NBD server")),
    }
}

/// Encrypts the connection, where that is wanted.
async fn encrypt(stream: &Arc<dyn ByteStream>, tls: Option<&Tls>) -> Result<Arc<dyn ByteStream>> {
    let Some((tls, name)) = tls else { return Ok(stream.clone()) };
    ask(&**stream, option::STARTTLS, &[]).await?;
    let (kind, text) = answer(&**stream, option::STARTTLS).await?;
    if kind != reply::ACK {
        let text = String::from_utf8_lossy(&text);
        return Err(broken(&format!("it does not encrypt the connection: {text}")));
    }
    tls.connect(stream.clone(), name).await
}

/// Structured replies and extended headers, as far as the server has them.
async fn headers(stream: &dyn ByteStream) -> Result<(bool, bool)> {
    if wish(stream, option::EXTENDED).await? {
        return Ok((true, true));
    }
    Ok((wish(stream, option::STRUCTURED).await?, false))
}

async fn contexts(
    stream: &dyn ByteStream,
    option: u32,
    export: &str,
    queries: &[&str],
) -> Result<Vec<(u32, String)>> {
    let mut data = Pack::default().string(export).u32(queries.len() as u32);
    for query in queries {
        data = data.string(query);
    }
    ask(stream, option, &data.0).await?;
    let mut out = Vec::new();
    loop {
        let (kind, data) = answer(stream, option).await?;
        match kind {
            reply::ACK => return Ok(out),
            reply::CONTEXT => {
                let mut data = Unpack(&data);
                let id = data.u32().ok_or_else(|| broken("short context"))?;
                out.push((id, String::from_utf8_lossy(data.rest()).into_owned()));
            }
            kind if kind & reply::ERROR != 0 => return Ok(out),
            _ => return Err(broken("unexpected reply")),
        }
    }
}

/// Asks about an export, or (with `GO`) chooses it. `Ok(Err)` is the server's refusal.
async fn info(
    stream: &dyn ByteStream,
    option: u32,
    export: &str,
) -> Result<Result<ExportInfo, BlockError>> {
    let data = Pack::default().string(export).u16(1).u16(info::BLOCK_SIZE);
    ask(stream, option, &data.0).await?;
    let mut out = ExportInfo { name: export.into(), ..ExportInfo::default() };
    loop {
        let (kind, data) = answer(stream, option).await?;
        match kind {
            reply::ACK => return Ok(Ok(out)),
            reply::INFO => {
                let mut data = Unpack(&data);
                let read = (|| {
                    match data.u16()? {
                        info::EXPORT => {
                            out.size = data.u64()?;
                            out.flags = data.u16()?;
                        }
                        info::BLOCK_SIZE => {
                            out.min_block = data.u32()?;
                            out.opt_block = data.u32()?;
                            out.max_block = data.u32()?;
                        }
                        info::DESCRIPTION => {
                            out.description =
                                Some(String::from_utf8_lossy(data.rest()).into_owned());
                        }
                        _ => {}
                    }
                    Some(())
                })();
                read.ok_or_else(|| broken("short information"))?;
                let odd = out.min_block != 0
                    && (!out.min_block.is_power_of_two() || out.min_block > 65536);
                if odd {
                    return Err(broken("its block size makes no sense"));
                }
            }
            kind if kind & reply::ERROR != 0 => {
                let text = String::from_utf8_lossy(&data);
                let why = match kind {
                    reply::UNKNOWN => format!("Requested export not available: {text}"),
                    reply::TLS_REQUIRED => format!("Server requires TLS: {text}"),
                    reply::POLICY => format!("Server policy refuses the export: {text}"),
                    reply::UNSUPPORTED => {
                        return Ok(Err(BlockError::unsupported(
                            "the server does not tell of exports",
                        )));
                    }
                    _ => format!("server refuses the export ({}): {text}", kind & !reply::ERROR),
                };
                return Ok(Err(BlockError::Host(why)));
            }
            _ => return Err(broken("unexpected reply")),
        }
    }
}

/// Chooses an export of a server that answers only if it has it.
async fn choose(stream: &dyn ByteStream, hello: Hello, export: &str) -> Result<ExportInfo> {
    ask(stream, option::EXPORT_NAME, export.as_bytes()).await?;
    let zeroes = if hello.contains(Hello::NO_ZEROES) { 0 } else { 124 };
    let data = recv(stream, 10 + zeroes).await?;
    let mut data = Unpack(&data);
    let (size, flags) = (data.u64().unwrap_or(0), data.u16().unwrap_or(0));
    Ok(ExportInfo { name: export.into(), size, flags, ..ExportInfo::default() })
}

/// What follows when there was nothing to negotiate.
fn plain(stream: &Arc<dyn ByteStream>, info: ExportInfo) -> Result<Agreed> {
    check(&info)?;
    let stream = stream.clone();
    Ok(Agreed { stream, info, structured: false, extended: false, context: None })
}

fn check(info: &ExportInfo) -> Result<()> {
    match info.size > i64::MAX as u64 {
        true => Err(broken("the export is too large")),
        false => Ok(()),
    }
}

fn no_tls() -> BlockError {
    broken("it does not encrypt the connection: it cannot negotiate")
}

pub(super) async fn handshake(stream: &Arc<dyn ByteStream>, wish: &Wish) -> Result<Agreed> {
    let hello = match hello(&**stream).await? {
        Greeting::New(hello) if hello.contains(Hello::FIXED) => hello,
        _ if wish.tls.is_some() => return Err(no_tls()),
        Greeting::New(hello) => {
            return plain(stream, choose(&**stream, hello, &wish.export).await?);
        }
        Greeting::Old { .. } if !wish.export.is_empty() => {
            return Err(broken("it has no exports with names"));
        }
        Greeting::Old { size, flags } => {
            return plain(stream, ExportInfo { size, flags, ..ExportInfo::default() });
        }
    };
    let whole = encrypt(stream, wish.tls.as_ref()).await?;
    let stream: &dyn ByteStream = &*whole;
    let (structured, extended) = headers(stream).await?;
    let context = if structured {
        let chosen = contexts(stream, option::SET_CONTEXTS, &wish.export, &[&wish.context]).await?;
        chosen.first().map(|(id, _)| *id)
    } else {
        None
    };
    let info = match info(stream, option::GO, &wish.export).await? {
        Ok(info) => info,
        Err(error) if structured || !matches!(error, BlockError::Unsupported(_)) => {
            return Err(error);
        }
        // An old server knows only this way.
        Err(_) => choose(stream, hello, &wish.export).await?,
    };
    check(&info)?;
    let info = ExportInfo { extended, ..info };
    Ok(Agreed { info, stream: whole, structured, extended, context })
}

/// Asks a server what it has.
pub async fn list(stream: &Arc<dyn ByteStream>, tls: Option<&Tls>) -> Result<Vec<ExportInfo>> {
    match hello(&**stream).await? {
        Greeting::New(hello) if hello.contains(Hello::FIXED) => {}
        _ => return Err(BlockError::Host("server does not list its exports".into())),
    }
    let whole = encrypt(stream, tls).await?;
    let stream: &dyn ByteStream = &*whole;
    let (structured, extended) = headers(stream).await?;
    ask(stream, option::LIST, &[]).await?;
    let mut names = Vec::new();
    loop {
        let (kind, data) = answer(stream, option::LIST).await?;
        match kind {
            reply::ACK => break,
            reply::SERVER => {
                let mut data = Unpack(&data);
                let name = data.string().ok_or_else(|| broken("short name"))?.to_owned();
                let text = String::from_utf8_lossy(data.rest()).into_owned();
                names.push((name, (!text.is_empty()).then_some(text)));
            }
            kind if kind & reply::ERROR != 0 => {
                return Err(match kind {
                    reply::TLS_REQUIRED => BlockError::Host(format!(
                        "Server requires TLS: {}",
                        String::from_utf8_lossy(&data)
                    )),
                    _ => BlockError::Host("server does not list its exports".into()),
                });
            }
            _ => return Err(broken("unexpected reply")),
        }
    }
    let mut out = Vec::new();
    for (name, description) in names {
        let mut item = info(stream, option::INFO, &name).await?.unwrap_or_default();
        item.name = name;
        item.description = item.description.or(description);
        item.extended = extended;
        if structured {
            let all = contexts(stream, option::LIST_CONTEXTS, &item.name, &[]).await?;
            item.contexts = all.into_iter().map(|(_, name)| name).collect();
        }
        out.push(item);
    }
    ask(stream, option::ABORT, &[]).await?;
    Ok(out)
}
