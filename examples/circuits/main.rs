//! The neighbours of a relay in `cargo xtask bench circuits`: origins with very many circuits through it, the hop in which they
//! end, and one neighbour that sends what nobody should.
//!
//! ```text
//! circuits INVITATION NETWORK COUNT RATE MS KIND…
//! ```
//! Prints its own invitation, which the relay is to take for a friend's (`friend add`), reads a line, builds COUNT circuits through
//! the relay, and prints a line of JSON. Then, for "nothing" and for each KIND, it reads a line, sends RATE cells a second
//! through one honest circuit for MS milliseconds and, beside them, as many of that kind from another neighbour, and prints what
//! came through.
#![allow(clippy::disallowed_methods, reason = "a tool at the edge: it reads the clock and waits")]

mod neighbour;

use std::io::{BufRead, Write};
use std::time::{Duration, Instant};

use serde_json::json;
use tornet::base::Rng;
use tornet::io::clock::Clocks;
use tornet::onion::{CircuitKey, HopInfo, LinkId, Route};
use tornet::wire::build::{NextHop, REQUEST_SIZE};
use tornet::wire::cell::{Class, Head, Inner, MESSAGE_AT};
use tornet::wire::invite::Invite;

use neighbour::{Neighbour, RELAY};

type Fallible<T> = Result<T, Box<dyn std::error::Error>>;

/// Circuits that one neighbour has built here; its own bound is 256.
const EACH: usize = 240;
/// Circuits of one neighbour that are being built at once.
const BESIDE: usize = 8;
/// Hops in which circuits end.
const ENDS: usize = 12;
/// A neighbour asks for so many a second at most, fewer than the relay takes of one.
const BUILDS_PER_SECOND: u32 = 18;
/// How long building may take beyond what the rates say.
const PATIENCE: Duration = Duration::from_secs(60);

fn main() -> Fallible<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let [invitation, network, count, rate, ms, kinds @ ..] = words.as_slice() else {
        return Err("see the head of examples/circuits/main.rs".into());
    };
    let relay: Invite = invitation.parse().map_err(|bad| format!("{bad:?}"))?;
    let count: usize = count.parse()?;
    let mut crowd = Crowd::new(&relay, network, count.div_ceil(EACH).max(2))?;
    let invite = Invite {
        bridge: None,
        network: relay.network,
        card: crowd.origins[0].card(),
        addresses: crowd.origins[0].addresses(),
    };
    say(&invite.to_string())?;
    hear()?;
    crowd.meet(&relay)?;
    let took = crowd.build(count)?;
    let line = json!({ "stage": "built", "circuits": crowd.open(), "seconds": took.as_secs_f64() });
    say(&line.to_string())?;
    let (rate, length) = (rate.parse()?, Duration::from_millis(ms.parse()?));
    for kind in ["nothing"].iter().chain(kinds) {
        hear()?;
        let (sent, came, hostile, passed) = crowd.flow(kind, rate, length)?;
        let line = json!({
            "stage": kind, "sent": sent, "came": came, "hostile": hostile, "passed": passed, "circuits": crowd.open(),
        });
        say(&line.to_string())?;
    }
    Ok(())
}

fn say(line: &str) -> Fallible<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    Ok(out.flush()?)
}

fn hear() -> Fallible<()> {
    let mut line = String::new();
    if std::io::stdin().lock().read_line(&mut line)? == 0 {
        return Err("nobody listens any more".into());
    }
    Ok(())
}

/// All neighbours of the relay.
struct Crowd {
    clocks: Clocks,
    rng: Rng,
    /// The first is honest, the last is not.
    origins: Vec<Neighbour>,
    /// Each takes no more builds of the relay than of any neighbour, so there are several.
    ends: Vec<Neighbour>,
    routes: Vec<Route>,
}

impl Crowd {
    fn new(relay: &Invite, network: &str, origins: usize) -> Fallible<Self> {
        let (clocks, mut rng) = (Clocks::start(), Rng::from_number(std::process::id().into()));
        let to = *relay.addresses.first().ok_or("the invitation names no address")?;
        let mut new = || Neighbour::new(network.as_bytes(), to, &mut rng, clocks);
        let ends = (0..ENDS).map(|_| new()).collect::<Fallible<Vec<_>>>()?;
        let origins = (0..origins).map(|_| new()).collect::<Fallible<Vec<_>>>()?;
        Ok(Self { clocks, rng, origins, ends, routes: Vec::new() })
    }

