//! Importing: manifests whose packs were received become snapshots of this store.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use sustain_proto::{Manifest, ManifestError, PackId, RegionName, SnapshotId, SnapshotIndex};

use crate::catalogue::Catalogue;
use crate::generation::{IndexFault, check_whole, read_parts, together};
use crate::keys::Keys;
use crate::publish::{Unpublished, add_snapshots, intend, write_manifests};
use crate::state::{Snapshot, State};
use crate::store::{Shared, Store};
use crate::whole::{overlay, whole_of_base};
use crate::{ErrorKind, Fault, ReadError};

/// Why something that came from elsewhere is not taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImportError {
    /// The bytes are no manifest.
    #[error("this is no manifest")]
    Manifest(#[from] ManifestError),
    /// A delta came without its base, which is not here either.
    #[error("snapshot {snapshot} needs the base {base}, which is neither given nor here")]
    BaseUnknown {
        /// The delta.
        snapshot: SnapshotId,
        /// Its base.
        base: SnapshotId,
    },
    /// A delta refers to something that can't be its base.
    #[error("snapshot {snapshot} can't be a delta against {base}: {reason}")]
    WrongBase {
        /// The delta.
        snapshot: SnapshotId,
        /// What it calls its base.
        base: SnapshotId,
        /// Why not.
        reason: &'static str,
    },
    /// A pack that a manifest lists is not here.
    #[error("pack {id} is not here yet")]
    PackMissing {
        /// Its id.
        id: PackId,
    },
    /// The packs do not hold what the manifest says.
    #[error("snapshot {snapshot} is not what its packs hold: {reason}")]
    Contradiction {
        /// The snapshot.
        snapshot: SnapshotId,
        /// What is wrong.
        reason: String,
    },
    /// A pack that is larger than packs may be, or that has more bytes than announced.
    #[error("pack {id} has {bytes} bytes, at most {bytes_max} are allowed")]
    PackTooLarge {
        /// Its id.
        id: PackId,
        /// Bytes announced or received.
        bytes: u64,
        /// The limit.
        bytes_max: u64,
    },
    /// The bytes received are not the pack's.
    #[error("what was received is not pack {id}: {reason}")]
    PackDamaged {
        /// Its id.
        id: PackId,
        /// What is wrong.
        reason: String,
    },
    /// What is here already can't be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A file or the database.
    #[error(transparent)]
    Fault(#[from] Fault),
}

impl ImportError {
    /// What a caller can do about it.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::BaseUnknown { .. } | Self::PackMissing { .. } => ErrorKind::NotFound,
            Self::PackTooLarge { .. } => ErrorKind::Refused,
            Self::Manifest(_)
            | Self::WrongBase { .. }
            | Self::Contradiction { .. }
            | Self::PackDamaged { .. } => ErrorKind::Corrupt,
            Self::Read(error) => error.kind(),
            Self::Fault(fault) => fault.kind(),
        }
    }
}

/// Manifests that were given, decoded, each with its base.
pub(crate) struct Given {
    snapshots: BTreeMap<SnapshotId, Arc<Snapshot>>,
    order: Vec<SnapshotId>,
}

impl Given {
    /// Decodes them. From then on the keys of their services are found.
    pub(crate) fn decode(keys: &Keys, manifests: &[Vec<u8>]) -> Result<Self, ImportError> {
        let mut given = Self { snapshots: BTreeMap::new(), order: Vec::new() };
        for encoded in manifests {
            let (id, manifest) = Manifest::decode(encoded)?;
            keys.learn(&manifest.service);
            let snapshot = Snapshot { id, manifest, encoded: encoded.clone(), level: None };
            if given.snapshots.insert(id, Arc::new(snapshot)).is_none() {
                given.order.push(id);
            }
        }
        // Bases first, as their deltas need them.
        given.order.sort_by_key(|id| given.snapshots[id].manifest.base().is_some());
        Ok(given)
    }

    pub(crate) fn in_order(&self) -> impl Iterator<Item = &Arc<Snapshot>> {
        self.order.iter().map(|id| &self.snapshots[id])
    }

    /// The base of a snapshot, from those given or from the store.
    pub(crate) fn base(&self, state: &State, snapshot: &Arc<Snapshot>) -> Result<Arc<Snapshot>, ImportError> {
        let Some(base) = snapshot.manifest.base() else {
            return Ok(snapshot.clone());
        };
        let found = self.snapshots.get(&base).or_else(|| state.snapshots.get(&base));
        let found = found.ok_or(ImportError::BaseUnknown { snapshot: snapshot.id, base })?;
        let wrong = |reason| ImportError::WrongBase { snapshot: snapshot.id, base, reason };
        if found.manifest.base().is_some() {
            return Err(wrong("that is a delta itself"));
        }
        if found.manifest.service != snapshot.manifest.service {
            return Err(wrong("that is another service's"));
        }
        if found.manifest.key != snapshot.manifest.key {
            return Err(wrong("that is sealed under another key"));
        }
        Ok(found.clone())
    }
}

