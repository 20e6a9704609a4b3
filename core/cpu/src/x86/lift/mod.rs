//! x86 instructions to IR.
//!
//! One instruction at a time: decode, then emit. Every emitter reads its operands and makes all
//! checks and loads first, and writes registers and flags last, so that a fault finds the state
//! as it was before the instruction. What is not plain data flow is a call to a
//! [`Helper`].

mod arith;
mod bits;
mod control;
mod data;
mod expand;
pub mod ext;
mod flag;
mod pure;
mod shift;
mod simd;
mod string;
mod system;
mod x87;

use super::cpuid::{Model, feature};
use super::decode::{DecodeError, MAX_LENGTH, decode};
use super::helper::Helper;
use super::insn::{CodeSize, Features, Id, Insn, Mem, Mode, NO_REG, Operand, RIP_REG};
use super::state::{Fault, X86, key, seg, var, vector};
use crate::ir::{self, Addr, BinOp, Builder, Cmp, Cond, Fx, Val, Var, Width};
use crate::isa::Lift;

pub use expand::expand;
pub use pure::{pure, vec_op};

/// The flag in a trap id that says the argument is an error code.
const WITH_CODE: u16 = 0x100;

/// The exception that a trap in the IR names: the vector, or vector and error code.
pub fn trap(id: u16, arg: u64) -> Fault {
    if id & WITH_CODE != 0 { Fault::code(id as u8, arg as u32) } else { Fault::plain(id as u8) }
}

/// The instructions a model has.
pub fn features(model: &Model) -> Features {
    let pairs = [
        (feature::FPU, Features::FPU),
        (feature::TSC, Features::TSC),
        (feature::MSR, Features::MSR),
        (feature::CX8, Features::CX8),
        (feature::SEP, Features::SEP),
        (feature::CMOV, Features::CMOV),
        (feature::CLFLUSH, Features::CLFSH),
        (feature::CLFLUSHOPT, Features::CLFLUSHOPT),
        (feature::CLWB, Features::CLWB),
        (feature::MMX, Features::MMX),
        (feature::FXSR, Features::FXSR),
        (feature::SSE, Features::SSE),
        (feature::SSE2, Features::SSE2),
        (feature::SSE3, Features::SSE3),
        (feature::SSSE3, Features::SSSE3),
        (feature::SSE41, Features::SSE41),
        (feature::SSE42, Features::SSE42),
        (feature::AES, Features::AES),
        (feature::PCLMUL, Features::PCLMULQDQ),
        (feature::MONITOR, Features::MONITOR),
        (feature::MOVBE, Features::MOVBE),
        (feature::POPCNT, Features::POPCNT),
        (feature::ABM, Features::LZCNT),
        (feature::BMI1, Features::BMI1),
        (feature::BMI2, Features::BMI2),
        (feature::ADX, Features::ADX),
        (feature::RDRAND, Features::RDRAND),
        (feature::RDSEED, Features::RDSEED),
        (feature::RDTSCP, Features::RDTSCP),
        (feature::RDPID, Features::RDPID),
        (feature::SYSCALL, Features::SYSCALL),
        (feature::LAHF_LM, Features::LAHF64),
        (feature::FSGSBASE, Features::FSGSBASE),
        (feature::SMAP, Features::SMAP),
        (feature::INVPCID, Features::INVPCID),
        (feature::PREFETCHW, Features::PREFETCHW),
        // Every 64-bit processor takes it, whatever the bit says; Linux counts on that (AMD64 APM
        // vol. 3, PREFETCH: present with 3DNow!, LM or the bit).
        (feature::LM, Features::PREFETCHW),
        (feature::D3NOW, Features::PREFETCHW),
        (feature::XSAVE, Features::XSAVE),
        (feature::CX16, Features::CX16),
    ];
    let mut all = Features::I486 | Features::CPUID;
    for (bit, there) in pairs {
        if model.has(bit) {
            all |= there;
        }
    }
    all
}

