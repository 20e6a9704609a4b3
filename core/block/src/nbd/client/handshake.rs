//! The client's side of the negotiation.

use crate::host::{ByteStream, HostTls};
use crate::nbd::proto::*;
use crate::{BlockError, Result};
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

/// The start of every conversation.
async fn hello(stream: &dyn ByteStream) -> Result<Hello> {
    let head = recv(stream, 18).await?;
    let mut head = Unpack(&head);
    let (magic, option, flags) = (head.u64(), head.u64(), head.u16());
    let (Some(MAGIC), Some(OPTION_MAGIC), Some(flags)) = (magic, option, flags) else {
        return Err(broken("this is not an NBD server of the newstyle"));
    };
    let flags = Hello::from_bits_truncate(flags);
    if !flags.contains(Hello::FIXED) {
        return Err(broken("it cannot negotiate"));
    }
    send(stream, Pack::default().u32(flags.bits().into()).0).await?;
    Ok(flags)
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

pub(super) async fn handshake(stream: &Arc<dyn ByteStream>, wish: &Wish) -> Result<Agreed> {
    let hello = hello(&**stream).await?;
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
        Err(_) => {
            // An old server knows only this way.
            ask(stream, option::EXPORT_NAME, wish.export.as_bytes()).await?;
            let zeroes = if hello.contains(Hello::NO_ZEROES) { 0 } else { 124 };
            let data = recv(stream, 10 + zeroes).await?;
            let mut data = Unpack(&data);
            let (size, flags) = (data.u64().unwrap_or(0), data.u16().unwrap_or(0));
            ExportInfo { name: wish.export.clone(), size, flags, ..ExportInfo::default() }
        }
    };
    if info.size > i64::MAX as u64 {
        return Err(broken("the export is too large"));
    }
    let info = ExportInfo { extended, ..info };
    Ok(Agreed { info, stream: whole, structured, extended, context })
}

/// Asks a server what it has.
pub async fn list(stream: &Arc<dyn ByteStream>, tls: Option<&Tls>) -> Result<Vec<ExportInfo>> {
    hello(&**stream).await?;
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
