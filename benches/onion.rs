//! What a relay spends on a cell, beside one AEAD pass over the same bytes, and what an idle circuit takes of its memory:
//! `cargo bench --bench onion`.

use std::hint::black_box;
use std::time::Duration;

use criterion::{BatchSize, Criterion, Throughput, criterion_group};
use tornet::base::{PublicKey, Rng, Time};
use tornet::crypto::{AeadKey, IdentityCard, Secret, Suite};
use tornet::onion::{CircuitKey, Event, HopInfo, LinkId, Onion, Route, Verdict};
use tornet::wire::build::NextHop;
use tornet::wire::cell::{AREA_AT, Class, Inner};

/// Cells of one measured batch: fewer than a window, so that all are new.
const BATCH: usize = 512;
const PATH: usize = 3;

fn key(node: usize) -> PublicKey {
    PublicKey([node as u8 + 1; 32])
}

/// An origin (0) and hops, each with a session to the next. Messages are handed over at once.
struct Line {
    now: Time,
    nodes: Vec<Onion>,
    end: Option<CircuitKey>,
}

impl Line {
    fn new(suite: Suite) -> Self {
        let now = Time::ZERO;
        let onion = |n| Onion::new(key(n), suite, Rng::from_number(n as u64), now);
        let mut nodes: Vec<_> = (0..=PATH).map(onion).collect();
        for n in 0..PATH {
            nodes[n].link_up(now, LinkId(n as u64 + 1), true);
            nodes[n + 1].link_up(now, LinkId(n as u64), false);
        }
        Self { now, nodes, end: None }
    }

    fn open(&mut self) -> CircuitKey {
        let hop = |n: usize| {
            let card = IdentityCard { key: key(n), place_nonce: 0, rank_nonce: 0 };
            HopInfo {
                hop: NextHop { card, address: None },
                onion: self.nodes[n].onion_key().expect("it relays"),
            }
        };
        let hops = (1..=PATH).map(hop).collect();
        let route = Route { link: LinkId(1), hops, imaginary: 1, resume: [0; 32] };
        let circuit = self.nodes[0].build(self.now, &route).expect("a path");
        while (0..=PATH).any(|n| self.settle(n)) {}
        assert!(self.nodes[0].is_open(circuit));
        circuit
    }

    fn settle(&mut self, node: usize) -> bool {
        let mut room = [0; Class::Large.size()];
        let mut moved = false;
        while let Some((to, len)) = self.nodes[node].poll_transmit(&mut room) {
            let to = to.0 as usize;
            let verdict = self.nodes[to].handle_cell(self.now, LinkId(node as u64), &mut room[..len]);
            assert_eq!(verdict, Ok(Verdict::Handled));
            moved = true;
            while let Some(event) = self.nodes[to].poll_event() {
                match event {
                    Event::Relay { circuit, .. } => {
                        self.nodes[to].extend(self.now, circuit, LinkId(to as u64 + 1));
                    }
                    Event::End { circuit, .. } => {
                        self.end = Some(circuit);
                        self.nodes[to].accept(self.now, circuit);
                    }
                    _ => {}
                }
            }
        }
        moved
    }

    /// Sealed cells as they come to hop `to`, one behind another.
    fn cells(&mut self, circuit: CircuitKey, class: Class, to: usize) -> Vec<u8> {
        let mut all = vec![0; BATCH * class.size()];
        for cell in all.chunks_mut(class.size()) {
            self.nodes[0].seal(self.now, circuit, Inner::Packet, class.content_max(), cell).expect("open");
            for hop in 1..to {
                let passed = self.nodes[hop].handle_cell(self.now, LinkId(hop as u64 - 1), cell);
                assert!(matches!(passed, Ok(Verdict::Forward { .. })));
            }
        }
        all
    }
}

