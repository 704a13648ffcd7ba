//! Pages: which parts of a chunk are stored, are zero, are as in the chunk that it refers to, or are stored with
//! another chunk. Pure.
//!
//! Guests write pages of 4 KiB, so a chunk that differs from the base's differs in few of its sixteen pages, and one
//! that changes again differs in fewer still.

use std::ops::Range;

use sustain_proto::limits::CHUNK_BYTES;
use sustain_proto::{ChunkId, is_zero};

/// Bytes of a page: what processors, and file systems by default, work in.
pub(crate) const PAGE_BYTES: usize = 4_096;

/// Most pages of a chunk.
pub(crate) const PAGES_MAX: usize = CHUNK_BYTES / PAGE_BYTES;

/// What a chunk has at a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Page {
    /// Zeros.
    Zero,
    /// Bytes that are stored.
    Data,
    /// What the reference has there.
    Same,
    /// A page that is stored with another chunk.
    Shared,
}

/// A page that is stored with a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SharedPage {
    pub(crate) chunk: ChunkId,
    /// Its number there.
    pub(crate) page: u8,
}

/// What a position held before: its bytes, and where each page is stored, if it is stored at all.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Previous<'a> {
    pub(crate) plain: &'a [u8],
    pub(crate) stored: [Option<SharedPage>; PAGES_MAX],
}

/// The pages of a chunk, two bits each, the first one lowest: 0 zero, 1 data, 2 same, 3 shared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PageMap(u32);

fn page_count(chunk_bytes: usize) -> usize {
    chunk_bytes.div_ceil(PAGE_BYTES)
}

/// A page's bytes, if the chunk has all of them.
fn page(chunk: &[u8], start: usize, bytes: usize) -> Option<&[u8]> {
    chunk.get(start..start + bytes)
}

/// Where the pages of a chunk begin, and how many bytes each has.
fn spans(chunk_bytes: usize) -> impl Iterator<Item = (usize, usize, usize)> {
    (0..page_count(chunk_bytes)).map(move |number| {
        let start = number * PAGE_BYTES;
        (number, start, PAGE_BYTES.min(chunk_bytes - start))
    })
}

impl PageMap {
    /// Everything is stored.
    pub(crate) fn all_data(chunk_bytes: usize) -> Self {
        Self((0..page_count(chunk_bytes)).fold(0, |map, number| map | 1 << (2 * number)))
    }

    /// As it was stored. [`PageMap::check`] tells whether it makes sense.
    pub(crate) fn from_bits(bits: u32) -> Self {
        Self(bits)
    }

    pub(crate) fn bits(self) -> u32 {
        self.0
    }

    /// What is to be stored of a chunk, given what it refers to and what was there before, if there is any. Adds the
    /// pages that are stored already to `shared`.
    pub(crate) fn compare(
        plain: &[u8],
        reference: Option<&[u8]>,
        previous: Option<&Previous<'_>>,
        shared: &mut Vec<SharedPage>,
    ) -> Self {
        let mut bits = 0;
        for (number, start, bytes) in spans(plain.len()) {
            let new = &plain[start..start + bytes];
            let old = reference.and_then(|reference| page(reference, start, bytes));
            let stored = || previous.and_then(|previous| previous.has(number, start, new));
            let what = if old == Some(new) {
                2
            } else if is_zero(new) {
                0
            } else if let Some(page) = stored() {
                shared.push(page);
                3
            } else {
                1
            };
            bits |= what << (2 * number);
        }
        Self(bits)
    }

    /// What is at a page.
    pub(crate) fn get(self, number: usize) -> Page {
        match self.0 >> (2 * number) & 3 {
            0 => Page::Zero,
            1 => Page::Data,
            2 => Page::Same,
            _ => Page::Shared,
        }
    }

    /// How many pages are of a kind.
    pub(crate) fn count(self, kind: Page) -> usize {
        (0..PAGES_MAX).filter(|number| self.get(*number) == kind).count()
    }

