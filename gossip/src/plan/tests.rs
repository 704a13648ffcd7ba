//! What plans come to, with peers that are simulated.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use sustain_proto::Piece;

use super::simulated::{Outcome, Peer, Simulation, node, piece};
use super::{Stuck, Verdict};

/// A hundredth of a gigabit a second.
const SLOW: f64 = 1_250.0;
const FAST: f64 = 125_000.0;
const PACK: u64 = 16 << 20;

fn packs(count: u16, bytes: u64) -> BTreeMap<Piece, u64> {
    (0..count).map(|number| (piece(number), bytes)).collect()
}

fn gather(sizes: &BTreeMap<Piece, u64>, peers: Vec<Peer>) -> Outcome {
    Simulation::new(sizes.clone(), peers, 1).run()
}

fn all(sizes: &BTreeMap<Piece, u64>, bytes_per_ms: f64) -> Peer {
    Peer::with(sizes.keys().copied(), bytes_per_ms)
}

fn total(sizes: &BTreeMap<Piece, u64>) -> f64 {
    sizes.values().sum::<u64>() as f64
}

#[test]
fn peers_together_are_as_quick_as_the_sum_of_them_also_for_a_single_pack() {
    for sizes in [packs(20, PACK), packs(1, 10 * PACK)] {
        for speeds in [vec![FAST; 4], vec![FAST, FAST / 2.0, FAST / 4.0]] {
            let best_ms = total(&sizes) / speeds.iter().sum::<f64>();
            let outcome = gather(&sizes, speeds.iter().map(|speed| all(&sizes, *speed)).collect());
            assert_eq!(outcome.verdict, Verdict::Finished);
            assert!((outcome.took_ms as f64) < 1.15 * best_ms + 30.0, "{outcome:?}, at best {best_ms} ms");
            assert!((outcome.bytes as f64) < 1.02 * total(&sizes), "little comes twice: {outcome:?}");
        }
    }
}

#[test]
fn one_peer_at_a_hundredth_of_the_speed_costs_little() {
    for sizes in [packs(20, PACK), packs(4, PACK)] {
        for fast in [1, 2, 4] {
            let mut peers = vec![all(&sizes, FAST); fast];
            let without = gather(&sizes, peers.clone());
            peers.insert(0, all(&sizes, SLOW));
            let with = gather(&sizes, peers);
            assert_eq!(with.verdict, Verdict::Finished);
            let most_ms = 1.2 * without.took_ms as f64 + 40.0;
            assert!(
                (with.took_ms as f64) < most_ms,
                "{fast} fast ones: {} ms and {} ms",
                without.took_ms,
                with.took_ms
            );
        }
    }
}

#[test]
fn who_freezes_or_dies_is_left_at_once() {
    let sizes = packs(20, PACK);
    let alone = gather(&sizes, vec![all(&sizes, FAST), all(&sizes, FAST)]);
    let frozen = Peer { freezes_ms: Some(300), ..all(&sizes, FAST) };
    let dead = Peer { dies_ms: Some(500), ..all(&sizes, FAST) };
    let never = Peer { freezes_ms: Some(0), ..all(&sizes, FAST) };
    let outcome = gather(&sizes, vec![frozen, all(&sizes, FAST), dead, all(&sizes, FAST), never]);
    assert_eq!(outcome.verdict, Verdict::Finished);
    assert!(outcome.took_ms < alone.took_ms, "{} ms and {} ms", outcome.took_ms, alone.took_ms);
}

#[test]
fn liars_are_named_and_left_and_what_only_they_have_is_taken_from_them() {
    let sizes = packs(10, PACK);
    let liar = Peer { lies: Some(20), ..all(&sizes, FAST) };
    let outcome = gather(&sizes, vec![liar.clone(), all(&sizes, FAST)]);
    assert_eq!((outcome.verdict, outcome.liars), (Verdict::Finished, BTreeSet::from([node(0)])));
    let outcome = gather(&sizes, vec![liar.clone(), liar]);
    let Verdict::Stuck(stuck) = outcome.verdict else { panic!("{:?}", outcome.verdict) };
    assert_eq!(stuck.damaged.len(), 10);
    // A disk with a bad sector, say: the others of its packs are good.
    let sizes = packs(2, 1 << 20);
    let mostly = Peer { lies: Some(17), ..all(&sizes, FAST) };
    let good = Peer::with([piece(0), piece(1)], SLOW);
    assert_eq!(gather(&sizes, vec![mostly, good]).verdict, Verdict::Finished);
}

