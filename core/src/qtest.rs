//! The qtest protocol: a program drives a machine's devices over a line, without CPUs.
//!
//! One command a line, one answer a line; the commands and their forms are those of QEMU's
//! `docs/devel/testing/qtest.rst`.

use crate::machine::Machine;
use crate::monitor::{base64, from_base64};
use crate::options::number;
use orrery_system::time::VmTime;
use orrery_system::{IrqInput, IrqLine};
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Longest line.
const MAX_LINE: usize = 64 << 20;

/// A test's side of the conversation.
#[derive(Default)]
pub struct Qtest {
    line: Vec<u8>,
    /// Wires that are watched, with their level at the last look.
    wires: Vec<(IrqInput, bool)>,
    /// Pins on wires that the test drives.
    pins: BTreeMap<u64, IrqLine>,
}

impl Qtest {
    /// Takes bytes, does what they say, and gives the answers.
    pub fn feed(&mut self, machine: &mut Machine, bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        for &byte in bytes {
            if byte != b'\n' {
                if self.line.len() < MAX_LINE {
                    self.line.push(byte);
                }
                continue;
            }
            let line = std::mem::take(&mut self.line);
            let line = String::from_utf8_lossy(&line).into_owned();
            let words: Vec<&str> = line.split_whitespace().collect();
            let answer = self.run(machine, &words).unwrap_or_else(|why| format!("FAIL {why}"));
            settle(machine);
            out.extend(self.look(machine));
            out.extend(answer.as_bytes());
            out.push(b'\n');
        }
        out
    }

    /// What has become of the wires that are watched.
    pub fn look(&mut self, machine: &mut Machine) -> Vec<u8> {
        let _ = machine;
        let mut out = String::new();
        for (n, (wire, was)) in self.wires.iter_mut().enumerate() {
            let (level, edge) = (wire.level(), wire.take_edge());
            // Writing to a string does not fail.
            if *was && edge {
                let _ = writeln!(out, "IRQ lower {n}");
                *was = false;
            }
            if edge && !level {
                let _ = write!(out, "IRQ raise {n}\nIRQ lower {n}\n");
            }
            if level != *was {
                let _ = writeln!(out, "IRQ {} {n}", if level { "raise" } else { "lower" });
                *was = level;
            }
        }
        out.into_bytes()
    }

