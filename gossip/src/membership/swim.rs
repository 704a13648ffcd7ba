//! Logic: who of the members is alive, by SWIM.
//!
//! ```text
//!             no answer to a probe, not through others either
//!   ┌───────┐ ─────────────────────────────────────────────▶ ┌─────────┐
//!   │ alive │                                                │ suspect │
//!   └───────┘ ◀───────────────────────────────────────────── └─────────┘
//!       ▲       it denies it                                      │
//!       │                                                         │ it does not, for long enough
//!       │       it is heard again, in a new life             ┌────────┐
//!       └─────────────────────────────────────────────────── │  down  │
//!                                                            └────────┘
//! ```
//!
//! The protocol is foca's. Around it: packets count only if they come from a member and only as far as they are about
//! members; who is down is called for ever, so that cut halves find each other; a node that was stalled itself accuses
//! nobody; and a node that was taken for dead, or starts again, takes a life after all that others know of.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use foca::Timer;
use foca::{Foca, Header, Member, Message, NoCustomBroadcast, Notification, PostcardCodec, Runtime, State};
use rand::rngs::StdRng;
use rand::seq::IteratorRandom;
use rand::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};
use sustain_proto::NodeId;

use super::life::Life;
use super::packet::Packet;
use super::swim_config::{PACKET_BYTES_MAX, SwimConfig};

/// Nodes that are down and are called at once.
const CALLED_MAX: usize = 16;

/// How a member stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Health {
    /// It answers, to whomever.
    Alive,
    /// It did not answer, and has not denied yet that it is dead.
    Suspect,
    /// It is taken for dead, or was never heard.
    Down,
}

impl Health {
    /// As in status and logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Alive => "alive",
            Self::Suspect => "suspect",
            Self::Down => "down",
        }
    }
}

/// What the driver has to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SwimAction {
    /// Send this to a member, once, if there is a connection.
    Send {
        /// The member.
        to: NodeId,
        /// At most [`PACKET_BYTES_MAX`] bytes.
        datagram: Vec<u8>,
    },
    /// A member stands differently.
    Changed {
        /// The member.
        node: NodeId,
        /// How it stands now.
        health: Health,
    },
}

/// What the protocol wants done.
#[derive(Default)]
struct Wishes {
    sends: Vec<(Life, Vec<u8>)>,
    timers: Vec<(Duration, Timer<Life>)>,
    renewed: bool,
}

impl Runtime<Life> for Wishes {
    fn notify(&mut self, notification: Notification<'_, Life>) {
        self.renewed |= matches!(notification, Notification::Rejoin(_));
    }

    fn send_to(&mut self, to: Life, data: &[u8]) {
        self.sends.push((to, data.to_vec()));
    }

    fn submit_after(&mut self, event: Timer<Life>, after: Duration) {
        self.timers.push((after, event));
    }
}

/// One node's part in it. Time comes as an argument, in milliseconds of any clock that never goes back.
pub struct Swim {
    foca: Foca<Life, PostcardCodec, StdRng, NoCustomBroadcast>,
    config: SwimConfig,
    random: StdRng,
    members: BTreeMap<NodeId, Known>,
    timers: BTreeMap<(u64, u64), Timer<Life>>,
    timers_made: u64,
    call_ms: u64,
}

/// What is known of a member.
#[derive(Debug, Clone, Copy)]
struct Known {
    life: u64,
    health: Health,
    since_ms: u64,
}

impl Swim {
    /// A node that has heard of nobody yet, and calls all members. `seed` makes it repeatable.
    #[must_use]
    pub fn new(me: NodeId, members: &BTreeSet<NodeId>, config: SwimConfig, now_ms: u64, seed: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let own = StdRng::seed_from_u64(random.random());
        let life = Life { node: me, number: 0 };
        let foca = Foca::new(life, config.foca(members.len()), own, PostcardCodec);
        let call_ms = now_ms + random.random_range(0..=config.call_ms);
        let (members_known, timers) = (BTreeMap::new(), BTreeMap::new());
        let mut swim = Self { foca, config, random, members: members_known, timers, timers_made: 0, call_ms };
        // There is nobody yet who could be removed, so that there is nothing to do.
        drop(swim.set_members(members, now_ms));
        swim
    }

    /// Who belongs to the cluster now; this node itself may be among them.
    pub fn set_members(&mut self, members: &BTreeSet<NodeId>, now_ms: u64) -> Vec<SwimAction> {
        let me = self.me();
        let gone: Vec<NodeId> = self.members.keys().filter(|node| !members.contains(node)).copied().collect();
        let mut wishes = Wishes::default();
        for node in gone {
            if let Some(known) = self.members.remove(&node) {
                let down = Member::new(Life { node, number: known.life }, 0, State::Down);
                // It fails only where nothing can be encoded.
                let _ = self.foca.apply_many(std::iter::once(down), false, &mut wishes);
            }
        }
        for node in members.iter().filter(|node| **node != me) {
            let unheard = Known { life: 0, health: Health::Down, since_ms: now_ms };
            self.members.entry(*node).or_insert(unheard);
        }
        // It fails only where intervals change.
        let _ = self.foca.set_config(self.config.foca(self.members.len() + 1));
        self.act(wishes, now_ms)
    }

