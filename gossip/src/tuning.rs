//! Timing: what fits a local network by default and may be set for others.

use serde::{Deserialize, Serialize};

use crate::limits;

/// Intervals and timeouts. The defaults are for nodes on one network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Tuning {
    /// Between two probes of a peer (P15).
    pub probe_interval_ms: u64,
    /// A peer that answered no probe for this long is lost.
    pub probe_timeout_ms: u64,
    /// Between two packets on a quiet connection.
    pub keep_alive_ms: u64,
    /// A connection without a packet from the peer for this long is dropped.
    pub idle_timeout_ms: u64,
    /// The round trip that is assumed before one is measured: too small costs a few packets sent twice, too
    /// large makes every lost first packet, and every farewell to a dead peer, slow.
    pub rtt_guess_ms: u64,
    /// How long one attempt to connect may take.
    pub dial_timeout_ms: u64,
    /// Pause after the first failed attempt; doubled after each further one.
    pub retry_ms_min: u64,
    /// Longest pause between attempts. Attempts never end, so that a healed partition is noticed.
    pub retry_ms_max: u64,
    /// A transfer in which no byte arrives for this long goes on with another peer.
    pub stall_timeout_ms: u64,
    /// How long a peer may take to answer a bulk request that needs no disk writes.
    pub request_timeout_ms: u64,
    /// Neighbours in the overlay.
    pub neighbours: usize,
    /// How long a node must be dead before the overlay does without it.
    pub hold_off_ms: u64,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            probe_interval_ms: 250,
            probe_timeout_ms: 1_500,
            keep_alive_ms: 1_000,
            idle_timeout_ms: 5_000,
            rtt_guess_ms: 50,
            dial_timeout_ms: 1_500,
            retry_ms_min: 50,
            retry_ms_max: 1_000,
            stall_timeout_ms: 3_000,
            request_timeout_ms: 5_000,
            neighbours: limits::NEIGHBOURS_DEFAULT,
            hold_off_ms: 60_000,
        }
    }
}

/// A setting that can't work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("setting {setting} is {found}, {rule}")]
pub struct TuningError {
    /// The setting's name.
    pub setting: &'static str,
    /// Its value.
    pub found: u64,
    /// What it must be.
    pub rule: &'static str,
}

impl Tuning {
    /// Checks that the values work together.
    ///
    /// # Errors
    /// Names the first setting that can't work.
    pub fn check(&self) -> Result<(), TuningError> {
        let positive = [
            ("probe-interval-ms", self.probe_interval_ms),
            ("keep-alive-ms", self.keep_alive_ms),
            ("rtt-guess-ms", self.rtt_guess_ms),
            ("dial-timeout-ms", self.dial_timeout_ms),
            ("retry-ms-min", self.retry_ms_min),
            ("stall-timeout-ms", self.stall_timeout_ms),
            ("request-timeout-ms", self.request_timeout_ms),
        ];
        for (setting, found) in positive {
            ensure(setting, found, found > 0, "it must be above 0")?;
        }
        let rule = "it must be above probe-interval-ms";
        ensure(
            "probe-timeout-ms",
            self.probe_timeout_ms,
            self.probe_timeout_ms > self.probe_interval_ms,
            rule,
        )?;
        let rule = "it must be above keep-alive-ms and at most an hour";
        let fits = self.idle_timeout_ms > self.keep_alive_ms && self.idle_timeout_ms <= 3_600_000;
        ensure("idle-timeout-ms", self.idle_timeout_ms, fits, rule)?;
        let rule = "it must be retry-ms-min or more";
        ensure("retry-ms-max", self.retry_ms_max, self.retry_ms_max >= self.retry_ms_min, rule)?;
        let rule = "it must be 2 or more, or the overlay falls apart";
        ensure("neighbours", self.neighbours as u64, self.neighbours >= 2, rule)
    }
}

fn ensure(setting: &'static str, found: u64, holds: bool, rule: &'static str) -> Result<(), TuningError> {
    if holds { Ok(()) } else { Err(TuningError { setting, found, rule }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_work_and_contradictions_are_named() {
        assert_eq!(Tuning::default().check(), Ok(()));
        let late = Tuning { probe_timeout_ms: 100, ..Tuning::default() };
        assert_eq!(late.check().unwrap_err().setting, "probe-timeout-ms");
        let deaf = Tuning { idle_timeout_ms: 500, ..Tuning::default() };
        assert_eq!(deaf.check().unwrap_err().setting, "idle-timeout-ms");
        let lonely = Tuning { neighbours: 1, ..Tuning::default() };
        assert_eq!(lonely.check().unwrap_err().setting, "neighbours");
    }
}
