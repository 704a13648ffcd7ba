//! One run of verifying: what is to be read, what was found, the rate, and the notes that make it resumable.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use sustain_proto::PackId;

use crate::aside;
use crate::block_cache::BlockCache;
use crate::checked::Checked;
use crate::fragments::ToVerify;
use crate::generation::visible;
use crate::layout::Layout;
use crate::pins::Pin;
use crate::rate::Bucket;
use crate::scrub_plan::{Candidate, in_turn, sample};
use crate::state::{Snapshot, State};
use crate::store::{Shared, Store};
use crate::sweep::{list_packs, read_manifest};
use crate::verify::{BadFile, DamagedSnapshot, Depth, Scope, VerifyError, VerifyOptions, VerifyReport};
use crate::{Fault, Progress, ReadError, limits};

/// What the workers have found so far.
#[derive(Default)]
pub(crate) struct Findings {
    pub(crate) bad: BTreeMap<PathBuf, String>,
    pub(crate) set_aside: BTreeSet<PackId>,
    pub(crate) packs: u64,
    pub(crate) packs_sealed: u64,
    pub(crate) chunks: u64,
    pub(crate) fragments: u64,
    pub(crate) bytes: u64,
}

/// What is noted of packs that were found good, and when that was written.
struct Notes {
    checked: Checked,
    written: Instant,
}

/// A run.
pub(crate) struct Run<'a> {
    pub(crate) store: &'a Store,
    pub(crate) shared: &'a Arc<Shared>,
    pub(crate) options: &'a VerifyOptions,
    pub(crate) progress: &'a dyn Progress,
    pub(crate) findings: Mutex<Findings>,
    pub(crate) cache: BlockCache,
    /// As it was when the run began.
    pub(crate) state: State,
    /// Holds all its packs, if their contents are read.
    pin: Option<Pin>,
    /// The snapshots of the scope.
    pub(crate) snapshots: Vec<Arc<Snapshot>>,
    /// The packs of the scope, with their sizes, by id.
    pub(crate) in_scope: BTreeMap<PackId, u64>,
    /// Packs to be read, in this order, with their sizes.
    pub(crate) order: Vec<(PackId, u64)>,
    left_out: u64,
    notes: Mutex<Notes>,
    bucket: Option<Mutex<Bucket>>,
    started: Instant,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

impl<'a> Run<'a> {
    /// Decides what is read.
    pub(crate) fn begin(
        store: &'a Store,
        options: &'a VerifyOptions,
        progress: &'a dyn Progress,
    ) -> Result<Self, VerifyError> {
        let shared = &store.shared;
        // Nothing that is visible now goes before it was looked at.
        let (state, pin) = shared.pinned(|state| {
            let packs = state.packs.keys().map(|pack| *pack.as_bytes()).collect();
            Ok::<_, Fault>((state.clone(), packs))
        })?;
        let snapshots = snapshots_of(&state, &options.scope).map_err(VerifyError::Scope)?;
        let mut checked = Checked::read(shared.disk.as_ref(), &shared.layout);
        let (now_ms, started) = (now_ms(), Instant::now());
        let resumed_ms = checked.began_ms.filter(|_| options.resume);
        let on_disk = list_packs(shared.disk.as_ref(), &shared.layout)?;
        checked.packs.retain(|id, _| on_disk.contains_key(id));
        let listed: BTreeSet<PackId> =
            snapshots.iter().flat_map(|s| s.manifest.packs.iter().map(|pack| pack.id)).collect();
        // The other files are what another process is writing, or was dropped before.
        let mut in_scope = on_disk;
        in_scope.retain(|id, _| {
            listed.contains(id) || options.scope == Scope::Everything && state.packs.contains_key(id)
        });
        let candidate = |id: &PackId| Candidate { id: *id, checked_ms: checked.packs.get(id).copied() };
        let all: Vec<Candidate> = in_scope.keys().map(candidate).collect();
        let count = all.len() as u64;
        let order = match options.depth {
            Depth::Sample(how_many) => sample(all, how_many, now_ms, options.seed),
            Depth::Contents | Depth::Packs => {
                checked.began_ms = Some(resumed_ms.unwrap_or(now_ms));
                let is_left = |candidate: &Candidate| {
                    resumed_ms
                        .is_none_or(|began| candidate.checked_ms.is_none_or(|ms| ms < began || ms > now_ms))
                };
                in_turn(all.into_iter().filter(is_left).collect(), now_ms, options.seed)
            }
        };
        let order: Vec<(PackId, u64)> = order.into_iter().map(|id| (id, in_scope[&id])).collect();
        let mut run = Self {
            store,
            shared,
            options,
            progress,
            findings: Mutex::default(),
            cache: BlockCache::default(),
            // What only compares packs with their ids may go on for days: it pins each for itself.
            pin: None,
            state,
            snapshots,
            in_scope,
            left_out: count - order.len() as u64,
            order,
            notes: Mutex::new(Notes { checked, written: started }),
            bucket: options.rate_bytes.map(|rate| Mutex::new(Bucket::new(rate, Duration::ZERO))),
            started,
        };
        run.known_before(&listed);
        run.pin = Some(pin).filter(|_| options.depth == Depth::Contents);
        Ok(run)
    }

