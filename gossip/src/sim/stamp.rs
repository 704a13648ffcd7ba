//! Logic: simulated nodes' signatures: numbers that only show that who made them knows whose they are.

use sustain_proto::NodeId;

use crate::keeper::{Signer, mix};

/// Signs for a node.
#[derive(Debug)]
pub(crate) struct Stamp(pub(crate) NodeId);

fn stamp(node: &NodeId, bytes: &[u8]) -> [u8; 64] {
    let eights = node.as_bytes().chunks(8).chain(bytes.chunks(8));
    let sum = eights.fold(bytes.len() as u64, |sum, eight| {
        let mut number = [0; 8];
        number[..eight.len()].copy_from_slice(eight);
        mix(sum ^ u64::from_le_bytes(number))
    });
    let mut stamp = [0; 64];
    stamp[..8].copy_from_slice(&sum.to_le_bytes());
    stamp
}

impl Signer for Stamp {
    fn sign(&self, bytes: &[u8]) -> [u8; 64] {
        stamp(&self.0, bytes)
    }

    fn is_by(&self, node: &NodeId, bytes: &[u8], signature: &[u8; 64]) -> bool {
        stamp(node, bytes) == *signature
    }
}
