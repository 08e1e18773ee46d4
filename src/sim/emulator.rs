//! The emulator for real processes, without its devices: packets that lie in buffers while the link model
//! has them on the way.
//!
//! A packet's path: the driver reads it into [`Emulator::room`] and says so to [`Emulator::arrived`]; the
//! link says when it arrives, the wheel keeps the buffer's number until then; [`Emulator::depart`] hands the
//! bytes out and takes the buffer back. No byte is copied but for a duplicate, none is allocated on the way.

use std::time::Duration;

use crate::base::{Rng, Time};
use crate::limits::{EMULATOR_PACKET_SIZE_MAX, EMULATOR_PACKETS_MAX};
use crate::sim::damage::{flip, mark, payload_length};
use crate::sim::link::{Arrival, Link, LinkConfig, Lost};
use crate::sim::wheel::Wheel;

/// What became of the packets of one direction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Packets that came in, and their bytes.
    pub received: u64,
    /// Bytes of these.
    pub received_bytes: u64,
    /// Packets that left at the far end, duplicates among them.
    pub passed: u64,
    /// Bytes of these.
    pub passed_bytes: u64,
    /// Lost since the link was down.
    pub down: u64,
    /// Lost since they were too long.
    pub mtu: u64,
    /// Lost since the link's queue was full.
    pub queue: u64,
    /// Lost by noise.
    pub noise: u64,
    /// Lost since the emulator's own buffers were all in use: a limit of the emulator, not of the link.
    pub full: u64,
    /// Delivered twice.
    pub duplicated: u64,
    /// Delivered with a bit flipped.
    pub flipped: u64,
    /// Should have been delivered with a bit flipped, and carried no UDP payload.
    pub spared: u64,
    /// Marked "congestion experienced".
    pub marked: u64,
    /// How long the link had packets on the way, by its own clock, since it was last changed: the least, once there
    /// was one.
    pub delay_min: Option<Duration>,
    /// The most.
    pub delay_max: Duration,
}

/// A packet on the way.
#[derive(Debug)]
struct Flight {
    direction: usize,
    buffer: u32,
    len: usize,
}

/// A packet at the far end.
#[derive(Debug)]
pub struct Departure<'a> {
    /// The direction that it travelled in.
    pub direction: usize,
    /// When it is to leave.
    pub at: Time,
    /// It.
    pub bytes: &'a [u8],
}

/// Any number of directions, each with its own link, and the packets in them.
pub struct Emulator {
    directions: Vec<(Link, Counts)>,
    wheel: Wheel<Flight>,
    /// Every buffer, one behind the other. Zeroed memory that nobody touched costs nothing.
    memory: Vec<u8>,
    free: Vec<u32>,
    /// The buffer that the next packet is read into; never on the way.
    room: u32,
}

impl Emulator {
    /// Links with these configurations; what happens on each follows from `rng`.
    pub fn new(links: impl IntoIterator<Item = LinkConfig>, mut rng: Rng) -> Self {
        let directions = links.into_iter().map(|config| (Link::new(config, rng.fork()), Counts::default()));
        Self {
            directions: directions.collect(),
            wheel: Wheel::new(EMULATOR_PACKETS_MAX, EMULATOR_PACKETS_MAX * EMULATOR_PACKET_SIZE_MAX),
            memory: vec![0; (EMULATOR_PACKETS_MAX + 1) * EMULATOR_PACKET_SIZE_MAX],
            // The last one given back is the next in use: as few as possible are touched.
            free: (1..=EMULATOR_PACKETS_MAX as u32).rev().collect(),
            room: 0,
        }
    }

    /// A direction's link as it is.
    pub fn link(&self, direction: usize) -> &LinkConfig {
        &self.directions[direction].0.config
    }

    /// The same, to be changed: what comes in from now on finds the changed one, what is on the way arrives.
    pub fn link_mut(&mut self, direction: usize) -> &mut LinkConfig {
        let (link, counts) = &mut self.directions[direction];
        (counts.delay_min, counts.delay_max) = (None, Duration::ZERO);
        &mut link.config
    }

    /// What became of a direction's packets.
    pub fn counts(&self, direction: usize) -> &Counts {
        &self.directions[direction].1
    }

    /// Packets on the way.
    pub fn on_the_way(&self) -> usize {
        self.wheel.len()
    }

    /// Where to read the next packet into.
    pub fn room(&mut self) -> &mut [u8] {
        bytes_of(&mut self.memory, self.room)
    }

