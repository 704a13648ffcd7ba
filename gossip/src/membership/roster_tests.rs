//! Rosters that are told things in every order.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use sustain_proto::{Admission, Details, Fact, NodeId, Removal};

use super::roster::{Merged, RemovedNode, Roster};
use super::roster_error::RosterError;
use super::statement;
use crate::identity::NodeKey;

fn details(name: &str) -> Details {
    let address = "192.0.2.1:7411".parse().unwrap();
    Details { name: name.to_owned(), address, domain: String::new(), priority: 1 }
}

fn found(count: usize) -> Vec<Roster> {
    let keys: Vec<NodeKey> = (0..count).map(|_| NodeKey::generate().unwrap()).collect();
    let all: BTreeMap<NodeId, Details> = keys.iter().map(|key| (key.node_id(), details("founder"))).collect();
    let others = |me: NodeId| all.clone().into_iter().filter(|(node, _)| *node != me).collect();
    keys.into_iter()
        .map(|key| Roster::new(key.clone(), details("founder"), others(key.node_id())).unwrap())
        .collect()
}

/// As `snapctl join` does it: the new node is told who the members are.
fn join(inviter: &mut Roster) -> Roster {
    let key = NodeKey::generate().unwrap();
    inviter.admit(key.node_id(), details("joined")).unwrap();
    let seed = BTreeMap::from([(inviter.me(), details("inviter"))]);
    let mut joined = Roster::new(key, details("joined"), seed).unwrap();
    let told = joined.merge(inviter.facts().iter().collect::<Vec<_>>());
    assert_eq!(told.refused, 0, "{:?}", told.why);
    joined
}

fn pull(all: &mut [Roster], to: usize, from: usize) -> Merged {
    let facts: Vec<Fact> = all[from].facts().iter().collect();
    all[to].merge(facts)
}

fn are_peers(all: &[Roster], one: usize, other: usize) -> bool {
    one != other
        && all[one].members().contains_key(&all[other].me())
        && all[other].members().contains_key(&all[one].me())
}

/// Everyone talks to whoever talks to it, until nobody has news.
fn settle_all(all: &mut [Roster]) {
    for _ in 0..50 {
        let mut is_news = false;
        for one in 0..all.len() {
            for other in 0..all.len() {
                if are_peers(all, one, other) {
                    is_news |= pull(all, one, other).is_news;
                }
            }
        }
        if !is_news {
            return;
        }
    }
    panic!("the rosters don't settle");
}

fn ids(roster: &Roster) -> BTreeSet<NodeId> {
    roster.members().keys().copied().collect()
}

#[test]
fn who_is_admitted_by_one_is_known_to_all_and_who_is_removed_is_out_for_ever() {
    let mut all = found(3);
    let joined = join(&mut all[1]);
    all.push(joined);
    settle_all(&mut all);
    assert!(all.iter().all(|roster| roster.members().len() == 4));
    assert_eq!(all[0].members()[&all[3].me()].name, "joined");
    let (out, by) = (all[0].me(), all[2].me());
    all[2].remove(out).unwrap();
    settle_all(&mut all);
    for roster in &all[1..] {
        assert_eq!(roster.members().len(), 3);
        assert_eq!(roster.removed(&out).unwrap(), RemovedNode { name: Some("founder".into()), by });
    }
    let error = all[1].admit(out, details("again")).unwrap_err();
    assert!(matches!(error, RosterError::Removed { .. }), "{error}");
    // It heard of it, or not: what it says from now on reaches nobody who refuses to talk to it.
    assert!(!are_peers(&all, 0, 1));
}

#[test]
fn a_new_address_is_known_to_all_and_survives_the_loss_of_the_file() {
    let mut all = found(3);
    settle_all(&mut all);
    let moved = Details { address: "198.51.100.9:7411".parse().unwrap(), ..details("founder") };
    let configured = all[0].configured().clone();
    let key = all[0].key().clone();
    // Twice, so that the version that the others know is above what a new roster begins with.
    for address in ["198.51.100.8:7411", "198.51.100.9:7411"] {
        let own = Details { address: address.parse().unwrap(), ..details("founder") };
        let mut again = Roster::new(key.clone(), own, configured.clone()).unwrap();
        again.merge(all[0].facts().iter().collect::<Vec<_>>());
        all[0] = again;
    }
    settle_all(&mut all);
    assert!(all[1..].iter().all(|roster| roster.members()[&key.node_id()] == moved));
    let back = details("founder");
    all[0] = Roster::new(key.clone(), back.clone(), configured).unwrap();
    settle_all(&mut all);
    assert!(all.iter().all(|roster| roster.members()[&key.node_id()] == back));
}

#[test]
fn what_a_stolen_key_admits_after_its_removal_is_out_with_it_and_what_it_had_admitted_before_stays() {
    let mut all = found(3);
    let honest = join(&mut all[0]);
    all.push(honest);
    settle_all(&mut all);
    let (stolen, member) = (all[0].me(), all[3].me());
    all[1].remove(stolen).unwrap();
    let late = join(&mut all[0]);
    let accomplice = join(&mut all.iter_mut().next().unwrap().clone());
    let late = late.me();
    // The removed one's facts reach the others through one that has not heard yet.
    pull(&mut all, 2, 0);
    settle_all(&mut all);
    for roster in &all[1..] {
        assert!(roster.members().contains_key(&member), "known to the one who removed");
        assert!(!roster.members().contains_key(&late));
        assert!(!roster.members().contains_key(&accomplice.me()));
        assert_eq!(ids(roster), ids(&all[1]));
    }
}

