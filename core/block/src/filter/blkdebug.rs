//! `blkdebug`: errors and limits on demand, for tests.
//!
//! Rules fire on events. The events that every request causes are known here: `none` (any
//! request), `pwritev`, `pwritev_zero`, `pwritev_done`, `flush_to_os`, `flush_to_disk` and the
//! steps of a read-modify-write; formats tell of their own through [`Node::debug_event`].
//!
//! Requests that `align` or a limit forbids are widened and cut, as for a device that has them.

use super::pass_on;
use crate::driver::{BlockStatus, Driver};
use crate::graph::{Edge, Node, Perm, Role};
use crate::options::{BlkdebugOptions, InjectError, IoType, SetState};
use crate::sync::{RangeLock, lock};
use crate::{BlockError, Completion, IoBuf, Op, Result, completion, errno};
use std::sync::{Arc, Mutex};

/// Told what happens to requests at breakpoints.
pub type BreakHook = Arc<dyn Fn(&str) + Send + Sync>;

pub(crate) struct Blkdebug {
    image: Arc<Edge>,
    align: u64,
    /// Longest read or write, zeroing and discard.
    max: [u64; 3],
    /// Zeroing and discards only reach this storage in multiples of these.
    granule: [u64; 2],
    /// Blocks that are being changed in part.
    changing: Arc<RangeLock>,
    state: Mutex<State>,
}

struct State {
    number: i32,
    inject: Vec<InjectError>,
    set_state: Vec<SetState>,
    /// Rules whose event has come, by place in `inject`.
    active: Vec<usize>,
    /// Event and tag of what stops the next request.
    breaks: Vec<(String, String)>,
    /// Requests that wait, by tag.
    suspended: Vec<(String, Completion<()>)>,
    hook: Option<BreakHook>,
}

/// The breakpoints of a `blkdebug` node: a request that comes to an event waits there until it is
/// resumed by its tag.
pub struct Breakpoints(pub(crate) Arc<Blkdebug>);

impl Breakpoints {
    /// Has `hook` called with a line of text when a request is suspended or resumed.
    pub fn on_change(&self, hook: BreakHook) {
        lock(&self.0.state).hook = Some(hook);
    }

    /// Suspends the next request that comes to `event`.
    pub fn set(&self, event: &str, tag: &str) {
        lock(&self.0.state).breaks.push((event.into(), tag.into()));
    }

    /// Lets the request of this tag go on. False when there is none.
    pub fn resume(&self, tag: &str) -> bool {
        let (request, hook) = {
            let mut state = lock(&self.0.state);
            let Some(at) = state.suspended.iter().position(|(other, _)| other == tag) else {
                return false;
            };
            (state.suspended.remove(at).1, state.hook.clone())
        };
        if let Some(hook) = hook {
            hook(&format!("blkdebug: Resuming request '{tag}'"));
        }
        request.finish(Ok(()));
        true
    }

    /// Takes breakpoints of this tag away and resumes who waits at them. False when there are none.
    pub fn remove(&self, tag: &str) -> bool {
        let mut found = {
            let mut state = lock(&self.0.state);
            let before = state.breaks.len();
            state.breaks.retain(|(_, other)| other != tag);
            state.breaks.len() != before
        };
        while self.resume(tag) {
            found = true;
        }
        found
    }

    /// True while a request waits at the breakpoint of this tag.
    pub fn is_suspended(&self, tag: &str) -> bool {
        lock(&self.0.state).suspended.iter().any(|(other, _)| other == tag)
    }
}

/// The error number that a configuration file or an option means when it has none.
const DEFAULT_ERROR: i32 = errno::EIO;

