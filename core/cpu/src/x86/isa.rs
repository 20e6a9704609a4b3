//! x86 as an instruction set of the engine: block keys, interrupts between blocks, and the
//! dispatch of helper functions.

use orrery_system::board::Board;
use orrery_system::pins::PowerRequest;

use super::helper::{FIRST_OTHER, Helper};
use super::interrupt::Source;
use super::lift;
use super::paging::{Access, Bus, Mapping, Rights};
use super::segment::rpl;
use super::state::{Activity, Fault, X86, cr0, cr4, flag, key, seg, var, vector};
use super::string::{StringInsn, StringOp};
use super::transfer::truncate;
use crate::env::Env;
use crate::frame::{Frame, Var};
use crate::ir::stack::{StackUnit, Stacked};
use crate::ir::{Args, Builder, Op, VecKind};
use crate::isa::{CodeWindow, Isa, Lift, Poll, Quick};

/// The x86 instruction set.
#[derive(Clone, Copy, Debug)]
pub struct X86Isa;

/// The parts of an environment that the functions of this folder work with.
fn split<'a>(env: &'a mut Env<'_, X86Isa>) -> (&'a mut X86, Bus<'a>) {
    let bus = Bus { board: env.board, tlb: env.tlb, done: env.done, code: env.code };
    (env.cpu, bus)
}

impl X86 {
    /// What translations depend on, see [`key`].
    pub fn mode_key(&self) -> u64 {
        let s = &self.sys;
        let rest = self.frame.ints[var::EFLAGS_REST];
        let cs = &s.seg[seg::CS];
        let long = self.long_mode();
        let mut k = match (long && cs.long(), cs.big()) {
            (true, _) => 2,
            (false, true) => 1,
            (false, false) => 0,
        };
        let mut put = |on: bool, bit: u64| {
            if on {
                k |= bit;
            }
        };
        put(s.seg[seg::SS].big(), key::STACK32);
        put(s.cpl == 3, key::USER);
        put(matches!(s.cpl, 1 | 2), key::INNER);
        put(s.cr0 & cr0::PE != 0 && rest & flag::VM == 0, key::PROTECTED);
        put(s.cr0 & cr0::PE != 0 && rest & flag::VM != 0, key::V86);
        put(self.flat(), key::FLAT);
        put(s.cr0 & cr0::EM != 0, key::EM);
        put(s.cr0 & cr0::TS != 0, key::TS);
        put(s.cr0 & cr0::MP != 0, key::MP);
        put(s.cr4 & cr4::OSFXSR != 0, key::OSFXSR);
        put(rest & flag::TF != 0 || s.shadow != 0 || self.breakpoints(), key::SINGLE);
        put(long, key::LONG);
        let ac = rest & flag::AC != 0;
        put(s.cpl == 3 && s.cr0 & cr0::AM != 0 && ac, key::ALIGN);
        put(s.cpl != 3 && s.cr4 & cr4::SMAP != 0 && !ac, key::SMAP);
        let real = s.cr0 & cr0::PE == 0 || rest & flag::VM != 0;
        let bounds = &self.frame.ints[var::SEG_READ..var::SEG_WRITE + 6];
        put(real && bounds.iter().all(|&b| b == 0x1_0000), key::REAL_LIMITS);
        put(rest & flag::DF != 0, key::DOWN);
        k
    }

    /// The rights of instruction fetches.
    pub const fn fetch_rights(&self) -> Rights {
        if self.sys.cpl == 3 { Rights::User } else { Rights::Supervisor }
    }

