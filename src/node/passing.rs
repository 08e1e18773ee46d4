//! What waits to be handed to other shards.

use std::collections::VecDeque;

use super::Cross;
use crate::limits::{CROSSINGS_MAX, PASSING_MAX};

/// Messages and packets, each with room of its own: a flood of packets, which anybody can cause, loses no message.
#[derive(Default)]
pub(super) struct Passing {
    /// At most [`CROSSINGS_MAX`].
    messages: VecDeque<(u8, Cross)>,
    /// At most [`PASSING_MAX`].
    packets: VecDeque<(u8, Cross)>,
}

impl Passing {
    /// Something for a shard; false when there is no room, and it is lost.
    pub(super) fn push(&mut self, shard: u8, cross: Cross) -> bool {
        let (queue, most) = match cross.is_datagrams() {
            true => (&mut self.packets, PASSING_MAX),
            false => (&mut self.messages, CROSSINGS_MAX),
        };
        let has_room = queue.len() < most;
        if has_room {
            queue.push_back((shard, cross));
        }
        has_room
    }

    /// Whether a message has room.
    pub(super) fn has_room(&self) -> bool {
        self.messages.len() < CROSSINGS_MAX
    }

    pub(super) fn pop_message(&mut self) -> Option<(u8, Cross)> {
        self.messages.pop_front()
    }

    pub(super) fn pop_packet(&mut self) -> Option<(u8, Cross)> {
        self.packets.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{Offload, PublicKey};
    use crate::session::CircuitCross;

    fn packet() -> Cross {
        let (offload, bytes) = (Offload::default(), Box::from([0; 20]));
        Cross::Circuit(Box::new(CircuitCross::Return { offload, bytes }))
    }

    fn message(circuit: u64) -> Cross {
        let (neighbour, resume) = (PublicKey([1; 32]), [2; 32]);
        Cross::Circuit(Box::new(CircuitCross::Lease { circuit, neighbour, resume }))
    }

    #[test]
    fn a_flood_of_packets_loses_no_message_and_one_of_messages_no_packet() {
        let mut passing = Passing::default();
        let taken = (0..PASSING_MAX + 7).filter(|_| passing.push(1, packet())).count();
        assert_eq!(taken, PASSING_MAX);
        let taken = (0..CROSSINGS_MAX + 7).filter(|n| passing.push(1, message(*n as u64))).count();
        assert_eq!(taken, CROSSINGS_MAX);
        assert!(!passing.has_room());
        let popped = std::iter::from_fn(|| passing.pop_message());
        let circuits: Vec<u64> = popped
            .map(|(_, cross)| match cross {
                Cross::Circuit(message) => match *message {
                    CircuitCross::Lease { circuit, .. } => circuit,
                    other => panic!("{}", other.name()),
                },
                other => panic!("{other:?}"),
            })
            .collect();
        assert!(circuits.into_iter().eq(0..CROSSINGS_MAX as u64), "all, and in order");
        assert_eq!(std::iter::from_fn(|| passing.pop_packet()).count(), PASSING_MAX);
    }
}
