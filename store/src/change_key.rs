//! Changing a service's key: a new secret seals from the next rebase on, and older ones go when nothing needs them.
//!
//! ```text
//! change_key ─▶ a file with both, synced ─▶ rebase: everything that stays is sealed anew, synced, one transaction
//!            ─▶ the old manifests and packs are removed, synced ─▶ a file without the old secret
//! ```
//! At each step the file has every secret that a manifest names, so a crash anywhere loses nothing.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use sustain_proto::{KeyId, ServiceName};

use crate::error::DiskContext;
use crate::key_files;
use crate::layout::Layout;
use crate::secret::{Secret, Secrets, TooManySecrets};
use crate::state::Snapshot;
use crate::store::{Shared, Store};
use crate::{ErrorKind, Fault};

/// Why a key is not changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChangeKeyError {
    /// The keys are a cluster's.
    #[error("the store's keys are kept by its cluster, and are changed there")]
    Given,
    /// Nothing of the service is here.
    #[error("there is no key of {service} here, and nothing that is sealed under one")]
    NoService {
        /// The service.
        service: ServiceName,
    },
    /// It was changed too often without a rebase.
    #[error("the key of {service} can't be changed")]
    TooMany {
        /// The service.
        service: ServiceName,
        /// How many there are.
        source: TooManySecrets,
    },
    /// A file, or a key that is lost.
    #[error(transparent)]
    Fault(#[from] Fault),
}

impl ChangeKeyError {
    /// What a caller can do about it.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Given | Self::TooMany { .. } => ErrorKind::Refused,
            Self::NoService { .. } => ErrorKind::NotFound,
            Self::Fault(fault) => fault.kind(),
        }
    }
}

/// A key of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyInfo {
    /// Its id.
    pub id: KeyId,
    /// Whether it is here. What is sealed under one that is not can't be read.
    pub here: bool,
    /// Whether the service's next base is sealed under it.
    pub seals: bool,
    /// Snapshots here that are sealed under it.
    pub snapshots: usize,
}

/// The keys of a service, the oldest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceKeys {
    /// The service.
    pub service: ServiceName,
    /// Its keys, those that snapshots name and that are not here first.
    pub keys: Vec<KeyInfo>,
}

impl ServiceKeys {
    /// Whether the service can be run here: its next base can be sealed, and its newest snapshots can be read.
    #[must_use]
    pub fn can_seal(&self) -> bool {
        self.keys.iter().any(|key| key.seals)
    }
}

impl Store {
    /// Has a service's next rebase seal everything that stays of it under a new key, whose id is returned. The old one
    /// opens what it sealed until then, and goes by itself when nothing is left of that. If a change is waiting for
    /// its rebase already, nothing is done.
    ///
    /// # Errors
    /// If the keys are a cluster's, if nothing of the service is here, if its key is lost, or if the disk fails.
    pub fn change_key(&self, service: &ServiceName) -> Result<KeyId, ChangeKeyError> {
        let shared = &self.shared;
        if !shared.makes_keys() {
            return Err(ChangeKeyError::Given);
        }
        let _commit = shared.begin_commit()?;
        let mut used = used_keys(shared, service);
        let Some(mut secrets) = key_files::read(shared.disk.as_ref(), &shared.layout, service)? else {
            return Err(match used.pop_first() {
                Some(key) => Fault::KeyMissing { key }.into(),
                None => ChangeKeyError::NoService { service: service.clone() },
            });
        };
        shared.refuse_other_key(service, &secrets)?;
        if used.is_empty() || used.contains(&secrets.newest().id()) {
            let added = secrets.add(Secret::generate()?);
            added.map_err(|source| ChangeKeyError::TooMany { service: service.clone(), source })?;
            key_files::write(&shared.disk, &shared.layout, service, &secrets)?;
        }
        shared.keys.change(|ring| ring.set(service, Some(&secrets)));
        Ok(secrets.newest().id())
    }

    /// The secrets of a service, to be kept in a safe place; none if the store has none of its own.
    ///
    /// # Errors
    /// If the file can't be read.
    pub fn secrets(&self, service: &ServiceName) -> Result<Option<Secrets>, Fault> {
        key_files::read(self.shared.disk.as_ref(), &self.shared.layout, service)
    }

    /// The key that the newest snapshot of a service here is sealed under, if it is not here.
    #[must_use]
    pub fn lacks_key(&self, service: &ServiceName) -> Option<KeyId> {
        self.shared.keys.learn(service);
        let newest = self.shared.state().of_service(service).pop()?.manifest.key;
        self.shared.keys.find(newest).is_err().then_some(newest)
    }

