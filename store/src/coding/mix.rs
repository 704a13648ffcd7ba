//! Mixing: sums of products over many bytes at once.

use reed_solomon_erasure::galois_8::{mul_slice, mul_slice_xor};

/// Bytes that are worked on at a time: of all inputs and one output they stay in the fastest cache.
const TILE_BYTES: usize = 2_048;

/// Sets each output to the sum of all inputs, each times its factor. `rows` has the factors of each output; inputs and
/// outputs are equally long.
pub(super) fn mix(rows: &[&[u8]], inputs: &[&[u8]], outputs: &mut [&mut [u8]]) {
    let bytes = inputs.first().map_or(0, |input| input.len());
    for start in (0..bytes).step_by(TILE_BYTES) {
        let tile = start..bytes.min(start + TILE_BYTES);
        for (row, output) in rows.iter().zip(outputs.iter_mut()) {
            let output = &mut output[tile.clone()];
            let mut products = row.iter().zip(inputs).map(|(factor, input)| (*factor, &input[tile.clone()]));
            if let Some((factor, input)) = products.next() {
                mul_slice(factor, input, output);
            }
            for (factor, input) in products {
                mul_slice_xor(factor, input, output);
            }
        }
    }
}
