//! Receiving a pack.
use crate::ImportError;
use sustain_proto::PackRef;

/// A pack on its way in. Dropping it discards what came.
#[derive(Debug)]
pub struct PackReceiver {}

impl PackReceiver {
    /// Takes the next bytes.
    ///
    /// # Errors
    /// If there are more than announced, or the disk is full or fails.
    pub fn write(&mut self, _bytes: &[u8]) -> Result<(), ImportError> {
        Ok(())
    }
    /// How many bytes came so far.
    #[must_use]
    pub fn written(&self) -> u64 {
        0
    }
    /// Checks the hash and the directory, syncs, and gives the pack its name.
    ///
    /// # Errors
    /// If the bytes are not the pack's, or the disk is full or fails.
    pub fn finish(self) -> Result<PackRef, ImportError> {
        Err(ImportError::Write(std::io::ErrorKind::Other.into()))
    }
}
