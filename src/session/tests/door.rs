//! Sessions with friends alone: whoever else knows our identity hears nothing.

use std::collections::BTreeSet;

use super::pair::{Pair, config, identity};
use crate::base::PublicKey;
use crate::limits::HANDSHAKES_FREE_PER_SECOND;
use crate::session::{ConnectError, DropCause, Event, Received};

fn only(pair: &mut Pair, friends: &[usize]) {
    let friends: BTreeSet<PublicKey> =
        friends.iter().map(|friend| pair.nodes[*friend].identity.card().key).collect();
    let now = pair.now;
    pair.nodes[1].sessions.set_door(now, Some(friends));
    pair.flush(1);
}

#[test]
fn a_stranger_that_knows_the_identity_hears_nothing_whatever_it_asks() {
    let mut pair = Pair::new(1);
    only(&mut pair, &[]);
    pair.connect(0, 1, b"a request");
    let (init, from) = (pair.log[0].bytes.clone(), pair.nodes[0].address);
    // Again and again, since nothing of it is remembered.
    for _ in 0..3 {
        assert_eq!(pair.deliver(1, from, &init), Received::Dropped(DropCause::Uninvited));
    }
    let node = &pair.nodes[1];
    assert_eq!((pair.log.len(), node.sessions.counters().uninvited), (1, 3), "silence");
    assert!(node.sessions.is_empty() && node.events.is_empty() && node.early.is_empty());
    assert_eq!((node.sessions.counters().handshakes_in, node.sessions.peers.len()), (0, 0));
    pair.run_ms(30_000);
    let (own, its) = (pair.nodes[1].address, pair.nodes[0].address);
    assert_eq!(pair.bytes(own, its), 0);
    // As a friend it is heard.
    only(&mut pair, &[0]);
    let again = pair.connect(0, 1, b"a request");
    pair.run_ms(100);
    assert!(pair.nodes[0].sessions.is_established(again) && pair.nodes[1].early.len() == 1);
}

/// A cookie is sent before it is known who asks.
#[test]
fn there_are_no_cookies_under_load() {
    for is_closed in [false, true] {
        let mut pair = Pair::new(2);
        let stranger = pair.add(config(&identity(3)));
        if is_closed {
            only(&mut pair, &[0]);
        }
        for n in 0..u64::from(HANDSHAKES_FREE_PER_SECOND) + 50 {
            pair.restart(stranger, config(&identity(3)));
            let before = pair.log.len();
            pair.connect(stranger, 1, b"");
            let init = pair.log[before].bytes.clone();
            let from = ([10, 9, (n / 8) as u8, n as u8], 7).into();
            pair.deliver(1, from, &init);
        }
        let (own, counters) = (pair.nodes[1].address, *pair.nodes[1].sessions.counters());
        assert_eq!(counters.cookies_sent == 0, is_closed, "{counters:?}");
        if is_closed {
            assert!(pair.log.iter().all(|one| one.from != own), "not a byte");
            assert!(counters.rate_limited > 0 && counters.uninvited >= u64::from(HANDSHAKES_FREE_PER_SECOND));
        }
    }
}

#[test]
fn whoever_is_no_friend_is_closed_and_not_called() {
    let mut pair = Pair::new(3);
    let third = pair.add(config(&identity(3)));
    let (_, ours) = pair.connected();
    let stranger = pair.connect(third, 1, b"");
    pair.run_ms(100);
    pair.nodes[1].events.clear();
    only(&mut pair, &[0]);
    pair.run_ms(100);
    assert!(pair.nodes[1].sessions.is_established(ours), "a friend stays");
    assert!(!pair.nodes[third].sessions.is_established(stranger));
    let closed = |event: &&Event| matches!(event, Event::Closed { .. });
    assert_eq!(pair.nodes[1].events.iter().filter(closed).count(), 1);
    let (now, wall) = (pair.now, pair.wall(1));
    let (card, address) = (*pair.nodes[third].identity.card(), pair.nodes[third].address);
    let called = pair.nodes[1].sessions.connect(now, wall, &card, &[address], b"");
    assert_eq!(called, Err(ConnectError::Uninvited));
    // The door opens again.
    pair.nodes[1].sessions.set_door(now, None);
    let again = pair.connect(third, 1, b"");
    pair.run_ms(100);
    assert!(pair.nodes[third].sessions.is_established(again));
}

#[test]
fn nobody_is_heard_before_it_is_said_who_may_be() {
    let mut pair = Pair::new(4);
    let closed = crate::session::Config { only_friends: true, ..config(&pair.nodes[1].identity) };
    pair.restart(1, closed);
    pair.connect(0, 1, b"");
    let (init, from) = (pair.log[0].bytes.clone(), pair.nodes[0].address);
    assert_eq!(pair.deliver(1, from, &init), Received::Dropped(DropCause::Uninvited));
    assert_eq!(pair.log.len(), 1);
}
