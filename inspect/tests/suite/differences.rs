//! What differs between two snapshots, page by page.

use std::sync::Arc;

use proptest::prelude::*;
use sustain_inspect::{DiffError, RegionDiff, Span, compare};
use sustain_proto::SnapshotId;
use sustain_store::NoProgress;

use crate::support::{Bench, noise};

const PAGE: usize = 4_096;

fn diff(bench: &Bench, before: SnapshotId, after: SnapshotId) -> Vec<RegionDiff> {
    let open = |id| bench.store.open_snapshot(id).unwrap();
    compare(&open(before), &Arc::new(open(after)), &NoProgress).unwrap()
}

fn span(first_page: usize, pages: usize) -> Span {
    Span { offset: (first_page * PAGE) as u64, bytes: (pages * PAGE) as u64 }
}

#[test]
fn pages_that_changed_are_told_and_no_others() {
    let bench = Bench::new();
    let old = noise(1, 64 * PAGE);
    let mut new = old.clone();
    new[5 * PAGE + 7] ^= 1;
    new[6 * PAGE] ^= 1;
    new[15 * PAGE..17 * PAGE].fill(0);
    new[63 * PAGE..].fill(7);
    let before = bench.push("s", &[("ram", &old), ("same", &old[..PAGE])]);
    let after = bench.push("s", &[("ram", &new), ("same", &old[..PAGE])]);
    let found = diff(&bench, before, after);
    assert_eq!(found[0].ranges, [span(5, 2), span(15, 2), span(63, 1)]);
    assert_eq!((found[0].pages_changed, found[0].chunks_changed), (5, 3));
    assert_eq!(found[0].bytes_changed, 5 * PAGE as u64);
    assert!(!found[0].coarse && found[0].ext4.is_none());
    assert_eq!((found[1].region.as_str(), found[1].pages_changed, found[1].chunks_changed), ("same", 0, 0));
    assert_eq!(diff(&bench, after, before)[0].ranges, found[0].ranges);
    assert!(diff(&bench, after, after).iter().all(|region| region.pages_changed == 0));
}

#[test]
fn regions_that_grow_come_and_go_are_told() {
    let bench = Bench::new();
    let bytes = noise(1, 40 * PAGE);
    let before = bench.push("s", &[("grows", &bytes[..20 * PAGE + 5]), ("goes", &bytes[..10])]);
    let after = bench.push("s", &[("comes", &bytes[..PAGE]), ("grows", &bytes)]);
    let found = diff(&bench, before, after);
    let sizes = |number: usize| (found[number].bytes_before, found[number].bytes_after);
    assert_eq!(
        found.iter().map(|region| region.region.as_str()).collect::<Vec<_>>(),
        ["comes", "grows", "goes"]
    );
    assert_eq!(sizes(0), (None, Some(PAGE as u64)));
    assert_eq!(sizes(2), (Some(10), None));
    let from = (20 * PAGE + 5) as u64;
    assert_eq!(found[1].ranges, [Span { offset: from, bytes: 40 * PAGE as u64 - from }]);
}

#[test]
fn snapshots_of_two_services_are_not_compared() {
    let bench = Bench::new();
    let (one, other) = (bench.push("one", &[("ram", b"x")]), bench.push("other", &[("ram", b"x")]));
    let open = |id| bench.store.open_snapshot(id).unwrap();
    let refused = compare(&open(one), &Arc::new(open(other)), &NoProgress).unwrap_err();
    assert!(matches!(refused, DiffError::Services { .. }));
}

#[test]
fn any_changes_are_told_as_comparing_all_bytes_would() {
    let bench = Bench::new();
    let old = noise(1, 100 * PAGE + 99);
    let before = bench.push("s", &[("ram", &old)]);
    let changes = proptest::collection::vec((0..old.len(), 0..3 * PAGE), 0..12);
    proptest!(ProptestConfig::with_cases(40), |(changes in changes, bytes in 0..110 * PAGE)| {
        let mut new = old.clone();
        for (at, length) in changes {
            let end = (at + length).min(new.len());
            new[at..end].iter_mut().for_each(|byte| *byte = byte.wrapping_add(1));
        }
        new.resize(bytes, 3);
        let after = bench.push("s", &[("ram", &new)]);
        let found = &diff(&bench, before, after)[0];
        let told = |page: usize| {
            let page = (page * PAGE) as u64..((page + 1) * PAGE) as u64;
            found.ranges.iter().any(|range| range.offset < page.end && range.end() > page.start)
        };
        for page in 0..old.len().max(new.len()).div_ceil(PAGE) {
            let part = |bytes: &[u8]| bytes.get(page * PAGE..bytes.len().min((page + 1) * PAGE)).map(<[u8]>::to_vec);
            prop_assert_eq!(told(page), part(&old) != part(&new), "page {}", page);
        }
    });
}
