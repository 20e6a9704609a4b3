//! Accesses of a block that lie close together: one look at the TLB does for all of them.
//!
//! A *group* is accesses by the same base, index and segment, which have the same values at all of
//! them or differ by a known number. Its first access comes before the others on every way
//! through the block, and what is between them changes no translation. Reads and writes are in groups of their own: a
//! page that may only be read, or holds translated code, keeps direct reads.

use crate::ir::{Addr, BinOp, Mem, Op, Val, Var, Width};

/// Most bytes from the first to the last of a group: a group that lies in two pages is slow.
const MOST: i64 = 256;

/// Accesses that are reached together.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Group {
    /// The lowest byte, by the variables as they are at the first access.
    pub addr: Addr,
    /// Bytes to the end of the highest.
    pub len: u32,
    /// Their MMU index.
    pub mmu: u8,
    /// Whether the page must take stores.
    pub write: bool,
}

/// An access that is in a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The operation's index in its block.
    pub op: usize,
    /// The group's index.
    pub group: usize,
    /// The first of the group.
    pub first: bool,
    /// How far from the group's lowest byte it begins.
    pub offset: u32,
}

/// A group while more may come.
struct Open {
    /// The first access's address with no displacement.
    shape: Addr,
    mmu: u8,
    write: bool,
    /// What the base has grown by since.
    grown: i64,
    low: i64,
    high: i64,
    /// Operations with their displacements.
    members: Vec<(usize, i64)>,
    closed: bool,
}

/// The groups of a block's operations, and the accesses in them in order.
pub fn spans(ops: &[Op]) -> (Vec<Group>, Vec<Span>) {
    let mut all: Vec<Open> = Vec::new();
    for (at, op) in ops.iter().enumerate() {
        if let Some((addr, size, mem, write)) = access(op) {
            join(&mut all, at, addr, i64::from(size), mem.mmu, write);
        }
        match op {
            // Another way comes in, or anything may have been changed.
            Op::Label { .. } | Op::Call { .. } => all.iter_mut().for_each(|g| g.closed = true),
            _ => {}
        }
        if let Some(d) = op.dest() {
            let step = step(op, d);
            for g in all.iter_mut().filter(|g| !g.closed) {
                if g.shape.index == Some(d) || g.shape.segment == Some(d) {
                    g.closed = true;
                } else if g.shape.base == Some(d) {
                    match step {
                        Some((n, w)) if w >= g.shape.lin => g.grown = g.grown.wrapping_add(n),
                        _ => g.closed = true,
                    }
                }
            }
        }
    }
    let (mut groups, mut spans) = (Vec::new(), Vec::new());
    for g in all.iter().filter(|g| g.members.len() > 1) {
        for (n, &(op, disp)) in g.members.iter().enumerate() {
            let offset = (disp - g.low) as u32;
            spans.push(Span { op, group: groups.len(), first: n == 0, offset });
        }
        let addr = Addr { disp: g.low, ..g.shape };
        let len = (g.high - g.low) as u32;
        groups.push(Group { addr, len, mmu: g.mmu, write: g.write });
    }
    spans.sort_by_key(|s| s.op);
    (groups, spans)
}

fn join(all: &mut Vec<Open>, at: usize, addr: &Addr, size: i64, mmu: u8, write: bool) {
    let vars = [addr.base, addr.index, addr.segment];
    // Sums that wrap below the linear address do not stay together.
    if addr.wrap != addr.lin || vars.into_iter().flatten().any(Var::is_temp) {
        return;
    }
    let shape = Addr { disp: 0, ..*addr };
    let open = |g: &&mut Open| !g.closed && g.shape == shape && (g.mmu, g.write) == (mmu, write);
    if let Some(g) = all.iter_mut().find(open) {
        let disp = addr.disp.wrapping_add(g.grown);
        let (low, high) = (g.low.min(disp), g.high.max(disp.saturating_add(size)));
        if high.saturating_sub(low) <= MOST {
            (g.low, g.high) = (low, high);
            g.members.push((at, disp));
            return;
        }
        g.closed = true;
    }
    let (low, high) = (addr.disp, addr.disp.saturating_add(size));
    let members = vec![(at, low)];
    all.push(Open { shape, mmu, write, grown: 0, low, high, members, closed: false });
}

