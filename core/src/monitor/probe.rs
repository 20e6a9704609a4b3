//! What management programs ask for before they start a machine, mostly about things that are not
//! there: the answers are those of an emulator without them.

use super::Desk;
use super::args::*;
use orrery_block::qmp::{Answer, QmpError};
use serde_json::{Value, json};

impl Desk<'_> {
    pub(super) fn query_display(&mut self, _: Nothing) -> Answer<Value> {
        Ok(json!({"type": if self.state.settings.window { "default" } else { "none" }}))
    }

    pub(super) fn query_audiodevs(&mut self, _: Nothing) -> Answer<Vec<AudioInfo>> {
        let one =
            |(id, driver): &(String, String)| AudioInfo { id: id.clone(), driver: driver.clone() };
        Ok(self.state.settings.audiodevs.iter().map(one).collect())
    }

    pub(super) fn query_vnc(&mut self, _: Nothing) -> Answer<Value> {
        Ok(json!({"enabled": false}))
    }

    pub(super) fn query_balloon(&mut self, _: Nothing) -> Answer<Value> {
        let desc = "No balloon device has been activated".into();
        Err(QmpError { class: "DeviceNotActive", desc })
    }

    pub(super) fn query_generation(&mut self, _: Nothing) -> Answer<Value> {
        Err(QmpError::generic("VM Generation ID device not found"))
    }

    pub(super) fn query_sev(&mut self, _: Nothing) -> Answer<Value> {
        Err(QmpError::generic("SEV feature is not available"))
    }

    pub(super) fn query_sev_capabilities(&mut self, _: Nothing) -> Answer<Value> {
        Err(QmpError::generic("KVM not enabled"))
    }

    pub(super) fn query_sgx(&mut self, _: Nothing) -> Answer<Value> {
        Err(QmpError::generic("No EPC regions defined, SGX not available"))
    }

    pub(super) fn query_sgx_capabilities(&mut self, _: Nothing) -> Answer<Value> {
        Err(QmpError::generic("SGX is not enabled in KVM"))
    }

    pub(super) fn query_dump_state(&mut self, _: Nothing) -> Answer<Value> {
        Ok(json!({"status": "none", "completed": 0, "total": 0}))
    }

    pub(super) fn query_dirty_rate(&mut self, _: DirtyRate) -> Answer<Value> {
        Ok(json!({
            "status": "unstarted", "start-time": 0, "calc-time": 0, "calc-time-unit": "second",
            "sample-pages": 0, "mode": "page-sampling",
        }))
    }

    pub(super) fn query_stats(&mut self, _: Stats) -> Answer<Vec<Value>> {
        Ok(Vec::new())
    }

    pub(super) fn query_stats_schemas(&mut self, _: Provider) -> Answer<Vec<Value>> {
        Ok(Vec::new())
    }

    pub(super) fn set_watchdog(&mut self, args: WatchdogAction) -> Answer<Nothing> {
        let (reboot, shutdown, panic) = (None, None, None);
        self.set_action(Actions { reboot, shutdown, panic, watchdog: Some(args.action) })
    }
}
