//! Clients that break the protocol: they are thrown out, the others are served on, by the same process.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use crate::client::{Client, READ, WRITE};
use crate::support::{MIB, Place, Random};

/// Sends bytes and waits until the server has closed the connection.
fn is_thrown_out(mut stream: UnixStream, bytes: &[u8]) {
    stream.set_read_timeout(Some(std::time::Duration::from_secs(20))).unwrap();
    // The server may have closed it before all is sent.
    let _ = stream.write_all(bytes);
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Ok(_) => {}
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}"),
    }
}

fn memory_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    peak.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn hostile_clients_harm_nobody_else() {
    let place = Place::new(4 * MIB);
    let mut witness = Client::connect(place.socket()).unwrap();
    // One that has asked for something, as QEMU does at once, makes way last.
    assert_eq!(witness.flush().unwrap(), 0);
    let connect = || UnixStream::connect(place.socket()).unwrap();
    let flags = 3_u32.to_be_bytes();

    is_thrown_out(connect(), &[0xff; 4]);
    is_thrown_out(connect(), &[&flags, [0; 16].as_slice()].concat());
    // An option of 4 GiB.
    is_thrown_out(connect(), &[&flags, b"IHAVEOPT\0\0\0\x07\xff\xff\xff\xff".as_slice()].concat());
    is_thrown_out(connect(), &[&flags, b"IHAVEOPT\0\0\0\x01\0\0\0\x01x".as_slice()].concat());
    // Options without end.
    is_thrown_out(connect(), &[&flags, b"IHAVEOPT\0\0\0\x03\0\0\0\0".repeat(5_000).as_slice()].concat());
    // A request that is none, and a write of 4 GiB.
    is_thrown_out(Client::connect(place.socket()).unwrap().stream, &[0x55; 28]);
    let mut client = Client::connect(place.socket()).unwrap();
    client.send(WRITE, 1, 0, u32::MAX).unwrap();
    is_thrown_out(client.stream, &[]);
    // Half a write, then gone.
    let mut client = Client::connect(place.socket()).unwrap();
    client.send(WRITE, 1, 0, 1 << 20).unwrap();
    client.stream.write_all(&[9; 4_096]).unwrap();
    drop(client);

    let mut random = Random(7);
    for _ in 0..200 {
        let mut stream = connect();
        let noise: Vec<u8> = (0..random.next() % 200).map(|_| random.next() as u8).collect();
        let _ = stream.write_all(&flags).and_then(|()| stream.write_all(&noise));
    }
    // What was written in part is not visible: the request never was complete.
    let original = std::fs::read(&place.image).unwrap();
    assert_eq!(witness.read(0, 4_096).unwrap().unwrap(), original[..4_096]);
    assert_eq!(witness.write(512, &[1; 512]).unwrap(), 0);
    let (pid, restarts) = place.disk.as_ref().unwrap().process();
    assert_eq!(restarts, 0, "the process lives on");
    let memory = memory_kib(pid.unwrap());
    println!("{memory} KiB of memory at most");
    assert!(memory < 40 << 10);
}

#[test]
fn requests_in_flight_share_bounded_memory() {
    let place = Place::new(64 * MIB);
    // Six clients ask for 32 MiB eight times each, and take nothing in for a while.
    let mut clients: Vec<Client> = (0..6).map(|_| Client::connect(place.socket()).unwrap()).collect();
    for client in &mut clients {
        for cookie in 0..8 {
            client.send(READ, cookie, 0, 32 << 20).unwrap();
        }
    }
    let expected = &std::fs::read(&place.image).unwrap()[..32 << 20];
    std::thread::scope(|scope| {
        for client in &mut clients {
            scope.spawn(|| {
                let mut data = vec![0; 32 << 20];
                for _ in 0..8 {
                    assert_eq!(client.reply().unwrap(), 0);
                    client.stream.read_exact(&mut data).unwrap();
                    assert!(data == expected);
                }
            });
        }
    });
    let (pid, restarts) = place.disk.as_ref().unwrap().process();
    let memory = memory_kib(pid.unwrap());
    println!("{memory} KiB of memory at most");
    assert!(restarts == 0 && memory < 110 << 10);
}

/// Sixteen connections that asked for nothing kept everybody out, QEMU too when it came again.
#[test]
fn idle_connections_make_way_for_another() {
    let place = Place::new(MIB);
    let mut used = Client::connect(place.socket()).unwrap();
    assert_eq!(used.flush().unwrap(), 0);
    let mut idle: Vec<_> = (0..15).map(|_| Client::connect(place.socket()).unwrap()).collect();
    let mut late = Client::connect(place.socket()).unwrap();
    assert_eq!(late.flush().unwrap(), 0);
    let mut nothing = Vec::new();
    idle[0].stream.read_to_end(&mut nothing).unwrap();
    assert!(nothing.is_empty(), "the first of those that never asked is closed");
    assert_eq!((used.flush().unwrap(), idle[1].flush().unwrap(), late.flush().unwrap()), (0, 0, 0));
}

#[test]
fn more_connections_than_allowed_are_closed_while_all_are_busy() {
    let place = Place::new(MIB);
    let mut clients = Vec::new();
    // One whose request the server has not seen yet still makes way, for one that becomes busy in its turn.
    crate::support::wait_for("a client that is not greeted", || match Client::connect(place.socket()) {
        Ok(mut client) => {
            // Begun, and not yet sent.
            client.send(WRITE, 1, 0, 4_096).unwrap();
            clients.push(client);
            false
        }
        Err(_) => clients.len() >= 16,
    });
    drop(clients);
    crate::support::wait_for("place for another client", || Client::connect(place.socket()).is_ok());
}

/// Two heads of writes of 32 MiB took all memory for requests, and a client that read no replies held it: the
/// guest's disk stood still.
#[test]
fn clients_that_hold_all_the_memory_hold_up_no_guest() {
    let place = Place::new(64 * MIB);
    let mut held: Vec<Client> = (0..4).map(|_| Client::connect(place.socket()).unwrap()).collect();
    for client in &mut held[..2] {
        client.send(WRITE, 1, 0, 32 << 20).unwrap();
    }
    for client in &mut held[2..] {
        for cookie in 0..16 {
            client.send(READ, cookie, 0, 1 << 20).unwrap();
        }
    }
    let mut guest = Client::connect(place.socket()).unwrap();
    for _ in 0..20 {
        assert_eq!(guest.write(0, &[3; 1 << 20]).unwrap(), 0);
        assert!(guest.read(0, 2 << 20).unwrap().unwrap().starts_with(&[3; 1 << 20]));
    }
    drop(held);
    assert_eq!(place.disk.as_ref().unwrap().process().1, 0, "the process lives on");
}

#[test]
fn requests_that_make_no_sense_are_answered() {
    let place = Place::new(MIB);
    let mut client = Client::connect(place.socket()).unwrap();
    assert_eq!(client.read(MIB, 1).unwrap(), Err(22));
    assert_eq!(client.read(u64::MAX - 1, 512).unwrap(), Err(22));
    assert_eq!(client.write(MIB - 256, &[1; 512]).unwrap(), 28);
    client.send(99, 1, 0, 0).unwrap();
    assert_eq!(client.reply().unwrap(), 22);
    // Block status was not negotiated.
    client.send(7, 1, 0, 512).unwrap();
    assert_eq!(client.reply().unwrap(), 22);
    assert_eq!(client.flush().unwrap(), 0);
    assert_eq!(client.read(0, 0).unwrap(), Ok(vec![]));
}
