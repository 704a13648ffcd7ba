//! Keeps a panic of the database from becoming one of ours.
//!
//! The embedded database asserts that what it reads is what it wrote. On a damaged file that does not
//! hold. The database is only a cache here, so such a panic means "make it anew", and is not reported.

use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;

thread_local! {
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

static HOOK: Once = Once::new();

/// Runs a piece of work and turns a panic inside it into its message.
pub(crate) fn quietly<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    // The hook that was there stays in charge of every other panic of the process.
    HOOK.call_once(|| {
        let previous = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !QUIET.with(Cell::get) {
                previous(info);
            }
        }));
    });
    let before = QUIET.with(|quiet| quiet.replace(true));
    let outcome = panic::catch_unwind(AssertUnwindSafe(work));
    QUIET.with(|quiet| quiet.set(before));
    outcome.map_err(|payload| {
        payload
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| payload.downcast_ref::<&str>().map(ToString::to_string))
            .unwrap_or_else(|| "it gave up without a reason".to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_its_message() {
        assert_eq!(quietly(|| 5), Ok(5));
        assert_eq!(quietly(|| -> u8 { panic!("bad page {}", 7) }), Err("bad page 7".to_owned()));
    }
}
