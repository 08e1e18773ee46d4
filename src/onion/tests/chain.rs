//! What honest hops do: one round trip, then every byte arrives at the other end, once.

use std::collections::BTreeMap;

use super::super::*;
use super::net::{Arrived, DELAY, Net};
use crate::limits::{LAYERS_MAX, REPLAY_WINDOW};
use crate::wire::build::Status;
use proptest::prelude::*;

const CLASSES: [Class; 2] = [Class::Small, Class::Large];

#[test]
fn every_length_of_path_opens_in_one_round_trip_and_carries_both_classes() {
    for hops in 1..=LAYERS_MAX {
        for imaginary in 0..=2.min(LAYERS_MAX - hops) as u8 {
            let mut net = Net::new(hops as u64, hops);
            let circuit = net.open(imaginary);
            assert_eq!(net.now, Time::ZERO + DELAY * 2 * hops as u32, "one round trip of the whole path");
            let (end, back) = net.end();
            assert_eq!(end, hops);
            for class in CLASSES {
                for len in [0, 1, class.content_max()] {
                    let bytes = vec![len as u8 ^ 0x5a; len];
                    net.send(0, circuit, class, &bytes);
                    net.run();
                    assert_eq!(
                        net.take_arrived(),
                        std::slice::from_ref(&bytes),
                        "forward, {hops} + {imaginary}"
                    );
                    net.send(end, back, class, &bytes);
                    net.run();
                    let arrived = Arrived { node: 0, kind: Inner::Packet, bytes };
                    assert_eq!(std::mem::take(&mut net.arrived), [arrived], "backward, {hops} + {imaginary}");
                }
            }
            assert_eq!(net.drops, []);
            net.nodes[0].close(circuit);
            net.settle(0);
            net.run();
            net.assert_empty();
        }
    }
}

#[test]
fn content_longer_than_its_class_is_not_sealed() {
    let mut net = Net::new(1, 2);
    let circuit = net.open(0);
    for class in CLASSES {
        let mut cell = vec![0; class.size()];
        let sealed = net.nodes[0].seal(net.now, circuit, Inner::Packet, class.content_max() + 1, &mut cell);
        assert_eq!((sealed, cell), (Err(SealError::Length), vec![0; class.size()]));
    }
    let mut odd = vec![0; 1000];
    assert_eq!(net.nodes[0].seal(net.now, circuit, Inner::Packet, 1, &mut odd), Err(SealError::Length));
}

#[test]
fn no_two_links_see_the_same_bytes() {
    let mut net = Net::new(5, 4);
    let circuit = net.build(1);
    let (mut seen, mut links): (Vec<Vec<u8>>, _) = (Vec::new(), 0);
    let mut look = |net: &mut Net| {
        while !net.flying.is_empty() {
            for flying in &net.flying {
                links += 1;
                for run in flying.cell[9..].chunks_exact(16) {
                    assert!(!seen.iter().any(|before| before == run), "a run of bytes that was seen before");
                    seen.push(run.to_vec());
                }
            }
            net.step();
        }
    };
    look(&mut net);
    net.send(0, circuit, Class::Large, &[0; 900]);
    look(&mut net);
    let (end, back) = net.end();
    net.send(end, back, Class::Small, &[0; 100]);
    look(&mut net);
    assert_eq!(links, 4 * 4);
}

#[test]
fn a_hop_that_refuses_is_known_to_the_origin_alone() {
    for refusing in 1..=4 {
        let mut net = Net::new(3, 4);
        net.refusing.insert(refusing, Status::Busy);
        let circuit = net.build(0);
        net.run();
        let why = EndedWhy::Refused { hop: refusing - 1, status: Status::Busy };
        let ended: Vec<_> = net.events.iter().filter(|(_, e)| matches!(e, Event::Ended { .. })).collect();
        assert_eq!(ended, [&(0, Event::Ended { circuit, why })]);
        net.assert_empty();
    }
}

#[test]
fn a_next_hop_without_a_session_is_unreachable() {
    let mut net = Net::new(3, 3);
    net.nodes[2].link_down(LinkId(3));
    let circuit = net.build(0);
    net.run();
    let why = EndedWhy::Refused { hop: 1, status: Status::Unreachable };
    assert!(net.events.contains(&(0, Event::Ended { circuit, why })), "{:?}", net.events);
    net.assert_empty();
}

