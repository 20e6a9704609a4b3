//! Record and replay, as monitors drive it.

use super::args::*;
use super::{Desk, Reply};
use crate::replay::Mode;
use orrery_block::qmp::{Answer, QmpError};
use serde_json::{Value, json};

/// Commands that change a machine in ways that a log does not hold.
pub(super) const UNLOGGED: &[&str] = &[
    "device_add",
    "device_del",
    "qom-set",
    "eject",
    "blockdev-open-tray",
    "blockdev-close-tray",
    "blockdev-remove-medium",
    "blockdev-insert-medium",
    "blockdev-change-medium",
    "block_resize",
    "snapshot-load",
    "migrate-incoming",
];

impl Desk<'_> {
    /// Whether what a command does would be missing in the log.
    pub(super) fn check_logged(&self, command: &str) -> Answer<()> {
        if self.machine.replay().is_some() && UNLOGGED.contains(&command) {
            let text = format!("'{command}' cannot be recorded: it is refused with -icount rr=");
            return Err(QmpError::generic(text));
        }
        Ok(())
    }

    pub(super) fn query_replay(&mut self, _: Nothing) -> Answer<Value> {
        let icount = self.machine.board.icount();
        let Some(replay) = self.machine.replay() else {
            return Ok(json!({"mode": "none", "icount": icount}));
        };
        let mode = if replay.mode() == Mode::Record { "record" } else { "play" };
        let mut out = json!({"mode": mode, "icount": icount});
        if let Some(file) = &self.state.settings.replay_file {
            out["filename"] = file.as_str().into();
        }
        Ok(out)
    }

    pub(super) fn replay_break(&mut self, args: ReplayIcount) -> Answer<Nothing> {
        let icount = self.machine.board.icount();
        self.machine.set_replay_break(args.icount).map_err(|_| no_log())?;
        if args.icount < icount {
            let _ = self.machine.clear_replay_break();
            let text = "cannot set breakpoint at the instruction in the past";
            return Err(QmpError::generic(text));
        }
        Ok(Nothing {})
    }

    pub(super) fn replay_delete_break(&mut self, _: Nothing) -> Answer<Nothing> {
        self.machine.clear_replay_break().map_err(|_| no_log())?;
        Ok(Nothing {})
    }

    pub(super) fn replay_seek(&mut self, args: ReplayIcount) -> Answer<Nothing> {
        match self.machine.seek(args.icount) {
            Ok(()) => Ok(Nothing {}),
            Err(error) => Err(QmpError::generic(error.to_string())),
        }
    }

    pub(super) fn info_replay(&mut self) -> Reply {
        Reply::Now(Ok(self.describe_replay().into()))
    }

    fn describe_replay(&self) -> String {
        let icount = self.machine.board.icount();
        let Some(replay) = self.machine.replay() else {
            return "Record/replay is not active\n".into();
        };
        let what = if replay.mode() == Mode::Record { "Recording" } else { "Replaying" };
        let file = self.state.settings.replay_file.as_deref().unwrap_or("memory");
        let (notes, moments) = replay.counts();
        let mut out = format!("{what} execution '{file}': instruction count = {icount}\n");
        out += &format!("{notes} entries, {moments} moments to go back to\n");
        if let Some(why) = replay.diverged() {
            out += &format!("It is not what was recorded: {why}\n");
        }
        out
    }
}

fn no_log() -> QmpError {
    QmpError::generic("replay breakpoints need -icount rr=record|replay")
}
