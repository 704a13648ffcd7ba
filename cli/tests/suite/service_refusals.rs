//! What `snapctl service add` refuses, that `check` refuses the same, and how nodes share a machine's ports.

use std::fs;
use std::path::PathBuf;

use crate::command_failover::example;
use crate::service::{disk, run};
use crate::support::{Bench, snapctl};
use crate::usage::fails;

/// A cluster whose nodes have these addresses.
fn cluster(bench: &Bench, name: &str, addresses: [&str; 3]) -> Vec<String> {
    let dir = bench.path(name);
    let mut init = snapctl();
    init.args(["init", "--cluster", name, "--nodes", "3", "--dir"]).arg(&dir);
    for address in addresses {
        init.args(["--address", address]);
    }
    assert!(init.output().unwrap().status.success());
    let path = |node: usize| dir.join(format!("node-{node}/config.toml")).to_str().unwrap().to_owned();
    (1..=3).map(path).collect()
}

/// A cluster whose nodes share an address, which no other test listens on.
fn shared(bench: &Bench) -> Vec<String> {
    let dir = bench.path("shared");
    let arguments = ["init", "--cluster", "shared", "--nodes", "3", "--dir", dir.to_str().unwrap()];
    assert!(snapctl().args(arguments).output().unwrap().status.success());
    let path = |node: usize| dir.join(format!("node-{node}/config.toml")).to_str().unwrap().to_owned();
    let paths: Vec<String> = (1..=3).map(path).collect();
    for path in &paths {
        let text = fs::read_to_string(path).unwrap().replace("127.0.0.1:", "127.9.2.1:");
        fs::write(path, text).unwrap();
    }
    paths
}

fn listens(config: &str) -> Vec<String> {
    let text = fs::read_to_string(config).unwrap();
    let lines = text.lines().filter_map(|line| line.strip_prefix("listen = "));
    lines.map(|listen| listen.trim_matches('"').to_owned()).collect()
}

/// `check` once passed what `add` then refused: it never saw the configuration that there would be.
#[test]
fn a_check_refuses_what_an_addition_refuses() {
    let bench = Bench::new();
    let (configs, disk) = (cluster(&bench, "home", ["127.9.3.1", "127.9.3.2", "127.9.3.3"]), disk(&bench));
    for (wrong, says) in [
        (["--first-server", "node-9", "--forward", "2525:25"], "`node-9` is no node"),
        (["--interval", "1ms", "--forward", "2525:25"], "under 100 ms"),
        (["--forward", "2525:25", "--forward", "2525:26"], "same listen address"),
    ] {
        let refused = |command| {
            let mut arguments = vec!["service", command, "mail", "--disk", &disk, "--config", &configs[0]];
            arguments.extend(wrong);
            fails(&arguments, 1)
        };
        let (checked, added) = (refused("check"), refused("add"));
        assert!(checked.contains(says), "{checked}");
        assert_eq!(checked, added);
    }
}

/// Problems were once told, and the service written all the same, with exit code 0.
#[test]
fn a_service_that_can_not_run_here_is_added_only_by_force() {
    let bench = Bench::new();
    let configs = cluster(&bench, "home", ["127.9.3.1", "127.9.3.2", "127.9.3.3"]);
    let before = fs::read_to_string(&configs[0]).unwrap();
    let kernel = bench.write("kernel", b"this is a text");
    let kernel = kernel.to_str().unwrap();
    let detour = format!("{}/../nosuch", bench.path("away").display());
    for (wrong, says) in [
        (["--kernel", kernel, "--memory", "64M"], "no Linux kernel for x86"),
        (["--kernel", kernel, "--memory", "512T"], "memory of 512.0 TiB is not possible"),
        (["--command-dir", &detour, "--memory", "64M"], "nosuch/start"),
    ] {
        let mut arguments = vec!["service", "add", "mail", "--forward", "2525:25", "--config", &configs[0]];
        arguments.extend(wrong);
        let said = fails(&arguments, 1);
        assert!(said.contains(says) && said.contains("hint: ") && said.contains("--force"), "{said}");
        assert_eq!(fs::read_to_string(&configs[0]).unwrap(), before, "a refusal changes nothing");
    }
    let mut arguments = vec!["service", "add", "mail", "--forward", "2525:25", "--config", &configs[0]];
    arguments.extend(["--force", "--command-dir", &detour]);
    let (code, said, errors) = run(&arguments);
    assert_eq!(code, Some(3), "{errors}");
    assert!(said.contains("problem: ") && said.contains("added to "), "{said}");
    let text = fs::read_to_string(&configs[0]).unwrap();
    let folder =
        format!("folder = \"{}\"", bench.folder.path().canonicalize().unwrap().join("nosuch").display());
    assert!(text.contains(&folder) && !text.contains(".."), "paths are written without detours: {text}");
}