#[test]
fn who_removes_the_only_one_that_admitted_it_is_vouched_for() {
    let mut all = found(3);
    let joined = join(&mut all[0]);
    all.push(joined);
    settle_all(&mut all);
    let out = all[0].me();
    all[3].remove(out).unwrap();
    settle_all(&mut all);
    assert!(all[1..].iter().all(|roster| roster.members().len() == 3));
}

/// Else whoever steals a key could bring other removed keys back by removing their remover.
#[test]
fn a_removal_stays_when_the_one_that_signed_it_is_removed_since() {
    let mut all = found(4);
    settle_all(&mut all);
    let (first, second) = (all[0].me(), all[1].me());
    all[1].remove(first).unwrap();
    settle_all(&mut all);
    all[2].remove(second).unwrap();
    settle_all(&mut all);
    for roster in &all[2..] {
        assert_eq!(roster.members().len(), 2);
        assert_eq!(roster.removed(&first).unwrap().by, second);
    }
}

#[test]
fn lies_and_strangers_are_refused() {
    let mut all = found(2);
    let stranger = found(1).remove(0);
    let told = all[0].merge(stranger.facts().iter().collect::<Vec<_>>());
    assert!(matches!(told.why, Some(RosterError::Stranger { .. })), "{:?}", told.why);
    let mut forged = statement::sign(
        stranger.key(),
        Admission { node: stranger.me(), by: stranger.me(), details: details("x") },
    )
    .unwrap();
    forged.body.by = all[1].me();
    let told = all[0].merge([Fact::Admission(forged)]);
    assert!(!told.is_news && told.refused == 1, "{told:?}");
    let removal = Removal { node: all[1].me(), by: stranger.me() };
    let told = all[0].merge([Fact::Removal(statement::sign(stranger.key(), removal).unwrap())]);
    assert!(!told.is_news && told.refused == 1, "{told:?}");
    assert_eq!(all[0].members().len(), 2);
    let me = all[0].me();
    assert!(matches!(all[0].remove(me).unwrap_err(), RosterError::Itself));
    assert!(matches!(all[0].remove(stranger.me()).unwrap_err(), RosterError::NoMember { .. }));
}

#[derive(Debug, Clone)]
enum Step {
    Join(usize),
    Remove(usize, usize),
    Pull(usize, usize),
}

fn step() -> impl Strategy<Value = Step> {
    let any = 0_usize..100;
    prop_oneof![
        2 => any.clone().prop_map(Step::Join),
        2 => (any.clone(), any.clone()).prop_map(|(by, node)| Step::Remove(by, node)),
        6 => (any.clone(), any).prop_map(|(to, from)| Step::Pull(to, from)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Members that remove one another at once, and others: whoever hears of it in whatever order and in whatever
    /// parts has the same members, and whoever was removed by anybody is out.
    #[test]
    fn removals_count_the_same_in_any_order(
        pairs in prop::collection::vec((0_usize..6, 0_usize..6), 1..12),
        order in any::<u64>(),
        part in 1_usize..5,
    ) {
        let mut all = found(6);
        let before: Vec<Roster> = all.clone();
        for (by, node) in pairs {
            let node = before[node].me();
            // Itself is refused, and so is one that it has removed before.
            let _ = all[by].remove(node);
        }
        let mut facts: Vec<Fact> = all.iter().flat_map(|roster| roster.facts().iter()).collect();
        let mut told = before[0].clone();
        told.merge(facts.clone());
        facts.sort_by_key(|fact| blake3::hash(format!("{order} {fact:?}").as_bytes()).to_hex().to_string());
        let mut other = before[0].clone();
        // Twice, as who is admitted by what comes later is believed then.
        for _ in 0..2 {
            for part in facts.chunks(part) {
                other.merge(part.to_vec());
            }
        }
        prop_assert_eq!(ids(&told), ids(&other));
        for fact in &facts {
            if let Fact::Removal(removal) = fact {
                prop_assert!(!told.members().contains_key(&removal.body.node));
            }
        }
    }

    /// Whoever joins and removes whom in whatever order: nodes that take one another for members have the same
    /// facts in the end, and the same members.
    #[test]
    fn nodes_that_talk_agree(steps in prop::collection::vec(step(), 1..40)) {
        let mut all = found(3);
        for step in steps {
            let count = all.len();
            match step {
                Step::Join(by) if count < 12 => {
                    let joined = join(&mut all[by % count]);
                    all.push(joined);
                }
                Step::Remove(by, node) => {
                    let members: Vec<NodeId> = ids(&all[by % count]).into_iter().collect();
                    if let Some(node) = members.get(node % members.len().max(1)) {
                        // Itself is refused.
                        let _ = all[by % count].remove(*node);
                    }
                }
                Step::Pull(to, from) if are_peers(&all, to % count, from % count) => {
                    pull(&mut all, to % count, from % count);
                }
                Step::Join(_) | Step::Pull(..) => {}
            }
        }
        settle_all(&mut all);
        for one in 0..all.len() {
            for other in 0..all.len() {
                if are_peers(&all, one, other) {
                    prop_assert_eq!(all[one].digest(), all[other].digest());
                    prop_assert_eq!(ids(&all[one]), ids(&all[other]));
                }
            }
            for (node, _) in all[one].all_removed() {
                prop_assert!(!all[one].members().contains_key(&node));
            }
        }
    }
}
