//! What others, or want of room, may cost this node.

use super::hearsay::{asked, knowing, near, place, say};
use super::*;

/// A moment passes, in which nothing that the node asks can be sent.
fn saturated(node: &mut Overlay, now: u64) -> usize {
    node.handle_timeout(at(now));
    let asked = asked(node);
    asked.iter().for_each(|(to, _)| node.handle_untried(&to.id));
    asked.len()
}

#[test]
fn want_of_room_here_is_blamed_on_nobody_and_does_not_use_up_a_lookup() {
    let mut node = knowing((0..20).map(peer));
    let lookup = node.find(at(0), near(7)).expect("room");
    let first = saturated(&mut node, 0);
    assert!((1..20).contains(&first), "{first}");
    // The rest is asked as answers are late, not at once.
    assert!(node.lookups.contains_key(&lookup) && asked(&mut node).is_empty());
    let mut turns = 0;
    for now in (50..60_000).step_by(50) {
        turns += usize::from(saturated(&mut node, now) > 0);
    }
    assert!(turns > 5 && !node.lookups.contains_key(&lookup), "a lookup ends all the same: {turns}");
    assert_eq!(node.table().len(), 20);
    assert!(node.table().entries().all(|entry| entry.failures == 0));
    // Whoever was asked, and is silent, is charged as ever.
    for now in (60_000..400_000).step_by(100) {
        node.handle_timeout(at(now));
        asked(&mut node);
    }
    assert!(node.table().len() < 20);
}

#[test]
fn whoever_says_again_that_it_is_there_is_probed_once() {
    let mut node = overlay(1);
    for _ in 0..1000 {
        node.handle_up(at(0), &peer(5), Some(place(&peer(5))));
    }
    assert_eq!(asked(&mut node).len(), 1);
    for number in 10..1000 {
        node.handle_up(at(0), &peer(number), Some(place(&peer(number))));
    }
    assert_eq!(asked(&mut node).len(), PROBES_MAX - 1);
    assert!(node.find(at(0), near(7)).is_some(), "there is room for lookups");
}

#[test]
fn that_a_session_came_up_lifts_no_bound_on_aims() {
    let mut node = overlay(1);
    let victim = place(&peer(5));
    let tellers = |node: &mut Overlay, from: u32| {
        let told = (from..from + 50).filter(|teller| node.aims.take(&peer(*teller).id, victim, Time::ZERO));
        told.count()
    };
    assert_eq!(tellers(&mut node, 100), AIMS_PER_ADDRESS_MAX);
    node.handle_up(at(0), &peer(5), Some(victim));
    assert_eq!(tellers(&mut node, 200), 0);
    // An answer from there does.
    let (_, probe) = asked(&mut node).pop().expect("a probe");
    say(&mut node, 10, &peer(5), probe.number, Body::Here(None));
    assert_eq!(tellers(&mut node, 300), AIMS_PER_ADDRESS_MAX);
}

/// What a node answers.
fn answers(node: &mut Overlay) -> Vec<Body> {
    let effects = std::iter::from_fn(|| node.poll_effect());
    let answer = |effect| match effect {
        Effect::Send { bytes, question: false, .. } => Message::parse(&bytes).ok(),
        _ => None,
    };
    effects.filter_map(answer).map(|message| message.body).collect()
}

#[test]
fn a_flood_of_questions_is_not_answered_with_a_flood_of_refusals() {
    let mut node = overlay(1);
    let find = Find { key: [1; 20], records: true, far: false, reach: 0, quiet: false };
    for number in 0..2000 {
        say(&mut node, 0, &peer(7), number, Body::Find(find));
    }
    let said = answers(&mut node);
    let refused = said.iter().filter(|body| matches!(body, Body::Answer(answer) if answer.refused));
    assert_eq!(refused.count(), REFUSALS_BURST as usize);
    assert_eq!(said.len(), (REFUSALS_BURST + REQUESTS_PER_PEER_BURST) as usize);
}

#[test]
fn signatures_are_verified_so_often_and_strangers_leave_half_to_the_known() {
    let mut node = overlay(1);
    let provider = identity(9);
    let contact = Contact::new(*provider.card(), ["203.0.113.1:1".parse().expect("an address")]);
    let from = Peer::of(contact);
    let chunk = ChunkId([5; 20]);
    let record = Record::sign(&provider, &chunk, contact, at(0).unix_s() + 600);
    let verdict = |node: &mut Overlay, seen| {
        let body = Body::Announce(Announcement::one(chunk, &record));
        let bytes = Message { number: 1, body }.emit();
        node.handle_message(at(0), &from, seen, &bytes).expect("well-formed");
        match answers(node).pop() {
            Some(Body::Verdicts(said)) => Some(said[0].verdict),
            _ => None,
        }
    };
    let seen = contact.addresses().next();
    assert!(node.verifications.take(VERIFIED_BURST / 2, VERIFIED_PER_SECOND, VERIFIED_BURST, Time::ZERO));
    assert_eq!(verdict(&mut node, seen), Some(Verdict::Full), "a stranger waits");
    assert_eq!(verdict(&mut node, None), None, "whoever is nowhere is not heard");
    assert_eq!(node.counters.refused, 1);
    assert_ne!(node.table.admit(from, Time::ZERO), Admission::Unfit);
    assert_eq!(verdict(&mut node, seen), Some(Verdict::Kept), "and the known have the other half");
}

#[test]
fn who_is_at_home_here_is_told_to_nobody_afar() {
    let at_home = |number: u32, last: u8| Peer {
        contact: Contact::new(peer(number).contact.card, [SocketAddr::from(([10, 0, 0, last], 4600))]),
        ..peer(number)
    };
    let mut node = knowing([at_home(1, 1), peer(2)]);
    let find = Body::Find(Find { key: [1; 20], records: false, far: false, reach: 0, quiet: true });
    let told = |node: &mut Overlay| match answers(node).pop() {
        Some(Body::Answer(answer)) => answer.contacts.iter().map(Contact::node_id).collect::<Vec<_>>(),
        other => panic!("{other:?}"),
    };
    say(&mut node, 0, &peer(3), 1, find.clone());
    assert_eq!(told(&mut node), [peer(2).id]);
    // Nor where the asker's first flight may come from anywhere.
    let bytes = Message { number: 2, body: find.clone() }.emit();
    node.handle_message(at(0), &peer(4), None, &bytes).expect("well-formed");
    assert_eq!(told(&mut node), [peer(2).id]);
    say(&mut node, 0, &at_home(5, 2), 3, find);
    assert_eq!(told(&mut node).len(), 2, "a neighbour hears of both");
}
