//! All checks over the whole repository.

#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

use sustain_tidy::{
    Finding, Source, check_arrows, check_header, check_length, check_links, check_logic, check_unsafety,
    check_words, is_logic, read_sources, root,
};

/// Runs a check over every file and shows all that it finds.
fn run(check: impl Fn(&Source) -> Vec<Finding>) {
    let findings: Vec<Finding> = read_sources(&root()).unwrap().iter().flat_map(check).collect();
    let list: Vec<String> = findings.iter().map(Finding::to_string).collect();
    assert!(findings.is_empty(), "{} places to tidy:\n{}\n", list.len(), list.join("\n"));
}

/// A walk that finds no files would pass every check.
#[test]
fn the_repository_is_found() {
    let sources = read_sources(&root()).unwrap();
    for path in ["Cargo.toml", "clippy.toml", "proto/src/lib.rs", "tidy/tests/workspace.rs", "docs/paper.md"]
    {
        assert!(sources.iter().any(|source| source.path == path), "{path} is missing");
    }
    let crates = sources.iter().filter(|source| source.path.ends_with("/Cargo.toml")).count();
    assert!(crates >= 7, "{crates} crates");
    let logic =
        |folder: &str| sources.iter().any(|source| source.path.starts_with(folder) && is_logic(source));
    assert!(logic("proto/") && logic("node/") && logic("gossip/"), "logic is where it is expected");
}

#[test]
fn arrows_between_crates_go_one_way() {
    run(check_arrows);
}

#[test]
fn every_file_says_what_it_is_for() {
    run(check_header);
}

#[test]
fn files_and_lines_are_short() {
    run(check_length);
}

#[test]
fn no_words_that_have_no_place() {
    run(check_words);
}

#[test]
fn logic_is_pure() {
    run(check_logic);
}

#[test]
fn unsafe_code_is_where_it_is_named() {
    run(check_unsafety);
}

#[test]
fn links_between_documents_lead_somewhere() {
    let root = root();
    run(|source| check_links(source, |path| root.join(path).exists()));
}
