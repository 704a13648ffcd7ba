//! Checksums of a file on the disk, by which a test tells that all of it came over.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};

use crate::PAGE_BYTES;
use crate::http::Request;

const FILE: &str = "/data/payload";
const MIB: usize = 1 << 20;
/// Linux's flag for reading from the disk itself, past all caches.
const O_DIRECT: i32 = 0o40_000;

pub fn sum(request: &Request<'_>) -> (u16, String) {
    match read(request.number("mib").unwrap_or(0)) {
        Ok(sum) => (200, format!("{{\"sum\":{sum}}}")),
        Err(error) => (503, format!("{{\"error\":\"{}\"}}", error.kind())),
    }
}

/// FNV-1a over words, of one MiB.
fn read(mib: u64) -> io::Result<u64> {
    let file = OpenOptions::new().read(true).custom_flags(O_DIRECT).open(FILE)?;
    // Such reads take a buffer at a whole page's address.
    let mut buffer = vec![0_u8; MIB + PAGE_BYTES];
    let start = buffer.as_ptr().align_offset(PAGE_BYTES);
    let bytes = &mut buffer[start..start + MIB];
    file.read_exact_at(bytes, mib * MIB as u64)?;
    let words =
        bytes.chunks_exact(8).map(|word| word.iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte)));
    Ok(words.fold(0xcbf2_9ce4_8422_2325, |sum: u64, word: u64| (sum ^ word).wrapping_mul(0x100_0000_01b3)))
}