    /// Takes what has come in on the pins; true when the processor went somewhere else.
    fn take_edges(&mut self, bus: &mut Bus<'_>) {
        let pins = bus.board.pins(self.index);
        let (init, nmi, smi) = (pins.init.take_edge(), pins.nmi.take_edge(), pins.smi.take_edge());
        let startup = if pins.sipi.is_pending() { pins.sipi.take() } else { None };
        let a20 = pins.a20.level();
        let error = self.x87.pending() && self.sys.cr0 & cr0::NE == 0;
        if error || self.sys.ignore_error || pins.ferr.level() {
            self.sys.error_waited &= error;
            self.sys.ignore_error = error && (self.sys.ignore_error || pins.ignne.take_edge());
            pins.ferr.set(self.sys.error_waited && !self.sys.ignore_error);
        }
        self.sys.init_pending |= init;
        if self.sys.init_pending && !self.sys.smm {
            self.init();
            bus.tlb.flush();
        }
        if let Some(vector) = startup {
            self.startup(vector);
        }
        self.sys.nmi_pending |= nmi;
        self.sys.smi_pending |= smi;
        if a20 != self.sys.a20 {
            self.sys.a20 = a20;
            bus.tlb.flush();
        }
    }

    /// Events between instructions, in the order of SDM vol. 3A table 6-2.
    fn take_events(&mut self, bus: &mut Bus<'_>) {
        if self.sys.activity == Activity::WaitForSipi || self.sys.activity == Activity::Shutdown {
            return;
        }
        if self.sys.shadow == 2 {
            self.sys.shadow = 1;
        }
        if self.sys.smi_pending && !self.sys.smm {
            self.sys.smi_pending = false;
            self.enter_smm(bus);
            return;
        }
        if self.sys.shadow != 0 {
            return;
        }
        let pending = std::mem::take(&mut self.sys.debug_pending);
        if pending != 0 {
            self.deliver(bus, Fault::debug(pending));
        }
        if self.sys.nmi_pending && !self.sys.nmi_blocked {
            self.sys.nmi_pending = false;
            self.take_interrupt(bus, vector::NMI);
            self.sys.nmi_blocked = true;
            return;
        }
        let open = self.frame.ints[var::EFLAGS_REST] & flag::IF != 0;
        if open && bus.board.pins(self.index).intr.level() {
            bus.board.elapse(bus.done);
            if let Some(vector) = bus.board.acknowledge_interrupt(self.index) {
                self.take_interrupt(bus, vector);
            }
        }
    }
}

impl Isa for X86Isa {
    type Cpu = X86;
    type Trap = Fault;
    const MAX_INSN: usize = 15;
    const COMPARED: Option<[Var; 3]> =
        Some([Var(var::CC_OP as u8), Var(var::CC_DST as u8), Var(var::CC_SRC as u8)]);

    /// MXCSR: to nearest, inexact raised and masked.
    const FLOAT_GUARD: (Var, u64, u64) = (Var(var::MXCSR as u8), 0x7020, 0x1020);
    const FLOAT_INEXACT: u64 = 0x20;
    const STACK: Option<StackUnit> = Some(super::x87::stacked::UNIT);
    const MXCSR: Option<Var> = Some(Var(var::MXCSR as u8));

    fn frame(cpu: &X86) -> &Frame {
        &cpu.frame
    }

    fn frame_mut(cpu: &mut X86) -> &mut Frame {
        &mut cpu.frame
    }

    fn pc(cpu: &X86) -> u64 {
        cpu.frame.ints[var::RIP]
    }

    fn set_pc(cpu: &mut X86, pc: u64) {
        cpu.set_rip(pc);
    }

    fn reset(cpu: &mut X86, _index: usize) {
        cpu.reset();
    }

    fn dump(cpu: &X86) -> String {
        cpu.dump()
    }

    fn var_bits(key: u64, v: Var) -> u32 {
        let v = usize::from(v.0);
        let gpr = v < 16 || (var::SEG_BASE..var::SEG_BASE + 6).contains(&v);
        if key & key::LONG == 0 && (gpr || v == var::RIP) { 32 } else { 64 }
    }

    fn block_key(cpu: &X86) -> u64 {
        cpu.mode_key()
    }

    fn one_insn(key: u64) -> bool {
        key & key::SINGLE != 0
    }

    fn fetch_mmu(key: u64) -> u8 {
        u8::from(key & key::USER != 0)
    }

