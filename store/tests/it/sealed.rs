//! What is on disk says nothing to who lacks the key, who can keep, check and hand it on all the same.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use sustain_proto::{Manifest, PackId, PackRef, SnapshotId};
use sustain_store::{ErrorKind, Fault, ImportError, KeySource, NoProgress, Secret, Store, StoreOptions};

use crate::common::*;
use crate::replication::{copy_pack, replicate};

const CHUNK: usize = sustain_proto::limits::CHUNK_BYTES;
/// Bytes of a base's block.
const BLOCK: usize = sustain_store::limits::BASE_BLOCK_CHUNKS * CHUNK;
const TRAILER: usize = 36;

fn open_with(dir: &Path, key: KeySource) -> Store {
    Store::open(dir, StoreOptions { key, create: true, ..StoreOptions::default() }).unwrap()
}

fn open(dir: &tempfile::TempDir) -> Store {
    open_with(dir.path(), KeySource::Given([3; 32]))
}

fn keyless(dir: &tempfile::TempDir) -> Store {
    open_with(dir.path(), KeySource::None)
}

fn bytes_of(store: &Store, id: PackId) -> Vec<u8> {
    let reader = store.read_pack(id).unwrap();
    let mut bytes = vec![0; reader.len() as usize];
    reader.read_at(0, &mut bytes).unwrap();
    bytes
}

/// Two snapshots with text that compression leaves as it is here and there, noise, and pages that stay.
fn states() -> Vec<Regions> {
    let mut ram = noise(1, 20 * CHUNK);
    let mut text = b"the quick brown fox jumps over the lazy dog; ".repeat(3_000);
    text.truncate(2 * CHUNK);
    ram[CHUNK..3 * CHUNK].copy_from_slice(&text);
    let first = regions(&[("ram", ram.clone()), ("device", b"a secret of a few bytes".to_vec())]);
    ram[5 * CHUNK..5 * CHUNK + 4_096].copy_from_slice(&noise(2, 4_096));
    vec![first, regions(&[("ram", ram), ("device", b"another secret, as short".to_vec())])]
}

fn contains(hay: &[u8], needle: &[u8]) -> bool {
    hay.windows(needle.len()).any(|part| part == needle)
}

#[test]
fn no_plain_byte_and_no_chunk_id_is_in_any_file() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    let states = states();
    for state in &states {
        push(&store, "mail", state);
    }
    store.rebase(&service("mail"), None).unwrap();
    drop(store);
    let key = Secret::from_bytes([3; 32]).of_service(&service("mail")).key();
    let mut needles: Vec<Vec<u8>> = vec![b"brown fox".to_vec(), b"secret".to_vec(), vec![3; 16]];
    for bytes in states.iter().flat_map(|state| state.values()) {
        for chunk in bytes.chunks(CHUNK) {
            needles.push(key.chunk_id(chunk).as_bytes()[..8].to_vec());
            needles.push(chunk[..16.min(chunk.len())].to_vec());
        }
    }
    let files = files(dir.path());
    assert!(files.len() >= 4, "{files:?}");
    for path in files {
        let bytes = fs::read(&path).unwrap();
        for needle in &needles {
            assert!(!contains(&bytes, needle), "{} has {needle:?}", path.display());
        }
    }
}

#[test]
fn a_node_without_the_key_stores_checks_serves_and_mends_what_it_can_not_read() {
    let (a, b, c) =
        (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (from, holder, to) = (open(&a), keyless(&b), open(&c));
    let states = states();
    let ids: Vec<SnapshotId> = states.iter().map(|state| push(&from, "mail", state).snapshot).collect();
    replicate(&from, &holder, ids[0]);
    replicate(&from, &holder, ids[1]);
    assert_eq!(holder.snapshots(None).unwrap().len(), 2);
    let report = holder.verify(&NoProgress).unwrap();
    assert_eq!((report.bad.len(), report.packs, report.packs_sealed, report.chunks), (0, 2, 2, 0));

    for id in &ids {
        let refused = try_restore(&holder, *id).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Key, "{refused:?}");
        assert!(refused.to_string().contains(&from.manifest(*id).unwrap().0.key.to_string()), "{refused}");
    }
    assert_eq!(try_push(&holder, "mail", &states[0]).unwrap_err().kind(), ErrorKind::Key);
    assert_eq!(try_push(&holder, "web", &states[0]).unwrap_err().kind(), ErrorKind::Key);
    assert_eq!(holder.rebase(&service("mail"), None).unwrap_err().kind(), ErrorKind::Key);

    let pack = holder.packs_needed(ids[1]).unwrap()[0];
    let path = files(b.path()).into_iter().find(|path| path.to_string_lossy().contains(&pack.id.to_string()));
    let path = path.unwrap();
    let mut bytes = fs::read(&path).unwrap();
    bytes[70_000] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let report = holder.verify(&NoProgress).unwrap();
    assert_eq!(report.bad.iter().map(|bad| &bad.path).collect::<Vec<_>>(), [&path]);
    assert!(holder.set_aside_if_damaged(pack.id).unwrap());
    assert_eq!(replicate(&from, &holder, ids[1]), 1);
    drop(holder);
    let holder = keyless(&b);
    assert_eq!(holder.opened(), &sustain_store::OpenReport::default());
    assert!(holder.verify(&NoProgress).unwrap().is_good());

    replicate(&holder, &to, ids[1]);
    assert_eq!(restore(&to, ids[1]), states[1]);
    let base = from.rebase(&service("mail"), None).unwrap().base;
    replicate(&from, &holder, base);
    assert_eq!(holder.retire_superseded(base).unwrap().dropped.len(), 2);
    assert!(holder.verify(&NoProgress).unwrap().is_good());
    replicate(&holder, &to, base);
    assert_eq!(restore(&to, base), states[1]);
    // The key is brought in later.
    drop(holder);
    assert_eq!(restore(&open(&b), base), states[1]);
}

