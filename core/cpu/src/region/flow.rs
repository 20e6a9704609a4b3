//! What the blocks of a region mean to each other: which variables may have changed.
//!
//! The frame in memory is brought up to date where something may look at it. Between such places
//! a *changed* variable is one whose value in the frame is old.

use super::Region;
use crate::frame::FIRST_TEMP;
use crate::ir::{Fx, Op, Val, Var, opt};

/// A guest variable as a bit; nothing for a temporary.
pub const fn bit(v: Var) -> u64 {
    if v.0 < FIRST_TEMP { 1 << v.0 } else { 0 }
}

/// The variables changed after an op, from those changed before it. Before a helper that reads or
/// writes variables the back end writes back what changed; behind one that writes, it reads them
/// anew.
pub fn after(op: &Op, changed: u64) -> u64 {
    let written = op.dest().map_or(0, bit);
    match op {
        Op::Call { fx, .. } if fx.has(Fx::READS) || fx.has(Fx::WRITES) => written,
        _ => changed | written,
    }
}

/// Finds what may have changed at the start of each block.
pub(crate) fn dirty(region: &mut Region) {
    let mut again = true;
    while again {
        again = false;
        for i in 0..region.blocks.len() {
            let mut changed = region.blocks[i].dirty_in;
            // Changed where a branch inside the instruction was: a helper may be jumped over.
            let mut skipped = 0;
            let mut out = Vec::new();
            for op in &region.blocks[i].ops {
                match *op {
                    Op::ExitIf { pc, .. } | Op::Goto { pc } => {
                        out.extend(region.block_at(pc).map(|to| (to, changed)));
                    }
                    // All was written back before.
                    Op::Leave { pc: Val::Imm(pc) } if region.resumes => {
                        out.extend(region.block_at(pc).map(|to| (to, 0)));
                    }
                    Op::GotoVar { .. } => {
                        out.extend(region.returns.iter().map(|&to| (to, changed)));
                    }
                    Op::Insn { .. } => skipped = 0,
                    Op::Branch { .. } | Op::Jump { .. } => skipped |= changed,
                    Op::Label { .. } => changed |= skipped,
                    _ => changed = after(op, changed),
                }
            }
            for (to, changed) in out {
                let d = &mut region.blocks[to].dirty_in;
                again |= *d | changed != *d;
                *d |= changed;
            }
        }
    }
}

/// Drops what is written to guest variables and written again before anything can look, also where blocks of the region lie
/// between. Ways on which the budget or a page is looked at lead out of it, where every variable counts.
pub fn prune(region: &mut Region) {
    let looks = budget(region).look;
    let mut live = vec![0; region.blocks.len()];
    let there = |region: &Region, live: &[u64], from: usize, pc: u64| match region.edge(from, pc) {
        Some((to, None)) if !looks[to] => live[to],
        _ => u64::MAX,
    };
    let mut again = true;
    while again {
        again = false;
        for n in (0..live.len()).rev() {
            let now = opt::live(&region.blocks[n].ops, &|pc| there(region, &live, n, pc), |_| {});
            again |= now != live[n];
            live[n] = now;
        }
    }
    for n in 0..live.len() {
        let mut ops = std::mem::take(&mut region.blocks[n].ops);
        opt::remove_dead(&mut ops, &|pc| there(region, &live, n, pc));
        region.blocks[n].ops = ops;
    }
    region.blocks.iter_mut().for_each(|b| b.dirty_in = 0);
    dirty(region);
}

/// Where a back end looks at the budget: on entry, and on ways to blocks that are so marked. Every loop has
/// one, and from one look to the next there are not many instructions.
pub struct Budget {
    /// At least so many instructions must be left when a block that is looked before is entered:
    /// enough to get to the next look.
    pub need: Vec<u32>,
    /// Ways to the block look at the budget first.
    pub look: Vec<bool>,
}

/// Most instructions between two looks, except within one block: what is left of a slice when a look
/// fails is interpreted.
const MOST: u32 = 128;

