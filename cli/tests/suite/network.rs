//! A network of namespaces: one a node, all on one bridge, with faults that are put between them.
//!
//! It takes the right to make namespaces (root, or CAP_SYS_ADMIN and CAP_NET_ADMIN), `ip` and `tc` from iproute2, and
//! `nft` for what drops packets. Namespaces are removed when a network is dropped; those of a test that was killed are
//! removed by the next one.

use std::collections::BTreeSet;
use std::io::Write;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Command, Stdio};

const PREFIX: &str = "sustain-test-";

/// Some namespaces, each with an address on a common bridge.
pub(crate) struct Network {
    name: String,
    nodes: u8,
    /// For each node the nodes that it doesn't hear.
    deaf_to: Vec<BTreeSet<u8>>,
    /// Packets of a hundred that every node loses of what comes in.
    loss_percent: u8,
}

impl Network {
    /// Makes a network; an error says why that can't be had here.
    pub(crate) fn new(nodes: u8) -> Result<Self, String> {
        remove_those_of_the_dead();
        let name = format!("{PREFIX}{}-{}", std::process::id(), unique());
        let deaf_to = vec![BTreeSet::new(); nodes.into()];
        let mut network = Self { name, nodes, deaf_to, loss_percent: 1 };
        run("ip", &["netns", "add", &network.hub()])?;
        network.inside_hub(&["ip", "link", "add", "bridge", "type", "bridge"])?;
        network.inside_hub(&["ip", "link", "set", "bridge", "up"])?;
        (0..nodes).try_for_each(|node| network.add(node))?;
        // All that is used later on can be had, or the reason is told now.
        network.rule(0)?;
        network.loss_percent = 0;
        network.rule(0)?;
        network.shape(0, 1_000)?;
        network.inside(0, &["tc", "qdisc", "delete", "dev", "eth0", "root"])?;
        Ok(network)
    }

    fn add(&self, node: u8) -> Result<(), String> {
        let (space, hub, port) = (self.space(node), self.hub(), format!("port{node}"));
        run("ip", &["netns", "add", &space])?;
        let pair =
            ["link", "add", &port, "netns", &hub, "type", "veth", "peer", "name", "eth0", "netns", &space];
        run("ip", &pair)?;
        self.inside_hub(&["ip", "link", "set", &port, "master", "bridge", "up"])?;
        let address = format!("{}/24", self.address(node));
        self.inside(node, &["ip", "address", "add", &address, "dev", "eth0"])?;
        self.inside(node, &["ip", "link", "set", "eth0", "up"])?;
        self.inside(node, &["ip", "link", "set", "lo", "up"])
    }

    pub(crate) fn address(&self, node: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, 0, node + 1)
    }

    /// A command that runs a program inside a node's namespace.
    pub(crate) fn command(&self, node: u8, program: &Path) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.space(node)]).arg(program);
        command
    }

    /// Cuts the network: nodes of different groups don't hear each other, and those in none hear nobody.
    pub(crate) fn part(&mut self, groups: &[&[u8]]) {
        for node in 0..self.nodes {
            let near = groups.iter().find(|group| group.contains(&node)).copied().unwrap_or(&[]);
            self.deaf_to[usize::from(node)] = (0..self.nodes).filter(|other| !near.contains(other)).collect();
        }
        self.rule_all();
    }

    /// Cuts one way: what one node says no longer reaches the other.
    pub(crate) fn cut(&mut self, from: u8, to: u8) {
        self.deaf_to[usize::from(to)].insert(from);
        self.rule_all();
    }

    /// Has every node lose a share of what comes in, each packet by chance.
    pub(crate) fn lose(&mut self, percent: u8) {
        self.loss_percent = percent;
        self.rule_all();
    }

    /// Mends all cuts and losses.
    pub(crate) fn heal(&mut self) {
        self.deaf_to.iter_mut().for_each(BTreeSet::clear);
        self.lose(0);
    }

    /// Limits what a node sends, by a token bucket.
    pub(crate) fn slow(&self, node: u8, megabits: u32) {
        self.shape(node, megabits).unwrap();
    }

    fn shape(&self, node: u8, megabits: u32) -> Result<(), String> {
        let rate = format!("{megabits}mbit");
        let shape = ["tc", "qdisc", "replace", "dev", "eth0", "root", "tbf", "rate", &rate];
        self.inside(node, &[&shape[..], &["burst", "32kb", "latency", "100ms"]].concat())
    }

    fn rule_all(&self) {
        (0..self.nodes).for_each(|node| self.rule(node).unwrap());
    }

    /// Tells a node's namespace what it drops.
    fn rule(&self, node: u8) -> Result<(), String> {
        let mut rules =
            String::from("table inet faults {\n}\nflush table inet faults\ntable inet faults {\n");
        rules.push_str("chain incoming {\ntype filter hook input priority 0;\n");
        for other in &self.deaf_to[usize::from(node)] {
            rules.push_str(&format!("ip saddr {} drop\n", self.address(*other)));
        }
        if self.loss_percent > 0 {
            rules.push_str(&format!("iifname eth0 numgen random mod 100 < {} drop\n", self.loss_percent));
        }
        rules.push_str("}\n}\n");
        let mut nft = self.command(node, Path::new("nft"));
        let nft = nft.args(["-f", "-"]).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut nft = nft.map_err(|error| format!("ip can't be run: {error}"))?;
        // One that ends before it reads says why.
        let _ = nft.stdin.take().unwrap().write_all(rules.as_bytes());
        let output = nft.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        if output.status.success() { Ok(()) } else { Err(format!("nft: {}", said.trim())) }
    }

    fn hub(&self) -> String {
        format!("{}-hub", self.name)
    }

    fn space(&self, node: u8) -> String {
        format!("{}-{node}", self.name)
    }

    fn inside(&self, node: u8, command: &[&str]) -> Result<(), String> {
        run("ip", &[&["netns", "exec", &self.space(node)], command].concat())
    }

    fn inside_hub(&self, command: &[&str]) -> Result<(), String> {
        run("ip", &[&["netns", "exec", &self.hub()], command].concat())
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for space in (0..self.nodes).map(|node| self.space(node)).chain([self.hub()]) {
            // One that was never made can't be removed.
            let _ = run("ip", &["netns", "delete", &space]);
        }
    }
}

/// Removes the namespaces of tests that were killed.
fn remove_those_of_the_dead() {
    let Ok(output) = Command::new("ip").args(["netns", "list"]).output() else { return };
    let listed = String::from_utf8_lossy(&output.stdout).into_owned();
    for space in listed.lines().filter_map(|line| line.split_whitespace().next()) {
        let process = space.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
        if process.is_some_and(|process| !Path::new("/proc").join(process).exists()) {
            // Another test may have been quicker.
            let _ = run("ip", &["netns", "delete", space]);
        }
    }
}

fn unique() -> u32 {
    static NETWORKS: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    NETWORKS.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
}

fn run(program: &str, arguments: &[&str]) -> Result<(), String> {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("{program} can't be run: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.success() {
        Ok(())
    } else {
        Err(format!("{program} {}: {}", arguments.join(" "), said.trim()))
    }
}
