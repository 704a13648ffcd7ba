//! Logic: what the catalogs that are kept say, as the depot needs it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use sustain_proto::{NodeId, PackId, ServiceName, SnapshotId};

use super::records::Line;
use crate::keeper::{Catalog, Entry, Pack};

/// The catalogs, one of each line.
#[derive(Debug, Clone)]
pub(super) struct Known {
    me: NodeId,
    catalogs: BTreeMap<Line, Arc<Catalog>>,
    /// Where each pack is listed: numbers of entries, and of packs there.
    index: BTreeMap<PackId, Vec<(Line, usize, usize)>>,
    /// Lines whose catalogs were damaged and have not come again: what they list is not known.
    damaged: BTreeSet<Line>,
}

/// An entry with all that its import takes.
#[derive(Debug, Clone)]
pub(super) struct Wanted<'a> {
    pub(super) entry: &'a Entry,
    pub(super) base: Option<&'a Entry>,
}

impl Wanted<'_> {
    /// Its packs and its base's.
    pub(super) fn packs(&self) -> impl Iterator<Item = &Pack> {
        self.base.into_iter().flat_map(|base| &base.packs).chain(&self.entry.packs)
    }

    /// Its manifest, after its base's.
    pub(super) fn manifests(&self) -> impl Iterator<Item = (SnapshotId, &Arc<[u8]>)> {
        self.base.into_iter().chain([self.entry]).map(|entry| (entry.id, &entry.manifest))
    }
}

impl Known {
    pub(super) fn new(me: NodeId, catalogs: &[Arc<Catalog>], damaged: Vec<Line>) -> Self {
        let catalogs = catalogs.iter().map(|catalog| (catalog.line(), catalog.clone())).collect();
        let damaged = damaged.into_iter().collect();
        let mut known = Self { me, catalogs, index: BTreeMap::new(), damaged };
        known.list_packs();
        known
    }

    /// The same with a catalog, instead of an older one of its line.
    pub(super) fn with(&self, catalog: &Arc<Catalog>) -> Self {
        let (line, mut known) = (catalog.line(), Self { index: BTreeMap::new(), ..self.clone() });
        known.damaged.remove(&line);
        known.catalogs.insert(line, catalog.clone());
        known.list_packs();
        known
    }

    /// The same without a line.
    pub(super) fn without(&self, line: &Line) -> Self {
        let mut known = Self { index: BTreeMap::new(), ..self.clone() };
        known.damaged.remove(line);
        known.catalogs.remove(line);
        known.list_packs();
        known
    }

    fn list_packs(&mut self) {
        for (line, catalog) in &self.catalogs {
            for (number, entry) in catalog.entries.iter().enumerate() {
                for (at, pack) in entry.packs.iter().enumerate() {
                    self.index.entry(pack.id).or_default().push((line.clone(), number, at));
                }
            }
        }
    }

    pub(super) fn catalogs(&self) -> impl Iterator<Item = &Arc<Catalog>> {
        self.catalogs.values()
    }

    pub(super) fn catalog(&self, line: &Line) -> Option<&Arc<Catalog>> {
        self.catalogs.get(line)
    }

    /// The lines of a service.
    pub(super) fn of_service<'a>(
        &'a self,
        service: &'a ServiceName,
    ) -> impl Iterator<Item = &'a Arc<Catalog>> {
        self.catalogs.values().filter(move |catalog| catalog.service == *service)
    }

    /// Whether a catalog lists a snapshot.
    pub(super) fn lists(&self, id: &SnapshotId) -> bool {
        self.catalogs.values().any(|catalog| catalog.entries.iter().any(|entry| entry.id == *id))
    }

    /// A pack as some catalog lists it, and the service.
    pub(super) fn pack(&self, id: &PackId) -> Option<(&ServiceName, Pack)> {
        self.listing(id).next().map(|(catalog, _, pack)| (&catalog.service, *pack))
    }

    /// The entries that list a pack, each with its catalog.
    pub(super) fn listing(&self, id: &PackId) -> impl Iterator<Item = (&Catalog, &Entry, &Pack)> {
        self.index.get(id).into_iter().flatten().filter_map(|(line, number, at)| {
            let catalog = self.catalogs.get(line)?;
            let entry = catalog.entries.get(*number)?;
            Some((&**catalog, entry, entry.packs.get(*at)?))
        })
    }

    /// Whether this node is to have an entry in its store: its packs are to be here whole, for good.
    pub(super) fn is_whole(&self, catalog: &Catalog, entry: &Entry) -> bool {
        catalog.is_whole_holder(&self.me) || entry.packs.iter().all(|pack| pack.cut.is_none())
    }

    fn is_served_here(&self, catalog: &Catalog) -> bool {
        self.me == catalog.server
    }

    /// The entries that are to be imported here when their packs have come, but for those that this node serves itself:
    /// of these its store is the truth.
    pub(super) fn to_import(&self) -> impl Iterator<Item = Wanted<'_>> {
        let catalogs = self.catalogs.values().filter(|catalog| !self.is_served_here(catalog));
        catalogs.flat_map(move |catalog| {
            let by_id: BTreeMap<SnapshotId, &Entry> =
                catalog.entries.iter().map(|entry| (entry.id, entry)).collect();
            let entries = catalog.entries.iter();
            entries.filter_map(move |entry| {
                let base = match entry.base {
                    // Without it nothing can be done.
                    Some(base) => Some(*by_id.get(&base)?),
                    None => None,
                };
                let is_whole =
                    self.is_whole(catalog, entry) && base.is_none_or(|base| self.is_whole(catalog, base));
                is_whole.then_some(Wanted { entry, base })
            })
        })
    }

    /// Of a service, snapshots that are to stay in the store, and packs that are to stay without one. Of what this node
    /// serves, the store decides by itself.
    pub(super) fn expected(&self, service: &ServiceName) -> (BTreeSet<SnapshotId>, BTreeSet<PackId>) {
        let (mut snapshots, mut packs) = (BTreeSet::new(), BTreeSet::new());
        for catalog in self.of_service(service).filter(|catalog| !self.is_served_here(catalog)) {
            for entry in &catalog.entries {
                let is_whole = self.is_whole(catalog, entry);
                if is_whole {
                    snapshots.insert(entry.id);
                }
                if is_whole || catalog.encoders.contains(&self.me) {
                    packs.extend(entry.packs.iter().map(|pack| pack.id));
                }
            }
        }
        (snapshots, packs)
    }

    /// Manifests of a service that are to be kept for its fragments; none if nothing of it is cut.
    pub(super) fn manifests(&self, service: &ServiceName) -> BTreeMap<SnapshotId, Arc<[u8]>> {
        let entries = || self.of_service(service).flat_map(|catalog| &catalog.entries);
        if entries().flat_map(|entry| &entry.packs).all(|pack| pack.cut.is_none()) {
            return BTreeMap::new();
        }
        entries().map(|entry| (entry.id, entry.manifest.clone())).collect()
    }

    /// Whether all that is to be kept of a service is known.
    pub(super) fn is_certain(&self, service: &ServiceName) -> bool {
        !self.damaged.iter().any(|of| of.service == *service)
    }
}