fn per_hop(c: &mut Criterion) {
    for (suite, name) in [(Suite::Aes256Gcm, "AES-256-GCM"), (Suite::ChaCha20Poly1305, "ChaCha20-Poly1305")] {
        for class in [Class::Large, Class::Small] {
            let mut group = c.benchmark_group(format!("{class:?} cell, {name}"));
            group.throughput(Throughput::Elements(BATCH as u64));
            group.measurement_time(Duration::from_secs(3)).sample_size(30);
            let mut line = Line::new(suite);
            let circuit = line.open();
            let aead = AeadKey::new(suite, &Secret::from_bytes([3; 32]));
            // What hop 2 opens: three layers come to it, one of them imaginary.
            let body = class.record(3) - 24;
            group.bench_function("floor: one pass", |bencher| {
                let mut cells = line.cells(circuit, class, 1);
                let mut number = 0u64;
                bencher.iter(|| {
                    for cell in cells.chunks_mut(class.size()) {
                        number += 1;
                        let mut nonce = [0; 12];
                        nonce[..8].copy_from_slice(&number.to_le_bytes());
                        black_box(aead.seal(nonce, &[0, 1], &mut cell[AREA_AT..AREA_AT + body]));
                    }
                });
            });
            // Both ends are borrowed in turn: cells are made outside of what is measured.
            let line = std::cell::RefCell::new(line);
            group.bench_function("middle hop, forward", |bencher| {
                bencher.iter_batched(
                    || line.borrow_mut().cells(circuit, class, 2),
                    |mut cells| {
                        let mut line = line.borrow_mut();
                        for cell in cells.chunks_mut(class.size()) {
                            let verdict = line.nodes[2].handle_cell(Time::ZERO, LinkId(1), cell);
                            assert!(matches!(verdict, Ok(Verdict::Forward { .. })));
                        }
                        cells
                    },
                    BatchSize::PerIteration,
                );
            });
            group.bench_function("middle hop, backward", |bencher| {
                let mut line = line.borrow_mut();
                let end = line.end.expect("it ends somewhere");
                let mut cells = vec![0; BATCH * class.size()];
                let now = line.now;
                for cell in cells.chunks_mut(class.size()) {
                    line.nodes[PATH].seal(now, end, Inner::Packet, class.content_max(), cell).expect("open");
                }
                bencher.iter_batched(
                    || cells.clone(),
                    |mut cells| {
                        for cell in cells.chunks_mut(class.size()) {
                            let verdict = line.nodes[2].handle_cell(now, LinkId(3), cell);
                            assert!(matches!(verdict, Ok(Verdict::Forward { .. })));
                        }
                        cells
                    },
                    BatchSize::PerIteration,
                );
            });
            group.bench_function("origin of 3 hops, sealing", |bencher| {
                let mut line = line.borrow_mut();
                let now = line.now;
                let mut cells = vec![0; BATCH * class.size()];
                bencher.iter(|| {
                    for cell in cells.chunks_mut(class.size()) {
                        let sealed =
                            line.nodes[0].seal(now, circuit, Inner::Packet, class.content_max(), cell);
                        sealed.expect("open");
                    }
                });
            });
            group.finish();
        }
    }
}

fn building(c: &mut Criterion) {
    let mut group = c.benchmark_group("building");
    group.sample_size(20);
    group.bench_function("a circuit of 3 hops, all four nodes together", |bencher| {
        bencher.iter_batched(|| Line::new(Suite::Aes256Gcm), |mut line| line.open(), BatchSize::PerIteration);
    });
    group.finish();
}

fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    let pages = text.split_whitespace().nth(1).and_then(|field| field.parse::<usize>().ok());
    pages.expect("resident pages") * 4096
}

/// Circuits through one relay, each of which stays: by how much the process grows.
fn memory() {
    const ROUNDS: u64 = 50;
    const EACH: usize = 200;
    const TO_END: LinkId = LinkId(1 << 32);
    let suite = Suite::Aes256Gcm;
    let onion = |n: usize, seed: u64| Onion::new(key(n), suite, Rng::from_number(seed), Time::ZERO);
    let (mut relay, mut now) = (onion(1, 0), Time::ZERO);
    relay.link_up(now, TO_END, true);
    let mut room = [0; Class::Large.size()];
    let mut before = 0;
    for round in 0..=ROUNDS {
        // Ends that are new each time hold nothing of the rounds before; neither does what is measured.
        let (mut origin, mut end) = (onion(0, round), onion(2, round));
        let from = LinkId(round);
        origin.link_up(now, LinkId(1), true);
        relay.link_up(now, from, false);
        end.link_up(now, LinkId(1), false);
        let hop = |n: usize, onion: &Onion| {
            let card = IdentityCard { key: key(n), place_nonce: 0, rank_nonce: 0 };
            HopInfo { hop: NextHop { card, address: None }, onion: onion.onion_key().expect("it relays") }
        };
        let hops = vec![hop(1, &relay), hop(2, &end)];
        let route = Route { link: LinkId(1), hops, imaginary: 1, resume: [0; 32] };
        for _ in 0..EACH {
            now += Duration::from_millis(60);
            origin.build(now, &route).expect("a path");
            let (_, len) = origin.poll_transmit(&mut room).expect("a request");
            relay.handle_cell(now, from, &mut room[..len]).expect("honest");
            let Some(Event::Relay { circuit, .. }) = relay.poll_event() else { panic!("a request") };
            relay.extend(now, circuit, TO_END);
            let (_, len) = relay.poll_transmit(&mut room).expect("a request");
            end.handle_cell(now, LinkId(1), &mut room[..len]).expect("honest");
            let Some(Event::End { circuit, .. }) = end.poll_event() else { panic!("a request") };
            end.accept(now, circuit);
            let (_, len) = end.poll_transmit(&mut room).expect("an answer");
            relay.handle_cell(now, TO_END, &mut room[..len]).expect("honest");
            relay.poll_transmit(&mut room).expect("an answer");
        }
        if round == 0 {
            before = resident();
        }
    }
    let built = relay.counters().relayed as usize - EACH;
    assert_eq!((relay.len().0, built), (built + EACH, EACH * ROUNDS as usize));
    let each = resident().saturating_sub(before) / built;
    println!("idle circuit at a relay: {each} bytes of resident memory ({built} circuits)");
}

criterion_group!(benches, per_hop, building);

fn main() {
    memory();
    benches();
    Criterion::default().configure_from_args().final_summary();
}
