//! What peers tell of others, and how far it is believed.

use super::*;
use crate::limits::AIMS_PER_ADDRESS_MAX;

/// Where a peer of these tests is, and where it is asked.
pub(super) fn place(peer: &Peer) -> SocketAddr {
    peer.contact.addresses().next().expect("an address")
}

/// A node that knows so many peers, all of which are at their addresses.
pub(super) fn knowing(peers: impl IntoIterator<Item = Peer>) -> Overlay {
    let mut node = overlay(1);
    for peer in peers {
        assert_ne!(node.table.admit(peer, Time::ZERO), Admission::Unfit);
    }
    node
}

/// Questions that a node asks.
pub(super) fn asked(node: &mut Overlay) -> Vec<(Peer, Message)> {
    let effects = std::iter::from_fn(|| node.poll_effect());
    let question = |effect| match effect {
        Effect::Send { to, bytes, question: true } => {
            Some((to, Message::parse(&bytes).expect("well-formed")))
        }
        _ => None,
    };
    effects.filter_map(question).collect()
}

pub(super) fn say(node: &mut Overlay, now: u64, from: &Peer, number: u32, body: Body) {
    let bytes = Message { number, body }.emit();
    node.handle_message(at(now), from, from.contact.addresses().next(), &bytes).expect("well-formed");
}

fn naming(contacts: impl IntoIterator<Item = Contact>) -> Body {
    Body::Answer(Answer { contacts: contacts.into_iter().collect(), ..Answer::default() })
}

pub(super) fn near(key: u8) -> Wanted {
    Wanted { key: [key; 20], goal: Goal::Providers(u8::MAX), manner: Manner::Near, quiet: false }
}

fn moved(peer: &Peer, to: [u8; 4]) -> Peer {
    Peer { id: peer.id, contact: Contact::new(peer.contact.card, [SocketAddr::from((to, 7))]) }
}

#[test]
fn only_the_address_of_the_path_is_kept_and_told() {
    let mut node = overlay(1);
    let claims = moved(&peer(5), [192, 88, 1, 1]);
    let seen = place(&peer(5));
    node.handle_up(at(0), &claims, Some(seen));
    let (to, probe) = asked(&mut node).pop().expect("a probe");
    assert_eq!(place(&to), seen);
    let here = Message { number: probe.number, body: Body::Here(None) }.emit();
    node.handle_message(at(10), &claims, Some(seen), &here).expect("well-formed");
    let find = Find { key: [1; 20], records: false, far: false, reach: 0, quiet: true };
    say(&mut node, 20, &peer(6), 1, Body::Find(find));
    let told = std::iter::from_fn(|| node.poll_effect()).find_map(|effect| match effect {
        Effect::Send { bytes, question: false, .. } => Message::parse(&bytes).ok(),
        _ => None,
    });
    match told.map(|message| message.body) {
        Some(Body::Answer(answer)) => {
            let addresses: Vec<SocketAddr> = answer.contacts.iter().flat_map(Contact::addresses).collect();
            assert_eq!(addresses, [seen]);
        }
        other => panic!("{other:?}"),
    }
    // Who is reached through others alone is answered, and stands in no table.
    node.handle_up(at(30), &peer(7), None);
    for (to, probe) in asked(&mut node) {
        let here = Message { number: probe.number, body: Body::Here(None) }.emit();
        node.handle_message(at(40), &to, None, &here).expect("well-formed");
    }
    assert!(node.table().get(&peer(7).id).is_none() && node.table().get(&claims.id).is_some());
}

#[test]
fn a_false_address_counts_against_nobody_who_is_elsewhere() {
    let (good, liar) = (peer(10), peer(11));
    let mut node = knowing([good, liar]);
    let false_address = moved(&good, [192, 88, 1, 1]);
    for failures in 0..10 {
        node.handle_failed(at(failures), &good.id, &[place(&false_address)]);
    }
    assert!(node.table().get(&good.id).is_some_and(|entry| entry.failures == 0));
    // Nor is it tried there, while it is known where it is.
    node.find(at(100), near(7)).expect("room");
    let mut places = Vec::new();
    for _ in 0..10 {
        for (to, question) in asked(&mut node) {
            places.push(to);
            if to.id == liar.id {
                say(&mut node, 110, &liar, question.number, naming([false_address.contact]));
            }
        }
    }
    assert!(places.iter().any(|to| to.id == good.id));
    assert!(places.iter().all(|to| place(to) != place(&false_address)), "{places:?}");
    // Where it was known to be, it counts; what the lookup tries elsewhere meanwhile does not.
    (0..4 * CONTACT_FAILURES_MAX).for_each(|_| node.handle_failed(at(200), &good.id, &[place(&good)]));
    assert!(node.table().get(&good.id).is_none());
}

