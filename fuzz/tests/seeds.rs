//! Inputs from real files: a small store, messages, a file system. `make fixture` writes them to the corpus; otherwise
//! it is only checked that every target takes them.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;
use std::process::Command;

use sustain_fuzz::TARGETS;
use sustain_gossip::keeper::{codec, fuzzing as fuzzing_keeper};
use sustain_gossip::membership::{Swim, SwimAction, SwimConfig};
use sustain_proto::join::{JoinAnswer, JoinRefusal, JoinRequest, Offered, Token, Welcome};
use sustain_proto::wire::{
    Ask, Ballot, Denial, Granted, Heartbeat, HeldFragments, Lane, Message, Request, Response, SnapshotSummary,
};
use sustain_proto::{
    ChunkId, Cut, Details, Fact, FragmentId, NodeId, PackRef, Piece, PieceRange, PinName, RegionName,
    Removal, ServiceName, Sheet, Signature, Signed, SnapshotId, SnapshotIndex, Term, TermOrigin,
    encode_frame,
};
use sustain_store::{
    Depth, KeySource, NoProgress, PushLineage, PushRequest, RegionSource, Store, StoreOptions, StoredSheet,
    VerifyOptions, fuzzing,
};

type Seeds = BTreeMap<&'static str, Vec<Vec<u8>>>;

struct Bytes<'a>(&'a [u8]);

impl RegionSource for Bytes<'_> {
    fn bytes(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let start = usize::try_from(offset).unwrap();
        buf.copy_from_slice(&self.0[start..start + buf.len()]);
        Ok(())
    }
}

/// Compresses well, so that the corpus stays small, and changes in places.
fn content(step: u8) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..5 * 65_536_usize).map(|at| (at / 4_096 % 7) as u8).collect();
    for at in (0..bytes.len()).step_by(40_000) {
        bytes[at..at + 100].copy_from_slice(&[step; 100]);
    }
    bytes
}

fn service() -> ServiceName {
    ServiceName::new("mail").unwrap()
}

fn term() -> Term {
    Term { counter: 3, node: NodeId::from_bytes([9; 32]), nonce: 4 }
}

fn of_a_store(seeds: &mut Seeds) {
    let dir = tempfile::tempdir().unwrap();
    let key = KeySource::Given(fuzzing::SECRET);
    let store =
        Store::open(dir.path(), StoreOptions { key, create: true, ..StoreOptions::default() }).unwrap();
    let mut last = None;
    for step in 0..3 {
        let lineage = PushLineage::ContinueNewest { node: NodeId::from_bytes([9; 32]), nonce: 4 };
        let request = PushRequest { service: service(), lineage, time_ms: 1_000 };
        let mut push = store.begin_push(request).unwrap();
        push.ingest(&RegionName::new("ram").unwrap(), &Bytes(&content(step))).unwrap();
        let report = push.commit().unwrap();
        seeds.entry("manifest").or_default().push(store.manifest(report.snapshot).unwrap().1);
        last = Some(report.snapshot);
    }
    store.pin(last.unwrap(), &PinName::new("kept").unwrap()).unwrap();
    let options = VerifyOptions { depth: Depth::Packs, set_aside: true, ..VerifyOptions::default() };
    store.verify_with(&options, &NoProgress).unwrap();
    for pack in store.packs_needed(last.unwrap()).unwrap() {
        let reader = store.read_pack(pack.id).unwrap();
        let mut bytes = vec![0; usize::try_from(reader.len()).unwrap()];
        reader.read_at(0, &mut bytes).unwrap();
        let (directory, blocks) = fuzzing::opened(&bytes).expect("a real pack is read");
        seeds.entry("directory").or_default().push(directory);
        seeds.entry("block").or_default().extend(blocks);
        seeds.entry("pack").or_default().push(bytes);
    }
    let read = |name: &str| vec![fs::read(dir.path().join(name)).unwrap()];
    seeds.insert("pin", read("pins/kept"));
    seeds.insert("checked", read("checked"));
    let own = tempfile::tempdir().unwrap();
    let store = Store::open(own.path(), StoreOptions { create: true, ..StoreOptions::default() }).unwrap();
    let lineage = PushLineage::ContinueNewest { node: NodeId::from_bytes([9; 32]), nonce: 4 };
    let mut push = store.begin_push(PushRequest { service: service(), lineage, time_ms: 1 }).unwrap();
    push.ingest(&RegionName::new("ram").unwrap(), &Bytes(b"hello")).unwrap();
    push.commit().unwrap();
    seeds.insert("key-file", vec![fs::read(own.path().join("keys/mail")).unwrap(), read("key").remove(0)]);
    seeds.insert("journal", read("journal"));
}

