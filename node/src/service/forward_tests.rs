//! Clients held, passed on, and passed on again when their server is lost, with servers made of memory.

use std::collections::VecDeque;
use std::io;
use std::sync::Mutex;
use std::time::Duration;

use sustain_proto::{NodeId, Term, TermOrigin};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::sync::{mpsc, watch};

use super::client::{Followed, Newest};
use super::forward::{Stream, Way, serve_client};
use super::handle::Target;

/// Servers in the order in which they are reached; none is one that refuses.
struct Servers {
    ends: Mutex<VecDeque<Option<DuplexStream>>>,
    reached: mpsc::Sender<Target>,
}

impl Way for Servers {
    async fn reach(&self, server: &Target) -> io::Result<Box<dyn Stream>> {
        let next = self.ends.lock().unwrap().pop_front();
        self.reached.send(server.clone()).await.unwrap();
        match next {
            Some(Some(end)) => Ok(Box::new(end)),
            Some(None) => Err(io::ErrorKind::ConnectionRefused.into()),
            // One that never answers, as a node that was just killed.
            None => std::future::pending().await,
        }
    }
}

fn server(counter: u64, from: Option<(u64, u64)>) -> Target {
    let term = |counter| Term { counter, node: NodeId::from_bytes([9; 32]), nonce: 0 };
    let origin = from.map(|(parent, seq)| TermOrigin { parent: term(parent), seq });
    Target::Node(Followed { term: term(counter), origin })
}

struct Bench {
    client: DuplexStream,
    target: watch::Sender<Target>,
    reached: mpsc::Receiver<Target>,
    served: tokio::task::JoinHandle<io::Result<()>>,
}

/// A client of a node that has heard of snapshot 7 of the first server, and the servers' ends.
fn bench(first: Target, servers: Vec<Option<DuplexStream>>) -> Bench {
    let (client, ours) = duplex(1 << 20);
    let (target, targets) = watch::channel(first);
    let (reached_sender, reached) = mpsc::channel(16);
    let way = Servers { ends: Mutex::new(servers.into()), reached: reached_sender };
    let term = server(1, None).followed().unwrap().term;
    let (_newest, newest) = watch::channel(Some(Newest { term, seq: 7 }));
    #[expect(clippy::disallowed_methods, reason = "each test waits for it")]
    let served = tokio::spawn(async move { serve_client(ours, targets, newest, &way).await });
    Bench { client, target, reached, served }
}

async fn hears(end: &mut DuplexStream, words: &[u8]) {
    let mut heard = vec![0; words.len()];
    let reading = tokio::time::timeout(Duration::from_secs(20), end.read_exact(&mut heard));
    reading.await.unwrap().unwrap();
    assert_eq!(heard, words);
}

/// The connection was reset as soon as the dead server was given up.
#[tokio::test]
async fn a_connection_opened_while_the_loss_goes_unnoticed_is_served_by_the_successor() {
    let (mut successor, its_end) = duplex(1 << 20);
    let mut bench = bench(server(1, None), vec![None]);
    bench.client.write_all(b"question").await.unwrap();
    // It refuses, and then is silent.
    assert_eq!(bench.reached.recv().await.unwrap(), server(1, None));
    assert_eq!(bench.reached.recv().await.unwrap(), server(1, None));
    bench.served.abort();

    let mut bench = self::bench(server(1, None), vec![None, None, Some(its_end)]);
    bench.client.write_all(b"question").await.unwrap();
    assert_eq!(bench.reached.recv().await.unwrap(), server(1, None));
    bench.target.send_replace(Target::Nowhere);
    // Whatever it may have been told: nothing was said to the first.
    bench.target.send_replace(server(2, None));
    while bench.reached.recv().await.unwrap() != server(2, None) {}
    hears(&mut successor, b"question").await;
    successor.write_all(b"answer").await.unwrap();
    hears(&mut bench.client, b"answer").await;
    drop((successor, bench.client));
    bench.served.await.unwrap().unwrap();
}

#[tokio::test]
async fn what_a_lost_server_left_unanswered_is_asked_of_a_successor_from_before_the_question() {
    let ((mut lost, end), (mut successor, its_end)) = (duplex(1 << 20), duplex(1 << 20));
    let mut bench = bench(server(1, None), vec![Some(end), Some(its_end)]);
    bench.client.write_all(b"quest").await.unwrap();
    hears(&mut lost, b"quest").await;
    bench.target.send_replace(server(2, Some((1, 7))));
    hears(&mut successor, b"quest").await;
    bench.client.write_all(b"ion").await.unwrap();
    hears(&mut successor, b"ion").await;
    successor.write_all(b"answer").await.unwrap();
    hears(&mut bench.client, b"answer").await;
    // Answered now: the next loss ends it.
    bench.target.send_replace(server(3, Some((2, 7))));
    let error = bench.served.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted);
}

#[tokio::test]
async fn what_the_successor_may_know_already_is_not_asked_again() {
    let ((mut lost, end), (_successor, its_end)) = (duplex(1 << 20), duplex(1 << 20));
    let mut bench = bench(server(1, None), vec![Some(end), Some(its_end)]);
    bench.client.write_all(b"count").await.unwrap();
    hears(&mut lost, b"count").await;
    bench.target.send_replace(server(2, Some((1, 8))));
    let error = bench.served.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted);
    assert_eq!(bench.reached.recv().await.unwrap(), server(1, None));
    assert!(bench.reached.recv().await.is_none(), "the successor was given the client");
}

/// A VM that dies while its node lives breaks its connections before anybody knows that it is lost.
#[tokio::test]
async fn a_connection_that_breaks_unanswered_waits_to_see_whether_the_server_is_lost() {
    struct Breaks(Mutex<Option<DuplexStream>>);
    impl Way for Breaks {
        async fn reach(&self, server: &Target) -> io::Result<Box<dyn Stream>> {
            if *server != self::server(1, None) {
                let (mut theirs, end) = duplex(1 << 20);
                theirs.write_all(b"answer").await?;
                *self.0.lock().unwrap() = Some(theirs);
                return Ok(Box::new(end));
            }
            Ok(Box::new(broken()))
        }
    }
    let (mut client, ours) = duplex(1 << 20);
    let (target, targets) = watch::channel(server(1, None));
    let (_newest, newest) = watch::channel(None);
    let way = Breaks(Mutex::new(None));
    let serving = serve_client(ours, targets, newest, &way);
    let asking = async {
        client.write_all(b"question").await.unwrap();
        target.send_replace(Target::Nowhere);
        target.send_replace(server(2, Some((1, 0))));
        hears(&mut client, b"answer").await;
        drop((client, way.0.lock().unwrap().take()));
    };
    let (served, ()) = tokio::join!(serving, asking);
    served.unwrap();
}

/// A connection whose other end has reset it.
fn broken() -> impl Stream {
    tokio::io::join(Reset, tokio::io::sink())
}

struct Reset;

impl tokio::io::AsyncRead for Reset {
    fn poll_read(
        self: std::pin::Pin<&mut Self>,
        _context: &mut std::task::Context<'_>,
        _buffer: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<io::Result<()>> {
        std::task::Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()))
    }
}