impl Blkdebug {
    pub(crate) fn new(
        image: &Arc<Node>,
        options: &BlkdebugOptions,
        config: Option<&str>,
    ) -> Result<Arc<Self>> {
        let mut inject = options.inject_error.clone().unwrap_or_default();
        let mut set_state = options.set_state.clone().unwrap_or_default();
        if let Some(text) = config {
            read_config(text, &mut inject, &mut set_state)?;
        }
        if options.align.is_some_and(|align| !align.is_power_of_two()) {
            return Err(BlockError::Invalid("Cannot meet constraints with align".into()));
        }
        let align = options.align.unwrap_or(1).max(1);
        for (name, limit) in [
            ("max-transfer", options.max_transfer),
            ("opt-write-zero", options.opt_write_zero),
            ("max-write-zero", options.max_write_zero),
            ("opt-discard", options.opt_discard),
            ("max-discard", options.max_discard),
        ] {
            if limit.is_some_and(|limit| !u64::from(limit).is_multiple_of(align)) {
                return Err(BlockError::Invalid(format!("Cannot meet constraints with {name}")));
            }
        }
        let this = Self {
            image: Edge::attach_as("image", "", Role::Filtered, image, Perm::empty(), Perm::all())?,
            align,
            max: [options.max_transfer, options.max_write_zero, options.max_discard].map(|max| {
                match max {
                    None | Some(0) => u64::MAX / 2 + 1,
                    Some(max) => u64::from(max),
                }
            }),
            granule: [options.opt_write_zero, options.opt_discard]
                .map(|granule| u64::from(granule.unwrap_or(0)).max(1)),
            changing: Arc::default(),
            state: Mutex::new(State {
                number: 1,
                inject,
                set_state,
                active: Vec::new(),
                breaks: Vec::new(),
                suspended: Vec::new(),
                hook: None,
            }),
        };
        drop(this.event("none"));
        Ok(Arc::new(this))
    }

    /// Something has happened: rules for it become active, and the state may change. Whoever
    /// comes to a breakpoint waits.
    pub(crate) fn event(&self, name: &str) -> Op<()> {
        let mut guard = lock(&self.state);
        let state = &mut *guard;
        let number = state.number;
        let is_on = |event: &str, wanted: Option<i32>| {
            event.eq_ignore_ascii_case(name) && wanted.is_none_or(|w| w == 0 || w == number)
        };
        for (i, rule) in state.inject.iter().enumerate() {
            if is_on(&rule.event, rule.state) && !state.active.contains(&i) {
                state.active.push(i);
            }
        }
        for rule in &state.set_state {
            if is_on(&rule.event, rule.state) {
                state.number = rule.new_state;
            }
        }
        let Some(at) = state.breaks.iter().position(|(event, _)| event.eq_ignore_ascii_case(name))
        else {
            return Op::ok(());
        };
        let (_, tag) = state.breaks.remove(at);
        let (request, wait) = completion();
        let hook = state.hook.clone();
        let text = format!("blkdebug: Suspended request '{tag}'");
        state.suspended.push((tag, request));
        drop(guard);
        if let Some(hook) = hook {
            hook(&text);
        }
        wait
    }

    /// The error that a request meets.
    fn check(&self, kind: IoType, offset: u64, len: u64) -> Result<()> {
        let mut guard = lock(&self.state);
        let state = &mut *guard;
        let hit = state.active.iter().position(|i| {
            let rule = &state.inject[*i];
            let typed = rule.iotype.map_or(kind != IoType::BlockStatus, |wanted| wanted == kind);
            let placed = rule.sector.filter(|sector| *sector >= 0).is_none_or(|sector| {
                let at = sector as u64 * 512;
                offset <= at && at < offset + len
            });
            typed && placed
        });
        let Some(hit) = hit else { return Ok(()) };
        let index = state.active[hit];
        let rule = &mut state.inject[index];
        let number = rule.errno.unwrap_or(DEFAULT_ERROR);
        if rule.once == Some(true) {
            // It never fires again.
            rule.event = String::new();
            state.active.remove(hit);
        }
        if number == 0 { Ok(()) } else { Err(BlockError::Errno(number)) }
    }

    /// True when the device takes the request as it is.
    fn fits(&self, offset: u64, len: u64) -> bool {
        let (from, to) = self.widen(offset, len);
        (from, to) == (offset, offset + len) && len <= self.max[0]
    }

    /// The blocks of a range; the last one of the disk may be cut short.
    fn widen(&self, offset: u64, len: u64) -> (u64, u64) {
        let end = offset + len;
        let disk = self.image.node().map_or(0, |node| node.len());
        let to = end.next_multiple_of(self.align);
        (offset / self.align * self.align, if end <= disk { to.min(disk) } else { end })
    }

    /// The longest piece that is allowed.
    fn piece(&self) -> u64 {
        (self.max[0] / self.align * self.align).max(self.align)
    }

