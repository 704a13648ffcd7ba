//! Logic: SWIM's packets, taken apart so that nothing in them is believed of who doesn't belong to the cluster.
//!
//! A packet is a header, and for most messages a count (two bytes, big endian) and as many updates on members.

use foca::{Header, Member, Message};
use sustain_proto::NodeId;

use super::life::Life;
use super::swim_config::PACKET_BYTES_MAX;

/// What is wrong with a packet whoever looks at it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It is none, or too large.
    Strange,
    /// It is not from the node that sent it, or not for the one that has it.
    Impostor,
}

/// What is wrong with a packet that a node has sent to this one.
pub(crate) fn fault(me: NodeId, from: NodeId, bytes: &[u8]) -> Option<Fault> {
    match Packet::decode(bytes).filter(|_| bytes.len() <= PACKET_BYTES_MAX) {
        None => Some(Fault::Strange),
        Some(Packet { header, .. }) if header.src.node != from || header.dst.node != me => {
            Some(Fault::Impostor)
        }
        Some(_) => None,
    }
}

/// A packet.
#[derive(Debug, Clone)]
pub(crate) struct Packet {
    pub(crate) header: Header<Life>,
    pub(crate) updates: Option<Vec<Member<Life>>>,
}

impl Packet {
    /// Reads a packet; none if it isn't one to the last byte.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (header, rest) = postcard::take_from_bytes::<Header<Life>>(bytes).ok()?;
        let Some((count, mut rest)) = rest.split_first_chunk::<2>() else {
            return rest.is_empty().then_some(Self { header, updates: None });
        };
        let mut updates = Vec::new();
        for _ in 0..u16::from_be_bytes(*count) {
            let (update, left) = postcard::take_from_bytes::<Member<Life>>(rest).ok()?;
            updates.push(update);
            rest = left;
        }
        rest.is_empty().then_some(Self { header, updates: Some(updates) })
    }

    /// The packet's bytes.
    pub(crate) fn encode(&self) -> Option<Vec<u8>> {
        let mut bytes = postcard::to_extend(&self.header, Vec::with_capacity(256)).ok()?;
        if let Some(updates) = &self.updates {
            bytes.extend_from_slice(&u16::try_from(updates.len()).ok()?.to_be_bytes());
            for update in updates {
                bytes = postcard::to_extend(update, bytes).ok()?;
            }
        }
        Some(bytes)
    }

    /// The other node that the message is about, if it is about one.
    pub(crate) fn third(&self) -> Option<NodeId> {
        match &self.header.message {
            Message::PingReq { target, .. } | Message::IndirectAck { target, .. } => Some(target.node),
            Message::IndirectPing { origin, .. } | Message::ForwardedAck { origin, .. } => Some(origin.node),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use foca::State;

    use super::*;

    fn life(node: u8) -> Life {
        Life { node: NodeId::from_bytes([node; 32]), number: 300 }
    }

    #[test]
    fn a_packet_is_read_as_it_was_written_and_no_byte_may_be_over() {
        let header = Header { src: life(1), src_incarnation: 7, dst: life(2), message: Message::Ping(9) };
        for updates in [None, Some(vec![]), Some(vec![Member::new(life(3), 4, State::Suspect)])] {
            let packet = Packet { header: header.clone(), updates };
            let mut bytes = packet.encode().unwrap();
            let read = Packet::decode(&bytes).unwrap();
            assert_eq!((&read.header, &read.updates), (&packet.header, &packet.updates));
            bytes.push(0);
            assert!(Packet::decode(&bytes).is_none());
            for end in 0..bytes.len() - 1 {
                // What is cut off within the count or an update is none; a header alone is one.
                assert!(Packet::decode(&bytes[..end]).is_none_or(|read| read.updates.is_none()));
            }
        }
    }
}
