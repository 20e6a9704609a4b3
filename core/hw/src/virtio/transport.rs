//! What every virtio transport does alike (VIRTIO 1.2, chapters 2 and 3): it owns a device and its queues, negotiates
//! features, and turns what the device gives back into interrupts. [`pci`](super::pci) and [`mmio`](super::mmio) are
//! the register files in front of it.

use super::queue::{F_EVENT_IDX, F_INDIRECT, NO_VECTOR, Queue};
use super::{Context, F_VERSION_1, VirtioDevice};
use orrery_system::{Dma, RestoreError};
use serde::{Deserialize, Serialize};

/// Status: the driver is ready.
pub(super) const DRIVER_OK: u8 = 0x04;
/// Status: features are settled.
pub(super) const FEATURES_OK: u8 = 0x08;
/// Status: the device needs a reset.
pub(super) const NEEDS_RESET: u8 = 0x40;

/// Interrupt status: a queue.
pub(super) const ISR_QUEUE: u8 = 1;
/// Interrupt status: the configuration, or the device needs a reset.
pub(super) const ISR_CONFIG: u8 = 2;

/// The way from a device to guest memory and to the guest's attention.
pub(super) trait Link {
    /// Guest memory.
    fn dma(&self) -> &Dma;
    /// Sends the message of a vector. `false`: interrupts are no messages now, and the interrupt status tells.
    fn message(&mut self, vector: u16) -> bool;
}

/// A wire and no messages.
impl Link for &Dma {
    fn dma(&self) -> &Dma {
        self
    }

    fn message(&mut self, _: u16) -> bool {
        false
    }
}

/// Everything the guest can observe of a device and its queues, `D` being the device's own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct State<D> {
    /// Which halves of the features show: those offered, those accepted.
    pub(super) feature_select: [u32; 2],
    /// Features the driver accepted.
    pub(super) accepted: u64,
    /// Device status.
    pub(super) status: u8,
    /// Interrupt status.
    pub(super) isr: u8,
    /// Vector for changes of the configuration.
    pub(super) config_vector: u16,
    /// Changes of the configuration.
    pub(super) generation: u8,
    /// The queue that registers show.
    pub(super) selected: u16,
    /// The queues.
    pub(super) queues: Vec<Queue>,
    device: D,
}

/// A device with its queues.
pub(super) struct Transport<D> {
    pub(super) device: D,
    pub(super) state: State<()>,
    /// Takes drivers of before version 1.
    transitional: bool,
}

/// The low or the high half of a 64-bit value, and 0 past its end.
pub(super) const fn half(value: u64, select: u32) -> u64 {
    match select {
        0 => value & 0xffff_ffff,
        1 => value >> 32,
        _ => 0,
    }
}

const fn with_half(old: u64, select: u32, value: u64) -> u64 {
    match select {
        0 => old & !0xffff_ffff | value & 0xffff_ffff,
        1 => old & 0xffff_ffff | value << 32,
        _ => old,
    }
}

impl<D: VirtioDevice> Transport<D> {
    /// A device in its power-on state.
    pub(super) fn new(device: D, transitional: bool) -> Self {
        let state = power_on(&device);
        Self { device, state, transitional }
    }

    /// Features offered to a driver of version 1.
    pub(super) fn offered(&self) -> u64 {
        self.device.features() | F_INDIRECT | F_EVENT_IDX | F_VERSION_1
    }

    /// The half of the offered features that is selected.
    pub(super) fn offered_half(&self) -> u64 {
        half(self.offered(), self.state.feature_select[0])
    }

    /// The driver accepts features in the half that is selected.
    pub(super) fn accept(&mut self, value: u64) {
        // Features are settled once the driver has said so.
        if self.state.status & FEATURES_OK == 0 {
            let select = self.state.feature_select[1];
            self.state.accepted = with_half(self.state.accepted, select, value);
        }
    }

    /// Driver reset: status 0.
    pub(super) fn reset(&mut self) {
        self.device.reset();
        self.state = power_on(&self.device);
    }

