//! A snapshot of which a part is here: what can be restored from it, and what never gets in.

use sustain_proto::{ChunkId, PackRef, SnapshotId};
use sustain_store::{
    ChunkRead, ErrorKind, ForeignDirectory, ForeignError, ImportError, NoProgress, Partial, ReadError,
    SnapshotReader, Store,
};

use crate::common::*;
use crate::replication::{copy_pack, open};

const CHUNK: usize = sustain_proto::limits::CHUNK_BYTES;
const DISK_BYTES: usize = 40 << 20;

/// Chunks of the disk that the delta has, and of which the base has most.
const CHANGED: [u64; 3] = [3, 300, 600];

/// A store with a base and a delta of a service with memory and a disk, whose disk fills packs of its own.
fn full(folder: &tempfile::TempDir) -> (Store, SnapshotId, Regions) {
    let store = open(folder);
    let mut content = regions(&[("ram", memory_like(1, 3 << 20)), ("disk0", noise(2, DISK_BYTES))]);
    push(&store, "mail", &content);
    content.get_mut("ram").unwrap()[70_000..90_000].fill(5);
    content.get_mut("disk0").unwrap()[..CHUNK].fill(0);
    for position in CHANGED {
        content.get_mut("disk0").unwrap()[position as usize * CHUNK..][..100].fill(7);
    }
    let id = push(&store, "mail", &content).snapshot;
    (store, id, content)
}

fn bytes_of(store: &Store, pack: PackRef, offset: u64, count: u64) -> Vec<u8> {
    let mut bytes = vec![0; count as usize];
    store.read_pack(pack.id).unwrap().read_at(offset, &mut bytes).unwrap();
    bytes
}

fn directory(store: &Store, pack: PackRef) -> ForeignDirectory {
    let short = bytes_of(store, pack, pack.bytes - 36, 36);
    let Err(ForeignError::Short { bytes }) = store.open_directory(pack, &short) else { panic!("enough") };
    store.open_directory(pack, &bytes_of(store, pack, pack.bytes - bytes, bytes)).unwrap()
}

pub(crate) fn directories(store: &Store, id: SnapshotId) -> Vec<ForeignDirectory> {
    store.packs_needed(id).unwrap().into_iter().map(|pack| directory(store, pack)).collect()
}

/// Receives what is said to be lacking, until the snapshot opens.
fn open_partial(from: &Store, to: &Store, id: SnapshotId) -> SnapshotReader {
    let (manifests, directories) = (from.manifests_for(id).unwrap(), directories(from, id));
    loop {
        match to.open_partial(&manifests, &directories, &[region("disk0")]).unwrap() {
            Partial::Open(reader) => return *reader,
            Partial::Lacking(packs) => packs.iter().for_each(|pack| copy_pack(from, to, pack.id)),
        }
    }
}

/// What is asked of others for a chunk that is not here.
fn elsewhere(reader: &SnapshotReader, position: u64) -> (PackRef, ChunkId) {
    let mut buffer = vec![0; CHUNK];
    match reader.read_chunk(&region("disk0"), position, &mut buffer) {
        Err(ReadError::Elsewhere { pack, chunk }) => (pack, chunk),
        other => panic!("{other:?}"),
    }
}

/// Positions of the disk that are not here.
fn positions_elsewhere(reader: &SnapshotReader) -> Vec<u64> {
    let mut buffer = vec![0; CHUNK];
    let name = region("disk0");
    let absent = |position: &u64| {
        matches!(reader.read_chunk(&name, *position, &mut buffer), Err(ReadError::Elsewhere { .. }))
    };
    reader.data_positions(&name).filter(absent).collect()
}

#[test]
fn memory_is_restored_before_the_disk_is_here_and_the_disk_comes_by_chunks_or_packs() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (from, id, content) = full(&a);
    let to = open(&b);
    let reader = open_partial(&from, &to, id);
    let left = reader.packs_elsewhere();
    let all = from.packs_needed(id).unwrap();
    assert!(!left.is_empty() && left.len() < all.len(), "{} of {}", left.len(), all.len());

    struct OnlyMemory(Memory);
    impl sustain_store::RestoreTarget for OnlyMemory {
        fn open(&self, region: &sustain_proto::Region) -> std::io::Result<Option<std::fs::File>> {
            if region.name.as_str() == "disk0" { Ok(None) } else { self.0.open(region) }
        }
    }
    let target = OnlyMemory(Memory::default());
    reader.restore(&target, &NoProgress).unwrap();
    assert_eq!(target.0.read(), regions(&[("ram", content["ram"].clone())]));
    assert_eq!(reader.restore(&Memory::default(), &NoProgress).unwrap_err().kind(), ErrorKind::NotFound);
    assert!(
        matches!(to.manifest(id), Err(ReadError::NotFound { .. })),
        "it is not whole, so it is not listed"
    );

    let absent = positions_elsewhere(&reader);
    let (pack, chunk) = elsewhere(&reader, absent[1]);
    let run = directory(&from, pack).run(&chunk, 4 * CHUNK as u64).unwrap();
    let stored = bytes_of(&from, pack, run.offset(), run.bytes());
    let chunks = to.open_records(&run, &stored).unwrap();
    assert_eq!((chunks[0].0, chunks.len() > 1), (chunk, true));
    let start = absent[1] as usize * CHUNK;
    assert!(chunks[0].1 == content["disk0"][start..start + CHUNK]);

    left.iter().for_each(|pack| copy_pack(&from, &to, pack.id));
    assert_eq!((reader.packs_elsewhere(), positions_elsewhere(&reader)), (vec![], vec![]));
    let mut buffer = vec![0; CHUNK];
    assert_eq!(reader.read_chunk(&region("disk0"), absent[1], &mut buffer).unwrap(), ChunkRead::Data);
    assert!(buffer == content["disk0"][start..start + CHUNK]);
    to.import(&from.manifests_for(id).unwrap()).unwrap();
    assert_eq!(restore(&to, id), content);
}

