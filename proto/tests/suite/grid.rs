//! The grid covers every byte of a region once, at every edge.

use proptest::prelude::*;

use sustain_proto::limits::CHUNK_BYTES;
use sustain_proto::{chunk_bytes_at, chunk_count, is_zero};

const CHUNK: u64 = CHUNK_BYTES as u64;

#[test]
fn edges() {
    // Region bytes, chunks, bytes of the last one.
    let cases = [
        (0, 0, 0),
        (1, 1, 1),
        (65_535, 1, 65_535),
        (65_536, 1, 65_536),
        (65_537, 2, 1),
        (u64::MAX - CHUNK + 1, (1 << 48) - 1, 65_536),
        (u64::MAX - CHUNK + 2, 1 << 48, 1),
        (u64::MAX, 1 << 48, 65_535),
    ];
    for (region_bytes, count, last) in cases {
        assert_eq!(chunk_count(region_bytes), count, "{region_bytes}");
        if count > 0 {
            assert_eq!(chunk_bytes_at(region_bytes, count - 1), last, "{region_bytes}");
        }
        assert_eq!(chunk_bytes_at(region_bytes, count), 0, "past the end of {region_bytes}");
        assert_eq!(chunk_bytes_at(region_bytes, u64::MAX), 0, "far past the end of {region_bytes}");
    }
}

proptest! {
    #[test]
    fn chunks_add_up(region_bytes in 0..200 * CHUNK) {
        let sum: u64 = (0..chunk_count(region_bytes)).map(|at| chunk_bytes_at(region_bytes, at) as u64).sum();
        prop_assert_eq!(sum, region_bytes);
    }

    #[test]
    fn never_past_the_end(region_bytes in any::<u64>(), position in any::<u64>()) {
        let bytes = chunk_bytes_at(region_bytes, position);
        prop_assert!(bytes <= CHUNK_BYTES);
        prop_assert_eq!(bytes > 0, position < chunk_count(region_bytes));
    }

    #[test]
    fn one_byte_makes_a_chunk_not_zero(bytes in 0_usize..300, at in any::<prop::sample::Index>(), byte in 1..=u8::MAX) {
        let mut chunk = vec![0; bytes];
        prop_assert!(is_zero(&chunk));
        if bytes > 0 {
            chunk[at.index(bytes)] = byte;
            prop_assert!(!is_zero(&chunk));
        }
    }
}
