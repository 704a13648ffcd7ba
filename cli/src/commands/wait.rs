//! Waiting until a snapshot survives losses of nodes, as the node says at which it was pushed.

use std::time::{Duration, Instant};

use sustain_gossip::SnapshotLevel;
use sustain_node::admin::NodeStatus;
use sustain_node::limits::FILES_TOLERANCE;
use sustain_node::operations::Failure;
use sustain_proto::SnapshotId;
use sustain_proto::human::counted;

use crate::client::Client;
use crate::output::Output;

/// Between two looks at the node's status. On a local network a small snapshot is durable within some tens of
/// milliseconds.
const LOOK: Duration = Duration::from_millis(50);

/// What takes no longer is not talked about.
const QUIET: Duration = Duration::from_secs(1);

/// How much a snapshot is to survive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Losses(u32);

impl std::str::FromStr for Losses {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "durable" {
            return Ok(Self(FILES_TOLERANCE));
        }
        text.parse().map(Self).map_err(|_| "it must be `durable`, or a number of nodes".to_owned())
    }
}

/// Waits until a snapshot survives so many losses besides that of its node, and says how many it survives.
pub(super) fn until_safe(
    client: &Client,
    snapshot: SnapshotId,
    (Losses(wanted), patience): (Losses, Duration),
    output: &Output,
) -> Result<u32, Failure> {
    let started = Instant::now();
    let mut said = None;
    loop {
        let status: NodeStatus = client.get("/v1/status")?;
        let levels = status.keeping.unwrap_or_default().snapshots;
        let level = levels.iter().find(|level| level.snapshot == snapshot);
        let survives = level.and_then(|SnapshotLevel { survives, .. }| *survives);
        match survives {
            Some(losses) if losses >= wanted => return Ok(losses),
            now if said != Some(now) && started.elapsed() > QUIET => {
                said = Some(now);
                output.message(&format!("it {}, of {wanted}", words(now)));
            }
            _ => {}
        }
        if started.elapsed() >= patience {
            let message = format!(
                "snapshot {} is stored here, and {}, of {wanted}, after {} s",
                snapshot.short(),
                words(survives),
                patience.as_secs()
            );
            return Err(Failure::new(3, message).with_hint(
                "it goes on spreading; `snapctl status` says who can't be reached or takes no more",
            ));
        }
        std::thread::sleep(LOOK);
    }
}

fn words(survives: Option<u32>) -> String {
    match survives {
        None => "is on no other node yet".to_owned(),
        Some(losses) => format!("survives {} besides this node's", counted(losses.into(), "loss", "losses")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_are_a_number_or_the_usual_one() {
        assert_eq!("durable".parse(), Ok(Losses(FILES_TOLERANCE)));
        assert_eq!("3".parse(), Ok(Losses(3)));
        assert!("often".parse::<Losses>().is_err() && "-1".parse::<Losses>().is_err());
    }
}
