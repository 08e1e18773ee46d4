//! Peers that move, and those who only pretend that they do.

use std::net::SocketAddr;

use super::pair::Pair;
use crate::limits::AMPLIFICATION_MAX;
use crate::session::{Event, Received, SealError, SessionKey};

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

/// Node 1 has two sockets, and both sides talk all the time. Returns how often each side moved in `ms`.
fn talk_with_two_sockets(pair: &mut Pair, ours: SessionKey, theirs: SessionKey, ms: u64) -> [u64; 2] {
    let before = [0, 1].map(|node| pair.nodes[node].sessions.counters().roams);
    for _ in 0..ms / 2 {
        // Where there is no budget for it, later.
        let _ = pair.send(0, ours, &[1; 100]);
        let _ = pair.send(1, theirs, &[2; 100]);
        pair.run_ms(2);
    }
    [0, 1].map(|node| pair.nodes[node].sessions.counters().roams - before[node])
}

#[test]
fn two_sockets_of_a_node_have_no_session_go_back_and_forth() {
    let mut pair = Pair::new(7);
    let (ours, theirs) = pair.connected();
    let (first, second) = (pair.nodes[1].address, address("10.0.0.2:2000"));
    pair.nodes[1].also = vec![second];
    // Half a round trip's packets by the other socket, and what is under way both ways meanwhile.
    talk_with_two_sockets(&mut pair, ours, theirs, 100);
    for _ in 0..5 {
        let packet = pair.seal(0, ours, b"by another door").unwrap();
        let from = pair.nodes[0].address;
        pair.launch(from, second, packet);
        pair.send(1, theirs, &[2; 100]).unwrap();
        pair.run_ms(2);
    }
    talk_with_two_sockets(&mut pair, ours, theirs, 1000);
    assert_eq!(talk_with_two_sockets(&mut pair, ours, theirs, 10_000), [0, 0], "it has come to rest");
    assert_eq!(pair.nodes[0].sessions.budget(ours), u64::MAX);

    // The socket that they use is closed: it is followed to the other.
    let used = pair.nodes[0].sessions.path(ours).unwrap().remote;
    let other = if used == first { second } else { first };
    (pair.nodes[1].address, pair.nodes[1].also) = (other, Vec::new());
    talk_with_two_sockets(&mut pair, ours, theirs, 3_000);
    assert_eq!(pair.nodes[0].sessions.path(ours).unwrap().remote, other);
    assert_eq!(pair.nodes[0].sessions.budget(ours), u64::MAX);
}

#[test]
fn two_addresses_of_a_translator_have_no_session_go_back_and_forth() {
    let mut pair = Pair::new(8);
    let (ours, theirs) = pair.connected();
    let (first, second) = (pair.nodes[0].address, address("192.0.2.77:4444"));
    // Each packet leaves by the other one, and what comes to either arrives.
    let flip = |pair: &mut Pair| {
        let it = &mut pair.nodes[0];
        (it.address, it.also) =
            if it.address == first { (second, vec![first]) } else { (first, vec![second]) };
    };
    let mut moved = 0;
    for round in 0..2_000 {
        flip(&mut pair);
        let packet = pair.seal(0, ours, &[1; 100]).unwrap();
        let (from, to) = (pair.nodes[0].address, pair.nodes[1].address);
        pair.launch(from, to, packet);
        let _ = pair.send(1, theirs, &[2; 100]);
        pair.run_ms(5);
        if round == 200 {
            moved = pair.nodes[1].sessions.counters().roams;
        }
    }
    assert_eq!(pair.nodes[1].sessions.counters().roams, moved, "it stays at one of them");
    assert_eq!(pair.nodes[1].sessions.budget(theirs), u64::MAX);
}
