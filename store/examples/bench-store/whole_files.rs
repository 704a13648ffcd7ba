//! Programs that write the difference of two whole files: each later state's files against the first state's.
//!
//! Unlike the others they must be told which file to compare with, and what they write can be read only with all of it.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use sustain_store::{FileSource, RegionSource};

use crate::Outcome;
use crate::encodings::Stored;
use crate::measure::run;
use crate::states::{COUNT, REGIONS, States};

/// zstd takes no base of 2 GiB and more together with the file, so files are cut into pieces for all of them.
const PIECE_BYTES: u64 = 1 << 30;

/// A program and its settings.
struct Tool {
    name: &'static str,
    file: &'static str,
    /// Its arguments for: base, file, result.
    arguments: fn(&Path, &Path, &Path) -> Vec<String>,
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

fn patch(level: &str, base: &Path, file: &Path, to: &Path) -> Vec<String> {
    let from = format!("--patch-from={}", text(base));
    ["-q", "-f", level, "--long=31", "--memory=2048MB", &from, &text(file), "-o", &text(to)]
        .map(str::to_owned)
        .to_vec()
}

fn xdelta(level: &str, base: &Path, file: &Path, to: &Path) -> Vec<String> {
    ["-e", "-q", "-f", level, "-s", &text(base), &text(file), &text(to)].map(str::to_owned).to_vec()
}

const TOOLS: [Tool; 4] = [
    Tool {
        name: "zstd --patch-from, 1",
        file: "zstd",
        arguments: |base, file, to| patch("-1", base, file, to),
    },
    Tool {
        name: "zstd --patch-from, 3",
        file: "zstd",
        arguments: |base, file, to| patch("-3", base, file, to),
    },
    Tool { name: "xdelta3 -1", file: "xdelta3", arguments: |base, file, to| xdelta("-1", base, file, to) },
    Tool { name: "xdelta3 -6", file: "xdelta3", arguments: |base, file, to| xdelta("-6", base, file, to) },
];

/// Measures those that are here.
pub(crate) fn measure(states: &States, scratch: &Path) -> Outcome<Vec<Stored>> {
    let folder = scratch.join("pieces");
    fs::create_dir(&folder)?;
    let mut pieces = Vec::new();
    for number in 1..=COUNT {
        pieces.push(cut(states, number, &folder)?);
    }
    let mut rows = Vec::new();
    for tool in TOOLS {
        let version = Command::new(tool.file).arg("-V").stdout(Stdio::null()).stderr(Stdio::null()).status();
        if let Err(error) = version {
            println!("skipped: {}: {error}", tool.name);
            continue;
        }
        let (mut bytes, mut seconds) = (0, 0.0);
        for later in &pieces[1..] {
            for (base, file) in pieces[0].iter().zip(later) {
                let to = folder.join("result");
                let mut command = Command::new(tool.file);
                command.args((tool.arguments)(base, file, &to));
                seconds += run(vec![command])?.wall;
                bytes += fs::metadata(&to)?.len();
            }
        }
        rows.push(Stored { name: tool.name.to_owned(), first: None, later: Some((bytes, seconds)) });
    }
    fs::remove_dir_all(&folder)?;
    Ok(rows)
}

/// Copies a state's files in pieces, with their holes.
fn cut(states: &States, number: usize, folder: &Path) -> Outcome<Vec<PathBuf>> {
    let mut pieces = Vec::new();
    for region in REGIONS {
        let source = FileSource::open(&states.path(number).join(region))?;
        let mut buffer = vec![0; 1 << 20];
        for (piece, start) in (0..source.bytes()).step_by(PIECE_BYTES as usize).enumerate() {
            let end = source.bytes().min(start + PIECE_BYTES);
            let path = folder.join(format!("{number}-{region}-{piece}"));
            let file = File::create(&path)?;
            file.set_len(end - start)?;
            for range in source.data_ranges()? {
                let (mut at, stop) = (range.start.max(start), range.end.min(end));
                while at < stop {
                    let part = &mut buffer[..(stop - at).min(1 << 20) as usize];
                    source.read_at(at, part)?;
                    file.write_all_at(part, at - start)?;
                    at += part.len() as u64;
                }
            }
            pieces.push(path);
        }
    }
    Ok(pieces)
}
