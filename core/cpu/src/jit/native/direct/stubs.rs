//! What all regions share: the way in, the ways out, and the calls.
//!
//! A stub that may leave reads the program counter from the instruction behind the call, which
//! loads it into RCX for nobody: the call returns there. Stubs save the guest variables that are in
//! registers to the frame, so that it is as the instruction found it when they leave.

use super::asm::{Alu, Asm, Cc, Code, Group3, Mark, Shift, at};
use super::asm::{R8, R11, R12, R13, R14, R15, RAX, RBP, RBX, RCX, RDI, RDX, RSI, RSP};
use super::float::word;
use super::{BIAS, PINNED, home, slot};
use crate::ir::stack::StackUnit;
use crate::ir::{DECLINED, Var, Width};
use crate::jit::abi::{Context, LINKS, Link, Shims, stop};

const W: Width = Width::W64;
/// MXCSR as host code expects it: nothing raised, all masked, to nearest (SysV ABI, section 3.2.3).
const HOST_MXCSR: i32 = 0x1f80;
/// The x87 control word: all masked, to nearest, 64 bits.
const HOST_CONTROL: i32 = 0x37f;
/// The masks of all exceptions in MXCSR.
const MASKS: i32 = 0x1f80;

/// Where the stubs are.
#[derive(Clone, Copy, Debug)]
pub(in crate::jit::native) struct Stubs {
    /// From the runtime, with the place to go on in RAX.
    pub(super) enter: usize,
    /// Goes on at the program counter in RAX: in the region there, or in the runtime.
    pub(super) lookup: usize,
    /// Goes on at the program counter in RAX behind an instruction that may have changed anything.
    pub(super) resume: usize,
    /// Leaves at the program counter in RAX for the reason in ECX.
    pub(super) leave: usize,
    /// Accesses, of the address in RAX, the value in RDX; ECX the access, above it what to give back.
    pub(super) load: usize,
    pub(super) store: usize,
    pub(super) probe: usize,
    pub(super) vload: usize,
    pub(super) vstore: usize,
    /// A helper, ECX as the shim takes it.
    pub(super) call: usize,
    /// A pure function, its number in ECX.
    pub(super) pure: usize,
    /// The quick function at RAX; ECX what to give back.
    pub(super) quick: usize,
    /// A vector operation, with its arguments in ECX and EDX.
    pub(super) vec: usize,
    /// The host's floating-point register gets the guest's word, or the interpreter goes on: ECX what to give
    /// back. Not for all guests.
    pub(super) float: Option<usize>,
    /// The host's unit with a stack of registers gets the guest's control word: whether it could, in EAX. Not for all
    /// guests.
    pub(super) stack: Option<usize>,
    /// Where the guest's is.
    pub(super) unit: Option<StackUnit>,
    /// A trap: number in ECX with what to give back above it, argument in RDX.
    pub(super) trap: usize,
}

/// What a stub does with the answer of what it called.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Then {
    /// It cannot fault.
    Return,
    /// The context's status says whether it did.
    Check,
    /// The same, and variables may have changed.
    CheckAndRead,
}

struct Maker {
    a: Asm,
    /// Bytes on the stack above the slots: the return address.
    over: i32,
    /// The guest's floating-point word, if it is the host's too.
    word: Option<Var>,
}

impl Maker {
    fn new(shims: &Shims, over: i32) -> Self {
        Self { a: Asm::default(), over, word: shims.mxcsr }
    }

