//! The daemons, of which the last one begins empty in each round.

use std::fmt;
use std::fs;
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::link::{HERE, SlowLink, THERE};
use crate::run::{Running, output};
use crate::{Options, Outcome};

/// How long anything may take that must happen.
const PATIENCE: Duration = Duration::from_secs(300);

pub(crate) struct BenchCluster<'a> {
    snapctl: &'a Path,
    folder: PathBuf,
    /// Nodes that have the snapshot; the empty one comes after them.
    nodes: usize,
    link: Option<&'a SlowLink>,
    running: Vec<Option<Running>>,
}

/// What a gathering took.
pub(crate) struct Gathered {
    /// With everything, from the command's start to its end.
    pub(crate) whole: Duration,
    /// Writing the files again, when all packs are here.
    pub(crate) decode: Duration,
    /// Bytes that came.
    pub(crate) bytes: u64,
}

impl fmt::Display for Gathered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, decode) = (self.whole.as_secs_f64(), self.decode.as_secs_f64());
        let mb = self.bytes as f64 / 1e6;
        write!(f, "{mb:.0} MB of packs in {whole:.3} s, of which decoding takes {decode:.3} s")
    }
}

impl<'a> BenchCluster<'a> {
    /// Starts all nodes but the empty one.
    pub(crate) fn start(options: &'a Options, scratch: &Path, link: Option<&'a SlowLink>) -> Outcome<Self> {
        let folder = scratch.join("nodes");
        let count = (options.nodes + 1).to_string();
        let port = UdpSocket::bind("127.0.0.1:0")?.local_addr()?.port().min(60_000);
        let init = ["init", "--cluster", "bench", "--nodes", &count, "--port", &port.to_string()];
        output(Command::new(&options.snapctl).args(init).arg("--dir").arg(&folder))?;
        let mut cluster =
            Self { snapctl: &options.snapctl, folder, nodes: options.nodes, link, running: Vec::new() };
        cluster.running.resize_with(options.nodes + 1, || None);
        if link.is_some() {
            cluster.move_addresses(port)?;
        }
        for node in 0..options.nodes {
            cluster.run(node)?;
        }
        Ok(cluster)
    }

    /// The last node that has the snapshot is behind the link, all others before it.
    fn move_addresses(&self, port: u16) -> Outcome<()> {
        let slow = port + self.nodes as u16 - 1;
        for node in 0..=self.nodes {
            let path = self.node(node).join("config.toml");
            let text = fs::read_to_string(&path)?;
            let text = text.replace(&format!("127.0.0.1:{slow}\""), &format!("{THERE}:{slow}\""));
            fs::write(&path, text.replace("127.0.0.1:", &format!("{HERE}:")))?;
        }
        Ok(())
    }

    fn node(&self, node: usize) -> PathBuf {
        self.folder.join(format!("node-{}", node + 1))
    }

    fn run(&mut self, node: usize) -> Outcome<()> {
        let folder = self.node(node);
        let mut command = match self.link {
            Some(link) if node + 1 == self.nodes => link.inside(self.snapctl),
            _ => Command::new(self.snapctl),
        };
        command.arg("node").arg("--config").arg(folder.join("config.toml"));
        self.running[node] = Some(Running::start(&mut command, &folder.join("log"))?);
        let up = || self.ask(node, &["status", "--json"]).is_ok();
        wait("a node did not start", up)
    }

    fn ask(&self, node: usize, args: &[&str]) -> Outcome<String> {
        let config = self.node(node).join("config.toml");
        output(Command::new(self.snapctl).arg("--config").arg(config).args(args))
    }

    fn reaches(&self, node: usize, peers: usize) -> bool {
        let status = self.ask(node, &["status", "--json"]).unwrap_or_default();
        status.matches("\"reachable\":true").count() >= peers
    }

    /// Pushes the state to the first node, and waits until it is on all of them.
    pub(crate) fn push_everywhere(&mut self, state: &Path) -> Outcome<String> {
        wait("the nodes do not reach one another", || self.reaches(0, self.nodes - 1))?;
        let region = format!("ram={}", state.display());
        self.ask(0, &["push", "data", "--region", &region])?;
        let log = |node| self.ask(node, &["log", "data", "--json"]).unwrap_or_default();
        let find =
            |text: &str| text.split("\"id\":\"").nth(1).and_then(|rest| rest.get(..64).map(str::to_owned));
        let snapshot = find(&log(0)).ok_or("the node that took the snapshot does not list it")?;
        for node in 1..self.nodes {
            wait("a node did not get the snapshot", || log(node).contains(&snapshot))?;
        }
        // It would go on to send the empty one what it lacks.
        self.running[0] = None;
        self.run(0)?;
        Ok(snapshot)
    }

    /// Gathers into the empty node, and again when all is there.
    pub(crate) fn gather_into_empty(&mut self, snapshot: &str) -> Outcome<Gathered> {
        let node = self.nodes;
        self.running[node] = None;
        let store = self.node(node).join("store");
        let _ = fs::remove_dir_all(&store);
        self.run(node)?;
        wait("the empty node does not reach the others", || self.reaches(node, self.nodes))?;
        let out = self.folder.join("out");
        let gather = |cluster: &Self| -> Outcome<(Duration, u64)> {
            let _ = fs::remove_dir_all(&out);
            settle();
            let started = Instant::now();
            let to = out.display().to_string();
            let said = cluster.ask(node, &["gather", snapshot, "--to", &to, "--json"])?;
            Ok((started.elapsed(), number(&said, "bytes_fetched").unwrap_or(0)))
        };
        let (whole, bytes) = gather(self)?;
        let (decode, more) = gather(self)?;
        if bytes == 0 || more > 0 {
            return Err("the snapshot was on the empty node before".into());
        }
        self.running[node] = None;
        let _ = fs::remove_dir_all(&out);
        Ok(Gathered { whole, decode, bytes })
    }
}

/// Has the disk done with what came before.
fn settle() {
    // Where there is no such program, times are a little less steady.
    let _ = Command::new("sync").status();
}

/// A number of a JSON object.
fn number(json: &str, name: &str) -> Option<u64> {
    let rest = json.split(&format!("\"{name}\":")).last()?;
    rest.split(|letter: char| !letter.is_ascii_digit()).next()?.parse().ok()
}

fn wait(what: &str, mut reached: impl FnMut() -> bool) -> Outcome<()> {
    let until = Instant::now() + PATIENCE;
    while !reached() {
        if Instant::now() > until {
            return Err(what.into());
        }
        sleep(Duration::from_millis(50));
    }
    Ok(())
}