    fn data_mmu(key: u64) -> u8 {
        lift::data_mmu(key)
    }

    fn code_window(cpu: &X86, pc: u64) -> Result<CodeWindow, Fault> {
        let mmu = cpu.fetch_rights() as u8;
        let cs = &cpu.sys.seg[seg::CS];
        if cpu.code64() {
            if !X86::canonical(pc) {
                return Err(Fault::GP0);
            }
            return Ok(CodeWindow { linear: pc, len: (1 << 47) - (pc & ((1 << 47) - 1)), mmu });
        }
        let limit = u64::from(cs.limit);
        if pc > limit {
            return Err(Fault::GP0);
        }
        let linear = cpu.wrap_linear(cs.base.wrapping_add(pc));
        Ok(CodeWindow { linear, len: limit - pc + 1, mmu })
    }

    fn lift(cpu: &X86, key: u64, pc: u64, code: &[u8], b: &mut Builder) -> Lift {
        lift::lift(cpu, key, pc, code, b)
    }

    fn walk(
        cpu: &mut X86,
        board: &mut Board,
        linear: u64,
        access: Access,
        mmu: u8,
    ) -> Result<Mapping, Fault> {
        let rights = match mmu {
            1 => Rights::User,
            2 => Rights::Smap,
            _ => Rights::Supervisor,
        };
        let mut map = cpu.walk(board, linear, access, rights)?;
        if access != Access::Exec && cpu.watched_page(linear) {
            cpu.note_access(linear, access);
            (map.read, map.write) = (false, false);
        }
        Ok(map)
    }

    fn linear_mask(cpu: &X86) -> u64 {
        if cpu.long_mode() { u64::MAX } else { 0xffff_ffff }
    }

    fn helper(f: u16, env: &mut Env<'_, Self>, args: &[u64; 6]) -> Result<u64, Fault> {
        if f >= FIRST_OTHER {
            return lift::ext::call(f, env, args);
        }
        let Some(helper) = Helper::from_id(f) else { return Err(Fault::UD) };
        let code = env.cpu.sys.seg[seg::CS];
        let result = call(helper, env, args);
        let now = env.cpu.sys.seg[seg::CS];
        if (code.base, code.limit) != (now.base, now.limit) {
            env.code_window_changed();
        }
        result
    }

    fn quick(f: u16) -> Option<Quick<X86>> {
        lift::ext::quick(f)
    }

    fn stack_op(f: u16, what: u64) -> Option<Stacked> {
        lift::ext::stack_op(f, what)
    }

    fn pure(f: u16, args: &[u64; 6]) -> u64 {
        lift::pure(f, args)
    }

    fn vec_op(kind: u16, a: u128, b: u128, imm: u8) -> u128 {
        lift::vec_op(kind, a, b, imm)
    }

    fn expand(f: u16, d: Var, args: &Args, first: u8, out: &mut Vec<Op>) -> bool {
        lift::expand(f, d, args, first, out)
    }

    fn vec_kind(kind: u16) -> Option<VecKind> {
        super::sse::SimdOp::from_index(kind).and_then(super::sse::vec_kind)
    }

    fn trap(id: u16, arg: u64) -> Fault {
        lift::trap(id, arg)
    }

    fn deliver(env: &mut Env<'_, Self>, trap: Fault) {
        if trap == Fault::AGAIN {
            return;
        }
        let trap = super::noncanonical::resolve(env, trap);
        let (cpu, mut bus) = split(env);
        let code = cpu.sys.seg[seg::CS];
        cpu.deliver(&mut bus, trap);
        let now = cpu.sys.seg[seg::CS];
        if (code.base, code.limit) != (now.base, now.limit) {
            env.code_window_changed();
        }
    }

