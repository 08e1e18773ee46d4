//! The two ends of `cargo xtask bench hostile`: what a node is pelted with, and the least that receiving the
//! same costs (docs/testing/hostile.md).
//!
//! ```text
//! hostile capture FILE PORT                      datagrams to PORT in this network namespace, until killed
//! hostile receive ADDRESS CORE                   an io_uring receiver that discards everything, until killed
//! hostile send ADDRESS CORE RATE MS SOURCES FILE SEED INVITATION NETWORK KIND…
//! ```
//! `send` sends RATE datagrams a second from sockets bound to SOURCES different ports of as many addresses
//! in 10.80.0.0/16, the kinds in equal shares, made with the randomness of SEED, and prints how many left.
#![allow(clippy::disallowed_methods, reason = "a tool at the edge: it reads the clock and waits")]

use std::fs::File;
use std::io::{IoSlice, Read, Write};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::socket::{
    AddressFamily, MsgFlags, MultiHeaders, SockFlag, SockProtocol, SockType, SockaddrStorage, recv, sendmmsg,
    socket,
};
use tornet::base::{Rng, Time, UnixMs};
use tornet::crypto::identity::{header_mask, outer_secret};
use tornet::crypto::rank::PLACE_FLOOR_BITS;
use tornet::crypto::{AeadKey, Identity, Secret, Suite, kdf};
use tornet::io::clock::Clocks;
use tornet::io::udp::Udp;
use tornet::limits::{DATAGRAM_MAX, DATAGRAM_MIN, HANDSHAKE_INIT_MIN, HEADER_SIZE, TAG_SIZE};
use tornet::session::{Config, Sessions};
use tornet::sys::affinity;
use tornet::sys::ring::{Completion, Ring};
use tornet::wire::handshake::INIT;
use tornet::wire::invite::Invite;

type Fallible<T> = Result<T, Box<dyn std::error::Error>>;

/// Datagrams made of each kind; they are sent again and again.
const EACH: usize = 4096;
/// Whole handshakes, which cost their maker as much as their reader.
const GENUINE: usize = 1024;
/// Datagrams of one system call.
const BATCH: usize = 32;
/// An IPv4 header without options and a UDP header, behind an Ethernet header.
const PAYLOAD_AT: usize = 14 + 20 + 8;

fn main() -> Fallible<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["capture", file, port] => capture(file, port.parse()?),
        ["receive", address, core] => receive(address.parse()?, core.parse()?),
        ["send", to, core, rate, ms, sources, file, seed, invitation, network, kinds @ ..] => {
            affinity::pin_to(core.parse()?)?;
            let target = Target {
                invite: invitation.parse().map_err(|e| format!("{e:?}"))?,
                network: network.as_bytes().to_vec(),
                captured: read_captured(file)?,
            };
            let ammunition = mix(&target, kinds, seed.parse()?)?;
            send(to.parse()?, rate.parse()?, ms.parse()?, sources.parse()?, &ammunition)
        }
        _ => Err("see the head of examples/hostile.rs".into()),
    }
}

// ---- capturing ----

/// Writes each datagram to `port`: its length in two bytes, then its payload.
fn capture(file: &str, port: u16) -> Fallible<()> {
    let tap = socket(AddressFamily::Packet, SockType::Raw, SockFlag::empty(), SockProtocol::EthAll)?;
    let mut out = File::create(file)?;
    let mut frame = vec![0; 1 << 16];
    println!("ready");
    loop {
        let len = recv(tap.as_raw_fd(), &mut frame, MsgFlags::empty())?;
        let Some(head) = frame[..len].first_chunk::<PAYLOAD_AT>() else { continue };
        let is_udp = head[12..15] == [8, 0, 0x45] && head[23] == 17;
        let (to, size) = (u16::from_be_bytes([head[36], head[37]]), u16::from_be_bytes([head[38], head[39]]));
        let Some(size) = usize::from(size).checked_sub(8) else { continue };
        if is_udp && to == port && size <= DATAGRAM_MAX && PAYLOAD_AT + size <= len {
            let datagram = &frame[PAYLOAD_AT..PAYLOAD_AT + size];
            out.write_all(&[&(size as u16).to_le_bytes(), datagram].concat())?;
        }
    }
}

fn read_captured(file: &str) -> Fallible<Vec<Vec<u8>>> {
    let mut bytes = Vec::new();
    File::open(file)?.read_to_end(&mut bytes)?;
    let (mut rest, mut out) = (bytes.as_slice(), Vec::new());
    while let Some((len, behind)) = rest.split_first_chunk::<2>() {
        let Some((datagram, behind)) = behind.split_at_checked(u16::from_le_bytes(*len).into()) else {
            break;
        };
        out.push(datagram.to_vec());
        rest = behind;
    }
    Ok(out)
}

