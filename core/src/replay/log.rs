//! What a log holds, and how it is kept in a file.
//!
//! A file is a magic number, the format's version, and frames: length, checksum, body (postcard). The first is
//! the head; the others are notes in the order of their instants. A file that was cut short ends where
//! its last whole frame ends.

use orrery_system::input::InputEvent;
use orrery_system::time::VmTime;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

const MAGIC: &[u8; 8] = b"ORRERYRR";
const VERSION: u32 = 1;

/// An instant of a deterministic machine: instructions executed and virtual time. While the
/// machine is idle time passes and the count stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct At {
    /// Instructions since power-on.
    pub icount: u64,
    /// Virtual time.
    pub now: VmTime,
}

/// Something that comes into a machine from outside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Entry {
    /// A key, a pointer, a button.
    Input(InputEvent),
    /// Bytes for a character device, by its number among the machine's.
    Bytes(u32, Vec<u8>),
    /// A frame for a network card, by its cable's number.
    Frame(u32, Vec<u8>),
    /// The reset button.
    Reset,
    /// The power button.
    PowerButton,
    /// An interrupt that cannot be masked, on every CPU.
    Nmi,
    /// The end of a suspend.
    Wake,
    /// A network card's cable, by the card's number, is put in or pulled.
    Link(u32, bool),
}

/// What is written down.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum What {
    /// It came in here.
    Entry(Entry),
    /// A hash of the machine's state without its memory. Time can be wound back to here.
    Mark(u64),
    /// The recording was ended.
    End,
}

/// What is written down, and when it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Note {
    pub(crate) at: At,
    pub(crate) what: What,
}

/// What must be the same where a log is replayed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// Machine type.
    pub machine: String,
    /// Number of CPUs.
    pub cpus: u32,
    /// Bytes of RAM.
    pub memory: u64,
    /// Virtual nanoseconds an instruction, in 1/65536.
    pub rate: u64,
    /// What the clock chip showed at power-on: a replay shows the same.
    pub epoch_secs: i64,
    /// Seed of everything random.
    pub seed: u64,
    /// Names of drives and their sizes in bytes.
    pub drives: Vec<(String, u64)>,
    /// The machine's state where the recording did not begin at power-on.
    pub start: Option<Vec<u8>>,
}

/// Why a log was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LogError {
    /// Not one of ours.
    #[error("this is not a recording")]
    Magic,
    /// Made by another version.
    #[error("recording of format {0}, this program reads {VERSION}")]
    Version(u32),
    /// Damaged at its beginning.
    #[error("the recording is damaged")]
    Damaged,
    /// Of another machine.
    #[error("the recording is of a machine with {what} {found}, this one has {expected}")]
    Machine {
        /// What differs.
        what: &'static str,
        /// In the file.
        found: String,
        /// Here.
        expected: String,
    },
    /// The clock does not count instructions.
    #[error("only a machine with -icount can be recorded")]
    Realtime,
}

impl Head {
    /// Whether a log with this head can be replayed by a machine with the head `here`.
    pub fn check(&self, here: &Self) -> Result<(), LogError> {
        fn same<T: PartialEq + std::fmt::Debug>(
            what: &'static str,
            found: &T,
            expected: &T,
        ) -> Result<(), LogError> {
            if found == expected {
                return Ok(());
            }
            let text = |v: &T| format!("{v:?}");
            Err(LogError::Machine { what, found: text(found), expected: text(expected) })
        }
        same("the type", &self.machine, &here.machine)?;
        same("the number of CPUs", &self.cpus, &here.cpus)?;
        same("a memory of", &self.memory, &here.memory)?;
        same("the instruction rate", &self.rate, &here.rate)?;
        same("the clock", &self.epoch_secs, &here.epoch_secs)?;
        same("the seed", &self.seed, &here.seed)?;
        same("the drives", &self.drives, &here.drives)
    }
}

