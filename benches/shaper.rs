//! What one packet costs in the shaper, with ten peers and with a hundred thousand; beside a heap of packets and a timer
//! per flow. `cargo xtask bench shaper` runs it.
//!
//! Every contestant does the same work: take a packet from its peer's queue, put another in, keep each peer's rate. Peers
//! have backlog always, and caps that differ by a factor of ten around 1 Mbit/s of virtual time, so that each packet is
//! waited for by itself: the dearest case. The columns of a shared line have 10 Gbit/s for all.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};
use std::hint::black_box;
use std::time::Duration;

use tornet::base::Time;
use tornet::shape::{Bucket, Class, Limits, Queues, Shaper, Slot};

const LINE: u64 = 10_000_000_000;
const PACKET: u32 = 1500;
const PEERS: [usize; 4] = [10, 1_000, 10_000, 100_000];
const ROUNDS: usize = 5;

fn main() {
    // Cargo passes `--bench`; `cargo test` runs this too, and then a glance is enough.
    let measured = std::env::args().any(|argument| argument == "--bench");
    let packets = if measured { 2_000_000 } else { 2_000 };
    println!("ns of CPU per packet (enqueue + dequeue), median of {ROUNDS} runs of {packets} packets\n");
    println!(
        "| peers | capped: wheel | shared line: rings | floors and shares | heap of packets | timer per flow |"
    );
    println!("|--:|--:|--:|--:|--:|--:|");
    for peers in PEERS {
        let columns: [&dyn Fn() -> Box<dyn Contestant>; 5] = [
            &|| Box::new(Shaped::capped(peers)),
            &|| Box::new(Shaped::sharing(peers, None)),
            &|| Box::new(Shaped::sharing(peers, Some(LINE / 2 / peers as u64))),
            &|| Box::new(Heap::new(peers)),
            &|| Box::new(Timers::new(peers)),
        ];
        let cells: Vec<String> =
            columns.iter().map(|make| format!("{:.0}", median(|| time(make().as_mut(), packets)))).collect();
        println!("| {peers} | {} |", cells.join(" | "));
    }
    let (per_queue, per_flow, per_packet) = Queues::<u32>::BYTES;
    println!(
        "\nbytes of memory: {} per peer, {per_queue} more with a queue, {per_flow} per flow, {per_packet} per packet that waits",
        Shaper::BYTES_PER_PEER
    );
}

fn median(mut run: impl FnMut() -> f64) -> f64 {
    let mut all: Vec<f64> = (0..ROUNDS).map(|_| run()).collect();
    all.sort_by(f64::total_cmp);
    all[ROUNDS / 2]
}

fn time(contestant: &mut dyn Contestant, packets: usize) -> f64 {
    contestant.send(packets / 4 + 4 * contestant.peers());
    let begin = cpu_ns();
    contestant.send(packets);
    (cpu_ns() - begin) as f64 / packets as f64
}

/// Time that this thread spent on a processor, nanoseconds: others on the machine do not count.
fn cpu_ns() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or(0)
}

trait Contestant {
    fn peers(&self) -> usize;
    fn send(&mut self, packets: usize);
}

/// 0.18 to 1.8 Mbit/s.
fn rate(peer: usize) -> u64 {
    180_000 + ((peer * 7919) % 1000) as u64 * 1_620
}

struct Shaped {
    shaper: Shaper,
    queues: Queues<u32>,
    now: Time,
    peers: usize,
}

impl Shaped {
    fn capped(peers: usize) -> Self {
        let mut shaper = Shaper::new(Time::ZERO);
        let limits = |peer| Limits { cap: Some(rate(peer)), ..Limits::default() };
        let slots = (0..peers).map(|peer| shaper.add(Time::ZERO, limits(peer)).expect("room")).collect();
        Self::fed(shaper, slots, peers)
    }

    fn sharing(peers: usize, floor: Option<u64>) -> Self {
        let mut shaper = Shaper::new(Time::ZERO);
        shaper.set_node(Time::ZERO, Some(LINE), None);
        let base = if floor.is_some() { Class::Friend } else { Class::Market };
        let limits =
            |peer: usize| Limits { weight: 1 + (peer % 20) as u16, floor, base, ..Limits::default() };
        let slots = (0..peers).map(|peer| shaper.add(Time::ZERO, limits(peer)).expect("room")).collect();
        Self::fed(shaper, slots, peers)
    }

    fn fed(mut shaper: Shaper, slots: Vec<Slot>, peers: usize) -> Self {
        let mut queues = Queues::new(2 * peers);
        for slot in slots {
            let class = shaper.limits(slot).base;
            for number in 0..2 {
                queues.push(Time::ZERO, slot, number, number, PACKET);
            }
            shaper.ready(Time::ZERO, slot, class);
        }
        Self { shaper, queues, now: Time::ZERO, peers }
    }
}

