//! IR as text, for dumps and tests.
//!
//! One op per line. `v3` and `t0` are integer variables (guest and temporary), `x3` and `y0`
//! vector variables; widths follow the name: `add.32 t0 = v3, 0x5`.

use core::fmt::{self, Display, Formatter};

use super::{Addr, BinOp, Cmp, Cond, FloatOp, Fx, Label, Mem, Op, UnOp, Val, Var, VecVar, Width};
use crate::frame::{FIRST_TEMP, FIRST_VTEMP};

const BIN: [(BinOp, &str); 18] = [
    (BinOp::Add, "add"),
    (BinOp::Sub, "sub"),
    (BinOp::Mul, "mul"),
    (BinOp::MulHiU, "mulhu"),
    (BinOp::MulHiS, "mulhs"),
    (BinOp::DivU, "divu"),
    (BinOp::RemU, "remu"),
    (BinOp::DivS, "divs"),
    (BinOp::RemS, "rems"),
    (BinOp::And, "and"),
    (BinOp::Or, "or"),
    (BinOp::Xor, "xor"),
    (BinOp::AndNot, "andn"),
    (BinOp::Shl, "shl"),
    (BinOp::Shr, "shr"),
    (BinOp::Sar, "sar"),
    (BinOp::Rol, "rol"),
    (BinOp::Ror, "ror"),
];

const UN: [(UnOp, &str); 6] = [
    (UnOp::Neg, "neg"),
    (UnOp::Not, "not"),
    (UnOp::Bswap, "bswap"),
    (UnOp::Clz, "clz"),
    (UnOp::Ctz, "ctz"),
    (UnOp::Popcnt, "popcnt"),
];

const COND: [(Cond, &str); 12] = [
    (Cond::Eq, "eq"),
    (Cond::Ne, "ne"),
    (Cond::LtU, "ltu"),
    (Cond::LeU, "leu"),
    (Cond::GtU, "gtu"),
    (Cond::GeU, "geu"),
    (Cond::LtS, "lts"),
    (Cond::LeS, "les"),
    (Cond::GtS, "gts"),
    (Cond::GeS, "ges"),
    (Cond::TestZ, "tz"),
    (Cond::TestNz, "tnz"),
];

fn name<T: PartialEq>(table: &[(T, &'static str)], v: &T) -> &'static str {
    table.iter().find(|(x, _)| x == v).map_or("?", |(_, n)| n)
}

impl Display for Var {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if self.is_temp() {
            write!(f, "t{}", self.0 - FIRST_TEMP)
        } else {
            write!(f, "v{}", self.0)
        }
    }
}

impl Display for VecVar {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if self.is_temp() {
            write!(f, "y{}", self.0 - FIRST_VTEMP)
        } else {
            write!(f, "x{}", self.0)
        }
    }
}

impl Display for Val {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Var(v) => v.fmt(f),
            Self::Imm(n) => write!(f, "{n:#x}"),
        }
    }
}

impl Display for Cmp {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{} {}, {}", name(&COND, &self.cond), self.w.bits(), self.a, self.b)
    }
}

impl Display for Addr {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "[")?;
        if let Some(s) = self.segment {
            write!(f, "{s}: ")?;
        }
        if let Some(b) = self.base {
            write!(f, "{b} + ")?;
        }
        if let Some(i) = self.index {
            write!(f, "{i} << {} + ", self.scale)?;
        }
        write!(f, "{:#x} wrap {} lin {}]", self.disp, self.wrap.bits(), self.lin.bits())
    }
}

impl Display for Mem {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, " mmu {}", self.mmu)?;
        if self.flags & Self::WRITE != 0 {
            write!(f, " rmw")?;
        }
        if self.flags & Self::LOCKED != 0 {
            write!(f, " locked")?;
        }
        Ok(())
    }
}

fn args(args: &[Val]) -> String {
    let used = args.iter().rposition(|&a| a != Val::Imm(0)).map_or(0, |i| i + 1);
    args[..used].iter().map(Val::to_string).collect::<Vec<_>>().join(", ")
}

