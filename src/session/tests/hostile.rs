//! Strangers, forgers, replayers, floods, watchers.

use proptest::prelude::*;

use super::pair::{Pair, config, identity};
use crate::limits::{
    ADDRESS_TOKEN_BYTES_MAX, ADDRESS_TOKEN_BYTES_PER_PERIOD, AMPLIFICATION_MAX, CLOCK_SKEW_MS_MAX,
    COOKIE_WINDOW_MS, COOKIES_PER_SECOND, HANDSHAKES_FREE_PER_SECOND, HANDSHAKES_PER_PREFIX_PER_SECOND,
    NUMBERS_BETWEEN_SKIPS_MAX, PACKET_OVERHEAD,
};
use crate::session::{DropCause, PacketKind, Received};
use crate::wire::packet::PAYLOAD_AT;

fn assert_untouched(pair: &Pair, sent: usize) {
    let node = &pair.nodes[1];
    assert_eq!(pair.log.len(), sent, "silence");
    assert!(node.sessions.is_empty() && node.events.is_empty() && node.early.is_empty());
    assert!(node.sessions.cids.is_empty() && node.sessions.poll_timeout().is_none());
    assert_eq!(node.sessions.peers.len(), 0);
}

proptest! {
    #[test]
    fn random_bytes_get_silence(datagrams in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..1500), 1..20)) {
        let mut pair = Pair::new(1);
        for bytes in &datagrams {
            let from = ([10, 0, 0, 9], 9).into();
            prop_assert_eq!(pair.deliver(1, from, bytes), Received::Dropped(DropCause::Stranger));
        }
        prop_assert_eq!(pair.nodes[1].sessions.counters().strangers, datagrams.len() as u64);
        assert_untouched(&pair, 0);
    }
}

#[test]
fn a_damaged_first_flight_gets_silence() {
    let mut pair = Pair::new(2);
    pair.connect(0, 1, b"request");
    let (init, from) = (pair.log[0].bytes.clone(), pair.nodes[0].address);
    for at in 0..init.len() {
        let mut flipped = init.clone();
        flipped[at] ^= 1 << (at % 8);
        assert!(matches!(pair.deliver(1, from, &flipped), Received::Dropped(_)), "byte {at}");
        assert!(matches!(pair.deliver(1, from, &init[..at]), Received::Dropped(_)), "cut at {at}");
    }
    let longer = [&init[..], &[0; 16]].concat();
    assert!(matches!(pair.deliver(1, from, &longer), Received::Dropped(_)));
    assert_untouched(&pair, 1);
    assert!(matches!(pair.deliver(1, from, &init), Received::Early { .. }), "and the right one still works");
}

#[test]
fn who_knows_another_identity_is_a_stranger() {
    let mut pair = Pair::new(3);
    let third = pair.add(config(&identity(3)));
    pair.connect(0, third, b"");
    let (init, from) = (pair.log[0].bytes.clone(), pair.nodes[0].address);
    assert_eq!(pair.deliver(1, from, &init), Received::Dropped(DropCause::Stranger));
    assert_untouched(&pair, 1);
}

#[test]
fn forged_and_replayed_packets_are_counted_and_change_nothing() {
    let mut pair = Pair::new(4);
    let (ours, theirs) = pair.connected();
    let from = pair.nodes[0].address;
    let packet = pair.seal(0, ours, b"content").unwrap();
    let elsewhere = ([10, 0, 0, 66], 66).into();
    let before = *pair.nodes[1].sessions.counters();
    let mut drops = 0;
    for at in 0..packet.len() {
        let mut forged = packet.clone();
        forged[at] ^= 0x20;
        assert!(matches!(pair.deliver(1, elsewhere, &forged), Received::Dropped(_)));
        assert!(matches!(pair.deliver(1, elsewhere, &packet[..at]), Received::Dropped(_)));
        drops += 2;
    }
    assert_eq!(pair.nodes[1].sessions.path(theirs).unwrap().remote, from);
    assert!(matches!(pair.deliver(1, from, &packet), Received::Packet { .. }));
    assert_eq!(pair.deliver(1, elsewhere, &packet), Received::Dropped(DropCause::Replayed));
    assert_eq!(pair.nodes[1].sessions.path(theirs).unwrap().remote, from, "a replay moves nobody");
    let after = *pair.nodes[1].sessions.counters();
    let counted = |c: &crate::session::Counters| c.forged + c.strangers + c.replayed + c.late;
    assert_eq!(counted(&after) - counted(&before), drops + 1);
    assert!(after.forged > 0 && after.replayed > 0);
}

