//! What a node gives to its cluster at most: it is somebody's machine.

use std::sync::Mutex;

use sustain_store::Bucket;
use tokio::time::Instant;

use crate::transport::links::lock;

/// Most bytes that wait for the uplink as one. Transfers take turns with so much, so that each moves often enough not
/// to be taken for stalled even if some dozen share the slowest uplink that can be set.
const TURN_BYTES: usize = 16 << 10;

/// Limits on what a node gives; none is no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Share {
    /// Most bytes that it keeps for others: what is newest is left out. What it is the server of, and what is gathered
    /// here, is not.
    pub storage_bytes: Option<u64>,
    /// Bytes a second of packs that it sends, to all others together. Clients' connections that it forwards, heartbeats
    /// and requests do not count.
    pub upload_bytes_per_second: Option<u64>,
}

/// What all bulk transfers of a node go through on their way out.
pub(crate) struct Uplink {
    bucket: Option<Mutex<Bucket>>,
    /// Who waits for the bucket holds it, so that transfers take turns in the order in which they came.
    turn: tokio::sync::Mutex<()>,
    started: Instant,
}

impl Uplink {
    pub(crate) fn new(share: &Share) -> Self {
        let started = Instant::now();
        let bucket =
            share.upload_bytes_per_second.map(|rate| Mutex::new(Bucket::new(rate, started.elapsed())));
        Self { bucket, turn: tokio::sync::Mutex::default(), started }
    }

    /// How many of these bytes may go at once.
    pub(crate) fn part(&self, bytes: usize) -> usize {
        if self.bucket.is_some() { bytes.min(TURN_BYTES) } else { bytes }
    }

    /// Waits until so many bytes may go.
    pub(crate) async fn pass(&self, bytes: usize) {
        let Some(bucket) = &self.bucket else { return };
        let _turn = self.turn.lock().await;
        let wait = lock(bucket).take(bytes as u64, self.started.elapsed());
        tokio::time::sleep(wait).await;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    async fn send(uplink: &Uplink, bytes: usize) -> Duration {
        let mut left = bytes;
        while left > 0 {
            let part = uplink.part(left);
            uplink.pass(part).await;
            left -= part;
        }
        uplink.started.elapsed()
    }

    #[tokio::test]
    async fn transfers_share_the_uplink_and_keep_to_its_rate() {
        let share = Share { upload_bytes_per_second: Some(1 << 20), ..Share::default() };
        let uplink = Uplink::new(&share);
        // The first second is saved up; the rest takes a quarter of one.
        let (large, small) = tokio::join!(send(&uplink, 5 << 18), send(&uplink, 64 << 10));
        assert!(small < large, "it waited for the other to end");
        assert!(large >= Duration::from_millis(250), "{large:?}");
    }

    #[tokio::test]
    async fn without_a_limit_nothing_waits() {
        let uplink = Uplink::new(&Share::default());
        assert_eq!(uplink.part(1 << 20), 1 << 20);
        uplink.pass(usize::MAX).await;
    }
}