impl Display for Op {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Insn { pc, len } => write!(f, "insn {pc:#x} {len}"),
            Self::Mov { w, d, a } => write!(f, "mov.{} {d} = {a}", w.bits()),
            Self::Bin { op, w, d, a, b } => {
                write!(f, "{}.{} {d} = {a}, {b}", name(&BIN, &op), w.bits())
            }
            Self::Un { op, w, d, a } => write!(f, "{}.{} {d} = {a}", name(&UN, &op), w.bits()),
            Self::Sext { from, to, d, a } => {
                write!(f, "sext.{}.{} {d} = {a}", from.bits(), to.bits())
            }
            Self::Extract { d, a, pos, len } => write!(f, "extract {d} = {a}, {pos}, {len}"),
            Self::Deposit { d, a, b, pos, len } => {
                write!(f, "deposit {d} = {a}, {b}, {pos}, {len}")
            }
            Self::Set { d, cmp } => write!(f, "set {d} = {cmp}"),
            Self::Select { w, d, cmp, x, y } => {
                write!(f, "select.{} {d} = {cmp} ? {x} : {y}", w.bits())
            }
            Self::Lea { d, addr } => write!(f, "lea {d} = {addr}"),
            Self::Load { w, d, addr, mem } => write!(f, "load.{} {d} = {addr}{mem}", w.bits()),
            Self::LoadSext { w, to, d, addr, mem } => {
                write!(f, "loads.{}.{} {d} = {addr}{mem}", w.bits(), to.bits())
            }
            Self::Store { w, a, addr, mem } => write!(f, "store.{} {addr}{mem} = {a}", w.bits()),
            Self::Probe { size, addr, mem } => write!(f, "probe {size} {addr}{mem}"),
            Self::VMov { d, a } => write!(f, "vmov {d} = {a}"),
            Self::VConst { d, value } => write!(f, "vconst {d} = {value:#x}"),
            Self::VLoad { size, d, addr, mem } => write!(f, "vload {size} {d} = {addr}{mem}"),
            Self::VStore { size, a, addr, mem } => write!(f, "vstore {size} {addr}{mem} = {a}"),
            Self::VGet { w, d, a, lane } => write!(f, "vget.{} {d} = {a}, {lane}", w.bits()),
            Self::VPut { w, d, a, lane } => write!(f, "vput.{} {d} = {a}, {lane}", w.bits()),
            Self::VecOp { kind, d, a, b, imm } => {
                write!(f, "vecop {kind:#x} {d} = {a}, {b}, {imm}")
            }
            Self::Float { op, d, a, b, imm, f: id, kind } => {
                let name = op.name();
                write!(f, "float {name} {d} = {a}, {b}, {imm} or {id:#x}, {kind:#x}")
            }
            Self::FloatInt { op, d, v, a, b, f: id, kind } => {
                let name = op.name();
                write!(f, "floatint {name} {d} = {a}, {b}, {v} or {id:#x}, {kind:#x}")
            }
            Self::Pure { f: id, d, args: a } => write!(f, "pure {id:#x} {d} = ({})", args(&a)),
            Self::Quick { f: id, d, args: a } => write!(f, "quick {id:#x} {d} = ({})", args(&a)),
            Self::Call { f: id, d, args: a, fx } => match d {
                Some(d) => write!(f, "call {id:#x} fx {} {d} = ({})", fx.0, args(&a)),
                None => write!(f, "call {id:#x} fx {} ({})", fx.0, args(&a)),
            },
            Self::Label { label } => write!(f, "label {}", label.0),
            Self::Jump { label } => write!(f, "jump {}", label.0),
            Self::Branch { cmp, label } => write!(f, "branch {cmp} to {}", label.0),
            Self::TrapIf { cmp, id, arg } => write!(f, "trapif {cmp} id {id} ({arg})"),
            Self::Trap { id, arg } => write!(f, "trap {id} ({arg})"),
            Self::ExitIf { cmp, pc } => write!(f, "exitif {cmp} to {pc:#x}"),
            Self::Goto { pc } => write!(f, "goto {pc:#x}"),
            Self::GotoVar { pc } => write!(f, "gotovar {pc}"),
            Self::Leave { pc } => write!(f, "leave {pc}"),
        }
    }
}

/// A block, one op per line.
pub fn dump(ops: &[Op]) -> String {
    ops.iter().map(|op| format!("{op}\n")).collect()
}

