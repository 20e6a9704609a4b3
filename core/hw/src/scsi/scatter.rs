//! Commands whose data lies in pieces of guest memory, as adapters get them that take a whole list with each.

use super::bus::{Bus, Step};
use super::sense::Sense;
use super::status;
use crate::dma::Pieces;
use orrery_system::Dma;
use serde::{Deserialize, Serialize};

/// Where a command's data is.
pub struct Memory<'a> {
    /// Guest memory.
    pub dma: &'a Dma,
    /// What the unit gives goes here, from this offset.
    pub input: (&'a Pieces, u64),
    /// What the unit takes comes from here, from this offset.
    pub output: (&'a Pieces, u64),
}

/// How far it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Bytes so far, to and from the guest.
    pub moved: [u64; 2],
    /// The guest's memory is shorter than the data, or is not there.
    pub overrun: bool,
}

impl Bus {
    /// Carries the steps of command `id` until it waits for the host (`None`) or is over: its status and sense.
    pub fn run(
        &mut self,
        id: u64,
        mut step: Option<Step>,
        memory: &Memory<'_>,
        progress: &mut Progress,
    ) -> Option<(u8, Sense)> {
        loop {
            step = match step? {
                Step::In(data) => {
                    let (pieces, from) = memory.input;
                    let n = pieces.write(memory.dma, from + progress.moved[0], &data).unwrap_or(0);
                    progress.moved[0] += n as u64;
                    if n < data.len() {
                        progress.overrun = true;
                        self.stop(id);
                        return Some((status::GOOD, Sense::NONE));
                    }
                    self.proceed(id)
                }
                Step::Out(n) => {
                    let (pieces, from) = memory.output;
                    let at = from + progress.moved[1];
                    let there = pieces.len().saturating_sub(at).min(n as u64) as usize;
                    let mut data = vec![0; there];
                    let read = pieces.read(memory.dma, at, &mut data).unwrap_or(0);
                    data.truncate(read);
                    progress.moved[1] += read as u64;
                    progress.overrun |= read < n;
                    self.supply(id, data)
                }
                Step::Done { status, sense } => return Some((status, sense)),
            };
        }
    }
}
