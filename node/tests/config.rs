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
    let vm = config.services[0].vm.as_ref().unwrap();
    assert_eq!(vm.kernel.as_deref(), Some(Path::new("/etc/sustain/guest/vmlinuz")));
    assert_eq!(config.services[1].command.as_ref().unwrap().folder, Path::new("/etc/sustain/wiki"));
    assert_eq!(config.services[0].interval.as_millis(), 1_000);
}

#[test]
fn the_example_shows_the_defaults() {
    let config = parse(EXAMPLE, Path::new(PATH)).unwrap();
    assert_eq!(config.timing, sustain_node::logic::Timing::default());
    let removed = [
        "interval = ",
        "tolerance = ",
        "rebase-after = ",
        "cpus = ",
        "accel = ",
        "type = ",
        "driver = \"qemu\"",
        "snapshot-timeout = ",
        "start-timeout = ",
    ];
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
        ("guest-port = 8080", "guest-port = 0", "nonzero"),
        ("guest-port = 8080", "guest-port = 70000", "70000"),
        ("192.0.2.1:8081", "192.0.2.1:8080", "same listen address"),
        ("type = 1", "type = 4", "no type 4"),
        ("type = 1", "type = \"cannot\"", "one side would answer wrongly"),
        ("driver = \"qemu\"", "driver = \"command\"", "needs a table `command`"),
        ("driver = \"command\"", "driver = \"qemu\"", "`wiki`: the driver `qemu` needs a table `vm`"),
        ("driver = \"qemu\"", "driver = \"docker\"", "unknown variant `docker`"),
        ("kernel = \"guest/vmlinuz\"", "", "neither"),
        ("kernel = \"guest/vmlinuz\"", "disk = \"a.qcow2\"", "initramfs and kernel-args"),
        ("# disk = ", "dsik = ", "unknown field `dsik`"),
        ("folder = \"wiki\"", "", "missing field `folder`"),
    ] {
        assert!(EXAMPLE.contains(from), "{from}");
        let said = refusal(&EXAMPLE.replacen(from, to, 1));
        assert!(said.contains(says), "{to}: {said}");
    }
    assert!(refusal("cluster").contains("no configuration"));
}

#[test]
fn ports_of_one_service_differ_inside_the_guest_and_are_bounded() {
    let forward = |listen: u16, guest: u16| {
        format!("[[services.forwards]]\nlisten = \"192.0.2.1:{listen}\"\nguest-port = {guest}\n\n")
    };
    let with = |more: &str| EXAMPLE.replacen("[services.vm]", &format!("{more}[services.vm]"), 1);
    let config = parse(&with(&forward(25, 25)), Path::new(PATH)).unwrap();
    assert_eq!(config.services[0].forwards.len(), 2);
    assert!(refusal(&with(&forward(25, 8080))).contains("same guest-port"));
    let many: String = (1..=64).map(|port| forward(1000 + port, port)).collect();
    assert!(refusal(&with(&many)).contains("65 forwards"));
}

#[test]
fn a_vm_may_boot_from_its_disk_alone() {
    let keep = |line: &&str| {
        !["kernel = ", "initramfs = ", "kernel-args = "].iter().any(|key| line.starts_with(key))
    };
    let text: String = EXAMPLE.lines().filter(keep).map(|line| format!("{line}\n")).collect();
    let config = parse(&text.replacen("# disk = ", "disk = ", 1), Path::new(PATH)).unwrap();
    let vm = config.services[0].vm.as_ref().unwrap();
    assert_eq!(vm.disk.as_deref(), Some(Path::new("/etc/sustain/guest/disk.qcow2")));
}
