//! How long work tells how far it is, and asks whether to go on.

/// Called by long operations from any of their threads.
pub trait Progress: Sync {
    /// How many bytes there are to do in all; called once, before the first [`advance`](Self::advance).
    fn total(&self, bytes: u64);
    /// So many more bytes are done.
    fn advance(&self, bytes: u64);
    /// Whether to stop: the operation undoes what it did and fails.
    fn cancelled(&self) -> bool {
        false
    }
}

/// Nobody watches.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoProgress;

impl Progress for NoProgress {
    fn total(&self, _bytes: u64) {}
    fn advance(&self, _bytes: u64) {}
}
