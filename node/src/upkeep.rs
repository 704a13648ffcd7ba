//! What `snapctl` does to keep a store small: rebases that are due, collections, pins. The same on a folder of one's
//! own and behind a daemon's admin API.

use serde::{Deserialize, Serialize};
use sustain_proto::{PinName, ServiceName};
use sustain_store::{
    FragmentsFreed, GcReport, Growth, NamedPin, Pace, Progress, ReadError, RebaseError, RebaseOptions,
    RebasePolicy, RebaseReport, Retention, Store, Trigger, UnlistedReport, limits,
};

use crate::clock;
use crate::operations::{self, Failure, VERIFY_HINT};

/// Which older snapshots are to be kept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Keep {
    /// So many of the newest.
    pub last: Option<u32>,
    /// The newest of each of so many hours.
    pub hourly: Option<u32>,
    /// The newest of each of so many days.
    pub daily: Option<u32>,
}

impl Keep {
    /// As the store takes it: without any rule everything stays.
    #[must_use]
    pub fn retention(&self) -> Retention {
        if *self == Self::default() {
            return Retention::EVERYTHING;
        }
        Retention {
            keep_last: self.last.unwrap_or(0),
            keep_hourly: self.hourly.unwrap_or(0),
            keep_daily: self.daily.unwrap_or(0),
        }
    }
}

/// A rebase.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RebaseCall {
    /// The service.
    pub service: ServiceName,
    /// Only if its generation has grown as far as it may.
    #[serde(default)]
    pub if_due: bool,
    /// Say what it would do, and do nothing.
    #[serde(default)]
    pub dry_run: bool,
}

/// What came of a rebase.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum RebaseOutput {
    /// It was done, or would be.
    Done(RebaseReport),
    /// It is not due.
    NotDue {
        /// How far the generation has grown.
        growth: Growth,
    },
}

/// A collection.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GcCall {
    /// The service; all of them if none is named.
    pub service: Option<ServiceName>,
    /// Say what it would do, and do nothing.
    pub dry_run: bool,
    /// What is to be kept.
    pub keep: Keep,
}

/// What a collection did, or would do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct GcOutput {
    /// Whether nothing was done.
    pub dry_run: bool,
    /// Of each service.
    pub services: Vec<GcReport>,
    /// Packs that no snapshot lists, unless a daemon may be receiving them.
    pub unlisted: Option<UnlistedReport>,
    /// Fragments that no manifest lists, unless there are none, or a daemon keeps them.
    pub fragments: Option<FragmentsFreed>,
    /// Services whose server collects by itself.
    pub left_to_servers: Vec<ServiceName>,
}

/// Makes the newest snapshot the base of a new generation; if so wanted only when that is due.
///
/// # Errors
/// If there is none, or the store can't be written.
pub fn rebase(
    store: &Store,
    call: &RebaseCall,
    pace: Pace,
    progress: &dyn Progress,
) -> Result<RebaseOutput, Failure> {
    let RebaseCall { service, if_due, dry_run } = call;
    let options = RebaseOptions { now_ms: clock::wall_ms(), pace, ..RebaseOptions::default() };
    if *if_due {
        let growth = store.growth(service, &options).map_err(|error| Failure::of(&error, error.kind()))?;
        if due(&growth).is_none() {
            return Ok(RebaseOutput::NotDue { growth });
        }
    }
    let failed = |error| failed(store, service, &error);
    let prepared = store.prepare_rebase_with(service, options, progress).map_err(failed)?;
    let report = if *dry_run { prepared.preview() } else { prepared.commit(limits::REBASE_PATIENCE) };
    report.map(RebaseOutput::Done).map_err(failed)
}

fn due(growth: &Growth) -> Option<Trigger> {
    RebasePolicy::default().due(growth)
}

