//! Vector variables in the host's XMM registers, within a block.
//!
//! XMM0 holds nothing from one operation to the next. The others hold what the block read or wrote last; what it
//! wrote goes to the frame before anything may look at it there, and where the block ends.

use super::asm::Reg;
use super::{At, Emit, vector_home};
use crate::frame::FIRST_VTEMP;
use crate::ir::VecVar;

/// XMM0.
const X0: Reg = Reg(0);
/// XMM1 to XMM15.
const HELD: usize = 15;

/// A variable in a register.
#[derive(Clone, Copy)]
struct Held {
    v: u8,
    /// The frame has an older value.
    newer: bool,
    /// When it was last used.
    used: u32,
}

/// Which variables are in which registers.
#[derive(Clone, Copy, Default)]
pub(super) struct Vectors {
    held: [Option<Held>; HELD],
    now: u32,
}

impl Vectors {
    fn find(&self, v: VecVar) -> Option<usize> {
        self.held.iter().position(|h| h.is_some_and(|h| h.v == v.0))
    }

    /// Registers and the places of their variables; only those that the frame has older values of.
    fn newer(&self) -> impl Iterator<Item = (Reg, At)> {
        self.all(|h| h.newer)
    }

    fn all(&self, which: fn(&Held) -> bool) -> impl Iterator<Item = (Reg, At)> {
        let held = self.held.into_iter().zip(1..);
        held.filter_map(move |(h, n)| h.filter(which).map(|h| (Reg(n), vector_home(h.v))))
    }

    /// Whether the frame has every value.
    pub(super) fn settled(&self) -> bool {
        self.newer().next().is_none()
    }

    /// Temporaries are dead between instructions.
    pub(super) fn end_instruction(&mut self) {
        for h in &mut self.held {
            *h = h.filter(|h| h.v < FIRST_VTEMP);
        }
    }
}

impl Emit<'_> {
    /// A register for a variable: the one it is in, or one that becomes free.
    fn register(&mut self, v: VecVar) -> (Reg, bool) {
        self.vectors.now += 1;
        let now = self.vectors.now;
        if let Some(n) = self.vectors.find(v) {
            self.vectors.held[n].iter_mut().for_each(|h| h.used = now);
            return (Reg(n as u8 + 1), true);
        }
        let age = |h: &Option<Held>| h.map_or(0, |h| h.used);
        let oldest = (0..HELD).min_by_key(|&n| age(&self.vectors.held[n])).unwrap_or(0);
        let r = Reg(oldest as u8 + 1);
        if let Some(h) = self.vectors.held[oldest].filter(|h| h.newer) {
            self.a.vstore_aligned(vector_home(h.v), r);
        }
        self.vectors.held[oldest] = Some(Held { v: v.0, newer: false, used: now });
        (r, false)
    }

    /// A register that holds a variable.
    pub(super) fn vector(&mut self, v: VecVar) -> Reg {
        let (r, there) = self.register(v);
        if !there {
            self.a.vload_aligned(r, vector_home(v.0));
        }
        r
    }

    /// A register that all of a variable's new value will be put in.
    pub(super) fn new_vector(&mut self, v: VecVar) -> Reg {
        let (r, _) = self.register(v);
        self.wrote(r);
        r
    }

    /// A register that holds `a`, to be changed to the new value of `d`; not that of `b`, whose register is answered
    /// too.
    pub(super) fn change(&mut self, d: VecVar, a: VecVar, b: VecVar) -> (Reg, Reg) {
        let from = self.vector(b);
        if d == a {
            let r = self.vector(d);
            self.wrote(r);
            return (r, from);
        }
        let from = if d == b {
            self.a.vmove(X0, from);
            X0
        } else {
            from
        };
        let old = self.vector(a);
        let r = self.new_vector(d);
        self.a.vmove(r, old);
        (r, from)
    }

    /// What is in a register was changed.
    fn wrote(&mut self, r: Reg) {
        let h = &mut self.vectors.held[usize::from(r.0) - 1];
        h.iter_mut().for_each(|h| h.newer = true);
    }

    /// The place of a variable, with its value there.
    pub(super) fn vector_place(&mut self, v: VecVar) -> At {
        let place = vector_home(v.0);
        if let Some(n) = self.vectors.find(v)
            && let Some(h) = self.vectors.held[n].as_mut().filter(|h| h.newer)
        {
            h.newer = false;
            self.a.vstore_aligned(place, Reg(n as u8 + 1));
        }
        place
    }

    /// The place of a variable that will be changed there.
    pub(super) fn take_vector(&mut self, v: VecVar) -> At {
        let place = self.vector_place(v);
        if let Some(n) = self.vectors.find(v) {
            self.vectors.held[n] = None;
        }
        place
    }

    /// All values go to the frame.
    pub(super) fn settle_vectors(&mut self) {
        for (r, place) in self.vectors.newer() {
            self.a.vstore_aligned(place, r);
        }
        for h in self.vectors.held.iter_mut().flatten() {
            h.newer = false;
        }
    }

    /// The registers lose what they hold, of which the frame has all.
    pub(super) fn forget_vectors(&mut self) {
        debug_assert!(self.vectors.settled(), "a value would be lost");
        self.vectors = Vectors::default();
    }

    /// Seldom run code: values go to the frame, as they were at a place in the block.
    pub(super) fn store_vectors(&mut self, vectors: &Vectors) {
        for (r, place) in vectors.newer() {
            self.a.vstore_aligned(place, r);
        }
    }

    /// Seldom run code: registers get what they hold at a place in the block.
    pub(super) fn load_vectors(&mut self, vectors: &Vectors) {
        for (r, place) in vectors.all(|_| true) {
            self.a.vload_aligned(r, place);
        }
    }
}