    async fn read_whole(self: &Arc<Self>, from: u64, to: u64) -> Result<Vec<u8>> {
        let mut whole = Vec::with_capacity((to - from) as usize);
        let mut at = from;
        while at < to {
            let n = (to - at).min(self.piece());
            let buf = IoBuf::zeroed(n as usize);
            let start = move |node: Arc<Node>| node.read(at, buf);
            let part = self.run(IoType::Read, &[], (at, n), start).await?;
            whole.extend_from_slice(&part);
            at += n;
        }
        Ok(whole)
    }

    /// Writes whole blocks in pieces that are allowed. Blocks that change in part are read before,
    /// and are nobody else's meanwhile.
    async fn write_parts(self: &Arc<Self>, offset: u64, data: &[u8]) -> Result<()> {
        let end = offset + data.len() as u64;
        let (from, to) = self.widen(offset, data.len() as u64);
        // A device that works on one block does not hold up another one's for a third that waits.
        let _changing = self.changing.acquire_unfairly(from..to).await;
        let mut whole = vec![0; (to - from) as usize];
        let disk = self.image.node().map_or(0, |node| node.len());
        let there = |at: u64| at < disk;
        if from < offset {
            self.event("pwritev_rmw_head").await?;
            let stop = (from + self.align).min(to);
            whole[..(stop - from) as usize].copy_from_slice(&self.read_whole(from, stop).await?);
            self.event("pwritev_rmw_after_head").await?;
        }
        let tail = end / self.align * self.align;
        if end < to && there(tail) && !(from < offset && tail == from) {
            self.event("pwritev_rmw_tail").await?;
            whole[(tail - from) as usize..].copy_from_slice(&self.read_whole(tail, to).await?);
            self.event("pwritev_rmw_after_tail").await?;
        }
        whole[(offset - from) as usize..][..data.len()].copy_from_slice(data);
        let mut at = from;
        for part in whole.chunks(usize::try_from(self.piece()).unwrap_or(usize::MAX)) {
            let n = part.len() as u64;
            let part = IoBuf::from(part);
            let start = move |node: Arc<Node>| node.write(at, part);
            self.run(IoType::Write, &["pwritev"], (at, n), start).await?;
            at += n;
        }
        self.event("pwritev_done").await?;
        Ok(())
    }

    fn run<T: Send + 'static>(
        self: &Arc<Self>,
        kind: IoType,
        events: &'static [&'static str],
        range: (u64, u64),
        start: impl FnOnce(Arc<Node>) -> Op<T> + Send + 'static,
    ) -> Op<T> {
        for (i, event) in events.iter().enumerate() {
            let wait = self.event(event);
            if matches!(wait, Op::Pending(_)) {
                let this = self.clone();
                return Op::pending(async move {
                    wait.await?;
                    for event in &events[i + 1..] {
                        this.event(event).await?;
                    }
                    this.start(kind, range, start).await
                });
            }
        }
        self.start(kind, range, start)
    }

    fn start<T>(
        &self,
        kind: IoType,
        range: (u64, u64),
        start: impl FnOnce(Arc<Node>) -> Op<T>,
    ) -> Op<T> {
        match self.check(kind, range.0, range.1) {
            Ok(()) => super::below(&self.image, start),
            Err(error) => Op::err(error),
        }
    }
}

