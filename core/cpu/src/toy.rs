//! A made-up instruction set that exercises the engine: eight registers, paging, a trap handler.

use std::collections::BTreeMap;

use orrery_system::board::Board;
use serde::{Deserialize, Serialize};

use crate::Cluster;
use crate::cpus::Cpus;
use crate::env::Env;
use crate::frame::Frame;
use crate::ir::{Addr, Builder, Cmp, Cond, Fx, Mem, UnOp, Val, Var, Width};
use crate::isa::{Access, CodeWindow, Isa, Lift, Mapping, Poll};

pub(crate) struct Toy;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Cpu {
    pub(crate) frame: Frame,
    pub(crate) pc: u64,
    /// Virtual page to physical page and whether it is writable; all others are identical.
    pub(crate) pages: BTreeMap<u64, Option<(u64, bool)>>,
    pub(crate) traps: Vec<(u64, u64)>,
    pub(crate) halted: bool,
    pub(crate) seen: Vec<u64>,
}

impl orrery_system::State for Cpu {
    const KIND: &'static str = "toy";
    const VERSION: u16 = 1;
}

/// `[code, a, b, c]`; LI has four bytes more.
pub(crate) mod code {
    pub(crate) const HALT: u8 = 0;
    pub(crate) const ADDI: u8 = 1;
    pub(crate) const ADD: u8 = 2;
    pub(crate) const LOAD: u8 = 3;
    pub(crate) const STORE: u8 = 4;
    pub(crate) const BNE: u8 = 5;
    pub(crate) const JR: u8 = 6;
    pub(crate) const CLOCK: u8 = 7;
    pub(crate) const INC: u8 = 8;
    pub(crate) const JMP: u8 = 9;
    pub(crate) const NOTNEG: u8 = 10;
    pub(crate) const LI: u8 = 12;
}

/// Registers that hold "lazy flags" which every ADDI writes and nothing reads in a block.
pub(crate) const FLAG: Var = Var(20);

impl crate::debug::DebugCpu for Cpu {}

impl Isa for Toy {
    type Cpu = Cpu;
    type Trap = u64;
    const MAX_INSN: usize = 8;

