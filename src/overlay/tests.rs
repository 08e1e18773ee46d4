//! Two and three nodes by hand; thousands are in `sim::overlay`.

mod bounds;
mod collecting;
mod hearsay;
mod keeping;
mod publishing;
mod tables;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;

use proptest::prelude::*;

use super::bucket::Admission;
use super::place::{distance, shared_bits};
use super::table::Table;
use super::types::{Peer, ms};
use super::*;
use crate::base::{PublicKey, Rng, UnixMs};
use crate::crypto::IdentityCard;
use crate::crypto::kdf::Secret;
use crate::limits::*;
use crate::wire::overlay::{Announcement, Answer, Body, Find, Keeping, Message, Verdict};

fn at(millis: u64) -> Moment {
    Moment { now: Time::from_millis(millis), wall: UnixMs(1_800_000_000_000 + millis) }
}

fn identity(seed: u8) -> Arc<Identity> {
    Arc::new(Identity::new(Secret::from_bytes([seed; 32]), 0, 0))
}

fn overlay(seed: u8) -> Overlay {
    let config = Config { place_floor: 0, remembered: 64, ..Config::default() };
    let address = SocketAddr::from(([100u8.wrapping_add(seed), 51, 0, 1], 4600));
    Overlay::new(config, identity(seed), [address], Time::ZERO, Rng::from_number(seed.into()))
}

/// A peer that is nobody, at an address of its own network.
fn peer(number: u32) -> Peer {
    let mut key = [0; 32];
    key[..4].copy_from_slice(&number.to_le_bytes());
    let card = IdentityCard { key: PublicKey(key), place_nonce: 0, rank_nonce: 0 };
    let ip = std::net::Ipv4Addr::from_bits(0x1000_0000 + number.wrapping_mul(0x9e37) % 0x4000_0000);
    Peer::of(Contact::new(card, [SocketAddr::from((ip, 4600))]))
}

/// Some overlays that hear each other at once.
struct Group {
    nodes: Vec<Overlay>,
    now: u64,
    seen: Vec<(usize, Effect)>,
}

impl Group {
    fn new(count: u8) -> Self {
        Self { nodes: (1..=count).map(overlay).collect(), now: 0, seen: Vec::new() }
    }

    fn settle(&mut self) {
        let mut wires: VecDeque<(usize, usize, Vec<u8>)> = VecDeque::new();
        loop {
            for from in 0..self.nodes.len() {
                while let Some(effect) = self.nodes[from].poll_effect() {
                    match effect {
                        Effect::Send { to, bytes, .. } => {
                            let to = self.nodes.iter().position(|node| node.own.id == to.id);
                            to.into_iter().for_each(|to| wires.push_back((from, to, bytes.clone())));
                        }
                        other => self.seen.push((from, other)),
                    }
                }
            }
            let Some((from, to, bytes)) = wires.pop_front() else { break };
            let sender = *self.nodes[from].own();
            let address = sender.contact.addresses().next();
            self.nodes[to].handle_message(at(self.now), &sender, address, &bytes).expect("well-formed");
        }
    }

    fn run(&mut self, millis: u64) {
        for _ in 0..millis / 100 {
            self.now += 100;
            for node in 0..self.nodes.len() {
                if self.nodes[node].poll_timeout() <= at(self.now).now {
                    self.nodes[node].handle_timeout(at(self.now));
                }
            }
            self.settle();
        }
    }

    fn meet(&mut self, one: usize, other: usize) {
        let peer = *self.nodes[other].own();
        self.nodes[one].handle_up(at(self.now), &peer, peer.contact.addresses().next());
        self.settle();
    }
}

#[test]
fn whoever_is_met_is_probed_and_says_where_it_sees_us() {
    let mut group = Group::new(2);
    group.meet(0, 1);
    let other = group.nodes[1].own().id;
    assert_eq!(group.nodes[0].table().len(), 1);
    assert!(group.nodes[0].peers().get(&other).is_some_and(|known| known.answered == 1));
    let own = group.nodes[0].own().contact.addresses().next().expect("an address");
    assert!(group.seen.contains(&(0, Effect::Seen { by: other, address: own })));
    // The one that was asked probes back in its turn.
    group.run(5_000);
    assert_eq!(group.nodes[1].table().len(), 1);
}