    /// Names what was known to be bad before anything is read.
    fn known_before(&self, listed: &BTreeSet<PackId>) {
        if self.options.scope == Scope::Everything {
            for bad in &self.shared.report.bad {
                // What was bad at opening may have been received again, or dropped, since.
                if still_bad(self.shared, &self.state, &bad.path) {
                    self.blame(&bad.path, &bad.reason);
                }
            }
        }
        let (disk, layout) = (self.shared.disk.as_ref(), &self.shared.layout);
        for id in listed.iter().filter(|id| disk.open(&layout.pack(id), false).is_err()) {
            match aside::reason(disk, layout, id) {
                Some(reason) => self.blame(&layout.pack(id), &format!("it is set aside: {reason}")),
                None => self.blame(&layout.pack(id), "the file is missing"),
            }
        }
    }

    /// Reads all of it.
    pub(crate) fn check(&mut self) -> Result<(), VerifyError> {
        let fragments = ToVerify::choose(self.store, self.options)?;
        let packs: u64 = self.order.iter().map(|(_, bytes)| bytes).sum();
        let all = packs + fragments.as_ref().map_or(0, ToVerify::bytes);
        match self.options.depth {
            Depth::Contents => {
                let manifests = self.snapshots.iter().map(|snapshot| snapshot.encoded.len() as u64);
                self.progress.total(all + manifests.sum::<u64>());
                self.contents()?;
            }
            Depth::Packs | Depth::Sample(_) => {
                self.progress.total(all);
                self.hashes()?;
            }
        }
        fragments.map_or(Ok(()), |fragments| self.fragments(&fragments))
    }

    /// Sets aside what was found to be damaged, writes the notes, and reports.
    pub(crate) fn end(self, outcome: Result<(), VerifyError>) -> Result<VerifyReport, VerifyError> {
        let bad: Vec<PathBuf> = lock(&self.findings).bad.keys().cloned().collect();
        for path in bad.iter().filter(|_| self.options.set_aside) {
            if let Some(id) = Layout::pack_of(path) {
                self.set_aside(&id);
            }
        }
        {
            let mut notes = lock(&self.notes);
            if outcome.is_ok() && !matches!(self.options.depth, Depth::Sample(_)) {
                notes.checked.began_ms = None;
                if self.options.scope == Scope::Everything {
                    notes.checked.full_ms = Some(now_ms());
                }
            }
            self.write(&mut notes);
        }
        outcome?;
        let damaged: BTreeSet<_> = self.store.bad_packs().into_iter().flat_map(|bad| bad.snapshots).collect();
        let damaged =
            self.snapshots.iter().filter(|s| damaged.contains(&s.id)).map(|s| describe(s)).collect();
        let findings = self.findings.into_inner().unwrap_or_else(PoisonError::into_inner);
        let Findings { bad, set_aside, packs, packs_sealed, chunks, fragments, bytes } = findings;
        let snapshots = match self.options.depth {
            Depth::Contents => self.snapshots.len() as u64,
            Depth::Packs | Depth::Sample(_) => 0,
        };
        Ok(VerifyReport {
            bad: bad.into_iter().map(|(path, reason)| bad_file(self.shared, path, reason)).collect(),
            set_aside: set_aside.into_iter().collect(),
            damaged,
            snapshots,
            packs,
            packs_left_out: self.left_out,
            packs_sealed,
            chunks,
            fragments,
            bytes,
        })
    }

    pub(crate) fn blame(&self, path: &Path, reason: &str) {
        let layout = &self.shared.layout;
        let aside = path.parent() == Some(&layout.aside());
        let pack = Layout::pack_of(path).filter(|_| aside);
        let path = pack.map_or_else(|| path.to_owned(), |id| layout.pack(&id));
        // The first reason is the closest to the cause.
        lock(&self.findings).bad.entry(path).or_insert_with(|| reason.to_owned());
    }

    /// Names another thing that is bad in a file.
    pub(crate) fn blame_also(&self, path: &Path, reason: &str) {
        let mut findings = lock(&self.findings);
        let all = findings.bad.entry(path.to_owned()).or_default();
        if all.len() < limits::ASIDE_REASON_BYTES_MAX {
            *all += if all.is_empty() { "" } else { "; " };
            *all += reason;
        }
    }

    /// Notes that a fragment was found good.
    pub(crate) fn good_fragment(&self) {
        lock(&self.findings).fragments += 1;
    }

