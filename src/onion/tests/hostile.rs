//! What hostile neighbours do, and where it stops.

use super::super::*;
use super::net::{DELAY, Net};
use crate::limits::{BUILDS_PER_LINK_BURST, BUILDS_PER_LINK_PER_SECOND, LAYER_OVERHEAD, ONION_KEY_MS};
use crate::wire::cell::{AREA_AT, MESSAGE_AT};
use proptest::prelude::*;
use std::time::Duration;

/// Where the record of what is sent to hop `hop` (from 1) of a path of `layers` ends in its cell.
fn record_end(class: Class, layers: usize, hop: usize) -> usize {
    AREA_AT + class.record((layers + 1 - hop) as u8)
}

#[test]
fn a_flip_at_any_byte_of_a_cell_stops_at_the_next_honest_hop() {
    // Whether the circuit ends with it differs between circuits, so one is opened for each flip; one net serves all.
    let (hops, class) = (3, Class::Small);
    for after in 0..hops {
        let mut net = Net::new(after as u64 + 1, hops);
        for at in 0..class.size() {
            let circuit = net.open(0);
            net.drops.clear();
            net.events.clear();
            net.send(0, circuit, class, b"to be altered");
            (0..after).for_each(|_| assert!(net.step()));
            let flying = net.flying.last_mut().expect("it is on its way");
            assert_eq!((flying.from, flying.to), (after, after + 1));
            flying.cell[at] ^= 1 << (at % 8);
            net.run();
            let heard = net.take_arrived();
            if at < AREA_AT {
                assert_eq!((net.drops[0], heard.len()), ((after + 1, DropCause::Unknown), 0));
                assert!(net.nodes[0].is_open(circuit) || after == 0, "another circuit's number");
                net.nodes[0].close(circuit);
                net.settle(0);
            } else if at < record_end(class, hops, after + 1) {
                assert_eq!(heard, [[0; 0]; 0], "byte {at} behind hop {after}");
                let first = net.drops.first().expect("it was dropped");
                assert_eq!(first.0, after + 1, "at the very next hop, byte {at}");
                let sequence = record_end(class, hops, after + 1) - 8..record_end(class, hops, after + 1);
                match first.1 {
                    DropCause::Forged => {
                        let why = EndedWhy::Neighbour(EndWhy::Forged);
                        assert!(net.events.contains(&(0, Event::Ended { circuit, why })), "the origin hears");
                    }
                    // Another number, of which the hop says nothing: as if the cell had been lost.
                    DropCause::Late | DropCause::Duplicate => {
                        assert!(sequence.contains(&at), "byte {at}: {first:?}");
                        net.nodes[0].close(circuit);
                        net.settle(0);
                    }
                    other => panic!("byte {at}: {other:?}"),
                }
            } else {
                assert_eq!(heard, [b"to be altered".to_vec()], "nobody reads byte {at}");
                net.nodes[0].close(circuit);
                net.settle(0);
            }
            net.now += Duration::from_secs(1);
            net.run();
            net.assert_empty();
        }
    }
}

#[test]
fn what_lies_behind_a_record_does_not_pass_an_honest_hop() {
    let mut net = Net::new(4, 4);
    let circuit = net.open(0);
    for class in [Class::Small, Class::Large] {
        net.send(0, circuit, class, b"content");
        net.step();
        // Hop 1 writes a mark behind the record of hop 2, for hop 3 or the exit to find.
        let end = record_end(class, 4, 2);
        let flying = net.flying.last_mut().unwrap();
        let mark = vec![0x77; flying.cell.len() - end];
        flying.cell[end..].copy_from_slice(&mark);
        net.step();
        let flying = net.flying.last().unwrap();
        assert!(!flying.cell.windows(8).any(|run| run == [0x77; 8]), "hop 2 redraws it");
        // And the trailer of its own layer, which it could have left there.
        net.run();
        assert_eq!(net.take_arrived(), [b"content".to_vec()]);
    }
    // Backward, the exit leaves a mark for hop 1.
    let (end, back) = net.end();
    net.send(end, back, Class::Large, b"reply");
    let flying = net.flying.last_mut().unwrap();
    let tail = record_end(Class::Large, 4, 4);
    flying.cell[tail..].fill(0x77);
    net.step();
    net.step();
    let flying = net.flying.last().unwrap();
    assert_eq!((flying.from, flying.to), (2, 1));
    assert!(!flying.cell.windows(8).any(|run| run == [0x77; 8]));
    net.run();
    assert_eq!(net.take_arrived(), [b"reply".to_vec()]);
}