#[test]
fn a_node_that_a_liar_puts_elsewhere_is_asked_where_the_next_says_it_is() {
    let (liar, honest) = (peer(11), peer(12));
    let keeper = peer(500);
    let mut node = knowing([liar, honest]);
    node.find(at(0), near(7)).expect("room");
    let mut tried = Vec::new();
    for round in 0..20 {
        for (to, question) in asked(&mut node) {
            let told = match to.id {
                id if id == liar.id => moved(&keeper, [192, 88, 1, 1]),
                id if id == honest.id => keeper,
                _ => {
                    tried.push(place(&to));
                    if place(&to) != place(&keeper) {
                        node.handle_failed(at(round), &to.id, &[place(&to)]);
                    }
                    continue;
                }
            };
            // The liar is the quicker one.
            if to.id == liar.id || round > 5 || !tried.is_empty() {
                say(&mut node, round, &to, question.number, naming([told.contact]));
            } else {
                say(&mut node, round, &to, question.number, naming([keeper.contact]));
            }
        }
    }
    assert!(tried.contains(&place(&keeper)), "{tried:?}");
}

#[test]
fn many_liars_aim_few_handshakes_at_a_third_party() {
    let liars: Vec<Peer> = (0..60).map(|n| peer(1_000 + 37 * n)).collect();
    let mut node = knowing(liars.iter().copied());
    let known = node.table().len();
    assert!(known > 20);
    let victim = [192, 88, 99, 5];
    let (mut aimed, mut invented) = (0, 50_000);
    for turn in 0..40u64 {
        let now = turn * 5_000;
        node.handle_timeout(at(now));
        node.find(at(now), near(turn as u8)).expect("room");
        for _ in 0..30 {
            for (to, question) in asked(&mut node) {
                if to.contact.addresses().any(|address| address.ip() == std::net::IpAddr::from(victim)) {
                    aimed += 1;
                } else if let Body::Find(_) = question.body {
                    let contacts: Vec<Contact> = (0..8)
                        .map(|n| {
                            invented += 1;
                            let at = SocketAddr::from((victim, 1000 + n));
                            Contact::new(peer(invented).contact.card, [at])
                        })
                        .collect();
                    say(&mut node, now + 10, &to, question.number, naming(contacts));
                } else {
                    say(&mut node, now + 10, &to, question.number, Body::Here(None));
                }
            }
        }
    }
    assert!(aimed > 0 && aimed <= AIMS_PER_ADDRESS_MAX, "{aimed} handshakes in 200 s");
}

#[test]
fn a_public_peer_sends_nobody_into_a_home() {
    let homes =
        ["192.168.0.7:7", "127.0.0.1:7", "[fd00::7]:7"].map(|at| at.parse::<SocketAddr>().expect("one"));
    let told =
        || homes.iter().enumerate().map(|(n, at)| Contact::new(peer(700 + n as u32).contact.card, [*at]));
    let tried_by = |teller: Peer| {
        let mut node = overlay(1);
        node.handle_up(at(0), &teller, teller.contact.addresses().next());
        let mut tried = Vec::new();
        for _ in 0..30 {
            node.find(at(10), near(9));
            for (to, question) in asked(&mut node) {
                match question.body {
                    Body::Find(_) if to.id == teller.id => {
                        say(&mut node, 20, &teller, question.number, naming(told()))
                    }
                    _ if to.id == teller.id => say(&mut node, 20, &teller, question.number, Body::Here(None)),
                    _ => tried.extend(to.contact.addresses()),
                }
            }
        }
        tried.sort();
        tried.dedup();
        tried
    };
    assert_eq!(tried_by(peer(3)), []);
    assert_eq!(tried_by(moved(&peer(3), [192, 168, 0, 3])), [homes[0], homes[2]], "its own home");
    assert_eq!(tried_by(moved(&peer(3), [127, 0, 0, 1])).len(), 3, "its own machine");
}