#[test]
fn the_same_content_is_sealed_alike_everywhere_and_nothing_is_alike_under_another_key() {
    let dirs: Vec<_> = (0..3).map(|_| tempfile::tempdir().unwrap()).collect();
    let secrets = [[3; 32], [3; 32], [4; 32]];
    let stores: Vec<Store> =
        dirs.iter().zip(secrets).map(|(dir, key)| open_with(dir.path(), KeySource::Given(key))).collect();
    // One chunk, so that no thread is before another.
    let state = regions(&[("ram", noise(1, CHUNK))]);
    let reports: Vec<_> = stores.iter().map(|store| push(store, "mail", &state)).collect();
    assert_eq!(reports[0].packs, reports[1].packs);
    assert_eq!(reports[0].snapshot, reports[1].snapshot);
    let [one, .., other] = &reports[..] else { panic!("three") };
    assert_eq!(one.packs[0].bytes, other.packs[0].bytes);
    let (one, other) = (bytes_of(&stores[0], one.packs[0].id), bytes_of(&stores[2], other.packs[0].id));
    let parts: BTreeSet<&[u8]> = one[8..one.len() - TRAILER].windows(8).collect();
    assert!(other[8..other.len() - TRAILER].windows(8).all(|part| !parts.contains(part)));
    let manifests: Vec<Manifest> = [(0, 0), (2, 2)]
        .map(|(store, report): (usize, usize)| stores[store].manifest(reports[report].snapshot).unwrap().0)
        .into();
    assert_ne!(manifests[0].content, manifests[1].content);
    assert_ne!(manifests[0].indexes, manifests[1].indexes);
    assert_ne!(manifests[0].key, manifests[1].key);
    // Another service has another key.
    assert_ne!(push(&stores[0], "web", &state).packs, reports[0].packs);
}

/// Gives a store a pack of these bytes in place of another, and the snapshot with a manifest that lists it.
fn import_forged(
    from: &Store,
    to: &Store,
    id: SnapshotId,
    old: PackRef,
    bytes: &[u8],
) -> Result<SnapshotId, ImportError> {
    let forged = PackRef { id: PackId::of(bytes), bytes: bytes.len() as u64 };
    let mut receiver = to.receive_pack(forged.id, forged.bytes)?;
    receiver.write(bytes)?;
    receiver.finish()?;
    let mut manifest = from.manifest(id).unwrap().0;
    for pack in &mut manifest.packs {
        if *pack == old {
            *pack = forged;
        } else if !to.has_pack(&pack.id) {
            copy_pack(from, to, pack.id);
        }
    }
    let (id, encoded) = manifest.encode().unwrap();
    to.import(&[encoded])?;
    Ok(id)
}

