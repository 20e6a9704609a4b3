//! Local APICs of all CPUs (xAPIC and x2APIC).
//!
//! Reference: Intel SDM vol. 3A, chapter 11 (APIC). One device holds them all, because they mostly
//! talk to one another; an access goes to that of the CPU that makes it. Interrupts come in over
//! the machine's message queue (I/O APIC, MSI), LINT pins, inter-processor interrupts and timers.
//! The end of a level-triggered interrupt goes out over an [`EoiBus`].
//!
//! The timer counts at 1 GHz, as the time-stamp counter does; a TSC deadline is taken as a time
//! since power-on, whatever IA32_TSC_ADJUST says. In x2APIC mode DFR and LDR are fixed.
//!
//! Not modelled: suppression of the EOI broadcast, arbitration IDs, thermal and performance
//! counter interrupts.

mod local;
#[cfg(test)]
mod tests;

use super::Inputs;
use local::{Effect, Lapic, base, error, lvt, mode};
use orrery_system::bus::{BusError, BusResult, Registers};
use orrery_system::device::{CpuRegisters, Device, IntAck, Settle};
use orrery_system::pins::{CpuPins, Startup};
use orrery_system::ports::{Message, MessageQueue};
use orrery_system::{
    Clock, IrqInput, IrqLine, Region, RestoreError, State as _, StateBlob, Timer, VmTime,
};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

orrery_system::reg_map! {
    /// Registers at the APIC base; in x2APIC mode MSR 800h + offset / 16.
    pub enum Reg {
        /// Identification.
        0x020 Id: 4 Rw,
        /// Version.
        0x030 Version: 4 Ro,
        /// Task priority.
        0x080 Tpr: 4 Rw,
        /// Arbitration priority.
        0x090 Apr: 4 Ro,
        /// Processor priority.
        0x0a0 Ppr: 4 Ro,
        /// End of interrupt.
        0x0b0 Eoi: 4 Wo,
        /// Remote read.
        0x0c0 Rrd: 4 Ro,
        /// Logical destination.
        0x0d0 Ldr: 4 Rw,
        /// Destination format.
        0x0e0 Dfr: 4 Rw,
        /// Spurious interrupt vector.
        0x0f0 Svr: 4 Rw,
        /// In service, bits 0 to 31.
        0x100 Isr0: 4 Ro,
        /// In service, bits 32 to 63.
        0x110 Isr1: 4 Ro,
        /// In service, bits 64 to 95.
        0x120 Isr2: 4 Ro,
        /// In service, bits 96 to 127.
        0x130 Isr3: 4 Ro,
        /// In service, bits 128 to 159.
        0x140 Isr4: 4 Ro,
        /// In service, bits 160 to 191.
        0x150 Isr5: 4 Ro,
        /// In service, bits 192 to 223.
        0x160 Isr6: 4 Ro,
        /// In service, bits 224 to 255.
        0x170 Isr7: 4 Ro,
        /// Trigger mode, bits 0 to 31.
        0x180 Tmr0: 4 Ro,
        /// Trigger mode, bits 32 to 63.
        0x190 Tmr1: 4 Ro,
        /// Trigger mode, bits 64 to 95.
        0x1a0 Tmr2: 4 Ro,
        /// Trigger mode, bits 96 to 127.
        0x1b0 Tmr3: 4 Ro,
        /// Trigger mode, bits 128 to 159.
        0x1c0 Tmr4: 4 Ro,
        /// Trigger mode, bits 160 to 191.
        0x1d0 Tmr5: 4 Ro,
        /// Trigger mode, bits 192 to 223.
        0x1e0 Tmr6: 4 Ro,
        /// Trigger mode, bits 224 to 255.
        0x1f0 Tmr7: 4 Ro,
        /// Requested, bits 0 to 31.
        0x200 Irr0: 4 Ro,
        /// Requested, bits 32 to 63.
        0x210 Irr1: 4 Ro,
        /// Requested, bits 64 to 95.
        0x220 Irr2: 4 Ro,
        /// Requested, bits 96 to 127.
        0x230 Irr3: 4 Ro,
        /// Requested, bits 128 to 159.
        0x240 Irr4: 4 Ro,
        /// Requested, bits 160 to 191.
        0x250 Irr5: 4 Ro,
        /// Requested, bits 192 to 223.
        0x260 Irr6: 4 Ro,
        /// Requested, bits 224 to 255.
        0x270 Irr7: 4 Ro,
        /// Error status.
        0x280 Esr: 4 Rw,
        /// Interrupt command, low half.
        0x300 IcrLow: 4 Rw,
        /// Interrupt command, high half.
        0x310 IcrHigh: 4 Rw,
        /// Local vector table: timer.
        0x320 LvtTimer: 4 Rw,
        /// Local vector table: thermal sensor.
        0x330 LvtThermal: 4 Rw,
        /// Local vector table: performance counters.
        0x340 LvtPerformance: 4 Rw,
        /// Local vector table: LINT0.
        0x350 LvtLint0: 4 Rw,
        /// Local vector table: LINT1.
        0x360 LvtLint1: 4 Rw,
        /// Local vector table: errors.
        0x370 LvtError: 4 Rw,
        /// Timer initial count.
        0x380 InitialCount: 4 Rw,
        /// Timer current count.
        0x390 CurrentCount: 4 Ro,
        /// Timer divider.
        0x3e0 Divide: 4 Rw,
    }
}