#[test]
fn a_chain_of_friends_becomes_a_network_and_chunks_are_found() {
    let mut group = Group::new(12);
    (1..12).for_each(|node| group.meet(node, node - 1));
    group.run(60_000);
    for node in &group.nodes {
        assert_eq!(node.table().len(), 11, "all know all");
    }
    let chunk = ChunkId([0xcc; 20]);
    assert!(group.nodes[3].provide(at(group.now), chunk));
    group.run(10_000);
    let checked = group
        .seen
        .iter()
        .any(|(node, effect)| matches!(effect, Effect::Checked { kept, .. } if *node == 3 && *kept > 8));
    assert!(checked, "{:?}", group.nodes[3].health(&chunk));
    for manner in [Manner::Near, Manner::Far { stride: 1 }] {
        group.seen.clear();
        let wanted = Wanted { key: chunk.0, goal: Goal::Providers(u8::MAX), manner, quiet: false };
        let lookup = group.nodes[9].find(at(group.now), wanted).expect("room");
        group.settle();
        let by_three =
            |records: &[Record]| records.len() == 1 && records[0].provider == group.nodes[3].own().contact;
        let found = group.seen.iter().filter(|(_, effect)| {
            matches!(effect, Effect::Found { lookup: id, records } if *id == lookup && by_three(records))
        });
        assert_eq!(found.count(), 1, "told once");
        let done = group.seen.iter().any(|(_, effect)| {
            matches!(effect, Effect::Done { lookup: id, outcome } if *id == lookup && !outcome.cut_short)
        });
        assert!(done && group.nodes[9].lookups() == 0);
    }
    // What nobody has is counted, and said.
    let nothing = ChunkId([0xdd; 20]);
    for _ in 0..3 {
        let wanted = Wanted { key: nothing.0, goal: Goal::Providers(1), manner: Manner::Near, quiet: false };
        group.nodes[5].find(at(group.now), wanted).expect("room");
        group.settle();
    }
    let vain = group.seen.iter().rev().find_map(|(_, effect)| match effect {
        Effect::Done { outcome, .. } => Some((outcome.not_found, outcome.records.len())),
        _ => None,
    });
    assert_eq!(vain, Some((2, 0)));
}

#[test]
fn a_lookup_may_be_left_to_another() {
    let mut group = Group::new(6);
    (1..6).for_each(|node| group.meet(node, 0));
    group.run(30_000);
    let chunk = ChunkId([0xcc; 20]);
    group.nodes[1].provide(at(group.now), chunk);
    group.run(5_000);
    let helper = *group.nodes[2].own();
    let served = group.nodes[4].counters.served;
    group.seen.clear();
    let lookup = group.nodes[5].delegate(at(group.now), chunk, false, Some(helper)).expect("room");
    group.settle();
    assert!(group.seen.iter().any(|(node, effect)| {
        matches!(effect, Effect::Done { lookup: id, outcome } if (*node, *id) == (5, lookup) && outcome.records.len() == 1 && outcome.asked == 1)
    }));
    assert!(
        group.nodes[4].counters.served > served || group.nodes[3].counters.served > 0,
        "the helper asked others"
    );
    // Nobody leaves more to one peer than it takes, or than its standing pays for.
    let giver = group.nodes[5].own().id;
    let delegated = 10 * DELEGATED_PRICE;
    group.nodes[2].set_standing(&giver, Standing { contributed: delegated, ..Standing::default() });
    let nobody = |n: u8| ChunkId([n; 20]);
    for n in 0..2 * DELEGATED_PER_PEER_MAX as u8 {
        group.nodes[5].delegate(at(group.now), nobody(n), false, Some(helper));
    }
    let taken = {
        let sends: Vec<Effect> = std::iter::from_fn(|| group.nodes[5].poll_effect()).collect();
        let from = *group.nodes[5].own();
        for effect in &sends {
            if let Effect::Send { bytes, .. } = effect {
                group.nodes[2].handle_message(at(group.now), &from, None, bytes).expect("well-formed");
            }
        }
        group.nodes[2].lookups()
    };
    assert_eq!(taken, DELEGATED_PER_PEER_MAX);
}

#[test]
fn silence_ends_lookups_and_takes_peers_out() {
    let mut node = overlay(1);
    (0..20).for_each(|number| assert_ne!(node.table.admit(peer(number), Time::ZERO), Admission::Unfit));
    assert_eq!(node.table().len(), 20);
    let wanted = Wanted { key: [7; 20], goal: Goal::Providers(1), manner: Manner::Near, quiet: false };
    let lookup = node.find(at(0), wanted).expect("room");
    let mut now = 0;
    let outcome = loop {
        now += 50;
        node.handle_timeout(at(now));
        let done = std::iter::from_fn(|| node.poll_effect()).find_map(|effect| match effect {
            Effect::Done { lookup: id, outcome } if id == lookup => Some(outcome),
            _ => None,
        });
        if let Some(outcome) = done {
            break outcome;
        }
        assert!(now <= LOOKUP_MS_MAX + 100, "a lookup ends");
    };
    assert!(outcome.nearest.is_empty() && outcome.failed > 5);
    for _ in 0..3000 {
        now += 100;
        node.handle_timeout(at(now));
        while node.poll_effect().is_some() {}
    }
    assert_eq!(node.table().len(), 0, "who never answers goes");
}

