use super::*;
use orrery_system::map::Regions;

struct Bench {
    dev: Apic,
    pins: Vec<CpuPins>,
    pic: IrqLine,
    nmi_button: IrqLine,
    current: Arc<AtomicUsize>,
    messages: MessageQueue,
    eoi: EoiBus,
    region: Region,
    clock: Clock,
    timers: Vec<Timer>,
}

impl Bench {
    fn fresh(cpus: usize) -> Self {
        let pins: Vec<CpuPins> = (0..cpus).map(|_| CpuPins::default()).collect();
        let (lint0, lint1) = (IrqInput::detached(), IrqInput::detached());
        let (pic, nmi_button) = (lint0.pin(), lint1.pin());
        let (current, clock) = (Arc::<AtomicUsize>::default(), Clock::default());
        let (messages, eoi) = (MessageQueue::default(), EoiBus::new(IrqLine::open()));
        let region = Regions::detached().container("apic", 0x1000);
        let timers: Vec<Timer> = (0..cpus).map(|_| Timer::default()).collect();
        let wires = Wires {
            cpus: pins.clone(),
            lint0,
            lint1,
            current_cpu: current.clone(),
            messages: messages.clone(),
            eoi: eoi.clone(),
            region: region.clone(),
            clock: clock.clone(),
            timers: timers.clone(),
        };
        let dev = Apic::new(Config { cpus }, wires);
        Self { dev, pins, pic, nmi_button, current, messages, eoi, region, clock, timers }
    }

    /// With every APIC software-enabled, spurious vector ffh.
    fn new(cpus: usize) -> Self {
        let mut b = Self::fresh(cpus);
        for cpu in 0..cpus {
            b.write(cpu, Reg::Svr, 0x1ff);
        }
        b
    }

    fn read(&mut self, cpu: usize, reg: Reg) -> u32 {
        self.current.store(cpu, Relaxed);
        Registers::read(&mut self.dev, 0, reg.offset(), 4).unwrap() as u32
    }

    fn write(&mut self, cpu: usize, reg: Reg, v: u32) {
        self.current.store(cpu, Relaxed);
        Registers::write(&mut self.dev, 0, reg.offset(), 4, v.into()).unwrap();
    }

    fn settle(&mut self) {
        Settle::settle(&mut self.dev);
    }

    fn msi(&mut self, addr: u64, data: u32) {
        self.messages.send(Message { addr, data });
        self.settle();
    }

    fn intr(&self, cpu: usize) -> bool {
        self.pins[cpu].intr.level()
    }

    fn ack(&mut self, cpu: usize) -> Option<u8> {
        self.dev.acknowledge(cpu)
    }

    fn ipi(&mut self, cpu: usize, dest: u8, low: u32) {
        self.write(cpu, Reg::IcrHigh, u32::from(dest) << 24);
        self.write(cpu, Reg::IcrLow, low);
    }

    fn x2(&mut self, cpu: usize) {
        let base = self.dev.msr_read(cpu, msr::APIC_BASE).unwrap();
        assert!(self.dev.msr_write(cpu, msr::APIC_BASE, base | base::EXTD));
    }

    /// Runs for a while; returns how often CPU 0's interrupt pin rose.
    fn run(&mut self, ns: u64) -> u32 {
        let end = self.clock.now().after(ns);
        let mut rises = u32::from(self.pins[0].intr.take_edge());
        while let Some(t) = self.timers[0].deadline().filter(|&t| t <= end) {
            self.clock.advance_to(t);
            self.timers[0].disarm();
            self.dev.wake(0, t);
            rises += u32::from(self.pins[0].intr.take_edge());
        }
        self.clock.advance_to(end);
        rises
    }
}

