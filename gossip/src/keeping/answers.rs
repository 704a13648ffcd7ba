//! Peers that asked for bytes, until the keeper has decided.

use std::collections::BTreeMap;
use std::sync::Arc;

use sustain_proto::NodeId;
use sustain_proto::wire::{Ask, Denial};
use tokio::sync::oneshot;

use crate::depot::Depot;
use crate::keeper::{Event, Message, Pack, Part, Ranges, Refusal, Request, Which};

/// What a peer that asked is given.
pub(super) enum Answer {
    /// These bytes; [`Event::Served`] when they are sent, or can't be.
    Granted { depot: Arc<Depot>, request: Request, pack: Pack, part: Part, range: (u64, u64) },
    /// Nothing.
    Denied(Denial),
}

/// Those that wait for an answer. Each gets a number of its own here: what a peer calls its requests may come twice,
/// as it starts anew.
#[derive(Default)]
pub(super) struct Answers {
    waiting: BTreeMap<(NodeId, Request), oneshot::Sender<Answer>>,
    last: Request,
}

impl Answers {
    /// A peer asks. What to tell the keeper.
    pub(super) fn asked(&mut self, from: NodeId, ask: &Ask, answer: oneshot::Sender<Answer>) -> Event {
        self.last += 1;
        let request = self.last;
        self.waiting.insert((from, request), answer);
        let which = ask.fragment.map_or(Which::Whole, Which::Fragment);
        let mut missing = Ranges::default();
        ask.missing.iter().for_each(|range| missing.insert(range.0, range.1));
        let part = Part { pack: ask.pack, which };
        Event::Message { from, message: Message::Ask { request, part, missing, is_stuck: ask.is_stuck } }
    }

    /// The keeper refuses.
    pub(super) fn refuse(&mut self, to: NodeId, request: Request, why: Refusal) {
        let denial = match why {
            Refusal::Lack { have, is_coming } => Denial::Lack { have: have.iter().collect(), is_coming },
            Refusal::Busy => Denial::Busy,
            Refusal::Elsewhere { nodes } => Denial::Elsewhere { nodes },
        };
        if let Some(answer) = self.waiting.remove(&(to, request)) {
            // It fails where the peer has gone.
            let _ = answer.send(Answer::Denied(denial));
        }
    }

    /// The keeper gives. False if nobody waits for it any more.
    pub(super) fn grant(
        &mut self,
        to: NodeId,
        request: Request,
        pack: Pack,
        (depot, part, range): (&Arc<Depot>, Part, (u64, u64)),
    ) -> bool {
        let answer = Answer::Granted { depot: depot.clone(), request, pack, part, range };
        self.waiting.remove(&(to, request)).is_some_and(|waiting| waiting.send(answer).is_ok())
    }
}

/// What a peer's denial says to the keeper.
pub(super) fn refusal(denial: Denial) -> Refusal {
    match denial {
        Denial::Lack { have, is_coming } => {
            let mut ranges = Ranges::default();
            have.iter().for_each(|range| ranges.insert(range.0, range.1));
            Refusal::Lack { have: ranges, is_coming }
        }
        Denial::Busy => Refusal::Busy,
        Denial::Elsewhere { nodes } => Refusal::Elsewhere { nodes },
    }
}