    /// There is a connection to a member anew: it is called at once if it is not alive.
    pub fn connected(&mut self, node: NodeId, now_ms: u64) -> Vec<SwimAction> {
        match self.members.get(&node) {
            Some(known) if known.health == Health::Down => {
                let life = Life { node, number: known.life };
                let mut wishes = Wishes::default();
                let _ = self.foca.announce(life, &mut wishes);
                self.act(wishes, now_ms)
            }
            _ => Vec::new(),
        }
    }

    /// A datagram came from a node that has shown that it is that one. What it says counts only as far as it is about
    /// members.
    pub fn datagram(&mut self, from: NodeId, bytes: &[u8], now_ms: u64) -> Vec<SwimAction> {
        let Some(mut packet) = Packet::decode(bytes).filter(|_| bytes.len() <= PACKET_BYTES_MAX) else {
            return Vec::new();
        };
        let (src, dst, me) = (packet.header.src, packet.header.dst, self.me());
        let third_belongs = packet.third().is_none_or(|node| node == me || self.members.contains_key(&node));
        let Some(known) = self.members.get(&from).copied() else { return Vec::new() };
        if src.node != from || dst.node != me || !third_belongs || !src.is_plausible(known.life) {
            return Vec::new();
        }
        let mut wishes = Wishes::default();
        let updates = packet.updates.take();
        let about_me = updates.iter().flatten().map(|update| *update.id()).filter(|life| life.node == me);
        let newest = about_me.chain([dst]).max().unwrap_or(dst);
        self.outlive(newest, &mut wishes);
        if src.number < known.life {
            // It has started again and does not know what it was: this tells it.
            let _ = self.foca.announce(Life { node: from, number: known.life }, &mut wishes);
            return self.act(wishes, now_ms);
        }
        let has_updates = updates.as_ref().is_some_and(|updates| !updates.is_empty());
        packet.updates = updates.map(|updates| updates.into_iter().filter(|it| self.counts(it)).collect());
        let seen = packet.updates.iter().flatten().map(|update| *update.id()).chain([src]);
        for life in seen.collect::<Vec<_>>() {
            if let Some(known) = self.members.get_mut(&life.node) {
                known.life = known.life.max(life.number);
            }
        }
        if let Some(bytes) = packet.encode() {
            // What it refuses was sent by a node that does not keep to the protocol.
            let _ = self.foca.handle_data(&bytes, &mut wishes);
        }
        if !has_updates && known.health == Health::Alive && !wishes.renewed {
            return self.take(wishes, now_ms);
        }
        let mut actions = self.act(wishes, now_ms);
        actions.extend(self.tell_if_dead(src).or_else(|| self.tell_if_suspect(src)));
        actions
    }

    /// Tells a node that is taken for dead that it is, so that it goes on in another life.
    fn tell_if_dead(&self, node: Life) -> Option<SwimAction> {
        let known = self.members.get(&node.node)?;
        if known.health != Health::Down || known.life != node.number {
            return None;
        }
        let src = *self.foca.identity();
        // Nothing in the packet speaks of this node's own incarnation: it may be an old one.
        let header = Header { src, src_incarnation: 0, dst: node, message: Message::TurnUndead };
        let datagram = Packet { header, updates: None }.encode()?;
        Some(SwimAction::Send { to: node.node, datagram })
    }

    /// Tells a node that is heard and suspected that it is, so that it denies it. The suspicion's own news may have
    /// gone to everybody else, and its end is forgotten where the node that began it has begun another life since.
    fn tell_if_suspect(&self, node: Life) -> Option<SwimAction> {
        let mut members = self.foca.iter_membership_state();
        let doubt = members.find(|member| *member.id() == node && member.state() == State::Suspect)?.clone();
        let header = Header {
            src: *self.foca.identity(),
            // It may be an old one, as above.
            src_incarnation: 0,
            dst: node,
            message: Message::Gossip,
        };
        let datagram = Packet { header, updates: Some(vec![doubt]) }.encode()?;
        Some(SwimAction::Send { to: node.node, datagram })
    }