#[test]
fn a_tag_is_caught_by_the_honest_hop_between_two_that_work_together() {
    // Hops 1 and 3 work together; hop 2 is honest. Hop 1 flips a bit deep inside what hop 3 will read.
    let mut net = Net::new(8, 4);
    let circuit = net.open(0);
    net.send(0, circuit, Class::Large, &[0; 1000]);
    net.step();
    net.flying.last_mut().unwrap().cell[AREA_AT + 500] ^= 0x80;
    net.run();
    assert_eq!(net.drops, [(2, DropCause::Forged)]);
    assert_eq!(net.arrived, []);
    assert_eq!(net.nodes[3].counters().forged + net.nodes[4].counters().forged, 0, "they only see the end");
    net.assert_empty();
}

#[test]
fn a_backward_flip_is_found_at_the_layer_that_it_damaged() {
    for hops in 1..=4usize {
        for after in 1..=hops {
            let mut net = Net::new(7, hops);
            let circuit = net.open(0);
            let (end, back) = net.end();
            net.send(end, back, Class::Large, b"reply");
            (0..hops - after).for_each(|_| assert!(net.step()));
            let flying = net.flying.last_mut().unwrap();
            assert_eq!((flying.from, flying.to), (after, after - 1));
            flying.cell[AREA_AT + 9] ^= 4;
            net.run();
            let why = EndedWhy::Forged { hop: after - 1 };
            assert!(net.events.contains(&(0, Event::Ended { circuit, why })), "{:?}", net.events);
            net.assert_empty();
        }
    }
}

#[test]
fn a_replayed_cell_goes_no_further_in_any_epoch() {
    for rekey in [false, true] {
        let mut net = Net::new(2, 3);
        let circuit = net.open(0);
        let mut captured = Vec::new();
        net.send(0, circuit, Class::Large, b"once");
        while let Some(flying) = net.flying.last() {
            captured.push(flying.clone());
            net.step();
        }
        assert_eq!((captured.len(), net.take_arrived().len()), (3, 1));
        if rekey {
            net.nodes[0].end_epochs();
            net.send(0, circuit, Class::Large, b"next epoch");
            net.run();
            assert_eq!(net.take_arrived().len(), 1);
        }
        for flying in &captured {
            let verdict = net.show(flying.from, flying.to, flying.cell.clone());
            assert_eq!(verdict, Verdict::Dropped(DropCause::Duplicate), "hop {}", flying.to);
        }
        net.now += Duration::from_secs(11);
        for flying in captured.iter().filter(|_| rekey) {
            let verdict = net.show(flying.from, flying.to, flying.cell.clone());
            assert_eq!(verdict, Verdict::Dropped(DropCause::Late), "the old epoch's key is erased");
        }
        assert!(net.nodes[0].is_open(circuit) && net.flying.is_empty());
    }
}

#[test]
fn a_cell_of_one_class_cut_to_the_other_is_forged() {
    let mut net = Net::new(2, 2);
    let circuit = net.open(0);
    let (_, mut cell) = net.seal(0, circuit, Class::Large, b"long");
    cell.truncate(Class::Small.size());
    net.show(0, 1, cell);
    assert!(matches!(net.drops[..], [(1, DropCause::Forged | DropCause::Late)]), "{:?}", net.drops);
}

#[test]
fn a_replayed_build_is_silent_and_leads_nowhere() {
    let mut net = Net::new(6, 3);
    net.build(0);
    let request = net.flying[0].clone();
    net.run();
    let before = net.nodes[1].len();
    for (number, age) in [(3u32, 0), (5, ONION_KEY_MS - 1000), (7, 2 * ONION_KEY_MS + 1000)] {
        net.now = Time::from_millis(age);
        for node in &mut net.nodes {
            node.handle_timeout(Time::from_millis(age));
        }
        (1..4).for_each(|n| net.settle(n));
        net.flying.clear();
        let mut replayed = request.cell.clone();
        replayed[MESSAGE_AT - 4..MESSAGE_AT].copy_from_slice(&(number * 2).to_le_bytes());
        // The neighbour began the session, so its numbers are even.
        let verdict = net.show(0, 1, replayed);
        let over = age > 2 * ONION_KEY_MS;
        let cause = if over { DropCause::Foreign } else { DropCause::Duplicate };
        assert_eq!(verdict, Verdict::Dropped(cause));
        assert_eq!(
            net.flying.len(),
            usize::from(over),
            "not even an answer, while somebody could learn from it"
        );
    }
    assert_eq!(before, (1, 0));
}

