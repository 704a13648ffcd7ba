//! Verifying: everything is read, and what is bad is named.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;
use sustain_proto::{KeyId, PackId, PackRef};

use crate::block_cache::BlockCache;
use crate::catalogue::{BlockPlace, Catalogue};
use crate::chunk_reader::{ChunkReader, Chunks};
use crate::generation::{Whole, with_base};
use crate::key::read_note;
use crate::layout::Layout;
use crate::pack_file::PackFile;
use crate::parallel::{Pace, for_each_batch};
use crate::state::{Snapshot, State};
use crate::store::{Shared, Store};
use crate::sweep::{list_packs, read_manifest};
use crate::{ErrorKind, Fault, Progress, ReadError, Secret, key_files};

/// A file that does not hold what it should.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct BadFile {
    /// Where it is.
    pub path: PathBuf,
    /// What is wrong with it.
    pub reason: String,
}

/// What was read, and what is bad.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct VerifyReport {
    /// Bad files. Empty if all is well.
    pub bad: Vec<BadFile>,
    /// Snapshots that were checked.
    pub snapshots: u64,
    /// Packs that were read.
    pub packs: u64,
    /// Those of them that could only be compared with their ids, as the key that they are sealed under is not here.
    pub packs_sealed: u64,
    /// Chunks that were decoded and compared with their ids.
    pub chunks: u64,
    /// Bytes of files that were read.
    pub bytes: u64,
}

impl VerifyReport {
    /// Whether nothing is bad.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.bad.is_empty()
    }
}

/// Why verifying could not be finished. Damage is no error: it is in the report.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// Stopped on request.
    #[error("verifying was stopped")]
    Cancelled,
    /// A disk or the database fails.
    #[error(transparent)]
    Fault(#[from] Fault),
}

impl VerifyError {
    /// What a caller can do about it.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Cancelled => ErrorKind::Failed,
            Self::Fault(fault) => fault.kind(),
        }
    }
}

/// What the workers have found so far.
#[derive(Default)]
struct Findings {
    bad: BTreeMap<PathBuf, String>,
    packs: u64,
    packs_sealed: u64,
    chunks: u64,
    bytes: u64,
}

struct Verify<'a> {
    shared: &'a Shared,
    progress: &'a dyn Progress,
    findings: Mutex<Findings>,
    cache: BlockCache,
}

impl Store {
    /// Reads everything: the key, every manifest, every pack, every record in it; puts every snapshot's
    /// index together; compares the database with the files. Damage is in the report, by file. Of what is sealed
    /// under a key that is not here, the hashes of packs and manifests are checked.
    ///
    /// # Errors
    /// Only if it was stopped, or the disk fails.
    pub fn verify(&self, progress: &dyn Progress) -> Result<VerifyReport, VerifyError> {
        let shared = &self.shared;
        // Nothing that is visible now may go before it was read.
        let everything = |state: &State| {
            let packs = state.packs.keys().map(|pack| *pack.as_bytes());
            Ok::<_, VerifyError>((state.clone(), packs.collect()))
        };
        let (state, _pin) = shared.pinned(everything)?;
        let verify = Verify { shared, progress, findings: Mutex::default(), cache: BlockCache::default() };
        for bad in &shared.report.bad {
            // What was bad at opening may have been received again, or dropped, since.
            if still_bad(shared, &state, &bad.path) {
                verify.blame(&bad.path, &bad.reason);
            }
        }
        verify.key_files(&state);
        let packs = list_packs(shared.disk.as_ref(), &shared.layout)?;
        for id in state.packs.keys().filter(|id| !packs.contains_key(id)) {
            verify.blame(&shared.layout.pack(id), "the file is missing");
        }
        let manifests = state.snapshots.values().map(|snapshot| snapshot.encoded.len() as u64);
        progress.total(packs.values().sum::<u64>() + manifests.sum::<u64>());
        verify.packs(&state, &packs)?;
        verify.manifests(&state)?;
        verify.database()?;
        let findings = verify.findings.into_inner().unwrap_or_else(PoisonError::into_inner);
        let bad = findings.bad.into_iter().map(|(path, reason)| BadFile { path, reason }).collect();
        let Findings { packs, packs_sealed, chunks, bytes, .. } = findings;
        let snapshots = state.snapshots.len() as u64;
        Ok(VerifyReport { bad, snapshots, packs, packs_sealed, chunks, bytes })
    }
}

