//! Mutations without a fuzzer: bits, numbers, cuts and copies, from a seed.

/// Numbers that parsers trip over.
const TELLING: [u64; 8] = [0, 1, 0x7f, 0x80, 0xff, 0xffff, 0x7fff_ffff, u64::MAX];

/// Most mutations of one input: more leave nothing of what it was.
const ROUNDS_MAX: u64 = 4;

/// An endless row of mutated inputs.
#[derive(Debug)]
pub struct Mutations<'a> {
    seeds: &'a [Vec<u8>],
    state: u64,
    bytes_max: usize,
}

impl<'a> Mutations<'a> {
    /// Of these inputs, of at most so many bytes each. There must be at least one.
    #[must_use]
    pub fn new(seeds: &'a [Vec<u8>], seed: u64, bytes_max: usize) -> Self {
        Self { seeds, state: seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1, bytes_max }
    }

    /// A number below `most`, or 0: xorshift64*, Vigna 2016.
    fn below(&mut self, most: usize) -> usize {
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        let random = self.state.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 11;
        usize::try_from(random).unwrap_or(0).checked_rem(most).unwrap_or(0)
    }

    fn mutate(&mut self, bytes: &mut Vec<u8>) {
        let at = self.below(bytes.len());
        match self.below(7) {
            0 => {
                let bit = self.below(8);
                bytes[at] ^= 1 << bit;
            }
            1 => bytes[at] = self.below(256) as u8,
            2 => {
                // A number of 1, 2, 4 or 8 bytes.
                let (width, number) = (1 << self.below(4), TELLING[self.below(TELLING.len())]);
                let end = bytes.len().min(at + width);
                bytes[at..end].copy_from_slice(&number.to_le_bytes()[..end - at]);
            }
            3 => bytes.truncate(at),
            4 => {
                // A part comes twice.
                let length = self.below(64).min(bytes.len() - at);
                let part = bytes[at..at + length].to_vec();
                bytes.splice(at..at, part);
            }
            5 => {
                let end = at + self.below(64).min(bytes.len() - at);
                bytes.drain(at..end);
            }
            _ => {
                // A part of another input.
                let other = &self.seeds[self.below(self.seeds.len())];
                let from = self.below(other.len());
                let length = self.below(64).min(other.len() - from).min(bytes.len() - at);
                bytes[at..at + length].copy_from_slice(&other[from..from + length]);
            }
        }
    }
}

impl Iterator for Mutations<'_> {
    type Item = Vec<u8>;

    fn next(&mut self) -> Option<Vec<u8>> {
        let mut bytes = self.seeds.get(self.below(self.seeds.len()))?.clone();
        for _ in 0..=self.below(ROUNDS_MAX as usize) {
            if !bytes.is_empty() {
                self.mutate(&mut bytes);
            }
        }
        bytes.truncate(self.bytes_max);
        Some(bytes)
    }
}
