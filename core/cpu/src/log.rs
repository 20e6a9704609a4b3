//! What the engines tell about the code they run, for who debugs a guest or an engine: `-d ITEMS`, with `-dfilter` for
//! addresses. The text gathers here until the front end takes it.

use std::fmt::Write as _;

/// Most bytes kept until they are taken; what comes then is counted and lost.
const MOST: usize = 4 << 20;

/// A set of things to tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Items(u16);

impl Items {
    /// Each block when it is translated, disassembled.
    pub const IN_ASM: Self = Self(1);
    /// Its operations as they were lifted.
    pub const OP: Self = Self(2);
    /// Its operations as the optimiser leaves them.
    pub const OP_OPT: Self = Self(4);
    /// Compiled regions: operations and the host's code. Compilers tell it, see `jit::native::Listing`.
    pub const OUT_ASM: Self = Self(8);
    /// Interrupts and exceptions, and the registers before them.
    pub const INT: Self = Self(16);
    /// Each block before it runs. Everything is interpreted then.
    pub const EXEC: Self = Self(32);
    /// The registers before each block. Everything is interpreted then.
    pub const CPU: Self = Self(64);
    /// The registers before a reset.
    pub const CPU_RESET: Self = Self(128);

    /// Whether one of `other` is among them.
    pub fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Parses a list, as `in_asm,int`. An error names what is not known, and what is.
    pub fn parse(list: &str) -> Result<Self, String> {
        let mut all = Self::default();
        for name in list.split(',').map(str::trim).filter(|n| !n.is_empty()) {
            match (name, NAMES.iter().find(|(n, ..)| *n == name)) {
                (_, Some((_, item, _))) => all.0 |= item.0,
                ("all", _) => NAMES.iter().for_each(|(_, item, _)| all.0 |= item.0),
                // Blocks are always told one at a time.
                ("nochain" | "none", _) => {}
                _ => {
                    let known: Vec<_> = NAMES.iter().map(|(n, ..)| *n).collect();
                    return Err(format!(
                        "nothing is logged as '{name}'; there are {}",
                        known.join(", ")
                    ));
                }
            }
        }
        Ok(all)
    }
}

/// Names, items and what they are.
const NAMES: &[(&str, Items, &str)] = &[
    ("in_asm", Items::IN_ASM, "show each block of guest code when it is translated"),
    ("op", Items::OP, "show its operations"),
    ("op_opt", Items::OP_OPT, "show its operations behind the optimiser"),
    ("out_asm", Items::OUT_ASM, "show regions of hot code as they are compiled"),
    (
        "int",
        Items::INT,
        "show interrupts and exceptions in short format, with the registers before them",
    ),
    ("exec", Items::EXEC, "show each block before it runs (slow: all is interpreted)"),
    ("cpu", Items::CPU, "show the registers before each block runs (slow: all is interpreted)"),
    ("cpu_reset", Items::CPU_RESET, "show the registers before a reset"),
];

/// The list of items for people: the answer to `-d help` and the monitor's `log help`.
pub fn help() -> String {
    let row = |(name, _, help): &(&str, Items, &str)| format!("{name:<10} {help}\n");
    format!("Log items (comma separated):\n{}", NAMES.iter().map(row).collect::<String>())
}

/// What is to be told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// The things.
    pub items: Items,
    /// Of code at these linear addresses, first and last; everywhere if there are none. `int` and `cpu_reset` are told of all.
    pub ranges: Vec<(u64, u64)>,
}

impl Wanted {
    /// Whether code at this linear address is told of.
    pub fn covers(&self, pc: u64) -> bool {
        self.ranges.is_empty() || self.ranges.iter().any(|&(first, last)| first <= pc && pc <= last)
    }

    /// Parses ranges as QEMU's `-dfilter` has them: `START..LAST`, `START+LENGTH`, `START-LENGTH` (which ends at START),
    /// separated by commas.
    pub fn parse_ranges(text: &str) -> Result<Vec<(u64, u64)>, String> {
        let number = |s: &str| {
            let s = s.trim();
            match s.strip_prefix("0x").or_else(|| s.strip_prefix("0X")) {
                Some(hex) => u64::from_str_radix(hex, 16).ok(),
                None => s.parse().ok(),
            }
        };
        let one = |s: &str| {
            let wrong = || {
                format!(
                    "'{s}' is no range of addresses; write 0x1000..0x1fff, 0x1000+0x1000 or 0x1fff-0x1000"
                )
            };
            let two = |a: &str, b: &str| Some((number(a)?, number(b)?));
            let range = if let Some((a, b)) = s.split_once("..") {
                two(a, b)
            } else if let Some((a, b)) = s.split_once('+') {
                two(a, b).and_then(|(a, n)| Some((a, a.checked_add(n.checked_sub(1)?)?)))
            } else {
                let (a, b) = s.split_once('-').ok_or_else(wrong)?;
                two(a, b).and_then(|(a, n)| Some((a.checked_sub(n.checked_sub(1)?)?, a)))
            };
            range.filter(|(first, last)| first <= last).ok_or_else(wrong)
        };
        text.split(',').filter(|s| !s.trim().is_empty()).map(one).collect()
    }
}

