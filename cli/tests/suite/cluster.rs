//! A cluster of `snapctl node` processes on loopback addresses of its own.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::network::Network;
use crate::support::{PROGRAM, set_environment, snapctl};

const PORT: u16 = 8080;

/// What nodes log; also how their peers stand, each time that it changes.
const LOGGED: &str = "info,sustain_gossip::prober=debug";

/// Node processes; dropping it kills them.
pub(crate) struct Cluster {
    folder: tempfile::TempDir,
    second_third: [u8; 2],
    /// What the fourth number of the first node's address is one more than.
    before_first: u8,
    /// Where the nodes are if not on loopback. It goes after them.
    network: Option<Network>,
    pub(crate) nodes: Vec<Option<Child>>,
}

/// Clusters of this process, so that each gets addresses of its own.
static CLUSTERS: AtomicU8 = AtomicU8::new(0);

impl Cluster {
    /// Starts this many nodes, with further arguments for `snapctl init`.
    pub(crate) fn start(nodes: u8, init_arguments: &[&str]) -> Self {
        let mut cluster = Self::planned(nodes, init_arguments);
        (0..nodes).for_each(|node| cluster.spawn(node));
        cluster
    }

    /// The same, but starts none.
    pub(crate) fn planned(nodes: u8, init_arguments: &[&str]) -> Self {
        Self::planned_in(&std::env::temp_dir(), nodes, init_arguments)
    }

    /// The same, with the nodes' folders in a new one in this folder.
    pub(crate) fn planned_in(parent: &Path, nodes: u8, init_arguments: &[&str]) -> Self {
        // Loopback addresses that depend on this process and cluster: tests that run at once don't meet.
        let id = std::process::id();
        let number = CLUSTERS.fetch_add(1, Ordering::Relaxed);
        let second_third = [200 + (id % 50) as u8, (id / 50 % 50) as u8 * 5 + number % 5 + 1];
        // Room for 15 nodes each, and for 75 clusters of one process.
        let before_first = number / 5 % 15 * 16;
        let folder = tempfile::tempdir_in(parent).unwrap();
        let none = (0..nodes).map(|_| None).collect();
        let cluster = Self { folder, second_third, before_first, network: None, nodes: none };
        cluster.write(init_arguments);
        cluster
    }

    /// Starts this many nodes, each in a network namespace of its own; an error says why that can't be had here.
    pub(crate) fn start_in_network(nodes: u8) -> Result<Self, String> {
        let network = Some(Network::new(nodes)?);
        let folder = tempfile::tempdir().unwrap();
        let none = (0..nodes).map(|_| None).collect();
        let mut cluster = Self { folder, second_third: [0; 2], before_first: 0, network, nodes: none };
        cluster.write(&[]);
        (0..nodes).for_each(|node| cluster.spawn(node));
        Ok(cluster)
    }

    /// Writes the nodes' folders.
    fn write(&self, init_arguments: &[&str]) {
        let nodes = self.nodes.len() as u8;
        let mut init = snapctl();
        init.args(["init", "--cluster", "test", "--nodes", &nodes.to_string()]).args(init_arguments);
        init.arg("--dir").arg(self.folder.path());
        for node in 0..nodes {
            init.args(["--address", &self.address(node).to_string()]);
        }
        assert!(init.stdout(Stdio::null()).status().unwrap().success());
    }

    /// The network of a cluster that was started in one.
    pub(crate) fn network(&mut self) -> &mut Network {
        self.network.as_mut().unwrap()
    }

