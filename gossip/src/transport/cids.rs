//! Connection ids that any later run of the node takes for its own.
//!
//! QUIC's usual ids carry a mark of the run that gave them out, and packets with the mark of an earlier run
//! are dropped in silence. Then the peers of a node that was killed and came back would wait for their
//! connections to time out. With ids without a mark it answers such packets with a stateless reset, which
//! the peers believe because it is made with a key that the node has in every run.

use std::time::Duration;

use quinn::{ConnectionId, ConnectionIdGenerator};
use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};

/// Long enough that no two ids are ever equal.
const BYTES: usize = 12;

/// Gives out random ids.
#[derive(Debug)]
pub(crate) struct RandomIds {
    random: StdRng,
}

impl RandomIds {
    /// `seed` must differ from run to run.
    pub(crate) fn new(seed: [u8; 32]) -> Self {
        Self { random: StdRng::from_seed(seed) }
    }
}

impl ConnectionIdGenerator for RandomIds {
    fn generate_cid(&mut self) -> ConnectionId {
        let mut bytes = [0; BYTES];
        self.random.fill_bytes(&mut bytes);
        ConnectionId::new(&bytes)
    }

    fn cid_len(&self) -> usize {
        BYTES
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}
