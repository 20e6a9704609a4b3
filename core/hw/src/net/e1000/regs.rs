//! The registers of the 82540EM (8254x SDM chapter 13).

use bitfield_struct::bitfield;
use orrery_system::reg_map;

reg_map! {
    /// Registers, SDM table 13-2. Arrays of registers ([`ARRAYS`]) are not in the table.
    pub enum Reg {
        /// Device control.
        0x0000 Ctrl: 4 Rw,
        /// Device status.
        0x0008 Status: 4 Ro,
        /// EEPROM and flash control: the pins of the EEPROM.
        0x0010 Eecd: 4 Rw,
        /// EEPROM read.
        0x0014 Eerd: 4 Rw,
        /// Extended device control.
        0x0018 CtrlExt: 4 Rw,
        /// Flash access.
        0x001c Fla: 4 Rw,
        /// Management data: the registers of the PHY.
        0x0020 Mdic: 4 Rw,
        /// Flow control address, low.
        0x0028 Fcal: 4 Rw,
        /// Flow control address, high.
        0x002c Fcah: 4 Rw,
        /// Flow control type.
        0x0030 Fct: 4 Rw,
        /// VLAN ethernet type.
        0x0038 Vet: 4 Rw,
        /// Interrupt causes; a read clears them.
        0x00c0 Icr: 4 Rw,
        /// Shortest time between interrupts, in 256 ns.
        0x00c4 Itr: 4 Rw,
        /// Sets interrupt causes.
        0x00c8 Ics: 4 Wo,
        /// Interrupt mask, sets bits.
        0x00d0 Ims: 4 Rw,
        /// Interrupt mask, clears bits.
        0x00d8 Imc: 4 Wo,
        /// Receive control.
        0x0100 Rctl: 4 Rw,
        /// Flow control transmit timer.
        0x0170 Fcttv: 4 Rw,
        /// Transmit configuration word.
        0x0178 Txcw: 4 Rw,
        /// Receive configuration word.
        0x0180 Rxcw: 4 Ro,
        /// Transmit control.
        0x0400 Tctl: 4 Rw,
        /// Inter-packet gap.
        0x0410 Tipg: 4 Rw,
        /// Adaptive interframe spacing.
        0x0458 Ait: 4 Rw,
        /// LEDs.
        0x0e00 Ledctl: 4 Rw,
        /// Packet buffer allocation in KiB: receive in the low half, transmit in the high one.
        0x1000 Pba: 4 Rw,
        /// Flow control receive threshold, low.
        0x2160 Fcrtl: 4 Rw,
        /// Flow control receive threshold, high.
        0x2168 Fcrth: 4 Rw,
        /// Receive ring base, low.
        0x2800 Rdbal: 4 Rw,
        /// Receive ring base, high.
        0x2804 Rdbah: 4 Rw,
        /// Receive ring length in bytes.
        0x2808 Rdlen: 4 Rw,
        /// Receive ring head: the next one the card fills.
        0x2810 Rdh: 4 Rw,
        /// Receive ring tail: the first one that is not the card's.
        0x2818 Rdt: 4 Rw,
        /// Receive interrupt delay from the last packet, in 1.024 us.
        0x2820 Rdtr: 4 Rw,
        /// Receive descriptor control.
        0x2828 Rxdctl: 4 Rw,
        /// Receive interrupt delay from the first packet.
        0x282c Radv: 4 Rw,
        /// Size up to which a packet interrupts at once.
        0x2c00 Rsrpd: 4 Rw,
        /// Transmit DMA control.
        0x3000 Txdmac: 4 Rw,
        /// Transmit ring base, low.
        0x3800 Tdbal: 4 Rw,
        /// Transmit ring base, high.
        0x3804 Tdbah: 4 Rw,
        /// Transmit ring length in bytes.
        0x3808 Tdlen: 4 Rw,
        /// Transmit ring head.
        0x3810 Tdh: 4 Rw,
        /// Transmit ring tail.
        0x3818 Tdt: 4 Rw,
        /// Transmit interrupt delay from the last descriptor.
        0x3820 Tidv: 4 Rw,
        /// Transmit descriptor control.
        0x3828 Txdctl: 4 Rw,
        /// Transmit interrupt delay from the first descriptor.
        0x382c Tadv: 4 Rw,
        /// TCP segmentation pad and threshold.
        0x3830 Tspmt: 4 Rw,
        /// Frames with a wrong check sequence.
        0x4000 Crcerrs: 4 Ro,
        /// Alignment errors.
        0x4004 Algnerrc: 4 Ro,
        /// Symbol errors.
        0x4008 Symerrs: 4 Ro,
        /// Receive errors.
        0x400c Rxerrc: 4 Ro,
        /// Frames missed: no room in the packet buffer.
        0x4010 Mpc: 4 Ro,
        /// Single collisions.
        0x4014 Scc: 4 Ro,
        /// Excessive collisions.
        0x4018 Ecol: 4 Ro,
        /// Multiple collisions.
        0x401c Mcc: 4 Ro,
        /// Late collisions.
        0x4020 Latecol: 4 Ro,
        /// Collisions.
        0x4028 Colc: 4 Ro,
        /// Deferrals.
        0x4030 Dc: 4 Ro,
        /// Transmissions without carrier sense.
        0x4034 Tncrs: 4 Ro,
        /// Sequence errors.
        0x4038 Sec: 4 Ro,
        /// Carrier extension errors.
        0x403c Cexterr: 4 Ro,
        /// Receive length errors.
        0x4040 Rlec: 4 Ro,
        /// XON received.
        0x4048 Xonrxc: 4 Ro,
        /// XON sent.
        0x404c Xontxc: 4 Ro,
        /// XOFF received.
        0x4050 Xoffrxc: 4 Ro,
        /// XOFF sent.
        0x4054 Xofftxc: 4 Ro,
        /// Unsupported flow control frames received.
        0x4058 Fcruc: 4 Ro,
        /// Frames received of 64 bytes.
        0x405c Prc64: 4 Ro,
        /// Of 65 to 127 bytes.
        0x4060 Prc127: 4 Ro,
        /// Of 128 to 255 bytes.
        0x4064 Prc255: 4 Ro,
        /// Of 256 to 511 bytes.
        0x4068 Prc511: 4 Ro,
        /// Of 512 to 1023 bytes.
        0x406c Prc1023: 4 Ro,
        /// Of 1024 bytes and more.
        0x4070 Prc1522: 4 Ro,
        /// Good frames received.
        0x4074 Gprc: 4 Ro,
        /// Broadcasts received.
        0x4078 Bprc: 4 Ro,
        /// Multicasts received.
        0x407c Mprc: 4 Ro,
        /// Good frames sent.
        0x4080 Gptc: 4 Ro,
        /// Good bytes received, low.
        0x4088 Gorcl: 4 Ro,
        /// Good bytes received, high; a read clears both.
        0x408c Gorch: 4 Ro,
        /// Good bytes sent, low.
        0x4090 Gotcl: 4 Ro,
        /// Good bytes sent, high.
        0x4094 Gotch: 4 Ro,
        /// Frames that found no buffer in memory.
        0x40a0 Rnbc: 4 Ro,
        /// Undersized frames.
        0x40a4 Ruc: 4 Ro,
        /// Fragments.
        0x40a8 Rfc: 4 Ro,
        /// Oversized frames.
        0x40ac Roc: 4 Ro,
        /// Jabber.
        0x40b0 Rjc: 4 Ro,
        /// Management frames received.
        0x40b4 Mgtprc: 4 Ro,
        /// Management frames dropped.
        0x40b8 Mgtpdc: 4 Ro,
        /// Management frames sent.
        0x40bc Mgtptc: 4 Ro,
        /// Bytes received, low.
        0x40c0 Torl: 4 Ro,
        /// Bytes received, high.
        0x40c4 Torh: 4 Ro,
        /// Bytes sent, low.
        0x40c8 Totl: 4 Ro,
        /// Bytes sent, high.
        0x40cc Toth: 4 Ro,
        /// Frames received.
        0x40d0 Tpr: 4 Ro,
        /// Frames sent.
        0x40d4 Tpt: 4 Ro,
        /// Frames sent of 64 bytes.
        0x40d8 Ptc64: 4 Ro,
        /// Of 65 to 127 bytes.
        0x40dc Ptc127: 4 Ro,
        /// Of 128 to 255 bytes.
        0x40e0 Ptc255: 4 Ro,
        /// Of 256 to 511 bytes.
        0x40e4 Ptc511: 4 Ro,
        /// Of 512 to 1023 bytes.
        0x40e8 Ptc1023: 4 Ro,
        /// Of 1024 bytes and more.
        0x40ec Ptc1522: 4 Ro,
        /// Multicasts sent.
        0x40f0 Mptc: 4 Ro,
        /// Broadcasts sent.
        0x40f4 Bptc: 4 Ro,
        /// Segmentation contexts used.
        0x40f8 Tsctc: 4 Ro,
        /// Segmentations that failed.
        0x40fc Tsctfc: 4 Ro,
        /// Receive checksum control.
        0x5000 Rxcsum: 4 Rw,
        /// Wake-up control.
        0x5800 Wuc: 4 Rw,
        /// Wake-up filters.
        0x5808 Wufc: 4 Rw,
        /// Wake-up status.
        0x5810 Wus: 4 Ro,
        /// Management control.
        0x5820 Manc: 4 Rw,
        /// Which wake-up addresses are valid.
        0x5838 Ipav: 4 Rw,
        /// Wake-up packet length.
        0x5900 Wupl: 4 Rw,
    }
}

