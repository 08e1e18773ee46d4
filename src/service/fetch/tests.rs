use super::*;
use crate::base::ChunkId;
use crate::limits::SLICE_SIZE;
use crate::wire::chunkmsg::ReplyHead;

const NOW: Time = Time::from_millis(1);

fn chunk(seed: u8, len: usize) -> (Target, Vec<u8>, SliceList) {
    let bytes: Vec<u8> = (0..len).map(|i| (i as u8).wrapping_mul(31) ^ seed).collect();
    let list = SliceList::from_chunk(&bytes);
    let id = ChunkId(crate::crypto::hash::sha1(&[&bytes]));
    (Target { id, root: *list.root(), len: len as u32 }, bytes, list)
}

/// What an honest server answers.
fn answer(request: &SliceRequest, bytes: &[u8], list: &SliceList) -> Vec<u8> {
    let chunk_len = bytes.len() as u32;
    let head =
        ReplyHead { status: Status::Ok, list: request.list, mask: request.mask, chunk_len, retry_ms: 0 };
    let mut out = head.emit().to_vec();
    if request.list {
        out.extend_from_slice(list.as_bytes());
    }
    for (index, slice) in bytes.chunks(SLICE_SIZE).enumerate() {
        if request.mask >> index & 1 == 1 {
            out.extend_from_slice(slice);
        }
    }
    out
}

fn fetch(peers: u64) -> Fetch {
    let mut fetch = Fetch::new(SlicePool::new(64));
    (0..peers).for_each(|peer| fetch.peer_up(NOW, PeerId(peer)));
    fetch
}

fn deliver(fetch: &mut Fetch, peer: PeerId, stream: StreamId, answer: &[u8]) {
    // Packets come in any order.
    let packets: Vec<_> = answer.chunks(1333).enumerate().collect();
    for (index, packet) in packets.into_iter().rev() {
        fetch.data(NOW, peer, stream, index as u64 * 1333, packet);
    }
    fetch.finished(peer, stream);
}

fn slices(fetch: &mut Fetch) -> Vec<(u32, Vec<u8>, PeerId)> {
    let mut out = Vec::new();
    while let Some(event) = fetch.poll_event() {
        match event {
            Event::Slice { index, data, len, from, .. } => out.push((index, data[..len].to_vec(), from)),
            other => panic!("{other:?}"),
        }
    }
    out.sort();
    out
}

#[test]
fn several_peers_share_one_chunk() {
    let (target, bytes, list) = chunk(1, 10 * SLICE_SIZE + 77);
    let mut fetch = fetch(2);
    fetch.want(JobId(0), target, u16::MAX);
    let mut asked = Vec::new();
    while let Some(outgoing) = fetch.poll_request(NOW) {
        let stream = StreamId(4 * asked.len() as u64);
        asked.push((outgoing.peer, stream, outgoing.request));
        fetch.started(outgoing, stream);
    }
    let masks = asked.iter().fold(0u16, |mask, (_, _, request)| {
        assert_eq!(mask & request.mask, 0, "no slice is asked of two");
        mask | request.mask
    });
    assert_eq!(masks, (1 << 11) - 1);
    assert!(asked.iter().any(|(p, ..)| p.0 == 0) && asked.iter().any(|(p, ..)| p.0 == 1));
    for (peer, stream, request) in asked {
        deliver(&mut fetch, peer, stream, &answer(&request, &bytes, &list));
    }
    let got: Vec<u8> = slices(&mut fetch).into_iter().flat_map(|(_, bytes, _)| bytes).collect();
    assert_eq!(got, bytes);
    assert_eq!(fetch.slack(), 64, "all buffers came back");
    assert!(!fetch.is_waiting());
}

