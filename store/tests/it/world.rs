//! A store on a simulated disk beside a model of what it was told to keep: steps that are done to both, and what must
//! hold after each of them, after failures and after crashes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use sustain_proto::{PackId, SnapshotId};
use sustain_store::{
    KeySource, NoProgress, OpenError, Partial, Push, ReadError, SnapshotInfo, Store, StoreOptions,
};

use crate::common::*;
use crate::partial;
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

/// What another store has to offer: states of a service, as a node sends them.
pub(crate) struct Offer {
    states: Vec<Offered>,
    packs: BTreeMap<PackId, Vec<u8>>,
    partial: Vec<sustain_store::ForeignDirectory>,
}

struct Offered {
    manifests: Vec<Vec<u8>>,
    packs: Vec<PackId>,
    /// What becomes visible by importing it: numbers and contents, and the oldest number that survives it.
    content: BTreeMap<u64, Regions>,
    base_seq: u64,
    base: SnapshotId,
}

/// The other store's service: three snapshots, of which the second touches the disk alone; then a rebase and one more.
static OFFER: LazyLock<Offer> = LazyLock::new(|| {
    let disk = Simulated::default();
    let store = open(&disk).unwrap();
    let mut offer = Offer { states: Vec::new(), packs: BTreeMap::new(), partial: Vec::new() };
    let mut content = regions(&[("ram", noise(1, 2 * CHUNK)), ("disk0", noise(2, 3 * CHUNK + 9))]);
    let mut all = BTreeMap::new();
    for (seq, (name, at)) in [("ram", 0), ("disk0", CHUNK), ("ram", 7)].into_iter().enumerate() {
        content.get_mut(name).unwrap()[at] ^= 1;
        push(&store, IMPORTED, &content);
        all.insert(seq as u64 + 1, content.clone());
    }
    offer.take(&store, &all);
    let list = store.snapshots(None).unwrap();
    offer.partial = partial::directories(&store, list[2].id);
    store.rebase(&service(IMPORTED), None).unwrap();
    content.get_mut("ram").unwrap()[CHUNK] ^= 1;
    push(&store, IMPORTED, &content);
    all.insert(4, content);
    offer.take(&store, &all);
    offer
});

impl Offer {
    fn take(&mut self, store: &Store, all: &BTreeMap<u64, Regions>) {
        let list = store.snapshots(None).unwrap();
        let newest = list.last().unwrap();
        let manifests = list.iter().map(|info| store.manifest(info.id).unwrap().1).collect();
        let packs: Vec<PackId> = store.packs_needed(newest.id).unwrap().iter().map(|pack| pack.id).collect();
        for id in &packs {
            self.packs.entry(*id).or_insert_with(|| bytes_of(store, *id).unwrap());
        }
        let seen = |(seq, _): &(&u64, &Regions)| list.iter().any(|info| info.seq == **seq);
        let content = all.iter().filter(seen).map(|(seq, content)| (*seq, content.clone())).collect();
        self.states.push(Offered {
            manifests,
            packs,
            content,
            base_seq: list[0].seq,
            base: newest.base.unwrap_or(newest.id),
        });
    }
}

fn bytes_of(store: &Store, id: PackId) -> Result<Vec<u8>, ReadError> {
    let reader = store.read_pack(id)?;
    let mut bytes = vec![0; reader.len() as usize];
    reader.read_at(0, &mut bytes)?;
    Ok(bytes)
}

pub(crate) fn open(disk: &Simulated) -> Result<Store, OpenError> {
    let options = StoreOptions {
        key: KeySource::Given([3; 32]),
        create: true,
        disk: Arc::new(disk.clone()),
        ..StoreOptions::default()
    };
    Store::open(Path::new(ROOT), options)
}

/// A state that was to be stored: in which attempt, under which number, and with what in it.
#[derive(Debug, Clone)]
struct Doubt {
    attempt: u64,
    seq: u64,
    content: Regions,
}

