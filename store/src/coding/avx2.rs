//! Mixing on processors that have AVX2: 64 bytes of up to four outputs at a time, by tables in registers.

#![allow(unsafe_code, reason = "the compiler can't check what the processor has")]

use std::arch::x86_64::{
    __m128i, __m256i, _mm256_and_si256, _mm256_broadcastsi128_si256, _mm256_set1_epi8, _mm256_setzero_si256,
    _mm256_shuffle_epi8, _mm256_srli_epi64, _mm256_xor_si256,
};
use std::mem::transmute;
use std::ops::Range;

use super::mix::Factor;

/// Bytes that are worked on at a time.
const STEP_BYTES: usize = 64;

/// Bytes of each input that are worked on before the next outputs are made of them: they stay in the fastest cache.
const TILE_BYTES: usize = 2_048;

/// Outputs that are made at a time: their sums are in registers.
const TOGETHER: usize = 4;

/// Does the beginning of the range, or nothing where the processor can't, and returns where the rest begins. Otherwise
/// as [`super::mix::mix`].
pub(super) fn mix(
    rows: &[Vec<Factor>],
    inputs: &[&[u8]],
    outputs: &mut [&mut [u8]],
    range: Range<usize>,
) -> usize {
    if !is_x86_feature_detected!("avx2") {
        return range.start;
    }
    let end = range.end - range.len() % STEP_BYTES;
    for start in (range.start..end).step_by(TILE_BYTES) {
        let tile = start..end.min(start + TILE_BYTES);
        for (rows, outputs) in rows.chunks(TOGETHER).zip(outputs.chunks_mut(TOGETHER)) {
            // SAFETY: the processor has AVX2.
            unsafe {
                match (rows, outputs) {
                    ([a, b, c, d], [e, f, g, h]) => some([a, b, c, d], inputs, [e, f, g, h], tile.clone()),
                    ([a, b, c], [e, f, g]) => some([a, b, c], inputs, [e, f, g], tile.clone()),
                    ([a, b], [e, f]) => some([a, b], inputs, [e, f], tile.clone()),
                    ([a], [e]) => some([a], inputs, [e], tile.clone()),
                    _ => {}
                }
            }
        }
    }
    end
}

/// Makes so many outputs.
///
/// # Safety
/// The processor has AVX2.
#[target_feature(enable = "avx2")]
unsafe fn some<const N: usize>(
    rows: [&Vec<Factor>; N],
    inputs: &[&[u8]],
    outputs: [&mut &mut [u8]; N],
    range: Range<usize>,
) {
    let mut outputs = outputs.map(|output| output[range.clone()].chunks_exact_mut(STEP_BYTES));
    for at in range.step_by(STEP_BYTES) {
        // SAFETY: registers and as many bytes are the same, whatever these are. The processor has the instructions,
        // says the caller. (Reading and writing through pointers is checked at run time in builds with debug
        // assertions, and half as fast.)
        unsafe {
            let halves = _mm256_set1_epi8(15);
            let mut sums = [[_mm256_setzero_si256(); 2]; N];
            for (number, input) in inputs.iter().enumerate() {
                let Some(step) = input[at..].first_chunk::<STEP_BYTES>() else { return };
                let [first, second] = transmute::<[u8; STEP_BYTES], [__m256i; 2]>(*step);
                let low = [_mm256_and_si256(first, halves), _mm256_and_si256(second, halves)];
                let first = _mm256_and_si256(_mm256_srli_epi64(first, 4), halves);
                let second = _mm256_and_si256(_mm256_srli_epi64(second, 4), halves);
                for (sums, row) in sums.iter_mut().zip(rows) {
                    let [low_table, high_table] = row[number].halves;
                    let low_table = _mm256_broadcastsi128_si256(transmute::<[u8; 16], __m128i>(low_table));
                    let high_table = _mm256_broadcastsi128_si256(transmute::<[u8; 16], __m128i>(high_table));
                    for ((sum, low), high) in sums.iter_mut().zip(low).zip([first, second]) {
                        let product = _mm256_xor_si256(
                            _mm256_shuffle_epi8(low_table, low),
                            _mm256_shuffle_epi8(high_table, high),
                        );
                        *sum = _mm256_xor_si256(*sum, product);
                    }
                }
            }
            for (output, sums) in outputs.iter_mut().zip(sums) {
                let Some(step) = output.next() else { return };
                step.copy_from_slice(&transmute::<[__m256i; 2], [u8; STEP_BYTES]>(sums));
            }
        }
    }
}
