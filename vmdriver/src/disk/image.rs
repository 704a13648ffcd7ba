//! Images that users give: looked at each time, then raw ones are used as they are, qcow2 is converted once.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::error::DiskError;
use super::stamp::Stamp;
use crate::image_info::{ImageFormat, QCOW2_ON_STDIN, inspect_open, open_image};
use crate::limits::{CONVERT_SILENCE_MAX, CONVERT_TIMEOUT};
use crate::process::{Launch, Process};

/// How converted images and those that are not whole yet are called.
const CONVERTED: [&str; 2] = ["raw", "part"];

/// The image in raw form: itself, or a copy in the cache folder that is made by `qemu-img` the first time.
/// Another file, size or time of change makes it another image. The cache is for one image: conversions of
/// others, and of what it was before, are removed. `progress` is told how much is done, in percent.
///
/// # Errors
/// If the image can't be read or is none that a guest may have (see [`crate::inspect_image`]), or if `qemu-img`
/// is missing, fails or stands still.
pub fn raw_image(image: &Path, cache: &Path, progress: &mut dyn FnMut(f64)) -> Result<PathBuf, DiskError> {
    let failed = |source| DiskError::Image { path: image.to_owned(), source };
    let file = open_image(image)?;
    let before = file.metadata().map_err(failed)?;
    if inspect_open(&file, image)?.format == ImageFormat::Raw {
        return Ok(image.to_owned());
    }
    let stamp = Stamp::of(&before);
    let raw = cache.join(cached_name(&fs::canonicalize(image).map_err(failed)?, stamp));
    remove_others(cache, &raw).map_err(failed)?;
    if !raw.exists() {
        let part = raw.with_extension("part");
        let converted = convert(&file, cache, &part, progress).and_then(|()| {
            // It was looked at before: what was written to it since may be anything.
            if Stamp::of(&file.metadata()?) == stamp {
                fs::rename(&part, &raw)
            } else {
                Err(io::Error::other("it was changed while it was converted"))
            }
        });
        if converted.is_err() {
            let _ = fs::remove_file(&part);
        }
        converted.map_err(failed)?;
    }
    Ok(raw)
}

/// A name that only this state of this file has.
fn cached_name(image: &Path, stamp: Stamp) -> String {
    let text = [image.as_os_str().as_bytes(), b"\0", stamp.text().as_bytes()].concat();
    format!("{}.raw", blake3::hash(&text).to_hex())
}

/// Removes all conversions but this one.
fn remove_others(cache: &Path, wanted: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(cache) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let path = entry?.path();
        let is_ours = CONVERTED.iter().any(|it| path.extension().is_some_and(|extension| extension == *it));
        if is_ours && path != wanted {
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}

/// Converts into another name first, so that what has the right name is whole.
fn convert(image: &File, cache: &Path, part: &Path, progress: &mut dyn FnMut(f64)) -> io::Result<()> {
    fs::create_dir_all(cache)?;
    let mut command_line: Vec<OsString> =
        ["qemu-img", "convert", "-p", "-O", "raw", QCOW2_ON_STDIN].map(OsString::from).to_vec();
    command_line.push(part.into());
    let (ours, theirs) = UnixStream::pair()?;
    let stdin = image.try_clone()?.into();
    let process = Process::start(Launch { command_line, stdin, stdout: theirs.into(), console: None })?;
    let deadline = Instant::now() + CONVERT_TIMEOUT;
    let late = || io::Error::new(io::ErrorKind::TimedOut, "qemu-img convert takes too long, or stands still");
    // What takes too long is ended with its handle.
    report(&ours, progress, deadline, CONVERT_SILENCE_MAX).map_err(|_| late())?;
    match process.wait(CONVERT_SILENCE_MAX) {
        Some(report) if report.code == Some(0) => File::open(part)?.sync_all(),
        Some(report) => Err(io::Error::other(format!("qemu-img convert: {report}"))),
        None => Err(late()),
    }
}

/// Passes on what qemu-img says, `    (12.34/100%)`, until it says no more.
///
/// # Errors
/// If it goes on past the deadline, or is silent for too long.
fn report(
    mut output: &UnixStream,
    progress: &mut dyn FnMut(f64),
    deadline: Instant,
    silence_max: Duration,
) -> io::Result<()> {
    let mut buffer = [0; 256];
    loop {
        let left = deadline.saturating_duration_since(Instant::now()).min(silence_max);
        // None at all would mean to wait for ever.
        output.set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
        let bytes = match output.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(_) if Instant::now() >= deadline => return Err(io::ErrorKind::TimedOut.into()),
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let text = String::from_utf8_lossy(&buffer[..bytes]);
        let percent =
            text.rsplit_once("/100%").and_then(|(before, _)| before.rsplit_once('(')?.1.parse().ok());
        if let Some(percent) = percent {
            progress(percent);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    /// A `qemu-img` that stood still held the VM's thread for ever: the limit was looked at after its last word.
    #[test]
    fn a_conversion_that_says_nothing_more_is_given_up() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(b"    (12.50/100%)\r").unwrap();
        let mut told = 0.0;
        let far = Instant::now() + Duration::from_secs(600);
        let silent = report(&ours, &mut |percent| told = percent, far, Duration::from_millis(50));
        assert!((told - 12.5_f64).abs() < 0.01 && silent.is_err(), "{told} {silent:?}");
        // Nor does one last that keeps talking.
        theirs.write_all(b"    (13.00/100%)\r").unwrap();
        assert!(report(&ours, &mut |_| (), Instant::now(), Duration::from_secs(600)).is_err());
        drop(theirs);
        report(&ours, &mut |_| (), far, Duration::from_secs(600)).unwrap();
    }
}
