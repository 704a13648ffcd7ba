//! The secrets of a store that is used by itself: a file `keys/SERVICE` for each service, made on its first push.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;

use sustain_proto::{KeyId, ServiceName};

use crate::Fault;
use crate::disk::Disk;
use crate::error::DiskContext;
use crate::key::{read_text, write_text};
use crate::layout::Layout;
use crate::parallel::all_at_once;
use crate::secret::{Secret, Secrets};
use crate::state::Snapshot;
use crate::store::Shared;

/// A service and its secrets, or what is wrong with its file.
type KeyFile = (ServiceName, Result<Secrets, Fault>);

/// All files. One that is damaged concerns its own service only.
pub(crate) fn read_all(disk: &dyn Disk, layout: &Layout) -> Result<Vec<KeyFile>, Fault> {
    let folder = layout.keys();
    let entries = match disk.list(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Fault::listing(&folder, error)),
    };
    let mut files = Vec::new();
    for entry in entries.into_iter().filter(|entry| !entry.folder) {
        // What people put there besides is not ours.
        let Ok(service) = ServiceName::new(entry.name) else { continue };
        match read(disk, layout, &service) {
            Ok(Some(secrets)) => files.push((service, Ok(secrets))),
            Ok(None) => {}
            Err(fault) if fault.is_unreadable() => files.push((service, Err(fault))),
            Err(fault) => return Err(fault),
        }
    }
    Ok(files)
}

/// A service's file, if there is one.
pub(crate) fn read(
    disk: &dyn Disk,
    layout: &Layout,
    service: &ServiceName,
) -> Result<Option<Secrets>, Fault> {
    let path = layout.service_key(service);
    let Some(text) = read_text(disk, &path)? else { return Ok(None) };
    Secrets::parse(&text).map(Some).map_err(|reason| Fault::damaged(&path, reason))
}

/// Writes a service's file: afterwards the old one or the new one is there, whatever happens.
pub(crate) fn write(
    disk: &Arc<dyn Disk>,
    layout: &Layout,
    service: &ServiceName,
    secrets: &Secrets,
) -> Result<(), Fault> {
    let folder = layout.keys();
    disk.create_folder(&folder).during("create", &folder)?;
    write_text(disk, layout, &layout.service_key(service), &secrets.format())?;
    let folders = [folder.as_path(), layout.root()];
    all_at_once(&folders, |folder| disk.sync_folder(folder).during("sync", folder))
}

impl Shared {
    /// Reads a service's secrets as they are now, or makes the first one, unless there is something that needs one
    /// which is lost. That is under the commit lock: two processes must not both make one.
    pub(crate) fn begin_own_key(&self, service: &ServiceName) -> Result<(), Fault> {
        let secrets = match read(self.disk.as_ref(), &self.layout, service)? {
            Some(secrets) if self.refuse_other_key(service, &secrets).is_ok() => secrets,
            _ => self.find_own_key(service)?,
        };
        self.keys.change(|ring| ring.set(service, Some(&secrets)));
        Ok(())
    }

    fn find_own_key(&self, service: &ServiceName) -> Result<Secrets, Fault> {
        let _commit = self.begin_commit()?;
        if let Some(secrets) = read(self.disk.as_ref(), &self.layout, service)? {
            self.refuse_other_key(service, &secrets)?;
            return Ok(secrets);
        }
        self.refuse_lost_key(service)?;
        let secrets = Secrets::one(Secret::generate()?);
        write(&self.disk, &self.layout, service, &secrets)?;
        Ok(secrets)
    }

    /// A file without the secret of what is here of the service is another one's, or an old copy: what is sealed under
    /// its key would be lost with the right file's return.
    pub(crate) fn refuse_other_key(&self, service: &ServiceName, secrets: &Secrets) -> Result<(), Fault> {
        let ids: BTreeSet<KeyId> = secrets.iter().map(Secret::id).collect();
        let state = self.seen();
        let mut used = state.snapshots.values().filter(|s| s.manifest.service == *service);
        match used.find(|snapshot| !ids.contains(&snapshot.manifest.key)) {
            None => Ok(()),
            Some(snapshot) => {
                let key = snapshot.manifest.key;
                let reason = format!("key {key}, which snapshots are sealed under, is not in it");
                Err(Fault::damaged(&self.layout.service_key(service), reason))
            }
        }
    }

    /// Refuses new bases whose key was changed, and forgotten, while they were made: nobody could ever read them. The
    /// caller holds the commit lock.
    pub(crate) fn require_keys(&self, snapshots: &[Arc<Snapshot>]) -> Result<(), Fault> {
        if !self.makes_keys() {
            return Ok(());
        }
        for manifest in snapshots.iter().map(|snapshot| &snapshot.manifest).filter(|m| m.base().is_none()) {
            let secrets = read(self.disk.as_ref(), &self.layout, &manifest.service)?;
            if !secrets.is_some_and(|secrets| secrets.iter().any(|secret| secret.key().id() == manifest.key))
            {
                return Err(Fault::KeyMissing { key: manifest.key });
            }
        }
        Ok(())
    }

    /// What is here of a service was sealed under a secret that is gone: a new one would hide that.
    fn refuse_lost_key(&self, service: &ServiceName) -> Result<(), Fault> {
        let state = self.seen();
        if let Some(snapshot) = state.snapshots.values().find(|s| s.manifest.service == *service) {
            return Err(Fault::KeyMissing { key: snapshot.manifest.key });
        }
        // Packs without any manifest may be of any service.
        if state.snapshots.is_empty() && !state.packs.is_empty() {
            return Err(Fault::ServiceKeyMissing { service: service.clone() });
        }
        Ok(())
    }
}
