//! The assembler the ROM is written with: iced-x86's `code_asm`, read-only data with addresses
//! known at once, and names for the routines that modules call in one another.

use crate::rom::layout::{CODE, DATA, ENTRY16};
use iced_x86::code_asm::{CodeAssembler, CodeLabel, al, dx, esi};
use iced_x86::{BlockEncoderOptions, IcedError};
use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut};

/// What every emitting function returns.
pub(crate) type Built<T = ()> = Result<T, IcedError>;

/// A list of instructions, one per line: `asm!(a: mov eax, 1; ret;)`.
macro_rules! asm {
    ($a:ident: $($op:ident $($arg:expr),*;)*) => { $( $a.$op($($arg),*)?; )* };
}

macro_rules! routines {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Routines that modules call in one another.
        #[derive(Clone, Copy)]
        pub(crate) struct Routines { $($(#[$doc])* pub(crate) $name: CodeLabel,)* }
        impl Routines {
            fn new(code: &mut CodeAssembler) -> Self {
                Self { $($name: code.create_label(),)* }
            }
            fn all(&self) -> Vec<(&'static str, CodeLabel)> {
                vec![$((stringify!($name), self.$name),)*]
            }
        }
    };
}

routines! {
    /// Prints the character in AL. Printing changes no register.
    putc,
    /// Prints the zero-terminated string at ESI.
    puts,
    /// Prints AL as two hexadecimal digits.
    hex2,
    /// Prints AX as four.
    hex4,
    /// Prints EAX as eight.
    hex8,
    /// Prints EAX in decimal.
    dec,
    /// Prints EAX in decimal with its sign.
    sdec,
    /// Prints AL in decimal, two digits.
    dec2,
    /// Prints ECX bytes at ESI, ends trimmed of blanks.
    trimmed,
    com1_init,
    interrupts_init,
    /// Waits EAX ticks, or until a key if there was one before.
    wait_ticks,
    chips_init,
    text_mode,
    vga_init,
    mode_13h,
    mode_vbe,
    cpu_list,
    /// EAX: address (bus << 16 | device << 11 | function << 8 | register) to EAX: contents.
    pci_read,
    /// EAX: address, ECX: new contents.
    pci_write,
    pci_setup,
    pci_list,
    pci_bus,
    /// AL: register to AL: contents.
    cmos_read,
    ram_list,
    ram_test,
    isa_list,
    graphics_list,
    picture_13h,
    picture_vbe,
    /// 1 kHz for 200 ms.
    beep,
    sound_list,
    input_init,
    /// Prints what arrived; AL: a command in lower case, or zero.
    events,
    /// Waits for a key or a character on COM1.
    any_key,
    disk_list,
    disk_starts,
    prompt,
}

/// Code and data under construction.
pub(crate) struct Asm {
    code: CodeAssembler,
    /// Routines by name.
    pub(crate) l: Routines,
    data: Vec<u8>,
    strings: BTreeMap<String, u32>,
    placed: Vec<(CodeLabel, usize)>,
    wanted: Vec<CodeLabel>,
    pointers: Vec<(u32, CodeLabel)>,
}

impl Deref for Asm {
    type Target = CodeAssembler;
    fn deref(&self) -> &CodeAssembler {
        &self.code
    }
}

impl DerefMut for Asm {
    fn deref_mut(&mut self) -> &mut CodeAssembler {
        &mut self.code
    }
}

impl Asm {
    /// Nothing yet.
    pub(crate) fn new() -> Built<Self> {
        let mut code = CodeAssembler::new(32)?;
        let l = Routines::new(&mut code);
        Ok(Self {
            code,
            l,
            data: Vec::new(),
            strings: BTreeMap::new(),
            placed: Vec::new(),
            wanted: Vec::new(),
            pointers: Vec::new(),
        })
    }

    /// A label within a routine; it must be placed with [`Self::at`].
    pub(crate) fn local(&mut self) -> CodeLabel {
        let label = self.code.create_label();
        self.wanted.push(label);
        label
    }

    /// Places a label here.
    pub(crate) fn at(&mut self, mut label: CodeLabel) -> Built {
        // An instruction carries one label.
        if self.placed.last().is_some_and(|&(_, index)| index == self.code.instructions().len()) {
            self.code.nop()?;
        }
        self.placed.push((label, self.code.instructions().len()));
        self.code.set_label(&mut label)
    }

    /// Read-only bytes; answers their address.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> u32 {
        let at = DATA + self.data.len() as u32;
        self.data.extend_from_slice(bytes);
        at
    }

    /// A zero-terminated string; equal strings are kept once.
    pub(crate) fn string(&mut self, text: &str) -> u32 {
        if let Some(&at) = self.strings.get(text) {
            return at;
        }
        let mut bytes = text.as_bytes().to_vec();
        bytes.push(0);
        let at = self.bytes(&bytes);
        self.strings.insert(text.to_owned(), at);
        at
    }

    /// A table of code addresses, filled in when they are known.
    pub(crate) fn table(&mut self, labels: &[CodeLabel]) -> u32 {
        let at = self.bytes(&vec![0; labels.len() * 4]);
        self.pointers.extend((at..).step_by(4).zip(labels.iter().copied()));
        at
    }

    /// Prints a string. Changes no register.
    pub(crate) fn say(&mut self, text: &str) -> Built {
        let at = self.string(text);
        let puts = self.l.puts;
        self.code.push(esi)?;
        self.code.mov(esi, at)?;
        self.code.call(puts)?;
        self.code.pop(esi)
    }

    /// Writes a byte to a port, through AL and DX.
    pub(crate) fn outb(&mut self, port: u32, value: u32) -> Built {
        self.code.mov(al, value)?;
        self.out_al(port)
    }

    /// Writes AL to a port, through DX.
    pub(crate) fn out_al(&mut self, port: u32) -> Built {
        if port < 0x100 {
            self.code.out(port, al)
        } else {
            self.code.mov(dx, port)?;
            self.code.out(dx, al)
        }
    }

    /// Reads a port to AL, through DX.
    pub(crate) fn inb(&mut self, port: u32) -> Built {
        if port < 0x100 {
            self.code.in_(al, port)
        } else {
            self.code.mov(dx, port)?;
            self.code.in_(al, dx)
        }
    }

    /// REP MOVSD.
    pub(crate) fn rep_movsd(&mut self) -> Built {
        self.code.rep().movsd()
    }

    /// REP STOSB.
    pub(crate) fn rep_stosb(&mut self) -> Built {
        self.code.rep().stosb()
    }

    /// REP STOSW.
    pub(crate) fn rep_stosw(&mut self) -> Built {
        self.code.rep().stosw()
    }

    /// REP STOSD.
    pub(crate) fn rep_stosd(&mut self) -> Built {
        self.code.rep().stosd()
    }

    /// REPE SCASD.
    pub(crate) fn repe_scasd(&mut self) -> Built {
        self.code.repe().scasd()
    }

    /// REP INSW.
    pub(crate) fn rep_insw(&mut self) -> Built {
        self.code.rep().insw()
    }

    /// REP OUTSW.
    pub(crate) fn rep_outsw(&mut self) -> Built {
        self.code.rep().outsw()
    }

    /// Data and code.
    pub(crate) fn finish(mut self) -> Built<(Vec<u8>, Vec<u8>)> {
        // A branch to a label that was never placed would be taken for one to a small address.
        let placed = |label: &CodeLabel| self.placed.iter().any(|(l, _)| l == label);
        for (name, label) in self.l.all() {
            assert!(placed(&label), "routine {name} is missing");
        }
        assert!(self.wanted.iter().all(placed), "a local label is missing");

        let built = self.code.assemble_options(
            u64::from(CODE),
            BlockEncoderOptions::RETURN_NEW_INSTRUCTION_OFFSETS,
        )?;
        for &(at, label) in &self.pointers {
            let &(_, index) = self.placed.iter().find(|(l, _)| *l == label).expect("placed");
            let target = CODE + built.inner.new_instruction_offsets[index];
            let at = (at - DATA) as usize;
            self.data[at..at + 4].copy_from_slice(&target.to_le_bytes());
        }
        let code = built.inner.code_buffer;
        assert!(self.data.len() <= (CODE - DATA) as usize, "too much data");
        assert!(code.len() <= (ENTRY16 - CODE) as usize, "too much code");
        Ok((self.data, code))
    }
}
