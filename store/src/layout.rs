//! Where in the store's folder each file is.

use std::path::{Path, PathBuf};

use sustain_proto::{FragmentId, PackId, PinName, ServiceName, SnapshotId};

const PACK_SUFFIX: &str = ".pack";
const REASON_SUFFIX: &str = ".reason";
const MANIFEST_SUFFIX: &str = ".manifest";
const SEGMENT_SUFFIX: &str = ".segment";
const FRAGMENT_SUFFIX: &str = ".fragment";

/// The paths of one store, as one of the processes that have it open sees them.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    root: PathBuf,
    process: String,
}

impl Layout {
    /// For the process of this name, which no other one has or had.
    pub(crate) fn new(root: &Path, process: String) -> Self {
        Self { root: root.to_owned(), process }
    }

    /// The name of this process.
    pub(crate) fn process(&self) -> &str {
        &self.process
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn key(&self) -> PathBuf {
        self.root.join("key")
    }

    /// The secrets of a store that is used by itself, a file for each service.
    pub(crate) fn keys(&self) -> PathBuf {
        self.root.join("keys")
    }

    pub(crate) fn service_key(&self, service: &ServiceName) -> PathBuf {
        self.keys().join(service.as_str())
    }

    pub(crate) fn database(&self) -> PathBuf {
        self.root.join("journal")
    }

    pub(crate) fn packs(&self) -> PathBuf {
        self.root.join("packs")
    }

    pub(crate) fn manifests(&self) -> PathBuf {
        self.root.join("manifests")
    }

    /// What is left of packs that are damaged.
    pub(crate) fn aside(&self) -> PathBuf {
        self.root.join("aside")
    }

    pub(crate) fn aside_pack(&self, id: &PackId) -> PathBuf {
        self.aside().join(format!("{id}{PACK_SUFFIX}"))
    }

    /// What came so far of packs that are received group by group.
    pub(crate) fn incoming(&self) -> PathBuf {
        self.root.join("incoming")
    }

    pub(crate) fn incoming_pack(&self, id: &PackId) -> PathBuf {
        self.incoming().join(format!("{id}{PACK_SUFFIX}"))
    }

    /// Why a pack was set aside.
    pub(crate) fn aside_reason(&self, id: &PackId) -> PathBuf {
        self.aside().join(format!("{id}{REASON_SUFFIX}"))
    }

    /// Room for what makes space on a full disk.
    pub(crate) fn reserve(&self) -> PathBuf {
        self.root.join("reserve")
    }

    /// When each pack was checked last.
    pub(crate) fn checked(&self) -> PathBuf {
        self.root.join("checked")
    }

    /// Of all processes: a folder for each.
    pub(crate) fn all_temporaries(&self) -> PathBuf {
        self.root.join("tmp")
    }

    /// Of this process.
    pub(crate) fn temporaries(&self) -> PathBuf {
        self.all_temporaries().join(&self.process)
    }

    /// The processes that have the store open: a file for each, which it keeps locked.
    pub(crate) fn processes(&self) -> PathBuf {
        self.root.join("processes")
    }

    /// The file of a process.
    pub(crate) fn process_file(&self, process: &str) -> PathBuf {
        self.processes().join(process)
    }

    /// The pins that people set, a file each.
    pub(crate) fn pins(&self) -> PathBuf {
        self.root.join("pins")
    }

    pub(crate) fn pin(&self, name: &PinName) -> PathBuf {
        self.pins().join(name.as_str())
    }

    /// Fragments of packs, a folder for each service.
    pub(crate) fn fragments(&self) -> PathBuf {
        self.root.join("fragments")
    }

    pub(crate) fn fragments_of(&self, service: &ServiceName) -> PathBuf {
        self.fragments().join(service.as_str())
    }

    /// One of the files that fragments are appended to.
    pub(crate) fn segment(&self, service: &ServiceName, number: u32) -> PathBuf {
        self.fragments_of(service).join(format!("{number:08}{SEGMENT_SUFFIX}"))
    }

    /// Fragments that are on their way in, a file each.
    pub(crate) fn fragment_parts(&self, service: &ServiceName) -> PathBuf {
        self.fragments_of(service).join("incoming")
    }

    pub(crate) fn fragment_part(&self, service: &ServiceName, id: &FragmentId) -> PathBuf {
        self.fragment_parts(service).join(format!("{id}{FRAGMENT_SUFFIX}"))
    }

    /// Manifests whose packs need not be here.
    pub(crate) fn kept_manifests(&self, service: &ServiceName) -> PathBuf {
        self.fragments_of(service).join("manifests")
    }

    pub(crate) fn kept_manifest(&self, service: &ServiceName, id: &SnapshotId) -> PathBuf {
        self.kept_manifests(service).join(format!("{id}{MANIFEST_SUFFIX}"))
    }

    /// The number of the segment whose file has this name, if it is a segment's.
    pub(crate) fn parse_segment(name: &str) -> Option<u32> {
        name.strip_suffix(SEGMENT_SUFFIX)?.parse().ok()
    }

    /// The fragment of which a file with this name has a part, if it is such a file.
    pub(crate) fn parse_fragment_part(name: &str) -> Option<FragmentId> {
        name.strip_suffix(FRAGMENT_SUFFIX)?.parse().ok()
    }

    /// The folder of a pack: 256 of them, so that none grows too long to list.
    pub(crate) fn pack_folder(&self, id: &PackId) -> PathBuf {
        self.packs().join(&id.to_string()[..2])
    }

    pub(crate) fn pack(&self, id: &PackId) -> PathBuf {
        self.pack_folder(id).join(format!("{id}{PACK_SUFFIX}"))
    }

    pub(crate) fn manifest(&self, id: &SnapshotId) -> PathBuf {
        self.manifests().join(format!("{id}{MANIFEST_SUFFIX}"))
    }

    /// The pack whose file has this name, if it is a pack's.
    pub(crate) fn parse_pack(name: &str) -> Option<PackId> {
        name.strip_suffix(PACK_SUFFIX)?.parse().ok()
    }

    /// The pack whose file this is, if it is a pack's.
    pub(crate) fn pack_of(path: &Path) -> Option<PackId> {
        path.file_name()?.to_str().and_then(Self::parse_pack)
    }

    /// The pack of which a file with this name says why it was set aside.
    pub(crate) fn parse_reason(name: &str) -> Option<PackId> {
        name.strip_suffix(REASON_SUFFIX)?.parse().ok()
    }

    /// The snapshot whose manifest's file has this name, if it is a manifest's.
    pub(crate) fn parse_manifest(name: &str) -> Option<SnapshotId> {
        name.strip_suffix(MANIFEST_SUFFIX)?.parse().ok()
    }

    /// The snapshot whose manifest this file is, if it is a manifest's.
    pub(crate) fn manifest_of(path: &Path) -> Option<SnapshotId> {
        Self::parse_manifest(path.file_name()?.to_str()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        let layout = Layout::new(Path::new("/s"), "p".to_owned());
        let pack = PackId::from_bytes([0xab; 32]);
        let name = layout.pack(&pack);
        assert!(name.starts_with("/s/packs/ab"));
        let name = name.file_name().unwrap().to_str().unwrap();
        assert_eq!(Layout::parse_pack(name), Some(pack));
        assert_eq!(Layout::parse_manifest(name), None);
        assert_eq!(Layout::parse_pack("x.pack"), None);
        let mail = ServiceName::new("mail").unwrap();
        let segment = layout.segment(&mail, 7);
        assert_eq!(segment, Path::new("/s/fragments/mail/00000007.segment"));
        assert_eq!(Layout::parse_segment("00000007.segment"), Some(7));
        assert_eq!(Layout::parse_segment("x.segment"), None);
        assert_eq!(Layout::pack_of(&layout.aside_pack(&pack)), Some(pack));
        assert_eq!(Layout::pack_of(Path::new("/")), None);
    }
}
