//! Drives a node's [`Keeper`]: one task owns it, and turns what it wants into messages, transfers and work on the disk.
//!
//! ```text
//!   members ──┐                                    ┌─▶ posts: messages to other keepers
//!   messages ─┼─▶ owner: Keeper::handle ─▶ actions ┼─▶ asking, giving: bytes of parts, over the uplink's cap
//!   store ────┘      ▲                             ├─▶ works: sync, make, drop; in order for each part
//!                    └──── what became of it ──────┴─▶ levels: what is durable, for the node above
//! ```
//!
//! What is to be kept over a restart (the claim, catalogs) is on the disk before anything that follows it is done.
//! Everything that waits is bounded: messages that find no room are lost, which the keeper allows for.

mod answers;
mod asking;
mod giving;
mod levels;
mod owner;
pub(crate) mod posts;
mod retaining;
mod roll;
mod signing;
mod status;
mod working;
mod works;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use sustain_proto::wire::Ask;
use sustain_proto::{NodeId, ServiceName, Term};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

pub(crate) use giving::give;
pub(crate) use owner::run;
pub use retaining::Retain;
pub(crate) use signing::KeySigner;
pub use status::{KeepingStatus, LineView, SnapshotLevel};

use crate::depot::{DepotError, PartList, PartReceiver, SyncReport};
use crate::keeper::{Entry, Event, Message, Part};
use crate::limits;
use crate::transport::links::lock;
use answers::Answer;

/// What the owner is told.
enum Inlet {
    /// Something happened here.
    Event(Event),
    /// A peer's message came, which takes up room for it.
    Heard { event: Event, _room: OwnedSemaphorePermit },
    /// A peer asks for bytes.
    Asked { from: NodeId, ask: Ask, answer: oneshot::Sender<Answer> },
    /// A part is to be received, whose groups are these.
    Open { part: Part, list: PartList, answer: oneshot::Sender<Opened> },
    /// Work with the disk has ended.
    Worked(Worked),
    /// What the store retains of a service was read.
    Listed { retain: Retain, listed: Option<Listed> },
    /// How the keeper stands is wanted.
    Status(oneshot::Sender<KeepingStatus>),
    /// What is known of a service's lines is wanted.
    Lines(ServiceName, oneshot::Sender<Vec<LineView>>),
}

/// What the store retains, and what of it is lacking here.
type Listed = (Vec<Entry>, Vec<Part>);

type Opened = Result<Arc<PartReceiver>, DepotError>;

/// What became of work with the disk.
enum Worked {
    Synced { asked: Vec<Part>, report: SyncReport },
    Made(Part, Result<(), DepotError>),
    Dropped(Vec<Part>),
    Looked { lost: Vec<Part>, report: SyncReport },
    Opened(Part, Opened, oneshot::Sender<Opened>),
}

/// What others need to talk to the owner.
pub(crate) struct Keeping {
    local: mpsc::Sender<Inlet>,
    messages: mpsc::Sender<Inlet>,
    /// Bytes of messages that were not yet looked at.
    room: Arc<Semaphore>,
    /// Members have changed.
    pub(crate) members: Notify,
    retains: Mutex<BTreeMap<(ServiceName, Term), Retain>>,
    retain_news: Notify,
    outboxes: Mutex<BTreeMap<NodeId, mpsc::Sender<Message>>>,
    levels: levels::Levels,
    /// Peers that their limits keep from holding all that they should of what this node is the server of.
    capped: Mutex<BTreeSet<NodeId>>,
}

/// Where the owner hears from.
pub(crate) struct Inbox {
    local: mpsc::Receiver<Inlet>,
    messages: mpsc::Receiver<Inlet>,
}

impl Keeping {
    pub(crate) fn new() -> (Self, Inbox) {
        let (local, heard_here) = mpsc::channel(limits::KEEPER_EVENTS_MAX);
        let (messages, heard) = mpsc::channel(limits::KEEPER_EVENTS_MAX);
        let keeping = Self {
            local,
            messages,
            room: Arc::new(Semaphore::new(limits::KEEPER_MESSAGES_BYTES_MAX)),
            members: Notify::new(),
            retains: Mutex::default(),
            retain_news: Notify::new(),
            outboxes: Mutex::default(),
            levels: levels::Levels::default(),
            capped: Mutex::default(),
        };
        (keeping, Inbox { local: heard_here, messages: heard })
    }

    /// Begins with a peer: its messages are to be sent by [`posts::send`].
    pub(crate) fn add(&self, peer: NodeId) -> mpsc::Receiver<Message> {
        let (outbox, waiting) = mpsc::channel(limits::KEEPER_OUTBOX_MAX);
        lock(&self.outboxes).insert(peer, outbox);
        waiting
    }

    /// Forgets a peer.
    pub(crate) fn remove(&self, peer: &NodeId) {
        lock(&self.outboxes).remove(peer);
    }

    /// Sends a message, if there is room for it.
    fn post(&self, to: &NodeId, message: Message) {
        if let Some(outbox) = lock(&self.outboxes).get(to) {
            // It fails where too much waits, or the node stops.
            let _ = outbox.try_send(message);
        }
    }

    /// Tells the owner of what happened here.
    async fn tell(&self, inlet: Inlet) {
        // It fails where the node stops.
        let _ = self.local.send(inlet).await;
    }

    /// What these nodes say that they have does not count any more, what all others say does.
    pub(crate) async fn doubt(&self, nodes: BTreeSet<NodeId>) {
        self.tell(Inlet::Event(Event::Doubted { nodes })).await;
    }

    /// Has the owner look at what the store retains.
    pub(crate) fn retain(&self, retain: Retain) {
        lock(&self.retains).insert((retain.service.clone(), retain.term), retain);
        self.retain_news.notify_one();
    }

    /// Why a peer does not hold all that it should of what this node is the server of, if it says so.
    pub(crate) fn refusal(&self, peer: &NodeId) -> Option<String> {
        lock(&self.capped)
            .contains(peer)
            .then(|| "its limit on storage leaves no room for all of it".to_owned())
    }

    /// What is known of a service's lines; nothing if the keeper does not answer in time.
    pub(crate) async fn lines(&self, service: ServiceName) -> Vec<LineView> {
        let (answer, told) = oneshot::channel();
        self.tell(Inlet::Lines(service, answer)).await;
        let told = tokio::time::timeout(limits::KEEPER_STATUS_TIMEOUT, told).await;
        told.ok().and_then(Result::ok).unwrap_or_default()
    }

    /// How the keeper stands; none if it does not answer in time.
    pub(crate) async fn status(&self) -> Option<KeepingStatus> {
        let (answer, told) = oneshot::channel();
        self.local.send(Inlet::Status(answer)).await.ok()?;
        tokio::time::timeout(limits::KEEPER_STATUS_TIMEOUT, told).await.ok()?.ok()
    }
}
