//! Small assembled programs in 16-, 32- and 64-bit mode.

mod machine;

use iced_x86::code_asm::*;
use machine::{CODE, Machine};
use orrery_cpu::x86::state::{Activity, Segment, TableReg, attr, flag, seg, var};

/// Runs another program on a machine that has halted.
fn run_again(m: &mut Machine, code: &[u8]) {
    m.cpu().sys.activity = Activity::Running;
    m.cpu().frame.ints[var::RIP] = CODE;
    m.run_code(code);
}

fn assemble(bits: u32, build: impl FnOnce(&mut CodeAssembler)) -> Vec<u8> {
    let mut a = CodeAssembler::new(bits).unwrap();
    build(&mut a);
    a.hlt().unwrap();
    a.assemble(CODE).unwrap()
}

#[test]
fn a_loop_sums_in_every_mode() {
    for mut m in [Machine::real(), Machine::protected(0), Machine::long(0)] {
        let bits = if m.cpu().code64() {
            64
        } else if m.cpu().protected() {
            32
        } else {
            16
        };
        let code = assemble(bits, |a| {
            let mut top = a.create_label();
            a.mov(ecx, 100).unwrap();
            a.xor(eax, eax).unwrap();
            a.set_label(&mut top).unwrap();
            a.add(eax, ecx).unwrap();
            a.dec(ecx).unwrap();
            a.jne(top).unwrap();
        });
        m.run_code(&code);
        assert_eq!(m.get(var::RAX), 5050);
        assert_ne!(m.flags() & flag::ZF, 0);
    }
}

#[test]
fn calls_and_memory_work_in_thirty_two_bit_mode() {
    let mut m = Machine::protected(0);
    // Recursive factorial.
    let code = assemble(32, |a| {
        let mut fact = a.create_label();
        let mut done = a.create_label();
        let mut end = a.create_label();
        a.push(10).unwrap();
        a.call(fact).unwrap();
        a.add(esp, 4).unwrap();
        a.mov(dword_ptr(0x5000), eax).unwrap();
        a.jmp(end).unwrap();
        a.set_label(&mut fact).unwrap();
        a.mov(eax, 1).unwrap();
        a.cmp(dword_ptr(esp + 4), 1).unwrap();
        a.jle(done).unwrap();
        a.mov(eax, dword_ptr(esp + 4)).unwrap();
        a.dec(eax).unwrap();
        a.push(eax).unwrap();
        a.call(fact).unwrap();
        a.add(esp, 4).unwrap();
        a.imul_2(eax, dword_ptr(esp + 4)).unwrap();
        a.set_label(&mut done).unwrap();
        a.ret().unwrap();
        a.set_label(&mut end).unwrap();
        a.nop().unwrap();
    });
    m.run_code(&code);
    assert_eq!(m.get(var::RAX), 3_628_800);
    assert_eq!(m.read(0x5000, 4), 3_628_800);
    assert_eq!(m.get(var::RSP), machine::STACK);
}

#[test]
fn string_instructions_copy_and_compare() {
    let mut m = Machine::long(0);
    let text: Vec<u8> = (0..=255).collect();
    m.write(0x4000, &text);
    let code = assemble(64, |a| {
        a.mov(rsi, 0x4000u64).unwrap();
        a.mov(rdi, 0x5000u64).unwrap();
        a.mov(ecx, 256).unwrap();
        a.cld().unwrap();
        a.rep().movsb().unwrap();
        a.mov(rsi, 0x4000u64).unwrap();
        a.mov(rdi, 0x5000u64).unwrap();
        a.mov(ecx, 32).unwrap();
        a.repe().cmpsq().unwrap();
        a.sete(bl).unwrap();
        a.mov(rdi, 0x5000u64).unwrap();
        a.mov(ecx, 256).unwrap();
        a.mov(al, 77).unwrap();
        a.repne().scasb().unwrap();
        a.mov(rsi, 0x4010u64).unwrap();
        a.lodsw().unwrap();
    });
    m.run_code(&code);
    assert_eq!(m.get(var::RBX) & 0xff, 1);
    assert_eq!(m.get(var::RDI), 0x5000 + 78);
    assert_eq!(m.get(var::RCX), 256 - 78);
    assert_eq!(m.get(var::RAX) & 0xffff, 0x1110);
    assert_eq!(m.get(var::RSI), 0x4012);
}

