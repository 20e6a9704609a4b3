//! Helpers of the x87, MMX and SSE instructions: those that need state outside of the frame.

use crate::env::Env;
use crate::frame::Frame;
use crate::ir::Width;
use crate::ir::stack::Stacked;
use crate::isa::{Isa, Quick};
use crate::x86::flags;
use crate::x86::helper::FIRST_OTHER;
use crate::x86::quick::quick as system_quick;
use crate::x86::sse::{Mxcsr, SimdOp, pcmpestr, simd};
use crate::x86::state::{Fault, X86, cr0, cr4, efer, seg, var, vector};
use crate::x86::x87::quick::{HEAD, quick as x87_quick, what};
use crate::x86::x87::stacked::stacked;
use crate::x86::x87::{Effect, Layout, Memory, X87Op};

/// The x87 instructions, by [`X87Op`]: `(what, operand, pc, offset)` with the operand of [`quick`], for
/// stores the linear address; the program counter is put behind the instruction.
pub(super) const X87: u16 = FIRST_OTHER + 0x100;
/// The last of them.
const X87_LAST: u16 = X87 + 0xFF;
/// What FSTP m80 will store, the bits from 64 on.
pub(super) const X87_HEAD: u16 = X87 + HEAD;
/// `(op, linear, layout)`: FNSTENV, FLDENV, FNSAVE, FRSTOR.
pub(super) const X87_STATE: u16 = FIRST_OTHER + 1;
/// `()`: what every MMX instruction does first.
pub(super) const MMX_ENTER: u16 = FIRST_OTHER + 2;
/// `(n) -> value`.
pub(super) const MMX_READ: u16 = FIRST_OTHER + 3;
/// `(n, value)`.
pub(super) const MMX_WRITE: u16 = FIRST_OTHER + 4;
/// `()`.
pub(super) const EMMS: u16 = FIRST_OTHER + 5;
/// `(op, d, a, b, imm)`: `vecs[d] = op(vecs[a], vecs[b])`, answers its low 64 bits.
pub(super) const SIMD: u16 = FIRST_OTHER + 6;
/// `(value)`: LDMXCSR.
pub(super) const LDMXCSR: u16 = FIRST_OTHER + 7;
/// `() -> value`: STMXCSR.
pub(super) const STMXCSR: u16 = FIRST_OTHER + 8;
/// `(linear, wide)`.
pub(super) const FXSAVE: u16 = FIRST_OTHER + 9;
/// `(linear, wide)`.
pub(super) const FXRSTOR: u16 = FIRST_OTHER + 10;
/// `(linear, value, mask)`: MASKMOVQ, and each half of MASKMOVDQU.
pub(super) const MASKMOV: u16 = FIRST_OTHER + 11;
/// `(a, b, imm, wide, mask)`: PCMPESTRI (answers index) or PCMPESTRM (writes XMM0); flags too.
pub(super) const PCMPESTR: u16 = FIRST_OTHER + 12;

/// Exceptions, their summary and B in the status word.
const X87_ERRORS: u16 = 0x80bf;

/// Runs helper `f` of those above.
pub fn call<I: Isa<Cpu = X86, Trap = Fault>>(
    f: u16,
    env: &mut Env<'_, I>,
    args: &[u64; 6],
) -> Result<u64, Fault> {
    match f {
        X87..=X87_LAST => x87(env, args)?,
        X87_STATE => x87_state(env, args)?,
        MMX_ENTER => {
            wait(env)?;
            env.cpu.x87.enter_mmx();
        }
        MMX_READ => return Ok(env.cpu.x87.mmx(args[0] as u8)),
        MMX_WRITE => env.cpu.x87.set_mmx(args[0] as u8, args[1]),
        EMMS => {
            wait(env)?;
            env.cpu.x87.emms();
        }
        SIMD => return vector(env.cpu, args),
        LDMXCSR => {
            if args[0] as u32 & !Mxcsr::MASK != 0 {
                return Err(Fault::GP0);
            }
            env.cpu.frame.ints[var::MXCSR] = args[0] & 0xffff_ffff;
        }
        STMXCSR => return Ok(env.cpu.frame.ints[var::MXCSR]),
        FXSAVE => fxsave(env, args[0], args[1] != 0)?,
        FXRSTOR => fxrstor(env, args[0], args[1] != 0)?,
        MASKMOV => {
            let mmu = env.cpu.data_rights() as u8;
            for i in (0..8).filter(|i| args[2] >> (8 * i + 7) & 1 != 0) {
                let linear = args[0].wrapping_add(i) & I::linear_mask(env.cpu);
                env.write(linear, Width::W8, mmu, args[1] >> (8 * i) & 0xff)?;
            }
        }
        PCMPESTR => return Ok(pcmpestr_of(env.cpu, args)),
        _ => return Err(Fault::UD),
    }
    Ok(0)
}

