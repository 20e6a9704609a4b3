//! Intel 8237A DMA controllers, the pair of a PC, with its page registers.
//!
//! Reference: Intel 8237A data sheet (231466-005). Channels 0 to 3 move bytes, 5 to 7 words;
//! channel 4 cascades. A controller moves nothing by itself: a peripheral holds an
//! [`IsaDmaChannel`] and moves data through it, so no device is entered while another runs. The
//! transfer modes (single, block, demand) differ in bus timing only, which nobody sees.
//!
//! Not modelled: rotating priority, for the same reason, and the need for channel 4 to cascade.

mod channel;

pub use channel::{IsaDma, IsaDmaChannel};

use channel::Controller;
use orrery_system::bus::{BusError, BusResult, Registers};
use orrery_system::device::Device;
use orrery_system::{RestoreError, State as _, StateBlob};
use serde::{Deserialize, Serialize};

orrery_system::reg_map! {
    /// Bank [`FIRST`], ports 00h to 0fh; bank [`SECOND`], ports c0h to dfh, two bytes apart.
    pub enum Reg {
        /// Channel 0 address.
        0x0 Address0: 1 Rw,
        /// Channel 0 count.
        0x1 Count0: 1 Rw,
        /// Channel 1 address.
        0x2 Address1: 1 Rw,
        /// Channel 1 count.
        0x3 Count1: 1 Rw,
        /// Channel 2 address.
        0x4 Address2: 1 Rw,
        /// Channel 2 count.
        0x5 Count2: 1 Rw,
        /// Channel 3 address.
        0x6 Address3: 1 Rw,
        /// Channel 3 count.
        0x7 Count3: 1 Rw,
        /// Status; written, command.
        0x8 Command: 1 Rw,
        /// Request.
        0x9 Request: 1 Wo,
        /// Single mask.
        0xa Mask: 1 Wo,
        /// Mode.
        0xb Mode: 1 Wo,
        /// Clears the byte pointer.
        0xc ClearPointer: 1 Wo,
        /// Temporary; written, master clear.
        0xd Clear: 1 Rw,
        /// Clears the mask.
        0xe ClearMask: 1 Wo,
        /// All masks.
        0xf AllMask: 1 Rw,
    }
}

/// Bank of channels 0 to 3, ports 00h to 0fh.
pub const FIRST: u32 = 0;
/// Bank of channels 4 to 7, ports c0h to dfh.
pub const SECOND: u32 = 1;
/// Bank of the page registers, ports 80h to 8fh; 80h takes the firmware's progress codes.
pub const PAGES: u32 = 2;

/// The channel whose page lies at each offset of the page bank.
const PAGE_OF: [Option<u8>; 16] = [
    None,
    Some(2),
    Some(3),
    Some(1),
    None,
    None,
    None,
    Some(0),
    None,
    Some(6),
    Some(7),
    Some(5),
    None,
    None,
    None,
    Some(4),
];

/// Everything the guest can observe, and nothing else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    controllers: [Controller; 2],
    /// Page bank: what belongs to no channel.
    scratch: [u8; 16],
}

impl orrery_system::State for State {
    const KIND: &'static str = "i8257";
    const VERSION: u16 = 1;
}

impl Controller {
    /// One byte of a 16-bit register; the next access is to the other.
    fn half(&mut self) -> bool {
        self.high = !self.high;
        !self.high
    }

    fn read(&mut self, reg: Reg) -> u8 {
        let n = reg as usize;
        match reg {
            Reg::Command => std::mem::take(&mut self.terminal) | (self.dreq | self.request) << 4,
            Reg::Clear => self.temporary,
            Reg::AllMask => self.mask | 0xf0,
            _ if n < 8 => {
                let c = self.channels[n / 2];
                let value = if n.is_multiple_of(2) { c.address } else { c.count };
                value.to_le_bytes()[usize::from(self.half())]
            }
            _ => 0,
        }
    }

