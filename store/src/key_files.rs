//! The secrets of a store that is used by itself: a file `keys/SERVICE` for each service, made on its first push.

use std::io;
use std::sync::Arc;

use sustain_proto::ServiceName;

use crate::Fault;
use crate::disk::Disk;
use crate::error::DiskContext;
use crate::key::{read_text, write_text};
use crate::layout::Layout;
use crate::parallel::all_at_once;
use crate::secret::{Secret, Secrets};
use crate::state::Snapshot;
use crate::store::Shared;

/// All files. One that is damaged is an error: a new one in its place would leave what is sealed unreadable.
pub(crate) fn read_all(disk: &dyn Disk, layout: &Layout) -> Result<Vec<(ServiceName, Secrets)>, Fault> {
    let folder = layout.keys();
    let entries = match disk.list(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).during("list", &folder),
    };
    let mut files = Vec::new();
    for entry in entries.into_iter().filter(|entry| !entry.folder) {
        // What people put there besides is not ours.
        let Ok(service) = ServiceName::new(entry.name) else { continue };
        if let Some(secrets) = read(disk, layout, &service)? {
            files.push((service, secrets));
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
    /// which is lost. Under the commit lock: two processes must not both make one.
    pub(crate) fn begin_own_key(&self, service: &ServiceName) -> Result<(), Fault> {
        let _commit = self.begin_commit()?;
        let secrets = match read(self.disk.as_ref(), &self.layout, service)? {
            Some(secrets) => secrets,
            None => {
                self.refuse_lost_key(service)?;
                let secrets = Secrets::one(Secret::generate()?);
                write(&self.disk, &self.layout, service, &secrets)?;
                secrets
            }
        };
        self.keys.change(|ring| ring.set(service, Some(&secrets)));
        Ok(())
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
