//! A store on a simulated disk beside a model of what it was told to keep: steps that are done to both, and what must
//! hold after each of them, after failures and after crashes.

mod checks;
mod line;
mod offer;
mod received;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sustain_proto::{PackId, SnapshotId};
use sustain_store::{KeySource, NoProgress, OpenError, Push, SnapshotInfo, Store, StoreOptions};

use self::line::{Doubt, Line};
use crate::common::*;
use crate::simulated_disk::Simulated;

const CHUNK: usize = 65_536;
const RAM_BYTES: usize = 5 * CHUNK + 77;
pub(crate) const ROOT: &str = "/store";

/// One thing that a user or a node does.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    /// Push all of a service's regions, after its memory was changed at a place (of 100) by a seed.
    Push(usize, usize, u64),
    /// Push only what changed since the last push, in two parts.
    PushChanges(usize, usize, u64),
    /// Begin a push and give it up.
    Abandon(usize),
    /// Note that the snapshot so many before the newest is durable, at this level.
    Mark(usize, usize, u32),
    /// Rebase, promoting the snapshot so many before the newest.
    Rebase(usize, usize),
    /// The same, with a push between its two halves.
    RebaseAround(usize, usize, u64),
    /// Restore the snapshot so many before the newest.
    Restore(usize, usize),
    /// Receive the packs of the other store's state with this number that are not here, but not its last so many.
    Receive(usize, usize),
    /// Open the other store's first state from half of its packs, as a restore does that can't wait for the rest.
    OpenPartial,
    /// Receive and import the other store's state with this number.
    Import(usize),
    /// Drop what the newest imported base supersedes.
    Retire,
    /// A pack of the newest snapshot goes bad, is found out, and comes again from elsewhere.
    Mend(usize),
    /// Close the store and open it.
    Reopen,
}

/// The services that are pushed here, and the one that comes from another store.
pub(crate) const SERVICES: [&str; 3] = ["mail", "news", "web"];
const IMPORTED: &str = "web";

pub(crate) fn open(disk: &Simulated) -> Result<Store, OpenError> {
    let options = StoreOptions {
        key: KeySource::Given([3; 32]),
        create: true,
        disk: Arc::new(disk.clone()),
        ..StoreOptions::default()
    };
    Store::open(Path::new(ROOT), options)
}

/// The store, its disk, and the model.
pub(crate) struct World {
    pub(crate) disk: Simulated,
    store: Option<Store>,
    /// The same store in another process, which does every other step.
    beside: Option<Store>,
    /// Whether there is such a process.
    pub(crate) two: bool,
    lines: BTreeMap<&'static str, Line>,
    /// Packs of the other store that came, or may have.
    received: BTreeSet<PackId>,
    /// Of those, the ones that are known to be here though no manifest lists them.
    waiting: BTreeSet<PackId>,
    /// A pack that was damaged on purpose, and what was in it.
    damaged: Option<(PackId, Vec<u8>)>,
    attempts: u64,
    /// Whether the database may be found damaged, and made anew without the marks.
    pub(crate) may_lose_marks: bool,
}

/// A step did not come to its end; the reason is in the text.
pub(crate) type Failed = String;

fn failed(error: impl std::error::Error) -> Failed {
    sustain_store::error_chain(&error)
}

impl World {
    pub(crate) fn new(disk: Simulated) -> Self {
        let mut lines = BTreeMap::new();
        for (number, name) in SERVICES.into_iter().enumerate() {
            let ram = noise(number as u64 + 50, RAM_BYTES);
            let current = regions(&[("ram", ram), ("device", noise(7, 100 + number)), ("empty", vec![0; 9])]);
            lines.insert(name, Line { current, ..Line::default() });
        }
        Self {
            disk,
            store: None,
            beside: None,
            two: false,
            lines,
            received: BTreeSet::new(),
            waiting: BTreeSet::new(),
            damaged: None,
            attempts: 0,
            may_lose_marks: false,
        }
    }

    fn line(&mut self, name: &str) -> &mut Line {
        self.lines.get_mut(name).unwrap()
    }

    fn list(&self, name: &str) -> Vec<SnapshotInfo> {
        self.store.as_ref().map_or_else(Vec::new, |store| store.snapshots(Some(&service(name))).unwrap())
    }

    fn id(&self, name: &str, seq: u64) -> Option<SnapshotId> {
        self.list(name).iter().rev().find(|info| info.seq == seq).map(|info| info.id)
    }

    /// Opens the store if it is closed.
    pub(crate) fn open(&mut self) -> Result<(), Failed> {
        if self.store.is_none() {
            let store = open(&self.disk).map_err(failed)?;
            if let Some(reason) = &store.opened().rebuilt {
                // One whose making was interrupted has nothing in it yet.
                let empty = self.lines.values().all(|line| line.kept.is_empty());
                assert!(empty || self.may_lose_marks, "the database is made anew: {reason}");
                self.lines.values_mut().for_each(|line| line.marks.clear());
            }
            self.store = Some(store);
        }
        if self.two && self.beside.is_none() {
            self.beside = Some(open(&self.disk).map_err(failed)?);
        }
        Ok(())
    }

    pub(crate) fn close(&mut self) {
        (self.store, self.beside) = (None, None);
    }

