//! A file is one noun, and fits a head; a line fits a screen.

use crate::{Finding, Source};

/// Most lines of a Rust file, tests not counted. Aim for 150.
pub const FILE_LINES_MAX: usize = 400;

/// Most characters of a line of Rust. rustfmt breaks code at 110; this catches the texts and comments
/// that it leaves alone.
pub const LINE_CHARACTERS_MAX: usize = 120;

/// A Rust file with too many lines, and each of its lines that is too long.
#[must_use]
pub fn check_length(source: &Source) -> Vec<Finding> {
    if !source.is_rust() {
        return Vec::new();
    }
    let mut findings = Vec::new();
    let lines = source.lines_without_tests().len();
    if lines > FILE_LINES_MAX && !source.is_test() {
        let what =
            format!("{lines} lines without tests, at most {FILE_LINES_MAX} are allowed: split it by nouns");
        findings.push(source.finding(None, what));
    }
    for (number, line) in source.lines() {
        let characters = line.chars().count();
        if characters > LINE_CHARACTERS_MAX {
            let what = format!("{characters} characters, at most {LINE_CHARACTERS_MAX} are allowed");
            findings.push(source.finding(number, what));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::{FILE_LINES_MAX, LINE_CHARACTERS_MAX, check_length};
    use crate::Source;

    #[test]
    fn one_line_more_than_allowed() {
        let long = "let a = 1;\n".repeat(FILE_LINES_MAX);
        assert_eq!(check_length(&Source::new("a.rs", &*long)), []);
        let tests = "#[cfg(test)]\nmod tests {\n    use super::*;\n}\n";
        assert_eq!(check_length(&Source::new("a.rs", format!("{long}{tests}"))), []);
        let longer = format!("{long}// one more\n");
        assert_eq!(check_length(&Source::new("a.rs", &*longer)).len(), 1);
        assert_eq!(check_length(&Source::new("tests/a.rs", longer)), []);
    }

    #[test]
    fn one_character_more_than_allowed_and_umlauts_are_one() {
        let line = "ü".repeat(LINE_CHARACTERS_MAX);
        assert_eq!(check_length(&Source::new("a.rs", &*line)), []);
        let findings = check_length(&Source::new("tests/a.rs", format!("\n{line}x")));
        assert_eq!(findings.len(), 1);
        assert_eq!(findings[0].line, Some(2));
    }
}
