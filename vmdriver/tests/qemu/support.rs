//! What the tests with a real guest share: its spec, an HTTP client for its counter, and sinks.

use std::collections::BTreeMap;
use std::env;
use std::error::Error;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use sustain_proto::limits::CHUNK_BYTES;
use sustain_proto::{Region, RegionName, ServiceName};
use sustain_store::{RegionSource, RestoreTarget};
use sustain_vmdriver::{PortForward, SnapshotSink, Vm, VmSpec};

/// Guest memory in tests: little, so that taking and comparing it is quick.
pub(crate) const MEMORY_BYTES: u64 = 128 << 20;

/// Booting takes about 3.5 s under emulation on an idle machine; tests share theirs with others.
pub(crate) const BOOT_TIMEOUT: Duration = Duration::from_secs(120);

/// A guest that runs answers within some milliseconds, one just restored within a second.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// The spec of the test guest. `SUSTAIN_QEMU` names another QEMU than the one on the path.
pub(crate) fn spec(service: &str) -> VmSpec {
    let folder = env::var_os("SUSTAIN_GUEST_DIR").map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../target/guest")),
        PathBuf::from,
    );
    let (kernel, initramfs) = (folder.join("vmlinuz"), folder.join("initramfs.cpio.gz"));
    for file in [&kernel, &initramfs] {
        assert!(file.exists(), "{} is missing: run `make setup`", file.display());
    }
    let mut spec = VmSpec::new(ServiceName::new(service).unwrap(), kernel);
    spec.initramfs = Some(initramfs);
    spec.memory_bytes = MEMORY_BYTES;
    spec.qemu = env::var_os("SUSTAIN_QEMU").map(PathBuf::from);
    let host = "127.0.0.1:0".parse().unwrap();
    spec.forwards = vec![PortForward { host, guest_port: 8080 }];
    spec
}

/// What the counter answers.
#[derive(Debug, Clone, PartialEq, serde::Deserialize)]
pub(crate) struct Count {
    pub(crate) count: u64,
    pub(crate) boot_id: String,
    pub(crate) uptime_ms: u64,
}

/// One HTTP request; none if the guest does not answer it whole.
pub(crate) fn get(address: SocketAddr, path: &str, timeout: Duration) -> Option<String> {
    let mut stream = TcpStream::connect_timeout(&address, timeout).ok()?;
    stream.set_read_timeout(Some(timeout)).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: guest\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    head.starts_with("HTTP/1.1 200 ").then(|| body.to_owned())
}

/// Waits until the guest has booted. The host's side of a forwarded port takes connections from the first
/// moment on; one that is made before the guest listens is answered late or never, so the tries are short.
pub(crate) fn wait_for_boot(vm: &mut dyn Vm) -> Count {
    let address = vm.forwards()[0].host;
    let started = Instant::now();
    loop {
        if let Some(body) = get(address, "/peek", Duration::from_millis(300)) {
            return serde_json::from_str(&body).unwrap();
        }
        assert!(started.elapsed() < BOOT_TIMEOUT, "no answer from the guest; the VM is {:?}", vm.state());
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Asks the VM's counter, once: a second try could count twice.
pub(crate) fn ask(vm: &mut dyn Vm, path: &str) -> Count {
    let body = get(vm.forwards()[0].host, path, ANSWER_TIMEOUT);
    let body = body.unwrap_or_else(|| panic!("no answer to {path}; the VM is {:?}", vm.state()));
    serde_json::from_str(&body).unwrap()
}

/// Has the guest write to so many random pages a second, within so much memory. Saying it twice does no harm.
pub(crate) fn set_load(vm: &dyn Vm, pages: u64, mib: u64) {
    let path = format!("/load?pages={pages}&mib={mib}");
    let started = Instant::now();
    while get(vm.forwards()[0].host, &path, ANSWER_TIMEOUT).is_none() {
        assert!(started.elapsed() < BOOT_TIMEOUT, "no answer to {path}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The regions of a snapshot, in memory.
#[derive(Debug, Default, Clone)]
pub(crate) struct Regions(pub(crate) BTreeMap<String, Vec<u8>>);

impl SnapshotSink for Regions {
    fn region(
        &mut self,
        name: &RegionName,
        source: &dyn RegionSource,
        changed: Option<&[Range<u64>]>,
    ) -> Result<(), Box<dyn Error + Send + Sync>> {
        let length = usize::try_from(source.bytes())?;
        let (ranges, mut bytes) = match changed {
            None => (source.data_ranges()?, vec![0; length]),
            Some(ranges) => (on_the_grid(ranges, source.bytes()), self.0.remove(name.as_str()).unwrap()),
        };
        assert_eq!(bytes.len(), length, "a region keeps its size");
        for range in ranges {
            let (start, end) = (usize::try_from(range.start)?, usize::try_from(range.end)?);
            source.read_at(range.start, &mut bytes[start..end])?;
        }
        self.0.insert(name.to_string(), bytes);
        Ok(())
    }
}

/// The ranges widened to whole chunks, as a store takes them.
fn on_the_grid(ranges: &[Range<u64>], bytes: u64) -> Vec<Range<u64>> {
    let chunk = CHUNK_BYTES as u64;
    let widen =
        |range: &Range<u64>| range.start / chunk * chunk..bytes.min(range.end.next_multiple_of(chunk));
    ranges.iter().map(widen).collect()
}

impl Regions {
    /// Writes the regions as a store's restore would.
    pub(crate) fn restore(&self, target: &dyn RestoreTarget) -> std::io::Result<()> {
        for (name, bytes) in &self.0 {
            let region = Region { name: RegionName::new(name.as_str()).unwrap(), bytes: bytes.len() as u64 };
            let Some(file): Option<File> = target.open(&region)? else { continue };
            if !target.is_blank(&region) {
                file.set_len(0)?;
                file.set_len(region.bytes)?;
            }
            for (position, chunk) in bytes.chunks(1 << 16).enumerate() {
                if chunk.iter().any(|byte| *byte != 0) {
                    file.write_all_at(chunk, (position << 16) as u64)?;
                }
            }
        }
        target.finish()
    }
}