/// The decoding mode in a block key.
pub fn mode(block_key: u64, features: Features) -> Mode {
    let code = match block_key & key::CODE_SIZE {
        0 => CodeSize::Bits16,
        1 => CodeSize::Bits32,
        _ => CodeSize::Bits64,
    };
    Mode { code, protected: block_key & key::PROTECTED != 0, features }
}

/// Emits the instruction at `pc`, whose bytes are at the start of `code`.
pub fn lift(cpu: &X86, block_key: u64, pc: u64, code: &[u8], b: &mut Builder) -> Lift {
    let mode = mode(block_key, cpu.features.of(&cpu.model));
    let mut bytes = code.iter().copied();
    match decode(mode, &mut || bytes.next().ok_or(())) {
        Ok(insn) => {
            let mut lifter = Lifter::new(b, insn, block_key, pc);
            lifter.id_flag = cpu.has_id_flag();
            let flow = lifter.dispatch();
            if lifter.b.is_behind_open() { lifter.end_shadow(flow) } else { flow }
        }
        Err(DecodeError::Fetch(())) => Lift::Short,
        Err(DecodeError::Undefined) => {
            b.trap(vector::UD.into(), 0u64);
            Lift::End(1)
        }
        Err(DecodeError::TooLong) => {
            b.trap(u16::from(vector::GP) | WITH_CODE, 0u64);
            Lift::End(MAX_LENGTH)
        }
    }
}

/// The MMU index of memory operands.
pub const fn data_mmu(block_key: u64) -> u8 {
    if block_key & key::USER != 0 {
        1
    } else if block_key & key::SMAP != 0 {
        2
    } else {
        0
    }
}

/// The general register variable `n`.
const fn gpr(n: u8) -> Var {
    Var(n & 15)
}

const RAX: Var = Var(var::RAX as u8);
const RCX: Var = Var(var::RCX as u8);
const RDX: Var = Var(var::RDX as u8);
const RBX: Var = Var(var::RBX as u8);
const RSP: Var = Var(var::RSP as u8);
const RBP: Var = Var(var::RBP as u8);
const RSI: u8 = var::RSI as u8;
const RDI: u8 = var::RDI as u8;
const RIP: Var = Var(var::RIP as u8);
const REST: Var = Var(var::EFLAGS_REST as u8);

/// The variable of a table that has one entry per segment register.
const fn of_seg(table: usize, seg: u8) -> Var {
    Var(table as u8 + seg)
}

fn width(bytes: u8) -> Width {
    match bytes {
        1 => Width::W8,
        2 => Width::W16,
        4 => Width::W32,
        _ => Width::W64,
    }
}

/// What comes after an instruction.
type Flow = Lift;

/// Where a read-modify-write goes.
#[derive(Clone, Copy)]
enum Dest {
    Reg(Operand),
    Mem(Addr, Width, ir::Mem),
}

/// What an access does, for segment checks.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Intent {
    Read,
    Write,
}

struct Lifter<'a> {
    b: &'a mut Builder,
    i: Insn,
    key: u64,
    pc: u64,
    /// Address of the next instruction.
    next: u64,
    long: bool,
    mmu: u8,
    /// EFLAGS.ID can be changed.
    id_flag: bool,
}

impl<'a> Lifter<'a> {
    fn new(b: &'a mut Builder, i: Insn, block_key: u64, pc: u64) -> Self {
        let long = block_key & key::CODE_SIZE == 2;
        let next = pc.wrapping_add(i.len.into());
        let next = if long { next } else { next & 0xffff_ffff };
        let mmu = data_mmu(block_key);
        Self { b, i, key: block_key, pc, next, long, mmu, id_flag: false }
    }

    fn has(&self, bit: u64) -> bool {
        self.key & bit != 0
    }

    /// Real mode, or protected mode at level 0: what is privileged is allowed.
    fn privileged(&self) -> bool {
        !self.has(key::USER | key::INNER | key::V86)
    }

    /// The instruction is done; the next one follows.
    fn done(&self) -> Flow {
        Lift::Next(self.i.len)
    }

    /// The ops emitted end the block.
    fn end(&self) -> Flow {
        Lift::End(self.i.len)
    }

