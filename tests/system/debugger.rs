//! gdb on a kernel of its own: breakpoints by name, a watched variable, and back in time to the write that
//! changed it.

use crate::Test;
use crate::program::{Folder, root, tool};
use anyhow::{Context as _, Result, ensure};
use std::process::Command;

/// All of them.
pub(crate) fn tests() -> Vec<Test> {
    vec![Test::new("debugger: gdb goes back to the write that changed a variable", 60, backwards)]
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

fn backwards() -> Result<()> {
    let (gdb, assembler, linker) = (tool("gdb-multiarch")?, tool("as")?, tool("ld")?);
    let work = Folder::new()?;
    work.write("kernel.s", KERNEL)?;
    work.write("session", SESSION)?;
    let run = |program, args: &[&str]| -> Result<String> {
        let out = Command::new(program).args(args).current_dir(work.path()).output()?;
        ensure!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        Ok(String::from_utf8_lossy(&out.stdout).into_owned())
    };
    run(assembler, &["--32", "-g", "-o", "kernel.o", "kernel.s"])?;
    let place = ["-m", "elf_i386", "-Ttext", "0x100000", "-e", "_start"];
    run(linker, &[&place[..], &["-o", "kernel", "kernel.o"]].concat())?;
    let firmware = root().join("guests/firmware").to_string_lossy().into_owned();
    let args =
        ["-M", "pc", "-cpu", "pentium3", "-m", "16", "-kernel", "kernel", "-display", "none"];
    let debug = ["-icount", "shift=0,rr=record", "-S", "-gdb", "unix:gdb.sock,server=on"];
    let folder = ["-L", firmware.as_str()];
    let args = args.iter().chain(&debug).chain(&folder);
    let mut machine = work.start(&args.map(|s| s.to_string()).collect::<Vec<_>>())?;
    ensure!(machine.wait_for_error("waiting for a connection", 20)?, "it does not listen");
    let said = run(gdb, &["-q", "-batch", "-nx", "-x", "session", "kernel"])?;
    machine.wait(20)?.success()?;
    let mut rest = said.as_str();
    for text in SAID {
        let at = rest.find(text).with_context(|| format!("no '{text}' in:\n{said}"))?;
        rest = &rest[at + text.len()..];
    }
    Ok(())
}
