//! Very many sessions on one node: what each takes, what a handshake costs, and what a packet costs when keys and
//! windows are out of the cache. No network: packets are sealed before, and opened one by one.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use tornet::base::{Path, Rng, Time, UnixMs};
use tornet::crypto::{Identity, Secret};
use tornet::limits::{DATAGRAM_MAX, EXPECTED_MAX};
use tornet::session::{Config, Event, PacketKind, Received, SessionKey, Sessions};
use tornet::sys::affinity;
use x25519_dalek::{PublicKey, StaticSecret};

use super::{Fallible, Plan};

const WALL: UnixMs = UnixMs(1_700_000_000_000);
const TRAIN: usize = 16;
/// Packets sealed for one figure.
const PACKETS: usize = 96_000;
/// Few sessions, to compare with.
const FEW: usize = 10;
/// Packets that each of them gets to open: no more than a replay window remembers.
const EACH: usize = 1024;
/// Figures of which the median counts.
const RUNS: usize = 5;
/// Of so many sessions one gets a train, and half of the others a packet.
const STRIDE: usize = 31;

fn cpu() -> Fallible<f64> {
    let time = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?;
    Ok(time.tv_sec() as f64 + time.tv_nsec() as f64 / 1e9)
}

fn resident() -> Fallible<f64> {
    let text = std::fs::read_to_string("/proc/self/statm")?;
    Ok(text.split_whitespace().nth(1).ok_or("statm")?.parse::<f64>()? * 4096.0)
}

/// Identity and sessions of a node.
fn node(rng: &mut Rng) -> (Arc<Identity>, Sessions) {
    let identity = Arc::new(Identity::new(Secret::from_bytes(rng.bytes()), 0, 0));
    let config = Config { place_floor_bits: 0, ..Config::new(Arc::clone(&identity), b"bench", UnixMs(0)) };
    (identity, Sessions::new(config, rng.fork(), Time::from_millis(1000)))
}

/// The node that is measured, and the keys of its sessions.
struct Host {
    identity: Arc<Identity>,
    sessions: Sessions,
    keys: Vec<SessionKey>,
    paths: Vec<Path>,
    now: Time,
    /// CPU time of its side of all handshakes, seconds.
    handshaking: f64,
}

/// Packets of one size, and whose they are.
struct Packets {
    bytes: Vec<u8>,
    from: Vec<usize>,
}

impl Packets {
    fn with_room(count: usize, size: usize) -> Self {
        Self { bytes: Vec::with_capacity(count * size), from: Vec::with_capacity(count) }
    }
}

impl Host {
    fn new(rng: &mut Rng) -> Self {
        let (identity, sessions) = node(rng);
        let now = Time::from_millis(1000);
        Self { identity, sessions, keys: Vec::new(), paths: Vec::new(), now, handshaking: 0.0 }
    }

    /// A handshake with a new peer, which then seals `count` packets and is forgotten.
    fn meet(&mut self, rng: &mut Rng, size: usize, count: usize, into: &mut Packets) -> Fallible<()> {
        let number = self.keys.len() as u32;
        // Each in a prefix of its own, and slowly enough for nobody to be asked for a cookie.
        let theirs =
            SocketAddr::from(([10, (number >> 14) as u8, (number >> 6) as u8, (number << 2) as u8], 9));
        let ours = SocketAddr::from(([192, 0, 2, 1], 1));
        let to_us = Path { local: ours, remote: theirs };
        let to_them = Path { local: theirs, remote: ours };
        self.now += Duration::from_millis(20);
        let (now, mut buf) = (self.now, [0; DATAGRAM_MAX]);
        let (_, mut peer) = node(rng);
        let called = peer.connect(now, WALL, self.identity.card(), &[ours], b"")?;
        for _ in 0..4 {
            while let Some((_, len)) = peer.poll_transmit(now, WALL, &mut buf) {
                let began = cpu()?;
                self.sessions.handle_datagram(now, WALL, to_us, &mut buf[..len]);
                self.handshaking += cpu()? - began;
            }
            loop {
                let began = cpu()?;
                let sent = self.sessions.poll_transmit(now, WALL, &mut buf);
                self.handshaking += cpu()? - began;
                let Some((_, len)) = sent else { break };
                peer.handle_datagram(now, WALL, to_them, &mut buf[..len]);
            }
        }
        let mut key = None;
        while let Some(event) = self.sessions.poll_event() {
            if let Event::Established { session, .. } = event {
                key = Some(session);
            }
        }
        self.keys.push(key.ok_or("a handshake failed")?);
        self.paths.push(to_us);
        // The first packet confirms the session and makes its window, once.
        let first = &mut buf[..size];
        peer.seal(now, called, PacketKind::Datagram, first)?;
        self.sessions.handle_datagram(now, WALL, to_us, first);
        while self.sessions.poll_event().is_some() {}
        for _ in 0..count {
            let at = into.bytes.len();
            into.bytes.resize(at + size, 7);
            peer.seal(now, called, PacketKind::Datagram, &mut into.bytes[at..])?;
            into.from.push(number as usize);
        }
        Ok(())
    }

