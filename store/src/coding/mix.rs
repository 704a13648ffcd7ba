//! Mixing: sums of products over many bytes at once, for any processor. What has AVX2 is given to `avx2.rs`.

use std::ops::Range;

use super::field::{MODULUS, multiply};

/// A coefficient, and its products with all low and all high halves of a byte: the product with a byte is the sum of
/// one of each.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Factor {
    pub(super) element: u8,
    pub(super) halves: [[u8; 16]; 2],
}

impl Factor {
    pub(super) fn new(element: u8) -> Self {
        let low = std::array::from_fn(|half| multiply(element, half as u8));
        let high = std::array::from_fn(|half| multiply(element, (half as u8) << 4));
        Self { element, halves: [low, high] }
    }
}

/// Bytes that are worked on at a time: all tables of an input stay in the fastest cache.
const STRIP_BYTES: usize = 128;

type Strip = [u8; STRIP_BYTES];

/// The products of a strip with all 16 low halves of a coefficient, and with all high ones.
type Products = [[Strip; 16]; 2];

/// Sets each output to the sum of all inputs, each times its factor, in this range. `rows` has the factors of each
/// output. All inputs and outputs reach as far as the range.
pub(super) fn mix(rows: &[Vec<Factor>], inputs: &[&[u8]], outputs: &mut [&mut [u8]], range: Range<usize>) {
    // Bytes times a half of a coefficient are sums of few multiples, which serve all outputs. Without anything that
    // only some processors have, this is what compilers make fast loops of.
    let mut products: Vec<Products> = vec![[[[0; STRIP_BYTES]; 16]; 2]; inputs.len()];
    let mut at = range.start;
    while at < range.end {
        let part = at..range.end.min(at + STRIP_BYTES);
        for (products, input) in products.iter_mut().zip(inputs) {
            let mut strip = [0; STRIP_BYTES];
            strip[..part.len()].copy_from_slice(&input[part.clone()]);
            multiply_by_all(products, strip);
        }
        for (row, output) in rows.iter().zip(outputs.iter_mut()) {
            let mut sum = [0; STRIP_BYTES];
            for (products, factor) in products.iter().zip(row) {
                let low = &products[0][usize::from(factor.element & 15)];
                let high = &products[1][usize::from(factor.element >> 4)];
                for ((sum, low), high) in sum.iter_mut().zip(low).zip(high) {
                    *sum ^= low ^ high;
                }
            }
            output[part.clone()].copy_from_slice(&sum[..part.len()]);
        }
        at = part.end;
    }
}

fn multiply_by_all(products: &mut Products, mut strip: Strip) {
    for half in products {
        for bit in 0..4 {
            half[1 << bit] = strip;
            for below in 1..1 << bit {
                half[(1 << bit) + below] = sum(&half[below], &strip);
            }
            strip = double(&strip);
        }
    }
}

fn sum(left: &Strip, right: &Strip) -> Strip {
    let mut sum = *left;
    for (sum, right) in sum.iter_mut().zip(right) {
        *sum ^= right;
    }
    sum
}

fn double(strip: &Strip) -> Strip {
    let mut double = [0; STRIP_BYTES];
    for (double, byte) in double.iter_mut().zip(strip) {
        // The arithmetic shift makes a mask of the highest bit.
        *double = (byte << 1) ^ ((*byte as i8 >> 7) as u8 & MODULUS);
    }
    double
}