#[test]
fn hostile_messages_change_nothing() {
    let mut node = overlay(1);
    let stranger = peer(7);
    let chunk = ChunkId([5; 20]);
    // A record that another signed, one that was changed, one that has ended.
    let provider = identity(9);
    let contact = Contact::new(*provider.card(), ["203.0.113.1:1".parse().expect("an address")]);
    let expires = at(0).unix_s() + 600;
    let good = Record::sign(&provider, &chunk, contact, expires);
    let announce = |node: &mut Overlay, chunk, record| {
        let announcement = Announcement::one(chunk, &record);
        let bytes = Message { number: 1, body: Body::Announce(announcement) }.emit();
        let from = Peer::of(contact);
        node.handle_message(at(0), &from, contact.addresses().next(), &bytes).expect("well-formed");
        match node.poll_effect() {
            Some(Effect::Send { bytes, .. }) => match Message::parse(&bytes).map(|message| message.body) {
                Ok(Body::Verdicts(said)) => said[0].verdict,
                other => panic!("{other:?}"),
            },
            other => panic!("{other:?}"),
        }
    };
    let said = |verdict: Verdict| verdict;
    assert_eq!(announce(&mut node, ChunkId([6; 20]), good), said(Verdict::Unfit));
    let mut changed = good;
    changed.expires += 1;
    assert_eq!(announce(&mut node, chunk, changed), said(Verdict::Unfit));
    let ended = Record::sign(&provider, &chunk, contact, expires - 601);
    assert_eq!(announce(&mut node, chunk, ended), said(Verdict::Unfit));
    let endless = Record::sign(&provider, &chunk, contact, u32::MAX);
    assert_eq!(announce(&mut node, chunk, endless), said(Verdict::Unfit));
    assert_eq!(node.records().len(), 0);
    assert_eq!(announce(&mut node, chunk, good), said(Verdict::Kept));
    // Answers to questions that were not asked, or were asked of another.
    let answer = Message {
        number: 0,
        body: Body::Answer(Answer { contacts: vec![peer(8).contact], ..Answer::default() }),
    };
    node.handle_up(at(0), &peer(3), peer(3).contact.addresses().next());
    node.handle_message(at(0), &stranger, None, &answer.emit()).expect("well-formed");
    assert_eq!((node.counters.stray, node.table().len()), (1, 0));
    assert!(node.handle_message(at(0), &stranger, None, &[9, 9]).is_err());
    // Who asks too much is refused.
    let find = Find { key: [1; 20], records: true, far: false, reach: 0, quiet: false };
    let bytes = Message { number: 2, body: Body::Find(find) }.emit();
    for _ in 0..2 * REQUESTS_PER_PEER_BURST {
        node.handle_message(at(0), &stranger, None, &bytes).expect("well-formed");
        while node.poll_effect().is_some() {}
    }
    assert!(node.counters.refused >= u64::from(REQUESTS_PER_PEER_BURST));
}

#[test]
fn ten_million_inventions_leave_the_table_as_it_was() {
    // A tenth of them in an ordinary test; `--ignored` below has them all.
    flood(1_000_000);
}

#[test]
#[ignore = "half a minute"]
fn ten_million_inventions_leave_the_table_as_it_was_all_of_them() {
    flood(10_000_000);
}