#[test]
fn x87_and_sse_compute() {
    let mut m = Machine::long(0);
    m.write(0x4000, &2.0f64.to_le_bytes());
    let code = assemble(64, |a| {
        a.fninit().unwrap();
        a.fld(qword_ptr(0x4000)).unwrap();
        a.fsqrt().unwrap();
        a.fstp(qword_ptr(0x4008)).unwrap();
        a.movsd_2(xmm1, qword_ptr(0x4000)).unwrap();
        a.sqrtsd(xmm0, xmm1).unwrap();
        a.movsd_2(qword_ptr(0x4010), xmm0).unwrap();
        a.mov(eax, 7).unwrap();
        a.cvtsi2sd(xmm2, eax).unwrap();
        a.addsd(xmm2, xmm1).unwrap();
        a.cvttsd2si(ebx, xmm2).unwrap();
        a.ucomisd(xmm2, xmm1).unwrap();
        a.seta(cl).unwrap();
        a.movq(mm0, qword_ptr(0x4000)).unwrap();
        a.paddd(mm0, mm0).unwrap();
        a.movq(qword_ptr(0x4018), mm0).unwrap();
        a.emms().unwrap();
    });
    m.run_code(&code);
    let root = 2.0f64.sqrt().to_bits();
    assert_eq!(m.read(0x4008, 8), root);
    assert_eq!(m.read(0x4010, 8), root);
    assert_eq!(m.get(var::RBX), 9);
    assert_eq!(m.get(var::RCX) & 0xff, 1);
    assert_eq!(m.read(0x4018, 8), 2.0f64.to_bits() * 2);
}

#[test]
fn a_divide_error_in_real_mode_goes_through_the_vector_table() {
    let mut m = Machine::real();
    // Vector 0 at 0000:6000, which halts.
    m.write(0, &[0x00, 0x60, 0x00, 0x00]);
    m.write(0x6000, &[0xf4]);
    let code = assemble(16, |a| {
        a.mov(ax, 0x1234).unwrap();
        a.xor(bl, bl).unwrap();
        a.div(bl).unwrap();
    });
    m.run_code(&code);
    assert_eq!(m.get(var::RIP), 0x6001);
    // IP on the stack is that of the DIV.
    assert_eq!(m.read(machine::STACK - 6, 2), 5);
    assert_eq!(m.read(machine::STACK - 4, 2), CODE >> 4);
    assert_eq!(m.get(var::RAX), 0x1234);
}

/// A 32-bit machine whose exceptions all end in a HLT at 6000 + vector.
fn with_handlers() -> Machine {
    let mut m = Machine::protected(0);
    m.write(0x3008, &0x00cf_9b00_0000_ffffu64.to_le_bytes());
    m.write(0x3010, &0x00cf_9300_0000_ffffu64.to_le_bytes());
    for vector in 0..32u64 {
        m.write(0x2000 + 8 * vector, &((0x6000 + vector) | 8 << 16 | 0x8e00 << 32).to_le_bytes());
        m.write(0x6000 + vector, &[0xf4]);
    }
    m.cpu().sys.gdtr = TableReg { base: 0x3000, limit: 0x17 };
    m.cpu().sys.idtr = TableReg { base: 0x2000, limit: 0xff };
    m
}

#[test]
fn an_access_beyond_the_segment_limit_faults_before_anything_changes() {
    let mut m = with_handlers();
    let small = Segment {
        selector: 0x10,
        attr: attr::P | attr::S | attr::RW | attr::A | attr::DB,
        limit: 0xfff,
        base: 0x4000,
    };
    m.cpu().set_segment(seg::DS, small);
    m.write(0x4ffc, &0x1111_1111u32.to_le_bytes());
    let code = assemble(32, |a| {
        a.mov(eax, 5).unwrap();
        a.xor(ecx, ecx).unwrap();
        a.add(dword_ptr(0xffc), eax).unwrap();
        a.stc().unwrap();
        a.adc(eax, dword_ptr(0xffd)).unwrap();
    });
    m.run_code(&code);
    assert_eq!(m.get(var::RIP), 0x6000 + 13 + 1, "#GP");
    assert_eq!(m.read(0x4ffc, 4), 0x1111_1116, "the last bytes inside are there");
    assert_eq!(m.get(var::RAX), 5);
    assert_eq!(m.read(machine::STACK - 16, 4), 0, "error code");
    assert_ne!(m.read(machine::STACK - 4, 4) & flag::CF, 0, "flags before the ADC");
}

#[test]
fn a_read_outside_an_expand_down_stack_is_a_stack_fault() {
    let mut m = with_handlers();
    // Offsets 1000 and above; the handler's frame just fits.
    let stack = Segment {
        selector: 0x10,
        attr: attr::P | attr::S | attr::RW | attr::A | attr::EC | attr::DB,
        limit: 0xfff,
        base: 0,
    };
    m.cpu().set_segment(seg::SS, stack);
    let code = assemble(32, |a| {
        a.mov(esp, 0x1010).unwrap();
        a.mov(edx, 0x77).unwrap();
        a.mov(ebp, 0xff8).unwrap();
        a.mov(edx, dword_ptr(ebp + 6)).unwrap();
    });
    m.run_code(&code);
    assert_eq!(m.get(var::RIP), 0x6000 + 12 + 1, "#SS");
    assert_eq!(m.get(var::RDX), 0x77);
    assert_eq!(m.get(var::RSP), 0x1000, "EFLAGS, CS, EIP and the error code");
}