fn failed(store: &Store, service: &ServiceName, error: &RebaseError) -> Failure {
    match error {
        RebaseError::Cancelled => {
            Failure::new(130, "interrupted; nothing was lost: what was not done yet is as it was")
        }
        RebaseError::Read(ReadError::NotFound { .. }) if !store.snapshots_known(service).is_empty() => {
            Failure::new(
                13,
                format!("no snapshot of {service} can be read whole: files are missing or damaged"),
            )
            .with_hint(VERIFY_HINT)
        }
        RebaseError::Read(ReadError::NotFound { .. }) => {
            Failure::new(10, format!("there is no snapshot of {service} here"))
                .with_hint(operations::what_there_is(store, Some(service.as_str())))
        }
        error => Failure::of(error, error.kind()),
    }
}

/// Collects one service.
///
/// # Errors
/// If there is no snapshot of it, something that stays is damaged, or the store can't be written.
pub fn collect(
    store: &Store,
    service: &ServiceName,
    (retention, policy): (Retention, RebasePolicy),
    (dry_run, pace): (bool, Pace),
    progress: &dyn Progress,
) -> Result<GcReport, Failure> {
    let options = RebaseOptions { promote: None, retention, now_ms: clock::wall_ms(), policy, pace };
    let failed = |error| failed(store, service, &error);
    let prepared = store.prepare_gc(service, options, progress).map_err(failed)?;
    let report = if dry_run { prepared.preview() } else { prepared.commit(limits::REBASE_PATIENCE) };
    report.map_err(failed)
}

/// Collects a store that no daemon receives into: packs that nothing lists, each service, and then fragments.
///
/// # Errors
/// At the first service that can't be collected. Those before it are.
pub fn gc(store: &Store, call: &GcCall, progress: &dyn Progress) -> Result<GcOutput, Failure> {
    let services = match &call.service {
        Some(service) => vec![service.clone()],
        None => store.services().map_err(|error| Failure::of(&error, error.kind()))?,
    };
    let unlisted = store.remove_unlisted(call.dry_run).map_err(|fault| Failure::of(&fault, fault.kind()))?;
    let mut output = GcOutput { dry_run: call.dry_run, unlisted: Some(unlisted), ..GcOutput::default() };
    for service in services {
        let rules = (call.keep.retention(), RebasePolicy::default());
        output.services.push(collect(store, &service, rules, (call.dry_run, Pace::Full), progress)?);
    }
    // Last: what was listed until now may not be any more.
    let swept = store.sweep_fragments(call.dry_run);
    output.fragments = swept.map_err(|error| Failure::of(&error, error.kind()))?;
    Ok(output)
}

/// A pin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PinCall {
    /// A full id, the beginning of one, or `SERVICE@latest`, `SERVICE@-1` and so on.
    pub snapshot: String,
    /// Its name; the beginning of the snapshot's id if there is none.
    #[serde(default)]
    pub name: Option<PinName>,
}

/// The end of a pin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UnpinCall {
    /// Its name.
    pub name: PinName,
}

/// Keeps a snapshot until it is unpinned.
///
/// # Errors
/// If it is not here, the name is taken, or the store can't be written.
pub fn pin(store: &Store, call: &PinCall) -> Result<NamedPin, Failure> {
    let snapshot = operations::resolve(store, &call.snapshot)?;
    let name = match &call.name {
        Some(name) => name.clone(),
        None => PinName::new(snapshot.short()).map_err(|error| Failure::new(1, error.to_string()))?,
    };
    store.pin(snapshot, &name).map_err(|error| match &error {
        sustain_store::PinError::Exists { .. } => {
            Failure::of(&error, error.kind()).with_hint("choose another name with --name, or unpin that one")
        }
        _ => Failure::of(&error, error.kind()),
    })
}

/// Takes a pin away.
///
/// # Errors
/// If there is none of this name, or the store can't be written.
pub fn unpin(store: &Store, call: &UnpinCall) -> Result<(), Failure> {
    let hint = "`snapctl pins` lists the pins that are here";
    store.unpin(&call.name).map_err(|error| Failure::of(&error, error.kind()).with_hint(hint))
}

/// The pins of a store.
///
/// # Errors
/// If one can't be read.
pub fn pins(store: &Store) -> Result<Vec<NamedPin>, Failure> {
    store.pins().map_err(|error| Failure::of(&error, error.kind()))
}
