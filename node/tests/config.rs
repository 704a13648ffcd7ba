//! The configuration file: the documented example, and what is refused.

use std::path::Path;

use sustain_node::config::parse;

const EXAMPLE: &str = include_str!("../../docs/config.toml");
const PATH: &str = "/etc/sustain/config.toml";

fn refusal(text: &str) -> String {
    match parse(text, Path::new(PATH)) {
        Ok(_) => "accepted".to_owned(),
        Err(error) => sustain_store::error_chain(&error),
    }
}

#[test]
fn the_documented_example_is_accepted_and_paths_start_at_its_folder() {
    let config = parse(EXAMPLE, Path::new(PATH)).unwrap();
    assert_eq!(config.own().unwrap().name, "attic");
    assert_eq!(config.store, Path::new("/etc/sustain/store"));
    assert_eq!(config.services[0].vm.kernel, Path::new("/etc/sustain/guest/vmlinuz"));
    assert_eq!(config.services[0].interval.as_millis(), 1_000);
}

#[test]
fn the_example_shows_the_defaults() {
    let config = parse(EXAMPLE, Path::new(PATH)).unwrap();
    assert_eq!(config.timing, sustain_node::logic::Timing::default());
    let removed = ["interval = ", "tolerance = ", "rebase-after = ", "cpus = ", "accel = "];
    let keep = |line: &&str| !removed.iter().any(|key| line.starts_with(key));
    let shorter: String = EXAMPLE.lines().filter(keep).map(|line| format!("{line}\n")).collect();
    assert!(shorter.len() < EXAMPLE.len());
    assert_eq!(parse(&shorter, Path::new(PATH)).unwrap(), config);
}

#[test]
fn what_is_written_reads_back() {
    let config = parse(EXAMPLE, Path::new(PATH)).unwrap();
    let text = toml::to_string(&config).unwrap();
    assert_eq!(parse(&text, Path::new(PATH)).unwrap(), config);
}

#[test]
fn contradictions_and_unknown_keys_are_refused_by_name() {
    for (from, to, says) in [
        ("cluster = ", "clutser = ", "unknown field `clutser`"),
        ("name = \"attic\"\n\n# The node's own", "name = \"barn\"\n\n# The node's own", "`barn`"),
        ("name = \"cellar\"", "name = \"attic\"", "same name"),
        ("bbbb\"", "bbb\"", "64"),
        ("192.0.2.2:7411", "192.0.2.1:7411", "same address"),
        ("first-server = \"attic\"", "first-server = \"moon\"", "`moon`"),
        ("interval = \"1s\"", "interval = \"1\"", "a duration like"),
        ("interval = \"1s\"", "interval = \"1ms\"", "under 100 ms"),
        ("memory = \"256MiB\"", "memory = \"0MiB\"", "a size like"),
        ("fresh-ms = 700", "fresh-ms = 1100", "fresh-ms"),
        ("guest-port = 8080", "guest-port = 0", "guest-port"),
    ] {
        assert!(EXAMPLE.contains(from), "{from}");
        let said = refusal(&EXAMPLE.replacen(from, to, 1));
        assert!(said.contains(says), "{to}: {said}");
    }
    assert!(refusal("cluster").contains("no configuration"));
}
