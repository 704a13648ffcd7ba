//! One order of a gathering at one peer: lists of groups, or groups one after the other on a stream.

use std::error::Error;
use std::ops::Range;
use std::sync::Arc;

use quinn::RecvStream;
use sustain_proto::wire::{Request, Response};
use sustain_proto::{
    GROUP_VALUE_BYTES, GroupList, GroupValue, NodeId, PackId, PackRef, Piece, PieceRange, group_count,
};
use sustain_store::{GroupReceiver, ImportError, PackBuilder, Received, error_chain};
use tokio::sync::mpsc;

use crate::conduct::What;
use crate::error::ErrorKind;
use crate::exchange::Exchange;
use crate::gather::SharedProgress;
use crate::limits;
use crate::member::Member;
use crate::plan::OrderId;
use crate::pump;

/// What a gathering is told.
pub(crate) enum Event {
    /// A peer said which packs it has; none if it gave no answer.
    Has(NodeId, Option<Vec<PackId>>),
    /// The next list of an order came.
    Listed(OrderId, Piece, GroupList),
    /// What is here of some pieces was looked at.
    Opened {
        receivers: Vec<Arc<GroupReceiver>>,
        /// Packs that are here whole by now.
        here: Vec<PackRef>,
    },
    /// The next groups of an order came, of so many bytes each, and are written.
    Came(OrderId, Vec<u64>),
    /// The peer does not have the piece, or its own is damaged.
    Absent(OrderId, NodeId, Piece),
    /// The peer sent something else.
    Wrong(NodeId, Piece, What),
    /// An order ended, and if it ended badly, why.
    Ended(OrderId, Option<String>),
    /// These pieces are synced here.
    Kept(Vec<Piece>),
    /// This node's store can't take it.
    Store(ErrorKind, Box<dyn Error + Send + Sync>),
}

impl Event {
    pub(crate) fn store_failure(error: ImportError) -> Self {
        Self::Store(error.kind().into(), Box::new(error))
    }
}

/// What the tasks of a gathering share.
#[derive(Clone)]
pub(crate) struct Transfers {
    pub(crate) member: Arc<Member>,
    pub(crate) events: mpsc::Sender<Event>,
    pub(crate) progress: SharedProgress,
}

/// Where groups go.
#[derive(Clone)]
pub(crate) enum Target {
    /// Into a pack.
    Pack(Arc<GroupReceiver>),
    /// Into a fragment that a pack is made of.
    Fragment {
        /// What makes the pack.
        builder: Arc<PackBuilder>,
        /// Its number.
        index: u8,
        /// The list of its groups.
        list: Arc<GroupList>,
    },
}

impl Target {
    fn group_bytes(&self, group: usize) -> usize {
        match self {
            Self::Pack(receiver) => receiver.group_bytes(group),
            Self::Fragment { list, .. } => {
                let range = list.range(group);
                (range.end - range.start) as usize
            }
        }
    }

    fn write(&self, group: usize, bytes: &[u8]) -> Result<Received, Event> {
        match self {
            Self::Pack(receiver) => receiver.write(group, bytes).map_err(Event::store_failure),
            Self::Fragment { builder, index, .. } => {
                let written = builder.write(*index, group, bytes);
                written.map_err(|error| Event::Store(error.kind().into(), Box::new(error)))
            }
        }
    }
}

/// Groups that are asked for, and where they go.
pub(crate) struct Wanted {
    pub(crate) piece: Piece,
    pub(crate) target: Target,
    pub(crate) groups: Range<usize>,
}

impl Wanted {
    fn range(&self) -> PieceRange {
        let bytes = self.groups.clone().map(|group| self.target.group_bytes(group) as u64).sum();
        PieceRange {
            piece: self.piece,
            offset: self.groups.start as u64 * sustain_proto::limits::GROUP_BYTES,
            bytes,
        }
    }
}

/// Groups that came, and where they go.
struct Load {
    wanted: usize,
    first: usize,
    bytes: Vec<u8>,
}

impl Transfers {
    /// Tells the gathering. If it is over, nobody wants to know.
    pub(crate) async fn tell(&self, event: Event) {
        let _ = self.events.send(event).await;
    }

    /// Asks for lists, and tells of each and of the end.
    pub(crate) async fn lists(self, id: OrderId, peer: NodeId, pieces: Vec<(Piece, u64)>) {
        let outcome = self.fetch_lists(id, peer, &pieces).await;
        self.tell(Event::Ended(id, outcome.err())).await;
    }