    /// Opens all packets, in trains of `train` whose order is random, looking ahead as a shard does or not; nanoseconds each.
    fn open(
        &mut self,
        packets: &mut Packets,
        train: usize,
        size: usize,
        ahead: bool,
        rng: &mut Rng,
    ) -> Fallible<f64> {
        let mut order: Vec<usize> = (0..packets.from.len() / train).collect();
        shuffle(&mut order, rng);
        let (began, mut opened) = (cpu()?, 0);
        for (turn, at) in order.iter().enumerate() {
            if ahead && turn % EXPECTED_MAX == 0 {
                let ahead = &order[turn..order.len().min(turn + EXPECTED_MAX)];
                self.sessions.expect(ahead.iter().map(|at| &packets.bytes[at * train * size..][..size]));
            }
            for index in at * train..(at + 1) * train {
                let path = self.paths[packets.from[index]];
                let bytes = &mut packets.bytes[index * size..(index + 1) * size];
                let received = self.sessions.handle_datagram(self.now, WALL, path, bytes);
                opened += usize::from(matches!(received, Received::Packet { .. }));
            }
        }
        if opened < packets.from.len() / train * train {
            return Err(format!("{opened} of {} were opened", packets.from.len()).into());
        }
        Ok((cpu()? - began) * 1e9 / opened as f64)
    }

    /// Seals trains for random sessions; nanoseconds a packet.
    fn seal(&mut self, sessions: usize, train: usize, size: usize, rng: &mut Rng) -> Fallible<f64> {
        let mut buffer = vec![1u8; size * 48];
        let order: Vec<usize> = (0..PACKETS / train).map(|_| rng.below(sessions as u64) as usize).collect();
        let began = cpu()?;
        for (turn, at) in order.iter().enumerate() {
            for index in 0..train {
                let slot = (turn * train + index) % 48;
                let packet = &mut buffer[slot * size..(slot + 1) * size];
                self.sessions.seal(self.now, self.keys[*at], PacketKind::Datagram, packet)?;
            }
        }
        Ok((cpu()? - began) * 1e9 / (order.len() * train) as f64)
    }
}

fn shuffle(order: &mut [usize], rng: &mut Rng) {
    for at in (1..order.len()).rev() {
        order.swap(at, rng.below(at as u64 + 1) as usize);
    }
}

/// The Diffie-Hellman operations of a responder (IK: es, ss, ee, se) and its own ephemeral key, nothing else.
fn handshake_floor() -> Fallible<f64> {
    let secret = StaticSecret::from([3; 32]);
    let mut public = PublicKey::from(&StaticSecret::from([4; 32]));
    let (began, rounds) = (cpu()?, 300);
    for round in 0..rounds {
        public = PublicKey::from(secret.diffie_hellman(&public).to_bytes());
        for _ in 0..3 {
            std::hint::black_box(secret.diffie_hellman(&public));
        }
        std::hint::black_box(PublicKey::from(&StaticSecret::from([round as u8; 32])));
    }
    Ok((cpu()? - began) / f64::from(rounds))
}

