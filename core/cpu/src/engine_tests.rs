//! The engine's promises, on a made-up instruction set.

use crate::cpus::Cpus;
use crate::log::{Items, Wanted};
use crate::toy::{Machine, code::*};

fn countdown(n: u8) -> Vec<[u8; 4]> {
    // r0 = n; do { r1 += 2; r0 -= 1 } while r0 != r7
    vec![[ADDI, 0, 7, n], [ADDI, 1, 1, 2], [ADDI, 0, 0, 0xff], [BNE, 0, 7, 0xfe], [HALT, 0, 0, 0]]
}

#[test]
fn a_loop_runs_to_its_end_and_counts_every_instruction() {
    let mut m = Machine::new(&countdown(100));
    assert_eq!(m.run(10_000), 1 + 100 * 3 + 1);
    assert_eq!((m.reg(0), m.reg(1)), (0, 200));
    assert_eq!(m.cpu().pc, 0x1014);
}

#[test]
fn the_state_after_any_number_of_instructions_does_not_depend_on_how_they_were_cut() {
    for total in [1, 2, 3, 50, 51, 52, 299] {
        let mut whole = Machine::new(&countdown(100));
        assert_eq!(whole.run(total), total);
        for step in [1, 2, 7] {
            let mut cut = Machine::new(&countdown(100));
            let mut done = 0;
            while done < total {
                done += cut.run(step.min(total - done));
            }
            assert_eq!(done, total);
            assert_eq!(cut.cpu(), whole.cpu(), "{total} instructions by {step}");
        }
    }
}

#[test]
fn a_faulting_instruction_leaves_no_trace_and_reports_its_address() {
    let mut m =
        Machine::new(&[[ADDI, 1, 1, 5], [ADDI, 2, 2, 0x10], [LOAD, 1, 3, 4], [ADDI, 2, 2, 1]]);
    m.cpu().pages.insert(0x80, None);
    m.set(3, 0x80000);
    assert_eq!(m.run(100), 3, "two done, one for the trap");
    assert_eq!(m.cpu().traps, [(0x1008, 0x80004)]);
    assert_eq!((m.reg(1), m.reg(2)), (5, 0x10));
    assert_eq!(m.reg(20), 7, "flags of the instruction before are there");
    assert_eq!(m.reg(22), 0x10);
}

#[test]
fn a_store_to_a_read_only_page_faults_also_as_part_of_read_modify_write() {
    for op in [STORE, INC] {
        let mut m = Machine::new(&[[op, 1, 3, 0], [HALT, 0, 0, 0]]);
        m.cpu().pages.insert(0x80, Some((0x80, false)));
        m.set(3, 0x80000);
        m.set(1, 9);
        m.run(10);
        assert_eq!(m.cpu().traps, [(0x1000, 0x80000)]);
        assert_eq!(m.board.ram().read_u32(0x80000), 0);
    }
}

#[test]
fn an_access_across_two_pages_goes_to_both_or_to_none() {
    let mut m = Machine::new(&[[STORE, 1, 3, 0], [LOAD, 2, 3, 0], [HALT, 0, 0, 0]]);
    m.set(1, 0x4433_2211);
    m.set(3, 0x80fff);
    m.cpu().pages.insert(0x81, Some((0x90, true)));
    m.run(10);
    assert_eq!(m.reg(2), 0x4433_2211);
    assert_eq!(m.board.ram().read_u8(0x80fff), 0x11);
    assert_eq!(m.board.ram().read_u8(0x90000), 0x22);

    let mut m = Machine::new(&[[STORE, 1, 3, 0], [HALT, 0, 0, 0]]);
    m.set(1, 0x4433_2211);
    m.set(3, 0x80fff);
    m.cpu().pages.insert(0x81, None);
    m.run(10);
    assert_eq!(m.cpu().traps, [(0x1000, 0x81000)]);
    assert_eq!(m.board.ram().read_u8(0x80fff), 0);
}

#[test]
fn code_may_change_the_very_next_instruction() {
    // r1 = 1 is replaced by r1 = 2 just before it runs, on the second pass too.
    let mut m = Machine::new(&[
        [STORE, 5, 3, 4],
        [ADDI, 1, 7, 1],
        [ADDI, 6, 6, 1],
        [BNE, 6, 4, 0xfd],
        [HALT, 0, 0, 0],
    ]);
    m.set(3, 0x1000);
    m.set(4, 3);
    m.set(5, u64::from(u32::from_le_bytes([ADDI, 1, 7, 2])));
    m.run(100);
    assert_eq!(m.reg(1), 2);
    assert_eq!(m.reg(6), 3);
}

#[test]
fn data_beside_code_does_not_drop_translations() {
    let mut m =
        Machine::new(&[[INC, 0, 3, 0x40], [ADDI, 0, 0, 0xff], [BNE, 0, 7, 0xfe], [HALT, 0, 0, 0]]);
    m.set(3, 0x1000);
    m.set(0, 50);
    m.run(1000);
    assert_eq!(m.board.ram().read_u32(0x1040), 50);
    assert_eq!(m.cpus.stats.invalidated, 0);
}