/// Version 14h with six entries in the local vector table.
const VERSION: u32 = 0x0005_0014;

/// Model-specific registers.
mod msr {
    pub(super) const APIC_BASE: u32 = 0x1b;
    pub(super) const TSC_DEADLINE: u32 = 0x6e0;
    pub(super) const X2APIC: u32 = 0x800;
    pub(super) const X2APIC_END: u32 = 0x8ff;
    pub(super) const SELF_IPI: u32 = 0x83f;
}

/// Ends of level-triggered interrupts on their way to the I/O APICs. Clones are the same bus.
#[derive(Clone)]
pub struct EoiBus {
    queue: Arc<Mutex<VecDeque<u8>>>,
    wake: IrqLine,
}

impl EoiBus {
    /// A bus; `wake` is a pin on any wire of the board, so that the machine settles.
    pub fn new(wake: IrqLine) -> Self {
        Self { queue: Arc::default(), wake }
    }

    /// Says that the interrupt with this vector has ended.
    pub fn send(&self, vector: u8) {
        self.queue.lock().expect("no panic while held").push_back(vector);
        self.wake.pulse();
    }

    /// Takes the oldest.
    pub fn take(&self) -> Option<u8> {
        self.queue.lock().expect("no panic while held").pop_front()
    }
}

/// Settings fixed when the machine is built.
pub struct Config {
    /// Number of CPUs.
    pub cpus: usize,
}

/// Pins and services the machine wires up.
pub struct Wires {
    /// The pins of each CPU.
    pub cpus: Vec<CpuPins>,
    /// LINT0 of all: `INT` of the 8259 pair.
    pub lint0: IrqInput,
    /// LINT1 of all: the NMI button.
    pub lint1: IrqInput,
    /// Which CPU makes the current access.
    pub current_cpu: Arc<AtomicUsize>,
    /// Message-signalled interrupts.
    pub messages: MessageQueue,
    /// The way to the I/O APICs.
    pub eoi: EoiBus,
    /// The 4 KiB of registers, which IA32_APIC_BASE moves.
    pub region: Region,
    /// Virtual time.
    pub clock: Clock,
    /// A wake-up for each CPU's timer.
    pub timers: Vec<Timer>,
}

/// Everything the guest can observe, and nothing else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    lapics: Vec<Lapic>,
    /// Level of LINT0 when last looked at.
    lint0: bool,
}

impl orrery_system::State for State {
    const KIND: &'static str = "apic";
    const VERSION: u16 = 1;
}

/// An interrupt on its way to some APICs.
#[derive(Clone, Copy)]
struct Delivery {
    dest: u32,
    logical: bool,
    /// The destination has 32 bits.
    wide: bool,
    mode: u8,
    vector: u8,
    level: bool,
}

impl State {
    fn power_on(cpus: usize) -> Self {
        Self { lapics: (0..cpus.max(1)).map(Lapic::new).collect(), lint0: false }
    }

    fn deliver(&mut self, d: Delivery, out: &mut Vec<Effect>) {
        let addressed = |l: &Lapic| l.is_addressed(d.dest, d.logical, d.wide);
        if d.mode == mode::LOWEST {
            // One that has it already keeps it; else the least busy, the first among equals.
            let ready = self.lapics.iter_mut().filter(|l| addressed(l) && l.is_enabled());
            let holds = |l: &Lapic| l.irr.has(d.vector) || l.isr.has(d.vector);
            if let Some(l) = ready.min_by_key(|l| (!holds(l), l.ppr())) {
                l.accept(d.vector, d.level);
            }
            return;
        }
        for (cpu, l) in self.lapics.iter_mut().enumerate() {
            if addressed(l) {
                l.receive(cpu, d.mode, d.vector, d.level, out);
            }
        }
    }