/// What was told and not taken yet.
#[derive(Default)]
pub(crate) struct Log {
    pub(crate) wanted: Wanted,
    text: String,
    lost: u64,
    events: u64,
}

impl Log {
    pub(crate) fn new(wanted: Wanted) -> Self {
        Self { wanted, ..Self::default() }
    }

    /// Whether each block is told of before it runs.
    pub(crate) fn each_block(&self) -> bool {
        self.wanted.items.has(Items(Items::EXEC.0 | Items::CPU.0))
    }

    /// Whether an item is wanted of code at this address.
    pub(crate) fn wants(&self, item: Items, pc: u64) -> bool {
        self.wanted.items.has(item) && self.wanted.covers(pc)
    }

    pub(crate) fn say(&mut self, text: &str) {
        if self.text.len() + text.len() > MOST {
            self.lost += 1;
            return;
        }
        self.text += text;
        if !text.ends_with('\n') {
            self.text.push('\n');
        }
    }

    /// An interrupt or exception, as the CPU tells it.
    pub(crate) fn event(&mut self, text: &str) {
        let line = format!("{:6}: {text}", self.events);
        self.events += 1;
        self.say(&line);
    }

    /// A block before it runs.
    pub(crate) fn block(
        &mut self,
        cpu: usize,
        mode: u64,
        pc: u64,
        registers: impl FnOnce() -> String,
    ) {
        if self.wants(Items::EXEC, pc) {
            self.say(&format!("Trace {cpu}: [{mode:08x}/{pc:016x}]"));
        }
        if self.wants(Items::CPU, pc) {
            self.say(&registers());
        }
    }

    /// Translated code: its bytes with one line for each instruction.
    pub(crate) fn code(&mut self, lines: impl Iterator<Item = (u64, Vec<u8>, String)>) {
        let mut out = String::from("----------------\nIN:\n");
        for (pc, bytes, text) in lines {
            let hex: Vec<String> = bytes.iter().map(|b| format!("{b:02x}")).collect();
            let _ = writeln!(out, "0x{pc:08x}:  {:<24} {text}", hex.join(" "));
        }
        self.say(&out);
    }

    pub(crate) fn take(&mut self) -> String {
        let mut out = std::mem::take(&mut self.text);
        let lost = std::mem::take(&mut self.lost);
        if lost > 0 {
            let _ = writeln!(out, "(here {lost} entries are missing: more was logged than taken)");
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_items_is_what_its_names_say() {
        let items = Items::parse("in_asm,int,nochain").unwrap();
        assert!(items.has(Items::IN_ASM) && items.has(Items::INT) && !items.has(Items::EXEC));
        let all = Items::parse("all").unwrap();
        assert!(NAMES.iter().all(|(_, item, _)| all.has(*item)));
        let wrong = Items::parse("in_asm,bogus").unwrap_err();
        assert!(wrong.contains("'bogus'") && wrong.contains("out_asm"), "{wrong}");
    }

    #[test]
    fn ranges_are_written_in_three_ways() {
        let ranges = Wanted::parse_ranges("0x1000..0x1fff,8192+16,0x2fff-0x100").unwrap();
        assert_eq!(ranges, [(0x1000, 0x1fff), (8192, 8207), (0x2f00, 0x2fff)]);
        let wanted = Wanted { ranges, ..Wanted::default() };
        assert!(wanted.covers(0x1fff) && wanted.covers(8207) && !wanted.covers(8208));
        for wrong in ["0x1000", "2..1", "5+0", "1-9", "x..y"] {
            assert!(Wanted::parse_ranges(wrong).is_err(), "{wrong}");
        }
        assert!(Wanted::default().covers(0));
    }

    #[test]
    fn what_nobody_takes_is_bounded_and_counted() {
        let mut log = Log::default();
        let line = "x".repeat(1 << 20);
        (0..6).for_each(|_| log.say(&line));
        let text = log.take();
        assert!(
            text.len() < MOST + 100 && text.contains("here 3 entries are missing"),
            "{}",
            text.len()
        );
        assert_eq!(log.take(), "");
    }
}