/// Reads what [`dump`] writes. Empty lines and `;` comments are skipped.
pub fn parse(text: &str) -> Result<Vec<Op>, String> {
    let lines = text.lines().map(|l| l.split(';').next().unwrap_or("").trim());
    lines
        .filter(|l| !l.is_empty())
        .map(|l| Words::new(l).op().ok_or_else(|| format!("cannot read `{l}`")))
        .collect()
}

/// The words of a line; punctuation other than `[`, `:`, `(` only separates.
struct Words<'a> {
    words: Vec<&'a str>,
    next: usize,
}

impl<'a> Words<'a> {
    fn new(line: &'a str) -> Self {
        let words = line
            .split(|c: char| c.is_whitespace() || ",=?()+<]".contains(c))
            .flat_map(|w| w.split_inclusive(['[', ':']))
            .filter(|w| !w.is_empty() && *w != ":")
            .collect();
        Self { words, next: 0 }
    }

    fn word(&mut self) -> Option<&'a str> {
        self.next += 1;
        self.words.get(self.next - 1).copied()
    }

    fn peek(&self) -> Option<&'a str> {
        self.words.get(self.next).copied()
    }

    fn eat(&mut self, w: &str) -> Option<()> {
        (self.word()? == w).then_some(())
    }

    fn num<T: TryFrom<u128>>(&mut self) -> Option<T> {
        let w = self.word()?;
        let n = match w.strip_prefix("0x") {
            Some(hex) => u128::from_str_radix(hex, 16).ok()?,
            None => w.parse().ok()?,
        };
        T::try_from(n).ok()
    }

    fn var(&mut self) -> Option<Var> {
        as_var(self.word()?)
    }

    fn vec(&mut self) -> Option<VecVar> {
        let w = self.word()?;
        let n = w.get(1..)?.parse::<u8>().ok()?;
        match w.as_bytes()[0] {
            b'x' => Some(VecVar(n)),
            b'y' => Some(VecVar(n.checked_add(FIRST_VTEMP)?)),
            _ => None,
        }
    }

    fn val(&mut self) -> Option<Val> {
        match as_var(self.peek()?) {
            Some(v) => {
                self.next += 1;
                Some(v.into())
            }
            None => self.num::<u64>().map(Val::Imm),
        }
    }

    fn cmp(&mut self) -> Option<Cmp> {
        let (cond, w) = self.word()?.split_once('.')?;
        let cond = COND.iter().find(|(_, n)| *n == cond)?.0;
        Some(Cmp { cond, w: as_width(w)?, a: self.val()?, b: self.val()? })
    }

    fn addr(&mut self) -> Option<Addr> {
        self.eat("[")?;
        let mut a = Addr::fixed(0);
        if let Some(s) = self.peek()?.strip_suffix(':') {
            a.segment = Some(as_var(s)?);
            self.next += 1;
        }
        while let Some(v) = as_var(self.peek()?) {
            self.next += 1;
            // An index is followed by its scale and another number.
            if self.words.get(self.next + 1).is_some_and(|w| *w != "wrap")
                && as_var(self.peek()?).is_none()
            {
                a.index = Some(v);
                a.scale = self.num()?;
            } else {
                a.base = Some(v);
            }
        }
        a.disp = self.num::<u64>()? as i64;
        self.eat("wrap")?;
        a.wrap = as_width(self.word()?)?;
        self.eat("lin")?;
        a.lin = as_width(self.word()?)?;
        Some(a)
    }

    fn mem(&mut self) -> Option<Mem> {
        self.eat("mmu")?;
        let mut m = Mem::plain(self.num()?);
        while let Some(flag @ ("rmw" | "locked")) = self.peek() {
            m.flags |= if flag == "rmw" { Mem::WRITE } else { Mem::LOCKED };
            self.next += 1;
        }
        Some(m)
    }

    fn args(&mut self) -> Option<super::Args> {
        let mut all = super::Args::from([Val::Imm(0); 6]);
        for a in &mut all {
            if self.peek().is_none() {
                break;
            }
            *a = self.val()?;
        }
        Some(all)
    }

    fn op(&mut self) -> Option<Op> {
        let word = self.word()?;
        let mut parts = word.split('.');
        let name = parts.next()?;
        let w = parts.next().map_or(Some(Width::W64), as_width)?;
        let to = parts.next().map_or(Some(Width::W64), as_width)?;
        if let Some(&(op, _)) = BIN.iter().find(|(_, n)| *n == name) {
            return Some(Op::Bin { op, w, d: self.var()?, a: self.val()?, b: self.val()? });
        }
        if let Some(&(op, _)) = UN.iter().find(|(_, n)| *n == name) {
            return Some(Op::Un { op, w, d: self.var()?, a: self.val()? });
        }
        let op = match name {
            "insn" => Op::Insn { pc: self.num()?, len: self.num()? },
            "mov" => Op::Mov { w, d: self.var()?, a: self.val()? },
            "sext" => Op::Sext { from: w, to, d: self.var()?, a: self.val()? },
            "extract" => {
                Op::Extract { d: self.var()?, a: self.val()?, pos: self.num()?, len: self.num()? }
            }
            "deposit" => Op::Deposit {
                d: self.var()?,
                a: self.val()?,
                b: self.val()?,
                pos: self.num()?,
                len: self.num()?,
            },
            "set" => Op::Set { d: self.var()?, cmp: self.cmp()? },
            "select" => {
                Op::Select { w, d: self.var()?, cmp: self.cmp()?, x: self.val()?, y: self.val()? }
            }
            "lea" => Op::Lea { d: self.var()?, addr: self.addr()? },
            "load" => Op::Load { w, d: self.var()?, addr: self.addr()?, mem: self.mem()? },
            "loads" => Op::LoadSext { w, to, d: self.var()?, addr: self.addr()?, mem: self.mem()? },
            "store" => {
                let (addr, mem) = (self.addr()?, self.mem()?);
                Op::Store { w, a: self.val()?, addr, mem }
            }
            "probe" => Op::Probe { size: self.num()?, addr: self.addr()?, mem: self.mem()? },
            "vmov" => Op::VMov { d: self.vec()?, a: self.vec()? },
            "vconst" => Op::VConst { d: self.vec()?, value: self.num()? },
            "vload" => Op::VLoad {
                size: self.num()?,
                d: self.vec()?,
                addr: self.addr()?,
                mem: self.mem()?,
            },
            "vstore" => {
                let (size, addr, mem) = (self.num()?, self.addr()?, self.mem()?);
                Op::VStore { size, a: self.vec()?, addr, mem }
            }
            "vget" => Op::VGet { w, d: self.var()?, a: self.vec()?, lane: self.num()? },
            "vput" => Op::VPut { w, d: self.vec()?, a: self.val()?, lane: self.num()? },
            "vecop" => Op::VecOp {
                kind: self.num()?,
                d: self.vec()?,
                a: self.vec()?,
                b: self.vec()?,
                imm: self.num()?,
            },
            "float" => {
                let op = FloatOp::named(self.word()?)?;
                let (d, a, b, imm) = (self.vec()?, self.vec()?, self.vec()?, self.num()?);
                self.eat("or")?;
                Op::Float { op, d, a, b, imm, f: self.num()?, kind: self.num()? }
            }
            "floatint" => {
                let op = FloatOp::named(self.word()?)?;
                let (d, a, b, v) = (self.var()?, self.vec()?, self.vec()?, self.vec()?);
                self.eat("or")?;
                Op::FloatInt { op, d, v, a, b, f: self.num()?, kind: self.num()? }
            }
            "pure" => Op::Pure { f: self.num()?, d: self.var()?, args: self.args()? },
            "quick" => Op::Quick { f: self.num()?, d: self.var()?, args: self.args()? },
            "call" => {
                let f = self.num()?;
                self.eat("fx")?;
                let fx = Fx(self.num()?);
                // With a result there is an equals sign, which the words do not show: a call with
                // a variable as its first argument only is written with its result.
                let d = self.peek().and_then(as_var).inspect(|_| self.next += 1);
                Op::Call { f, d, args: self.args()?, fx }
            }
            "label" => Op::Label { label: Label(self.num()?) },
            "jump" => Op::Jump { label: Label(self.num()?) },
            "branch" => {
                let cmp = self.cmp()?;
                self.eat("to")?;
                Op::Branch { cmp, label: Label(self.num()?) }
            }
            "trapif" => {
                let cmp = self.cmp()?;
                self.eat("id")?;
                Op::TrapIf { cmp, id: self.num()?, arg: self.val()? }
            }
            "trap" => Op::Trap { id: self.num()?, arg: self.val()? },
            "exitif" => {
                let cmp = self.cmp()?;
                self.eat("to")?;
                Op::ExitIf { cmp, pc: self.num()? }
            }
            "goto" => Op::Goto { pc: self.num()? },
            "gotovar" => Op::GotoVar { pc: self.val()? },
            "leave" => Op::Leave { pc: self.val()? },
            _ => return None,
        };
        self.peek().is_none().then_some(op)
    }
}