/// As a network card would leave them: near, but not in the core's own cache.
fn touch(packets: &Packets) {
    std::hint::black_box(packets.bytes.iter().step_by(64).fold(0u8, |sum, byte| sum ^ byte));
}

/// Nanoseconds a packet, opened in trains and singly, of few sessions.
fn open_few(size: usize, rng: &mut Rng) -> Fallible<[f64; 2]> {
    let mut ns = [0.0; 2];
    for (train, ns) in [TRAIN, 1].into_iter().zip(&mut ns) {
        let (mut host, mut packets) = (Host::new(rng), Packets::with_room(FEW * EACH, size));
        for _ in 0..FEW {
            host.meet(rng, size, EACH, &mut packets)?;
        }
        touch(&packets);
        *ns = host.open(&mut packets, train, size, true, rng)?;
    }
    Ok(ns)
}

fn medians(mut runs: Vec<[f64; 2]>) -> serde_json::Value {
    let mut of = |side: usize| {
        runs.sort_by(|a, b| a[side].total_cmp(&b[side]));
        runs[runs.len() / 2][side]
    };
    serde_json::json!({ "trains": of(0), "singles": of(1) })
}

/// `plan.seconds` is the number of sessions.
pub fn run(plan: &Plan) -> Fallible<()> {
    affinity::pin_to(plan.core)?;
    let (many, size, mut rng) = (plan.seconds as usize, plan.size, Rng::from_number(1));
    let floor = handshake_floor()?;
    let open_few = (0..RUNS).map(|_| open_few(size, &mut rng)).collect::<Fallible<Vec<_>>>()?;
    let mut few = Host::new(&mut rng);
    for _ in 0..FEW {
        few.meet(&mut rng, size, 0, &mut Packets::with_room(0, size))?;
    }
    let mut seal = |host: &mut Host, sessions: usize| -> Fallible<Vec<[f64; 2]>> {
        let mut one = |train| host.seal(sessions, train, size, &mut rng);
        (0..RUNS).map(|_| Ok([one(TRAIN)?, one(1)?])).collect()
    };
    let seal_few = seal(&mut few, FEW)?;

    let mut rng = Rng::from_number(2);
    let mut host = Host::new(&mut rng);
    let room = |_| Packets::with_room(FEW * EACH, size);
    // Each packet can be opened once: every second set is for opening without looking ahead.
    let mut sets: Vec<[Packets; 2]> = (0..2 * RUNS).map(|_| [0, 1].map(room)).collect();
    let before = resident()?;
    for number in 0..many {
        let set = &mut sets[number / STRIDE % (2 * RUNS)];
        let (count, packets) = match number % STRIDE {
            0 => (TRAIN, &mut set[0]),
            odd if odd % 2 == 1 => (1, &mut set[1]),
            _ => (0, &mut set[1]),
        };
        host.meet(&mut rng, size, count, packets)?;
    }
    let packets: usize = sets.iter().flatten().map(|packets| packets.bytes.len()).sum();
    let each = (resident()? - before - packets as f64) / many as f64;
    let (mut open_many, mut open_blind) = (Vec::new(), Vec::new());
    for (index, set) in sets.iter_mut().enumerate() {
        let ahead = index % 2 == 0;
        let mut ns = [0.0; 2];
        for ((packets, train), ns) in set.iter_mut().zip([TRAIN, 1]).zip(&mut ns) {
            touch(packets);
            *ns = host.open(packets, train, size, ahead, &mut rng)?;
        }
        if ahead { open_many.push(ns) } else { open_blind.push(ns) }
    }
    let line = serde_json::json!({
        "part": "sessions", "sessions": many, "few": FEW, "size": size, "bytes_per_session": each,
        "handshakes_per_core_second": many as f64 / host.handshaking,
        "handshake_floor_per_core_second": 1.0 / floor,
        "open_ns": { "few": medians(open_few), "many": medians(open_many), "many_without_looking_ahead": medians(open_blind) },
        "seal_ns": { "few": medians(seal_few), "many": medians(seal(&mut host, many)?) },
    });
    println!("{line}");
    Ok(())
}
