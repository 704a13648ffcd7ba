//! Logic: signing statements of the roster, and checking signatures.

use ring::signature::{ED25519, Ed25519KeyPair, UnparsedPublicKey};
use sustain_proto::{CodecError, Signature, Signed, Statement};

use crate::identity::NodeKey;

/// Why a statement can't be signed or isn't believed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StatementError {
    /// It has no encoding.
    #[error("a statement of the roster can't be encoded")]
    Encode(#[from] CodecError),
    /// It is another node's to sign, or the key does not work.
    #[error("this node's key can't sign the statement")]
    Key,
    /// Its signature is not of the node that is said to have signed it.
    #[error("a statement of the roster has a wrong signature")]
    Signature,
}

/// Signs a statement with the key of its signer.
///
/// # Errors
/// If it is another node's, or has no encoding.
pub(crate) fn sign<T: Statement>(key: &NodeKey, body: T) -> Result<Signed<T>, StatementError> {
    if body.signer() != key.node_id() {
        return Err(StatementError::Key);
    }
    let bytes = body.signed_bytes()?;
    let pair = Ed25519KeyPair::from_seed_and_public_key(key.secret(), key.node_id().as_bytes())
        .map_err(|_| StatementError::Key)?;
    let signature = <[u8; 64]>::try_from(pair.sign(&bytes).as_ref()).map_err(|_| StatementError::Key)?;
    Ok(Signed { body, signature: Signature::from_bytes(&signature) })
}

/// Checks a statement's signature.
///
/// # Errors
/// If it is not that of the statement's signer.
pub(crate) fn check<T: Statement>(signed: &Signed<T>) -> Result<(), StatementError> {
    let bytes = signed.body.signed_bytes()?;
    UnparsedPublicKey::new(&ED25519, signed.body.signer().as_bytes())
        .verify(&bytes, &signed.signature.to_bytes())
        .map_err(|_| StatementError::Signature)
}

#[cfg(test)]
mod tests {
    use sustain_proto::Removal;

    use super::*;

    #[test]
    fn only_the_signer_can_sign_and_nothing_can_be_changed() {
        let (key, other) = (NodeKey::generate().unwrap(), NodeKey::generate().unwrap());
        let removal = Removal { node: other.node_id(), by: key.node_id() };
        assert!(matches!(sign(&other, removal.clone()), Err(StatementError::Key)));
        let signed = sign(&key, removal).unwrap();
        check(&signed).unwrap();
        let mut changed = signed.clone();
        changed.body.node = key.node_id();
        assert!(matches!(check(&changed), Err(StatementError::Signature)));
        let mut changed = signed;
        changed.body.by = other.node_id();
        assert!(matches!(check(&changed), Err(StatementError::Signature)));
    }
}
