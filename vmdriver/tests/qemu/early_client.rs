//! A client that reaches a VM's port before the VM goes on. QEMU has the ports from its start on, so that they are
//! known when the guest runs; a node tells nobody of them before.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use sustain_vmdriver::{QemuDriver, SnapshotScope, VmDriver};

use crate::support::{Regions, ask, spec, wait_for_boot};

fn connect(address: SocketAddr) -> TcpStream {
    let started = Instant::now();
    loop {
        match TcpStream::connect(address) {
            Ok(stream) => return stream,
            Err(error) => assert!(started.elapsed() < Duration::from_secs(30), "{error}"),
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_client_that_comes_before_the_vm_goes_on_is_answered_afterwards() {
    let folder = tempfile::tempdir().unwrap();
    let mut spec = spec("early");
    let mut vm = QemuDriver::new().start(&spec, &folder.path().join("first")).unwrap();
    let boot = wait_for_boot(&mut *vm);
    let mut regions = Regions::default();
    vm.snapshot(SnapshotScope::Whole, &mut regions).unwrap();
    vm.stop().unwrap();

    // A port of a known number, on an address that nobody else uses and could take it from.
    let address = TcpListener::bind("127.77.0.1:0").unwrap().local_addr().unwrap();
    spec.forwards[0].host = address;
    let prepared = QemuDriver::new().prepare(&spec, &folder.path().join("second")).unwrap();
    let mut early = connect(address);
    early.write_all(b"GET /peek HTTP/1.1\r\nHost: guest\r\nConnection: close\r\n\r\n").unwrap();
    regions.restore(prepared.target()).unwrap();
    early.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    assert!(early.read(&mut [0; 1]).is_err(), "there is nobody yet who could answer");
    let mut vm = prepared.resume().unwrap();
    let resumed = Instant::now();
    // It is not held up by the other, nor does it keep the guest from serving.
    assert_eq!(ask(&mut *vm, "/peek").boot_id, boot.boot_id);
    early.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let mut answer = String::new();
    let read = early.read_to_string(&mut answer);
    println!("the early client: {read:?} {} ms after the resume", resumed.elapsed().as_millis());
    assert!(answer.contains(&boot.boot_id), "{answer}");
    early.shutdown(Shutdown::Both).ok();
}