fn as_width(w: &str) -> Option<Width> {
    match w {
        "8" => Some(Width::W8),
        "16" => Some(Width::W16),
        "32" => Some(Width::W32),
        "64" => Some(Width::W64),
        _ => None,
    }
}

fn as_var(w: &str) -> Option<Var> {
    let n = w.get(1..)?.parse::<u8>().ok()?;
    match w.as_bytes()[0] {
        b'v' => Some(Var(n)),
        b't' => Some(Var(n.checked_add(FIRST_TEMP)?)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::opt::optimise;

    /// Every file of `core/cpu/tests/ir` is an input, a line `---` and what the optimiser makes of it.
    #[test]
    fn every_file_comes_out_of_the_optimiser_as_it_says() {
        let files = [
            ("flags", include_str!("../../tests/ir/flags.ir")),
            ("copies", include_str!("../../tests/ir/copies.ir")),
            ("constants", include_str!("../../tests/ir/constants.ir")),
            ("branches", include_str!("../../tests/ir/branches.ir")),
        ];
        for (name, file) in files {
            for (n, case) in file.split("===\n").enumerate() {
                let (before, after) = case.split_once("---\n").expect("two parts");
                let mut ops = parse(before).unwrap();
                optimise(&mut ops, |v| if v.0 < 16 { 32 } else { 64 });
                let want = dump(&parse(after).unwrap());
                assert_eq!(dump(&ops), want, "{name}, case {n}");
            }
        }
    }

    #[test]
    fn text_is_read_as_it_was_written() {
        let text = "\
insn 0x1000 4
mov.8 t0 = v3
add.32 v0 = v1, 0x5
sext.8.32 t1 = v2
extract t1 = v2, 8, 8
deposit v0 = v0, t1, 8, 8
set t0 = ltu.16 v1, 0x7
select.32 v0 = eq.32 v1, 0x0 ? v2 : v3
lea t0 = [v22: v3 + v4 << 2 + 0xfffffffffffffff8 wrap 16 lin 32]
load.32 t0 = [v3 + 0x8 wrap 32 lin 32] mmu 1
load.32 t0 = [v3 << 1 + 0x8 wrap 32 lin 32] mmu 0 rmw locked
loads.8.32 t0 = [0x8 wrap 32 lin 32] mmu 0
store.32 [v3 + v4 << 0 + 0x0 wrap 64 lin 64] mmu 0 = t0
probe 16 [v3 + 0x0 wrap 64 lin 64] mmu 0
vconst y0 = 0x123
vload 16 x0 = [v3 + 0x0 wrap 64 lin 64] mmu 0
vecop 0x7 x0 = x0, y0, 3
vget.32 t0 = x0, 1
float add.s4 x0 = x0, y0, 0 or 0x46, 0x7
floatint order.d1 t0 = x0, y0, x31 or 0x46, 0x9
pure 0x7 t0 = (v17, v18)
call 0x12 fx 15 t3 = (t0, 0x1)
branch tnz.32 v0, 0x1 to 3
jump 3
label 3
trapif eq.32 v0, 0x0 id 0 (0x0)
exitif gts.32 v0, v1 to 0x2000
goto 0x1004
";
        assert_eq!(dump(&parse(text).unwrap()), text);
        assert!(parse("add.33 v0 = v1, v2").is_err());
        assert!(parse("mov v0 = v1, v2").is_err());
    }
}
