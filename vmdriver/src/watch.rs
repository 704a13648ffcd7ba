//! Whether a QEMU that is there still answers.
//!
//! A command that is not answered in time makes a QEMU *silent*; it is asked once more then, and if that stays
//! without an answer too, it counts as hung. So a VM is given up only after two waits in a row without a single
//! word from it. Time in which this process stood still itself does not count (see [`crate::patience`]): a host
//! that was stalled as a whole must not lose its VMs for it.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::limits::{QMP_WATCH_INTERVAL, QMP_WATCH_TIMEOUT};
use crate::qmp::{Client, QmpError};

/// Asks now and then.
#[derive(Debug)]
pub(crate) struct Watch {
    asked: Instant,
}

impl Watch {
    /// Begins with a QEMU that has just answered.
    pub(crate) fn new() -> Self {
        Self { asked: Instant::now() }
    }

    /// How long QEMU has been silent, once it counts as hung. Asks it if it is time, or if it was silent
    /// before.
    pub(crate) fn hung(&mut self, qmp: &mut Client) -> Option<Duration> {
        let before = qmp.silent();
        if before.is_none() && self.asked.elapsed() < QMP_WATCH_INTERVAL {
            return None;
        }
        let asked = qmp.execute("query-status", json!({}), QMP_WATCH_TIMEOUT);
        self.asked = Instant::now();
        // A refusal is an answer, and an end is seen by the process.
        match (asked, before) {
            (Err(QmpError::Timeout { timeout, .. }), Some(before)) => Some(before + timeout),
            _ => None,
        }
    }
}
