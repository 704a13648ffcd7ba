//! Disks for tests.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use sustain_vmdriver::disk::{BlockSource, ChunkContent, Disk, DiskOptions, DiskOrigin, Unavailable};

pub(crate) const MIB: u64 = 1 << 20;

/// Disks are served by the small program beside the tests.
pub(crate) fn options() -> DiskOptions {
    DiskOptions { server: vec![env!("CARGO_BIN_EXE_sustain-disk-server").into()], syncs: false }
}

/// A folder with an image, and a disk over it.
pub(crate) struct Place {
    pub(crate) disk: Option<Disk>,
    pub(crate) image: PathBuf,
    pub(crate) folder: tempfile::TempDir,
}

impl Place {
    /// An image with data in its first quarter, and a disk over it.
    pub(crate) fn new(bytes: u64) -> Self {
        Self::with(bytes, &options())
    }

    /// The same with other options.
    pub(crate) fn with(bytes: u64, options: &DiskOptions) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("image");
        let file = File::create(&image).unwrap();
        file.set_len(bytes).unwrap();
        let mut random = Random(bytes);
        for block in 0..bytes / 4 / 4_096 {
            file.write_all_at(&random.next().to_le_bytes().repeat(512), block * 4_096).unwrap();
        }
        let origin = DiskOrigin::Image(image.clone());
        let disk = Disk::create(&folder.path().join("disk"), origin, options).unwrap();
        Self { disk: Some(disk), image, folder }
    }

    pub(crate) fn disk(&mut self) -> &mut Disk {
        self.disk.as_mut().unwrap()
    }

    pub(crate) fn socket(&self) -> &Path {
        self.disk.as_ref().unwrap().socket()
    }

    /// The address that NBD clients know.
    pub(crate) fn uri(&self) -> String {
        format!("nbd+unix:///disk0?socket={}", self.socket().display())
    }
}

/// Kills the disk's process as the system would, and waits until another answers.
pub(crate) fn kill_server(disk: &Disk) {
    let (pid, restarts) = disk.process();
    let pid = pid.expect("a process runs").to_string();
    assert!(Command::new("kill").args(["-KILL", &pid]).status().unwrap().success());
    wait_for("another process", || disk.process().1 > restarts && disk.process().0.is_some());
}

/// Waits for a condition.
pub(crate) fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < Duration::from_secs(30), "no {what} after 30 s");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A source of blocks in memory that can be told to fail.
pub(crate) struct MemorySource {
    pub(crate) bytes: Vec<u8>,
    pub(crate) fails: AtomicBool,
    pub(crate) asked: Mutex<Vec<u64>>,
}

impl MemorySource {
    pub(crate) fn new(bytes: Vec<u8>) -> Self {
        Self { bytes, fails: AtomicBool::new(false), asked: Mutex::new(Vec::new()) }
    }
}

impl BlockSource for MemorySource {
    fn bytes(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn read_chunk(&self, chunk: u64, buffer: &mut [u8]) -> Result<ChunkContent, Unavailable> {
        self.asked.lock().unwrap().push(chunk);
        if self.fails.load(Ordering::SeqCst) {
            return Err(Unavailable::new("the test says so"));
        }
        let start = chunk as usize * 65_536;
        buffer.copy_from_slice(&self.bytes[start..start + buffer.len()]);
        Ok(ChunkContent::Data)
    }
}

/// Xorshift.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}
