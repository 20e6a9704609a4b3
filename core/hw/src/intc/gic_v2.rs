//! Arm generic interrupt controller, version 2 (`arm_gic`), without the security and virtualization extensions.
//!
//! Reference: IHI 0048B. Interrupts 0 to 15 are from software, 16 to 31 belong to a CPU each, the others are shared.
//!
//! Not modelled: groups beyond their register, which interrupts go to as one; the split of priority drop and deactivation.

use orrery_system::bus::{BusError, BusResult, Registers};
use orrery_system::device::{Device, Settle};
use orrery_system::{Board, DeviceId, IrqInput, IrqLine, RestoreError, State as _, StateBlob};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Bank of the distributor.
pub const DISTRIBUTOR: u32 = 0;
/// Bank of the CPU interfaces: each CPU sees its own.
pub const CPU_INTERFACE: u32 = 1;
/// Most CPUs.
pub const MAX_CPUS: usize = 8;

/// What an acknowledge gives where there is nothing.
const SPURIOUS: u32 = 1023;
/// Priority of a CPU that handles nothing.
const IDLE: u8 = 0xff;

/// Settings fixed when the machine is built.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// CPUs, at most [`MAX_CPUS`].
    pub cpus: usize,
    /// Interrupts, a multiple of 32.
    pub interrupts: usize,
}

/// Pins the machine wires up.
pub struct Wires {
    /// Shared interrupts from number 32 on.
    pub shared: Vec<IrqInput>,
    /// For each CPU its own interrupts, 16 to 31.
    pub private: Vec<Vec<IrqInput>>,
    /// nIRQ of each CPU.
    pub irq: Vec<IrqLine>,
    /// Which CPU accesses registers.
    pub current: Arc<AtomicUsize>,
}

/// One interrupt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Irq {
    enabled: bool,
    active: bool,
    /// Pending besides the line's level.
    latched: bool,
    /// The line.
    level: bool,
    edge: bool,
    group: bool,
    priority: u8,
    targets: u8,
    /// For interrupts from software: which CPUs sent it.
    sources: u8,
}

impl Irq {
    const fn pending(&self) -> bool {
        self.latched || self.sources != 0 || self.level && !self.edge
    }
}

/// One CPU interface.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Interface {
    control: u32,
    mask: u8,
    point: u8,
    group_point: u8,
    /// Interrupts in service, the last one first: number and priority.
    active: Vec<(u16, u8)>,
}

/// Everything the guest can observe, and nothing else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    control: u32,
    /// The first 32 of each CPU, then the shared ones.
    private: Vec<Vec<Irq>>,
    shared: Vec<Irq>,
    cpus: Vec<Interface>,
}

impl orrery_system::State for State {
    const KIND: &'static str = "arm_gic";
    const VERSION: u16 = 1;
}

/// The device.
pub struct Gic {
    config: Config,
    wires: Wires,
    state: State,
    /// The state was just restored: edges since are devices driving their pins again.
    restored: bool,
}

/// Puts a controller at two places of memory. `shared` and `private` are its inputs.
pub fn build(board: &mut Board, config: Config, at: [u64; 2], wires: Wires) -> DeviceId {
    let id = board.reserve("gic");
    for (bank, base) in [DISTRIBUTOR, CPU_INTERFACE].into_iter().zip(at) {
        board.memory().add(base, &board.regions().device("gic", 0x1_0000, id, bank));
    }
    board.attach(id, Box::new(Gic::new(config, wires)));
    id
}

impl State {
    fn power_on(config: &Config) -> Self {
        let software = |n: usize| Irq { enabled: n < 16, edge: n < 16, ..Irq::default() };
        let private = (0..32).map(software).collect::<Vec<_>>();
        Self {
            control: 0,
            private: vec![private; config.cpus],
            shared: vec![Irq::default(); config.interrupts - 32],
            cpus: vec![Interface { group_point: 1, ..Interface::default() }; config.cpus],
        }
    }

