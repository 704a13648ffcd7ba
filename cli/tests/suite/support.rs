//! Running `snapctl`, files with known bytes, and looking at processes.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

/// The program under test.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_snapctl");

/// A run of the program under test.
pub(crate) fn snapctl() -> Command {
    let mut command = Command::new(PROGRAM);
    set_environment(&mut command);
    command
}

/// Nothing of this user's settings is to reach the program.
pub(crate) fn set_environment(command: &mut Command) {
    command.env_remove("SUSTAIN_CONFIG").env("HOME", "/nonexistent").env("SUSTAIN_LOG", "warn");
}

/// A store in a folder of its own, and files to push into it.
pub(crate) struct Bench {
    pub(crate) folder: tempfile::TempDir,
}

impl Bench {
    pub(crate) fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn store(&self) -> PathBuf {
        self.path("store")
    }

    pub(crate) fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, bytes).unwrap();
        path
    }

    /// Runs a command on the store.
    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        snapctl().arg("--store").arg(self.store()).arg("--json").args(arguments).output().unwrap()
    }

    /// Runs a command that must succeed; returns what it printed.
    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        let output = self.run(arguments);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{arguments:?}: {said}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    pub(crate) fn push(&self, service: &str, regions: &[(&str, &Path)]) -> Value {
        let mut arguments = vec!["push".to_owned(), service.to_owned()];
        for (name, path) in regions {
            arguments.extend(["--region".to_owned(), format!("{name}={}", path.display())]);
        }
        self.json(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
    }

    pub(crate) fn gather(&self, snapshot: &str, to: &str) -> PathBuf {
        let folder = self.path(to);
        self.json(&["gather", snapshot, "--to", folder.to_str().unwrap()]);
        folder
    }
}

/// Bytes that don't compress, from a seed: xorshift64*, Vigna 2016.
pub(crate) fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut noise = Vec::with_capacity(bytes + 8);
    while noise.len() < bytes {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        noise.extend_from_slice(&state.wrapping_mul(0x2545_F491_4F6C_DD1D).to_le_bytes());
    }
    noise.truncate(bytes);
    noise
}

/// Overwrites bytes of a file in place.
pub(crate) fn patch(path: &Path, offset: u64, bytes: &[u8]) {
    fs::File::options().write(true).open(path).unwrap().write_all_at(bytes, offset).unwrap();
}

/// Damages a file: a bit of its middle is another one.
pub(crate) fn flip(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(path, bytes).unwrap();
}

/// The file of the last pack that a push lists.
pub(crate) fn pack_of(bench: &Bench, pushed: &Value) -> PathBuf {
    let id = pushed["packs"].as_array().unwrap().last().unwrap()["id"].as_str().unwrap();
    let files = files_below(&bench.store().join("packs"));
    files.into_iter().find(|file| file.to_str().unwrap().contains(id)).unwrap()
}

/// All files below a folder.
pub(crate) fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(files_below(&path));
        } else {
            files.push(path);
        }
    }
    files.sort();
    files
}

/// Processes whose command line contains this text.
pub(crate) fn processes_with(text: &str) -> Vec<u32> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if String::from_utf8_lossy(&line).contains(text) {
            found.push(pid);
        }
    }
    found
}

/// The folder with the test guest; tests with a VM can't run without it, and say so.
pub(crate) fn guest() -> PathBuf {
    let program = Path::new(env!("CARGO_BIN_EXE_snapctl"));
    let built = program.parent().unwrap().parent().unwrap().join("guest");
    let folder = std::env::var_os("SUSTAIN_GUEST_DIR").map_or(built, PathBuf::from);
    assert!(folder.join("vmlinuz").exists(), "no guest in {}: run `make setup` first", folder.display());
    folder
}
