//! Signs catalogs with the node's key, and checks those of others.

use ring::signature::{ED25519, Ed25519KeyPair, UnparsedPublicKey};
use sustain_proto::NodeId;

use crate::error::StartError;
use crate::identity::NodeKey;
use crate::keeper::Signer;

/// A node's key, ready to sign.
#[derive(Debug)]
pub(crate) struct KeySigner {
    pair: Ed25519KeyPair,
}

impl KeySigner {
    pub(crate) fn new(key: &NodeKey) -> Result<Self, StartError> {
        let pair = Ed25519KeyPair::from_seed_and_public_key(key.secret(), key.node_id().as_bytes());
        Ok(Self { pair: pair.map_err(|_| StartError::Random)? })
    }
}

impl Signer for KeySigner {
    fn sign(&self, bytes: &[u8]) -> [u8; 64] {
        // It has 64 bytes always.
        <[u8; 64]>::try_from(self.pair.sign(bytes).as_ref()).unwrap_or([0; 64])
    }

    fn is_by(&self, node: &NodeId, bytes: &[u8], signature: &[u8; 64]) -> bool {
        UnparsedPublicKey::new(&ED25519, node.as_bytes()).verify(bytes, signature).is_ok()
    }
}
