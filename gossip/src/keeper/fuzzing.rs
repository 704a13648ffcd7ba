//! Any bytes as messages to a keeper, for the fuzzer.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rand::SeedableRng;
use rand::rngs::StdRng;
use sustain_proto::{Cut, NodeId, PackId, ServiceName, SnapshotId, Term};

use super::{Action, Entry, Event, Keeper, KeeperConfig, Kept, Message, Overlays, Pack, Signer, codec};

/// Whatever is signed by whomever is believed, so that what comes after that is reached, too.
#[derive(Debug)]
struct Anybody;

impl Signer for Anybody {
    fn sign(&self, _: &[u8]) -> [u8; 64] {
        [7; 64]
    }

    fn is_by(&self, _: &NodeId, _: &[u8], _: &[u8; 64]) -> bool {
        true
    }
}

const ME: NodeId = NodeId::from_bytes([1; 32]);
const OTHER: NodeId = NodeId::from_bytes([2; 32]);

fn keeper(me: NodeId, random: &mut StdRng) -> Keeper {
    let (config, overlays) = (KeeperConfig::default(), Overlays::default());
    let mut keeper = Keeper::new(me, config, overlays, 1, Kept::default(), Arc::new(Anybody));
    let nodes = (1..8).map(|number| (NodeId::from_bytes([number; 32]), String::new())).collect();
    keeper.handle(1, Event::Alive { nodes }, random);
    keeper
}

fn entries(term: Term) -> Vec<Entry> {
    let cut = Cut::in_groups(3, 24);
    let entry = |seq: u64| {
        let manifest = seq.to_le_bytes();
        let sheet = cut.map(|_| [3; 32]);
        let pack = Pack { id: PackId::of(&manifest), bytes: 100_000, cut, sheet, added: 0 };
        Entry {
            id: SnapshotId::of_manifest(&manifest),
            term,
            origin: None,
            seq,
            added: 0,
            base: None,
            manifest: Arc::from(&manifest[..]),
            packs: vec![pack],
        }
    };
    (1..4).map(entry).collect()
}

fn retain(keeper: &mut Keeper, me: NodeId, now_ms: u64, random: &mut StdRng) -> Vec<Action> {
    let Ok(service) = ServiceName::new("mail") else { return Vec::new() };
    let term = Term { counter: 1, node: me, nonce: 0 };
    let (terms, merged) = (BTreeMap::new(), BTreeSet::new());
    let entries = entries(term);
    let event = Event::Retained { service, term, tolerance: 1, warm: Vec::new(), terms, merged, entries };
    keeper.handle(now_ms, event, random)
}

/// Messages of one node to a keeper that is a server, too, each with two bytes of length before it.
pub fn messages(bytes: &[u8]) {
    let mut random = StdRng::seed_from_u64(1);
    let (mut keeper, mut now_ms) = (keeper(ME, &mut random), 5_000);
    keeper.handle(now_ms, Event::Wake, &mut random);
    retain(&mut keeper, ME, now_ms, &mut random);
    let mut rest = bytes;
    while let Some((length, after)) = rest.split_first_chunk::<2>() {
        let (one, after) = after.split_at(usize::from(u16::from_le_bytes(*length)).min(after.len()));
        rest = after;
        let Ok(message) = codec::decode(one) else { continue };
        assert!(
            codec::encode(&message).is_ok_and(|again| codec::decode(&again).is_ok_and(|it| it == message))
        );
        now_ms += 100;
        for action in keeper.handle(now_ms, Event::Message { from: OTHER, message }, &mut random) {
            if let Action::Send { message, .. } = action {
                assert!(codec::encode(&message).is_ok(), "an answer that is too large");
            }
        }
        now_ms = keeper.wakes_ms().clamp(now_ms, now_ms + 5_000);
        keeper.handle(now_ms, Event::Wake, &mut random);
    }
}

/// What a server and another node tell each other in the first seconds, as [`messages`] takes it.
#[must_use]
pub fn talk() -> Vec<u8> {
    let mut random = StdRng::seed_from_u64(2);
    let mut keepers = [(ME, keeper(ME, &mut random)), (OTHER, keeper(OTHER, &mut random))];
    let mut talk = Vec::new();
    for round in 0..20_u64 {
        let now_ms = 5_000 + round * 300;
        let mut actions = Vec::new();
        for (me, keeper) in &mut keepers {
            let woken = keeper.handle(now_ms, Event::Wake, &mut random);
            actions.extend(woken.into_iter().map(|action| (*me, action)));
            if round == 8 && *me == OTHER {
                let retained = retain(keeper, *me, now_ms, &mut random);
                actions.extend(retained.into_iter().map(|action| (*me, action)));
            }
        }
        while let Some((from, action)) = actions.pop() {
            let Action::Send { to, message } = action else { continue };
            if let Some(bytes) = codec::encode(&message).ok().filter(|_| to == ME) {
                talk.extend(u16::try_from(bytes.len()).unwrap_or(u16::MAX).to_le_bytes());
                talk.extend(&bytes);
            }
            if let Some((me, keeper)) = keepers.iter_mut().find(|(me, _)| *me == to) {
                let answers = keeper.handle(now_ms, Event::Message { from, message }, &mut random);
                actions.extend(answers.into_iter().map(|action| (*me, action)));
            }
        }
    }
    talk
}

/// One of most kinds of messages, each by itself.
#[must_use]
pub fn one_of_each() -> Vec<Message> {
    use super::{Part, Ranges, Refusal, Which};
    let part = Part { pack: PackId::of(b"pack"), which: Which::Fragment(7) };
    vec![
        Message::Ask { request: 1, part, missing: Ranges::one(0, 9), is_stuck: false },
        Message::Grant { request: 1, range: (0, 9) },
        Message::Refuse { request: 1, why: Refusal::Lack { have: Ranges::one(2, 3), is_coming: true } },
        Message::Refuse { request: 1, why: Refusal::Elsewhere { nodes: vec![OTHER] } },
        Message::Have { part, ranges: Ranges::whole(9) },
    ]
}