#[test]
fn a_flood_of_builds_meets_its_bound_and_leaves_others_alone() {
    let mut net = Net::new(6, 2);
    net.connect(0, 2);
    let circuit = net.open(0);
    let mut taken = 0;
    for second in 0..3 {
        net.now += Duration::from_secs(1);
        for n in 0..500u32 {
            let mut cell = vec![0; Class::Large.size()];
            net.rng.fill(&mut cell);
            Head::Build { circuit: 2 * (n + 1000 * second + 1) }.emit(&mut cell);
            let verdict = net.show(0, 1, cell);
            taken += usize::from(verdict == Verdict::Dropped(DropCause::Foreign));
        }
    }
    assert!(
        taken as u64 <= BUILDS_PER_LINK_BURST + 3 * BUILDS_PER_LINK_PER_SECOND,
        "{taken} X25519 for a flood"
    );
    assert!(net.flying.len() <= 60, "and few answers");
    net.run();
    net.send(0, circuit, Class::Large, b"still here");
    net.run();
    assert_eq!(net.take_arrived(), [b"still here".to_vec()]);
}

#[test]
fn a_number_of_the_other_side_is_a_violation() {
    let mut net = Net::new(6, 1);
    let mut cell = vec![0; Class::Large.size()];
    Head::Build { circuit: 3 }.emit(&mut cell);
    assert!(net.nodes[1].handle_cell(Time::ZERO, LinkId(0), &mut cell).is_err());
    for len in [0, 4, 254, 256, 1422, 1424] {
        assert!(net.nodes[1].handle_cell(Time::ZERO, LinkId(0), &mut vec![1; len]).is_err(), "{len}");
    }
}

#[test]
fn an_answer_that_was_altered_ends_the_building() {
    for at in [MESSAGE_AT, MESSAGE_AT + 40, MESSAGE_AT + 85, MESSAGE_AT + 150] {
        let mut net = Net::new(6, 2);
        let circuit = net.build(0);
        (0..3).for_each(|_| assert!(net.step()));
        net.flying[0].cell[at] ^= 1;
        net.run();
        let why = EndedWhy::Forged { hop: 0 };
        assert!(net.events.contains(&(0, Event::Ended { circuit, why })), "{at}: {:?}", net.events);
        net.assert_empty();
    }
}

#[test]
fn cells_of_no_circuit_are_answered_rarely() {
    let mut net = Net::new(6, 1);
    for n in 0..1000u32 {
        let mut cell = vec![9; Class::Small.size()];
        Head::Data { circuit: n + 1, class: Class::Small }.emit(&mut cell);
        assert_eq!(net.show(0, 1, cell), Verdict::Dropped(DropCause::Unknown));
    }
    assert_eq!(net.flying.len(), 10);
    net.now += DELAY;
    net.run();
    assert!(net.flying.is_empty(), "an end of what is not known is not answered");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// A hop between two honest ones does what it likes with one cell; only what is untouched arrives.
    #[test]
    fn what_is_altered_never_arrives(seed: u64, hops in 2usize..=5, after in 0usize..5, large: bool, edits in prop::collection::vec((any::<u16>(), 1u8..), 1..6)) {
        let class = if large { Class::Large } else { Class::Small };
        let after = after % hops;
        let mut net = Net::new(seed, hops);
        let circuit = net.open(0);
        net.send(0, circuit, class, b"content");
        (0..after).for_each(|_| assert!(net.step()));
        let end = record_end(class, hops, after + 1);
        let before = net.flying[0].cell.clone();
        for (at, with) in edits {
            net.flying[0].cell[usize::from(at) % class.size()] ^= with;
        }
        let touched = net.flying[0].cell[..end] != before[..end];
        net.run();
        let arrived = net.take_arrived();
        prop_assert_eq!(arrived.is_empty(), touched);
        prop_assert!(net.drops.iter().take(1).all(|(node, _)| *node == after + 1));
        prop_assert!(LAYER_OVERHEAD == 24);
    }
}