// ---- receiving ----

/// The least that a shard could do: ring, socket and buffers as a shard has them, and nothing above.
fn receive(address: SocketAddr, core: usize) -> Fallible<()> {
    affinity::pin_to(core)?;
    let mut ring = Ring::new()?;
    let mut udp = Udp::bind(&[address], false)?;
    println!("ready");
    loop {
        while let Some(completion) = ring.completion() {
            if let Completion::Received { socket, result, buffer, more } = completion
                && let Some(train) = udp.received(&mut ring, socket, result, buffer, more, Time::ZERO)
            {
                ring.buffers().release(train.place.buf);
            }
        }
        udp.rearm(&mut ring, Time::ZERO);
        ring.enter(Some(Duration::MAX))?;
    }
}

// ---- what is sent ----

struct Target {
    invite: Invite,
    network: Vec<u8>,
    captured: Vec<Vec<u8>>,
}

/// All kinds in equal shares, in random order. Another seed makes handshakes that were not seen before.
fn mix(target: &Target, kinds: &[&str], seed: u64) -> Fallible<Vec<Vec<u8>>> {
    let mut rng = Rng::from_number(seed);
    let mut all = Vec::new();
    for kind in kinds {
        let made = make(target, kind, &mut rng)?;
        all.extend(made.iter().cycle().take(EACH).cloned());
    }
    for at in (1..all.len()).rev() {
        all.swap(at, rng.below(at as u64 + 1) as usize);
    }
    if all.is_empty() { Err("no kind of datagram was named".into()) } else { Ok(all) }
}

fn make(target: &Target, kind: &str, rng: &mut Rng) -> Fallible<Vec<Vec<u8>>> {
    let inits: Vec<&Vec<u8>> = target.captured.iter().filter(|one| target.is_init(one)).collect();
    if target.captured.len() < 100 || inits.is_empty() {
        return Err(format!("{} captured, {} first flights", target.captured.len(), inits.len()).into());
    }
    let any = |rng: &mut Rng| target.captured[rng.below(target.captured.len() as u64) as usize].clone();
    let init = |rng: &mut Rng| inits[rng.below(inits.len() as u64) as usize].clone();
    let size = |rng: &mut Rng| {
        HANDSHAKE_INIT_MIN + rng.below((DATAGRAM_MIN - HANDSHAKE_INIT_MIN) as u64 + 1) as usize
    };
    let one = |rng: &mut Rng| match kind {
        "empty" => Vec::new(),
        "random" => {
            let len = 1 + rng.below(DATAGRAM_MAX as u64) as usize;
            random(rng, len)
        }
        "truncated" => {
            let mut bytes = any(rng);
            bytes.truncate(1 + rng.below(bytes.len() as u64 - 1) as usize);
            bytes
        }
        "replayed" => any(rng),
        // What an observer recorded of handshakes, a bit changed.
        "flipped" => {
            let mut bytes = init(rng);
            let bit = rng.below(8 * bytes.len() as u64) as usize;
            bytes[bit / 8] ^= 1 << (bit % 8);
            bytes
        }
        "replayed-init" => init(rng),
        // By size a handshake, by who does not know the identity.
        "shaped" => {
            let len = size(rng);
            random(rng, len)
        }
        // Who knows the identity can make everything but what takes a private key: the node must do a
        // Diffie-Hellman to see that this is nothing, or ask for a cookie.
        "sealed" => {
            let len = size(rng);
            target.sealed(len, rng)
        }
        _ => Vec::new(),
    };
    match kind {
        "genuine" => target.genuine(rng),
        "empty" | "random" | "truncated" | "replayed" | "flipped" | "replayed-init" | "shaped" | "sealed" => {
            Ok((0..EACH).map(|_| one(rng)).collect())
        }
        other => Err(format!("no kind {other}").into()),
    }
}

fn random(rng: &mut Rng, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    rng.fill(&mut bytes);
    bytes
}

fn now() -> UnixMs {
    Clocks::start().wall()
}

impl Target {
    /// Whether a datagram unmasks to a first flight.
    fn is_init(&self, datagram: &[u8]) -> bool {
        let (Some(head), Some(sample)) = (datagram.first_chunk::<8>(), datagram.last_chunk::<TAG_SIZE>())
        else {
            return false;
        };
        let mask = header_mask(&self.invite.card.key).mask(sample);
        let word = |bytes: &[u8]| u64::from_le_bytes(std::array::from_fn(|at| bytes[at]));
        datagram.len() >= HANDSHAKE_INIT_MIN && word(head) ^ word(&mask) == INIT
    }

