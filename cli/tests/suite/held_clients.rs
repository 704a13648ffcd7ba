//! Clients that come while a server is lost and not yet replaced, at every node that is left.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::command_failover::{count_durably, example, start};
use crate::support::Bench;

/// Longer than a client is held: whoever has no answer after this was forgotten.
const PATIENCE: Duration = Duration::from_secs(30);

/// Counts by a connection of its own; an error says what became of it.
fn count(address: SocketAddr) -> Result<Value, String> {
    let failed = |error: std::io::Error| error.to_string();
    let mut stream = TcpStream::connect(address).map_err(failed)?;
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(b"GET /count HTTP/1.0\r\n\r\n").map_err(failed)?;
    let mut text = String::new();
    stream.read_to_string(&mut text).map_err(failed)?;
    let (_, body) = text.split_once("\r\n\r\n").ok_or("an empty answer")?;
    serde_json::from_str(body).map_err(|error| error.to_string())
}

/// Connections opened up to the detection were reset when it came; those at the losers of the election, until
/// the winner's VM ran.
#[test]
fn whoever_connects_to_a_survivor_at_any_moment_after_the_loss_is_answered_once() {
    let bench = Bench::new();
    let mut cluster = start(&example(&bench));
    let server = cluster.server(None);
    let (counted, id) = count_durably(&cluster, server);
    let survivors = [1, 2, 3].map(|node| SocketAddr::from((cluster.address(node), 8080)));
    cluster.kill(server);
    let killed = Instant::now();
    let mut clients: Vec<(Duration, SocketAddr, JoinHandle<_>)> = Vec::new();
    let is_server =
        |node: usize| cluster.status(node).is_some_and(|status| status["services"][0]["role"] == "server");
    // On until half a second after the restore, and with it the last who could have been too early.
    let mut restored_at: Option<Instant> = None;
    while restored_at.is_none_or(|at| at.elapsed() < Duration::from_millis(500)) {
        assert!(killed.elapsed() < PATIENCE, "nobody takes over");
        let due = Instant::now() + Duration::from_millis(50);
        for address in survivors {
            clients.push((killed.elapsed(), address, std::thread::spawn(move || count(address))));
        }
        if restored_at.is_none() && (1..4).any(is_server) {
            restored_at = Some(Instant::now());
        }
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
    }
    let number = clients.len();
    let mut counts = Vec::new();
    for (after, address, client) in clients {
        let answer = client.join().unwrap();
        let answer = answer.unwrap_or_else(|what| panic!("{address} at +{} ms: {what}", after.as_millis()));
        assert_eq!(answer["boot_id"], id.as_str(), "it was begun anew, not restored");
        counts.push(answer["count"].as_u64().unwrap());
    }
    counts.sort_unstable();
    assert!(counts[0] > counted, "{counted} was durable, {} came after", counts[0]);
    let all: Vec<u64> = (counts[0]..counts[0] + number as u64).collect();
    assert_eq!(counts, all, "every request was counted once");
}
