//! The tools that others use on disks, against our server. They come by `make setup`.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::process::Command;

use crate::support::{MIB, Place, Random};

/// Runs a program; its output, or all that it says if it fails.
fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}: run `make setup`"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {}\n{text}\n{errors}", output.status);
    text
}

#[test]
fn nbdinfo_understands_the_server() {
    let place = Place::new(8 * MIB);
    let text = run("nbdinfo", &["--json", &place.uri()]);
    let info: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&info["protocol"], &info["structured"]), (&"newstyle-fixed".into(), &true.into()));
    let export = &info["exports"][0];
    assert_eq!((&export["export-name"], &export["export-size"]), (&"disk0".into(), &(8 * MIB).into()));
    assert_eq!(export["contexts"], serde_json::json!(["base:allocation"]));
    for can in ["cache", "df", "fast_zero", "flush", "fua", "multi_conn", "trim", "zero"] {
        assert_eq!(export[format!("can_{can}")], true, "{can}");
    }
    assert_eq!(export["is_read_only"], false);
    let text = run("nbdinfo", &["--list", &place.uri()]);
    assert!(text.contains("disk0"), "{text}");
    // The image has data in its first quarter, then a hole.
    let map: serde_json::Value =
        serde_json::from_str(&run("nbdinfo", &["--map", "--json", &place.uri()])).unwrap();
    let row = |at: usize| (map[at]["offset"].as_u64(), map[at]["length"].as_u64(), map[at]["type"].as_u64());
    assert_eq!(row(0), (Some(0), Some(2 * MIB), Some(0)));
    assert_eq!(row(1), (Some(2 * MIB), Some(6 * MIB), Some(3)));
}

#[test]
fn what_nbdcopy_writes_it_reads_again() {
    let place = Place::new(32 * MIB);
    let (written, read) = (place.folder.path().join("written"), place.folder.path().join("read"));
    let file = File::create(&written).unwrap();
    file.set_len(32 * MIB).unwrap();
    let mut random = Random(9);
    for _ in 0..200 {
        let length = random.next() % 150_000;
        let at = random.next() % (32 * MIB - length);
        file.write_all_at(&vec![random.next() as u8; length as usize], at).unwrap();
    }
    let (written, read) = (written.to_str().unwrap(), read.to_str().unwrap());
    // Several connections, as the server allows it.
    run("nbdcopy", &["--flush", written, &place.uri()]);
    run("nbdcopy", &[&place.uri(), read]);
    assert!(std::fs::read(written).unwrap() == std::fs::read(read).unwrap());
    run("qemu-img", &["compare", "-f", "raw", "-F", "raw", written, &place.uri()]);
}

#[test]
fn patterns_of_qemu_io_are_kept() {
    let place = Place::new(16 * MIB);
    let script = [
        "write -P 0xa1 0 1M",
        "write -P 0xa2 -f 513 77k",
        "write -z 256k 64k",
        "write -z -u 300001 5001",
        "discard 512k 128k",
        "aio_write -P 0xa3 2M 3M",
        "aio_write -P 0xa4 6M 512",
        "aio_flush",
        "flush",
        "read -P 0xa1 0 512",
        "read -P 0xa2 513 77k",
        "read -P 0 256k 64k",
        "read -P 0 300001 5001",
        "read -P 0 512k 128k",
        "read -P 0xa1 700k 324k",
        "read -P 0xa3 2M 3M",
        "read -P 0xa4 6M 512",
        "read -P 0 7M 9M",
    ];
    let mut arguments = vec!["-f", "raw"];
    for line in &script {
        arguments.extend(["-c", line]);
    }
    let uri = place.uri();
    arguments.push(&uri);
    let text = run("qemu-io", &arguments);
    assert!(!text.contains("failed") && !text.contains("rror"), "{text}");
}

/// In `make test-disk`: fio with verification, for some minutes.
#[test]
#[ignore = "takes a minute, and needs fio: make test-disk"]
fn fio_finds_what_it_wrote() {
    let place = Place::new(256 * MIB);
    let uri = format!("--uri={}", place.uri());
    for (name, options) in [
        ("random", ["--rw=randwrite", "--bsrange=512-128k", "--iodepth=32", "--trim_percentage=0"]),
        ("mixed", ["--rw=randrw", "--bs=4k", "--iodepth=16", "--rwmixread=40"]),
        ("blocks", ["--rw=write", "--bs=1M", "--iodepth=8", "--trim_percentage=0"]),
        ("trim", ["--rw=randwrite", "--bs=4k", "--iodepth=8", "--trim_percentage=20"]),
    ] {
        let mut arguments = vec![
            "--ioengine=nbd",
            &uri,
            "--verify_state_save=0",
            "--verify=crc32c",
            "--verify_fatal=1",
            "--size=256M",
        ];
        let name = format!("--name={name}");
        arguments.extend([name.as_str(), "--io_size=512M", "--do_verify=1", "--verify_backlog=1024"]);
        arguments.extend(options);
        let text = run("fio", &arguments);
        assert!(text.contains("err= 0"), "{text}");
        println!("{}", text.lines().filter(|line| line.contains("IOPS")).collect::<Vec<_>>().join("\n"));
    }
}