#[test]
fn lock_is_refused_where_it_means_nothing() {
    let mut m = with_handlers();
    // lock add eax, ecx
    m.run_code(&[0xf0, 0x01, 0xc8]);
    assert_eq!(m.get(var::RIP), 0x6000 + 6 + 1, "#UD");
    let mut m = with_handlers();
    // Sixteen prefixes.
    m.run_code(&[0x66; 16]);
    assert_eq!(m.get(var::RIP), 0x6000 + 13 + 1, "#GP");
}

#[test]
fn sixteen_bit_offsets_wrap_and_the_last_byte_of_a_word_does_not() {
    let mut m = Machine::real();
    m.write(13 * 4, &[0x00, 0x60, 0x00, 0x00]);
    m.write(0x6000, &[0xf4]);
    m.write(0x10, &[0xab]);
    let code = assemble(16, |a| {
        a.mov(bx, 0xfff0u32).unwrap();
        a.mov(al, byte_ptr(bx + 0x20)).unwrap();
        a.mov(bx, 0xffffu32).unwrap();
        a.mov(cx, word_ptr(bx)).unwrap();
    });
    m.run_code(&code);
    assert_eq!(m.get(var::RAX) & 0xff, 0xab);
    assert_eq!(m.get(var::RIP), 0x6001, "#GP");
}

#[test]
fn an_x87_error_without_ne_goes_out_on_ferr_until_it_is_ignored_or_cleared() {
    let mut m = Machine::protected(0);
    m.cpu().sys.cr0 &= !(1 << 5);
    let wire = m.board.wire();
    m.board.wire_ferr(0, wire.pin());
    // Zero divide unmasked.
    let divide = |a: &mut CodeAssembler| {
        a.mov(dword_ptr(0x5000), 0x37b).unwrap();
        a.fninit().unwrap();
        a.fldcw(word_ptr(0x5000)).unwrap();
        a.fld1().unwrap();
        a.fldz().unwrap();
        a.fdivp(st1, st0).unwrap();
    };
    run_again(&mut m, &assemble(32, divide));
    run_again(&mut m, &assemble(32, |a| a.wait().unwrap()));
    assert!(wire.level(), "the waiting instruction asks for the interrupt");
    m.board.pins(0).ignne.pin().pulse();
    run_again(&mut m, &assemble(32, |a| a.fld1().unwrap()));
    assert!(!wire.level(), "ignored");
    run_again(&mut m, &assemble(32, |a| a.fnclex().unwrap()));
    run_again(&mut m, &assemble(32, divide));
    run_again(&mut m, &assemble(32, |a| a.wait().unwrap()));
    assert!(wire.level(), "a new error is not ignored");
    run_again(&mut m, &assemble(32, |a| a.fnclex().unwrap()));
    run_again(&mut m, &assemble(32, |a| a.nop().unwrap()));
    assert!(!wire.level(), "cleared");
}

#[test]
fn non_canonical_targets_and_stacks_fault_before_anything_is_done() {
    const BAD: u64 = 0xaaaa_aaaa_aaaa_aaaa;
    let fault = |build: &dyn Fn(&mut CodeAssembler)| {
        let mut m = Machine::long(0);
        m.write(0x7008, &0x00af_9b00_0000_ffffu64.to_le_bytes());
        for n in 0..32u64 {
            let gate = (0x6000 + n) | 8 << 16 | 0x8e << 40;
            m.write(0x7100 + 16 * n, &gate.to_le_bytes());
            m.write(0x7108 + 16 * n, &0u64.to_le_bytes());
        }
        m.write(0x6000, &[0xf4; 32]);
        m.cpu().sys.gdtr = TableReg { base: 0x7000, limit: 0xff };
        m.cpu().sys.idtr = TableReg { base: 0x7100, limit: 0x1ff };
        // A stack of its own, as the one in use may be the reason.
        for n in 0..32u64 {
            m.write(0x7104 + 16 * n, &[1]);
        }
        m.cpu().sys.tr = Segment { selector: 0x18, attr: 0x8b, limit: 0x67, base: 0x7400 };
        m.write(0x7424, &0x7800u64.to_le_bytes());
        m.run_code(&assemble(64, |a| {
            a.mov(rax, BAD).unwrap();
            build(a);
        }));
        m.get(var::RIP) - 0x6001
    };
    assert_eq!(fault(&|a| a.jmp(rax).unwrap()), 13);
    assert_eq!(fault(&|a| a.call(rax).unwrap()), 13);
    assert_eq!(
        fault(&|a| {
            a.push(rax).unwrap();
            a.ret().unwrap();
        }),
        13
    );
    assert_eq!(fault(&|a| a.mov(rcx, qword_ptr(rax)).unwrap()), 13);
    assert_eq!(
        fault(&|a| {
            a.mov(rbp, rax).unwrap();
            a.mov(rcx, qword_ptr(rbp + 8)).unwrap();
        }),
        12
    );
    assert_eq!(
        fault(&|a| {
            a.mov(rsp, rax).unwrap();
            a.push(rcx).unwrap();
        }),
        12
    );
    assert_eq!(fault(&|a| a.push(qword_ptr(rax)).unwrap()), 13);
}
