//! The guest's channel: what it may ask, and when it is answered.
//!
//! ```text
//!              ┌─ status, watermark, all-on-line, last-snapshot ──────────────▶ answered at once
//! line ─▶ ask ─┼─ snapshot ─▶ waits for: taken ────────────────────────────────▶ answered
//!              └─ barrier ──▶ waits for: taken ─▶ waits for: durable up to it ─▶ answered
//! ```
//! A snapshot that was under way when the guest asked may have been taken before the guest did what it asks
//! about. So each question that takes a snapshot gets a *token*, and is answered only by a snapshot that was
//! begun with that token or a later one. The protocol is described in `docs/guest-channel.md`.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value, json};
use sustain_proto::Term;

use super::state::Role;
use crate::limits::{CHANNEL_ID_BYTES_MAX, CHANNEL_WAIT, CHANNEL_WAITING_MAX};

/// What the node knows about the service when it is asked.
#[derive(Debug, Clone, PartialEq)]
pub struct ChannelView {
    /// The node's role.
    pub role: Role,
    /// The server's term.
    pub term: Option<Term>,
    /// The newest snapshot taken; none before the first.
    pub running_seq: Option<u64>,
    /// The newest durable one.
    pub durable_seq: Option<u64>,
    /// Losses that the newest durable one survives.
    pub level: u32,
    /// When all candidates were last on line, in ms since 1970 by the host's clock.
    pub all_on_line_unix_ms: Option<u64>,
    /// When the newest snapshot was taken, by the host's clock.
    pub taken_unix_ms: Option<u64>,
    /// For how long the guest has run since then, in ms. Subtracted from its own clock it is when that was by its
    /// own clock, which nobody else knows.
    pub taken_ago_ms: Option<u64>,
}

/// Names a snapshot that has been asked for; later ones are greater.
pub type SnapshotToken = u64;

/// What is to be done about what the guest or the node said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChannelOutput {
    /// A line for the guest.
    Say(String),
    /// A snapshot is to be begun now, after whatever is under way; [`Channel::taken`] or
    /// [`Channel::not_taken`] follows with this token.
    TakeSnapshot(SnapshotToken),
}

/// A question that waits.
#[derive(Debug)]
struct Waiting {
    ask: Ask,
    id: Option<Value>,
    /// The snapshot that it asked for, until that is taken.
    token: SnapshotToken,
    /// The snapshot that has to become durable, once it is taken.
    seq: Option<u64>,
    until_ms: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Ask {
    Status,
    Watermark,
    AllOnLine,
    LastSnapshot,
    Snapshot,
    Barrier,
}

impl Ask {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::Watermark => "watermark",
            Self::AllOnLine => "all-on-line",
            Self::LastSnapshot => "last-snapshot",
            Self::Snapshot => "snapshot",
            Self::Barrier => "barrier",
        }
    }
}

/// One guest's channel, from the start or restore of its VM to its end. A restored guest has a new one:
/// nothing that an earlier life asked is waited for.
#[derive(Debug, Default)]
pub struct Channel {
    /// By order of asking.
    waiting: BTreeMap<u64, Waiting>,
    asked: u64,
    durable_seq: Option<u64>,
}

impl Channel {
    /// What a guest is told that had the channel open when it was saved, right after its restore: it may
    /// wait for an answer to a question that went to an earlier life's node. Asking again is always right:
    /// the restored state has everything that the guest did before it asked, and a barrier that is repeated
    /// covers it anew.
    #[must_use]
    pub fn restored(term: Term, seq: u64) -> ChannelOutput {
        ChannelOutput::Say(json!({ "event": "restored", "term": term.to_string(), "seq": seq }).to_string())
    }

    /// The guest says a line.
    pub fn line(&mut self, now_ms: u64, line: &[u8], view: &ChannelView) -> Vec<ChannelOutput> {
        let Ok(Value::Object(mut object)) = serde_json::from_slice(line) else {
            return vec![refuse(None, "a question is one JSON object on one line")];
        };
        let id = object.remove("id");
        if id.as_ref().is_some_and(|id| id.to_string().len() > CHANNEL_ID_BYTES_MAX) {
            return vec![refuse(None, &format!("an id has at most {CHANNEL_ID_BYTES_MAX} bytes"))];
        }
        let Some(ask) = object.remove("ask").and_then(|ask| Ask::deserialize(ask).ok()) else {
            return vec![refuse(
                id.as_ref(),
                "\"ask\" is one of status, watermark, all-on-line, last-snapshot, snapshot, barrier",
            )];
        };
        match ask {
            Ask::Snapshot | Ask::Barrier => self.wait(now_ms, ask, id),
            Ask::Status | Ask::Watermark | Ask::AllOnLine | Ask::LastSnapshot => {
                vec![answer(ask, id.as_ref(), describe(ask, view))]
            }
        }
    }

    /// The guest says a line that was too long to be kept.
    #[must_use]
    pub fn line_too_long() -> ChannelOutput {
        refuse(None, "that line is too long")
    }

