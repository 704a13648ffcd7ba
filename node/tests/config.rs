//! The configuration file: the documented example, what is refused, and how it is changed.

#![expect(clippy::unwrap_used, reason = "a test's helpers fail by panicking, too")]

use std::path::Path;

use sustain_node::config::{EditError, add_service, give_secret, parse, remove_service, save};

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
        "rebase-delta-percent = ",
        "rebase-dead-percent = ",
        "keep-last = ",
        "keep-hourly = ",
        "keep-daily = ",
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

/// The second service of the example, under another name and with another port.
fn another() -> sustain_node::config::ServiceConfig {
    let mut service = parse(EXAMPLE, Path::new(PATH)).unwrap().services.remove(1);
    service.name = "blog".parse().unwrap();
    service.forwards[0].listen = "192.0.2.1:9000".parse().unwrap();
    service
}

#[test]
fn a_service_is_added_and_removed_and_every_comment_stays() {
    let path = Path::new(PATH);
    let added = add_service(EXAMPLE, path, &another()).unwrap();
    assert!(added.starts_with(EXAMPLE), "what was there is untouched");
    let config = parse(&added, path).unwrap();
    assert_eq!(config.services.len(), 3);
    assert_eq!(config.services[2], another());
    assert!(added.contains("\n[[services]]\nname = \"blog\"\n"), "{added}");
    assert!(added.contains("\n[[services.forwards]]\n"), "{added}");
    let removed = remove_service(&added, path, &another().name).unwrap();
    assert_eq!(removed.trim_end(), EXAMPLE.trim_end());

    // Into a file without any, in each way that it may be without.
    let mut empty = parse(EXAMPLE, path).unwrap();
    empty.services.clear();
    let text = toml::to_string(&empty).unwrap();
    for text in [text.clone(), format!("services = []\n{text}")] {
        let added = add_service(&text, path, &another()).unwrap();
        assert!(added.starts_with(text.trim_start_matches("services = []\n")), "it comes last:\n{added}");
        assert_eq!(parse(&added, path).unwrap().services, [another()]);
        assert!(
            parse(&remove_service(&added, path, &another().name).unwrap(), path).unwrap().services.is_empty()
        );
    }
}

#[test]
fn a_change_that_would_break_the_file_is_refused() {
    let path = Path::new(PATH);
    let mut service = another();
    service.name = "wiki".parse().unwrap();
    let error = add_service(EXAMPLE, path, &service).unwrap_err();
    assert!(matches!(error, EditError::Exists { .. }), "{error}");
    let mut service = another();
    service.forwards[0].listen = "192.0.2.1:8080".parse().unwrap();
    let error = add_service(EXAMPLE, path, &service).unwrap_err();
    assert!(sustain_store::error_chain(&error).contains("same listen address"));
    let error = remove_service(EXAMPLE, path, &"blog".parse().unwrap()).unwrap_err();
    assert!(matches!(error, EditError::Absent { .. }), "{error}");
    assert!(matches!(add_service("cluster", path, &another()), Err(EditError::Before { .. })));
}

#[test]
fn a_file_is_replaced_whole_with_the_mode_that_it_had() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let (path, link) = (folder.path().join("config.toml"), folder.path().join("link"));
    std::fs::write(&path, "old").unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
    std::os::unix::fs::symlink(&path, &link).unwrap();
    save(&link, "new").unwrap();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "new");
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
    assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2, "nothing is left");
    assert!(save(&folder.path().join("missing"), "new").is_err());
}

#[test]
fn a_service_is_given_a_secret_of_its_own_and_what_is_around_it_stays() {
    let path = Path::new(PATH);
    let wiki = sustain_proto::ServiceName::new("wiki").unwrap();
    let text = give_secret(EXAMPLE, path, &wiki, "wiki.secret").unwrap();
    let config = parse(&text, path).unwrap();
    assert_eq!(config.services[1].secret_file.as_deref(), Some(Path::new("/etc/sustain/wiki.secret")));
    let without: String = text
        .lines()
        .filter(|line| !line.starts_with("secret-file = \"wiki"))
        .map(|line| format!("{line}\n"))
        .collect();
    assert_eq!(without, EXAMPLE);
    let nobody = sustain_proto::ServiceName::new("nobody").unwrap();
    assert!(matches!(give_secret(EXAMPLE, path, &nobody, "x"), Err(EditError::Absent { .. })));
}