fn of_messages(seeds: &mut Seeds) {
    let (id, pack) = (SnapshotId::from_bytes([1; 32]), sustain_proto::PackId::from_bytes([2; 32]));
    let origin = Some(TermOrigin { parent: term(), seq: 8 });
    let summary = SnapshotSummary { id, term: term(), origin, seq: 9, durable: true, whole: true };
    let heartbeat = Heartbeat {
        service: service(),
        term: term(),
        origin,
        running_seq: 9,
        durable: Some((id, 8)),
        level: 1,
    };
    let ballot = Ballot {
        hears: None,
        term_known: Some(term()),
        priority: 7,
        eligible: true,
        able: true,
        failed: vec![id],
        snapshots: vec![summary; 3],
    };
    let frames = seeds.entry("frame").or_default();
    let most = Lane::Bulk.frame_bytes_max();
    for message in [Message::Probe { nonce: 5 }, Message::Heartbeat(heartbeat)] {
        frames.push(encode_frame(&message, most).unwrap());
    }
    let pieces = [Piece::Pack(pack), Piece::Fragment(FragmentId::from_bytes([3; 32]))];
    for request in [
        Request::Poll { service: service(), lost: Some(term()) },
        Request::Claim { service: service(), term: term(), origin },
        Request::HavePacks { ids: vec![pack; 3] },
        Request::GetPack { id: pack, offset: 5, bytes: 6 },
        Request::GetGroups { pieces: pieces.to_vec() },
        Request::GetRanges {
            ranges: pieces.map(|piece| PieceRange { piece, offset: 65_536, bytes: 7 }).to_vec(),
        },
        Request::Ask(Ask {
            pack,
            fragment: Some(3),
            missing: vec![(0, 65_536), (131_072, 131_079)],
            is_stuck: true,
            wants_list: true,
        }),
        Request::HaveFragments { ids: vec![pack; 2] },
        Request::GetSheets { packs: vec![pack] },
    ] {
        frames.push(encode_frame(&request, most).unwrap());
    }
    for response in [
        Response::Ballot(ballot),
        Response::Having { packs: vec![pack; 2] },
        Response::Snapshots { list: vec![summary; 2] },
        Response::refused("no"),
        Response::Groups { counts: vec![3, 0] },
        Response::Ranges { here: vec![true, false] },
        Response::Granted(Granted { range: (0, 9), groups: vec![[4; 32]; 2], sheet: Some(vec![5; 9]) }),
        Response::Denied(Denial::Lack { have: vec![(0, 9)], is_coming: true }),
        Response::Denied(Denial::Elsewhere { nodes: vec![NodeId::from_bytes([6; 32])] }),
        Response::Fragments { held: vec![HeldFragments { pack, sheet: [7; 16], indices: vec![0, 9] }] },
        Response::Sheets { sheets: vec![vec![1; 9], Vec::new()] },
    ] {
        frames.push(encode_frame(&response, most).unwrap());
    }
}

/// A sheet, and segments with a fragment of one group and one of two.
fn of_fragments(seeds: &mut Seeds) {
    for bytes in [9_000_usize, 140_000] {
        let fragment = vec![3; bytes / 2];
        let id = FragmentId::of(&fragment);
        let pack = PackRef { id: sustain_proto::PackId::of(b"pack"), bytes: bytes as u64 };
        let cut = Cut { needed: 2, total: 3, extent_bytes: 10_000 };
        let sheet = Sheet { service: service(), pack, cut, fragments: vec![id; 3] };
        let sheet = StoredSheet::unsigned(sheet).unwrap();
        let segment = fuzzing::segment_of([7; 16], &sheet, 2, &fragment).unwrap();
        seeds.entry("segment").or_default().push(segment);
        seeds.entry("sheet").or_default().push(sheet.bytes);
    }
}

