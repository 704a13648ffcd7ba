//! Images that users give: raw ones are used as they are, qcow2 is converted once.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use super::error::DiskError;
use crate::limits::CONVERT_TIMEOUT;
use crate::process::{Launch, Process};

/// How a qcow2 image begins.
const QCOW2_MAGIC: [u8; 4] = *b"QFI\xfb";

/// The image in raw form: itself, or a copy in the cache folder that is made by `qemu-img` the first time.
/// Another size or time of change makes it another image. `progress` is told how much is done, in percent.
///
/// # Errors
/// If the image can't be read, or `qemu-img` is missing or fails.
pub fn raw_image(image: &Path, cache: &Path, progress: &mut dyn FnMut(f64)) -> Result<PathBuf, DiskError> {
    let failed = |source| DiskError::Image { path: image.to_owned(), source };
    if !is_qcow2(image).map_err(failed)? {
        return Ok(image.to_owned());
    }
    let metadata = fs::metadata(image).map_err(failed)?;
    let name = image.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let (bytes, time, part) = (metadata.len(), metadata.mtime(), metadata.mtime_nsec());
    let raw = cache.join(format!("{name}-{bytes}-{time}.{part:09}.raw"));
    if !raw.exists() {
        convert(image, cache, &raw, progress).map_err(failed)?;
    }
    Ok(raw)
}

fn is_qcow2(image: &Path) -> io::Result<bool> {
    let mut magic = Vec::new();
    File::open(image)?.take(QCOW2_MAGIC.len() as u64).read_to_end(&mut magic)?;
    Ok(magic == QCOW2_MAGIC)
}

/// Converts into another name first, so that what has the right name is whole.
fn convert(image: &Path, cache: &Path, raw: &Path, progress: &mut dyn FnMut(f64)) -> io::Result<()> {
    fs::create_dir_all(cache)?;
    let part = raw.with_extension(format!("{}.part", std::process::id()));
    let mut command_line: Vec<OsString> =
        ["qemu-img", "convert", "-p", "-f", "qcow2", "-O", "raw"].map(OsString::from).to_vec();
    command_line.extend([image.into(), part.clone().into()]);
    let (ours, theirs) = UnixStream::pair()?;
    let stdin = File::open("/dev/null")?.into();
    let process = Process::start(Launch { command_line, stdin, stdout: theirs.into(), console: None })?;
    report(&ours, progress);
    let result = match process.wait(CONVERT_TIMEOUT) {
        Some(report) if report.code == Some(0) => {
            File::open(&part).and_then(|file| file.sync_all()).and_then(|()| fs::rename(&part, raw))
        }
        Some(report) => Err(io::Error::other(format!("qemu-img convert: {report}"))),
        None => Err(io::Error::new(io::ErrorKind::TimedOut, "qemu-img convert takes too long")),
    };
    if result.is_err() {
        let _ = fs::remove_file(&part);
    }
    result
}

/// Passes on what qemu-img says, `    (12.34/100%)`, until it says no more.
fn report(mut output: &UnixStream, progress: &mut dyn FnMut(f64)) {
    let mut buffer = [0; 256];
    while let Ok(bytes @ 1..) = output.read(&mut buffer) {
        let text = String::from_utf8_lossy(&buffer[..bytes]);
        let percent =
            text.rsplit_once("/100%").and_then(|(before, _)| before.rsplit_once('(')?.1.parse().ok());
        if let Some(percent) = percent {
            progress(percent);
        }
    }
}
