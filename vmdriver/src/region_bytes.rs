//! A region that is at hand.

use std::io;

use sustain_store::RegionSource;

/// The bytes of a small region.
#[derive(Debug)]
pub(crate) struct RegionBytes(pub(crate) Vec<u8>);

impl RegionSource for RegionBytes {
    fn bytes(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let start = usize::try_from(offset).map_err(io::Error::other)?;
        let end = start.checked_add(buf.len());
        let found = end.and_then(|end| self.0.get(start..end)).ok_or(io::ErrorKind::UnexpectedEof)?;
        buf.copy_from_slice(found);
        Ok(())
    }
}