    /// Damage goes into the report, a failing disk ends the work.
    pub(crate) fn judge(&self, fault: Fault) -> Result<(), VerifyError> {
        match fault {
            Fault::Damaged { path, reason } => {
                self.blame(&path, &reason);
                Ok(())
            }
            Fault::Disk { ref path, .. } if fault.is_unreadable() => {
                self.blame(path, &crate::error_chain(&fault));
                Ok(())
            }
            // Whose key should be here is told by the keys' files.
            Fault::KeyMissing { .. } => Ok(()),
            other => Err(other.into()),
        }
    }

    /// Notes that so many bytes were read, and waits as the rate says.
    pub(crate) fn done(&self, bytes: u64) -> Result<(), VerifyError> {
        self.progress.advance(bytes);
        lock(&self.findings).bytes += bytes;
        let mut wait = self.bucket.as_ref().map_or(Duration::ZERO, |bucket| {
            let now = self.started.elapsed();
            lock(bucket).take(bytes, now)
        });
        loop {
            if self.progress.cancelled() {
                return Err(VerifyError::Cancelled);
            }
            if wait.is_zero() {
                return Ok(());
            }
            let part = wait.min(limits::VERIFY_NAP);
            thread::sleep(part);
            wait -= part;
        }
    }

    /// Notes that a pack was found good.
    pub(crate) fn good(&self, id: PackId, is_sealed: bool) {
        let mut findings = lock(&self.findings);
        findings.packs += 1;
        findings.packs_sealed += u64::from(is_sealed);
        drop(findings);
        let mut notes = lock(&self.notes);
        notes.checked.packs.insert(id, now_ms());
        if notes.written.elapsed() >= limits::CHECKED_WRITE_EVERY {
            self.write(&mut notes);
        }
    }

    fn write(&self, notes: &mut Notes) {
        if !self.options.set_aside {
            return;
        }
        notes.written = Instant::now();
        // Without it the next run checks more.
        if let Err(error) = notes.checked.write(self.shared) {
            tracing::debug!(%error, "what was checked can't be noted");
        }
    }

    pub(crate) fn set_aside(&self, id: &PackId) {
        match self.store.set_aside_if_damaged(*id) {
            Ok(true) if self.state.packs.contains_key(id) => {
                lock(&self.findings).set_aside.insert(*id);
            }
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(pack = %id, error = crate::error_chain(&error), "a damaged pack can't be set aside");
            }
        }
    }

    /// Notes damage, unless the pack was dropped, or moved in, while this was going on.
    pub(crate) fn unless_dropped(
        &self,
        id: &PackId,
        outcome: Result<(), VerifyError>,
    ) -> Result<(), VerifyError> {
        match outcome {
            Err(VerifyError::Fault(_)) if !self.shared.state().packs.contains_key(id) => Ok(()),
            Err(VerifyError::Fault(fault)) => self.judge(fault),
            other => other,
        }
    }
}

fn describe(snapshot: &Snapshot) -> DamagedSnapshot {
    let (service, seq) = (snapshot.manifest.service.clone(), snapshot.manifest.seq);
    DamagedSnapshot { id: snapshot.id, service, seq }
}

/// A bad file, by where it is now: packs may have been set aside.
fn bad_file(shared: &Shared, path: PathBuf, reason: String) -> BadFile {
    let aside = Layout::pack_of(&path).map(|id| shared.layout.aside_pack(&id));
    let is_there = |path: &Path| shared.disk.stamp(path).is_ok();
    match aside.filter(|aside| !is_there(&path) && is_there(aside)) {
        Some(aside) => BadFile { path: aside, reason },
        None => BadFile { path, reason },
    }
}

/// The snapshots that a scope names.
fn snapshots_of(state: &State, scope: &Scope) -> Result<Vec<Arc<Snapshot>>, ReadError> {
    match scope {
        Scope::Everything => Ok(state.snapshots.values().cloned().collect()),
        Scope::Service(service) => {
            let found = state.all_of_service(service);
            if found.is_empty() {
                return Err(ReadError::NotFound { selector: service.to_string() });
            }
            Ok(found)
        }
        Scope::Snapshot(id) => {
            let snapshot = visible(state, *id)?;
            let base = snapshot.manifest.base().and_then(|base| state.snapshots.get(&base)).cloned();
            Ok(base.into_iter().chain([snapshot]).collect())
        }
    }
}

fn still_bad(shared: &Shared, state: &State, path: &Path) -> bool {
    if let Some(id) = Layout::pack_of(path) {
        return !state.packs.contains_key(&id) && state.listed_packs().contains(&id);
    }
    match path.file_name().and_then(|name| name.to_str()).and_then(Layout::parse_manifest) {
        Some(id) => read_manifest(shared.disk.as_ref(), path, id).is_err(),
        None => true,
    }
}
