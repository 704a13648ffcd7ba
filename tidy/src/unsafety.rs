//! Unsafe code only where it is named here, with the reason.

use crate::{Finding, Source};

/// Files that may hold unsafe code, each with its reason.
const ALLOWED: [(&str, &str); 5] = [
    ("fuzz/tests/corpus.rs", "an allocator that counts, to see that parsers stay within bounds"),
    ("preload/src/lib.rs", "stands in for a function of the C library, and is called as one"),
    ("preload/src/libc.rs", "declares functions of the C library"),
    ("preload/src/protect.rs", "userfaultfd is system calls without a safe wrapper"),
    ("vmdriver/src/tracking/pagemap.rs", "PAGEMAP_SCAN is a system call without a safe wrapper"),
];

/// What makes a place unsafe, or lets it be.
const SIGNS: [&str; 6] =
    ["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern", "unsafe trait", "(unsafe_code"];

/// Unsafe code outside of the named files.
#[must_use]
pub fn check_unsafety(source: &Source) -> Vec<Finding> {
    check(source, &ALLOWED)
}

fn check(source: &Source, allowed: &[(&str, &str)]) -> Vec<Finding> {
    // The signs themselves are spelled out in this file.
    let is_this = source.path == "tidy/src/unsafety.rs";
    if !source.is_rust() || is_this || allowed.iter().any(|(path, _)| *path == source.path) {
        return Vec::new();
    }
    let code = |line: &str| line.split("//").next().unwrap_or("").to_owned();
    source
        .lines()
        .filter(|(_, line)| SIGNS.iter().any(|sign| code(line).contains(sign)))
        .map(|(number, _)| {
            source.finding(number, "unsafe code: name the file and the reason in tidy/src/unsafety.rs")
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sign_is_found_except_in_a_named_file() {
        for sign in SIGNS {
            let source = Source::new("a/src/b.rs", format!("fn a() {{\n    #[allow{sign} }}\n"));
            assert_eq!(check(&source, &[]).len(), 1, "{sign}");
            assert_eq!(check(&source, &[("a/src/b.rs", "because")]), [], "{sign}");
            assert_eq!(check(&source, &[("a/src/c.rs", "because")]).len(), 1, "{sign}");
        }
        assert_eq!(check(&Source::new("a.rs", "// unsafe { would be wrong here\n"), &[]), []);
    }
}