#[test]
fn a_message_is_requested_acknowledged_and_ended() {
    let mut b = Bench::new(1);
    b.msi(0xfee0_0000, 0x41);
    assert!(b.intr(0));
    assert_eq!(b.read(0, Reg::Irr2), 1 << 1);
    assert_eq!(b.ack(0), Some(0x41));
    assert!(!b.intr(0));
    assert_eq!((b.read(0, Reg::Irr2), b.read(0, Reg::Isr2), b.read(0, Reg::Ppr)), (0, 2, 0x40));
    b.write(0, Reg::Eoi, 0);
    assert_eq!((b.read(0, Reg::Isr2), b.read(0, Reg::Ppr)), (0, 0));
    assert_eq!(b.eoi.take(), None, "edge triggered");
}

#[test]
fn higher_classes_interrupt_lower_ones_and_equal_ones_wait() {
    let mut b = Bench::new(1);
    b.msi(0xfee0_0000, 0x41);
    b.ack(0);
    b.msi(0xfee0_0000, 0x4f);
    assert!(!b.intr(0));
    b.msi(0xfee0_0000, 0x50);
    assert_eq!(b.ack(0), Some(0x50));
    b.write(0, Reg::Eoi, 0);
    assert!(!b.intr(0));
    b.write(0, Reg::Eoi, 0);
    assert_eq!(b.ack(0), Some(0x4f));
}

#[test]
fn the_task_priority_holds_interrupts_and_is_cr8() {
    let mut b = Bench::new(1);
    b.dev.set_cr8(0, 5);
    assert_eq!((b.read(0, Reg::Tpr), b.dev.cr8(0)), (0x50, 5));
    b.msi(0xfee0_0000, 0x51);
    assert!(!b.intr(0));
    b.write(0, Reg::Tpr, 0x4f);
    assert!(b.intr(0));
}

#[test]
fn the_end_of_a_level_interrupt_is_broadcast() {
    let mut b = Bench::new(1);
    b.msi(0xfee0_0000, 0xc062);
    assert_eq!(b.read(0, Reg::Tmr3), 4);
    b.ack(0);
    b.write(0, Reg::Eoi, 0);
    assert_eq!(b.eoi.take(), Some(0x62));
}

#[test]
fn destinations_are_physical_or_logical_flat_or_in_clusters() {
    let mut b = Bench::new(4);
    let to = |b: &mut Bench, addr: u64| {
        b.msi(addr, 0x40);
        (0..4).filter(|&cpu| b.intr(cpu) && b.ack(cpu).is_some()).collect::<Vec<_>>()
    };
    fn end(b: &mut Bench) {
        (0..4).for_each(|cpu| b.write(cpu, Reg::Eoi, 0));
    }
    assert_eq!(to(&mut b, 0xfee0_2000), [2]);
    end(&mut b);
    assert_eq!(to(&mut b, 0xfeef_f000), [0, 1, 2, 3]);
    end(&mut b);
    for cpu in 0..4 {
        b.write(cpu, Reg::Ldr, 1 << (24 + cpu));
    }
    assert_eq!(to(&mut b, 0xfee0_a004), [1, 3]);
    end(&mut b);
    for cpu in 0..4 {
        b.write(cpu, Reg::Dfr, 0);
        b.write(cpu, Reg::Ldr, (cpu as u32 / 2) << 28 | 1 << (24 + cpu as u32 % 2));
    }
    assert_eq!(to(&mut b, 0xfee1_2004), [3]);
    end(&mut b);
    assert_eq!(to(&mut b, 0xfeef_1004), [0, 2], "all clusters");
}

#[test]
fn lowest_priority_goes_to_the_least_busy() {
    let mut b = Bench::new(2);
    b.write(0, Reg::Tpr, 0x30);
    b.msi(0xfeef_f008, 0x0140);
    assert!(!b.intr(0) && b.intr(1));
}

