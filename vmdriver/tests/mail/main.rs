//! The mail guest, whole: boots, takes mail, is saved and restored. Run by `make test-mail`; too long for
//! every change.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed unwrap is a failed test")]
#![allow(clippy::print_stdout, reason = "measurements, shown by --nocapture")]

#[path = "../qemu/support.rs"]
#[allow(dead_code, unused_imports, reason = "shared with the tests of the small guest")]
mod support;

mod bench;
mod post;

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use bench::{Bench, run};
use post::{counted_by_imap, mailbox, send};
use support::Regions;
use sustain_vmdriver::{GuestAgent, SnapshotScope, VmDriver};

/// Mails to each of the two users.
const MAILS: usize = 10;

/// Reads what is no longer in the guest's memory, and looks whether its kernel found a fault.
const READ_THE_DISK: &str = "sync; echo 3 >/proc/sys/vm/drop_caches; find /home /etc /usr/lib -type f | \
                             xargs cat >/dev/null; ! dmesg | grep -i 'ext4-fs error'";

#[test]
#[ignore = "needs the mail guest and minutes: make test-mail"]
fn mail_accepted_before_a_snapshot_is_there_after_a_restore() {
    let bench = Bench::new();
    let spec = bench.spec();
    let mut clock = Instant::now();
    let mut lap = |what: &str| {
        println!("{:>8.2} s  {what}", clock.elapsed().as_secs_f64());
        clock = Instant::now();
    };
    let mut vm = bench::driver().start(&spec, &bench.path("first")).unwrap();
    let post = bench::post(&*vm);
    post.wait_for_banner();
    lap("from the start to the mail server's banner");
    let channel = bench::answer(vm.take_channel().unwrap());
    let agent = bench::wait_for_agent(&mut *vm);
    lap("until the agent is there");
    let boot_id = run(&*agent, "cat /proc/sys/kernel/random/boot_id");
    assert!(run(&*agent, "sustain-ask status").contains("\"ask\":\"status\""));
    lap("a program and a question in the guest");

    let before: Vec<String> = (0..MAILS).map(|number| format!("before-{number}@mail.test")).collect();
    for (number, id) in before.iter().enumerate() {
        send(&post, &["user1", "user2"], id, number);
    }
    post.wait_for_mails("user1", MAILS);
    post.wait_for_mails("user2", MAILS);
    lap("mails sent and delivered");
    let mut regions = Regions::default();
    let timings = vm.snapshot(SnapshotScope::Whole, &mut regions).unwrap();
    lap("a snapshot");
    println!("{timings:.1?}");
    send(&post, &["user1"], "after@mail.test", 0);
    post.wait_for_mails("user1", MAILS + 1);
    drop(channel);
    vm.stop().unwrap();
    lap("one mail more, then the end");

    let mut vm = bench::restore(&spec, regions, &bench.path("second"));
    lap("restored");
    let post = bench::post(&*vm);
    post.wait_for_banner();
    lap("until the mail server's banner");
    for user in ["user1", "user2"] {
        let mut found = mailbox(&post, user);
        found.sort();
        assert_eq!(found, before, "{user}: what was accepted is there once, what came later is not");
    }
    lap("both mailboxes read");
    // Its programs were in nobody's memory: they come from the restored disk.
    assert_eq!(counted_by_imap(&post, "user1"), MAILS);
    lap("a mailbox looked at by IMAP");
    let report = bench::wait_for_wake(&mut *vm);
    println!("{report:?}");
    for step in [&report.network, &report.entropy, &report.clock, &report.host_name] {
        assert!(step.is_done(), "{report:?}");
    }
    // It had stood still since the snapshot, for some seconds.
    assert!(report.entropy_at_once && report.clock_before_ms.unwrap() < -1_000.0, "{report:?}");
    assert_eq!(report.host_name_found.as_deref(), Some("mail"));
    let _channel = bench::answer(vm.take_channel().unwrap());
    let agent = bench::wait_for_agent(&mut *vm);
    assert_eq!(run(&*agent, "cat /proc/sys/kernel/random/boot_id"), boot_id, "it did not boot again");
    check_clock(&*agent);
    assert!(run(&*agent, "sustain-ask status").contains("\"ask\":\"status\""));
    lap("clock, agent and channel checked");
    send(&post, &["user2"], "later@mail.test", 0);
    post.wait_for_mails("user2", MAILS + 1);
    lap("a mail taken by the restored guest");
    // The restored guest's disk is whole: what it reads now is not in its memory.
    run(&*agent, READ_THE_DISK);
    lap("the disk read again");
    vm.stop().unwrap();
}

fn check_clock(agent: &dyn GuestAgent) {
    let asked = SystemTime::now();
    let guest: f64 = run(agent, "date +%s.%N").trim().parse().unwrap();
    let here = asked.duration_since(UNIX_EPOCH).unwrap() + asked.elapsed().unwrap() / 2;
    println!(
        "the guest's clock is {:+.3} s off, to within half the time that asking took",
        guest - here.as_secs_f64()
    );
    assert!((guest - here.as_secs_f64()).abs() < 1.0);
}
