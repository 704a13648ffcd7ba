//! Keeping a process to some of the machine's processor cores.

use std::io;
use std::num::NonZeroUsize;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// Keeps this thread, and every thread and process that it starts from now on, to so many of the cores that it may use:
/// those with the greatest numbers. To be called before any other thread is started.
pub(crate) fn keep_to(cores: NonZeroUsize) -> io::Result<()> {
    let kept = greatest(&sched_getaffinity(None)?, cores.get());
    Ok(sched_setaffinity(None, &kept)?)
}

/// So many of a set, or all if there are not more.
fn greatest(allowed: &CpuSet, count: usize) -> CpuSet {
    let mut kept = CpuSet::new();
    let all = (0..CpuSet::MAX_CPU).rev().filter(|core| allowed.is_set(*core));
    all.take(count).for_each(|core| kept.set(core));
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_the_allowed_cores_the_last_ones_are_kept() {
        let mut allowed = CpuSet::new();
        [0, 2, 3, 7].into_iter().for_each(|core| allowed.set(core));
        let kept = |count| {
            let kept = greatest(&allowed, count);
            (0..CpuSet::MAX_CPU).filter(|core| kept.is_set(*core)).collect::<Vec<_>>()
        };
        assert_eq!(kept(1), [7]);
        assert_eq!(kept(2), [3, 7]);
        assert_eq!(kept(9), [0, 2, 3, 7]);
    }

    #[test]
    fn a_thread_and_what_it_starts_keep_to_their_cores() {
        let kept = std::thread::spawn(|| {
            keep_to(NonZeroUsize::MIN).unwrap();
            std::thread::spawn(std::thread::available_parallelism).join().unwrap().unwrap()
        });
        assert_eq!(kept.join().unwrap(), NonZeroUsize::MIN);
    }
}