#[test]
fn processors_interrupt_one_another() {
    let mut b = Bench::new(3);
    b.ipi(0, 2, 0x4031);
    assert_eq!((b.intr(0), b.intr(1), b.intr(2)), (false, false, true));
    b.ipi(0, 0, 0xc_4032);
    assert_eq!((b.intr(0), b.intr(1)), (false, true));
    b.ipi(0, 0, 0x4_4033);
    assert_eq!(b.ack(0), Some(0x33));
    b.ipi(1, 0, 0x8_4050);
    assert_eq!([0, 1, 2].map(|cpu| b.ack(cpu)), [Some(0x50); 3]);
    assert_eq!(b.read(0, Reg::IcrLow) & 1 << 12, 0, "delivery is never pending");
}

#[test]
fn init_and_startup_wake_a_processor() {
    let mut b = Bench::new(2);
    b.write(1, Reg::Tpr, 0x20);
    b.ipi(0, 1, 0xc500);
    assert!(b.pins[1].init.take_edge() && !b.pins[0].init.has_edge());
    assert_eq!((b.read(1, Reg::Tpr), b.read(1, Reg::Svr)), (0, 0xff), "reset");
    b.ipi(0, 1, 0x8500);
    assert!(!b.pins[1].init.has_edge(), "de-assert does nothing");
    b.ipi(0, 1, 0x4699);
    assert_eq!(b.pins[1].sipi.take(), Some(0x99));
    b.ipi(0, 1, 0x4400);
    assert!(b.pins[1].nmi.take_edge());
    b.ipi(0, 1, 0x4200);
    assert!(b.pins[1].smi.take_edge());
}

#[test]
fn the_pics_interrupts_pass_through_lint0_of_the_first_processor() {
    let mut b = Bench::fresh(2);
    b.pic.set(true);
    b.settle();
    assert_eq!((b.intr(0), b.intr(1)), (true, false));
    assert_eq!(b.ack(0), None, "the 8259 gives the vector");
    b.write(0, Reg::Svr, 0x1ff);
    b.write(0, Reg::LvtLint0, 0x1_0700);
    assert!(!b.intr(0));
    b.write(0, Reg::LvtLint0, 0x8700);
    assert!(b.intr(0));
    b.pic.set(false);
    b.settle();
    assert!(!b.intr(0));
}

#[test]
fn a_local_interrupt_goes_before_the_pics() {
    let mut b = Bench::new(1);
    b.write(0, Reg::LvtLint0, 0x700);
    b.pic.set(true);
    b.msi(0xfee0_0000, 0x41);
    assert_eq!(b.ack(0), Some(0x41));
    assert_eq!((b.intr(0), b.ack(0)), (true, None));
}

#[test]
fn a_switched_off_apic_is_a_wire() {
    let mut b = Bench::new(2);
    assert!(b.dev.msr_write(0, msr::APIC_BASE, base::RESET));
    b.pic.set(true);
    b.settle();
    assert_eq!((b.intr(0), b.ack(0)), (true, None));
    b.current.store(0, Relaxed);
    assert_eq!(Registers::read(&mut b.dev, 0, 0x20, 4), Err(BusError::NoRegister));
    b.msi(0xfeef_f000, 0x40);
    assert!(b.intr(1));
    assert!(b.dev.msr_write(0, msr::APIC_BASE, base::RESET | base::EN));
    assert_eq!(b.dev.msr_read(0, msr::APIC_BASE), Some(0xfee0_0900));
}

#[test]
fn lint1_is_an_nmi_where_it_is_programmed_so() {
    let mut b = Bench::new(2);
    b.write(0, Reg::LvtLint1, 0x400);
    b.nmi_button.pulse();
    b.settle();
    assert!(b.pins[0].nmi.take_edge() && !b.pins[1].nmi.has_edge());
}

