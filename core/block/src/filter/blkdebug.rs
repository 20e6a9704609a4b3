//! `blkdebug`: errors and limits on demand, for tests.
//!
//! Rules fire on events. The events that every request causes are known here: `none` (any
//! request), `pwritev`, `pwritev_zero`, `pwritev_done`, `read_aio`, `write_aio`, `flush_to_os`
//! and `flush_to_disk`; formats may tell of their own through [`Blkdebug::event`].

use super::pass_on;
use crate::driver::{BlockStatus, Driver};
use crate::graph::{Edge, Node, Perm, Role};
use crate::options::{BlkdebugOptions, InjectError, IoType, SetState};
use crate::sync::lock;
use crate::{BlockError, IoBuf, Op, Result, errno};
use std::sync::{Arc, Mutex};

pub(crate) struct Blkdebug {
    image: Arc<Edge>,
    align: u64,
    max_transfer: u64,
    state: Mutex<State>,
}

struct State {
    number: i32,
    inject: Vec<InjectError>,
    set_state: Vec<SetState>,
    /// Rules whose event has come, by place in `inject`.
    active: Vec<usize>,
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
        let this = Self {
            image: Edge::attach_as("image", "", Role::Filtered, image, Perm::empty(), Perm::all())?,
            align: options.align.unwrap_or(1).max(1),
            max_transfer: options.max_transfer.unwrap_or(0).into(),
            state: Mutex::new(State { number: 1, inject, set_state, active: Vec::new() }),
        };
        this.event("none");
        Ok(Arc::new(this))
    }

    /// Something has happened: rules for it become active, and the state may change.
    pub(crate) fn event(&self, name: &str) {
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
    }

    /// The error that a request meets.
    fn check(&self, kind: IoType, offset: u64, len: u64) -> Result<()> {
        if !offset.is_multiple_of(self.align) || !len.is_multiple_of(self.align) {
            return Err(BlockError::Errno(errno::EINVAL));
        }
        if self.max_transfer > 0
            && len > self.max_transfer
            && !matches!(kind, IoType::Discard | IoType::WriteZeroes)
        {
            return Err(BlockError::Errno(errno::EINVAL));
        }
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

    fn run<T>(
        &self,
        kind: IoType,
        events: &[&str],
        range: (u64, u64),
        start: impl FnOnce(Arc<Node>) -> Op<T>,
    ) -> Op<T> {
        events.iter().for_each(|event| self.event(event));
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

    pass_on!(image: basics children truncate);

    fn read(self: Arc<Self>, offset: u64, buf: IoBuf) -> Op<IoBuf> {
        let range = (offset, buf.len() as u64);
        self.run(IoType::Read, &["read_aio"], range, |node| node.read(offset, buf))
    }

    fn write(self: Arc<Self>, offset: u64, buf: IoBuf) -> Op<IoBuf> {
        let range = (offset, buf.len() as u64);
        let events = ["write_aio", "pwritev"];
        self.run(IoType::Write, &events, range, |node| node.write(offset, buf))
    }

    fn write_zeroes(self: Arc<Self>, offset: u64, len: u64, unmap: bool) -> Op<()> {
        let start = |node: Arc<Node>| node.write_zeroes(offset, len, unmap);
        self.run(IoType::WriteZeroes, &["pwritev_zero"], (offset, len), start)
    }

    fn discard(self: Arc<Self>, offset: u64, len: u64) -> Op<()> {
        self.run(IoType::Discard, &[], (offset, len), |node| node.discard(offset, len))
    }

    fn flush(self: Arc<Self>) -> Op<()> {
        self.run(IoType::Flush, &["flush_to_os", "flush_to_disk"], (0, 0), |node| node.flush())
    }

    fn status(self: Arc<Self>, offset: u64, len: u64) -> Op<BlockStatus> {
        self.run(IoType::BlockStatus, &[], (offset, len), |node| node.status(offset, len))
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
            section.insert(key.trim().replace('_', "-"), value.into());
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
    fn an_error_is_met_where_and_when_the_rule_says() {
        let (graph, node) = open(json!({
            "inject-error.0.event": "write_aio", "inject-error.0.errno": "28",
            "inject-error.0.once": "on", "inject-error.0.sector": "2",
        }));
        let exec = graph.executor();
        let write = |at| exec.run_in_place(node.write(at, vec![1; 512].into())).unwrap();
        assert!(write(0).is_ok(), "another sector");
        assert_eq!(write(1024), Err(BlockError::Errno(28)));
        assert!(write(1024).is_ok(), "once");
    }

    #[test]
    fn states_lead_from_event_to_event() {
        let mut rules = (Vec::new(), Vec::new());
        let text = "[set-state]\nstate = \"1\"\nevent = \"flush_to_disk\"\nnew_state = \"2\"\n\n\
                    [inject-error]\nevent = \"read_aio\"\nstate = \"2\"\niotype = \"read\"\n";
        read_config(text, &mut rules.0, &mut rules.1).unwrap();
        let rules = json!({
            "inject-error": [qapi::to_value(&rules.0[0])], "set-state": [qapi::to_value(&rules.1[0])],
        });
        let (graph, node) = open(rules);
        let exec = graph.executor();
        let read = || exec.run_in_place(node.read(0, IoBuf::zeroed(512))).unwrap();
        assert!(read().is_ok());
        exec.run_in_place(node.flush()).unwrap().unwrap();
        assert_eq!(read(), Err(BlockError::Errno(errno::EIO)));
    }
}