/// What an operation reads or writes, and whether its pages must take stores.
fn access(op: &Op) -> Option<(&Addr, u32, Mem, bool)> {
    match op {
        Op::Load { w, addr, mem, .. } | Op::LoadSext { w, addr, mem, .. } => {
            Some((addr, w.bytes(), *mem, mem.flags & Mem::WRITE != 0))
        }
        Op::Store { w, addr, mem, .. } => Some((addr, w.bytes(), *mem, true)),
        Op::VLoad { size, addr, mem, .. } => Some((addr, (*size).into(), *mem, false)),
        Op::VStore { size, addr, mem, .. } => Some((addr, (*size).into(), *mem, true)),
        _ => None,
    }
}

/// By what an operation makes a variable larger, and in which width.
fn step(op: &Op, d: Var) -> Option<(i64, Width)> {
    match *op {
        Op::Bin { op: BinOp::Add, w, a: Val::Var(a), b: Val::Imm(n), .. } if a == d => {
            Some((w.sext(n) as i64, w))
        }
        Op::Bin { op: BinOp::Sub, w, a: Val::Var(a), b: Val::Imm(n), .. } if a == d => {
            Some(((w.sext(n) as i64).wrapping_neg(), w))
        }
        Op::Lea { addr, .. }
            if addr.base == Some(d) && addr.index.is_none() && addr.segment.is_none() =>
        {
            Some((addr.disp, addr.wrap.min(addr.lin)))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::text::parse;

    /// The groups, and of each access in one: operation, group, offset.
    fn of(text: &str) -> (Vec<Group>, Vec<(usize, usize, u32)>) {
        let (groups, spans) = spans(&parse(text).expect("ops"));
        let firsts = spans.iter().filter(|s| s.first).count();
        assert_eq!(firsts, groups.len());
        (groups, spans.iter().map(|s| (s.op, s.group, s.offset)).collect())
    }

    #[test]
    fn fields_of_a_structure_are_one_group_for_reads_and_one_for_writes() {
        let (groups, spans) = of("
            load.32 v0 = [v3 + 0x8 wrap 32 lin 32] mmu 1
            load.16 v1 = [v3 + 0x2 wrap 32 lin 32] mmu 1
            store.32 [v3 + 0x4 wrap 32 lin 32] mmu 1 = v0
            load.32 v2 = [v3 + 0x10 wrap 32 lin 32] mmu 1
            store.8 [v3 + 0x8 wrap 32 lin 32] mmu 1 = v0");
        assert_eq!(spans, [(0, 0, 6), (1, 0, 0), (2, 1, 0), (3, 0, 14), (4, 1, 4)]);
        let of = |g: &Group| (g.addr.disp, g.len, g.mmu, g.write);
        assert_eq!(groups.iter().map(of).collect::<Vec<_>>(), [(2, 18, 1, false), (4, 5, 1, true)]);
    }

    #[test]
    fn a_base_that_grows_by_a_number_is_followed() {
        // As PUSH does.
        let (groups, spans) = of("
            store.32 [v4 + 0xfffffffffffffffc wrap 32 lin 32] mmu 0 = v0
            add.32 v4 = v4, 0xfffffffc
            store.32 [v4 + 0xfffffffffffffffc wrap 32 lin 32] mmu 0 = v1
            sub.32 v4 = v4, 0x4
            store.32 [v4 + 0x0 wrap 32 lin 32] mmu 0 = v2");
        assert_eq!(spans, [(0, 0, 4), (2, 0, 0), (4, 0, 0)]);
        assert_eq!((groups[0].addr.disp, groups[0].len), (-8, 8));
    }

    #[test]
    fn what_may_be_elsewhere_is_no_member() {
        let apart = |between: &str| {
            let load = "load.32 v0 = [v3 + v5 << 1 + 0x8 wrap 32 lin 32] mmu 1";
            of(&format!("{load}\n{between}\n{load}")).0.is_empty()
        };
        assert!(!apart("mov.32 v7 = v3"));
        for between in [
            "mov.32 v3 = v6",
            "add.32 v3 = v3, v6",
            "add.16 v3 = v3, 0x4",
            "add.32 v5 = v5, 0x4",
            "add.32 v3 = v3, 0x100",
            "label 0",
        ] {
            assert!(apart(between), "{between}");
        }
        let (groups, _) = of("
            load.32 v0 = [v3 + 0x8 wrap 32 lin 64] mmu 1
            load.32 v0 = [v3 + 0x8 wrap 32 lin 64] mmu 1
            load.32 v0 = [t0 + 0x8 wrap 32 lin 32] mmu 1
            load.32 v0 = [t0 + 0x8 wrap 32 lin 32] mmu 1
            load.32 v0 = [v1 + 0x8 wrap 32 lin 32] mmu 1
            load.32 v0 = [v1 + 0x8 wrap 32 lin 32] mmu 0");
        assert_eq!(groups, []);
    }
}
