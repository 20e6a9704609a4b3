use super::*;
use crate::frame::Frame;
use crate::ir::text::{dump, parse};
use crate::toy::{Cpu, Toy, code::*};

/// A region of the toy at 0x1000 in a memory that holds these words from there on.
fn form(program: &[[u8; 4]], limits: Limits) -> Region {
    let bytes = program.concat();
    let cpu = Cpu {
        frame: Frame::new(),
        pc: 0x1000,
        pages: BTreeMap::new(),
        traps: vec![],
        halted: false,
        seen: vec![],
    };
    let fetch = |pc: u64, _| {
        let from = pc.checked_sub(0x1000)? as usize;
        let end = (from / 4096 + 1) * 4096;
        let bytes = bytes.get(from..end.min(bytes.len()))?.to_vec();
        Some(Chunk { linear: pc, at: pc as usize, bytes })
    };
    Region::form::<Toy>(&cpu, 0, 0x1000, &limits, &mut Builder::new(), fetch).expect("a region")
}

#[test]
fn a_loop_is_whole_and_its_registers_are_changed_around_it() {
    // r0 += 1; do { r1 += 2; r0 -= 1 } while r0 != r7; halt
    let r = form(
        &[[ADDI, 0, 0, 9], [ADDI, 1, 1, 2], [ADDI, 0, 0, 0xff], [BNE, 0, 7, 0xfe], [HALT, 0, 0, 0]],
        Limits::default(),
    );
    let at: Vec<u64> = r.blocks.iter().map(|b| b.pc).collect();
    assert_eq!(at, [0x1000, 0x1004]);
    assert_eq!(r.edge(0, 0x1004), Some((1, None)), "{}", dump(&r.blocks[0].ops));
    assert_eq!(r.edge(1, 0x1004), Some((1, None)));
    assert_eq!(r.blocks[0].dirty_in, 0);
    assert_eq!(r.blocks[1].dirty_in & 0xff, 3, "r0 and r1");
    assert_eq!(r.pages.len(), 1);
    assert_eq!((r.pages[0].linear, r.pages[0].reach), (0x1000, 20));
}

#[test]
fn limits_hold_and_what_lies_behind_them_is_a_way_out() {
    let jumps: Vec<[u8; 4]> = (0..20).map(|_| [JMP, 0, 0, 1]).collect();
    let r = form(&jumps, Limits { blocks: 5, ..Limits::default() });
    assert_eq!(r.blocks.len(), 5);
    assert_eq!(r.block_at(0x1014), None);
    let r = form(&jumps, Limits { insns: 7, ..Limits::default() });
    assert_eq!(r.insns(), 7);
    let adds = [[ADDI, 1, 1, 1]; 40];
    let r = form(&adds, Limits { block_insns: 16, ..Limits::default() });
    assert_eq!(r.blocks.iter().map(|b| b.insns).collect::<Vec<_>>(), [16, 16, 8]);
}

#[test]
fn a_region_goes_on_in_another_page_and_says_so() {
    // From 0x1000 to 0x2000 and back.
    let mut program = vec![[ADDI, 1, 1, 1]; 0x400];
    program[1] = [JMP, 0, 0, 127];
    program[128] = [JMP, 0, 0, 127];
    for n in 2..8 {
        program[1 + n * 127] = [JMP, 0, 0, 127];
    }
    program[1 + 8 * 127] = [JMP, 0, 0, 7];
    program.extend([[JMP, 0, 0, 0x80]; 2]);
    let r = form(&program, Limits { pages: 1, ..Limits::default() });
    assert_eq!(r.pages.len(), 1);
    let r = form(&program, Limits::default());
    assert_eq!(r.pages.len(), 2);
    let there = r.block_at(0x2000).expect("the block in the other page");
    let from = r.blocks.iter().position(|b| b.pc == 0x1000 + (1 + 8 * 127) * 4).unwrap();
    assert_eq!(r.edge(from, 0x2000), Some((there, Some(1))));
    assert_eq!(r.edge(there, 0x1000), Some((0, None)));
    assert_eq!(r.pages[1].bytes, [(0x2000, 4)]);
}

