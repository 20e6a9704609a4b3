//! Going somewhere else in a recorded life.

use super::{At, Mode};
use crate::machine::{Machine, Stop};
use orrery_cpu::debug::Hit;
use orrery_system::time::VmTime;

/// Polls of the block layer while operations in flight are waited for.
const PATIENCE: u32 = 1 << 20;

/// Why one cannot go there.
#[derive(Debug, thiserror::Error)]
pub enum TravelError {
    /// There is no log.
    #[error("the machine is neither recorded nor replayed (-icount rr=record|replay)")]
    NoLog,
    /// It has not happened.
    #[error("the recording ends after {0} instructions")]
    Future(u64),
    /// A disk does not finish what it was asked.
    #[error("a disk is busy; try again")]
    Busy,
    /// A device refuses what it was.
    #[error("a device refuses its state")]
    Device(#[from] orrery_system::RestoreError),
}

/// Where to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Goal {
    /// So many instructions.
    Icount(u64),
    /// So much virtual time.
    Time(VmTime),
}

/// What a debugger goes back to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backwards {
    /// The instruction before.
    Step,
    /// The last breakpoint or watchpoint.
    Continue,
}

/// What a stop was.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Met {
    /// Which of those met on the way.
    number: u64,
    cpu: usize,
    hit: Hit,
    icount: u64,
}

/// A journey under way.
pub(crate) enum Travel {
    To(Goal),
    /// Looks for the last stop before `until`, from moment number `from` on.
    Search {
        from: usize,
        until: u64,
        stop: u64,
        met: u64,
        last: Option<Met>,
    },
    /// Goes to the stop with this number.
    Stop {
        left: u64,
    },
}

impl Travel {
    /// Instructions after which to look up.
    fn limit(&self) -> u64 {
        match self {
            Self::To(Goal::Icount(n)) => *n,
            Self::Search { until, .. } => *until,
            Self::To(Goal::Time(_)) | Self::Stop { .. } => u64::MAX,
        }
    }
}

impl Machine {
    /// Has it stop when so many instructions have been executed, once.
    pub fn set_replay_break(&mut self, icount: u64) -> Result<(), TravelError> {
        self.replay.as_mut().ok_or(TravelError::NoLog)?.stop_at = Some(icount);
        Ok(())
    }

    /// Takes that back.
    pub fn clear_replay_break(&mut self) -> Result<(), TravelError> {
        self.replay.as_mut().ok_or(TravelError::NoLog)?.stop_at = None;
        Ok(())
    }

    /// Whether it is on its way to another time: what it says and shows is known already.
    pub fn travels(&self) -> bool {
        self.replay.as_ref().is_some_and(|r| r.travel.is_some())
    }

    /// Goes to where `icount` instructions have been executed, backwards or forwards, and stops.
    pub fn seek(&mut self, icount: u64) -> Result<(), TravelError> {
        self.go(Goal::Icount(icount))
    }

    /// Goes to a virtual time, and stops.
    pub fn seek_time(&mut self, to: VmTime) -> Result<(), TravelError> {
        self.go(Goal::Time(to))
    }

    fn go(&mut self, goal: Goal) -> Result<(), TravelError> {
        let here = self.at();
        let replay = self.replay.as_ref().filter(|r| r.begun).ok_or(TravelError::NoLog)?;
        let tip = if replay.mode == Mode::Record { here } else { replay.end().unwrap_or(here) };
        let known = replay.end().is_some();
        let (beyond, behind) = match goal {
            Goal::Icount(n) => (n > tip.icount, n <= here.icount),
            Goal::Time(t) => (t > tip.now, t < here.now),
        };
        if known && beyond {
            return Err(TravelError::Future(tip.icount));
        }
        let before = |at: At| match goal {
            // Several instants have the same count: the first one is meant.
            Goal::Icount(n) => at.icount < n || at.icount == 0,
            Goal::Time(t) => at.now <= t,
        };
        let best = replay.moments.last_where(|m| before(m.at));
        let nearer = best.and_then(|n| replay.moments.get(n)).is_some_and(|m| m.at > here);
        if behind || nearer {
            self.go_back(best.unwrap_or(0))?;
        }
        self.set_travel(Travel::To(goal));
        Ok(())
    }

    /// Goes on until `icount` instructions have been executed, and stops.
    pub(crate) fn step_to(&mut self, icount: u64) -> Result<(), TravelError> {
        self.set_travel(Travel::To(Goal::Icount(icount)));
        Ok(())
    }

    fn set_travel(&mut self, travel: Travel) {
        if let Some(replay) = &mut self.replay {
            replay.travel = Some(travel);
        }
        self.go_on();
    }

