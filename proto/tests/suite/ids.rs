//! Ids: text for people, bytes for machines; and the hashes that they are.

use proptest::prelude::*;

use sustain_proto::{ChunkKey, HexError, PackId, SnapshotId};

use crate::strategies;

proptest! {
    #[test]
    fn text_round_trip(id in strategies::snapshot_id()) {
        let text = id.to_string();
        prop_assert_eq!(text.len(), 64);
        prop_assert!(text.starts_with(&id.short()) && id.short().len() == 12);
        prop_assert_eq!(text.parse::<SnapshotId>().unwrap(), id);
    }

    #[test]
    fn text_in_json_and_plain_bytes_in_postcard(id in strategies::snapshot_id()) {
        let text = serde_json::to_string(&id).unwrap();
        prop_assert_eq!(&text, &format!("\"{id}\""));
        prop_assert_eq!(serde_json::from_str::<SnapshotId>(&text).unwrap(), id);

        let bytes = postcard::to_allocvec(&id).unwrap();
        prop_assert_eq!(&bytes[..], id.as_bytes());
        prop_assert_eq!(postcard::from_bytes::<SnapshotId>(&bytes).unwrap(), id);
    }

    #[test]
    fn any_text_parses_or_says_why(text in any::<String>()) {
        let _ = text.parse::<PackId>();
    }

    #[test]
    fn order_of_text_is_order_of_ids(one in strategies::pack_id(), other in strategies::pack_id()) {
        prop_assert_eq!(one.cmp(&other), one.to_string().cmp(&other.to_string()));
    }
}

#[test]
fn what_is_no_id_is_refused_with_the_place() {
    let id = "0123456789abcdef".repeat(4);
    let parse = |text: &str| text.parse::<PackId>().unwrap_err();
    assert!(id.parse::<PackId>().is_ok());
    assert_eq!(parse(&id[1..]), HexError::Length { expected: 64, found: 63 });
    assert_eq!(parse(""), HexError::Length { expected: 64, found: 0 });
    assert_eq!(parse(&id.replacen('a', "A", 1)), HexError::Digit { position: 10 });
    assert_eq!(parse(&id.replacen('f', "g", 1)), HexError::Digit { position: 15 });
    // Two bytes, one character: the length fits, the digits do not.
    assert_eq!(parse(&format!("é{}", &id[2..])), HexError::Digit { position: 0 });
}

#[test]
fn chunk_ids_depend_on_key_and_bytes_and_the_key_stays_secret() {
    let key = ChunkKey::derive(&[1; 32]);
    let other = ChunkKey::derive(&[2; 32]);
    assert_eq!(key.chunk_id(b"plain"), ChunkKey::derive(&[1; 32]).chunk_id(b"plain"));
    assert_ne!(key.chunk_id(b"plain"), other.chunk_id(b"plain"));
    assert_ne!(key.chunk_id(b"plain"), key.chunk_id(b"plain "));
    assert_ne!(key.chunk_id(b"plain").as_bytes(), PackId::of(b"plain").as_bytes());
    assert_ne!(key.id(), other.id());
    assert_eq!(format!("{key:?}"), "ChunkKey(..)");
}
