//! Logic: a keeper's settings.

/// What a node is set to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeeperConfig {
    /// Neighbours at most (d); the same on all nodes.
    pub degree: usize,
    /// Losses that each neighbourhood, and each durable snapshot, is to survive (f).
    pub tolerance: usize,
    /// How long a dead member counts as a neighbour, so that a restart or a short partition moves nothing.
    pub hold_off_ms: u64,
    /// Most bytes of parts that this node stores; it says so where that makes it hold less than its share.
    pub storage_bytes_max: u64,
    /// Whether this node, as a server, gives each byte once and names others then.
    pub gives_once: bool,
    /// How long it is between two comparisons of what is known, each with another neighbour.
    pub compare_ms: u64,
}

impl Default for KeeperConfig {
    fn default() -> Self {
        Self {
            degree: crate::limits::NEIGHBOURS_DEFAULT,
            tolerance: 1,
            hold_off_ms: 60_000,
            storage_bytes_max: u64::MAX,
            gives_once: true,
            compare_ms: 2_000,
        }
    }
}
