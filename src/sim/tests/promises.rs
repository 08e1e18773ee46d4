//! Nodes that ask each other for promises (docs/protocol/reserve.md).

use super::limits::limit;
use super::*;
use crate::limits::WIRE_PACKET_MAX;
use crate::node::command::{Asked, AskedSnapshot, NodeLimits, PeerLimits, Verdict};
use crate::shape::{Class, Reservation};

const LINE: u64 = 8_000_000;
/// What friends may have of it by asking: 15 %.
const SHARE: u64 = 1_200_000;

fn wanted(rate: u64) -> Reservation {
    Reservation { rate, burst: 2 * WIRE_PACKET_MAX, delay: millis(20) }
}

/// `from` asks `of`, for so many seconds; or gives it back.
fn ask(net: &mut Net, from: usize, of: usize, what: Option<(u64, u64)>) {
    let node = net.card(of).node_id();
    let now = net.nodes[from].clock(net.now).wall;
    let until = |seconds: u64| now.0 / 1000 + seconds;
    let asked = what.map(|(rate, seconds)| Asked { reservation: wanted(rate), until_s: until(seconds) });
    let peers = vec![(node, PeerLimits { asked, ..PeerLimits::default() })];
    limit(net, from, NodeLimits { peers, ..NodeLimits::default() });
}

/// What `of` said to `from`.
fn said(net: &mut Net, from: usize, of: usize) -> Option<AskedSnapshot> {
    let node = net.card(of).node_id();
    status(net, from).peers.iter().find(|peer| peer.node == node).and_then(|peer| peer.shaped.asked)
}

fn verdict(net: &mut Net, from: usize) -> Option<(Verdict, u64)> {
    said(net, from, 0).and_then(|asked| Some((asked.verdict?, asked.most)))
}

/// What `of` has promised to `to`.
fn reserved(net: &mut Net, of: usize, to: usize) -> Option<u64> {
    let node = net.card(to).node_id();
    status(net, of).peers.iter().find(|peer| peer.node == node).and_then(|peer| peer.shaped.reserved)
}

/// Node 0 and friends of it, connected.
fn friends(seed: u64, count: usize) -> Net {
    let mut net = Net::new(seed, count + 1, LinkConfig::clean(millis(5)));
    limit(&mut net, 0, NodeLimits { up: Some(LINE), ..NodeLimits::default() });
    let others: Vec<usize> = (1..=count).collect();
    net.befriend(0, &others);
    others.iter().for_each(|other| net.befriend(*other, &[0]));
    net.run_for(Duration::from_secs(2));
    net
}

#[test]
fn a_friend_is_promised_what_fits_and_told_what_would() {
    let mut net = friends(501, 3);
    ask(&mut net, 1, 0, Some((2_000_000, 600)));
    net.run_for(millis(200));
    assert_eq!(verdict(&mut net, 1), Some((Verdict::Rate, SHARE)));
    assert_eq!(reserved(&mut net, 0, 1), None);
    ask(&mut net, 1, 0, Some((1_000_000, 600)));
    net.run_for(millis(200));
    assert_eq!(verdict(&mut net, 1), Some((Verdict::Promised, 0)));
    assert_eq!(reserved(&mut net, 0, 1), Some(1_000_000));
    ask(&mut net, 2, 0, Some((1_000_000, 600)));
    net.run_for(millis(200));
    assert_eq!(verdict(&mut net, 2), Some((Verdict::Rate, 200_000)), "the rest");
    // Extended, and more of it, in the place of the first.
    ask(&mut net, 1, 0, Some((1_200_000, 1200)));
    net.run_for(millis(200));
    assert_eq!(verdict(&mut net, 1), Some((Verdict::Promised, 0)));
    assert!(said(&mut net, 1, 0).is_some_and(|asked| asked.left_s > 1190));
    // A refusal changes nothing.
    ask(&mut net, 1, 0, Some((5_000_000, 600)));
    net.run_for(millis(200));
    assert_eq!(reserved(&mut net, 0, 1), Some(1_200_000));
    // Given back, it is there for others.
    ask(&mut net, 1, 0, None);
    net.run_for(millis(200));
    assert_eq!((reserved(&mut net, 0, 1), said(&mut net, 1, 0)), (None, None));
    ask(&mut net, 2, 0, Some((SHARE, 600)));
    net.run_for(millis(200));
    assert_eq!(verdict(&mut net, 2), Some((Verdict::Promised, 0)));
}

/// Who gives may take it back, from one or from all, and whoever has it hears of that.
#[test]
fn a_promise_can_be_taken_back() {
    for one in [true, false] {
        let mut net = friends(505, 2);
        for asker in [1, 2] {
            ask(&mut net, asker, 0, Some((500_000, 600)));
        }
        net.run_for(millis(200));
        let refuses = PeerLimits { refuses: true, ..PeerLimits::default() };
        let peers = if one { vec![(net.card(1).node_id(), refuses)] } else { Vec::new() };
        let asked_share_milli = (!one).then_some(0);
        limit(&mut net, 0, NodeLimits { up: Some(LINE), peers, asked_share_milli, ..NodeLimits::default() });
        net.run_for(millis(200));
        let other = if one { (Some(500_000), Verdict::Promised) } else { (None, Verdict::Unwilling) };
        for (asker, (rate, said)) in [(1, (None, Verdict::Unwilling)), (2, other)] {
            assert_eq!(reserved(&mut net, 0, asker), rate, "{asker} {one}");
            assert_eq!(verdict(&mut net, asker), Some((said, 0)), "{asker} {one}");
        }
        // Asked again, it is refused; allowed again, it is given.
        ask(&mut net, 1, 0, Some((400_000, 600)));
        net.run_for(millis(200));
        assert_eq!(verdict(&mut net, 1), Some((Verdict::Unwilling, 0)));
        limit(&mut net, 0, NodeLimits { up: Some(LINE), ..NodeLimits::default() });
        ask(&mut net, 1, 0, Some((300_000, 600)));
        net.run_for(millis(200));
        assert_eq!(verdict(&mut net, 1), Some((Verdict::Promised, 0)));
    }
}