fn still_bad(shared: &Shared, state: &State, path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    if let Some(id) = Layout::parse_pack(name) {
        return !state.packs.contains_key(&id) && state.listed_packs().contains(&id);
    }
    match Layout::parse_manifest(name) {
        Some(id) => read_manifest(shared.disk.as_ref(), path, id).is_err(),
        None => true,
    }
}

impl Verify<'_> {
    fn blame(&self, path: &Path, reason: &str) {
        let mut findings = self.findings.lock().unwrap_or_else(PoisonError::into_inner);
        // The first reason is the closest to the cause.
        findings.bad.entry(path.to_owned()).or_insert_with(|| reason.to_owned());
    }

    /// Damage goes into the report, a failing disk ends the work.
    fn judge(&self, fault: Fault) -> Result<(), VerifyError> {
        match fault {
            Fault::Damaged { path, reason } => {
                self.blame(&path, &reason);
                Ok(())
            }
            // Whose key should be here is told by the keys' files.
            Fault::KeyMissing { .. } => Ok(()),
            other => Err(other.into()),
        }
    }

    fn done(&self, bytes: u64) -> Result<(), VerifyError> {
        self.progress.advance(bytes);
        self.findings.lock().unwrap_or_else(PoisonError::into_inner).bytes += bytes;
        if self.progress.cancelled() { Err(VerifyError::Cancelled) } else { Ok(()) }
    }

    /// The files of keys: that they can be read, and that none is missing which the store should have.
    fn key_files(&self, state: &State) {
        let (disk, layout) = (self.shared.disk.as_ref(), &self.shared.layout);
        if let Err(fault) = read_note(disk, layout) {
            self.blame(&layout.key(), &fault.to_string());
        }
        if !self.shared.key_note.lock().unwrap_or_else(PoisonError::into_inner).own {
            return;
        }
        for service in state.services() {
            let path = layout.service_key(&service);
            let secrets = match key_files::read(disk, layout, &service) {
                Ok(Some(secrets)) => secrets,
                Ok(None) => {
                    self.blame(&path, "the key is missing");
                    continue;
                }
                Err(fault) => {
                    self.blame(&path, &fault.to_string());
                    continue;
                }
            };
            let ids: BTreeSet<KeyId> = secrets.iter().map(Secret::id).collect();
            let of_service = state.snapshots.values().filter(|s| s.manifest.service == service);
            if let Some(lost) = of_service.map(|s| s.manifest.key).find(|id| !ids.contains(id)) {
                self.blame(&path, &format!("key {lost}, which snapshots are sealed under, is not in it"));
            }
        }
    }

    fn packs(&self, state: &State, packs: &BTreeMap<PackId, u64>) -> Result<(), VerifyError> {
        let mut catalogue = Catalogue::default();
        let mut scratch = Vec::new();
        for (id, bytes) in packs {
            let outcome = match catalogue.add(self.shared, &[PackRef { id: *id, bytes: *bytes }]) {
                Err(Fault::KeyMissing { .. }) => self.sealed_pack(id, &mut scratch),
                outcome => outcome.map_err(VerifyError::from),
            };
            self.unless_dropped(id, outcome)?;
        }
        // What is not listed may refer to what is still to come.
        let listed = state.listed_packs();
        let make = || Ok::<_, VerifyError>((ChunkReader::new()?, Vec::new()));
        let count = catalogue.packs().len() as u64;
        for_each_batch(Pace::Full, count, 1, make, |(reader, scratch), range| {
            let number = range.start as u32;
            let id = catalogue.pack(number).id;
            let chunks = listed.contains(&id).then_some(reader);
            self.unless_dropped(&id, self.pack(&catalogue, number, chunks, scratch))
        })?;
        Ok(())
    }

    /// Notes damage, unless the pack was dropped, or moved in, while this was going on.
    fn unless_dropped(&self, id: &PackId, outcome: Result<(), VerifyError>) -> Result<(), VerifyError> {
        match outcome {
            Err(VerifyError::Fault(_)) if !self.shared.state().packs.contains_key(id) => Ok(()),
            Err(VerifyError::Fault(fault)) => self.judge(fault),
            other => other,
        }
    }

    /// Reads all of a pack whose key is not here.
    fn sealed_pack(&self, id: &PackId, scratch: &mut Vec<u8>) -> Result<(), VerifyError> {
        let file = PackFile::open(self.shared.disk.as_ref(), &self.shared.layout, id)?;
        file.check_hash(*id, scratch, |part| self.done(part))?;
        let mut findings = self.findings.lock().unwrap_or_else(PoisonError::into_inner);
        findings.packs += 1;
        findings.packs_sealed += 1;
        Ok(())
    }

    /// Reads all of a pack and, with a reader, puts together all its chunks.
    fn pack(
        &self,
        catalogue: &Catalogue,
        number: u32,
        reader: Option<&mut ChunkReader>,
        scratch: &mut Vec<u8>,
    ) -> Result<(), VerifyError> {
        let (pack, directory) = &catalogue.packs()[number as usize];
        let file = PackFile::open(self.shared.disk.as_ref(), &self.shared.layout, &pack.id)?;
        file.check_hash(pack.id, scratch, |part| self.done(part))?;
        for (root, block) in directory.indexes() {
            file.index(directory, *block, root)?;
        }
        if let Some(reader) = reader {
            self.chunks(catalogue, number, reader)?;
        }
        let mut findings = self.findings.lock().unwrap_or_else(PoisonError::into_inner);
        findings.packs += 1;
        findings.chunks += directory.chunk_count() as u64;
        Ok(())
    }

    fn chunks(&self, catalogue: &Catalogue, pack: u32, reader: &mut ChunkReader) -> Result<(), VerifyError> {
        let from = Chunks { cache: &self.cache, ..Chunks::new(self.shared, catalogue) };
        for block in 0..catalogue.packs()[pack as usize].1.blocks().len() as u32 {
            let block = BlockPlace { pack, block };
            // What it needs is in another pack: if that can't be read, it is that one which is named.
            if !self.can_read(catalogue, block) {
                continue;
            }
            for (place, _) in catalogue.chunks_of(block) {
                reader.chunk(from, place).map_err(|error| match error {
                    ReadError::Fault(fault) => fault,
                    error => Fault::damaged(&self.shared.layout.pack(&catalogue.pack(pack).id), error),
                })?;
            }
        }
        Ok(())
    }

    fn can_read(&self, catalogue: &Catalogue, block: BlockPlace) -> bool {
        let mut needed = catalogue.needed_by(block);
        needed.all(|chunk| {
            let place = catalogue.chunk(&chunk);
            let block = place.map(|place| catalogue.block_of(place));
            block.is_some_and(|block| {
                catalogue.chunks_of(block).all(|(_, chunk)| {
                    chunk.reference.is_none_or(|reference| catalogue.chunk(&reference).is_some())
                })
            })
        })
    }

    fn manifests(&self, state: &State) -> Result<(), VerifyError> {
        for snapshot in state.snapshots.values() {
            let outcome = self.manifest(state, snapshot);
            if !self.shared.state().snapshots.contains_key(&snapshot.id) {
                continue;
            }
            if let Err(fault) = outcome {
                self.judge(fault)?;
            }
            self.done(snapshot.encoded.len() as u64)?;
        }
        Ok(())
    }

    fn manifest(&self, state: &State, snapshot: &Arc<Snapshot>) -> Result<(), Fault> {
        let path = self.shared.layout.manifest(&snapshot.id);
        read_manifest(self.shared.disk.as_ref(), &path, snapshot.id)?;
        let loaded = with_base(state, snapshot)
            .and_then(|(base, snapshot)| Whole::load(self.shared, &base, &snapshot));
        match loaded {
            Ok(_) => Ok(()),
            Err(ReadError::Fault(fault)) => Err(fault),
            Err(error) => Err(Fault::damaged(&path, error)),
        }
    }

    /// The database may not list other snapshots than there are.
    fn database(&self) -> Result<(), VerifyError> {
        let commit = self.shared.begin_commit()?;
        let path = self.shared.layout.database();
        let contents = match commit.database.load() {
            Ok(contents) => contents,
            Err(reason) => {
                self.blame(&path, &reason);
                return Ok(());
            }
        };
        let state = self.shared.state();
        let listed: BTreeSet<_> = contents.snapshots.keys().copied().collect();
        let present: BTreeSet<_> = state.snapshots.keys().copied().collect();
        for id in present.difference(&listed) {
            self.blame(&path, &format!("it does not list snapshot {}", id.short()));
        }
        for id in listed.difference(&present) {
            let manifest = self.shared.layout.manifest(id);
            if !self.shared.report.bad.iter().any(|bad| bad.path == manifest) {
                self.blame(&path, &format!("it lists snapshot {}, which is not here", id.short()));
            }
        }
        Ok(())
    }
}