    /// The host's floating-point control words are its own; for good (0), or until [`word_back`](Self::word_back)
    /// ([`word::AWAY`]) that which is in the frame meanwhile.
    fn word_away(&mut self, until: i32) {
        let (skip, stack, none) = (self.a.mark(), self.a.mark(), self.a.mark());
        let float = self.slot(slot::FLOAT);
        self.a.alu_imm(Alu::Cmp, Width::W32, float, 0);
        self.a.jump_if(Cc::E, skip);
        self.a.test_imm(Width::W32, float, word::STACK);
        self.a.jump_if(Cc::E, stack);
        self.a.x87(0xd9, 5, self.slot(slot::CONTROL));
        self.a.here(stack);
        self.a.alu_imm(Alu::And, Width::W32, float, word::REGISTER);
        self.a.jump_if(Cc::E, none);
        if let Some(word) = self.word {
            self.a.stmxcsr(home(word));
            self.a.ldmxcsr(self.slot(slot::MXCSR));
        }
        self.a.here(none);
        if until == 0 {
            self.a.store_imm(Width::W32, float, 0);
        } else {
            self.a.shift_imm(Shift::Shl, Width::W32, float, until.trailing_zeros() as u8);
        }
        self.a.here(skip);
    }

    fn word_back(&mut self) {
        let Some(word) = self.word else { return };
        let skip = self.a.mark();
        self.a.test_imm(Width::W32, self.slot(slot::FLOAT), word::AWAY);
        self.a.jump_if(Cc::E, skip);
        self.a.ldmxcsr(home(word));
        self.a.store_imm(Width::W32, self.slot(slot::FLOAT), word::REGISTER);
        self.a.here(skip);
    }

    /// The variables in registers go to the frame.
    fn save(&mut self) {
        for (n, r) in PINNED.into_iter().enumerate() {
            self.a.store(W, home(Var(n as u8)), r);
        }
    }

    /// They come back: all, or those that a call does not keep.
    fn restore(&mut self, all: bool) {
        for (n, r) in PINNED.into_iter().enumerate() {
            if all || !matches!(r, RBX | R12) {
                self.a.load(W, r, home(Var(n as u8)));
            }
        }
    }

    fn slot(&self, n: i32) -> super::At {
        at(RSP, n + self.over)
    }

    /// Keeps what is to be given back, which is above so many bits of RCX. RSI is lost.
    fn keep_rest(&mut self, bits: u8) {
        self.a.load(W, RSI, RCX);
        self.a.shift_imm(Shift::Shr, W, RSI, bits);
        self.a.store(W, self.slot(slot::REST), RSI);
    }

    /// RDI = the context, brought up to date. RSI is lost.
    fn context(&mut self) {
        self.a.load(W, RDI, self.slot(slot::CTX));
        self.a.load(W, RSI, self.slot(slot::LEFT));
        self.a.store(W, at(RDI, Context::LEFT as i32), RSI);
    }

    /// Calls what is at RAX. The stack is one return address deep.
    fn call(&mut self, then: Then) {
        self.word_away(if then == Then::CheckAndRead { 0 } else { word::AWAY });
        self.a.alu_imm(Alu::Sub, W, RSP, 8);
        self.a.call_reg(RAX);
        self.a.alu_imm(Alu::Add, W, RSP, 8);
    }

    /// Goes back to the region, or leaves it.
    fn back(&mut self, then: Then) {
        let fault = self.a.mark();
        if then != Then::Return {
            self.a.load(W, RCX, self.slot(slot::CTX));
            self.a.load(Width::W32, RDX, at(RCX, Context::STATUS as i32));
            self.a.test(Width::W32, RDX, RDX);
            self.a.jump_if(Cc::Ne, fault);
        }
        self.restore(then == Then::CheckAndRead);
        self.word_back();
        self.a.ret();
        if then != Then::Return {
            self.fault(fault);
        }
    }

    /// Leaves for the reason in EDX, at the instruction that called the stub, which is not done.
    fn fault(&mut self, here: Mark) {
        self.a.here(here);
        self.a.pop(RSI);
        self.over -= 8;
        self.a.load(W, RSI, at(RSI, 2));
        self.a.load(W, RDI, self.slot(slot::CTX));
        self.a.store(W, at(RDI, Context::PC as i32), RSI);
        self.a.load(W, RSI, self.slot(slot::LEFT));
        self.a.alu(Alu::Add, W, RSI, self.slot(slot::REST));
        self.a.store(W, at(RDI, Context::LEFT as i32), RSI);
        self.a.load(Width::W32, RAX, RDX);
        self.out();
    }

