//! The whole way with nothing of the demo's: five daemons by `init` and `node`, a real VM, a killed server,
//! and the counter and boot id through another node's port.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::support::{guest, processes_with, snapctl};

const PORT: u16 = 8080;

struct Cluster {
    folder: tempfile::TempDir,
    second_third: [u8; 2],
    nodes: Vec<Option<Child>>,
}

impl Cluster {
    fn start(service: &str) -> Self {
        // Loopback addresses that depend on this process alone: tests that run at once don't meet.
        let id = std::process::id();
        let second_third = [200 + (id % 50) as u8, (id / 50 % 250) as u8 + 1];
        let folder = tempfile::tempdir().unwrap();
        let cluster = Self { folder, second_third, nodes: (0..5).map(|_| None).collect() };
        let mut init = snapctl();
        init.args(["init", "--cluster", "test", "--nodes", "5", "--service", service, "--guest"])
            .arg(guest());
        // Generations end often, so that what is lost and restored has been rebased several times.
        init.args(["--rebase-after", "4"]);
        init.arg("--dir").arg(cluster.folder.path());
        for node in 0..5 {
            init.args(["--address", &cluster.address(node).to_string()]);
        }
        assert!(init.stdout(Stdio::null()).status().unwrap().success());
        let mut cluster = cluster;
        (0..5).for_each(|node| cluster.spawn(node));
        cluster
    }

    fn address(&self, node: u8) -> Ipv4Addr {
        Ipv4Addr::new(127, self.second_third[0], self.second_third[1], node + 1)
    }

    fn config(&self, node: usize) -> PathBuf {
        self.folder.path().join(format!("node-{}/config.toml", node + 1))
    }

    fn spawn(&mut self, node: u8) {
        let config = self.config(node.into());
        let log = std::fs::File::create(config.with_file_name("log")).unwrap();
        let mut command = snapctl();
        command.args(["node", "--stop-with-stdin", "--config"]).arg(&config);
        let process = command.stdin(Stdio::piped()).stderr(log).env("SUSTAIN_LOG", "info").spawn().unwrap();
        self.nodes[usize::from(node)] = Some(process);
    }

    fn status(&self, node: usize) -> Option<Value> {
        let output =
            snapctl().args(["--json", "status", "--config"]).arg(self.config(node)).output().unwrap();
        output.status.success().then(|| serde_json::from_slice(&output.stdout).unwrap())
    }

    fn wait<T>(&self, what: &str, mut get: impl FnMut() -> Option<T>) -> T {
        let deadline = Instant::now() + Duration::from_secs(120);
        loop {
            if let Some(value) = get() {
                return value;
            }
            assert!(Instant::now() < deadline, "{what} did not come\n{}", self.logs());
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn logs(&self) -> String {
        let log = |node| std::fs::read_to_string(self.config(node).with_file_name("log")).unwrap_or_default();
        (0..5).map(|node| format!("--- node-{}\n{}", node + 1, log(node))).collect()
    }

    fn server(&self, except: Option<usize>) -> usize {
        self.wait("a server", || {
            (0..5).filter(|node| Some(*node) != except).find(|node| {
                self.status(*node).is_some_and(|status| status["services"][0]["role"] == "server")
            })
        })
    }

    /// Asks the guest through a node's port: the count and the boot id.
    fn ask(&self, node: u8, path: &str) -> Option<(u64, String)> {
        let mut stream = TcpStream::connect((self.address(node), PORT)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        let value: Value = serde_json::from_str(text.split_once("\r\n\r\n")?.1).ok()?;
        Some((value["count"].as_u64()?, value["boot_id"].as_str()?.to_owned()))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for node in self.nodes.iter_mut().flatten() {
            let _ = node.kill();
            let _ = node.wait();
        }
    }
}

#[test]
fn guest_survives_the_loss_of_its_server_and_the_killed_node_comes_back_as_a_candidate() {
    let mut cluster = Cluster::start("survivor");
    let server = cluster.server(None);
    assert_eq!(server, 0, "the first server is not the one that init names");
    let (_, boot) = cluster.wait("the guest's first answer", || cluster.ask(4, "/count"));
    let mut counted = 0;
    for _ in 0..20 {
        counted = cluster.wait("a count", || cluster.ask(4, "/count")).0;
    }
    // A snapshot that begins after the last count holds it; when it is durable, the count is safe.
    let running = cluster.status(server).unwrap()["services"][0]["running_seq"].as_u64().unwrap();
    cluster.wait("a durable snapshot", || {
        let durable = cluster.status(server)?["services"][0]["durable_seq"].as_u64()?;
        (durable >= running + 2).then_some(())
    });

    let status = cluster.status(server).unwrap();
    let qemu = status["services"][0]["vm_pid"].as_u64().unwrap();
    let mut process = cluster.nodes[server].take().unwrap();
    process.kill().unwrap();
    let _ = kill_process(Pid::from_raw(i32::try_from(qemu).unwrap()).unwrap(), Signal::KILL);
    process.wait().unwrap();

    let successor = cluster.server(Some(server));
    assert_eq!(successor, 1, "the greatest priority takes over");
    let (restored, same) = cluster.wait("an answer after the loss", || cluster.ask(4, "/peek"));
    assert_eq!(same, boot, "the guest was rebooted, not resumed");
    assert!(restored >= counted, "{counted} was durable, {restored} came back");
    assert_eq!(cluster.wait("the next count", || cluster.ask(3, "/count")).0, restored + 1);

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
        let output = snapctl()
            .args(["--json", "log", "survivor", "--config"])
            .arg(cluster.config(0))
            .output()
            .unwrap();
        let log: Value = serde_json::from_slice(&output.stdout).ok()?;
        let new = |snapshot: &Value| snapshot["term"]["node"] == new_server;
        log.as_array()?.iter().any(new).then_some(())
    });
}