fn flood(inventions: u32) {
    let mut node = overlay(1);
    let honest: Vec<Peer> = (0..400).map(|number| peer(0x4000_0000 + number)).collect();
    honest.iter().for_each(|peer| assert_ne!(node.table.admit(*peer, Time::ZERO), Admission::Unfit));
    let before = node.table().len();
    let liars: Vec<Peer> = honest.iter().take(50).copied().collect();
    let mut sent = 0;
    for number in 0..inventions {
        let liar = liars[number as usize % liars.len()];
        let invented = peer(number);
        if node.table.wants(&invented) {
            node.candidates.offer(invented, liar.id, &mut node.rng);
        }
        if number % 50_000 == 0 {
            // Their probes go out; nobody answers them. The honest answer theirs.
            let now = at(u64::from(number / 50_000 + 1) * 3_000);
            node.handle_timeout(now);
            while let Some(effect) = node.poll_effect() {
                if let Effect::Send { to, bytes, question: true } = effect
                    && honest.contains(&to)
                {
                    let Message { number, body } = Message::parse(&bytes).expect("well-formed");
                    let body = match body {
                        Body::Find(_) => Body::Answer(Answer::default()),
                        _ => Body::Here(None),
                    };
                    let bytes = Message { number, body }.emit();
                    let _ = node.handle_message(now, &to, to.contact.addresses().next(), &bytes);
                }
                sent += 1;
            }
        }
    }
    assert!(node.candidates.len() <= CANDIDATES_MAX && sent > 0);
    assert!(node.table().entries().all(|entry| honest.contains(&entry.peer)), "nobody invented came in");
    assert!(node.table().len() >= before - 20, "{} of {before}", node.table().len());
    let known = node.table().nearest(&honest[0].id.0, 1);
    assert!(!known.is_empty());
    let memory = std::mem::size_of::<bucket::Entry>() * node.table().len();
    assert!(memory < 64 << 10, "{memory} bytes");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_nearest_are_the_nearest(own in 0u32..1000, numbers in prop::collection::btree_set(1000u32..9000, 0..300), key: [u8; 20], count in 1usize..30) {
        let mut table = Table::new(peer(own).id, 0, 0);
        for number in &numbers {
            table.admit(peer(*number), Time::ZERO);
        }
        let mut all: Vec<NodeId> = table.entries().map(|entry| entry.peer.id).collect();
        prop_assert_eq!(all.len(), table.len());
        all.sort_by_key(|id| distance(&key, &id.0));
        all.truncate(count);
        let nearest: Vec<NodeId> = table.nearest(&key, count).iter().map(|entry| entry.peer.id).collect();
        prop_assert_eq!(nearest, all);
        let reach = shared_bits(&table.entries().next().map_or(key, |entry| entry.peer.id.0), &key);
        let far = table.farthest(&key, reach, 3, 9, 5);
        let bits: Vec<u32> = far.iter().map(|entry| shared_bits(&entry.peer.id.0, &key)).collect();
        prop_assert!(bits.iter().all(|bits| *bits >= reach) && bits.is_sorted());
    }

    #[test]
    fn any_order_of_events_keeps_the_bounds(script in prop::collection::vec((0u8..9, any::<u16>()), 1..300)) {
        let mut node = overlay(1);
        let mut now = 0;
        let mut open: Vec<(Peer, u32)> = Vec::new();
        for (what, detail) in script {
            let other = peer(u32::from(detail) % 64);
            match what {
                0 => node.handle_up(at(now), &other, other.contact.addresses().next()),
                1 => node.handle_failed(at(now), &other.id, &other.contact.addresses().collect::<Vec<_>>()),
                2 => now += u64::from(detail),
                3 => {
                    let manner = if detail & 1 == 0 { Manner::Near } else { Manner::Far { stride: (detail % 7) as u8 } };
                    let goal = if detail & 2 == 0 { Goal::Nodes } else { Goal::Providers((detail % 5) as u8) };
                    node.find(at(now), Wanted { key: [detail as u8; 20], goal, manner, quiet: detail & 4 == 0 });
                }
                4 => drop(node.provide(at(now), ChunkId([detail as u8; 20]))),
                5 => node.withdraw(&ChunkId([detail as u8; 20])),
                6 => node.stop(at(now), LookupId(u64::from(detail) % 40)),
                _ => if let Some((to, number)) = open.pop() {
                    let contacts = (0..8).map(|n| peer(u32::from(detail) % 512 + n).contact).collect();
                    let body = match detail % 4 {
                        0 => Body::Here(None),
                        1 => Body::Verdicts(vec![Keeping { verdict: Verdict::Kept, hosts: 0, queries: 0 }; 1 + usize::from(detail % 12)]),
                        _ => Body::Answer(Answer { contacts, not_found: detail, ..Answer::default() }),
                    };
                    let bytes = Message { number, body }.emit();
                    let seen = to.contact.addresses().next().filter(|_| detail & 8 == 0);
                    prop_assert!(node.handle_message(at(now), &to, seen, &bytes).is_ok());
                },
            }
            node.handle_timeout(at(now));
            while let Some(effect) = node.poll_effect() {
                if let Effect::Send { to, bytes, question: true } = effect {
                    prop_assert!(bytes.len() <= OVERLAY_MESSAGE_MAX);
                    open.push((to, u32::from_le_bytes(bytes[1..5].try_into().expect("four bytes"))));
                }
            }
            prop_assert!(node.lookups() <= LOOKUPS_MAX && node.exchanges.len() <= EXCHANGES_MAX + LOOKUPS_MAX);
            prop_assert!(node.candidates.len() <= CANDIDATES_MAX && node.peers.len() <= 64);
        }
        // Left alone, everything ends.
        for _ in 0..800 {
            now += 100;
            node.handle_timeout(at(now));
            while node.poll_effect().is_some() {}
        }
        prop_assert!(node.lookups() <= CHECKS_MAX + 2, "{} lookups", node.lookups());
    }
}
