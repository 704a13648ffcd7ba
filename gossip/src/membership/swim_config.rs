//! Logic: SWIM's intervals and timeouts.

use std::num::{NonZeroU8, NonZeroUsize};
use std::time::Duration;

use foca::{Config, PeriodicParams};

/// Most bytes of a packet: it fits a QUIC datagram on any path.
pub const PACKET_BYTES_MAX: usize = 1_100;

/// How long a node that is down is remembered by the protocol itself; afterwards it is a stranger that is called.
const REMEMBERED: Duration = Duration::from_secs(3_600);

/// Intervals and timeouts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SwimConfig {
    /// Between two probes.
    pub probe_ms: u64,
    /// After this, others are asked to probe, too.
    pub direct_ms: u64,
    /// Others that are asked.
    pub indirect: usize,
    /// Between two packets that only carry news.
    pub gossip_ms: u64,
    /// How long a suspect may take to deny it, in a cluster of two; more in larger ones.
    pub suspect_ms: u64,
    /// Between two calls of nodes that are down.
    pub call_ms: u64,
}

impl Default for SwimConfig {
    /// For nodes on one network.
    fn default() -> Self {
        Self {
            probe_ms: 1_000,
            direct_ms: 300,
            indirect: 3,
            gossip_ms: 200,
            suspect_ms: 4_000,
            call_ms: 2_000,
        }
    }
}

impl SwimConfig {
    /// How long a suspect may take to deny it in a cluster of so many: longer where news take longer.
    #[must_use]
    pub fn suspect_ms(&self, nodes: usize) -> u64 {
        self.suspect_ms + self.suspect_ms / 10 * u64::from(nodes.max(1).ilog2())
    }

    /// The protocol's own settings in a cluster of so many.
    pub(super) fn foca(&self, nodes: usize) -> Config {
        let at_least_one = |count: usize| NonZeroUsize::new(count).unwrap_or(NonZeroUsize::MIN);
        let transmissions = u8::try_from(6 + 2 * nodes.max(1).ilog2()).unwrap_or(u8::MAX);
        Config {
            probe_period: Duration::from_millis(self.probe_ms),
            probe_rtt: Duration::from_millis(self.direct_ms),
            num_indirect_probes: at_least_one(self.indirect),
            max_transmissions: NonZeroU8::new(transmissions).unwrap_or(NonZeroU8::MIN),
            suspect_to_down_after: Duration::from_millis(self.suspect_ms(nodes)),
            remove_down_after: REMEMBERED,
            max_packet_size: at_least_one(PACKET_BYTES_MAX),
            // Done here: the protocol would also tell those that have denied their death in time.
            notify_down_members: false,
            periodic_announce: None,
            // Done here, for nodes that it never heard of, too.
            periodic_announce_to_down_members: None,
            periodic_gossip: Some(PeriodicParams {
                frequency: Duration::from_millis(self.gossip_ms),
                num_members: at_least_one(3),
            }),
        }
    }
}
