//! Keys over time, silence, keepalive, close.

use super::pair::Pair;
use crate::limits::{
    CLOSE_LINGER_MS, CLOSE_REASON_MAX, CLOSE_REPEATS_MAX, EPOCH_AGE_MS_MAX, KEEPALIVE_MS, PACKET_OVERHEAD,
    SESSION_IDLE_MS_MAX,
};
use crate::session::{CloseCode, ClosedWhy, DropCause, Event, PacketKind, Received, SealError};
use crate::wire::packet::PAYLOAD_AT;

#[test]
fn keys_change_with_time_and_nothing_is_lost() {
    let mut pair = Pair::new(1);
    let (ours, theirs) = pair.connected();
    (pair.delay_ms, pair.duplicate) = (5..200, 0.2);
    let steps = 40u32;
    for n in 0..steps {
        pair.send(0, ours, &n.to_le_bytes()).unwrap();
        pair.send(1, theirs, &n.to_le_bytes()).unwrap();
        pair.run_ms(EPOCH_AGE_MS_MAX / 16);
    }
    for (node, peer) in [(0, 1), (1, 0)] {
        assert_eq!(pair.nodes[node].received().len(), steps as usize);
        let epochs = pair.nodes[node].sessions.counters().rekeys_sent;
        assert!((2..=3).contains(&epochs), "{epochs}");
        assert_eq!(pair.nodes[peer].sessions.counters().rekeys_received, epochs);
    }
}

#[test]
fn silence_ends_a_session_and_keepalive_on_one_side_keeps_both() {
    let mut pair = Pair::new(2);
    let (ours, theirs) = pair.connected();
    pair.nodes[0].sessions.set_keepalive(ours, true);
    pair.run_ms(10 * SESSION_IDLE_MS_MAX);
    assert!(pair.nodes[0].sessions.is_established(ours) && pair.nodes[1].sessions.is_established(theirs));
    let pings = 10 * SESSION_IDLE_MS_MAX / KEEPALIVE_MS;
    assert!(pair.log.len() < 2 * pings as usize + 20, "{} datagrams", pair.log.len());
    pair.nodes[0].sessions.set_keepalive(ours, false);
    pair.run_ms(2 * SESSION_IDLE_MS_MAX);
    for (node, session) in [(0, ours), (1, theirs)] {
        let over = Event::Closed { session, why: ClosedWhy::Idle };
        assert_eq!(pair.nodes[node].events.last(), Some(&over));
        assert!(pair.nodes[node].sessions.is_empty() && pair.nodes[node].sessions.poll_timeout().is_none());
        assert!(pair.nodes[node].sessions.cids.is_empty());
    }
}

#[test]
fn a_close_is_heard_with_its_reason() {
    let mut pair = Pair::new(3);
    let (ours, theirs) = pair.connected();
    pair.close(0, ours, CloseCode::SHUTDOWN, "the daemon ends");
    assert_eq!(pair.nodes[0].events.last(), Some(&Event::Closed { session: ours, why: ClosedWhy::Local }));
    assert_eq!(pair.send(0, ours, b"x"), Err(SealError::Unknown));
    pair.run_ms(10);
    let why = ClosedWhy::Peer { code: CloseCode::SHUTDOWN, reason: "the daemon ends".into() };
    assert_eq!(pair.nodes[1].events.last(), Some(&Event::Closed { session: theirs, why }));
    assert!(pair.nodes[1].sessions.is_empty());
    pair.run_ms(CLOSE_LINGER_MS);
    assert!(pair.nodes[0].sessions.is_empty() && pair.nodes[0].sessions.poll_timeout().is_none());
    let ends = pair.nodes[0].events.iter().filter(|event| matches!(event, Event::Closed { .. })).count();
    assert_eq!(ends, 1);
}

