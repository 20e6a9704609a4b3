//! Unmasked SIMD exceptions: which flags MXCSR has when the host's handler is entered, and that
//! the destination stays. The handler notes MXCSR and returns to the stub's caller.

use core::sync::atomic::{AtomicU32, Ordering};

use orrery_cpu::x86::sse::{Mxcsr, simd};

use crate::simd::{Context, PLAIN_TABLE, context, host};
use crate::values::Random;

/// MXCSR as the last exception left it; 0: there was none.
static CAUGHT: AtomicU32 = AtomicU32::new(0);

extern "C" fn on_fault(_: i32, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid context; the faulting stub has pushed nothing, so the
    // word at RSP is the address to return to.
    unsafe {
        let machine = &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext;
        let registers = &mut machine.gregs;
        CAUGHT.store((*machine.fpregs).mxcsr, Ordering::SeqCst);
        (*machine.fpregs).mxcsr = 0x1F80;
        let stack = registers[libc::REG_RSP as usize];
        registers[libc::REG_RIP as usize] = *(stack as *const i64);
        registers[libc::REG_RSP as usize] = stack + 8;
    }
}

fn install() {
    // SAFETY: a zeroed sigaction is valid, and the handler touches only its context.
    unsafe {
        let mut action: libc::sigaction = core::mem::zeroed();
        action.sa_sigaction = on_fault as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO;
        assert_eq!(libc::sigaction(libc::SIGFPE, &action, core::ptr::null_mut()), 0);
    }
}

#[test]
fn unmasked_exceptions_leave_the_hosts_flags_and_the_destination() {
    install();
    let mut random = Random::new(30);
    let (mut cases, mut faults, mut total, mut report) = (0, 0, 0, String::new());
    for (index, &op) in PLAIN_TABLE.1.iter().enumerate().filter(|(_, op)| op.uses_mxcsr()) {
        for _ in 0..3000 {
            let mut before: Context = context(op, &mut random);
            // Nothing unmasked is set already.
            let masks = random.next() as u32 & 0x3F;
            before.mxcsr = before.mxcsr & 0xE040 | masks << 7 | before.mxcsr & masks;
            let mut after = before.clone();
            CAUGHT.store(0, Ordering::SeqCst);
            host(PLAIN_TABLE.0.as_ptr(), index, &mut after);
            let caught = CAUGHT.load(Ordering::SeqCst);
            let mut mxcsr = Mxcsr(before.mxcsr);
            let ours = simd(op, before.a, before.b, 0, &mut mxcsr);
            let theirs = if caught != 0 { caught } else { after.mxcsr };
            cases += 1;
            faults += u32::from(caught != 0);
            let same = ours.is_err() == (caught != 0)
                && mxcsr.0 == theirs
                && ours.is_ok_and(|value| value == after.a) != (caught != 0)
                && (caught == 0 || after.a == before.a);
            if !same {
                total += 1;
                if total <= 6 || report.matches(op.name()).count() < 2 {
                    report += &format!(
                        "{} a {:032x} b {:032x} mxcsr {:04x}: host {theirs:04x} fault {}, ours {:04x} {ours:x?}\n",
                        op.name(),
                        before.a,
                        before.b,
                        before.mxcsr,
                        caught != 0,
                        mxcsr.0,
                    );
                }
            }
        }
    }
    assert!(faults > cases / 4, "{faults} of {cases} faulted");
    assert_eq!(total, 0, "{report}");
}