impl Driver for Blkdebug {
    fn name(&self) -> &'static str {
        "blkdebug"
    }

    pass_on!(image: children truncate);

    fn len(&self) -> u64 {
        let len = self.image.node().map_or(0, |node| node.len());
        len.next_multiple_of(self.align.min(512))
    }

    fn read_only(&self) -> bool {
        self.image.node().is_none_or(|node| node.read_only())
    }

    fn is_filter(&self) -> bool {
        true
    }

    fn debug_event(&self, name: &str) -> Op<()> {
        self.event(name)
    }

    fn as_blkdebug(self: Arc<Self>) -> Option<Arc<Blkdebug>> {
        Some(self)
    }

    fn read(self: Arc<Self>, offset: u64, buf: IoBuf) -> Op<IoBuf> {
        let len = buf.len() as u64;
        if self.fits(offset, len) {
            let start = move |node: Arc<Node>| node.read(offset, buf);
            return self.run(IoType::Read, &[], (offset, len), start);
        }
        Op::pending(async move {
            let mut buf = buf;
            let (from, to) = self.widen(offset, len);
            let whole = self.read_whole(from, to).await?;
            buf.copy_from_slice(&whole[(offset - from) as usize..][..len as usize]);
            Ok(buf)
        })
    }

    fn write(self: Arc<Self>, offset: u64, buf: IoBuf) -> Op<IoBuf> {
        let len = buf.len() as u64;
        Op::pending(async move {
            if self.align == 1 && self.fits(offset, len) {
                let start = move |node: Arc<Node>| node.write(offset, buf);
                let result = self.run(IoType::Write, &["pwritev"], (offset, len), start).await;
                self.event("pwritev_done").await?;
                return result;
            }
            self.write_parts(offset, &buf).await?;
            Ok(buf)
        })
    }

    fn write_zeroes(self: Arc<Self>, offset: u64, len: u64, unmap: bool) -> Op<()> {
        Op::pending(async move {
            let (mut at, end) = (offset, offset + len);
            let granule = self.granule[0].max(self.align);
            while at < end {
                let stop = (at + 1).next_multiple_of(granule).min(end);
                if stop - at < granule && self.granule[0].max(self.align) > 1 {
                    // Too small for the device: ordinary zeros.
                    for start in (at..stop).step_by(1 << 20) {
                        let zeros = IoBuf::zeroed((stop - start).min(1 << 20) as usize);
                        self.clone().write(start, zeros).await?;
                    }
                    at = stop;
                    continue;
                }
                let most = (self.max[1] / granule * granule).max(granule);
                let n = ((end - at) / granule * granule).min(most);
                let start = move |node: Arc<Node>| node.write_zeroes(at, n, unmap);
                self.run(IoType::WriteZeroes, &["pwritev_zero"], (at, n), start).await?;
                at += n;
            }
            Ok(())
        })
    }

    fn discard(self: Arc<Self>, offset: u64, len: u64) -> Op<()> {
        Op::pending(async move {
            let granule = self.granule[1].max(self.align);
            let mut at = offset.next_multiple_of(self.align);
            let end = (offset + len) / self.align * self.align;
            while at < end {
                // What is no whole piece of the device is for what is below to judge.
                let n = match at % granule {
                    0 if end - at < granule => end - at,
                    0 => {
                        let most = (self.max[2] / granule * granule).max(granule);
                        ((end - at) / granule * granule).min(most)
                    }
                    odd => (granule - odd).min(end - at),
                };
                let start = move |node: Arc<Node>| node.discard(at, n);
                self.run(IoType::Discard, &[], (at, n), start).await?;
                at += n;
            }
            Ok(())
        })
    }

    fn flush(self: Arc<Self>) -> Op<()> {
        self.run(IoType::Flush, &["flush_to_os", "flush_to_disk"], (0, 0), |node| node.flush())
    }

    fn status(self: Arc<Self>, offset: u64, len: u64) -> Op<BlockStatus> {
        let start = move |node: Arc<Node>| node.status(offset, len);
        let op = self.run(IoType::BlockStatus, &[], (offset, len), start);
        if self.align == 1 {
            return op;
        }
        Op::pending(async move {
            // What a block has anywhere, the whole block has.
            let mut status = op.await?;
            let end = offset + status.len;
            let down = end / self.align * self.align;
            if status.zero && end < self.len() && down > offset {
                status.len = down - offset;
            } else {
                let up = end.next_multiple_of(self.align).min(self.len());
                status.len = (up - offset).min(len);
            }
            Ok(status)
        })
    }
}