/// What is known of one service.
#[derive(Debug, Clone, Default)]
struct Line {
    /// Acknowledged: must be there, by number.
    kept: BTreeMap<u64, (u64, Regions)>,
    /// Dropped by a rebase that failed: may be there.
    dropped: BTreeMap<u64, (u64, Regions)>,
    /// Told to be durable.
    marks: BTreeMap<u64, u32>,
    /// Marks that failed.
    marks_doubtful: Vec<(u64, u32)>,
    /// Pushed or imported, with an error: may be there once the store is opened again.
    doubtful: Vec<Doubt>,
    /// What the next push is a change of.
    current: Regions,
}

impl Line {
    fn newest(&self) -> Option<u64> {
        self.kept.keys().next_back().copied()
    }

    /// The number of the snapshot so many before the newest.
    fn back(&self, back: usize) -> Option<u64> {
        self.kept.keys().rev().nth(back).copied()
    }

    /// Whether a snapshot is durable; none if that is not known.
    fn durable(&self, seq: u64) -> Option<bool> {
        match self.marks.contains_key(&seq) {
            false if self.marks_doubtful.iter().any(|mark| mark.0 == seq) => None,
            known => Some(known),
        }
    }

    /// Of those that went for the promoted one, the newest durable one stays unless that is durable itself. Returns
    /// how many may stay.
    fn keep_durable(&mut self, promoted: u64, going: BTreeMap<u64, (u64, Regions)>) -> usize {
        let mut certain = self.durable(promoted) == Some(false);
        if self.durable(promoted) == Some(true) {
            return 0;
        }
        let mut stay = 0;
        for (seq, snapshot) in going.into_iter().rev() {
            let durable = self.durable(seq);
            if durable == Some(false) {
                continue;
            }
            stay += 1;
            if certain && durable == Some(true) { &mut self.kept } else { &mut self.dropped }
                .insert(seq, snapshot);
            certain = false;
            if durable == Some(true) {
                break;
            }
        }
        stay
    }
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

    fn receive(&mut self, store: &Store, state: usize, without: usize) -> Result<(), Failed> {
        let state = &OFFER.states[state];
        let count = state.packs.len().saturating_sub(without);
        for id in &state.packs[..count] {
            if !store.has_pack(id) {
                self.received.insert(*id);
                receive(store, *id, &OFFER.packs[id])?;
                self.waiting.insert(*id);
            }
        }
        Ok(())
    }

    fn open_partial(&mut self, store: &Store) -> Result<(), Failed> {
        let state = &OFFER.states[0];
        loop {
            let opened = store.open_partial(&state.manifests, &OFFER.partial, &[region("disk0")]);
            match opened.map_err(failed)? {
                Partial::Lacking(packs) => {
                    for pack in packs {
                        self.received.insert(pack.id);
                        receive(store, pack.id, &OFFER.packs[&pack.id])?;
                        self.waiting.insert(pack.id);
                    }
                }
                Partial::Open(reader) => {
                    let mut chunk = vec![0; CHUNK];
                    match reader.read_chunk(&region("ram"), 0, &mut chunk) {
                        Ok(_) => {}
                        // The pack came and went again: too many others did.
                        Err(error) => return Err(failed(error)),
                    }
                    assert!(chunk == state.content[&3]["ram"][..CHUNK]);
                    return Ok(());
                }
            }
        }
    }

    fn import(&mut self, store: &Store, state: usize) -> Result<(), Failed> {
        self.receive(store, state, 0)?;
        let state = &OFFER.states[state];
        // Once a manifest lists them, which may be though this fails, what drops it drops them.
        self.waiting.retain(|id| !state.packs.contains(id));
        self.attempts += 1;
        let attempt = self.attempts;
        let line = self.line(IMPORTED);
        let missing = || state.content.iter().filter(|(seq, _)| !line.kept.contains_key(seq));
        let doubts: Vec<Doubt> =
            missing().map(|(seq, content)| Doubt { attempt, seq: *seq, content: content.clone() }).collect();
        line.doubtful.extend(doubts);
        store.import(&state.manifests).map_err(failed)?;
        line.doubtful.retain(|doubt| doubt.attempt != attempt);
        for (seq, content) in &state.content {
            line.kept.entry(*seq).or_insert((attempt, content.clone()));
        }
        Ok(())
    }

