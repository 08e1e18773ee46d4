//! Queues of peers, and flows in them.

use super::*;
use proptest::prelude::*;
use std::collections::{BTreeMap, VecDeque};

proptest! {
    /// Order within a flow, nothing lost or made, whoever pays for room is among the longest and the fattest, and flows
    /// that have something to send take turns.
    #[test]
    fn flows_keep_their_order(
        bound in 1usize..40,
        steps in prop::collection::vec((0u8..8, 0u32..4, 0u32..5, 40u32..1500), 1..300),
    ) {
        let mut queues = Queues::new(bound);
        let mut model: BTreeMap<(u32, u32), VecDeque<(usize, u32)>> = BTreeMap::new();
        let bytes = |queue: &VecDeque<(usize, u32)>| queue.iter().map(|(_, bytes)| *bytes).sum::<u32>();
        for (number, (what, peer, flow, size)) in steps.into_iter().enumerate() {
            let total: usize = model.values().map(VecDeque::len).sum();
            let all = |model: &BTreeMap<_, _>, peer: u32| -> u32 {
                model.range((peer, 0)..=(peer, u32::MAX)).map(|(_, queue)| bytes(queue)).sum()
            };
            match what {
                0..=3 => {
                    let victim = queues.push(Time::ZERO, Slot(peer), flow, number, size);
                    prop_assert_eq!(victim.is_some(), total == bound);
                    if let Some((slot, item)) = victim {
                        let longest = (0..4).map(|peer| all(&model, peer)).max().unwrap_or(0);
                        prop_assert!(2 * all(&model, slot.0) > longest);
                        let own = |(key, _): &(&(u32, u32), _)| key.0 == slot.0;
                        let fattest = model.iter().filter(own).map(|(_, queue)| bytes(queue)).max();
                        let paid = model.values_mut().find(|queue| queue.front().is_some_and(|(n, _)| *n == item));
                        let paid = paid.expect("the head of a flow");
                        prop_assert!(2 * bytes(paid).max(64) > fattest.unwrap_or(0));
                        paid.pop_front();
                    }
                    model.entry((peer, flow)).or_default().push_back((number, size));
                }
                4..=6 => {
                    let popped = queues.pop(Time::ZERO, Slot(peer), Duration::ZERO, |_| unreachable!());
                    prop_assert_eq!(popped.is_some(), all(&model, peer) > 0);
                    if let Some(popped) = popped {
                        let of = |(key, queue): &(&(u32, u32), &mut VecDeque<_>)| {
                            key.0 == peer && queue.front() == Some(&popped)
                        };
                        let (_, queue) = model.iter_mut().find(of).expect("the head of a flow of the peer");
                        queue.pop_front();
                    }
                }
                _ => {
                    let mut gone = Vec::new();
                    queues.clear(Slot(peer), |item| gone.push(item));
                    let mut own = Vec::new();
                    for (_, queue) in model.range_mut((peer, 0)..=(peer, u32::MAX)) {
                        own.extend(queue.drain(..).map(|(number, _)| number));
                    }
                    gone.sort_unstable();
                    own.sort_unstable();
                    prop_assert_eq!(gone, own);
                }
            }
            for peer in 0..4 {
                let own = model.range((peer, 0)..=(peer, u32::MAX)).map(|(_, queue)| queue);
                let packets: usize = own.clone().map(VecDeque::len).sum();
                prop_assert_eq!(queues.backlog(Slot(peer)), (packets as u16, all(&model, peer)));
                prop_assert_eq!(queues.flows(Slot(peer)) as usize, own.filter(|queue| !queue.is_empty()).count());
            }
        }
    }

    /// However much each has and of whatever size: between two packets of one flow, no other leaves more than two turns'
    /// worth. Flows that come back all the time are among them.
    #[test]
    fn nobody_waits_longer_than_a_round(
        flows in 2u32..12,
        sizes in prop::collection::vec(40u32..1500, 12),
    ) {
        let mut queues = Queues::new(4096);
        let mut came = vec![0u32; flows as usize];
        // Each has two at all times, but for the last: one whenever none of it waits.
        let feed = |queues: &mut Queues<u32>, flow: u32| {
            queues.push(Time::ZERO, Slot(0), flow, flow, sizes[flow as usize]);
        };
        (0..flows).for_each(|flow| feed(&mut queues, flow));
        (0..flows - 1).for_each(|flow| feed(&mut queues, flow));
        // What each other flow sent since a flow sent its last.
        let mut since = vec![vec![0u32; flows as usize]; flows as usize];
        for _ in 0..2000 {
            let (flow, bytes) = queues.pop(Time::ZERO, Slot(0), Duration::ZERO, |_| true).expect("there is backlog");
            came[flow as usize] += 1;
            since[flow as usize].fill(0);
            for (other, since) in since.iter_mut().enumerate() {
                since[flow as usize] += bytes;
                // The others' burst of being fresh, and a turn.
                prop_assert!(since[flow as usize] <= 3 * 1500 || other == flow as usize, "{since:?}");
            }
            since[flow as usize].fill(0);
            feed(&mut queues, flow);
        }
        // Who has but one at a time is not owed an equal part.
        let sent: Vec<u32> = came.iter().zip(&sizes).map(|(count, size)| count * size).collect();
        let sent = &sent[..sent.len() - 1];
        let (least, most) = (*sent.iter().min().unwrap(), *sent.iter().max().unwrap());
        prop_assert!(most - least <= 4 * 1500, "{sent:?}: equal parts");
    }
}