/// Arrays of registers that are memory: first and last byte's offset.
pub(super) const ARRAYS: [(u64, u64); 5] =
    [MULTICAST, ADDRESSES, VLANS, (0x5840, 0x588f), (0x5f00, 0x5f27)];
/// Multicast hash bits: 128 registers.
pub(super) const MULTICAST: (u64, u64) = (0x5200, 0x53ff);
/// Receive addresses: 16 of two registers.
pub(super) const ADDRESSES: (u64, u64) = (0x5400, 0x547f);
/// VLAN filter bits: 128 registers.
pub(super) const VLANS: (u64, u64) = (0x5600, 0x57ff);

/// Device control (13.4.1).
#[bitfield(u32)]
pub(super) struct Ctrl {
    pub(super) full_duplex: bool,
    #[bits(2)]
    __: u8,
    pub(super) link_reset: bool,
    __: bool,
    pub(super) auto_speed: bool,
    pub(super) set_link_up: bool,
    __: bool,
    #[bits(2)]
    pub(super) speed: u8,
    __: bool,
    pub(super) force_speed: bool,
    pub(super) force_duplex: bool,
    #[bits(13)]
    __: u16,
    pub(super) reset: bool,
    #[bits(3)]
    __: u8,
    pub(super) vlan: bool,
    pub(super) phy_reset: bool,
}

