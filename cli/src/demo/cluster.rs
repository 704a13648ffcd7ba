//! The demo's nodes: processes in a folder of their own, on loopback addresses of their own.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use sustain_node::admin::NodeStatus;
use sustain_node::clock::wall_ms;
use sustain_node::events::NodeEvent;
use sustain_node::operations::Failure;
use sustain_node::{ClusterPlan, PlannedNode};
use sustain_proto::NodeId;
use sustain_store::error_chain;
use tempfile::TempDir;
use tokio::process::{Child, Command};

use super::Settings;
use crate::client::Client;
use crate::commands::demo::planned_service;

/// A node of the demo.
pub(crate) struct DemoNode {
    /// Its name.
    pub(crate) name: String,
    /// Its id.
    pub(crate) id: NodeId,
    /// Where it accepts the service's clients.
    pub(crate) service: SocketAddr,
    config: PathBuf,
    process: Option<Child>,
    client: Client,
    seen: u64,
}

/// The demo's cluster. Dropping it kills its processes and removes its folder.
pub(crate) struct DemoCluster {
    /// The nodes, in order of priority.
    pub(crate) nodes: Vec<DemoNode>,
    folder: TempDir,
}

/// A kill, as it happened.
pub(crate) struct Killed {
    /// When, by the wall clock.
    pub(crate) time_ms: u64,
    /// The QEMU process that was killed too.
    pub(crate) vm_pid: Option<u32>,
}

/// The same ports for every node, since each has a loopback address of its own.
const NODE_PORT: u16 = 7411;
const SERVICE_PORT: u16 = 8080;

/// Sets of addresses tried: two demos at once choose the same one of 60,000 once in a while.
const ADDRESS_TRIES: usize = 8;

/// How long a node may take to answer on its admin socket.
const START_PATIENCE: Duration = Duration::from_secs(30);

/// How long killed processes may take to be gone.
const DEATH_PATIENCE: Duration = Duration::from_secs(10);

fn failed(doing: &str, error: &dyn std::fmt::Display) -> Failure {
    Failure::new(1, format!("can't {doing}: {error}"))
}

/// One address a node, in a /24 of 127/8 that nobody listens in.
fn free_addresses(nodes: usize) -> Result<Vec<IpAddr>, Failure> {
    let last = u8::try_from(nodes).map_err(|error| failed("number the nodes", &error))?;
    for _ in 0..ADDRESS_TRIES {
        let [second, third] = rand::random::<[u8; 2]>();
        // 127.0.0.0/16 is where other programs listen.
        let addresses: Vec<IpAddr> =
            (1..=last).map(|node| Ipv4Addr::new(127, second.max(1), third, node).into()).collect();
        let free = addresses.iter().all(|address| {
            std::net::UdpSocket::bind((*address, NODE_PORT)).is_ok()
                && std::net::TcpListener::bind((*address, SERVICE_PORT)).is_ok()
        });
        if free {
            return Ok(addresses);
        }
    }
    Err(Failure::new(1, format!("can't find free loopback addresses (UDP {NODE_PORT}, TCP {SERVICE_PORT})")))
}

impl DemoCluster {
    /// Writes the configurations and starts the nodes.
    pub(crate) async fn start(settings: &Settings) -> Result<Self, Failure> {
        let folder = tempfile::Builder::new().prefix("sustain-demo-").tempdir();
        let folder = folder.map_err(|error| failed("make a folder", &error))?;
        let addresses = free_addresses(settings.nodes)?;
        let at = |port| addresses.iter().map(move |address| SocketAddr::new(*address, port));
        let plan = ClusterPlan {
            cluster: "demo".to_owned(),
            addresses: at(NODE_PORT).collect(),
            services: vec![planned_service(&settings.guest, &settings.folder, at(SERVICE_PORT).collect())?],
        };
        let written = plan.write(folder.path()).map_err(|error| Failure::new(1, error_chain(&error)))?;
        let node = |planned: &PlannedNode| DemoNode {
            name: planned.node.name.clone(),
            id: planned.node.id,
            service: SocketAddr::new(planned.node.address.ip(), SERVICE_PORT),
            client: Client::new(planned.config.with_file_name("admin.sock")),
            config: planned.config.clone(),
            process: None,
            seen: 0,
        };
        let mut cluster = Self { nodes: written.iter().map(node).collect(), folder };
        for node in &mut cluster.nodes {
            node.spawn()?;
        }
        for node in 0..cluster.nodes.len() {
            cluster.wait_ready(node).await.map_err(|failure| cluster.explain(failure))?;
        }
        Ok(cluster)
    }

