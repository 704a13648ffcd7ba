//! What the depot costs beside the store's own calls. Measures, and judges nothing: run with `--ignored --nocapture`,
//! in a release build.

use std::sync::Arc;
use std::time::Instant;

use sustain_proto::{GroupList, PackRef};

use super::world::*;
use crate::depot::PartList;
use crate::keeper::{Catalog, Pack, Part};

/// So many pushes of so much new each, as one catalog.
fn offer(pushes: usize, bytes: usize) -> (Node, Arc<Catalog>) {
    let server = Node::new(1);
    let mut content = vec![0; pushes.min(100) * bytes];
    let parts = content.len() / bytes;
    for push in 0..pushes {
        let at = push % parts * bytes;
        content[at..at + bytes].copy_from_slice(&noise(push as u64, bytes));
        server.push(&content);
    }
    let catalog = published(&server, None, None, &[]);
    (server, catalog)
}

type Given = Vec<(Pack, PartList, Vec<u8>)>;

fn given(server: &Node, catalog: &Catalog) -> Given {
    let give = |pack: Pack| {
        let list = server.depot().list(&pack.whole(), &pack).unwrap().unwrap();
        (pack, list, bytes_of(server.depot(), &pack.whole(), &pack).unwrap())
    };
    catalog.packs().into_iter().map(give).collect()
}

/// As the depot does, by the store's calls alone.
fn by_store(given: &Given, catalog: &Catalog, batch: usize) -> f64 {
    let node = Node::new(2);
    let started = Instant::now();
    for some in given.chunks(batch) {
        let receivers: Vec<_> = some
            .iter()
            .map(|(pack, list, bytes)| {
                let list = GroupList::check(*pack.id.as_bytes(), pack.bytes, list.values.clone()).unwrap();
                let reference = PackRef { id: pack.id, bytes: pack.bytes };
                let receiver = node.store.receive_groups(reference, list).unwrap();
                for (group, bytes) in bytes.chunks(GROUP).enumerate() {
                    receiver.write(group, bytes).unwrap();
                }
                receiver
            })
            .collect();
        node.store.keep_received(&receivers).unwrap();
    }
    let manifests: Vec<Vec<u8>> = catalog.entries.iter().map(|entry| entry.manifest.to_vec()).collect();
    node.store.import(&manifests).unwrap();
    started.elapsed().as_secs_f64()
}

fn by_depot(given: &Given, catalog: &Arc<Catalog>, batch: usize) -> (f64, f64) {
    let node = Node::new(2);
    let started = Instant::now();
    node.depot().remember(catalog).unwrap();
    let remembered = started.elapsed().as_secs_f64();
    let mut imported = 0;
    for some in given.chunks(batch) {
        for (pack, list, bytes) in some {
            let receiver = node.depot().receive(pack, &pack.whole(), list.clone()).unwrap();
            for (group, bytes) in bytes.chunks(GROUP).enumerate() {
                receiver.write(group, bytes).unwrap();
            }
        }
        let parts: Vec<Part> = some.iter().map(|(pack, ..)| pack.whole()).collect();
        imported += node.depot().sync(&parts).imported.len();
    }
    assert_eq!(imported, catalog.entries.len());
    (started.elapsed().as_secs_f64(), remembered)
}

#[test]
#[ignore = "it measures"]
#[allow(clippy::print_stderr)]
fn receiving_syncing_and_importing() {
    for (pushes, bytes, batch) in [(500, 64 << 10, 16), (500, 64 << 10, 500), (100, 4 << 20, 16)] {
        let (server, catalog) = offer(pushes, bytes);
        let given = given(&server, &catalog);
        let packs = given.len();
        let all: u64 = given.iter().map(|(pack, ..)| pack.bytes).sum();
        for round in 0..2 {
            let store = by_store(&given, &catalog, batch);
            let (depot, remembered) = by_depot(&given, &catalog, batch);
            eprintln!(
                "{packs} packs, {all} bytes, {batch} together, round {round}: store {store:.2} s, depot {depot:.2} s, \
                 of that {remembered:.3} s for the catalog"
            );
        }
    }
}