    /// Ends the block with the run loop having a look before the next instruction.
    fn leave_next(&mut self) -> Flow {
        self.b.leave(self.next);
        self.end()
    }

    /// Ends the block where a helper put the program counter.
    fn leave_rip(&mut self) -> Flow {
        self.b.leave(RIP);
        self.end()
    }

    fn raise(&mut self, vector: u8) -> Flow {
        self.b.trap(vector.into(), 0u64);
        self.end()
    }

    fn undefined(&mut self) -> Flow {
        self.raise(vector::UD)
    }

    /// #GP(0) if the comparison holds.
    fn gp_if(&mut self, cmp: Cmp) {
        self.b.trap_if(cmp, u16::from(vector::GP) | WITH_CODE, 0u64);
    }

    fn tmp(&mut self) -> Var {
        self.b.tmp()
    }

    /// A fresh temporary holding `a` cut to `w`.
    fn copy(&mut self, w: Width, a: impl Into<Val>) -> Var {
        let t = self.tmp();
        self.b.mov(w, t, a);
        t
    }

    fn bin(&mut self, op: BinOp, w: Width, a: impl Into<Val>, b: impl Into<Val>) -> Var {
        let t = self.tmp();
        self.b.bin(op, w, t, a, b);
        t
    }

    fn call(&mut self, f: Helper, args: &[Val], fx: Fx) {
        self.b.call(f.id(), None, args, fx);
    }

    /// A helper that is a quick function.
    fn quick(&mut self, f: Helper, args: &[Val]) -> Var {
        let t = self.tmp();
        self.b.quick(f.id(), t, args);
        t
    }

    fn call_value(&mut self, f: Helper, args: &[Val], fx: Fx) -> Var {
        let t = self.tmp();
        self.b.call(f.id(), Some(t), args, fx);
        t
    }

    // -- operands ---------------------------------------------------------------------------

    fn op(&self, n: usize) -> Operand {
        self.i.ops[n]
    }

    /// Size in bytes of an operand.
    fn size(&self, op: Operand) -> u8 {
        match op {
            Operand::Gpr(_, n)
            | Operand::Mem(n)
            | Operand::Imm(n)
            | Operand::Src(n)
            | Operand::Dst(n) => n,
            Operand::High(_) => 1,
            Operand::Seg(_) => 2,
            Operand::Xmm(_) => 16,
            Operand::Mm(_) => 8,
            _ => self.i.opsize,
        }
    }

    fn width(&self, op: Operand) -> Width {
        width(self.size(op))
    }

    /// The value of an operand; bits above its size are anything.
    fn read(&mut self, op: Operand) -> Val {
        match op {
            Operand::Gpr(n, _) => gpr(n).into(),
            Operand::High(n) => {
                let t = self.tmp();
                self.b.extract(t, gpr(n), 8, 8);
                t.into()
            }
            Operand::Imm(_) => self.i.imm.into(),
            Operand::Imm2 => u64::from(self.i.imm2).into(),
            Operand::Seg(n) => of_seg(var::SEG_SELECTOR, n).into(),
            Operand::Mem(size) => self.load(size, 0).into(),
            _ => 0u64.into(),
        }
    }

    /// The value of an operand in a temporary, zero-extended.
    fn read_copy(&mut self, op: Operand) -> Var {
        let value = self.read(op);
        match (op, value) {
            (Operand::Mem(_) | Operand::High(_), Val::Var(t)) => t,
            _ => {
                let w = self.width(op);
                self.copy(w, value)
            }
        }
    }

    /// The value of an operand sign-extended to `to`, in a temporary.
    fn read_sext(&mut self, op: Operand, to: Width) -> Var {
        let from = self.width(op);
        let value = self.read(op);
        let t = self.tmp();
        self.b.sext(from, to, t, value);
        t
    }

