//! Helper functions that lifted x86 code calls for everything that is not plain data flow.
//!
//! Contract between the lifter and the functions of this folder:
//!
//! - A helper takes up to six `u64` arguments and answers a `u64` or a [`Fault`](super::state::Fault).
//!   On a fault no guest-visible state has changed (string helpers excepted: they have committed
//!   whole iterations); the engine puts the address of the faulting instruction into
//!   [`var::RIP`](super::state::var::RIP) and delivers the exception.
//! - `opsize` and `addrsize` are in bytes: 2, 4 or 8. `width` is an access width in bytes.
//! - `next` is the address (offset in CS) of the following instruction.
//! - A helper marked **jump** has put the next instruction's address into `var::RIP`; the block
//!   ends with it. One marked **ends** needs the lifter to store `next` in `var::RIP` and end the
//!   block after it, because it may have changed the block key, the mapping or what is pending.
//! - Privilege and mode checks are made by the helper unless its line says otherwise.

macro_rules! helpers {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// The functions; the discriminant is the id in the IR.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u16)]
        pub enum Helper {
            $($(#[$doc])* $name,)*
        }

        impl Helper {
            /// Every helper, in order of its id.
            pub const ALL: &'static [Helper] = &[$(Helper::$name,)*];

            /// Its name, for dumps.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Helper::$name => stringify!($name),)*
                }
            }
        }
    };
}