    fn retire(&mut self, store: &Store) -> Result<(), Failed> {
        let state = &OFFER.states[1];
        if !self.list(IMPORTED).iter().any(|info| info.id == state.base) {
            return Ok(());
        }
        let line = self.line(IMPORTED);
        let kept = line.kept.split_off(&state.base_seq);
        let mut going = std::mem::replace(&mut line.kept, kept);
        match store.retire_superseded(state.base) {
            Ok(_) => {
                // What is durable waits for something durable that supersedes it, and its base with it.
                if !line.marks.is_empty() || !line.marks_doubtful.is_empty() {
                    line.dropped.extend(going.clone());
                }
                line.keep_durable(state.base_seq, going);
                Ok(())
            }
            Err(error) => {
                line.dropped.extend(going.clone());
                line.kept.append(&mut going);
                Err(failed(error))
            }
        }
    }

    fn mend(&mut self, store: &Store, name: &'static str) -> Result<(), Failed> {
        let Some(newest) = self.list(name).pop() else { return Ok(()) };
        let pack = store.packs_needed(newest.id).map_err(failed)?.pop().unwrap();
        let bytes = bytes_of(store, pack.id).map_err(failed)?;
        self.damaged = Some((pack.id, bytes));
        self.disk.damage(&pack_path(pack.id), |bytes| bytes.iter_mut().step_by(7).for_each(|b| *b ^= 0x10));
        self.heal(store)
    }

    /// Replaces the pack that was damaged on purpose.
    fn heal(&mut self, store: &Store) -> Result<(), Failed> {
        if let Some((id, bytes)) = &self.damaged {
            if store.set_aside_if_damaged(*id).map_err(failed)? {
                receive(store, *id, bytes)?;
            }
            self.damaged = None;
        }
        Ok(())
    }

    /// What must hold while the store is open, whatever failed: what is seen is what was acknowledged.
    pub(crate) fn check_open(&self, context: &str) {
        let Some(store) = &self.store else { return };
        for (name, line) in &self.lines {
            let listed: Vec<u64> = self.list(name).iter().map(|info| info.seq).collect();
            if self.damaged.is_some() {
                continue;
            }
            let may_be = |seq: &u64| line.kept.contains_key(seq) || line.dropped.contains_key(seq);
            let all = line.kept.keys().all(|seq| listed.contains(seq));
            assert!(
                all && listed.iter().all(may_be),
                "{context}: {name} lists {listed:?}, not {:?}",
                line.kept.keys()
            );
            if let Some(seq) = line.newest() {
                let id = self.list(name).last().unwrap().id;
                match try_restore(store, id) {
                    Ok(restored) => {
                        assert!(restored == line.kept[&seq].1, "{context}: {name} {seq}: wrong bytes")
                    }
                    Err(error) => panic!("{context}: {name} {seq}: {error:?}"),
                }
            }
        }
    }

    /// Opens the store after whatever happened, and compares it with the model, which learns how doubts came out.
    pub(crate) fn check_reopened(&mut self, context: &str) {
        self.close();
        self.open().unwrap_or_else(|error| panic!("{context}: does not open: {error}"));
        let mut store = self.store.clone().unwrap();
        if self.damaged.is_some() {
            self.heal(&store).unwrap_or_else(|error| panic!("{context}: does not heal: {error}"));
            drop(store);
            self.close();
            self.open().unwrap_or_else(|error| panic!("{context}: does not open healed: {error}"));
            store = self.store.clone().unwrap();
        }
        let opened = store.opened();
        assert_eq!(opened.bad, [], "{context}");
        for name in SERVICES {
            self.settle(&store, name, context);
        }
        for id in &self.waiting {
            assert!(store.has_pack(id), "{context}: a received pack is gone");
        }
        let report = store.verify(&NoProgress).unwrap();
        assert_eq!(report.bad, [], "{context}");
        self.no_leftovers(&store, context);
    }

