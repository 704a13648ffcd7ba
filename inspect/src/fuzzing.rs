//! The reader of ext4 as fuzzing calls it: an image in, nothing out, no panic. No interface for others.

use crate::diff;
use crate::diff::Span;
use crate::ext4::{self, Bytes};
use crate::view::ChunkFault;

/// How large the image is said to be: what the file lacks is zero.
const IMAGE_BYTES: u64 = 8 << 20;

struct Padded<'a>(&'a [u8]);

impl Bytes for Padded<'_> {
    fn bytes(&self) -> u64 {
        IMAGE_BYTES.max(self.0.len() as u64)
    }

    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<(), ChunkFault> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(self.0.len());
        let there = &self.0[start..];
        let read = there.len().min(buf.len());
        buf[..read].copy_from_slice(&there[..read]);
        buf[read..].fill(0);
        Ok(())
    }
}

/// Whose every block of an image is.
pub fn ext4(image: &[u8]) {
    let image = Padded(image);
    let all = [Span { offset: 0, bytes: image.bytes() }];
    let mut head = vec![0; 2_048];
    if image.read(0, &mut head).is_ok() {
        let _ = ext4::holds_ext4(&head);
    }
    let _ = diff::fuzz_map(image, &all);
}