    fn irq(&mut self, cpu: usize, n: usize) -> Option<&mut Irq> {
        match n {
            0..32 => self.private.get_mut(cpu)?.get_mut(n),
            _ => self.shared.get_mut(n - 32),
        }
    }

    /// The pending interrupt of highest priority for a CPU.
    fn best(&self, cpu: usize) -> Option<(u16, u8)> {
        let own = self.private[cpu].iter().enumerate();
        let bit = 1 << cpu;
        let shared = self.shared.iter().enumerate().filter(|(_, i)| i.targets & bit != 0);
        own.chain(shared.map(|(n, i)| (n + 32, i)))
            .filter(|(_, i)| i.enabled && !i.active && i.pending())
            .min_by_key(|&(n, i)| (i.priority, n))
            .map(|(n, i)| (n as u16, i.priority))
    }

    fn running(&self, cpu: usize) -> u8 {
        self.cpus[cpu].active.first().map_or(IDLE, |a| a.1)
    }

    /// The interrupt that a CPU is told of.
    fn signalled(&self, cpu: usize) -> Option<(u16, u8)> {
        let c = &self.cpus[cpu];
        if self.control & 3 == 0 || c.control & 3 == 0 {
            return None;
        }
        let group = |p: u8| u32::from(p) >> (c.point + 1);
        let running = self.running(cpu);
        self.best(cpu)
            .filter(|&(_, p)| p < c.mask && (running == IDLE || group(p) < group(running)))
    }

    fn acknowledge(&mut self, cpu: usize) -> u32 {
        let Some((n, priority)) = self.signalled(cpu) else { return SPURIOUS };
        self.cpus[cpu].active.insert(0, (n, priority));
        let Some(irq) = self.irq(cpu, n.into()) else { return SPURIOUS };
        irq.active = true;
        irq.latched = false;
        let source = irq.sources.trailing_zeros() & 7;
        if n < 16 {
            irq.sources &= irq.sources.wrapping_sub(1);
            return u32::from(n) | source << 10;
        }
        n.into()
    }

    fn end(&mut self, cpu: usize, value: u32) {
        let n = (value & 0x3ff) as u16;
        let Some(at) = self.cpus[cpu].active.iter().position(|a| a.0 == n) else { return };
        self.cpus[cpu].active.remove(at);
        if let Some(irq) = self.irq(cpu, n.into()) {
            irq.active = false;
        }
    }

    /// GICD_SGIR.
    fn software(&mut self, cpu: usize, value: u32) {
        let all = ((1_u32 << self.cpus.len()) - 1) as u8;
        let targets = match value >> 24 & 3 {
            0 => (value >> 16) as u8,
            1 => all & !(1 << cpu),
            _ => 1 << cpu,
        };
        for (n, own) in self.private.iter_mut().enumerate() {
            if targets >> n & 1 != 0 {
                own[(value & 15) as usize].sources |= 1 << cpu;
            }
        }
    }

