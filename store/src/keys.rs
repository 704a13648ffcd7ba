//! The keys that a store has: those that open what is here, and the one that a new base is sealed under.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use sustain_proto::{KeyId, ServiceName};

use crate::disk::Disk;
use crate::key::ClusterKeys;
use crate::layout::Layout;
use crate::secret::Secrets;
use crate::service_key::ServiceKey;
use crate::{Fault, error_chain, key_files, limits};

/// Keys by what they are for, and by id. Its lock is one of the small ones: nothing is taken while it is held.
#[derive(Debug, Default)]
pub(crate) struct Keys {
    ring: RwLock<Ring>,
    /// Where the store's own secrets are, if it has its own.
    files: Option<(Arc<dyn Disk>, Layout)>,
}

/// What a store was given, or has in its folder.
#[derive(Debug, Default)]
pub(crate) struct Ring {
    /// What keys of services are derived from that have no entry of their own, and older ones of those that have.
    roots: Option<Secrets>,
    /// Of services with secrets of their own, the keys, the newest last. Empty: they are not here.
    own: BTreeMap<ServiceName, Vec<KeyId>>,
    /// Of services that were met, the derived keys, the newest last.
    derived: BTreeMap<ServiceName, Vec<KeyId>>,
    by_id: BTreeMap<KeyId, ServiceKey>,
    /// Services whose files of secrets are damaged, and what is wrong.
    damaged: BTreeMap<ServiceName, (PathBuf, String)>,
    /// Whose keys these are, as far as it matters.
    owners: BTreeMap<KeyId, ServiceName>,
}

impl Ring {
    /// What a cluster gives.
    pub(crate) fn given(keys: ClusterKeys) -> Self {
        let mut ring = Self { roots: keys.secrets, ..Self::default() };
        keys.services.iter().for_each(|(service, secrets)| ring.set(service, secrets.as_ref()));
        ring
    }

    /// A service has secrets of its own, these.
    pub(crate) fn set(&mut self, service: &ServiceName, secrets: Option<&Secrets>) {
        let keys = self.remember(secrets);
        if let Some(before) = self.own.insert(service.clone(), keys.clone()) {
            before.iter().filter(|id| !keys.contains(id)).for_each(|id| drop(self.by_id.remove(id)));
        }
    }

    /// What a service's file of secrets holds. One that is damaged takes nothing away that was read from it before.
    pub(crate) fn set_read(&mut self, service: &ServiceName, secrets: Result<Secrets, Fault>) {
        match secrets {
            Ok(secrets) => {
                self.damaged.remove(service);
                self.set(service, Some(&secrets));
            }
            Err(fault) => {
                let reason = match fault {
                    Fault::Damaged { path, reason } => (path, reason),
                    Fault::Disk { ref path, .. } => (path.clone(), error_chain(&fault)),
                    _ => return,
                };
                self.own.entry(service.clone()).or_default();
                self.damaged.insert(service.clone(), reason);
            }
        }
    }

    /// Something of a service with a damaged file is sealed under this key.
    pub(crate) fn note_owner(&mut self, service: &ServiceName, key: KeyId) {
        if self.damaged.contains_key(service) {
            self.owners.insert(key, service.clone());
        }
    }

    /// Why a key is not here.
    fn absence(&self, id: KeyId) -> Fault {
        match self.owners.get(&id).and_then(|service| self.damaged.get(service)) {
            Some((path, reason)) => Fault::damaged(path, reason),
            None => Fault::KeyMissing { key: id },
        }
    }

    fn remember(&mut self, secrets: Option<&Secrets>) -> Vec<KeyId> {
        let keys: Vec<ServiceKey> = secrets.into_iter().flat_map(Secrets::iter).map(|s| s.key()).collect();
        let ids = keys.iter().map(ServiceKey::id).collect();
        self.by_id.extend(keys.into_iter().map(|key| (key.id(), key)));
        ids
    }

    /// A service is met: from now on its keys are found by their ids.
    pub(crate) fn learn(&mut self, service: &ServiceName) {
        if self.derived.contains_key(service) || self.derived.len() >= limits::SERVICES_KNOWN_MAX {
            return;
        }
        if let Some(secrets) = self.roots.as_ref().map(|roots| roots.of_service(service)) {
            let ids = self.remember(Some(&secrets));
            self.derived.insert(service.clone(), ids);
        }
    }

    /// The id of the secret that keys are derived from.
    pub(crate) fn newest_root(&self) -> Option<KeyId> {
        self.roots.as_ref().map(|roots| roots.newest().id())
    }

    /// Whether a service has secrets of its own, here or elsewhere.
    pub(crate) fn has_own(&self, service: &ServiceName) -> bool {
        self.own.contains_key(service)
    }

    /// Services that a key is known of, or known to be elsewhere.
    pub(crate) fn services(&self) -> Vec<ServiceName> {
        self.own.keys().chain(self.derived.keys()).cloned().collect()
    }

    /// Services that have several secrets of their own here.
    pub(crate) fn with_several_own(&self) -> Vec<ServiceName> {
        self.own.iter().filter(|(_, keys)| keys.len() > 1).map(|(service, _)| service.clone()).collect()
    }

    pub(crate) fn find(&self, id: KeyId) -> Option<&ServiceKey> {
        self.by_id.get(&id)
    }

    /// All keys of a service that are here, the newest last: that one seals its new bases, unless it is `false`.
    pub(crate) fn all_of(&self, service: &ServiceName) -> (Vec<KeyId>, bool) {
        let own = self.own.get(service);
        let seals = own.map_or(self.roots.is_some(), |own| !own.is_empty());
        let derived = self.derived.get(service).into_iter().flatten();
        (derived.chain(own.into_iter().flatten()).copied().collect(), seals)
    }

    /// The key of a service's new bases.
    fn of_service(&self, service: &ServiceName) -> Option<ServiceKey> {
        match self.own.get(service) {
            Some(own) => own.last().and_then(|id| self.find(*id)).cloned(),
            None => self.roots.as_ref().map(|roots| roots.newest().of_service(service).key()),
        }
    }
}

impl Keys {
    pub(crate) fn new(ring: Ring, files: Option<(Arc<dyn Disk>, Layout)>) -> Self {
        Self { ring: RwLock::new(ring), files }
    }

    /// The key with this id.
    pub(crate) fn find(&self, id: KeyId) -> Result<ServiceKey, Fault> {
        if let Some(key) = self.with(|ring| ring.find(id).cloned()) {
            return Ok(key);
        }
        if let Some((disk, layout)) = &self.files {
            // Whoever else has the store open may have changed a key.
            for (service, secrets) in key_files::read_all(disk.as_ref(), layout)? {
                self.change(|ring| ring.set_read(&service, secrets));
            }
        }
        self.with(|ring| ring.find(id).cloned().ok_or_else(|| ring.absence(id)))
    }

    /// The key of a service's new bases, if it is here.
    pub(crate) fn of_service(&self, service: &ServiceName) -> Option<ServiceKey> {
        self.learn(service);
        self.with(|ring| ring.of_service(service))
    }

    /// A service is met: from now on its keys are found by their ids.
    pub(crate) fn learn(&self, service: &ServiceName) {
        if self.with(|ring| ring.roots.is_some() && !ring.derived.contains_key(service)) {
            self.change(|ring| ring.learn(service));
        }
    }

    pub(crate) fn with<T>(&self, look: impl FnOnce(&Ring) -> T) -> T {
        look(&self.ring.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut Ring) -> T) -> T {
        change(&mut self.ring.write().unwrap_or_else(PoisonError::into_inner))
    }
}
