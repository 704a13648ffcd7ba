//! Selectors: how people name a snapshot.

use sustain_proto::{ServiceName, SnapshotId};

use crate::state::State;
use crate::store::Store;
use crate::{Fault, ReadError, limits};

impl Store {
    /// The snapshot that a text names: a whole id, the beginning of one (at least 4 digits),
    /// `SERVICE@latest`, or `SERVICE@-1` for the one before, and so on. An id from before a rebase names
    /// the snapshot that holds its contents now.
    ///
    /// # Errors
    /// If the text names none, or several.
    pub fn resolve(&self, selector: &str) -> Result<SnapshotId, ReadError> {
        let state = self.shared.state();
        match selector.split_once('@') {
            Some((service, which)) => {
                if let Ok(service) = ServiceName::new(service) {
                    self.refuse_doubt(&state, &service, selector)?;
                }
                by_age(&state, selector, service, which)
            }
            None => by_id(&state, selector),
        }
    }

    /// With a manifest that can't be read nobody knows which snapshot is the newest, and an older one must
    /// not be taken for it.
    pub(crate) fn refuse_doubt(
        &self,
        state: &State,
        service: &ServiceName,
        selector: &str,
    ) -> Result<(), ReadError> {
        match self.shared.lost(state, service).first() {
            None => Ok(()),
            Some(bad) => {
                let reason = format!("{}; it may be {selector}, so name a snapshot by its id", bad.reason);
                Err(ReadError::Fault(Fault::damaged(&bad.path, reason)))
            }
        }
    }
}

fn by_age(state: &State, selector: &str, service: &str, which: &str) -> Result<SnapshotId, ReadError> {
    let malformed = |reason| ReadError::Selector { selector: selector.to_owned(), reason };
    let service =
        ServiceName::new(service).map_err(|_| malformed("what is before @ is no service's name"))?;
    let back = match (which, which.strip_prefix('-')) {
        ("latest", _) => 0,
        (_, Some(digits)) if digits.bytes().all(|digit| digit.is_ascii_digit()) => {
            digits.parse().map_err(|_| malformed("after @ comes latest, -1, -2 and so on"))?
        }
        _ => return Err(malformed("after @ comes latest, -1, -2 and so on")),
    };
    let not_found = || ReadError::NotFound { selector: selector.to_owned() };
    // Counted among all: an older snapshot must not be taken for one whose files are missing. Reading that one
    // says what is wrong with it.
    state.all_of_service(&service).iter().rev().nth(back).map(|snapshot| snapshot.id).ok_or_else(not_found)
}

fn by_id(state: &State, selector: &str) -> Result<SnapshotId, ReadError> {
    let malformed = |reason| ReadError::Selector { selector: selector.to_owned(), reason };
    let not_found = || ReadError::NotFound { selector: selector.to_owned() };
    if !selector.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f')) {
        return Err(malformed("an id is of the digits 0-9 and a-f; a service's snapshot is SERVICE@latest"));
    }
    if selector.len() < limits::PREFIX_DIGITS_MIN {
        return Err(malformed("at least 4 digits are needed"));
    }
    if let Ok(id) = selector.parse::<SnapshotId>() {
        return state.follow(id).map(|snapshot| snapshot.id).ok_or_else(not_found);
    }
    let current = state.snapshots.keys();
    let former = state.aliases.keys().chain(state.snapshots.values().flat_map(|s| s.came_from()));
    let fits = |id: &&SnapshotId| id.to_string().starts_with(selector);
    let mut found: Vec<SnapshotId> =
        current.chain(former).filter(fits).filter_map(|id| state.follow(*id)).map(|s| s.id).collect();
    found.sort_unstable();
    found.dedup();
    match found.as_slice() {
        [] => Err(not_found()),
        [id] => Ok(*id),
        several => Err(ReadError::Ambiguous { selector: selector.to_owned(), count: several.len() }),
    }
}
