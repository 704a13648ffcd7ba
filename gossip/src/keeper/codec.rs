//! Logic: keepers' messages as bytes, and the bytes of a catalog that its server signs.
//!
//! The envelope is that of everything that is stored or sent ([`sustain_proto::encode`]). A message has at most
//! [`BULK_FRAME_BYTES_MAX`] bytes; the length of each list is checked while it is decoded.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use sustain_proto::limits::BULK_FRAME_BYTES_MAX;
use sustain_proto::{CodecError, Format, Held, NodeId, ServiceName, Term, TermOrigin};

use super::catalog::{Catalog, Entry, Version};
use super::message::Message;
use crate::limits;

const MESSAGE: Format =
    Format { name: "message of a keeper", magic: *b"SUKM", version: 1, bytes_max: BULK_FRAME_BYTES_MAX };
const CATALOG: Format =
    Format { name: "catalog", magic: *b"SUKC", version: 1, bytes_max: limits::CATALOG_BYTES_MAX };
const ENTRY: Format =
    Format { name: "entry of a catalog", magic: *b"SUKE", version: 1, bytes_max: BULK_FRAME_BYTES_MAX };

/// Encodes a message.
///
/// # Errors
/// If it is larger than a frame.
pub fn encode(message: &Message) -> Result<Vec<u8>, CodecError> {
    sustain_proto::encode(MESSAGE, message)
}

/// Decodes a message.
///
/// # Errors
/// If it is not exactly a message of this version, or has more of something than its limit.
pub fn decode(bytes: &[u8]) -> Result<Message, CodecError> {
    sustain_proto::decode(MESSAGE, bytes)
}

/// Encodes a catalog for the disk.
///
/// # Errors
/// If it is larger than a catalog may be.
pub fn encode_catalog(catalog: &Catalog) -> Result<Vec<u8>, CodecError> {
    sustain_proto::encode(CATALOG, catalog)
}

/// Decodes a catalog. Its signature is not checked.
///
/// # Errors
/// If it is not exactly a catalog of this version, or has more of something than its limit.
pub fn decode_catalog(bytes: &[u8]) -> Result<Catalog, CodecError> {
    sustain_proto::decode(CATALOG, bytes)
}

/// Everything of a catalog but the entries and the signature.
#[derive(Serialize)]
struct Head<'a>(
    &'a ServiceName,
    Version,
    Option<Version>,
    NodeId,
    u8,
    &'a BTreeSet<NodeId>,
    &'a BTreeSet<NodeId>,
    u64,
    &'a BTreeMap<Term, Option<TermOrigin>>,
    &'a BTreeSet<Held>,
    usize,
);

/// What a server signs: the hash of all that a catalog says.
pub(super) fn signed(catalog: &Catalog) -> Result<[u8; 32], CodecError> {
    let Catalog { service, version, inherits, server, tolerance, warm, encoders, .. } = catalog;
    let Catalog { spread_to, terms, merged, entries, .. } = catalog;
    let head = Head(
        service,
        *version,
        *inherits,
        *server,
        *tolerance,
        warm,
        encoders,
        *spread_to,
        terms,
        merged,
        entries.len(),
    );
    let mut hasher = blake3::Hasher::new_derive_key("sustain 2026 signature of a catalog v1");
    hasher.update(blake3::hash(&sustain_proto::encode(CATALOG, &head)?).as_bytes());
    for entry in entries {
        hasher.update(blake3::hash(&sustain_proto::encode(ENTRY, entry)?).as_bytes());
    }
    Ok(*hasher.finalize().as_bytes())
}

/// At least the bytes that an entry takes in a message.
pub(super) fn entry_bytes(entry: &Entry) -> usize {
    // An id, a term and an origin, a base, some numbers; an id, a sheet's hash, a cut and two numbers.
    400 + entry.manifest.len() + entry.packs.len() * 110
}

#[cfg(test)]
#[path = "codec_tests.rs"]
mod tests;
