//! Statements of which the roster is made: who a node says it is, who was admitted, and who was removed (P1, P41).
//!
//! Each is signed by a node's key over its encoding. The magic number of the encoding tells the kinds apart, so that
//! no signature of one kind passes for another.

use std::fmt;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::codec::{self, CodecError, Format};
use crate::{NodeId, limits};

/// What others need to know of a node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Details {
    /// What people call it.
    pub name: String,
    /// Where it listens (UDP).
    pub address: SocketAddr,
    /// Its failure domain, such as a site or a power line; empty if it has none.
    pub domain: String,
    /// Its static priority in elections; greater is better (P20).
    pub priority: u32,
}

/// Why a node's details are refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DetailsError {
    /// The name or the domain is too long.
    #[error("the node's {what} has {bytes} bytes, at most {bytes_max} are allowed")]
    Long {
        /// Which of them.
        what: &'static str,
        /// Its bytes.
        bytes: usize,
        /// The limit.
        bytes_max: usize,
    },
    /// The node has no name.
    #[error("the node's name is empty")]
    Unnamed,
    /// The name or the domain would upset a terminal or a log.
    #[error("the node's {what} has control characters")]
    Control {
        /// Which of them.
        what: &'static str,
    },
    /// Nobody can send to the address.
    #[error("the node's address {address} can't be called")]
    Address {
        /// The address.
        address: SocketAddr,
    },
}

impl Details {
    /// Checks lengths and characters, and that the address can be called.
    ///
    /// # Errors
    /// Says what is wrong.
    pub fn check(&self) -> Result<(), DetailsError> {
        if self.name.is_empty() {
            return Err(DetailsError::Unnamed);
        }
        for (what, text, bytes_max) in [
            ("name", &self.name, limits::NODE_NAME_BYTES_MAX),
            ("failure domain", &self.domain, limits::DOMAIN_BYTES_MAX),
        ] {
            if text.len() > bytes_max {
                return Err(DetailsError::Long { what, bytes: text.len(), bytes_max });
            }
            if text.chars().any(char::is_control) {
                return Err(DetailsError::Control { what });
            }
        }
        if self.address.port() == 0 || self.address.ip().is_unspecified() {
            return Err(DetailsError::Address { address: self.address });
        }
        Ok(())
    }
}

/// What a node says of itself. Of two records the one with the greater version counts.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Record {
    /// The node, which signs.
    pub node: NodeId,
    /// Greater each time that it has something new to say; from 1.
    pub version: u64,
    /// What it says.
    pub details: Details,
}

/// A member's word that a node belongs to the cluster, and where it was to be found then.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Admission {
    /// The node.
    pub node: NodeId,
    /// The member, which signs.
    pub by: NodeId,
    /// What counts until the node's own record is known.
    pub details: Details,
}

/// A member's word that a node no longer belongs to the cluster, and never will again.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Removal {
    /// The node.
    pub node: NodeId,
    /// The member, which signs.
    pub by: NodeId,
}

/// Something that a node signs.
pub trait Statement: Serialize + Sized {
    /// The format in which it is signed.
    const FORMAT: Format;

    /// Whose key signs it.
    fn signer(&self) -> NodeId;

    /// The bytes that are signed.
    ///
    /// # Errors
    /// If it is over its limit, as with details that [`Details::check`] refuses.
    fn signed_bytes(&self) -> Result<Vec<u8>, CodecError> {
        codec::encode(Self::FORMAT, self)
    }
}

const fn format(name: &'static str, magic: [u8; 4]) -> Format {
    Format { name, magic, version: 1, bytes_max: limits::STATEMENT_BYTES_MAX }
}

impl Statement for Record {
    const FORMAT: Format = format("record of a node", *b"SURr");

    fn signer(&self) -> NodeId {
        self.node
    }
}

impl Statement for Admission {
    const FORMAT: Format = format("admission of a node", *b"SURa");

    fn signer(&self) -> NodeId {
        self.by
    }
}