    /// The keys of all services that are known here.
    #[must_use]
    pub fn all_keys(&self) -> Vec<ServiceKeys> {
        let mut services = self.shared.state().services();
        services.extend(self.shared.keys.with(crate::keys::Ring::services));
        services.iter().map(|service| self.keys(service)).collect()
    }

    /// The keys of a service: those that snapshots here name, and those that are here.
    #[must_use]
    pub fn keys(&self, service: &ServiceName) -> ServiceKeys {
        let shared = &self.shared;
        shared.keys.learn(service);
        let (known, seals) = shared.keys.with(|ring| ring.all_of(service));
        let state = shared.state();
        let of_service: Vec<_> =
            state.snapshots.values().filter(|s| s.manifest.service == *service).collect();
        let used: BTreeSet<KeyId> = of_service.iter().map(|s| s.manifest.key).collect();
        let sealing = known.last().copied().filter(|_| seals);
        let missing = used.iter().filter(|id| !known.contains(id));
        let info = |id: &KeyId| KeyInfo {
            id: *id,
            here: known.contains(id),
            seals: sealing == Some(*id),
            snapshots: of_service.iter().filter(|s| s.manifest.key == *id).count(),
        };
        ServiceKeys { service: service.clone(), keys: missing.chain(&known).map(info).collect() }
    }
}

impl Shared {
    /// Whether a base that is made of this snapshot is sealed under another key.
    pub(crate) fn changes_key(&self, promoted: &Snapshot) -> bool {
        let key = self.keys.of_service(&promoted.manifest.service);
        key.is_some_and(|key| key.id() != promoted.manifest.key)
    }

    /// Takes those of the store's own secrets away that nothing here is sealed under any more. What can't be done now
    /// is done at another time. The caller holds no commit lock.
    pub(crate) fn forget_unused_keys(&self, service: &ServiceName) {
        if let Err(error) = forget(self, service) {
            tracing::warn!(%service, %error, "an old key stays for now");
        }
    }

    /// The same, for all services that have several.
    pub(crate) fn forget_all_unused_keys(&self) {
        let services = self.keys.with(crate::keys::Ring::with_several_own);
        services.iter().for_each(|service| self.forget_unused_keys(service));
    }
}

fn used_keys(shared: &Shared, service: &ServiceName) -> BTreeSet<KeyId> {
    let state = shared.seen();
    state.snapshots.values().filter(|s| s.manifest.service == *service).map(|s| s.manifest.key).collect()
}

fn forget(shared: &Shared, service: &ServiceName) -> Result<(), Fault> {
    let _commit = shared.begin_commit()?;
    let is_single = shared.keys.with(|ring| !ring.with_several_own().contains(service));
    // A manifest that can't be read may name any key.
    if !shared.makes_keys() || is_single || !shared.report.bad.is_empty() || has_unknown_manifests(shared)? {
        return Ok(());
    }
    let Some(mut secrets) = key_files::read(shared.disk.as_ref(), &shared.layout, service)? else {
        return Ok(());
    };
    // Of any service: a file may have been put in another's place for a while.
    let used: BTreeSet<KeyId> = shared.seen().snapshots.values().map(|s| s.manifest.key).collect();
    let Some(oldest) = secrets.iter().map(Secret::id).find(|id| used.contains(id)) else { return Ok(()) };
    // Newer ones than one that is in use may be on their way to being used.
    let mut is_passed = false;
    let before = secrets.iter().count();
    secrets.remove_older(|secret| {
        is_passed |= secret.id() == oldest;
        !is_passed
    });
    if secrets.iter().count() == before {
        return Ok(());
    }
    key_files::write(&shared.disk, &shared.layout, service, &secrets)?;
    shared.keys.change(|ring| ring.set(service, Some(&secrets)));
    Ok(())
}

/// Whether a manifest's file is there that was to be removed: if the database were lost, it would count again.
fn has_unknown_manifests(shared: &Shared) -> Result<bool, Fault> {
    let folder = shared.layout.manifests();
    let entries = shared.disk.list(&folder).during("list", &folder)?;
    let state = shared.seen();
    let mut ids = entries.iter().filter_map(|entry| Layout::parse_manifest(&entry.name));
    Ok(ids.any(|id| !state.snapshots.contains_key(&id)))
}