    /// A message-signalled interrupt (SDM 11.11).
    fn message(&mut self, m: Message, out: &mut Vec<Effect>) {
        if m.addr >> 20 != 0xfee {
            return;
        }
        let d = Delivery {
            dest: (m.addr >> 12) as u32 & 0xff,
            logical: m.addr & 4 != 0,
            wide: false,
            mode: (m.data >> 8) as u8 & 7,
            vector: m.data as u8,
            level: m.data & 1 << 15 != 0,
        };
        self.deliver(d, out);
    }

    /// CPU `cpu` wrote its interrupt command register.
    fn command(&mut self, cpu: usize, out: &mut Vec<Effect>) {
        let me = &mut self.lapics[cpu];
        let (low, wide) = (me.icr as u32, me.is_x2());
        let high = (me.icr >> 32) as u32;
        let d = Delivery {
            dest: if wide { high } else { high >> 24 },
            logical: low & 1 << 11 != 0,
            wide,
            mode: (low >> 8) as u8 & 7,
            vector: low as u8,
            level: false,
        };
        if matches!(d.mode, mode::FIXED | mode::LOWEST) && d.vector < 16 {
            me.fail(error::SEND_ILLEGAL);
            return;
        }
        // INIT level de-assert only synchronized the arbitration of old.
        if d.mode == mode::INIT && low & 1 << 14 == 0 && low & 1 << 15 != 0 {
            return;
        }
        match low >> 18 & 3 {
            0 => self.deliver(d, out),
            1 => self.lapics[cpu].receive(cpu, d.mode, d.vector, false, out),
            shorthand => {
                for (i, l) in self.lapics.iter_mut().enumerate() {
                    if shorthand == 2 || i != cpu {
                        l.receive(i, d.mode, d.vector, false, out);
                    }
                }
            }
        }
    }

    /// A LINT pin changed: `edge` if it rose since last looked at.
    fn lint(&mut self, entry: usize, level: bool, edge: bool, out: &mut Vec<Effect>) {
        for (cpu, l) in self.lapics.iter_mut().enumerate() {
            let e = l.lvt[entry];
            let m = (e >> 8) as u8 & 7;
            if e & lvt::MASKED != 0 || m == mode::EXTINT || e & lvt::ACTIVE_LOW != 0 {
                continue;
            }
            if m == mode::FIXED && e & lvt::LEVEL != 0 {
                if level && e & lvt::REMOTE_IRR == 0 {
                    l.lvt[entry] |= lvt::REMOTE_IRR;
                    l.accept(e as u8, true);
                }
            } else if edge {
                l.receive(cpu, m, e as u8, false, out);
            }
        }
    }

    fn read(&self, cpu: usize, reg: Reg, now: u64) -> u32 {
        let l = &self.lapics[cpu];
        let n = (reg.offset() >> 4) as usize;
        match reg {
            Reg::Id if l.is_x2() => l.id,
            Reg::Id => l.id << 24,
            Reg::Version => VERSION,
            Reg::Tpr => l.tpr.into(),
            Reg::Apr | Reg::Ppr => l.ppr().into(),
            Reg::Eoi | Reg::Rrd => 0,
            Reg::Ldr if l.is_x2() => l.logical_x2(),
            Reg::Ldr => u32::from(l.ldr) << 24,
            Reg::Dfr => l.dfr,
            Reg::Svr => l.svr,
            Reg::Esr => l.esr,
            Reg::IcrLow => l.icr as u32,
            Reg::IcrHigh => (l.icr >> 32) as u32,
            Reg::InitialCount => l.initial,
            Reg::CurrentCount => l.current_count(now),
            Reg::Divide => l.divide.into(),
            _ if n < 0x18 => l.isr.word(n),
            _ if n < 0x20 => l.tmr.word(n),
            _ if n < 0x28 => l.irr.word(n),
            _ => l.lvt[n - 0x32],
        }
    }

