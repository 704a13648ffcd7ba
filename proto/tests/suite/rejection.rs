//! What is no manifest or no index is refused with its reason, and never panics.

use proptest::prelude::*;

use sustain_proto::{CodecError, KeyId, Manifest, ManifestError, SnapshotIndex, limits};

use crate::golden::{index, manifest};
use crate::strategies;

fn manifest_error(bytes: &[u8]) -> CodecError {
    match Manifest::decode(bytes).unwrap_err() {
        ManifestError::Codec(error) => error,
        other => panic!("{other}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn manifests_cut_anywhere(manifest in strategies::manifest()) {
        let (_, bytes) = manifest.encode().unwrap();
        for cut in 0..bytes.len() {
            prop_assert!(Manifest::decode(&bytes[..cut]).is_err(), "cut at {}", cut);
        }
    }

    #[test]
    fn indexes_cut_anywhere(index in strategies::index()) {
        let (_, bytes) = index.encode().unwrap();
        for cut in 0..bytes.len() {
            prop_assert!(SnapshotIndex::decode(&bytes[..cut]).is_err(), "cut at {}", cut);
        }
    }

    #[test]
    fn random_bytes_never_panic(body in proptest::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(Manifest::decode(&body).is_err());
        prop_assert!(SnapshotIndex::decode(&body).is_err());
        for magic in [b"SUSM", b"SUSi"] {
            let mut enveloped = magic.to_vec();
            enveloped.extend_from_slice(&[1, 0]);
            enveloped.extend_from_slice(&body);
            let _ = Manifest::decode(&enveloped);
            let _ = SnapshotIndex::decode(&enveloped);
        }
    }

    /// One manifest, one id: whatever still decodes after a change is another manifest, encoded as such.
    #[test]
    fn manifests_with_a_changed_byte(
        manifest in strategies::manifest(),
        at in any::<prop::sample::Index>(),
        flip in 1..=u8::MAX,
    ) {
        let (_, mut bytes) = manifest.encode().unwrap();
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        if let Ok((id, changed)) = Manifest::decode(&bytes) {
            prop_assert_ne!(&changed, &manifest);
            prop_assert_eq!(changed.encode().unwrap(), (id, bytes));
        }
    }
}

#[test]
fn another_magic_number() {
    let (_, manifest) = manifest().encode().unwrap();
    let (_, index) = index().encode().unwrap();
    assert!(matches!(manifest_error(&index), CodecError::Magic { format: "manifest" }));
    assert!(matches!(SnapshotIndex::decode(&manifest), Err(CodecError::Magic { format: "index" })));
    assert!(matches!(SnapshotIndex::decode(b""), Err(CodecError::Magic { format: "index" })));
}

#[test]
fn another_version() {
    let (_, mut bytes) = manifest().encode().unwrap();
    for (low, high, found) in [(0, 0, 0), (2, 0, 2), (1, 1, 257)] {
        bytes[4..6].copy_from_slice(&[low, high]);
        let error = manifest_error(&bytes);
        let is_told = matches!(
            error,
            CodecError::Version { format: "manifest", expected: 1, found: told } if told == found
        );
        assert!(is_told, "{error}");
    }
}

#[test]
fn bytes_left_over() {
    let (_, mut bytes) = manifest().encode().unwrap();
    bytes.extend_from_slice(&[0; 3]);
    assert!(matches!(manifest_error(&bytes), CodecError::Trailing { format: "manifest", bytes: 3 }));
    let (_, mut bytes) = index().encode().unwrap();
    bytes.push(0);
    assert!(matches!(SnapshotIndex::decode(&bytes), Err(CodecError::Trailing { bytes: 1, .. })));
}

#[test]
fn too_many_bytes() {
    let bytes = vec![0; limits::MANIFEST_BYTES_MAX + 1];
    assert!(matches!(manifest_error(&bytes), CodecError::TooLarge { format: "manifest", .. }));
}

/// Numbers can be written longer than needed; such a manifest would be the same snapshot with another id.
#[test]
fn a_manifest_in_other_words() {
    let mut manifest = manifest();
    manifest.term.counter = 1;
    let (_, mut bytes) = manifest.encode().unwrap();
    let counter_at = 6 + 1 + manifest.service.as_str().len() + KeyId::BYTES;
    assert_eq!(bytes[counter_at], 1);
    bytes.splice(counter_at..=counter_at, [0x81, 0x00]);
    assert!(matches!(manifest_error(&bytes), CodecError::NotCanonical { format: "manifest" }));
}

mod index_order {
    //! Names and positions ascend, or an index could say two things about one chunk.

    use super::*;

    /// An encoded index of these regions, each a name and positions that are zero.
    fn encoded(regions: &[(&str, &[u8])]) -> Vec<u8> {
        let mut bytes = b"SUSi\x01\x00".to_vec();
        bytes.push(u8::try_from(regions.len()).unwrap());
        for (name, positions) in regions {
            bytes.push(u8::try_from(name.len()).unwrap());
            bytes.extend_from_slice(name.as_bytes());
            bytes.push(u8::try_from(positions.len()).unwrap());
            for position in *positions {
                bytes.extend_from_slice(&[*position, 0]);
            }
        }
        bytes
    }

    #[test]
    fn ascending_is_taken() {
        let bytes = encoded(&[("disk0", &[0, 1, 9]), ("ram", &[])]);
        let index = SnapshotIndex::decode(&bytes).unwrap();
        assert_eq!(index.encode().unwrap().1, bytes);
    }

    #[test]
    fn anything_else_is_refused() {
        let cases: [&[(&str, &[u8])]; 4] = [
            &[("ram", &[1, 1])],
            &[("ram", &[2, 1])],
            &[("ram", &[]), ("ram", &[])],
            &[("ram", &[]), ("disk0", &[])],
        ];
        for case in cases {
            let result = SnapshotIndex::decode(&encoded(case));
            assert!(matches!(result, Err(CodecError::Body { .. })), "{case:?}");
        }
    }
}
