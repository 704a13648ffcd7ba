//! A file's text, and which of its lines are program rather than tests or comments.

use crate::Finding;

/// A text file of the repository.
#[derive(Debug, Clone)]
pub struct Source {
    /// From the repository's root, with `/`.
    pub path: String,
    /// All of it.
    pub text: String,
}

impl Source {
    /// A file's path and text.
    #[must_use]
    pub fn new(path: impl Into<String>, text: impl Into<String>) -> Self {
        Self { path: path.into(), text: text.into() }
    }

    /// Whether it is Rust.
    #[must_use]
    pub fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    /// Whether all of it is tests: in a `tests` folder, or called `tests.rs` or `..._tests.rs`.
    #[must_use]
    pub fn is_test(&self) -> bool {
        let (folders, file) = self.path.rsplit_once('/').unwrap_or(("", &self.path));
        folders.split('/').any(|folder| folder == "tests")
            || file == "tests.rs"
            || file.ends_with("_tests.rs")
    }

    /// The lines with their numbers, from 1.
    pub(crate) fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.text.lines().enumerate().map(|(index, line)| (index + 1, line))
    }

    /// The lines outside of `#[cfg(test)] mod ... { ... }`.
    ///
    /// rustfmt puts the closing brace where the module's first line begins, and that is where it is
    /// looked for.
    pub(crate) fn lines_without_tests(&self) -> Vec<(usize, &str)> {
        let mut kept = Vec::new();
        let mut lines = self.lines().peekable();
        while let Some((number, line)) = lines.next() {
            let indent = &line[..line.len() - line.trim_start().len()];
            let opens_module = line.trim() == "#[cfg(test)]"
                && lines.peek().is_some_and(|(_, next)| {
                    next.trim_start().starts_with("mod ") && next.trim_end().ends_with('{')
                });
            if opens_module {
                let end = format!("{indent}}}");
                lines.by_ref().find(|(_, line)| *line == end);
            } else {
                kept.push((number, line));
            }
        }
        kept
    }

    /// The lines outside of tests, less their `//` comments.
    pub(crate) fn code_lines(&self) -> Vec<(usize, &str)> {
        let mut lines = self.lines_without_tests();
        for (_, line) in &mut lines {
            *line = line.split_once("//").map_or(*line, |(code, _)| code);
        }
        lines
    }

    /// A finding in this file.
    pub(crate) fn finding(&self, line: impl Into<Option<usize>>, what: impl Into<String>) -> Finding {
        Finding { path: self.path.clone(), line: line.into(), what: what.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::Source;

    #[test]
    fn test_modules_and_comments_are_left_out() {
        let text = "\
fn first() {} // a comment
#[cfg(test)]
mod tests {
    mod inner {
    }
}
#[cfg(test)]
fn helper() {}
mod last {
    #[cfg(test)]
    mod tests {
    }
}
";
        let source = Source::new("a.rs", text);
        let numbers: Vec<usize> = source.lines_without_tests().iter().map(|(number, _)| *number).collect();
        assert_eq!(numbers, [1, 7, 8, 9, 13]);
        assert_eq!(source.code_lines()[0], (1, "fn first() {} "));
    }

    #[test]
    fn files_of_tests_are_known_by_their_names() {
        for path in ["a/tests/b.rs", "a/tests/suite/b.rs", "a/src/tests.rs", "a/src/push_tests.rs"] {
            assert!(Source::new(path, "").is_test(), "{path}");
        }
        for path in ["a/src/lib.rs", "a/src/attests.rs", "tests_of/a.rs", "tests"] {
            assert!(!Source::new(path, "").is_test(), "{path}");
        }
    }
}