    /// Returns EAX to the runtime, whose context is in RDI.
    fn out(&mut self) {
        self.word_away(0);
        self.a.load(Width::W32, RSI, self.slot(slot::REGION));
        self.a.store(Width::W32, at(RDI, Context::REGION as i32), RSI);
        self.a.alu_imm(Alu::Add, W, RSP, slot::SIZE);
        for r in [R15, R14, R13, R12, RBX, RBP] {
            self.a.pop(r);
        }
        self.a.ret();
    }

    /// Leaves at RAX for the reason in ECX.
    fn leave(&mut self) {
        self.save();
        self.context();
        self.a.store(W, at(RDI, Context::PC as i32), RAX);
        self.a.load(Width::W32, RAX, RCX);
        self.out();
    }
}

/// The way in.
fn enter(shims: &Shims) -> Code {
    let mut m = Maker::new(shims, 0);
    for r in [RBP, RBX, R12, R13, R14, R15] {
        m.a.push(r);
    }
    m.a.alu_imm(Alu::Sub, W, RSP, slot::SIZE);
    m.a.store(W, m.slot(slot::CTX), RDI);
    m.a.store_imm(Width::W32, m.slot(slot::FLOAT), 0);
    m.a.store_imm(Width::W32, m.slot(slot::CONTROL), HOST_CONTROL);
    m.a.store_imm(Width::W32, m.slot(slot::MXCSR), HOST_MXCSR);
    for (from, to, w) in [
        (Context::LEFT, slot::LEFT, W),
        (Context::PAGES, slot::PAGES, Width::W32),
        (Context::REGION, slot::REGION, Width::W32),
    ] {
        m.a.load(w, RCX, at(RDI, from as i32));
        m.a.store(w, m.slot(to), RCX);
    }
    m.a.load(W, R14, at(RDI, Context::TLB as i32));
    m.a.store(W, m.slot(slot::TLB), R14);
    m.a.load(W, RBP, at(RDI, Context::FRAME as i32));
    m.a.alu_imm(Alu::Sub, W, RBP, -BIAS);
    m.restore(true);
    m.a.jump_reg(RAX);
    m.a.finish()
}

/// From region to region: see [`Link`].
fn lookup(shims: &Shims) -> Code {
    let mut m = Maker::new(shims, 0);
    let miss = m.a.mark();
    m.a.load(W, RCX, RAX);
    m.a.shift_imm(Shift::Shr, W, RCX, 12);
    m.a.alu(Alu::Xor, Width::W32, RCX, RAX);
    m.a.alu_imm(Alu::And, Width::W32, RCX, LINKS as i32 - 1);
    m.a.shift_imm(Shift::Shl, Width::W32, RCX, size_of::<Link>().trailing_zeros() as u8);
    m.a.load(W, RDX, m.slot(slot::CTX));
    m.a.alu(Alu::Add, W, RCX, at(RDX, Context::LINKS as i32));
    m.a.alu(Alu::Cmp, W, RAX, at(RCX, Link::PC as i32));
    m.a.jump_if(Cc::Ne, miss);
    m.a.load(W, RDX, at(RDX, Context::TAG as i32));
    m.a.alu(Alu::Cmp, W, RDX, at(RCX, Link::TAG as i32));
    m.a.jump_if(Cc::Ne, miss);
    m.a.load(Width::W32, RDX, at(RCX, Link::CHAIN as i32));
    m.a.test(Width::W32, RDX, RDX);
    m.a.jump_if(Cc::E, miss);
    m.a.alu(Alu::Add, W, RDX, at(RCX, Link::CODE as i32));
    m.a.load(Width::W32, RCX, at(RCX, Link::REGION as i32));
    m.a.store(Width::W32, m.slot(slot::REGION), RCX);
    m.a.store_imm(Width::W32, m.slot(slot::PAGES), -1);
    m.a.jump_reg(RDX);
    m.a.here(miss);
    m.a.set(RCX, stop::LOOKUP.into());
    m.leave();
    m.a.finish()
}

