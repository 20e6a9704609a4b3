//! The 88E1011-style PHY inside (8254x SDM chapter 13.4.6.1, IEEE 802.3 clause 22).

use serde::{Deserialize, Serialize};

/// Its number on the management bus.
pub(super) const ADDRESS: u8 = 1;
/// How long negotiation takes.
pub(super) const NEGOTIATION_NS: u64 = 500_000_000;

const CONTROL: usize = 0;
const STATUS: usize = 1;
const SPECIFIC_STATUS: usize = 17;
const INTERRUPT_STATUS: usize = 19;

const RESET: u16 = 0x8000;
const LOOPBACK: u16 = 0x4000;
const NEGOTIATE: u16 = 0x1000;
const POWER_DOWN: u16 = 0x0800;
const RESTART: u16 = 0x0200;

/// Negotiation complete and link, in the status register.
const LINK_STATUS: u16 = 0x0024;
/// 1000 Mb/s, full duplex, resolved, link, in the specific status register.
const LINK_SPECIFIC: u16 = 0xac00;
/// Link changed and negotiation complete, in the interrupt status register.
const LINK_INTERRUPT: u16 = 0x0c00;

/// Bits that software may write, by register.
const WRITABLE: [u16; 32] = {
    let mut m = [0; 32];
    m[CONTROL] = 0x7dc0;
    m[4] = 0xffff;
    m[7] = 0xffff;
    m[9] = 0xff00;
    m[16] = 0xffff;
    m[18] = 0xffff;
    m[20] = 0xffff;
    m[24] = 0xffff;
    m[29] = 0xffff;
    m[30] = 0xffff;
    m
};

/// Its registers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Phy {
    regs: [u16; 32],
}

/// What a write asks of the controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asks {
    /// Nothing.
    Nothing,
    /// Link goes down, and up after negotiation.
    Negotiation,
}

impl Phy {
    /// The PHY at power-on, with a signal on the cable or without.
    pub(super) fn new(carrier: bool) -> Self {
        let mut regs = [0; 32];
        regs[CONTROL] = 0x1140;
        regs[STATUS] = 0x7949;
        (regs[2], regs[3]) = (0x0141, 0x0c20);
        // What is advertised, by us and by the other side.
        (regs[4], regs[5], regs[6]) = (0x0de1, 0xcde1, 0x0001);
        (regs[9], regs[10], regs[15]) = (0x0e00, 0x3c00, 0x3000);
        (regs[16], regs[20]) = (0x0360, 0x0d60);
        let mut phy = Self { regs };
        phy.set_link(carrier);
        phy.regs[INTERRUPT_STATUS] = 0;
        phy
    }

    /// Loops what is sent back.
    pub(super) fn loopback(&self) -> bool {
        self.regs[CONTROL] & LOOPBACK != 0
    }

    /// Whether there is a link.
    pub(super) fn link(&self) -> bool {
        self.regs[STATUS] & LINK_STATUS != 0
    }

    /// The cable carries a signal, or it does not.
    pub(super) fn set_link(&mut self, up: bool) {
        let had = self.link();
        self.regs[STATUS] &= !LINK_STATUS;
        self.regs[SPECIFIC_STATUS] = 0;
        if up && self.regs[CONTROL] & POWER_DOWN == 0 {
            self.regs[STATUS] |= LINK_STATUS;
            self.regs[SPECIFIC_STATUS] = LINK_SPECIFIC;
        }
        if had != up {
            self.regs[INTERRUPT_STATUS] |= LINK_INTERRUPT;
        }
    }

    pub(super) fn read(&mut self, reg: u8) -> u16 {
        let value = self.regs[usize::from(reg & 31)];
        if usize::from(reg) == INTERRUPT_STATUS {
            self.regs[INTERRUPT_STATUS] = 0;
        }
        value
    }

    pub(super) fn write(&mut self, reg: u8, value: u16) -> Asks {
        let reg = usize::from(reg & 31);
        let mask = WRITABLE[reg];
        let was = self.regs[reg];
        self.regs[reg] = was & !mask | value & mask;
        if reg != CONTROL {
            return Asks::Nothing;
        }
        let woke = was & POWER_DOWN != 0 && value & POWER_DOWN == 0;
        let restart = value & (RESTART | RESET) != 0 && value & NEGOTIATE != 0;
        if woke || restart || value & POWER_DOWN != 0 { Asks::Negotiation } else { Asks::Nothing }
    }
}
