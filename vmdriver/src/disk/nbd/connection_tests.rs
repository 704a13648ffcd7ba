//! Clients that begin what they do not finish.

use std::fs::File;

use super::*;
use crate::disk::base::Base;
use crate::disk::nbd::places::Places;
use crate::disk::stack::Stack;

const BYTES: u64 = 1 << 20;
const READ: u16 = 0;
const WRITE: u16 = 1;

fn request(command: u16, bytes: u32) -> Vec<u8> {
    let mut head = 0x2560_9513_u32.to_be_bytes().to_vec();
    head.extend([0, 0]);
    head.extend(command.to_be_bytes());
    head.extend([0; 16]);
    head.extend(bytes.to_be_bytes());
    head
}

/// Serves one client that does this, and returns how it ended for the server.
fn serve(patience: Patience, client: impl FnOnce(UnixStream) + Send + 'static) -> io::Result<()> {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("image");
    File::create(&image).unwrap().set_len(BYTES).unwrap();
    Stack::create(folder.path(), BYTES).unwrap();
    let base = Base::Image { file: File::open(&image).unwrap(), bytes: BYTES };
    let volume = Volume::new(BYTES, Stack::open(folder.path(), BYTES).unwrap(), base, false);
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let place = Places::new(1).take(&ours).unwrap();
    let client = std::thread::spawn(move || {
        let mut greeting = [0; 18];
        theirs.read_exact(&mut greeting).unwrap();
        theirs.write_all(&3_u32.to_be_bytes()).unwrap();
        theirs.write_all(b"IHAVEOPT\0\0\0\x01\0\0\0\x05disk0").unwrap();
        theirs.read_exact(&mut [0; 10]).unwrap();
        client(theirs);
    });
    let ended = run(ours, &Arc::new(volume), &Budget::of_all(), &place, patience);
    client.join().unwrap();
    ended
}

const SHORT: Duration = Duration::from_millis(50);
const LONG: Duration = Duration::from_secs(600);

/// Two heads of writes of 32 MiB, and nothing more, took all memory for ever: the guest's disk stood still.
#[test]
fn a_request_that_is_begun_and_not_sent_is_given_up() {
    for sent in [request(WRITE, 65_536), request(WRITE, 65_536)[..9].to_vec()] {
        let ended = serve(Patience { payload: SHORT, reply: LONG }, move |mut client| {
            client.write_all(&sent).unwrap();
            // Until the server closes it.
            let _ = client.read(&mut [0]);
        });
        assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }
}

/// Nor does one help that sends a byte now and then.
#[test]
fn a_request_that_trickles_in_is_given_up() {
    let ended = serve(Patience { payload: SHORT, reply: LONG }, |mut client| {
        client.write_all(&request(WRITE, 65_536)).unwrap();
        while client.write_all(&[0]).is_ok() {
            std::thread::sleep(Duration::from_millis(1));
        }
    });
    assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::TimedOut);
}

#[test]
fn a_client_may_be_silent_between_requests_for_longer_than_in_them() {
    let ended = serve(Patience { payload: SHORT, reply: LONG }, |mut client| {
        for _ in 0..2 {
            std::thread::sleep(3 * SHORT);
            client.write_all(&request(READ, 512)).unwrap();
            client.read_exact(&mut [0; 16 + 512]).unwrap();
        }
    });
    ended.unwrap();
}

#[test]
fn a_client_that_takes_no_replies_is_given_up() {
    let ended = serve(Patience { payload: LONG, reply: SHORT }, |mut client| {
        for _ in 0..4 {
            client.write_all(&request(READ, BYTES as u32)).unwrap();
        }
        // Until the server has closed it, however much is in the pipe.
        let mut descriptors = [rustix::event::PollFd::new(&client, rustix::event::PollFlags::HUP)];
        rustix::event::poll(&mut descriptors, None).unwrap();
    });
    // That it ends is what matters; the reader may see its connection closed in good order.
    drop(ended);
}