fn of_an_index(seeds: &mut Seeds) {
    let mut index = SnapshotIndex::default();
    let chunks = (0..20_u64).map(|at| (at * 3, (at % 4 != 0).then(|| ChunkId::from_bytes([at as u8; 32]))));
    index.regions.insert(RegionName::new("ram").unwrap(), chunks.collect());
    index.regions.insert(RegionName::new("disk0").unwrap(), [(1 << 20, None)].into_iter().collect());
    seeds.entry("index").or_default().push(index.encode().unwrap().1);
}

/// An NBD client that negotiates, reads, writes and leaves.
fn of_clients(seeds: &mut Seeds) {
    let option = |number: u32, data: &[u8]| {
        let mut bytes = b"IHAVEOPT".to_vec();
        bytes.extend_from_slice(&number.to_be_bytes());
        bytes.extend_from_slice(&u32::try_from(data.len()).unwrap().to_be_bytes());
        [bytes, data.to_vec()].concat()
    };
    let request = |command: u16, offset: u64, length: u32, payload: &[u8]| {
        let mut bytes = 0x2560_9513_u32.to_be_bytes().to_vec();
        bytes.extend_from_slice(&0_u16.to_be_bytes());
        bytes.extend_from_slice(&command.to_be_bytes());
        bytes.extend_from_slice(&7_u64.to_be_bytes());
        bytes.extend_from_slice(&offset.to_be_bytes());
        bytes.extend_from_slice(&length.to_be_bytes());
        [bytes, payload.to_vec()].concat()
    };
    let named =
        |name: &str| [&u32::try_from(name.len()).unwrap().to_be_bytes()[..], name.as_bytes()].concat();
    let context = [named("disk0"), 1_u32.to_be_bytes().to_vec(), named("base:allocation")].concat();
    let go = [named("disk0"), vec![0, 0]].concat();
    let flags = 3_u32.to_be_bytes().to_vec();
    let talk = [
        flags.clone(),
        option(8, &[]),
        option(10, &context),
        option(7, &go),
        request(0, 4_096, 8_192, &[]),
        request(1, 0, 512, &[5; 512]),
        request(6, 512, 1 << 20, &[]),
        request(7, 0, 1 << 20, &[]),
        request(2, 0, 0, &[]),
    ];
    seeds.insert("nbd", vec![talk.concat(), [flags, option(1, b"disk0"), request(0, 0, 512, &[])].concat()]);
    let mut qcow2 = vec![0; 112];
    qcow2[..8].copy_from_slice(b"QFI\xfb\0\0\0\x03");
    seeds.insert("image-header", vec![qcow2, b"vmdk KDMV".to_vec(), vec![0; 112]]);
}

/// A token, and what is said with it.
fn of_joining(seeds: &mut Seeds) {
    let (node, address) = (NodeId::from_bytes([7; 32]), "192.0.2.1:7411".parse().unwrap());
    let details = Details { name: "attic".to_owned(), address, domain: "up".to_owned(), priority: 5 };
    let token = Token { inviter: node, addresses: vec![address], secret: [9; 16] };
    let most = Lane::Control.frame_bytes_max();
    let removal = Signed { body: Removal { node, by: node }, signature: Signature::from_bytes(&[5; 64]) };
    let welcome = Welcome {
        cluster: "home".to_owned(),
        details: details.clone(),
        secrets: Some("secret".to_owned()),
        facts: vec![Fact::Removal(removal)],
        services: vec![Offered {
            name: ServiceName::new("mail").unwrap(),
            has_own_secret: true,
            definition: Some("name = \"mail\"".to_owned()),
        }],
    };
    let joining = [
        token.to_text().unwrap().into_bytes(),
        encode_frame(&JoinRequest { secret: [9; 16], details }, most).unwrap(),
        encode_frame(&JoinAnswer::Welcome(welcome), most).unwrap(),
        encode_frame(&JoinAnswer::Refused(JoinRefusal::Used), most).unwrap(),
    ];
    seeds.insert("join", joining.to_vec());
}