    /// Time has passed: what is due.
    pub fn tick(&mut self, now_ms: u64) -> Vec<SwimAction> {
        self.excuse(now_ms);
        let mut wishes = Wishes::default();
        let mut actions = Vec::new();
        while let Some(timer) = self.timers.first_entry().filter(|entry| entry.key().0 <= now_ms) {
            // Its errors are about timers that came late, and it goes on after them.
            let _ = self.foca.handle_timer(timer.remove(), &mut wishes);
            actions.extend(self.take(std::mem::take(&mut wishes), now_ms));
        }
        if self.call_ms <= now_ms {
            self.call_ms = now_ms + self.config.call_ms;
            self.call(&mut wishes);
        }
        actions.extend(self.act(wishes, now_ms));
        actions
    }

    /// When `tick` is to be called next.
    #[must_use]
    pub fn wake_ms(&self) -> u64 {
        self.timers.keys().next().map_or(self.call_ms, |(due_ms, _)| self.call_ms.min(*due_ms))
    }

    /// The node stops: tells some others, who tell the rest.
    pub fn leave(&mut self, now_ms: u64) -> Vec<SwimAction> {
        let mut wishes = Wishes::default();
        let _ = self.foca.leave_cluster(&mut wishes);
        self.take(wishes, now_ms)
    }

    /// How a member stands, and since when.
    #[must_use]
    pub fn health(&self, node: &NodeId) -> Option<(Health, u64)> {
        self.members.get(node).map(|known| (known.health, known.since_ms))
    }

    fn me(&self) -> NodeId {
        self.foca.identity().node
    }

    /// Takes a life after this one if others know of it: this node began anew, and has forgotten it.
    fn outlive(&mut self, known: Life, wishes: &mut Wishes) {
        let own = *self.foca.identity();
        if known.number > own.number && known.is_plausible(own.number) {
            let next = Life { node: own.node, number: known.number.saturating_add(1) };
            // It fails only for the same identity.
            let _ = self.foca.change_identity(next, &mut *wishes);
            wishes.renewed = true;
        }
    }

    /// Whether an update is about a member, in a life that can be.
    fn counts(&self, update: &Member<Life>) -> bool {
        let life = update.id();
        if life.node == self.me() {
            return life == self.foca.identity();
        }
        self.members.get(&life.node).is_some_and(|known| life.is_plausible(known.life))
    }

    /// Calls some of those that are down.
    fn call(&mut self, wishes: &mut Wishes) {
        let down = self.members.iter().filter(|(_, known)| known.health == Health::Down);
        let lives = down.map(|(node, known)| Life { node: *node, number: known.life });
        for life in lives.choose_multiple(&mut self.random, CALLED_MAX) {
            let _ = self.foca.announce(life, &mut *wishes);
        }
    }

    /// Who was stalled itself can't know who answered meanwhile: everything waits for as much longer.
    fn excuse(&mut self, now_ms: u64) {
        let late_ms = now_ms.saturating_sub(self.wake_ms());
        if late_ms > self.config.direct_ms / 2 {
            let timers = std::mem::take(&mut self.timers);
            self.timers =
                timers.into_iter().map(|((due_ms, number), it)| ((due_ms + late_ms, number), it)).collect();
        }
    }

    /// Does what the protocol wants.
    fn take(&mut self, mut wishes: Wishes, now_ms: u64) -> Vec<SwimAction> {
        if wishes.renewed {
            // A new life is not lived before somebody answers, unless it is pushed: all that knows of it may be lost.
            let _ = self.foca.apply_many(std::iter::empty(), false, &mut wishes);
        }
        for (after, timer) in wishes.timers {
            self.timers_made += 1;
            let after_ms = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
            self.timers.insert((now_ms.saturating_add(after_ms), self.timers_made), timer);
        }
        if wishes.renewed {
            // In a new life it is to be known soon.
            self.call_ms = self.call_ms.min(now_ms + self.config.gossip_ms);
        }
        let belongs = |(to, _): &(Life, _)| self.members.contains_key(&to.node);
        let sends = wishes.sends.into_iter().filter(belongs);
        sends.map(|(to, datagram)| SwimAction::Send { to: to.node, datagram }).collect()
    }

    /// Does what the protocol wants, and says who stands differently by now.
    fn act(&mut self, wishes: Wishes, now_ms: u64) -> Vec<SwimAction> {
        let mut actions = self.take(wishes, now_ms);
        let mut found: BTreeMap<NodeId, Health> = BTreeMap::new();
        for member in self.foca.iter_membership_state() {
            let health = match member.state() {
                State::Alive => Health::Alive,
                State::Suspect => Health::Suspect,
                State::Down => Health::Down,
            };
            found.insert(member.id().node, health);
        }
        for (node, known) in &mut self.members {
            let health = found.get(node).copied().unwrap_or(Health::Down);
            if health != known.health {
                (known.health, known.since_ms) = (health, now_ms);
                actions.push(SwimAction::Changed { node: *node, health });
            }
        }
        actions
    }
}
