//! A service's key: what names its chunks and seals its packs. Made of 32 secret bytes, which it never shows.

use std::fmt;
use std::sync::Arc;

use sustain_proto::{ChunkId, ChunkKey, KeyId};
use sustain_seal::SealKey;

/// A key, derived from a secret. Cheap to clone. Its `Debug` shows the public id only.
#[derive(Clone)]
pub struct ServiceKey(Arc<Derived>);

struct Derived {
    id: KeyId,
    chunks: ChunkKey,
    seal: SealKey,
}

impl ServiceKey {
    /// The key of these secret bytes.
    #[must_use]
    pub fn derive(secret: &[u8; 32]) -> Self {
        let chunks = ChunkKey::derive(secret);
        Self(Arc::new(Derived { id: chunks.id(), chunks, seal: SealKey::derive(secret) }))
    }

    /// Its public id.
    #[must_use]
    pub fn id(&self) -> KeyId {
        self.0.id
    }

    /// What a chunk with these bytes is called under it.
    #[must_use]
    pub fn chunk_id(&self, plain: &[u8]) -> ChunkId {
        self.0.chunks.chunk_id(plain)
    }

    pub(crate) fn seal(&self) -> &SealKey {
        &self.0.seal
    }
}

impl PartialEq for ServiceKey {
    fn eq(&self, other: &Self) -> bool {
        self.0.chunks == other.0.chunks
    }
}

impl Eq for ServiceKey {}

impl fmt::Debug for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ServiceKey({})", self.0.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debugging_a_key_shows_no_secret() {
        let secret: [u8; 32] = std::array::from_fn(|at| at as u8 + 0xa0);
        let key = ServiceKey::derive(&secret);
        assert_eq!(format!("{key:?}"), format!("ServiceKey({})", key.id()));
        assert_eq!(key, ServiceKey::derive(&secret));
        assert_ne!(key.id(), ServiceKey::derive(&[1; 32]).id());
    }
}