/// The blocks that each block may go on in; `returns` are those that a way by a variable leads to.
pub fn ways(region: &Region, returns: &[usize]) -> Vec<Vec<usize>> {
    let to = |from: usize, op: &Op| match *op {
        Op::ExitIf { pc, .. } | Op::Goto { pc } | Op::GotoVar { pc: Val::Imm(pc) } => {
            region.edge(from, pc).map(|(to, _)| to).into_iter().collect()
        }
        Op::GotoVar { .. } => returns.to_vec(),
        Op::Leave { pc: Val::Imm(pc) } if region.resumes => {
            region.edge(from, pc).map(|(to, _)| to).into_iter().collect()
        }
        _ => Vec::new(),
    };
    let all = region.blocks.iter().enumerate();
    all.map(|(n, b)| b.ops.iter().flat_map(|op| to(n, op)).collect()).collect()
}

/// Finds where to look at the budget.
pub fn budget(region: &Region) -> Budget {
    let n = region.blocks.len();
    let ways = ways(region, &region.returns);
    let mut b = Budget { need: vec![0; n], look: vec![false; n] };
    // Depth first: a way to a block that is not done yet closes a loop.
    let (mut open, mut done) = (vec![false; n], vec![false; n]);
    for root in 0..n {
        if done[root] {
            continue;
        }
        let mut stack = vec![(root, 0)];
        open[root] = true;
        while let Some((at, next)) = stack.last_mut() {
            let at = *at;
            if let Some(&to) = ways[at].get(*next) {
                *next += 1;
                if open[to] {
                    b.look[to] = true;
                } else if !done[to] {
                    open[to] = true;
                    stack.push((to, 0));
                }
                continue;
            }
            let own = region.blocks[at].insns;
            let after = ways[at].iter().filter(|&&to| !b.look[to]).map(|&to| b.need[to]);
            b.need[at] = own + after.max().unwrap_or(0);
            if b.need[at] > MOST {
                ways[at].iter().for_each(|&to| b.look[to] = true);
                b.need[at] = own;
            }
            (open[at], done[at]) = (false, true);
            stack.pop();
        }
    }
    b
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::region::RBlock;

    fn region(blocks: &[(u32, &[u64])]) -> Region {
        let block = |(n, &(insns, ways)): (usize, &(u32, &[u64]))| {
            let (last, rest) = ways.split_last().expect("a way out");
            let cmp = crate::ir::Cmp::new(crate::ir::Cond::Eq, crate::ir::Width::W64, Var(0), 0u64);
            let mut ops: Vec<Op> = rest.iter().map(|&pc| Op::ExitIf { cmp, pc }).collect();
            ops.push(Op::Goto { pc: *last });
            RBlock { pc: n as u64, page: 0, insns, ops, dirty_in: 0 }
        };
        Region::of_blocks([64; FIRST_TEMP as usize], blocks.iter().enumerate().map(block).collect())
    }

    #[test]
    fn what_is_written_twice_before_a_way_out_is_written_once() {
        // 0 -> 1, and 1 leads out: what 0 writes to variable 1 is written again there, what it
        // writes to variable 2 is not.
        let mut r = region(&[(5, &[1]), (5, &[99])]);
        let set = |v: u8, n: u64| Op::Mov { w: crate::ir::Width::W64, d: Var(v), a: Val::Imm(n) };
        r.blocks[0].ops.splice(0..0, [set(1, 7), set(2, 7)]);
        r.blocks[1].ops.insert(0, set(1, 8));
        prune(&mut r);
        assert_eq!(r.blocks[0].ops, [set(2, 7), Op::Goto { pc: 1 }]);
        assert_eq!(r.blocks[1].ops, [set(1, 8), Op::Goto { pc: 99 }]);
        assert_eq!(r.blocks[1].dirty_in, 1 << 2);
    }

    #[test]
    fn every_loop_has_a_look_and_no_way_between_two_is_longer_than_said() {
        // 0 -> 1 -> 2 -> 1, 2 -> 3, 0 -> 3, 3 -> out
        let r = region(&[(5, &[3, 1]), (10, &[2]), (20, &[1, 3]), (7, &[99])]);
        let b = budget(&r);
        assert_eq!(b.look, [false, true, false, false]);
        assert_eq!(b.need, [12, 37, 27, 7]);
    }

    #[test]
    fn long_ways_have_looks_on_them() {
        let r = region(&[(60, &[1]), (60, &[2]), (60, &[3]), (60, &[9])]);
        let b = budget(&r);
        assert_eq!(b.look, [false, false, true, false]);
        assert_eq!(b.need, [120, 60, 120, 60]);
    }
}