#[test]
fn an_instruction_that_is_not_all_there_ends_the_block_before_it() {
    let r = form(&[[ADDI, 1, 1, 1], [LI, 1, 0, 0]], Limits::default());
    assert_eq!(r.blocks.len(), 1);
    assert_eq!(r.blocks[0].ops.last(), Some(&Op::Goto { pc: 0x1004 }));
}

/// The blocks of a file: `block PC`, and operations.
fn blocks(text: &str) -> Vec<RBlock> {
    let block = |part: &str| {
        let (pc, ops) = part.split_once('\n').expect("operations");
        let pc = u64::from_str_radix(pc.trim().trim_start_matches("0x"), 16).expect("an address");
        let ops = parse(ops).expect("operations");
        let insns = ops.iter().filter(|op| matches!(op, Op::Insn { .. })).count() as u32;
        RBlock { pc, page: 0, insns, ops, dirty_in: 0 }
    };
    format!("\n{text}").split("\nblock ").skip(1).map(block).collect()
}

/// Each case of a file in two parts.
fn cases(file: &'static str) -> impl Iterator<Item = (&'static str, &'static str)> {
    file.split("===\n").map(|case| case.split_once("---\n").expect("two parts"))
}

#[test]
fn every_file_of_regions_is_pruned_as_it_says() {
    for (n, (before, after)) in cases(include_str!("../../tests/ir/region/prune.ir")).enumerate() {
        let mut region = Region::of_blocks([64; FIRST_TEMP as usize], blocks(before));
        flow::prune(&mut region);
        let text = |all: &[RBlock]| -> String {
            all.iter().map(|b| format!("block {:#x}\n{}", b.pc, dump(&b.ops))).collect()
        };
        assert_eq!(text(&region.blocks), text(&blocks(after)), "case {n}");
    }
}

#[test]
fn every_file_of_spans_has_the_groups_it_says() {
    for (n, (ops, want)) in cases(include_str!("../../tests/ir/region/spans.ir")).enumerate() {
        let (groups, spans) = spans::spans(&parse(ops).expect("operations"));
        let mut text = String::new();
        for (number, g) in groups.iter().enumerate() {
            let what = if g.write { "write" } else { "read" };
            text += &format!("{what} {} bytes from {:+} mmu {}:", g.len, g.addr.disp, g.mmu);
            for s in spans.iter().filter(|s| s.group == number) {
                text += &format!(" {}+{}", s.op, s.offset);
            }
            text += "\n";
        }
        assert_eq!(text, want, "case {n}");
    }
}

#[test]
fn an_instruction_across_two_pages_is_a_block_that_needs_both() {
    // From 0x1ff6 on; the third instruction begins at 0x1ffe.
    let bytes = [[ADDI, 0, 0, 9], [ADDI, 1, 1, 2], [ADDI, 1, 1, 3], [HALT, 0, 0, 0]].concat();
    let cpu = Cpu {
        frame: Frame::new(),
        pc: 0x1ff6,
        pages: BTreeMap::new(),
        traps: vec![],
        halted: false,
        seen: vec![],
    };
    let fetch = |pc: u64, _| {
        let from = pc.checked_sub(0x1ff6)? as usize;
        let end = from + (0x1000 - pc % 0x1000) as usize;
        let bytes = bytes.get(from..end.min(bytes.len()))?.to_vec();
        Some(Chunk { linear: pc, at: pc as usize, bytes })
    };
    let form =
        |pc| Region::form::<Toy>(&cpu, 0, pc, &Limits::default(), &mut Builder::new(), fetch);
    let r = form(0x1ff6).expect("a region");
    let at: Vec<u64> = r.blocks.iter().map(|b| b.pc).collect();
    assert_eq!(at, [0x1ff6, 0x1ffe, 0x2002]);
    assert_eq!(r.edge(0, 0x1ffe), Some((1, Some(1))), "its second page must be in place");
    assert_eq!(r.edge(2, 0x1ffe), Some((1, None)), "it is, when the way comes from there");
    assert_eq!(r.pages[0].bytes, [(0x1ff6, 8), (0x1ffe, 2)]);
    assert_eq!(r.pages[1].bytes, [(0x2000, 2), (0x2002, 4)]);
    assert_eq!((r.pages[1].linear, r.pages[1].reach), (0x2000, 6));
    assert!(form(0x1ffe).is_none(), "nothing would look at its second page");
}
