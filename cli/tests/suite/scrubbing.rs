//! Damaged packs: set aside by `verify`, told by `log` and `status`, sent again by the other nodes; runs that go on.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::cluster::Cluster;
use crate::support::{Bench, files_below, flip, noise, snapctl};

fn packs(store: &Path) -> Vec<PathBuf> {
    files_below(&store.join("packs"))
}

fn said(output: &Output) -> (Option<i32>, Value, String) {
    let value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    (output.status.code(), value, String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn a_damaged_pack_is_set_aside_and_what_needs_it_is_told() {
    let bench = Bench::new();
    let ram = bench.write("ram", &noise(1, 1 << 20));
    bench.push("good", &[("ram", &bench.write("other", &noise(2, 70_000)))]);
    let good = packs(&bench.store());
    bench.push("mail", &[("ram", &ram)]);
    let pack = packs(&bench.store()).into_iter().find(|pack| !good.contains(pack)).unwrap();
    flip(&pack);
    let name = pack.file_name().unwrap().to_str().unwrap().to_owned();

    let (code, report, _) = said(&bench.run(&["verify", "good"]));
    assert_eq!((code, report["packs"].as_u64()), (Some(0), Some(1)), "{report}");
    let (code, report, _) = said(&bench.run(&["verify", "--dry-run"]));
    assert_eq!((code, report["set_aside"].as_array().map(Vec::len)), (Some(13), Some(0)), "{report}");
    assert!(pack.exists(), "it was asked to change nothing");
    let (code, report, _) = said(&bench.run(&["verify", "--sample", "100%", "--rate", "100M"]));
    assert_eq!(code, Some(13));
    let aside = bench.store().join("aside").join(&name);
    assert_eq!(report["bad"][0]["path"], aside.to_str().unwrap(), "where it is now");
    assert_eq!(report["set_aside"].as_array().map(Vec::len), Some(1), "{report}");
    assert_eq!(report["damaged"].as_array().map(Vec::len), Some(1), "{report}");
    assert!(!pack.exists() && aside.exists());

    let (code, _, warned) = said(&bench.run(&["log", "mail"]));
    assert_eq!(code, Some(13), "{warned}");
    let (code, ..) =
        said(&bench.run(&["gather", "mail@latest", "--to", bench.path("out").to_str().unwrap()]));
    assert_eq!(code, Some(13));
    let words = snapctl().arg("--store").arg(bench.store()).arg("verify").output().unwrap();
    let words = String::from_utf8_lossy(&words.stdout).into_owned();
    assert!(
        words.contains("it is set aside") && words.contains("damaged, at least in part: mail number 1"),
        "{words}"
    );

    // The same pushed again makes it whole.
    bench.push("mail", &[("ram", &ram)]);
    assert_eq!(fs::read(bench.gather("mail@latest", "again").join("ram")).unwrap(), noise(1, 1 << 20));
    let (code, report, warned) = said(&bench.run(&["verify"]));
    assert_eq!((code, report["bad"].as_array().map(Vec::len)), (Some(0), Some(0)), "{report} {warned}");
}

#[test]
fn a_run_that_is_killed_goes_on_where_it_was() {
    let bench = Bench::new();
    for number in 0..12 {
        let ram = bench.write("ram", &noise(number, 60_000));
        bench.push(&format!("s{number}"), &[("ram", &ram)]);
    }
    let mut verify = snapctl();
    verify.arg("--store").arg(bench.store()).args(["verify", "--rate", "60000"]);
    let mut process = verify.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(120);
    while !bench.store().join("checked").exists() {
        assert!(Instant::now() < deadline && process.try_wait().unwrap().is_none(), "nothing is noted");
        std::thread::sleep(Duration::from_millis(20));
    }
    process.kill().unwrap();
    process.wait().unwrap();
    let report = bench.json(&["verify", "--resume"]);
    let number = |key: &str| report[key].as_u64().unwrap();
    assert!(number("packs_left_out") > 0 && number("packs") > 0, "{report}");
    assert_eq!(number("packs_left_out") + number("packs"), 12);
    assert_eq!(bench.json(&["verify"])["packs"], 12, "without --resume nothing is left out");
    for wrong in [
        &["verify", "--sample", "0%"][..],
        &["verify", "--sample", "5%", "--resume"],
        &["verify", "--rate", "0"],
    ] {
        assert_eq!(bench.run(wrong).status.code(), Some(2), "{wrong:?}");
    }
    assert_eq!(bench.run(&["verify", "nobody@latest"]).status.code(), Some(10));
}

/// A pack that rots on one node is sent again by another, before anybody needs it.
#[test]
fn a_nodes_scrub_finds_a_damaged_pack_and_has_it_sent_again() {
    let bench = Bench::new();
    let ram = bench.write("ram", &noise(3, 3 << 20));
    let mut cluster = Cluster::planned(4, &[]);
    let config = fs::read_to_string(cluster.config(1)).unwrap();
    assert!(config.contains("every = \"7d\""), "{config}");
    fs::write(cluster.config(1), config.replace("every = \"7d\"", "every = \"2s\"")).unwrap();
    (0..4).for_each(|node| cluster.spawn(node));
    let region = format!("ram={}", ram.display());
    let pushed = cluster.wait("a push", || cluster.at(0, &["push", "files", "--region", &region]));
    let snapshot = pushed["snapshot"].as_str().unwrap().to_owned();
    let holds = |node: usize| {
        let log = cluster.at(node, &["log", "files"])?;
        let is_whole = |listed: &&Value| listed["id"] == snapshot.as_str() && listed["problem"].is_null();
        log.as_array()?.iter().find(is_whole).map(drop)
    };
    (0..3).for_each(|node| cluster.wait("the copies", || holds(node)));
    let scrub = |node: usize| Some(cluster.status(node)?["scrub"].clone());
    cluster.wait("a first pass", || scrub(2)?["full_ms"].as_u64());

    let rot = |node: usize| {
        let pack = packs(&cluster.config(node).with_file_name("store")).remove(0);
        let good = fs::read(&pack).unwrap();
        flip(&pack);
        (pack, good)
    };
    let mended = |node: usize, count: u64| {
        cluster.wait("a mended pack", || {
            let scrub = scrub(node)?;
            (scrub["mended"] == count && scrub["bad"].as_array()?.is_empty()).then_some(())
        });
    };
    let (pack, good) = rot(1);
    mended(1, 1);
    assert_eq!(fs::read(&pack).unwrap(), good);
    assert_eq!(
        files_below(&pack.parent().unwrap().parent().unwrap().with_file_name("aside")),
        Vec::<PathBuf>::new()
    );
    assert!(cluster.log(1).contains("was sent again"), "{}", cluster.log(1));
    cluster.wait("the snapshot again", || holds(1));

    // Another one scrubs once a week, and is asked to now.
    let (pack, good) = rot(2);
    let mut verify = snapctl();
    let verified = verify.args(["--json", "verify", "--config"]).arg(cluster.config(2)).output().unwrap();
    let (code, report, warned) = said(&verified);
    assert_eq!(
        (code, report["set_aside"].as_array().map(Vec::len)),
        (Some(13), Some(1)),
        "{report} {warned}"
    );
    mended(2, 1);
    assert_eq!(fs::read(&pack).unwrap(), good);
    let shown = snapctl().args(["status", "--config"]).arg(cluster.config(2)).output().unwrap();
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.contains("checked") && shown.contains("1 bad pack was sent again"), "{shown}");
}
