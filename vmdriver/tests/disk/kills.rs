//! The process killed at random moments, under load: nothing that was answered is lost.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use sustain_vmdriver::disk::DiskError;

use crate::client::Client;
use crate::support::{MIB, Place, Random, kill_server, wait_for};

/// Kills; `SUSTAIN_DISK_KILLS` sets another number.
const KILLS: u64 = 12;
const WRITERS: u64 = 3;
const SLOTS: u64 = 600;
/// Half a block and a little, so that slots share blocks and chunks.
const SLOT_BYTES: u64 = 2_560;

/// What one writer has had answered: for each of its slots, the last number.
struct Record {
    done: Vec<AtomicU64>,
    /// The slot that is being written, and with what.
    doing: [AtomicU64; 2],
}

fn slot(writer: u64, slot: u64) -> u64 {
    (slot * WRITERS + writer) * SLOT_BYTES
}

fn filled(number: u64) -> Vec<u8> {
    // Nothing but zeros is also something that is written.
    if number % 7 == 0 {
        vec![0; SLOT_BYTES as usize]
    } else {
        number.to_le_bytes().repeat(SLOT_BYTES as usize / 8)
    }
}

/// Writes until told to stop; connects again when the process is gone, and repeats what had no answer.
fn write(socket: &std::path::Path, writer: u64, record: &Record, stop: &AtomicBool, seed: u64) {
    let mut random = Random(seed * 31 + writer + 1);
    let mut number = 0;
    let mut client = None;
    while !stop.load(Ordering::SeqCst) {
        number += 1;
        let at = random.next() % SLOTS;
        record.doing[0].store(at, Ordering::SeqCst);
        record.doing[1].store(number, Ordering::SeqCst);
        loop {
            let open = match &mut client {
                Some(open) => open,
                None => {
                    client = Client::connect(socket).ok();
                    continue;
                }
            };
            let done = if number % 7 == 0 {
                open.zero(slot(writer, at), SLOT_BYTES as u32)
            } else {
                open.write(slot(writer, at), &filled(number))
            };
            match done {
                Ok(error) => {
                    assert_eq!(error, 0);
                    break;
                }
                Err(_) => client = None,
            }
        }
        record.done[at as usize].store(number, Ordering::SeqCst);
        if number % 16 == 0 && client.as_mut().is_some_and(|open| open.flush().is_err()) {
            client = None;
        }
    }
}

#[test]
fn what_was_answered_survives_kills_freezes_and_folds() {
    let kills = std::env::var("SUSTAIN_DISK_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(KILLS);
    let seed = std::env::var("SUSTAIN_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    let mut place = Place::new(16 * MIB);
    let socket = place.socket().to_owned();
    let stop = AtomicBool::new(false);
    let records: Vec<Record> = (0..WRITERS)
        .map(|_| Record { done: (0..SLOTS).map(|_| AtomicU64::new(0)).collect(), doing: Default::default() })
        .collect();
    let mut random = Random(seed);
    std::thread::scope(|scope| {
        for (writer, record) in (0..).zip(&records) {
            let (socket, stop) = (&socket, &stop);
            scope.spawn(move || write(socket, writer, record, stop, seed));
        }
        let disk = place.disk();
        for _ in 0..kills {
            for _ in 0..random.next() % 3 {
                std::thread::sleep(Duration::from_millis(random.next() % 20));
                match disk.freeze() {
                    Ok(layer) => disk.taken(layer),
                    Err(DiskError::Busy) => {}
                    Err(error) => panic!("{}", sustain_store::error_chain(&error)),
                }
            }
            // While a freeze or a fold is under way as well as long after.
            std::thread::sleep(Duration::from_micros(random.next() % 5_000));
            kill_server(disk);
        }
        stop.store(true, Ordering::SeqCst);
    });
    let written: u64 = records.iter().map(|record| record.doing[1].load(Ordering::SeqCst)).sum();
    println!("{written} writes, {kills} kills");
    assert!(written > kills * 20, "hardly anything was written between the kills");
    let mut client = Client::connect(&socket).unwrap();
    let original = std::fs::read(&place.image).unwrap();
    for (writer, record) in (0..).zip(&records) {
        for at in 0..SLOTS {
            let number = record.done[at as usize].load(Ordering::SeqCst);
            let found = client.read(slot(writer, at), SLOT_BYTES as usize).unwrap().unwrap();
            let start = slot(writer, at) as usize;
            let expected = if number == 0 {
                original[start..start + SLOT_BYTES as usize].to_vec()
            } else {
                filled(number)
            };
            assert!(found == expected, "writer {writer}, slot {at}: write {number} is lost");
        }
    }
    let disk = place.disk();
    wait_for("end of folding", || disk.status().unwrap().frozen.is_empty());
}

#[test]
fn a_freeze_while_no_process_runs_waits_for_the_next() {
    let mut place = Place::new(MIB);
    let (pid, _) = place.disk().process();
    assert!(
        std::process::Command::new("kill")
            .args(["-KILL", &pid.unwrap().to_string()])
            .status()
            .unwrap()
            .success()
    );
    assert_eq!(place.disk().freeze().unwrap(), 1);
    assert_eq!(place.disk().status().unwrap().active, 2);
}

#[test]
fn dropping_the_disk_ends_its_process() {
    let mut place = Place::new(MIB);
    let folder = format!("/proc/{}", place.disk().process().0.unwrap());
    assert!(std::path::Path::new(&folder).exists());
    place.disk = None;
    assert!(!std::path::Path::new(&folder).exists());
}
