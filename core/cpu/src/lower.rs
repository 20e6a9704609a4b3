//! From IR to the interpreter's operations.

use crate::cache::CodeCache;
use crate::fuse::fuse;
use crate::ir::{Addr, BinOp, Cmp, Fx, Label, Mem, Op, Val, Var, Width};
use crate::uop::{SCRATCH, SCRATCH2, ScaleMmu, Uop, ZERO};

/// A label's place, or the branches waiting for it.
struct Target {
    label: Label,
    waiting: Vec<usize>,
}

struct Lower<'a> {
    cache: &'a mut CodeCache,
    single: bool,
    /// Exits go through the run loop.
    leave: bool,
    insns: u8,
    /// Number of the current instruction, from 1.
    k: u8,
    targets: Vec<Target>,
    /// Conditional exits to be given a stub: operation and program counter.
    exits: Vec<(u32, u64)>,
    compared: Option<[Var; 3]>,
    /// Operations before this one are not to be merged with what follows: a label is here.
    joined: usize,
}

/// Appends a block's operations to the cache. `single`: every exit returns to the run loop;
/// `leave`: the unconditional one does.
pub(crate) fn lower(
    ops: &[Op],
    cache: &mut CodeCache,
    insns: u8,
    single: bool,
    leave: bool,
    compared: Option<[Var; 3]>,
) {
    let first = cache.code.len();
    let mut l = Lower {
        cache,
        single,
        leave,
        insns,
        k: 0,
        targets: Vec::new(),
        exits: Vec::new(),
        compared,
        joined: first,
    };
    let mut i = 0;
    while i < ops.len() {
        i += match fuse(&ops[i..], l.compared, !single && !l.leave)
            .or_else(|| fuse_moves(&ops[i..]))
        {
            Some((uop, n)) => {
                l.push(uop);
                n
            }
            None => {
                l.op(&ops[i]);
                1
            }
        };
    }
    for (uop, pc) in std::mem::take(&mut l.exits) {
        let stub = l.cache.code.len() as u32;
        let exit = l.cache.add_exit(uop, stub, pc);
        l.push(if single { Uop::LeavePc { pc } } else { Uop::Stub { exit } });
        l.cache.code[uop as usize].set_link(stub, 0);
    }
}

/// Two or three register and constant moves that do not depend on each other, as one operation.
fn fuse_moves(ops: &[Op]) -> Option<(Uop, usize)> {
    let mut regs: [(u8, u8); 2] = [(0, 0); 2];
    let mut imms: [(u8, u64); 2] = [(0, 0); 2];
    let (mut r, mut c, mut n) = (0, 0, 0);
    let mut written = [None; 3];
    for op in ops.iter().take(3) {
        let Op::Mov { w: Width::W64, d, a } = *op else { break };
        if written.contains(&Some(d)) || matches!(a, Val::Var(a) if written.contains(&Some(a))) {
            break;
        }
        match a {
            Val::Var(a) if r < 2 => {
                regs[r] = (d.0, a.0);
                r += 1;
            }
            Val::Imm(v)
                if c < 1
                    || c < 2 && r == 1 && v <= u32::MAX.into() && imms[0].1 <= u32::MAX.into() =>
            {
                imms[c] = (d.0, v);
                c += 1;
            }
            _ => break,
        }
        written[n] = Some(d);
        n += 1;
    }
    let [(d0, v0), (d1, v1)] = imms;
    let [(e, a), (f, b)] = regs;
    Some(match (c, r) {
        (0, 2) => (Uop::Mov2 { d: e, a, e: f, b }, 2),
        (1, 1) => (Uop::ImmMov { d: d0, v: v0, e, a }, 2),
        (1, 2) => (Uop::ImmMov2 { d: d0, v: v0, e, a, f, b }, 3),
        (2, 1) => (Uop::ImmMovImm { d: d0, v: v0 as u32, e, a, f: d1, w: v1 as u32 }, 3),
        _ => return None,
    })
}

fn opt(v: Option<Var>) -> u8 {
    v.map_or(ZERO, |v| v.0)
}