    fn write(&mut self, reg: Reg, v: u8) {
        let n = reg as usize;
        let bit = 1 << (v & 3);
        match reg {
            Reg::Command => self.command = v,
            Reg::Request if v & 4 != 0 => self.request |= bit,
            Reg::Request => self.request &= !bit,
            Reg::Mask if v & 4 != 0 => self.mask |= bit,
            Reg::Mask => self.mask &= !bit,
            Reg::Mode => self.channels[usize::from(v & 3)].mode = v & !3,
            Reg::ClearPointer => self.high = false,
            Reg::Clear => {
                *self = Self { channels: self.channels, dreq: self.dreq, ..Self::POWER_ON };
            }
            Reg::ClearMask => self.mask = 0,
            Reg::AllMask => self.mask = v & 0x0f,
            _ => {
                let high = self.half();
                let c = &mut self.channels[n / 2];
                let value =
                    if n.is_multiple_of(2) { &mut c.base_address } else { &mut c.base_count };
                let mut bytes = value.to_le_bytes();
                bytes[usize::from(high)] = v;
                *value = u16::from_le_bytes(bytes);
                if n.is_multiple_of(2) {
                    c.address = c.base_address;
                } else {
                    c.count = c.base_count;
                }
            }
        }
    }
}

/// The device.
pub struct I8237 {
    dma: IsaDma,
    scratch: [u8; 16],
}

impl I8237 {
    /// Builds the pair in its power-on state.
    pub fn new(dma: IsaDma) -> Self {
        Self { dma, scratch: [0; 16] }
    }

    /// The firmware's last progress code.
    pub fn post_code(&self) -> u8 {
        self.scratch[0]
    }

    fn decode(bank: u32, offset: u64, width: u8) -> BusResult<Option<(usize, Reg)>> {
        if width != 1 {
            return Err(BusError::Width);
        }
        match bank {
            FIRST => Ok(Some((0, Reg::decode(offset, 1)?.0))),
            SECOND if offset < 0x20 => Ok(Some((1, Reg::decode(offset >> 1, 1)?.0))),
            PAGES if offset < 16 => Ok(None),
            _ => Err(BusError::NoRegister),
        }
    }
}

impl Device for I8237 {
    fn name(&self) -> &'static str {
        State::KIND
    }

    fn reset(&mut self) {
        let mut s = self.dma.lock();
        s.controllers = s.controllers.map(|c| Controller { dreq: c.dreq, ..Controller::POWER_ON });
        s.drive();
        self.scratch = [0; 16];
    }

    fn save(&self) -> StateBlob {
        let controllers = self.dma.lock().controllers;
        StateBlob::encode(&State { controllers, scratch: self.scratch })
    }

    fn restore(&mut self, blob: &StateBlob) -> Result<(), RestoreError> {
        let state: State = blob.decode()?;
        let mut s = self.dma.lock();
        s.controllers = state.controllers;
        s.drive();
        self.scratch = state.scratch;
        Ok(())
    }

    fn registers(&mut self) -> Option<&mut dyn Registers> {
        Some(self)
    }

    fn inspect(&self) -> Vec<(&'static str, String)> {
        let s = self.dma.lock();
        vec![
            ("post code", format!("{:02x}", self.post_code())),
            ("channels 0-3", format!("{:?}", s.controllers[0])),
            ("channels 4-7", format!("{:?}", s.controllers[1])),
        ]
    }
}

impl Registers for I8237 {
    fn read(&mut self, bank: u32, offset: u64, width: u8) -> BusResult<u64> {
        let mut s = self.dma.lock();
        let value = match Self::decode(bank, offset, width)? {
            Some((which, reg)) => s.controllers[which].read(reg),
            None => match PAGE_OF[offset as usize].map(usize::from) {
                Some(n) => s.controllers[n / 4].channels[n % 4].page,
                None => self.scratch[offset as usize],
            },
        };
        Ok(value.into())
    }

