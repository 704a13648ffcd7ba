//! The store's own code as one of the libraries.

use crate::code;
use crate::{Library, Outcome};

/// Its matrix, how many shards there are, and whether it may use what the processor has.
pub struct Own {
    pub generator: Vec<Vec<u8>>,
    pub needed: usize,
    pub fast: bool,
}

impl Own {
    pub fn new(needed: usize, total: usize, fast: bool) -> Self {
        Self { generator: code::generator(needed, total), needed, fast }
    }

    fn apply(&self, rows: &[Vec<u8>], inputs: &[&[u8]]) -> Vec<Vec<u8>> {
        let mut made = vec![vec![0; inputs[0].len()]; rows.len()];
        let mut outputs: Vec<&mut [u8]> = made.iter_mut().map(Vec::as_mut_slice).collect();
        code::apply(rows, inputs, &mut outputs, self.fast);
        made
    }
}

impl Library for Own {
    fn encode(&self, data: &[Vec<u8>]) -> Outcome<Vec<Vec<u8>>> {
        let inputs: Vec<&[u8]> = data.iter().map(Vec::as_slice).collect();
        Ok(self.apply(&self.generator[self.needed..], &inputs))
    }

    fn decode(&self, have: Vec<Option<Vec<u8>>>) -> Outcome<Vec<Vec<u8>>> {
        let here: Vec<usize> = (0..have.len()).filter(|at| have[*at].is_some()).take(self.needed).collect();
        let inputs: Vec<&[u8]> = here.iter().filter_map(|at| have[*at].as_deref()).collect();
        let mut made = self.apply(&code::lost(&self.generator, &here), &inputs).into_iter();
        let all = have.into_iter().take(self.needed).map(|fragment| fragment.or_else(|| made.next()));
        all.map(|fragment| fragment.ok_or_else(|| "not rebuilt".into())).collect()
    }
}
