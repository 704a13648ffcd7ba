//! The whole way with nothing of the demo's: five daemons by `init` and `node`, a real VM, a killed server,
//! and the counter and boot id through another node's port.

use serde_json::Value;

use crate::cluster::Cluster;
use crate::support::{guest, processes_with};

#[test]
fn guest_survives_the_loss_of_its_server_and_the_killed_node_comes_back_as_a_candidate() {
    let guest = guest();
    // Generations end often, so that what is lost and restored has been rebased several times.
    let arguments = ["--service", "survivor", "--guest", guest.to_str().unwrap(), "--rebase-after", "4"];
    let mut cluster = Cluster::start(5, &arguments);
    let server = cluster.server(None);
    assert_eq!(server, 0, "the first server is not the one that init names");
    let (_, boot) = cluster.wait("the guest's first answer", || cluster.ask(4, "/count"));
    let mut counted = 0;
    for _ in 0..20 {
        counted = cluster.wait("a count", || cluster.ask(4, "/count")).0;
    }
    // A snapshot that begins after the last count holds it; when it is durable, the count is safe.
    cluster.wait_for_durability(server);
    cluster.kill_with_vm(server);

    let successor = cluster.server(Some(server));
    assert_eq!(successor, 1, "the greatest priority takes over");
    let (restored, same) = cluster.wait("an answer after the loss", || cluster.ask(4, "/peek"));
    assert_eq!(same, boot, "the guest was rebooted, not resumed");
    assert!(restored >= counted, "{counted} was durable, {restored} came back");
    // A request without an answer may have been counted all the same.
    let mut asked = 0;
    let next = cluster.wait("the next count", || {
        asked += 1;
        cluster.ask(3, "/count")
    });
    assert!((restored + 1..=restored + asked).contains(&next.0), "{restored}, then {} after {asked}", next.0);

    cluster.spawn(0);
    let own = cluster.wait("the returned node", || cluster.status(0));
    let new_server = cluster.status(successor).unwrap()["id"].clone();
    cluster.wait("the returned node to follow", || {
        let service = &cluster.status(0)?["services"][0];
        (service["server"] == new_server && service["role"] == "candidate").then_some(())
    });
    assert!(own["services"][0]["vm_pid"].is_null());
    assert_eq!(processes_with("sustain:survivor").len(), 1, "there is one VM");
    // It takes part again: the port of the returned node leads to the service, and snapshots reach it.
    assert_eq!(cluster.wait("an answer through it", || cluster.ask(0, "/peek")).1, boot);
    cluster.wait("a new snapshot on the returned node", || {
        let log = cluster.at(0, &["log", "survivor"])?;
        let new = |snapshot: &Value| snapshot["term"]["node"] == new_server;
        log.as_array()?.iter().any(new).then_some(())
    });
}
