//! Logic: how peers behave, and who is shut out for a while.
//!
//! ```text
//!              what it does wrong reaches the limit
//!   ┌────────┐ ─────────────────────────────────────▶ ┌──────────┐
//!   │ served │                                        │ shut out │  each time for twice as long
//!   └────────┘ ◀───────────────────────────────────── └──────────┘
//!                the time is over
//! ```
//!
//! Each wrong has a weight. Weights add up, and leak away with time, so that what happens now and then never counts.
//! Wrong bytes may come from an honest node whose disk is damaged, and which does not know it yet: they weigh little,
//! and alone they never shut anybody out; other nodes are asked instead. What a broken network or an overloaded
//! machine may do is no misconduct: timeouts, broken connections, other versions, refusals.

use std::collections::BTreeMap;

use sustain_proto::{CodecError, FrameError, NodeId};

/// The weight at which a node is shut out.
const LIMIT: u64 = 100;

/// Weight that leaks away in a second. So a node is shut out by five frames of garbage in a minute, and not by one an
/// hour.
const LEAK_PER_S: u64 = 1;

/// Most that wrongs of a damaged disk count together: below the limit.
const DISK_MAX: u64 = LIMIT / 2;

/// For how long a node is shut out the first time.
pub(crate) const SHUT_OUT_MS_MIN: u64 = 60_000;

/// For how long it is shut out at most.
const SHUT_OUT_MS_MAX: u64 = 3_600_000;

/// A node that has done nothing wrong for so long begins anew.
const FORGIVEN_MS: u64 = 4 * 3_600_000;

/// Nodes whose misconduct is kept; more than there are members, as those that were removed are forgotten late.
const NODES_MAX: usize = 2 * crate::limits::PEERS_MAX;

/// What a peer did wrong. A node that keeps to the protocol does none of it, whatever the network does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum What {
    /// It sent what is no frame, or a frame that is no message.
    Frame,
    /// It sent a request on a lane that is not for it.
    Lane,
    /// It sent a frame, a list or a size over its limit.
    Limit,
    /// It asked for what can't be asked, or gave an answer to something else.
    Improper,
    /// It sent a list of groups, or a sheet, that is not what its hash says.
    FalseList,
    /// It sent bytes that are not what their hash says: its disk may be damaged.
    WrongBytes,
    /// It spoke in the name of another node.
    Impostor,
    /// It passed on a statement whose signature is wrong.
    Forgery,
    /// It sent a datagram that is too large, or is no packet.
    Datagram,
    /// It opened streams, or sent bytes, beyond what was allowed to it.
    Transport,
    /// It sends more messages than any node has reason to.
    Flood,
}

impl What {
    /// How much it counts.
    const fn weight(self) -> u64 {
        match self {
            // Whoever speaks QUIC properly does not do that by mistake.
            Self::Transport => LIMIT,
            Self::Impostor | Self::Forgery | Self::FalseList => 34,
            Self::Frame | Self::Lane | Self::Limit | Self::Datagram => 20,
            Self::Improper => 10,
            Self::WrongBytes => 5,
            Self::Flood => 1,
        }
    }

    /// What it is to send such a frame. Another version is none.
    pub(crate) const fn of_frame(error: &FrameError) -> Option<Self> {
        match error {
            FrameError::Version { .. } | FrameError::Body(CodecError::Version { .. }) => None,
            FrameError::TooLarge { .. } => Some(Self::Limit),
            _ => Some(Self::Frame),
        }
    }

    /// What it is called in logs and in the status.
    pub(crate) const fn words(self) -> &'static str {
        match self {
            Self::Frame => "it sends what is no message",
            Self::Lane => "it sends requests on the wrong lane",
            Self::Limit => "it sends more than the limits allow",
            Self::Improper => "it asks or answers improperly",
            Self::FalseList => "it sends false lists of groups",
            Self::WrongBytes => "it sends wrong bytes",
            Self::Impostor => "it speaks in the name of other nodes",
            Self::Forgery => "it passes on forged statements",
            Self::Datagram => "it sends datagrams that are no packets",
            Self::Transport => "it breaks the rules of QUIC",
            Self::Flood => "it sends too many messages",
        }
    }

    /// Whether an honest node with a damaged disk may do it.
    const fn may_be_a_disk(self) -> bool {
        matches!(self, Self::WrongBytes)
    }
}

