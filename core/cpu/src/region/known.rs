//! What is known of guest variables where a block of a region begins: those that every way to it leaves with the
//! same constant.
//!
//! The flags' operation is one: an instruction that keeps part of the flags, at the start of a block, then
//! knows where they are from.

use super::Region;
use crate::frame::FIRST_TEMP;
use crate::ir::{Fx, Op, Val, Var};

/// The constants in guest variables.
type Known = [Option<u64>; FIRST_TEMP as usize];

const NOTHING: Known = [None; FIRST_TEMP as usize];

fn get(known: &Known, v: Val) -> Option<u64> {
    match v {
        Val::Imm(n) => Some(n),
        Val::Var(Var(v)) => known.get(usize::from(v)).copied().flatten(),
    }
}

/// What is known on either of two ways.
fn meet(a: &mut Known, b: &Known) {
    for (a, b) in a.iter_mut().zip(b) {
        if a != b {
            *a = None;
        }
    }
}

/// Goes through a block: `see` is shown each operation with what is known before it.
fn walk<'a>(
    ops: impl Iterator<Item = &'a mut Op>,
    known: &mut Known,
    mut see: impl FnMut(&mut Op, &Known),
) {
    // Where branches inside the instruction were.
    let mut branched: Vec<Known> = Vec::new();
    for op in ops {
        see(op, known);
        match *op {
            Op::Insn { .. } => branched.clear(),
            Op::Branch { .. } | Op::Jump { .. } => branched.push(*known),
            Op::Label { .. } => branched.iter().for_each(|b| meet(known, b)),
            Op::Call { fx, .. } if fx.has(Fx::WRITES) => *known = NOTHING,
            Op::Mov { w, d, a } if !d.is_temp() => {
                known[usize::from(d.0)] = get(known, a).map(|n| n & w.mask());
            }
            ref op => {
                if let Some(d) = op.dest().filter(|d| !d.is_temp()) {
                    known[usize::from(d.0)] = None;
                }
            }
        }
    }
}

/// Puts the constants in the place of variables that pure functions read.
pub(super) fn fill_in(region: &mut Region) {
    let mut blocks: Vec<Option<Known>> = vec![None; region.blocks.len()];
    blocks[0] = Some(NOTHING);
    region.gates.iter().for_each(|&gate| blocks[gate] = Some(NOTHING));
    let mut again = true;
    while again {
        again = false;
        for n in 0..blocks.len() {
            let Some(mut known) = blocks[n] else { continue };
            let mut out = Vec::new();
            let mut ops = std::mem::take(&mut region.blocks[n].ops);
            walk(ops.iter_mut(), &mut known, |op, known| match *op {
                Op::ExitIf { pc, .. } | Op::Goto { pc } | Op::GotoVar { pc: Val::Imm(pc) } => {
                    out.extend(region.block_at(pc).map(|to| (to, *known)));
                }
                Op::GotoVar { .. } => out.extend(region.returns.iter().map(|&to| (to, *known))),
                Op::Leave { pc: Val::Imm(pc) } => {
                    out.extend(region.block_at(pc).map(|to| (to, NOTHING)));
                }
                _ => {}
            });
            region.blocks[n].ops = ops;
            for (to, known) in out {
                let before = blocks[to];
                match &mut blocks[to] {
                    Some(there) => meet(there, &known),
                    there => *there = Some(known),
                }
                again |= blocks[to] != before;
            }
        }
    }
    for (block, known) in region.blocks.iter_mut().zip(blocks) {
        walk(block.ops.iter_mut(), &mut known.unwrap_or(NOTHING), |op, known| {
            if let Op::Pure { args, .. } = op {
                for a in args {
                    *a = get(known, *a).map_or(*a, Val::Imm);
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::{Cmp, Cond, Width};
    use crate::region::RBlock;

    const A: Var = Var(3);
    const B: Var = Var(4);

    fn set(v: Var, n: u64) -> Op {
        Op::Mov { w: Width::W64, d: v, a: Val::Imm(n) }
    }

    fn pure(args: [Var; 2]) -> Op {
        let [a, b] = args.map(Val::Var);
        Op::Pure {
            f: 1,
            d: Var(70),
            args: [a, b, 0u64.into(), 0u64.into(), 0u64.into(), 0u64.into()],
        }
    }

    fn filled(op: &Op) -> [Val; 2] {
        let Op::Pure { args, .. } = *op else { panic!("{op:?}") };
        [args[0], args[1]]
    }

    fn region(blocks: Vec<Vec<Op>>) -> Region {
        let block = |(n, ops)| RBlock { pc: n as u64, page: 0, insns: 1, ops, dirty_in: 0 };
        let blocks = blocks.into_iter().enumerate().map(block).collect();
        let mut r = Region::of_blocks([64; FIRST_TEMP as usize], blocks);
        fill_in(&mut r);
        r
    }

    #[test]
    fn what_all_ways_agree_on_is_known() {
        // 0 -> 1 or 2, both -> 3: of A they leave the same, of B not.
        let cmp = Cmp::new(Cond::Eq, Width::W64, Var(0), 0u64);
        let r = region(vec![
            vec![pure([A, B]), set(A, 7), Op::ExitIf { cmp, pc: 1 }, Op::Goto { pc: 2 }],
            vec![set(B, 1), Op::Goto { pc: 3 }],
            vec![set(B, 2), pure([A, B]), Op::Goto { pc: 3 }],
            vec![pure([A, B]), Op::Goto { pc: 9 }],
        ]);
        let imm = Val::Imm;
        assert_eq!(filled(&r.blocks[0].ops[0]), [A.into(), B.into()]);
        assert_eq!(filled(&r.blocks[2].ops[1]), [imm(7), imm(2)]);
        assert_eq!(filled(&r.blocks[3].ops[0]), [imm(7), B.into()]);
    }

    #[test]
    fn loops_and_helpers_and_ways_around_them_count() {
        let cmp = Cmp::new(Cond::Eq, Width::W64, Var(0), 0u64);
        let label = crate::ir::Label(0);
        let call = |fx| Op::Call { f: 1, d: None, args: [0u64.into(); 6], fx };
        // 0 -> 1 -> 2 -> 1: what 2 sets is not what 0 set.
        let r = region(vec![
            vec![set(A, 7), set(B, 8), Op::Goto { pc: 1 }],
            vec![pure([A, B]), Op::Goto { pc: 2 }],
            vec![set(B, 9), Op::Goto { pc: 1 }],
        ]);
        assert_eq!(filled(&r.blocks[1].ops[0]), [Val::Imm(7), B.into()]);
        // A helper that is jumped over, and one that writes no variables.
        let insn = Op::Insn { pc: 0, len: 1 };
        let r = region(vec![vec![
            set(A, 7),
            set(B, 8),
            insn,
            Op::Branch { cmp, label },
            set(B, 9),
            Op::Label { label },
            pure([A, B]),
            insn,
            call(Fx::FAULTS),
            pure([A, B]),
            insn,
            call(Fx::WRITES),
            pure([A, B]),
            Op::Goto { pc: 1 },
        ]]);
        assert_eq!(filled(&r.blocks[0].ops[6]), [Val::Imm(7), B.into()]);
        assert_eq!(filled(&r.blocks[0].ops[9]), [Val::Imm(7), B.into()]);
        assert_eq!(filled(&r.blocks[0].ops[12]), [A.into(), B.into()]);
    }
}