helpers! {
    // -- exceptions -------------------------------------------------------------------------
    /// `(vector)` Raises an exception without error code.
    Raise,
    /// `(vector, code)` Raises an exception with an error code.
    RaiseCode,
    /// `()` Raises #GP(0) unless CPL is 0 (real mode counts as 0, v86 as 3).
    CheckCpl0,
    /// `(target)` Raises #GP(0) when a near branch target lies outside CS or is not canonical.
    CheckTarget,
    /// `(linear, width)` Raises #AC(0) when the address is not a multiple of the width; only for
    /// blocks with `key::ALIGN`.
    CheckAlign,

    // -- segments ---------------------------------------------------------------------------
    /// `(seg, offset, width) -> linear` Checks a read against the segment, all modes: #GP(0) or,
    /// for SS, #SS(0).
    SegCheckRead,
    /// `(seg, offset, width) -> linear` As SegCheckRead, for a write.
    SegCheckWrite,
    /// `(seg, selector)` MOV Sreg, POP Sreg, LDS and friends; not CS (the lifter raises #UD).
    /// **ends** (block key). After MOV SS or POP SS call ShadowSs too.
    LoadSeg,
    /// `()` Interrupts and debug traps are held off for one instruction. **ends**
    ShadowSs,
    /// `(selector, opsize) -> value | valid << 32` LAR; ZF = valid.
    Lar,
    /// `(selector, opsize) -> limit | valid << 32` LSL; ZF = valid.
    Lsl,
    /// `(selector) -> ZF` VERR.
    Verr,
    /// `(selector) -> ZF` VERW.
    Verw,
    /// `(base, limit)` LGDT; the lifter masks the base to 24 bits for a 16-bit operand.
    Lgdt,
    /// `(base, limit)` LIDT.
    Lidt,
    /// `() -> base` SGDT, checks UMIP.
    SgdtBase,
    /// `() -> limit`
    SgdtLimit,
    /// `() -> base` SIDT, checks UMIP.
    SidtBase,
    /// `() -> limit`
    SidtLimit,
    /// `(selector)` LLDT.
    Lldt,
    /// `(selector)` LTR.
    Ltr,
    /// `() -> selector` SLDT; #UD outside protected mode.
    Sldt,
    /// `() -> selector` STR; #UD outside protected mode.
    Str,
    /// `(seg, base)` WRFSBASE, WRGSBASE; checks CR4.FSGSBASE and canonicality.
    WriteBase,
    /// `(seg) -> base` RDFSBASE, RDGSBASE; checks CR4.FSGSBASE.
    ReadBase,
    /// `()` SWAPGS.
    Swapgs,

    // -- far control transfer ---------------------------------------------------------------
    /// `(selector, offset, opsize, next)` JMP far. **jump**
    JmpFar,
    /// `(selector, offset, opsize, next)` CALL far. **jump**
    CallFar,
    /// `(opsize, bytes)` RETF, releasing `bytes` of parameters. **jump**
    RetFar,
    /// `(opsize, next)` IRET. **jump**
    Iret,
    /// `(vector, next)` INT n. **jump**
    Int,
    /// `(next)` INT3 (CC). **jump**
    Int3,
    /// `(next)` INTO with OF set (the lifter tests OF). **jump**
    Into,
    /// `(next)` INT1 (F1). **jump**
    Int1,
    /// `(next)` SYSCALL. **jump**
    Syscall,
    /// `(opsize)` SYSRET. **jump**
    Sysret,
    /// `()` SYSENTER. **jump**
    Sysenter,
    /// `(opsize)` SYSEXIT. **jump**
    Sysexit,
    /// `()` RSM. **jump**
    Rsm,

    // -- flags ------------------------------------------------------------------------------
    /// `(opsize) -> image` What PUSHF stores, with its v86 checks.
    Pushf,
    /// `(image, opsize)` POPF. **ends**
    Popf,
    /// `()` CLI.
    Cli,
    /// `()` STI. The block goes on with one more instruction, which holds interrupts off.
    Sti,
    /// `()` The instruction behind STI is done. A quick function.
    EndShadow,
    /// `()` CLAC. **ends**
    Clac,
    /// `()` STAC. **ends**
    Stac,

    // -- control and debug registers --------------------------------------------------------
    /// `(n) -> value` MOV r, CRn.
    ReadCr,
    /// `(n, value)` MOV CRn, r. **ends**
    WriteCr,
    /// `() -> CR0` SMSW (the lifter truncates), checks UMIP.
    Smsw,
    /// `(value)` LMSW. **ends**
    Lmsw,
    /// `()` CLTS. **ends**
    Clts,
    /// `(n) -> value` MOV r, DRn.
    ReadDr,
    /// `(n, value)` MOV DRn, r. **ends**
    WriteDr,
    /// `(linear)` INVLPG; the address is not checked. **ends**
    Invlpg,
    /// `()` INVD, WBINVD: privilege check only.
    Wbinvd,

    // -- model-specific ---------------------------------------------------------------------
    /// `()` CPUID: EAX, ECX in; EAX, EBX, ECX, EDX out.
    Cpuid,
    /// `()` RDTSC into EDX:EAX.
    Rdtsc,
    /// `()` RDTSCP into EDX:EAX and ECX.
    Rdtscp,
    /// `()` RDPMC into EDX:EAX.
    Rdpmc,
    /// `()` RDMSR into EDX:EAX.
    Rdmsr,
    /// `()` WRMSR from EDX:EAX. **ends**
    Wrmsr,
    /// `(opsize) -> value` RDRAND; the lifter sets CF and clears the others.
    Rdrand,
    /// `(opsize) -> value` RDSEED.
    Rdseed,

    // -- waiting ----------------------------------------------------------------------------
    /// `(next)` HLT. **jump**
    Hlt,
    /// `(linear)` MONITOR; #UD when the model has none.
    Monitor,
    /// `(next)` MWAIT; ends at once, as the specification allows. **jump**
    Mwait,
    /// `(next)` PAUSE: gives the turn to another processor. **jump**
    Pause,

    // -- ports ------------------------------------------------------------------------------
    /// `(port, width) -> value` IN with permission check. **ends**
    In,
    /// `(port, width, value)` OUT with permission check. **ends**
    Out,

    // -- strings ----------------------------------------------------------------------------
    // `(width, addrsize, rep, seg, start, next)`; rep: 0 = none, 1 = REP/REPE, 2 = REPNE; seg: the
    // source segment. Each call does as many iterations as fit and leaves `start` (to go on) or
    // `next` (done) in `var::RIP`. All **jump**.
    /// MOVS.
    Movs,
    /// STOS.
    Stos,
    /// LODS.
    Lods,
    /// CMPS; sets the flags.
    Cmps,
    /// SCAS; sets the flags.
    Scas,
    /// INS.
    Ins,
    /// OUTS.
    Outs,

    // -- stack frames -----------------------------------------------------------------------
    /// `(bytes, level, opsize)` ENTER.
    Enter,

    // -- quick functions, see `quick.rs` ----------------------------------------------------
    /// `()` The part of STI that is not in EFLAGS: the next instruction holds interrupts off. A quick function.
    Shadow,
    /// `(what, selector, -, -, next, sp) -> linear` The first half of LoadSeg in lifted code, a quick function: where the
    /// descriptor is. As a helper it does the whole instruction. **jump**
    SegAt,
    /// `(what, selector, raw, -, next, sp) -> bytes` The second half, with the descriptor or a null selector.
    /// As a helper it does the whole instruction. **jump**
    SegLoad,
}

/// Ids from here on belong to the lifter and to the x87, MMX and SSE functions.
pub const FIRST_OTHER: u16 = 0x100;

impl Helper {
    /// The id that the IR carries.
    pub const fn id(self) -> u16 {
        self as u16
    }

    /// The helper with an id.
    pub fn from_id(id: u16) -> Option<Self> {
        Self::ALL.get(usize::from(id)).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_round_trip_and_stay_below_the_lifters() {
        for &h in Helper::ALL {
            assert_eq!(Helper::from_id(h.id()), Some(h));
            assert!(h.id() < FIRST_OTHER);
        }
        assert_eq!(Helper::from_id(FIRST_OTHER), None);
    }
}
