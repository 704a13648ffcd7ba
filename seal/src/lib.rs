//! Sealing: bytes that only who has the service's key can read or make. Pure.
//!
//! A crate of its own because the cipher is slow unless all of it is compiled with what the workspace's `Cargo.toml`
//! asks for this crate: it was a quarter as fast with the debug assertions that the others keep.
//!
//! AES-256-GCM-SIV (RFC 8452). Nothing in it is random: what is sealed again comes out the same, on every node. The
//! nonce is a keyed hash of what the bytes are, so that practically every nonce is used once; where one is used twice
//! all the same (other bytes for the same chunks, from another version of the compressor), this mode tells no more
//! than whether the two are equal. docs/sealing.md counts how much one key may seal.

use aes_gcm_siv::aead::{AeadInOut, KeyInit};
use aes_gcm_siv::{Aes256GcmSiv, Nonce, Tag};

/// Bytes that sealing adds.
pub const TAG_BYTES: usize = 16;

/// Bytes of a nonce.
pub const NONCE_BYTES: usize = 12;

const SEALING_CONTEXT: &str = "sustain 2026 sealing v1";
const NONCE_CONTEXT: &str = "sustain 2026 sealing nonces v1";

/// What seals and opens. It has no `Debug`, so that it is never printed.
pub struct SealKey {
    cipher: Aes256GcmSiv,
    nonces: [u8; 32],
}

/// Why bytes can't be sealed: they are more than the cipher takes, 64 GiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooLong;

impl SealKey {
    /// Derives the keys from a service's 32-byte secret.
    #[must_use]
    pub fn derive(secret: &[u8; 32]) -> Self {
        let key = blake3::derive_key(SEALING_CONTEXT, secret);
        Self { cipher: Aes256GcmSiv::new(&key.into()), nonces: blake3::derive_key(NONCE_CONTEXT, secret) }
    }

    /// The nonce of what these bytes describe.
    #[must_use]
    pub fn nonce(&self, description: &[u8]) -> [u8; NONCE_BYTES] {
        let hash = blake3::keyed_hash(&self.nonces, description);
        let mut nonce = [0; NONCE_BYTES];
        nonce.copy_from_slice(&hash.as_bytes()[..NONCE_BYTES]);
        nonce
    }

    /// Seals these bytes as what `context` says that they are.
    ///
    /// # Errors
    /// If they are too many; they are then as they were.
    pub fn seal(&self, nonce: [u8; NONCE_BYTES], context: &[u8], bytes: &mut Vec<u8>) -> Result<(), TooLong> {
        let tag = self.cipher.encrypt_inout_detached(&nonce.into(), context, bytes.as_mut_slice().into());
        bytes.extend_from_slice(&tag.map_err(|_| TooLong)?);
        Ok(())
    }

    /// Opens what was sealed with the same nonce as the same thing.
    ///
    /// # Errors
    /// If it was not, and the bytes are then of no worth.
    pub fn open(
        &self,
        nonce: [u8; NONCE_BYTES],
        context: &[u8],
        bytes: &mut Vec<u8>,
    ) -> Result<(), &'static str> {
        let (sealed, tag) =
            bytes.split_last_chunk_mut::<TAG_BYTES>().ok_or("it is too short to be sealed")?;
        let (nonce, tag) = (Nonce::from(nonce), Tag::from(*tag));
        let opened = self.cipher.decrypt_inout_detached(&nonce, context, sealed.into(), &tag);
        opened.map_err(|_| "its seal is broken")?;
        bytes.truncate(bytes.len() - TAG_BYTES);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealed(key: &SealKey, context: &[u8], plain: &[u8]) -> Vec<u8> {
        let mut bytes = plain.to_vec();
        key.seal(key.nonce(context), context, &mut bytes).unwrap();
        bytes
    }

    #[test]
    fn what_is_sealed_is_opened_and_comes_out_the_same_each_time() {
        let key = SealKey::derive(&[1; 32]);
        for plain in [Vec::new(), vec![7; 15], vec![8; 70_000]] {
            let bytes = sealed(&key, b"block", &plain);
            assert_eq!(bytes.len(), plain.len() + TAG_BYTES);
            assert_eq!(bytes, sealed(&SealKey::derive(&[1; 32]), b"block", &plain));
            let mut again = bytes.clone();
            key.open(key.nonce(b"block"), b"block", &mut again).unwrap();
            assert_eq!(again, plain);
            assert!(plain.len() < 16 || !bytes.windows(16).any(|part| part == &plain[..16]));
        }
    }

    #[test]
    fn another_key_context_nonce_or_bit_opens_nothing() {
        let (key, other) = (SealKey::derive(&[1; 32]), SealKey::derive(&[2; 32]));
        let bytes = sealed(&key, b"block", b"plain bytes");
        assert_ne!(bytes, sealed(&other, b"block", b"plain bytes"));
        assert_ne!(bytes, sealed(&key, b"other", b"plain bytes"));
        let nonce = key.nonce(b"block");
        assert!(other.open(nonce, b"block", &mut bytes.clone()).is_err());
        assert!(key.open(nonce, b"other", &mut bytes.clone()).is_err());
        assert!(key.open(key.nonce(b"other"), b"block", &mut bytes.clone()).is_err());
        for bit in 0..bytes.len() * 8 {
            let mut bytes = bytes.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(key.open(nonce, b"block", &mut bytes).is_err(), "bit {bit}");
        }
        for end in 0..bytes.len() {
            assert!(key.open(nonce, b"block", &mut bytes[..end].to_vec()).is_err(), "cut at {end}");
        }
    }

    /// RFC 8452, appendix C.2, the first case with a plaintext and with additional data, of AES-256.
    #[test]
    fn the_cipher_is_that_of_the_standard() {
        let mut key = [0; 32];
        key[0] = 1;
        let mut nonce = [0; NONCE_BYTES];
        nonce[0] = 3;
        let key = SealKey { cipher: Aes256GcmSiv::new(&key.into()), nonces: [0; 32] };
        let mut bytes = vec![2, 0, 0, 0, 0, 0, 0, 0];
        key.seal(nonce, &[1], &mut bytes).unwrap();
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, "1de22967237a813291213f267e3b452f02d01ae33e4ec854");
    }
}
