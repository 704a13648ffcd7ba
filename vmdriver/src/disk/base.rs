//! What lies below all layers: a user's image, or chunks that are fetched.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use rustix::fs::SeekFrom;

use super::lazy::Lazy;

/// A base. Nothing is ever written to it but what it fetched.
pub(crate) enum Base {
    /// A raw image, never written to.
    Image { file: File, bytes: u64 },
    /// Chunks that come when they are asked for.
    Lazy(Arc<Lazy>),
}

impl Base {
    /// Fills the buffer. Past an image's end there are zeros.
    pub(crate) fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        match self {
            Self::Image { file, bytes } => read_image(file, *bytes, offset, buffer),
            Self::Lazy(lazy) => lazy.read(offset, buffer),
        }
    }

    /// Cuts a range where the base changes between what may be data and what is a hole, at most so many
    /// times: end of each part, and whether it is a hole.
    pub(crate) fn parts(&self, range: Range<u64>, parts_max: usize) -> Vec<(u64, bool)> {
        let mut parts: Vec<(u64, bool)> = Vec::new();
        let mut at = range.start;
        while at < range.end {
            let (end, is_hole) = match self {
                Self::Image { file, bytes } => next_part(file, *bytes, at),
                Self::Lazy(lazy) => {
                    let size = sustain_proto::limits::CHUNK_BYTES as u64;
                    ((at / size + 1) * size, lazy.is_zero_at(at))
                }
            };
            // Whatever a file system answers, this moves on.
            let end = end.clamp(at + 1, range.end);
            let is_full = parts.len() == parts_max;
            match parts.last_mut() {
                Some((last, of)) if *of == is_hole => *last = end,
                _ if is_full => return parts,
                _ => parts.push((end, is_hole)),
            }
            at = end;
        }
        parts
    }
}

/// Reads from an image; past its end there are zeros.
pub(crate) fn read_image(file: &File, bytes: u64, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
    let inside = bytes.saturating_sub(offset).min(buffer.len() as u64) as usize;
    let (inside, past) = buffer.split_at_mut(inside);
    past.fill(0);
    file.read_exact_at(inside, offset)
}

/// Where the part that begins here ends, and whether it is a hole.
fn next_part(file: &File, bytes: u64, at: u64) -> (u64, bool) {
    if at >= bytes {
        return (u64::MAX, true);
    }
    match rustix::fs::seek(file, SeekFrom::Data(at)) {
        Ok(data) if data > at => (data, true),
        Ok(_) => match rustix::fs::seek(file, SeekFrom::Hole(at)) {
            Ok(hole) => (hole.min(bytes), false),
            Err(_) => (bytes, false),
        },
        Err(rustix::io::Errno::NXIO) => (u64::MAX, true),
        // A file system that knows no holes.
        Err(_) => (bytes, false),
    }
}
