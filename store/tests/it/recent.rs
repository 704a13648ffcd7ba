//! What a store keeps between pushes: it makes them cheap, and nothing else.

use std::fs;

use crate::common::*;

const PAGE: usize = 4_096;

fn step(content: &mut Regions, step: usize) {
    let ram = content.get_mut("ram").unwrap();
    for page in [step % 7, 20 + step % 5, 40] {
        ram[page * PAGE..][..100].copy_from_slice(&noise((100 * step + page) as u64, 100));
    }
}

/// A store that stays open and one that is opened anew for each push end up with the same packs.
#[test]
fn what_is_kept_between_pushes_changes_nothing_of_what_is_stored() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let open = create(a.path());
    let mut content = regions(&[("ram", memory_like(1, 1 << 20))]);
    for number in 0..12 {
        let kept = push(&open, "mail", &content);
        let anew = push(&create(b.path()), "mail", &content);
        let lists = [kept.packs.len(), anew.packs.len()];
        assert_eq!((lists[0], kept.chunks_new, kept.bytes_new), (lists[1], anew.chunks_new, anew.bytes_new));
        assert_eq!(restore(&create(b.path()), anew.snapshot), content, "push {number}");
        assert_eq!(restore(&open, kept.snapshot), content, "push {number}");
        step(&mut content, number);
    }
}

/// A chunk that only a lost pack holds must be stored again, though the push before knew where it is.
#[test]
fn what_was_kept_is_not_used_when_a_pack_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let store = create(dir.path());
    let mut content = regions(&[("ram", memory_like(1, 1 << 20))]);
    push(&store, "mail", &content);
    let before = content.clone();
    step(&mut content, 1);
    let changed = push(&store, "mail", &content);
    push(&store, "mail", &before);
    let pack = *changed.packs.last().unwrap();
    let path = files(&dir.path().join("packs"))
        .into_iter()
        .find(|path| path.to_string_lossy().contains(&pack.id.to_string()));
    fs::remove_file(path.unwrap()).unwrap();
    assert!(store.set_aside_if_damaged(pack.id).unwrap());
    let again = push(&store, "mail", &content);
    assert_eq!((again.chunks_new, again.packs), (changed.chunks_new, changed.packs));
    assert_eq!(restore(&store, again.snapshot), content);
}

/// Parts of an index that speak of what lay outside a smaller region must not show when it grows again.
#[test]
fn a_region_that_shrank_and_grew_again_has_nothing_of_what_was_cut_off() {
    let dir = tempfile::tempdir().unwrap();
    let store = create(dir.path());
    let full = memory_like(1, 1 << 20);
    let mut changed = full.clone();
    changed[(1 << 20) - 1_000..].copy_from_slice(&noise(5, 1_000));
    let mut grown = full[..300_000].to_vec();
    grown.resize(1 << 20, 0);
    let states = [full.clone(), changed, full[..300_000].to_vec(), grown.clone(), full, grown];
    let pushed: Vec<_> = states.iter().map(|ram| regions(&[("ram", ram.clone())])).collect();
    let ids: Vec<_> = pushed.iter().map(|content| push(&store, "mail", content).snapshot).collect();
    for (id, content) in ids.into_iter().zip(pushed) {
        assert!(restore(&store, id) == content);
    }
}
