//! Memory that all requests in flight share: who asks for more than is left waits.

use std::sync::{Arc, Condvar, Mutex, PoisonError};

/// So many bytes, lent out.
#[derive(Debug)]
pub(crate) struct Budget {
    left: Mutex<u64>,
    returned: Condvar,
}

/// Some of the bytes, given back when dropped.
#[derive(Debug)]
pub(crate) struct Loan {
    budget: Arc<Budget>,
    bytes: u64,
}

impl Budget {
    pub(crate) fn new(bytes: u64) -> Arc<Self> {
        Arc::new(Self { left: Mutex::new(bytes), returned: Condvar::new() })
    }

    /// Borrows; waits until there is enough. Nobody may ask for more than there is in all.
    pub(crate) fn borrow(self: &Arc<Self>, bytes: u32) -> Loan {
        let bytes = u64::from(bytes);
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        while *left < bytes {
            left = self.returned.wait(left).unwrap_or_else(PoisonError::into_inner);
        }
        *left -= bytes;
        Loan { budget: Arc::clone(self), bytes }
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        *self.budget.left.lock().unwrap_or_else(PoisonError::into_inner) += self.bytes;
        self.budget.returned.notify_all();
    }
}