#[test]
fn code_written_from_outside_is_translated_again() {
    let mut m = Machine::new(&[[ADDI, 1, 7, 1], [JMP, 0, 0, 0xff]]);
    m.run(10);
    assert_eq!(m.reg(1), 1);
    m.board.ram().write_bytes(0x1000, &[ADDI, 1, 7, 9]);
    m.run(10);
    assert_eq!(m.reg(1), 9);
}

#[test]
fn an_instruction_may_cross_pages_and_follows_the_mapping_of_both() {
    let mut m = Machine::new(&[]);
    // At 0x1ffc: the last four bytes of LI are in the next page.
    m.board.ram().write_bytes(0x1ffc, &[LI, 1, 0, 0, 0x11, 0, 0, 0]);
    m.board.ram().write_bytes(0x2004, &[HALT, 0, 0, 0]);
    m.board.ram().write_bytes(0x9000, &[0x22, 0, 0, 0, HALT, 0, 0, 0]);
    m.cpu().pc = 0x1ffc;
    m.run(10);
    assert_eq!(m.reg(1), 0x11);
    m.cpu().pages.insert(2, Some((9, true)));
    m.cpu().pc = 0x1ffc;
    m.cpu().halted = false;
    m.cpus.with_env(0, &mut m.board, |env| env.flush());
    m.run(10);
    assert_eq!(m.reg(1), 0x22);
    m.cpu().pages.insert(2, None);
    m.cpu().pc = 0x1ffc;
    m.cpu().halted = false;
    m.cpus.with_env(0, &mut m.board, |env| env.flush_page(0x2000));
    m.run(10);
    assert_eq!(m.cpu().traps, [(0x1ffc, 0x2000)]);
}

#[test]
fn a_helper_knows_how_many_instructions_came_before_it() {
    let mut m = Machine::new(&[
        [ADDI, 1, 1, 1],
        [CLOCK, 0, 0, 0],
        [ADDI, 1, 1, 1],
        [ADDI, 1, 1, 1],
        [CLOCK, 0, 0, 0],
    ]);
    m.run(5);
    assert_eq!(m.cpu().seen, [1, 4]);
}

#[test]
fn a_branch_inside_an_instruction_is_taken_or_not() {
    let mut m = Machine::new(&[[NOTNEG, 0, 1, 0], [NOTNEG, 0, 2, 0], [HALT, 0, 0, 0]]);
    m.set(1, 5);
    m.set(2, 0xffff_fffb);
    m.run(10);
    assert_eq!((m.reg(1), m.reg(2)), (5, 5));
}

#[test]
fn computed_jumps_follow_a_change_of_the_page_tables() {
    let mut m = Machine::new(&[[JR, 3, 0, 0]]);
    m.board.ram().write_bytes(0x5000, &[ADDI, 1, 7, 5, HALT, 0, 0, 0]);
    m.board.ram().write_bytes(0x6000, &[ADDI, 1, 7, 6, HALT, 0, 0, 0]);
    m.set(3, 0x5000);
    m.run(10);
    assert_eq!(m.reg(1), 5);
    m.cpu().pages.insert(5, Some((6, true)));
    m.cpus.with_env(0, &mut m.board, |env| env.flush());
    (m.cpu().pc, m.cpu().halted) = (0x1000, false);
    m.run(10);
    assert_eq!(m.reg(1), 6);
}

#[test]
fn a_guest_that_only_faults_uses_up_its_budget() {
    let mut m = Machine::new(&[]);
    m.cpu().pages.insert(7, None);
    m.cpu().pc = 0x7000;
    assert_eq!(m.run(5), 1);
    assert_eq!(m.cpu().traps, [(0x7000, 0x7000)]);
}

#[test]
fn a_saved_cpu_goes_on_where_it_was() {
    let mut a = Machine::new(&countdown(100));
    a.run(77);
    let saved = a.cpus.save();
    let mut b = Machine::new(&countdown(100));
    b.run(150);
    b.cpus.restore(&mut b.board, &saved).unwrap();
    a.run(1000);
    b.run(1000);
    assert_eq!(a.cpu(), b.cpu());
    assert!(b.cpus.restore(&mut b.board, &[]).is_err());
}

#[test]
fn a_log_of_blocks_tells_each_that_runs_and_changes_nothing() {
    let mut plain = Machine::new(&countdown(5));
    plain.run(1000);
    let mut told = Machine::new(&countdown(5));
    let items = Items::parse("in_asm,op,exec").unwrap();
    told.cpus.set_log(&told.board, Wanted { items, ..Wanted::default() });
    told.run(1000);
    assert_eq!(told.cpu(), plain.cpu());
    let log = told.cpus.take_log();
    // The loop's block begins anew four times behind the one that fell into it; HALT is part of it.
    assert_eq!(log.matches("Trace 0: ").count(), 5, "{log}");
    assert!(log.contains("IN:") && log.contains("OP: 0x1000"), "{log}");
    assert_eq!(told.cpus.take_log(), "");

    let mut far = Machine::new(&countdown(5));
    far.cpus.set_log(&far.board, Wanted { items, ranges: vec![(0x1004, 0x100f)] });
    far.run(1000);
    let log = far.cpus.take_log();
    assert_eq!(log.matches("Trace 0: ").count(), 4, "those of the loop alone: {log}");
}
