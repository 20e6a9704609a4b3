//! Moving a running machine to another program over a connection: page by page while it runs, and
//! at last what was written since, with everything else, while it stands.
//!
//! A connection carries frames: kind, length, checksum, body. The receiver answers with one
//! byte when it has everything; only then the machine is not here any more.

use super::args::*;
use super::snapshots::Chores;
use super::{Desk, Reply, lock};
use crate::machine::Machine;
use orrery_block::graph::BlockGraph;
use orrery_block::host::{Address, ByteStream};
use orrery_block::qapi;
use orrery_block::qmp::{Answer, QmpError};
use orrery_block::{BlockError, IoBuf};
use orrery_system::PAGE_SIZE;
use orrery_system::ram::Ram;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use xxhash_rust::xxh3::xxh3_64;

const MAGIC: u64 = u64::from_le_bytes(*b"ORRERYMG");
/// Pages in a frame.
const BATCH: usize = 512;
/// So few pages are left that the machine may stand while they are sent.
const FEW: usize = 2048;
/// Passes over memory after which it stands however many there are.
const PASSES: usize = 30;
/// The largest frame that is taken.
const MAX_FRAME: usize = 256 << 20;
/// The answer of the receiver.
const DONE: u8 = 0x06;

/// What the other side must be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Hello {
    magic: u64,
    machine: String,
    blocks: Vec<(String, u64)>,
}

impl Hello {
    fn of(machine: &Machine) -> Self {
        let blocks = machine.board.ram().blocks();
        Self {
            magic: MAGIC,
            machine: machine.handles.machine.clone(),
            blocks: blocks.into_iter().map(|b| (b.name, b.block.len as u64)).collect(),
        }
    }
}

/// Some pages of memory by their numbers.
#[derive(Serialize, Deserialize)]
struct Pages {
    zero: Vec<u32>,
    full: Vec<u32>,
    /// The full ones one after another, LZ4.
    bytes: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Hello = 1,
    Pages = 2,
    State = 3,
}

/// How a move goes on.
#[derive(Clone, Debug, Default)]
pub(crate) struct Progress {
    /// `none` is an empty string.
    status: &'static str,
    incoming: bool,
    error: Option<String>,
    transferred: u64,
    total: u64,
    remaining: u64,
    normal: u64,
    duplicate: u64,
    passes: u64,
    started: u64,
    /// The connection was there.
    connected: u64,
    stood: u64,
    ended: u64,
    cancelled: bool,
}

/// What the monitor knows of moves.
#[derive(Default)]
pub(crate) struct Migration {
    progress: Arc<Mutex<Progress>>,
    stream: Arc<Mutex<Option<Arc<dyn ByteStream>>>>,
    capabilities: BTreeMap<String, bool>,
    parameters: Map<String, Value>,
    /// The machine is in another program, or in a file.
    left: bool,
}

/// Capabilities that can be asked about. Those that would change something are refused.
const CAPABILITIES: &[&str] = &[
    "xbzrle",
    "rdma-pin-all",
    "auto-converge",
    "events",
    "postcopy-ram",
    "x-colo",
    "release-ram",
    "return-path",
    "pause-before-switchover",
    "multifd",
    "dirty-bitmaps",
    "postcopy-blocktime",
    "late-block-activate",
    "x-ignore-shared",
    "validate-uuid",
    "background-snapshot",
    "zero-copy-send",
    "postcopy-preempt",
    "switchover-ack",
    "dirty-limit",
    "mapped-ram",
];
/// Those that may be switched on.
const KNOWN: &[&str] = &["events", "auto-converge", "return-path", "release-ram", "xbzrle"];

/// The parameters of a machine that nobody has told anything.
fn parameters() -> MigrationParameters {
    MigrationParameters {
        announce_initial: Some(50),
        announce_max: Some(550),
        announce_rounds: Some(5),
        announce_step: Some(100),
        throttle_trigger_threshold: Some(50),
        cpu_throttle_initial: Some(20),
        cpu_throttle_increment: Some(10),
        cpu_throttle_tailslow: Some(false),
        max_cpu_throttle: Some(99),
        tls_creds: Some(String::new()),
        tls_hostname: Some(String::new()),
        tls_authz: Some(String::new()),
        max_bandwidth: Some(128 << 20),
        avail_switchover_bandwidth: Some(0),
        max_postcopy_bandwidth: Some(0),
        downtime_limit: Some(300),
        multifd_channels: Some(2),
        xbzrle_cache_size: Some(64 << 20),
    }
}

