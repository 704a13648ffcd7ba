//! The 32-byte ids: what each names, and how it is computed.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::hex;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; 32]);

        impl $name {
            /// Bytes of an id.
            pub const BYTES: usize = 32;

            /// The id that these bytes are.
            #[must_use]
            pub const fn from_bytes(bytes: [u8; 32]) -> Self {
                Self(bytes)
            }

            /// The bytes of the id.
            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }

            /// The first 12 hexadecimal digits, for people to read.
            #[must_use]
            pub fn short(&self) -> String {
                hex::encode(&self.0[..6])
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.short())
            }
        }

        as_text! { $name }
    };
}

macro_rules! as_text {
    ($name:ident) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(&self.0))
            }
        }

        impl FromStr for $name {
            type Err = hex::HexError;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                hex::decode(text).map(Self)
            }
        }

        // Text for people's formats (JSON, TOML), plain bytes on the wire and on disk.
        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                if serializer.is_human_readable() {
                    serializer.serialize_str(&hex::encode(&self.0))
                } else {
                    self.0.serialize(serializer)
                }
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                if deserializer.is_human_readable() {
                    let text = String::deserialize(deserializer)?;
                    text.parse().map_err(serde::de::Error::custom)
                } else {
                    Deserialize::deserialize(deserializer).map(Self)
                }
            }
        }
    };
}

id! {
    /// Names a chunk: the keyed BLAKE3 of its plain bytes, so that who lacks the key can't test guesses
    /// of what a chunk holds.
    ChunkId
}
id! {
    /// Names a pack: the BLAKE3 of all the bytes of its file.
    PackId
}
id! {
    /// Names a fragment of a pack: the BLAKE3 of its bytes.
    FragmentId
}
id! {
    /// Names a snapshot: the BLAKE3 of its encoded manifest.
    SnapshotId
}
id! {
    /// The BLAKE3 of an encoded [`SnapshotIndex`](crate::SnapshotIndex).
    IndexRoot
}
id! {
    /// The BLAKE3 over names, sizes and chunk ids of all regions: equal for equal contents, whichever
    /// base, pack or generation holds them.
    ContentHash
}
id! {
    /// Names a node: its Ed25519 public key, which its certificate carries and every peer has pinned.
    NodeId
}

impl FragmentId {
    /// The id of a fragment with these bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }
}

impl PackId {
    /// The id of a pack with these bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }
}

impl SnapshotId {
    /// The id of the snapshot with this encoded manifest.
    #[must_use]
    pub fn of_manifest(encoded: &[u8]) -> Self {
        Self(*blake3::hash(encoded).as_bytes())
    }
}

impl IndexRoot {
    /// The root of this encoded index.
    #[must_use]
    pub fn of(encoded: &[u8]) -> Self {
        Self(*blake3::hash(encoded).as_bytes())
    }
}

/// Tells keys apart, and reveals none: what a manifest and a pack say of the key that they are sealed under.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId([u8; KeyId::BYTES]);

as_text! { KeyId }

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyId({self})")
    }
}

impl KeyId {
    /// Bytes of a key's id: enough that no two keys of a cluster share one by chance.
    pub const BYTES: usize = 8;

    /// The id that these bytes are.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; Self::BYTES]) -> Self {
        Self(bytes)
    }

    /// The bytes of the id.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; Self::BYTES] {
        &self.0
    }
}

/// The secret under which a service's chunks are named. It never appears in a log: its `Debug` is blank.
#[derive(Clone, PartialEq, Eq)]
pub struct ChunkKey([u8; 32]);

impl ChunkKey {
    /// Derives the key from a service's 32-byte secret, which may be its cluster's or its store's.
    #[must_use]
    pub fn derive(secret: &[u8; 32]) -> Self {
        Self(blake3::derive_key("sustain 2026 chunk ids v1", secret))
    }

    /// The id of a chunk with these plain bytes.
    #[must_use]
    pub fn chunk_id(&self, plain: &[u8]) -> ChunkId {
        ChunkId(*blake3::keyed_hash(&self.0, plain).as_bytes())
    }

    /// The public id of the secret that this key was derived from.
    #[must_use]
    pub fn id(&self) -> KeyId {
        let hash = blake3::keyed_hash(&self.0, b"sustain key fingerprint");
        let mut id = [0; KeyId::BYTES];
        id.copy_from_slice(&hash.as_bytes()[..KeyId::BYTES]);
        KeyId(id)
    }
}

impl fmt::Debug for ChunkKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ChunkKey(..)")
    }
}
