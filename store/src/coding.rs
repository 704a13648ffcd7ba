//! Logic: the code by which fragments are made of packs, and packs or other fragments of any `needed` fragments.
//!
//! Reed–Solomon over bytes: each byte of a fragment is a sum of the bytes at the same place of the shards, each times a
//! factor. The factors of a code are fixed by the numbers of fragments alone; docs/format.md says how.

mod matrix;
mod mix;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use sustain_proto::Cut;

use crate::limits;
use matrix::{Matrix, generator, invert, times};
use mix::mix;

/// Why fragments can't be made of those that are there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CodingError {
    /// Not exactly as many different ones as are needed, or one that the code does not have.
    #[error("these are not {needed} different fragments of {total}")]
    Fragments {
        /// Fragments needed.
        needed: u8,
        /// Fragments in all.
        total: u8,
    },
    /// Parts of fragments that are not equally long.
    #[error("parts of fragments that are not equally long, or not as many as announced")]
    Lengths,
}

/// A code: how many fragments there are, and how each is made.
#[derive(Debug)]
pub(crate) struct Code {
    needed: u8,
    total: u8,
    generator: Matrix,
}

impl Code {
    pub(crate) fn new(cut: &Cut) -> Self {
        let Cut { needed, total, .. } = *cut;
        Self { needed, total, generator: generator(needed, total) }
    }

    /// How to make fragments of others, given by their numbers; the first `needed` are the shards themselves.
    pub(crate) fn recipe(&self, have: &[u8], want: &[u8]) -> Result<Recipe, CodingError> {
        let Self { needed, total, ref generator } = *self;
        let wrong = CodingError::Fragments { needed, total };
        let row = |number: &u8| generator.get(usize::from(*number)).cloned().ok_or(wrong);
        if have.len() != usize::from(needed) {
            return Err(wrong);
        }
        // Numbers that occur twice make it singular.
        let shards = invert(have.iter().map(row).collect::<Result<_, _>>()?).ok_or(wrong)?;
        let rows = want.iter().map(|number| {
            if let Some(at) = have.iter().position(|have| have == number) {
                return Ok(Row::Copy(at));
            }
            Ok(Row::Mix(times(&row(number)?, &shards)))
        });
        Ok(Recipe { have: have.to_vec(), want: want.to_vec(), rows: rows.collect::<Result<_, _>>()? })
    }
}

#[derive(Debug, Clone)]
enum Row {
    Copy(usize),
    Mix(Vec<u8>),
}

/// How some fragments are made of others.
#[derive(Debug, Clone)]
pub(crate) struct Recipe {
    have: Vec<u8>,
    want: Vec<u8>,
    rows: Vec<Row>,
}

impl Recipe {
    /// The numbers of the fragments that it takes, in this order.
    pub(crate) fn have(&self) -> &[u8] {
        &self.have
    }

    /// Makes the same range of all wanted fragments of that range of those that there are.
    pub(crate) fn apply(&self, inputs: &[&[u8]], outputs: &mut [&mut [u8]]) -> Result<(), CodingError> {
        let bytes = inputs.first().map_or(0, |input| input.len());
        let lengths = inputs.iter().map(|input| input.len()).chain(outputs.iter().map(|output| output.len()));
        if inputs.len() != self.have.len()
            || outputs.len() != self.want.len()
            || lengths.into_iter().any(|length| length != bytes)
        {
            return Err(CodingError::Lengths);
        }
        let (mut rows, mut mixed) = (Vec::new(), Vec::new());
        for (row, output) in self.rows.iter().zip(outputs) {
            match row {
                Row::Copy(input) => output.copy_from_slice(inputs[*input]),
                Row::Mix(factors) => {
                    rows.push(&**factors);
                    mixed.push(&mut **output);
                }
            }
        }
        mix(&rows, inputs, &mut mixed);
        Ok(())
    }
}

/// Codes that were used last: making one takes longer than using it for a small pack.
#[derive(Debug, Default)]
pub(crate) struct Codes(Mutex<BTreeMap<(u8, u8), Arc<Code>>>);

impl Codes {
    /// The code of a cut that has passed [`Cut::check`].
    pub(crate) fn of(&self, cut: &Cut) -> Arc<Code> {
        let mut codes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (cut.needed, cut.total);
        if codes.len() >= limits::CODES_KEPT && !codes.contains_key(&key) {
            codes.clear();
        }
        codes.entry(key).or_insert_with(|| Arc::new(Code::new(cut))).clone()
    }
}

#[cfg(test)]
mod tests;
