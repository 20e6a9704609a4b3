//! gdb on a kernel of its own, and on Debian's: breakpoints by name, a watched variable, and back in time to the
//! write that changed it.

use crate::Test;
use crate::cpio::Cpio;
use crate::program::{Folder, guest, root, tool};
use anyhow::{Context as _, Result, ensure};
use std::fs;
use std::path::PathBuf;
use std::process::Command;

/// All of them.
pub(crate) fn tests() -> Vec<Test> {
    vec![
        Test::new("debugger: gdb goes back to the write that changed a variable", 60, backwards),
        Test::new("debugger: gdb on Debian's kernel", 110, debian),
    ]
}

/// Counts to a thousand, and changes `victim` on the way.
const KERNEL: &str = "
        .text
        .globl _start, count_up, finished
        .align 4
        .long 0x1badb002, 0, -0x1badb002
_start: movl $stack, %esp
again:  call count_up
        cmpl $1000, ticks
        jne again
finished:
        jmp finished
count_up:
        pushl %ebp
        movl %esp, %ebp
        incl ticks
        cmpl $500, ticks
        jne 1f
        movl $4242, victim
1:      popl %ebp
        ret
        .data
ticks:  .long 0
victim: .long 7
        .bss
        .skip 4096
stack:
";

const SESSION: &str = "
set pagination off
set confirm off
set remotetimeout 60
target remote gdb.sock
break finished
continue
print (int)victim
watch *(int*)&victim
reverse-continue
print (int)ticks
info symbol $pc
delete
break count_up
reverse-continue
print (int)ticks
reverse-stepi
info symbol $pc
monitor info replay
kill
";

/// What gdb says of it, in this order.
const SAID: &[&str] = &[
    "Breakpoint 1, finished ()",
    "$1 = 4242",
    "Hardware watchpoint 2",
    "Old value = 4242",
    "New value = 7",
    "$2 = 500",
    "count_up + 21",
    "Breakpoint 3, count_up ()",
    "$3 = 499",
    "again in section",
    "Replaying execution",
];

/// Programs for a debugging session, and the folder it is in.
struct Desk {
    gdb: PathBuf,
    work: Folder,
}

impl Desk {
    fn new() -> Result<Self> {
        Ok(Self { gdb: tool("gdb-multiarch")?, work: Folder::new()? })
    }

    fn run(&self, program: PathBuf, args: &[&str]) -> Result<String> {
        let out = Command::new(program).args(args).current_dir(self.work.path()).output()?;
        ensure!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        // What a monitor answers, gdb writes beside its own words.
        Ok(String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned())
    }

    /// Makes `kernel` of an assembler file.
    fn build(&self, source: &str, bits: &str, place: &[&str]) -> Result<()> {
        let (assembler, linker) = (tool("as")?, tool("ld")?);
        self.work.write("kernel.s", source)?;
        self.run(assembler, &[bits, "-g", "-o", "kernel.o", "kernel.s"])?;
        self.run(linker, &[place, &["-o", "kernel", "kernel.o"]].concat()).map(drop)
    }

    /// Has gdb work through a session, and looks for what it must say, in this order.
    fn debug(&self, session: &str, wanted: &[&str]) -> Result<()> {
        self.work.write("session", session)?;
        let args = ["-q", "-batch", "-nx", "-x", "session", "kernel"];
        let said = self.run(self.gdb.clone(), &args)?;
        let mut rest = said.as_str();
        for text in wanted {
            let at = rest.find(text).with_context(|| format!("no '{text}' in:\n{said}"))?;
            rest = &rest[at + text.len()..];
        }
        Ok(())
    }
}

fn backwards() -> Result<()> {
    let desk = Desk::new()?;
    desk.build(KERNEL, "--32", &["-m", "elf_i386", "-Ttext", "0x100000", "-e", "_start"])?;
    let firmware = root().join("guests/firmware").to_string_lossy().into_owned();
    let args =
        ["-M", "pc", "-cpu", "pentium3", "-m", "16", "-kernel", "kernel", "-display", "none"];
    let debug = ["-icount", "shift=0,rr=record", "-S", "-gdb", "unix:gdb.sock,server=on"];
    let folder = ["-L", firmware.as_str()];
    let args = args.iter().chain(&debug).chain(&folder);
    let mut machine = desk.work.start(&args.map(|s| s.to_string()).collect::<Vec<_>>())?;
    ensure!(machine.wait_for_error("waiting for a connection", 20)?, "it does not listen");
    desk.debug(SESSION, SAID)?;
    machine.wait(20)?.success()?;
    Ok(())
}

