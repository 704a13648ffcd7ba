//! Random operations against a model in memory.

use proptest::prelude::*;
use sustain_store::{Store, StoreOptions};

use crate::common::*;

#[derive(Debug, Clone)]
enum Operation {
    /// Overwrite bytes of a region: which, where (of 1000), how many, with what (0: zeros).
    Write(usize, usize, usize, u64),
    Resize(usize, usize),
    RemoveRegion(usize),
    Push,
    /// Rebase, promoting the snapshot so many before the newest.
    Rebase(usize),
    Reopen,
    /// Lose the database, then open.
    LoseDatabase,
}

fn operations() -> impl Strategy<Value = Vec<Operation>> {
    let operation = prop_oneof![
        6 => (0..3_usize, 0..1000_usize, 0..90_000_usize, 0..4_u64)
            .prop_map(|(region, at, bytes, seed)| Operation::Write(region, at, bytes, seed)),
        3 => (0..3_usize, prop_oneof![0..4_usize, 65_533..65_540_usize, 0..400_000_usize])
            .prop_map(|(region, bytes)| Operation::Resize(region, bytes)),
        1 => (0..3_usize).prop_map(Operation::RemoveRegion),
        8 => Just(Operation::Push),
        2 => (0..4_usize).prop_map(Operation::Rebase),
        1 => Just(Operation::Reopen),
        1 => Just(Operation::LoseDatabase),
    ];
    proptest::collection::vec(operation, 1..40)
}

const NAMES: [&str; 3] = ["ram", "device", "disk0"];

fn change(current: &mut Regions, operation: &Operation) {
    match *operation {
        Operation::Write(region, at, bytes, seed) => {
            if let Some(content) = current.get_mut(NAMES[region]) {
                let start = content.len() * at / 1000;
                let end = content.len().min(start + bytes);
                let new = if seed == 0 { vec![0; end - start] } else { noise(seed, end - start) };
                content[start..end].copy_from_slice(&new);
            }
        }
        Operation::Resize(region, bytes) => {
            let content = current.entry(NAMES[region].to_owned()).or_default();
            content.resize(bytes, 0);
        }
        Operation::RemoveRegion(region) => {
            current.remove(NAMES[region]);
        }
        _ => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn the_store_holds_what_the_model_holds(operations in operations()) {
        let dir = tempfile::tempdir().unwrap();
        let mut store = create(dir.path());
        let mut current = Regions::new();
        let mut model: Vec<Regions> = Vec::new();
        for operation in &operations {
            match operation {
                Operation::Push => {
                    let before = model.last() == Some(&current);
                    let report = push(&store, "mail", &current);
                    prop_assert!(!before || report.chunks_new == 0);
                    model.push(current.clone());
                }
                Operation::Rebase(back) => {
                    let Some(promote) = model.len().checked_sub(back + 1) else { continue };
                    let list = store.snapshots(None).unwrap();
                    let report = store.rebase(&service("mail"), Some(list[promote].id)).unwrap();
                    prop_assert_eq!(report.dropped.len(), promote);
                    model.drain(..promote);
                }
                Operation::Reopen | Operation::LoseDatabase => {
                    drop(store);
                    if matches!(operation, Operation::LoseDatabase) {
                        std::fs::remove_file(dir.path().join("journal")).unwrap();
                    }
                    store = Store::open(dir.path(), StoreOptions::default()).unwrap();
                    prop_assert_eq!(&store.opened().bad, &[]);
                }
                other => change(&mut current, other),
            }
            let list = store.snapshots(None).unwrap();
            prop_assert_eq!(list.len(), model.len());
        }
        for (info, expected) in store.snapshots(None).unwrap().iter().zip(&model) {
            prop_assert_eq!(&restore(&store, info.id), expected);
        }
        verify_good(&store);
    }
}
