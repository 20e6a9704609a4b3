//! What a machine sounds like, from a recording.

use crate::Test;
use crate::program::{Folder, guest};
use anyhow::{Context as _, Result, ensure};
use std::fs;

pub(crate) fn tests() -> Vec<Test> {
    vec![Test::new("sound: the diagnostic ROM's beep is 1000 Hz for 200 ms", 60, beep)]
}

fn beep() -> Result<()> {
    guest("firmware")?;
    let work = Folder::new()?;
    work.write("beep.txt", "within 30\nwait-serial \"speaker 1000 Hz\"\nwait 0.2\nquit 0\n")?;
    let args = [
        "-icount",
        "5",
        "-m",
        "16",
        "-serial",
        "stdio",
        "-audiodev",
        "wav,id=a,path=beep.wav,out.frequency=48000",
        "-M",
        "pc,pcspk-audiodev=a",
        "-script",
        "beep.txt",
    ];
    work.orrery(&args, 50)?.success()?;
    let file = fs::read(work.file("beep.wav"))?;
    ensure!(file.starts_with(b"RIFF") && &file[8..16] == b"WAVEfmt ", "no WAV file");
    let field =
        |at: usize| u32::from_le_bytes([file[at], file[at + 1], file[at + 2], file[at + 3]]);
    ensure!(field(24) == 48000, "{} Hz", field(24));
    ensure!(field(40) as usize == file.len() - 44, "the header says {} bytes", field(40));
    let left: Vec<i16> =
        file[44..].as_chunks::<4>().0.iter().map(|f| i16::from_le_bytes([f[0], f[1]])).collect();
    let loud = |s: &&i16| s.unsigned_abs() > 1000;
    let first = left.iter().position(|s| loud(&s)).context("silence")?;
    let last = left.iter().rposition(|s| loud(&s)).context("silence")?;
    let ms = (last - first) / 48;
    ensure!((190..=225).contains(&ms), "the beep lasts {ms} ms");
    // The levels alternate about their middle, which need not be zero.
    let tone = &left[first..=last];
    let middle = (i32::from(*tone.iter().min().context("tone")?)
        + i32::from(*tone.iter().max().context("tone")?))
        / 2;
    let rises =
        tone.windows(2).filter(|w| i32::from(w[0]) <= middle && i32::from(w[1]) > middle).count();
    let hz = rises * 1000 / ms;
    ensure!((985..=1015).contains(&hz), "{hz} Hz");
    Ok(())
}
