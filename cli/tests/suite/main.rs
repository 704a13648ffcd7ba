//! `snapctl` as a user sees it: one test binary, one module a subject.
//!
//! Tests whose names begin with `guest_` start virtual machines.

#![expect(clippy::unwrap_used, reason = "a test's helpers fail by panicking, too")]

mod bad_input;
mod changed_lists;
mod cluster;
mod command_failover;
mod concurrency;
mod daemons;
mod files;
mod gathering;
mod guest_channel;
mod guest_demo;
mod guest_disk_failover;
mod guest_disk_neighbours;
mod guest_endings;
mod guest_failover;
mod guest_mail;
mod held_clients;
mod inspecting;
mod keys;
mod kills;
mod membership;
mod messages;
mod mounting;
mod network;
mod network_faults;
mod planning;
mod problems;
mod scrubbing;
mod service;
mod service_refusals;
mod sharing;
mod small_disk;
mod support;
mod upkeep;
mod usage;

#[path = "../../../vmdriver/tests/mail/post.rs"]
mod post;

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
