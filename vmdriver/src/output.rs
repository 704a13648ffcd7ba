//! What QEMU and the guest's serial port say: a log file of bounded size, and the last lines for errors.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use crate::limits::{CONSOLE_FILE_BYTES_MAX, OUTPUT_TAIL_BYTES_MAX};

/// The name of the console log in a VM's folder. A full one is renamed to `console.log.1`.
pub const CONSOLE_FILE: &str = "console.log";

/// The last bytes of an output, shared with whoever writes an error message.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tail(Arc<Mutex<VecDeque<u8>>>);

/// Lines of the tail that fit an error message.
const TAIL_LINES_MAX: usize = 6;

impl Tail {
    fn push(&self, bytes: &[u8]) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.extend(bytes);
        let excess = kept.len().saturating_sub(OUTPUT_TAIL_BYTES_MAX);
        kept.drain(..excess);
    }

    /// The last lines as one line of printable text: a guest must not write to the reader's terminal.
    pub(crate) fn text(&self) -> String {
        let kept: Vec<u8> = self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect();
        let text = String::from_utf8_lossy(&kept);
        let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        let last = &lines[lines.len().saturating_sub(TAIL_LINES_MAX)..];
        last.join(" | ").chars().filter(|c| !c.is_control()).collect()
    }
}

/// The log, renamed to `console.log.1` whenever it is full.
#[derive(Debug)]
pub(crate) struct ConsoleFile {
    path: PathBuf,
    file: File,
    bytes: u64,
}

impl ConsoleFile {
    /// Makes the folder if need be and begins a new log in it.
    ///
    /// # Errors
    /// If either can't be made.
    pub(crate) fn create(run_dir: &Path) -> io::Result<Self> {
        Self::create_named(run_dir, CONSOLE_FILE)
    }

    /// The same, with a name of its own.
    ///
    /// # Errors
    /// If the folder or the file can't be made.
    pub(crate) fn create_named(run_dir: &Path, name: &str) -> io::Result<Self> {
        fs::create_dir_all(run_dir)?;
        let path = run_dir.join(name);
        let file = File::create(&path)?;
        Ok(Self { path, file, bytes: 0 })
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.bytes + bytes.len() as u64 > CONSOLE_FILE_BYTES_MAX {
            fs::rename(&self.path, self.path.with_extension("log.1"))?;
            self.file = File::create(&self.path)?;
            self.bytes = 0;
        }
        self.file.write_all(bytes)?;
        self.bytes += bytes.len() as u64;
        Ok(())
    }
}

/// Copies an output to the log and the tail until it ends. A log that can't be written (a full disk)
/// must not stop the guest, whose serial port would block if nobody read on.
pub(crate) fn pump(mut output: impl Read, mut console: Option<ConsoleFile>, tail: &Tail) {
    let mut buffer = [0_u8; 8 * 1024];
    loop {
        let bytes = match output.read(&mut buffer) {
            Ok(0) => return,
            Ok(bytes) => &buffer[..bytes],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => {
                tracing::warn!(%error, "can't read a VM's output any more");
                return;
            }
        };
        tail.push(bytes);
        let Some(file) = &mut console else { continue };
        if let Err(error) = file.write(bytes) {
            tracing::warn!(%error, path = %file.path.display(), "a VM's console log ends here");
            console = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_stays_bounded_and_the_tail_is_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let console = ConsoleFile::create(folder.path()).unwrap();
        let tail = Tail::default();
        let mut text = Vec::new();
        for number in 0..300_000 {
            writeln!(text, "line {number}").unwrap();
        }
        assert!(text.len() as u64 > 3 * CONSOLE_FILE_BYTES_MAX);
        pump(text.as_slice(), Some(console), &tail);
        let new = fs::read(folder.path().join("console.log")).unwrap();
        let old = fs::read(folder.path().join("console.log.1")).unwrap();
        assert!(new.len() as u64 <= CONSOLE_FILE_BYTES_MAX && old.len() as u64 <= CONSOLE_FILE_BYTES_MAX);
        assert!(text.ends_with(&[old, new].concat()), "the two files are the end of the output");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
        assert!(tail.text().ends_with("line 299998 | line 299999"), "{}", tail.text());
    }

    #[test]
    fn a_tail_is_one_printable_line() {
        let tail = Tail::default();
        tail.push(b"one\r\n\n\x1b[31mtwo\x07\xff\n");
        assert_eq!(tail.text(), "one | [31mtwo\u{fffd}");
    }
}
