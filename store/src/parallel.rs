//! Work on all cores: a shared counter hands out ranges, the first error stops everybody.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use crate::limits;

/// Splits `0..items` into ranges of at most `batch` and works on them, in order of their beginning, on
/// all cores. `make` gives each worker its state; the states are returned.
pub(crate) fn for_each_batch<S: Send, E: Send>(
    items: u64,
    batch: u64,
    make: impl Fn() -> Result<S, E> + Sync,
    work: impl Fn(&mut S, Range<u64>) -> Result<(), E> + Sync,
) -> Result<Vec<S>, E> {
    let next = AtomicU64::new(0);
    let stop = AtomicBool::new(false);
    let run = || {
        let mut state = make()?;
        while !stop.load(Ordering::Relaxed) {
            let start = next.fetch_add(batch, Ordering::Relaxed);
            if start >= items {
                break;
            }
            work(&mut state, start..items.min(start + batch))?;
        }
        Ok(state)
    };
    let run = || {
        let outcome = run();
        if outcome.is_err() {
            stop.store(true, Ordering::Relaxed);
        }
        outcome
    };
    let workers = worker_count(items.div_ceil(batch));
    if workers <= 1 {
        return run().map(|state| vec![state]);
    }
    thread::scope(|scope| {
        let handles: Vec<_> = (1..workers).map(|_| scope.spawn(run)).collect();
        let mut outcomes = vec![run()];
        for handle in handles {
            // A worker's panic is a bug; it goes on as if it had happened here.
            outcomes.push(handle.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
        outcomes.into_iter().collect()
    })
}

fn worker_count(batches: u64) -> u64 {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    batches.min(cores.min(limits::WORKERS_MAX) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_item_once() {
        let states = for_each_batch(
            1_000,
            7,
            || Ok::<_, ()>(Vec::new()),
            |seen: &mut Vec<u64>, range| {
                seen.extend(range);
                Ok(())
            },
        )
        .unwrap();
        let mut all: Vec<u64> = states.into_iter().flatten().collect();
        all.sort_unstable();
        assert_eq!(all, (0..1_000).collect::<Vec<_>>());
    }

    #[test]
    fn the_first_error_is_returned() {
        let outcome = for_each_batch(
            100,
            1,
            || Ok(()),
            |(), range| if range.contains(&50) { Err("fifty") } else { Ok(()) },
        );
        assert_eq!(outcome, Err("fifty"));
    }
}
