//! Logic: ranges of bytes, sorted and apart from one another.

use std::ops::Range;

use serde::Serialize;

/// A range of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Span {
    /// Where it begins.
    pub offset: u64,
    /// How long it is.
    pub bytes: u64,
}

impl Span {
    /// Where it ends.
    #[must_use]
    pub const fn end(&self) -> u64 {
        self.offset + self.bytes
    }
}

/// Adds a range that begins where the last one ends, or later.
pub(crate) fn append(spans: &mut Vec<Span>, range: Range<u64>) {
    if range.is_empty() {
        return;
    }
    match spans.last_mut() {
        Some(last) if last.end() >= range.start => {
            last.bytes = last.bytes.max(range.end.saturating_sub(last.offset));
        }
        _ => spans.push(Span { offset: range.start, bytes: range.end - range.start }),
    }
}

/// Bytes in all of them.
pub(crate) fn total(spans: &[Span]) -> u64 {
    spans.iter().map(|span| span.bytes).sum()
}

/// What of a range lies in them.
pub(crate) fn within(spans: &[Span], range: Range<u64>) -> impl Iterator<Item = Range<u64>> + '_ {
    let first = spans.partition_point(|span| span.end() <= range.start);
    let end = range.end;
    spans[first..]
        .iter()
        .take_while(move |span| span.offset < end)
        .map(move |span| span.offset.max(range.start)..span.end().min(end))
}

/// What of the first lies in none of the second.
pub(crate) fn without(spans: &[Span], taken: &[Span]) -> Vec<Span> {
    let mut left = Vec::new();
    for span in spans {
        let mut from = span.offset;
        for part in within(taken, span.offset..span.end()) {
            append(&mut left, from..part.start);
            from = part.end;
        }
        append(&mut left, from..span.end());
    }
    left
}

/// Sorts ranges that may overlap, and joins those that do.
pub(crate) fn join(mut ranges: Vec<Span>) -> Vec<Span> {
    ranges.sort_unstable_by_key(|span| span.offset);
    let mut spans = Vec::new();
    for span in ranges {
        append(&mut spans, span.offset..span.end());
    }
    spans
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bytes(spans: &[Span]) -> Vec<u64> {
        spans.iter().flat_map(|span| span.offset..span.end()).collect()
    }

    fn any_spans() -> impl Strategy<Value = Vec<Span>> {
        let span = (0_u64..60, 0_u64..9).prop_map(|(offset, bytes)| Span { offset, bytes });
        proptest::collection::vec(span, 0..8).prop_map(join)
    }

    proptest! {
        #[test]
        fn they_are_sets_of_bytes(first in any_spans(), second in any_spans(), range in 0_u64..70, len in 0_u64..9) {
            prop_assert!(first.windows(2).all(|pair| pair[0].end() < pair[1].offset));
            let set = bytes(&first);
            prop_assert_eq!(set.len() as u64, total(&first));
            let cut: Vec<u64> = within(&first, range..range + len).flatten().collect();
            let expected: Vec<u64> = set.iter().copied().filter(|at| (range..range + len).contains(at)).collect();
            prop_assert_eq!(cut, expected);
            let taken = bytes(&second);
            let expected: Vec<u64> = set.into_iter().filter(|at| !taken.contains(at)).collect();
            prop_assert_eq!(bytes(&without(&first, &second)), expected);
        }
    }
}
