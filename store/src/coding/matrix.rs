//! Logic: which combination of a pack's shards each fragment is, and of which fragments a shard.

use reed_solomon_erasure::galois_8::{div, exp, mul};

/// Rows of coefficients.
pub(super) type Matrix = Vec<Vec<u8>>;

/// The matrix of a code: row i makes fragment i of the `needed` shards. The first rows copy the shards, and any
/// `needed` rows are independent: it is a Vandermonde matrix, multiplied so that its top becomes the identity.
pub(super) fn generator(needed: u8, total: u8) -> Matrix {
    let row = |number: u8| (0..needed).map(|column| exp(number, column.into())).collect();
    let all: Matrix = (0..total).map(row).collect();
    // Never absent: its rows are different powers.
    let top = invert(all[..usize::from(needed)].to_vec()).unwrap_or_default();
    all.iter().map(|row| times(row, &top)).collect()
}

/// A row times a matrix.
pub(super) fn times(row: &[u8], matrix: &[Vec<u8>]) -> Vec<u8> {
    let mut product = vec![0; matrix.first().map_or(0, Vec::len)];
    for (factor, row) in row.iter().zip(matrix) {
        for (sum, element) in product.iter_mut().zip(row) {
            *sum ^= mul(*factor, *element);
        }
    }
    product
}

/// The inverse of a square matrix, by Gauss and Jordan. None if it has none.
pub(super) fn invert(mut matrix: Matrix) -> Option<Matrix> {
    let size = matrix.len();
    let mut result: Matrix =
        (0..size).map(|row| (0..size).map(|column| u8::from(row == column)).collect()).collect();
    for pivot in 0..size {
        let found = (pivot..size).find(|row| matrix[*row][pivot] != 0)?;
        matrix.swap(pivot, found);
        result.swap(pivot, found);
        let factor = div(1, matrix[pivot][pivot]);
        for element in matrix[pivot].iter_mut().chain(result[pivot].iter_mut()) {
            *element = mul(*element, factor);
        }
        let (own, own_result) = (matrix[pivot].clone(), result[pivot].clone());
        for row in (0..size).filter(|row| *row != pivot) {
            let factor = matrix[row][pivot];
            if factor != 0 {
                subtract(&mut matrix[row], &own, factor);
                subtract(&mut result[row], &own_result, factor);
            }
        }
    }
    Some(result)
}

fn subtract(from: &mut [u8], row: &[u8], factor: u8) {
    for (element, other) in from.iter_mut().zip(row) {
        *element ^= mul(*other, factor);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_fragments_are_the_shards_and_any_of_them_are_independent() {
        let matrix = generator(3, 8);
        assert_eq!(matrix[..3], [[1, 0, 0], [0, 1, 0], [0, 0, 1]].map(|row| row.to_vec()));
        for first in 0..8 {
            for second in first + 1..8 {
                for third in second + 1..8 {
                    let rows = [first, second, third].map(|row: usize| matrix[row].clone()).to_vec();
                    assert!(invert(rows).is_some(), "{first}, {second}, {third}");
                }
            }
        }
    }

    #[test]
    fn a_matrix_times_its_inverse_changes_nothing() {
        let matrix = generator(5, 12)[6..11].to_vec();
        let inverse = invert(matrix.clone()).unwrap();
        for (number, row) in matrix.iter().enumerate() {
            let product = times(row, &inverse);
            assert!(product.iter().enumerate().all(|(at, element)| *element == u8::from(at == number)));
        }
        assert_eq!(invert(vec![vec![1, 2], vec![1, 2]]), None);
    }
}