/// A delta's chunks come with the memory's; what they refer to is with the disk's, elsewhere.
#[test]
fn a_changed_chunk_is_put_together_from_what_others_have_of_the_base() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (from, id, content) = full(&a);
    let to = open(&b);
    let reader = open_partial(&from, &to, id);
    let mut buffer = vec![0; CHUNK];
    for position in CHANGED {
        assert!(reader.chunk_of(&region("disk0"), position).is_none(), "it can't be had by itself");
        let mut asked = Vec::new();
        while let Err(error) = reader.read_chunk(&region("disk0"), position, &mut buffer) {
            let ReadError::Elsewhere { pack, chunk } = error else { panic!("{error:?}") };
            assert!(!asked.contains(&chunk), "it was supplied");
            asked.push(chunk);
            let run = directory(&from, pack).run(&chunk, 1).unwrap();
            let stored = bytes_of(&from, pack, run.offset(), run.bytes());
            let chunks = to.open_records(&run, &stored).unwrap();
            reader.supply(chunks[0].0, &chunks[0].1);
        }
        assert!(asked.len() <= CHANGED.len(), "{asked:?}");
        assert!(buffer == content["disk0"][position as usize * CHUNK..][..CHUNK]);
        assert!(reader.packs_of(&region("disk0"), position).len() >= 2);
    }
}

#[test]
fn wrong_bytes_and_wrong_directories_never_get_in() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (from, id, _) = full(&a);
    let to = open(&b);
    let reader = open_partial(&from, &to, id);
    let (pack, chunk) = elsewhere(&reader, positions_elsewhere(&reader)[0]);
    let good = directory(&from, pack);
    let run = good.run(&chunk, 1).unwrap();
    let stored = bytes_of(&from, pack, run.offset(), run.bytes());
    assert!(matches!(to.open_records(&run, &stored[..100]), Err(ForeignError::Wrong { .. })));
    let whole = to.open_records(&run, &stored).unwrap();
    let mut refusals = 0;
    for at in (0..stored.len()).step_by(CHUNK / 2) {
        let mut wrong = stored.clone();
        wrong[at] ^= 1;
        match to.open_records(&run, &wrong) {
            // The chunk itself is sound, and the one that is not ends what came along.
            Ok(chunks) => assert!(chunks.len() < whole.len() && whole.starts_with(&chunks), "at {at}"),
            Err(ForeignError::Wrong { .. }) => refusals += 1,
            Err(error) => panic!("{error:?}"),
        }
    }
    assert!(refusals > 0);
    // The bytes of another chunk's block, as a directory would have it that exchanges two.
    let other = good.run(&elsewhere(&reader, positions_elsewhere(&reader)[9]).1, 1).unwrap();
    assert_ne!(other.offset(), run.offset());
    let stored = bytes_of(&from, pack, other.offset(), run.bytes());
    assert!(matches!(to.open_records(&run, &stored), Err(ForeignError::Wrong { .. })));

    // A directory of another pack, though with a proper end, does not fit this one's size.
    let tail = bytes_of(&from, pack, pack.bytes - 30_000, 30_000);
    let lie = PackRef { id: pack.id, bytes: pack.bytes - 1 };
    assert!(matches!(to.open_directory(lie, &tail), Err(ForeignError::Wrong { .. })));
    for position in (0..tail.len()).step_by(997) {
        let mut tail = tail.clone();
        tail[position] ^= 1;
        // Either it is refused, or the bit was before the directory.
        if let Ok(directory) = to.open_directory(pack, &tail) {
            assert_eq!(directory.run(&chunk, 1).unwrap().offset(), run.offset());
        }
    }
}

#[test]
fn a_snapshot_is_not_opened_by_directories_that_leave_something_out() {
    let (a, b, c) =
        (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (from, id, _) = full(&a);
    let to = open(&b);
    let left = open_partial(&from, &to, id).packs_elsewhere();
    let manifests = from.manifests_for(id).unwrap();
    let good = directories(&from, id);
    let lazy = [region("disk0")];
    let without: Vec<_> = good.iter().filter(|given| given.pack() != left[0]).cloned().collect();
    assert!(matches!(
        to.open_partial(&manifests, &without, &lazy),
        Err(ImportError::PackMissing { id }) if id == left[0].id
    ));
    // A true pack of as many bytes that holds something else: its directory is proper and false.
    let other = open(&c);
    push(&other, "mail", &regions(&[("ram", memory_like(1, 3 << 20)), ("disk0", noise(9, DISK_BYTES))]));
    let packs = other.packs_needed(other.snapshots(None).unwrap()[0].id).unwrap();
    let twin = packs.into_iter().find(|pack| pack.bytes == left[0].bytes).expect("packs of noise are alike");
    let tail = bytes_of(&other, twin, twin.bytes - 30_000, 30_000);
    let mut false_ones = without;
    false_ones.push(to.open_directory(left[0], &tail).unwrap());
    let refused = to.open_partial(&manifests, &false_ones, &lazy).unwrap_err();
    assert!(matches!(refused, ImportError::Contradiction { .. }), "{refused:?}");
    assert!(matches!(to.open_partial(&manifests, &good, &lazy), Ok(Partial::Open(_))));
}