    /// Where it all is, for people.
    pub(crate) fn place(&self) -> String {
        let first = self.nodes.first().map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |node| node.service.ip());
        format!("from {first} on, files in {}", self.folder.path().display())
    }

    async fn wait_ready(&mut self, number: usize) -> Result<(), Failure> {
        let deadline = Instant::now() + START_PATIENCE;
        loop {
            let failure = match self.status(number).await {
                Ok(_) => return Ok(()),
                Err(failure) => failure,
            };
            let node = &mut self.nodes[number];
            if let Some(Ok(Some(status))) = node.process.as_mut().map(Child::try_wait) {
                return Err(Failure::new(1, format!("{} has ended at its start: {status}", node.name)));
            }
            if Instant::now() > deadline {
                return Err(failure);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// A node's status.
    pub(crate) async fn status(&self, node: usize) -> Result<NodeStatus, Failure> {
        self.nodes[node].client.get_async("/v1/status").await
    }

    /// A node's events since the last look.
    pub(crate) async fn drain_events(&mut self, node: usize) -> Result<Vec<NodeEvent>, Failure> {
        let node = &mut self.nodes[node];
        let path = format!("/v1/events?after={}", node.seen);
        let events: Vec<NodeEvent> = node.client.get_async(&path).await?;
        node.seen = events.last().map_or(node.seen, |event| event.number);
        Ok(events)
    }

    /// Kills a node and its QEMU with SIGKILL, as a power cut would.
    pub(crate) async fn kill(&mut self, number: usize) -> Result<Killed, Failure> {
        let vm_pid = self.status(number).await?.services.first().and_then(|service| service.vm_pid);
        let node = &mut self.nodes[number];
        let mut process = node.process.take().ok_or_else(|| Failure::new(1, "the server is not running"))?;
        let time_ms = wall_ms();
        process.start_kill().map_err(|error| failed("kill the server", &error))?;
        let qemu = vm_pid.and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
        if let Some(qemu) = qemu {
            // It may have died with its daemon already.
            let _ = kill_process(qemu, Signal::KILL);
        }
        process.wait().await.map_err(|error| failed("wait for the server's end", &error))?;
        let deadline = Instant::now() + DEATH_PATIENCE;
        while vm_pid.is_some_and(is_running) {
            if Instant::now() > deadline {
                return Err(Failure::new(1, "the killed QEMU process is still there"));
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(Killed { time_ms, vm_pid })
    }

    /// Starts a killed node again.
    pub(crate) async fn restart(&mut self, number: usize) -> Result<(), Failure> {
        self.nodes[number].seen = 0;
        self.nodes[number].spawn()?;
        self.wait_ready(number).await
    }

    /// Adds what the nodes' logs say last to a failure.
    pub(crate) fn explain(&self, mut failure: Failure) -> Failure {
        if failure.exit_code == 130 {
            return failure;
        }
        for node in &self.nodes {
            let log = std::fs::read_to_string(node.log()).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            for line in &lines[lines.len().saturating_sub(6)..] {
                failure.error.push_str(&format!("\n  {}: {line}", node.name));
            }
        }
        if failure.hint.is_none() {
            failure.hint = Some("`snapctl demo --keep` keeps the nodes' logs".to_owned());
        }
        failure
    }

    /// Ends all nodes and removes the folder, or returns where it is.
    pub(crate) async fn stop(mut self, keep: bool) -> Option<PathBuf> {
        for node in &mut self.nodes {
            if let Some(process) = &node.process {
                if let Some(pid) = process.id().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?)) {
                    let _ = kill_process(pid, Signal::TERM);
                }
            }
        }
        for node in &mut self.nodes {
            if let Some(mut process) = node.process.take() {
                if tokio::time::timeout(DEATH_PATIENCE, process.wait()).await.is_err() {
                    // It had its time; a killed child is reaped by this call.
                    let _ = process.kill().await;
                }
            }
        }
        keep.then(|| self.folder.keep())
    }
}

impl DemoNode {
    /// Whether its process was started and not killed.
    pub(crate) fn is_alive(&self) -> bool {
        self.process.is_some()
    }

    fn log(&self) -> PathBuf {
        self.config.with_file_name("log")
    }

    fn spawn(&mut self) -> Result<(), Failure> {
        let program = std::env::current_exe().map_err(|error| failed("find this program", &error))?;
        let log = open_log(&self.log()).map_err(|error| failed("open a node's log", &error))?;
        let process = Command::new(program)
            .arg("node")
            .arg("--config")
            .arg(&self.config)
            .arg("--stop-with-stdin")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(log)
            .env("NO_COLOR", "1")
            // Ctrl-C at the terminal reaches the demo alone, which then ends its nodes in order.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| failed("start a node", &error))?;
        self.process = Some(process);
        Ok(())
    }
}

/// Whether a process still runs. One that has ended but was not reaped yet has no command line.
fn is_running(pid: u32) -> bool {
    std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.is_empty())
}

fn open_log(path: &Path) -> std::io::Result<File> {
    File::options().create(true).append(true).open(path)
}
