//! Verifying contents: every chunk of every pack is decoded, every snapshot's index put together, and the key's file
//! and the database are compared with the rest.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError};

use sustain_proto::{KeyId, PackId, PackRef};

use crate::catalogue::{BlockPlace, Catalogue};
use crate::chunk_reader::{ChunkReader, Chunks};
use crate::generation::{Whole, with_base};
use crate::key::read_note;
use crate::named_pins::NamedPins;
use crate::pack_file::PackFile;
use crate::parallel::for_each_batch;
use crate::state::Snapshot;
use crate::sweep::read_manifest;
use crate::verify::{Scope, VerifyError};
use crate::verify_run::Run;
use crate::{Fault, ReadError, Secret, key_files};

impl Run<'_> {
    pub(crate) fn contents(&self) -> Result<(), VerifyError> {
        if self.options.scope == Scope::Everything {
            self.key_files();
            match NamedPins::read(self.shared.disk.as_ref(), &self.shared.layout) {
                Ok(_) => {}
                Err(fault) => self.judge(fault)?,
            }
        }
        self.packs()?;
        self.manifests()?;
        if self.options.scope == Scope::Everything { self.database() } else { Ok(()) }
    }

    /// The files of keys: that they can be read, and that none is missing which the store should have.
    fn key_files(&self) {
        let (disk, layout) = (self.shared.disk.as_ref(), &self.shared.layout);
        if let Err(fault) = read_note(disk, layout) {
            self.blame(&layout.key(), &fault.to_string());
        }
        if !self.shared.makes_keys() {
            return;
        }
        for service in self.state.services() {
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
            let of_service = self.state.snapshots.values().filter(|s| s.manifest.service == service);
            if let Some(lost) = of_service.map(|s| s.manifest.key).find(|id| !ids.contains(id)) {
                self.blame(&path, &format!("key {lost}, which snapshots are sealed under, is not in it"));
            }
        }
    }

    fn packs(&self) -> Result<(), VerifyError> {
        let mut catalogue = Catalogue::default();
        let mut scratch = Vec::new();
        let wanted: BTreeSet<PackId> = self.order.iter().map(|(id, _)| *id).collect();
        for (id, bytes) in &self.in_scope {
            let outcome = match catalogue.add(self.shared, &[PackRef { id: *id, bytes: *bytes }]) {
                Err(Fault::KeyMissing { .. }) if !wanted.contains(id) => Ok(()),
                Err(Fault::KeyMissing { .. }) => self.sealed_pack(id, &mut scratch),
                outcome => outcome.map_err(VerifyError::from),
            };
            self.unless_dropped(id, outcome)?;
        }
        let numbers: BTreeMap<PackId, u32> =
            (0..).zip(catalogue.packs()).map(|(n, (p, _))| (p.id, n)).collect();
        let order: Vec<u32> = self.order.iter().filter_map(|(id, _)| numbers.get(id)).copied().collect();
        // What is not listed may refer to what is still to come.
        let listed = self.state.listed_packs();
        let make = || Ok::<_, VerifyError>((ChunkReader::new()?, Vec::new()));
        for_each_batch(self.options.pace, order.len() as u64, 1, make, |(reader, scratch), range| {
            let number = order[range.start as usize];
            let id = catalogue.pack(number).id;
            let chunks = listed.contains(&id).then_some(reader);
            self.unless_dropped(&id, self.pack(&catalogue, number, chunks, scratch))
        })?;
        Ok(())
    }

    /// Reads all of a pack whose key is not here.
    fn sealed_pack(&self, id: &PackId, scratch: &mut Vec<u8>) -> Result<(), VerifyError> {
        let file = PackFile::open(self.shared.disk.as_ref(), &self.shared.layout, id)?;
        file.check_hash(*id, scratch, |part| self.done(part))?;
        self.good(*id, true);
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
        self.good(pack.id, false);
        self.findings.lock().unwrap_or_else(PoisonError::into_inner).chunks += directory.chunk_count() as u64;
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

    fn manifests(&self) -> Result<(), VerifyError> {
        for snapshot in &self.snapshots {
            let outcome = self.manifest(snapshot);
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

    fn manifest(&self, snapshot: &Arc<Snapshot>) -> Result<(), Fault> {
        let path = self.shared.layout.manifest(&snapshot.id);
        read_manifest(self.shared.disk.as_ref(), &path, snapshot.id)?;
        let loaded = with_base(self.shared, &self.state, snapshot)
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
        let state = self.shared.seen();
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
