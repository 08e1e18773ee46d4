//! Many chunks, few messages.

use super::*;

/// A publisher among peers that keep everything.
struct Net {
    node: Overlay,
    now: u64,
    messages: usize,
    lookups: usize,
    announced: usize,
    checked: Vec<(ChunkId, u8, u8, u16)>,
    says: fn(usize) -> Verdict,
}

impl Net {
    fn new(peers: u32) -> Self {
        let mut node = overlay(1);
        for n in 0..peers {
            node.table.admit(peer(100 + n), Time::ZERO);
        }
        let says = |_| Verdict::Kept;
        Self { node, now: 0, messages: 0, lookups: 0, announced: 0, checked: Vec::new(), says }
    }

    fn run(&mut self, millis: u64) {
        let until = self.now + millis;
        while self.now < until {
            self.now += 10;
            let now = at(self.now);
            self.node.handle_timeout(now);
            while let Some(effect) = self.node.poll_effect() {
                match effect {
                    Effect::Send { to, bytes, question: true } => self.answer(&to, &bytes),
                    Effect::Checked { chunk, hosts, kept, queries } => {
                        self.checked.push((chunk, hosts, kept, queries));
                    }
                    _ => {}
                }
            }
        }
    }

    fn answer(&mut self, to: &Peer, bytes: &[u8]) {
        let Message { number, body } = Message::parse(bytes).expect("well-formed");
        let body = match body {
            Body::Announce(announcement) => {
                self.messages += 1;
                let mut said = Vec::new();
                for (chunk, record) in announcement.records() {
                    self.announced += 1;
                    assert!(record.verify(&chunk));
                    said.push(Keeping { verdict: (self.says)(self.announced), hosts: 3, queries: 40 });
                }
                Body::Verdicts(said)
            }
            Body::Find(find) => {
                self.lookups += usize::from(!find.records);
                Body::Answer(Answer::default())
            }
            _ => Body::Here(None),
        };
        let bytes = Message { number, body }.emit();
        let seen = to.contact.addresses().next();
        self.node.handle_message(at(self.now), to, seen, &bytes).expect("well-formed");
    }
}

fn chunk(number: u32) -> ChunkId {
    ChunkId(Rng::from_number(number.into()).bytes())
}

#[test]
fn chunks_of_one_region_share_a_lookup_and_their_messages() {
    let mut net = Net::new(16);
    let count = 2_000;
    (0..count).for_each(|n| assert!(net.node.provide(at(0), chunk(n))));
    net.run(30_000);
    let mut all: Vec<ChunkId> = net.checked.iter().map(|(chunk, ..)| *chunk).collect();
    all.sort();
    all.dedup();
    assert_eq!(all.len(), count as usize, "each was looked after");
    assert_eq!(net.checked.len(), count as usize, "and once");
    assert!(net.checked.iter().all(|(_, hosts, kept, queries)| (*hosts, *queries) == (3, 40) && *kept >= 10));
    let each = net.announced as f64 / net.messages as f64;
    assert!(each > 10.0, "{each} chunks in a message");
    assert!(net.messages as u64 <= 30 * ANNOUNCEMENTS_PER_SECOND + ANNOUNCEMENTS_BURST);
    // Within the hour nothing is done again, and then everything.
    net.checked.clear();
    net.run(20_000);
    assert!(net.checked.is_empty());
    net.now += REPUBLISH_MS;
    net.run(30_000);
    assert_eq!(net.checked.len(), count as usize);
}

#[test]
fn the_budget_of_messages_is_kept() {
    let mut net = Net::new(16);
    (0..20_000).for_each(|n| assert!(net.node.provide(at(0), chunk(n))));
    net.run(2_000);
    let before = net.messages;
    net.run(5_000);
    let rate = (net.messages - before) as u64 / 5;
    assert!(rate <= ANNOUNCEMENTS_PER_SECOND + 32, "{rate} a second");
    assert!(rate > ANNOUNCEMENTS_PER_SECOND / 2, "and used: {rate} a second");
    assert!(net.node.exchanges.len() < EXCHANGES_MAX);
}

#[test]
fn a_chunk_that_nobody_kept_is_offered_again_soon() {
    let mut net = Net::new(16);
    net.says = |_| Verdict::Full;
    net.node.provide(at(0), chunk(1));
    net.run(5_000);
    assert_eq!(net.checked.len(), 1);
    assert_eq!(net.checked[0].2, 0);
    net.says = |_| Verdict::Kept;
    net.run(REFUSED_RETRY_MS + 5_000);
    assert!(net.checked.len() == 2 && net.checked[1].2 >= 10, "{:?}", net.checked);
}

#[test]
fn hundreds_of_keepers_overflow_no_count() {
    let mut node = overlay(1);
    let keepers: Vec<Peer> = (0..REGION_NODES_MAX as u32 + 50).map(peer).collect();
    node.provide(at(0), chunk(1));
    // A network so small that all of it is the region.
    assert!(node.network_size() < REGION_NODES as u64);
    node.announce(at(0), 0, vec![chunk(1)], &keepers);
    let mut asked = Vec::new();
    while let Some(effect) = node.poll_effect() {
        if let Effect::Send { to, bytes, question: true } = effect {
            asked.push((to, u32::from_le_bytes(bytes[1..5].try_into().expect("four bytes"))));
        }
    }
    assert_eq!(asked.len(), REGION_NODES_MAX);
    for (to, number) in asked {
        let said = Body::Verdicts(vec![Keeping { verdict: Verdict::Kept, hosts: 255, queries: 1 }]);
        let bytes = Message { number, body: said }.emit();
        node.handle_message(at(10), &to, to.contact.addresses().next(), &bytes).expect("well-formed");
    }
    let health = node.health(&chunk(1)).expect("it is published");
    assert_eq!((health.kept, health.waiting, health.hosts), (255, 0, 255));
}
