//! Nothing stops the world: push, restore, rebase and verify side by side.

use sustain_store::{ErrorKind, NoProgress};

use crate::common::*;

#[test]
fn push_restore_rebase_and_verify_side_by_side() {
    let dir = tempfile::tempdir().unwrap();
    let store = create(dir.path());
    std::thread::scope(|scope| {
        for number in 0..3_u64 {
            let store = store.clone();
            scope.spawn(move || {
                let name = format!("service-{number}");
                let mut content = regions(&[("ram", memory_like(number, 20 * 65_536))]);
                for step in 0..12_usize {
                    let at = step * 65_536 + 100;
                    content.get_mut("ram").unwrap()[at..at + 50].copy_from_slice(&noise(step as u64, 50));
                    let id = push(&store, &name, &content).snapshot;
                    if step % 4 == 3 {
                        store.rebase(&service(&name), None).unwrap();
                    }
                    let id = store.resolve(&id.to_string()).unwrap();
                    assert_eq!(restore(&store, id), content);
                }
            });
        }
        scope.spawn(|| {
            for _ in 0..6 {
                verify_good(&store);
            }
        });
        scope.spawn(|| {
            for _ in 0..20 {
                for info in store.snapshots(None).unwrap() {
                    match try_restore(&store, info.id) {
                        Ok(_) => {}
                        // A rebase may take it away before the restore begins, never while it runs.
                        Err(error) => assert_eq!(error.kind(), ErrorKind::NotFound, "{error}"),
                    }
                }
            }
        });
    });
    assert!(store.verify(&NoProgress).unwrap().is_good());
}