#[test]
fn a_stranger_is_promised_nothing() {
    let mut net = Net::new(502, 2, LinkConfig::clean(millis(5)));
    limit(&mut net, 0, NodeLimits { up: Some(LINE), ..NodeLimits::default() });
    net.befriend(1, &[0]);
    net.run_for(Duration::from_secs(2));
    ask(&mut net, 1, 0, Some((8_000, 600)));
    net.run_for(millis(200));
    assert_eq!(verdict(&mut net, 1), Some((Verdict::Unwilling, 0)));
}

#[test]
fn a_promise_ends_with_its_time_and_not_with_the_session() {
    let mut net = friends(503, 1);
    ask(&mut net, 1, 0, Some((1_000_000, 90)));
    net.run_for(millis(200));
    assert_eq!(reserved(&mut net, 0, 1), Some(1_000_000));
    net.restart(1);
    net.befriend(1, &[0]);
    net.run_for(Duration::from_secs(10));
    assert_eq!(reserved(&mut net, 0, 1), Some(1_000_000), "who comes back has it still");
    net.run_for(Duration::from_secs(85));
    assert_eq!(reserved(&mut net, 0, 1), None);
}

/// Five get from one at once; the one that asked first has its rate whatever the others take, and what it takes above is
/// its other traffic.
#[test]
fn what_was_promised_over_the_wire_is_kept_under_load() {
    let mut net = friends(504, 5);
    let tree = tree(504);
    let reference = put(&mut net, &[0], &tree);
    ask(&mut net, 1, 0, Some((1_200_000, 600)));
    net.run_for(millis(200));
    // Its share alone would be less: it weighs a tenth of the others.
    let others = NodeLimits {
        up: Some(LINE),
        peers: vec![(net.card(1).node_id(), PeerLimits { weight: Some(1), ..PeerLimits::default() })],
        ..NodeLimits::default()
    };
    limit(&mut net, 0, others);
    (1..=5).for_each(|node| get(&mut net, node, 1, &reference, &[]));
    net.run_for(Duration::from_secs(2));
    let node = net.card(1).node_id();
    let sent = |net: &mut Net| {
        let snapshot = status(net, 0);
        let peer = snapshot.peers.iter().find(|peer| peer.node == node).expect("connected").shaped;
        (peer.wire_sent_bytes, peer.overuse_bytes, snapshot)
    };
    let (before, over_before, _) = sent(&mut net);
    net.run_for(Duration::from_secs(5));
    let (after, over, snapshot) = sent(&mut net);
    let rate = (after - before) as f64 * 8.0 / 5.0;
    assert!(rate >= 1_200_000.0 * 0.99, "{rate}");
    assert!(over > over_before, "what it takes above is demoted");
    let realtime = snapshot.classes.iter().find(|(class, _)| *class == Class::Realtime).expect("there");
    assert!(realtime.1.delay.quantile(0.99) <= millis(20), "{:?}", realtime.1.delay.quantile(0.99));
}

/// Who gives a promise back and asks again, over and over, has no burst each time.
#[test]
fn asking_again_and_again_brings_no_bursts() {
    let mut net = friends(505, 2);
    let reference = put(&mut net, &[0], &tree(505));
    let weight = |weight: u16| PeerLimits { weight: Some(weight), ..PeerLimits::default() };
    let peers = vec![(net.card(1).node_id(), weight(1)), (net.card(2).node_id(), weight(100))];
    limit(&mut net, 0, NodeLimits { up: Some(LINE), peers, ..NodeLimits::default() });
    (1..=2).for_each(|node| get(&mut net, node, 1, &reference, &[]));
    net.run_for(Duration::from_secs(1));
    let node = net.card(0).node_id();
    let before = limits::wire(&mut net, 1, "received");
    let mut promised = 0;
    for turn in 0..40 {
        // 8 kbit/s, and as much at once as fits beside the others: with it each time, 2.4 Mbit/s.
        let reservation = Reservation { rate: 8_000, burst: 12_000, delay: millis(20) };
        let until_s = net.nodes[1].clock(net.now).wall.0 / 1000 + 600;
        let asked = (turn % 2 == 0).then_some(Asked { reservation, until_s });
        let peers = vec![(node, PeerLimits { asked, ..PeerLimits::default() })];
        limit(&mut net, 1, NodeLimits { peers, ..NodeLimits::default() });
        net.run_for(millis(40));
        promised += u64::from(reserved(&mut net, 0, 1).is_some());
    }
    assert!(promised >= 15, "it had it {promised} times of 20");
    let got = (limits::wire(&mut net, 1, "received") - before) as f64 * 8.0 / 1.6;
    assert!(got < 500_000.0, "{got} bits per second for one that is worth 1 % and was promised 8,000");
}

/// What was promised to somebody who is no friend any more is there for others at once.
#[test]
fn a_promise_ends_with_the_friendship() {
    let mut net = friends(506, 2);
    ask(&mut net, 1, 0, Some((SHARE, 600)));
    net.run_for(millis(200));
    assert_eq!(verdict(&mut net, 1), Some((Verdict::Promised, 0)));
    net.befriend(0, &[2]);
    net.run_for(millis(200));
    ask(&mut net, 2, 0, Some((SHARE, 600)));
    net.run_for(millis(200));
    assert_eq!(verdict(&mut net, 2), Some((Verdict::Promised, 0)));
}