    /// A packet of `len` bytes lies in the room.
    pub fn arrived(&mut self, direction: usize, now: Time, len: usize) {
        let (link, counts) = &mut self.directions[direction];
        counts.received += 1;
        counts.received_bytes += len as u64;
        match link.pass(now, payload_length(len)) {
            Err(Lost::Down) => counts.down += 1,
            Err(Lost::Mtu) => counts.mtu += 1,
            Err(Lost::Queue) => counts.queue += 1,
            Err(Lost::Noise) => counts.noise += 1,
            Ok(passage) => {
                if passage.marked {
                    let packet = &mut bytes_of(&mut self.memory, self.room)[..len];
                    counts.marked += u64::from(mark(packet));
                }
                let delay = passage.arrival.at.since(now);
                counts.delay_min = Some(counts.delay_min.map_or(delay, |least| least.min(delay)));
                counts.delay_max = counts.delay_max.max(delay);
                let Some(original) = self.send_off(direction, passage.arrival.at, len) else { return };
                if let Some(copy) = passage.copy {
                    self.memory.copy_within(start(original)..start(original) + len, start(self.room));
                    if let Some(buffer) = self.send_off(direction, copy.at, len) {
                        self.directions[direction].1.duplicated += 1;
                        self.damage(direction, buffer, copy, len);
                    }
                }
                // After the copy was made: each has its own.
                self.damage(direction, original, passage.arrival, len);
            }
        }
    }

    /// Sends what lies in the room on its way, and takes a free buffer as room; the buffer that it lies in.
    fn send_off(&mut self, direction: usize, at: Time, len: usize) -> Option<u32> {
        let buffer = self.room;
        let next = self.free.pop();
        let flies = next.is_some() && self.wheel.insert(at, len, Flight { direction, buffer, len }).is_ok();
        match next {
            Some(next) if flies => self.room = next,
            _ => {
                self.free.extend(next);
                self.directions[direction].1.full += 1;
            }
        }
        flies.then_some(buffer)
    }

    fn damage(&mut self, direction: usize, buffer: u32, arrival: Arrival, len: usize) {
        let Some(bit) = arrival.flip else { return };
        let counts = &mut self.directions[direction].1;
        let packet = &mut bytes_of(&mut self.memory, buffer)[..len];
        *if flip(packet, bit) { &mut counts.flipped } else { &mut counts.spared } += 1;
    }

    /// When to call [`Emulator::depart`] next, at the latest.
    pub fn next(&self) -> Option<Time> {
        self.wheel.next()
    }

    /// Gives `deliver` the first packet whose time has come; `false` when there is none.
    pub fn depart(&mut self, now: Time, deliver: impl FnOnce(Departure)) -> bool {
        let Some((at, flight)) = self.wheel.pop(now) else { return false };
        let counts = &mut self.directions[flight.direction].1;
        counts.passed += 1;
        counts.passed_bytes += flight.len as u64;
        let bytes = &bytes_of(&mut self.memory, flight.buffer)[..flight.len];
        deliver(Departure { direction: flight.direction, at, bytes });
        self.free.push(flight.buffer);
        true
    }
}

fn start(buffer: u32) -> usize {
    buffer as usize * EMULATOR_PACKET_SIZE_MAX
}

