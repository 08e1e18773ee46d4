//! How circuits live and end: padding, epochs, ageing, silence, lost sessions.

use super::super::*;
use super::net::Net;
use crate::limits::{
    BUILD_MS_MAX, BUILD_RELAY_MS_MAX, CIRCUIT_IDLE_MS_MAX, CIRCUIT_MS_MAX, CIRCUIT_REBUILD_MS_JITTER,
    CIRCUIT_REBUILD_MS_MIN, SETUP_PADDING_MAX,
};
use std::time::Duration;

fn ended(net: &Net) -> Vec<(usize, EndedWhy)> {
    let why = |(node, event): &(usize, Event)| match event {
        Event::Ended { why, .. } => Some((*node, why.clone())),
        _ => None,
    };
    net.events.iter().filter_map(why).collect()
}

#[test]
fn a_new_circuit_is_padded_from_both_ends_and_a_quiet_one_is_kept() {
    let mut net = Net::new(1, 3);
    let circuit = net.open(0);
    net.run_for(Duration::from_secs(1));
    let padding = |net: &Net| [0, 3].map(|n: usize| net.nodes[n].counters().padding);
    let setup = padding(&net);
    assert!(setup.iter().all(|count| (1..=SETUP_PADDING_MAX).contains(count)), "{setup:?}");
    net.run_for(Duration::from_millis(3 * CIRCUIT_IDLE_MS_MAX));
    assert!(net.nodes[0].is_open(circuit), "nothing was said for minutes: {:?}", net.events);
    assert!(padding(&net)[1] >= setup[1] + 9, "padding kept it: {:?}", padding(&net));
    assert_eq!((net.drops.len(), net.arrived.len()), (0, 0));
}

#[test]
fn a_circuit_whose_origin_is_silent_ends_everywhere() {
    let mut net = Net::new(1, 3);
    let circuit = net.open(0);
    net.run_for(Duration::from_secs(1));
    // The origin is gone without a word.
    let hops: Vec<usize> = vec![1, 2, 3];
    net.nodes[0] = Onion::new(super::net::key(0), Suite::Aes256Gcm, Rng::from_number(9), net.now);
    net.run_for(Duration::from_millis(CIRCUIT_IDLE_MS_MAX + 1000));
    assert!(!net.nodes[0].is_open(circuit));
    assert!(hops.iter().all(|n| net.nodes[*n].len() == (0, 0)));
    let (end, back) = net.end();
    let over = net
        .events
        .iter()
        .any(|(n, event)| matches!(event, Event::Ended { circuit, .. } if (*n, *circuit) == (end, back)));
    assert!(over, "the end hears: {:?}", net.events);
    net.assert_empty();
}

#[test]
fn a_circuit_grows_old_once_and_its_successor_takes_over_without_loss() {
    let mut net = Net::new(1, 3);
    let circuit = net.open(0);
    let aging = |net: &Net| net.events.iter().filter(|(_, e)| matches!(e, Event::Aging { .. })).count();
    net.run_for(Duration::from_millis(CIRCUIT_REBUILD_MS_MIN - 1000));
    assert_eq!(aging(&net), 0);
    net.run_for(Duration::from_millis(CIRCUIT_REBUILD_MS_JITTER + 2000));
    assert_eq!(aging(&net), 1);
    let (end, back) = net.end();
    let next = net.open(0);
    // What the old one has on its way both ways still arrives.
    net.send(0, circuit, Class::Small, b"forth");
    net.send(end, back, Class::Small, b"back");
    net.nodes[0].retire(net.now, circuit);
    assert!(!net.nodes[0].is_open(circuit));
    let mut cell = vec![0; Class::Small.size()];
    let sealed = net.nodes[0].seal(net.now, circuit, Inner::Packet, 1, &mut cell);
    assert_eq!(sealed, Err(SealError::Unknown));
    net.send(0, next, Class::Small, b"new");
    net.run();
    let mut arrived = net.take_arrived();
    arrived.sort();
    assert_eq!(arrived, [b"back".to_vec(), b"forth".to_vec(), b"new".to_vec()]);
    net.run_for(Duration::from_secs(10));
    assert!(net.nodes[0].is_open(next));
    assert_eq!(net.nodes.iter().map(Onion::len).collect::<Vec<_>>(), [(0, 1), (1, 0), (1, 0), (1, 0)]);
    assert!(!ended(&net).iter().any(|(node, _)| *node == 0), "no word of what was replaced");
}

#[test]
fn no_relay_keeps_a_circuit_beyond_its_time() {
    let mut net = Net::new(1, 2);
    net.open(0);
    net.run_for(Duration::from_millis(CIRCUIT_MS_MAX + 1000));
    net.assert_empty();
}

#[test]
fn lost_messages_leave_nothing_behind() {
    // Cut after the nth message of a building: request to each hop, answers back.
    for lost in 0..6 {
        let mut net = Net::new(1, 3);
        let circuit = net.build(0);
        (0..lost).for_each(|_| assert!(net.step()));
        net.flying.clear();
        net.run_for(Duration::from_millis(BUILD_MS_MAX + 100));
        assert_eq!(ended(&net)[0], (0, EndedWhy::NoAnswer), "lost message {lost}");
        assert!(!net.nodes[0].is_open(circuit));
        net.run_for(Duration::from_millis(BUILD_RELAY_MS_MAX + CIRCUIT_IDLE_MS_MAX));
        net.assert_empty();
    }
}

