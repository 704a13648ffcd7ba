//! Reads the repository's text files.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::Source;

/// Folders that are made, not written.
const SKIPPED: [&str; 4] = ["target", ".git", "proptest-regressions", "build"];

/// What counts as text by its ending.
const ENDINGS: [&str; 6] = [".rs", ".toml", ".md", ".sh", ".yml", ".html"];

/// Files without an ending in these places are scripts.
const SCRIPTS: [&str; 4] = ["Makefile", ".ci/", "scripts/", "testdata/"];

/// Larger files are data.
const BYTES_MAX: u64 = 1 << 20;

/// The repository's root.
#[must_use]
pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_path_buf()
}

/// All text files below a folder, in the order of their paths.
///
/// # Errors
/// If a folder or file can't be read.
pub fn read_sources(root: &Path) -> io::Result<Vec<Source>> {
    let mut sources = Vec::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let (kind, path) = (entry.file_type()?, entry.path());
            if kind.is_dir() && !SKIPPED.contains(&name.as_str()) {
                folders.push(path);
            } else if kind.is_file() {
                let relative = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().into_owned();
                if is_text(&relative) && entry.metadata()?.len() <= BYTES_MAX {
                    match fs::read_to_string(&path) {
                        Ok(text) => sources.push(Source::new(relative, text)),
                        // What is not UTF-8 is no text, whatever it is called.
                        Err(error) if error.kind() == io::ErrorKind::InvalidData => {}
                        Err(error) => return Err(error),
                    }
                }
            }
        }
    }
    sources.sort_by(|one, other| one.path.cmp(&other.path));
    Ok(sources)
}

fn is_text(path: &str) -> bool {
    let file = path.rsplit('/').next().unwrap_or(path);
    let is_script = !file.contains('.') && SCRIPTS.iter().any(|place| path.starts_with(place));
    is_script || ENDINGS.iter().any(|ending| file.ends_with(ending))
}

#[cfg(test)]
mod tests {
    use super::is_text;

    #[test]
    fn text_is_known_by_its_name() {
        for path in
            ["a/src/lib.rs", "Cargo.toml", ".config/nextest.toml", ".ci/run", "scripts/setup", "Makefile"]
        {
            assert!(is_text(path), "{path}");
        }
        for path in ["Cargo.lock", "LICENSE-MIT", "testdata/a.bin", "a/data"] {
            assert!(!is_text(path), "{path}");
        }
    }
}
