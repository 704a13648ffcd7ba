//! A client's connection whose first bytes are kept, so that they can be said again to the next server.
//!
//! A server that is lost before it answered may have done what it was asked. Its successor goes on from a
//! snapshot; only if that was taken before the client's first byte was passed on, it surely knows nothing of the
//! request, and is given it. Otherwise the client is told by the end of its connection, and asks again itself.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use sustain_proto::{Term, TermOrigin};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;

use crate::limits::CLIENT_REPEAT_BYTES_MAX;

/// A reign, as clients' connections need to know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Followed {
    /// Its term; its node is the server.
    pub(crate) term: Term,
    /// The snapshot from which it goes on, as far as is known.
    pub(crate) origin: Option<TermOrigin>,
}

/// The newest snapshot that a server is known to have taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Newest {
    /// The server's term.
    pub(crate) term: Term,
    /// The snapshot's number.
    pub(crate) seq: u64,
}

/// A client that is passed on to one server after the other, until one has answered.
#[derive(Debug)]
pub(super) struct Client<S> {
    stream: S,
    newest: watch::Receiver<Option<Newest>>,
    /// What it has said.
    said: Vec<u8>,
    /// How many bytes of that the present server was given.
    given: usize,
    /// Whether `said` is all that it has said, and nothing was answered.
    repeatable: bool,
    present: Option<Followed>,
    /// The newest snapshot of the present server when it was given the first byte.
    since: Option<Newest>,
}

impl<S> Client<S> {
    pub(super) fn new(stream: S, newest: watch::Receiver<Option<Newest>>) -> Self {
        Self { stream, newest, said: Vec::new(), given: 0, repeatable: true, present: None, since: None }
    }

    /// Whether another server could take over from the present one.
    pub(super) fn is_repeatable(&self) -> bool {
        self.repeatable
    }

    /// Begins anew with this server; false if it may know already what the client said to another.
    pub(super) fn turn_to(&mut self, server: Followed) -> bool {
        let safe = self.repeatable && self.since.is_none_or(|since| knows_nothing_after(&server, &since));
        if safe {
            (self.given, self.present, self.since) = (0, Some(server), None);
        }
        safe
    }

    /// The present server is about to be given the first byte.
    fn note_first(&mut self) {
        if self.since.is_none() {
            let seen = *self.newest.borrow();
            self.since = self.present.map(|present| newest_of(&present, seen));
        }
    }

    fn answered(&mut self) {
        self.repeatable = false;
        if self.given == self.said.len() {
            (self.said, self.given) = (Vec::new(), 0);
        }
    }

    fn keep(&mut self, bytes: &[u8]) {
        if !self.repeatable || bytes.is_empty() {
            return;
        }
        self.note_first();
        if self.said.len() + bytes.len() > CLIENT_REPEAT_BYTES_MAX {
            return self.answered();
        }
        self.said.extend_from_slice(bytes);
        self.given = self.said.len();
    }
}

/// The newest snapshot that a server has certainly taken: a lower bound.
fn newest_of(server: &Followed, seen: Option<Newest>) -> Newest {
    let begun = server.origin.map_or(0, |origin| origin.seq);
    let seen = seen.filter(|seen| seen.term == server.term).map_or(0, |seen| seen.seq);
    Newest { term: server.term, seq: begun.max(seen) }
}

/// Whether a server goes on from a state before whatever another did after this snapshot.
fn knows_nothing_after(next: &Followed, since: &Newest) -> bool {
    next.origin.is_some_and(|origin| {
        // A state of an earlier term has nothing of a later one: counters rise along a lineage.
        origin.parent.counter < since.term.counter || (origin.parent == since.term && origin.seq <= since.seq)
    })
}

impl<S: AsyncRead + Unpin> AsyncRead for Client<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.given < this.said.len() {
            this.note_first();
            let rest = &this.said[this.given..];
            let bytes = rest.len().min(buffer.remaining());
            buffer.put_slice(&rest[..bytes]);
            this.given += bytes;
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(context, buffer))?;
        this.keep(&buffer.filled()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Client<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = ready!(Pin::new(&mut this.stream).poll_write(context, buffer))?;
        if written > 0 {
            this.answered();
        }
        Poll::Ready(Ok(written))
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // To end without a word is an answer, too.
        this.answered();
        Pin::new(&mut this.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use sustain_proto::NodeId;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    fn followed(counter: u64, from: Option<(u64, u64)>) -> Followed {
        let term = |counter| Term { counter, node: NodeId::from_bytes([1; 32]), nonce: counter };
        let origin = from.map(|(parent, seq)| TermOrigin { parent: term(parent), seq });
        Followed { term: term(counter), origin }
    }

    /// A client that has asked the first server something after that had taken snapshot 7.
    async fn asked() -> Client<&'static [u8]> {
        let first = followed(1, None);
        let (_sender, newest) = watch::channel(Some(Newest { term: first.term, seq: 7 }));
        let mut client = Client::new(&b"question"[..], newest);
        assert!(client.turn_to(first));
        let mut heard = Vec::new();
        client.read_to_end(&mut heard).await.unwrap();
        assert_eq!(heard, b"question");
        client
    }

    #[tokio::test]
    async fn what_was_said_is_said_again_only_to_a_server_that_cannot_know_it() {
        for (next, safe) in [
            (followed(2, Some((1, 6))), true),
            (followed(2, Some((1, 7))), true),
            // Snapshot 8 may have been taken after the question.
            (followed(2, Some((1, 8))), false),
            // Where it goes on from is not known.
            (followed(2, None), false),
        ] {
            let mut client = asked().await;
            assert_eq!(client.turn_to(next), safe, "{next:?}");
            let mut heard = Vec::new();
            client.read_to_end(&mut heard).await.unwrap();
            assert_eq!(heard, if safe { &b"question"[..] } else { b"" });
        }
    }

    #[tokio::test]
    async fn each_server_in_turn_is_measured_by_its_own_snapshots() {
        let mut client = asked().await;
        assert!(client.turn_to(followed(2, Some((1, 7)))));
        client.read_to_end(&mut Vec::new()).await.unwrap();
        // The second server began with 7 and was asked before any snapshot of its own that is known here.
        let mut same = asked().await;
        assert!(same.turn_to(followed(2, Some((1, 5)))));
        assert!(same.turn_to(followed(3, Some((2, 9)))), "the second was told nothing");
        assert!(!client.turn_to(followed(3, Some((2, 8)))));
        assert!(client.turn_to(followed(3, Some((1, 5)))), "nothing of the second is in it");
    }

    #[tokio::test]
    async fn whoever_was_answered_or_has_said_much_is_given_to_nobody_else() {
        let (ours, mut theirs) = tokio::io::duplex(1 << 20);
        let (_sender, newest) = watch::channel(None);
        let mut client = Client::new(ours, newest.clone());
        assert!(client.turn_to(followed(1, None)));
        client.write_all(b"220 ready").await.unwrap();
        theirs.read_exact(&mut [0; 9]).await.unwrap();
        assert!(!client.is_repeatable() && !client.turn_to(followed(2, Some((1, 0)))));

        let much = vec![7; CLIENT_REPEAT_BYTES_MAX + 1];
        let mut client = Client::new(&much[..], newest);
        assert!(client.turn_to(followed(1, None)));
        let mut heard = Vec::new();
        client.read_to_end(&mut heard).await.unwrap();
        assert!(heard == much && !client.is_repeatable());
        assert!(client.said.is_empty());
    }
}
