//! One ring, one thread, loopback: what the kernel does is real, when it does it is ours to say.

use std::net::UdpSocket;

use super::*;
use crate::base::Memory;
use crate::limits::{RECEIVE_LENT_MIN, ZERO_COPY_COPIED_MIN};
use crate::sys::ring::Completion;
use crate::sys::ring::tests::ring_or_skip;

const SECOND: Duration = Duration::from_secs(1);

struct Bench {
    ring: Ring,
    udp: Udp,
    /// The other end: plain sockets.
    peer: UdpSocket,
}

impl Bench {
    fn new() -> Option<Self> {
        let ring = ring_or_skip()?;
        let udp = Udp::bind(&["127.0.0.1:0".parse().expect("an address")], false).expect("bound");
        let peer = UdpSocket::bind("127.0.0.1:0").expect("bound");
        peer.connect(udp.addresses()[0]).expect("connected");
        peer.set_read_timeout(Some(10 * SECOND)).expect("set");
        Some(Self { ring, udp, peer })
    }

    fn train(&mut self, mark: u8, segments: u32, segment: u32) -> Datagrams {
        let buf = self.ring.buffers().alloc().expect("a buffer");
        let place = Place::room(buf).part(0, segments * segment - 1).expect("room");
        self.ring.buffers().bytes_mut(place).fill(mark);
        let remote = self.peer.local_addr().expect("an address");
        Datagrams { path: Path { local: "0.0.0.0:0".parse().expect("any"), remote }, place, segment, ecn: 0 }
    }

    /// Waits for a completion; a test that waits in vain fails.
    fn wait(&mut self) {
        self.ring.enter(Some(10 * SECOND)).expect("entered");
        assert!(self.ring.has_completions(), "nothing came within 10 s");
    }

    /// Submits, waits for `count` sends and hands their results in, changed by `change`.
    fn finish(&mut self, count: usize, mut change: impl FnMut(Result<u32, i32>) -> Result<u32, i32>) {
        self.udp.flush(&mut self.ring);
        let mut left = count;
        while left > 0 {
            match self.ring.completion() {
                Some(Completion::Sent { slot, result, held }) => {
                    self.udp.sent(&mut self.ring, slot, change(result), held);
                    left -= 1;
                }
                Some(Completion::Released { slot, copied }) => {
                    self.udp.released(&mut self.ring, slot, copied);
                }
                Some(Completion::Writable { socket }) => self.udp.writable(socket),
                Some(other) => panic!("{other:?}"),
                None => self.wait(),
            }
        }
    }

    /// Hands receive completions in; the lengths of what came.
    fn take(&mut self, want: usize) -> Vec<u32> {
        let mut lengths = Vec::new();
        while lengths.len() < want {
            self.udp.rearm(&mut self.ring, Time::ZERO);
            self.wait();
            while let Some(Completion::Received { socket, result, buffer, more }) = self.ring.completion() {
                let train = self.udp.received(&mut self.ring, socket, result, buffer, more, Time::ZERO);
                if let Some(train) = train {
                    lengths.push(train.place.len);
                    self.ring.buffers().release(train.place.buf);
                }
            }
        }
        lengths
    }

    fn marks(&self, count: usize, len: usize) -> Vec<u8> {
        let mut bytes = [0; 2048];
        let mut one = |_| {
            let got = self.peer.recv(&mut bytes).expect("a datagram");
            assert!(got == len || got + 1 == len, "{got} bytes");
            bytes[0]
        };
        (0..count).map(&mut one).collect()
    }
}

#[test]
fn a_zero_length_datagram_ends_a_receive_and_the_next_one_starts() {
    let Some(mut bench) = Bench::new() else { return };
    bench.udp.rearm(&mut bench.ring, Time::ZERO);
    bench.ring.enter(None).expect("entered");
    for _ in 0..3 {
        bench.peer.send(&[]).expect("sent");
        bench.peer.send(b"after").expect("sent");
        assert_eq!(bench.take(1), vec![5]);
    }
    let counters = &bench.udp.counters;
    assert_eq!(counters.udp_receive_ended_empty_datagram, 3);
    assert_eq!((counters.udp_received_trains, counters.udp_received_bytes), (3, 15));
    assert_eq!(counters.udp_receive_ended_overflow + counters.udp_receive_ended_error, 0);
}

