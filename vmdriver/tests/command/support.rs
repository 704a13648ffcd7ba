//! The example, built, a sink, and questions to the server.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use sustain_proto::{Region, RegionName, ServiceName};
use sustain_store::{RegionSource, RestoreTarget};
use sustain_vmdriver::{CommandDriver, CommandSettings, PortForward, SnapshotSink, Vm, VmSpec};

/// A test's own example and its run folder.
pub(crate) struct Bench {
    folder: tempfile::TempDir,
}

impl Bench {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let build = concat!(env!("CARGO_MANIFEST_DIR"), "/../testdata/command-example/build");
        let built = Command::new(build).arg(folder.path().join("programs")).status().unwrap();
        assert!(built.success(), "the example can't be built");
        Self { folder }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Puts another program in the place of one of the example's.
    pub(crate) fn replace(&self, verb: &str, script: &str) {
        let path = self.path("programs").join(verb);
        // By another process: a file that is open for writing in one that forks meanwhile can't be run.
        let write = "rm -f \"$1\" && printf '#!/bin/sh\\n%s\\n' \"$2\" > \"$1\" && chmod 755 \"$1\"";
        let written = Command::new("sh").args(["-c", write, "sh"]).arg(&path).arg(script).status().unwrap();
        assert!(written.success());
    }

    pub(crate) fn remove(&self, verb: &str) {
        fs::remove_file(self.path("programs").join(verb)).unwrap();
    }

    pub(crate) fn driver(&self) -> CommandDriver {
        CommandDriver::new(self.settings())
    }

    pub(crate) fn settings(&self) -> CommandSettings {
        CommandSettings {
            folder: self.path("programs"),
            snapshot_timeout: Duration::from_secs(2),
            start_timeout: Duration::from_secs(5),
            alive_interval: Duration::from_millis(10),
        }
    }
}

pub(crate) fn spec() -> VmSpec {
    let mut spec = VmSpec::new(ServiceName::new("counter").unwrap(), "");
    spec.kernel = None;
    let host = "127.0.0.1:0".parse().unwrap();
    spec.forwards = vec![PortForward { host, guest_port: 80 }, PortForward { host, guest_port: 81 }];
    spec
}

/// What the server answers: the count and the id of its state.
pub(crate) fn ask(vm: &dyn Vm, path: &str) -> (u64, String) {
    let text = get(vm.forwards()[0].host, path).unwrap();
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    (value["count"].as_u64().unwrap(), value["boot_id"].as_str().unwrap().to_owned())
}

fn get(address: SocketAddr, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    write!(stream, "GET {path} HTTP/1.0\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer.split_once("\r\n\r\n")?.1.to_owned())
}

pub(crate) fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < Duration::from_secs(30), "{what}: not within half a minute");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Whether a process is there, not merely waiting to be buried.
pub(crate) fn is_there(pid: u32) -> bool {
    fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.is_empty())
}

/// A snapshot's regions, in memory.
#[derive(Debug, Default)]
pub(crate) struct Regions(pub(crate) BTreeMap<String, Vec<u8>>);

impl SnapshotSink for Regions {
    fn region(
        &mut self,
        name: &RegionName,
        source: &dyn RegionSource,
        changed: Option<&[Range<u64>]>,
    ) -> Result<(), Box<dyn Error + Send + Sync>> {
        assert!(changed.is_none(), "this driver offers everything");
        let mut bytes = vec![0; usize::try_from(source.bytes())?];
        source.read_at(0, &mut bytes)?;
        self.0.insert(name.to_string(), bytes);
        Ok(())
    }
}

impl Regions {
    /// Writes the regions as a store's restore would.
    pub(crate) fn restore(&self, target: &dyn RestoreTarget) {
        for (name, bytes) in &self.0 {
            let region = Region { name: RegionName::new(name.as_str()).unwrap(), bytes: bytes.len() as u64 };
            let file = target.open(&region).unwrap().unwrap();
            file.set_len(region.bytes).unwrap();
            file.write_all_at(bytes, 0).unwrap();
        }
        target.finish().unwrap();
    }
}
