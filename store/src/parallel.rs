//! Work on several cores: a shared counter hands out ranges, the first error stops everybody.

use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use crate::limits;

/// How much of the machine work takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Pace {
    /// All cores: somebody waits for it.
    #[default]
    Full,
    /// All but one core, and after everybody else: whoever has the machine's work done meanwhile should not
    /// notice.
    Behind,
}

/// Splits `0..items` into ranges of at most `batch` and works on them, in order of their beginning, on
/// as many cores as the pace allows. `make` gives each worker its state; the states are returned.
pub(crate) fn for_each_batch<S: Send, E: Send>(
    pace: Pace,
    items: u64,
    batch: u64,
    make: impl Fn() -> Result<S, E> + Sync,
    work: impl Fn(&mut S, Range<u64>) -> Result<(), E> + Sync,
) -> Result<Vec<S>, E> {
    for_each_batch_then(pace, items, batch, make, work, |_| Ok(()))
}

/// The same, and when nothing is left to be handed out, each worker ends with its state what it has begun.
pub(crate) fn for_each_batch_then<S: Send, E: Send>(
    pace: Pace,
    items: u64,
    batch: u64,
    make: impl Fn() -> Result<S, E> + Sync,
    work: impl Fn(&mut S, Range<u64>) -> Result<(), E> + Sync,
    end: impl Fn(&mut S) -> Result<(), E> + Sync,
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
        end(&mut state)?;
        Ok(state)
    };
    let run = || {
        let outcome = run();
        if outcome.is_err() {
            stop.store(true, Ordering::Relaxed);
        }
        outcome
    };
    let workers = worker_count(pace, cores(), items.div_ceil(batch));
    // What has little to do does not need threads; and what is behind others never works on the caller's.
    let spawned = match pace {
        Pace::Full => workers.saturating_sub(1),
        Pace::Behind => workers,
    };
    thread::scope(|scope| {
        let behind = || {
            step_back();
            run()
        };
        let handles: Vec<_> = (0..spawned)
            .map(|_| match pace {
                Pace::Full => scope.spawn(run),
                Pace::Behind => scope.spawn(behind),
            })
            .collect();
        let mut outcomes = Vec::with_capacity(handles.len() + 1);
        if pace == Pace::Full {
            outcomes.push(run());
        }
        for handle in handles {
            // A worker's panic is a bug; it goes on as if it had happened here.
            outcomes.push(handle.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
        outcomes.into_iter().collect()
    })
}

/// Does something for each of a few things, at the same time, and returns the first error.
pub(crate) fn all_at_once<T: Sync, E: Send>(
    things: &[T],
    work: impl Fn(&T) -> Result<(), E> + Sync,
) -> Result<(), E> {
    for things in things.chunks(limits::AT_ONCE_MAX) {
        let Some((first, others)) = things.split_first() else { continue };
        let work = &work;
        thread::scope(|scope| {
            let spawn = |thing| thread::Builder::new().spawn_scoped(scope, move || work(thing));
            let others: Vec<_> = others.iter().map(|thing| (thing, spawn(thing))).collect();
            let mut outcome = work(first);
            for (thing, thread) in others {
                let other = match thread {
                    // A panic is a bug; it goes on as if it had happened here.
                    Ok(thread) => thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
                    // There is no thread to be had.
                    Err(_) => work(thing),
                };
                outcome = outcome.and(other);
            }
            outcome
        })?;
    }
    Ok(())
}

/// Does work that is not cut into batches behind others, on a thread of its own.
pub(crate) fn behind<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    let outcome = thread::scope(|scope| {
        let work = || {
            step_back();
            work()
        };
        scope.spawn(work).join()
    });
    outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Most workers of any work here.
pub(crate) fn workers_max() -> u64 {
    worker_count(Pace::Full, cores(), u64::MAX)
}

fn cores() -> usize {
    thread::available_parallelism().map_or(1, NonZeroUsize::get)
}

fn worker_count(pace: Pace, cores: usize, batches: u64) -> u64 {
    let cores = match pace {
        Pace::Full => cores,
        Pace::Behind => cores.saturating_sub(limits::CORES_LEFT_BEHIND).max(1),
    };
    batches.min(cores.min(limits::WORKERS_MAX) as u64)
}

/// Has the system prefer all other threads to this one, which ends with its work: only the superuser could take it
/// back.
fn step_back() {
    // Without a process id it is about the calling thread. Where it is refused the work is done all the same.
    let rank = rustix::process::getpriority_process(None).unwrap_or_default();
    let _ = rustix::process::setpriority_process(None, rank + limits::NICE_BEHIND);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_item_once() {
        for (pace, items) in [(Pace::Full, 1_000), (Pace::Behind, 1_000), (Pace::Full, 0), (Pace::Behind, 0)]
        {
            let states = for_each_batch(
                pace,
                items,
                7,
                || Ok::<_, ()>(Vec::new()),
                |seen: &mut Vec<u64>, range| {
                    seen.extend(range);
                    Ok(())
                },
            );
            let mut all: Vec<u64> = states.unwrap().into_iter().flatten().collect();
            all.sort_unstable();
            assert_eq!(all, (0..items).collect::<Vec<_>>());
        }
    }

    #[test]
    fn what_is_done_at_once_is_all_done_and_says_the_first_error() {
        let things: Vec<usize> = (0..2 * limits::AT_ONCE_MAX + 1).collect();
        let seen = std::sync::Mutex::new(Vec::new());
        let work = |thing: &usize| {
            seen.lock().unwrap().push(*thing);
            if *thing < 3 { Ok(()) } else { Err(*thing) }
        };
        assert_eq!(all_at_once(&things[..3], work), Ok(()));
        assert_eq!(all_at_once(&[], work), Ok(()));
        assert_eq!(all_at_once(&things, work), Err(3));
        let seen = seen.into_inner().unwrap();
        assert!(things[..limits::AT_ONCE_MAX].iter().all(|thing| seen.contains(thing)));
    }

    #[test]
    fn the_first_error_is_returned() {
        for pace in [Pace::Full, Pace::Behind] {
            let work =
                |(): &mut (), range: Range<u64>| if range.contains(&50) { Err("fifty") } else { Ok(()) };
            assert_eq!(for_each_batch(pace, 100, 1, || Ok(()), work), Err("fifty"));
        }
    }

    #[test]
    fn work_behind_others_leaves_them_a_core_and_the_callers_thread_its_rank() {
        let rank = || rustix::process::getpriority_process(None).unwrap();
        let (before, caller) = (rank(), thread::current().id());
        let work = |seen: &mut Vec<_>, _: Range<u64>| {
            seen.push((rank(), thread::current().id()));
            Ok::<_, ()>(())
        };
        let seen: Vec<_> = for_each_batch(Pace::Behind, 100, 1, || Ok(Vec::new()), work).unwrap().concat();
        assert!(
            seen.iter()
                .all(|(rank, thread)| *rank == (before + limits::NICE_BEHIND).min(19) && *thread != caller)
        );
        assert_eq!((seen.len(), rank()), (100, before));
        let workers = [1, 2, 4, 64].map(|cores| worker_count(Pace::Behind, cores, 1_000));
        assert_eq!(workers, [1, 1, 3, limits::WORKERS_MAX as u64]);
        assert_eq!(worker_count(Pace::Full, 4, 1_000), 4);
    }
}
