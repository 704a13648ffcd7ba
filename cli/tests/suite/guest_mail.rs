//! The mail guest as a sustained service, the whole way: four daemons by `init`, `service add` and `node`, and two
//! servers lost one after the other. Run by `make test-mail`.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::cluster::Cluster;
use crate::post::{Post, counted_by_imap, mailbox, send};
use crate::support::{processes_with, snapctl};

/// Mails to each of the two users before the first loss.
const MAILS: usize = 20;

/// In a folder on a disk, not in memory: a gigabyte for the nodes' stores.
const SCRATCH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../target");

fn mail_guest() -> PathBuf {
    let folder = std::env::var_os("SUSTAIN_GUEST_MAIL_DIR")
        .map_or_else(|| Path::new(SCRATCH).join("guest-mail"), PathBuf::from);
    assert!(folder.join("disk.raw").exists(), "no guest in {}: run `make guest-mail`", folder.display());
    folder
}

fn add_service(cluster: &Cluster, nodes: usize) {
    let guest = mail_guest();
    let mut add = snapctl();
    add.args(["service", "add", "mail", "--memory", "384M", "--cpus", "2", "--interval", "2s"]);
    add.args(["--forward", "2525:25", "--forward", "2110:110", "--forward", "2143:143"]);
    add.arg("--disk").arg(guest.join("disk.raw")).arg("--kernel").arg(guest.join("vmlinuz"));
    add.arg("--initramfs").arg(guest.join("initramfs.cpio.gz"));
    for node in 0..nodes {
        add.arg("--config").arg(cluster.config(node));
    }
    let added = add.output().unwrap();
    assert!(added.status.success(), "{}", String::from_utf8_lossy(&added.stderr));
}

/// The service through a node's ports.
fn post_at(address: Ipv4Addr) -> Post {
    let at = |port| SocketAddr::from((address, port));
    Post { smtp: at(2525), pop3: at(2110), imap: at(2143) }
}

/// Prints what each step took.
struct Laps(Instant);

impl Laps {
    #[expect(clippy::print_stdout, reason = "measurements, shown by --nocapture")]
    fn lap(&mut self, what: &str) {
        println!("{:>8.2} s  {what}", self.0.elapsed().as_secs_f64());
        self.0 = Instant::now();
    }
}

/// Waits until both users have exactly these mails.
fn assert_has(post: &Post, ids: &[String]) {
    for user in ["user1", "user2"] {
        // What was accepted may wait in the queue, and be delivered only now.
        post.wait_for_mails(user, ids.len());
        let mut found = mailbox(post, user);
        found.sort();
        assert_eq!(found, ids, "{user}: what was accepted before the loss is there, once");
    }
}

fn send_all(post: &Post, name: &str, count: usize, ids: &mut Vec<String>) {
    for number in 0..count {
        let id = format!("{name}-{number:02}@mail.test");
        send(post, &["user1", "user2"], &id, number);
        ids.push(id);
    }
}

#[test]
#[ignore = "takes minutes and the mail guest: make test-mail"]
fn guest_mail_accepted_before_a_durable_snapshot_survives_two_losses() {
    let mut cluster = Cluster::planned_in(Path::new(SCRATCH), 4, &[]);
    add_service(&cluster, 4);
    let post = |cluster: &Cluster, node| post_at(cluster.address(node));
    let mut laps = Laps(Instant::now());
    (0..4).for_each(|node| cluster.spawn(node));
    let first = cluster.server(None);
    laps.lap("from the start of the nodes to a server");
    post(&cluster, 3).wait_for_banner();
    laps.lap("until the mail server's banner, through another node's port");
    let mut ids = Vec::new();
    send_all(&post(&cluster, 3), "before", MAILS, &mut ids);
    laps.lap("mails accepted");
    cluster.wait_for_durability(first);
    laps.lap("until a snapshot that began later was durable");

    cluster.kill_with_vm(first);
    let second = cluster.server(Some(first));
    laps.lap("from the loss of the server to the next one");
    post(&cluster, 2).wait_for_banner();
    laps.lap("until the banner, through a third node's port");
    assert_has(&post(&cluster, 2), &ids);
    laps.lap("every mail found there, once");
    // Nobody asked by IMAP before the loss: these programs come from the restored disk.
    assert_eq!(counted_by_imap(&post(&cluster, 3), "user1"), MAILS);
    laps.lap("a mailbox looked at by IMAP, whose programs come from the disk");
    send_all(&post(&cluster, 3), "later", 2, &mut ids);
    kill_disk_server(&cluster);
    send_all(&post(&cluster, 2), "later-still", 2, &mut ids);
    laps.lap("new mails accepted, the disk's process killed among them");
    cluster.wait_for_durability(second);
    laps.lap("until these were durable");

    cluster.kill_with_vm(second);
    let third = cluster.server(Some(second));
    laps.lap("from the second loss to the third server");
    let last = if third == 3 { 2 } else { 3 };
    post(&cluster, last).wait_for_banner();
    laps.lap("until the banner");
    assert_has(&post(&cluster, last), &ids);
    laps.lap("every mail of both reigns found, once");
    send(&post(&cluster, last), &["user1"], "last@mail.test", 0);
    post(&cluster, last).wait_for_mails("user1", ids.len() + 1);
    laps.lap("new mail accepted and delivered");
}

/// Kills the process that serves the disk, wherever it runs: there is one.
fn kill_disk_server(cluster: &Cluster) {
    let folder = cluster.folder().display().to_string();
    let is_server = |pid: &u32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains("disk-server")
    };
    let pids: Vec<u32> = processes_with(&folder).into_iter().filter(is_server).collect();
    assert_eq!(pids.len(), 1, "one disk is served: {pids:?}");
    let pid = rustix::process::Pid::from_raw(i32::try_from(pids[0]).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}