    fn poll(env: &mut Env<'_, Self>) -> Poll {
        let (cpu, mut bus) = split(env);
        let code = cpu.sys.seg[seg::CS];
        cpu.take_edges(&mut bus);
        if std::mem::take(&mut cpu.sys.yielding) {
            return Poll::Yield;
        }
        cpu.take_events(&mut bus);
        if cpu.sys.activity == Activity::Running {
            cpu.sys.step_armed = cpu.frame.ints[var::EFLAGS_REST] & flag::TF != 0;
            // AMD's MOV SS does not hold off instruction breakpoints.
            if cpu.breakpoints() && (cpu.sys.shadow == 0 || cpu.model.is_amd()) {
                cpu.check_breakpoint(&mut bus);
            }
        }
        if std::mem::take(&mut cpu.reset_request) {
            bus.board.power().request(PowerRequest::Reset);
        }
        let poll = match cpu.sys.activity {
            Activity::Running => Poll::Run,
            Activity::Halted | Activity::WaitForSipi => Poll::Halted,
            Activity::Shutdown => Poll::Shutdown,
        };
        let now = cpu.sys.seg[seg::CS];
        if (code.base, code.limit) != (now.base, now.limit) {
            env.code_window_changed();
        }
        poll
    }

    fn is_quiet(cpu: &mut X86, index: usize, board: &Board) -> bool {
        let pins = board.pins(index);
        let s = &cpu.sys;
        let rest = cpu.frame.ints[var::EFLAGS_REST];
        let edges = pins.init.has_edge() | pins.nmi.has_edge() | pins.smi.has_edge();
        let pending = edges
            | pins.sipi.is_pending()
            | (pins.a20.level() != s.a20)
            | cpu.x87.pending()
            | s.ignore_error
            | pins.ferr.level()
            | s.init_pending
            | s.nmi_pending
            | s.smi_pending
            | (s.shadow != 0)
            | (s.debug_pending != 0)
            | s.yielding
            | cpu.reset_request
            | cpu.breakpoints();
        !pending
            && s.activity == Activity::Running
            && rest & flag::TF == 0
            && !s.step_armed
            && (rest & flag::IF == 0 || !pins.intr.level())
    }

    fn stepped(env: &mut Env<'_, Self>) {
        let (cpu, mut bus) = split(env);
        let code = cpu.sys.seg[seg::CS];
        cpu.after_instruction(&mut bus);
        let now = cpu.sys.seg[seg::CS];
        if (code.base, code.limit) != (now.base, now.limit) {
            env.code_window_changed();
        }
    }
}

