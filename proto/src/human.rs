//! Sizes and counts as people read them, for messages and logs.

use std::fmt;

/// A number of bytes that is shown with a binary unit and three digits or so: `620.7 KiB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size(pub u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
        let mut scaled = self.0 as f64;
        let mut unit = 0;
        while scaled >= 1024.0 && unit + 1 < UNITS.len() {
            scaled /= 1024.0;
            unit += 1;
        }
        if unit == 0 { write!(f, "{} B", self.0) } else { write!(f, "{scaled:.1} {}", UNITS[unit]) }
    }
}

/// A count and what is counted: `1 loss`, `2 losses`.
#[must_use]
pub fn counted(count: u64, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_counts_are_readable() {
        for (bytes, text) in
            [(0, "0 B"), (1023, "1023 B"), (1 << 20, "1.0 MiB"), (u64::MAX, "16777216.0 TiB")]
        {
            assert_eq!(Size(bytes).to_string(), text);
        }
        let losses = |count| counted(count, "loss", "losses");
        assert_eq!([losses(0), losses(1), losses(2)], ["0 losses", "1 loss", "2 losses"]);
    }
}
