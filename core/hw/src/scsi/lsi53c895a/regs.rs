//! Registers: chapter 4 of the manual.

/// Bytes of them.
pub(super) const COUNT: usize = 256;

macro_rules! registers {
    ($($(#[$doc:meta])* $at:literal $name:ident),* $(,)?) => {
        /// Where each register begins.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub(super) enum Reg { $($(#[$doc])* $name = $at),* }

        impl Reg {
            /// The register that begins at a place.
            pub(super) const fn of(at: usize) -> Option<Self> {
                match at { $($at => Some(Self::$name),)* _ => None }
            }

            pub(super) const fn at(self) -> usize {
                self as usize
            }
        }
    };
}

registers! {
    /// SCSI control 0.
    0x00 Scntl0,
    /// SCSI control 1.
    0x01 Scntl1,
    /// SCSI control 2.
    0x02 Scntl2,
    /// SCSI control 3: clocks.
    0x03 Scntl3,
    /// The chip's own id.
    0x04 Scid,
    /// Synchronous transfers.
    0x05 Sxfer,
    /// The target's id.
    0x06 Sdid,
    /// First byte received.
    0x08 Sfbr,
    /// Output control lines.
    0x09 Socl,
    /// Who selected.
    0x0a Ssid,
    /// The bus's control lines.
    0x0b Sbcl,
    /// DMA status.
    0x0c Dstat,
    /// SCSI status 0.
    0x0d Sstat0,
    /// SCSI status 1: the latched phase.
    0x0e Sstat1,
    /// SCSI status 2.
    0x0f Sstat2,
    /// Data structure address.
    0x10 Dsa,
    /// Interrupt status 0.
    0x14 Istat0,
    /// Interrupt status 1.
    0x15 Istat1,
    /// Chip test 1.
    0x19 Ctest1,
    /// Chip test 2: the driver's signal.
    0x1a Ctest2,
    /// Chip test 3.
    0x1b Ctest3,
    /// Return address and destination.
    0x1c Temp,
    /// Byte counter, with the command above.
    0x24 Dbc,
    /// Next address of data.
    0x28 Dnad,
    /// Next instruction.
    0x2c Dsp,
    /// Second word of the instruction.
    0x30 Dsps,
    /// DMA mode.
    0x38 Dmode,
    /// DMA interrupt enable.
    0x39 Dien,
    /// DMA control.
    0x3b Dcntl,
    /// SCSI interrupt enable 0.
    0x40 Sien0,
    /// SCSI interrupt enable 1.
    0x41 Sien1,
    /// SCSI interrupt status 0.
    0x42 Sist0,
    /// SCSI interrupt status 1.
    0x43 Sist1,
    /// Memory access control.
    0x46 Macntl,
    /// General purpose timer.
    0x49 Stime1,
    /// SCSI test 4.
    0x52 Stest4,
    /// Chip control 0.
    0x56 Ccntl0,
    /// Chip control 1.
    0x57 Ccntl1,
    /// Script fetch selector, and the other selectors of upper addresses.
    0xa0 Mmrs,
    /// Upper address of direct block moves.
    0xb4 Dbms,
    /// Where a phase mismatch leads while writing.
    0xc0 Pmjad1,
    /// Where it leads while reading.
    0xc4 Pmjad2,
    /// Bytes that were left at a mismatch.
    0xc8 Rbc,
    /// Updated address.
    0xcc Ua,
    /// Address of the table entry.
    0xd0 Esa,
    /// Address of the instruction.
    0xd4 Ia,
}

/// Bits of registers.
pub(super) mod bits {
    pub(in super::super) const SCNTL1_RST: u8 = 0x08;
    pub(in super::super) const SSTAT0_RST: u8 = 0x02;
    pub(in super::super) const ISTAT_ABRT: u8 = 0x80;
    pub(in super::super) const ISTAT_SRST: u8 = 0x40;
    pub(in super::super) const ISTAT_SIGP: u8 = 0x20;
    pub(in super::super) const ISTAT_CON: u8 = 0x08;
    pub(in super::super) const ISTAT_INTF: u8 = 0x04;
    pub(in super::super) const ISTAT_SIP: u8 = 0x02;
    pub(in super::super) const ISTAT_DIP: u8 = 0x01;
    pub(in super::super) const DSTAT_DFE: u8 = 0x80;
    pub(in super::super) const DSTAT_BF: u8 = 0x20;
    pub(in super::super) const DSTAT_ABRT: u8 = 0x10;
    pub(in super::super) const DSTAT_SSI: u8 = 0x08;
    pub(in super::super) const DSTAT_SIR: u8 = 0x04;
    pub(in super::super) const DSTAT_IID: u8 = 0x01;
    pub(in super::super) const SIST0_MA: u8 = 0x80;
    pub(in super::super) const SIST0_CMP: u8 = 0x40;
    pub(in super::super) const SIST0_SEL: u8 = 0x20;
    pub(in super::super) const SIST0_RSL: u8 = 0x10;
    pub(in super::super) const SIST0_UDC: u8 = 0x04;
    pub(in super::super) const SIST0_RST: u8 = 0x02;
    pub(in super::super) const SIST1_STO: u8 = 0x04;
    pub(in super::super) const SIST1_GEN: u8 = 0x02;
    pub(in super::super) const SIST1_HTH: u8 = 0x01;
    pub(in super::super) const DMODE_MAN: u8 = 0x01;
    pub(in super::super) const DCNTL_STD: u8 = 0x04;
    pub(in super::super) const DCNTL_SSM: u8 = 0x10;
    pub(in super::super) const CCNTL0_ENPMJ: u8 = 0x80;
    pub(in super::super) const CCNTL0_PMJCTL: u8 = 0x40;
    pub(in super::super) const CCNTL1_EN64DBMV: u8 = 0x01;
    pub(in super::super) const CCNTL1_EN64TIBMV: u8 = 0x02;
    pub(in super::super) const CCNTL1_64TIMOD: u8 = 0x04;
}

/// Their values after a reset.
pub(super) fn power_on() -> Vec<u8> {
    let mut r = vec![0; COUNT];
    r[Reg::Scntl0.at()] = 0xc0;
    r[Reg::Scid.at()] = 7;
    r[Reg::Ctest1.at()] = 0xf0;
    r[Reg::Ctest2.at()] = 0x01;
    r[Reg::Macntl.at()] = 0xd0;
    // Single-ended, clock quadrupler locked.
    r[Reg::Stest4.at()] = 0xe0;
    r
}