fn frame(out: &mut Vec<u8>, body: &impl Serialize) {
    let body = postcard::to_allocvec(body).expect("plain data encodes");
    out.extend((body.len() as u32).to_le_bytes());
    out.extend((xxh3_64(&body) as u32).to_le_bytes());
    out.extend(body);
}

/// The beginning of a file.
pub(crate) fn begin(head: &Head) -> Vec<u8> {
    let mut out = MAGIC.to_vec();
    out.extend(VERSION.to_le_bytes());
    frame(&mut out, head);
    out
}

/// Adds a note to a file.
pub(crate) fn add(out: &mut Vec<u8>, note: &Note) {
    frame(out, note);
}

fn take<T: serde::de::DeserializeOwned>(rest: &mut &[u8]) -> Option<T> {
    let (head, body) = rest.split_at_checked(8)?;
    let len = u32::from_le_bytes(head[..4].try_into().ok()?) as usize;
    let sum = u32::from_le_bytes(head[4..].try_into().ok()?);
    let (body, after) = body.split_at_checked(len)?;
    if xxh3_64(body) as u32 != sum {
        return None;
    }
    *rest = after;
    postcard::from_bytes(body).ok()
}

/// Reads the beginning of a file alone.
pub fn head(file: &[u8]) -> Result<Head, LogError> {
    read(file).map(|(head, _)| head)
}

/// Reads a file.
pub(crate) fn read(file: &[u8]) -> Result<(Head, Vec<Note>), LogError> {
    let (magic, rest) = file.split_at_checked(12).ok_or(LogError::Magic)?;
    if &magic[..8] != MAGIC {
        return Err(LogError::Magic);
    }
    let version = u32::from_le_bytes(magic[8..].try_into().expect("four bytes"));
    if version != VERSION {
        return Err(LogError::Version(version));
    }
    let mut rest = rest;
    let head = take(&mut rest).ok_or(LogError::Damaged)?;
    let mut notes: Vec<Note> = Vec::new();
    while let Some(note) = take::<Note>(&mut rest) {
        // Time does not go back.
        if notes
            .last()
            .is_some_and(|last| note.at.icount < last.at.icount || note.at.now < last.at.now)
        {
            return Err(LogError::Damaged);
        }
        notes.push(note);
    }
    Ok((head, notes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(n: u64) -> At {
        At { icount: n, now: VmTime(n) }
    }

    fn file() -> (Head, Vec<Note>, Vec<u8>) {
        let head = Head { machine: "pc".into(), cpus: 2, ..Head::default() };
        let notes = vec![
            Note { at: at(5), what: What::Entry(Entry::Bytes(0, b"ls\n".to_vec())) },
            Note { at: at(5), what: What::Entry(Entry::Reset) },
            Note { at: at(9), what: What::Mark(77) },
            Note { at: at(12), what: What::End },
        ];
        let mut bytes = begin(&head);
        notes.iter().for_each(|n| add(&mut bytes, n));
        (head, notes, bytes)
    }

    #[test]
    fn a_file_that_was_cut_short_ends_with_its_last_whole_note() {
        let (head, notes, bytes) = file();
        assert_eq!(read(&bytes).unwrap(), (head.clone(), notes.clone()));
        let (again, some) = read(&bytes[..bytes.len() - 1]).unwrap();
        assert_eq!((again, some.as_slice()), (head, &notes[..3]));
    }

    #[test]
    fn any_damaged_file_is_refused_or_read_as_a_shorter_one() {
        let (_, notes, bytes) = file();
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 0x41;
            if let Ok((_, found)) = read(&bad) {
                assert!(notes.starts_with(&found), "byte {at}");
            }
        }
        assert_eq!(read(b"something else").unwrap_err(), LogError::Magic);
    }

    #[test]
    fn a_log_of_another_machine_is_refused_with_what_differs() {
        let (head, ..) = file();
        let here = Head { cpus: 1, ..head.clone() };
        let text = head.check(&here).unwrap_err().to_string();
        assert!(text.contains("number of CPUs 2, this one has 1"), "{text}");
        assert!(head.check(&head.clone()).is_ok());
    }
}
