//! A server for gdb's remote protocol: the machine's CPUs are the threads of one program.

use crate::machine::{Machine, Stop};
use crate::monitor::Control;
use crate::replay::{Backwards, TravelError};
use orrery_cpu::debug::{Hit, Watch, WatchKind};
use std::collections::BTreeSet;
use std::fmt::Write as _;

/// Longest packet.
const MAX_PACKET: usize = 0x4000;

/// A debugger's side of the conversation.
#[derive(Default)]
pub struct Stub {
    packet: Vec<u8>,
    state: Input,
    out: Vec<u8>,
    no_ack: bool,
    last: Vec<u8>,
    running: bool,
    /// CPU whose registers are meant.
    cpu: usize,
    breaks: BTreeSet<u64>,
    watches: Vec<Watch>,
    /// Memory is addressed physically.
    physical: bool,
    /// It stops by itself: a step through a recording, or a journey back.
    expected: bool,
}

#[derive(Clone, Copy, Default)]
enum Input {
    #[default]
    Idle,
    Packet,
    /// So many digits of the checksum are still to come.
    Sum(u8, u8),
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut out, b| {
        // Writing to a string does not fail.
        let _ = write!(out, "{b:02x}");
        out
    })
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |b: u8| (b as char).to_digit(16).map(|d| d as u8);
    text.as_bytes().chunks(2).map(|p| Some(digit(p[0])? << 4 | digit(*p.get(1)?)?)).collect()
}

fn number(text: &str) -> Option<u64> {
    u64::from_str_radix(text, 16).ok()
}

/// `addr,length`.
fn range(text: &str) -> Option<(u64, u64)> {
    let (a, b) = text.split_once(',')?;
    Some((number(a)?, number(b)?))
}

impl Stub {
    /// A debugger has come: the machine stops for it.
    pub fn new(machine: &mut Machine) -> Self {
        machine.pause();
        Self::default()
    }

    /// It has gone: the machine goes on without it.
    pub fn close(mut self, machine: &mut Machine) {
        self.breaks.clear();
        self.watches.clear();
        self.arm(machine);
        machine.resume();
    }