/// What instructions do that wait for the x87 unit when it has an unmasked error: #MF; without
/// CR0.NE, FERR#. The instruction is then begun again with the pin driven, so that the interrupt
/// it asks for comes first. Where none comes it goes on, as with IGNNE# asserted.
fn wait<I: Isa<Cpu = X86, Trap = Fault>>(env: &mut Env<'_, I>) -> Result<(), Fault> {
    let cpu = &mut env.cpu;
    if !cpu.x87.pending() {
        Ok(())
    } else if cpu.sys.cr0 & cr0::NE != 0 {
        Err(Fault::plain(vector::MF))
    } else if cpu.sys.ignore_error || cpu.sys.error_waited {
        Ok(())
    } else {
        // Once for each error, wherever pins are looked at in between: engines must agree.
        cpu.sys.error_waited = true;
        Err(Fault::AGAIN)
    }
}

/// The quick function with a number.
pub fn quick(f: u16) -> Option<Quick<X86>> {
    match f.checked_sub(X87) {
        Some(f) => x87_quick(f),
        None => system_quick(f),
    }
}

/// [`Isa::stack_op`].
pub fn stack_op(f: u16, what: u64) -> Option<Stacked> {
    stacked(f.checked_sub(X87)?, what)
}

/// All of an x87 instruction.
fn x87<I: Isa<Cpu = X86, Trap = Fault>>(
    env: &mut Env<'_, I>,
    args: &[u64; 6],
) -> Result<(), Fault> {
    let [what, operand, pc, offset, ..] = *args;
    let Some(op) = X87Op::from_index(what as u8) else { return Err(Fault::UD) };
    let i = (what >> what::ST & 7) as u8;
    let value = u128::from(operand) | u128::from(what >> what::HIGH) << 64;
    let effect = match env.cpu.x87.op(op, i, value) {
        Ok(effect) => effect,
        Err(_) => {
            wait(env)?;
            let cpu = &mut env.cpu;
            let held = cpu.x87.status & X87_ERRORS;
            cpu.x87.status &= !X87_ERRORS;
            let effect = cpu.x87.op(op, i, value).unwrap_or(Effect::None);
            cpu.x87.status |= held;
            effect
        }
    };
    let cpu = &mut env.cpu;
    // IGNNE# goes with the error.
    let pending = cpu.x87.pending();
    cpu.sys.ignore_error &= pending;
    cpu.sys.error_waited &= pending;
    if !op.is_control() {
        let selector = |n: usize| cpu.frame.ints[var::SEG_SELECTOR + n] as u16;
        let data = (what >> what::MEMORY & 1 != 0)
            .then(|| (selector((what >> what::SEG & 7) as usize), offset));
        cpu.x87.note((what >> what::FOP) as u16, selector(seg::CS), pc, data);
    }
    match (effect, op.memory()) {
        (Effect::None, _) => {}
        (Effect::Flags(flags), _) => flags::set_arith(&mut cpu.frame, flags.into()),
        (Effect::Store(value), Memory::Store(bytes)) => {
            let mmu = cpu.data_rights() as u8;
            let mask = I::linear_mask(env.cpu);
            let whole = u32::from(bytes.min(8));
            let w = Width::from_bytes(whole).unwrap_or(Width::W64);
            env.write(operand, w, mmu, value as u64)?;
            if bytes == 10 {
                let high = operand.wrapping_add(8) & mask;
                env.write(high, Width::W16, mmu, (value >> 64) as u64)?;
            }
        }
        // FNSTSW AX.
        (Effect::Store(value), _) => {
            let rax = &mut cpu.frame.ints[var::RAX];
            *rax = *rax & !0xffff | value as u64 & 0xffff;
        }
    }
    let next = pc.wrapping_add(what >> what::LEN & 15);
    let next = if env.cpu.code64() { next } else { next & 0xffff_ffff };
    env.cpu.frame.ints[var::RIP] = next;
    Ok(())
}

fn x87_state<I: Isa<Cpu = X86, Trap = Fault>>(
    env: &mut Env<'_, I>,
    args: &[u64; 6],
) -> Result<(), Fault> {
    let Some(op) = X87Op::from_index(args[0] as u8) else { return Err(Fault::UD) };
    let layout = match args[2] {
        0 => Layout::Real16,
        1 => Layout::Protected16,
        2 => Layout::Real32,
        _ => Layout::Protected32,
    };
    if op.waits() {
        wait(env)?;
    }
    let mmu = env.cpu.data_rights() as u8;
    let mut bytes = [0; 108];
    let (environment, whole) = (layout.environment_len(), layout.save_len());
    match op.memory() {
        Memory::StoreEnvironment => {
            env.cpu.x87.put_environment(layout, &mut bytes[..environment]);
            env.write_bytes(args[1], &bytes[..environment], mmu)?;
            env.cpu.x87.store_environment(layout, &mut bytes[..environment]);
        }
        Memory::LoadEnvironment => {
            env.read_bytes(args[1], &mut bytes[..environment], mmu)?;
            env.cpu.x87.load_environment(layout, &bytes[..environment]);
        }
        Memory::Save => {
            env.cpu.x87.put_save(layout, &mut bytes[..whole]);
            env.write_bytes(args[1], &bytes[..whole], mmu)?;
            env.cpu.x87.save(layout, &mut bytes[..whole]);
        }
        Memory::Restore => {
            env.read_bytes(args[1], &mut bytes[..whole], mmu)?;
            env.cpu.x87.restore(layout, &bytes[..whole]);
        }
        _ => {}
    }
    Ok(())
}

