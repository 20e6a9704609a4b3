//! What stands beside the cores of a board: their generic timers (DDI 0487, D12) and the firmware's power control
//! (PSCI 1.0, DEN0022D).

use orrery_cpu::aarch64::{TIMER_REGISTERS, firmware, sysreg};
use orrery_system::device::{CpuRegisters, Device, FirmwareAnswer};
use orrery_system::pins::{Power, PowerRequest, Startup};
use orrery_system::{
    Board, Clock, DeviceId, IrqLine, RestoreError, State as _, StateBlob, Timer, VmTime,
};
use serde::{Deserialize, Serialize};

/// Ticks of the system counter in a second.
const HZ: u64 = 62_500_000;

const ENABLE: u64 = 1;
const MASKED: u64 = 2;
const STATUS: u64 = 4;

/// Answers of PSCI.
const INVALID: u64 = -2_i64 as u64;
const ALREADY_ON: u64 = -4_i64 as u64;

/// Pins and services the machine wires up.
pub(super) struct Wires {
    /// For each CPU the interrupts of its physical and virtual timers.
    pub(super) irq: Vec<[IrqLine; 2]>,
    /// Wake-ups: two for each CPU.
    pub(super) timers: Vec<[Timer; 2]>,
    /// The start-up pin of each CPU.
    pub(super) start: Vec<Startup>,
    pub(super) clock: Clock,
    pub(super) power: Power,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Compare {
    control: u64,
    value: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Core {
    /// Physical, virtual.
    timers: [Compare; 2],
    kernel: u64,
    on: bool,
    start: Option<[u64; 2]>,
}

/// Everything the guest can observe, and nothing else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct State {
    cores: Vec<Core>,
}

impl orrery_system::State for State {
    const KIND: &'static str = "arm-cores";
    const VERSION: u16 = 1;
}

pub(super) struct Cores {
    wires: Wires,
    state: State,
}

/// Puts them on a board; `irq` are the interrupts of each CPU's physical and virtual timer.
pub(super) fn build(board: &mut Board, irq: Vec<[IrqLine; 2]>) -> DeviceId {
    let id = board.reserve("cores");
    let count = irq.len() as u32;
    let timers = (0..count).map(|n| [board.timer(id, n * 2), board.timer(id, n * 2 + 1)]).collect();
    let start = (0..irq.len()).map(|n| board.pins(n).sipi.clone()).collect();
    let wires = Wires { irq, timers, start, clock: board.clock(), power: board.power() };
    board.attach(id, Box::new(Cores::new(wires)));
    board.set_cpu_registers(id);
    id
}

impl Cores {
    fn new(wires: Wires) -> Self {
        let state = Self::power_on(wires.irq.len());
        Self { wires, state }
    }

    fn power_on(count: usize) -> State {
        let core = |n| Core { on: n == 0, ..Core::default() };
        State { cores: (0..count).map(core).collect() }
    }

    fn count(&self) -> u64 {
        self.wires.clock.now().ticks(HZ)
    }

    fn expired(&self, t: &Compare) -> bool {
        t.control & ENABLE != 0 && self.count() >= t.value
    }

    fn drive(&self) {
        for (n, core) in self.state.cores.iter().enumerate() {
            for (i, t) in core.timers.iter().enumerate() {
                let expired = self.expired(t);
                let wanted = t.control & (ENABLE | MASKED) == ENABLE;
                self.wires.irq[n][i].set(expired && wanted);
                let at = VmTime::at_tick(t.value, HZ);
                self.wires.timers[n][i]
                    .set((wanted && !expired && at < VmTime::NEVER).then_some(at));
            }
        }
    }

    /// The core that an affinity names.
    fn core(&self, affinity: u64) -> Option<usize> {
        let same = |&n: &usize| (sysreg::mpidr(n) ^ affinity) & 0xff_ffff == 0;
        (0..self.state.cores.len()).find(same)
    }
}

impl Device for Cores {
    fn name(&self) -> &'static str {
        State::KIND
    }

    fn reset(&mut self) {
        self.state = Self::power_on(self.state.cores.len());
        self.drive();
    }

    fn save(&self) -> StateBlob {
        StateBlob::encode(&self.state)
    }

    fn restore(&mut self, blob: &StateBlob) -> Result<(), RestoreError> {
        let state: State = blob.decode()?;
        if state.cores.len() != self.state.cores.len() {
            return Err(RestoreError::Invalid("another number of CPUs"));
        }
        self.state = state;
        self.drive();
        Ok(())
    }

    fn wake(&mut self, _timer: u32, _now: VmTime) {
        self.drive();
    }

    fn cpu_registers(&mut self) -> Option<&mut dyn CpuRegisters> {
        Some(self)
    }
}

impl CpuRegisters for Cores {
    fn msr_read(&mut self, cpu: usize, index: u32) -> Option<u64> {
        let core = self.state.cores.get(cpu)?;
        let place = TIMER_REGISTERS.iter().position(|&r| r == index)?;
        let t = |n: usize| &core.timers[n / 6];
        Some(match place {
            0 => HZ,
            1 | 2 => self.count(),
            3 | 6 => u64::from(t(place).value.wrapping_sub(self.count()) as u32),
            4 | 7 => t(place).control | if self.expired(t(place)) { STATUS } else { 0 },
            5 | 8 => t(place).value,
            _ => core.kernel,
        })
    }