    /// Writes a general register of a size.
    fn write_gpr(&mut self, n: u8, size: u8, value: impl Into<Val>) {
        match size {
            1 => self.b.deposit(gpr(n), gpr(n), value, 0, 8),
            2 => self.b.deposit(gpr(n), gpr(n), value, 0, 16),
            4 => self.b.mov(Width::W32, gpr(n), value),
            _ => self.b.mov(Width::W64, gpr(n), value),
        }
    }

    /// Writes a register operand.
    fn write_reg(&mut self, op: Operand, value: impl Into<Val>) {
        match op {
            Operand::Gpr(n, size) => self.write_gpr(n, size, value),
            Operand::High(n) => self.b.deposit(gpr(n), gpr(n), value, 8, 8),
            _ => {}
        }
    }

    /// Writes a register or stores to memory. A store comes before any other write.
    fn write(&mut self, op: Operand, value: impl Into<Val>) {
        match op {
            Operand::Mem(size) => self.store(size, 0, value),
            op => self.write_reg(op, value),
        }
    }

    /// Reads an operand that will be written back.
    fn read_dest(&mut self, op: Operand) -> (Val, Dest) {
        match op {
            Operand::Mem(size) => {
                let addr = self.ea(size, 0, Intent::Write);
                let mem = if self.i.lock || self.i.id == Id::XCHG {
                    ir::Mem::locked(self.mmu)
                } else {
                    ir::Mem::rmw(self.mmu)
                };
                let t = self.tmp();
                self.b.load(width(size), t, addr, mem);
                (t.into(), Dest::Mem(addr, width(size), mem))
            }
            op => (self.read(op), Dest::Reg(op)),
        }
    }

    fn write_dest(&mut self, dest: Dest, value: impl Into<Val>) {
        match dest {
            Dest::Reg(op) => self.write_reg(op, value),
            Dest::Mem(addr, w, mem) => self.b.store(w, value, addr, mem),
        }
    }

    // -- addresses --------------------------------------------------------------------------

    fn addr_width(&self) -> Width {
        width(self.i.addrsize)
    }

    /// The offset of the memory operand plus `extra`, without its segment.
    fn offset(&self, mem: &Mem, extra: i64) -> Addr {
        let wrap = self.addr_width();
        let reg = |n: u8| (n != NO_REG).then(|| gpr(n));
        let mut disp = mem.disp.wrapping_add(extra);
        let base = if mem.base == RIP_REG {
            disp = disp.wrapping_add(self.next as i64);
            None
        } else {
            reg(mem.base)
        };
        Addr {
            segment: None,
            base,
            index: reg(mem.index),
            scale: mem.scale,
            disp,
            wrap,
            lin: Width::W64,
        }
    }

    /// Width of linear addresses.
    fn linear_width(&self) -> Width {
        if self.long { Width::W64 } else { Width::W32 }
    }

    /// The linear address of `size` bytes at the memory operand plus `extra`, checked against its
    /// segment.
    fn ea(&mut self, size: u8, extra: i64, intent: Intent) -> Addr {
        let mem = self.i.mem;
        let offset = self.offset(&mem, extra);
        self.in_segment(mem.seg, offset, size, intent)
    }

    /// Puts an offset into its segment: base, limit and access check.
    fn in_segment(&mut self, seg: u8, offset: Addr, size: u8, intent: Intent) -> Addr {
        let base = of_seg(var::SEG_BASE, seg);
        let mut addr = offset;
        addr.lin = self.linear_width();
        let data_seg = usize::from(seg) <= seg::DS;
        if self.long {
            if !data_seg {
                addr.segment = Some(base);
            }
        } else if self.has(key::FLAT)
            && data_seg
            && !(usize::from(seg) == seg::CS && intent == Intent::Write)
        {
            // Base 0 and all of 4 GiB allowed.
        } else if self.has(key::REAL_LIMITS) && offset.wrap == Width::W16 {
            addr.segment = Some(base);
            if size > 1 {
                // All but an operand that would go on beyond FFFF is inside.
                let at = self.tmp();
                self.b.lea(at, offset);
                let beyond = Cmp::new(Cond::GtU, Width::W64, at, 0x1_0000 - u64::from(size));
                let vector = if usize::from(seg) == seg::SS { vector::SS } else { vector::GP };
                self.b.trap_if(beyond, u16::from(vector) | WITH_CODE, 0u64);
                addr = Addr { segment: Some(base), lin: Width::W32, ..Addr::flat(at) };
            }
        } else {
            let at = self.tmp();
            self.b.lea(at, offset);
            self.check_segment(seg, at, size.max(1), intent);
            addr = Addr { segment: Some(base), lin: Width::W32, ..Addr::flat(at) };
        }
        if self.has(key::ALIGN) && matches!(size, 2 | 4 | 8) {
            let linear = self.tmp();
            self.b.lea(linear, addr);
            self.call(Helper::CheckAlign, &[linear.into(), u64::from(size).into()], Fx::FAULTS);
        }
        addr
    }