    fn write(&mut self, cpu: usize, reg: Reg, v: u32, now: u64, out: &mut Vec<Effect>) {
        let l = &mut self.lapics[cpu];
        match reg {
            Reg::Tpr => l.tpr = v as u8,
            Reg::Eoi => l.eoi(out),
            Reg::Ldr => l.ldr = (v >> 24) as u8,
            Reg::Dfr => l.dfr = v | 0x0fff_ffff,
            Reg::Svr => l.set_svr(v),
            Reg::Esr => l.esr = std::mem::take(&mut l.errors),
            Reg::IcrLow => {
                l.icr = l.icr & !0xffff_ffff | u64::from(v & 0x000c_cfff);
                self.command(cpu, out);
            }
            Reg::IcrHigh => l.icr = l.icr & 0xffff_ffff | u64::from(v & 0xff00_0000) << 32,
            Reg::LvtTimer => l.set_timer_entry(v),
            Reg::LvtThermal
            | Reg::LvtPerformance
            | Reg::LvtLint0
            | Reg::LvtLint1
            | Reg::LvtError => l.set_lvt((reg.offset() >> 4) as usize - 0x32, v),
            Reg::InitialCount => l.set_initial_count(v, now),
            Reg::Divide => l.set_divide(v as u8, now),
            // The rest cannot be written; nor can the identification of newer processors.
            _ => {}
        }
    }

    /// Writes IA32_APIC_BASE; false if the change is not allowed (SDM figure 11-27).
    fn set_base(&mut self, cpu: usize, v: u64) -> bool {
        let l = &mut self.lapics[cpu];
        let modes = |v: u64| (v & base::EN != 0, v & base::EXTD != 0);
        let refused = matches!(
            (modes(l.base), modes(v)),
            (_, (false, true)) | ((true, true), (true, false)) | ((false, _), (true, true))
        );
        if refused || v & !(base::ADDRESS | base::BSP | base::EN | base::EXTD) != 0 {
            return false;
        }
        let was_on = l.is_on();
        l.base = v & !base::BSP | l.base & base::BSP;
        if was_on && !l.is_on() {
            let keep = l.base;
            l.init(cpu);
            l.base = keep;
        }
        true
    }

    fn msr_write(
        &mut self,
        cpu: usize,
        index: u32,
        v: u64,
        now: u64,
        out: &mut Vec<Effect>,
    ) -> bool {
        let l = &mut self.lapics[cpu];
        match index {
            msr::APIC_BASE => return self.set_base(cpu, v),
            msr::TSC_DEADLINE => l.set_tsc_deadline(v),
            msr::X2APIC..=msr::X2APIC_END if !l.is_x2() => return false,
            msr::SELF_IPI if v < 0x100 => l.accept(v as u8, false),
            0x830 => {
                l.icr = v & 0xffff_ffff_000c_cfff;
                self.command(cpu, out);
            }
            msr::X2APIC..=msr::X2APIC_END => {
                let Ok((reg, access)) = Reg::decode(u64::from(index - msr::X2APIC) << 4, 4) else {
                    return false;
                };
                let fixed = matches!(reg, Reg::Id | Reg::Ldr | Reg::Dfr | Reg::IcrHigh);
                let zero_only = matches!(reg, Reg::Eoi | Reg::Esr);
                let wide = v > u64::from(u32::MAX);
                let refused = access == orrery_system::reg_map::Access::Ro || fixed || wide;
                if refused || zero_only && v != 0 || reg == Reg::Tpr && v > 0xff {
                    return false;
                }
                self.write(cpu, reg, v as u32, now, out);
            }
            _ => return false,
        }
        true
    }

    fn msr_read(&self, cpu: usize, index: u32, now: u64) -> Option<u64> {
        let l = &self.lapics[cpu];
        match index {
            msr::APIC_BASE => Some(l.base),
            msr::TSC_DEADLINE => Some(l.tsc_deadline),
            0x830 if l.is_x2() => Some(l.icr),
            msr::X2APIC..=msr::X2APIC_END if l.is_x2() => {
                let (reg, access) = Reg::decode(u64::from(index - msr::X2APIC) << 4, 4).ok()?;
                let absent = matches!(reg, Reg::Apr | Reg::Rrd | Reg::Dfr | Reg::IcrHigh);
                let readable = access != orrery_system::reg_map::Access::Wo && !absent;
                readable.then(|| self.read(cpu, reg, now).into())
            }
            _ => None,
        }
    }
}

/// What the APIC drives of one CPU's pins.
struct CpuLines {
    intr: IrqLine,
    nmi: IrqLine,
    smi: IrqLine,
    init: IrqLine,
    startup: Startup,
}

/// The device.
pub struct Apic {
    wires: Wires,
    cpus: Vec<CpuLines>,
    inputs: Inputs,
    state: State,
}

