//! What must hold after each step, after failures and after crashes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use sustain_store::{NoProgress, Store};

use super::{ROOT, SERVICES, Step, World, pack_path};
use crate::common::*;

impl World {
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