/// Who has no key can't forge, but exchange: every hash is then right.
#[test]
fn blocks_and_directories_that_were_exchanged_are_found() {
    let (a, b, c) =
        (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (from, to, holder) = (open(&a), open(&b), keyless(&c));
    let whole = regions(&[("ram", noise(1, 3 * BLOCK))]);
    let id = push(&from, "mail", &whole).snapshot;
    let pack = from.packs_needed(id).unwrap()[0];
    let good = bytes_of(&from, pack.id);
    // Noise stays as it is, and each block has a tag.
    let block = |number: usize| 8 + number * (BLOCK + 16)..8 + (number + 1) * (BLOCK + 16);
    let mut swapped = good.clone();
    swapped[block(1)].copy_from_slice(&good[block(2)]);
    swapped[block(2)].copy_from_slice(&good[block(1)]);
    let forged = import_forged(&from, &to, id, pack, &swapped).unwrap();
    let refused = try_restore(&to, forged).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Corrupt, "{refused:?}");
    let report = to.verify(&NoProgress).unwrap();
    assert!(report.bad.iter().any(|bad| bad.reason.contains("seal is broken")), "{report:?}");
    // Nobody can tell without the key.
    let forged = import_forged(&from, &holder, id, pack, &swapped).unwrap();
    assert!(holder.verify(&NoProgress).unwrap().is_good());
    assert_eq!(try_restore(&holder, forged).unwrap_err().kind(), ErrorKind::Key);

    // Another pack of as many blocks of the same lengths: its directory fits this one's file.
    let other = push(&from, "web", &regions(&[("ram", noise(2, 3 * BLOCK))])).snapshot;
    let other_pack = from.packs_needed(other).unwrap()[0];
    assert_eq!(other_pack.bytes, pack.bytes);
    let ends = bytes_of(&from, other_pack.id);
    let directory_at = u64::from_le_bytes(good[good.len() - TRAILER..][..8].try_into().unwrap()) as usize;
    let mixed = [&good[..directory_at], &ends[directory_at..]].concat();
    let refused = import_forged(&from, &to, other, other_pack, &mixed).unwrap_err();
    assert!(matches!(refused, ImportError::Fault(Fault::Damaged { .. })), "{refused:?}");
    // Moved in its own pack: the directory is sealed for where it is.
    let mut moved = good[..directory_at].to_vec();
    moved.extend_from_slice(&[0; 16]);
    moved.extend_from_slice(&good[directory_at..]);
    let at = moved.len() - TRAILER;
    moved[at..at + 8].copy_from_slice(&(directory_at as u64 + 16).to_le_bytes());
    let check = *blake3::hash(&moved[at..at + 28]).as_bytes();
    moved[at + 28..at + 32].copy_from_slice(&check[..4]);
    let refused = import_forged(&from, &to, id, pack, &moved).unwrap_err();
    assert!(matches!(refused, ImportError::PackDamaged { .. }), "{refused:?}");
}

/// With the pack's hash and name set right, as who has the file can do.
#[test]
fn a_flipped_bit_anywhere_in_a_renamed_pack_is_found() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (from, to) = (open(&a), open(&b));
    let state = regions(&[("ram", memory_like(1, CHUNK)), ("device", b"a few bytes".to_vec())]);
    let id = push(&from, "mail", &state).snapshot;
    let pack = from.packs_needed(id).unwrap()[0];
    let good = bytes_of(&from, pack.id);
    assert_eq!(restore(&to, import_forged(&from, &to, id, pack, &good).unwrap()), state);
    let ends = (0..64).chain(good.len() - 400..good.len());
    for position in ends.chain((64..good.len() - 400).step_by(211)) {
        let mut bytes = good.clone();
        bytes[position] ^= 1 << (position % 8);
        let found = match import_forged(&from, &to, id, pack, &bytes) {
            Err(error) => error.kind() == ErrorKind::Corrupt,
            Ok(forged) => try_restore(&to, forged).is_err_and(|error| error.kind() == ErrorKind::Corrupt),
        };
        assert!(found, "byte {position} of {}", good.len());
    }
}

#[test]
fn nothing_that_is_printed_for_debugging_shows_a_secret() {
    let dir = tempfile::tempdir().unwrap();
    let secret: [u8; 32] = std::array::from_fn(|at| 0xa1 ^ (at as u8 * 7));
    let options = StoreOptions { key: KeySource::Given(secret), create: true, ..StoreOptions::default() };
    let mut printed = format!("{options:?}");
    let store = Store::open(dir.path(), options).unwrap();
    let id = push(&store, "mail", &states()[0]).snapshot;
    let reader = store.open_snapshot(id).unwrap();
    let own = begin(&store, "web").unwrap();
    printed.push_str(&format!("{store:?} {reader:?} {own:?} {:?}", store.manifest(id).unwrap().0));
    let hex: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
    for shown in [&hex[..8], &hex[56..], &format!("{:?}", &secret[..4])[1..12]] {
        assert!(!printed.contains(shown), "{shown}: {printed}");
    }
    // It is in none of the files either: the cluster keeps it.
    for path in files(dir.path()) {
        let bytes = fs::read(&path).unwrap();
        assert!(!contains(&bytes, &secret[..8]) && !contains(&bytes, &hex.as_bytes()[..16]), "{path:?}");
    }
}