/// Runs a helper of [`Helper`].
fn call(helper: Helper, env: &mut Env<'_, X86Isa>, args: &[u64; 6]) -> Result<u64, Fault> {
    let [a, b, c, d, e, f] = *args;
    if matches!(
        helper,
        Helper::In
            | Helper::Out
            | Helper::Ins
            | Helper::Outs
            | Helper::Rdtsc
            | Helper::Rdtscp
            | Helper::Rdmsr
            | Helper::Wrmsr
            | Helper::ReadCr
            | Helper::WriteCr
            | Helper::Cpuid
            | Helper::Rsm
            | Helper::Movs
            | Helper::Stos
            | Helper::Lods
            | Helper::Cmps
            | Helper::Scas
    ) {
        env.sync_clock();
    }
    let (cpu, mut bus) = split(env);
    let bus = &mut bus;
    let string = |insn: StringInsn| StringOp {
        insn,
        width: a as u8,
        addrsize: b as u8,
        rep: c as u8,
        seg: d as usize & 7,
    };
    let found = |v: Option<u32>| v.map_or(0, |v| u64::from(v) | 1 << 32);
    let done = |r: Result<(), Fault>| r.map(|()| 0);
    match helper {
        Helper::Raise => Err(Fault::plain(a as u8)),
        Helper::RaiseCode => Err(Fault::code(a as u8, b as u32)),
        Helper::CheckCpl0 => done(cpu.require_cpl0()),
        Helper::CheckTarget => {
            let code = cpu.sys.seg[seg::CS];
            done(cpu.check_target(&code, a))
        }
        Helper::CheckAlign => {
            let bad = b.is_power_of_two() && a & (b - 1) != 0;
            if bad { Err(Fault::code(vector::AC, 0)) } else { Ok(0) }
        }
        Helper::SegCheckRead => cpu.check_access(a as usize, b, c, false),
        Helper::SegCheckWrite => cpu.check_access(a as usize, b, c, true),
        Helper::LoadSeg => done(cpu.load_segment(bus, a as usize % 6, b as u16)),
        Helper::SegAt | Helper::SegLoad => {
            cpu.load_segment(bus, (a & 7) as usize % 6, b as u16)?;
            cpu.frame.ints[var::RSP] = f;
            cpu.set_rip(e);
            Ok(0)
        }
        Helper::ShadowSs => {
            cpu.sys.shadow = 2;
            cpu.sys.shadow_ss = true;
            Ok(0)
        }
        Helper::Lar => {
            let v = cpu.lar(bus, a as u16)?;
            Ok(found(v.map(|v| if b == 2 { v & 0xffff } else { v })))
        }
        Helper::Lsl => {
            let v = cpu.lsl(bus, a as u16)?;
            Ok(found(v.map(|v| if b == 2 { v & 0xffff } else { v })))
        }
        Helper::Verr => cpu.verify(bus, a as u16, false).map(u64::from),
        Helper::Verw => cpu.verify(bus, a as u16, true).map(u64::from),
        Helper::Lgdt | Helper::Lidt => {
            cpu.require_cpl0()?;
            if cpu.code64() && !X86::canonical(a) {
                return Err(Fault::GP0);
            }
            let table = super::state::TableReg { base: a, limit: b as u16 };
            if helper == Helper::Lgdt {
                cpu.sys.gdtr = table;
            } else {
                cpu.sys.idtr = table;
            }
            Ok(0)
        }
        Helper::SgdtBase => cpu.check_umip().map(|()| cpu.sys.gdtr.base),
        Helper::SgdtLimit => Ok(cpu.sys.gdtr.limit.into()),
        Helper::SidtBase => cpu.check_umip().map(|()| cpu.sys.idtr.base),
        Helper::SidtLimit => Ok(cpu.sys.idtr.limit.into()),
        Helper::Lldt => done(cpu.lldt(bus, a as u16)),
        Helper::Ltr => done(cpu.ltr(bus, a as u16)),
        Helper::Sldt | Helper::Str => {
            if !cpu.descriptors() {
                return Err(Fault::UD);
            }
            cpu.check_umip()?;
            let s = if helper == Helper::Sldt { &cpu.sys.ldtr } else { &cpu.sys.tr };
            Ok(s.selector.into())
        }
        Helper::WriteBase => {
            cpu.check_fsgsbase()?;
            if !X86::canonical(b) {
                return Err(Fault::GP0);
            }
            cpu.set_base(a as usize % 6, b);
            Ok(0)
        }
        Helper::ReadBase => {
            cpu.check_fsgsbase()?;
            Ok(cpu.sys.seg[a as usize % 6].base)
        }
        Helper::Swapgs => done(cpu.swapgs()),
        Helper::JmpFar => {
            done(cpu.jmp_far(bus, a as u16, b, c as u8, d)).inspect(|_| cpu.raise_late(bus))
        }
        Helper::CallFar => {
            done(cpu.call_far(bus, a as u16, b, c as u8, d)).inspect(|_| cpu.raise_late(bus))
        }
        Helper::RetFar => done(cpu.ret_far(bus, a as u8, b)),
        Helper::Iret => done(cpu.iret(bus, a as u8, b)).inspect(|_| cpu.raise_late(bus)),
        Helper::Int => software(cpu, bus, a as u8, Source::Software, b),
        Helper::Int3 => software(cpu, bus, vector::BP, Source::Breakpoint, a),
        Helper::Into => software(cpu, bus, vector::OF, Source::Breakpoint, a),
        Helper::Int1 => software(cpu, bus, vector::DB, Source::Icebp, a),
        Helper::Syscall => done(cpu.syscall(a)),
        Helper::Sysret => done(cpu.sysret(a as u8)),
        Helper::Sysenter => done(cpu.sysenter()),
        Helper::Sysexit => done(cpu.sysexit(a as u8)),
        Helper::Rsm => done(cpu.rsm(bus)),
        Helper::Pushf => cpu.pushf(a as u8),
        Helper::Popf => done(cpu.popf(a, b as u8)),
        Helper::Cli => done(cpu.cli()),
        Helper::Sti => done(cpu.sti()),
        Helper::Shadow => {
            cpu.open_shadow();
            Ok(0)
        }
        Helper::EndShadow => {
            cpu.end_shadow();
            Ok(0)
        }
        Helper::Clac => done(cpu.set_ac(false)),
        Helper::Stac => done(cpu.set_ac(true)),
        Helper::ReadCr => cpu.read_cr(bus, a),
        Helper::WriteCr => done(cpu.write_cr(bus, a, b)),
        Helper::Smsw => cpu.check_umip().map(|()| cpu.sys.cr0),
        Helper::Lmsw => done(cpu.lmsw(bus, a)),
        Helper::Clts => {
            cpu.require_cpl0()?;
            cpu.sys.cr0 &= !cr0::TS;
            Ok(0)
        }
        Helper::ReadDr => cpu.read_dr(a),
        Helper::WriteDr => done(cpu.write_dr(bus, a, b)),
        Helper::Invlpg => {
            cpu.require_cpl0()?;
            bus.tlb.flush_page(cpu.wrap_linear(a));
            Ok(0)
        }
        Helper::Wbinvd => done(cpu.require_cpl0()),
        Helper::Cpuid => done(cpu.do_cpuid(bus)),
        Helper::Rdtsc => done(cpu.rdtsc(bus)),
        Helper::Rdtscp => done(cpu.rdtscp(bus)),
        Helper::Rdpmc => done(cpu.rdpmc()),
        Helper::Rdmsr => done(cpu.rdmsr(bus)),
        Helper::Wrmsr => done(cpu.wrmsr(bus)),
        Helper::Rdrand | Helper::Rdseed => Ok(truncate(cpu.random(), a as u8)),
        Helper::Hlt => {
            cpu.require_cpl0()?;
            cpu.sys.activity = Activity::Halted;
            cpu.set_rip(a);
            Ok(0)
        }
        Helper::Monitor => {
            let there = cpu.model.has(super::cpuid::feature::MONITOR);
            if there && cpu.sys.cpl == 0 { Ok(0) } else { Err(Fault::UD) }
        }
        Helper::Mwait => {
            let there = cpu.model.has(super::cpuid::feature::MONITOR);
            if !there || cpu.sys.cpl != 0 {
                return Err(Fault::UD);
            }
            cpu.sys.yielding = true;
            cpu.set_rip(a);
            Ok(0)
        }
        Helper::Pause => {
            cpu.sys.yielding = bus.board.cpus() > 1;
            cpu.set_rip(a);
            Ok(0)
        }
        Helper::In => {
            let (port, width) = (a as u16, b as u8);
            cpu.check_io(bus, port, width)?;
            cpu.note_port(port, width);
            Ok(bus.board.port_in(port, width).into())
        }
        Helper::Out => {
            let (port, width) = (a as u16, b as u8);
            cpu.check_io(bus, port, width)?;
            cpu.note_port(port, width);
            bus.board.port_out(port, width, c as u32);
            Ok(0)
        }
        Helper::Movs => done(cpu.string(bus, string(StringInsn::Movs), e, f)),
        Helper::Stos => done(cpu.string(bus, string(StringInsn::Stos), e, f)),
        Helper::Lods => done(cpu.string(bus, string(StringInsn::Lods), e, f)),
        Helper::Cmps => done(cpu.string(bus, string(StringInsn::Cmps), e, f)),
        Helper::Scas => done(cpu.string(bus, string(StringInsn::Scas), e, f)),
        Helper::Ins => done(cpu.string(bus, string(StringInsn::Ins), e, f)),
        Helper::Outs => done(cpu.string(bus, string(StringInsn::Outs), e, f)),
        Helper::Enter => done(cpu.enter_frame(bus, a, b, c as u8)),
    }
}

