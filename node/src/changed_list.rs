//! Logic: lists of what changed in a region, as text: a line for each range of bytes, its offset and its length.

use std::ops::Range;

/// Why a text is no list of a region's changes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChangedListError {
    /// Something else than two numbers.
    #[error("line {line} is not an offset and a length, in bytes, such as `65536 4096`")]
    Line {
        /// Its number, from 1.
        line: usize,
    },
    /// A list of a longer region's changes is another region's, or another state's.
    #[error("line {line} reaches beyond the region's {region_bytes} bytes")]
    Outside {
        /// Its number, from 1.
        line: usize,
        /// How long the region is.
        region_bytes: u64,
    },
}

/// Reads a list: on each line the offset and the length of a range in bytes, decimal, with a space between. The
/// ranges may be in any order, overlap, and be empty; lines that are empty say nothing.
///
/// # Errors
/// If a line is anything else, or reaches beyond the region's end.
pub fn parse_changed_list(text: &str, region_bytes: u64) -> Result<Vec<Range<u64>>, ChangedListError> {
    let mut ranges = Vec::new();
    for (number, text) in text.lines().enumerate() {
        let line = number + 1;
        let words: Vec<&str> = text.split_ascii_whitespace().take(3).collect();
        let (start, bytes) = match words[..] {
            [] => continue,
            [start, bytes] => (decimal(start), decimal(bytes)),
            _ => (None, None),
        };
        let (Some(start), Some(bytes)) = (start, bytes) else {
            return Err(ChangedListError::Line { line });
        };
        let end = start.checked_add(bytes).filter(|end| *end <= region_bytes);
        let end = end.ok_or(ChangedListError::Outside { line, region_bytes })?;
        ranges.push(start..end);
    }
    Ok(ranges)
}

/// A number of digits only: `parse` would take a sign too.
fn decimal(word: &str) -> Option<u64> {
    word.bytes().all(|byte| byte.is_ascii_digit()).then(|| word.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_in_any_order() {
        let list = "4096 10\n\n0 4096\n  50\t50 \r\n100 0";
        let ranges = parse_changed_list(list, 4_106).unwrap();
        assert_eq!(ranges, [4_096..4_106, 0..4_096, 50..100, 100..100]);
        assert_eq!(parse_changed_list("", 0), Ok(Vec::new()));
    }

    #[test]
    fn whatever_is_no_list_is_refused_by_its_line() {
        let texts =
            ["7", "1 2 3", "a b", "-1 5", "+1 5", "1.0 5", "0x10 5", "99999999999999999999 1", "ram\0 1"];
        for text in texts {
            let error = parse_changed_list(&format!("0 1\n{text}\n"), 100).unwrap_err();
            assert_eq!(error, ChangedListError::Line { line: 2 }, "{text}");
        }
    }

    #[test]
    fn what_is_outside_of_the_region_is_refused() {
        for text in ["99 2", "101 0", "18446744073709551615 1", "0 18446744073709551615"] {
            let error = parse_changed_list(text, 100).unwrap_err();
            assert_eq!(error, ChangedListError::Outside { line: 1, region_bytes: 100 }, "{text}");
        }
    }
}
