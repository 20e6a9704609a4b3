//! Running, stopping, resetting.

use super::args::*;
use super::{Desk, table};
use crate::machine::{OnPanic, OnWatchdog};
use crate::replay::Entry;
use orrery_block::qmp::{self, Answer, QmpError};
use serde_json::{Value, json};

impl Desk<'_> {
    pub(super) fn capabilities(&mut self, args: Capabilities) -> Answer<Nothing> {
        match args.enable.unwrap_or_default().into_iter().find(|name| name != "oob") {
            Some(name) => {
                Err(QmpError::generic(format!("Parameter 'enable' does not accept value '{name}'")))
            }
            None => Ok(Nothing {}),
        }
    }

    pub(super) fn version(&mut self, _: Nothing) -> Answer<Value> {
        Ok(qmp::version())
    }

    pub(super) fn commands(&mut self, _: Nothing) -> Answer<Vec<CommandInfo>> {
        Ok(table::names().into_iter().map(|name| CommandInfo { name: name.into() }).collect())
    }

    pub(super) fn schema(&mut self, _: Nothing) -> Answer<Vec<Value>> {
        match table::schema() {
            Value::Array(list) => Ok(list),
            _ => Ok(Vec::new()),
        }
    }

    pub(super) fn quit(&mut self, _: Nothing) -> Answer<Nothing> {
        self.state.quit = true;
        let data = json!({"guest": false, "reason": "host-qmp-quit"});
        self.emit("SHUTDOWN", data);
        Ok(Nothing {})
    }

    pub(super) fn stop(&mut self, _: Nothing) -> Answer<Nothing> {
        self.machine.pause();
        Ok(Nothing {})
    }

    pub(super) fn cont(&mut self, _: Nothing) -> Answer<Nothing> {
        match self.run_state() {
            RunState::Shutdown | RunState::InternalError | RunState::GuestPanicked => {
                Err(QmpError::generic("Resetting the Virtual Machine is required"))
            }
            // It runs as soon as it is there.
            RunState::Inmigrate => {
                self.state.settings.paused = false;
                Ok(Nothing {})
            }
            _ => {
                self.come_back()?;
                self.machine.resume();
                Ok(Nothing {})
            }
        }
    }

    pub(super) fn system_reset(&mut self, _: Nothing) -> Answer<Nothing> {
        let was_off = self.machine.powered_off()
            || matches!(self.run_state(), RunState::GuestPanicked | RunState::InternalError);
        self.machine.enter(Entry::Reset);
        if was_off {
            // It is ready to go on, when it is told to.
            self.machine.resume();
            self.machine.pause();
        }
        Ok(Nothing {})
    }

    pub(super) fn system_powerdown(&mut self, _: Nothing) -> Answer<Nothing> {
        self.machine.enter(Entry::PowerButton);
        self.emit("POWERDOWN", json!({}));
        Ok(Nothing {})
    }

    pub(super) fn system_wakeup(&mut self, _: Nothing) -> Answer<Nothing> {
        if self.handles().suspend.is_none() {
            return Err(QmpError::generic("wake-up from suspend is not supported by this guest"));
        }
        if !self.machine.suspended() {
            return Err(QmpError::generic("Unable to wake up: guest is not in suspended state"));
        }
        self.machine.enter(Entry::Wake);
        self.emit("WAKEUP", json!({}));
        Ok(Nothing {})
    }

    pub(super) fn inject_nmi(&mut self, _: Nothing) -> Answer<Nothing> {
        self.machine.enter(Entry::Nmi);
        Ok(Nothing {})
    }

    pub(super) fn set_action(&mut self, args: Actions) -> Answer<Nothing> {
        let policy = &mut self.machine.policy;
        let wrong = |name: &str, value: &str| {
            Err(QmpError::generic(format!("Parameter '{name}' does not accept value '{value}'")))
        };
        let (reboot, shutdown) = (args.reboot.as_deref(), args.shutdown.as_deref());
        let no_reboot = match reboot {
            None => policy.no_reboot,
            Some("shutdown") => true,
            Some("reset") => false,
            Some(other) => return wrong("reboot", other),
        };
        let no_shutdown = match shutdown {
            None => policy.no_shutdown,
            Some("pause") => true,
            Some("poweroff") => false,
            Some(other) => return wrong("shutdown", other),
        };
        if let Some(name) = args.panic.as_deref() {
            let Some(action) = OnPanic::from_name(name) else { return wrong("panic", name) };
            policy.on_panic = action;
        }
        if let Some(name) = args.watchdog.as_deref() {
            let Some(action) = OnWatchdog::from_name(name) else { return wrong("watchdog", name) };
            policy.on_watchdog = action;
        }
        (policy.no_reboot, policy.no_shutdown) = (no_reboot, no_shutdown);
        Ok(Nothing {})
    }

    pub(super) fn exit_preconfig(&mut self, _: Nothing) -> Answer<Nothing> {
        let settings = &mut self.state.settings;
        if !std::mem::take(&mut settings.preconfig) {
            let text = "The command is permitted only before machine initialization";
            return Err(QmpError::generic(text));
        }
        if !settings.paused {
            self.machine.resume();
        }
        Ok(Nothing {})
    }

    pub(super) fn query_status(&mut self, _: Nothing) -> Answer<StatusInfo> {
        let status = self.run_state();
        let running = matches!(status, RunState::Running | RunState::Suspended);
        Ok(StatusInfo { running, status })
    }
}