#[derive(Debug, Clone)]
enum Step {
    /// From the origin or to it; class; how much.
    Send(bool, bool, u16),
    /// The next cell that is due is lost.
    Lose,
    /// It comes twice.
    Twice,
    /// It comes after all others.
    Last,
    Deliver,
    /// A new epoch at some layer.
    Rekey(u8),
    /// Seconds pass.
    Wait(u8),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let send = (any::<bool>(), any::<bool>(), 0u16..=1296).prop_map(|(f, c, len)| Step::Send(f, c, len));
    let step = prop_oneof![
        6 => send,
        1 => Just(Step::Lose),
        1 => Just(Step::Twice),
        2 => Just(Step::Last),
        8 => Just(Step::Deliver),
        1 => any::<u8>().prop_map(Step::Rekey),
        1 => (0u8..8).prop_map(Step::Wait),
    ];
    prop::collection::vec(step, 1..120)
}

/// What was sent and not heard of yet: each may arrive once, at the other end, as it was.
#[derive(Default)]
struct Model {
    sent: BTreeMap<(usize, Vec<u8>), usize>,
    lost: bool,
}

impl Model {
    fn hear(&mut self, arrived: Vec<Arrived>) {
        for one in arrived {
            let left =
                self.sent.get_mut(&(one.node, one.bytes)).expect("what was sent, to where it was sent");
            *left = left.checked_sub(1).expect("no more often than it was sent");
        }
    }
}

fn end_epochs(net: &mut Net, lot: u8) {
    let node = usize::from(lot) % net.nodes.len();
    net.nodes[node].end_epochs();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn whatever_the_network_does_each_content_arrives_at_most_once_and_whole(
        seed: u64, hops in 1usize..=5, imaginary in 0u8..=2, steps in steps(),
    ) {
        let mut net = Net::new(seed, hops);
        let circuit = net.open(imaginary.min((LAYERS_MAX - hops) as u8));
        let (end, back) = net.end();
        let mut model = Model::default();
        let mut serial = 0u32;
        for step in steps {
            let due = (0..net.flying.len()).min_by_key(|n| net.flying[*n].at);
            match (step, due) {
                (Step::Send(forward, large, len), _) => {
                    let class = if large { Class::Large } else { Class::Small };
                    let mut bytes = vec![7; usize::from(len).clamp(4, class.content_max())];
                    bytes[..4].copy_from_slice(&serial.to_le_bytes());
                    serial += 1;
                    let (from, to, key) = if forward { (0, end, circuit) } else { (end, 0, back) };
                    *model.sent.entry((to, bytes.clone())).or_default() += 1;
                    net.send(from, key, class, &bytes);
                }
                (Step::Lose, Some(at)) => {
                    net.flying.remove(at);
                    model.lost = true;
                }
                (Step::Twice, Some(at)) => net.flying.push(net.flying[at].clone()),
                (Step::Last, Some(at)) => {
                    let last = net.flying.iter().map(|flying| flying.at).max().expect("one flies");
                    net.flying[at].at = last + std::time::Duration::from_nanos(1);
                }
                (Step::Deliver, Some(_)) => {
                    net.step();
                }
                (Step::Rekey(lot), _) => end_epochs(&mut net, lot),
                (Step::Wait(seconds), _) => net.run_for(std::time::Duration::from_secs(seconds.into())),
                (_, None) => {}
            }
            let arrived = std::mem::take(&mut net.arrived);
            model.hear(arrived);
        }
        net.run();
        let arrived = std::mem::take(&mut net.arrived);
        model.hear(arrived);
        // Nothing that a network does ends a circuit, or lets one cell be taken for a forged one.
        let only_late = net.drops.iter().all(|(_, why)| matches!(why, DropCause::Duplicate | DropCause::Late));
        prop_assert!(only_late, "{:?}", net.drops);
        prop_assert!(net.nodes[0].is_open(circuit));
        let missing = model.sent.values().sum::<usize>();
        let late = net.drops.iter().any(|(_, why)| *why == DropCause::Late);
        prop_assert!(missing == 0 || model.lost || late, "{missing} cells vanished");
    }
}

#[test]
fn the_window_is_exact() {
    let mut net = Net::new(9, 1);
    let circuit = net.open(0);
    let (_, first) = net.seal(0, circuit, Class::Small, b"first");
    let window = REPLAY_WINDOW as usize;
    let cells: Vec<_> = (0..window).map(|_| net.seal(0, circuit, Class::Small, b"x").1).collect();
    net.show(0, 1, cells[window - 2].clone());
    assert!(matches!(net.show(0, 1, first.clone()), Verdict::Content { .. }), "the window's last number");
    assert_eq!(net.show(0, 1, first.clone()), Verdict::Dropped(DropCause::Duplicate));
    net.show(0, 1, cells[window - 1].clone());
    assert_eq!(net.show(0, 1, first), Verdict::Dropped(DropCause::Late), "one further, and nobody can tell");
    let others = cells[..window - 2]
        .iter()
        .filter(|cell| matches!(net.show(0, 1, cell.to_vec()), Verdict::Content { .. }));
    assert_eq!(others.count(), window - 2, "all between are new");
}