/// What one node sends another in the first seconds.
fn of_swim(seeds: &mut Seeds) {
    let members = sustain_fuzz::swimmers();
    let (one, other) = (NodeId::from_bytes([1; 32]), NodeId::from_bytes([2; 32]));
    let swim = |node, seed| Swim::new(node, &members, SwimConfig::default(), 0, seed);
    let (mut near, mut far) = (swim(one, 1), swim(other, 2));
    let mut talk = Vec::new();
    let mut actions = far.connected(one, 0);
    for round in 0..40_u64 {
        let now_ms = round * 200;
        let mut answers = Vec::new();
        for action in actions {
            if let SwimAction::Send { to, datagram } = action {
                if to == one {
                    talk.extend(u16::try_from(datagram.len()).unwrap().to_le_bytes());
                    talk.extend(&datagram);
                    answers.extend(near.datagram(other, &datagram, now_ms));
                }
            }
        }
        actions = far.tick(now_ms);
        for action in answers {
            if let SwimAction::Send { to, datagram } = action {
                if to == other {
                    actions.extend(far.datagram(one, &datagram, now_ms));
                }
            }
        }
    }
    seeds.insert("swim", vec![talk]);
}

/// What two keepers tell each other, and some messages one by one.
fn of_keepers(seeds: &mut Seeds) {
    let mut all = vec![fuzzing_keeper::talk()];
    for message in fuzzing_keeper::one_of_each() {
        let bytes = codec::encode(&message).unwrap();
        let length = u16::try_from(bytes.len()).unwrap().to_le_bytes();
        all.push([&length[..], &bytes].concat());
    }
    seeds.insert("keeper", all);
}

/// A file system with a folder and files, as small as they come; its zeros at the end are left out.
fn of_a_file_system(seeds: &mut Seeds) -> io::Result<()> {
    let dir = tempfile::tempdir()?;
    let (tree, image) = (dir.path().join("tree"), dir.path().join("image"));
    fs::create_dir_all(tree.join("folder"))?;
    fs::write(tree.join("folder/file"), vec![5; 30_000])?;
    fs::write(tree.join("small"), b"hello")?;
    let mut make = Command::new("mke2fs");
    make.env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin");
    make.args(["-q", "-t", "ext4", "-b", "1024", "-N", "32", "-O", "^has_journal,^resize_inode", "-d"]);
    let done = make.arg(&tree).arg(&image).arg("256k").status()?;
    assert!(done.success());
    let mut bytes = fs::read(image)?;
    let end = bytes.iter().rposition(|byte| *byte != 0).unwrap_or(0) + 1;
    bytes.truncate(end);
    seeds.entry("ext4").or_default().push(bytes);
    Ok(())
}

#[test]
fn every_target_takes_what_comes_from_real_files() {
    let mut seeds = Seeds::new();
    of_a_store(&mut seeds);
    of_messages(&mut seeds);
    of_an_index(&mut seeds);
    of_fragments(&mut seeds);
    of_clients(&mut seeds);
    of_joining(&mut seeds);
    of_swim(&mut seeds);
    of_keepers(&mut seeds);
    let writes = std::env::var_os("SUSTAIN_WRITE_FIXTURE").is_some();
    if let Err(error) = of_a_file_system(&mut seeds) {
        // The one that is committed is taken by the other tests.
        assert!(!writes && error.kind() == io::ErrorKind::NotFound, "mke2fs: {error}");
    }
    for target in TARGETS {
        let own = seeds.get(target.name).into_iter().flatten();
        own.clone().for_each(|seed| (target.run)(seed));
        if writes {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target.name);
            fs::create_dir_all(&folder).unwrap();
            for (number, seed) in own.enumerate() {
                fs::write(folder.join(format!("seed-{number:02}")), seed).unwrap();
            }
        }
    }
}
