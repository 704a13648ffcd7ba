//! How a VM's process ends: with its handle, with its node however that dies, and by itself; and what
//! can't be restored. None of these waits for a guest to boot.

use std::env;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::{MEMORY_BYTES, Regions, spec};
use sustain_proto::{Region, RegionName};
use sustain_vmdriver::{ErrorKind, QemuDriver, SnapshotError, SnapshotScope, StartError, VmDriver, VmState};

/// Set for the process that the node's death is tried on, to the folder that it works in.
const NODE_FOLDER: &str = "SUSTAIN_TEST_NODE_FOLDER";

/// Most time that the system may take to carry out a kill.
const DEATH_TIMEOUT: Duration = Duration::from_secs(10);

fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < Duration::from_secs(60), "{what}: not within a minute");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn process_exists(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

/// Not a test of its own: the process that `a_node_that_is_killed_takes_its_vm_along` starts and kills.
#[test]
fn node_that_will_be_killed() {
    let Some(folder) = env::var_os(NODE_FOLDER) else { return };
    let folder = Path::new(&folder);
    let vm = QemuDriver::new().start(&spec("doomed"), &folder.join("vm")).unwrap();
    fs::write(folder.join("pid.new"), vm.pid().to_string()).unwrap();
    fs::rename(folder.join("pid.new"), folder.join("pid")).unwrap();
    std::thread::sleep(Duration::from_secs(600));
}

#[test]
fn a_node_that_is_killed_takes_its_vm_along() {
    let folder = tempfile::tempdir().unwrap();
    let mut node = Command::new(env::current_exe().unwrap())
        .args(["--exact", "endings::node_that_will_be_killed"])
        .env(NODE_FOLDER, folder.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let pid_file = folder.path().join("pid");
    wait_until("the VM's start", || {
        assert!(node.try_wait().unwrap().is_none(), "the node ended before its VM was up");
        pid_file.exists()
    });
    let pid: u32 = fs::read_to_string(&pid_file).unwrap().parse().unwrap();
    let command_line = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap();
    assert!(command_line.contains("sustain:doomed"), "{command_line}");

    let killed = Instant::now();
    node.kill().unwrap();
    node.wait().unwrap();
    wait_until("QEMU's end", || !runs_still(pid, "sustain:doomed"));
    assert!(killed.elapsed() < DEATH_TIMEOUT, "QEMU outlived its node by {:?}", killed.elapsed());
    // Memory files have no name, so all that is left is the log.
    let left: Vec<_> =
        fs::read_dir(folder.path().join("vm")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["console.log"]);
}

/// Whether this process is there, not merely waiting to be buried by whoever inherited it.
fn runs_still(pid: u32, word: &str) -> bool {
    fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.contains(word))
}

#[test]
fn a_dropped_handle_ends_the_vm() {
    let folder = tempfile::tempdir().unwrap();
    let vm = QemuDriver::new().start(&spec("dropped"), folder.path()).unwrap();
    let pid = vm.pid();
    assert!(process_exists(pid));
    drop(vm);
    assert!(!process_exists(pid));
}

#[test]
fn a_vm_that_is_killed_is_seen_as_gone() {
    let folder = tempfile::tempdir().unwrap();
    let mut vm = QemuDriver::new().start(&spec("gone"), folder.path()).unwrap();
    assert_eq!(vm.state(), VmState::Running);
    let killed = Command::new("kill").args(["-KILL", &vm.pid().to_string()]).status().unwrap();
    assert!(killed.success());
    let error = vm.snapshot(SnapshotScope::Whole, &mut Regions::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Gone, "{error}");
    assert!(matches!(&error, SnapshotError::Exited { report, .. } if report.signal == Some(9)), "{error}");
    assert!(matches!(vm.state(), VmState::Exited(report) if report.signal == Some(9)));
    vm.stop().unwrap();
}

/// QEMU starts while its memory is filled, and may not be left behind when the restore is given up.
#[test]
fn a_prepared_vm_that_never_goes_on_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let prepared = QemuDriver::new().prepare(&spec("given-up"), folder.path()).unwrap();
    let running = || {
        let processes = fs::read_dir("/proc").unwrap();
        let mut pids = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        pids.any(|pid| runs_still(pid, "sustain:given-up"))
    };
    // Between two programs of one process, setpriv and the shell before QEMU, its command line is empty.
    let deadline = Instant::now() + Duration::from_secs(20);
    while !running() {
        assert!(Instant::now() < deadline, "it waits for the memory to be filled");
        std::thread::sleep(Duration::from_millis(1));
    }
    drop(prepared);
    assert!(!running());
    let left: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["console.log"]);
}