/// A circuit with much to send and one with little, of the same neighbour.
#[test]
fn circuits_take_turns_whatever_they_queue() {
    let mut queues = Queues::new(1000);
    (0..200).for_each(|_| _ = queues.push(Time::ZERO, Slot(0), 1, 'a', 1452));
    assert_eq!(queues.pop(Time::ZERO, Slot(0), Duration::ZERO, |_| true), Some(('a', 1452)));
    (0..3).for_each(|_| _ = queues.push(Time::ZERO, Slot(0), 2, 'b', 1452));
    let pop = || queues.pop(Time::ZERO, Slot(0), Duration::ZERO, |_| true).map(|(circuit, _)| circuit);
    let order: String = std::iter::from_fn(pop).take(9).collect();
    // A turn is a datagram of the longest: now and then one is left for a second.
    assert_eq!(order.chars().filter(|circuit| *circuit == 'b').count(), 3, "{order}");
    assert!(order.starts_with('b') || order.starts_with("ab"), "{order}");
    assert_eq!(queues.flows(Slot(0)), 1);
}

/// The measured case: a flood that heeds nothing beside a flow that sends now and then. The flood waits for the flood, and
/// the other for a packet or two.
#[test]
fn a_sparse_flow_does_not_wait_for_a_flood() {
    for (flows, gap) in [(1u32, 10), (1, 1), (7, 20)] {
        let (mut queues, mut worst, mut sent, mut got) = (Queues::new(4096), Duration::ZERO, 0, 0);
        for ms in 0..20_000u64 {
            let now = Time::from_millis(ms);
            // Two come for each that leaves.
            (0..2).for_each(|n| {
                _ = queues.push(now, Slot(0), ((2 * ms + n) % u64::from(flows)) as u32, (ms, false), 1452)
            });
            if ms % gap == 0 && gap > 1 {
                queues.push(now, Slot(0), 99, (ms, true), 100);
                sent += 1;
            }
            if let Some(((came, true), _)) = queues.pop(now, Slot(0), Duration::from_millis(1), |_| false) {
                worst = worst.max(now.since(Time::from_millis(came)));
                got += 1;
            }
        }
        let stats = queues.stats_of(Slot(0));
        assert!(stats.late + stats.full > 15_000, "{stats:?}: the flood pays");
        assert!(sent - got <= 1, "{got} of {sent}");
        assert!(worst <= Duration::from_millis(u64::from(flows) + 1), "{worst:?}");
    }
}

/// Names of flows cost nothing: what is remembered is bounded by what may wait.
#[test]
fn flows_come_and_go_without_end() {
    let mut queues = Queues::new(32);
    for n in 0..10_000u32 {
        queues.push(Time::ZERO, Slot(n % 5), n.wrapping_mul(2_654_435_761), n, 100);
        if n % 3 == 0 {
            queues.pop(Time::ZERO, Slot(n % 5), Duration::ZERO, |_| true);
        }
        assert!(queues.places.len() <= 32 && queues.flows.len() <= 32);
    }
    let waiting: u16 = (0..5).map(|peer| queues.backlog(Slot(peer)).0).sum();
    assert!((31..=32).contains(&waiting), "{waiting}: whoever came last is there");
}