async fn send(stream: &Arc<dyn ByteStream>, kind: Kind, body: Vec<u8>) -> Result<(), BlockError> {
    let mut head = vec![kind as u8];
    head.extend((body.len() as u32).to_le_bytes());
    head.extend((xxh3_64(&body) as u32).to_le_bytes());
    stream.send(vec![IoBuf::from(head), IoBuf::from(body)]).await.map(drop)
}

async fn receive(stream: &Arc<dyn ByteStream>) -> Result<(u8, Vec<u8>), BlockError> {
    let damaged = || BlockError::Invalid("the stream is damaged".into());
    let head = stream.recv(IoBuf::zeroed(9)).await?;
    let word = |at: usize| head[at..at + 4].try_into().map(u32::from_le_bytes);
    let (len, sum) = (word(1).map_err(|_| damaged())?, word(5).map_err(|_| damaged())?);
    if len as usize > MAX_FRAME {
        return Err(damaged());
    }
    let kind = head[0];
    let body = stream.recv(IoBuf::zeroed(len as usize)).await?.into_vec();
    if xxh3_64(&body) as u32 != sum {
        return Err(damaged());
    }
    Ok((kind, body))
}

/// Every page of memory that was written since this was last asked; `all`: every page.
fn written(machine: &Machine, all: bool) -> Vec<u32> {
    let ram = machine.board.ram();
    let mut out = Vec::new();
    for block in ram.blocks() {
        let first = block.block.offset / PAGE_SIZE;
        let end = first + block.block.len.div_ceil(PAGE_SIZE);
        if all {
            ram.take_dirty(block.block, Ram::DIRTY_SNAPSHOT, |_| {});
            out.extend((first..end).map(|page| page as u32));
        } else {
            ram.take_dirty(block.block, Ram::DIRTY_SNAPSHOT, |page| out.push(page as u32));
        }
    }
    out
}

fn pack(machine: &Machine, numbers: &[u32]) -> (Vec<u8>, usize, usize) {
    let ram = machine.board.ram();
    let mut pages = Pages { zero: Vec::new(), full: Vec::new(), bytes: Vec::new() };
    let mut page = [0; PAGE_SIZE];
    let mut bytes = Vec::new();
    for &n in numbers {
        ram.read_bytes(n as usize * PAGE_SIZE, &mut page);
        if page.iter().all(|b| *b == 0) {
            pages.zero.push(n);
        } else {
            pages.full.push(n);
            bytes.extend_from_slice(&page);
        }
    }
    pages.bytes = lz4_flex::compress_prepend_size(&bytes);
    let (zero, full) = (pages.zero.len(), pages.full.len());
    (postcard::to_allocvec(&pages).expect("plain data encodes"), zero, full)
}

/// Puts pages where they belong; false: there are no such pages.
fn unpack(machine: &Machine, body: &[u8]) -> bool {
    let Ok(pages) = postcard::from_bytes::<Pages>(body) else { return false };
    let ram = machine.board.ram();
    let limit = ram.len() / PAGE_SIZE;
    let size =
        pages.bytes.get(..4).map(|s| s.iter().rev().fold(0, |n, b| n << 8 | usize::from(*b)));
    if pages.full.len() > BATCH || size != Some(pages.full.len() * PAGE_SIZE) {
        return false;
    }
    let Ok(bytes) = lz4_flex::decompress_size_prepended(&pages.bytes) else { return false };
    if pages.zero.iter().chain(&pages.full).any(|n| *n as usize >= limit) {
        return false;
    }
    let mut old = [0; PAGE_SIZE];
    for n in pages.zero {
        ram.read_bytes(n as usize * PAGE_SIZE, &mut old);
        if old.iter().any(|b| *b != 0) {
            ram.write_bytes(n as usize * PAGE_SIZE, &[0; PAGE_SIZE]);
        }
    }
    for (n, page) in pages.full.iter().zip(bytes.as_chunks::<PAGE_SIZE>().0) {
        ram.write_bytes(*n as usize * PAGE_SIZE, page);
    }
    true
}