#[test]
fn under_load_a_cookie_is_asked_for_and_an_honest_initiator_gets_in() {
    let mut pair = Pair::new(5);
    // A flood of genuine first flights from everywhere, by one who knows node 1's identity.
    let flood = pair.add(config(&identity(7)));
    let card = *pair.nodes[1].identity.card();
    let mut admitted = 0;
    for n in 0..HANDSHAKES_FREE_PER_SECOND + 20 {
        let again = config(&identity(7));
        pair.restart(flood, again);
        let (now, wall, target) = (pair.now, pair.wall(flood), pair.nodes[1].address);
        pair.nodes[flood].sessions.connect(now, wall, &card, &[target], b"").unwrap();
        let mut buf = [0; 1500];
        let (_, len) = pair.nodes[flood].sessions.poll_transmit(now, wall, &mut buf).unwrap();
        let before = pair.log.len();
        let from = ([172, 16, (n / 20) as u8, 9], 9).into();
        pair.deliver(1, from, &buf[..len]);
        assert_eq!(pair.log.len(), before + 1);
        assert!(pair.log[before].bytes.len() <= len, "answers are no larger than questions");
        admitted = pair.nodes[1].sessions.counters().handshakes_in;
    }
    assert_eq!(admitted, u64::from(HANDSHAKES_FREE_PER_SECOND));
    assert_eq!(pair.nodes[1].sessions.counters().cookies_sent, 20);
    let ours = pair.connect(0, 1, b"request");
    pair.run_ms(50);
    assert!(pair.nodes[0].sessions.is_established(ours), "within two round trips");
    assert_eq!(pair.nodes[0].sessions.counters().cookies_received, 1);
    let theirs = pair.nodes[1].early[0].0;
    assert_eq!(pair.nodes[1].sessions.budget(theirs), u64::MAX, "the cookie proves the address");
}

#[test]
fn a_cookie_from_elsewhere_or_for_another_flight_is_ignored() {
    let mut pair = Pair::new(6);
    pair.connect(0, 1, b"");
    let (from, other) = (pair.nodes[1].address, ([10, 0, 0, 77], 1).into());
    let disguise = super::super::disguise::Disguise::of(&pair.nodes[1].identity.card().key);
    let mut init = pair.log[0].bytes.clone();
    let header = disguise.header(&init).unwrap();
    let (nonce, _) = disguise.open(&header, &mut init).unwrap();
    let mut wrong = nonce;
    wrong[0] ^= 1;
    let make = |pair: &mut Pair, nonce| {
        super::super::disguise::write_cookie(&disguise.cookie_key(&nonce), &[5; 16], &mut pair.rng)
    };
    let (bad, good) = (make(&mut pair, wrong), make(&mut pair, nonce));
    assert_eq!(pair.deliver(0, from, &bad), Received::Dropped(DropCause::Stranger));
    assert_eq!(pair.deliver(0, other, &good), Received::Dropped(DropCause::Stranger));
    assert_eq!(pair.log.len(), 1);
    assert_eq!(pair.deliver(0, from, &good), Received::Handled);
    assert_eq!(pair.log.len(), 2, "tried again at once");
}

#[test]
fn a_prefix_that_shakes_hands_too_often_must_prove_itself() {
    let mut pair = Pair::new(7);
    let flood = pair.add(config(&identity(7)));
    let card = *pair.nodes[1].identity.card();
    for _ in 0..HANDSHAKES_PER_PREFIX_PER_SECOND + 5 {
        let again = config(&identity(7));
        pair.restart(flood, again);
        let (now, wall, target) = (pair.now, pair.wall(flood), pair.nodes[1].address);
        pair.nodes[flood].sessions.connect(now, wall, &card, &[target], b"").unwrap();
        let mut buf = [0; 1500];
        let (_, len) = pair.nodes[flood].sessions.poll_transmit(now, wall, &mut buf).unwrap();
        pair.deliver(1, ([172, 16, 0, 9], 9).into(), &buf[..len]);
    }
    let counters = *pair.nodes[1].sessions.counters();
    assert_eq!(counters.handshakes_in, u64::from(HANDSHAKES_PER_PREFIX_PER_SECOND));
    assert_eq!(counters.cookies_sent, 5);
    assert!(
        pair.nodes[1].sessions.len() <= crate::limits::UNCONFIRMED_PER_PEER_MAX,
        "one identity, few sessions"
    );
}

#[test]
fn a_victim_whose_address_is_forged_gets_little() {
    let mut pair = Pair::new(8);
    // Node 0's first flight, sent on by somebody with the victim's address.
    pair.connect(0, 1, b"request");
    let victim = ([203, 0, 113, 1], 53).into();
    let init = pair.log[0].bytes.clone();
    pair.deliver(1, victim, &init);
    let theirs = pair.nodes[1].established().unwrap();
    assert!((0..5000).any(|_| pair.send(1, theirs, &[0; 500]).is_err()));
    assert!((0..5000).any(|_| pair.send(1, theirs, &[0; 1]).is_err()));
    pair.run_ms(30_000);
    let sent = pair.bytes(pair.nodes[1].address, victim);
    assert!(sent as u64 <= AMPLIFICATION_MAX * init.len() as u64, "{sent} for {}", init.len());
    assert!(sent > 2 * init.len(), "the budget is there to be used");
}

