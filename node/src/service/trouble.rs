//! What is wrong with a service on this node, for as long as it is.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::logic::Event;

/// A problem that is in force, as `snapctl status` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// What is wrong, with its causes.
    pub what: String,
    /// For how long it has been so.
    pub age_ms: u64,
}

/// What can be wrong, the most telling last: of several, that one is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Trouble {
    /// There is no server, and this node makes none.
    NoServer,
    /// The service ended, and no other has begun.
    Lost,
    /// A snapshot could not be had from the others.
    Gather,
    /// What is durable survives fewer losses than it is to.
    Level,
    /// Nothing new becomes durable.
    Lag,
    /// Older snapshots can't be dropped.
    Rebase,
    /// No snapshot can be taken.
    Snapshot,
    /// The service could not be started here.
    Start,
    /// The key of the newest snapshot is not here.
    Key,
    /// This machine can't run the service.
    Host,
}

/// What is over when the VM's thread says this.
pub(super) fn over_with(event: &Event) -> &'static [Trouble] {
    match event {
        Event::Running { .. } => &[Trouble::Start, Trouble::Lost, Trouble::Gather],
        Event::Gathered { .. } => &[Trouble::Gather],
        // A VM that is gone is what is wrong, if anything.
        Event::Exited { .. } | Event::StartFailed { .. } | Event::Stopped => {
            &[Trouble::Snapshot, Trouble::Rebase]
        }
        _ => &[],
    }
}

/// All that is wrong now.
#[derive(Debug, Default)]
pub(super) struct Troubles(BTreeMap<Trouble, (String, u64)>);

impl Troubles {
    /// Something is wrong, perhaps still.
    pub(super) fn begin(&mut self, trouble: Trouble, what: String, now_ms: u64) {
        let since_ms = self.0.get(&trouble).map_or(now_ms, |(_, since_ms)| *since_ms);
        self.0.insert(trouble, (what, since_ms));
    }

    /// Whether it is known to be wrong.
    pub(super) fn has(&self, trouble: Trouble) -> bool {
        self.0.contains_key(&trouble)
    }

    /// It is over, or was not there.
    pub(super) fn end(&mut self, over: &[Trouble]) {
        self.0.retain(|trouble, _| !over.contains(trouble));
    }

    /// What is to be shown.
    pub(super) fn worst(&self, now_ms: u64) -> Option<Problem> {
        let (what, since_ms) = self.0.values().next_back()?;
        Some(Problem { what: what.clone(), age_ms: now_ms.saturating_sub(*since_ms) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_is_shown_from_its_beginning_to_its_end_and_the_most_telling_first() {
        let mut troubles = Troubles::default();
        troubles.begin(Trouble::Start, "the start failed".to_owned(), 100);
        troubles.begin(Trouble::NoServer, "nobody stands".to_owned(), 200);
        troubles.begin(Trouble::Start, "the start failed again".to_owned(), 300);
        let shown = troubles.worst(1_100).unwrap();
        assert_eq!((shown.what.as_str(), shown.age_ms), ("the start failed again", 1_000));
        troubles.end(&[Trouble::Start, Trouble::Snapshot]);
        assert_eq!(troubles.worst(1_100).unwrap().what, "nobody stands");
        troubles.end(&[Trouble::NoServer]);
        assert_eq!(troubles.worst(1_100), None);
    }
}
