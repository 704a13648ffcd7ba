//! Pushing only what changed, and reading single chunks: the same states as by the long way.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use proptest::prelude::*;
use sustain_proto::Region;
use sustain_store::{ChunkRead, ErrorKind, NoProgress, PushError, ReadError, RegionSource, RestoreTarget};

use crate::common::*;

const CHUNK: usize = 65_536;
const BYTES: usize = 20 * CHUNK + 777;

/// A source that counts what is read of it.
struct Counted<'a>(&'a [u8], AtomicU64);

impl RegionSource for Counted<'_> {
    fn bytes(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.1.fetch_add(buf.len() as u64, Ordering::Relaxed);
        buf.copy_from_slice(&self.0[offset as usize..][..buf.len()]);
        Ok(())
    }
}

fn whole(content: &[u8]) -> Regions {
    regions(&[("ram", content.to_vec())])
}

fn write() -> impl Strategy<Value = (Range<usize>, u64)> {
    (0..BYTES, 1..3 * CHUNK, 0..5_u64)
        .prop_map(|(start, bytes, seed)| (start..BYTES.min(start + bytes), seed))
}

fn apply(content: &mut [u8], range: &Range<usize>, seed: u64) {
    let new = if seed == 0 { vec![0; range.len()] } else { noise(seed, range.len()) };
    content[range.clone()].copy_from_slice(&new);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Each snapshot is pushed in two parts, the second overriding the first where they meet, as a VM's memory
    /// is that runs on while it is read. It must restore to what pushing the whole restores to.
    #[test]
    fn pushing_changes_gives_the_state_that_pushing_everything_gives(
        rounds in proptest::collection::vec((proptest::collection::vec(write(), 0..4), write()), 1..5),
    ) {
        let (by_changes, by_whole) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (changes, all) = (create(by_changes.path()), create(by_whole.path()));
        let mut content = memory_like(3, BYTES);
        push(&changes, "mail", &whole(&content));
        push(&all, "mail", &whole(&content));
        for (writes, late) in rounds {
            for (range, seed) in &writes {
                apply(&mut content, range, *seed);
            }
            let mut push_changes = begin(&changes, "mail").unwrap();
            prop_assert!(push_changes.continues());
            let ranges: Vec<_> = writes.iter().map(|(range, _)| range.start as u64..range.end as u64).collect();
            push_changes.ingest_changes(&region("ram"), &Counted(&content, AtomicU64::new(0)), &ranges).unwrap();
            let (range, seed) = late;
            apply(&mut content, &range, seed);
            let range = range.start as u64..range.end as u64;
            let ranges = std::slice::from_ref(&range);
            push_changes.ingest_changes(&region("ram"), &Counted(&content, AtomicU64::new(0)), ranges).unwrap();
            let pushed = push_changes.commit().unwrap();
            let expected = push(&all, "mail", &whole(&content));
            prop_assert_eq!(pushed.chunks_changed, expected.chunks_changed);
            prop_assert_eq!(&restore(&changes, pushed.snapshot), &whole(&content));
            prop_assert_eq!(restore(&all, expected.snapshot), whole(&content));
        }
        verify_good(&changes);
    }
}

#[test]
fn only_what_changed_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let store = create(dir.path());
    let mut content = noise(1, BYTES);
    push(&store, "mail", &whole(&content));
    apply(&mut content, &(5 * CHUNK + 9..5 * CHUNK + 10), 2);
    let mut second = begin(&store, "mail").unwrap();
    let source = Counted(&content, AtomicU64::new(0));
    let at = 5 * CHUNK as u64 + 9;
    second.ingest_changes(&region("ram"), &source, &[at..at + 1, at..at + 1]).unwrap();
    assert_eq!(source.1.load(Ordering::Relaxed), CHUNK as u64);
    let report = second.commit().unwrap();
    assert_eq!((report.chunks_changed, report.chunks_new), (1, 1));
    assert_eq!(restore(&store, report.snapshot), whole(&content));
}

