//! The mail guest's files, its disk, and the ways into it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::thread;
use std::time::{Duration, Instant};

use sustain_vmdriver::disk::{BlockSource, ChunkContent, DiskOptions, Unavailable};
use sustain_vmdriver::{
    ChannelEnd, ChannelInput, ChannelLink, DiskSpec, GuestAgent, GuestCommand, GuestError, PortForward,
    QemuDriver, Vm, VmDriver, VmSpec, WakeReport,
};
use tempfile::TempDir;

use crate::post::Post;
use crate::support::Regions;

const PATIENCE: Duration = Duration::from_secs(120);

/// The guest, and a folder for what a run writes.
pub(crate) struct Bench {
    guest: PathBuf,
    folder: TempDir,
}

impl Bench {
    pub(crate) fn new() -> Self {
        let target = concat!(env!("CARGO_MANIFEST_DIR"), "/../target");
        let guest = std::env::var_os("SUSTAIN_GUEST_MAIL_DIR")
            .map_or_else(|| Path::new(target).join("guest-mail"), PathBuf::from);
        assert!(guest.join("disk.raw").exists(), "{} has no guest: run `make guest-mail`", guest.display());
        // On a disk, not in memory: the guest's writes may take hundreds of MiB.
        let folder = tempfile::tempdir_in(target).unwrap();
        Self { guest, folder }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn spec(&self) -> VmSpec {
        let mut spec = VmSpec::new("mail".parse().unwrap(), self.guest.join("vmlinuz"));
        spec.initramfs = Some(self.guest.join("initramfs.cpio.gz"));
        spec.memory_bytes = 384 << 20;
        spec.qemu = std::env::var_os("SUSTAIN_QEMU").map(PathBuf::from);
        spec.disk = Some(DiskSpec { image: self.guest.join("disk.raw") });
        let forward = |guest_port| PortForward { host: "127.0.0.1:0".parse().unwrap(), guest_port };
        spec.forwards = vec![forward(25), forward(110), forward(143)];
        spec
    }
}

/// Where a VM's mail ports are to be had.
pub(crate) fn post(vm: &dyn Vm) -> Post {
    let host = |port| vm.forwards().iter().find(|forward| forward.guest_port == port).unwrap().host;
    Post { smtp: host(25), pop3: host(110), imap: host(143) }
}

/// The driver, whose disks are served by a process of their own.
pub(crate) fn driver() -> QemuDriver {
    let server = vec![env!("CARGO_BIN_EXE_sustain-disk-server").into()];
    QemuDriver::new().with_disks(DiskOptions { server, syncs: false })
}

/// The disk of a snapshot, as a store would give it.
struct Blocks(Vec<u8>);

impl BlockSource for Blocks {
    fn bytes(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_chunk(&self, chunk: u64, buffer: &mut [u8]) -> Result<ChunkContent, Unavailable> {
        let start = usize::try_from(chunk).unwrap() << 16;
        buffer.copy_from_slice(&self.0[start..start + buffer.len()]);
        Ok(ChunkContent::Data)
    }
}

/// Lets a VM go on from its regions.
pub(crate) fn restore(spec: &VmSpec, mut regions: Regions, run_dir: &Path) -> Box<dyn Vm> {
    let mut prepared = driver().prepare(spec, run_dir).unwrap();
    regions.restore(prepared.target()).unwrap();
    prepared.set_disk(Arc::new(Blocks(regions.0.remove("disk0").unwrap())));
    prepared.resume().unwrap()
}

/// Answers whatever the guest asks by its own question.
pub(crate) fn answer(end: ChannelEnd) -> impl Drop {
    let (sender, inputs) = sync_channel(16);
    let link = ChannelLink::start(end, move |input| drop(sender.send(input))).unwrap();
    let thread = thread::spawn(move || {
        while let Ok(ChannelInput::Line(line)) = inputs.recv() {
            let answered = link.send(std::str::from_utf8(&line).unwrap());
            assert!(answered);
        }
    });
    Answering(Some(thread))
}

struct Answering(Option<thread::JoinHandle<()>>);

impl Drop for Answering {
    fn drop(&mut self) {
        // It ends with the VM.
        drop(self.0.take());
    }
}

pub(crate) fn wait_for_agent(vm: &mut dyn Vm) -> Arc<dyn GuestAgent> {
    let started = Instant::now();
    loop {
        match vm.guest_agent() {
            Ok(agent) => return agent,
            Err(error) => assert!(matches!(error, GuestError::Absent), "{error:?}"),
        }
        assert!(
            started.elapsed() < PATIENCE,
            "the guest's agent does not come up; the VM is {:?}",
            vm.state()
        );
        thread::sleep(Duration::from_millis(20));
    }
}

pub(crate) fn wait_for_wake(vm: &mut dyn Vm) -> WakeReport {
    let started = Instant::now();
    loop {
        if let Some(report) = vm.take_wake_report() {
            return report;
        }
        assert!(started.elapsed() < PATIENCE, "no report of what the restored guest was told");
        thread::sleep(Duration::from_millis(10));
    }
}

/// Runs a script that must succeed, and returns what it wrote.
pub(crate) fn run(agent: &dyn GuestAgent, script: &str) -> String {
    let command = GuestCommand {
        program: "sh".to_owned(),
        arguments: vec!["-c".to_owned(), script.to_owned()],
        environment: Vec::new(),
        deadline: PATIENCE,
    };
    let mut output = Vec::new();
    let exit = agent.run(&command, &mut io::empty(), &mut output).unwrap();
    assert_eq!(exit.code, Some(0), "{script}: {}", exit.stderr_tail);
    String::from_utf8(output).unwrap()
}