#[test]
fn a_lost_session_ends_every_circuit_over_it_and_no_other() {
    for cut in 0..3usize {
        let mut net = Net::new(1, 3);
        let circuit = net.open(0);
        net.disconnect(cut, cut + 1);
        net.run();
        let why = if cut == 0 { EndedWhy::Lost } else { EndedWhy::Neighbour(EndWhy::Lost) };
        assert!(net.events.contains(&(0, Event::Ended { circuit, why })), "{cut}: {:?}", net.events);
        net.assert_empty();
    }
}

#[test]
fn a_key_of_the_past_does_nothing() {
    let mut net = Net::new(1, 2);
    let circuit = net.open(0);
    let (end, back) = net.end();
    net.nodes[end].close(back);
    net.settle(end);
    net.run();
    net.assert_empty();
    assert_eq!(ended(&net), [(0, EndedWhy::Neighbour(EndWhy::Done))]);
    let now = net.now;
    for key in [circuit, back] {
        for node in &mut net.nodes {
            node.extend(now, key, LinkId(1));
            node.accept(now, key);
            node.refuse(now, key, crate::wire::build::Status::Busy);
            node.retire(now, key);
            node.close(key);
            let mut cell = vec![0; Class::Small.size()];
            assert_eq!(node.seal(now, key, Inner::Packet, 0, &mut cell), Err(SealError::Unknown));
        }
    }
    (0..3).for_each(|n| net.settle(n));
    assert!(net.flying.is_empty());
    net.assert_empty();
}

#[test]
fn a_path_must_have_layers_for_all_and_a_session_for_the_first() {
    let mut net = Net::new(1, 4);
    let mut route = net.route(2);
    assert_eq!(net.nodes[0].build(Time::ZERO, &route), Err(BuildError::Length));
    route.imaginary = 1;
    route.link = LinkId(77);
    assert_eq!(net.nodes[0].build(Time::ZERO, &route), Err(BuildError::NoLink));
    route.link = LinkId(1);
    route.hops[2].onion.key = [0; 32];
    assert_eq!(net.nodes[0].build(Time::ZERO, &route), Err(BuildError::BadKey));
    route.hops.clear();
    assert_eq!(net.nodes[0].build(Time::ZERO, &route), Err(BuildError::Length));
    net.assert_empty();
}

#[test]
fn every_epoch_of_every_layer_goes_on_where_the_one_before_ended() {
    let mut net = Net::new(1, 3);
    let circuit = net.open(0);
    let (end, back) = net.end();
    for round in 0..300u32 {
        for node in &mut net.nodes {
            node.end_epochs();
        }
        net.send(0, circuit, Class::Small, &round.to_le_bytes());
        net.send(end, back, Class::Small, &round.to_le_bytes());
        net.run();
        assert_eq!(net.take_arrived(), [round.to_le_bytes(), round.to_le_bytes()], "round {round}");
    }
    assert_eq!(net.drops, []);
}

#[test]
fn a_shard_without_onion_keys_asks_the_one_that_has_them_and_a_replay_is_one_on_all() {
    let mut net = Net::new(5, 3);
    for node in 1..4 {
        let mut holder = Onion::new(super::net::key(node), Suite::Aes256Gcm, Rng::from_number(9), net.now);
        net.nodes[node].leave_keys();
        assert!(net.nodes[node].onion_key().is_none() && !holder.learn_key(holder.onion_key().unwrap()));
        assert!(net.nodes[node].learn_key(holder.onion_key().unwrap()));
        net.keys.insert(node, holder);
    }
    net.open(1);
    // The same request, on two shards of a node.
    let mut net2 = Net::new(6, 1);
    let mut holder = Onion::new(super::net::key(1), Suite::Aes256Gcm, Rng::from_number(9), net2.now);
    net2.nodes[1].leave_keys();
    net2.nodes[1].learn_key(holder.onion_key().unwrap());
    let route = net2.route(0);
    net2.nodes[0].build(net2.now, &route).expect("a path");
    let mut cell = [0; Class::Large.size()];
    net2.nodes[0].poll_transmit(&mut cell).expect("a request");
    let now = net2.now;
    assert_eq!(net2.nodes[1].handle_cell(now, LinkId(0), &mut cell), Ok(Verdict::Handled));
    let Some(Event::Open { circuit, request }) = net2.nodes[1].poll_event() else { panic!("it asks") };
    assert!(holder.agree(&request).is_ok());
    let again = holder.agree(&request);
    assert!(matches!(again, Err(DropCause::Duplicate)));
    net2.nodes[1].agreed(now, circuit, again);
    assert_eq!((net2.nodes[1].len(), net2.nodes[1].poll_event()), ((0, 0), None));
    assert!(net2.nodes[1].poll_transmit(&mut cell).is_none(), "a replay is dropped in silence");
}
