//! Giving up work of the store when nobody wants it any more.

use std::ops::Deref;
use std::sync::atomic::{AtomicBool, Ordering};

use sustain_store::Progress;

/// Ends the work when the flag is set. What it has done so far is told to nobody.
pub(super) struct Cancel<F>(pub(super) F);

impl<F: Deref<Target = AtomicBool> + Sync> Progress for Cancel<F> {
    fn total(&self, _bytes: u64) {}
    fn advance(&self, _bytes: u64) {}
    fn cancelled(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}