    /// Does a step. One that has nothing to work on does nothing.
    pub(crate) fn step(&mut self, step: &Step) -> Result<(), Failed> {
        self.open()?;
        if self.two {
            std::mem::swap(&mut self.store, &mut self.beside);
        }
        let store = self.store.clone().unwrap();
        self.heal(&store)?;
        match *step {
            Step::Push(service, at, seed) => self.push(&store, SERVICES[service], at, seed, false),
            Step::PushChanges(service, at, seed) => self.push(&store, SERVICES[service], at, seed, true),
            Step::Abandon(service) => {
                let mut push = begin(&store, SERVICES[service]).map_err(failed)?;
                let content = self.lines[SERVICES[service]].current["ram"].clone();
                push.ingest(&region("ram"), &Bytes(&content)).map_err(failed)
            }
            Step::Mark(service, back, level) => self.mark(&store, SERVICES[service], back, level),
            Step::Rebase(service, back) => self.rebase(&store, SERVICES[service], back, None),
            Step::RebaseAround(service, back, seed) => {
                self.rebase(&store, SERVICES[service], back, Some(seed))
            }
            Step::Restore(service, back) => {
                let name = SERVICES[service];
                let Some(seq) = self.lines[name].back(back) else { return Ok(()) };
                let id = self.id(name, seq).ok_or("an acknowledged snapshot is gone")?;
                let restored = try_restore(&store, id).map_err(failed)?;
                assert!(restored == self.lines[name].kept[&seq].1, "wrong bytes");
                Ok(())
            }
            Step::Receive(state, without) => self.receive(&store, state, without),
            Step::OpenPartial => self.open_partial(&store),
            Step::Import(state) => self.import(&store, state),
            Step::Retire => self.retire(&store),
            Step::Mend(service) => self.mend(&store, SERVICES[service]),
            Step::Reopen => {
                drop(store);
                self.store = None;
                self.open()
            }
        }
    }

    fn push(
        &mut self,
        store: &Store,
        name: &'static str,
        at: usize,
        seed: u64,
        sparse: bool,
    ) -> Result<(), Failed> {
        let before = self.lines[name].newest().map(|seq| self.lines[name].kept[&seq].1.clone());
        let mut content = before.clone().unwrap_or_else(|| self.lines[name].current.clone());
        let ram = content.get_mut("ram").unwrap();
        let start = at * (ram.len() - 1) / 100;
        let end = ram.len().min(start + 30_000);
        let new = if seed == 0 { vec![0; end - start] } else { noise(seed, end - start) };
        ram[start..end].copy_from_slice(&new);
        let push = begin(store, name).map_err(failed)?;
        self.attempts += 1;
        let attempt = self.attempts;
        let seq = self.lines[name].newest().map_or(1, |newest| newest + 1);
        self.line(name).current = content.clone();
        self.line(name).doubtful.push(Doubt { attempt, seq, content: content.clone() });
        let sparse = sparse && before.is_some();
        let pushed = if sparse { push_changes(push, &content, start..end) } else { push_all(push, &content) };
        assert_eq!(pushed?, seq, "{name}");
        let line = self.line(name);
        line.doubtful.retain(|doubt| doubt.attempt != attempt);
        line.kept.insert(seq, (attempt, content));
        Ok(())
    }

    fn mark(&mut self, store: &Store, name: &'static str, back: usize, level: u32) -> Result<(), Failed> {
        let Some(seq) = self.lines[name].back(back) else { return Ok(()) };
        let id = self.id(name, seq).ok_or("an acknowledged snapshot is gone")?;
        self.line(name).marks_doubtful.push((seq, level));
        store.mark_durable(id, level).map_err(failed)?;
        self.line(name).marks.insert(seq, level);
        Ok(())
    }

    fn rebase(
        &mut self,
        store: &Store,
        name: &'static str,
        back: usize,
        between: Option<u64>,
    ) -> Result<(), Failed> {
        let Some(seq) = self.lines[name].back(back) else { return Ok(()) };
        let id = self.id(name, seq).ok_or("an acknowledged snapshot is gone")?;
        let prepared = store.prepare_rebase(&service(name), Some(id), &NoProgress).map_err(failed)?;
        if let Some(seed) = between {
            self.push(store, name, 40, seed, true)?;
        }
        let line = self.line(name);
        let kept = line.kept.split_off(&seq);
        let mut going = std::mem::replace(&mut line.kept, kept);
        match prepared.commit(Duration::from_secs(5)) {
            Ok(report) => {
                let all = going.len();
                let stay = line.keep_durable(seq, going);
                assert!(report.dropped.len() + stay >= all, "{report:?}");
                Ok(())
            }
            Err(error) => {
                // Until the store is opened again it is as before, and then it is the one or the other.
                line.dropped.extend(going.clone());
                line.kept.append(&mut going);
                Err(failed(error))
            }
        }
    }
}

fn pack_path(id: PackId) -> PathBuf {
    let name = id.to_string();
    format!("{ROOT}/packs/{}/{name}.pack", &name[..2]).into()
}

fn push_all(mut push: Push, content: &Regions) -> Result<u64, Failed> {
    for (name, bytes) in content {
        push.ingest(&region(name), &Bytes(bytes)).map_err(failed)?;
    }
    Ok(push.commit().map_err(failed)?.seq)
}

fn push_changes(mut push: Push, content: &Regions, range: std::ops::Range<usize>) -> Result<u64, Failed> {
    let (start, end) = (range.start as u64, range.end as u64);
    let middle = (start + end) / 2;
    for (name, bytes) in content {
        let parts =
            if name == "ram" { vec![start..middle, middle..end] } else { std::iter::once(0..0).collect() };
        for part in parts {
            push.ingest_changes(&region(name), &Bytes(bytes), &[part]).map_err(failed)?;
        }
    }
    Ok(push.commit().map_err(failed)?.seq)
}