    /// Faults unless `size` bytes at the offset in `at` may be accessed.
    fn check_segment(&mut self, seg: u8, at: Var, size: u8, intent: Intent) {
        let (table, helper) = match intent {
            Intent::Read => (var::SEG_READ, Helper::SegCheckRead),
            Intent::Write => (var::SEG_WRITE, Helper::SegCheckWrite),
        };
        let last = self.bin(BinOp::Add, Width::W64, at, u64::from(size));
        let fine = self.b.new_label();
        self.b.branch(Cmp::new(Cond::LeU, Width::W64, last, of_seg(table, seg)), fine);
        let args = [u64::from(seg).into(), at.into(), u64::from(size).into()];
        self.call(helper, &args, Fx::FAULTS | Fx::READS);
        self.b.label(fine);
    }

    /// Loads from the memory operand plus `extra`.
    fn load(&mut self, size: u8, extra: i64) -> Var {
        let addr = self.ea(size, extra, Intent::Read);
        let t = self.tmp();
        self.b.load(width(size), t, addr, ir::Mem::plain(self.mmu));
        t
    }

    /// Stores to the memory operand plus `extra`.
    fn store(&mut self, size: u8, extra: i64, value: impl Into<Val>) {
        let value = value.into();
        let addr = self.ea(size, extra, Intent::Write);
        self.b.store(width(size), value, addr, ir::Mem::plain(self.mmu));
    }

    // -- the stack --------------------------------------------------------------------------

    /// Width of the stack pointer.
    fn stack_width(&self) -> Width {
        if self.long {
            Width::W64
        } else if self.has(key::STACK32) {
            Width::W32
        } else {
            Width::W16
        }
    }

    /// The address of `size` bytes at `base` + `disp` in the stack segment.
    fn stack_addr(&mut self, base: Var, disp: i64, size: u8, intent: Intent) -> Addr {
        let offset = Addr {
            segment: None,
            base: Some(base),
            index: None,
            scale: 0,
            disp,
            wrap: self.stack_width(),
            lin: Width::W64,
        };
        self.in_segment(seg::SS as u8, offset, size, intent)
    }

    /// Stores below the stack pointer, at `RSP - depth`.
    fn push_at(&mut self, depth: i64, size: u8, value: impl Into<Val>) {
        let value = value.into();
        let addr = self.stack_addr(RSP, -depth, size, Intent::Write);
        self.b.store(width(size), value, addr, ir::Mem::plain(self.mmu));
    }

    /// Loads from `RSP + depth`.
    fn pop_at(&mut self, depth: i64, size: u8) -> Var {
        let addr = self.stack_addr(RSP, depth, size, Intent::Read);
        let t = self.tmp();
        self.b.load(width(size), t, addr, ir::Mem::plain(self.mmu));
        t
    }

    /// Adds to the stack pointer, at its width.
    fn move_sp(&mut self, by: i64) {
        self.set_sp_from(RSP, by);
    }

    /// Stack pointer = `from + by`, at its width.
    fn set_sp_from(&mut self, from: Var, by: i64) {
        let w = self.stack_width();
        if w == Width::W16 {
            let t = self.bin(BinOp::Add, w, from, by as u64);
            self.b.deposit(RSP, RSP, t, 0, 16);
        } else {
            self.b.add(w, RSP, from, by as u64);
        }
    }