    /// Goes back to moment number `index`.
    fn go_back(&mut self, index: usize) -> Result<(), TravelError> {
        let here = self.at();
        let busy = |m: &Self| m.blocks.all_backends().iter().any(|b| b.in_flight() > 0);
        for n in 0.. {
            if !busy(self) {
                break;
            }
            if n == PATIENCE {
                return Err(TravelError::Busy);
            }
            self.blocks.poll();
        }
        let Some(mut replay) = self.replay.take() else { return Err(TravelError::NoLog) };
        if replay.mode == Mode::Record {
            replay.mode = Mode::Replay;
            replay.tip = here;
        }
        let mut moments = std::mem::take(&mut replay.moments);
        let done = moments.restore(index, self, &replay.scratches);
        if let Some(moment) = moments.get(index) {
            replay.next = moment.notes;
            replay.marked = moment.at.icount;
        }
        replay.moments = moments;
        replay.diverged = None;
        self.replay = Some(replay);
        self.revive();
        // A mark is where a moment was kept: it lies behind then.
        if let Some(replay) = &mut self.replay
            && let Some(note) = replay.notes.get(replay.next)
            && matches!(note.what, super::What::Mark(_))
            && note.at == (At { icount: self.board.icount(), now: self.board.now() })
        {
            replay.next += 1;
        }
        Ok(done?)
    }

    /// What a debugger asks for: stops as it does at a breakpoint, some time before now.
    pub fn reverse(&mut self, how: Backwards) -> Result<(), TravelError> {
        let icount = self.board.icount();
        match how {
            Backwards::Step if icount == 0 => {
                self.stop_here(Stop::ReplayBegin);
                Ok(())
            }
            Backwards::Step => self.seek(icount - 1),
            Backwards::Continue => {
                let replay = self.replay.as_ref().filter(|r| r.begun).ok_or(TravelError::NoLog)?;
                let from = replay.moments.last_where(|m| m.at.icount < icount).unwrap_or(0);
                self.search(from, icount)
            }
        }
    }

    fn search(&mut self, from: usize, until: u64) -> Result<(), TravelError> {
        self.go_back(from)?;
        self.set_travel(Travel::Search { from, until, stop: until, met: 0, last: None });
        Ok(())
    }

    /// Instructions after which the machine has to look up.
    pub(crate) fn travel_limit(&self) -> u64 {
        let Some(replay) = &self.replay else { return u64::MAX };
        let travel = replay.travel.as_ref().map_or(u64::MAX, Travel::limit);
        travel.min(replay.stop_at.filter(|n| *n >= self.board.icount()).unwrap_or(u64::MAX))
    }

    /// When to look up.
    pub(crate) fn travel_time(&self) -> Option<VmTime> {
        match self.replay.as_ref()?.travel.as_ref()? {
            Travel::To(Goal::Time(t)) => Some(*t),
            _ => None,
        }
    }

    /// A stop of the debugger's on the way. True: the journey ends with it.
    pub(crate) fn travel_hit(&mut self, cpu: usize, hit: Hit) -> bool {
        let icount = self.board.icount();
        let Some(travel) = self.replay.as_mut().and_then(|r| r.travel.as_mut()) else {
            return true;
        };
        let over = match travel {
            Travel::To(_) => false,
            Travel::Search { met, last, stop, .. } => {
                *met += 1;
                // What is watched is looked at before the instruction that uses it.
                let place = if hit == Hit::Break { icount } else { icount.saturating_sub(1) };
                if place < *stop {
                    *last = Some(Met { number: *met, cpu, hit, icount: place });
                }
                false
            }
            Travel::Stop { left } => {
                *left -= 1;
                *left == 0
            }
        };
        if over && let Some(replay) = &mut self.replay {
            replay.travel = None;
        } else if hit == Hit::Break {
            self.cpus.pass_breakpoint(cpu);
        }
        over
    }

    /// The machine has come to the limit of [`Machine::travel_limit`] or to its time: it stops, or goes
    /// on with the journey.
    pub(crate) fn travel_point(&mut self) {
        let icount = self.board.icount();
        let Some(replay) = &mut self.replay else { return };
        let Some(travel) = replay.travel.take() else {
            if replay.stop_at == Some(icount) {
                replay.stop_at = None;
                self.stop_here(Stop::Paused);
            }
            return;
        };
        let next = match travel {
            Travel::To(_) | Travel::Stop { .. } => {
                self.stop_here(Stop::Paused);
                Ok(())
            }
            Travel::Search { last: Some(met), from, .. } => match met.hit {
                Hit::Break => self.go_back(from).map(|()| {
                    self.set_travel(Travel::Stop { left: met.number });
                }),
                Hit::Watch(watch) => {
                    let result = self.seek(met.icount);
                    self.set_hit((met.cpu, Hit::Watch(watch)));
                    result
                }
            },
            Travel::Search { from: 0, .. } => self.go_back(0).map(|()| {
                self.stop_here(Stop::ReplayBegin);
            }),
            Travel::Search { from, stop, .. } => {
                let until = self
                    .replay
                    .as_ref()
                    .and_then(|r| r.moments.get(from))
                    .map_or(stop, |m| m.at.icount);
                self.go_back(from - 1).map(|()| {
                    let (from, last, met) = (from - 1, None, 0);
                    self.set_travel(Travel::Search { from, until, stop, met, last });
                })
            }
        };
        if let Err(error) = next {
            tracing::error!("{error}");
            self.stop_here(Stop::Paused);
        }
    }
}