    /// Whether a chunk of this size can have this map.
    pub(crate) fn check(self, chunk_bytes: usize, refers: bool) -> Result<(), &'static str> {
        let pages = page_count(chunk_bytes);
        if pages < PAGES_MAX && self.0 >> (2 * pages) != 0 {
            return Err("a chunk's pages are past its end");
        }
        if self.count(Page::Same) > 0 && !refers { Err("a chunk refers to nothing") } else { Ok(()) }
    }

    /// Bytes that are stored.
    pub(crate) fn data_bytes(self, chunk_bytes: usize) -> usize {
        let data = spans(chunk_bytes).filter(|(number, ..)| self.get(*number) == Page::Data);
        data.map(|(_, _, bytes)| bytes).sum()
    }

    /// Adds the bytes to be stored.
    pub(crate) fn append_data(self, plain: &[u8], data: &mut Vec<u8>) {
        for (number, start, bytes) in spans(plain.len()) {
            if self.get(number) == Page::Data {
                data.extend_from_slice(&plain[start..start + bytes]);
            }
        }
    }

    /// Adds what the reference has where bytes are stored: they are likely to resemble it.
    pub(crate) fn append_prefix(self, chunk_bytes: usize, reference: &[u8], prefix: &mut Vec<u8>) {
        for (number, start, bytes) in spans(chunk_bytes) {
            if self.get(number) == Page::Data {
                prefix.extend(page(reference, start, bytes).filter(|old| !is_zero(old)).unwrap_or_default());
            }
        }
    }

    /// Where a stored page is among the chunk's stored bytes; none if it is not stored.
    pub(crate) fn data_range(self, chunk_bytes: usize, page: usize) -> Option<Range<usize>> {
        let (_, _, bytes) = spans(chunk_bytes).nth(page).filter(|_| self.get(page) == Page::Data)?;
        let before = spans(chunk_bytes).take(page).filter(|(number, ..)| self.get(*number) == Page::Data);
        let start = before.map(|(_, _, bytes)| bytes).sum();
        Some(start..start + bytes)
    }

    /// Puts a chunk together from its stored bytes, what it refers to, and the pages that are stored with others,
    /// back to back.
    pub(crate) fn assemble(
        self,
        data: &[u8],
        reference: &[u8],
        shared: &[u8],
        plain: &mut [u8],
    ) -> Result<(), &'static str> {
        let (mut rest, mut shared) = (data, shared);
        for (number, start, bytes) in spans(plain.len()) {
            let to = &mut plain[start..start + bytes];
            match self.get(number) {
                Page::Data => {
                    let (now, later) = rest.split_at_checked(bytes).ok_or("a chunk's bytes are too few")?;
                    to.copy_from_slice(now);
                    rest = later;
                }
                Page::Shared => {
                    let (now, later) = shared.split_at_checked(bytes).ok_or("a chunk's pages are too few")?;
                    to.copy_from_slice(now);
                    shared = later;
                }
                Page::Same => {
                    to.copy_from_slice(
                        page(reference, start, bytes).ok_or("a chunk refers to a shorter one")?,
                    );
                }
                Page::Zero => to.fill(0),
            }
        }
        if rest.is_empty() && shared.is_empty() { Ok(()) } else { Err("a chunk's bytes are too many") }
    }
}

