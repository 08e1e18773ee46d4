//! What whoever taps a wire sees of sessions, tunnels and circuits: bytes that look like chance at every offset, and cells of two
//! lengths.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use anyhow::{Result, ensure};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockProtocol, SockType, setsockopt, socket, sockopt::RcvBufForce,
};

use super::Case;
use super::onion::{Scene, serve};
use super::tunnel::{id_of, on, reaches};
use crate::lab::{Host, Lab, node};
use crate::stop;

pub const CASES: &[Case] = &[Case {
    name: "wire",
    about: "a tap sees no byte that is not as good as chance, and cells of two lengths, over many sessions",
    run,
}];

/// Where all nodes listen.
const PORT: u16 = 4001;
/// UDP payloads of cells (docs/protocol/onion.md §2).
const CELLS: [usize; 2] = [284, 1452];
/// Sessions and circuits that are begun anew.
const ROUNDS: usize = 4;
/// Datagrams of an offset below which a test says nothing: five for each value of a byte.
const SAMPLES_MIN: u64 = 1280;
/// χ² with 255 degrees of freedom has a mean of 255 and a deviation of 22.6: chance goes beyond this less than once in a
/// thousand runs of 3,000 offsets each.
const CHI_SQUARE_MAX: f64 = 420.0;
/// Longest UDP payload of a node.
const DATAGRAM_MAX: usize = 1472;
/// Ethernet, IPv4 without options, UDP.
const PAYLOAD_AT: usize = 14 + 20 + 8;
/// Of the friend, in the tunnel.
const FRIEND: &str = "10.9.0.2";

/// Payloads of datagrams of nodes, as they pass a host's devices.
struct Tap {
    payloads: Receiver<Vec<u8>>,
}

impl Tap {
    fn start(host: &Host) -> Result<Tap> {
        let tap: OwnedFd = host.within(|| {
            let tap =
                socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::EthAll)?;
            setsockopt(&tap, RcvBufForce, &(64 << 20))?;
            Ok(tap)
        })?;
        let (tell, payloads) = channel();
        std::thread::spawn(move || {
            let (mut file, mut frame) = (File::from(tap), vec![0; 1 << 16]);
            while let Ok(len) = file.read(&mut frame) {
                if let Some(payload) = payload(&frame[..len])
                    && tell.send(payload.to_vec()).is_err()
                {
                    break;
                }
            }
        });
        Ok(Tap { payloads })
    }
}

/// Of a datagram from or to a node.
fn payload(frame: &[u8]) -> Option<&[u8]> {
    let head = frame.first_chunk::<PAYLOAD_AT>()?;
    let port = |at: usize| u16::from_be_bytes([head[at], head[at + 1]]);
    let is_udp = head[12..15] == [8, 0, 0x45] && head[23] == 17;
    let size = usize::from(port(38)).checked_sub(8)?;
    let ours = port(34) == PORT || port(36) == PORT;
    // What the kernel cuts later, or has joined already, is longer.
    let whole = PAYLOAD_AT + size == frame.len() && size <= DATAGRAM_MAX;
    (is_udp && ours && whole).then(|| &frame[PAYLOAD_AT..])
}

/// How often each value stood at each offset, from the front and from the back.
struct Histogram {
    front: Vec<[u32; 256]>,
    back: Vec<[u32; 256]>,
}

impl Histogram {
    fn new() -> Self {
        Self { front: vec![[0; 256]; 1500], back: vec![[0; 256]; 1500] }
    }

    fn add(&mut self, bytes: &[u8]) {
        for (count, byte) in self.front.iter_mut().zip(bytes) {
            count[usize::from(*byte)] += 1;
        }
        for (count, byte) in self.back.iter_mut().zip(bytes.iter().rev()) {
            count[usize::from(*byte)] += 1;
        }
    }

    /// Offsets at which enough was seen, with their χ² against all values alike.
    fn offsets(&self) -> impl Iterator<Item = (String, f64)> {
        let of = |name: &'static str, counts: &[[u32; 256]]| {
            let enough = counts.iter().enumerate().filter_map(move |(at, count)| {
                let all: u64 = count.iter().map(|one| u64::from(*one)).sum();
                (all >= SAMPLES_MIN).then(|| (format!("{name} {at}"), chi_square(count, all)))
            });
            enough.collect::<Vec<_>>()
        };
        of("byte", &self.front).into_iter().chain(of("byte from the end", &self.back))
    }
}

fn chi_square(count: &[u32; 256], all: u64) -> f64 {
    let expected = all as f64 / 256.0;
    count.iter().map(|one| (f64::from(*one) - expected).powi(2) / expected).sum()
}