/// Reads a configuration: sections `[inject-error]` and `[set-state]` with `name = "value"`.
fn read_config(
    text: &str,
    inject: &mut Vec<InjectError>,
    set_state: &mut Vec<SetState>,
) -> Result<()> {
    let mut sections: Vec<(String, serde_json::Map<String, serde_json::Value>)> = Vec::new();
    for line in text.lines().map(str::trim) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            sections.push((name.trim().into(), serde_json::Map::new()));
        } else if let Some((key, value)) = line.split_once('=')
            && let Some((_, section)) = sections.last_mut()
        {
            let value = value.trim().trim_matches('"');
            section.insert(key.trim().into(), value.into());
        } else {
            return Err(BlockError::Invalid(format!("Could not parse blkdebug config: '{line}'")));
        }
    }
    for (name, section) in sections {
        let section = serde_json::Value::Object(section);
        match name.as_str() {
            "inject-error" => inject.push(crate::qapi::parse(section)?),
            "set-state" => set_state.push(crate::qapi::parse(section)?),
            other => {
                return Err(BlockError::Invalid(format!("There is no option group '{other}'")));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::BlockGraph;
    use crate::host::MemFile;
    use crate::{NodeOptions, qapi};
    use serde_json::json;

    fn open(rules: serde_json::Value) -> (BlockGraph, Arc<Node>) {
        let graph = BlockGraph::new();
        let file = graph.open_file(Some("f"), "", Arc::new(MemFile::with_len(1 << 20))).unwrap();
        graph.own_node(&file);
        let mut options = json!({"driver": "blkdebug", "image": "f"});
        options.as_object_mut().unwrap().extend(rules.as_object().unwrap().clone());
        let options = NodeOptions::from_value(options).unwrap();
        let node = graph.executor().run_in_place(graph.open_options(&options)).unwrap().unwrap();
        (graph, node)
    }

    #[test]
    fn a_coarse_device_is_written_in_whole_blocks_and_short_pieces() {
        let (graph, node) = open(json!({"align": 4096, "max-transfer": 8192}));
        let exec = graph.executor();
        exec.run_in_place(node.write(1000, vec![7; 30_000].into())).unwrap().unwrap();
        let back = exec.run_in_place(node.read(990, IoBuf::zeroed(30_020))).unwrap().unwrap();
        assert!(back[..10].iter().chain(&back[30_010..]).all(|b| *b == 0));
        assert!(back[10..30_010].iter().all(|b| *b == 7));
    }

    #[test]
    fn an_error_is_met_where_and_when_the_rule_says() {
        let (graph, node) = open(json!({
            "inject-error.0.event": "pwritev", "inject-error.0.errno": "28",
            "inject-error.0.once": "on", "inject-error.0.sector": "2",
        }));
        let exec = graph.executor();
        let write = |at| exec.run_in_place(node.write(at, vec![1; 512].into())).unwrap();
        assert!(write(0).is_ok(), "another sector");
        assert_eq!(write(1024), Err(BlockError::Errno(28)));
        assert!(write(1024).is_ok(), "once");
    }

    #[test]
    fn a_request_waits_at_a_breakpoint_and_those_behind_it_for_its_block() {
        let (graph, node) = open(json!({"align": 4096}));
        let exec = graph.executor();
        let points = node.breakpoints().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = seen.clone();
        points.on_change(Arc::new(move |text| lock(&log).push(text.to_owned())));
        points.set("pwritev_rmw_after_head", "A");
        for (at, byte) in [(512, 1), (1024, 2)] {
            let (node, log) = (node.clone(), seen.clone());
            exec.spawn(async move {
                node.write(at, vec![byte; 512].into()).await.unwrap();
                lock(&log).push(format!("wrote {byte}"));
            });
        }
        exec.poll();
        assert!(points.is_suspended("A") && lock(&seen).len() == 1, "nothing is written yet");
        assert!(points.resume("A") && !points.resume("A"));
        exec.poll();
        assert_eq!(lock(&seen)[2..], ["wrote 1", "wrote 2"]);
        let back = exec.run_in_place(node.read(0, IoBuf::zeroed(2048))).unwrap().unwrap();
        assert_eq!((back[0], back[512], back[1024], back[1536]), (0, 1, 2, 0));
    }

    #[test]
    fn states_lead_from_event_to_event() {
        let mut rules = (Vec::new(), Vec::new());
        let text = "[set-state]\nstate = \"1\"\nevent = \"flush_to_disk\"\nnew_state = \"2\"\n\n\
                    [inject-error]\nevent = \"pwritev\"\nstate = \"2\"\niotype = \"write\"\n";
        read_config(text, &mut rules.0, &mut rules.1).unwrap();
        let rules = json!({
            "inject-error": [qapi::to_value(&rules.0[0])], "set-state": [qapi::to_value(&rules.1[0])],
        });
        let (graph, node) = open(rules);
        let exec = graph.executor();
        let write = || exec.run_in_place(node.write(0, IoBuf::zeroed(512))).unwrap();
        assert!(write().is_ok());
        exec.run_in_place(node.flush()).unwrap().unwrap();
        assert_eq!(write(), Err(BlockError::Errno(errno::EIO)));
    }
}