#[test]
fn memory_of_another_size_is_refused_before_it_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let prepared = QemuDriver::new().prepare(&spec("sizes"), folder.path()).unwrap();
    let open = |name: &str, bytes| {
        let region = Region { name: RegionName::new(name).unwrap(), bytes };
        prepared.target().open(&region).map(drop).map_err(|error| error.to_string())
    };
    let error = open("ram", MEMORY_BYTES + (1 << 20)).unwrap_err();
    assert!(error.contains("135266304 bytes") && error.contains("134217728"), "{error}");
    assert!(open("ram", MEMORY_BYTES - 1).is_err());
    assert!(open("device", 1 << 40).is_err());
    assert!(open("disk0", 4_096).unwrap_err().contains("no region disk0"));
    assert!(open("ram", MEMORY_BYTES).is_ok());
    assert!(open("device", 300_000).is_ok());
}

#[test]
fn a_restore_that_was_not_filled_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let driver = QemuDriver::new();
    let prepare = || driver.prepare(&spec("unfilled"), folder.path()).unwrap();
    let region = |name: &str, bytes: usize| (name.to_owned(), vec![0; bytes]);
    let ram_bytes = usize::try_from(MEMORY_BYTES).unwrap();

    let error = prepare().resume().err().unwrap();
    assert!(matches!(error, StartError::RegionMissing { name: "ram" }), "{error}");

    let prepared = prepare();
    Regions([region("ram", ram_bytes)].into()).restore(prepared.target()).unwrap();
    let error = prepared.resume().err().unwrap();
    assert!(matches!(error, StartError::RegionMissing { name: "device" }), "{error}");

    // Filled, and then given up by the store.
    let prepared = prepare();
    let regions = Regions([region("ram", ram_bytes), region("device", 4_096)].into());
    regions.restore(prepared.target()).unwrap();
    prepared.target().abandon();
    assert!(
        regions.restore(prepared.target()).is_err(),
        "a second snapshot would show the first in its holes"
    );
    assert!(matches!(prepared.resume().err().unwrap(), StartError::RegionMissing { .. }));
}

#[test]
fn device_state_that_qemu_cannot_read_is_refused_in_its_words() {
    let folder = tempfile::tempdir().unwrap();
    let driver = QemuDriver::new();
    let mut vm = driver.start(&spec("damaged"), &folder.path().join("saved")).unwrap();
    let mut saved = Regions::default();
    vm.snapshot(SnapshotScope::Whole, &mut saved).unwrap();
    vm.stop().unwrap();

    let good = saved.0["device"].clone();
    let cut = good[..good.len() / 2].to_vec();
    let mut flipped = good.clone();
    flipped[0] ^= 1;
    for (what, device) in [("empty", Vec::new()), ("cut", cut), ("flipped", flipped)] {
        saved.0.insert("device".into(), device);
        let prepared = driver.prepare(&spec("damaged"), &folder.path().join(what)).unwrap();
        saved.restore(prepared.target()).unwrap();
        let error = prepared.resume().err().expect("a damaged state is refused");
        println!("{what}: {error}");
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{what}: {error}");
    }
    // The same, whole: so it was the damage that was refused.
    saved.0.insert("device".into(), good);
    let prepared = driver.prepare(&spec("damaged"), &folder.path().join("whole")).unwrap();
    saved.restore(prepared.target()).unwrap();
    assert_eq!(prepared.resume().unwrap().state(), VmState::Running);
}

#[test]
fn a_start_that_qemu_refuses_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let driver = QemuDriver::new();
    let mut unknown = spec("refused");
    unknown.machine = "no-such-machine".into();
    let error = driver.start(&unknown, folder.path()).err().unwrap();
    assert!(error.to_string().contains("unsupported machine type"), "{error}");
    assert_eq!(error.kind(), ErrorKind::Gone);

    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut taken = spec("refused");
    taken.forwards[0].host = listener.local_addr().unwrap();
    let error = driver.start(&taken, folder.path()).err().unwrap();
    assert!(error.to_string().contains("host forwarding rule"), "{error}");

    let mut missing = spec("refused");
    missing.kernel = Some("/nowhere/vmlinuz".into());
    assert_eq!(driver.start(&missing, folder.path()).err().unwrap().kind(), ErrorKind::Missing);
    missing = spec("refused");
    missing.qemu = Some("/nowhere/qemu".into());
    assert_eq!(driver.check(&missing).unwrap_err().kind(), ErrorKind::Missing);
    missing = spec("refused");
    missing.memory_bytes = 1;
    assert_eq!(driver.check(&missing).unwrap_err().kind(), ErrorKind::Invalid);
}