    fn open(&self) -> usize {
        self.origins.iter().map(|origin| origin.open.len()).sum()
    }

    /// Everybody does what is to be done; whether anything came.
    fn turn(&mut self) -> Fallible<bool> {
        let mut moved = false;
        for one in self.ends.iter_mut().chain(&mut self.origins) {
            moved |= one.turn(self.clocks)?;
        }
        Ok(moved)
    }

    fn until(&mut self, limit: Duration, mut done: impl FnMut(&mut Self) -> Fallible<bool>) -> Fallible<()> {
        let began = Instant::now();
        while !done(self)? {
            if began.elapsed() > limit {
                return Err(format!("not within {limit:?}: {} circuits are open", self.open()).into());
            }
            if !self.turn()? {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        Ok(())
    }

    /// Sessions, and what the relay says of itself to its friend.
    fn meet(&mut self, relay: &Invite) -> Fallible<()> {
        // Its friend the relay calls itself.
        for origin in &mut self.origins[1..] {
            origin.call(self.clocks, relay)?;
        }
        self.until(PATIENCE, |crowd| {
            let all = crowd.origins.iter().all(|origin| origin.session.is_some());
            Ok(all && crowd.origins[0].relay().is_some())
        })?;
        let told = self.origins[0].relay().ok_or("the relay names no onion key")?;
        let first = HopInfo { hop: NextHop { card: relay.card, address: None }, onion: told.onion };
        for end in &self.ends {
            let onion = end.onion.onion_key().ok_or("an end has a key")?;
            let at = end.addresses().first().copied();
            let last = HopInfo { hop: NextHop { card: end.card(), address: at }, onion };
            self.routes.push(Route { link: RELAY, hops: vec![first, last], imaginary: 1, resume: [7; 32] });
        }
        Ok(())
    }

    /// Builds circuits until there are so many.
    fn build(&mut self, count: usize) -> Fallible<Duration> {
        let (began, clocks) = (Instant::now(), self.clocks);
        let routes = self.routes.clone();
        let mut turn = 0;
        let slowest = PATIENCE + Duration::from_secs((count as u64).div_ceil(100));
        let most = count.div_ceil(self.origins.len());
        self.until(slowest, |crowd| {
            let mut left = count.saturating_sub(crowd.open());
            for origin in &mut crowd.origins {
                let fits = origin.open.len() + origin.building.len() < most && origin.building.len() < BESIDE;
                if left > 0 && fits && origin.may_build(BUILDS_PER_SECOND) {
                    let circuit = origin.onion.build(clocks.now(), &routes[turn % ENDS])?;
                    turn += 1;
                    origin.building.insert(circuit);
                }
                left = left.saturating_sub(origin.building.len());
            }
            Ok(crowd.open() >= count)
        })?;
        Ok(began.elapsed())
    }

    /// Honest cells, and hostile ones beside them: how many were sent and came, how many hostile ones were sent, and how much
    /// of those came out at the end.
    fn flow(&mut self, kind: &str, rate: u64, length: Duration) -> Fallible<(u64, u64, u64, u64)> {
        let honest = *self.origins[0].open.first().ok_or("no circuit is open")?;
        let mut hostile = Hostile::new(kind)?;
        let came = |crowd: &Self| {
            crowd.ends.iter().fold((0, 0), |sum, end| (sum.0 + end.marked, sum.1 + end.unmarked))
        };
        let before = came(self);
        let (began, mut sent, mut spent) = (Instant::now(), 0u64, 0u64);
        while began.elapsed() < length {
            let due = (began.elapsed().as_nanos() * u128::from(rate) / 1_000_000_000) as u64;
            for _ in 0..due.saturating_sub(sent).min(64) {
                self.origins[0].send_marked(self.clocks, honest)?;
                sent += 1;
                let other = self.origins.last_mut().ok_or("no other neighbour")?;
                spent += u64::from(hostile.send(other, self.clocks, &mut self.rng, self.routes.first())?);
            }
            if !self.turn()? {
                std::thread::sleep(Duration::from_micros(100));
            }
        }
        // What is on its way.
        let last = Instant::now();
        self.until(PATIENCE, |_| Ok(last.elapsed() > Duration::from_millis(300)))?;
        let after = came(self);
        Ok((sent, after.0 - before.0, spent, after.1 - before.1))
    }
}

/// A neighbour's ways to do harm with cells.
enum Hostile {
    Nothing,
    /// The same cell, sealed once, again and again.
    Replayed(Vec<u8>),
    /// A cell with one bit changed; each ends its circuit.
    Flipped(usize),
    /// A large cell cut to the small class; each ends its circuit.
    Cut(usize),
    /// Cells of circuits that there never were.
    Unknown,
    /// Requests for circuits that are for other keys.
    Foreign,
    /// Requests like an honest origin's, as many as go out.
    Builds,
}

impl Hostile {
    fn new(kind: &str) -> Fallible<Self> {
        Ok(match kind {
            "nothing" => Self::Nothing,
            "replayed" => Self::Replayed(Vec::new()),
            // Some circuits are left for those who come after.
            "flipped" => Self::Flipped(EACH / 3),
            "cut" => Self::Cut(EACH / 3),
            "unknown" => Self::Unknown,
            "foreign" => Self::Foreign,
            "builds" => Self::Builds,
            other => return Err(format!("no kind {other}").into()),
        })
    }

    /// Sends one; false when there is nothing to make it of.
    fn send(
        &mut self,
        by: &mut Neighbour,
        clocks: Clocks,
        rng: &mut Rng,
        route: Option<&Route>,
    ) -> Fallible<bool> {
        let sealed = |by: &mut Neighbour, circuit: CircuitKey| -> Fallible<Vec<u8>> {
            let mut cell = vec![0; Class::Large.size()];
            by.onion.seal(clocks.now(), circuit, Inner::Packet, 1000, &mut cell)?;
            Ok(cell)
        };
        let noise = |rng: &mut Rng| {
            let mut cell = vec![0; Class::Large.size()];
            rng.fill(&mut cell);
            cell
        };
        let cell = match self {
            Self::Nothing => return Ok(false),
            Self::Replayed(cell) => {
                if cell.is_empty() {
                    let Some(circuit) = by.open.first().copied() else { return Ok(false) };
                    *cell = sealed(by, circuit)?;
                }
                cell.clone()
            }
            Self::Flipped(0) | Self::Cut(0) => return Ok(false),
            Self::Flipped(left) => {
                *left -= 1;
                let Some(circuit) = by.open.pop_first() else { return Ok(false) };
                let mut cell = sealed(by, circuit)?;
                cell[100] ^= 1;
                cell
            }
            Self::Cut(left) => {
                *left -= 1;
                let Some(circuit) = by.open.pop_first() else { return Ok(false) };
                let mut cell = sealed(by, circuit)?;
                cell.truncate(Class::Small.size());
                cell
            }
            Self::Unknown => {
                let mut cell = noise(rng);
                // Zero is the neighbour's own.
                cell[0] |= 1;
                cell
            }
            Self::Foreign => {
                let mut cell = noise(rng);
                let circuit = (rng.next_u64() as u32 & !1).max(2);
                Head::Build { circuit }.emit(&mut cell);
                // A key's number that there is, and everything else random.
                cell[MESSAGE_AT] = route.map_or(0, |route| route.hops[0].onion.number);
                debug_assert!(cell.len() >= MESSAGE_AT + REQUEST_SIZE);
                cell
            }
            Self::Builds => {
                let Some(route) = route else { return Ok(false) };
                if by.building.len() >= 2 * BESIDE {
                    return Ok(false);
                }
                let Ok(circuit) = by.onion.build(clocks.now(), route) else { return Ok(false) };
                by.building.insert(circuit);
                return Ok(true);
            }
        };
        by.send_cell(clocks, LinkId(RELAY.0), &cell)?;
        Ok(true)
    }
}