/// An access.
fn access(shims: &Shims, shim: usize, store: bool) -> Code {
    let mut m = Maker::new(shims, 8);
    m.save();
    m.context();
    m.keep_rest(32);
    m.a.load(W, RSI, RAX);
    if !store {
        m.a.load(Width::W32, RDX, RCX);
    }
    m.a.set(RAX, shim as u64);
    m.call(Then::Check);
    m.back(Then::Check);
    m.a.finish()
}

fn helper(shims: &Shims) -> Code {
    let mut m = Maker::new(shims, 8);
    m.save();
    m.context();
    m.keep_rest(16);
    m.a.load(Width::W32, RSI, RCX);
    m.a.set(RAX, shims.call as usize as u64);
    m.call(Then::CheckAndRead);
    m.back(Then::CheckAndRead);
    m.a.finish()
}

/// Neither can fault: `(ctx, ECX, EDX)`.
fn plain(shims: &Shims, shim: usize) -> Code {
    let mut m = Maker::new(shims, 8);
    m.save();
    m.a.load(W, RDI, m.slot(slot::CTX));
    m.a.load(Width::W32, RSI, RCX);
    m.a.set(RAX, shim as u64);
    m.call(Then::Return);
    m.back(Then::Return);
    m.a.finish()
}

fn quick(shims: &Shims) -> Code {
    let mut m = Maker::new(shims, 8);
    m.save();
    m.a.store(W, m.slot(slot::REST), RCX);
    m.a.load(W, R11, m.slot(slot::CTX));
    m.a.load(W, RDI, at(R11, Context::CPU as i32));
    for (n, r) in [RSI, RDX, RCX, R8].into_iter().enumerate() {
        m.a.load(W, r, at(R11, Context::ARGS as i32 + n as i32 * 8));
    }
    m.call(Then::CheckAndRead);
    let declined = m.a.mark();
    m.a.set(RCX, DECLINED);
    m.a.alu(Alu::Cmp, W, RAX, RCX);
    m.a.jump_if(Cc::E, declined);
    m.restore(false);
    m.a.ret();
    m.a.here(declined);
    m.a.set(RDX, stop::RESTART.into());
    let out = m.a.mark();
    m.fault(out);
    m.a.finish()
}

fn trap(shims: &Shims) -> Code {
    let mut m = Maker::new(shims, 8);
    m.save();
    m.context();
    m.keep_rest(32);
    m.a.load(Width::W32, RSI, RCX);
    m.a.set(RAX, shims.trap as usize as u64);
    m.call(Then::CheckAndRead);
    m.a.set(RDX, stop::FAULT.into());
    let out = m.a.mark();
    m.fault(out);
    m.a.finish()
}

/// Floating point begins. XMM registers stay as they are.
fn float_on(shims: &Shims, word: Var) -> Code {
    let mut m = Maker::new(shims, 8);
    let declined = m.a.mark();
    m.a.load(Width::W32, RAX, home(word));
    m.a.group3(Group3::Not, Width::W32, RAX);
    m.a.load(Width::W32, RDX, RAX);
    m.a.alu_imm(Alu::And, Width::W32, RDX, MASKS);
    m.a.jump_if(Cc::Ne, declined);
    m.a.ldmxcsr(home(word));
    m.a.alu_imm(Alu::Or, Width::W32, m.slot(slot::FLOAT), word::REGISTER);
    m.a.ret();
    m.a.here(declined);
    m.save();
    m.a.store(W, m.slot(slot::REST), RCX);
    m.a.set(RDX, stop::RESTART.into());
    let out = m.a.mark();
    m.fault(out);
    m.a.finish()
}

