//! What the kernel does with requests, one by one.

use super::*;

/// A ring, or `None` where io_uring is not permitted: said aloud, since nothing is tested then.
pub(crate) fn ring_or_skip() -> Option<Ring> {
    match Ring::new() {
        Ok(ring) => Some(ring),
        Err(error) => {
            eprintln!("SKIPPED: {error}");
            None
        }
    }
}

#[test]
fn wakes_by_eventfd_and_takes_the_signal() {
    let Some(mut ring) = ring_or_skip() else { return };
    let event = EventFd::new().expect("an eventfd");
    for _ in 0..2 {
        ring.wait_event(&event);
        ring.enter(None).expect("entered");
        assert_eq!(ring.completion(), None);
        event.signal();
        ring.enter(Some(Duration::from_secs(10))).expect("entered");
        assert_eq!(ring.completion(), Some(Completion::Woken));
    }
    assert_eq!(ring.in_flight(), 0);
}

#[test]
fn faults_in_what_is_mapped_and_reports_what_is_not() {
    let Some(mut ring) = ring_or_skip() else { return };
    let bytes = vec![1u8; 3 * PAGE];
    // Advice that fails, as on memory without a file, wakes and tells nothing.
    let answer = |ring: &mut Ring| {
        (0..3).find_map(|_| {
            ring.enter(Some(Duration::from_secs(10))).expect("entered");
            ring.completion()
        })
    };
    ring.populate(bytes.as_ptr() as usize + 5, 2 * PAGE, 7);
    assert_eq!(answer(&mut ring), Some(Completion::Populated { tag: 7, result: Ok(()) }));
    ring.populate(PAGE, PAGE, 8);
    assert_eq!(answer(&mut ring), Some(Completion::Populated { tag: 8, result: Err(libc::ENOMEM) }));
    assert_eq!(ring.in_flight(), 0);
}

#[test]
fn a_dropped_ring_takes_its_requests_back() {
    let Some(mut ring) = ring_or_skip() else { return };
    let socket = Socket::bind("127.0.0.1:0".parse().expect("an address"), false).expect("a socket");
    let event = EventFd::new().expect("an eventfd");
    ring.buffers().lend(Lender::Udp);
    ring.receive(&socket, 0);
    ring.wait_event(&event);
    ring.enter(None).expect("entered");
    assert_eq!(ring.in_flight(), 2);
    ring.cancel();
    assert_eq!(ring.in_flight(), 0, "nothing is left that could touch the memory");
}

/// Completions that nobody takes: what their queue does not hold waits in the kernel, and none is lost.
#[test]
fn completions_beyond_the_queue_wait_in_the_kernel() {
    let Some(mut ring) = ring_or_skip() else { return };
    let bytes = vec![1u8; PAGE];
    let (batch, mut asked) = (100, 0);
    while asked < COMPLETION_QUEUE + 500 {
        for tag in 0..batch {
            ring.populate(bytes.as_ptr() as usize, PAGE, tag as u16);
        }
        asked += batch;
        ring.enter(Some(Duration::from_millis(1))).expect("entered");
    }
    let mut taken = 0;
    while taken < asked {
        match ring.completion() {
            Some(completion) => {
                assert!(matches!(completion, Completion::Populated { result: Ok(()), .. }), "{completion:?}");
                taken += 1;
            }
            None => {
                ring.enter(Some(Duration::from_secs(10))).expect("entered");
                assert!(ring.has_completions(), "{taken} of {asked}");
            }
        }
    }
    assert_eq!(ring.in_flight(), 0);
}