    fn msr_write(&mut self, cpu: usize, index: u32, value: u64) -> bool {
        let count = self.count();
        let place = TIMER_REGISTERS.iter().position(|&r| r == index);
        let (Some(core), Some(place)) = (self.state.cores.get_mut(cpu), place) else {
            return false;
        };
        match place {
            3 | 6 => core.timers[place / 6].value = count.wrapping_add(value as i32 as u64),
            4 | 7 => core.timers[place / 6].control = value & (ENABLE | MASKED),
            5 | 8 => core.timers[place / 6].value = value,
            9 => core.kernel = value,
            _ => return false,
        }
        self.drive();
        true
    }

    fn cr8(&mut self, _: usize) -> u64 {
        0
    }

    fn set_cr8(&mut self, _: usize, _: u64) {}

    fn firmware_call(&mut self, cpu: usize, args: [u64; 4]) -> Option<FirmwareAnswer> {
        let [function, target, entry, context] = args;
        let value = FirmwareAnswer::Value;
        let wide = function & 1 << 30 != 0;
        let call = function as u32 & !(1 << 30);
        if wide
            && !matches!(call, firmware::CPU_SUSPEND | firmware::CPU_ON | firmware::AFFINITY_INFO)
        {
            return None;
        }
        Some(match call {
            firmware::VERSION => value(0x1_0000),
            firmware::CPU_SUSPEND => FirmwareAnswer::Wait,
            firmware::CPU_OFF => {
                self.state.cores.get_mut(cpu)?.on = false;
                FirmwareAnswer::Off
            }
            firmware::CPU_ON => match self.core(target) {
                None => value(INVALID),
                Some(n) if self.state.cores[n].on => value(ALREADY_ON),
                Some(n) => {
                    let core = &mut self.state.cores[n];
                    (core.on, core.start) = (true, Some([entry, context]));
                    self.wires.start[n].send(0);
                    value(0)
                }
            },
            firmware::AFFINITY_INFO => match self.core(target) {
                Some(n) => value(u64::from(!self.state.cores[n].on)),
                None => value(INVALID),
            },
            firmware::MIGRATE_INFO_TYPE => value(2),
            firmware::SYSTEM_OFF => {
                self.wires.power.request(PowerRequest::Shutdown);
                FirmwareAnswer::Wait
            }
            firmware::SYSTEM_RESET => {
                self.wires.power.request(PowerRequest::Reset);
                FirmwareAnswer::Wait
            }
            firmware::FEATURES => {
                let known =
                    matches!(target as u32 & !(1 << 30), firmware::VERSION..=firmware::FEATURES);
                value(if known { 0 } else { u64::MAX })
            }
            _ => return None,
        })
    }

    fn take_start(&mut self, cpu: usize) -> Option<[u64; 2]> {
        self.state.cores.get_mut(cpu)?.start.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fresh() -> (Cores, Clock, Power, Vec<Startup>) {
        let (clock, power) = (Clock::default(), Power::default());
        let start = vec![Startup::default(), Startup::default()];
        let line = || [IrqLine::open(), IrqLine::open()];
        let timer = || [Timer::default(), Timer::default()];
        let wires = Wires {
            irq: vec![line(), line()],
            timers: vec![timer(), timer()],
            start: start.clone(),
            clock: clock.clone(),
            power: power.clone(),
        };
        (Cores::new(wires), clock, power, start)
    }

    #[test]
    fn a_timer_interrupts_when_the_counter_reaches_its_value() {
        let (mut dev, clock, ..) = fresh();
        let [_, _, counter, _, _, _, tval, ctl, cval, _] = TIMER_REGISTERS;
        assert!(dev.msr_write(1, tval, 625) && dev.msr_write(1, ctl, ENABLE));
        assert_eq!((dev.msr_read(1, cval), dev.msr_read(1, counter)), (Some(625), Some(0)));
        let at = dev.wires.timers[1][1].deadline().unwrap();
        assert_eq!(at, VmTime(10_000));
        clock.advance_to(at);
        dev.wake(3, at);
        assert!(dev.wires.irq[1][1].level() && !dev.wires.irq[0][1].level());
        assert_eq!(dev.msr_read(1, ctl), Some(ENABLE | STATUS));
        assert!(dev.msr_write(1, ctl, ENABLE | MASKED));
        assert!(!dev.wires.irq[1][1].level());
    }

    #[test]
    fn a_core_is_started_once_and_told_where() {
        let (mut dev, _, power, start) = fresh();
        let on = u64::from(firmware::CPU_ON | 1 << 30);
        let call = |dev: &mut Cores, f, a| dev.firmware_call(0, [f, a, 0x8000, 7]);
        assert_eq!(call(&mut dev, on, 1), Some(FirmwareAnswer::Value(0)));
        assert!(start[1].is_pending());
        assert_eq!(dev.take_start(1), Some([0x8000, 7]));
        assert_eq!(call(&mut dev, on, 1), Some(FirmwareAnswer::Value(ALREADY_ON)));
        assert_eq!(call(&mut dev, on, 9), Some(FirmwareAnswer::Value(INVALID)));
        assert_eq!(call(&mut dev, 0x8000_0000, 0), None);
        call(&mut dev, firmware::SYSTEM_OFF.into(), 0);
        assert_eq!(power.take(), Some(PowerRequest::Shutdown));
    }

    orrery_system::conformance!(fresh().0, []);
}