#[test]
fn a_record_that_others_bring_is_told_once_its_provider_answered() {
    let mut node = overlay(1);
    let provider = identity(9);
    let (there, victim) = (SocketAddr::from(([203, 0, 113, 9], 7)), SocketAddr::from(([192, 88, 99, 5], 7)));
    let chunk = ChunkId([5; 20]);
    let expires = at(0).unix_s() + 600;
    let signed =
        |address| Record::sign(&provider, &chunk, Contact::new(*provider.card(), [address]), expires);
    let announce = |record| Body::Announce(Announcement::one(chunk, &record));
    // The provider itself, at another address than it says: unfit.
    let own = Peer::of(Contact::new(*provider.card(), [there]));
    say(&mut node, 0, &own, 1, announce(signed(victim)));
    assert!(node.records().is_empty());
    // Another brings it: it is tried, once, and told to nobody before it answers there.
    for teller in 20..30 {
        say(&mut node, 10, &peer(teller), 1, announce(signed(there)));
        say(&mut node, 10, &peer(teller), 2, announce(signed(victim)));
    }
    assert!(node.records().is_empty());
    let probes = asked(&mut node);
    assert_eq!(probes.len(), 1, "{probes:?}");
    assert_eq!(place(&probes[0].0), there);
    say(&mut node, 20, &own, probes[0].1.number, Body::Here(None));
    assert_eq!(node.records().len(), 1);
    // It is known where it is now: no probe is needed, and elsewhere it is not.
    let other = ChunkId([6; 20]);
    let record = Record::sign(&provider, &other, Contact::new(*provider.card(), [there]), expires);
    say(&mut node, 30, &peer(40), 1, Body::Announce(Announcement::one(other, &record)));
    assert_eq!((node.records().len(), asked(&mut node).len()), (2, 0));
}

#[test]
fn records_are_found_with_work_in_time_and_with_addresses_that_may_be_tried() {
    let teller = peer(3);
    let config = Config { place_floor: 8, rank_floor: 3, remembered: 64, ..Config::default() };
    let mut node = overlay(1);
    node.config = config;
    assert_ne!(node.table.admit(teller, Time::ZERO), Admission::Unfit);
    let worked = |seed: u8, work: u32, rank: u32| {
        let mut identity = Identity::new(Secret::from_bytes([seed; 32]), 0, 0);
        let (mut place, mut nonce) = (0, 0);
        while crate::crypto::rank::place_work(&identity.card().key, &identity.card().node_id()) < work {
            place += 1;
            identity = identity.with_nonces(place, 0);
        }
        while identity.card().rank() < rank {
            nonce += 1;
            identity = identity.with_nonces(place, nonce);
        }
        identity
    };
    let wanted = near(7);
    let chunk = ChunkId(wanted.key);
    let now_s = at(0).unix_s();
    let (home, there) = (SocketAddr::from(([192, 168, 0, 1], 7)), SocketAddr::from(([203, 0, 113, 9], 7)));
    let sign = |identity: &Identity, expires| {
        Record::sign(identity, &chunk, Contact::new(*identity.card(), [home, there]), expires)
    };
    let good = worked(41, 8, 3);
    let records = vec![
        sign(&good, now_s + 7200 + CLOCK_GRACE_S),
        sign(&worked(42, 8, 3), now_s + 7200 + CLOCK_GRACE_S + 1),
        sign(&worked(43, 8, 3), now_s),
        sign(&worked(44, 0, 3), now_s + 600),
    ];
    assert!(!Peer::of(records[3].provider).shows(8), "or choose another seed");
    node.find(at(0), wanted).expect("room");
    let (_, question) = asked(&mut node).pop().expect("a question");
    let answer = Answer { records, ..Answer::default() };
    say(&mut node, 10, &teller, question.number, Body::Answer(answer));
    let mut found = Vec::new();
    while let Some(effect) = node.poll_effect() {
        match effect {
            Effect::Found { records, .. } => found.extend(records),
            Effect::Done { outcome, .. } => assert_eq!(outcome.records, found),
            _ => {}
        }
    }
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].provider, Contact::new(*good.card(), [there]), "nobody's home");
    assert_eq!(node.counters.unfit, 3);
}