/// Says where some functions and variables of its kernel are, and opens files for ever.
const INIT: &str = r#"#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mkdir -p /proc
mount -t proc proc /proc
echo 0 > /proc/sys/kernel/kptr_restrict
grep -E ' (NAMES)$' /proc/kallsyms | sed 's/^/SYMBOL /'
echo "GUEST: ready"
while :; do cat /proc/version > /dev/null; done
"#;

const NAMES: &[&str] = &[
    "do_sys_openat2",
    "__x64_sys_openat",
    "__x64_sys_open",
    "do_sys_open",
    "do_syscall_64",
    "jiffies",
    "tick_do_update_jiffies64",
    "do_timer",
    "update_wall_time",
];

const ON_DEBIAN: &str = "
set pagination off
set confirm off
set remotetimeout 100
set architecture i386:x86-64
target remote gdb.sock
break do_sys_openat2
continue
backtrace 2
delete
watch *(unsigned long *)&jiffies
reverse-continue
info symbol $pc
x/i $pc
continue
kill
";

fn debian() -> Result<()> {
    let desk = Desk::new()?;
    let mut cpio = Cpio::default();
    ["bin", "proc"].iter().for_each(|name| cpio.folder(name));
    cpio.program("bin/busybox", &fs::read(guest("busybox/busybox")?)?);
    cpio.program("init", INIT.replace("NAMES", &NAMES.join("|")).as_bytes());
    desk.work.write("initrd", cpio.finish())?;
    let path = |name: &str| Ok::<_, anyhow::Error>(guest(name)?.to_string_lossy().into_owned());
    let (kernel, firmware) = (path("linux-amd64/vmlinuz")?, path("firmware")?);
    let args = ["-M", "pc", "-m", "128", "-display", "none", "-L", &firmware, "-kernel", &kernel];
    let more = ["-initrd", "initrd", "-append", "console=ttyS0 quiet nokaslr panic=-1"];
    let debug = ["-icount", "shift=2,rr=record", "-gdb", "unix:gdb.sock,server=on,wait=off"];
    let args = args.iter().chain(&more).chain(&debug).chain(&["-serial", "stdio"]);
    let mut machine = desk.work.start(&args.map(|s| s.to_string()).collect::<Vec<_>>())?;
    ensure!(machine.wait_for("GUEST: ready", 100)?, "the guest ended");
    // The kernel's file has no symbols; a file is made that has nothing else.
    let said = fs::read_to_string(desk.work.file("stdout"))?;
    let mut symbols = Vec::new();
    for line in said.lines().filter_map(|line| line.split_once("SYMBOL ")) {
        let mut words = line.1.split_whitespace();
        let at = u64::from_str_radix(words.next().context("an address")?, 16)?;
        symbols.push((at, words.nth(1).context("a name")?));
    }
    symbols.sort_unstable();
    symbols.dedup();
    let base = symbols.first().context("no symbols")?.0 & !0xf_ffff;
    let mut source = String::from(".section .text, \"ax\", @nobits\n");
    for (at, name) in &symbols {
        source +=
            &format!(".globl {name}\n.type {name}, @function\n.org {:#x}\n{name}:\n", at - base);
    }
    source += ".skip 4096\n";
    desk.build(&source, "--64", &["-m", "elf_x86_64", "-Ttext", &format!("{base:#x}")])?;
    let wanted = [
        "Breakpoint 1, ",
        "in do_sys_openat2 ()",
        "#0  ",
        "#1  ",
        "_sys_open",
        "Hardware watchpoint 2",
        "Old value = ",
        "New value = ",
        "in section .text",
        "jiffies",
        "Hardware watchpoint 2",
    ];
    desk.debug(ON_DEBIAN, &wanted)?;
    machine.wait(20)?.success()?;
    Ok(())
}
