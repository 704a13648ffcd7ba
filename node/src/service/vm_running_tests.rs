//! Tests of when snapshots are due, what they are of, and what a rebase promotes.

use sustain_proto::NodeId;

use super::*;

fn term(counter: u64) -> Term {
    Term { counter, node: NodeId::from_bytes([1; 32]), nonce: 0 }
}

fn delta(counter: u64, seq: u8, durable: bool) -> SnapshotInfo {
    SnapshotInfo {
        id: SnapshotId::from_bytes([seq; 32]),
        service: ServiceName::new("counter").unwrap(),
        base: Some(SnapshotId::from_bytes([0; 32])),
        parents: Vec::new(),
        term: term(counter),
        origin: None,
        seq: seq.into(),
        time_ms: 0,
        bytes: 0,
        bytes_new: 0,
        durable,
        level: None,
        came_from: Vec::new(),
    }
}

/// Each snapshot that a guest asked for moved the next periodic one an interval ahead: 321 questions, and there
/// was none for five minutes.
#[test]
fn snapshots_that_the_guest_asks_for_never_put_off_the_next_one_for_more_than_an_interval() {
    let (start, interval) = (Instant::now(), Duration::from_secs(1));
    let (mut now, mut due) = (start, start + interval);
    for _ in 0..321 {
        let begun = now;
        now += Duration::from_millis(75);
        due = next_due(due, begun, now, interval);
        assert!(due > now && due <= begun + interval);
    }
    // One that is late is not made up for, and the beat is kept otherwise.
    assert_eq!(next_due(start, start + interval * 5, start + interval * 6, interval), start + interval * 6);
    let late = start + Duration::from_millis(20);
    assert_eq!(next_due(start, late, late, interval), start + interval);
}

#[test]
fn a_stall_is_told_when_it_begins_and_when_it_ends() {
    let mut stall = Stall::default();
    let looks = [false, true, true, false, false].map(|now| {
        stall.now = now;
        stall.change()
    });
    assert_eq!(looks, [None, Some(true), None, Some(false), None]);
}

/// The VM's driver wraps what its sink says, and only a rebase helps.
#[test]
fn too_many_packs_are_seen_through_the_driver_s_own_error() {
    let service = ServiceName::new("counter").unwrap();
    let source = Box::new(PushError::TooManyPacks { service });
    let region = RegionName::new("ram").unwrap();
    assert!(is_full(&SnapshotError::Sink { region, source }));
    assert!(!is_full(&SnapshotError::Busy));
}

/// With too few nodes left, a rebase promoted a snapshot that nobody else had, and dropped the last
/// durable one for it.
#[test]
fn a_rebase_never_promotes_past_the_newest_durable_snapshot() {
    let origin = Some(TermOrigin { parent: term(1), seq: 3 });
    let list = [delta(1, 2, true), delta(1, 3, true), delta(1, 4, true), delta(2, 5, false)];
    // Number 4 is on the other side of the fork.
    assert_eq!(to_promote(&list, &term(2), origin), Some(SnapshotId::from_bytes([3; 32])));
    assert_eq!(to_promote(&list[3..], &term(2), origin), None);
    let base = SnapshotInfo { base: None, ..delta(2, 6, true) };
    assert_eq!(to_promote(&[delta(2, 5, true), base], &term(2), origin), None);
}