/// That a node is shut out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ShutOut {
    /// The last thing that it did wrong.
    pub(crate) what: What,
    /// Until when.
    pub(crate) until_ms: u64,
    /// How often it was, this time included.
    pub(crate) times: u32,
}

impl ShutOut {
    /// Why, and for how much longer.
    pub(crate) fn status(&self, now_ms: u64) -> (String, u64) {
        (self.what.words().to_owned(), self.until_ms.saturating_sub(now_ms))
    }
}

/// What leaks away.
#[derive(Debug, Clone, Copy, Default)]
struct Level {
    /// In thousandths, so that short times leak, too.
    thousandths: u64,
    at_ms: u64,
}

impl Level {
    fn now(&self, now_ms: u64) -> u64 {
        self.thousandths.saturating_sub(now_ms.saturating_sub(self.at_ms).saturating_mul(LEAK_PER_S))
    }

    fn add(&mut self, weight: u64, now_ms: u64, max: u64) {
        let sum = self.now(now_ms).saturating_add(weight * 1_000).min(max * 1_000);
        *self = Self { thousandths: sum, at_ms: now_ms };
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct Record {
    wilful: Level,
    disk: Level,
    last_ms: u64,
    shut_out: Option<ShutOut>,
}

/// The misconduct of all peers. Nodes that never did anything wrong are not in it.
#[derive(Debug, Default)]
pub(crate) struct Conduct {
    nodes: BTreeMap<NodeId, Record>,
}

impl Conduct {
    /// Counts what a node did wrong. Returns that it is shut out if it was not before.
    pub(crate) fn misbehaved(&mut self, node: NodeId, what: What, now_ms: u64) -> Option<ShutOut> {
        self.make_room(node, now_ms);
        let record = self.nodes.entry(node).or_default();
        if now_ms.saturating_sub(record.last_ms) >= FORGIVEN_MS {
            *record = Record::default();
        }
        record.last_ms = now_ms;
        let level = if what.may_be_a_disk() { &mut record.disk } else { &mut record.wilful };
        let max = if what.may_be_a_disk() { DISK_MAX } else { LIMIT };
        level.add(what.weight(), now_ms, max);
        let is_out = record.shut_out.is_some_and(|it| it.until_ms > now_ms);
        let sum = record.wilful.now(now_ms) + record.disk.now(now_ms);
        // What is still under way when it is shut out does not make it longer.
        if is_out || sum < LIMIT * 1_000 {
            return None;
        }
        let times = record.shut_out.map_or(0, |it| it.times).saturating_add(1);
        let doubled = SHUT_OUT_MS_MIN.checked_shl(times - 1).unwrap_or(SHUT_OUT_MS_MAX);
        let shut_out = ShutOut { what, until_ms: now_ms.saturating_add(doubled.min(SHUT_OUT_MS_MAX)), times };
        *record = Record { last_ms: now_ms, shut_out: Some(shut_out), ..Record::default() };
        Some(shut_out)
    }

    /// Whether a node is shut out now.
    pub(crate) fn shut_out(&self, node: &NodeId, now_ms: u64) -> Option<ShutOut> {
        self.nodes.get(node)?.shut_out.filter(|it| it.until_ms > now_ms)
    }

    /// Forgets a node.
    pub(crate) fn forget(&mut self, node: &NodeId) {
        self.nodes.remove(node);
    }

    /// Makes room for one more: what is forgiven goes, and if that is not enough, whoever did nothing wrong for
    /// longest.
    fn make_room(&mut self, node: NodeId, now_ms: u64) {
        if self.nodes.len() < NODES_MAX || self.nodes.contains_key(&node) {
            return;
        }
        self.nodes.retain(|_, record| now_ms.saturating_sub(record.last_ms) < FORGIVEN_MS);
        while self.nodes.len() >= NODES_MAX {
            let Some(node) = self.nodes.iter().min_by_key(|(_, it)| it.last_ms).map(|(node, _)| *node) else {
                return;
            };
            self.nodes.remove(&node);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(number: u16) -> NodeId {
        NodeId::from_bytes(*blake3::hash(&number.to_le_bytes()).as_bytes())
    }

    const WILFUL: [What; 10] = [
        What::Frame,
        What::Lane,
        What::Limit,
        What::Improper,
        What::FalseList,
        What::Impostor,
        What::Forgery,
        What::Datagram,
        What::Transport,
        What::Flood,
    ];

    #[test]
    fn who_goes_on_misbehaving_is_shut_out_once_and_served_again_later() {
        for what in WILFUL {
            let mut conduct = Conduct::default();
            let news: Vec<ShutOut> =
                (0..200).filter_map(|second| conduct.misbehaved(node(1), what, second)).collect();
            let [first] = news[..] else { panic!("{what:?}: {news:?}") };
            assert_eq!((first.what, first.times), (what, 1));
            assert!(conduct.shut_out(&node(1), first.until_ms - 1).is_some());
            assert!(conduct.shut_out(&node(1), first.until_ms).is_none());
            assert!(conduct.shut_out(&node(2), 100).is_none(), "nobody else is");
        }
    }

    #[test]
    fn what_happens_now_and_then_never_counts() {
        let mut conduct = Conduct::default();
        for minute in 0..10_000 {
            assert_eq!(conduct.misbehaved(node(1), What::Frame, minute * 60_000), None);
        }
    }

    /// A node with a bad disk would be shut out by everyone who asks it for much, and its good bytes be lost.
    #[test]
    fn wrong_bytes_alone_shut_nobody_out_however_many() {
        let mut conduct = Conduct::default();
        for ms in 0..100_000 {
            assert_eq!(conduct.misbehaved(node(1), What::WrongBytes, ms), None);
        }
        // Who does other things wrong, too, is no such node.
        let mut wrong = (0..3).map(|ms| conduct.misbehaved(node(1), What::Frame, 100_000 + ms));
        assert!(wrong.any(|news| news.is_some()));
    }

    #[test]
    fn each_time_is_longer_up_to_a_bound_and_good_conduct_is_forgotten_about() {
        let mut conduct = Conduct::default();
        let (mut now_ms, mut lengths) = (0, Vec::new());
        for _ in 0..40 {
            let news = conduct.misbehaved(node(1), What::Transport, now_ms).unwrap();
            lengths.push(news.until_ms - now_ms);
            now_ms = news.until_ms;
        }
        assert_eq!(lengths[..3], [60_000, 120_000, 240_000]);
        assert!(lengths[10..].iter().all(|length| *length == SHUT_OUT_MS_MAX));
        let news = conduct.misbehaved(node(1), What::Transport, now_ms + FORGIVEN_MS).unwrap();
        assert_eq!((news.until_ms - now_ms - FORGIVEN_MS, news.times), (60_000, 1));
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let mut conduct = Conduct::default();
        for number in 0..(NODES_MAX as u16 + 100) {
            conduct.misbehaved(node(number), What::Transport, u64::from(number));
        }
        assert_eq!(conduct.nodes.len(), NODES_MAX);
        assert!(conduct.shut_out(&node(NODES_MAX as u16), 5_000).is_some());
        conduct.misbehaved(node(0), What::Frame, 2 * FORGIVEN_MS);
        assert_eq!(conduct.nodes.len(), 1);
        conduct.forget(&node(0));
        assert!(conduct.nodes.is_empty());
    }
}