    fn wait(&mut self, now_ms: u64, ask: Ask, id: Option<Value>) -> Vec<ChannelOutput> {
        if self.waiting.len() >= CHANNEL_WAITING_MAX {
            return vec![refuse(id.as_ref(), "too many questions wait for a snapshot already")];
        }
        self.asked += 1;
        let token = self.asked;
        let until_ms = now_ms.saturating_add(u64::try_from(CHANNEL_WAIT.as_millis()).unwrap_or(u64::MAX));
        self.waiting.insert(token, Waiting { ask, id, token, seq: None, until_ms });
        vec![ChannelOutput::TakeSnapshot(token)]
    }

    /// A snapshot that was begun with this token is taken.
    pub fn taken(&mut self, token: SnapshotToken, seq: u64) -> Vec<ChannelOutput> {
        for waiting in self.waiting.values_mut() {
            // Later ones asked after it was begun; earlier ones are covered by it as well.
            if waiting.token <= token && waiting.seq.is_none() {
                waiting.seq = Some(seq);
            }
        }
        let durable = self.durable_seq;
        self.release(|waiting| match (waiting.ask, waiting.seq) {
            (Ask::Snapshot, Some(seq)) => Some(json!({ "seq": seq })),
            (_, Some(seq)) if durable >= Some(seq) => Some(json!({ "seq": seq, "durable_seq": durable })),
            _ => None,
        })
    }

    /// A snapshot that was to be begun with this token is not taken.
    pub fn not_taken(&mut self, token: SnapshotToken, reason: &str) -> Vec<ChannelOutput> {
        self.release(|waiting| {
            let failed = waiting.token <= token && waiting.seq.is_none();
            failed.then(|| json!({ "error": format!("no snapshot was taken: {reason}") }))
        })
    }

    /// All snapshots of this term up to this one are durable.
    pub fn durable(&mut self, seq: u64) -> Vec<ChannelOutput> {
        self.durable_seq = self.durable_seq.max(Some(seq));
        let durable = self.durable_seq;
        self.release(|waiting| {
            let covered = waiting.seq.is_some() && durable >= waiting.seq;
            covered.then(|| json!({ "seq": waiting.seq, "durable_seq": durable }))
        })
    }

    /// Time passes: whoever has waited too long is told so. To be called now and then.
    pub fn tick(&mut self, now_ms: u64) -> Vec<ChannelOutput> {
        self.release(|waiting| {
            let what = if waiting.seq.is_some() { "durable" } else { "taken" };
            let seconds = CHANNEL_WAIT.as_secs();
            let error = format!("the snapshot was not {what} within {seconds} s");
            (waiting.until_ms <= now_ms).then(|| json!({ "error": error, "seq": waiting.seq }))
        })
    }

    /// Answers those for whom there is an answer, in the order in which they asked.
    fn release(&mut self, mut answers: impl FnMut(&Waiting) -> Option<Value>) -> Vec<ChannelOutput> {
        let mut outputs = Vec::new();
        self.waiting.retain(|_, waiting| match answers(waiting) {
            Some(body) => {
                outputs.push(answer(waiting.ask, waiting.id.as_ref(), body));
                false
            }
            None => true,
        });
        outputs
    }
}

fn describe(ask: Ask, view: &ChannelView) -> Value {
    let lag = match (view.running_seq, view.durable_seq) {
        (Some(running), durable) => Some(running.saturating_sub(durable.unwrap_or(0))),
        (None, _) => None,
    };
    match ask {
        Ask::AllOnLine => json!({ "unix_ms": view.all_on_line_unix_ms }),
        Ask::LastSnapshot => json!({
            "seq": view.running_seq,
            "unix_ms": view.taken_unix_ms,
            "ago_ms": view.taken_ago_ms,
        }),
        Ask::Watermark | Ask::Status | Ask::Snapshot | Ask::Barrier => {
            let mut body = json!({
                "term": view.term.map(|term| term.to_string()),
                "seq": view.running_seq,
                "durable_seq": view.durable_seq,
                "level": view.level,
                "lag": lag,
                "ago_ms": view.taken_ago_ms,
            });
            if ask == Ask::Status {
                body["role"] = json!(view.role.as_str());
            }
            body
        }
    }
}

fn answer(ask: Ask, id: Option<&Value>, body: Value) -> ChannelOutput {
    let mut object = Map::from_iter([("ask".to_owned(), json!(ask.as_str()))]);
    if let Value::Object(body) = body {
        object.extend(body);
    }
    say(object, id)
}

fn refuse(id: Option<&Value>, error: &str) -> ChannelOutput {
    say(Map::from_iter([("error".to_owned(), json!(error))]), id)
}

fn say(mut object: Map<String, Value>, id: Option<&Value>) -> ChannelOutput {
    if let Some(id) = id {
        object.insert("id".to_owned(), id.clone());
    }
    ChannelOutput::Say(Value::Object(object).to_string())
}