    async fn fetch_lists(&self, id: OrderId, peer: NodeId, pieces: &[(Piece, u64)]) -> Result<(), String> {
        let request = Request::GetGroups { pieces: pieces.iter().map(|(piece, _)| *piece).collect() };
        let Opened { mut stream, answer, exchange } = self.ask(peer, &request).await?;
        let counts = match answer {
            Response::Groups { counts } if counts.len() == pieces.len() => counts,
            _ => return Err(exchange.other_answer(&self.member).to_string()),
        };
        for ((piece, bytes), count) in pieces.iter().zip(counts) {
            if count == 0 {
                self.tell(Event::Absent(id, peer, *piece)).await;
                continue;
            }
            if count as usize != group_count(*bytes) {
                // Its pack may have been cut off on its disk.
                self.tell(Event::Wrong(peer, *piece, What::WrongBytes)).await;
                return Ok(());
            }
            let room = count as usize * GROUP_VALUE_BYTES;
            let (raw, end) = pump::fill(&mut stream, room, self.member.stall_timeout()).await;
            end.map_err(|error| error_chain(&error))?;
            let values =
                raw.chunks_exact(GROUP_VALUE_BYTES).filter_map(|value| GroupValue::try_from(value).ok());
            match GroupList::check(*piece.root(), *bytes, values.collect()) {
                Ok(list) => self.tell(Event::Listed(id, *piece, list)).await,
                Err(_) => {
                    self.tell(Event::Wrong(peer, *piece, What::FalseList)).await;
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Asks for groups, and tells of those that came and of the end.
    pub(crate) async fn groups(self, id: OrderId, peer: NodeId, wanted: Vec<Wanted>) {
        let outcome = self.fetch_groups(id, peer, wanted).await;
        self.tell(Event::Ended(id, outcome.err())).await;
    }

    async fn fetch_groups(&self, id: OrderId, peer: NodeId, wanted: Vec<Wanted>) -> Result<(), String> {
        let request = Request::GetRanges { ranges: wanted.iter().map(Wanted::range).collect() };
        let Opened { mut stream, answer, exchange } = self.ask(peer, &request).await?;
        let here = match answer {
            Response::Ranges { here } if here.len() == wanted.len() => here,
            _ => return Err(exchange.other_answer(&self.member).to_string()),
        };
        for (wanted, _) in wanted.iter().zip(&here).filter(|(_, here)| !**here) {
            self.tell(Event::Absent(id, peer, wanted.piece)).await;
        }
        // The plan has taken out of the order all of a piece that is absent.
        let absent: Vec<Piece> =
            wanted.iter().zip(&here).filter(|(_, here)| !**here).map(|(wanted, _)| wanted.piece).collect();
        let wanted = Arc::new(wanted);
        let (loads, filled) = mpsc::channel(limits::PACK_BUFFERS);
        let (writer, targets) = (self.clone(), wanted.clone());
        let writing = self.member.tasks.blocking(move || writer.write(id, peer, &targets, &absent, filled));
        let outcome = self.read(&mut stream, &wanted, &here, loads).await;
        writing.await.map_err(|_| "the work with the store was interrupted".to_owned())?;
        outcome
    }

    /// Reads what is here at the peer, some groups at a time.
    async fn read(
        &self,
        stream: &mut RecvStream,
        wanted: &[Wanted],
        here: &[bool],
        loads: mpsc::Sender<Load>,
    ) -> Result<(), String> {
        let stall = self.member.stall_timeout();
        for (number, target) in wanted.iter().enumerate().filter(|(number, _)| here[*number]) {
            let mut first = target.groups.start;
            while first < target.groups.end {
                let last = target.groups.end.min(first + limits::GROUPS_AT_ONCE);
                let room = (first..last).map(|group| target.target.group_bytes(group)).sum();
                let (bytes, end) = pump::fill(stream, room, stall).await;
                // It fails when the writer has met something wrong, and told of it.
                if loads.send(Load { wanted: number, first, bytes }).await.is_err() {
                    return Ok(());
                }
                end.map_err(|error| error_chain(&error))?;
                first = last;
            }
        }
        Ok(())
    }

    /// Checks and writes what comes. Returns at the first group that is wrong, or can't be written.
    fn write(
        &self,
        id: OrderId,
        peer: NodeId,
        wanted: &[Wanted],
        absent: &[Piece],
        mut loads: mpsc::Receiver<Load>,
    ) {
        while let Some(load) = loads.blocking_recv() {
            let Wanted { piece, target, .. } = &wanted[load.wanted];
            let (mut rest, mut group) = (&load.bytes[..], load.first);
            let mut came = Vec::with_capacity(limits::GROUPS_AT_ONCE);
            let mut trouble = None;
            // What broke off within a group is of no use.
            while let Some((bytes, others)) = rest.split_at_checked(target.group_bytes(group)) {
                if bytes.is_empty() {
                    break;
                }
                match target.write(group, bytes) {
                    Ok(Received::Wrong) => {
                        trouble = Some(Event::Wrong(peer, *piece, What::WrongBytes));
                        break;
                    }
                    Ok(Received::New | Received::Known) => {}
                    Err(failure) => {
                        trouble = Some(failure);
                        break;
                    }
                }
                came.push(bytes.len() as u64);
                (rest, group) = (others, group + 1);
            }
            if !absent.contains(piece) && !came.is_empty() {
                let _ = self.events.blocking_send(Event::Came(id, came));
            }
            if let Some(trouble) = trouble {
                let _ = self.events.blocking_send(trouble);
                return;
            }
        }
    }

    async fn ask(&self, peer: NodeId, request: &Request) -> Result<Opened, String> {
        let member = &self.member;
        let exchange = Exchange::new(peer, request);
        let work = async {
            let (mut send, mut stream) = exchange.open(member, request).await?;
            // Fails only on a stream that is finished already.
            let _ = send.finish();
            let answer = exchange.answer(member, &mut stream, request.lane().frame_bytes_max()).await?;
            Ok(Opened { stream, answer, exchange })
        };
        exchange.within(member.request_timeout(), work).await.map_err(|error| error_chain(&error))
    }
}

/// An answer that raw bytes follow.
struct Opened {
    stream: RecvStream,
    answer: Response,
    exchange: Exchange,
}
