//! Interrupt wires.
//!
//! A wire is state, not a call: a pin sets its level, the wire is high while any of its pins is,
//! and remembers that it rose. Controllers look at their inputs when the machine settles, before
//! the next guest instruction, so no device is ever entered while another one is running.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};

/// A shared flag: something changed that the run loop must look at before the next instruction.
#[derive(Clone, Default)]
pub struct Attention(Arc<AtomicBool>);

impl Attention {
    /// Asks the run loop to look.
    #[inline]
    pub fn raise(&self) {
        self.0.store(true, Relaxed);
    }

    /// Whether anybody asked.
    #[inline]
    pub fn is_raised(&self) -> bool {
        self.0.load(Relaxed)
    }

    /// Takes the request back.
    pub fn take(&self) -> bool {
        self.0.swap(false, Relaxed)
    }
}

#[derive(Default)]
struct Wire {
    /// How many pins drive the wire high.
    high: AtomicU32,
    /// How often the wire rose; each receiver remembers how much of that it has seen.
    rises: AtomicU32,
    /// Raised at every change.
    attention: Attention,
    /// Set at every change; taken by the settle loop.
    changed: Attention,
}

/// The receiving end of a wire: an input of an interrupt controller or CPU. Clones are the same
/// end; [`IrqInput::tap`] makes another.
#[derive(Clone, Default)]
pub struct IrqInput {
    wire: Arc<Wire>,
    /// Rises up to which this end has taken edges.
    seen: Arc<AtomicU32>,
}

impl IrqInput {
    /// A wire that reports changes to `changed` and `attention`; boards make these.
    pub(crate) fn new(attention: Attention, changed: Attention) -> Self {
        Self {
            wire: Arc::new(Wire { attention, changed, ..Wire::default() }),
            seen: Arc::default(),
        }
    }

    /// A wire of its own, for tests.
    pub fn detached() -> Self {
        Self::default()
    }

    /// Another receiving end of the same wire, with an edge latch of its own: a line that goes to
    /// two controllers.
    pub fn tap(&self) -> Self {
        let seen = self.wire.rises.load(Relaxed);
        Self { wire: self.wire.clone(), seen: Arc::new(AtomicU32::new(seen)) }
    }

    /// A new pin on this wire. Several pins make a wired OR, as PCI's shared lines are.
    pub fn pin(&self) -> IrqLine {
        IrqLine { wire: Some(self.wire.clone()), level: Arc::default() }
    }

    /// Whether any pin drives the wire high.
    #[inline]
    pub fn level(&self) -> bool {
        self.wire.high.load(Relaxed) != 0
    }

    /// Whether the wire rose since this was last asked.
    #[inline]
    pub fn take_edge(&self) -> bool {
        let rises = self.wire.rises.load(Relaxed);
        self.seen.load(Relaxed) != rises && self.seen.swap(rises, Relaxed) != rises
    }

    /// Whether an edge is latched, without taking it.
    #[inline]
    pub fn has_edge(&self) -> bool {
        self.seen.load(Relaxed) != self.wire.rises.load(Relaxed)
    }

    /// Latches or clears the edge: for restoring a snapshot.
    pub fn set_edge(&self, rose: bool) {
        let rises = self.wire.rises.load(Relaxed);
        self.seen.store(if rose { rises.wrapping_sub(1) } else { rises }, Relaxed);
    }
}

/// One output pin of a device. Clones are the same pin.
///
/// A device is handed the pin it may drive, never the controller and a number, so two devices
/// cannot trample one another's lines.
#[derive(Clone)]
pub struct IrqLine {
    wire: Option<Arc<Wire>>,
    level: Arc<AtomicBool>,
}

impl Default for IrqLine {
    fn default() -> Self {
        Self::open()
    }
}

impl IrqLine {
    /// A pin wired to nothing, for tests and for machines that leave it open.
    pub fn open() -> Self {
        Self { wire: None, level: Arc::default() }
    }

    /// Drives the pin. Repeating the current level is free and has no effect.
    #[inline]
    pub fn set(&self, level: bool) {
        if self.level.swap(level, Relaxed) == level {
            return;
        }
        let Some(wire) = &self.wire else { return };
        if level {
            if wire.high.fetch_add(1, Relaxed) == 0 {
                wire.rises.fetch_add(1, Relaxed);
            }
        } else {
            wire.high.fetch_sub(1, Relaxed);
        }
        wire.changed.raise();
        wire.attention.raise();
    }

    /// Drives the pin high and low again: an edge with no level behind it.
    pub fn pulse(&self) {
        self.set(true);
        self.set(false);
    }

    /// The level last driven.
    #[inline]
    pub fn level(&self) -> bool {
        self.level.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shared_wire_is_high_while_any_pin_is() {
        let input = IrqInput::detached();
        let (a, b) = (input.pin(), input.pin());
        a.set(true);
        b.set(true);
        a.set(false);
        assert!(input.level());
        b.set(false);
        assert!(!input.level());
    }

    #[test]
    fn a_rise_is_latched_once_even_if_the_level_is_gone() {
        let input = IrqInput::detached();
        let pin = input.pin();
        pin.pulse();
        assert!(!input.level());
        assert!(input.take_edge());
        assert!(!input.take_edge());
    }

    #[test]
    fn each_end_of_a_wire_latches_edges_for_itself() {
        let pic = IrqInput::detached();
        let pin = pic.pin();
        pin.pulse();
        let ioapic = pic.tap();
        assert!(!ioapic.has_edge(), "it was not there yet");
        pin.pulse();
        assert!(pic.take_edge() && !pic.has_edge());
        assert!(ioapic.take_edge());
        ioapic.set_edge(true);
        assert!(ioapic.has_edge() && !pic.has_edge());
    }

    #[test]
    fn a_second_pin_on_a_high_wire_makes_no_edge() {
        let input = IrqInput::detached();
        let (a, b) = (input.pin(), input.pin());
        a.set(true);
        input.take_edge();
        b.set(true);
        assert!(!input.has_edge());
    }
}