    fn settle(&mut self, store: &Store, name: &'static str, context: &str) {
        let list = self.list(name);
        let (attempts, marks_hold) = (self.attempts, !self.may_lose_marks);
        let line = self.line(name);
        let context = format!("{context}: {name}: {:?}", store.opened());
        let mut found: BTreeMap<u64, (u64, Regions)> = BTreeMap::new();
        let (mut right, mut twice) = (BTreeSet::new(), BTreeMap::new());
        for info in &list {
            let content = restore(store, info.id);
            let known = [line.kept.get(&info.seq), line.dropped.get(&info.seq)];
            let known = known.into_iter().flatten().find(|(_, known)| *known == content);
            let doubt = || line.doubtful.iter().find(|d| d.seq == info.seq && d.content == content);
            let attempt = known.map(|(attempt, _)| *attempt).or_else(|| doubt().map(|doubt| doubt.attempt));
            let attempt = attempt.unwrap_or_else(|| panic!("{context}: {} came from nowhere", info.seq));
            right.insert((info.seq, attempt));
            // A snapshot and the base that was made of it may both be there; and two pushes that failed, of which
            // either may be gone later.
            if let Some(other) = found.insert(info.seq, (attempt, content)) {
                twice.insert(info.seq, other);
            }
            let wanted = line.marks.get(&info.seq).filter(|_| line.kept.contains_key(&info.seq));
            let doubtful =
                || line.marks_doubtful.iter().any(|mark| Some(mark.1) == info.level && mark.0 == info.seq);
            let is_kept = line.kept.get(&info.seq).is_some_and(|(of, _)| *of == attempt);
            if let (Some(level), true, true) = (wanted, is_kept, marks_hold) {
                assert!(
                    // Of a snapshot and the base that was made of it, either may bear it.
                    list.iter().any(|other| other.seq == info.seq && other.level == Some(*level))
                        || doubtful(),
                    "{context}: mark of {}: {:?}",
                    info.seq,
                    info.level
                );
            }
        }
        for (seq, (attempt, _)) in line.kept.iter().filter(|(seq, _)| !line.dropped.contains_key(seq)) {
            assert!(
                right.contains(&(*seq, *attempt)),
                "{context}: {seq} (attempt {attempt} of {attempts}) is gone: {list:?}"
            );
        }
        if let (Some(seq), Some(newest)) = (line.newest(), list.last()) {
            let found = found[&newest.seq].0;
            assert!(
                found >= line.kept[&seq].0,
                "{context}: the newest is {found}, not {:?}",
                line.kept[&seq].0
            );
        }
        line.marks = list.iter().filter_map(|info| Some((info.seq, info.level?))).collect();
        line.kept = found;
        line.dropped = twice;
        line.doubtful.clear();
        line.marks_doubtful.clear();
    }

    fn no_leftovers(&self, store: &Store, context: &str) {
        let listed: BTreeSet<PathBuf> = store
            .snapshots(None)
            .unwrap()
            .iter()
            .flat_map(|info| {
                let packs = store.packs_needed(info.id).unwrap().into_iter().map(|pack| pack_path(pack.id));
                packs.chain([format!("{ROOT}/manifests/{}.manifest", info.id).into()])
            })
            .chain(["key", "journal", "reserve"].map(|name| Path::new(ROOT).join(name)))
            .collect();
        for path in self.disk.list_all() {
            // This process is on the list of those that have the store open.
            if path.starts_with(Path::new(ROOT).join("processes")) {
                continue;
            }
            // Received packs wait for their manifest.
            let waits = self.received.iter().any(|id| pack_path(*id) == path && store.has_pack(id));
            assert!(listed.contains(&path) || waits, "{context}: {} is left", path.display());
        }
    }

    /// The store takes the next snapshot of each service, rebases, and still has everything.
    pub(crate) fn works_on(&mut self, context: &str) {
        for service in 0..2 {
            for step in
                [Step::Push(service, 10, 99), Step::Rebase(service, 0), Step::PushChanges(service, 90, 98)]
            {
                self.step(&step).unwrap_or_else(|error| panic!("{context}: then {step:?}: {error}"));
            }
        }
        self.check_open(context);
        self.check_reopened(&format!("{context}: then"));
    }
}

fn pack_path(id: PackId) -> PathBuf {
    let name = id.to_string();
    format!("{ROOT}/packs/{}/{name}.pack", &name[..2]).into()
}

fn receive(store: &Store, id: PackId, bytes: &[u8]) -> Result<(), Failed> {
    let mut receiver = store.receive_pack(id, bytes.len() as u64).map_err(failed)?;
    for part in bytes.chunks(100_000) {
        receiver.write(part).map_err(failed)?;
    }
    receiver.finish().map_err(failed)?;
    Ok(())
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
