//! The elementary functions against the host's, to within one unit in the last place. Flags and
//! special cases exactly, but for what the manual leaves open.

use orrery_cpu::float::{Class, F80, Format};
use orrery_cpu::x86::x87::{X87, X87Op};

use crate::values::Random;
use crate::x87::{comparable, host};

/// Distance in units of the last place; 0 for equal encodings.
fn ulps(a: F80, b: F80) -> u64 {
    if a == b {
        return 0;
    }
    // Zeroes and the smallest denormals are neighbours.
    let ordered = |x: F80| {
        let magnitude = i128::from(x.exponent()) << 63 | i128::from(x.sig & (u64::MAX >> 1));
        if x.sign() { -magnitude } else { magnitude }
    };
    let both_numbers = [a, b].iter().all(|x| !matches!(x.exponent(), 0x7FFF));
    if !both_numbers {
        return u64::MAX;
    }
    (ordered(a) - ordered(b)).unsigned_abs().min(u128::from(u64::MAX)) as u64
}

/// A value whose exponent is in a range of use to the functions.
fn moderate(random: &mut Random, low: i32, high: i32) -> F80 {
    let sign = (random.next() as u16) & 0x8000;
    let exponent = low + random.below((high - low) as u64) as i32;
    let sig = match random.below(4) {
        0 => 1 << 63 | 1 << random.below(64),
        1 => u64::MAX << random.below(63),
        _ => random.next() | 1 << 63,
    };
    F80 { head: sign | (16383 + exponent) as u16, sig }
}

struct Outcome {
    cases: u32,
    exact: u32,
    worst: u64,
    report: String,
    bad: u32,
}

fn try_case(op: X87Op, modrm: u8, st0: F80, st1: F80, control: u16, outcome: &mut Outcome) {
    let mut before = X87::new();
    before.init();
    before.set_control_word(control);
    before.top = 3;
    before.valid = 0x18;
    before.regs[3] = st0;
    before.regs[4] = st1;
    let (after, _) = host(&before, 0xD9, modrm, &mut [0; 128], 0);
    let mut ours = before.clone();
    ours.op(op, 0, 0).expect("nothing pending");
    outcome.cases += 1;
    let mut distance = 0;
    for i in 0..8 {
        distance = distance.max(ulps(ours.regs[i], after.regs[i]));
    }
    // C1 follows the rounding of the last bit, which may differ; so may underflow and inexact
    // where the results do.
    let mut flags = (ours.status_word() ^ after.status_word()) & !0x0200;
    if distance == 1 {
        flags &= !0x30;
    }
    let same_shape = ours.top == after.top && ours.valid == after.valid;
    outcome.exact += u32::from(comparable(&ours).regs == comparable(&after).regs);
    if distance <= 1 {
        outcome.worst = outcome.worst.max(distance);
    }
    if distance > 1 || flags != 0 || !same_shape {
        outcome.bad += 1;
        if outcome.bad <= 8 {
            outcome.report += &format!(
                "{} cw {control:04x} st0 {:020x} st1 {:020x}\n  host sw {:04x} {:020x} {:020x}\n  ours sw {:04x} {:020x} {:020x}\n",
                op.name(),
                st0.bits(),
                st1.bits(),
                after.status_word(),
                after.st(0).bits(),
                after.st(1).bits(),
                ours.status_word(),
                ours.st(0).bits(),
                ours.st(1).bits(),
            );
        }
    }
}

fn check(op: X87Op, modrm: u8, seed: u64, operands: impl Fn(&mut Random) -> (F80, F80)) {
    let mut random = Random::new(seed);
    let mut outcome = Outcome { cases: 0, exact: 0, worst: 0, report: String::new(), bad: 0 };
    for _ in 0..20_000 {
        let (st0, st1) = operands(&mut random);
        try_case(op, modrm, st0, st1, 0x37F, &mut outcome);
    }
    let special = |random: &mut Random| loop {
        let x = random.f80();
        let parts = x.unpack();
        // What is finite and out of the function's domain is undefined.
        if parts.class != Class::Finite || parts.denormal {
            return x;
        }
    };
    for _ in 0..4000 {
        let (st0, st1) = operands(&mut random);
        let (odd0, odd1) = (special(&mut random), special(&mut random));
        try_case(op, modrm, odd0, st1, 0x37F, &mut outcome);
        try_case(op, modrm, st0, odd1, 0x37F, &mut outcome);
        try_case(op, modrm, odd0, odd1, 0x37F, &mut outcome);
    }
    assert_eq!(outcome.bad, 0, "of {}:\n{}", outcome.cases, outcome.report);
}

#[test]
fn f2xm1_is_the_hosts() {
    check(X87Op::F2xm1, 0xF0, 10, |r| (moderate(r, -70, 0), F80::ONE));
}

#[test]
fn fyl2x_is_the_hosts() {
    check(X87Op::Fyl2x, 0xF1, 11, |r| {
        let x = if r.below(3) == 0 { moderate(r, -2, 2) } else { moderate(r, -16000, 16000) };
        (x.with_sign(false), moderate(r, -60, 60))
    });
}

#[test]
fn fyl2xp1_is_the_hosts() {
    check(X87Op::Fyl2xp1, 0xF9, 12, |r| (moderate(r, -70, -2), moderate(r, -60, 60)));
}

#[test]
fn fpatan_is_the_hosts() {
    check(X87Op::Fpatan, 0xF3, 13, |r| (moderate(r, -40, 40), moderate(r, -40, 40)));
}

#[test]
fn fsin_is_the_hosts() {
    check(X87Op::Fsin, 0xFE, 14, |r| (moderate(r, -60, 66), F80::ONE));
}

#[test]
fn fcos_is_the_hosts() {
    check(X87Op::Fcos, 0xFF, 15, |r| (moderate(r, -60, 66), F80::ONE));
}

#[test]
fn fsincos_is_the_hosts() {
    check(X87Op::Fsincos, 0xFB, 16, |r| (moderate(r, -60, 66), F80::ONE));
}

#[test]
fn fptan_is_the_hosts() {
    check(X87Op::Fptan, 0xF2, 17, |r| (moderate(r, -60, 66), F80::ONE));
}
