//! Records: the stored form of a chunk or an index.

use sustain_proto::limits::{CHUNK_BYTES, INDEX_BYTES_MAX};
use zstd::bulk::{Compressor, Decompressor};

/// What a record holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RecordKind {
    /// A chunk; its id is the chunk's.
    Chunk,
    /// An encoded index; its id is the index root.
    Index,
}

impl RecordKind {
    /// Most plain bytes that such a record may have.
    pub(crate) fn plain_bytes_max(self) -> usize {
        match self {
            Self::Chunk => CHUNK_BYTES,
            Self::Index => INDEX_BYTES_MAX,
        }
    }
}

/// How a record's bytes are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encoding {
    /// As they are.
    Raw,
    /// A zstd frame.
    Zstd,
}

/// Encodes records. One a thread; its memory is reused.
pub(crate) struct Encoder {
    zstd: Compressor<'static>,
    buffer: Vec<u8>,
}

impl Encoder {
    pub(crate) fn new(level: i32) -> std::io::Result<Self> {
        Ok(Self { zstd: Compressor::new(level)?, buffer: Vec::new() })
    }

    /// The stored form: compressed, or raw where that is not smaller.
    pub(crate) fn encode<'a>(&'a mut self, plain: &'a [u8]) -> (Encoding, &'a [u8]) {
        // A buffer as small as the plain bytes makes the compressor give up where it would not pay.
        self.buffer.resize(plain.len(), 0);
        match self.zstd.compress_to_buffer(plain, self.buffer.as_mut_slice()) {
            Ok(bytes) if bytes < plain.len() => (Encoding::Zstd, &self.buffer[..bytes]),
            _ => (Encoding::Raw, plain),
        }
    }
}

/// Decodes records. One a thread; its memory is reused.
pub(crate) struct Decoder {
    zstd: Decompressor<'static>,
    buffer: Vec<u8>,
}

impl Decoder {
    pub(crate) fn new() -> std::io::Result<Self> {
        Ok(Self { zstd: Decompressor::new()?, buffer: Vec::new() })
    }

    /// The plain bytes, which must be exactly so many.
    pub(crate) fn decode<'a>(
        &'a mut self,
        encoding: Encoding,
        plain_bytes: usize,
        stored: &'a [u8],
    ) -> Result<&'a [u8], &'static str> {
        match encoding {
            Encoding::Raw if stored.len() == plain_bytes => Ok(stored),
            Encoding::Raw => Err("a record has another length than its directory says"),
            Encoding::Zstd => {
                if self.buffer.len() < plain_bytes {
                    self.buffer.resize(plain_bytes, 0);
                }
                // The buffer bounds what hostile bytes can expand to.
                match self.zstd.decompress_to_buffer(stored, &mut self.buffer[..plain_bytes]) {
                    Ok(bytes) if bytes == plain_bytes => Ok(&self.buffer[..plain_bytes]),
                    Ok(_) => Err("a record expands to another length than its directory says"),
                    Err(_) => Err("a record does not decompress"),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_encodings_round_trip() {
        let mut encoder = Encoder::new(1).unwrap();
        let mut decoder = Decoder::new().unwrap();
        let text = b"abcdefgh".repeat(1000);
        let mut noise = vec![0_u8; 5000];
        blake3::Hasher::new().update(b"noise").finalize_xof().fill(&mut noise);
        for (plain, expected) in [(&text, Encoding::Zstd), (&noise, Encoding::Raw), (&vec![1], Encoding::Raw)]
        {
            let (encoding, stored) = encoder.encode(plain);
            assert_eq!(encoding, expected);
            assert_eq!(decoder.decode(encoding, plain.len(), stored), Ok(plain.as_slice()));
            assert!(decoder.decode(encoding, plain.len() - 1, stored).is_err());
            assert!(decoder.decode(encoding, plain.len() + 1, stored).is_err());
        }
    }
}
