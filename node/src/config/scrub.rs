//! How a node scrubs its store.

use serde::{Deserialize, Serialize};

use super::{Bytes, Duration};

/// The table `scrub`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct ScrubConfig {
    /// Whether packs are compared with their ids in the background.
    pub enabled: bool,
    /// How often each is.
    pub every: Duration,
    /// Most bytes a second that are read for it.
    pub rate: Bytes,
}

impl Default for ScrubConfig {
    /// Once a week, at a rate that no disk notices: a TiB takes a day and a half. Both are guesses.
    fn default() -> Self {
        Self { enabled: true, every: Duration::from_millis(7 * 86_400_000), rate: Bytes::new(8 << 20) }
    }
}