    fn read_distributor(&mut self, cpu: usize, at: usize) -> u8 {
        let word = |v: u32| v.to_le_bytes()[at & 3];
        let (lines, cpus) = ((self.shared.len() + 32) / 32, self.cpus.len());
        let only = cpus == 1;
        let mut bits = |first: usize, f: fn(&Irq) -> bool| {
            (0..8).fold(0, |v, i| {
                let on = self.irq(cpu, (at - first) * 8 + i).is_some_and(|irq| f(irq));
                v | u8::from(on) << i
            })
        };
        match at {
            0x000..=0x003 => word(self.control),
            0x004..=0x007 => word((lines - 1) as u32 | (cpus as u32 - 1) << 5),
            0x008..=0x00b => word(0x0200_143b),
            0x080..=0x0ff => bits(0x80, |i| i.group),
            0x100..=0x17f => bits(0x100, |i| i.enabled),
            0x180..=0x1ff => bits(0x180, |i| i.enabled),
            0x200..=0x27f => bits(0x200, Irq::pending),
            0x280..=0x2ff => bits(0x280, Irq::pending),
            0x300..=0x37f => bits(0x300, |i| i.active),
            0x380..=0x3ff => bits(0x380, |i| i.active),
            0x400..=0x7ff => self.irq(cpu, at - 0x400).map_or(0, |i| i.priority),
            0x800..=0x81f => {
                if only {
                    0
                } else {
                    1 << cpu
                }
            }
            0x820..=0xbff => match self.irq(cpu, at - 0x800) {
                Some(_) if only => 0,
                irq => irq.map_or(0, |i| i.targets),
            },
            0xc00..=0xcff => (0..4).fold(0, |v, i| {
                let edge = self.irq(cpu, (at - 0xc00) * 4 + i).is_some_and(|irq| irq.edge);
                v | u8::from(edge) << (2 * i + 1)
            }),
            0xf10..=0xf1f => self.private[cpu][at - 0xf10].sources,
            0xf20..=0xf2f => self.private[cpu][at - 0xf20].sources,
            0xfd0..=0xfff => {
                // Peripheral and component identification, a byte a word.
                const ID: [u8; 12] = [4, 0, 0, 0, 0x90, 0xb4, 0x2b, 0, 0x0d, 0xf0, 5, 0xb1];
                if at & 3 == 0 { ID[(at - 0xfd0) / 4] } else { 0 }
            }
            _ => 0,
        }
    }

    fn write_distributor(&mut self, cpu: usize, at: usize, value: u8) {
        let all = ((1_u32 << self.cpus.len()) - 1) as u8;
        let only = self.cpus.len() == 1;
        let mut each = |first: usize, f: &dyn Fn(usize, &mut Irq)| {
            for i in (0..8).filter(|i| value >> i & 1 != 0) {
                let n = (at - first) * 8 + i;
                if let Some(irq) = self.irq(cpu, n) {
                    f(n, irq);
                }
            }
        };
        match at {
            0x000 => self.control = (value & 3).into(),
            0x080..=0x0ff => {
                for i in 0..8 {
                    if let Some(irq) = self.irq(cpu, (at - 0x80) * 8 + i) {
                        irq.group = value >> i & 1 != 0;
                    }
                }
            }
            0x100..=0x17f => each(0x100, &|_, irq| irq.enabled = true),
            0x180..=0x1ff => each(0x180, &|n, irq| irq.enabled = n < 16),
            0x200..=0x27f => each(0x200, &|n, irq| irq.latched |= n >= 16),
            0x280..=0x2ff => each(0x280, &|_, irq| irq.latched = false),
            0x300..=0x37f => each(0x300, &|_, irq| irq.active = true),
            0x380..=0x3ff => each(0x380, &|_, irq| irq.active = false),
            0x400..=0x7ff => {
                if let Some(irq) = self.irq(cpu, at - 0x400) {
                    irq.priority = value;
                }
            }
            0x820..=0xbff => {
                if let Some(irq) = self.irq(cpu, at - 0x800) {
                    irq.targets = if only { 1 } else { value & all };
                }
            }
            0xc04..=0xcff => {
                for i in 0..4 {
                    let n = (at - 0xc00) * 4 + i;
                    if let Some(irq) = self.irq(cpu, n) {
                        irq.edge = value >> (2 * i + 1) & 1 != 0;
                    }
                }
            }
            0xf10..=0xf1f => self.private[cpu][at - 0xf10].sources &= !value,
            0xf20..=0xf2f => self.private[cpu][at - 0xf20].sources |= value & all,
            _ => {}
        }
    }
}

impl Gic {
    /// Builds the controller in its power-on state.
    pub fn new(config: Config, wires: Wires) -> Self {
        let mut gic = Self { state: State::power_on(&config), config, wires, restored: false };
        gic.reset();
        gic
    }

    fn cpu(&self) -> usize {
        self.wires.current.load(Relaxed).min(self.config.cpus - 1)
    }

    /// With one CPU every shared interrupt goes there.
    fn aim(&mut self) {
        if self.config.cpus == 1 {
            self.state.shared.iter_mut().for_each(|irq| irq.targets = 1);
        }
    }

