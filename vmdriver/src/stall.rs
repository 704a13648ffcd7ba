//! Logic: a VM that stands because its disk can't be read or written now, and when it is let go on.
//!
//! QEMU stops the VM at such an error and keeps the request; when the VM goes on, the request is tried
//! again, and the guest never learns of it. A try that fails stops the VM again.

use std::time::Duration;

use crate::limits::{IO_RETRY_MAX, IO_RETRY_MIN};

/// What is known about the VM's standstills. Times are since any fixed moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stall {
    /// When the VM is to go on, if it stands.
    due: Option<Duration>,
    /// When it last went on, and after what pause.
    went_on: Option<Duration>,
    pause: Duration,
}

impl Stall {
    /// All is well.
    pub(crate) fn none() -> Self {
        Self { due: None, went_on: None, pause: IO_RETRY_MIN }
    }

    /// The VM was stopped by an error of its disk.
    pub(crate) fn stopped(&mut self, now: Duration) {
        if self.due.is_some() {
            // Several requests fail at once; the first has said it all.
            return;
        }
        let is_new = self.went_on.is_none_or(|at| now.saturating_sub(at) > 2 * IO_RETRY_MAX);
        self.pause = if is_new { IO_RETRY_MIN } else { (2 * self.pause).min(IO_RETRY_MAX) };
        self.due = Some(now + self.pause);
    }

    /// Whether the VM stands because of its disk.
    pub(crate) fn stands(&self) -> bool {
        self.due.is_some()
    }

    /// Whether it is time to let it go on.
    pub(crate) fn is_due(&self, now: Duration) -> bool {
        self.due.is_some_and(|due| now >= due)
    }

    /// It was let go on.
    pub(crate) fn goes_on(&mut self, now: Duration) {
        self.due = None;
        self.went_on = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_while_it_fails_and_begin_anew_after_it_went_well() {
        let mut stall = Stall::none();
        let mut now = Duration::ZERO;
        let mut pauses = Vec::new();
        for _ in 0..8 {
            stall.stopped(now);
            stall.stopped(now + Duration::from_millis(1));
            assert!(stall.stands() && !stall.is_due(now));
            let begun = now;
            while !stall.is_due(now) {
                now += Duration::from_millis(250);
            }
            pauses.push((now - begun).as_millis());
            stall.goes_on(now);
            assert!(!stall.stands());
            now += Duration::from_secs(2);
        }
        assert_eq!(pauses, [250, 500, 1_000, 2_000, 4_000, 5_000, 5_000, 5_000]);
        now += 3 * IO_RETRY_MAX;
        stall.stopped(now);
        assert!(stall.is_due(now + IO_RETRY_MIN));
    }
}