fn vector(cpu: &mut X86, args: &[u64; 6]) -> Result<u64, Fault> {
    let [op, d, a, b, imm, _] = args.map(|x| x as usize);
    let Some(op) = SimdOp::from_index(op as u16) else { return Err(Fault::UD) };
    let Frame { ints, vecs } = &mut cpu.frame;
    let mut mxcsr = Mxcsr(ints[var::MXCSR] as u32);
    let result = simd(op, vecs[a & 63], vecs[b & 63], imm as u8, &mut mxcsr);
    ints[var::MXCSR] = mxcsr.0.into();
    match result {
        Ok(value) => {
            vecs[d & 63] = value;
            Ok(value as u64)
        }
        Err(_) if cpu.sys.cr4 & cr4::OSXMMEXCPT != 0 => Err(Fault::plain(vector::XM)),
        Err(_) => Err(Fault::UD),
    }
}

/// How many XMM registers FXSAVE and FXRSTOR move: none with EFER.FFXSR at CPL 0 of 64-bit mode.
fn xmm_count(cpu: &X86) -> usize {
    match (cpu.code64(), cpu.sys.efer & efer::FFXSR != 0 && cpu.sys.cpl == 0) {
        (true, true) => 0,
        (true, false) => 16,
        (false, _) => 8,
    }
}

fn fxsave<I: Isa<Cpu = X86, Trap = Fault>>(
    env: &mut Env<'_, I>,
    linear: u64,
    wide: bool,
) -> Result<(), Fault> {
    let mmu = env.cpu.data_rights() as u8;
    let mut image = [0; 512];
    // What is reserved or not saved keeps what memory has.
    env.read_bytes(linear, &mut image, mmu)?;
    image[..24].fill(0);
    env.cpu.x87.put_fxsave(wide, &mut image);
    image[24..28].copy_from_slice(&(env.cpu.frame.ints[var::MXCSR] as u32).to_le_bytes());
    image[28..32].copy_from_slice(&Mxcsr::MASK.to_le_bytes());
    for n in 0..xmm_count(env.cpu) {
        image[160 + 16 * n..176 + 16 * n].copy_from_slice(&env.cpu.frame.vecs[n].to_le_bytes());
    }
    env.write_bytes(linear, &image, mmu)
}

fn fxrstor<I: Isa<Cpu = X86, Trap = Fault>>(
    env: &mut Env<'_, I>,
    linear: u64,
    wide: bool,
) -> Result<(), Fault> {
    let mmu = env.cpu.data_rights() as u8;
    let mut image = [0; 512];
    env.read_bytes(linear, &mut image, mmu)?;
    let mut mxcsr = [0; 4];
    mxcsr.copy_from_slice(&image[24..28]);
    let mxcsr = u32::from_le_bytes(mxcsr);
    if mxcsr & !Mxcsr::MASK != 0 {
        return Err(Fault::GP0);
    }
    env.cpu.x87.load_fxsave(wide, &image);
    env.cpu.frame.ints[var::MXCSR] = mxcsr.into();
    for n in 0..xmm_count(env.cpu) {
        let mut value = [0; 16];
        value.copy_from_slice(&image[160 + 16 * n..176 + 16 * n]);
        env.cpu.frame.vecs[n] = u128::from_le_bytes(value);
    }
    Ok(())
}

fn pcmpestr_of(cpu: &mut X86, args: &[u64; 6]) -> u64 {
    let [a, b, imm, wide, mask, _] = *args;
    let ints = &cpu.frame.ints;
    let length = |n: usize| {
        if wide != 0 { ints[n] as i64 } else { i64::from(ints[n] as i32) }
    };
    let (a, b) = (cpu.frame.vecs[a as usize & 63], cpu.frame.vecs[b as usize & 63]);
    let result = pcmpestr(a, length(var::RAX), b, length(var::RDX), imm as u8);
    if mask != 0 {
        cpu.frame.vecs[0] = result.mask;
    }
    flags::set_arith(&mut cpu.frame, result.flags.into());
    result.index.into()
}