    fn sample(&mut self) {
        let restored = std::mem::take(&mut self.restored);
        let look = |irq: &mut Irq, wire: &IrqInput| {
            irq.level = wire.level();
            let rose = wire.take_edge();
            irq.latched |= rose && irq.edge && !restored;
        };
        for (irq, wire) in self.state.shared.iter_mut().zip(&self.wires.shared) {
            look(irq, wire);
        }
        for (own, wires) in self.state.private.iter_mut().zip(&self.wires.private) {
            for (irq, wire) in own[16..].iter_mut().zip(wires) {
                look(irq, wire);
            }
        }
    }

    fn drive(&self) {
        for (cpu, line) in self.wires.irq.iter().enumerate().take(self.config.cpus) {
            line.set(self.state.signalled(cpu).is_some());
        }
    }
}

impl Device for Gic {
    fn name(&self) -> &'static str {
        State::KIND
    }

    fn reset(&mut self) {
        self.state = State::power_on(&self.config);
        self.aim();
        self.sample();
        self.state.shared.iter_mut().for_each(|irq| irq.latched = false);
        self.drive();
    }

    fn save(&self) -> StateBlob {
        StateBlob::encode(&self.state)
    }

    fn restore(&mut self, blob: &StateBlob) -> Result<(), RestoreError> {
        let state: State = blob.decode()?;
        let like = State::power_on(&self.config);
        let sizes = |s: &State| (s.private.len(), s.shared.len(), s.cpus.len());
        let fits = sizes(&state) == sizes(&like)
            && state.private.iter().all(|own| own.len() == 32)
            && state.cpus.iter().all(|c| c.point < 8 && c.active.len() <= 1020);
        if !fits {
            return Err(RestoreError::Invalid("another number of interrupts or CPUs"));
        }
        self.state = state;
        self.restored = true;
        self.drive();
        Ok(())
    }

    fn registers(&mut self) -> Option<&mut dyn Registers> {
        Some(self)
    }

    fn settle(&mut self) -> Option<&mut dyn Settle> {
        Some(self)
    }
}

impl Settle for Gic {
    fn settle(&mut self) {
        self.sample();
        self.drive();
    }
}

impl Registers for Gic {
    fn read(&mut self, bank: u32, offset: u64, width: u8) -> BusResult<u64> {
        if width > 4 || !offset.is_multiple_of(width.into()) {
            return Err(BusError::Width);
        }
        let cpu = self.cpu();
        if bank == DISTRIBUTOR {
            let at = offset as usize;
            if at >= 0x1000 {
                return Err(BusError::NoRegister);
            }
            let byte = |v, i| v | u64::from(self.state.read_distributor(cpu, at + i)) << (8 * i);
            return Ok((0..usize::from(width)).fold(0, byte));
        }
        let c = &self.state.cpus[cpu];
        let value = match offset {
            0x00 => c.control,
            0x04 => c.mask.into(),
            0x08 => c.point.into(),
            0x0c | 0x20 => {
                let n = self.state.acknowledge(cpu);
                self.drive();
                n
            }
            0x14 => self.state.running(cpu).into(),
            0x18 | 0x28 => self.state.best(cpu).map_or(SPURIOUS, |b| b.0.into()),
            0x1c => c.group_point.into(),
            0xd0 => 0,
            0xfc => 0x0202_143b,
            0x10 | 0x24 | 0x1000 => 0,
            0x2c..0x1000 => 0,
            _ => return Err(BusError::NoRegister),
        };
        Ok(value.into())
    }

