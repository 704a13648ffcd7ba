//! Reading mounted files: any range is right, memory is bounded, and damage is an error.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use sustain_inspect::limits;

use crate::support::{Bench, noise};

const CHUNK: usize = 65_536;

/// Two snapshots, so that what is read comes from a base and a delta; zeros, noise, and text that compresses.
fn regions() -> [Vec<u8>; 2] {
    let mut first = noise(3, 40 * CHUNK + 1_234);
    first[5 * CHUNK..9 * CHUNK].fill(0);
    first[20 * CHUNK..30 * CHUNK].fill(b'a');
    let mut second = first.clone();
    second[6 * CHUNK + 10..6 * CHUNK + 5_000].copy_from_slice(&noise(4, 4_990));
    second[33 * CHUNK..34 * CHUNK].fill(0);
    second[12 * CHUNK + 4_096..12 * CHUNK + 8_192].copy_from_slice(&noise(5, 4_096));
    [first, second]
}

#[test]
fn any_range_read_from_a_mounted_file_is_what_was_pushed() {
    let bench = Bench::new();
    let regions = regions();
    let ids = regions.each_ref().map(|bytes| bench.push("s", &[("ram", bytes)]));
    let Some((_mount, point)) = bench.mount() else { return };
    let files = ids.map(|id| point.join("s").join(id.to_string()).join("ram"));
    let range = (0..2_usize, 0..41 * CHUNK + 1_234, prop_oneof![0..300_usize, 0..3 * CHUNK], any::<bool>());
    let ranges = proptest::collection::vec(range, 1..12);
    let mut runner = TestRunner::new(Config { cases: 60, failure_persistence: None, ..Config::default() });
    let outcome = runner.run(&ranges, |ranges| {
        for (number, offset, bytes, afresh) in ranges {
            let file = File::open(&files[number]).unwrap();
            if afresh {
                // What the kernel has is asked for again.
                let all = rustix::fs::Advice::DontNeed;
                rustix::fs::fadvise(&file, 0, None, all).unwrap();
            }
            let mut read = vec![0xEE; bytes];
            let mut done = 0;
            while done < bytes {
                let more = file.read_at(&mut read[done..], (offset + done) as u64).unwrap();
                if more == 0 {
                    break;
                }
                done += more;
            }
            let whole = &regions[number];
            let expected = &whole[offset.min(whole.len())..(offset + bytes).min(whole.len())];
            prop_assert!(read[..done] == *expected, "{bytes} at {offset} of {number}");
        }
        Ok(())
    });
    outcome.unwrap();
}

#[test]
fn several_readers_at_once_get_what_was_pushed() {
    let bench = Bench::new();
    let regions = regions();
    let ids = regions.each_ref().map(|bytes| bench.push("s", &[("ram", bytes)]));
    let Some((_mount, point)) = bench.mount() else { return };
    std::thread::scope(|scope| {
        for reader in 0..6 {
            let (number, point) = (reader % 2, &point);
            let (bytes, path) = (&regions[number], point.join("s").join(ids[number].to_string()).join("ram"));
            scope.spawn(move || assert!(fs::read(path).unwrap() == *bytes, "reader {reader}"));
        }
    });
}

#[test]
fn the_cache_of_decoded_chunks_is_bounded() {
    let bench = Bench::new();
    let bytes = noise(9, limits::CHUNK_CACHE_BYTES + 8 * CHUNK);
    bench.push("s", &[("ram", &bytes)]);
    let Some((mount, point)) = bench.mount() else { return };
    assert_eq!(mount.cached_bytes(), 0);
    assert!(fs::read(point.join("s/latest/ram")).unwrap() == bytes);
    let cached = mount.cached_bytes();
    assert!(cached <= limits::CHUNK_CACHE_BYTES && cached > limits::CHUNK_CACHE_BYTES / 2, "{cached}");
}

#[test]
fn only_what_is_read_is_decoded() {
    let bench = Bench::new();
    bench.push("s", &[("ram", &noise(9, 200 * CHUNK))]);
    let Some((mount, point)) = bench.mount() else { return };
    let file = File::open(point.join("s/latest/ram")).unwrap();
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::Random).unwrap();
    let mut page = [0; 4_096];
    for chunk in [150, 7, 99] {
        file.read_exact_at(&mut page, chunk * CHUNK as u64).unwrap();
    }
    assert_eq!(mount.cached_bytes(), 3 * CHUNK);
}

#[test]
fn damage_is_an_error_where_it_is_and_nowhere_else() {
    let bench = Bench::new();
    let bytes = noise(9, 200 * CHUNK);
    bench.push("s", &[("ram", &bytes)]);
    let pack = bench.files("packs").into_iter().max_by_key(|file| fs::metadata(file).unwrap().len()).unwrap();
    let mut stored = fs::read(&pack).unwrap();
    let middle = stored.len() / 2;
    stored[middle] ^= 1;
    fs::write(&pack, stored).unwrap();
    let Some((_mount, point)) = bench.mount() else { return };
    let file = File::open(point.join("s/latest/ram")).unwrap();
    let (mut bad, mut page) = (Vec::new(), [0; 4_096]);
    for chunk in 0..200 {
        match file.read_exact_at(&mut page, (chunk * CHUNK) as u64) {
            Ok(()) => {
                assert!(page == bytes[chunk * CHUNK..chunk * CHUNK + 4_096], "wrong bytes in chunk {chunk}")
            }
            Err(error) => {
                assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::IO.raw_os_error()));
                bad.push(chunk);
            }
        }
    }
    // As many as are compressed together.
    assert!(!bad.is_empty() && bad.len() <= 16, "{bad:?}");
    assert!(fs::read(point.join("s/latest/ram")).is_err(), "all of it can't be read");
}

#[test]
fn no_more_files_are_opened_than_the_bounds_allow() {
    let bench = Bench::new();
    let ids: Vec<_> = (0..=limits::OPEN_SNAPSHOTS_MAX as u64)
        .map(|number| bench.push("s", &[("ram", &number.to_le_bytes())]))
        .collect();
    let Some((_mount, point)) = bench.mount() else { return };
    let path = |number: usize| point.join("s").join(ids[number].to_string()).join("ram");
    let mut open: Vec<File> =
        (0..limits::OPEN_SNAPSHOTS_MAX).map(|number| File::open(path(number)).unwrap()).collect();
    let refused = File::open(path(limits::OPEN_SNAPSHOTS_MAX)).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(rustix::io::Errno::NFILE.raw_os_error()));
    let mut number = [0; 8];
    open[5].read_exact_at(&mut number, 0).unwrap();
    assert_eq!(u64::from_le_bytes(number), 5);
    open.pop();
    crate::support::wait_for("one more may be opened", || {
        File::open(path(limits::OPEN_SNAPSHOTS_MAX)).is_ok()
    });
}