impl Store {
    /// Which packs are still to be received before these manifests can be imported, bases' first.
    ///
    /// # Errors
    /// If they don't decode, or a delta's base is neither among them nor here.
    pub fn packs_lacking(&self, manifests: &[Vec<u8>]) -> Result<Vec<PackId>, ImportError> {
        let given = Given::decode(&self.shared.keys, manifests)?;
        let state = self.shared.state();
        let mut lacking = Vec::new();
        let mut seen = BTreeSet::new();
        for snapshot in given.in_order() {
            // A base that is known here may have lost packs, which are then to be had again.
            let base = given.base(&state, snapshot)?;
            for pack in base.manifest.packs.iter().chain(&snapshot.manifest.packs) {
                if seen.insert(pack.id) && !state.packs.contains_key(&pack.id) {
                    lacking.push(pack.id);
                }
            }
        }
        Ok(lacking)
    }

    /// Makes snapshots of manifests whose packs are all here. If their keys are here too, checks that the packs hold
    /// what the manifests say; then all become visible at once, or none. May be repeated.
    ///
    /// # Errors
    /// If they don't decode, a base or a pack is missing, or the packs hold something else.
    pub fn import(&self, manifests: &[Vec<u8>]) -> Result<Vec<SnapshotId>, ImportError> {
        let shared = &self.shared;
        let given = Given::decode(&shared.keys, manifests)?;
        let choose = |state: &State| {
            let pair = |snapshot: &Arc<Snapshot>| Ok((given.base(state, snapshot)?, snapshot.clone()));
            let pairs = given.in_order().map(pair).collect::<Result<Vec<_>, ImportError>>()?;
            let packs =
                pairs.iter().flat_map(|(base, s)| base.manifest.packs.iter().chain(&s.manifest.packs));
            let pinned = packs.map(|pack| *pack.id.as_bytes()).collect();
            Ok::<_, ImportError>((pairs, pinned))
        };
        let (pairs, _pin) = shared.pinned(choose)?;
        for (base, snapshot) in &pairs {
            require_packs(&shared.state(), base)?;
            require_packs(&shared.state(), snapshot)?;
            // Without the key, nobody can be told wrong contents here: who reads them has it, and checks them then.
            let can_read = shared.keys.find(snapshot.manifest.key).is_ok();
            if can_read && !shared.state().snapshots.contains_key(&snapshot.id) {
                check(shared, base, snapshot)?;
            }
        }
        // From now on the folder is to say which key it was given.
        shared.note_given_key()?;
        self.publish_imported(&given)?;
        Ok(given.order)
    }

    fn publish_imported(&self, given: &Given) -> Result<(), ImportError> {
        let shared = &self.shared;
        let mut commit = shared.begin_commit()?;
        let new: Vec<Arc<Snapshot>> = {
            let state = shared.state();
            // What was dropped since it was checked would leave a manifest without its packs or base.
            for snapshot in given.in_order() {
                require_packs(&state, snapshot)?;
                given.base(&state, snapshot)?;
            }
            given.in_order().filter(|s| !state.snapshots.contains_key(&s.id)).cloned().collect()
        };
        if new.is_empty() {
            return Ok(());
        }
        // So that an interruption leaves no delta whose base is not here.
        let with_new_base = |s: &&Arc<Snapshot>| {
            s.manifest.base().is_some_and(|base| new.iter().any(|snapshot| snapshot.id == base))
        };
        intend(&mut commit, new.iter().filter(with_new_base).map(|snapshot| (snapshot.id, Vec::new())))?;
        let mut undo = Unpublished::new(shared);
        write_manifests(shared, new.iter().map(|s| (s.id, s.encoded.as_slice())), &mut undo)?;
        undo.keep();
        Ok(add_snapshots(&mut commit, new, &[])?)
    }
}

fn require_packs(state: &State, snapshot: &Snapshot) -> Result<(), ImportError> {
    for pack in &snapshot.manifest.packs {
        match state.packs.get(&pack.id) {
            None => return Err(ImportError::PackMissing { id: pack.id }),
            Some(bytes) if *bytes != pack.bytes => {
                let reason = format!("pack {} has {bytes} bytes, not {}", pack.id.short(), pack.bytes);
                return Err(ImportError::Contradiction { snapshot: snapshot.id, reason });
            }
            Some(_) => {}
        }
    }
    Ok(())
}

/// Checks that the listed packs hold the index, and every chunk that it names.
fn check(shared: &Shared, base: &Arc<Snapshot>, snapshot: &Arc<Snapshot>) -> Result<(), ImportError> {
    let contradiction = |reason| ImportError::Contradiction { snapshot: snapshot.id, reason };
    let mut catalogue = Catalogue::default();
    catalogue.add(shared, &base.manifest.packs)?;
    catalogue.add(shared, &snapshot.manifest.packs)?;
    let load = |of: &Snapshot| -> Result<SnapshotIndex, ImportError> {
        let parts = read_parts(shared, &catalogue, &of.manifest).map_err(|error| match error {
            IndexFault::Fault(fault) => ImportError::Fault(fault),
            other => contradiction(other.reason()),
        })?;
        let index = together(&parts);
        let known = |name: &RegionName| of.manifest.regions.iter().any(|region| region.name == *name);
        match index.regions.keys().find(|name| !known(name)) {
            Some(name) => Err(contradiction(format!("its index has a region {name}, its manifest has none"))),
            None => Ok(index),
        }
    };
    let base_index = whole_of_base(&load(base)?, &base.manifest.regions);
    let index = if base.id == snapshot.id {
        base_index
    } else {
        overlay(&base_index, &load(snapshot)?, &snapshot.manifest.regions)
    };
    check_whole(&snapshot.manifest, &index, &catalogue).map_err(contradiction)?;
    Ok(())
}