/// A connection and what is told of it.
struct Way {
    /// Bytes a second while the machine runs; zero is as many as there can be.
    bandwidth: u64,
    stream: Arc<dyn ByteStream>,
    chores: Chores,
    progress: Arc<Mutex<Progress>>,
    graph: BlockGraph,
}

impl Way {
    async fn pages(&self, numbers: Vec<u32>, paced: bool) -> Result<(), BlockError> {
        let mut left = numbers.len();
        let (begun, mut sent) = (self.graph.context().now(), 0);
        for batch in numbers.chunks(BATCH) {
            let batch = batch.to_vec();
            let n = batch.len();
            let work = move |desk: &mut Desk<'_>| pack(desk.machine, &batch);
            let (body, zero, full) = Desk::run_chore(&self.chores, work).await?;
            let bytes = body.len() as u64;
            send(&self.stream, Kind::Pages, body).await?;
            left -= n;
            sent += bytes;
            {
                let mut progress = lock(&self.progress);
                if progress.cancelled {
                    return Err(BlockError::Cancelled);
                }
                progress.transferred += bytes;
                progress.remaining = (left * PAGE_SIZE) as u64;
                progress.duplicate += zero as u64;
                progress.normal += full as u64;
            }
            if paced && self.bandwidth > 0 {
                let due = u128::from(sent) * 1_000_000_000 / u128::from(self.bandwidth);
                let due = begun.saturating_add(u64::try_from(due).unwrap_or(u64::MAX));
                // Piece by piece: it may be cancelled meanwhile.
                while let wait @ 1.. = due.saturating_sub(self.graph.context().now()) {
                    self.graph.context().sleep(wait.min(50_000_000)).await;
                    if lock(&self.progress).cancelled {
                        return Err(BlockError::Cancelled);
                    }
                }
            }
        }
        Ok(())
    }

    /// Sends everything. `stood` says whether the machine had to be stopped by it.
    async fn send_all(&self, stood: &mut Option<bool>) -> Result<(), BlockError> {
        let hello = Desk::run_chore(&self.chores, |desk| Hello::of(desk.machine)).await?;
        lock(&self.progress).connected = self.graph.context().now();
        let hello = postcard::to_allocvec(&hello).expect("plain data encodes");
        send(&self.stream, Kind::Hello, hello).await?;
        let mut rest = Desk::run_chore(&self.chores, |desk| {
            desk.begin_pass();
            written(desk.machine, true)
        })
        .await?;
        for pass in 0..PASSES {
            if pass > 0 && rest.len() <= FEW {
                break;
            }
            self.pages(std::mem::take(&mut rest), true).await?;
            rest = Desk::run_chore(&self.chores, |desk| desk.begin_pass()).await?;
        }
        *stood = Some(Desk::run_chore(&self.chores, |desk| desk.hold()).await?);
        lock(&self.progress).stood = self.graph.context().now();
        let mut drained = Vec::new();
        for node in self.graph.nodes() {
            drained.push(self.graph.drain(&node).await);
            node.flush().await?;
        }
        rest.extend(Desk::run_chore(&self.chores, |desk| desk.begin_pass()).await?);
        rest.sort_unstable();
        rest.dedup();
        self.pages(rest, false).await?;
        // Whether it goes on there as it did here.
        let mut state = vec![u8::from(*stood == Some(true))];
        state.extend(Desk::run_chore(&self.chores, |desk| desk.machine.save_devices()).await?);
        // The receiver takes the disks when it has the rest.
        self.graph.give_away()?;
        match self.hand_over(state).await {
            Ok(()) => Ok(()),
            Err(error) => {
                self.graph.take_back()?;
                Err(error)
            }
        }
    }

    async fn hand_over(&self, state: Vec<u8>) -> Result<(), BlockError> {
        send(&self.stream, Kind::State, state).await?;
        let answer = self.stream.recv(IoBuf::zeroed(1)).await?;
        if answer.first() != Some(&DONE) {
            return Err(BlockError::Invalid("the other side refuses the machine".into()));
        }
        Ok(())
    }