impl Apic {
    /// Builds the device in its power-on state.
    pub fn new(config: Config, wires: Wires) -> Self {
        let lines = |p: &CpuPins| CpuLines {
            intr: p.intr.pin(),
            nmi: p.nmi.pin(),
            smi: p.smi.pin(),
            init: p.init.pin(),
            startup: p.sipi.clone(),
        };
        let cpus = wires.cpus.iter().map(lines).collect();
        let inputs = Inputs::new(vec![wires.lint0.clone(), wires.lint1.clone()]);
        let apic = Self { cpus, inputs, state: State::power_on(config.cpus), wires };
        apic.drive();
        apic
    }

    fn current(&self) -> usize {
        self.wires.current_cpu.load(Relaxed).min(self.state.lapics.len() - 1)
    }

    fn index(&self, cpu: usize) -> usize {
        cpu.min(self.state.lapics.len() - 1)
    }

    /// Runs the timers; returns the time.
    fn catch_up(&mut self) -> u64 {
        let now = self.wires.clock.now().0;
        for l in &mut self.state.lapics {
            l.catch_up(now);
        }
        now
    }

    /// Takes in what came over wires and queues.
    fn look(&mut self, out: &mut Vec<Effect>) {
        let (levels, edges) = self.inputs.sample();
        self.state.lint0 = levels & 1 != 0;
        self.state.lint(lvt::LINT0, levels & 1 != 0, edges & 1 != 0, out);
        self.state.lint(lvt::LINT1, levels & 2 != 0, edges & 2 != 0, out);
        while let Some(m) = self.wires.messages.take() {
            self.state.message(m, out);
        }
    }

    /// Carries out what the state cannot hold, then drives pins, timers and the region.
    fn act(&self, effects: Vec<Effect>) {
        for effect in effects {
            let cpu = |i: usize| self.cpus.get(i);
            match effect {
                Effect::Nmi(i) => _ = cpu(i).map(|c| c.nmi.pulse()),
                Effect::Smi(i) => _ = cpu(i).map(|c| c.smi.pulse()),
                Effect::Init(i) => _ = cpu(i).map(|c| c.init.pulse()),
                Effect::Startup(i, vector) => _ = cpu(i).map(|c| c.startup.send(vector)),
                Effect::Eoi(vector) => self.wires.eoi.send(vector),
            }
        }
        self.drive();
    }

    fn drive(&self) {
        let now = self.wires.clock.now().0;
        for (i, l) in self.state.lapics.iter().enumerate() {
            if let Some(c) = self.cpus.get(i) {
                c.intr.set(l.intr(i == 0, self.state.lint0));
            }
            if let Some(t) = self.wires.timers.get(i) {
                t.set(l.next_interrupt(now).map(VmTime));
            }
        }
        let visible = self.state.lapics.iter().any(|l| l.is_on() && !l.is_x2());
        self.wires.region.set_base(self.state.lapics[0].base & base::ADDRESS);
        self.wires.region.set_enabled(visible);
    }

    /// Does `f` to the current state and shows the outcome.
    fn step<T>(&mut self, f: impl FnOnce(&mut State, u64, &mut Vec<Effect>) -> T) -> T {
        let now = self.catch_up();
        let mut effects = Vec::new();
        let result = f(&mut self.state, now, &mut effects);
        self.act(effects);
        result
    }
}