    /// A first flight whose disguise is right and whose content is noise (docs/protocol/packet.md §4).
    fn sealed(&self, len: usize, rng: &mut Rng) -> Vec<u8> {
        let mut out = random(rng, len);
        let nonce: [u8; 12] = rng.bytes();
        let mut header = [0; HEADER_SIZE];
        header[..8].copy_from_slice(&INIT.to_le_bytes());
        header[8..].copy_from_slice(&nonce[..4]);
        out[HEADER_SIZE..20].copy_from_slice(&nonce[4..]);
        // Stamped to be fresh for as long as a benchmark takes; without a cookie.
        out[20..28].copy_from_slice(&(now().0 + 20_000).to_le_bytes());
        out[28..44].fill(0);
        let key = kdf::expand(&outer_secret(&self.invite.card.key), "tornet outer handshake", b"");
        let end = len - TAG_SIZE;
        let tag = AeadKey::new(Suite::ChaCha20Poly1305, &key).seal(nonce, &header, &mut out[20..end]);
        out[end..].copy_from_slice(&tag);
        let mask = header_mask(&self.invite.card.key).mask(&tag);
        header.iter_mut().zip(mask).for_each(|(byte, mask)| *byte ^= mask);
        out[..HEADER_SIZE].copy_from_slice(&header);
        out
    }

    /// First flights without a fault, each of another node.
    fn genuine(&self, rng: &mut Rng) -> Fallible<Vec<Vec<u8>>> {
        let (started, clocks) = (now(), Clocks::start());
        let mut out = Vec::new();
        let mut identity = None;
        for index in 0..GENUINE {
            // Work for a place takes longer than the handshake: a few nodes share the load.
            if index % (GENUINE / 8) == 0 {
                identity = Some(Arc::new(mine(rng)));
            }
            let Some(identity) = &identity else { continue };
            let config = Config::new(Arc::clone(identity), &self.network, started);
            let mut sessions = Sessions::new(config, rng.fork(), clocks.now());
            let wall = UnixMs(now().0 + 20_000);
            let anywhere: SocketAddr = ([127, 0, 0, 1], 1).into();
            sessions.connect(clocks.now(), wall, &self.invite.card, &[anywhere], b"")?;
            let mut buf = [0; DATAGRAM_MAX];
            let (_, len) = sessions.poll_transmit(clocks.now(), wall, &mut buf).ok_or("no first flight")?;
            out.push(buf[..len].to_vec());
        }
        Ok(out)
    }
}

/// An identity whose place shows the network's floor of work.
fn mine(rng: &mut Rng) -> Identity {
    Identity::passing(Secret::from_bytes(rng.bytes()), 0, PLACE_FLOOR_BITS)
}

// ---- sending ----

fn send(to: SocketAddr, rate: u64, ms: u64, sources: u32, ammunition: &[Vec<u8>]) -> Fallible<()> {
    let mut sockets = Vec::new();
    for source in 0..sources {
        // Neighbouring sources lie in different /24.
        let address = [10, 80, (source % 256) as u8, 1 + (source / 256 % 250) as u8];
        let socket = UdpSocket::bind(SocketAddr::from((address, 0)))?;
        socket.connect(to)?;
        socket.set_nonblocking(true)?;
        sockets.push(socket);
    }
    let mut headers = MultiHeaders::<SockaddrStorage>::preallocate(BATCH, None);
    let slices: Vec<[IoSlice<'_>; 1]> = ammunition.iter().map(|bytes| [IoSlice::new(bytes)]).collect();
    let (began, length) = (Instant::now(), Duration::from_millis(ms));
    let (mut sent, mut tried, mut turn, mut at) = (0u64, 0u64, 0usize, 0usize);
    loop {
        let elapsed = began.elapsed();
        if elapsed >= length {
            break;
        }
        // What is due by now, but after a pause not more than 20 ms at once.
        let due = (elapsed.as_nanos() * u128::from(rate) / 1_000_000_000) as u64;
        tried = tried.max(due.saturating_sub(rate / 50));
        while tried < due {
            let count = BATCH.min((due - tried) as usize);
            at = if at + count > slices.len() { 0 } else { at };
            let batch = &slices[at..at + count];
            let socket = &sockets[turn % sockets.len()];
            let flags = MsgFlags::MSG_DONTWAIT;
            // A full queue or an ICMP message: what was not sent is not made up for.
            if let Ok(results) =
                sendmmsg(socket.as_raw_fd(), &mut headers, batch, vec![None; count], [], flags)
            {
                sent += results.count() as u64;
            }
            (at, turn, tried) = (at + count, turn + 1, tried + count as u64);
        }
        std::thread::sleep(Duration::from_micros(200));
    }
    println!("{sent}");
    Ok(())
}