#[test]
fn running_out_of_buffers_loses_nothing() {
    let Some(mut bench) = Bench::new() else { return };
    bench.udp.rearm(&mut bench.ring, Time::ZERO);
    bench.ring.enter(None).expect("entered");
    let count = 3 * RECEIVE_LENT_MIN;
    for i in 0..count {
        bench.peer.send(&vec![1; i + 1]).expect("sent");
        // Completions are run and not taken: the buffers stay with us.
        bench.ring.enter(Some(Duration::ZERO)).expect("entered");
    }
    let lengths = bench.take(count);
    assert_eq!(lengths, (1..=count as u32).collect::<Vec<_>>(), "in order, none lost");
    assert!(bench.udp.counters.udp_receive_ended_no_buffers > 0);
    assert!(bench.ring.buffers().lent_target(Lender::Udp) > RECEIVE_LENT_MIN, "lends more after running dry");
}

#[test]
fn trains_go_out_datagram_by_datagram_where_segmentation_is_refused() {
    let Some(mut bench) = Bench::new() else { return };
    bench.udp.sockets[0].socket.refuse_segmentation();
    let train = bench.train(1, 5, 1000);
    bench.udp.send(&mut bench.ring, train);
    bench.finish(1, |result| {
        assert_eq!(result, Err(libc::EINVAL));
        result
    });
    assert!(bench.udp.sockets[0].segments, "not proven yet: the size could have been at fault");
    bench.finish(5, |result| result);
    let train = bench.train(2, 5, 1000);
    bench.udp.send(&mut bench.ring, train);
    bench.finish(5, |result| result);
    assert_eq!(bench.marks(10, 1000), vec![1, 1, 1, 1, 1, 2, 2, 2, 2, 2]);
    let counters = &bench.udp.counters;
    assert_eq!((counters.udp_send_gso_refused, counters.udp_send_singly), (1, 2));
    assert_eq!((counters.udp_sent_segments, counters.udp_sent_trains), (10, 2));
    assert!(bench.udp.is_idle());
    assert_eq!(bench.ring.buffers().free_count(), SEND_BUFFERS);
}

#[test]
fn more_trains_than_slots_go_out_singly_in_order() {
    let Some(mut bench) = Bench::new() else { return };
    bench.udp.sockets[0].segments = false;
    for mark in 0..4 {
        let train = bench.train(mark, 50, 100);
        bench.udp.send(&mut bench.ring, train);
    }
    bench.udp.flush(&mut bench.ring);
    let mut left = 200;
    while left > 0 {
        let now = left.min(SEND_SLOTS);
        bench.finish(now, |result| result);
        left -= now;
    }
    let marks = bench.marks(200, 100);
    assert!(marks.is_sorted() && marks.iter().filter(|m| **m == 3).count() == 50, "{marks:?}");
}

