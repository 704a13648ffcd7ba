//! Memory for requests in flight: who asks for more than is left waits.
//!
//! ```text
//! a small request ... the client's own part, which nobody else can take
//! a large one ....... the client's share of what all have, then what all have
//! ```
//! So a client that begins requests and does not go on with them, or takes no replies, holds up itself, and the
//! large requests of others for as long as it is borne with.

use std::sync::{Arc, Condvar, Mutex, PoisonError};

use crate::limits::{NBD_MEMORY_BYTES_MAX, NBD_OWN_BYTES_MAX, NBD_SHARE_BYTES_MAX};

/// So many bytes, lent out.
#[derive(Debug)]
pub(crate) struct Budget {
    left: Mutex<u64>,
    returned: Condvar,
}

/// One client's ways to memory.
#[derive(Debug)]
pub(crate) struct Allowance {
    own: Arc<Budget>,
    share: Arc<Budget>,
    all: Arc<Budget>,
}

/// Some of the bytes, given back when dropped.
#[derive(Debug)]
struct Part {
    budget: Arc<Budget>,
    bytes: u64,
}

/// What one request takes.
#[derive(Debug)]
pub(crate) struct Loan {
    _parts: [Option<Part>; 2],
}

impl Budget {
    fn new(bytes: u64) -> Arc<Self> {
        Arc::new(Self { left: Mutex::new(bytes), returned: Condvar::new() })
    }

    /// What all clients share.
    pub(crate) fn of_all() -> Arc<Self> {
        Self::new(NBD_MEMORY_BYTES_MAX)
    }

    /// Borrows; waits until there is enough. Nobody may ask for more than there is in all.
    fn borrow(self: &Arc<Self>, bytes: u64) -> Part {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        while *left < bytes {
            left = self.returned.wait(left).unwrap_or_else(PoisonError::into_inner);
        }
        *left -= bytes;
        Part { budget: Arc::clone(self), bytes }
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        *self.budget.left.lock().unwrap_or_else(PoisonError::into_inner) += self.bytes;
        self.budget.returned.notify_all();
    }
}

impl Allowance {
    /// For a client that comes.
    pub(crate) fn new(all: &Arc<Budget>) -> Self {
        let (own, share) = (Budget::new(NBD_OWN_BYTES_MAX), Budget::new(NBD_SHARE_BYTES_MAX));
        Self { own, share, all: Arc::clone(all) }
    }

    /// Borrows for a request; waits until there is enough.
    pub(crate) fn borrow(&self, bytes: u32) -> Loan {
        let bytes = u64::from(bytes);
        if bytes <= NBD_OWN_BYTES_MAX {
            return Loan { _parts: [Some(self.own.borrow(bytes)), None] };
        }
        // First its share: a client that has all of that must not hold what it can't use yet.
        let share = self.share.borrow(bytes);
        Loan { _parts: [Some(share), Some(self.all.borrow(bytes))] }
    }
}
