//! Words that have no place in the repository: unfinished business, and what only one machine knows.
//!
//! They are put together from halves here, so that this file passes its own check.

use crate::{Finding, Source};

/// Words that are banned wherever they stand alone, and why.
const BANNED: [(&str, &str); 4] = [
    (concat!("to", "do!"), "finish it, or return an error that says what is missing"),
    (concat!("unimple", "mented!"), "finish it, or return an error that says what is missing"),
    (concat!("FIX", "ME"), "fix it, or file it"),
    (concat!("XX", "X"), "fix it, or file it"),
];

/// Absolute paths of somebody's machine.
const PATHS: [&str; 3] = [concat!("/wo", "rk/"), concat!("/ro", "ot/"), concat!("/ho", "me/")];

/// Hosts of package registries: which one a build uses is its machine's setting.
const HOSTS: [&str; 7] = [
    concat!("crates", ".io"),
    concat!("py", "pi.org"),
    concat!("python", "hosted.org"),
    concat!("npm", "js.org"),
    concat!("npm", "js.com"),
    concat!("deb.", "debian.org"),
    concat!("proxy.", "golang.org"),
];

/// Unfinished business with a number: `(#12)` follows.
const WITH_ISSUE: &str = concat!("TO", "DO");

/// Every line with a word that has no place here.
#[must_use]
pub fn check_words(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (number, line) in source.lines() {
        for (word, why) in BANNED {
            if alone(line, word).next().is_some() {
                findings.push(source.finding(number, format!("`{word}`: {why}")));
            }
        }
        if alone(line, WITH_ISSUE).any(|rest| !has_issue(rest)) {
            findings
                .push(source.finding(number, format!("`{WITH_ISSUE}` is followed by its issue: `(#12)`")));
        }
        for path in PATHS {
            if line.match_indices(path).any(|(at, _)| begins_path(&line[..at])) {
                findings.push(source.finding(number, format!("`{path}` is a path of one machine only")));
            }
        }
        for host in HOSTS.iter().filter(|host| line.contains(**host)) {
            findings.push(source.finding(number, format!("`{host}`: registries are the machine's setting")));
        }
    }
    findings
}

/// What follows each place where a word is not part of a longer one.
fn alone<'a>(line: &'a str, word: &'a str) -> impl Iterator<Item = &'a str> {
    let is_letter = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).filter_map(move |(at, _)| {
        let (before, after) = (&line[..at], &line[at + word.len()..]);
        let is_part = before.ends_with(is_letter) || after.starts_with(is_letter);
        (!is_part).then_some(after)
    })
}

fn has_issue(rest: &str) -> bool {
    let digits = rest.strip_prefix("(#").and_then(|rest| rest.split_once(')')).map(|(digits, _)| digits);
    digits.is_some_and(|digits| !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_digit()))
}

/// Whether a slash after this text is the root: `"$DIR/x"` and `a/x` go on from something.
fn begins_path(before: &str) -> bool {
    !before.ends_with(|c: char| c.is_alphanumeric() || "_-.~})]>*".contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(line: &str) -> usize {
        check_words(&Source::new("a.md", format!("fine\n{line}\n"))).len()
    }

    #[test]
    fn every_banned_word_is_found_alone_only() {
        for (word, _) in BANNED {
            assert_eq!(count(&format!("a {word}: b")), 1, "{word}");
            assert_eq!(count(&format!("a{word}: b")), 0, "{word}");
        }
        assert_eq!(count(&format!("mktemp -d {0}{0}", concat!("XX", "X"))), 0);
    }

    #[test]
    fn unfinished_business_needs_its_number() {
        assert_eq!(count(&format!("// {WITH_ISSUE}: later")), 1);
        assert_eq!(count(&format!("// {WITH_ISSUE}(me): later")), 1);
        assert_eq!(count(&format!("// {WITH_ISSUE}(#): later")), 1);
        assert_eq!(count(&format!("// {WITH_ISSUE}(#12): later")), 0);
        assert_eq!(count(&format!("// {WITH_ISSUE}(#12): later, {WITH_ISSUE}")), 1);
    }

    #[test]
    fn absolute_paths_are_found_and_relative_ones_are_not() {
        for path in PATHS {
            assert_eq!(count(&format!("see \"{path}main\"")), 1, "{path}");
            assert_eq!(count(&format!("{path}main")), 1, "{path}");
            for start in ["target", "$DIR", "${DIR}", "{}", "$(pwd)", ".", "~"] {
                assert_eq!(count(&format!("see {start}{path}main")), 0, "{start}{path}");
            }
        }
    }

    #[test]
    fn registries_are_found() {
        for host in HOSTS {
            assert_eq!(count(&format!("https://index.{host}/")), 1, "{host}");
        }
    }

    #[test]
    fn the_line_is_named() {
        let findings = check_words(&Source::new("a.md", format!("fine\n{} a\n", BANNED[2].0)));
        assert_eq!(findings[0].line, Some(2));
    }
}