    fn reset(cpu: &mut Cpu, _: usize) {
        cpu.frame = Frame::new();
        cpu.pc = 0;
        cpu.halted = false;
    }
    fn dump(cpu: &Cpu) -> String {
        format!("pc={:x}", cpu.pc)
    }
    fn frame(cpu: &Cpu) -> &Frame {
        &cpu.frame
    }
    fn frame_mut(cpu: &mut Cpu) -> &mut Frame {
        &mut cpu.frame
    }
    fn pc(cpu: &Cpu) -> u64 {
        cpu.pc
    }
    fn set_pc(cpu: &mut Cpu, pc: u64) {
        cpu.pc = pc;
    }
    fn block_key(_: &Cpu) -> u64 {
        0
    }
    fn code_window(_: &Cpu, pc: u64) -> Result<CodeWindow, u64> {
        Ok(CodeWindow { linear: pc, len: u64::MAX, mmu: 0 })
    }
    fn lift(_: &Cpu, _: u64, pc: u64, bytes: &[u8], b: &mut Builder) -> Lift {
        let &[op, a, x, c, ..] = bytes else { return Lift::Short };
        let r = |n: u8| Var(n & 7);
        let imm = c as i8 as i64;
        let addr = Addr {
            base: Some(r(x)),
            disp: imm,
            wrap: Width::W32,
            lin: Width::W32,
            ..Addr::fixed(0)
        };
        let mem = Mem::plain(0);
        let to = pc.wrapping_add((imm * 4) as u64);
        match op {
            code::ADDI => {
                let t = b.tmp();
                b.add(Width::W32, t, r(x), imm as u64);
                b.mov(Width::W32, r(a), t);
                b.konst(FLAG, 7);
                b.mov(Width::W32, Var(21), t);
                b.mov(Width::W32, Var(22), r(x));
            }
            code::ADD => b.add(Width::W32, r(a), r(x), r(c)),
            code::LOAD => b.load(Width::W32, r(a), addr, mem),
            code::STORE => b.store(Width::W32, r(a), addr, mem),
            code::INC => {
                let t = b.tmp();
                b.load(Width::W32, t, addr, Mem::rmw(0));
                b.add(Width::W32, t, t, 1u64);
                b.store(Width::W32, t, addr, mem);
            }
            code::BNE => b.exit_if(Cmp::new(Cond::Ne, Width::W32, r(a), r(x)), to),
            code::JMP => b.goto(to),
            code::JR => b.goto_var(r(a)),
            code::NOTNEG => {
                let done = b.new_label();
                b.branch(Cmp::new(Cond::GeS, Width::W32, r(x), 0u64), done);
                b.un(UnOp::Neg, Width::W32, r(x), r(x));
                b.label(done);
            }
            code::CLOCK => b.call(1, None, &[Val::Imm(pc)], Fx::ALL),
            code::LI => {
                let Some(v) = bytes.get(4..8) else { return Lift::Short };
                b.konst(r(a), u32::from_le_bytes(v.try_into().unwrap()).into());
                return Lift::Next(8);
            }
            _ => b.call(0, None, &[], Fx::ALL),
        }
        if b.ended() { Lift::End(4) } else { Lift::Next(4) }
    }
    fn walk(
        cpu: &mut Cpu,
        _: &mut Board,
        linear: u64,
        access: Access,
        _: u8,
    ) -> Result<Mapping, u64> {
        let (gpa, write) = match cpu.pages.get(&(linear >> 12)) {
            None => (linear & !0xfff, true),
            Some(None) => return Err(linear),
            Some(Some((page, write))) => (page << 12, *write),
        };
        if access == Access::Write && !write {
            return Err(linear);
        }
        Ok(Mapping { gpa, read: true, write, exec: true, global: false })
    }
    fn linear_mask(_: &Cpu) -> u64 {
        0xffff_ffff
    }
    fn helper(f: u16, env: &mut Env<'_, Self>, _: &[u64; 6]) -> Result<u64, u64> {
        match f {
            0 => env.cpu.halted = true,
            _ => env.cpu.seen.push(env.done),
        }
        Ok(0)
    }
    fn pure(_: u16, args: &[u64; 6]) -> u64 {
        args[0]
    }
    fn vec_op(_: u16, a: u128, b: u128, _: u8) -> u128 {
        a ^ b
    }
    fn trap(_: u16, arg: u64) -> u64 {
        arg
    }
    fn deliver(env: &mut Env<'_, Self>, trap: u64) {
        env.cpu.traps.push((env.cpu.pc, trap));
        env.cpu.halted = true;
    }
    fn poll(env: &mut Env<'_, Self>) -> Poll {
        if env.cpu.halted { Poll::Halted } else { Poll::Run }
    }
}

/// A machine with 1 MiB of RAM and this program at 0x1000.
pub(crate) struct Machine {
    pub(crate) board: Board,
    pub(crate) cpus: Cluster<Toy>,
}

impl Machine {
    pub(crate) fn new(program: &[[u8; 4]]) -> Self {
        let mut board = Board::with_ram(1 << 20);
        board.begin_slice(board.now());
        board.ram().write_bytes(0x1000, &program.concat());
        let cpu = Cpu {
            frame: Frame::new(),
            pc: 0x1000,
            pages: BTreeMap::new(),
            traps: vec![],
            halted: false,
            seen: vec![],
        };
        Self { board, cpus: Cluster::new([cpu]) }
    }

    pub(crate) fn cpu(&mut self) -> &mut Cpu {
        self.cpus.cpu_mut(0)
    }

    pub(crate) fn reg(&self, n: usize) -> u64 {
        self.cpus.cpu(0).frame.ints[n]
    }

    pub(crate) fn set(&mut self, n: usize, v: u64) {
        self.cpu().frame.ints[n] = v;
    }

    /// Runs until the CPU halts or has run so many instructions; gives how many it ran.
    pub(crate) fn run(&mut self, budget: u64) -> u64 {
        let mut done = 0;
        while done < budget {
            let ran = self.cpus.run(0, &mut self.board, budget - done);
            done += ran.insns;
            if !ran.runnable {
                break;
            }
        }
        done
    }
}
