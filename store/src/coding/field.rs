//! Logic: the field of 256 elements over which fragments are computed, bytes modulo x⁸ + x⁴ + x³ + x² + 1.

/// The modulus, without its highest power.
pub(super) const MODULUS: u8 = 0x1d;

/// Powers of the generator 2, twice over, so that the sum of two logarithms is a place in it.
const POWERS: [u8; 510] = powers();
/// Logarithms to base 2; that of 0 means nothing.
const LOGARITHMS: [u8; 256] = logarithms();

const fn double(element: u8) -> u8 {
    (element << 1) ^ if element >= 0x80 { MODULUS } else { 0 }
}

const fn powers() -> [u8; 510] {
    let (mut table, mut at, mut power) = ([0; 510], 0, 1);
    while at < table.len() {
        table[at] = power;
        power = double(power);
        at += 1;
    }
    table
}

const fn logarithms() -> [u8; 256] {
    let (mut table, mut at) = ([0; 256], 0);
    while at < 255 {
        table[POWERS[at] as usize] = at as u8;
        at += 1;
    }
    table
}

fn logarithm(element: u8) -> usize {
    usize::from(LOGARITHMS[usize::from(element)])
}

/// The product of two elements.
pub(super) fn multiply(left: u8, right: u8) -> u8 {
    if left == 0 || right == 0 { 0 } else { POWERS[logarithm(left) + logarithm(right)] }
}

/// What an element is multiplied by to get 1. Of 0 it is 0.
pub(super) fn inverse(element: u8) -> u8 {
    if element == 0 { 0 } else { POWERS[255 - logarithm(element)] }
}

/// An element to a power; to the power of 0 it is 1, also of 0.
pub(super) fn power(element: u8, exponent: u8) -> u8 {
    match (element, exponent) {
        (_, 0) => 1,
        (0, _) => 0,
        _ => POWERS[logarithm(element) * usize::from(exponent) % 255],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As it is done by hand.
    fn slowly(mut left: u8, mut right: u8) -> u8 {
        let mut product = 0;
        while right > 0 {
            product ^= if right & 1 == 1 { left } else { 0 };
            (left, right) = (double(left), right >> 1);
        }
        product
    }

    #[test]
    fn the_tables_are_those_of_the_field() {
        for left in 0..=255 {
            for right in 0..=255 {
                assert_eq!(multiply(left, right), slowly(left, right), "{left} times {right}");
            }
            assert_eq!(multiply(left, inverse(left)), u8::from(left > 0));
            let by_hand = (0..left).fold(1, |product, _| slowly(product, 3));
            assert_eq!(power(3, left), by_hand, "3 to the power of {left}");
        }
        assert_eq!((power(0, 0), power(0, 1)), (1, 0));
    }
}
