use super::*;
use crate::wire::overlay::Find;

fn at(millis: u64) -> Time {
    Time::from_millis(millis)
}

fn calling(links: &mut Links, count: usize) {
    for number in links.calls.len()..links.calls.len() + count {
        let calling = Calling {
            id: NodeId([0; 20]),
            key: PublicKey([0; 32]),
            since: Time::ZERO,
            tried: Vec::new(),
            messages: Vec::new(),
            shards: BTreeSet::new(),
        };
        links.calls.insert(SessionKey(number as u32), calling);
    }
}

#[test]
fn handshakes_close_no_session_and_one_just_used_makes_no_room() {
    let mut links = Links::default();
    (0..10).for_each(|id| links.enter(at(id), PeerId(id), Kind::Called));
    calling(&mut links, 200);
    assert_eq!((links.count(Kind::Called), links.len()), (10, 210));
    assert_eq!(links.oldest(Kind::Called, at(10), IN_USE), None);
    let later = at(EXCHANGE_MS_MAX + 3);
    assert_eq!(links.oldest(Kind::Called, later, IN_USE), Some(PeerId(0)));
    links.used(later, PeerId(0));
    assert_eq!(links.oldest(Kind::Called, later, IN_USE), Some(PeerId(1)), "use keeps it");
    assert!(links.is_called(PeerId(0)), "and it is what it was");
}

#[test]
fn callers_find_room_where_tables_and_publishing_have_taken_theirs() {
    let mut links = Links::default();
    calling(&mut links, OVERLAY_CALLS_MAX - OVERLAY_CALLS_OWN);
    assert!(!links.may_call(true, 64) && links.may_call(false, 64));
    calling(&mut links, OVERLAY_CALLS_OWN);
    assert!(!links.may_call(false, 64));
    // Whatever comes of the handshakes, sessions are bounded.
    let mut links = Links::default();
    (0..64 + OVERLAY_CALLS_MAX as u64).for_each(|id| links.enter(at(id), PeerId(id), Kind::Called));
    assert!(!links.may_call(false, 64));
}

#[test]
fn what_nobody_waits_for_is_in_the_background() {
    let key = [1; 20];
    let find = |quiet| Body::Find(Find { key, records: true, far: false, reach: 0, quiet });
    let emit = |body| Message { number: 1, body }.emit();
    assert!(is_background(&emit(find(true))) && is_background(&emit(Body::Probe)));
    assert!(!is_background(&emit(find(false))) && !is_background(&emit(Body::Delegate { key, far: false })));
}

#[test]
fn a_strangers_session_is_counted_apart_until_it_says_something() {
    let mut links = Links::default();
    links.enter(at(0), PeerId(1), Kind::Quiet);
    assert!(links.sweep_at.is_none() && links.len() == 0, "no idle one is looked for");
    assert_eq!(links.oldest(Kind::Quiet, at(1), JUST_NOW), Some(PeerId(1)));
    links.heard(at(2), PeerId(1), PublicKey([1; 32]));
    assert_eq!((links.count(Kind::Quiet), links.count(Kind::Came)), (0, 1));
    assert!(links.sweep_at.is_some());
    links.leave(PeerId(1));
    assert!(links.used.is_empty() && links.order.iter().all(BTreeSet::is_empty));
}
