//! Asks peers for bytes of parts: what comes is checked group by group before it is written.

use std::sync::Arc;

use sustain_proto::NodeId;
use sustain_proto::limits::GROUP_BYTES;
use sustain_proto::wire::{Ask, Granted, Request as Question, Response};
use sustain_store::{Received, error_chain};
use tokio::sync::oneshot;

use super::answers::refusal;
use super::{Inlet, Keeping};
use crate::conduct::What;
use crate::depot::{DepotError, PartList, PartReceiver};
use crate::exchange::Exchange;
use crate::keeper::{Event, Message, Pack, Part, Ranges, Refusal, Request, Which};
use crate::limits;
use crate::member::Member;
use crate::pump;

/// What to ask whom for.
pub(super) struct Errand {
    pub(super) request: Request,
    pub(super) to: NodeId,
    pub(super) pack: Pack,
    pub(super) part: Part,
    pub(super) missing: Ranges,
    pub(super) is_stuck: bool,
    /// Where it goes, if some of it came before.
    pub(super) receiver: Option<Arc<PartReceiver>>,
}

/// How an errand ended badly.
enum Trouble {
    Refused(Refusal),
    /// The peer sent what it should not.
    Wrong(What, &'static str),
    Failed(String),
}

impl From<String> for Trouble {
    fn from(reason: String) -> Self {
        Self::Failed(reason)
    }
}

/// Runs an errand, and tells the keeper what comes of it.
pub(super) async fn run(member: Arc<Member>, errand: Errand) {
    let (request, to) = (errand.request, errand.to);
    let event = match fetch(&member, errand).await {
        Ok(()) => return,
        Err(Trouble::Refused(why)) => Event::Message { from: to, message: Message::Refuse { request, why } },
        Err(Trouble::Wrong(conduct, what)) => {
            member.misbehaved(to, conduct);
            tracing::warn!(peer = %to.short(), what, "a peer sends what it should not");
            Event::Wrong { request }
        }
        Err(Trouble::Failed(reason)) => {
            tracing::debug!(peer = %to.short(), reason, "bytes did not come");
            Event::Failed { request }
        }
    };
    member.keeping.tell(Inlet::Event(event)).await;
}

async fn fetch(member: &Arc<Member>, errand: Errand) -> Result<(), Trouble> {
    let Errand { request, to, pack, part, missing, is_stuck, receiver } = errand;
    let fragment = match part.which {
        Which::Whole => None,
        Which::Fragment(index) => Some(index),
    };
    let wants_list = receiver.is_none();
    let question = Question::Ask(Ask {
        pack: part.pack,
        fragment,
        missing: missing.iter().collect(),
        is_stuck,
        wants_list,
    });
    let exchange = Exchange::new(to, &question);
    let opening = async {
        let (mut send, mut stream) = exchange.open(member, &question).await?;
        // Fails only on a stream that is finished already.
        let _ = send.finish();
        let answer = exchange.answer(member, &mut stream, question.lane().frame_bytes_max()).await?;
        Ok((stream, answer))
    };
    let opened = exchange.within(member.request_timeout(), opening).await;
    let (mut stream, answer) = opened.map_err(|error| error_chain(&error))?;
    let Granted { range, groups, sheet } = match answer {
        Response::Granted(granted) => granted,
        Response::Denied(denial) => return Err(Trouble::Refused(refusal(denial))),
        _ => return Err(Trouble::Wrong(What::Improper, "another answer")),
    };
    let bytes = pack.part_bytes(part.which);
    let is_whole_groups = range.1 % GROUP_BYTES == 0 || range.1 == bytes;
    let is_asked = Ranges::one(range.0, range.1).without(&missing).is_empty();
    if !is_asked || !is_whole_groups {
        return Err(Trouble::Wrong(What::Improper, "bytes that were not asked for"));
    }
    let grant = Message::Grant { request, range };
    member.keeping.tell(Inlet::Event(Event::Message { from: to, message: grant })).await;
    let receiver = match receiver {
        Some(receiver) => receiver,
        None => begin(&member.keeping, request, (part, bytes), PartList { values: groups, sheet }).await?,
    };
    let mut at = range.0;
    while at < range.1 {
        let room = (range.1 - at).min(limits::PACK_BUFFER_BYTES as u64);
        let (came, end) = pump::fill(&mut stream, room as usize, member.stall_timeout()).await;
        let is_last = at + room == range.1 && end.is_ok();
        let (writer, stops) = (receiver.clone(), (at, bytes));
        let written = member.tasks.blocking(move || write(&writer, stops, &came)).await;
        let written = written.map_err(|error| error.to_string())?;
        if written.to > at {
            let range = (at, written.to);
            let event = Event::Fetched { request, range, is_last: is_last && written.trouble.is_none() };
            member.keeping.tell(Inlet::Event(event)).await;
        }
        if let Some(trouble) = written.trouble {
            return Err(trouble);
        }
        end.map_err(|error| error_chain(&error))?;
        at = written.to;
    }
    Ok(())
}

/// Gets a part ready to be received, and tells what a former life of this node has left of it.
async fn begin(
    keeping: &Keeping,
    request: Request,
    (part, bytes): (Part, u64),
    list: PartList,
) -> Result<Arc<PartReceiver>, Trouble> {
    let (answer, opened) = oneshot::channel();
    keeping.tell(Inlet::Open { part, list, answer }).await;
    let opened = opened.await.map_err(|_| Trouble::Failed("the part is not wanted any more".to_owned()))?;
    let receiver = opened.map_err(|error| {
        if is_wrong(&error) {
            Trouble::Wrong(What::FalseList, "a list or a sheet that is another one")
        } else {
            Trouble::Failed(error_chain(&error))
        }
    })?;
    for range in here(&receiver.here(), bytes).iter() {
        keeping.tell(Inlet::Event(Event::Fetched { request, range, is_last: false })).await;
    }
    Ok(receiver)
}

/// Whether it is the peer's fault that a part can't be received.
fn is_wrong(error: &DepotError) -> bool {
    matches!(error, DepotError::List { .. } | DepotError::WrongSheet { .. } | DepotError::Sheet { .. })
}

/// The bytes of those groups that are here.
fn here(groups: &[bool], bytes: u64) -> Ranges {
    let mut ranges = Ranges::default();
    for (start, _) in (0..).step_by(GROUP_BYTES as usize).zip(groups).filter(|(_, is_here)| **is_here) {
        ranges.insert(start, (start + GROUP_BYTES).min(bytes));
    }
    ranges
}

struct Written {
    /// Up to here it is written.
    to: u64,
    trouble: Option<Trouble>,
}

/// Checks and writes whole groups. What broke off within one is of no use.
fn write(receiver: &PartReceiver, (from, part_bytes): (u64, u64), mut came: &[u8]) -> Written {
    let mut at = from;
    let mut trouble = None;
    while !came.is_empty() {
        let room = (part_bytes - at).min(GROUP_BYTES);
        let Some((bytes, rest)) = came.split_at_checked(room as usize) else { break };
        match receiver.write((at / GROUP_BYTES) as usize, bytes) {
            Ok(Received::New | Received::Known) => {}
            Ok(Received::Wrong) => {
                trouble = Some(Trouble::Wrong(What::WrongBytes, "a group that is another one"));
                break;
            }
            Err(error) => {
                trouble = Some(Trouble::Failed(error_chain(&error)));
                break;
            }
        }
        (at, came) = (at + room, rest);
    }
    Written { to: at, trouble }
}
