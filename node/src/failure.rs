//! A command's failure: what a user is told, and the exit code.

use std::path::Path;

use serde::{Deserialize, Serialize};
use sustain_store::{ErrorKind, error_chain};

/// A failure as a user sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What failed, with its causes.
    pub error: String,
    /// The process's exit code.
    pub exit_code: u8,
    /// What to do next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl Failure {
    /// A failure without a hint.
    #[must_use]
    pub fn new(exit_code: u8, error: impl Into<String>) -> Self {
        Self { error: error.into(), exit_code, hint: None }
    }

    /// Adds the next step.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// From a store's error.
    #[must_use]
    pub fn of(error: &(dyn std::error::Error + 'static), kind: ErrorKind) -> Self {
        let failure = Self::new(exit_code(kind), error_chain(error));
        match kind {
            ErrorKind::Busy => failure.with_hint("run the command again when that is done"),
            ErrorKind::Corrupt if is_of_key(&failure.error) => failure.with_hint(KEY_FILE_HINT),
            ErrorKind::Corrupt => failure.with_hint(VERIFY_HINT),
            ErrorKind::NotFound => {
                failure.with_hint("`snapctl log SERVICE` lists the snapshots that are here")
            }
            ErrorKind::NoSpace => {
                failure.with_hint("free some space and run the command again: nothing is lost")
            }
            ErrorKind::Key => failure.with_hint(KEY_HINT),
            ErrorKind::ReadOnly => failure.with_hint(
                "mount the file system writable, or name another folder; a store that is read-only can be read",
            ),
            ErrorKind::Refused | ErrorKind::Failed => failure,
        }
    }
}

/// Whether an error names a file of secrets as damaged.
fn is_of_key(error: &str) -> bool {
    let path = error.split_once(" is damaged: ").map(|(path, _)| Path::new(path));
    path.and_then(Path::parent).is_some_and(|folder| folder.ends_with("keys"))
}

const KEY_FILE_HINT: &str =
    "put the key back from a copy: without it nothing of the service can be read; others are not concerned";

pub(crate) const VERIFY_HINT: &str = "`snapctl verify` names every damaged file";

const KEY_HINT: &str = "`snapctl key list` says which keys are here; put the file with the missing one back from the \
    copy that `snapctl key export` made, or bring it from another node: without it nobody can read this \
    (docs/sealing.md)";

/// The published exit code for each kind of error.
#[must_use]
pub const fn exit_code(kind: ErrorKind) -> u8 {
    match kind {
        ErrorKind::NotFound => 10,
        ErrorKind::Busy => 11,
        ErrorKind::Corrupt => 13,
        ErrorKind::Key => 14,
        ErrorKind::Refused => 2,
        ErrorKind::NoSpace | ErrorKind::ReadOnly | ErrorKind::Failed => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whoever asked a daemon was once told to leave out `--store`, which was not there.
    #[test]
    fn a_busy_service_is_to_be_waited_for() {
        let error = sustain_store::RebaseError::Busy { service: "notes".parse().unwrap() };
        let failure = Failure::of(&error, error.kind());
        assert_eq!(failure.exit_code, 11);
        assert_eq!(failure.hint.as_deref(), Some("run the command again when that is done"));
    }
}