/// Configurations are often written on one machine and copied to others.
#[test]
fn nodes_of_other_machines_are_not_judged_by_this_one() {
    let bench = Bench::new();
    // Reserved for ever (RFC 1112): no machine has them.
    let configs = cluster(&bench, "far", ["240.0.0.1", "240.0.0.2", "240.0.0.3"]);
    let mut arguments = vec!["service", "add", "mail", "--command-dir", "/nosuch", "--forward", "2525:25"];
    configs.iter().for_each(|config| arguments.extend(["--config", config]));
    let (code, said, errors) = run(&arguments);
    assert_eq!(code, Some(0), "{errors}");
    assert!(said.contains("warning: node-1 is another machine's"), "{said}");
    assert_eq!(listens(&configs[2]), ["240.0.0.3:2525"]);
}

/// Ports were once counted on in the order of `--config`, and met each other only when the nodes started.
#[test]
fn nodes_of_one_machine_share_its_ports() {
    let bench = Bench::new();
    let (configs, programs) = (shared(&bench), example(&bench));
    let programs = programs.to_str().unwrap();
    let add = |name: &'static str, ports: [&'static str; 2], configs: &[&str]| {
        let mut arguments = vec!["service".to_owned(), "add".to_owned(), name.to_owned()];
        arguments.extend(["--command-dir".to_owned(), programs.to_owned()]);
        ports.iter().for_each(|port| arguments.extend(["--forward".to_owned(), (*port).to_owned()]));
        configs.iter().for_each(|config| arguments.extend(["--config".to_owned(), (*config).to_owned()]));
        run(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let [one, two, three] = [0, 1, 2].map(|node: usize| configs[node].as_str());
    let (code, _, errors) = add("web", ["8080:80", "8081:143"], &[one, two]);
    assert_eq!(code, Some(1));
    assert!(
        errors.contains("node-1 (service web, 127.9.2.1:8081) and node-2 (service web, 127.9.2.1:8081)")
            && errors.contains("hint: nodes that share an address"),
        "{errors}"
    );

    let (code, said, errors) = add("web", ["8080:80", "8090:143"], &[three, one]);
    assert_eq!(code, Some(0), "{errors}");
    assert!(said.contains("of node node-3: 127.9.2.1:8082 to 80, 127.9.2.1:8092 to 143"), "{said}");
    assert_eq!(listens(one), ["127.9.2.1:8080", "127.9.2.1:8090"], "its place in the cluster counts");

    let (code, _, errors) = add("blog", ["8091:80", "9000:81"], &[two, one]);
    assert_eq!(code, Some(0), "node-3's configuration is not at hand: {errors}");
    let (code, _, errors) = add("news", ["8089:80", "9100:81"], &[two, one]);
    assert!(code == Some(1) && errors.contains("service web"), "against services that are there: {errors}");
}

#[test]
fn each_configuration_is_given_once_and_all_are_of_one_cluster() {
    let bench = Bench::new();
    let (home, other) = (
        cluster(&bench, "home", ["127.9.3.1", "127.9.3.2", "127.9.3.3"]),
        cluster(&bench, "other", ["127.9.3.1", "127.9.3.2", "127.9.3.3"]),
    );
    let image = disk(&bench);
    let add = ["service", "add", "mail", "--disk", &image, "--forward", "2525:25", "--config", &home[0]];
    let again: PathBuf = bench.path("home/node-2/../node-1/config.toml");
    let said = fails(&[&add[..], &["--config", again.to_str().unwrap()]].concat(), 2);
    assert!(said.contains("is given twice") && said.contains("hint: "), "{said}");
    let said = fails(&[&add[..], &["--config", &other[1]]].concat(), 1);
    assert!(said.contains("are of different clusters") && said.contains("hint: "), "{said}");
}