    /// Takes everything; says whether the machine ran.
    async fn receive_all(&self) -> Result<bool, BlockError> {
        let wrong = |text: &str| BlockError::Invalid(text.to_owned());
        // Nothing of this machine is touched before it is known that the other one fits it.
        let mut known = false;
        loop {
            let (kind, body) = receive(&self.stream).await?;
            lock(&self.progress).transferred += body.len() as u64;
            match (kind == Kind::Hello as u8, known) {
                (false, false) => {
                    return Err(wrong("the stream does not begin with what machine it is"));
                }
                (true, true) => return Err(wrong("the stream is damaged")),
                _ => {}
            }
            if !known {
                let hello: Hello =
                    postcard::from_bytes(&body).map_err(|_| wrong("this is no machine of ours"))?;
                let ours = Desk::run_chore(&self.chores, |desk| Hello::of(desk.machine)).await?;
                if hello != ours {
                    let (theirs, ours) = (hello.machine, ours.machine);
                    let text = format!("a '{theirs}' comes that does not fit this '{ours}'");
                    return Err(BlockError::Invalid(text));
                }
                known = true;
            } else if kind == Kind::Pages as u8 {
                let work = move |desk: &mut Desk<'_>| unpack(desk.machine, &body);
                if !Desk::run_chore(&self.chores, work).await? {
                    return Err(wrong("the stream is damaged"));
                }
            } else if kind == Kind::State as u8 {
                // The disks are what the other side left behind.
                self.graph.reload().await?;
                let ran = body.first() == Some(&1);
                let work = move |desk: &mut Desk<'_>| {
                    desk.machine.restore_devices(body.get(1..).unwrap_or_default())
                };
                let done = Desk::run_chore(&self.chores, work).await?;
                done.map_err(|error| BlockError::Invalid(error.to_string()))?;
                self.stream.send(vec![IoBuf::from(vec![DONE])]).await?;
                return Ok(ran);
            } else {
                return Err(wrong("the stream is damaged"));
            }
        }
    }
}

/// `tcp:HOST:PORT`, `unix:PATH`.
fn address(uri: &str) -> Answer<Address> {
    if let Some(path) = uri.strip_prefix("unix:") {
        return Ok(Address::Unix(path.to_owned()));
    }
    let parts = uri.strip_prefix("tcp:").and_then(|rest| rest.rsplit_once(':'));
    match parts {
        Some((host, port)) => {
            let port = port.split(',').next().unwrap_or_default().to_owned();
            Ok(Address::Inet { host: host.to_owned(), port })
        }
        None => Err(QmpError::generic(format!("unknown migration protocol: {uri}"))),
    }
}

fn uri_of(args: Migrate) -> Answer<String> {
    let channel = |channel: &Value| {
        let at = &channel["addr"];
        let text = |key: &str| at[key].as_str().unwrap_or_default().to_owned();
        match (at["transport"].as_str(), at["type"].as_str()) {
            (Some("socket"), Some("inet")) => {
                Some(format!("tcp:{}:{}", text("host"), text("port")))
            }
            (Some("socket"), Some("unix")) => Some(format!("unix:{}", text("path"))),
            (Some("file"), _) => Some(format!("file:{}", text("filename"))),
            _ => None,
        }
    };
    let channels = args.channels.unwrap_or_default();
    args.uri
        .or_else(|| channels.first().and_then(channel))
        .ok_or_else(|| QmpError::generic("need either 'uri' or 'channels' argument"))
}