#[test]
fn reasons_are_told_apart() {
    let sizes = packs(3, PACK);
    let liar = Peer { lies: Some(1), ..Peer::with([piece(1)], FAST) };
    let dead = Peer { dies_ms: Some(0), ..Peer::with([piece(2)], FAST) };
    let stuck = Stuck { missing: vec![piece(0)], unreachable: vec![piece(2)], damaged: vec![piece(1)] };
    assert_eq!(gather(&sizes, vec![liar, dead]).verdict, Verdict::Stuck(stuck));
    assert_eq!(gather(&BTreeMap::new(), vec![]).verdict, Verdict::Finished);
}

/// Each delta's pack was asked for by itself: with 300 of them the round trips took longer than the bytes.
#[test]
fn many_small_packs_take_no_longer_than_a_large_one_of_their_size() {
    let one = packs(19, PACK);
    let bytes = (total(&one) / 300.0) as u64;
    for small in [packs(300, bytes), packs(2_000, 60 << 10)] {
        let large = packs((total(&small) / PACK as f64).ceil() as u16, PACK);
        let far = |sizes: &BTreeMap<Piece, u64>| {
            let peer = Peer { delay_ms: 10, ..all(sizes, FAST) };
            gather(sizes, vec![peer.clone(), peer.clone(), peer])
        };
        let (large, small) = (far(&large), far(&small));
        assert!(small.orders <= 2 * large.orders + 20, "{} and {} orders", small.orders, large.orders);
        let most_ms = 1.3 * large.took_ms as f64 + 100.0;
        assert!((small.took_ms as f64) < most_ms, "{} and {} ms", small.took_ms, large.took_ms);
    }
}

fn any_peer(pieces: u16) -> impl Strategy<Value = Peer> {
    let held = prop::collection::btree_set((0..pieces).prop_map(piece), 0..=usize::from(pieces));
    let maybe = || prop::option::weighted(0.2, 0_u64..2_000);
    let speed = prop::sample::select(vec![SLOW, FAST / 10.0, FAST]);
    let lies = prop::option::weighted(0.2, 1_u32..40);
    (held, speed, 0_u64..30, maybe(), maybe(), lies).prop_map(
        |(pieces, bytes_per_ms, delay_ms, freezes_ms, dies_ms, lies)| Peer {
            pieces,
            bytes_per_ms,
            delay_ms,
            freezes_ms,
            dies_ms,
            lies,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    /// Peers that are honest, lie, freeze and die as chance wills: it always ends, everything comes that an honest
    /// and steady peer has, and nobody else is called a liar.
    #[test]
    fn honest_steady_holders_are_enough(
        sizes in prop::collection::vec(prop::sample::select(vec![0, 1, 65_536, 65_537, 1 << 20, 5 << 20]), 1..12),
        peers in prop::collection::vec(any_peer(11), 1..6),
        seed in any::<u64>(),
    ) {
        let sizes: BTreeMap<Piece, u64> = (0..).map(piece).zip(sizes).collect();
        let mut peers = peers;
        peers.iter_mut().for_each(|peer| peer.pieces.retain(|piece| sizes.contains_key(piece)));
        let outcome = Simulation::new(sizes.clone(), peers.clone(), seed).run();
        let stuck = match outcome.verdict {
            Verdict::Finished => Stuck::default(),
            Verdict::Stuck(stuck) => stuck,
            Verdict::Going => return Err(TestCaseError::fail("nothing is under way")),
        };
        let left: BTreeSet<Piece> =
            stuck.missing.iter().chain(&stuck.unreachable).chain(&stuck.damaged).copied().collect();
        let steady = |peer: &&Peer| peer.lies.is_none() && peer.freezes_ms.is_none() && peer.dies_ms.is_none();
        for piece in sizes.keys() {
            if peers.iter().filter(steady).any(|peer| peer.pieces.contains(piece)) {
                prop_assert!(!left.contains(piece), "{piece:?} of {peers:?}");
            }
        }
        for liar in outcome.liars {
            prop_assert!(peers[usize::from(liar.as_bytes()[0])].lies.is_some());
        }
    }
}