fn bytes_of(memory: &mut [u8], buffer: u32) -> &mut [u8] {
    &mut memory[start(buffer)..][..EMULATOR_PACKET_SIZE_MAX]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use proptest::prelude::{ProptestConfig, any, prop_assert, prop_assert_eq, proptest};

    use super::*;

    const HEADERS: usize = 28;

    /// A UDP packet without a checksum whose payload is its number, again and again.
    fn packet(number: u32, words: usize) -> Vec<u8> {
        let mut bytes = vec![0; HEADERS];
        (bytes[0], bytes[9]) = (0x45, 17);
        (0..words).for_each(|_| bytes.extend(number.to_be_bytes()));
        bytes
    }

    fn send(emulator: &mut Emulator, direction: usize, now: Time, packet: &[u8]) {
        emulator.room()[..packet.len()].copy_from_slice(packet);
        emulator.arrived(direction, now, packet.len());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn every_packet_is_delivered_or_counted_as_lost(seed in any::<u64>()) {
            let faults = "rate=80mbit,queue=20k,delay=5ms,jitter=2ms,loss=5%,reorder=10%/4ms,duplicate=10%,corrupt=20%";
            let links = [faults.parse().unwrap(), "delay=1ms,mtu=600".parse().unwrap()];
            let mut emulator = Emulator::new(links, Rng::from_number(seed));
            let mut sent = BTreeMap::new();
            let mut counted = [Counts::default(); 2];
            let mut damaged = [0; 2];
            let mut rng = Rng::from_number(!seed);
            let (mut now, mut last) = (Time::from_millis(1000), Time::ZERO);
            for number in 0..3000 {
                if number < 2000 {
                    let direction = rng.below(2) as usize;
                    let packet = packet(number, 1 + rng.below(300) as usize);
                    send(&mut emulator, direction, now, &packet);
                    counted[direction].received += 1;
                    counted[direction].received_bytes += packet.len() as u64;
                    sent.insert((direction, number), packet);
                }
                now += Duration::from_nanos(rng.below(200_000));
                while emulator.depart(now, |departure| {
                    assert!(last <= departure.at && departure.at <= now);
                    last = departure.at;
                    let direction = departure.direction;
                    let bits = |packet: &Vec<u8>| -> Option<u32> {
                        let same = packet.len() == departure.bytes.len();
                        same.then(|| packet.iter().zip(departure.bytes).map(|(a, b)| (a ^ b).count_ones()).sum())
                    };
                    let close = sent.range((direction, 0)..=(direction, u32::MAX)).filter_map(|(_, p)| bits(p)).min();
                    assert!(close.is_some_and(|bits| bits <= 1), "what arrives was sent");
                    damaged[direction] += u64::from(close.unwrap());
                    counted[direction].passed += 1;
                    counted[direction].passed_bytes += departure.bytes.len() as u64;
                }) {}
            }
            prop_assert_eq!((emulator.on_the_way(), emulator.next()), (0, None));
            prop_assert_eq!(emulator.free.len(), EMULATOR_PACKETS_MAX, "every buffer came back");
            for direction in 0..2 {
                let counts = *emulator.counts(direction);
                let lost = counts.down + counts.mtu + counts.queue + counts.noise + counts.full;
                prop_assert_eq!(counts.received + counts.duplicated, counts.passed + lost);
                prop_assert_eq!(counts.flipped, damaged[direction]);
                prop_assert_eq!((counts.received, counts.received_bytes), (counted[direction].received, counted[direction].received_bytes));
                prop_assert_eq!((counts.passed, counts.passed_bytes), (counted[direction].passed, counted[direction].passed_bytes));
                let seen = if direction == 0 { counts.noise.min(counts.flipped) } else { counts.mtu };
                prop_assert!(seen > 0);
            }
        }
    }

    #[test]
    fn a_link_changes_for_what_comes_and_not_for_what_is_on_the_way() {
        let mut emulator = Emulator::new(["delay=10ms".parse().unwrap()], Rng::from_number(1));
        let start = Time::from_millis(1000);
        send(&mut emulator, 0, start, &packet(1, 1));
        emulator.link_mut(0).change("down").unwrap();
        send(&mut emulator, 0, start, &packet(2, 1));
        emulator.link_mut(0).change("up,delay=1ms").unwrap();
        send(&mut emulator, 0, start, &packet(3, 1));
        let mut seen = Vec::new();
        for millis in [1001, 1009, 1010] {
            while emulator
                .depart(Time::from_millis(millis), |departure| seen.push((millis, departure.bytes[31])))
            {
            }
        }
        // Not overtaking: the third waits for the first.
        assert_eq!(seen, [(1010, 1), (1010, 3)]);
        let counts = emulator.counts(0);
        assert_eq!((counts.down, counts.passed), (1, 2));
        // Of what came since the last change; the third was kept back by the first.
        let ten = Duration::from_millis(10);
        assert_eq!((counts.delay_min, counts.delay_max), (Some(ten), ten));
    }

    #[test]
    fn no_room_is_a_loss_of_its_own() {
        let mut emulator = Emulator::new(["delay=1s,duplicate=100%".parse().unwrap()], Rng::from_number(1));
        for number in 0..EMULATOR_PACKETS_MAX as u32 {
            send(&mut emulator, 0, Time::ZERO, &packet(number, 1));
        }
        assert_eq!(emulator.on_the_way(), EMULATOR_PACKETS_MAX);
        assert_eq!(emulator.counts(0).full, EMULATOR_PACKETS_MAX as u64 / 2);
        assert!(emulator.depart(Time::from_millis(1000), |departure| assert_eq!(departure.bytes[31], 0)));
        send(&mut emulator, 0, Time::ZERO, &packet(7, 1));
        assert_eq!(emulator.on_the_way(), EMULATOR_PACKETS_MAX);
    }
}
