//! Calls: helpers, pure and quick functions.

use super::asm::{RAX, RCX, at};
use super::{Emit, RSP, Src, slot};
use crate::ir::{Args, Val, Var, Width};
use crate::jit::abi::{Context, stop};

impl Emit<'_> {
    /// The first arguments go into the context.
    fn arguments(&mut self, args: &[Val]) {
        self.a.load(Width::W64, RCX, at(RSP, slot::CTX));
        for (n, &v) in args.iter().enumerate() {
            let to = at(RCX, Context::ARGS as i32 + n as i32 * 8);
            match self.src(v) {
                Src::Imm(n) => self.put_constant(to, n),
                Src::Reg(r) => self.a.store(Width::W64, to, r),
                Src::Mem(m) => {
                    self.a.load(Width::W64, RAX, m);
                    self.a.store(Width::W64, to, RAX);
                }
            }
        }
    }

    /// Registers for vectors and the floating-point word are not what they were.
    fn called(&mut self) {
        self.forget_vectors();
        (self.float_ready, self.fpu.ready) = (false, false);
    }

    /// RAX, which a call gave, is the value of a variable.
    fn answer(&mut self, d: Var) {
        self.put(Width::W64, d, RAX);
    }

    /// Calls a helper.
    pub(super) fn call(&mut self, f: u16, d: Option<Var>, args: &Args) {
        self.arguments(args);
        self.forget_held();
        self.a.set(RCX, u64::from(f) | u64::from(self.rest()) << 16);
        self.a.call(self.stubs.call);
        // The stub reads this when it has to leave.
        self.a.set_long(RCX, self.pc);
        if let Some(d) = d {
            self.answer(d);
        }
        self.called();
        // It may have changed any variable.
        self.most.fill(u64::MAX);
    }

    pub(super) fn pure(&mut self, f: u16, d: Var, args: &Args) {
        self.end_run();
        self.settle_vectors();
        self.arguments(args);
        self.a.set(RCX, f.into());
        self.a.call(self.stubs.pure);
        self.forget_vectors();
        self.fpu.ready = false;
        self.answer(d);
    }

    pub(super) fn quick(&mut self, f: u16, d: Var, args: &Args) {
        let Some(&target) = self.region.quick.get(&f) else {
            // The interpreter does it all.
            self.give_back(self.rest());
            self.a.set(RAX, self.pc);
            self.a.set_quiet(RCX, stop::RESTART);
            self.a.jump_to(self.stubs.leave);
            self.done = true;
            return;
        };
        self.arguments(&args[..4]);
        self.a.set(RCX, u64::from(self.rest()));
        self.a.set(RAX, target as u64);
        self.a.call(self.stubs.quick);
        self.a.set_long(RCX, self.pc);
        self.answer(d);
        self.called();
    }
}
