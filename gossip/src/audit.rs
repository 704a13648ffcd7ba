//! Logic: audits. A node that claims to hold pieces is asked for random groups of them now and then.
//!
//! What comes is compared with the groups' values, which the one who asks has checked against the piece's hash. Who
//! lacks what it claims, or has other bytes, does not count for durability until it has passed some audits in a row;
//! the asking is what finds a disk that rots in silence, and a node that only says that it holds something. Who does
//! not answer is asked again soon; who never does while it claims on does not count, either.

use std::collections::{BTreeMap, BTreeSet};

use rand::Rng;
use rand::rngs::StdRng;
use sustain_proto::limits::GROUP_BYTES;
use sustain_proto::{GroupList, NodeId, Piece, PieceRange, group_count};

/// Groups that are asked for in one audit. Of a node that lacks one piece in ten, eight in a row miss it in 43 % of the
/// audits, and in under 2 % of five.
const GROUPS_ASKED: usize = 8;

/// Between two audits of a node that passes.
const INTERVAL_MS: u64 = 600_000;

/// Between two audits of a node that has failed, or has not answered.
const RETRY_MS: u64 = 60_000;

/// Audits in a row that a node must pass to count again.
const PASSES_NEEDED: u32 = 3;

/// Audits in a row without an answer after which a node that claims on does not count.
const SILENCES_MAX: u32 = 5;

/// Audits under way at once.
const UNDER_WAY_MAX: usize = 4;

/// For how long an audit may be under way; after that it has had no answer.
const PATIENCE_MS: u64 = 30_000;

/// What a node claims to hold: pieces, and the bytes of each.
pub type Claims = BTreeMap<NodeId, Vec<(Piece, u64)>>;

/// A node is to be asked for these ranges, each a whole group, all at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Audit {
    /// The node.
    pub node: NodeId,
    /// What of which pieces.
    pub ranges: Vec<PieceRange>,
}

/// What came of an audit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finding {
    /// All that was asked for came, and is right.
    Sound,
    /// The node says that it does not have this.
    Absent(Piece),
    /// It sent something else.
    Wrong(Piece),
    /// It did not answer, or broke off.
    Silent,
    /// It claims none of what it was to be asked for.
    Unclaimed,
}

impl Audit {
    /// What an answer is worth: which of the ranges are there, as the node says, and their bytes one after the other.
    /// `list` gives the groups' values of a piece; what can't be checked here counts as sound.
    #[must_use]
    pub fn judge<'a>(
        &self,
        here: &[bool],
        bytes: &[u8],
        list: impl Fn(&Piece) -> Option<&'a GroupList>,
    ) -> Finding {
        if here.len() != self.ranges.len() {
            return Finding::Silent;
        }
        let mut rest = bytes;
        for (range, here) in self.ranges.iter().zip(here) {
            if !here {
                return Finding::Absent(range.piece);
            }
            let Some((group, others)) =
                usize::try_from(range.bytes).ok().and_then(|bytes| rest.split_at_checked(bytes))
            else {
                return Finding::Silent;
            };
            let number = usize::try_from(range.offset / GROUP_BYTES).unwrap_or(usize::MAX);
            if list(&range.piece).is_some_and(|list| number >= list.count() || !list.verify(number, group)) {
                return Finding::Wrong(range.piece);
            }
            rest = others;
        }
        Finding::Sound
    }
}

/// How a node has done.
#[derive(Debug, Clone, Copy, Default)]
struct Record {
    /// When it is audited next.
    due_ms: u64,
    /// Since when it is being audited.
    under_way_ms: Option<u64>,
    has_failed: bool,
    passes: u32,
    silences: u32,
}

/// All audits of one node's.
#[derive(Debug)]
pub struct Audits {
    random: StdRng,
    nodes: BTreeMap<NodeId, Record>,
}

impl Audits {
    /// Nobody was audited yet.
    #[must_use]
    pub const fn new(random: StdRng) -> Self {
        Self { random, nodes: BTreeMap::new() }
    }