/// Receive control (13.4.22).
#[bitfield(u32)]
pub(super) struct Rctl {
    __: bool,
    pub(super) enable: bool,
    pub(super) store_bad: bool,
    pub(super) promiscuous: bool,
    pub(super) all_multicast: bool,
    pub(super) long: bool,
    #[bits(2)]
    pub(super) loopback: u8,
    #[bits(2)]
    pub(super) threshold: u8,
    #[bits(2)]
    __: u8,
    #[bits(2)]
    pub(super) hash_shift: u8,
    __: bool,
    pub(super) broadcast: bool,
    #[bits(2)]
    pub(super) size: u8,
    pub(super) vlan_filter: bool,
    pub(super) cfi_enable: bool,
    pub(super) cfi: bool,
    __: bool,
    pub(super) discard_pause: bool,
    pub(super) pass_mac_control: bool,
    __: bool,
    pub(super) size_extension: bool,
    pub(super) strip_crc: bool,
    #[bits(5)]
    __: u8,
}

impl Rctl {
    /// Bytes of a receive buffer.
    pub(super) fn buffer_len(self) -> usize {
        let len = 2048 >> self.size();
        if self.size_extension() && self.size() != 0 { len * 16 } else { len }
    }
}

/// Transmit control (13.4.33).
#[bitfield(u32)]
pub(super) struct Tctl {
    __: bool,
    pub(super) enable: bool,
    __: bool,
    pub(super) pad: bool,
    #[bits(28)]
    __: u32,
}

/// EEPROM control: the pins (13.4.3).
#[bitfield(u32)]
pub(super) struct Eecd {
    pub(super) clock: bool,
    pub(super) select: bool,
    pub(super) data_in: bool,
    pub(super) data_out: bool,
    #[bits(2)]
    pub(super) flash_write: u8,
    pub(super) request: bool,
    pub(super) grant: bool,
    pub(super) present: bool,
    #[bits(23)]
    __: u32,
}

/// Management data (13.4.6).
#[bitfield(u32)]
pub(super) struct Mdic {
    pub(super) data: u16,
    #[bits(5)]
    pub(super) register: u8,
    #[bits(5)]
    pub(super) phy: u8,
    #[bits(2)]
    pub(super) op: u8,
    pub(super) ready: bool,
    pub(super) interrupt: bool,
    pub(super) error: bool,
    __: bool,
}

/// Interrupt causes (13.4.17).
pub(super) mod cause {
    /// A descriptor was written back.
    pub(in super::super) const TXDW: u32 = 1 << 0;
    /// The transmit ring is empty.
    pub(in super::super) const TXQE: u32 = 1 << 1;
    /// The link went up or down.
    pub(in super::super) const LSC: u32 = 1 << 2;
    /// Few receive descriptors are left.
    pub(in super::super) const RXDMT0: u32 = 1 << 4;
    /// The packet buffer overran.
    pub(in super::super) const RXO: u32 = 1 << 6;
    /// Frames were received.
    pub(in super::super) const RXT0: u32 = 1 << 7;
    /// Management data access is complete.
    pub(in super::super) const MDAC: u32 = 1 << 9;
    /// Few transmit descriptors are left.
    pub(in super::super) const TXD_LOW: u32 = 1 << 15;
    /// A small packet was received.
    pub(in super::super) const SRPD: u32 = 1 << 16;
    /// All there are.
    pub(in super::super) const ALL: u32 = 0x0001_f6df;
}

/// Status: link up, full duplex, 1000 Mb/s by negotiation.
pub(super) const STATUS_FD: u32 = 1;
pub(super) const STATUS_LU: u32 = 2;
pub(super) const STATUS_1000: u32 = 2 << 6 | 2 << 8;
/// EEPROM read: start, done.
pub(super) const EERD_START: u32 = 1;
pub(super) const EERD_DONE: u32 = 1 << 4;
/// Checksum offload in the receiver: IP, and TCP or UDP.
pub(super) const RXCSUM_IP: u32 = 1 << 8;
pub(super) const RXCSUM_TCP: u32 = 1 << 9;
/// Receive address, high: valid.
pub(super) const ADDRESS_VALID: u32 = 1 << 31;
