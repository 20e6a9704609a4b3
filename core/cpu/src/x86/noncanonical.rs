//! Which exception an access to a non-canonical address raises: #SS(0) through the stack, #GP(0)
//! elsewhere (SDM vol. 3A section 3.3.7.1).
//!
//! Address translation cannot tell: it sees a linear address. So it raises #GP(0) with that address,
//! and before the exception is delivered the instruction is decoded once more.

use super::decode::decode;
use super::insn::{Id, NO_REG, RIP_REG};
use super::isa::X86Isa;
use super::lift;
use super::state::{Fault, seg, var, vector};
use crate::env::Env;
use crate::isa::{Access, Isa};

/// #GP(0) of a data access to `linear`.
pub(super) const fn at(linear: u64) -> Fault {
    Fault { vector: vector::GP, error: Some(0), detail: linear }
}

/// The exception as it is to be delivered.
pub(super) fn resolve(env: &mut Env<'_, X86Isa>, fault: Fault) -> Fault {
    if fault.vector != vector::GP || fault.detail == 0 {
        return fault;
    }
    if through_stack(env, fault.detail).unwrap_or(false) { Fault::SS0 } else { Fault::GP0 }
}

/// Whether the instruction at RIP reached `linear` through its stack segment.
fn through_stack(env: &mut Env<'_, X86Isa>, linear: u64) -> Option<bool> {
    let pc = X86Isa::pc(env.cpu);
    let window = X86Isa::code_window(env.cpu, pc).ok()?;
    let mode = lift::mode(env.cpu.mode_key(), env.cpu.features.of(&env.cpu.model));
    let mut at = window.linear;
    let insn = decode(mode, &mut || {
        let map = env.mapping(at, Access::Exec, window.mmu).map_err(drop)?;
        let byte = env.board.read(map.gpa + (at & 0xfff), 1) as u8;
        at = at.wrapping_add(1);
        Ok::<u8, ()>(byte)
    })
    .ok()?;
    if insn.has_mem() {
        let (m, ints) = (insn.mem, &env.cpu.frame.ints);
        let reg = |n: u8| match n {
            NO_REG => 0,
            RIP_REG => pc.wrapping_add(insn.len.into()),
            n => ints[usize::from(n & 15)],
        };
        let offset = reg(m.base).wrapping_add(reg(m.index) << m.scale).wrapping_add(m.disp as u64);
        let offset = if insn.addrsize == 4 { offset & 0xffff_ffff } else { offset };
        let far = usize::from(m.seg) >= seg::FS;
        let base = if far { ints[var::SEG_BASE + usize::from(m.seg)] } else { 0 };
        // A state image is the largest operand.
        if linear.wrapping_sub(base.wrapping_add(offset)) < 512 {
            return Some(usize::from(m.seg) == seg::SS);
        }
    }
    Some(matches!(
        insn.id,
        Id::PUSH | Id::POP | Id::CALL | Id::RET | Id::ENTER | Id::LEAVE | Id::PUSHF | Id::POPF
    ))
}