/// The host's unit with a stack gets the guest's control word; EAX is 0 where it cannot. XMM registers stay as
/// they are.
fn stack_on(shims: &Shims, unit: &StackUnit) -> Code {
    let mut m = Maker::new(shims, 8);
    let no = m.a.mark();
    let field = |offset: i32| at(RBP, offset - BIAS);
    m.a.load(Width::W16, RAX, field(unit.control));
    m.a.group3(Group3::Not, Width::W32, RAX);
    m.a.alu_imm(Alu::And, Width::W32, RAX, 0x3f);
    m.a.load(Width::W16, RCX, field(unit.status));
    m.a.alu_imm(Alu::And, Width::W32, RCX, 0x80);
    m.a.alu(Alu::Or, Width::W32, RAX, RCX);
    m.a.jump_if(Cc::Ne, no);
    m.a.stack(0xdb, 0xe2);
    m.a.x87(0xd9, 5, field(unit.control));
    m.a.alu_imm(Alu::Or, Width::W32, m.slot(slot::FLOAT), word::STACK);
    m.a.set(RAX, 1);
    m.a.ret();
    m.a.here(no);
    m.a.set(RAX, 0);
    m.a.ret();
    m.a.finish()
}

fn leave(shims: &Shims) -> Code {
    let mut m = Maker::new(shims, 0);
    m.leave();
    m.a.finish()
}

fn resume(shims: &Shims, lookup: usize) -> Code {
    let mut m = Maker::new(shims, 0);
    m.save();
    m.context();
    m.a.store(W, m.slot(slot::REST), RAX);
    m.word_away(0);
    m.a.set(RAX, shims.resume as usize as u64);
    m.a.call_reg(RAX);
    let on = m.a.mark();
    m.a.load(Width::W32, RCX, RAX);
    m.a.load(W, RAX, m.slot(slot::REST));
    m.a.test(Width::W32, RCX, RCX);
    m.a.jump_if(Cc::Ne, on);
    m.a.load(W, RDI, m.slot(slot::CTX));
    m.a.store(W, at(RDI, Context::PC as i32), RAX);
    m.a.set(RAX, stop::LEAVE.into());
    m.out();
    m.a.here(on);
    m.a.load(W, RDI, m.slot(slot::CTX));
    m.a.load(W, R14, at(RDI, Context::TLB as i32));
    m.a.store(W, m.slot(slot::TLB), R14);
    m.restore(true);
    m.a.jump_to(lookup);
    m.a.finish()
}

/// Makes the stubs; `put` gives code its place.
pub(in crate::jit::native) fn make(
    shims: &Shims,
    mut put: impl FnMut(Code) -> Option<usize>,
) -> Option<Stubs> {
    let lookup = put(lookup(shims))?;
    Some(Stubs {
        enter: put(enter(shims))?,
        lookup,
        resume: put(resume(shims, lookup))?,
        leave: put(leave(shims))?,
        load: put(access(shims, shims.load as usize, false))?,
        store: put(access(shims, shims.store as usize, true))?,
        probe: put(access(shims, shims.probe as usize, false))?,
        vload: put(access(shims, shims.vload as usize, false))?,
        vstore: put(access(shims, shims.vstore as usize, false))?,
        call: put(helper(shims))?,
        pure: put(plain(shims, shims.pure as usize))?,
        quick: put(quick(shims))?,
        vec: put(plain(shims, shims.vec_op as usize))?,
        trap: put(trap(shims))?,
        float: match shims.mxcsr {
            Some(word) => Some(put(float_on(shims, word))?),
            None => None,
        },
        stack: match &shims.stack {
            Some(unit) => Some(put(stack_on(shims, unit))?),
            None => None,
        },
        unit: shims.stack,
    })
}