#[test]
fn a_full_socket_puts_trains_back_in_their_order() {
    let Some(mut bench) = Bench::new() else { return };
    let (one, two, three) = (bench.train(1, 1, 100), bench.train(2, 1, 100), bench.train(3, 1, 100));
    bench.udp.send(&mut bench.ring, one);
    bench.udp.send(&mut bench.ring, two);
    // Both were refused, says the test: their datagrams did go out once, and will again.
    bench.finish(2, |_| Err(libc::EAGAIN));
    assert_eq!(bench.marks(2, 100), vec![1, 2]);
    bench.udp.send(&mut bench.ring, three);
    let queue = |udp: &Udp| {
        let bytes = udp.sockets[0].queue.iter().map(|job| udp.jobs[usize::from(*job)].expect("queued").order);
        bytes.collect::<Vec<_>>()
    };
    assert_eq!(queue(&bench.udp), vec![0, 1, 2]);
    assert!(bench.udp.sockets[0].blocked);
    bench.udp.flush(&mut bench.ring);
    assert_eq!(queue(&bench.udp).len(), 3, "nothing is sent before the socket is writable");
    while bench.udp.sockets[0].blocked {
        bench.finish(0, |result| result);
        bench.wait();
        match bench.ring.completion() {
            Some(Completion::Writable { socket }) => bench.udp.writable(socket),
            other => panic!("{other:?}"),
        }
    }
    bench.finish(3, |result| result);
    assert_eq!(bench.marks(3, 100), vec![1, 2, 3]);
    assert_eq!(bench.udp.counters.udp_send_blocked, 2);
}

#[test]
fn a_probe_that_is_too_big_is_counted_and_its_buffer_is_free_again() {
    let Some(mut bench) = Bench::new() else { return };
    let train = bench.train(1, 1, 1400);
    bench.udp.send(&mut bench.ring, train);
    bench.finish(1, |_| Err(libc::EMSGSIZE));
    assert_eq!(bench.udp.counters.udp_send_too_big, 1);
    let mut train = bench.train(1, 1, 1400);
    train.path.remote = "[::1]:9".parse().expect("an address");
    bench.udp.send(&mut bench.ring, train);
    assert_eq!(bench.udp.counters.udp_send_no_socket, 1);
    assert_eq!(bench.ring.buffers().free_count(), SEND_BUFFERS);
}

#[test]
fn each_path_finds_its_socket() {
    let wanted = ["127.0.0.1:0", "0.0.0.0:0", "[::]:0"].map(|a| a.parse().expect("an address"));
    let Ok(udp) = Udp::bind(&wanted, false) else {
        eprintln!("SKIPPED: this host has no IPv6");
        return;
    };
    let [one, any, six] = udp.addresses()[..] else { panic!("three sockets") };
    let v4: SocketAddr = "192.0.2.9:1".parse().expect("an address");
    let v6: SocketAddr = "[2001:db8::9]:1".parse().expect("an address");
    let find = |local, remote| udp.socket_for(&Path { local, remote });
    assert_eq!(find(one, v4), Some(0));
    assert_eq!(find(SocketAddr::new("192.0.2.1".parse().expect("an ip"), any.port()), v4), Some(1));
    assert_eq!(find("0.0.0.0:0".parse().expect("any"), v4), Some(1), "the wildcard, by its address");
    assert_eq!(find("10.0.0.1:7".parse().expect("any"), v4), Some(0), "the first of the family");
    assert_eq!((find(six, v6), find(one, v6)), (Some(2), Some(2)));
}

#[test]
fn every_other_ending_is_counted_by_its_cause_and_failures_pause() {
    let Some(mut bench) = Bench::new() else { return };
    bench.udp.rearm(&mut bench.ring, Time::ZERO);
    bench.peer.send(b"one").expect("sent");
    bench.wait();
    let Some(Completion::Received { socket, result, buffer, more: true }) = bench.ring.completion() else {
        panic!("a datagram that leaves the receive running");
    };
    // As the kernel says it when the completion queue is full: a datagram, and no more to come.
    let train = bench.udp.received(&mut bench.ring, socket, result, buffer, false, Time::ZERO);
    bench.ring.buffers().release(train.expect("the datagram counts").place.buf);
    assert_eq!(bench.udp.counters.udp_receive_ended_overflow, 1);
    assert_eq!((bench.udp.rearm(&mut bench.ring, Time::ZERO), bench.udp.sockets[0].armed), (None, true));
    for (failures, wait) in [(1, None), (2, Some(Time::from_millis(RECEIVE_PAUSE_MS)))] {
        bench.udp.received(&mut bench.ring, socket, Err(libc::ENOMEM), None, false, Time::ZERO);
        assert_eq!(bench.udp.counters.udp_receive_ended_error, failures);
        assert_eq!(bench.udp.rearm(&mut bench.ring, Time::ZERO), wait, "the first at once, later ones not");
    }
    assert_eq!(bench.udp.rearm(&mut bench.ring, Time::from_millis(RECEIVE_PAUSE_MS)), None);
    assert!(bench.udp.sockets[0].armed);
}