    /// Calls the device with its queues, and turns what it gave back into interrupts.
    pub(super) fn call(&mut self, link: &mut impl Link, f: impl FnOnce(&mut D, &mut Context<'_>)) {
        let s = &mut self.state;
        let (features, queues) = (s.accepted, &mut s.queues);
        let dma = link.dma();
        let mut context = Context { dma, features, queues, given: 0, broken: None, changed: false };
        f(&mut self.device, &mut context);
        let Context { given, broken, changed, .. } = context;
        for (n, queue) in s.queues.iter_mut().enumerate() {
            let told = given & 1 << n != 0 && queue.wants_interrupt(link.dma(), s.accepted);
            if told && !link.message(queue.vector) {
                s.isr |= ISR_QUEUE;
            }
        }
        if let Some(why) = &broken {
            tracing::debug!(device = D::PCI_NAME, %why, "needs reset");
            s.status |= NEEDS_RESET;
        }
        let tell = changed || broken.is_some() && s.accepted & F_VERSION_1 != 0;
        if tell && s.status & DRIVER_OK != 0 {
            s.generation = s.generation.wrapping_add(1);
            if !link.message(s.config_vector) {
                s.isr |= ISR_CONFIG;
            }
        }
    }

    /// The driver says that queue `n` has something.
    pub(super) fn notify(&mut self, link: &mut impl Link, n: usize) {
        let running = self.state.status & (DRIVER_OK | NEEDS_RESET) == DRIVER_OK;
        if running && n < self.state.queues.len() {
            self.call(link, |device, context| device.notified(n, context));
        }
    }

    /// The driver writes the device status.
    pub(super) fn set_status(&mut self, link: &mut impl Link, value: u8) {
        if value == 0 {
            return self.reset();
        }
        let old = self.state.status;
        let mut new = value | old & NEEDS_RESET;
        if value & FEATURES_OK != 0 && old & FEATURES_OK == 0 {
            let accepted = self.state.accepted;
            let known = accepted & !self.offered() == 0;
            if !known || accepted & F_VERSION_1 == 0 && !self.transitional {
                new &= !FEATURES_OK;
            }
        }
        self.state.status = new;
        if new & DRIVER_OK != 0 && old & DRIVER_OK == 0 {
            self.device.start(self.state.accepted);
            // A driver may have filled its queues before it was ready.
            for n in 0..self.state.queues.len() {
                self.notify(link, n);
            }
        }
    }

    /// The queue that is selected.
    pub(super) fn queue(&mut self) -> Option<&mut Queue> {
        self.state.queues.get_mut(usize::from(self.state.selected))
    }

    /// The driver gives the selected queue a size.
    pub(super) fn set_queue_size(&mut self, value: u64) {
        if let Some(q) = self.queue().filter(|q| !q.enabled) {
            let size = value as u16;
            if size.is_power_of_two() && size <= q.max {
                q.size = size;
            }
        }
    }

    /// The driver writes half `select` of an address of the selected queue: `part` 0 is the descriptor table, 1 the
    /// available ring, 2 the used ring. What a queue in use is made of cannot be changed.
    pub(super) fn set_queue_address(&mut self, part: u64, select: u32, value: u64) {
        if let Some(q) = self.queue().filter(|q| !q.enabled) {
            let address = match part {
                0 => &mut q.desc,
                1 => &mut q.avail,
                _ => &mut q.used,
            };
            *address = with_half(*address, select, value);
        }
    }

    /// Bytes of the device's configuration; zeros past its end.
    pub(super) fn read_config(&self, at: u64, width: u8) -> u64 {
        let config = self.device.config();
        (0..u64::from(width)).fold(0, |v, i| {
            let byte = usize::try_from(at + i).ok().and_then(|i| config.get(i)).copied();
            v | u64::from(byte.unwrap_or(0)) << (8 * i)
        })
    }

    /// The driver writes them.
    pub(super) fn write_config(&mut self, at: u64, width: u8, value: u64) {
        for i in 0..u64::from(width) {
            self.device.write_config((at + i) as usize, (value >> (8 * i)) as u8);
        }
    }

    /// Its state, with that of the device.
    pub(super) fn save(&self) -> State<D::State> {
        with_device(self.state.clone(), self.device.save()).0
    }

    /// Takes over a state. On an error it keeps its own.
    pub(super) fn restore(&mut self, state: State<D::State>) -> Result<(), RestoreError> {
        let fits = state.queues.len() == self.state.queues.len()
            && self.state.queues.iter().zip(&state.queues).all(|(have, saved)| have.accepts(saved));
        if !fits {
            return Err(RestoreError::Invalid("virtqueues of another device"));
        }
        let (state, device) = with_device(state, ());
        self.device.restore(device)?;
        self.state = state;
        Ok(())
    }
}

/// A state with another device's part, and the part that it had.
fn with_device<A, B>(s: State<A>, device: B) -> (State<B>, A) {
    let State { feature_select, accepted, status, isr, config_vector, generation, .. } = s;
    let (selected, queues) = (s.selected, s.queues);
    let state = State {
        feature_select,
        accepted,
        status,
        isr,
        config_vector,
        generation,
        selected,
        queues,
        device,
    };
    (state, s.device)
}

fn power_on<D: VirtioDevice>(device: &D) -> State<()> {
    State {
        feature_select: [0; 2],
        accepted: 0,
        status: 0,
        isr: 0,
        config_vector: NO_VECTOR,
        generation: 0,
        selected: 0,
        queues: device.queues().into_iter().map(Queue::new).collect(),
        device: (),
    }
}