#[test]
fn a_liar_is_named_and_another_peer_finishes() {
    let (target, bytes, list) = chunk(2, 3 * SLICE_SIZE);
    let mut fetch = fetch(1);
    fetch.want(JobId(0), target, 0b111);
    let outgoing = fetch.poll_request(NOW).unwrap();
    let request = outgoing.request;
    fetch.started(outgoing, StreamId(0));
    let mut wrong = answer(&request, &bytes, &list);
    let last = wrong.len() - 1;
    wrong[last] ^= 1;
    fetch.peer_up(NOW, PeerId(7));
    deliver(&mut fetch, PeerId(0), StreamId(0), &wrong);
    let mut liars = 0;
    while let Some(event) = fetch.poll_event() {
        match event {
            Event::Liar { peer: PeerId(0), .. } => liars += 1,
            Event::Slice { index, .. } => assert!(index < 2, "the wrong slice is not handed out"),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(liars, 1);
    let outgoing = fetch.poll_request(NOW).unwrap();
    assert_eq!(outgoing.peer, PeerId(7));
    let request = outgoing.request;
    assert!(request.mask & 0b100 != 0);
    fetch.started(outgoing, StreamId(4));
    deliver(&mut fetch, PeerId(7), StreamId(4), &answer(&request, &bytes, &list));
    assert!(
        slices(&mut fetch)
            .iter()
            .any(|(index, bytes_got, _)| *index == 2 && *bytes_got == bytes[2 * SLICE_SIZE..])
    );
}

#[test]
fn not_found_goes_to_the_next_peer_and_then_to_the_caller() {
    let (target, ..) = chunk(5, SLICE_SIZE);
    let mut fetch = fetch(2);
    fetch.want(JobId(0), target, 1);
    for stream in [0, 4] {
        let outgoing = fetch.poll_request(NOW).unwrap();
        let peer = outgoing.peer;
        fetch.started(outgoing, StreamId(stream));
        deliver(&mut fetch, peer, StreamId(stream), &ReplyHead::failed(Status::NotFound, 0).emit());
    }
    assert!(matches!(fetch.poll_event(), Some(Event::Unavailable { .. })));
    assert!(fetch.poll_request(NOW).is_none());
    assert_eq!(fetch.slack(), 64);
}

#[test]
fn a_stalled_or_lost_peer_is_replaced() {
    let (target, ..) = chunk(6, 2 * SLICE_SIZE);
    let mut fetch = fetch(1);
    fetch.want(JobId(0), target, 0b11);
    let outgoing = fetch.poll_request(NOW).unwrap();
    fetch.started(outgoing, StreamId(0));
    let late = fetch.poll_timeout().unwrap();
    fetch.handle_timeout(late);
    assert!(matches!(fetch.poll_event(), Some(Event::Stop { .. })));
    let again = fetch.poll_request(late).unwrap();
    assert_eq!(again.request.mask, 0b11);
    fetch.started(again, StreamId(4));
    fetch.peer_down(PeerId(0));
    fetch.peer_up(late, PeerId(1));
    assert_eq!(fetch.poll_request(late).map(|outgoing| outgoing.peer), Some(PeerId(1)));
}

#[test]
fn bytes_past_the_answer_are_a_lie() {
    let (target, bytes, list) = chunk(7, 1000);
    let mut fetch = fetch(1);
    fetch.want(JobId(0), target, 1);
    let outgoing = fetch.poll_request(NOW).unwrap();
    let mut long = answer(&outgoing.request, &bytes, &list);
    fetch.started(outgoing, StreamId(0));
    long.push(0);
    deliver(&mut fetch, PeerId(0), StreamId(0), &long);
    assert!(matches!(fetch.poll_event(), Some(Event::Liar { .. })));
}

#[test]
fn buffers_bound_what_is_in_flight() {
    for (buffers, expected) in [(20, 16), (40, 32), (5, 5)] {
        let mut fetch = Fetch::new(SlicePool::new(buffers));
        fetch.peer_up(NOW, PeerId(0));
        for seed in 0..4 {
            fetch.want(JobId(0), chunk(seed, 16 * SLICE_SIZE).0, u16::MAX);
        }
        let mut asked = 0;
        let mut stream = 0;
        while let Some(outgoing) = fetch.poll_request(NOW) {
            asked += outgoing.request.mask.count_ones();
            fetch.started(outgoing, StreamId(stream));
            stream += 4;
        }
        assert_eq!(
            asked, expected,
            "whole chunks while there is room for them, parts only when nothing moves"
        );
    }
}

fn refuse_all(fetch: &mut Fetch, reply: impl Fn(&SliceRequest) -> Vec<u8>) -> usize {
    let mut asked = 0;
    while let Some(outgoing) = fetch.poll_request(NOW) {
        let (peer, stream) = (outgoing.peer, StreamId(4 * asked as u64));
        let mut reply = reply(&outgoing.request);
        // The stream's window lets no more through.
        reply.truncate(outgoing.reply_len as usize);
        fetch.started(outgoing, stream);
        deliver(fetch, peer, stream, &reply);
        asked += 1;
        assert!(asked < 10, "the same is asked over and over");
    }
    asked
}

#[test]
fn a_peer_that_refuses_or_cuts_its_answers_is_not_asked_over_and_over() {
    let (target, bytes, list) = chunk(8, 3 * SLICE_SIZE);
    let bad = |_: &SliceRequest| ReplyHead::failed(Status::BadRequest, 0).emit().to_vec();
    let empty = |_: &SliceRequest| Vec::new();
    let short = |request: &SliceRequest| answer(request, &bytes, &list)[..SLICE_SIZE].to_vec();
    type Answer<'a> = &'a dyn Fn(&SliceRequest) -> Vec<u8>;
    for reply in [&bad as Answer, &empty, &short] {
        let mut fetch = fetch(2);
        fetch.want(JobId(0), target, 0b111);
        assert!(refuse_all(&mut fetch, reply) >= 2, "each peer is asked");
        assert!(matches!(fetch.poll_event(), Some(Event::Unavailable { .. })));
        assert_eq!(fetch.slack(), 64);
    }
}

#[test]
fn a_busy_peer_is_asked_again_when_it_said() {
    let (target, ..) = chunk(9, SLICE_SIZE);
    let mut fetch = fetch(1);
    fetch.want(JobId(0), target, 1);
    assert_eq!(refuse_all(&mut fetch, |_| ReplyHead::failed(Status::Busy, 200).emit().to_vec()), 1);
    let again = NOW + Duration::from_millis(200);
    assert_eq!(fetch.poll_timeout(), Some(again));
    fetch.handle_timeout(again);
    assert!(fetch.poll_request(again).is_some() && fetch.poll_event().is_none());
}

#[test]
fn a_locator_that_contradicts_a_chunk_costs_no_friend_and_stops_nobody_else() {
    let (target, bytes, list) = chunk(10, 2 * SLICE_SIZE);
    for false_target in [Target { root: [1; 32], ..target }, Target { len: 65_537, ..target }] {
        let mut fetch = fetch(1);
        fetch.want(JobId(0), false_target, 0b11);
        fetch.want(JobId(0), target, 0b11);
        refuse_all(&mut fetch, |request| answer(request, &bytes, &list));
        let (mut unavailable, mut slices) = (0, 0);
        while let Some(event) = fetch.poll_event() {
            match event {
                Event::Unavailable { target } => unavailable += usize::from(target == false_target),
                Event::Slice { target: got, .. } => slices += usize::from(got == target),
                Event::Stop { .. } => {}
                Event::Liar { .. } => panic!("the peer told the truth"),
            }
        }
        assert_eq!((unavailable, slices, fetch.slack()), (1, 2, 64));
    }
}

#[test]
fn a_peer_that_trickles_does_not_hold_a_slice_for_ever() {
    let (target, bytes, list) = chunk(11, SLICE_SIZE);
    let mut fetch = fetch(1);
    fetch.want(JobId(0), target, 1);
    let outgoing = fetch.poll_request(NOW).unwrap();
    let answer = answer(&outgoing.request, &bytes, &list);
    fetch.started(outgoing, StreamId(0));
    fetch.peer_up(NOW, PeerId(1));
    for second in 0..200u64 {
        let now = NOW + Duration::from_secs(second);
        fetch.data(now, PeerId(0), StreamId(0), second, &answer[second as usize..][..1]);
        fetch.handle_timeout(now);
        if let Some(again) = fetch.poll_request(now) {
            assert_eq!(again.peer, PeerId(1), "who trickled is asked last");
            return;
        }
    }
    panic!("nobody else is asked");
}

/// Its packets may overtake the head that explains them: the end of the answer came first, and a friend that told
/// the truth was dropped.
#[test]
fn an_answer_for_a_longer_chunk_is_no_lie_before_its_head_is_here() {
    let (target, bytes, list) = chunk(12, 3 * SLICE_SIZE);
    let mut fetch = fetch(1);
    fetch.want(JobId(0), Target { len: 1000, ..target }, 1);
    let outgoing = fetch.poll_request(NOW).unwrap();
    let answer = answer(&outgoing.request, &bytes, &list);
    fetch.started(outgoing, StreamId(0));
    deliver(&mut fetch, PeerId(0), StreamId(0), &answer);
    while let Some(event) = fetch.poll_event() {
        assert!(!matches!(event, Event::Liar { .. }), "the locator lied");
    }
    assert!(fetch.is_idle() && fetch.peers() == 1);
}

/// Refuses on behalf of every peer that is asked.
fn nobody_has(fetch: &mut Fetch) -> usize {
    refuse_all(fetch, |_| ReplyHead::failed(Status::NotFound, 0).emit().to_vec())
}

/// Found by review: a `get` failed at once while the friend that had the chunk was still connecting.
#[test]
fn what_nobody_has_waits_for_others_that_may_come_and_not_for_ever() {
    let (target, bytes, list) = chunk(13, 1000);
    let until = NOW + Duration::from_secs(10);
    let mut fetch = fetch(2);
    fetch.expect_others(Some(until));
    fetch.want(JobId(0), target, 1);
    assert_eq!(nobody_has(&mut fetch), 2);
    assert!(fetch.is_short() && !fetch.is_short(), "told once");
    assert!(fetch.poll_event().is_none());
    fetch.handle_timeout(fetch.poll_timeout().unwrap());
    assert_eq!(fetch.poll_timeout(), Some(until));
    // Another one that does not have it changes nothing, also of the time.
    fetch.expect_others(Some(until + Duration::from_secs(5)));
    fetch.peer_up(NOW, PeerId(7));
    assert_eq!(nobody_has(&mut fetch), 1);
    assert!(fetch.poll_event().is_none() && !fetch.is_short());
    assert_eq!(fetch.hopeless.iter().map(|(at, _)| *at).collect::<Vec<_>>(), [until]);
    // One that has it is asked.
    fetch.peer_up(NOW, PeerId(8));
    let outgoing = fetch.poll_request(NOW).unwrap();
    assert_eq!(outgoing.peer, PeerId(8));
    let answer = answer(&outgoing.request, &bytes, &list);
    fetch.started(outgoing, StreamId(0));
    deliver(&mut fetch, PeerId(8), StreamId(0), &answer);
    assert_eq!(slices(&mut fetch).len(), 1);
    fetch.handle_timeout(until);
    assert!(fetch.is_idle() && fetch.hopeless.is_empty() && fetch.poll_event().is_none());
    // In time nobody came.
    fetch.want(JobId(0), Target { len: 999, ..target }, 1);
    assert_eq!(nobody_has(&mut fetch), 4);
    assert!(fetch.poll_event().is_none());
    fetch.handle_timeout(until + Duration::from_secs(5));
    assert!(matches!(fetch.poll_event(), Some(Event::Unavailable { .. })));
    assert!(fetch.is_idle() && fetch.hopeless.is_empty());
    // A peer that is there already and is announced again changes nothing.
    fetch.want(JobId(0), Target { len: 997, ..target }, 1);
    assert_eq!(nobody_has(&mut fetch), 4);
    fetch.peer_up(NOW, PeerId(8));
    fetch.expect_others(Some(until + Duration::from_secs(9)));
    fetch.handle_timeout(until + Duration::from_secs(5));
    assert!(matches!(fetch.poll_event(), Some(Event::Unavailable { .. })));
    // Nobody is expected any more.
    fetch.want(JobId(0), Target { len: 998, ..target }, 1);
    assert_eq!(nobody_has(&mut fetch), 4);
    fetch.expect_others(None);
    assert!(matches!(fetch.poll_event(), Some(Event::Unavailable { .. })));
}

/// The last one that might have had it is gone, and those who stay do not have it.
#[test]
fn what_those_who_stay_do_not_have_is_given_up() {
    let (target, ..) = chunk(14, 1000);
    let mut fetch = fetch(1);
    fetch.want(JobId(0), target, 1);
    let outgoing = fetch.poll_request(NOW).unwrap();
    fetch.started(outgoing, StreamId(0));
    fetch.peer_up(NOW, PeerId(1));
    deliver(&mut fetch, PeerId(0), StreamId(0), &ReplyHead::failed(Status::NotFound, 0).emit());
    fetch.peer_down(PeerId(1));
    assert!(fetch.poll_event().is_none(), "its friend may be called again: the caller says");
    fetch.expect_others(None);
    assert!(matches!(fetch.poll_event(), Some(Event::Unavailable { .. })));
}

/// Found by review: who provided one public chunk learnt what else was got at the same time.
#[test]
fn a_source_is_only_asked_for_chunks_of_the_jobs_for_which_it_was_found() {
    let mut fetch = fetch(0);
    let [public, more, private] = [21, 22, 23].map(|seed| chunk(seed, SLICE_SIZE).0);
    let (source, friend) = (PeerId(5), PeerId(6));
    let (found, others) = (JobId(1), JobId(2));
    fetch.expect_others(Some(NOW + Duration::from_secs(90)));
    fetch.want(found, public, 1);
    fetch.want(others, private, 1);
    fetch.source_up(NOW, source, &fetch.jobs_of(&public.id));
    fetch.want(found, more, 1);
    fetch.want(others, chunk(24, SLICE_SIZE).0, 1);
    fetch.expect_others(Some(NOW + Duration::from_secs(90)));
    let mut stream = 0;
    let mut asked = |fetch: &mut Fetch| {
        let mut all = Vec::new();
        while let Some(outgoing) = fetch.poll_request(NOW) {
            all.push((outgoing.peer, outgoing.request.chunk));
            stream += 4;
            fetch.started(outgoing, StreamId(stream));
        }
        all
    };
    assert_eq!(asked(&mut fetch), [(source, public.id), (source, more.id)]);
    assert!(fetch.lacking(9).contains(&private.id), "it is looked up for itself");
    // A friend is asked for everything; the source for the rest once it was found for that, too.
    fetch.source_up(NOW, source, &BTreeSet::from([others]));
    assert_eq!(asked(&mut fetch).iter().map(|(peer, _)| *peer).collect::<Vec<_>>(), [source; 2]);
    fetch.want(JobId(3), chunk(25, SLICE_SIZE).0, 1);
    assert_eq!(asked(&mut fetch), []);
    fetch.peer_up(NOW, friend);
    assert_eq!(asked(&mut fetch).iter().map(|(peer, _)| *peer).collect::<Vec<_>>(), [friend]);
    // Who became a friend is asked for everything.
    fetch.peer_down(friend);
    assert_eq!(asked(&mut fetch), []);
    fetch.peer_up(NOW, source);
    assert_eq!(asked(&mut fetch).len(), 1);
    // Nothing is left of who is gone.
    fetch.peer_down(source);
    assert!(fetch.sources.is_empty() && fetch.chunks.values().all(|chunk| chunk.without.is_empty()));
}
