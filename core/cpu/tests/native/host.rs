//! Runs machine code on the processor of the tests.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

use iced_x86::code_asm::*;

/// Where both see the data that instructions work on.
pub(crate) const DATA: u64 = 0x80_0000;
/// Its length.
pub(crate) const DATA_LEN: usize = 4096;

/// Bytes left for the instruction.
const SLOT: usize = 32;
const CODE_LEN: usize = 4096;
/// Where the stub and its context are.
const STUB: u64 = 0x70_0000;
const STUB_LEN: usize = 2 * CODE_LEN;
const _: () = assert!(size_of::<Context>() <= STUB_LEN - CODE_LEN);

/// Registers before or after an instruction.
#[repr(C, align(16))]
#[derive(Clone, Debug, Default)]
pub(crate) struct Context {
    /// XMM0 to XMM15.
    pub(crate) xmm: [u128; 16],
    /// General registers; RSP is not used.
    pub(crate) gpr: [u64; 16],
    /// RFLAGS.
    pub(crate) flags: u64,
    /// The stack pointer of the caller.
    rsp: u64,
}

/// Memory with a stub that loads a [`Context`], runs an instruction and stores the context.
pub(crate) struct Host {
    code: *mut u8,
    slot: usize,
    context: *mut Context,
    /// Stub and data are there once.
    _turn: MutexGuard<'static, ()>,
}

static TURN: Mutex<()> = Mutex::new(());

/// Where a signal handler goes on: the end of the stub.
static AFTER: AtomicUsize = AtomicUsize::new(0);
static TRAPPED: AtomicBool = AtomicBool::new(false);

extern "C" fn on_trap(_: libc::c_int, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    TRAPPED.store(true, Relaxed);
    // SAFETY: the kernel hands a handler installed with SA_SIGINFO a `ucontext_t`; the stub is the
    // only code of this test that divides by what it is given, so going on at its end is where the
    // interrupted thread was going anyway.
    unsafe {
        let context = context.cast::<libc::ucontext_t>();
        (*context).uc_mcontext.gregs[libc::REG_RIP as usize] = AFTER.load(Relaxed) as i64;
    }
}

fn map(at: u64, len: usize, prot: libc::c_int) {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE;
    // SAFETY: a new anonymous mapping, at a free address or not at all.
    let p = unsafe { libc::mmap(at as *mut _, len, prot, flags, -1, 0) };
    assert_eq!(p as u64, at, "no memory at {at:x}");
}

impl Host {
    pub(crate) fn new() -> Self {
        use libc::{PROT_EXEC, PROT_READ, PROT_WRITE};
        static ONCE: std::sync::Once = std::sync::Once::new();
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        ONCE.call_once(|| {
            map(DATA, DATA_LEN, PROT_READ | PROT_WRITE);
            map(STUB, STUB_LEN, PROT_READ | PROT_WRITE | PROT_EXEC);
            // SAFETY: the handler only stores to atomics and to the context it is given.
            unsafe {
                let mut action: libc::sigaction = std::mem::zeroed();
                action.sa_sigaction = on_trap as *const () as usize;
                action.sa_flags = libc::SA_SIGINFO;
                libc::sigaction(libc::SIGFPE, &action, std::ptr::null_mut());
            }
        });
        let code = STUB as *mut u8;
        let base = STUB;
        let context = base + CODE_LEN as u64;
        let at = |offset: usize| context + offset as u64;
        let gpr_at = |n: usize| at(std::mem::offset_of!(Context, gpr) + 8 * n);
        let flags_at = at(std::mem::offset_of!(Context, flags));
        let rsp_at = at(std::mem::offset_of!(Context, rsp));
        let gprs = [rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15];
        let xmms = [
            xmm0, xmm1, xmm2, xmm3, xmm4, xmm5, xmm6, xmm7, xmm8, xmm9, xmm10, xmm11, xmm12, xmm13,
            xmm14, xmm15,
        ];
        let saved = [rbx, rbp, r12, r13, r14, r15];
        let assemble = |ip: u64, build: &dyn Fn(&mut CodeAssembler) -> Result<(), IcedError>| {
            let mut a = CodeAssembler::new(64).unwrap();
            build(&mut a).unwrap();
            a.assemble(ip).unwrap()
        };
        // All below 2 GiB, so that addresses fit into displacements.
        let head = assemble(base, &|a| {
            for r in saved {
                a.push(r)?;
            }
            a.mov(qword_ptr(rsp_at), rsp)?;
            for (n, x) in xmms.into_iter().enumerate() {
                a.movups(x, xmmword_ptr(at(16 * n)))?;
            }
            a.push(qword_ptr(flags_at))?;
            a.popfq()?;
            for (n, r) in gprs.into_iter().enumerate().filter(|&(n, _)| n != 4) {
                a.mov(r, qword_ptr(gpr_at(n)))?;
            }
            Ok(())
        });
        let slot = head.len();
        let tail_at = base + (slot + SLOT) as u64;
        let tail = assemble(tail_at, &|a| {
            for (n, r) in gprs.into_iter().enumerate().filter(|&(n, _)| n != 4) {
                a.mov(qword_ptr(gpr_at(n)), r)?;
            }
            a.pushfq()?;
            a.pop(qword_ptr(flags_at))?;
            a.cld()?;
            for (n, x) in xmms.into_iter().enumerate() {
                a.movups(xmmword_ptr(at(16 * n)), x)?;
            }
            a.mov(rsp, qword_ptr(rsp_at))?;
            for r in saved.into_iter().rev() {
                a.pop(r)?;
            }
            a.ret()?;
            Ok(())
        });
        assert!(slot + SLOT + tail.len() <= CODE_LEN);
        // SAFETY: both pieces lie inside the mapping, as just checked.
        unsafe {
            code.copy_from(head.as_ptr(), head.len());
            code.add(slot).write_bytes(0x90, SLOT);
            code.add(slot + SLOT).copy_from(tail.as_ptr(), tail.len());
        }
        AFTER.store(tail_at as usize, Relaxed);
        // SAFETY: inside the mapping, which is page-aligned.
        let context = unsafe { code.add(CODE_LEN) }.cast();
        Self { code, slot, context, _turn: turn }
    }

    /// Puts the instruction into the stub.
    pub(crate) fn place(&mut self, bytes: &[u8]) {
        assert!(bytes.len() <= 15);
        // SAFETY: the slot is longer than an instruction and lies inside the mapping.
        unsafe {
            let slot = self.code.add(self.slot);
            slot.write_bytes(0x90, SLOT);
            slot.copy_from(bytes.as_ptr(), bytes.len());
        }
    }

    /// The data both work on.
    pub(crate) fn data(&mut self) -> &mut [u8] {
        // SAFETY: mapped for good by `new`, used by the one thread whose turn it is.
        unsafe { std::slice::from_raw_parts_mut(DATA as *mut u8, DATA_LEN) }
    }

    /// Runs the instruction; true when it raised an exception.
    pub(crate) fn run(&mut self, context: &Context) -> (Context, bool) {
        AFTER.store(self.code as usize + self.slot + SLOT, Relaxed);
        TRAPPED.store(false, Relaxed);
        // SAFETY: the stub keeps what the C calling convention asks for; the instruction in it
        // touches registers the stub has saved, and memory only inside `DATA` (the generator sees
        // to both).
        let mut after = unsafe {
            self.context.write(context.clone());
            let stub: extern "C" fn() = std::mem::transmute(self.code);
            stub();
            self.context.read()
        };
        after.flags &= 0xcd5;
        after.gpr[4] = 0;
        (after, TRAPPED.load(Relaxed))
    }
}