impl Contestant for Shaped {
    fn peers(&self) -> usize {
        self.peers
    }

    fn send(&mut self, packets: usize) {
        let mut sent = 0;
        while sent < packets {
            let Some(grant) = self.shaper.next(self.now) else {
                self.now = self.shaper.poll_timeout().expect("there is backlog").max(Time(self.now.0 + 1));
                continue;
            };
            // One packet per grant: the dearest case. Whole trains cost a fraction of it.
            let popped = self.queues.pop(self.now, grant.peer, Duration::from_secs(1), |_| false);
            let (item, bytes) = popped.expect("there is backlog");
            self.queues.push(self.now, grant.peer, item, black_box(item), bytes);
            self.shaper.settle(self.now, grant, u64::from(bytes), true);
            sent += 1;
        }
    }
}

/// Each packet has its time of departure, and all of them stand in one heap.
struct Heap {
    heap: BinaryHeap<Reverse<(Time, u32)>>,
    queues: Queues<u32>,
    slots: Vec<Slot>,
    rates: Vec<u64>,
    last: Vec<Time>,
}

impl Heap {
    fn new(peers: usize) -> Self {
        // The shaper gives numbers to peers; nothing else of it is used.
        let mut shaper = Shaper::new(Time::ZERO);
        let slots: Vec<Slot> =
            (0..peers).map(|_| shaper.add(Time::ZERO, Limits::default()).expect("room")).collect();
        let mut own = Self {
            heap: BinaryHeap::new(),
            queues: Queues::new(2 * peers),
            slots,
            rates: (0..peers).map(rate).collect(),
            last: vec![Time::ZERO; peers],
        };
        (0..2).for_each(|_| (0..peers).for_each(|peer| own.push(Time::ZERO, peer)));
        own
    }

    fn push(&mut self, now: Time, peer: usize) {
        let gap = Duration::from_nanos(u64::from(PACKET) * 8_000_000_000 / self.rates[peer]);
        let at = self.last[peer].max(now) + gap;
        self.last[peer] = at;
        self.queues.push(now, self.slots[peer], 0, 0, PACKET);
        self.heap.push(Reverse((at, peer as u32)));
    }
}

impl Contestant for Heap {
    fn peers(&self) -> usize {
        self.slots.len()
    }

    fn send(&mut self, packets: usize) {
        for _ in 0..packets {
            let Reverse((now, peer)) = self.heap.pop().expect("there is backlog");
            let popped = self.queues.pop(now, self.slots[peer as usize], Duration::from_secs(1), |_| false);
            black_box(popped);
            self.push(now, peer as usize);
        }
    }
}

/// Each flow has a bucket and a timer, in an ordered tree of timers.
struct Timers {
    timers: BTreeSet<(Time, u32)>,
    queues: Queues<u32>,
    slots: Vec<Slot>,
    buckets: Vec<Bucket>,
}

impl Timers {
    fn new(peers: usize) -> Self {
        let mut shaper = Shaper::new(Time::ZERO);
        let mut queues = Queues::new(2 * peers);
        let slots: Vec<Slot> =
            (0..peers).map(|_| shaper.add(Time::ZERO, Limits::default()).expect("room")).collect();
        for slot in &slots {
            (0..2).for_each(|number| _ = queues.push(Time::ZERO, *slot, 0, number, PACKET));
        }
        let buckets = (0..peers).map(|peer| Bucket::new(Time::ZERO, rate(peer), None, 2_000)).collect();
        let timers = (0..peers as u32).map(|peer| (Time::ZERO, peer)).collect();
        Self { timers, queues, slots, buckets }
    }
}

impl Contestant for Timers {
    fn peers(&self) -> usize {
        self.slots.len()
    }

    fn send(&mut self, packets: usize) {
        let mut sent = 0;
        while sent < packets {
            let (now, peer) = self.timers.pop_first().expect("there is backlog");
            let (bucket, slot) = (&mut self.buckets[peer as usize], self.slots[peer as usize]);
            bucket.fill(now);
            if bucket.holds(u64::from(PACKET)) {
                let popped = self.queues.pop(now, slot, Duration::from_secs(1), |_| false);
                black_box(popped);
                self.queues.push(now, slot, 0, 0, PACKET);
                bucket.take(now, u64::from(PACKET));
                sent += 1;
            }
            self.timers.insert((bucket.holds_at(u64::from(PACKET)).expect("a rate"), peer));
        }
    }
}