/// A watcher who does not know the identities sees no byte that is always the same, or even often, at any
/// place of any kind of datagram, counted from either end.
#[test]
fn no_byte_of_any_datagram_is_constant() {
    const RUNS: usize = 600;
    let mut kinds: Vec<Vec<Vec<u8>>> = vec![Vec::new(); 6];
    for seed in 0..RUNS as u64 {
        let mut pair = Pair::new(seed);
        let ours = pair.connect(0, 1, b"GET /");
        pair.run_ms(60);
        let theirs = pair.nodes[1].established().unwrap();
        for (kind, one) in pair.log.iter().take(4).enumerate() {
            kinds[kind].push(one.bytes.clone());
        }
        kinds[4].push(pair.seal(0, ours, &[0; 40]).unwrap());
        kinds[5].push(pair.seal(1, theirs, &[0; 40]).unwrap());
    }
    for (kind, list) in kinds.iter().enumerate() {
        assert_eq!(list.len(), RUNS);
        let shortest = list.iter().map(Vec::len).min().unwrap();
        for at in 0..shortest {
            for from_end in [false, true] {
                let mut histogram = [0u32; 256];
                for bytes in list {
                    histogram[usize::from(if from_end { bytes[bytes.len() - 1 - at] } else { bytes[at] })] +=
                        1;
                }
                // 600 throws at 256 values: about 2.3 each; 16 and above has odds below 10⁻⁹ per value.
                let most = *histogram.iter().max().unwrap();
                assert!(most < 16, "kind {kind}, byte {at} (from end: {from_end}): {most} of {RUNS}");
            }
        }
        if kind < 4 {
            let mut lengths: Vec<_> = list.iter().map(Vec::len).collect();
            lengths.sort_unstable();
            lengths.dedup();
            assert!(lengths.len() > 20, "kind {kind} has {} lengths", lengths.len());
        }
    }
}

/// First flights whose disguise is right and whose content is noise, from address after address: all that
/// who knows the identity can send without a private key's work.
fn hollow(pair: &mut Pair, count: u32, from: impl Fn(u32) -> std::net::SocketAddr) {
    use super::super::disguise::{BODY_AT, Disguise, STAMP_SIZE};
    use crate::wire::handshake::INIT;
    let disguise = Disguise::of(&pair.nodes[1].identity.card().key);
    let wall = pair.wall(1);
    for n in 0..count {
        let mut datagram = vec![0; 1100];
        pair.rng.fill(&mut datagram[BODY_AT + STAMP_SIZE + 16..]);
        datagram[BODY_AT..][..STAMP_SIZE].copy_from_slice(&wall.0.to_le_bytes());
        disguise.seal(INIT, &mut pair.rng, &mut datagram);
        pair.deliver(1, from(n), &datagram);
    }
}

#[test]
fn cookies_are_bounded_for_a_prefix_and_for_all() {
    let mut pair = Pair::new(20);
    hollow(&mut pair, 1000, |n| ([172, 16, 0, n as u8], 9).into());
    let one = pair.nodes[1].sessions.counters().cookies_sent;
    assert_eq!(one, u64::from(HANDSHAKES_PER_PREFIX_PER_SECOND));
    assert_eq!(pair.log.len() as u64, one);
    // Of a flood from everywhere chance picks; its first moments may take twice the share.
    let window = COOKIES_PER_SECOND * COOKIE_WINDOW_MS / 1000;
    hollow(&mut pair, 40_000, |n| ([172, 17 + (n >> 8) as u8, n as u8, 1], 9).into());
    assert_eq!(pair.nodes[1].sessions.counters().cookies_sent, 2 * window);
    assert!(pair.nodes[1].sessions.is_empty());
    pair.run_ms(COOKIE_WINDOW_MS);
    hollow(&mut pair, 40_000, |n| ([172, 17 + (n >> 8) as u8, n as u8, 2], 9).into());
    let more = pair.nodes[1].sessions.counters().cookies_sent - 2 * window;
    assert!(more.abs_diff(window) < window / 4, "{more} cookies in a window of a flood");
}

