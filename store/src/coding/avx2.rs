//! Mixing on processors that have AVX2: 64 bytes of up to four outputs at a time, by tables in registers.

#![allow(unsafe_code, reason = "the compiler can't check what the processor has")]

use std::arch::x86_64::{
    _mm_loadu_si128, _mm256_and_si256, _mm256_broadcastsi128_si256, _mm256_loadu_si256, _mm256_set1_epi8,
    _mm256_setzero_si256, _mm256_shuffle_epi8, _mm256_srli_epi64, _mm256_storeu_si256, _mm256_xor_si256,
};
use std::ops::Range;

use super::mix::Factor;

/// Bytes that are worked on at a time.
const STEP_BYTES: usize = 64;
const HALF: usize = STEP_BYTES / 2;

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
        // SAFETY: what is read and written through pointers are slices of as many bytes: halves of a step of
        // `STEP_BYTES`, and tables of 16. The processor has the instructions, says the caller.
        unsafe {
            let halves = _mm256_set1_epi8(15);
            let mut sums = [[_mm256_setzero_si256(); 2]; N];
            for (number, input) in inputs.iter().enumerate() {
                let step = &input[at..at + STEP_BYTES];
                let first = _mm256_loadu_si256(step.as_ptr().cast());
                let second = _mm256_loadu_si256(step[HALF..].as_ptr().cast());
                let low = [_mm256_and_si256(first, halves), _mm256_and_si256(second, halves)];
                let first = _mm256_and_si256(_mm256_srli_epi64(first, 4), halves);
                let second = _mm256_and_si256(_mm256_srli_epi64(second, 4), halves);
                for (sums, row) in sums.iter_mut().zip(rows) {
                    let Factor { low: low_table, high: high_table, .. } = &row[number];
                    let low_table = _mm256_broadcastsi128_si256(_mm_loadu_si128(low_table.as_ptr().cast()));
                    let high_table = _mm256_broadcastsi128_si256(_mm_loadu_si128(high_table.as_ptr().cast()));
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
                _mm256_storeu_si256(step.as_mut_ptr().cast(), sums[0]);
                _mm256_storeu_si256(step[HALF..].as_mut_ptr().cast(), sums[1]);
            }
        }
    }
}
