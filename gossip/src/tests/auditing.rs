//! Nodes that are asked for what they say they hold.

use sustain_proto::{NodeId, Piece, PieceRange};

use super::gathering::copy;
use super::harness::{self, TestNode};
use crate::audit::{Audit, Finding};
use crate::{Tuning, auditing};

/// All groups of all packs of a node's store.
fn everything(node: &TestNode, of: NodeId) -> Audit {
    let snapshots = node.store.snapshots(None).unwrap();
    let packs = snapshots.iter().flat_map(|snapshot| node.store.packs_needed(snapshot.id).unwrap());
    let ranges = packs.flat_map(|pack| {
        let step = sustain_proto::limits::GROUP_BYTES;
        let piece = Piece::Pack(pack.id);
        let offsets = (0..pack.bytes).step_by(step as usize);
        offsets.map(move |offset| PieceRange { piece, offset, bytes: step.min(pack.bytes - offset) })
    });
    Audit { node: of, ranges: ranges.take(64).collect() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_what_it_says_passes_and_whose_disk_has_rotted_does_not() {
    let nodes = harness::start(3, &Tuning::default()).await;
    let id = nodes[0].push("mail", &harness::noise(5, 2_000_000)).snapshot;
    copy(&nodes[0], &nodes[1..2], id);
    let member = nodes[0].cluster.member().clone();
    let audit = |of: usize| {
        let (member, audit) = (member.clone(), everything(&nodes[0], nodes[of].id()));
        async move { auditing::carry_out(&member, &audit).await }
    };
    assert_eq!(audit(1).await, Finding::Sound);
    assert_eq!(audit(2).await, Finding::Unclaimed, "it has nothing, and says so");
    assert!(nodes[1].damage_packs() > 0);
    let found = audit(1).await;
    assert!(matches!(found, Finding::Wrong(_)), "{found:?}");
    // Packs that are damaged here can't be compared with.
    nodes[0].damage_packs();
    everything(&nodes[0], nodes[1].id()).ranges.iter().for_each(|range| member.lists.forget(&range.piece));
    assert_eq!(audit(1).await, Finding::Sound);
    nodes[1].cluster.shutdown().await;
    assert_eq!(audit(1).await, Finding::Silent);
    harness::stop(&nodes).await;
}