#[test]
fn changes_of_what_is_not_there_are_refused_and_the_push_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let store = create(dir.path());
    let content = noise(1, BYTES);
    let source = Counted(&content, AtomicU64::new(0));
    let mut first = begin(&store, "mail").unwrap();
    assert!(!first.continues());
    let error = first.ingest_changes(&region("ram"), &source, &[]).unwrap_err();
    assert!(matches!(error, PushError::NothingToContinue { .. }), "{error}");
    assert_eq!(error.kind(), ErrorKind::Refused);
    // Whole first, then what changed meanwhile: as the first snapshot of a running VM is taken.
    first.ingest(&region("ram"), &source).unwrap();
    first.ingest_changes(&region("ram"), &source, &[0..1, 0..1]).unwrap();
    assert!(matches!(first.ingest(&region("ram"), &source), Err(PushError::DuplicateRegion { .. })));
    let id = first.commit().unwrap().snapshot;
    assert_eq!(restore(&store, id), whole(&content));
    // The parent has the region, but in another size.
    let mut second = begin(&store, "mail").unwrap();
    let shorter = Counted(&content[..BYTES - 1], AtomicU64::new(0));
    let error = second.ingest_changes(&region("ram"), &shorter, &[0..1, 0..1]).unwrap_err();
    assert!(matches!(error, PushError::NothingToContinue { .. }), "{error}");
}

#[test]
fn chunks_are_read_in_any_order_and_outlive_a_rebase() {
    let dir = tempfile::tempdir().unwrap();
    let store = create(dir.path());
    let mut content = noise(1, BYTES);
    apply(&mut content, &(2 * CHUNK..4 * CHUNK), 0);
    push(&store, "mail", &whole(&content));
    apply(&mut content, &(CHUNK..CHUNK + 1), 9);
    let id = push(&store, "mail", &whole(&content)).snapshot;
    let reader = store.open_snapshot(id).unwrap();
    assert_eq!(reader.regions(), [Region { name: region("ram"), bytes: BYTES as u64 }]);
    let with_data: Vec<u64> = (0..=20).filter(|position| *position != 2 && *position != 3).collect();
    assert_eq!(reader.data_positions(&region("ram")).collect::<Vec<_>>(), with_data);
    apply(&mut content.clone(), &(0..BYTES), 4);
    push(&store, "mail", &whole(&noise(4, BYTES)));
    store.rebase(&service("mail"), None).unwrap();
    assert!(store.open_snapshot(id).is_err(), "the rebase dropped it");
    for position in (0..=20_usize).rev() {
        let expected = &content[position * CHUNK..BYTES.min((position + 1) * CHUNK)];
        let mut found = vec![0; expected.len()];
        let read = reader.read_chunk(&region("ram"), position as u64, &mut found).unwrap();
        assert_eq!(read == ChunkRead::Zero, (2..=3).contains(&position));
        assert!(found == expected, "chunk {position}");
    }
    let mut buf = vec![0; CHUNK];
    for (name, position) in [("ram", 20), ("ram", 21), ("ram", u64::MAX), ("disk0", 0)] {
        let error = reader.read_chunk(&region(name), position, &mut buf).unwrap_err();
        assert!(matches!(error, ReadError::NotFound { .. }), "{name} {position}: {error}");
    }
}

#[test]
fn a_region_that_nobody_wants_is_not_restored() {
    struct OnlyRam(Memory);
    impl RestoreTarget for OnlyRam {
        fn open(&self, region: &Region) -> io::Result<Option<File>> {
            if region.name.as_str() == "ram" { self.0.open(region) } else { Ok(None) }
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let store = create(dir.path());
    let content = regions(&[("disk0", noise(2, 3 * CHUNK)), ("ram", noise(1, BYTES))]);
    let id = push(&store, "mail", &content).snapshot;
    let target = OnlyRam(Memory::default());
    let report = store.restore(id, &target, &NoProgress).unwrap();
    assert_eq!(report.bytes_written, BYTES as u64);
    assert_eq!(target.0.read(), whole(&content["ram"]));
}
