//! Tests of the code.

use proptest::prelude::*;
use reed_solomon_erasure::galois_8::mul;

use super::*;

fn cut(needed: u8, total: u8) -> Cut {
    Cut { needed, total, extent_bytes: 64 << 10 }
}

fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut noise = vec![0; bytes];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut noise);
    noise
}

fn make(recipe: &Recipe, inputs: &[&[u8]], want: usize) -> Vec<Vec<u8>> {
    let mut made = vec![vec![0xaa; inputs[0].len()]; want];
    let mut outputs: Vec<&mut [u8]> = made.iter_mut().map(Vec::as_mut_slice).collect();
    recipe.apply(inputs, &mut outputs).unwrap();
    made
}

fn all_of(code: &Code, shards: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let (have, want): (Vec<u8>, Vec<u8>) = ((0..code.needed).collect(), (0..code.total).collect());
    let inputs: Vec<&[u8]> = shards.iter().map(Vec::as_slice).collect();
    make(&code.recipe(&have, &want).unwrap(), &inputs, want.len())
}

/// What the format promises: if this changes, what was stored can't be read any more.
#[test]
fn the_fragments_of_a_version_1_code_are_these() {
    let code = Code::new(&cut(3, 6));
    let shards = [vec![1, 0, 0, 255, 1], vec![0, 1, 0, 128, 2], vec![0, 0, 1, 7, 5]];
    let all = all_of(&code, &shards);
    assert_eq!(all[..3], shards);
    assert_eq!(all[3..], [vec![1, 1, 1, 120, 6], vec![15, 8, 6, 10, 1], vec![14, 9, 6, 117, 2]]);
}

#[test]
fn each_byte_is_the_sum_of_the_products() {
    let rows: Vec<Vec<u8>> = noise(1, 7 * 5).chunks(5).map(<[u8]>::to_vec).collect();
    let rows: Vec<&[u8]> = rows.iter().map(Vec::as_slice).collect();
    for bytes in [0, 1, 63, 64, 65, 127, 128, 2_048, 5_000] {
        let inputs: Vec<Vec<u8>> = (0..5).map(|seed| noise(seed, bytes)).collect();
        let inputs: Vec<&[u8]> = inputs.iter().map(Vec::as_slice).collect();
        let mut made = vec![vec![1; bytes]; 7];
        let mut outputs: Vec<&mut [u8]> = made.iter_mut().map(Vec::as_mut_slice).collect();
        mix(&rows, &inputs, &mut outputs);
        for (row, made) in rows.iter().zip(&made) {
            for at in 0..bytes {
                let byte =
                    row.iter().zip(&inputs).fold(0, |sum, (factor, input)| sum ^ mul(*factor, input[at]));
                assert_eq!(made[at], byte);
            }
        }
    }
}

#[test]
fn what_is_no_set_of_fragments_is_refused() {
    let code = Code::new(&cut(3, 6));
    let wrong = CodingError::Fragments { needed: 3, total: 6 };
    for have in [&[0, 1][..], &[0, 1, 2, 3], &[0, 0, 1], &[0, 1, 6]] {
        assert_eq!(code.recipe(have, &[0]).unwrap_err(), wrong, "{have:?}");
    }
    assert_eq!(code.recipe(&[0, 1, 2], &[6]).unwrap_err(), wrong);
    let recipe = code.recipe(&[1, 3, 5], &[0, 4]).unwrap();
    let (long, short) = ([1; 8], [1; 7]);
    let mut outputs = [[0; 8]; 2];
    let [first, second] = &mut outputs;
    let mut outputs: Vec<&mut [u8]> = vec![first, second];
    for inputs in [&[&long[..], &long, &short][..], &[&long, &long], &[&short, &short, &short]] {
        assert_eq!(recipe.apply(inputs, &mut outputs), Err(CodingError::Lengths));
    }
}

#[test]
fn the_largest_code_works() {
    let code = Code::new(&cut(128, 255));
    let shards: Vec<Vec<u8>> = (0..128).map(|seed| noise(seed, 10)).collect();
    let all = all_of(&code, &shards);
    let have: Vec<u8> = (127..255).collect();
    let inputs: Vec<&[u8]> = all[127..].iter().map(Vec::as_slice).collect();
    let want: Vec<u8> = (0..127).collect();
    assert!(make(&code.recipe(&have, &want).unwrap(), &inputs, 127) == shards[..127]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn any_needed_fragments_make_all_others(
        (needed, total, order) in (2_u8..20).prop_flat_map(|needed| (Just(needed), needed..=60))
            .prop_flat_map(|(needed, total)| {
                (Just(needed), Just(total), Just((0..total).collect::<Vec<u8>>()).prop_shuffle())
            }),
        bytes in 0_usize..300,
        seed in any::<u64>(),
    ) {
        let code = Code::new(&cut(needed, total));
        let shards: Vec<Vec<u8>> = (0..needed).map(|at| noise(seed ^ u64::from(at), bytes)).collect();
        let all = all_of(&code, &shards);
        let (have, want) = order.split_at(usize::from(needed));
        let inputs: Vec<&[u8]> = have.iter().map(|number| all[usize::from(*number)].as_slice()).collect();
        let made = make(&code.recipe(have, want).unwrap(), &inputs, want.len());
        for (number, made) in want.iter().zip(made) {
            prop_assert!(made == all[usize::from(*number)], "{number} of {have:?}");
        }
    }
}