/// A queue that is full makes room by its own fattest flow.
#[test]
fn a_full_queue_drops_from_its_fattest_flow() {
    let mut queues = Queues::new(4096);
    for n in 0..u32::from(SHAPED_PACKETS_PER_QUEUE_MAX) - 10 {
        assert_eq!(queues.push(Time::ZERO, Slot(0), 1, n, 1000), None);
    }
    (0..10).for_each(|n| assert_eq!(queues.push(Time::ZERO, Slot(0), 2, n, 1000), None));
    assert_eq!(queues.push(Time::ZERO, Slot(0), 2, 10, 1000), Some((Slot(0), 0)), "the first of the fat one");
    assert_eq!(queues.push(Time::ZERO, Slot(1), 2, 10, 1000), None, "others have room");
    assert_eq!(queues.backlog(Slot(0)).0, SHAPED_PACKETS_PER_QUEUE_MAX);
    assert_eq!(queues.stats_of(Slot(0)).full, 1);
}

/// What can carry a mark is never dropped for being late, and marked as often as the rest is dropped.
#[test]
fn a_standing_queue_is_marked_where_that_is_understood() {
    let mut figures = [QueueStats::default(); 2];
    for (capable, stats) in [true, false].into_iter().zip(&mut figures) {
        let (mut queues, mut sent) = (Queues::new(4096), 0);
        for ms in 0..900u64 {
            let now = Time::from_millis(ms);
            // Ten come for each that leaves, until there is a twentieth of a second's worth.
            if queues.backlog(Slot(0)).0 < 50 {
                (0..10).for_each(|n| _ = queues.push(now, Slot(0), 0, n, 1000));
            }
            sent += usize::from(queues.pop(now, Slot(0), Duration::from_millis(1), |_| capable).is_some());
        }
        *stats = queues.stats_of(Slot(0));
        assert_eq!((sent, *stats), (900, queues.stats()));
        queues.clear(Slot(0), drop);
        assert_eq!(queues.stats_of(Slot(0)), QueueStats::default());
    }
    let [capable, other] = figures;
    assert!(capable.late == 0 && other.marked == 0 && capable.marked > 10, "{figures:?}");
    assert!(other.late.abs_diff(capable.marked) < 5, "{figures:?}");
}

/// Found by reading: a flow that says that it listens to marks and does not was never dropped, and those beside it were.
#[test]
fn who_does_not_listen_to_marks_is_dropped() {
    let (mut queues, mut lost) = (Queues::new(4096), [0u32; 2]);
    for ms in 0..20_000u64 {
        let now = Time::from_millis(ms);
        // Two come for each that leaves: one of them says that it listens.
        for capable in [true, false] {
            queues.push(now, Slot(0), 0, capable, 1000);
        }
        let before = queues.stats_of(Slot(0));
        let mut seen = Vec::new();
        queues.pop(now, Slot(0), Duration::from_millis(1), |capable| {
            seen.push(*capable);
            *capable
        });
        let late = queues.stats_of(Slot(0)).late - before.late;
        // Those that were given to be marked and were dropped are known by their kind; hopeless ones are not given.
        lost[1] += seen.iter().filter(|capable| !**capable).count() as u32;
        lost[0] += late as u32 - seen.iter().filter(|capable| !**capable).count() as u32;
    }
    let stats = queues.stats_of(Slot(0));
    assert!(stats.marked > 0 && stats.marked < 100, "{stats:?}: marks end where they do not help");
    assert!(lost[0] > 1000, "{lost:?}: dropped without being asked, whatever they say");
}

/// Found by measuring: an episode that followed another began as one in which marks had not helped.
#[test]
fn episodes_that_end_are_marked_for_ever() {
    let (mut queues, mut gone_until) = (Queues::new(4096), 0);
    for ms in 0..20_000u64 {
        let now = Time::from_millis(ms);
        // The queue stands, until five marks have made its senders pause.
        while queues.backlog(Slot(0)).0 < 30 && ms >= gone_until {
            queues.push(now, Slot(0), 0, ms, 1000);
        }
        let before = queues.stats_of(Slot(0)).marked;
        queues.pop(now, Slot(0), Duration::from_millis(1), |_| true);
        let after = queues.stats_of(Slot(0)).marked;
        if after > before && after.is_multiple_of(5) {
            gone_until = ms + 100;
        }
    }
    let stats = queues.stats_of(Slot(0));
    assert!(stats.late == 0 && stats.marked > 100, "{stats:?}");
}

#[test]
fn one_flood_does_not_push_out_the_others() {
    let mut queues = Queues::new(64);
    for n in 0..10_000u32 {
        queues.push(Time::ZERO, Slot(0), 0, n, 1000);
        if n % 1000 == 0 {
            queues.push(Time::ZERO, Slot(1), 0, n, 100);
        }
    }
    assert_eq!(queues.backlog(Slot(1)).0, 10, "all that the quiet one sent is there");
    assert!(queues.stats().full > 9_000);
}
