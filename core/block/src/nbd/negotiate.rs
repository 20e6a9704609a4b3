//! The server's side of the negotiation.

use super::export::Export;
use super::proto::*;
use super::server::NbdServer;
use crate::host::ByteStream;
use crate::{BlockError, Result};
use std::sync::Arc;

/// What a client has asked to be told about ranges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meta {
    Allocation,
    Depth,
    Bitmap(usize),
}

/// What was agreed.
pub(super) struct Session {
    pub(super) export: Arc<Export>,
    /// The connection as it goes on, encrypted or not.
    pub(super) stream: Arc<dyn ByteStream>,
    pub(super) structured: bool,
    pub(super) extended: bool,
    /// In the order of their numbers, which begin with zero.
    pub(super) contexts: Vec<Meta>,
}

/// Longest body of an option: a list of names.
const MAX_OPTION: u32 = 1 << 20;
/// Most options before the client has to make up its mind.
const MAX_OPTIONS: usize = 10_000;

struct Talk<'a> {
    stream: &'a dyn ByteStream,
    option: u32,
}

impl Talk<'_> {
    async fn reply(&self, kind: u32, data: &[u8]) -> Result<()> {
        let head = Pack::with(20 + data.len()).u64(REPLY_MAGIC).u32(self.option).u32(kind);
        send(self.stream, head.u32(data.len() as u32).bytes(data).0).await
    }

    async fn refuse(&self, kind: u32, text: &str) -> Result<()> {
        self.reply(kind, text.as_bytes()).await
    }
}

/// Talks until a client has chosen an export; `None` when it went away in peace.
pub(super) async fn negotiate(
    server: &NbdServer,
    plain: &Arc<dyn ByteStream>,
) -> Result<Option<Session>> {
    let mut whole = plain.clone();
    let tls = server.tls();
    let mut secure = false;
    let stream: &dyn ByteStream = &**plain;
    let hello = Hello::FIXED | Hello::NO_ZEROES;
    send(stream, Pack::default().u64(MAGIC).u64(OPTION_MAGIC).u16(hello.bits()).0).await?;
    let flags = recv(stream, 4).await?;
    let flags = Unpack(&flags).u32().unwrap_or(0);
    if flags & !3 != 0 {
        return Err(BlockError::Host("client has unknown flags".into()));
    }
    let no_zeroes = flags & 2 != 0;
    let (mut structured, mut extended) = (false, false);
    let mut contexts: (String, Vec<Meta>) = Default::default();
    for _ in 0..MAX_OPTIONS {
        let current = whole.clone();
        let stream: &dyn ByteStream = &*current;
        let head = recv(stream, 16).await?;
        let mut head = Unpack(&head);
        let (magic, option, len) = (head.u64(), head.u32(), head.u32());
        let (Some(OPTION_MAGIC), Some(option), Some(len)) = (magic, option, len) else {
            return Err(BlockError::Host("not an option".into()));
        };
        let talk = Talk { stream, option };
        if len > MAX_OPTION {
            talk.refuse(reply::TOO_BIG, "option is too long").await?;
            return Err(BlockError::Host("option is too long".into()));
        }
        let data = recv(stream, len as usize).await?;
        match option {
            option::STARTTLS if len == 0 && secure => {
                talk.refuse(reply::INVALID, "TLS already negotiated").await?;
            }
            option::STARTTLS if len == 0 && tls.is_some() => {
                talk.reply(reply::ACK, &[]).await?;
                if let Some(tls) = &tls {
                    whole = tls.accept(whole).await?;
                }
                secure = true;
                // What was agreed in the open does not count.
                (structured, extended) = (false, false);
                contexts = Default::default();
            }
            option::EXPORT_NAME if tls.is_some() && !secure => {
                return Err(BlockError::Host("client does without TLS".into()));
            }
            _ if tls.is_some() && !secure && option != option::ABORT => {
                let text = format!("Option {option:#x} not permitted before TLS");
                talk.refuse(reply::TLS_REQUIRED, &text).await?;
            }
            option::EXPORT_NAME => {
                let name = std::str::from_utf8(&data).unwrap_or("\u{0}");
                let Some(export) = server.export(name) else {
                    return Err(BlockError::Host(format!("export '{name}' not found")));
                };
                let features = export.features(structured, extended);
                let mut bytes = Pack::default().u64(export.len()).u16(features.bits()).0;
                if !no_zeroes {
                    bytes.resize(bytes.len() + 124, 0);
                }
                send(stream, bytes).await?;
                let contexts = if contexts.0 == name { contexts.1 } else { Vec::new() };
                return Ok(Some(Session { export, stream: whole, structured, extended, contexts }));
            }
            option::ABORT => {
                // The client may be gone already.
                let _ = talk.reply(reply::ACK, &[]).await;
                return Ok(None);
            }
            option::LIST if len == 0 => {
                for export in server.exports() {
                    let mut item = Pack::default().string(export.name());
                    if let Some(text) = &export.options.description {
                        item = item.bytes(text.as_bytes());
                    }
                    talk.reply(reply::SERVER, &item.0).await?;
                }
                talk.reply(reply::ACK, &[]).await?;
            }
            option::STARTTLS if len == 0 => {
                talk.refuse(reply::POLICY, "TLS not configured").await?;
            }
            option::STRUCTURED if len == 0 => {
                if extended {
                    talk.refuse(reply::INVALID, "extended headers already negotiated").await?;
                } else if structured {
                    talk.refuse(reply::INVALID, "structured reply already negotiated").await?;
                } else {
                    structured = true;
                    talk.reply(reply::ACK, &[]).await?;
                }
            }
            option::EXTENDED if len == 0 => {
                if extended {
                    talk.refuse(reply::INVALID, "extended headers already negotiated").await?;
                } else {
                    (structured, extended) = (true, true);
                    talk.reply(reply::ACK, &[]).await?;
                }
            }
            option::INFO | option::GO => {
                let Some(export) = info_or_go(server, &talk, &data, structured, extended).await?
                else {
                    continue;
                };
                if option == option::GO {
                    let same = contexts.0 == export.name();
                    let contexts = if same { contexts.1 } else { Vec::new() };
                    let stream = whole;
                    return Ok(Some(Session { export, stream, structured, extended, contexts }));
                }
            }
            option::LIST_CONTEXTS | option::SET_CONTEXTS if !structured => {
                talk.refuse(
                    reply::INVALID,
                    "request option when structured reply is not negotiated",
                )
                .await?;
            }
            option::LIST_CONTEXTS | option::SET_CONTEXTS => {
                if let Some(chosen) = meta_contexts(server, &talk, &data).await?
                    && option == option::SET_CONTEXTS
                {
                    contexts = chosen;
                }
            }
            option::LIST | option::STARTTLS | option::STRUCTURED | option::EXTENDED => {
                talk.refuse(reply::INVALID, "option takes no data").await?;
            }
            _ => talk.refuse(reply::UNSUPPORTED, "unsupported option").await?,
        }
    }
    Err(BlockError::Host("client cannot make up its mind".into()))
}