    /// Whom to ask for what now. `claims` are those of the nodes that can be asked; nodes that claim nothing any more
    /// are forgotten, and so is how they have done.
    pub fn next(&mut self, claims: &Claims, now_ms: u64) -> Vec<Audit> {
        self.nodes.retain(|node, _| claims.contains_key(node));
        for node in claims.keys() {
            // The first time at any moment within an interval, so that not all are asked together after a start.
            let first_ms = self.random.random_range(0..INTERVAL_MS);
            let new = || Record { due_ms: now_ms.saturating_add(first_ms), ..Record::default() };
            self.nodes.entry(*node).or_insert_with(new);
        }
        let is_late = |record: &Record| {
            record.under_way_ms.is_some_and(|since_ms| now_ms.saturating_sub(since_ms) >= PATIENCE_MS)
        };
        let late: Vec<NodeId> =
            self.nodes.iter().filter(|(_, it)| is_late(it)).map(|(node, _)| *node).collect();
        for node in late {
            self.found(node, Finding::Silent, now_ms);
        }
        let under_way = self.nodes.values().filter(|record| record.under_way_ms.is_some()).count();
        let mut due: Vec<(u64, NodeId)> = self
            .nodes
            .iter()
            .filter(|(_, record)| record.under_way_ms.is_none() && record.due_ms <= now_ms)
            .map(|(node, record)| (record.due_ms, *node))
            .collect();
        due.sort_unstable();
        due.truncate(UNDER_WAY_MAX.saturating_sub(under_way));
        let mut audits = Vec::new();
        for (_, node) in due {
            let ranges = choose(claims.get(&node).map_or(&[], Vec::as_slice), &mut self.random);
            let Some(record) = self.nodes.get_mut(&node) else { continue };
            if ranges.is_empty() {
                record.due_ms = now_ms.saturating_add(INTERVAL_MS);
            } else {
                record.under_way_ms = Some(now_ms);
                audits.push(Audit { node, ranges });
            }
        }
        audits
    }

    /// What came of an audit. True if the node counts now and did not before, or the other way round.
    pub fn found(&mut self, node: NodeId, finding: Finding, now_ms: u64) -> bool {
        let before = self.counts(&node);
        let Some(record) = self.nodes.get_mut(&node) else { return false };
        record.under_way_ms = None;
        match finding {
            Finding::Sound => {
                record.silences = 0;
                record.passes = record.passes.saturating_add(1);
                record.has_failed &= record.passes < PASSES_NEEDED;
            }
            Finding::Unclaimed => record.silences = 0,
            Finding::Absent(_) | Finding::Wrong(_) => (record.has_failed, record.passes) = (true, 0),
            Finding::Silent => {
                record.silences = record.silences.saturating_add(1);
                if record.silences >= SILENCES_MAX {
                    (record.has_failed, record.passes) = (true, 0);
                }
            }
        }
        let pause_ms = if record.has_failed || record.silences > 0 { RETRY_MS } else { INTERVAL_MS };
        // Not to be foreseen: half of it to one and a half.
        let pause_ms = pause_ms / 2 + self.random.random_range(0..=pause_ms);
        record.due_ms = now_ms.saturating_add(pause_ms);
        before != self.counts(&node)
    }

    /// The nodes of which what they say that they hold does not count for durability.
    #[must_use]
    pub fn failing(&self) -> BTreeSet<NodeId> {
        self.nodes.keys().filter(|node| !self.counts(node)).copied().collect()
    }

    /// Whether what a node says that it holds counts for durability.
    #[must_use]
    pub fn counts(&self, node: &NodeId) -> bool {
        self.nodes.get(node).is_none_or(|record| !record.has_failed)
    }
}

