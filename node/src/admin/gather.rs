//! Gathering into a folder: a snapshot that is named, or the newest one that can be had whole (P14).

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use axum::Json;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Query, State};
use sustain_gossip::{ErrorKind, GatherError, GatherReport};
use sustain_proto::{ServiceName, SnapshotId, Term};
use sustain_store::{Progress, error_chain};

use super::api::{GatherCall, GatherProgress, GatherQuery};
use super::routes::{AdminState, Answer, Shared, blocking, body, query};
use crate::limits;
use crate::operations::{self, Failure, GatherOutput, PassedOver};

/// Gatherings that somebody watches, by the numbers that they were given.
#[derive(Debug, Default)]
pub(crate) struct Gathers(Mutex<BTreeMap<u64, Arc<Watch>>>);

impl Gathers {
    fn all(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Watch>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How far one gathering is.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    writing: AtomicBool,
    total: AtomicU64,
    done: AtomicU64,
    cancelled: AtomicBool,
}

impl Progress for Watch {
    fn total(&self, bytes: u64) {
        self.done.store(0, Ordering::Relaxed);
        self.total.store(bytes, Ordering::Relaxed);
    }

    fn advance(&self, bytes: u64) {
        self.done.fetch_add(bytes, Ordering::Relaxed);
    }

    fn cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }
}

/// A gathering as long as its caller waits for it: who goes away has it stopped.
struct Call<'a> {
    gathers: &'a Gathers,
    number: Option<u64>,
    watch: Arc<Watch>,
}

impl<'a> Call<'a> {
    fn begin(gathers: &'a Gathers, number: Option<u64>) -> Self {
        let watch = Arc::new(Watch::default());
        let mut all = gathers.all();
        let number = number.filter(|_| all.len() < limits::GATHERS_WATCHED_MAX);
        number.into_iter().for_each(|number| drop(all.insert(number, watch.clone())));
        drop(all);
        Self { gathers, number, watch }
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        self.watch.cancelled.store(true, Ordering::Relaxed);
        self.number.into_iter().for_each(|number| drop(self.gathers.all().remove(&number)));
    }
}

/// How far a gathering is that was given this number.
pub(super) async fn progress(
    State(state): Shared,
    call: Result<Query<GatherQuery>, QueryRejection>,
) -> Answer<Option<GatherProgress>> {
    let call = query(call)?;
    let watch = state.gathers.all().get(&call.watch).cloned();
    Ok(Json(watch.map(|watch| GatherProgress {
        doing: if watch.writing.load(Ordering::Relaxed) { "write" } else { "fetch" }.to_owned(),
        bytes: watch.done.load(Ordering::Relaxed),
        bytes_total: watch.total.load(Ordering::Relaxed),
    })))
}

pub(super) async fn gather(
    State(state): Shared,
    call: Result<Json<GatherCall>, JsonRejection>,
) -> Answer<GatherOutput> {
    let call = body(call)?;
    if !call.to.is_absolute() {
        return Err(Failure::new(2, format!("{} is no absolute path", call.to.display())));
    }
    let started = Instant::now();
    let watched = Call::begin(&state.gathers, call.watch);
    let mut waiting = candidates(&state, &call.snapshot).await?.into_iter().peekable();
    let mut passed_over = Vec::new();
    while let Some(candidate) = waiting.next() {
        let failure = match one(&state, candidate.id, &call, &watched.watch).await {
            Ok((report, mut output)) => {
                output.bytes_fetched = report.bytes_fetched;
                output.bytes_resumed = report.bytes_resumed;
                output.liars = report.liars.into_iter().collect();
                output.passed_over = passed_over;
                output.seconds = started.elapsed().as_secs_f64();
                return Ok(Json(output));
            }
            Err(failure) => failure,
        };
        // Whatever else there is would fail in the same way.
        if waiting.peek().is_none() || ![10, 12, 13].contains(&failure.exit_code) {
            return Err(failure);
        }
        tracing::warn!(snapshot = %candidate.id, reason = failure.error, "passed over: an older snapshot is gathered");
        passed_over.push(PassedOver { snapshot: candidate.id, seq: candidate.seq, reason: failure.error });
    }
    Err(operations::resolve(&state.store, &call.snapshot)
        .err()
        .unwrap_or_else(|| Failure::new(10, format!("there is no {}", call.snapshot))))
}

/// Fetches a snapshot and writes it into the folder.
async fn one(
    state: &AdminState,
    snapshot: SnapshotId,
    call: &GatherCall,
    watch: &Arc<Watch>,
) -> Result<(GatherReport, GatherOutput), Failure> {
    watch.writing.store(false, Ordering::Relaxed);
    let fetched = state.cluster.gather(snapshot, watch.clone()).await.map_err(|error| failed(&error))?;
    let (store, to, watch) = (state.store.clone(), call.to.clone(), watch.clone());
    let write = move || {
        watch.writing.store(true, Ordering::Relaxed);
        // A rebase may have renamed it meanwhile.
        operations::with_snapshot(&store, &snapshot.to_string(), |snapshot| {
            operations::gather(&store, snapshot, &to, watch.as_ref())
        })
    };
    Ok((fetched, blocking(write).await?))
}

fn failed(error: &GatherError) -> Failure {
    let exit_code = match error.kind() {
        ErrorKind::NotFound => 10,
        ErrorKind::Unreachable => 12,
        ErrorKind::Corrupt => 13,
        ErrorKind::Cancelled => 130,
        _ => 1,
    };
    Failure::new(exit_code, error_chain(error)).with_hint("`snapctl status` shows which nodes can be reached")
}

/// A snapshot that may be gathered.
struct Candidate {
    id: SnapshotId,
    seq: Option<u64>,
}

/// What a text names: for `SERVICE@latest` what this node or any that answers knows of the service, the newest first;
/// else a snapshot of the own store, or a full id that other nodes may know.
async fn candidates(state: &AdminState, selector: &str) -> Result<Vec<Candidate>, Failure> {
    if let Some(service) = selector.strip_suffix("@latest").and_then(|name| ServiceName::new(name).ok()) {
        return newest_first(state, &service).await;
    }
    let (store, selector) = (state.store.clone(), selector.to_owned());
    let found = blocking(move || {
        operations::resolve(&store, &selector).or_else(|failure| selector.parse().map_err(|_| failure))
    });
    Ok(vec![Candidate { id: found.await?, seq: None }])
}

async fn newest_first(state: &AdminState, service: &ServiceName) -> Result<Vec<Candidate>, Failure> {
    let (store, named) = (state.store.clone(), service.clone());
    let own = blocking(move || Ok(store.snapshots_known(&named))).await?;
    let mut known: BTreeMap<SnapshotId, (Term, u64)> =
        own.into_iter().map(|(info, _)| (info.id, (info.term, info.seq))).collect();
    for (_, list) in state.cluster.known_snapshots(service).await {
        known.extend(list.into_iter().map(|summary| (summary.id, (summary.term, summary.seq))));
    }
    let mut sorted: Vec<_> = known.into_iter().collect();
    // A greater term wins.
    sorted.sort_by_key(|(id, place)| (*place, *id));
    let newest = sorted.into_iter().rev().take(limits::GATHER_CANDIDATES_MAX);
    Ok(newest.map(|(id, (_, seq))| Candidate { id, seq: Some(seq) }).collect())
}
