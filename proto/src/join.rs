//! How a node joins: with a token that a member has made, it calls that member and is let in once.
//!
//! It speaks a protocol of its own, on a connection of its own: one [`JoinRequest`], one [`JoinAnswer`], each a frame.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::codec::{self, CodecError, Format};
use crate::{Details, Fact, NodeId, ServiceName, bounded, hex, limits};

/// The protocol's name in the TLS handshake.
pub const JOIN_ALPN: &[u8] = b"sustain-join/2";

const FORMAT: Format = Format { name: "invitation", magic: *b"SUSj", version: 1, bytes_max: 256 };

/// What the text of a token begins with.
const PREFIX: &str = "sustain-join-";

/// Most addresses in a token.
const ADDRESSES_MAX: usize = 4;

/// An invitation: whoever has it may have one node join.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// The member that made it, and lets its bearer in.
    pub inviter: NodeId,
    /// Where that member listens (UDP).
    #[serde(deserialize_with = "bounded::list::<_, _, ADDRESSES_MAX>")]
    pub addresses: Vec<SocketAddr>,
    /// What shows that the bearer is invited.
    pub secret: [u8; 16],
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token(of {}, ..)", self.inviter.short())
    }
}

/// Why a text is no token.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// It does not begin like one, or a part is missing or wrong.
    #[error("this is no invitation: one begins with {PREFIX} and is copied whole")]
    Text,
    /// It was made by another version, or is damaged.
    #[error("this invitation can't be used")]
    Body(#[from] CodecError),
}

impl Token {
    /// The text that people copy.
    ///
    /// # Errors
    /// If there are too many addresses.
    pub fn to_text(&self) -> Result<String, CodecError> {
        let bytes = codec::encode(FORMAT, self)?;
        Ok(format!("{PREFIX}{}", hex::encode(&bytes)))
    }
}

impl FromStr for Token {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let digits = text.trim().strip_prefix(PREFIX).ok_or(TokenError::Text)?;
        let bytes = hex::decode_all(digits, FORMAT.bytes_max).ok_or(TokenError::Text)?;
        Ok(codec::decode(FORMAT, &bytes)?)
    }
}

/// What a node that joins says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinRequest {
    /// The token's.
    pub secret: [u8; 16],
    /// What the node is to be known by. Where its address is `0.0.0.0` or `::`, the one counts from which it calls.
    pub details: Details,
}

/// Why a node is not let in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum JoinRefusal {
    /// The member never made it, or has forgotten it since it expired.
    #[error("it knows no such invitation, or it has expired")]
    Unknown,
    /// Another node has joined with it.
    #[error("the invitation was used already, by another node")]
    Used,
    /// Another member has the name.
    #[error("another node has the name {name}")]
    NameTaken {
        /// The name.
        name: String,
    },
    /// The node was removed, which is for ever.
    #[error("this node was removed from the cluster, for ever")]
    Removed,
    /// Something else.
    #[error("{reason}")]
    Other {
        /// At most [`limits::MESSAGE_TEXT_BYTES_MAX`] bytes.
        reason: String,
    },
}

/// A service of the cluster, as the member has it in its configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offered {
    /// Its name.
    pub name: ServiceName,
    /// Whether it has a secret of its own, which is not told.
    pub has_own_secret: bool,
    /// How it is defined: its part of the configuration, without its secret; at most
    /// [`limits::DEFINITION_BYTES_MAX`] bytes. None for a node that is to hold data only, and where it is too long.
    pub definition: Option<String>,
}

/// What a node that was let in is told.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// The cluster's name.
    pub cluster: String,
    /// What the node is known by now.
    pub details: Details,
    /// The text of the file with the cluster's secrets, unless the node was invited to hold data only.
    pub secrets: Option<String>,
    /// Who is in the cluster; the node's own admission is among them. There may be more.
    #[serde(deserialize_with = "bounded::list::<_, _, { limits::MESSAGE_FACTS_MAX }>")]
    pub facts: Vec<Fact>,
    /// The cluster's services, as far as the member knows them and they fit.
    #[serde(deserialize_with = "bounded::list::<_, _, { limits::OFFERED_MAX }>")]
    pub services: Vec<Offered>,
}

impl fmt::Debug for Welcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Welcome(to {}, {} facts, ..)", self.cluster, self.facts.len())
    }
}

/// What is answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum JoinAnswer {
    /// It is a member now.
    Welcome(Welcome),
    /// It is not.
    Refused(JoinRefusal),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> Token {
        Token {
            inviter: NodeId::from_bytes([7; 32]),
            addresses: vec!["192.0.2.1:7411".parse().unwrap(), "[2001:db8::1]:7411".parse().unwrap()],
            secret: [9; 16],
        }
    }

    #[test]
    fn a_token_is_read_as_it_was_written_and_shows_no_secret() {
        let text = token().to_text().unwrap();
        assert_eq!(format!(" {text}\n").parse::<Token>().unwrap(), token());
        assert!(!format!("{:?}", token()).contains('9'));
        let largest =
            Token { addresses: vec!["[2001:db8::1]:65535".parse().unwrap(); ADDRESSES_MAX], ..token() };
        assert_eq!(largest.to_text().unwrap().parse::<Token>().unwrap(), largest);
    }

    #[test]
    fn what_is_no_token_is_refused() {
        let text = token().to_text().unwrap();
        for wrong in [
            "",
            "sustain-join-",
            "sustain-join-zz",
            &text[1..],
            &text[..text.len() - 1],
            &text[..text.len() - 2],
        ] {
            assert!(wrong.parse::<Token>().is_err(), "{wrong}");
        }
        assert!("00".repeat(10_000).parse::<Token>().is_err());
        assert!(format!("{PREFIX}{}", "00".repeat(10_000)).parse::<Token>().is_err());
    }
}
