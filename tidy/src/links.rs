//! Links between documents lead somewhere.

use crate::{Finding, Source};

/// Relative links of a Markdown file whose target is not there; `exists` is asked with a path from the
/// repository's root.
#[must_use]
pub fn check_links(source: &Source, exists: impl Fn(&str) -> bool) -> Vec<Finding> {
    if !source.path.ends_with(".md") {
        return Vec::new();
    }
    let mut findings = Vec::new();
    let mut is_code = false;
    for (number, line) in source.lines() {
        if line.trim_start().starts_with("```") {
            is_code = !is_code;
        }
        for target in targets(line).filter(|_| !is_code) {
            let Some(path) = resolve(&source.path, target) else {
                findings.push(source.finding(number, format!("`{target}` leads out of the repository")));
                continue;
            };
            if !exists(&path) {
                findings.push(source.finding(number, format!("`{target}` leads nowhere")));
            }
        }
    }
    findings
}

/// Where the links of a line lead, less the part after `#`; those to elsewhere left out.
fn targets(line: &str) -> impl Iterator<Item = &str> {
    let links = line.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    let paths = links.filter(|link| !link.contains("://") && !link.starts_with("mailto:"));
    // What follows a blank is the link's title.
    paths.filter_map(|link| link.split(['#', ' ']).next()).filter(|path| !path.is_empty())
}

/// The path from the root that a file's relative link means; none if it leads out.
fn resolve(file: &str, target: &str) -> Option<String> {
    let mut parts: Vec<&str> = file.split('/').collect();
    parts.pop();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            name => parts.push(name),
        }
    }
    Some(parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn broken(text: &str) -> usize {
        let exists = |path: &str| ["docs/a.md", "docs", "README.md"].contains(&path);
        check_links(&Source::new("docs/b.md", text), exists).len()
    }

    #[test]
    fn what_is_there_passes() {
        assert_eq!(broken("[a](a.md), [b](./a.md#part) and [c](../README.md \"title\")\n"), 0);
        assert_eq!(
            broken("[a](https://example.org/x) [b](#part) [c](mailto:a@example.org) [d](../docs/)\n"),
            0
        );
        assert_eq!(broken("```\nlist[a](b)\n```\n"), 0);
    }

    #[test]
    fn what_is_not_fails() {
        assert_eq!(broken("[a](b.md) and [b](README.md)\n"), 2);
        assert_eq!(broken("[a](../../README.md)\n"), 1);
        assert_eq!(broken("```\n```\n![a](a.png)\n"), 1);
    }
}
