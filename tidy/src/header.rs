//! Every Rust file begins with what it is for.

use crate::{Finding, Source};

/// A file whose first line is not a `//!` with some text.
#[must_use]
pub fn check_header(source: &Source) -> Vec<Finding> {
    // A script may begin with its interpreter.
    let mut lines = source.text.lines().skip_while(|line| line.starts_with("#!/"));
    let text = lines.next().and_then(|line| line.strip_prefix("//!"));
    if !source.is_rust() || text.is_some_and(|text| !text.trim().is_empty()) {
        return Vec::new();
    }
    vec![source.finding(1, "a file begins with a `//!` line that says what it is for")]
}

#[cfg(test)]
mod tests {
    use super::check_header;
    use crate::Source;

    #[test]
    fn only_a_first_line_that_says_something_will_do() {
        let count = |text: &str| check_header(&Source::new("a.rs", text)).len();
        assert_eq!(count("//! Frames.\n"), 0);
        for text in
            ["", "//!\n", "//!  \n", "// Frames.\n", "use std::fmt;\n//! Frames.\n", "\n//! Frames.\n"]
        {
            assert_eq!(count(text), 1, "{text:?}");
        }
        assert_eq!(check_header(&Source::new("a.md", "")).len(), 0);
    }
}
