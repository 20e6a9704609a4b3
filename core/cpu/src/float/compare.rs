//! Comparisons.

use super::format::note_denormal;
use super::{Class, Env, Flags, Format, Parts};

/// How two values compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relation {
    /// `a < b`.
    Less,
    /// `a == b`.
    Equal,
    /// `a > b`.
    Greater,
    /// One of them is a NaN or unsupported.
    Unordered,
}

/// Compares; invalid for any NaN.
#[inline]
pub fn compare<F: Format>(a: F, b: F, env: &mut Env) -> Relation {
    compare_parts(&a.operand(env), &b.operand(env), true, env)
}

/// Compares; invalid for signalling NaNs and unsupported encodings only.
#[inline]
pub fn compare_quiet<F: Format>(a: F, b: F, env: &mut Env) -> Relation {
    compare_parts(&a.operand(env), &b.operand(env), false, env)
}

/// Compares parts, of any formats; `signal`: a quiet NaN is invalid too.
pub fn compare_parts(a: &Parts, b: &Parts, signal: bool, env: &mut Env) -> Relation {
    use core::cmp::Ordering;
    let bad = |p: &Parts| match p.class {
        Class::Signalling | Class::Unsupported => Some(true),
        Class::Quiet => Some(false),
        _ => None,
    };
    match (bad(a), bad(b)) {
        (None, None) => {}
        (x, y) => {
            if signal || x == Some(true) || y == Some(true) {
                env.raise(Flags::INVALID);
            }
            return Relation::Unordered;
        }
    }
    note_denormal(env, a, b);
    // Zero below everything finite, infinity above.
    let key = |p: &Parts| match p.class {
        Class::Zero => (0, 0, 0),
        Class::Finite => (1, p.exp, p.sig),
        _ => (2, 0, 0),
    };
    let (a_zero, b_zero) = (a.class == Class::Zero, b.class == Class::Zero);
    let order = match (a.sign && !a_zero, b.sign && !b_zero) {
        (false, false) => key(a).cmp(&key(b)),
        (true, true) => key(b).cmp(&key(a)),
        (true, false) => Ordering::Less,
        (false, true) => Ordering::Greater,
    };
    match order {
        Ordering::Less => Relation::Less,
        Ordering::Equal => Relation::Equal,
        Ordering::Greater => Relation::Greater,
    }
}