    pub(crate) fn address(&self, node: u8) -> Ipv4Addr {
        if let Some(network) = &self.network {
            return network.address(node);
        }
        Ipv4Addr::new(127, self.second_third[0], self.second_third[1], self.before_first + node + 1)
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn config(&self, node: usize) -> PathBuf {
        self.folder.path().join(format!("node-{}/config.toml", node + 1))
    }

    pub(crate) fn spawn(&mut self, node: u8) {
        let config = self.config(node.into());
        let log = std::fs::File::create(config.with_file_name("log")).unwrap();
        let mut command = match &self.network {
            Some(network) => network.command(node, PROGRAM.as_ref()),
            None => snapctl(),
        };
        set_environment(&mut command);
        command.args(["node", "--stop-with-stdin", "--config"]).arg(&config);
        let process = command.stdin(Stdio::piped()).stderr(log).env("SUSTAIN_LOG", LOGGED).spawn().unwrap();
        self.nodes[usize::from(node)] = Some(process);
    }

    /// Runs a command at a node's daemon; none if it fails.
    pub(crate) fn at(&self, node: usize, arguments: &[&str]) -> Option<Value> {
        let mut command = snapctl();
        let output =
            command.arg("--json").args(arguments).arg("--config").arg(self.config(node)).output().unwrap();
        output.status.success().then(|| serde_json::from_slice(&output.stdout).unwrap())
    }

    pub(crate) fn status(&self, node: usize) -> Option<Value> {
        let output =
            snapctl().args(["--json", "status", "--config"]).arg(self.config(node)).output().unwrap();
        output.status.success().then(|| serde_json::from_slice(&output.stdout).unwrap())
    }

    pub(crate) fn wait<T>(&self, what: &str, mut get: impl FnMut() -> Option<T>) -> T {
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
        (0..self.nodes.len()).map(|node| format!("--- node-{}\n{}", node + 1, self.log(node))).collect()
    }

    pub(crate) fn server(&self, except: Option<usize>) -> usize {
        self.wait("a server", || {
            (0..self.nodes.len()).filter(|node| Some(*node) != except).find(|node| {
                self.status(*node).is_some_and(|status| status["services"][0]["role"] == "server")
            })
        })
    }

    /// Asks the guest through a node's port: the count and the boot id.
    pub(crate) fn ask(&self, node: u8, path: &str) -> Option<(u64, String)> {
        let value = self.get(node, path)?;
        Some((value["count"].as_u64()?, value["boot_id"].as_str()?.to_owned()))
    }

    /// What the guest answers through a node's port.
    pub(crate) fn get(&self, node: u8, path: &str) -> Option<Value> {
        let mut stream = TcpStream::connect((self.address(node), PORT)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        serde_json::from_str(text.split_once("\r\n\r\n")?.1).ok()
    }

    /// Waits until a snapshot is durable that began after this call.
    pub(crate) fn wait_for_durability(&self, server: usize) {
        let seq = |name: &str| self.status(server)?["services"][0][name].as_u64();
        let running = self.wait("a first snapshot", || seq("running_seq"));
        // The next one may have begun already.
        self.wait("a durable snapshot", || seq("durable_seq").filter(|durable| *durable >= running + 2));
    }
}

impl Cluster {
    /// Kills a node with SIGKILL.
    pub(crate) fn kill(&mut self, node: usize) {
        let mut process = self.nodes[node].take().unwrap();
        process.kill().unwrap();
        process.wait().unwrap();
    }

    /// What a node has logged.
    pub(crate) fn log(&self, node: usize) -> String {
        std::fs::read_to_string(self.config(node).with_file_name("log")).unwrap_or_default()
    }

    /// Sends a node's process a signal.
    pub(crate) fn signal(&self, node: usize, signal: Signal) {
        let process = self.nodes[node].as_ref().unwrap().id();
        kill_process(Pid::from_raw(i32::try_from(process).unwrap()).unwrap(), signal).unwrap();
    }

    /// Kills the server's node with SIGKILL, and its VM, should that not have gone with it.
    pub(crate) fn kill_with_vm(&mut self, server: usize) {
        let status = self.status(server).unwrap();
        let qemu = i32::try_from(status["services"][0]["vm_pid"].as_u64().unwrap()).unwrap();
        self.kill(server);
        let _ = kill_process(Pid::from_raw(qemu).unwrap(), Signal::KILL);
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