#[test]
fn refusals_and_what_answers_another_question_are_no_good_answers() {
    for (body, is_there) in [
        (Body::Answer(Answer { refused: true, ..Answer::default() }), false),
        (Body::Verdicts(vec![Keeping { verdict: Verdict::Kept, hosts: 0, queries: 0 }]), false),
        (Body::Here(None), true),
    ] {
        let mut node = overlay(1);
        node.handle_up(at(0), &peer(3), Some(place(&peer(3))));
        let (_, probe) = asked(&mut node).pop().expect("a probe");
        say(&mut node, 10, &peer(3), probe.number, body);
        assert_eq!(node.table().len() == 1, is_there);
        assert_eq!(node.peers().len() == 1, is_there);
    }
    // A lookup's question that is refused admits nobody either, and costs it nothing.
    let (known, new) = (peer(3), peer(4));
    let mut node = knowing([known]);
    node.find(at(0), near(7)).expect("room");
    let (_, question) = asked(&mut node).pop().expect("a question");
    say(&mut node, 10, &known, question.number, naming([new.contact]));
    let (to, question) = asked(&mut node).pop().expect("the one that was told");
    assert_eq!(to.id, new.id);
    say(&mut node, 20, &new, question.number, Body::Answer(Answer { refused: true, ..Answer::default() }));
    assert!(node.table().get(&new.id).is_none());
    assert!(node.table().get(&known.id).is_some_and(|entry| entry.failures == 0));
}

#[test]
fn a_turn_of_probing_goes_on_past_those_that_are_not_wanted() {
    let mut node = knowing((100..160).map(peer));
    for n in 0..20 {
        // Known meanwhile: they are not wanted any more.
        let known = node.table().entries().nth(n).map(|entry| entry.peer).expect("so many are known");
        node.candidates.offer(known, peer(2_000 + n as u32).id, &mut node.rng);
    }
    let wanted = (5_000..).map(peer).find(|peer| node.table.wants(peer)).expect("somebody");
    node.candidates.offer(wanted, peer(3_000).id, &mut node.rng);
    for turn in 1..=3u64 {
        node.turn_at = Time::ZERO;
        node.handle_timeout(at(turn));
        if asked(&mut node).iter().any(|(to, _)| to.id == wanted.id) {
            return;
        }
    }
    panic!("it was not probed");
}

#[test]
fn what_others_have_looked_up_says_nothing_of_the_networks_size() {
    let mut node = knowing((100..160).map(peer));
    let before = node.network_size();
    let crowd: Vec<Contact> = (0..8).map(|n| peer(9_000 + n).contact).collect();
    let key = peer(9_000).id.0;
    for turn in 0..30u64 {
        // A peer has a place looked up around which it has crowded, and so has the caller.
        let now = turn * 61_000;
        let delegate = Message { number: 5, body: Body::Delegate { key, far: false } }.emit();
        let asker = peer(20_000 + turn as u32);
        node.handle_message(at(now), &asker, Some(place(&asker)), &delegate).expect("well-formed");
        node.find(at(now), Wanted { key, goal: Goal::Nodes, manner: Manner::Near, quiet: false });
        for _ in 0..20 {
            for (to, question) in asked(&mut node) {
                say(&mut node, now + 10, &to, question.number, naming(crowd.clone()));
            }
        }
    }
    assert!(!node.density.is_known());
    assert_eq!(node.density.nodes(0), 1, "{before}");
}

#[test]
fn delegated_lookups_leave_room_for_the_nodes_own() {
    let mut node = knowing((100..400).map(peer));
    for n in 0..200u32 {
        let asker = peer(50_000 + n);
        node.set_standing(&asker.id, Standing { contributed: 100 * DELEGATED_PRICE, ..Standing::default() });
        let key: [u8; 20] = node.rng.bytes();
        let body = Body::Delegate { key, far: false };
        say(&mut node, 0, &asker, n, body);
    }
    let delegated = node.lookups();
    assert_eq!(delegated, DELEGATED_MAX);
    assert!(node.exchanges.len() <= EXCHANGES_MAX - EXCHANGES_OWN);
    asked(&mut node);
    assert!(node.find(at(0), near(7)).is_some() && !asked(&mut node).is_empty(), "its own goes first");
    // Without standing, few and slowly.
    let mut poor = knowing((100..400).map(peer));
    for n in 0..200u32 {
        say(&mut poor, 0, &peer(50_000), n, Body::Delegate { key: [n as u8; 20], far: false });
        say(&mut poor, 0, &peer(60_000 + n), n, Body::Delegate { key: [n as u8; 20], far: false });
    }
    assert_eq!(poor.lookups(), DELEGATED_FREE_MAX);
}
