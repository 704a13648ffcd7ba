//! Stand-in until the depot is here.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use sustain_proto::{Cut, GroupList, GroupValue, Manifest, PackRef, ServiceName, Term};
use sustain_store::{GroupReceiver, ImportError, ReadError, Received, Store};

use crate::keeper::{Catalog, Claim, Entry, Kept, Pack, Part, Ranges};
use crate::transport::links::lock;

#[derive(Debug, thiserror::Error)]
pub(crate) enum DepotError {
    #[error("unknown {part:?}")]
    Unknown { part: Part },
    #[error("wrong list")]
    List,
    #[error(transparent)]
    Import(#[from] ImportError),
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

impl DepotError {
    pub(crate) fn is_wrong_list(&self) -> bool {
        matches!(self, Self::List)
    }
}

#[derive(Debug, Default, Clone)]
pub(crate) struct PartList {
    pub(crate) groups: Vec<GroupValue>,
    pub(crate) sheet: Option<Vec<u8>>,
}

pub(crate) struct PartReceiver(Arc<GroupReceiver>);

impl PartReceiver {
    pub(crate) fn write(&self, group: usize, bytes: &[u8]) -> Result<Received, DepotError> {
        Ok(self.0.write(group, bytes)?)
    }

    pub(crate) fn here(&self) -> Ranges {
        Ranges::default()
    }
}

pub(crate) struct Depot {
    store: Store,
    folder: PathBuf,
    receivers: Mutex<BTreeMap<Part, Arc<GroupReceiver>>>,
    catalogs: Mutex<BTreeMap<(ServiceName, Term), Catalog>>,
    kept: Mutex<BTreeSet<Part>>,
}

impl Depot {
    pub(crate) fn open(store: Store, folder: &Path) -> Result<(Self, Kept), DepotError> {
        std::fs::create_dir_all(folder)?;
        let mut kept = Kept::default();
        for info in store.snapshots(None)? {
            let (manifest, _) = store.manifest(info.id)?;
            for pack in manifest.packs {
                let which = crate::keeper::Which::Whole;
                kept.parts.push((Part { pack: pack.id, which }, pack.bytes));
            }
        }
        let depot = Self {
            store,
            folder: folder.to_owned(),
            receivers: Mutex::default(),
            catalogs: Mutex::default(),
            kept: Mutex::default(),
        };
        Ok((depot, kept))
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), DepotError> {
        let temporary = self.folder.join(format!("{name}.new"));
        std::fs::write(&temporary, bytes)?;
        std::fs::File::open(&temporary)?.sync_all()?;
        std::fs::rename(&temporary, self.folder.join(name))?;
        std::fs::File::open(&self.folder)?.sync_all()?;
        Ok(())
    }

    pub(crate) fn keep(&self, claim: &Claim) -> Result<(), DepotError> {
        self.write("claim", format!("{claim:?}").as_bytes())
    }

    pub(crate) fn remember(&self, catalog: &Catalog) -> Result<(), DepotError> {
        lock(&self.catalogs).insert(catalog.line(), catalog.clone());
        let name = format!("{}.{}", catalog.service, catalog.version.term);
        self.write(&name, &postcard::to_allocvec(catalog).unwrap_or_default())
    }

    pub(crate) fn forget(&self, service: &ServiceName, term: Term) -> Result<(), DepotError> {
        lock(&self.catalogs).remove(&(service.clone(), term));
        Ok(())
    }

    pub(crate) fn entries(
        &self,
        service: &ServiceName,
        _cut: Option<Cut>,
        _known: Option<&Catalog>,
    ) -> Result<Vec<Entry>, DepotError> {
        let mut entries = Vec::new();
        for info in self.store.snapshots(Some(service))? {
            let Ok((manifest, bytes)) = self.store.manifest(info.id) else { continue };
            let pack =
                |pack: &PackRef| Pack { id: pack.id, bytes: pack.bytes, cut: None, sheet: None, added: 0 };
            entries.push(Entry {
                id: info.id,
                term: manifest.term,
                origin: manifest.origin,
                seq: manifest.seq,
                added: 0,
                base: manifest.base(),
                manifest: bytes.into(),
                packs: manifest.packs.iter().map(pack).collect(),
            });
        }
        Ok(entries)
    }

    pub(crate) fn list(&self, part: &Part, _pack: &Pack) -> Option<PartList> {
        if let Some(receiver) = lock(&self.receivers).get(part) {
            return Some(PartList { groups: receiver.list().values().to_vec(), sheet: None });
        }
        let groups = self.store.pack_groups(part.pack).ok()?;
        Some(PartList { groups, sheet: None })
    }

    pub(crate) fn receive(
        &self,
        pack: &Pack,
        part: &Part,
        list: PartList,
    ) -> Result<Arc<PartReceiver>, DepotError> {
        let list = GroupList::check(*part.pack.as_bytes(), pack.bytes, list.groups);
        let list = list.map_err(|_| DepotError::List)?;
        let receiver = self.store.receive_groups(PackRef { id: pack.id, bytes: pack.bytes }, list)?;
        lock(&self.receivers).insert(*part, receiver.clone());
        Ok(Arc::new(PartReceiver(receiver)))
    }

    pub(crate) fn read(
        &self,
        part: &Part,
        _pack: &Pack,
        range: (u64, u64),
        sink: &mut dyn FnMut(&[u8]) -> bool,
    ) -> Result<(), DepotError> {
        let reader = self.store.read_pack(part.pack)?;
        let mut at = range.0;
        while at < range.1 {
            let mut buffer = vec![0; (range.1 - at).min(256 << 10) as usize];
            reader.read_at(at, &mut buffer)?;
            at += buffer.len() as u64;
            if !sink(&buffer) {
                break;
            }
        }
        Ok(())
    }

    pub(crate) fn sync(&self, parts: &[Part]) -> Vec<(Part, Result<(), DepotError>)> {
        let receivers: Vec<_> = parts.iter().filter_map(|part| lock(&self.receivers).remove(part)).collect();
        if let Err(error) = self.store.keep_received(&receivers) {
            tracing::warn!(%error, "kept");
        }
        lock(&self.kept).extend(parts);
        let mut done = Vec::new();
        let catalogs: Vec<Catalog> = lock(&self.catalogs).values().cloned().collect();
        for catalog in catalogs {
            for entry in &catalog.entries {
                let base = catalog.entries.iter().find(|base| Some(base.id) == entry.base);
                let all = base.into_iter().chain([entry]);
                let manifests: Vec<Vec<u8>> = all.map(|entry| entry.manifest.to_vec()).collect();
                if manifests.iter().any(|bytes| Manifest::decode(bytes).is_err())
                    || !catalog.needed_by(entry).keys().all(|pack| self.store.has_pack(pack))
                    || self.store.manifest(entry.id).is_ok()
                {
                    continue;
                }
                if self.store.import(&manifests).is_ok() {
                    for pack in catalog.needed_by(entry).keys() {
                        let part = Part { pack: *pack, which: crate::keeper::Which::Whole };
                        if lock(&self.kept).remove(&part) {
                            done.push((part, Ok(())));
                        }
                    }
                }
            }
        }
        done
    }

    pub(crate) fn make(&self, part: Part, _from: &[Part]) -> Result<(), DepotError> {
        Err(DepotError::Unknown { part })
    }

    pub(crate) fn drop_part(&self, part: &Part) {
        lock(&self.receivers).remove(part);
    }
}