impl Device for Apic {
    fn name(&self) -> &'static str {
        State::KIND
    }

    fn reset(&mut self) {
        self.inputs.drain();
        while self.wires.messages.take().is_some() {}
        let (levels, _) = self.inputs.sample();
        self.state = State::power_on(self.state.lapics.len());
        self.state.lint0 = levels & 1 != 0;
        self.drive();
    }

    fn save(&self) -> StateBlob {
        StateBlob::encode(&self.state)
    }

    fn restore(&mut self, blob: &StateBlob) -> Result<(), RestoreError> {
        let state: State = blob.decode()?;
        if state.lapics.len() != self.state.lapics.len() {
            return Err(RestoreError::Invalid("number of CPUs"));
        }
        if !state.lapics.iter().all(Lapic::is_sane) {
            return Err(RestoreError::Invalid("timer runs without a count"));
        }
        self.state = state;
        self.inputs.forget_edges();
        self.drive();
        Ok(())
    }

    fn wake(&mut self, _timer: u32, _now: VmTime) {
        self.step(|_, _, _| ());
    }

    fn registers(&mut self) -> Option<&mut dyn Registers> {
        Some(self)
    }

    fn settle(&mut self) -> Option<&mut dyn Settle> {
        Some(self)
    }

    fn int_ack(&mut self) -> Option<&mut dyn IntAck> {
        Some(self)
    }

    fn cpu_registers(&mut self) -> Option<&mut dyn CpuRegisters> {
        Some(self)
    }

    fn inspect(&self) -> Vec<(&'static str, String)> {
        let each =
            |f: fn(&Lapic) -> String| self.state.lapics.iter().map(f).collect::<Vec<_>>().join(" ");
        vec![
            ("base", each(|l| format!("{:x}", l.base))),
            ("irr", each(|l| format!("{:02x?}", l.irr.highest()))),
            ("isr", each(|l| format!("{:02x?}", l.isr.highest()))),
            ("tpr", each(|l| format!("{:02x}", l.tpr))),
            ("svr", each(|l| format!("{:03x}", l.svr))),
            ("timer", each(|l| format!("{:x}", l.lvt[lvt::TIMER]))),
            ("lint0", each(|l| format!("{:x}", l.lvt[lvt::LINT0]))),
        ]
    }
}

impl Settle for Apic {
    fn settle(&mut self) {
        let mut effects = Vec::new();
        self.look(&mut effects);
        self.act(effects);
    }
}

impl IntAck for Apic {
    fn acknowledge(&mut self, cpu: usize) -> Option<u8> {
        let cpu = self.index(cpu);
        let lint0 = self.wires.lint0.level();
        self.step(|s, _, _| {
            let l = &mut s.lapics[cpu];
            if !l.is_on() {
                return None;
            }
            if let Some(v) = l.deliverable() {
                l.irr.set(v, false);
                l.isr.set(v, true);
                return Some(v);
            }
            if std::mem::take(&mut l.extint) || lint0 && l.passes_lint0() {
                return None;
            }
            Some(l.svr as u8)
        })
    }
}

impl CpuRegisters for Apic {
    fn msr_read(&mut self, cpu: usize, index: u32) -> Option<u64> {
        let cpu = self.index(cpu);
        if index == msr::APIC_BASE {
            return Some(self.state.lapics[cpu].base);
        }
        self.step(|s, now, _| s.msr_read(cpu, index, now))
    }

    fn msr_write(&mut self, cpu: usize, index: u32, value: u64) -> bool {
        let cpu = self.index(cpu);
        self.step(|s, now, out| s.msr_write(cpu, index, value, now, out))
    }

    fn cr8(&mut self, cpu: usize) -> u64 {
        (self.state.lapics[self.index(cpu)].tpr >> 4).into()
    }

    fn set_cr8(&mut self, cpu: usize, value: u64) {
        let cpu = self.index(cpu);
        self.step(|s, _, _| s.lapics[cpu].tpr = (value as u8) << 4);
    }
}

impl Registers for Apic {
    fn read(&mut self, _bank: u32, offset: u64, width: u8) -> BusResult<u64> {
        let cpu = self.current();
        let l = &self.state.lapics[cpu];
        if !l.is_on() || l.is_x2() || offset >= 0x400 {
            return Err(BusError::NoRegister);
        }
        if width > 4 {
            return Err(BusError::Width);
        }
        // A narrower read sees part of the register; the twelve bytes after it are reserved.
        let shift = 8 * (offset & 15);
        self.step(|s, now, _| match Reg::decode(offset & !15, 4) {
            Ok((reg, _)) if shift < 32 => Ok((s.read(cpu, reg, now) >> shift).into()),
            Ok(_) => Ok(0),
            Err(_) => {
                s.lapics[cpu].fail(error::REGISTER);
                Ok(0)
            }
        })
    }

    fn write(&mut self, _bank: u32, offset: u64, width: u8, value: u64) -> BusResult<()> {
        let cpu = self.current();
        let l = &self.state.lapics[cpu];
        if !l.is_on() || l.is_x2() || offset >= 0x400 {
            return Err(BusError::NoRegister);
        }
        if width > 4 {
            return Err(BusError::Width);
        }
        if width < 4 || offset & 15 != 0 {
            return Ok(()); // registers are written whole
        }
        self.step(|s, now, out| match Reg::decode(offset, 4) {
            Ok((reg, _)) => s.write(cpu, reg, value as u32, now, out),
            Err(_) => s.lapics[cpu].fail(error::REGISTER),
        });
        Ok(())
    }
}
