//! Looking into stores as a user of the crate does: mounts, bytes, differences.
//!
//! Tests that mount need /dev/fuse and the right to mount; without them they say `skipped` and why.

#![expect(clippy::unwrap_used, reason = "a test's helpers fail by panicking, too")]

mod bytes;
mod differences;
mod ext4;
mod mounted;
mod reading;
mod support;

/// A file that nobody lists is a test that never runs.
#[test]
fn every_file_of_the_suite_is_a_module_of_it() {
    let listed = include_str!("main.rs");
    for entry in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/suite")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let module = name.strip_suffix(".rs").unwrap();
        assert!(module == "main" || listed.contains(&format!("mod {module};")), "{name} is not listed");
    }
}