impl Desk<'_> {
    fn set_migration(&mut self, status: &'static str) {
        lock(&self.state.migration.progress).status = status;
        if self.state.migration.capabilities.get("events") == Some(&true) {
            self.emit("MIGRATION", json!({"status": status}));
        }
    }

    /// Whether the machine has gone to another program, or into a file.
    pub(super) fn has_left(&self) -> bool {
        self.state.migration.left
    }

    /// It goes on here nevertheless.
    pub(super) fn come_back(&mut self) -> Answer<()> {
        if std::mem::take(&mut self.state.migration.left)
            && let Err(error) = self.machine.blocks.take_back()
        {
            self.state.migration.left = true;
            return Err(error.into());
        }
        Ok(())
    }

    /// Another pass over memory begins: the pages written since the last one did.
    fn begin_pass(&mut self) -> Vec<u32> {
        let pass = {
            let mut progress = lock(&self.state.migration.progress);
            progress.passes += 1;
            progress.passes
        };
        if self.state.migration.capabilities.get("events") == Some(&true) {
            self.emit("MIGRATION_PASS", json!({"pass": pass}));
        }
        written(self.machine, false)
    }

    fn bandwidth(&self) -> u64 {
        let set = self.state.migration.parameters.get("max-bandwidth");
        set.and_then(Value::as_u64).or(parameters().max_bandwidth).unwrap_or(0)
    }

    /// A connection is there: the task that works on it.
    fn begin_migration(&mut self, incoming: bool) -> Answer<()> {
        let now = self.machine.blocks.context().now();
        let total = self.machine.board.ram().len() as u64;
        let mut progress = lock(&self.state.migration.progress);
        if matches!(progress.status, "setup" | "active" | "device") {
            return Err(QmpError::generic("There's a migration process in progress"));
        }
        if self.machine.replay().is_some() {
            return Err(QmpError::generic("a machine that is recorded or replayed stays here"));
        }
        *progress = Progress { incoming, total, started: now, ..Progress::default() };
        drop(progress);
        self.set_migration("setup");
        Ok(())
    }

    /// `migrate`.
    pub(super) fn migrate(&mut self, args: Migrate) -> Answer<Reply> {
        let uri = uri_of(args)?;
        if self.state.settings.incoming.is_some() {
            return Err(QmpError::generic("Guest is waiting for an incoming migration"));
        }
        if let Some(name) = uri.strip_prefix("file:") {
            return self.migrate_to_file(name.to_owned());
        }
        let address = address(&uri)?;
        let bandwidth = self.bandwidth();
        let net = self.machine.blocks.context().net()?;
        self.begin_migration(false)?;
        let (graph, chores) = (self.machine.blocks.clone(), self.state.chores.clone());
        let progress = self.state.migration.progress.clone();
        let slot = self.state.migration.stream.clone();
        self.machine.blocks.executor().spawn(async move {
            let mut stood = None;
            let result = match net.connect(&address).await {
                Ok(stream) => {
                    *lock(&slot) = Some(stream.clone());
                    let active = |desk: &mut Desk<'_>| desk.set_migration("active");
                    let way = Way { bandwidth, stream, chores: chores.clone(), progress, graph };
                    match Desk::run_chore(&chores, active).await {
                        Ok(()) => way.send_all(&mut stood).await,
                        Err(error) => Err(error),
                    }
                }
                Err(error) => Err(error),
            };
            let result = result.map(|()| true);
            *lock(&slot) = None;
            // Nobody is left to tell where this fails.
            let _ = Desk::run_chore(&chores, move |desk| desk.end_migration(stood, result)).await;
        });
        Ok(Reply::Now(Ok(json!({}))))
    }

    /// `migrate file:NAME`: the machine's state as a portable file. It stands until somebody lets it go
    /// on.
    fn migrate_to_file(&mut self, name: String) -> Answer<Reply> {
        let fs = self.machine.blocks.context().fs()?;
        self.begin_migration(false)?;
        self.set_migration("active");
        let ran = self.hold();
        let (graph, chores) = (self.machine.blocks.clone(), self.state.chores.clone());
        let progress = self.state.migration.progress.clone();
        lock(&progress).stood = graph.context().now();
        self.machine.blocks.executor().spawn(async move {
            let work = async {
                let mut drained = Vec::new();
                for node in graph.nodes() {
                    drained.push(graph.drain(&node).await);
                    node.flush().await?;
                }
                let state = Desk::run_chore(&chores, |desk| desk.machine.save()).await?;
                let len = state.len() as u64;
                let file = fs.create(&name).await?;
                file.write_at(0, IoBuf::from(state)).await?;
                file.flush().await?;
                lock(&progress).transferred = len;
                graph.give_away()?;
                Ok(true)
            };
            let result = work.await;
            // Nobody is left to tell where this fails.
            let _ =
                Desk::run_chore(&chores, move |desk| desk.end_migration(Some(ran), result)).await;
        });
        Ok(Reply::Now(Ok(json!({}))))
    }

    fn end_migration(&mut self, stood: Option<bool>, result: Result<bool, BlockError>) {
        let gone = result.is_ok();
        if let Some(ran) = stood {
            self.release(ran && !gone);
        }
        let now = self.machine.blocks.context().now();
        let status = {
            let mut progress = lock(&self.state.migration.progress);
            progress.ended = now;
            match result {
                Ok(_) => "completed",
                Err(_) if progress.cancelled => "cancelled",
                Err(error) => {
                    progress.error = Some(error.to_string());
                    "failed"
                }
            }
        };
        self.state.migration.left = gone && stood.is_some();
        self.set_migration(status);
    }

    /// `migrate-incoming` and `-incoming`.
    pub(super) fn migrate_incoming(&mut self, args: Migrate) -> Answer<Reply> {
        if self.state.settings.incoming.is_none() {
            return Err(QmpError::generic("'-incoming' was not specified on the command line"));
        }
        let uri = uri_of(args)?;
        let (graph, chores) = (self.machine.blocks.clone(), self.state.chores.clone());
        if let Some(name) = uri.strip_prefix("file:").map(str::to_owned) {
            let fs = self.machine.blocks.context().fs()?;
            self.begin_migration(true)?;
            let graph = graph.clone();
            return Ok(Reply::Later(Box::pin(async move {
                graph.reload().await?;
                let broken = |e| QmpError::generic(format!("Could not open '{name}': {e}"));
                let file = fs.open(&name, false).await.map_err(broken)?;
                let len = usize::try_from(file.len()).unwrap_or(0);
                let bytes = file.read_at(0, IoBuf::zeroed(len)).await.map_err(broken)?;
                Ok(Box::new(move |desk: &mut Desk<'_>| {
                    let result = desk.machine.restore(&bytes.into_vec());
                    let text = result.as_ref().map_err(ToString::to_string).err();
                    let result = result.map(|()| true);
                    desk.arrive(result.map_err(|e| BlockError::Invalid(e.to_string())));
                    text.map_or(Ok(json!({})), |text| Err(QmpError::generic(text)))
                }) as super::Done)
            })));
        }
        let address = address(&uri)?;
        let net = self.machine.blocks.context().net()?;
        self.begin_migration(true)?;
        let progress = self.state.migration.progress.clone();
        Ok(Reply::Later(Box::pin(async move {
            let door = net.listen(&address).await.map_err(QmpError::from)?;
            graph.executor().clone().spawn(async move {
                let result = match door.accept().await {
                    Ok(stream) => {
                        door.close();
                        let way =
                            Way { bandwidth: 0, stream, chores: chores.clone(), progress, graph };
                        let active = |desk: &mut Desk<'_>| desk.set_migration("active");
                        match Desk::run_chore(&chores, active).await {
                            Ok(()) => way.receive_all().await,
                            Err(error) => Err(error),
                        }
                    }
                    Err(error) => Err(error),
                };
                let _ = Desk::run_chore(&chores, move |desk| desk.arrive(result)).await;
            });
            Ok(Box::new(|_: &mut Desk<'_>| Ok(json!({}))) as super::Done)
        })))
    }

    /// The machine has come, or it has not.
    fn arrive(&mut self, result: Result<bool, BlockError>) {
        let (came, ran) = (result.is_ok(), matches!(result, Ok(true)));
        self.end_migration(None, result);
        if came {
            self.state.settings.incoming = None;
            self.state.settings.prelaunch = false;
            if ran && !self.state.settings.paused {
                self.machine.resume();
            }
        } else {
            let error = lock(&self.state.migration.progress).error.clone();
            self.cannot_come(&error.unwrap_or_default());
        }
    }

    /// Nothing can come over the way that `-incoming` names: there is nothing to wait for.
    pub(super) fn cannot_come(&mut self, why: &str) {
        tracing::error!("-incoming: {why}");
        self.state.quit = true;
        self.state.failed = true;
    }

    pub(super) fn migrate_cancel(&mut self, _: Nothing) -> Answer<Nothing> {
        lock(&self.state.migration.progress).cancelled = true;
        if let Some(stream) = lock(&self.state.migration.stream).take() {
            stream.shutdown();
        }
        Ok(Nothing {})
    }

    pub(super) fn migrate_pause(&mut self, _: Nothing) -> Answer<Nothing> {
        let text = "migrate-pause is currently only supported during postcopy-active or \
                    postcopy-recover state";
        Err(QmpError::generic(text))
    }

    pub(super) fn query_migrate(&mut self, _: Nothing) -> Answer<Value> {
        let p = lock(&self.state.migration.progress).clone();
        if p.status.is_empty() {
            return Ok(json!({}));
        }
        let ms = |from: u64, to: u64| to.saturating_sub(from) / 1_000_000;
        let now = self.machine.blocks.context().now();
        let mut out = json!({"status": p.status});
        if let Some(error) = &p.error {
            out["error-desc"] = error.as_str().into();
        }
        if !p.incoming {
            let end = if p.ended > 0 { p.ended } else { now };
            if matches!(p.status, "failed" | "cancelled" | "setup") {
                return Ok(out);
            }
            let total = ms(p.started, end);
            let rate = (p.transferred * 8) as f64 / (total.max(1) * 1000) as f64;
            out["total-time"] = total.into();
            out["setup-time"] = ms(p.started, p.connected).into();
            out["ram"] = json!({
                "transferred": p.transferred, "remaining": p.remaining, "total": p.total,
                "duplicate": p.duplicate, "skipped": 0, "normal": p.normal,
                "normal-bytes": p.normal * PAGE_SIZE as u64, "dirty-pages-rate": 0, "mbps": rate,
                "dirty-sync-count": p.passes, "page-size": PAGE_SIZE, "postcopy-requests": 0,
                "multifd-bytes": 0, "pages-per-second": 0, "precopy-bytes": p.transferred,
                "downtime-bytes": 0, "postcopy-bytes": 0, "dirty-sync-missed-zero-copy": 0,
            });
            let down = if p.status == "completed" { "downtime" } else { "expected-downtime" };
            let stood = if p.status == "completed" { ms(p.stood, p.ended) } else { 300 };
            out[down] = stood.into();
        }
        Ok(out)
    }

    pub(super) fn migrate_capabilities(&mut self, args: NewCapabilities) -> Answer<Nothing> {
        for one in &args.capabilities {
            if !CAPABILITIES.contains(&one.capability.as_str()) {
                let name = &one.capability;
                let text = format!("Parameter 'capability' does not accept value '{name}'");
                return Err(QmpError::generic(text));
            }
            if one.state && !KNOWN.contains(&one.capability.as_str()) {
                let text = format!("capability '{}' is not supported", one.capability);
                return Err(QmpError::generic(text));
            }
        }
        for one in args.capabilities {
            self.state.migration.capabilities.insert(one.capability, one.state);
        }
        Ok(Nothing {})
    }

    pub(super) fn query_capabilities(&mut self, _: Nothing) -> Answer<Vec<Capability>> {
        let on = &self.state.migration.capabilities;
        let state = |name: &str| on.get(name).copied().unwrap_or(false);
        let one = |name: &&str| Capability { capability: (*name).into(), state: state(name) };
        Ok(CAPABILITIES.iter().map(one).collect())
    }

    pub(super) fn migrate_parameters(&mut self, args: MigrationParameters) -> Answer<Nothing> {
        let text = |what: &str, range: &str| {
            Err(QmpError::generic(format!("Parameter '{what}' expects {range}")))
        };
        if args.downtime_limit.is_some_and(|ms| ms > 2_000_000) {
            return text("downtime-limit", "an integer in the range of 0 to 2000 seconds");
        }
        if args.multifd_channels.is_some_and(|n| !(1..=255).contains(&n)) {
            return text("multifd-channels", "a value between 1 and 255");
        }
        for (name, given) in [("tls-creds", &args.tls_creds), ("tls-authz", &args.tls_authz)] {
            if given.as_ref().is_some_and(|creds| !creds.is_empty()) {
                return Err(QmpError::generic(format!("{name}: migration is not encrypted here")));
            }
        }
        if let Value::Object(given) = qapi::to_value(&args) {
            self.state.migration.parameters.extend(given.into_iter().filter(|(_, v)| !v.is_null()));
        }
        Ok(Nothing {})
    }

    pub(super) fn query_parameters(&mut self, _: Nothing) -> Answer<MigrationParameters> {
        let mut all = qapi::to_value(&parameters());
        for (name, value) in &self.state.migration.parameters {
            all[name] = value.clone();
        }
        serde_json::from_value(all).map_err(|error| QmpError::generic(error.to_string()))
    }
}

#[cfg(test)]
#[path = "migrate_tests.rs"]
mod tests;