#[test]
fn the_timer_runs_once_or_periodically_through_its_divider() {
    let mut b = Bench::new(1);
    b.write(0, Reg::LvtTimer, 0x40);
    b.write(0, Reg::Divide, 0x3); // by 16
    b.write(0, Reg::InitialCount, 1000);
    assert_eq!(b.read(0, Reg::CurrentCount), 1000);
    b.run(8000);
    assert_eq!(b.read(0, Reg::CurrentCount), 500);
    assert_eq!(b.run(7999), 0);
    assert_eq!(b.run(1), 1);
    assert_eq!((b.ack(0), b.read(0, Reg::CurrentCount)), (Some(0x40), 0));
    b.write(0, Reg::Eoi, 0);
    b.write(0, Reg::LvtTimer, 0x2_0041);
    b.write(0, Reg::Divide, 0xb); // by 1
    b.write(0, Reg::InitialCount, 20_000);
    for _ in 0..3 {
        assert_eq!(b.run(20_000), 1);
        assert_eq!(b.ack(0), Some(0x41));
        b.write(0, Reg::Eoi, 0);
    }
    assert_eq!(b.run(500), 0);
    assert_eq!(b.read(0, Reg::CurrentCount), 19_500);
    b.write(0, Reg::InitialCount, 0);
    assert_eq!(b.run(100_000), 0);
}

#[test]
fn a_period_too_short_to_serve_does_not_hang_the_machine() {
    let mut b = Bench::new(1);
    b.write(0, Reg::LvtTimer, 0x2_0041);
    b.write(0, Reg::InitialCount, 1);
    let mut served = 0;
    for _ in 0..100 {
        served += b.run(10_000);
        b.ack(0);
        b.write(0, Reg::Eoi, 0);
    }
    assert!((90..=100).contains(&served), "{served}");
}

#[test]
fn a_masked_timer_counts_silently() {
    let mut b = Bench::new(1);
    b.write(0, Reg::LvtTimer, 0x1_0040);
    b.write(0, Reg::Divide, 0xb);
    b.write(0, Reg::InitialCount, 1_000_000);
    b.run(400_000);
    assert_eq!(b.read(0, Reg::CurrentCount), 600_000, "as calibration reads it");
    assert_eq!(b.run(1_000_000), 0);
    b.write(0, Reg::LvtTimer, 0x40);
    assert_eq!(b.run(10_000_000), 0, "it had expired while masked");
}

#[test]
fn the_deadline_timer_fires_at_its_instant_and_clears_it() {
    let mut b = Bench::new(1);
    assert!(b.dev.msr_write(0, msr::TSC_DEADLINE, 5000));
    assert_eq!(b.dev.msr_read(0, msr::TSC_DEADLINE), Some(0), "not in this mode");
    b.write(0, Reg::LvtTimer, 0x4_0042);
    b.dev.msr_write(0, msr::TSC_DEADLINE, 5000);
    assert_eq!(b.run(4999), 0);
    assert_eq!(b.run(1), 1);
    assert_eq!((b.ack(0), b.dev.msr_read(0, msr::TSC_DEADLINE)), (Some(0x42), Some(0)));
    b.write(0, Reg::Eoi, 0);
    b.dev.msr_write(0, msr::TSC_DEADLINE, 100);
    assert_eq!(b.run(0), 1, "one in the past fires at once");
}

#[test]
fn illegal_vectors_are_errors_that_interrupt() {
    let mut b = Bench::new(1);
    b.write(0, Reg::LvtError, 0x4e);
    b.ipi(0, 0, 0x4005);
    assert_eq!(b.ack(0), Some(0x4e));
    assert_eq!(b.read(0, Reg::Esr), 0);
    b.write(0, Reg::Esr, 0);
    assert_eq!(b.read(0, Reg::Esr), 0x20);
    b.msi(0xfee0_0000, 0x05);
    Registers::read(&mut b.dev, 0, 0x40, 4).unwrap();
    b.write(0, Reg::Esr, 0);
    assert_eq!(b.read(0, Reg::Esr), 0xc0);
}

#[test]
fn software_disabling_masks_the_vector_table() {
    let mut b = Bench::new(1);
    b.write(0, Reg::LvtTimer, 0x40);
    b.write(0, Reg::Svr, 0xff);
    assert_eq!(b.read(0, Reg::LvtTimer), 0x1_0040);
    b.write(0, Reg::LvtTimer, 0x41);
    assert_eq!(b.read(0, Reg::LvtTimer), 0x1_0041, "and keeps it so");
    b.msi(0xfee0_0000, 0x50);
    assert!(!b.intr(0));
}