    fn write(&mut self, bank: u32, offset: u64, width: u8, value: u64) -> BusResult<()> {
        let mut s = self.dma.lock();
        let value = value as u8;
        match Self::decode(bank, offset, width)? {
            Some((which, reg)) => {
                s.controllers[which].write(reg, value);
                s.memory_to_memory(which);
            }
            None => match PAGE_OF[offset as usize].map(usize::from) {
                Some(n) => s.controllers[n / 4].channels[n % 4].page = value,
                None => self.scratch[offset as usize] = value,
            },
        }
        s.drive();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::fdc::DmaChannel;
    use orrery_system::{Dma, IrqInput, IrqLine};

    struct Bench {
        dev: I8237,
        memory: Dma,
        dma: IsaDma,
        dack2: IrqInput,
    }

    impl Bench {
        fn new() -> Self {
            let memory = Dma::detached(0x4_0000);
            let dack2 = IrqInput::detached();
            let mut dack: [IrqLine; 8] = std::array::from_fn(|_| IrqLine::open());
            dack[2] = dack2.pin();
            let dma = IsaDma::new(memory.clone(), dack);
            Self { dev: I8237::new(dma.clone()), memory, dma, dack2 }
        }

        fn out(&mut self, bank: u32, offset: u64, v: u8) {
            let stride = if bank == SECOND { 2 } else { 1 };
            self.dev.write(bank, offset * stride, 1, v.into()).unwrap();
        }

        fn inb(&mut self, bank: u32, offset: u64) -> u8 {
            let stride = if bank == SECOND { 2 } else { 1 };
            self.dev.read(bank, offset * stride, 1).unwrap() as u8
        }

        fn word(&mut self, bank: u32, offset: u64) -> u16 {
            self.out(bank, 0xc, 0);
            u16::from_le_bytes([self.inb(bank, offset), self.inb(bank, offset)])
        }

        /// Programs a channel as a floppy driver does.
        fn program(&mut self, n: u8, mode: u8, page: u8, address: u16, count: u16) {
            let (bank, i) = (u32::from(n / 4), n % 4);
            self.out(bank, 0xa, 4 | i);
            self.out(bank, 0xc, 0);
            self.out(bank, 0xb, mode | i);
            let at = u64::from(i) * 2;
            for (reg, v) in [(at, address), (at + 1, count)] {
                for byte in v.to_le_bytes() {
                    self.out(bank, reg, byte);
                }
            }
            let port = PAGE_OF.iter().position(|&p| p == Some(n)).unwrap();
            self.out(PAGES, port as u64, page);
            self.out(bank, 0xa, i);
        }

        fn memory<const N: usize>(&self, at: u64) -> [u8; N] {
            let mut bytes = [0; N];
            self.memory.read(at, &mut bytes).unwrap();
            bytes
        }
    }

    #[test]
    fn a_device_writes_memory_until_the_terminal_count_masks_the_channel() {
        let mut b = Bench::new();
        b.program(2, 0x44, 1, 0x2000, 5);
        let mut channel = b.dma.channel(2);
        assert_eq!(channel.store(&[1, 2, 3, 4]), (4, false));
        assert_eq!((b.word(FIRST, 4), b.word(FIRST, 5)), (0x2004, 1));
        assert_eq!(channel.store(&[5, 6, 7, 8]), (2, true));
        assert_eq!(b.memory(0x1_2000), [1, 2, 3, 4, 5, 6, 0]);
        assert_eq!(b.word(FIRST, 5), 0xffff);
        assert_eq!(b.inb(FIRST, 8), 0x04);
        assert_eq!(b.inb(FIRST, 8), 0, "reading clears it");
        assert_eq!(channel.store(&[9]), (0, false), "masked");
    }

    #[test]
    fn a_device_reads_memory() {
        let mut b = Bench::new();
        b.memory.write(0x500, &[9, 8, 7]).unwrap();
        b.program(1, 0x48, 0, 0x500, 2);
        let mut data = [0; 8];
        assert_eq!(b.dma.channel(1).fetch(&mut data), (3, true));
        assert_eq!(data, [9, 8, 7, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn automatic_initialization_starts_over() {
        let mut b = Bench::new();
        b.program(1, 0x54, 0, 0x500, 1);
        let mut channel = b.dma.channel(1);
        assert_eq!(channel.store(&[1, 2, 3]), (2, true));
        assert_eq!(channel.store(&[3, 4]), (2, true));
        assert_eq!(b.memory(0x500), [3, 4, 0]);
        assert_eq!(b.word(FIRST, 3), 1);
    }

    #[test]
    fn the_second_controller_moves_words() {
        let mut b = Bench::new();
        b.program(5, 0x44, 3, 0x0800, 1);
        let mut channel = b.dma.channel(5);
        assert_eq!(channel.remaining(), 4);
        assert_eq!(channel.store(&[1, 2, 3]), (2, false), "whole words");
        assert_eq!(channel.store(&[3, 4]), (2, true));
        assert_eq!(b.memory(0x2_1000), [1, 2, 3, 4, 0], "address bit 16 comes from the address");
    }

    #[test]
    fn addresses_may_go_down_and_wrap_in_their_page() {
        let mut b = Bench::new();
        b.program(2, 0x64, 0, 0x0001, 2);
        assert_eq!(b.dma.channel(2).store(&[1, 2, 3]), (3, true));
        assert_eq!((b.memory(0), b.memory(0xffff)), ([2, 1], [3]));
        b.program(2, 0x44, 0, 0xffff, 1);
        b.dma.channel(2).store(&[7, 8]);
        assert_eq!((b.memory(0), b.memory(0xffff)), ([8], [7]));
    }

    #[test]
    fn verifying_counts_and_moves_nothing() {
        let mut b = Bench::new();
        b.program(2, 0x40, 0, 0x500, 3);
        assert_eq!(b.dma.channel(2).store(&[1; 4]), (4, true));
        assert_eq!(b.memory(0x500), [0; 4]);
    }

    #[test]
    fn a_request_is_granted_while_the_channel_is_open() {
        let mut b = Bench::new();
        b.dma.channel(2).set_request(true);
        assert_eq!(b.inb(FIRST, 8), 0x40);
        assert!(!b.dack2.level() && !b.dma.channel(2).is_open());
        b.program(2, 0x44, 0, 0, 0);
        assert!(b.dack2.level());
        b.out(FIRST, 8, 0x04);
        assert!(!b.dack2.level(), "controller disabled");
        b.out(FIRST, 8, 0);
        b.dma.channel(2).store(&[1]);
        assert!(!b.dack2.level(), "terminal count masks");
    }

    #[test]
    fn master_clear_masks_all_and_the_mask_reads_back() {
        let mut b = Bench::new();
        b.out(FIRST, 0xe, 0);
        assert_eq!(b.inb(FIRST, 0xf), 0xf0);
        b.out(FIRST, 0xd, 0);
        assert_eq!(b.inb(FIRST, 0xf), 0xff);
        b.out(FIRST, 0xf, 0x05);
        assert_eq!(b.inb(FIRST, 0xf), 0xf5);
    }

    #[test]
    fn memory_moves_to_memory_by_software_request() {
        let mut b = Bench::new();
        b.memory.write(0x500, &[1, 2, 3, 4]).unwrap();
        b.program(0, 0x88, 0, 0x500, 3);
        b.program(1, 0x84, 0, 0x600, 3);
        b.out(FIRST, 8, 0x01);
        b.out(FIRST, 9, 0x04);
        assert_eq!(b.memory(0x600), [1, 2, 3, 4, 0]);
        assert_eq!((b.inb(FIRST, 0xd), b.inb(FIRST, 8)), (4, 0x03));
    }

    #[test]
    fn page_registers_and_the_progress_code_read_back() {
        let mut b = Bench::new();
        for port in 0..16 {
            b.out(PAGES, port, 0xa0 + port as u8);
        }
        for port in 0..16 {
            assert_eq!(b.inb(PAGES, port), 0xa0 + port as u8);
        }
        assert_eq!(b.dev.post_code(), 0xa0);
    }

    orrery_system::conformance!(
        Bench::new().dev,
        [(FIRST, Reg::TABLE), (SECOND, &[]), (PAGES, &[])]
    );
}
