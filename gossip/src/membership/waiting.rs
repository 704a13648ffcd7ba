//! Logic: facts that replace others wait where their signer makes too many of them.
//!
//! A record has versions, and whoever has a key can sign any number: each would be synced to disk and told to all by
//! every node. So of one signer only a few are taken a minute; of those that wait the newest is kept. What is new
//! altogether never waits: the roster's size bounds it.

use std::collections::BTreeMap;

use sustain_proto::{Fact, NodeId};

use super::facts::Facts;
use super::trust::{believable, signer};
use crate::limits;
use crate::pace::Pace;

/// Facts that wait.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    /// The newest of each, none that was ever taken.
    held: Facts,
    paces: BTreeMap<NodeId, Pace>,
}

/// What may be taken now.
#[derive(Debug, Default)]
pub(crate) struct Sifted {
    /// These.
    pub(crate) now: Vec<Fact>,
    /// How many wait that are signed by the node that has sent them, and were not seen before.
    pub(crate) own_held: usize,
}

impl Waiting {
    /// Takes out what has to wait. Whatever is not believed is left in: it is refused later.
    pub(crate) fn sift(&mut self, from: NodeId, facts: Vec<Fact>, known: &Facts, now_ms: u64) -> Sifted {
        let mut sifted = Sifted::default();
        for fact in facts {
            if !known.is_replaced_by(&fact) || believable(&fact).is_err() || self.may(&fact, now_ms) {
                sifted.now.push(fact);
                continue;
            }
            let is_own = signer(&fact) == from;
            if self.held.add(fact) && is_own {
                sifted.own_held += 1;
            }
        }
        sifted
    }

    /// What has waited for long enough, and is still news.
    pub(crate) fn due(&mut self, known: &Facts, now_ms: u64) -> Vec<Fact> {
        let held: Vec<Fact> = std::mem::take(&mut self.held).iter().collect();
        let mut due = Vec::new();
        for fact in held.into_iter().filter(|fact| known.is_news(fact)) {
            if self.may(&fact, now_ms) {
                due.push(fact);
            } else {
                self.held.add(fact);
            }
        }
        self.paces.retain(|_, pace| !pace.is_full(now_ms));
        due
    }

    fn may(&mut self, fact: &Fact, now_ms: u64) -> bool {
        let new = || Pace::new(limits::FACTS_REPLACED_AT_ONCE, limits::FACTS_REPLACED_PER_MINUTE, now_ms);
        self.paces.entry(signer(fact)).or_insert_with(new).take(now_ms)
    }
}

#[cfg(test)]
mod tests {
    use sustain_proto::{Details, Record};

    use super::*;
    use crate::identity::NodeKey;
    use crate::membership::statement::sign;

    fn record(key: &NodeKey, version: u64) -> Fact {
        let address = "192.0.2.1:7411".parse().unwrap();
        let details = Details { name: "north".to_owned(), address, domain: String::new(), priority: 1 };
        Fact::Record(sign(key, Record { node: key.node_id(), version, details }).unwrap())
    }

    fn version(fact: &Fact) -> u64 {
        let Fact::Record(record) = fact else { panic!("{fact:?}") };
        record.body.version
    }

    /// A node that signs its record over and over, a hundred times a second.
    #[test]
    fn of_a_flood_a_few_versions_pass_a_minute_and_the_newest_at_last() {
        let (key, calm) = (NodeKey::generate().unwrap(), NodeKey::generate().unwrap());
        let (mut waiting, mut known) = (Waiting::default(), Facts::default());
        known.add(record(&calm, 1));
        let (mut passed, mut held) = (0, 0);
        let mut take = |known: &mut Facts, now: Vec<Fact>| {
            passed += now.len();
            for fact in now {
                known.add(fact);
            }
        };
        for number in 1..=2_000_u64 {
            let now_ms = number * 10;
            let sifted = waiting.sift(key.node_id(), vec![record(&key, number)], &known, now_ms);
            held += sifted.own_held;
            take(&mut known, sifted.now);
            if number % 300 == 0 {
                let due = waiting.due(&known, now_ms);
                take(&mut known, due);
            }
            assert!(waiting.held.len() <= 1 && waiting.paces.len() <= 1, "one waits, the newest");
        }
        // Nobody else waits for it.
        let sifted = waiting.sift(key.node_id(), vec![record(&calm, 2)], &known, 20_000);
        assert_eq!((sifted.now.len(), sifted.own_held), (1, 0));
        let due = waiting.due(&known, 80_000);
        take(&mut known, due);
        assert_eq!(known.record(&key.node_id()).unwrap().version, 2_000);
        assert!(passed <= 9, "{passed} versions in 20 s");
        assert!(held > 1_900, "{held}");
        assert!(waiting.due(&known, 10_000_000).is_empty() && waiting.paces.is_empty());
    }

    #[test]
    fn what_is_forged_or_known_takes_nobodys_turn() {
        let key = NodeKey::generate().unwrap();
        let (mut waiting, mut known) = (Waiting::default(), Facts::default());
        known.add(record(&key, 5));
        let forged = |version| {
            let Fact::Record(mut forged) = record(&key, 1) else { panic!() };
            forged.body.version = version;
            Fact::Record(forged)
        };
        let facts = (10..110).map(forged).chain((0..100).map(|_| record(&key, 5))).collect();
        let sifted = waiting.sift(key.node_id(), facts, &known, 0);
        assert_eq!((sifted.now.len(), sifted.own_held), (200, 0), "left to be refused, or ignored");
        let sifted = waiting.sift(key.node_id(), vec![record(&key, 6)], &known, 0);
        assert_eq!(sifted.now.iter().map(version).collect::<Vec<_>>(), [6]);
    }
}
