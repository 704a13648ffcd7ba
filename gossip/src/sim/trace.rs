//! Logic: what happened, as one number that two runs of a seed share, and the last of it in words.

use std::collections::VecDeque;
use std::fmt;

use sustain_proto::SnapshotId;

use super::NodeNumber;
use crate::keeper::{Message, Part};

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Note {
    Message(&'static str, NodeNumber),
    Bytes(Part, u64),
    Synced(Part),
    Made(Part),
    Served(NodeNumber, Part, u64),
    Dropped(Part),
    Told(NodeNumber, bool),
    Level(SnapshotId, Option<usize>),
    Published(u64),
    Claimed(Option<u8>, Option<u8>),
    Fault(&'static str),
    Other(&'static str),
}

/// One line of the trace.
#[derive(Debug, Clone, Copy)]
struct Line {
    at_ms: u64,
    node: NodeNumber,
    note: Note,
}

/// The trace of a run.
#[derive(Debug, Clone, Default)]
pub(super) struct Trace {
    hash: u64,
    events: u64,
    last: VecDeque<Line>,
    lines_max: usize,
}

impl Trace {
    /// A trace that keeps its last so many lines.
    pub(super) fn new(lines_max: usize) -> Self {
        Self { lines_max, ..Self::default() }
    }

    pub(super) fn note(&mut self, at_ms: u64, node: NodeNumber, note: Note) {
        let (kind, detail) = note.digest();
        self.hash = crate::keeper::mix(self.hash ^ at_ms)
            ^ crate::keeper::mix(u64::from(node) << 8 ^ kind ^ detail << 24);
        self.events += 1;
        if self.last.len() >= self.lines_max {
            self.last.pop_front();
        }
        self.last.push_back(Line { at_ms, node, note });
    }

    pub(super) fn hash(&self) -> u64 {
        self.hash
    }

    pub(super) fn events(&self) -> u64 {
        self.events
    }

    /// The last of it, a line each.
    pub(super) fn last(&self) -> Vec<String> {
        self.last
            .iter()
            .map(|line| format!("{:>9} ms  node {:>4}  {}", line.at_ms, line.node, line.note))
            .collect()
    }
}

pub(super) fn name_of(message: &Message) -> &'static str {
    match message {
        Message::Digest { .. } => "digest",
        Message::Get { .. } => "get",
        Message::Catalog(_) => "catalog",
        Message::Claims { .. } => "claims",
        Message::Ask { .. } => "ask",
        Message::Grant { .. } => "grant",
        Message::Refuse { .. } => "refuse",
        Message::Have { .. } => "have",
        Message::Report(_) => "report",
        Message::Counted { .. } => "counted",
    }
}

impl Note {
    fn digest(self) -> (u64, u64) {
        let text = |text: &str| text.bytes().fold(0_u64, |sum, byte| sum.wrapping_mul(31) + u64::from(byte));
        let part = |part: Part| {
            let which = match part.which {
                crate::keeper::Which::Whole => 256,
                crate::keeper::Which::Fragment(index) => u64::from(index),
            };
            part.pack.as_bytes()[..6].iter().fold(which, |sum, byte| sum << 8 | u64::from(*byte))
        };
        match self {
            Self::Message(name, from) => (1, text(name) ^ u64::from(from) << 32),
            Self::Bytes(of, bytes) => (2, part(of) ^ bytes),
            Self::Served(node, of, bytes) => (12, part(of) ^ bytes ^ u64::from(node) << 20),
            Self::Synced(of) => (3, part(of)),
            Self::Made(of) => (4, part(of)),
            Self::Dropped(of) => (5, part(of)),
            Self::Told(node, alive) => (6, u64::from(node) << 1 | u64::from(alive)),
            Self::Level(id, level) => (
                7,
                u64::from(id.as_bytes()[0]) << 16
                    | u64::from(id.as_bytes()[1]) << 8
                    | level.map_or(255, |level| level as u64),
            ),
            Self::Published(number) => (8, number),
            Self::Claimed(index, moving) => {
                (9, u64::from(index.unwrap_or(255)) << 8 | u64::from(moving.unwrap_or(255)))
            }
            Self::Fault(name) => (10, text(name)),
            Self::Other(name) => (11, text(name)),
        }
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let show = |part: &Part| format!("{} {:?}", part.pack.short(), part.which);
        match self {
            Self::Message(name, from) => write!(f, "hears a {name} of {from}"),
            Self::Bytes(of, bytes) => write!(f, "gets {bytes} bytes of {}", show(of)),
            Self::Served(node, of, bytes) => write!(f, "sends {node} {bytes} bytes of {}", show(of)),
            Self::Synced(of) => write!(f, "has synced {}", show(of)),
            Self::Made(of) => write!(f, "has made {}", show(of)),
            Self::Dropped(of) => write!(f, "drops {}", show(of)),
            Self::Told(node, alive) => {
                write!(f, "takes {node} for {}", if *alive { "alive" } else { "dead" })
            }
            Self::Level(id, Some(level)) => write!(f, "says that {} survives {level} losses", id.short()),
            Self::Level(id, None) => write!(f, "says that {} is not safe", id.short()),
            Self::Published(number) => write!(f, "publishes catalog {number}"),
            Self::Claimed(index, moving) => write!(f, "holds {index:?}, moves to {moving:?}"),
            Self::Fault(name) | Self::Other(name) => write!(f, "{name}"),
        }
    }
}