async fn info_or_go(
    server: &NbdServer,
    talk: &Talk<'_>,
    data: &[u8],
    structured: bool,
    extended: bool,
) -> Result<Option<Arc<Export>>> {
    let mut data = Unpack(data);
    let parsed = (|| {
        let name = data.string().filter(|name| name.len() <= MAX_STRING)?;
        let count = data.u16()?;
        let wanted: Option<Vec<u16>> = (0..count).map(|_| data.u16()).collect();
        data.rest().is_empty().then_some((name, wanted?))
    })();
    let Some((name, wanted)) = parsed else {
        talk.refuse(reply::INVALID, "malformed request").await?;
        return Ok(None);
    };
    let Some(export) = server.export(name) else {
        talk.refuse(reply::UNKNOWN, &format!("export '{name}' not present")).await?;
        return Ok(None);
    };
    if wanted.contains(&info::NAME) {
        let item = Pack::default().u16(info::NAME).bytes(name.as_bytes());
        talk.reply(reply::INFO, &item.0).await?;
    }
    if let Some(text) = &export.options.description {
        let item = Pack::default().u16(info::DESCRIPTION).bytes(text.as_bytes());
        talk.reply(reply::INFO, &item.0).await?;
    }
    let block = export.options.block.max(1);
    let item = Pack::default().u16(info::BLOCK_SIZE).u32(block).u32(4096).u32(MAX_DATA as u32);
    talk.reply(reply::INFO, &item.0).await?;
    let features = export.features(structured, extended);
    let item = Pack::default().u16(info::EXPORT).u64(export.len()).u16(features.bits());
    talk.reply(reply::INFO, &item.0).await?;
    talk.reply(reply::ACK, &[]).await?;
    Ok(Some(export))
}

/// The contexts that an export has, with their names.
fn offered(export: &Export) -> Vec<(String, Meta)> {
    let mut all = vec![(BASE_ALLOCATION.to_owned(), Meta::Allocation)];
    if export.options.allocation_depth {
        all.push((ALLOCATION_DEPTH.to_owned(), Meta::Depth));
    }
    for (i, bitmap) in export.bitmaps.iter().enumerate() {
        let name = bitmap.name().unwrap_or_default();
        all.push((format!("{DIRTY_BITMAP}{name}"), Meta::Bitmap(i)));
    }
    all
}

async fn meta_contexts(
    server: &NbdServer,
    talk: &Talk<'_>,
    data: &[u8],
) -> Result<Option<(String, Vec<Meta>)>> {
    let mut data = Unpack(data);
    let parsed = (|| {
        let name = data.string().filter(|name| name.len() <= MAX_STRING)?;
        let count = data.u32()?;
        let mut queries = Vec::new();
        for _ in 0..count {
            queries.push(data.string()?);
        }
        data.rest().is_empty().then_some((name, queries))
    })();
    let Some((name, queries)) = parsed else {
        talk.refuse(reply::INVALID, "malformed request").await?;
        return Ok(None);
    };
    let Some(export) = server.export(name) else {
        talk.refuse(reply::UNKNOWN, &format!("export '{name}' not present")).await?;
        return Ok(None);
    };
    let listing = talk.option == option::LIST_CONTEXTS;
    // While listing, a query may name a whole name space.
    let matches = |query: &str, name: &str| {
        query == name || listing && query.ends_with(':') && name.starts_with(query)
    };
    let chosen: Vec<_> = offered(&export)
        .into_iter()
        .filter(|(name, _)| {
            listing && queries.is_empty() || queries.iter().any(|query| matches(query, name))
        })
        .collect();
    for (id, (name, _)) in chosen.iter().enumerate() {
        let item = Pack::default().u32(id as u32).bytes(name.as_bytes());
        talk.reply(reply::CONTEXT, &item.0).await?;
    }
    talk.reply(reply::ACK, &[]).await?;
    Ok(Some((name.to_owned(), chosen.into_iter().map(|(_, meta)| meta).collect())))
}