impl Previous<'_> {
    /// Where a page with these bytes is stored, if the position had it before.
    fn has(&self, number: usize, start: usize, new: &[u8]) -> Option<SharedPage> {
        let old = page(self.plain, start, new.len())?;
        // The last page of a chunk is stored as long as it is.
        let whole = new.len() == PAGE_BYTES || self.plain.len() == start + new.len();
        self.stored[number].filter(|_| old == new && whole)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn chunk(pages: &[u8], bytes: usize) -> Vec<u8> {
        let mut chunk: Vec<u8> = pages.iter().flat_map(|fill| [*fill; PAGE_BYTES]).collect();
        chunk.truncate(bytes);
        chunk
    }

    fn chunks() -> impl Strategy<Value = Vec<u8>> {
        (prop::collection::vec(0_u8..3, 16), 1..=CHUNK_BYTES).prop_map(|(pages, bytes)| chunk(&pages, bytes))
    }

    fn stored_with(chunk: u8, pages: &[usize]) -> [Option<SharedPage>; PAGES_MAX] {
        let page =
            |page| SharedPage { chunk: ChunkId::from_bytes([chunk; 32]), page: u8::try_from(page).unwrap() };
        std::array::from_fn(|number| pages.contains(&number).then(|| page(number)))
    }

    proptest! {
        #[test]
        fn what_is_taken_apart_is_put_together_again(
            plain in chunks(),
            old in prop::option::of(chunks()),
            before in chunks(),
            stored in prop::collection::vec(0..PAGES_MAX, 0..PAGES_MAX),
        ) {
            let previous = Previous { plain: &before, stored: stored_with(1, &stored) };
            let mut pages = Vec::new();
            let map = PageMap::compare(&plain, old.as_deref(), Some(&previous), &mut pages);
            prop_assert_eq!(map.check(plain.len(), old.is_some()), Ok(()));
            prop_assert_eq!(map.count(Page::Shared), pages.len());
            let (mut data, mut prefix) = (Vec::new(), Vec::new());
            map.append_data(&plain, &mut data);
            map.append_prefix(plain.len(), old.as_deref().unwrap_or_default(), &mut prefix);
            prop_assert_eq!(data.len(), map.data_bytes(plain.len()));
            prop_assert!(prefix.len() <= data.len());
            for page in 0..PAGES_MAX {
                let start = page * PAGE_BYTES;
                if let Some(range) = map.data_range(plain.len(), page) {
                    prop_assert_eq!(&data[range.clone()], &plain[start..start + range.len()]);
                }
            }
            let shared: Vec<u8> = pages
                .iter()
                .flat_map(|page| {
                    let start = usize::from(page.page) * PAGE_BYTES;
                    before[start..before.len().min(start + PAGE_BYTES)].to_vec()
                })
                .collect();
            let mut again = vec![9; plain.len()];
            map.assemble(&data, old.as_deref().unwrap_or_default(), &shared, &mut again).unwrap();
            prop_assert_eq!(again, plain);
        }

        #[test]
        fn no_bits_do_harm(bits: u32, bytes in 1..=CHUNK_BYTES, refers: bool, data in 0..CHUNK_BYTES, old in chunks()) {
            let map = PageMap::from_bits(bits);
            let checked = map.check(bytes, refers);
            let assembled = map.assemble(&vec![1; data], &old, &[], &mut vec![0; bytes]);
            if checked.is_ok() && !refers && map.count(Page::Shared) == 0 {
                prop_assert_eq!(assembled.is_ok(), map.data_bytes(bytes) == data);
            }
        }
    }

    #[test]
    fn only_what_differs_is_stored() {
        let (old, new) = (chunk(&[1, 2, 3, 0], CHUNK_BYTES), chunk(&[1, 7, 0, 8], CHUNK_BYTES));
        let map = PageMap::compare(&new, Some(&old), None, &mut Vec::new());
        assert_eq!(map.bits(), 0b01_00_01_10);
        let (mut data, mut prefix) = (Vec::new(), Vec::new());
        map.append_data(&new, &mut data);
        map.append_prefix(new.len(), &old, &mut prefix);
        assert_eq!((data, prefix), ([[7; PAGE_BYTES], [8; PAGE_BYTES]].concat(), vec![2; PAGE_BYTES]));
        assert_eq!(PageMap::compare(&old, None, None, &mut Vec::new()).data_bytes(old.len()), 3 * PAGE_BYTES);
        assert_eq!(PageMap::all_data(CHUNK_BYTES).data_bytes(CHUNK_BYTES), CHUNK_BYTES);
        assert_eq!(PageMap::all_data(5_000).data_bytes(5_000), 5_000);
    }

    /// A page that changed once was stored again each time that another page of its chunk changed.
    #[test]
    fn what_the_position_had_before_is_not_stored_again() {
        let (base, before) = (chunk(&[1, 2, 3, 4], CHUNK_BYTES), chunk(&[1, 7, 3, 4], CHUNK_BYTES));
        let now = chunk(&[1, 7, 3, 8], CHUNK_BYTES);
        let previous = Previous { plain: &before, stored: stored_with(9, &[1]) };
        let mut shared = Vec::new();
        let map = PageMap::compare(&now, Some(&base), Some(&previous), &mut shared);
        assert_eq!((map.bits(), map.data_bytes(now.len())), (0b01_10_11_10, PAGE_BYTES));
        assert_eq!(shared, [stored_with(9, &[1])[1].unwrap()]);
    }

    #[test]
    fn impossible_maps_are_refused() {
        assert!(PageMap::from_bits(2).check(CHUNK_BYTES, false).is_err());
        assert!(PageMap::from_bits(1 << 2).check(PAGE_BYTES, true).is_err());
        assert!(PageMap::from_bits(1 << 2).check(PAGE_BYTES + 1, true).is_ok());
    }
}