#[test]
fn a_lost_close_is_repeated_a_bounded_number_of_times() {
    let mut pair = Pair::new(4);
    let (ours, theirs) = pair.connected();
    let before = pair.log.len();
    pair.loss = 1.0;
    pair.close(0, ours, CloseCode(77), &"ä".repeat(CLOSE_REASON_MAX));
    for _ in 0..3 * CLOSE_REPEATS_MAX {
        let packet = pair.seal(1, theirs, b"still talking").unwrap();
        let from = pair.nodes[1].address;
        assert_eq!(pair.deliver(0, from, &packet), Received::Handled);
    }
    assert_eq!(pair.log.len() - before, 1 + usize::from(CLOSE_REPEATS_MAX));
    let close = pair.log.pop().unwrap().bytes;
    let from = pair.nodes[0].address;
    pair.deliver(1, from, &close);
    let Some(Event::Closed { why: ClosedWhy::Peer { code, reason }, .. }) = pair.nodes[1].events.last()
    else {
        panic!("not closed");
    };
    assert_eq!((code.0, reason.len()), (77, CLOSE_REASON_MAX));
}

#[test]
fn a_peer_that_breaks_the_protocol_is_told() {
    for (kind, payload) in [(PacketKind::Control, &[5u8, 200, 0][..]), (PacketKind::Control, &[1, 1, 0, 9])] {
        let mut pair = Pair::new(5);
        let (ours, theirs) = pair.connected();
        let mut packet = vec![0; PACKET_OVERHEAD + payload.len()];
        packet[PAYLOAD_AT..][..payload.len()].copy_from_slice(payload);
        pair.nodes[0].sessions.seal(pair.now, ours, kind, &mut packet).unwrap();
        let from = pair.nodes[0].address;
        assert_eq!(pair.deliver(1, from, &packet), Received::Dropped(DropCause::Malformed));
        let why = ClosedWhy::Fault(CloseCode::MALFORMED);
        assert_eq!(pair.nodes[1].events.last(), Some(&Event::Closed { session: theirs, why }));
        pair.run_ms(20);
        assert!(matches!(
            pair.nodes[0].events.last(),
            Some(Event::Closed { why: ClosedWhy::Peer { code: CloseCode::MALFORMED, .. }, .. })
        ));
    }
}

#[test]
fn closing_a_handshake_gives_it_up() {
    let mut pair = Pair::new(6);
    let ours = pair.connect_at(0, 1, &[([10, 9, 9, 9], 1).into()], b"");
    pair.close(0, ours, CloseCode::GOODBYE, "");
    let failed = Event::Failed { session: ours, why: crate::session::FailedWhy::Cancelled };
    assert_eq!(pair.nodes[0].events, [failed]);
    assert!(pair.nodes[0].sessions.is_empty() && pair.nodes[0].sessions.poll_timeout().is_none());
}

#[test]
fn packets_do_not_touch_the_timer_set() {
    let mut pair = Pair::new(7);
    let (ours, theirs) = pair.connected();
    pair.run_ms(15_000);
    let before = [0, 1].map(|node: usize| pair.nodes[node].sessions.poll_timeout());
    for _ in 0..500 {
        pair.send(0, ours, b"x").unwrap();
        pair.send(1, theirs, b"y").unwrap();
        pair.run_ms(20);
    }
    assert_eq!(before, [0, 1].map(|node: usize| pair.nodes[node].sessions.poll_timeout()));
    pair.run_ms(SESSION_IDLE_MS_MAX - 1000);
    assert!(pair.nodes[0].sessions.is_established(ours), "what fires too early is only set anew");
}

#[test]
fn numbers_are_what_next_number_said_and_short_packets_are_refused() {
    let mut pair = Pair::new(8);
    let (ours, _) = pair.connected();
    let next = pair.nodes[0].sessions.next_number(ours).unwrap();
    let now = pair.now;
    let sessions = &mut pair.nodes[0].sessions;
    assert_eq!(
        sessions.seal(now, ours, PacketKind::Stream, &mut [0; PACKET_OVERHEAD - 1]),
        Err(SealError::Short)
    );
    assert_eq!(sessions.seal(now, ours, PacketKind::Datagram, &mut [0; PACKET_OVERHEAD]), Ok(0));
    assert_eq!(sessions.next_number(ours), Some(next), "datagrams have numbers of their own");
    assert_eq!(sessions.seal(now, ours, PacketKind::Stream, &mut [0; PACKET_OVERHEAD]), Ok(next));
    assert_eq!(sessions.next_number(ours), Some(next + 1));
    assert_eq!(sessions.traffic(ours).map(|(sent, _)| sent > 0), Some(true));
}
