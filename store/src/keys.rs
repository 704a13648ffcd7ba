//! The keys that a store has: those that open what is here, and the one that a new base is sealed under.

use std::collections::BTreeMap;
use std::sync::{PoisonError, RwLock};

use sustain_proto::{KeyId, ServiceName};

use crate::Fault;
use crate::service_key::ServiceKey;

/// Keys by what they are for, and by id. Its lock is one of the small ones: nothing is taken while it is held.
#[derive(Debug, Default)]
pub(crate) struct Keys {
    ring: RwLock<Ring>,
}

/// What a store was given, or has in its folder.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ring {
    /// Of services that have no entry of their own.
    pub(crate) default: Option<ServiceKey>,
    /// None: the service's key is not here.
    pub(crate) services: BTreeMap<ServiceName, Option<ServiceKey>>,
    /// Keys that only open.
    pub(crate) older: Vec<ServiceKey>,
}

impl Ring {
    fn all(&self) -> impl Iterator<Item = &ServiceKey> {
        self.default.iter().chain(self.services.values().flatten()).chain(&self.older)
    }

    /// The key of a service's new bases.
    fn of_service(&self, service: &ServiceName) -> Option<&ServiceKey> {
        match self.services.get(service) {
            Some(own) => own.as_ref(),
            None => self.default.as_ref(),
        }
    }
}

impl Keys {
    pub(crate) fn new(ring: Ring) -> Self {
        Self { ring: RwLock::new(ring) }
    }

    /// The key with this id.
    pub(crate) fn find(&self, id: KeyId) -> Result<ServiceKey, Fault> {
        self.with(|ring| ring.all().find(|key| key.id() == id).cloned()).ok_or(Fault::KeyMissing { key: id })
    }

    /// The key of a service's new bases, if it is here.
    pub(crate) fn of_service(&self, service: &ServiceName) -> Option<ServiceKey> {
        self.with(|ring| ring.of_service(service).cloned())
    }

    pub(crate) fn with<T>(&self, look: impl FnOnce(&Ring) -> T) -> T {
        look(&self.ring.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn change(&self, change: impl FnOnce(&mut Ring)) {
        change(&mut self.ring.write().unwrap_or_else(PoisonError::into_inner));
    }
}
