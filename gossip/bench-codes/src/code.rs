//! The store's code as it is in its source, of which only a part is measured.

#![allow(dead_code)]

#[cfg(target_arch = "x86_64")]
#[path = "../../../store/src/coding/avx2.rs"]
pub mod avx2;
#[path = "../../../store/src/coding/field.rs"]
pub mod field;
#[path = "../../../store/src/coding/matrix.rs"]
pub mod matrix;
#[path = "../../../store/src/coding/mix.rs"]
pub mod mix;

/// As the store does it.
pub fn apply(rows: &[Vec<u8>], inputs: &[&[u8]], outputs: &mut [&mut [u8]], fast: bool) {
    let factors = |row: &Vec<u8>| row.iter().map(|element| mix::Factor::new(*element)).collect();
    let rows: Vec<Vec<mix::Factor>> = rows.iter().map(factors).collect();
    let mut range = 0..inputs[0].len();
    #[cfg(target_arch = "x86_64")]
    if fast {
        range.start = avx2::mix(&rows, inputs, outputs, range.clone());
    }
    mix::mix(&rows, inputs, outputs, range);
}

pub fn generator(needed: usize, total: usize) -> Vec<Vec<u8>> {
    matrix::generator(needed as u8, total as u8)
}

/// The rows that make the lost shards of these fragments.
pub fn lost(generator: &[Vec<u8>], have: &[usize]) -> Vec<Vec<u8>> {
    let rows = have.iter().map(|number| generator[*number].clone()).collect();
    let shards = matrix::invert(rows).unwrap_or_default();
    let is_lost = |number: &usize| !have.contains(number);
    (0..shards.len()).filter(is_lost).map(|number| shards[number].clone()).collect()
}
