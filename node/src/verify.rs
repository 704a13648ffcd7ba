//! `snapctl verify`: the same on a folder of one's own and behind a daemon's admin API.

use serde::{Deserialize, Serialize};
use sustain_proto::ServiceName;
use sustain_store::{
    Depth, Pace, Progress, ReadError, Sample, Scope, Store, VerifyError, VerifyOptions, VerifyReport,
};

use crate::operations::{self, Failure};

/// What is verified, and how.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct VerifyCall {
    /// A service, or a snapshot as `gather` names one; everything if there is none.
    pub what: Option<String>,
    /// Only some of the packs, and only compared with their ids.
    pub sample: Option<Sample>,
    /// Decides which; at random if there is none.
    pub seed: Option<u64>,
    /// Most bytes a second that are read.
    pub rate_bytes: Option<u64>,
    /// Go on where the last run was stopped.
    pub resume: bool,
    /// Change nothing: damaged packs stay where they are.
    pub dry_run: bool,
}

/// Reads and checks what the call says, and sets damaged packs aside.
///
/// # Errors
/// If there is nothing of that name, or the store can't be read at all. What is damaged is in the report.
pub fn verify(
    store: &Store,
    call: &VerifyCall,
    pace: Pace,
    progress: &dyn Progress,
) -> Result<VerifyReport, Failure> {
    match (scope(store, call.what.as_deref())?, call.what.as_deref()) {
        (Scope::Snapshot(_), Some(what)) => operations::with_snapshot(store, what, |snapshot| {
            run(store, call, Scope::Snapshot(snapshot), pace, progress)
        }),
        (scope, _) => run(store, call, scope, pace, progress),
    }
}

fn run(
    store: &Store,
    call: &VerifyCall,
    scope: Scope,
    pace: Pace,
    progress: &dyn Progress,
) -> Result<VerifyReport, Failure> {
    let options = VerifyOptions {
        scope,
        depth: call.sample.map_or(Depth::Contents, Depth::Sample),
        seed: call.seed.unwrap_or_else(rand::random),
        rate_bytes: call.rate_bytes,
        resume: call.resume,
        set_aside: !call.dry_run,
        pace,
    };
    store.verify_with(&options, progress).map_err(|error| match error {
        VerifyError::Cancelled => {
            let failure = Failure::new(130, "interrupted");
            if call.dry_run || call.sample.is_some() {
                return failure;
            }
            failure.with_hint("`snapctl verify --resume` goes on from here")
        }
        error => Failure::of(&error, error.kind()),
    })
}

/// A service's name is one only if it has snapshots here: the beginning of an id may look like one.
fn scope(store: &Store, what: Option<&str>) -> Result<Scope, Failure> {
    let Some(what) = what else { return Ok(Scope::Everything) };
    let services = store.services().map_err(|error| Failure::of(&error, error.kind()))?;
    let is_name = match ServiceName::new(what) {
        Ok(service) if services.contains(&service) => return Ok(Scope::Service(service)),
        name => name.is_ok(),
    };
    match store.resolve(what) {
        Ok(snapshot) => Ok(Scope::Snapshot(snapshot)),
        // Neither the one nor the other.
        Err(ReadError::NotFound { .. } | ReadError::Selector { .. }) if is_name => {
            Err(Failure::new(10, format!("there is no service and no snapshot {what} here"))
                .with_hint(operations::what_there_is(store, None)))
        }
        Err(_) => operations::resolve(store, what).map(Scope::Snapshot),
    }
}
