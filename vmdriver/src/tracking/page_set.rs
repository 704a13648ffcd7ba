//! Logic: which pages of the guest's memory, as one bit each.

use std::ops::Range;

/// Bytes of a page: what the kernel notes writes by.
pub(crate) const PAGE_BYTES: u64 = 4_096;

/// Bytes of a chunk: the grid that the store keeps.
pub(crate) const CHUNK_BYTES: u64 = 64 << 10;

/// Pages of a chunk, one bit each in a mask.
const CHUNK_PAGES: u64 = CHUNK_BYTES / PAGE_BYTES;

/// Chunks whose bits share a word.
const WORD_CHUNKS: u64 = 64 / CHUNK_PAGES;

/// A set of pages of a memory whose size is whole chunks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PageSet {
    words: Vec<u64>,
    pages: u64,
}

impl PageSet {
    /// No page of a memory of this size.
    pub(crate) fn empty(bytes: u64) -> Self {
        assert!(bytes % CHUNK_BYTES == 0, "a memory of {bytes} bytes has a broken chunk");
        let pages = bytes / PAGE_BYTES;
        Self { words: vec![0; usize::try_from(pages.div_ceil(64)).unwrap_or(usize::MAX)], pages }
    }

    /// The size of the memory.
    pub(crate) fn bytes(&self) -> u64 {
        self.pages * PAGE_BYTES
    }

    /// Takes out all pages.
    pub(crate) fn clear(&mut self) {
        self.words.fill(0);
    }

    /// Puts in all pages.
    pub(crate) fn fill(&mut self) {
        self.insert(0..self.bytes());
    }

    /// Puts in every page that these bytes touch.
    pub(crate) fn insert(&mut self, bytes: Range<u64>) {
        let end = bytes.end.div_ceil(PAGE_BYTES);
        assert!(end <= self.pages, "page {end} of {}", self.pages);
        let mut page = bytes.start / PAGE_BYTES;
        while page < end {
            let (word, bit) = (page / 64, page % 64);
            let count = (64 - bit).min(end - page);
            let ones = if count == 64 { u64::MAX } else { (1 << count) - 1 };
            // The assertion above bounds the word.
            if let Some(found) = self.words.get_mut(usize::try_from(word).unwrap_or(usize::MAX)) {
                *found |= ones << bit;
            }
            page += count;
        }
    }

    /// Puts in all pages of another set of the same memory.
    pub(crate) fn join(&mut self, other: &Self) {
        assert_eq!(self.pages, other.pages, "sets of different memories");
        for (word, more) in self.words.iter_mut().zip(&other.words) {
            *word |= more;
        }
    }

    /// How many pages there are in it.
    pub(crate) fn pages(&self) -> u64 {
        self.words.iter().map(|word| u64::from(word.count_ones())).sum()
    }

    /// Each chunk that has a page in it, in rising order, with a mask of those pages.
    pub(crate) fn chunks(&self) -> impl Iterator<Item = (u64, u16)> + '_ {
        let words = self.words.iter().enumerate().filter(|(_, word)| **word != 0);
        words.flat_map(|(position, word)| {
            let first = position as u64 * WORD_CHUNKS;
            (0..WORD_CHUNKS).filter_map(move |number| {
                let mask = (word >> (number * CHUNK_PAGES)) & 0xffff;
                (mask != 0).then_some((first + number, u16::try_from(mask).unwrap_or(u16::MAX)))
            })
        })
    }

    /// How many chunks have a page in it.
    pub(crate) fn chunk_count(&self) -> u64 {
        self.chunks().count() as u64
    }

    /// The bytes of those chunks; neighbours in one range.
    pub(crate) fn chunk_ranges(&self) -> Vec<Range<u64>> {
        let mut ranges: Vec<Range<u64>> = Vec::new();
        for (chunk, _) in self.chunks() {
            let (start, end) = (chunk * CHUNK_BYTES, (chunk + 1) * CHUNK_BYTES);
            match ranges.last_mut() {
                Some(last) if last.end == start => last.end = end,
                _ => ranges.push(start..end),
            }
        }
        ranges
    }
}

/// The runs of pages in a chunk's mask, in bytes from the chunk's start.
pub(crate) fn runs(mask: u16) -> impl Iterator<Item = Range<u64>> {
    let mut rest = u32::from(mask);
    let mut at = 0_u64;
    std::iter::from_fn(move || {
        if rest == 0 {
            return None;
        }
        let skip = rest.trailing_zeros();
        rest >>= skip;
        let count = rest.trailing_ones();
        rest >>= count;
        let start = at + u64::from(skip);
        at = start + u64::from(count);
        Some(start * PAGE_BYTES..at * PAGE_BYTES)
    })
}

#[cfg(test)]
#[expect(clippy::single_range_in_vec_init, reason = "lists of ranges are what is tested")]
mod tests {
    use super::*;

    const BYTES: u64 = 3 << 20;

    #[test]
    fn a_set_is_what_was_put_in() {
        let mut set = PageSet::empty(BYTES);
        assert_eq!((set.pages(), set.chunk_ranges()), (0, vec![]));
        set.insert(1..2);
        set.insert(CHUNK_BYTES - 1..CHUNK_BYTES + 1);
        set.insert(5 * CHUNK_BYTES..5 * CHUNK_BYTES);
        set.insert(BYTES - PAGE_BYTES..BYTES);
        assert_eq!(set.pages(), 4);
        assert_eq!(
            set.chunks().collect::<Vec<_>>(),
            [(0, 0x8001), (1, 1), (BYTES / CHUNK_BYTES - 1, 0x8000)]
        );
        assert_eq!(set.chunk_ranges(), [0..2 * CHUNK_BYTES, BYTES - CHUNK_BYTES..BYTES]);
        assert_eq!(set.chunk_count(), 3);
        set.clear();
        assert_eq!(set, PageSet::empty(BYTES));
        set.fill();
        assert_eq!((set.pages(), set.chunk_ranges()), (BYTES / PAGE_BYTES, vec![0..BYTES]));
    }

    /// Against the plainest set there is, over many ranges across the borders of words.
    #[test]
    fn ranges_and_unions_agree_with_a_plain_set() {
        let (mut set, mut plain) = (PageSet::empty(BYTES), std::collections::BTreeSet::new());
        let mut seed = 7_u64;
        for _ in 0..200 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let start = (seed >> 33) % BYTES;
            let end = (start + (seed >> 20) % (200 << 10)).min(BYTES);
            let mut one = PageSet::empty(BYTES);
            one.insert(start..end);
            set.join(&one);
            plain.extend(start / PAGE_BYTES..end.div_ceil(PAGE_BYTES));
            assert_eq!(set.pages(), plain.len() as u64);
            if plain.len() as u64 * 2 > BYTES / PAGE_BYTES {
                set.clear();
                plain.clear();
            }
        }
        let chunks: std::collections::BTreeSet<u64> = plain.iter().map(|page| page / CHUNK_PAGES).collect();
        assert!(set.chunks().map(|(chunk, _)| chunk).eq(chunks));
    }

    #[test]
    fn the_runs_of_a_mask_are_its_pages() {
        for mask in 0..=u16::MAX {
            let mut found = 0_u32;
            for run in runs(mask) {
                assert!(run.start < run.end && run.end <= CHUNK_BYTES, "{mask:x}");
                for page in run.start / PAGE_BYTES..run.end / PAGE_BYTES {
                    found |= 1 << page;
                }
            }
            assert_eq!(found, u32::from(mask));
        }
        assert_eq!(runs(0b1110_0000_0000_0110).count(), 2);
    }
}
