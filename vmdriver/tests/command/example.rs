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