    fn push(&mut self, size: u8, value: impl Into<Val>) {
        self.push_at(size.into(), size, value);
        self.move_sp(-i64::from(size));
    }

    // -- dispatch ---------------------------------------------------------------------------

    fn dispatch(&mut self) -> Flow {
        match self.i.id {
            Id::ADD
            | Id::ADC
            | Id::SUB
            | Id::SBB
            | Id::AND
            | Id::OR
            | Id::XOR
            | Id::CMP
            | Id::TEST
            | Id::INC
            | Id::DEC
            | Id::NEG
            | Id::NOT
            | Id::MUL
            | Id::IMUL
            | Id::DIV
            | Id::IDIV
            | Id::AAA
            | Id::AAS
            | Id::AAM
            | Id::AAD
            | Id::DAA
            | Id::DAS
            | Id::CBW
            | Id::CWD
            | Id::XADD
            | Id::CMPXCHG
            | Id::CMPXCHG8B
            | Id::ADCX
            | Id::ADOX
            | Id::MULX => self.arith(),
            Id::ROL
            | Id::ROR
            | Id::RCL
            | Id::RCR
            | Id::SHL
            | Id::SHR
            | Id::SAR
            | Id::SHLD
            | Id::SHRD
            | Id::RORX
            | Id::SHLX
            | Id::SHRX
            | Id::SARX => self.shift(),
            Id::BT
            | Id::BTS
            | Id::BTR
            | Id::BTC
            | Id::BSF
            | Id::BSR
            | Id::LZCNT
            | Id::TZCNT
            | Id::POPCNT
            | Id::BSWAP
            | Id::CRC32
            | Id::ANDN
            | Id::BEXTR
            | Id::BLSI
            | Id::BLSMSK
            | Id::BLSR
            | Id::BZHI
            | Id::PDEP
            | Id::PEXT => self.bits(),
            Id::MOV
            | Id::MOVZX
            | Id::MOVSX
            | Id::MOVSXD
            | Id::MOVBE
            | Id::MOVNTI
            | Id::LEA
            | Id::XCHG
            | Id::XLAT
            | Id::PUSH
            | Id::POP
            | Id::PUSHA
            | Id::POPA
            | Id::ENTER
            | Id::LEAVE
            | Id::LDS
            | Id::LES
            | Id::LFS
            | Id::LGS
            | Id::LSS
            | Id::SETCC
            | Id::CMOVCC
            | Id::LAHF
            | Id::SAHF
            | Id::SALC
            | Id::CLC
            | Id::STC
            | Id::CMC
            | Id::CLD
            | Id::STD
            | Id::NOP
            | Id::NOPL
            | Id::PREFETCHW
            | Id::CLFLUSH
            | Id::CLFLUSHOPT
            | Id::CLWB
            | Id::LFENCE
            | Id::MFENCE
            | Id::SFENCE => self.data(),
            Id::JCC
            | Id::JMP
            | Id::CALL
            | Id::RET
            | Id::LOOP
            | Id::LOOPE
            | Id::LOOPNE
            | Id::JCXZ
            | Id::CALLF
            | Id::JMPF
            | Id::RETF
            | Id::IRET
            | Id::INT
            | Id::INT1
            | Id::INT3
            | Id::INTO
            | Id::BOUND
            | Id::SYSCALL
            | Id::SYSRET
            | Id::SYSENTER
            | Id::SYSEXIT
            | Id::RSM
            | Id::HLT
            | Id::MWAIT
            | Id::PAUSE => self.control(),
            Id::MOVS | Id::STOS | Id::LODS | Id::CMPS | Id::SCAS | Id::INS | Id::OUTS => {
                self.string()
            }
            id => {
                if let Some(flow) = self.system(id) {
                    flow
                } else if matches!(self.i.opcode, 0xd8..=0xdf) && id.name().starts_with('F')
                    || id == Id::FWAIT
                {
                    self.x87()
                } else {
                    self.simd()
                }
            }
        }
    }
}
