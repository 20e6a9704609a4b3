//! The four operations in both directions.

use crate::float::{self, Env, F80, Parts};

/// An operation of a destination and a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arith {
    Add,
    Mul,
    Sub,
    SubReversed,
    Div,
    DivReversed,
}

impl Arith {
    #[inline]
    pub(super) fn apply(self, a: &Parts, b: &Parts, env: &mut Env) -> F80 {
        match self {
            Self::Add => float::add_parts(a, b, env),
            Self::Mul => float::mul_parts(a, b, env),
            Self::Sub => float::sub_parts(a, b, env),
            Self::SubReversed => float::sub_parts(b, a, env),
            Self::Div => float::div_parts(a, b, env),
            Self::DivReversed => float::div_parts(b, a, env),
        }
    }
}
