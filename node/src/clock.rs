//! The node's two clocks. Only drivers read them; logic is handed the time.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Milliseconds since 1970, for people to read. It may jump; nothing is decided by it.
#[must_use]
pub fn wall_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Milliseconds that have passed since then.
#[must_use]
pub fn since_ms(then: Instant) -> u64 {
    u64::try_from(then.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// A clock that only goes forward, from the time when it was made.
#[derive(Debug, Clone, Copy)]
pub struct Monotonic {
    start: Instant,
}

impl Monotonic {
    /// A clock that shows 0 now.
    #[must_use]
    pub fn start() -> Self {
        Self { start: Instant::now() }
    }

    /// Milliseconds since it was made.
    #[must_use]
    pub fn now_ms(&self) -> u64 {
        since_ms(self.start)
    }
}
