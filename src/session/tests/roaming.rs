//! Peers that move, and those who only pretend that they do.

use std::net::SocketAddr;

use super::pair::Pair;
use crate::limits::AMPLIFICATION_MAX;
use crate::session::{Event, Received, SealError};

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

#[test]
fn either_side_may_move_and_is_followed_once_it_answers() {
    for (mover, other) in [(0, 1), (1, 0)] {
        let mut pair = Pair::new(1);
        let (ours, theirs) = pair.connected();
        let keys = [ours, theirs];
        let new = address("192.0.2.77:4444");
        pair.nodes[mover].address = new;
        pair.send(mover, keys[mover], b"hello from elsewhere").unwrap();
        pair.run_ms(10);
        let it = &pair.nodes[other].sessions;
        assert_eq!(it.path(keys[other]).unwrap().remote, new);
        assert!(it.budget(keys[other]) < 1000, "not before it is validated");
        assert!(pair.nodes[other].events.iter().any(
            |event| matches!(event, Event::Moved { session, path } if *session == keys[other] && path.remote == new)
        ));
        pair.run_ms(30);
        assert_eq!(pair.nodes[other].sessions.budget(keys[other]), u64::MAX);
        assert_eq!(pair.nodes[other].sessions.counters().paths_validated, 1);
        pair.send(other, keys[other], b"found you").unwrap();
        pair.run_ms(20);
        assert_eq!(pair.nodes[mover].received(), [b"found you"]);
    }
}

#[test]
fn an_unvalidated_path_gets_three_times_what_it_sent_and_no_more() {
    let mut pair = Pair::new(2);
    let (ours, theirs) = pair.connected();
    let victim = address("203.0.113.5:53");
    let packet = pair.seal(0, ours, &[0; 1000]).unwrap();
    pair.deliver(1, victim, &packet);
    for size in [500, 100, 1, 0] {
        let error = (0..200).find_map(|_| pair.send(1, theirs, &vec![0; size]).err());
        assert_eq!(error, Some(SealError::Budget));
    }
    pair.run_ms(20_000);
    let sent = pair.bytes(pair.nodes[1].address, victim) as u64;
    assert!(sent <= AMPLIFICATION_MAX * packet.len() as u64, "{sent}");
    assert!(sent + 100 >= AMPLIFICATION_MAX * packet.len() as u64, "{sent}");
}

#[test]
fn a_path_that_never_answers_is_left_again() {
    let mut pair = Pair::new(3);
    let (ours, theirs) = pair.connected();
    let home = pair.nodes[0].address;
    // The real node stays where it is, and silent, and its answer to the probe is lost.
    let packet = pair.seal(0, ours, b"captured").unwrap();
    let elsewhere = address("203.0.113.5:53");
    assert!(matches!(pair.deliver(1, elsewhere, &packet), Received::Packet { .. }));
    assert_eq!(pair.nodes[1].sessions.path(theirs).unwrap().remote, elsewhere);
    pair.nodes[0].address = address("10.99.0.1:1");
    pair.run_ms(5000);
    assert_eq!(pair.nodes[1].sessions.path(theirs).unwrap().remote, home);
    assert_eq!(pair.nodes[1].sessions.budget(theirs), u64::MAX);
    assert_eq!(pair.nodes[1].sessions.counters().paths_failed, 1);
}

#[test]
fn a_packet_that_was_copied_and_overtook_itself_does_not_move_the_peer_for_long() {
    let mut pair = Pair::new(4);
    let (ours, theirs) = pair.connected();
    let home = pair.nodes[0].address;
    let packet = pair.seal(0, ours, b"raced").unwrap();
    pair.deliver(1, address("203.0.113.5:53"), &packet);
    // The probe on the old path is answered from there, and that is the newest word.
    pair.run_ms(30);
    assert_eq!(pair.nodes[1].sessions.path(theirs).unwrap().remote, home);
    assert_eq!(pair.nodes[1].sessions.budget(theirs), u64::MAX);
}

#[test]
fn a_straggler_from_the_old_address_moves_nothing() {
    let mut pair = Pair::new(5);
    let (ours, theirs) = pair.connected();
    let old = pair.nodes[0].address;
    let straggler = pair.seal(0, ours, b"late").unwrap();
    let new = address("192.0.2.77:4444");
    pair.nodes[0].address = new;
    pair.send(0, ours, b"moved").unwrap();
    pair.run_ms(100);
    assert!(matches!(pair.deliver(1, old, &straggler), Received::Packet { .. }));
    assert_eq!(pair.nodes[1].sessions.path(theirs).unwrap().remote, new);
}

#[test]
fn a_lost_challenge_is_sent_again() {
    let mut pair = Pair::new(6);
    let (ours, theirs) = pair.connected();
    pair.nodes[0].address = address("192.0.2.77:4444");
    pair.send(0, ours, &[0; 300]).unwrap();
    pair.loss = 1.0;
    pair.run_ms(100);
    pair.loss = 0.0;
    pair.run_ms(1000);
    assert_eq!(pair.nodes[1].sessions.budget(theirs), u64::MAX);
}