impl Lower<'_> {
    fn push(&mut self, uop: Uop) {
        self.cache.code.push(uop);
    }

    fn here(&self) -> u32 {
        self.cache.code.len() as u32
    }

    /// The variable that holds an operand, a constant put into `scratch`.
    fn var(&mut self, v: Val, scratch: u8) -> u8 {
        match v {
            Val::Var(v) => v.0,
            Val::Imm(0) => ZERO,
            Val::Imm(n) => {
                self.push(Uop::Imm { d: scratch, v: n });
                scratch
            }
        }
    }

    /// The variable that holds a linear address.
    fn linear(&mut self, addr: &Addr, mmu: u8) -> u8 {
        let sm = ScaleMmu::new(addr.scale, mmu);
        let (base, index) = (opt(addr.base), opt(addr.index));
        if addr.segment.is_none() && addr.index.is_none() && addr.disp == 0 {
            match (addr.wrap, addr.lin) {
                (Width::W64, Width::W64) => return base,
                (Width::W32, _) | (Width::W64, Width::W32) => {
                    self.push(Uop::Mov32 { d: SCRATCH2, a: base });
                    return SCRATCH2;
                }
                _ => {}
            }
        }
        match form(addr) {
            Form::A32 => {
                self.push(Uop::Lea32 { d: SCRATCH2, base, index, sm, disp: addr.disp as i32 });
            }
            Form::A64 => {
                self.push(Uop::Lea64 { d: SCRATCH2, base, index, sm, disp: addr.disp as i32 });
            }
            Form::Other => {
                let (mut base, mut disp) = (base, addr.disp as i32);
                if addr.wrap == Width::W64 && i64::from(disp) != addr.disp {
                    self.push(Uop::Imm { d: SCRATCH2, v: addr.disp as u64 });
                    if base != ZERO {
                        self.push(Uop::Add64 { d: SCRATCH2, a: SCRATCH2, b: base });
                    }
                    (base, disp) = (SCRATCH2, 0);
                }
                let (seg, wrap, lin) = (opt(addr.segment), addr.wrap, addr.lin);
                self.push(Uop::LeaSeg { d: SCRATCH2, base, index, sm, seg, wrap, lin, disp });
            }
        }
        SCRATCH2
    }

    /// An address that a load or store can take itself.
    fn direct(&mut self, addr: &Addr, mmu: u8) -> (bool, u8, u8, ScaleMmu, i32) {
        let sm = ScaleMmu::new(addr.scale, mmu);
        let disp = addr.disp as i32;
        match form(addr) {
            Form::A32 => (true, opt(addr.base), opt(addr.index), sm, disp),
            Form::A64 => (false, opt(addr.base), opt(addr.index), sm, disp),
            Form::Other => (false, self.linear(addr, mmu), ZERO, ScaleMmu::new(0, mmu), 0),
        }
    }

    fn load(&mut self, w: Width, d: u8, addr: &Addr, mem: Mem) {
        if mem.flags & Mem::WRITE != 0 {
            if let (Width::W32, Form::A32) = (w, form(addr)) {
                let (_, base, index, sm, disp) = self.direct(addr, mem.mmu);
                return self.push(Uop::LdW32A32 { d, base, index, sm, disp });
            }
            let base = self.linear(addr, mem.mmu);
            return self.push(Uop::LdW { w, d, base, sm: ScaleMmu::new(0, mem.mmu) });
        }
        let (a32, base, index, sm, disp) = self.direct(addr, mem.mmu);
        self.push(match (w, a32) {
            (Width::W8, true) => Uop::Ld8A32 { d, base, index, sm, disp },
            (Width::W16, true) => Uop::Ld16A32 { d, base, index, sm, disp },
            (Width::W32, true) if index == ZERO => Uop::Ld32B { d, base, sm, disp },
            (Width::W32, true) => Uop::Ld32A32 { d, base, index, sm, disp },
            (Width::W64, true) => Uop::Ld64A32 { d, base, index, sm, disp },
            (Width::W8, false) => Uop::Ld8A64 { d, base, index, sm, disp },
            (Width::W16, false) => Uop::Ld16A64 { d, base, index, sm, disp },
            (Width::W32, false) => Uop::Ld32A64 { d, base, index, sm, disp },
            (Width::W64, false) => Uop::Ld64A64 { d, base, index, sm, disp },
        });
    }

    fn sext(&mut self, from: Width, to: Width, d: u8, a: u8) {
        self.push(match (from, to) {
            (Width::W8, Width::W16) => Uop::Sx8To16 { d, a },
            (Width::W8, Width::W32) => Uop::Sx8To32 { d, a },
            (Width::W16, Width::W32) => Uop::Sx16To32 { d, a },
            (Width::W8, Width::W64) => Uop::Sx8To64 { d, a },
            (Width::W16, Width::W64) => Uop::Sx16To64 { d, a },
            (Width::W32, Width::W64) => Uop::Sx32To64 { d, a },
            _ => mov(to, d, a),
        });
    }

    fn branch_to(&mut self, label: Label) {
        let at = self.cache.code.len() - 1;
        match self.targets.iter_mut().find(|t| t.label == label) {
            Some(t) => t.waiting.push(at),
            None => self.targets.push(Target { label, waiting: vec![at] }),
        }
    }

    fn cmp_vars(&mut self, cmp: &Cmp) -> (u8, u8) {
        (self.var(cmp.a, SCRATCH2), self.var(cmp.b, SCRATCH))
    }

    /// The constant on the right, as the operations hold it: sign-extended for 64 bits.
    fn small(cmp: &Cmp) -> Option<i32> {
        let Val::Imm(n) = cmp.b else { return None };
        match cmp.w {
            Width::W64 => i32::try_from(n as i64).ok(),
            w => Some((n & w.mask()) as u32 as i32),
        }
    }

    fn goto(&mut self, pc: u64) {
        if self.single || self.leave {
            return self.push(Uop::LeavePc { pc });
        }
        let at = self.here();
        let exit = self.cache.add_exit(at, at + 1, pc);
        self.push(Uop::Goto { len: 0, to: at + 1 });
        self.push(Uop::Stub { exit });
    }

    fn op(&mut self, op: &Op) {
        match *op {
            Op::Insn { pc, .. } => {
                self.k += 1;
                self.cache.mark(pc);
            }
            Op::Mov { d, a: Val::Imm(v), .. } => self.push(Uop::Imm { d: d.0, v }),
            Op::Mov { w, d, a: Val::Var(a) } => self.push(mov(w, d.0, a.0)),
            Op::Bin { op, w, d, a, b } => self.bin(op, w, d.0, a, b),
            Op::Un { op, w, d, a } => {
                let a = self.var(a, SCRATCH);
                self.push(Uop::Un { op, w, d: d.0, a });
            }
            Op::Sext { from, to, d, a } => {
                let a = self.var(a, SCRATCH);
                self.sext(from, to, d.0, a);
            }
            Op::Extract { d, a, pos, len } => {
                let (d, a) = (d.0, self.var(a, SCRATCH));
                self.push(match (pos, len) {
                    (8, 8) => Uop::ExtractH { d, a },
                    _ => Uop::Extract { d, a, pos, len },
                });
            }
            Op::Deposit { d, a, b, pos, len } => {
                let (a, b) = (self.var(a, SCRATCH2), self.var(b, SCRATCH));
                let d = d.0;
                self.push(match (pos, len) {
                    (0, 8) => Uop::DepositL { d, a, b },
                    (8, 8) => Uop::DepositH { d, a, b },
                    (0, 16) => Uop::DepositW { d, a, b },
                    _ => Uop::Deposit { d, a, b, pos, len },
                });
            }
            Op::Set { d, cmp } => {
                let a = self.var(cmp.a, SCRATCH2);
                match Self::small(&cmp) {
                    Some(imm) => {
                        self.push(Uop::SetImm { cond: cmp.cond, w: cmp.w, d: d.0, a, imm });
                    }
                    None => {
                        let b = self.var(cmp.b, SCRATCH);
                        self.push(Uop::Set { cond: cmp.cond, w: cmp.w, d: d.0, a, b });
                    }
                }
            }
            Op::Select { w, d, cmp, x, y } => self.select(w, d.0, &cmp, x, y),
            Op::Lea { d, addr } => {
                let a = self.linear(&addr, 0);
                match self.cache.code.last_mut() {
                    Some(
                        Uop::Lea32 { d: at, .. }
                        | Uop::Lea64 { d: at, .. }
                        | Uop::LeaSeg { d: at, .. },
                    ) if a == SCRATCH2 && *at == SCRATCH2 => {
                        *at = d.0;
                    }
                    _ => self.push(mov(Width::W64, d.0, a)),
                }
            }
            Op::Load { w, d, addr, mem } => self.load(w, d.0, &addr, mem),
            Op::LoadSext { w, to, d, addr, mem } => {
                let d = d.0;
                if mem.flags & Mem::WRITE == 0 {
                    let f = form(&addr);
                    let (_, base, index, sm, disp) = match f {
                        Form::Other => (false, 0, 0, ScaleMmu(0), 0),
                        _ => self.direct(&addr, mem.mmu),
                    };
                    let uop = match (w, to, f) {
                        (Width::W8, Width::W32, Form::A32) => {
                            Some(Uop::LdSx8A32 { d, base, index, sm, disp })
                        }
                        (Width::W16, Width::W32, Form::A32) => {
                            Some(Uop::LdSx16A32 { d, base, index, sm, disp })
                        }
                        (Width::W32, Width::W64, Form::A64) => {
                            Some(Uop::LdSx32A64 { d, base, index, sm, disp })
                        }
                        _ => None,
                    };
                    if let Some(uop) = uop {
                        return self.push(uop);
                    }
                }
                self.load(w, SCRATCH, &addr, mem);
                self.sext(w, to, d, SCRATCH);
            }
            Op::Store { w, a, addr, mem } => {
                let a = self.var(a, SCRATCH);
                let (a32, base, index, sm, disp) = self.direct(&addr, mem.mmu);
                self.push(match (w, a32) {
                    (Width::W8, true) => Uop::St8A32 { a, base, index, sm, disp },
                    (Width::W16, true) => Uop::St16A32 { a, base, index, sm, disp },
                    (Width::W32, true) if index == ZERO => Uop::St32B { a, base, sm, disp },
                    (Width::W32, true) => Uop::St32A32 { a, base, index, sm, disp },
                    (Width::W64, true) => Uop::St64A32 { a, base, index, sm, disp },
                    (Width::W8, false) => Uop::St8A64 { a, base, index, sm, disp },
                    (Width::W16, false) => Uop::St16A64 { a, base, index, sm, disp },
                    (Width::W32, false) => Uop::St32A64 { a, base, index, sm, disp },
                    (Width::W64, false) => Uop::St64A64 { a, base, index, sm, disp },
                });
            }
            Op::Probe { size, addr, mem } => {
                let base = self.linear(&addr, mem.mmu);
                self.push(Uop::Probe { base, sm: ScaleMmu::new(0, mem.mmu), size });
            }
            Op::VMov { d, a } => self.push(Uop::VMov { d: d.0, a: a.0 }),
            Op::VConst { d, value } => {
                let index = self.cache.consts.len() as u32;
                self.cache.consts.push(value);
                self.push(Uop::VConst { d: d.0, index });
            }
            Op::VLoad { size, d, addr, mem } => {
                let base = self.linear(&addr, mem.mmu);
                self.push(Uop::VLd { size, d: d.0, base, sm: ScaleMmu::new(0, mem.mmu) });
            }
            Op::VStore { size, a, addr, mem } => {
                let base = self.linear(&addr, mem.mmu);
                self.push(Uop::VSt { size, a: a.0, base, sm: ScaleMmu::new(0, mem.mmu) });
            }
            Op::VGet { w, d, a, lane } => self.push(Uop::VGet { w, d: d.0, a: a.0, lane }),
            Op::VPut { w, d, a, lane } => {
                let a = self.var(a, SCRATCH);
                self.push(Uop::VPut { w, d: d.0, a, lane });
            }
            Op::VecOp { kind, d, a, b, imm } => {
                self.push(Uop::VecOp { kind, d: d.0, a: a.0, b: b.0, imm });
            }
            Op::Pure { f, d, args } => {
                let index = self.cache.args.len() as u32;
                self.cache.args.push(args);
                self.push(Uop::Pure { f, d: d.0, args: index });
            }
            Op::Float { op, d, a, b, imm, f, kind } => {
                let rest = self.insns - self.k + 1;
                self.push(Uop::Float { op, d: d.0, a: a.0, b: b.0, imm, rest, f, kind });
            }
            Op::FloatInt { op, d, v, a, b, f, kind } => {
                let rest = self.insns - self.k + 1;
                self.push(Uop::FloatInt { op, d: d.0, v: v.0, a: a.0, b: b.0, rest, f, kind });
            }
            Op::Quick { f, d, args } => {
                let index = self.cache.args.len() as u32;
                self.cache.args.push(args);
                let rest = self.insns - (self.k - 1);
                self.push(Uop::Quick { f, d: d.0, rest, args: index });
            }
            Op::Call { f, d, args, fx } => {
                let index = self.cache.args.len() as u32;
                self.cache.args.push(args);
                let rest = self.insns - (self.k - 1);
                self.leave |= fx.has(Fx::ENDS);
                self.push(Uop::Call { f, d: d.map_or(SCRATCH, |d| d.0), rest, args: index });
            }
            Op::Label { label } => {
                let here = self.here();
                self.joined = here as usize;
                if let Some(i) = self.targets.iter().position(|t| t.label == label) {
                    for at in self.targets.swap_remove(i).waiting {
                        match &mut self.cache.code[at] {
                            Uop::Jump { to }
                            | Uop::Branch { to, .. }
                            | Uop::BranchImm { to, .. } => *to = here,
                            _ => {}
                        }
                    }
                }
            }
            Op::Jump { label } => {
                self.push(Uop::Jump { to: 0 });
                self.branch_to(label);
            }
            Op::Branch { cmp, label } => {
                let a = self.var(cmp.a, SCRATCH2);
                match Self::small(&cmp) {
                    Some(imm) => {
                        self.push(Uop::BranchImm { cond: cmp.cond, w: cmp.w, a, imm, to: 0 });
                    }
                    None => {
                        let b = self.var(cmp.b, SCRATCH);
                        self.push(Uop::Branch { cond: cmp.cond, w: cmp.w, a, b, to: 0 });
                    }
                }
                self.branch_to(label);
            }
            Op::TrapIf { cmp, id, arg } => {
                // Three operands and two scratch variables: branch around where all are constants.
                let arg = match arg {
                    Val::Var(v) => v.0,
                    Val::Imm(0) => ZERO,
                    Val::Imm(n) => {
                        self.push(Uop::Imm { d: SCRATCH3, v: n });
                        SCRATCH3
                    }
                };
                let (a, b) = self.cmp_vars(&cmp);
                self.push(Uop::TrapIf { cond: cmp.cond, w: cmp.w, a, b, id, arg });
            }
            Op::Trap { id, arg } => {
                let arg = self.var(arg, SCRATCH);
                self.push(Uop::Trap { id, arg });
            }
            Op::ExitIf { cmp, pc } => {
                let back = self.insns - self.k;
                if let Some(uop) = self.compare_exit(&cmp, back) {
                    self.cache.code.pop();
                    self.exits.push((self.here(), pc));
                    return self.push(uop);
                }
                let a = self.var(cmp.a, SCRATCH2);
                let uop = match Self::small(&cmp) {
                    Some(imm) => Uop::exit_imm(cmp.cond, cmp.w, a, imm, back, 0),
                    None => {
                        let b = self.var(cmp.b, SCRATCH);
                        Uop::exit(cmp.cond, cmp.w, a, b, back, 0)
                    }
                };
                self.exits.push((self.here(), pc));
                self.push(uop);
            }
            Op::Goto { pc } => self.goto(pc),
            Op::GotoVar { pc: Val::Imm(pc) } => self.goto(pc),
            Op::GotoVar { pc: Val::Var(a) } => self.push(if self.single || self.leave {
                Uop::Leave { a: a.0 }
            } else {
                Uop::GotoVar { a: a.0 }
            }),
            Op::Leave { pc: Val::Imm(pc) } => self.push(Uop::LeavePc { pc }),
            Op::Leave { pc: Val::Var(a) } => self.push(Uop::Leave { a: a.0 }),
        }
    }

    /// An exit merged with the moves before it that set the variables of the same comparison.
    fn compare_exit(&self, cmp: &Cmp, back: u8) -> Option<Uop> {
        let [op, dst, src] = self.compared?.map(|v| v.0);
        let last = self.cache.code.get(self.joined..)?.last()?;
        let Val::Var(Var(left)) = cmp.a else { return None };
        let (cond, w) = (cmp.cond, cmp.w);
        match *last {
            Uop::ImmMov2 { d, v, e, a, f, b } if d == op && cmp.b != Val::Var(Var(dst)) => {
                let (a, b) = if (e, f) == (dst, src) { (a, b) } else { (b, a) };
                let same = (e, f) == (dst, src) || (e, f) == (src, dst);
                // The operands as they are, or as they were just copied.
                let right = cmp.b == Val::Var(Var(b)) || cmp.b == Val::Var(Var(src));
                let fits =
                    same && right && (left == a || left == dst) && a != dst && a != src && b != dst;
                let op = u8::try_from(v).ok()?;
                fits.then_some(Uop::CmpExit { cond, w, a, b, op, back, len: 0, to: 0 })
            }
            Uop::ImmMovImm { d, v, e, a, f, w: value } if e == dst => {
                let (v, value) = match (d, f) {
                    _ if d == op && f == src => (v, value),
                    _ if d == src && f == op => (value, v),
                    _ => return None,
                };
                let imm = Self::small(cmp)?;
                // The variable gets the constant zero-extended.
                let fits = imm >= 0
                    && imm as u32 == value
                    && (left == a || left == dst)
                    && a != dst
                    && a != src;
                let op = u8::try_from(v).ok()?;
                fits.then_some(Uop::CmpExitImm { cond, w, a, op, back, len: 0, imm, to: 0 })
            }
            Uop::ImmMov { d, v, e, a }
                if d == op && e == dst && (left == a || left == dst) && a != dst =>
            {
                let op = u8::try_from(v).ok()?;
                Some(Uop::TestExitImm {
                    cond,
                    w,
                    a,
                    op,
                    back,
                    len: 0,
                    imm: Self::small(cmp)?,
                    to: 0,
                })
            }
            _ => None,
        }
    }

    fn bin(&mut self, op: BinOp, w: Width, d: u8, a: Val, b: Val) {
        if let Val::Imm(n) = b
            && Uop::alu_imm(op, w, d, 0, 0).is_some()
        {
            let a = self.var(a, SCRATCH);
            self.cache.code.extend(Uop::alu_imm(op, w, d, a, n & w.mask()));
            return;
        }
        let (a, b) = (self.var(a, SCRATCH2), self.var(b, SCRATCH));
        self.push(match (op, w) {
            (BinOp::Mul, Width::W32) => Uop::Mul32 { d, a, b },
            (BinOp::Mul, Width::W64) => Uop::Mul64 { d, a, b },
            _ => Uop::alu(op, w, d, a, b).unwrap_or(Uop::Bin { op, w, d, a, b }),
        });
    }

    fn select(&mut self, w: Width, d: u8, cmp: &Cmp, x: Val, y: Val) {
        if matches!(x, Val::Imm(n) if n != 0) && matches!(y, Val::Imm(n) if n != 0) {
            self.push(Uop::Imm { d: SCRATCH3, v: if let Val::Imm(n) = x { n } else { 0 } });
            self.push(Uop::Imm { d: SCRATCH4, v: if let Val::Imm(n) = y { n } else { 0 } });
            let (a, b) = self.cmp_vars(cmp);
            return self.push(Uop::Select {
                cond: cmp.cond,
                w: cmp.w,
                dw: w,
                d,
                a,
                b,
                x: SCRATCH3,
                y: SCRATCH4,
            });
        }
        let x = self.var(x, SCRATCH3);
        let y = self.var(y, SCRATCH3);
        let (a, b) = self.cmp_vars(cmp);
        self.push(Uop::Select { cond: cmp.cond, w: cmp.w, dw: w, d, a, b, x, y });
    }
}

/// More scratch variables, for operations with many operands.
const SCRATCH3: u8 = SCRATCH2 - 1;
const SCRATCH4: u8 = SCRATCH2 - 2;

fn mov(w: Width, d: u8, a: u8) -> Uop {
    match w {
        Width::W8 => Uop::Mov8 { d, a },
        Width::W16 => Uop::Mov16 { d, a },
        Width::W32 => Uop::Mov32 { d, a },
        Width::W64 => Uop::Mov64 { d, a },
    }
}

/// How an address is computed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    /// `u32(base + (index << scale) + disp)`
    A32,
    /// `base + (index << scale) + disp`
    A64,
    /// With a segment, 16-bit wrap or a wide constant: on its own first.
    Other,
}

fn form(a: &Addr) -> Form {
    match (a.segment, a.wrap, a.lin) {
        (None, Width::W32, _) => Form::A32,
        (None, Width::W64, Width::W64) if i32::try_from(a.disp).is_ok() => Form::A64,
        _ => Form::Other,
    }
}
