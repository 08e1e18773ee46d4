//! Copies of packets that went into a circuit which said nothing at that time (docs/protocol/onion.md §10): when it turns out
//! to be dead they are sent on the next. The kernel that sent them would do so only after a pause that doubles each time, and
//! a second of silence would become three.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::Duration;

use crate::base::{Offload, Segmentation, Time};
use crate::limits::{HELD_MS_MAX, HELD_PACKETS_MAX, HELD_SIZE_MAX};
use crate::wire::ip::{Ip, TCP};

/// The latest few of a shard, oldest first.
#[derive(Default)]
pub struct Held {
    packets: VecDeque<Packet>,
}

struct Packet {
    since: Time,
    destination: IpAddr,
    offload: Offload,
    bytes: Box<[u8]>,
}

impl Held {
    /// Keeps a copy of a packet, if it is one that may come twice: TCP, and not a whole train of them.
    pub fn keep(&mut self, now: Time, header: &Ip, offload: Offload, bytes: &[u8]) {
        if header.protocol != TCP || offload.kind != Segmentation::None || bytes.len() > HELD_SIZE_MAX {
            return;
        }
        self.forget_old(now);
        if self.packets.len() >= HELD_PACKETS_MAX {
            self.packets.pop_front();
        }
        let (destination, bytes) = (header.destination, Box::from(bytes));
        self.packets.push_back(Packet { since: now, destination, offload, bytes });
    }

    fn forget_old(&mut self, now: Time) {
        let old = |packet: &Packet| now.since(packet.since) > Duration::from_millis(HELD_MS_MAX);
        while self.packets.front().is_some_and(old) {
            self.packets.pop_front();
        }
    }

    /// Takes those for the addresses that `wanted` names, oldest first.
    pub fn take(&mut self, now: Time, wanted: impl Fn(IpAddr) -> bool) -> Vec<(Offload, Box<[u8]>)> {
        self.forget_old(now);
        let (taken, left) = self.packets.drain(..).partition(|packet| wanted(packet.destination));
        self.packets = left;
        let taken: VecDeque<Packet> = taken;
        taken.into_iter().map(|packet| (packet.offload, packet.bytes)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::ip::UDP;

    fn header(to: u8, protocol: u8) -> Ip {
        let destination = IpAddr::from([10, 0, 0, to]);
        let source = IpAddr::from([10, 0, 0, 1]);
        Ip { source, destination, protocol, header: 20, ecn: 0, fragment: false, divisible: false }
    }

    #[test]
    fn the_latest_are_kept_for_a_while_and_given_once() {
        let mut held = Held::default();
        let at = Time::from_millis;
        for n in 0..HELD_PACKETS_MAX as u64 + 10 {
            held.keep(at(n), &header(2 + (n % 2) as u8, TCP), Offload::default(), &n.to_be_bytes());
        }
        held.keep(at(0), &header(2, UDP), Offload::default(), b"not twice");
        held.keep(at(0), &header(2, TCP), Offload::default(), &[0; HELD_SIZE_MAX + 1]);
        let now = at(HELD_PACKETS_MAX as u64 + 10);
        let got = held.take(now, |to| to == IpAddr::from([10, 0, 0, 2]));
        assert_eq!((got.len(), &*got[0].1), (HELD_PACKETS_MAX / 2, &10u64.to_be_bytes()[..]));
        assert!(held.take(now, |to| to == IpAddr::from([10, 0, 0, 2])).is_empty());
        assert!(held.take(now + Duration::from_millis(HELD_MS_MAX + 300), |_| true).is_empty(), "too old");
    }
}