    /// What is to be sent.
    pub fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.out)
    }

    /// Tells the debugger when the machine has stopped.
    pub fn poll(&mut self, machine: &mut Machine) {
        if let Some(stop) = machine.stopped().filter(|_| self.running) {
            self.running = false;
            let text = self.stop_reply(machine, stop);
            self.expected = false;
            self.send(&text);
        }
    }

    fn stop_reply(&mut self, machine: &mut Machine, stop: Stop) -> String {
        match (machine.take_hit(), stop) {
            (Some((cpu, Hit::Break)), _) => {
                self.cpu = cpu;
                format!("T05thread:{:02x};swbreak:;", cpu + 1)
            }
            (Some((cpu, Hit::Watch(watch))), _) => {
                self.cpu = cpu;
                let kind = match watch.kind {
                    WatchKind::Write => "watch",
                    WatchKind::Read => "rwatch",
                    WatchKind::Access => "awatch",
                };
                format!("T05thread:{:02x};{kind}:{:x};", cpu + 1, watch.at)
            }
            (None, Stop::Shutdown | Stop::Reset | Stop::Exit(_) | Stop::Script(_)) => "W00".into(),
            (None, Stop::ReplayEnd) => format!("T05thread:{:02x};replaylog:end;", self.cpu + 1),
            (None, Stop::ReplayBegin) => {
                format!("T05thread:{:02x};replaylog:begin;", self.cpu + 1)
            }
            (None, Stop::Debug) => format!("T05thread:{:02x};", self.cpu + 1),
            (None, Stop::Paused) if std::mem::take(&mut self.expected) => {
                format!("T05thread:{:02x};", self.cpu + 1)
            }
            (None, _) => format!("T02thread:{:02x};", self.cpu + 1),
        }
    }

    fn send(&mut self, text: &str) {
        let mut packet = vec![b'$'];
        for &byte in text.as_bytes() {
            if matches!(byte, b'$' | b'#' | b'}' | b'*') {
                packet.extend([b'}', byte ^ 0x20]);
            } else {
                packet.push(byte);
            }
        }
        let sum = packet[1..].iter().fold(0_u8, |s, b| s.wrapping_add(*b));
        packet.extend(format!("#{sum:02x}").bytes());
        self.out.extend(&packet);
        self.last = packet;
    }

    /// Takes bytes from the debugger.
    pub fn feed(&mut self, machine: &mut Machine, control: &mut Control, bytes: &[u8]) {
        for &byte in bytes {
            match self.state {
                Input::Idle => match byte {
                    b'$' => {
                        self.packet.clear();
                        self.state = Input::Packet;
                    }
                    0x03 => machine.pause(),
                    b'-' => {
                        let last = self.last.clone();
                        self.out.extend(last);
                    }
                    _ => {}
                },
                Input::Packet => match byte {
                    b'#' => self.state = Input::Sum(2, 0),
                    _ if self.packet.len() >= MAX_PACKET => self.state = Input::Idle,
                    _ => self.packet.push(byte),
                },
                Input::Sum(left, sum) => {
                    let sum = sum << 4 | (byte as char).to_digit(16).unwrap_or(0) as u8;
                    if left > 1 {
                        self.state = Input::Sum(left - 1, sum);
                        continue;
                    }
                    self.state = Input::Idle;
                    let packet = std::mem::take(&mut self.packet);
                    if packet.iter().fold(0_u8, |s, b| s.wrapping_add(*b)) != sum {
                        self.out.push(b'-');
                        continue;
                    }
                    if !self.no_ack {
                        self.out.push(b'+');
                    }
                    if let Some(answer) = self.answer(machine, control, &packet) {
                        self.send(&answer);
                    }
                }
            }
        }
    }

    fn arm(&self, machine: &mut Machine) {
        machine.cpus.set_breakpoints(&machine.board, &self.breaks);
        machine.cpus.set_watchpoints(&machine.board, &self.watches);
    }

    fn thread(&self, machine: &Machine, text: &str) -> Option<usize> {
        let text = text.strip_prefix('p').and_then(|t| t.split_once('.')).map_or(text, |t| t.1);
        match text {
            "-1" | "0" => Some(self.cpu),
            text => {
                let n = number(text)?.checked_sub(1)? as usize;
                (n < machine.cpus.count()).then_some(n)
            }
        }
    }

    fn resume(&mut self, machine: &mut Machine) -> Option<String> {
        self.arm(machine);
        self.running = true;
        machine.resume();
        None
    }

    fn step(&mut self, machine: &mut Machine, cpu: usize) -> Option<String> {
        // Breakpoints do not matter to a step; what is watched does.
        machine.cpus.set_breakpoints(&machine.board, &BTreeSet::new());
        machine.cpus.set_watchpoints(&machine.board, &self.watches);
        self.cpu = cpu;
        if machine.replay().is_some() {
            // A recording is stepped through as it happened, whichever CPU's turn it was.
            let next = machine.board.icount() + 1;
            return self.travel(machine, |m| m.step_to(next));
        }
        machine.step_cpu(cpu);
        let reply = self.stop_reply(machine, Stop::Debug);
        Some(reply)
    }

    /// Sends the machine to another time; the answer comes when it is there.
    fn travel(
        &mut self,
        machine: &mut Machine,
        go: impl FnOnce(&mut Machine) -> Result<(), TravelError>,
    ) -> Option<String> {
        match go(machine) {
            Ok(()) => {
                (self.running, self.expected) = (true, true);
                None
            }
            Err(TravelError::Future(_)) => {
                Some(format!("T05thread:{:02x};replaylog:end;", self.cpu + 1))
            }
            Err(_) => Some("E06".into()),
        }
    }

    /// The answer to a packet; `None`: it comes later.
    fn answer(
        &mut self,
        machine: &mut Machine,
        control: &mut Control,
        packet: &[u8],
    ) -> Option<String> {
        let text = String::from_utf8_lossy(packet).into_owned();
        let rest = text.get(1..).unwrap_or_default();
        let bad = || Some("E01".to_string());
        let ok = || Some("OK".to_string());
        match packet.first().copied().unwrap_or(0) {
            b'?' => {
                let stop = machine.stopped().unwrap_or(Stop::Paused);
                Some(match stop {
                    Stop::Debug => self.stop_reply(machine, stop),
                    _ => format!("T05thread:{:02x};", self.cpu + 1),
                })
            }
            b'g' => {
                let mut out = String::new();
                let mut n = 0;
                while let Some(bytes) = machine.cpus.gdb_read(self.cpu, n) {
                    out.push_str(&hex(&bytes));
                    n += 1;
                }
                Some(out)
            }
            // What a debugger changes is not in the log.
            b'G' | b'P' | b'M' if machine.replay().is_some() => bad(),
            b'G' => {
                let Some(all) = unhex(rest) else { return bad() };
                let (mut at, mut n) = (0, 0);
                while let Some(old) = machine.cpus.gdb_read(self.cpu, n) {
                    let Some(bytes) = all.get(at..at + old.len()) else { break };
                    if bytes != old {
                        machine.cpus.gdb_write(self.cpu, n, bytes);
                    }
                    (at, n) = (at + old.len(), n + 1);
                }
                ok()
            }
            b'p' => {
                let n = number(rest).and_then(|n| usize::try_from(n).ok()).unwrap_or(usize::MAX);
                match machine.cpus.gdb_read(self.cpu, n) {
                    Some(bytes) => Some(hex(&bytes)),
                    None => bad(),
                }
            }
            b'P' => {
                let Some((n, value)) = rest.split_once('=') else { return bad() };
                let n = number(n).and_then(|n| usize::try_from(n).ok()).unwrap_or(usize::MAX);
                match unhex(value) {
                    Some(bytes) if machine.cpus.gdb_write(self.cpu, n, &bytes) => ok(),
                    _ => bad(),
                }
            }
            b'm' => {
                let Some((at, len)) = range(rest) else { return bad() };
                let len = (len as usize).min(MAX_PACKET / 2);
                let bytes = if self.physical {
                    let mut out = vec![0; len];
                    machine.board.peek(at, &mut out);
                    Some(out)
                } else {
                    match machine.read_virtual(self.cpu, at, len) {
                        Ok(bytes) => Some(bytes),
                        // What can be read before the hole.
                        Err(hole) if hole > at => {
                            machine.read_virtual(self.cpu, at, (hole - at) as usize).ok()
                        }
                        Err(_) => None,
                    }
                };
                bytes.map(|b| hex(&b)).or_else(bad)
            }
            b'M' => {
                let Some((place, data)) = rest.split_once(':') else { return bad() };
                let (Some((at, _)), Some(bytes)) = (range(place), unhex(data)) else {
                    return bad();
                };
                if self.physical {
                    machine.board.poke(at, &bytes);
                    return ok();
                }
                if machine.write_virtual(self.cpu, at, &bytes).is_ok() { ok() } else { bad() }
            }
            b'c' => {
                if let Some(at) = number(rest) {
                    self.jump(machine, at);
                }
                self.resume(machine)
            }
            b'C' => self.resume(machine),
            b's' => {
                if let Some(at) = number(rest) {
                    self.jump(machine, at);
                }
                self.step(machine, self.cpu)
            }
            b'S' => self.step(machine, self.cpu),
            b'b' if rest == "s" => {
                machine.cpus.set_breakpoints(&machine.board, &BTreeSet::new());
                self.travel(machine, |m| m.reverse(Backwards::Step))
            }
            b'b' if rest == "c" => {
                self.arm(machine);
                self.travel(machine, |m| m.reverse(Backwards::Continue))
            }
            b'H' => match self.thread(machine, rest.get(1..).unwrap_or_default()) {
                Some(cpu) => {
                    if rest.starts_with('g') {
                        self.cpu = cpu;
                    }
                    ok()
                }
                None => bad(),
            },
            b'T' => {
                if self.thread(machine, rest).is_some() {
                    ok()
                } else {
                    bad()
                }
            }
            b'Z' | b'z' => self.point(machine, packet[0] == b'Z', rest),
            b'D' => {
                self.breaks.clear();
                self.watches.clear();
                self.arm(machine);
                machine.resume();
                ok()
            }
            b'k' => {
                control.quit();
                None
            }
            b'v' => self.verbose(machine, &text),
            b'q' | b'Q' => Some(self.query(machine, control, &text)),
            _ => Some(String::new()),
        }
    }

    fn jump(&self, machine: &mut Machine, at: u64) {
        // The program counter follows the general registers.
        let n =
            if machine.cpus.gdb_read(self.cpu, 0).is_some_and(|r| r.len() == 8) { 16 } else { 8 };
        machine.cpus.gdb_write(self.cpu, n, &at.to_le_bytes());
    }

    fn point(&mut self, machine: &mut Machine, set: bool, rest: &str) -> Option<String> {
        let bad = || Some("E01".to_string());
        let Some((kind, place)) = rest.split_once(',') else { return bad() };
        let place = place.split(';').next().unwrap_or_default();
        let Some((at, len)) = range(place) else { return bad() };
        let kind = match kind {
            "0" | "1" => {
                if set {
                    self.breaks.insert(at);
                } else {
                    self.breaks.remove(&at);
                }
                let _ = machine;
                return Some("OK".into());
            }
            "2" => WatchKind::Write,
            "3" => WatchKind::Read,
            "4" => WatchKind::Access,
            _ => return Some(String::new()),
        };
        let watch = Watch { at, len: len.clamp(1, 1 << 20), kind };
        self.watches.retain(|w| *w != watch);
        if set {
            self.watches.push(watch);
        }
        Some("OK".into())
    }

    fn verbose(&mut self, machine: &mut Machine, text: &str) -> Option<String> {
        if text == "vCont?" {
            return Some("vCont;c;C;s;S".into());
        }
        let Some(actions) = text.strip_prefix("vCont;") else { return Some(String::new()) };
        // A step of one CPU is done alone; the others go on when all go on.
        let mut go = false;
        for action in actions.split(';') {
            let (what, thread) = action.split_once(':').unwrap_or((action, "-1"));
            match what.as_bytes().first() {
                Some(b's' | b'S') => {
                    let cpu = self.thread(machine, thread)?;
                    return self.step(machine, cpu);
                }
                Some(b'c' | b'C') => go = true,
                _ => {}
            }
        }
        if go { self.resume(machine) } else { Some("E01".into()) }
    }

    fn query(&mut self, machine: &mut Machine, control: &mut Control, text: &str) -> String {
        if text.starts_with("qSupported") {
            let back =
                if machine.replay().is_some() { ";ReverseStep+;ReverseContinue+" } else { "" };
            return format!(
                "PacketSize={MAX_PACKET:x};qXfer:features:read+;swbreak+;hwbreak+;\
                 vContSupported+;QStartNoAckMode+{back}"
            );
        }
        if let Some(rest) = text.strip_prefix("qXfer:features:read:") {
            let Some((name, place)) = rest.split_once(':') else { return "E01".into() };
            if name != "target.xml" {
                return "E00".into();
            }
            let xml = machine.cpus.gdb_xml(self.cpu);
            let Some((at, len)) = range(place) else { return "E01".into() };
            let at = (at as usize).min(xml.len());
            let end = at.saturating_add((len as usize).min(MAX_PACKET / 2)).min(xml.len());
            let mark = if end == xml.len() { 'l' } else { 'm' };
            return format!("{mark}{}", &xml[at..end]);
        }
        if let Some(line) = text.strip_prefix("qRcmd,").and_then(unhex) {
            let line = String::from_utf8_lossy(&line).into_owned();
            let said = control.human(machine, &line);
            if said.is_empty() {
                return "OK".into();
            }
            return hex(said.replace("\r\n", "\n").as_bytes());
        }
        if let Some(rest) = text.strip_prefix("qThreadExtraInfo,") {
            let cpu = self.thread(machine, rest).unwrap_or(0);
            return hex(format!("CPU#{cpu} [running]").as_bytes());
        }
        match text {
            "QStartNoAckMode" => {
                self.no_ack = true;
                "OK".into()
            }
            "qAttached" => "1".into(),
            "qC" => format!("QC{:02x}", self.cpu + 1),
            "qfThreadInfo" => {
                let ids: Vec<String> =
                    (1..=machine.cpus.count()).map(|n| format!("{n:02x}")).collect();
                format!("m{}", ids.join(","))
            }
            "qsThreadInfo" => "l".into(),
            "qqemu.PhyMemMode" => u8::from(self.physical).to_string(),
            "Qqemu.PhyMemMode:0" | "Qqemu.PhyMemMode:1" => {
                self.physical = text.ends_with('1');
                "OK".into()
            }
            _ => String::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::monitor::Settings;
    use crate::replay::{Head, Replay};
    use orrery_block::graph::BlockGraph;
    use orrery_cpu::Cluster;
    use orrery_cpu::x86::cpuid::Model;
    use orrery_cpu::x86::{X86, X86Isa};
    use orrery_system::Board;

    struct Bench {
        machine: Machine,
        control: Control,
        stub: Stub,
    }

    impl Bench {
        /// A loop at 0x1000 that counts in memory: `inc byte [0x2000]; nop; jmp 0x1000`.
        fn new() -> Self {
            let board = Board::with_ram(1 << 20);
            let (model, _) = Model::parse("max").unwrap();
            let cpus: Cluster<X86Isa> = Cluster::new([X86::new(model, 0, 0)]);
            let graph = BlockGraph::new();
            let mut machine = Machine::new(board, Box::new(cpus), graph, Default::default());
            machine.board.poke(0x1000, &[0xfe, 0x06, 0x00, 0x20, 0x90, 0xeb, 0xf9]);
            // The reset vector is not in this board's memory: CS gets base 0 by a far jump.
            let blob = machine.cpus.save().remove(0);
            let mut cpu: X86 = blob.decode().unwrap();
            let mut cs = cpu.sys.seg[1];
            (cs.base, cs.selector) = (0, 0);
            cpu.set_segment(1, cs);
            cpu.frame.ints[16] = 0x1000;
            let blob = orrery_system::StateBlob::encode(&cpu);
            machine.cpus.restore(&mut machine.board, &[blob]).unwrap();
            let control = Control::new(&machine, Settings::default());
            let stub = Stub::new(&mut machine);
            Self { machine, control, stub }
        }

        fn ask(&mut self, text: &str) -> String {
            let sum = text.bytes().fold(0_u8, |s, b| s.wrapping_add(b));
            let packet = format!("${text}#{sum:02x}");
            self.stub.feed(&mut self.machine, &mut self.control, packet.as_bytes());
            let mut out = self.stub.take();
            if out == b"+" {
                for _ in 0..100 {
                    self.machine.run(0, 1_000_000);
                    self.stub.poll(&mut self.machine);
                    if self.machine.stopped().is_some() {
                        break;
                    }
                }
                out.extend(self.stub.take());
            }
            let text = String::from_utf8(out).unwrap();
            let body = text.trim_start_matches('+').strip_prefix('$').expect("a packet");
            body[..body.len() - 3].to_owned()
        }

        fn pc(&mut self) -> u64 {
            self.machine.cpus.linear_pc(0)
        }
    }

    #[test]
    fn a_step_executes_one_instruction_and_a_breakpoint_stops_before_its_own() {
        let mut b = Bench::new();
        assert!(b.ask("s").starts_with("T05"));
        assert_eq!(b.pc(), 0x1004);
        assert_eq!(b.ask("m2000,1"), "01");
        b.ask("Z0,1000,1");
        assert!(b.ask("c").contains("swbreak"));
        assert_eq!((b.pc(), b.ask("m2000,1").as_str()), (0x1000, "01"));
        // Where it stands a breakpoint stops it again; a step takes it over.
        assert!(b.ask("c").contains("swbreak"));
        assert_eq!(b.ask("m2000,1"), "01");
        b.ask("s");
        assert!(b.ask("c").contains("swbreak"));
        assert_eq!(b.ask("m2000,1"), "02");
        b.ask("z0,1000,1");
    }

    #[test]
    fn a_watchpoint_stops_after_the_store_and_leaves_no_trace_in_the_state() {
        let mut b = Bench::new();
        b.ask("Z2,2000,1");
        let reply = b.ask("c");
        assert!(reply.contains("watch:2000;"), "{reply}");
        assert_eq!((b.pc(), b.ask("m2000,1").as_str()), (0x1004, "01"));
        b.ask("c");
        assert_eq!(b.ask("m2000,1"), "02");
        b.ask("z2,2000,1");
        let blob = b.machine.cpus.save().remove(0);
        let cpu: X86 = blob.decode().unwrap();
        assert!(!cpu.breakpoints(), "a snapshot knows nothing of it");
    }

    #[test]
    fn a_recorded_life_is_walked_backwards() {
        let mut b = Bench::new();
        b.machine.set_replay(Replay::record(Head::default(), Vec::new()));
        assert!(b.ask("qSupported").contains("ReverseStep+;ReverseContinue+"));
        for _ in 0..7 {
            assert!(b.ask("s").starts_with("T05"));
        }
        assert_eq!((b.pc(), b.ask("m2000,1").as_str()), (0x1004, "03"));
        assert!(b.ask("bs").starts_with("T05"));
        assert_eq!((b.pc(), b.ask("m2000,1").as_str()), (0x1000, "02"));
        assert!(b.ask("bs").starts_with("T05"));
        assert_eq!(b.pc(), 0x1005);
        // To the end of what happened, and on.
        assert!(b.ask("c").contains("replaylog:end"));
        assert_eq!((b.pc(), b.ask("m2000,1").as_str()), (0x1004, "03"));
        b.ask("s");
        b.ask("s");
        assert_eq!(b.ask("s"), "T05thread:01;");
        assert_eq!(b.ask("m2000,1"), "04");
        assert_eq!(b.ask("P0=0000000000000000"), "E01", "it would not be in the log");
    }

    #[test]
    fn backwards_it_stops_at_the_last_breakpoint_and_in_front_of_the_last_store() {
        let mut b = Bench::new();
        b.machine.set_replay(Replay::record(Head::default(), Vec::new()));
        for _ in 0..8 {
            b.ask("s");
        }
        assert_eq!((b.pc(), b.ask("m2000,1").as_str()), (0x1005, "03"));
        b.ask("Z0,1005,1");
        assert!(b.ask("bc").contains("swbreak"));
        assert_eq!((b.pc(), b.ask("m2000,1").as_str()), (0x1005, "02"));
        b.ask("z0,1005,1");
        b.ask("Z2,2000,1");
        let reply = b.ask("bc");
        assert!(reply.contains("watch:2000;"), "{reply}");
        assert_eq!((b.pc(), b.ask("m2000,1").as_str()), (0x1000, "01"));
        assert!(b.ask("bc").contains("watch:2000;"));
        assert!(b.ask("bc").contains("replaylog:begin"));
        assert_eq!((b.pc(), b.ask("m2000,1").as_str()), (0x1000, "00"));
    }

    #[test]
    fn registers_are_written_and_read_by_their_numbers() {
        let mut b = Bench::new();
        assert_eq!(b.ask("P0=8877665544332211"), "OK");
        assert_eq!(&b.ask("g")[..16], "8877665500000000", "32 bits outside of long mode");
        assert_eq!(b.ask("P10=0410000000000000"), "OK");
        assert_eq!(b.pc(), 0x1004);
        assert!(b.ask("qXfer:features:read:target.xml:0,fff").contains("i386:x86-64"));
        assert_eq!(b.ask("pffff"), "E01");
    }

    #[test]
    fn the_monitor_answers_and_damaged_packets_are_asked_for_again() {
        let mut b = Bench::new();
        let command: String = "info status".bytes().map(|b| format!("{b:02x}")).collect();
        let said = unhex(&b.ask(&format!("qRcmd,{command}"))).unwrap();
        assert_eq!(said, b"VM status: paused\n");
        b.stub.feed(&mut b.machine, &mut b.control, b"$g#00");
        assert_eq!(b.stub.take(), b"-");
    }
}