#[test]
fn a_recorded_first_flight_is_not_answered_under_load_and_takes_nothing() {
    let mut pair = Pair::new(21);
    pair.connected();
    let (init, from) = (pair.log[0].bytes.clone(), ([192, 0, 2, 1], 9).into());
    for _ in 0..2 * HANDSHAKES_FREE_PER_SECOND {
        assert_eq!(pair.deliver(1, from, &init), Received::Dropped(DropCause::Replayed));
    }
    hollow(&mut pair, 1, |_| from);
    assert_eq!(pair.nodes[1].sessions.counters().cookies_sent, 0, "replays used up nobody's share");
    // Now there is load; and later the record is too old, as anybody can see who has the identity.
    hollow(&mut pair, 2000, |n| ([172, 16, n as u8, (n >> 8) as u8], 9).into());
    let sent = pair.log.len();
    assert_eq!(pair.deliver(1, from, &init), Received::Dropped(DropCause::Replayed));
    pair.run_ms(4 * CLOCK_SKEW_MS_MAX);
    hollow(&mut pair, 2000, |n| ([172, 16, n as u8, (n >> 8) as u8], 9).into());
    let cookies = pair.nodes[1].sessions.counters().cookies_sent;
    assert_eq!(pair.deliver(1, from, &init), Received::Dropped(DropCause::Skewed));
    assert_eq!(pair.nodes[1].sessions.counters().cookies_sent, cookies);
    assert!(sent < pair.log.len(), "the others were answered");
}

#[test]
fn a_token_shown_in_anothers_name_is_good_for_a_bounded_number_of_bytes() {
    let mut pair = Pair::new(22);
    pair.connected();
    // The address that the token names is somebody else's by now: what comes from there is not its holder.
    let victim = (pair.nodes[0].address.ip(), 7777).into();
    let mut promised = 0;
    for round in 0..40 {
        let (card, wall) = (*pair.nodes[1].identity.card(), pair.wall(0));
        let (now, target) = (pair.now, pair.nodes[1].address);
        let key = pair.nodes[0].sessions.connect(now, wall, &card, &[target], b"request").unwrap();
        let mut buf = [0; 1500];
        let (_, len) = pair.nodes[0].sessions.poll_transmit(now, wall, &mut buf).unwrap();
        pair.nodes[0].sessions.close(now, key, crate::session::CloseCode::GOODBYE, "");
        pair.deliver(1, victim, &buf[..len]);
        let (theirs, _) = *pair.nodes[1].early.last().expect("taken");
        let budget = pair.nodes[1].sessions.budget(theirs);
        assert!(
            budget <= ADDRESS_TOKEN_BYTES_MAX + AMPLIFICATION_MAX * len as u64,
            "round {round}: {budget}"
        );
        promised += budget.saturating_sub(AMPLIFICATION_MAX * len as u64);
    }
    assert!(promised <= ADDRESS_TOKEN_BYTES_PER_PERIOD, "{promised}");
    assert_eq!(pair.nodes[1].early.len(), 40);
}

#[test]
fn numbers_are_left_out_where_nobody_can_know_and_the_caller_is_told() {
    let left_out = |seed: u64| {
        let mut pair = Pair::new(seed);
        let (ours, theirs) = pair.connected();
        let (mut gaps, mut told, mut last) = (Vec::new(), Vec::new(), None);
        for _ in 0..6000 {
            let sessions = &mut pair.nodes[0].sessions;
            let mut packet = vec![0; PACKET_OVERHEAD + 4];
            let next = sessions.next_number(ours);
            let number = sessions.seal(pair.now, ours, PacketKind::Stream, &mut packet).unwrap();
            assert_eq!(next, Some(number));
            gaps.extend(last.map_or(number, |last: u64| last + 1)..number);
            last = Some(number);
            let from = pair.nodes[0].address;
            let received = pair.deliver(1, from, &packet);
            let payload = PAYLOAD_AT..PAYLOAD_AT + 4;
            assert_eq!(
                received,
                Received::Packet { session: theirs, number, kind: PacketKind::Stream, payload }
            );
            told.extend(pair.nodes[0].sessions.take_skipped(ours));
        }
        told.retain(|number| Some(*number) < last);
        assert_eq!(gaps, told);
        gaps
    };
    let (one, other) = (left_out(23), left_out(24));
    for gaps in [&one, &other] {
        assert!(gaps.len() > 6 && gaps[0] < 100, "{gaps:?}");
        assert!(gaps.windows(2).all(|pair| pair[1] - pair[0] <= NUMBERS_BETWEEN_SKIPS_MAX + 1), "{gaps:?}");
    }
    assert_ne!(one, other);
}

#[test]
fn a_control_packet_has_a_number_to_be_acknowledged() {
    let mut pair = Pair::new(25);
    let (ours, theirs) = pair.connected();
    let number = pair.nodes[0].sessions.next_number(ours).unwrap();
    pair.close(0, ours, crate::session::CloseCode::GOODBYE, "");
    let (from, close) = (pair.nodes[0].address, pair.log.last().unwrap().bytes.clone());
    assert_eq!(pair.deliver(1, from, &close), Received::Control { session: theirs, number });
}