fn run(_: &mut Lab, binary: &Path) -> Result<()> {
    let mut scene = Scene::new(binary, 1)?;
    let web = scene.lab.hosts()[5].clone();
    // Else the taps would see trains as the kernel passes them on, whole.
    scene.lab.offloads(false)?;
    serve(&web, 3_000_000, Duration::ZERO)?;
    scene.open(&format!("{}/32", scene.web))?;
    // At both ends of the path: no datagram is seen twice.
    let taps = [0, 4].map(|n| Tap::start(&scene.lab.hosts()[n]));
    let taps = taps.into_iter().collect::<Result<Vec<Tap>>>()?;
    let mut seen = Histogram::new();
    let (mut cells, mut others, mut lengths) = (0u64, 0u64, std::collections::BTreeSet::new());
    for round in 0..ROUNDS {
        if round > 0 {
            // Everybody's sessions are new.
            for node in &mut scene.nodes {
                node.stop(nix::sys::signal::Signal::SIGTERM)?;
                node.start()?;
            }
            scene.open(&format!("{}/32", scene.web))?;
        }
        scene.up("3")?;
        // Handshakes and introductions have lengths of their own.
        taps.iter().flat_map(|tap| tap.payloads.try_iter()).for_each(|payload| seen.add(&payload));
        let limit = node::PATIENT;
        let came = stop::until(limit, || Ok(scene.curl(&["--max-time", "30"], limit)?.status.success()))?;
        ensure!(came, "round {round}: nothing comes");
        on(&scene.lab, &scene.nodes[0].host, &["ping", "-n", "-q", "-c", "100", "-i", "0.01", &scene.web])?;
        for payload in taps.iter().flat_map(|tap| tap.payloads.try_iter()) {
            seen.add(&payload);
            if CELLS.contains(&payload.len()) {
                cells += 1;
            } else {
                others += 1;
                lengths.insert(payload.len());
            }
        }
    }
    ensure!(cells > 10_000, "only {cells} cells were seen");
    // What sessions and the overlay say meanwhile: no length of the download's packets is among these often.
    ensure!(others * 20 < cells, "{others} datagrams of other lengths beside {cells} cells: {lengths:?}");
    looks_like_chance(&seen, "circuits")?;
    println!("        {cells} cells, {others} other datagrams of {} lengths", lengths.len());
    tunnel(&scene)
}

/// The same of a tunnel to a friend: packets of many sizes, whose plaintexts are much alike.
fn tunnel(scene: &Scene) -> Result<()> {
    let (origin, friend) = (&scene.nodes[0], &scene.nodes[1]);
    origin.run(&["tunnel", "down"], node::PROMPT)?;
    let tap = Tap::start(&friend.host)?;
    let [own, other] = [id_of(origin)?, id_of(friend)?];
    origin.run(&["tunnel", "up", "--peer", &other, "--addr", "10.9.0.1/24"], node::PROMPT)?;
    friend.run(&["tunnel", "up", "--peer", &own, "--addr", &format!("{FRIEND}/24")], node::PROMPT)?;
    reaches(origin, FRIEND)?;
    for size in ["0", "16", "56", "400", "1200"] {
        let words = ["ping", "-n", "-q", "-c", "600", "-i", "0.002", "-p", "00", "-s", size, FRIEND];
        on(&scene.lab, &origin.host, &words)?;
    }
    let (mut seen, mut count) = (Histogram::new(), 0);
    for payload in tap.payloads.try_iter() {
        seen.add(&payload);
        count += 1;
    }
    ensure!(count > 5_000, "only {count} datagrams of the tunnel were seen");
    looks_like_chance(&seen, "a tunnel")
}

fn looks_like_chance(seen: &Histogram, of: &str) -> Result<()> {
    let offsets: Vec<(String, f64)> = seen.offsets().collect();
    ensure!(offsets.len() > 500, "{of}: only {} offsets have enough datagrams", offsets.len());
    let worst = offsets.iter().map(|(_, chi)| *chi).fold(0.0, f64::max);
    let told: Vec<String> = offsets
        .iter()
        .filter(|(_, chi)| *chi > CHI_SQUARE_MAX)
        .map(|(at, chi)| format!("{at}: {chi:.0}"))
        .collect();
    ensure!(told.is_empty(), "{of}: not by chance (χ² above {CHI_SQUARE_MAX}): {}", told.join(", "));
    println!("        {of}: {} offsets, the worst χ² is {worst:.0}", offsets.len());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// SplitMix64: good enough for a histogram.
    fn noise(state: &mut u64) -> u8 {
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb).to_be_bytes()[1]
    }

    fn seen(change: impl Fn(&mut Vec<u8>)) -> Histogram {
        let (mut histogram, mut state) = (Histogram::new(), 1);
        for _ in 0..6000 {
            let mut bytes: Vec<u8> = (0..600).map(|_| noise(&mut state)).collect();
            change(&mut bytes);
            histogram.add(&bytes);
        }
        histogram
    }

    #[test]
    fn chance_passes_and_a_bit_that_is_always_the_same_does_not() {
        looks_like_chance(&seen(|_| {}), "noise").expect("it is noise");
        for at in [0, 17, 599] {
            let told = looks_like_chance(&seen(|bytes| bytes[at] |= 0x40), "a bit").expect_err("it is found");
            assert!(told.to_string().contains(&format!("byte {at}:")), "{told}");
        }
        // A length in the clear, or a counter that moves slowly.
        assert!(looks_like_chance(&seen(|bytes| bytes[598] = bytes[599] / 2), "half").is_err());
    }

    #[test]
    fn only_whole_datagrams_of_nodes_are_looked_at() {
        let mut frame = vec![0; PAYLOAD_AT + 3];
        (frame[12], frame[14], frame[23]) = (8, 0x45, 17);
        frame[34..40].copy_from_slice(&[0x0f, 0xa1, 0, 9, 0, 11]);
        assert_eq!(payload(&frame), Some(&[0, 0, 0][..]));
        assert_eq!(payload(&frame[..PAYLOAD_AT + 2]), None);
        frame[35] = 0xa2;
        assert_eq!(payload(&frame), None);
    }
}