/// Groups anywhere in all that is claimed, each byte as likely as any other; ordered, and none twice.
fn choose(claimed: &[(Piece, u64)], random: &mut StdRng) -> Vec<PieceRange> {
    let total: usize = claimed.iter().map(|(_, bytes)| group_count(*bytes)).sum();
    if total == 0 {
        return Vec::new();
    }
    let mut numbers: Vec<usize> = (0..GROUPS_ASKED).map(|_| random.random_range(0..total)).collect();
    numbers.sort_unstable();
    numbers.dedup();
    let mut ranges = Vec::new();
    let (mut first, mut wanted) = (0, numbers.into_iter().peekable());
    for (piece, bytes) in claimed {
        let end = first + group_count(*bytes);
        while let Some(number) = wanted.next_if(|number| *number < end) {
            let offset = (number - first) as u64 * GROUP_BYTES;
            let length = GROUP_BYTES.min(bytes.saturating_sub(offset));
            if length > 0 {
                ranges.push(PieceRange { piece: *piece, offset, bytes: length });
            }
        }
        first = end;
    }
    ranges
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use sustain_proto::{PackId, group_value};

    use super::*;

    fn node(number: u8) -> NodeId {
        NodeId::from_bytes([number; 32])
    }

    /// A piece of so many bytes, its bytes and its list.
    fn piece(seed: u8, bytes: usize) -> (Piece, Vec<u8>, GroupList) {
        let mut content = vec![0; bytes];
        blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut content);
        let id = PackId::of(&content);
        let root = *id.as_bytes();
        let list = match group_count(bytes as u64) {
            1 => GroupList::single(root, bytes as u64).unwrap(),
            _ => {
                let groups = content.chunks(GROUP_BYTES as usize).enumerate();
                let values = groups.map(|(number, group)| group_value(number as u64 * GROUP_BYTES, group));
                GroupList::check(root, bytes as u64, values.collect()).unwrap()
            }
        };
        (Piece::Pack(id), content, list)
    }

    fn audits(seed: u64) -> Audits {
        Audits::new(StdRng::seed_from_u64(seed))
    }

    /// Lets time pass until a node is to be asked.
    fn ask(audits: &mut Audits, claims: &Claims, now_ms: &mut u64) -> Audit {
        for _ in 0..10_000 {
            *now_ms += 1_000;
            if let Some(audit) = audits.next(claims, *now_ms).pop() {
                return audit;
            }
        }
        panic!("nobody is asked");
    }

    #[test]
    fn every_group_of_every_piece_is_asked_for_in_time() {
        let sizes = [1_u64, 65_536, 65_537, 1_000_000, 0];
        let claimed: Vec<(Piece, u64)> = (0..)
            .zip(sizes)
            .map(|(seed, bytes)| (Piece::Pack(PackId::from_bytes([seed; 32])), bytes))
            .collect();
        let mut random = StdRng::seed_from_u64(1);
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..200 {
            let ranges = choose(&claimed, &mut random);
            assert!((1..=GROUPS_ASKED).contains(&ranges.len()));
            for range in ranges {
                let bytes = claimed.iter().find(|(piece, _)| *piece == range.piece).unwrap().1;
                assert!(
                    range.offset % GROUP_BYTES == 0 && range.offset + range.bytes <= bytes && range.bytes > 0
                );
                assert!(range.bytes == GROUP_BYTES || range.offset + range.bytes == bytes, "a whole group");
                seen.insert(
                    range
                        .piece
                        .root()
                        .to_vec()
                        .into_iter()
                        .chain(range.offset.to_le_bytes())
                        .collect::<Vec<_>>(),
                );
            }
        }
        assert_eq!(seen.len(), sizes.iter().map(|bytes| group_count(*bytes)).sum::<usize>());
        assert!(choose(&[], &mut random).is_empty() && choose(&claimed[4..], &mut random).is_empty());
    }

    #[test]
    fn answers_are_compared_with_what_the_asker_knows() {
        let parts = [piece(1, 150_000), piece(2, 900)];
        let ranges = vec![
            PieceRange { piece: parts[0].0, offset: 131_072, bytes: 18_928 },
            PieceRange { piece: parts[1].0, offset: 0, bytes: 900 },
        ];
        let audit = Audit { node: node(1), ranges };
        let list = |piece: &Piece| parts.iter().find(|part| part.0 == *piece).map(|part| &part.2);
        let sound = [&parts[0].1[131_072..], &parts[1].1[..]].concat();
        assert_eq!(audit.judge(&[true, true], &sound, list), Finding::Sound);
        assert_eq!(audit.judge(&[true, false], &sound, list), Finding::Absent(parts[1].0));
        assert_eq!(audit.judge(&[true, true], &sound[..19_000], list), Finding::Silent, "broken off");
        assert_eq!(audit.judge(&[true], &sound, list), Finding::Silent);
        for (at, piece) in [(0, 0), (18_927, 0), (18_928, 1), (19_827, 1)] {
            let mut wrong = sound.clone();
            wrong[at] ^= 1;
            assert_eq!(audit.judge(&[true, true], &wrong, list), Finding::Wrong(parts[piece].0), "{at}");
            assert_eq!(audit.judge(&[true, true], &wrong, |_| None), Finding::Sound, "nobody here can tell");
        }
    }

    #[test]
    fn who_fails_does_not_count_until_it_has_passed_again_and_again() {
        let (mut audits, mut now_ms) = (audits(3), 0);
        let lies = piece(1, 700_000);
        let claims = Claims::from([(node(1), vec![(lies.0, 700_000)])]);
        let audit = ask(&mut audits, &claims, &mut now_ms);
        assert!(now_ms <= INTERVAL_MS && audits.counts(&node(1)));
        assert!(audits.found(node(1), Finding::Wrong(lies.0), now_ms));
        assert!(!audits.counts(&node(1)) && audits.counts(&node(2)));
        for passes in 1..=PASSES_NEEDED {
            let before_ms = now_ms;
            let again = ask(&mut audits, &claims, &mut now_ms);
            assert_ne!(again.ranges, audit.ranges, "others each time");
            assert!(now_ms - before_ms <= RETRY_MS * 3 / 2 + 1_000, "soon");
            assert_eq!(audits.found(node(1), Finding::Sound, now_ms), passes == PASSES_NEEDED);
        }
        assert!(audits.counts(&node(1)));
    }

    #[test]
    fn who_never_answers_does_not_count_and_who_does_now_and_then_counts() {
        let (mut audits, mut now_ms) = (audits(4), 0);
        let claims = Claims::from([(node(1), vec![(Piece::Pack(PackId::from_bytes([1; 32])), 10)])]);
        for round in 0..40 {
            ask(&mut audits, &claims, &mut now_ms);
            if round % 4 == 3 {
                audits.found(node(1), Finding::Sound, now_ms);
            }
            assert!(audits.counts(&node(1)));
        }
        // Now it is silent, and it is the clock that tells.
        let mut count = 0;
        while audits.counts(&node(1)) {
            ask(&mut audits, &claims, &mut now_ms);
            count += 1;
            assert!(count <= SILENCES_MAX + 1);
        }
        // It claims nothing any more, and begins anew.
        assert!(audits.next(&Claims::new(), now_ms).is_empty() && audits.counts(&node(1)));
        assert!(!audits.found(node(1), Finding::Silent, now_ms));
    }

    #[test]
    fn few_are_asked_at_once() {
        let mut audits = audits(5);
        let piece = Piece::Pack(PackId::from_bytes([1; 32]));
        let claims: Claims = (0..100).map(|number| (node(number), vec![(piece, 1 << 20)])).collect();
        assert!(audits.next(&claims, 0).len() <= UNDER_WAY_MAX);
        assert_eq!(audits.next(&claims, INTERVAL_MS).len(), UNDER_WAY_MAX);
        assert_eq!(audits.next(&claims, INTERVAL_MS + 1), []);
    }
}