    fn write(&mut self, bank: u32, offset: u64, width: u8, value: u64) -> BusResult<()> {
        if width > 4 || !offset.is_multiple_of(width.into()) {
            return Err(BusError::Width);
        }
        let cpu = self.cpu();
        if bank == DISTRIBUTOR {
            let at = offset as usize;
            if at >= 0x1000 {
                return Err(BusError::NoRegister);
            }
            if at == 0xf00 {
                self.state.software(cpu, value as u32);
            } else {
                for i in 0..usize::from(width) {
                    self.state.write_distributor(cpu, at + i, (value >> (8 * i)) as u8);
                }
            }
            self.drive();
            return Ok(());
        }
        let c = &mut self.state.cpus[cpu];
        let value = value as u32;
        match offset {
            0x00 => c.control = value & 0x3ff,
            0x04 => c.mask = value as u8,
            0x08 => c.point = (value & 7) as u8,
            0x1c => c.group_point = (value & 7) as u8,
            0x10 | 0x24 => self.state.end(cpu, value),
            _ if offset < 0x2000 => {}
            _ => return Err(BusError::NoRegister),
        }
        self.drive();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Bench {
        gic: Gic,
        irq: Vec<IrqInput>,
        shared: Vec<IrqLine>,
        current: Arc<AtomicUsize>,
    }

    impl Bench {
        /// As after power-on.
        fn fresh() -> Self {
            let config = Config { cpus: 2, interrupts: 64 };
            let inputs: Vec<IrqInput> = (0..32).map(|_| IrqInput::detached()).collect();
            let shared = inputs.iter().map(IrqInput::pin).collect();
            let private = vec![(0..16).map(|_| IrqInput::detached()).collect(); 2];
            let irq: Vec<IrqInput> = (0..2).map(|_| IrqInput::detached()).collect();
            let current = Arc::new(AtomicUsize::new(0));
            let lines = irq.iter().map(IrqInput::pin).collect();
            let wires = Wires { shared: inputs, private, irq: lines, current: current.clone() };
            Self { gic: Gic::new(config, wires), irq, shared, current }
        }

        /// Distributor and interfaces are enabled, all priorities let through.
        fn new() -> Self {
            let mut b = Self::fresh();
            for cpu in 0..2 {
                b.current.store(cpu, Relaxed);
                b.gic.write(CPU_INTERFACE, 0, 4, 1).unwrap();
                b.gic.write(CPU_INTERFACE, 4, 4, 0xf0).unwrap();
            }
            b.current.store(0, Relaxed);
            b.gic.write(DISTRIBUTOR, 0, 4, 1).unwrap();
            b
        }

        fn acknowledge(&mut self) -> u64 {
            self.gic.read(CPU_INTERFACE, 0x0c, 4).unwrap()
        }
    }

    #[test]
    fn a_level_interrupt_is_signalled_until_its_line_falls() {
        let mut b = Bench::new();
        b.gic.write(DISTRIBUTOR, 0x104, 4, 1 << 5).unwrap();
        b.gic.write(DISTRIBUTOR, 0x825, 1, 1).unwrap();
        b.shared[5].set(true);
        Settle::settle(&mut b.gic);
        assert!(b.irq[0].level() && !b.irq[1].level());
        assert_eq!(b.acknowledge(), 37);
        assert!(!b.irq[0].level(), "in service");
        b.gic.write(CPU_INTERFACE, 0x10, 4, 37).unwrap();
        assert!(b.irq[0].level(), "still there");
        b.shared[5].set(false);
        Settle::settle(&mut b.gic);
        assert!(!b.irq[0].level());
        assert_eq!(b.acknowledge(), 1023);
    }

    #[test]
    fn software_interrupts_say_who_sent_them() {
        let mut b = Bench::new();
        b.gic.write(DISTRIBUTOR, 0xf00, 4, 1 << 24 | 3).unwrap();
        assert!(!b.irq[0].level() && b.irq[1].level());
        b.current.store(1, Relaxed);
        assert_eq!(b.acknowledge(), 3);
        b.gic.write(DISTRIBUTOR, 0xf00, 4, 2 << 16 | 4).unwrap();
        assert!(!b.irq[1].level(), "the same priority does not interrupt");
        b.gic.write(CPU_INTERFACE, 0x10, 4, 3).unwrap();
        assert_eq!(b.acknowledge(), 4 | 1 << 10);
    }

    orrery_system::conformance!(Bench::fresh().gic, [(DISTRIBUTOR, &[]), (CPU_INTERFACE, &[])]);
}
