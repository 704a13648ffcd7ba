//! What was done to a guest right after its restore, as events tell it.

use serde::{Deserialize, Serialize};
use sustain_vmdriver::{WakeReport, WakeStep};

/// What a restored guest was told of where and when it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Woken {
    /// How far the guest's clock was from this host's before it was set, in ms; behind is negative.
    pub clock_before_ms: Option<f64>,
    /// How far it was afterwards.
    pub clock_after_ms: Option<f64>,
    /// The guest's host name.
    pub host_name: Option<String>,
    /// What was not done, and why.
    pub undone: Vec<String>,
}

impl From<WakeReport> for Woken {
    fn from(report: WakeReport) -> Self {
        let WakeReport { network, entropy, clock, host_name, .. } = report;
        let steps = [
            ("announcing the network card", network),
            ("stirring the random numbers", entropy),
            ("setting the clock", clock),
            ("reading the host name", host_name),
        ];
        let undone = steps.into_iter().filter_map(|(what, step)| match step {
            WakeStep::Done { .. } => None,
            WakeStep::NoAgent => Some(format!("{what}: the guest has no agent")),
            WakeStep::Failed { reason } => Some(format!("{what}: {reason}")),
        });
        Self {
            undone: undone.collect(),
            clock_before_ms: report.clock_before_ms,
            clock_after_ms: report.clock_after_ms,
            host_name: report.host_name_found,
        }
    }
}
