//! Where everything is: the ROM's parts and the low memory it works in.

/// Bytes in the image.
pub(crate) const IMAGE_SIZE: usize = 0x1_0000;
/// Where the image appears below 1 MiB.
pub(crate) const ROM_BASE: u32 = 0xf_0000;
/// Read-only data.
pub(crate) const DATA: u32 = ROM_BASE;
/// 32-bit code.
pub(crate) const CODE: u32 = ROM_BASE + 0x8000;
/// 16-bit code.
pub(crate) const ENTRY16: u32 = ROM_BASE + 0xff00;

/// Where frame buffers and other memory BARs are put; ISA VGA cards with the Bochs interface have
/// theirs here too.
pub(crate) const PCI_MEMORY: u32 = 0xe000_0000;
/// Where I/O BARs are put.
pub(crate) const PCI_IO: u32 = 0xc000;
/// Where the power management registers are put.
pub(crate) const PM_BASE: u32 = 0x600;

/// First byte of the variables; all of them are zero at start.
pub(crate) const VARS: u32 = 0x500;
/// First byte after the variables.
pub(crate) const VARS_END: u32 = 0x3c00;

/// 10 ms ticks since the timer was started.
pub(crate) const TICKS: u32 = 0x500;
/// Cell of the text cursor, 0..2000.
pub(crate) const CURSOR: u32 = 0x504;
/// Attribute byte of the text printed next.
pub(crate) const ATTR: u32 = 0x508;
/// Non-zero while the screen shows text.
pub(crate) const TEXT_ON: u32 = 0x50c;
/// Non-zero when a VGA was found.
pub(crate) const VGA_FOUND: u32 = 0x510;
/// Identification of the Bochs VBE interface, zero without one.
pub(crate) const VBE_ID: u32 = 0x514;
/// Linear address of the frame buffer.
pub(crate) const LFB: u32 = 0x518;
/// Non-zero when COM1 was found.
pub(crate) const COM1_FOUND: u32 = 0x51c;
/// CPUID leaf 1: signature and feature bits, zero without CPUID.
pub(crate) const CPU_SIGNATURE: u32 = 0x520;
/// CPUID leaf 1 EDX.
pub(crate) const CPU_FEATURES: u32 = 0x524;
/// Functions in [`PCI_TABLE`].
pub(crate) const PCI_COUNT: u32 = 0x528;
/// Highest bus number given to a bridge.
pub(crate) const PCI_LAST_BUS: u32 = 0x52c;
/// Next free memory address for BARs.
pub(crate) const PCI_NEXT_MEMORY: u32 = 0x530;
/// Port of PM1a_CNT, zero without power management.
pub(crate) const PM_CONTROL: u32 = 0x534;
/// End of memory below 4 GiB.
pub(crate) const RAM_TOP: u32 = 0x538;
/// End of conventional memory.
pub(crate) const RAM_BASE_TOP: u32 = 0x53c;
/// Double words that did not read back.
pub(crate) const RAM_ERRORS: u32 = 0x540;
/// First bad address.
pub(crate) const RAM_FIRST: u32 = 0x544;
/// Command block base of the disk that is being talked to.
pub(crate) const IDE_BASE: u32 = 0x548;
/// Its drive/head byte.
pub(crate) const IDE_DRIVE: u32 = 0x54c;
/// Disks found.
pub(crate) const IDE_COUNT: u32 = 0x550;
/// Base of the first disk, zero without one.
pub(crate) const IDE_FIRST: u32 = 0x554;
/// Drive/head byte of the first disk.
pub(crate) const IDE_FIRST_DRIVE: u32 = 0x558;
/// Non-zero when a keyboard answered.
pub(crate) const KEYBOARD_FOUND: u32 = 0x55c;
/// Non-zero when a mouse answered.
pub(crate) const MOUSE_FOUND: u32 = 0x560;
/// Bytes of the mouse packet so far.
pub(crate) const MOUSE_COUNT: u32 = 0x564;
/// The mouse packet.
pub(crate) const MOUSE_PACKET: u32 = 0x568;
/// Function whose BARs are being placed, and other scratch.
pub(crate) const SCRATCH: u32 = 0x570;

/// A byte queue filled by an interrupt: head, tail, then [`QUEUE_LEN`] bytes.
pub(crate) const KEY_QUEUE: u32 = 0x600;
/// The same for the mouse.
pub(crate) const MOUSE_QUEUE: u32 = 0x700;
/// The same for COM1.
pub(crate) const COM_QUEUE: u32 = 0x800;
/// Bytes a queue holds; a power of two.
pub(crate) const QUEUE_LEN: u32 = 128;

/// The interrupt descriptor table.
pub(crate) const IDT: u32 = 0x1000;
/// What the text screen shows, kept while graphics are on.
pub(crate) const SHADOW: u32 = 0x1800;
/// One disk sector.
pub(crate) const SECTOR: u32 = 0x2800;
/// PCI functions found: address, identification, class.
pub(crate) const PCI_TABLE: u32 = 0x2c00;
/// Bytes of one entry of [`PCI_TABLE`].
pub(crate) const PCI_ENTRY: u32 = 12;
/// Entries that fit.
pub(crate) const PCI_MAX: u32 = 128;
/// Top of the stack.
pub(crate) const STACK: u32 = 0x7c00;

/// Text memory.
pub(crate) const TEXT: u32 = 0xb_8000;
/// Graphics window.
pub(crate) const WINDOW: u32 = 0xa_0000;
/// Columns of the text screen.
pub(crate) const COLUMNS: u32 = 80;
/// Cells of the text screen.
pub(crate) const CELLS: u32 = 80 * 25;