#[test]
fn an_interrupt_that_went_away_reads_as_spurious() {
    let mut b = Bench::new(1);
    b.msi(0xfee0_0000, 0x41);
    b.write(0, Reg::Tpr, 0xf0);
    assert_eq!(b.ack(0), Some(0xff));
    assert_eq!(b.read(0, Reg::Isr7), 0);
}

#[test]
fn x2apic_registers_are_model_specific() {
    let mut b = Bench::new(2);
    assert_eq!(b.dev.msr_read(1, 0x802), None);
    b.x2(1);
    assert_eq!(b.dev.msr_read(1, 0x802), Some(1));
    assert_eq!(b.dev.msr_read(1, 0x80d), Some(2), "logical identification");
    assert_eq!((b.dev.msr_read(1, 0x80e), b.dev.msr_read(1, 0x831)), (None, None));
    assert!(!b.dev.msr_write(1, 0x802, 5) && !b.dev.msr_write(1, 0x80b, 1));
    assert!(b.dev.msr_write(1, 0x808, 0x20));
    assert_eq!(b.dev.msr_read(1, 0x808), Some(0x20));
    assert!(b.dev.msr_write(1, 0x83f, 0x55));
    assert_eq!(b.ack(1), Some(0x55));
    assert!(b.dev.msr_write(1, 0x80b, 0));
    assert!(b.dev.msr_write(1, 0x830, 0x4056));
    assert_eq!(b.ack(0), Some(0x56));
    assert!(b.dev.msr_write(1, 0x830, 2 << 32 | 0x4857));
    assert_eq!(b.ack(1), Some(0x57), "logical, to itself");
    b.current.store(1, Relaxed);
    assert_eq!(Registers::read(&mut b.dev, 0, 0x20, 4), Err(BusError::NoRegister));
}

#[test]
fn only_the_transitions_of_the_manual_are_allowed() {
    let mut b = Bench::new(1);
    let on = 0xfee0_0000 | base::EN;
    assert!(!b.dev.msr_write(0, msr::APIC_BASE, 0xfee0_0000 | base::EXTD));
    assert!(!b.dev.msr_write(0, msr::APIC_BASE, on | 1));
    b.x2(0);
    assert!(!b.dev.msr_write(0, msr::APIC_BASE, on));
    assert!(b.dev.msr_write(0, msr::APIC_BASE, 0xfee0_0000));
    assert!(!b.dev.msr_write(0, msr::APIC_BASE, on | base::EXTD));
    assert!(b.dev.msr_write(0, msr::APIC_BASE, on));
}

#[test]
fn the_registers_follow_the_base_address() {
    let mut b = Bench::new(1);
    assert_eq!((b.region.base(), b.region.enabled()), (0xfee0_0000, (true, true)));
    assert!(b.dev.msr_write(0, msr::APIC_BASE, 0xfec8_0000 | base::EN));
    assert_eq!(b.region.base(), 0xfec8_0000);
    b.x2(0);
    assert_eq!(b.region.enabled(), (false, false));
}

#[test]
fn each_processor_sees_its_own_registers() {
    let mut b = Bench::new(2);
    assert_eq!((b.read(0, Reg::Id), b.read(1, Reg::Id)), (0, 0x0100_0000));
    b.write(1, Reg::Tpr, 0x10);
    assert_eq!((b.read(0, Reg::Tpr), b.read(1, Reg::Tpr)), (0, 0x10));
    assert_eq!(b.read(0, Reg::Version), 0x0005_0014);
    assert_eq!(Registers::read(&mut b.dev, 0, 0x32, 1), Ok(0x05), "a byte of it");
}

orrery_system::conformance!(Bench::fresh(2).dev, Reg::TABLE);
