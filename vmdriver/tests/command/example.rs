//! The example as it should go: started, counted, snapshotted, restored, asked.

use std::os::unix::fs::PermissionsExt;

use std::time::Duration;

use sustain_vmdriver::{ErrorKind, GuestCommand, GuestError, SnapshotScope, StartError, VmDriver, VmState};

use crate::support::{Bench, Regions, ask, is_there, spec};

#[test]
fn a_service_goes_on_from_its_snapshot_and_what_came_later_is_lost() {
    let bench = Bench::new();
    let driver = bench.driver();
    assert_eq!(driver.check(&spec()).unwrap().qemu_version, "example server, snapshots by tar");
    let mut vm = driver.start(&spec(), &bench.path("run")).unwrap();
    assert_eq!(vm.state(), VmState::Running);
    let ports: Vec<u16> = vm.forwards().iter().map(|forward| forward.host.port()).collect();
    assert!(ports[0] != 0 && ports[1] != 0 && ports[0] != ports[1], "{ports:?}");
    let (_, id) = ask(&*vm, "/count");
    assert_eq!(ask(&*vm, "/count").0, 2);

    let mut regions = Regions::default();
    let timings = vm.snapshot(SnapshotScope::Whole, &mut regions).unwrap();
    vm.committed();
    assert!(timings.pause_ms > 0.0 && timings.pause_ms < 2_000.0, "{timings:?}");
    assert_eq!(regions.0.keys().collect::<Vec<_>>(), ["state"]);
    // It serves on, and a second snapshot takes the place of the first.
    assert_eq!(ask(&*vm, "/count").0, 3);
    vm.snapshot(SnapshotScope::Changes, &mut regions).unwrap();
    assert_eq!(ask(&*vm, "/count").0, 4);
    let mode = std::fs::metadata(bench.path("run/state")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700, "a service's state is nobody else's business");
    let pid = vm.pid();
    vm.stop().unwrap();
    assert!(!is_there(pid));

    // On another machine: nothing but the snapshot is there.
    let prepared = driver.prepare(&spec(), &bench.path("other")).unwrap();
    regions.restore(prepared.target());
    let mut vm = prepared.resume().unwrap();
    assert_eq!(ask(&*vm, "/count"), (4, id.clone()), "three were counted before the snapshot");
    // It can be snapshotted again.
    vm.snapshot(SnapshotScope::Changes, &mut regions).unwrap();

    // Started anew where it had run: what an earlier life left is not taken for its state.
    let fresh = driver.start(&spec(), &bench.path("run")).unwrap();
    let (count, other) = ask(&*fresh, "/peek");
    assert!(count == 0 && other != id);
}

#[test]
fn a_program_runs_beside_the_service() {
    let bench = Bench::new();
    let mut vm = bench.driver().start(&spec(), &bench.path("run")).unwrap();
    let agent = vm.guest_agent().unwrap();
    let run = |words: &[&str], mut input: &[u8]| {
        let command = GuestCommand {
            program: words[0].to_owned(),
            arguments: words[1..].iter().map(|word| (*word).to_owned()).collect(),
            environment: vec![("WORD".to_owned(), "good day".to_owned())],
            deadline: Duration::from_secs(20),
        };
        let mut output = Vec::new();
        let exit = agent.run(&command, &mut input, &mut output).unwrap();
        (exit.code, output, exit.stderr_tail)
    };
    assert_eq!(run(&["cat", "count"], b""), (Some(0), b"0".to_vec(), String::new()));
    let (code, output, errors) = run(&["sh", "-c", "cat; echo $WORD; echo no such mail >&2; exit 9"], b"in ");
    assert_eq!(
        (code, output.as_slice(), errors.as_str()),
        (Some(9), b"in good day\n".as_slice(), "no such mail")
    );
    bench.remove("run-in-guest");
    assert!(matches!(vm.guest_agent().err(), Some(GuestError::Unsupported)));
}

/// Notes what comes, and makes a file when the first of it does.
struct Sign<'a>(Vec<u8>, &'a std::path::Path);

impl std::io::Write for Sign<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.extend_from_slice(bytes);
        std::fs::write(self.1, "").map(|()| bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Output was cut at 1 MiB, and nobody told: a merge would have joined half a mailbox.
#[test]
fn what_a_program_beside_the_service_writes_is_carried_whole_and_as_it_comes() {
    let bench = Bench::new();
    let mut vm = bench.driver().start(&spec(), &bench.path("run")).unwrap();
    let agent = vm.guest_agent().unwrap();
    let shell = |script: &str, seconds: u64| GuestCommand {
        program: "sh".to_owned(),
        arguments: vec!["-c".to_owned(), script.to_owned()],
        environment: vec![("SIGN".to_owned(), bench.path("sign").display().to_string())],
        deadline: Duration::from_secs(seconds),
    };
    let mut output = Vec::new();
    let long = "head -c 5000000 /dev/zero | tr '\\0' x; echo end";
    let exit = agent.run(&shell(long, 20), &mut std::io::empty(), &mut output).unwrap();
    assert_eq!((exit.code, exit.output_bytes, output.len()), (Some(0), 5_000_004, 5_000_004));
    assert!(output.ends_with(b"xend\n"));

    // It goes on only when its first line has been seen; what it leaves in its group does not hold up its end.
    let waits = "echo first; until [ -e \"$SIGN\" ]; do sleep 0.01; done; echo second; sleep 600 &";
    let sign = bench.path("sign");
    let mut output = Sign(Vec::new(), &sign);
    let exit = agent.run(&shell(waits, 20), &mut std::io::empty(), &mut output).unwrap();
    assert_eq!((exit.code, output.0.as_slice()), (Some(0), b"first\nsecond\n".as_slice()));

    let late = agent.run(&shell("sleep 600", 1), &mut std::io::empty(), &mut std::io::sink());
    assert!(matches!(late, Err(GuestError::Deadline { .. })), "{late:?}");
    let mut full: &mut [u8] = &mut [0; 10];
    let lost = agent.run(&shell("yes", 20), &mut std::io::empty(), &mut full);
    assert!(matches!(lost, Err(GuestError::Output { .. })), "{lost:?}");
}

#[test]
fn what_is_not_restored_whole_is_not_started() {
    let bench = Bench::new();
    let driver = bench.driver();
    let prepared = driver.prepare(&spec(), &bench.path("run")).unwrap();
    let error = prepared.resume().err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");

    let prepared = driver.prepare(&spec(), &bench.path("run")).unwrap();
    Regions([("state".to_owned(), b"no archive".to_vec())].into()).restore(prepared.target());
    let error = prepared.resume().err().unwrap();
    assert!(matches!(error, StartError::Program { .. }));
    let said = sustain_store::error_chain(&error);
    assert!(said.contains("restore failed") && said.contains("tar"), "{said}");
}