    fn run(&mut self, machine: &mut Machine, words: &[&str]) -> Result<String, String> {
        let Some((&name, args)) = words.split_first() else {
            return Err("Unknown command ''".into());
        };
        let n = |i: usize| {
            let text = args.get(i).ok_or("an argument is missing")?;
            number(text)
                .or_else(|| text.parse::<i64>().ok().map(|v| v as u64))
                .ok_or_else(|| format!("'{text}' is no number"))
        };
        let board = &mut machine.board;
        let ok = || Ok("OK".into());
        match name {
            "outb" | "outw" | "outl" => {
                let width = width(name);
                board.port_out(n(0)? as u16, width, n(1)? as u32);
                ok()
            }
            "inb" | "inw" | "inl" => {
                let value = board.port_in(n(0)? as u16, width(name));
                Ok(format!("OK 0x{value:04x}"))
            }
            "writeb" | "writew" | "writel" | "writeq" => {
                board.write(n(0)?, width(name), n(1)?);
                ok()
            }
            "readb" | "readw" | "readl" | "readq" => {
                let value = board.read(n(0)?, width(name));
                Ok(format!("OK 0x{value:016x}"))
            }
            "read" | "b64read" => {
                let (at, len) = (n(0)?, n(1)?.min(MAX_LINE as u64));
                let mut bytes = Vec::with_capacity(len as usize);
                for (at, width) in accesses(at, len as usize) {
                    bytes.extend(&board.read(at, width).to_le_bytes()[..width.into()]);
                }
                if name == "b64read" {
                    return Ok(format!("OK {}", base64(&bytes)));
                }
                let mut out = String::from("OK 0x");
                bytes.iter().for_each(|b| {
                    let _ = write!(out, "{b:02x}");
                });
                Ok(out)
            }
            "write" | "b64write" | "memset" => {
                let (at, len) = (n(0)?, n(1)?.min(MAX_LINE as u64) as usize);
                let text = args.get(2).copied().unwrap_or("0x");
                let mut bytes = match name {
                    "write" => unhex(text.strip_prefix("0x").unwrap_or(text)),
                    "b64write" => from_base64(text),
                    _ => Some(vec![n(2)? as u8; len]),
                }
                .ok_or("the data is no data")?;
                bytes.resize(len, 0);
                let mut rest = bytes.as_slice();
                for (at, width) in accesses(at, len) {
                    let (now, later) = rest.split_at(width.into());
                    let value = now.iter().rev().fold(0, |v, &b| v << 8 | u64::from(b));
                    board.write(at, width, value);
                    rest = later;
                }
                ok()
            }
            "clock_step" => {
                let end = match args.first() {
                    Some(_) => board.now().after(n(0)?),
                    None => {
                        let next = board.next_deadline();
                        if next == VmTime::NEVER { board.now() } else { next }
                    }
                };
                machine.pass_time(end);
                Ok(format!("OK {}", machine.board.now().0))
            }
            "clock_set" => {
                let end = VmTime(n(0)?);
                machine.pass_time(end);
                Ok(format!("OK {}", machine.board.now().0))
            }
            "endianness" => Ok("OK little".into()),
            "irq_intercept_in" | "irq_intercept_out" => {
                let path = args.first().copied().unwrap_or_default();
                if !path.contains("ioapic") {
                    return Err("Unknown device".into());
                }
                self.wires = machine.handles.irqs.iter().map(|w| (w.tap(), w.level())).collect();
                ok()
            }
            "set_irq_in" => {
                let path = args.first().copied().unwrap_or_default();
                let line = machine.handles.irqs.get(n(2)? as usize);
                let Some(line) = line.filter(|_| path.contains("ioapic")) else {
                    return Err("Unknown device".into());
                };
                let pin = self.pins.entry(n(2)?).or_insert_with(|| line.pin());
                pin.set(n(3)? != 0);
                ok()
            }
            "module_load" => ok(),
            _ => Err(format!("Unknown command '{name}'")),
        }
    }
}

/// The accesses that a run of bytes is made with: words where they are aligned, as a bus has them,
/// because there are registers that take nothing smaller.
fn accesses(at: u64, len: usize) -> impl Iterator<Item = (u64, u8)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let here = at.wrapping_add(done as u64);
        let fits = |&w: &u8| usize::from(w) <= len - done && here.is_multiple_of(w.into());
        let width = [4, 2, 1].into_iter().find(fits)?;
        done += usize::from(width);
        Some((here, width))
    })
}

fn width(name: &str) -> u8 {
    match name.as_bytes().last() {
        Some(b'b') => 1,
        Some(b'w') => 2,
        Some(b'l') => 4,
        _ => 8,
    }
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |b: u8| (b as char).to_digit(16).map(|d| d as u8);
    let pairs = text.as_bytes().chunks(2);
    pairs.map(|p| Some(digit(p[0])? << 4 | digit(*p.get(1)?)?)).collect()
}

/// Lets everything happen that happens at this instant.
fn settle(machine: &mut Machine) {
    for _ in 0..8 {
        machine.blocks.poll();
        machine.board.settle();
        machine.board.run_timers();
        machine.board.deliver_host_io();
    }
    let now = machine.board.now();
    machine.pass_time(now);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_of_bytes_is_made_of_aligned_words_where_it_can_be() {
        let made: Vec<_> = accesses(0x1001, 12).collect();
        assert_eq!(made, [(0x1001, 1), (0x1002, 2), (0x1004, 4), (0x1008, 4), (0x100c, 1)]);
        assert_eq!(accesses(0x1000, 0).count(), 0);
    }
}