impl Statement for Removal {
    const FORMAT: Format = format("removal of a node", *b"SURx");

    fn signer(&self) -> NodeId {
        self.by
    }
}

/// An Ed25519 signature.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Signature([[u8; 32]; 2]);

impl Signature {
    /// The signature that these bytes are.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; 64]) -> Self {
        let mut halves = [[0; 32]; 2];
        halves[0].copy_from_slice(&bytes[..32]);
        halves[1].copy_from_slice(&bytes[32..]);
        Self(halves)
    }

    /// Its bytes.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 64] {
        let mut bytes = [0; 64];
        bytes[..32].copy_from_slice(&self.0[0]);
        bytes[32..].copy_from_slice(&self.0[1]);
        bytes
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Signature(..)")
    }
}

/// A statement with its signature.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Signed<T> {
    /// What is said.
    pub body: T,
    /// By the key of [`Statement::signer`].
    pub signature: Signature,
}

/// A part of the roster, as nodes tell one another.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Fact {
    /// What a node says of itself.
    Record(Signed<Record>),
    /// A node was admitted.
    Admission(Signed<Admission>),
    /// A node was removed.
    Removal(Signed<Removal>),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn details() -> Details {
        Details {
            name: "n".repeat(limits::NODE_NAME_BYTES_MAX),
            address: "[2001:db8:ffff:ffff:ffff:ffff:ffff:ffff]:65535".parse().unwrap(),
            domain: "d".repeat(limits::DOMAIN_BYTES_MAX),
            priority: u32::MAX,
        }
    }

    #[test]
    fn what_no_node_should_say_is_refused() {
        assert_eq!(details().check(), Ok(()));
        let refused = |change: fn(&mut Details)| {
            let mut details = details();
            change(&mut details);
            details.check().unwrap_err().to_string()
        };
        assert!(refused(|it| it.name.push('x')).contains("64 bytes"));
        assert!(refused(|it| it.name.clear()).contains("empty"));
        assert!(refused(|it| it.domain = "a\u{1b}[2J".to_owned()).contains("control"));
        assert!(refused(|it| it.address.set_port(0)).contains("can't be called"));
        assert!(refused(|it| it.address = "0.0.0.0:7411".parse().unwrap()).contains("can't be called"));
    }

    #[test]
    fn the_largest_facts_fit_a_message() {
        let node = NodeId::from_bytes([0xff; 32]);
        let admission = Admission { node, by: node, details: details() };
        assert!(admission.signed_bytes().unwrap().len() <= limits::STATEMENT_BYTES_MAX);
        let record = Record { node, version: u64::MAX, details: details() };
        assert!(record.signed_bytes().unwrap().len() <= limits::STATEMENT_BYTES_MAX);
        let signature = Signature::from_bytes(&[7; 64]);
        let fact = Fact::Admission(Signed { body: admission, signature });
        let facts = vec![fact; limits::MESSAGE_FACTS_MAX];
        let bytes = crate::encode_frame(&facts, limits::CONTROL_FRAME_BYTES_MAX).unwrap().len();
        assert!(bytes <= limits::CONTROL_FRAME_BYTES_MAX, "{bytes}");
        let outline = vec![[0xff_u8; 8]; limits::OUTLINE_FACTS_MAX];
        crate::encode_frame(&outline, limits::CONTROL_FRAME_BYTES_MAX).unwrap();
    }

    #[test]
    fn kinds_are_told_apart_in_what_is_signed() {
        let node = NodeId::from_bytes([1; 32]);
        let removal = Removal { node, by: node }.signed_bytes().unwrap();
        let admission = Admission { node, by: node, details: details() }.signed_bytes().unwrap();
        assert_ne!(removal[..4], admission[..4]);
    }

    #[test]
    fn a_signature_keeps_its_bytes() {
        let mut bytes = [0; 64];
        for (byte, number) in bytes.iter_mut().zip(0..) {
            *byte = number;
        }
        assert_eq!(Signature::from_bytes(&bytes).to_bytes(), bytes);
    }
}