/// Submits and gathers every completion of so many sends without a copy: two each.
fn gather(bench: &mut Bench, sends: usize) -> Vec<Completion> {
    bench.udp.flush(&mut bench.ring);
    let mut gathered = Vec::new();
    let ended = |all: &[Completion]| {
        all.iter().filter(|one| !matches!(one, Completion::Sent { held: true, .. })).count()
    };
    while ended(&gathered) < sends {
        match bench.ring.completion() {
            Some(completion) => gathered.push(completion),
            None => bench.wait(),
        }
    }
    gathered
}

fn hand_in(bench: &mut Bench, completion: Completion) -> bool {
    match completion {
        Completion::Sent { slot, result, held } => bench.udp.sent(&mut bench.ring, slot, result, held),
        Completion::Released { slot, copied } => bench.udp.released(&mut bench.ring, slot, copied),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_buffer_that_the_device_reads_is_free_when_the_kernel_says_so_and_not_before() {
    let Some(mut bench) = Bench::new() else { return };
    for mark in 0..6 {
        let train = bench.train(mark, 20, 1000);
        bench.udp.send(&mut bench.ring, train);
    }
    let gathered = gather(&mut bench, 6);
    let (sent, released): (Vec<_>, Vec<_>) =
        gathered.into_iter().partition(|one| matches!(one, Completion::Sent { .. }));
    assert!(
        sent.iter().all(|one| matches!(one, Completion::Sent { result: Ok(19_999), held: true, .. })),
        "{sent:?}"
    );
    // The sends are done, and the last word on each is withheld: nothing is free, no slot is used again.
    for completion in sent {
        assert!(!hand_in(&mut bench, completion));
    }
    assert_eq!(bench.udp.counters.udp_sent_segments, 120);
    assert_eq!(
        (bench.ring.buffers().free_count(), bench.udp.slots.len()),
        (SEND_BUFFERS - 6, SEND_SLOTS - 6)
    );
    assert!(!bench.udp.is_idle());
    // Then it comes in another order.
    for (done, at) in [5, 2, 0, 4, 1, 3].into_iter().enumerate() {
        assert!(hand_in(&mut bench, released[at]));
        assert_eq!(bench.ring.buffers().free_count(), SEND_BUFFERS - 5 + done);
    }
    assert!(bench.udp.is_idle());
    assert_eq!(bench.udp.counters.udp_sent_trains, 6);
}

#[test]
fn a_train_that_is_put_back_is_not_free_before_its_first_reader_is_done() {
    let Some(mut bench) = Bench::new() else { return };
    let train = bench.train(1, 20, 1000);
    bench.udp.send(&mut bench.ring, train);
    let gathered = gather(&mut bench, 1);
    let [Completion::Sent { slot, held: true, .. }, released] = gathered[..] else { panic!("{gathered:?}") };
    // The segmentation was refused, says the test: the datagrams go out singly, while the kernel still has a page.
    bench.udp.sent(&mut bench.ring, slot, Err(libc::EIO), true);
    bench.finish(20, |result| result);
    assert!(!bench.udp.is_idle(), "sent, and still read");
    assert!(hand_in(&mut bench, released));
    assert!(bench.udp.is_idle());
    assert_eq!(bench.ring.buffers().free_count(), SEND_BUFFERS);
}

#[test]
fn over_loopback_the_kernel_copies_and_it_is_not_tried_any_more() {
    let Some(mut bench) = Bench::new() else { return };
    for round in 0..2 * ZERO_COPY_COPIED_MIN {
        let small = bench.train(0, 2, 1000);
        let large = bench.train(1, 20, 1000);
        bench.udp.send(&mut bench.ring, small);
        bench.udp.send(&mut bench.ring, large);
        let gathered = gather(&mut bench, 2);
        let held = gathered.iter().filter(|one| matches!(one, Completion::Sent { held: true, .. })).count();
        assert_eq!(held, usize::from(round < ZERO_COPY_COPIED_MIN), "round {round}: {gathered:?}");
        gathered.into_iter().for_each(|one| _ = hand_in(&mut bench, one));
        assert_eq!(bench.marks(22, 1000).iter().map(|mark| u32::from(*mark)).sum::<u32>(), 20);
    }
    let counters = &bench.udp.counters;
    assert_eq!(counters.udp_zero_copy_copied, u64::from(ZERO_COPY_COPIED_MIN));
    assert_eq!((counters.udp_zero_copy_avoided, counters.udp_zero_copy_ended), (0, 1));
    assert_eq!(bench.ring.buffers().free_count(), SEND_BUFFERS);
}

/// A device that takes nothing for a while, or is gone: datagrams are lost, as anywhere on their way, and nothing else.
#[test]
fn a_storm_of_refusals_costs_trains_and_no_buffers() {
    let Some(mut bench) = Bench::new() else { return };
    let refusals = [libc::ENOBUFS, libc::ENOMEM, libc::ENETDOWN, libc::ENODEV, libc::EPERM, libc::EMSGSIZE];
    for (round, errno) in refusals.into_iter().cycle().take(30).enumerate() {
        for mark in 0..SEND_BUFFERS as u8 {
            let train = bench.train(mark, 2, 100);
            bench.udp.send(&mut bench.ring, train);
        }
        bench.finish(SEND_BUFFERS, |_| Err(errno));
        bench.marks(2 * SEND_BUFFERS, 100);
        assert!(bench.udp.is_idle(), "round {round}");
        assert_eq!(bench.ring.buffers().free_count(), SEND_BUFFERS, "round {round}");
    }
    let (counters, each) = (&bench.udp.counters, 5 * SEND_BUFFERS as u64);
    assert_eq!((counters.udp_send_no_memory, counters.udp_send_failed), (2 * each, each));
    assert_eq!((counters.udp_send_unreachable, counters.udp_send_forbidden), (each, each));
    assert_eq!((counters.udp_send_too_big, counters.udp_sent_bytes), (each, 0));
    // Then it takes them again.
    let train = bench.train(9, 2, 100);
    bench.udp.send(&mut bench.ring, train);
    bench.finish(1, |result| result);
    assert_eq!(bench.marks(2, 100), [9, 9]);
}

#[test]
fn a_train_that_may_not_be_pinned_is_sent_with_a_copy() {
    let Some(mut bench) = Bench::new() else { return };
    for (errno, mark) in [(libc::ENOMEM, 1), (libc::ENOBUFS, 2)] {
        bench.udp.sockets[0].zero_copy = Judge::default();
        let train = bench.train(mark, 20, 1000);
        bench.udp.send(&mut bench.ring, train);
        let gathered = gather(&mut bench, 1);
        let [Completion::Sent { slot, held: true, .. }, released] = gathered[..] else {
            panic!("{gathered:?}")
        };
        bench.udp.sent(&mut bench.ring, slot, Err(errno), true);
        hand_in(&mut bench, released);
        assert!(!bench.udp.is_idle(), "it waits to be sent again");
        let again = gather(&mut bench, 1);
        assert!(matches!(again[..], [Completion::Sent { result: Ok(19_999), held: false, .. }]), "{again:?}");
        assert!(hand_in(&mut bench, again[0]));
        // Once as the test said it was not, and once more.
        assert_eq!(bench.marks(40, 1000), vec![mark; 40]);
    }
    assert_eq!(bench.udp.counters.udp_send_no_memory, 0);
}
