//! Limits on a drive's rate, and how long its requests take.

use super::args::*;
use super::{Answer, Monitor, QmpError};
use crate::backend::BlockBackend;
use crate::throttle::{ThrottleGroup, ThrottleLimits};

impl Monitor {
    fn drive(&self, name: &str) -> Answer<BlockBackend> {
        self.graph().backend(name).ok_or_else(|| QmpError {
            class: "DeviceNotFound",
            desc: format!("Device '{name}' not found"),
        })
    }

    pub(super) async fn set_io_throttle(&self, args: IoThrottle) -> Answer<Nothing> {
        let name = match (&args.device, &args.id) {
            (Some(name), None) | (None, Some(name)) => name.clone(),
            _ => return Err(QmpError::generic("Need exactly one of 'device' and 'id'")),
        };
        let drive = self.drive(&name)?;
        let limits = ThrottleLimits {
            bps_total: Some(args.bps),
            bps_read: Some(args.bps_rd),
            bps_write: Some(args.bps_wr),
            iops_total: Some(args.iops),
            iops_read: Some(args.iops_rd),
            iops_write: Some(args.iops_wr),
            bps_total_max: args.bps_max,
            bps_read_max: args.bps_rd_max,
            bps_write_max: args.bps_wr_max,
            iops_total_max: args.iops_max,
            iops_read_max: args.iops_rd_max,
            iops_write_max: args.iops_wr_max,
            bps_total_max_length: args.bps_max_length,
            bps_read_max_length: args.bps_rd_max_length,
            bps_write_max_length: args.bps_wr_max_length,
            iops_total_max_length: args.iops_max_length,
            iops_read_max_length: args.iops_rd_max_length,
            iops_write_max_length: args.iops_wr_max_length,
            iops_size: args.iops_size,
        };
        limits.check()?;
        let rates = [args.bps, args.bps_rd, args.bps_wr, args.iops, args.iops_rd, args.iops_wr];
        if rates.iter().all(|rate| *rate == 0) {
            drive.set_throttle(None);
            return Ok(Nothing {});
        }
        let group = match (args.group, drive.throttle_group()) {
            (None, Some((_, joined))) => joined,
            (given, _) => {
                let group_name = given.unwrap_or(name);
                let group = match self.graph().group_of(&group_name) {
                    Some(group) => group,
                    None => ThrottleGroup::new(self.graph().context(), ThrottleLimits::default())?,
                };
                drive.set_throttle(Some((&group_name, &group)));
                group
            }
        };
        group.set_limits(limits)?;
        Ok(Nothing {})
    }

    pub(super) async fn set_histogram(&self, args: LatencyHistogram) -> Answer<Nothing> {
        let drive = self.drive(&args.id)?;
        let pick = |own: Option<Vec<u64>>| own.or_else(|| args.boundaries.clone());
        let lists =
            [pick(args.boundaries_read), pick(args.boundaries_write), pick(args.boundaries_flush)];
        for list in lists.iter().flatten() {
            let rising = list.windows(2).all(|pair| pair[0] < pair[1]);
            if !rising || list.first().is_none_or(|first| *first == 0) {
                return Err(QmpError::generic(format!("Device '{}' set boundaries fail", args.id)));
            }
        }
        drive.set_histograms(lists);
        Ok(Nothing {})
    }
}
