//! Waiting: for work, for long, and for a neighbour that stands still.

use super::*;

#[test]
fn a_shard_that_polls_goes_on_looking_and_sleeps_in_the_end() {
    let (reports, reported) = channel();
    let (heard, _hearing) = channel();
    let (files, _operations) = bounded(1);
    let settings = Settings { busy_poll: Duration::from_millis(2), ..settings(0, "127.0.0.1:0") };
    let report = Box::new(move |report| drop(reports.send(report)));
    let started = start(settings, files, report, |_, _| (Listener::new(heard), NoChunks));
    let shard = match started {
        Err(StartError::Kernel(error @ KernelError::Refused(_))) => return eprintln!("SKIPPED: {error}"),
        other => other.expect("started"),
    };
    for token in 1_000_000..1_000_003 {
        // It sleeps when nothing came for so long, although it polls.
        until_parked(&shard.handle);
        shard.handle.command(Command::Status { token }).expect("room");
        reported.recv_timeout(PATIENCE).expect("an answer");
    }
    until_parked(&shard.handle);
    let (_, counter) = stop(shard);
    assert!(counter("shard_polls") > 3, "{}", counter("shard_polls"));
}

/// Two shards of one node; one stands still for as long as the test likes.
#[test]
fn a_shard_that_stands_still_does_not_hold_its_neighbour_up() {
    let Some(Gated { shard: still, hearing, open }) = gated() else { return };
    let (reports, _heard) = channel();
    let Some((moving, _others)) = run("127.0.0.1:0", reports, || (Echo::default(), NoChunks)) else { return };
    let peer = UdpSocket::bind("127.0.0.1:0").expect("bound");
    peer.set_read_timeout(Some(PATIENCE)).expect("set");
    peer.send_to(&[0], still.addresses[0]).expect("sent");
    assert_eq!(hearing.recv_timeout(PATIENCE), Ok(1));
    for round in 0..200u8 {
        peer.send_to(&[round; 3], still.addresses[0]).expect("sent");
        still.handle.wake();
        peer.send_to(&[round; 2], moving.addresses[0]).expect("sent");
        let mut bytes = [0; 8];
        assert_eq!(peer.recv(&mut bytes).expect("the neighbour answers"), 2);
        assert_eq!(bytes[0], round);
    }
    // What it measured can be read while it stands still, and so can its counters.
    assert_eq!(still.handle.latencies().processing.count(), 0, "the first train is not done");
    open.send(()).expect("the shard waits");
    for _ in 0..200 {
        assert_eq!(hearing.recv_timeout(PATIENCE), Ok(3), "nothing was lost meanwhile");
    }
    let (_, counter) = stop(still);
    assert_eq!(counter("udp_received_trains"), 201);
    let (_, counter) = stop(moving);
    assert_eq!(counter("udp_received_trains"), 200);
}

#[test]
fn how_long_things_took_is_left_for_readers() {
    let (reports, reported) = channel();
    let (heard, hearing) = channel();
    let Some((shard, _files)) = run("127.0.0.1:0", reports, || (Listener::new(heard), NoChunks)) else {
        return;
    };
    let peer = UdpSocket::bind("127.0.0.1:0").expect("bound");
    for _ in 0..5 {
        until_parked(&shard.handle);
        peer.send_to(b"one", shard.addresses[0]).expect("sent");
        assert_eq!(hearing.recv_timeout(PATIENCE), Ok(3));
    }
    until_parked(&shard.handle);
    shard.handle.command(Command::Status { token: 1_000_000 }).expect("room");
    reported.recv_timeout(PATIENCE).expect("an answer");
    let shown = shard.handle.latencies();
    assert_eq!((shown.queueing.count(), shown.processing.count(), shown.round_trip.count()), (5, 5, 0));
    assert!(shown.processing.quantile_us(1.0) > 0.0);
    _ = stop(shard);
}