fn software(
    cpu: &mut X86,
    bus: &mut Bus<'_>,
    vector: u8,
    source: Source,
    next: u64,
) -> Result<u64, Fault> {
    cpu.software_interrupt(bus, vector, source, next)?;
    cpu.raise_late(bus);
    Ok(0)
}

impl X86 {
    /// The registers as `info registers` prints them.
    pub fn dump(&self) -> String {
        use std::fmt::Write;
        const NAMES: [&str; 8] = ["AX", "CX", "DX", "BX", "SP", "BP", "SI", "DI"];
        const SEGS: [&str; 6] = ["ES", "CS", "SS", "DS", "FS", "GS"];
        let ints = &self.frame.ints;
        let s = &self.sys;
        let mut out = String::new();
        let long = self.long_mode();
        let order =
            [var::RAX, var::RBX, var::RCX, var::RDX, var::RSI, var::RDI, var::RBP, var::RSP];
        // Writing to a string cannot fail.
        for (i, r) in order.into_iter().enumerate() {
            let end = if i % 4 == 3 { "\n" } else { " " };
            let _ = if long {
                write!(out, "R{}={:016x}{end}", NAMES[r], ints[r])
            } else {
                write!(out, "E{}={:08x}{end}", NAMES[r], ints[r])
            };
        }
        if long {
            for (r, value) in ints.iter().enumerate().take(16).skip(8) {
                let end = if r % 4 == 3 { "\n" } else { " " };
                let _ = write!(out, "{:<3}={value:016x}{end}", format!("R{r}"));
            }
        }
        let flags = self.rflags();
        let letters: String = "ODSZAPC"
            .chars()
            .zip([flag::OF, flag::DF, flag::SF, flag::ZF, flag::AF, flag::PF, flag::CF])
            .map(|(c, bit)| if flags & bit != 0 { c } else { '-' })
            .collect();
        let width = if long { 16 } else { 8 };
        let name = if long { "R" } else { "E" };
        let _ = writeln!(
            out,
            "{name}IP={:0width$x} {name}FL={flags:08x} [{letters}] CPL={} II={} A20={} SMM={} HLT={}",
            ints[var::RIP],
            s.cpl,
            u8::from(s.shadow != 0),
            u8::from(s.a20),
            u8::from(s.smm),
            u8::from(s.activity == Activity::Halted),
        );
        let all = SEGS.iter().zip(&s.seg).chain([(&"LDT", &s.ldtr), (&"TR", &s.tr)]);
        for (name, seg) in all {
            let _ = writeln!(
                out,
                "{name:<3}={:04x} {:0width$x} {:08x} {:08x} DPL={}",
                seg.selector,
                seg.base,
                seg.limit,
                u32::from(seg.attr) << 8,
                rpl(u16::from(seg.dpl())),
            );
        }
        let _ = writeln!(out, "GDT=     {:0width$x} {:08x}", s.gdtr.base, s.gdtr.limit);
        let _ = writeln!(out, "IDT=     {:0width$x} {:08x}", s.idtr.base, s.idtr.limit);
        let _ = writeln!(
            out,
            "CR0={:08x} CR2={:0width$x} CR3={:0width$x} CR4={:08x}",
            s.cr0, s.cr2, s.cr3, s.cr4
        );
        let _ = writeln!(
            out,
            "DR0={:0width$x} DR1={:0width$x} DR2={:0width$x} DR3={:0width$x}",
            s.dr[0], s.dr[1], s.dr[2], s.dr[3]
        );
        let _ = writeln!(out, "DR6={:0width$x} DR7={:0width$x}", s.dr[6], s.dr[7]);
        let _ = writeln!(out, "EFER={:016x}", s.efer);
        out
    }
}
