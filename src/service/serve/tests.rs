use super::*;
use crate::base::{ChunkId, NoChunks, StoredChunk};

/// A store whose slices are all cold and of which `room` are faulted in at once.
struct Cold {
    room: usize,
    on_their_way: BTreeSet<(u64, u32)>,
    here: BTreeSet<(u64, u32)>,
}

impl ChunkRead for Cold {
    fn find(&mut self, id: &ChunkId) -> Option<StoredChunk> {
        Some(StoredChunk { handle: id.0[0].into(), len: 3 * SLICE_SIZE as u32, root: [0; 32] })
    }
    fn slice_list(&mut self, _: u64, _: &mut Vec<u8>) -> Result<(), ReadFault> {
        Ok(())
    }
    fn warm(&mut self, handle: u64, slice: u32) -> Result<bool, ReadFault> {
        let at = (handle, slice);
        if self.here.contains(&at) {
            return Ok(true);
        }
        if !self.on_their_way.contains(&at) && self.on_their_way.len() == self.room {
            return Err(ReadFault::Busy);
        }
        self.on_their_way.insert(at);
        Ok(false)
    }
    fn prefetch(&mut self, handle: u64, slice: u32) {
        if self.on_their_way.len() < self.room / 2 && !self.here.contains(&(handle, slice)) {
            self.on_their_way.insert((handle, slice));
        }
    }
    fn read(&mut self, _: u64, _: u32, _: &mut [u8]) -> Result<(), ReadFault> {
        Err(ReadFault::Gone)
    }
}

/// Found by review: beyond the bound, cold slices were read on the shard.
#[test]
fn requests_beyond_what_is_faulted_in_wait_and_none_is_forgotten() {
    let (mut serve, mut acts) = (Serve::default(), Vec::new());
    let mut store = Cold { room: 4, on_their_way: BTreeSet::new(), here: BTreeSet::new() };
    let asked = 20;
    for n in 0..asked {
        let (peer, stream) = (PeerId(n), StreamId(0));
        serve.opened(Time::from_millis(0), peer, stream, false, &mut acts);
        let request = SliceRequest { chunk: ChunkId([n as u8; 20]), mask: 7, list: false };
        serve.data(peer, stream, &request.emit(), true, &mut store, &mut acts);
    }
    assert_eq!((serve.starved.len(), store.on_their_way.len()), (17, 4));
    serve.ended(PeerId(19), StreamId(0));
    serve.peer_down(PeerId(18));
    assert_eq!(serve.starved.len(), 15, "who is gone does not wait");
    while let Some((handle, slice)) = store.on_their_way.pop_first() {
        store.here.insert((handle, slice));
        serve.warmed(handle, slice, &mut store, &mut acts);
    }
    let ended = acts.iter().filter(|act| matches!(act, Act::Finish(..))).count();
    let slices = acts.iter().filter(|act| matches!(act, Act::Attach(..))).count();
    assert_eq!((ended, slices, serve.active(), serve.starved.len()), (18, 54, 0, 0));
    assert!(serve.cold.is_empty());
}

/// Found by review: they stayed until the slice came, however many came and went meanwhile.
#[test]
fn requests_that_end_do_not_wait_for_their_cold_slice() {
    let (mut serve, mut acts) = (Serve::default(), Vec::new());
    let mut store = Cold { room: 4, on_their_way: BTreeSet::new(), here: BTreeSet::new() };
    let mut ask = |serve: &mut Serve, acts: &mut Vec<Act>, n: u64| {
        serve.opened(Time::from_millis(0), PeerId(n), StreamId(n), false, acts);
        let request = SliceRequest { chunk: ChunkId([1; 20]), mask: 7, list: false };
        serve.data(PeerId(n), StreamId(n), &request.emit(), true, &mut store, acts);
    };
    for n in 0..1000 {
        ask(&mut serve, &mut acts, n);
        if n % 2 == 0 {
            serve.ended(PeerId(n), StreamId(n));
        } else {
            serve.peer_down(PeerId(n));
        }
    }
    assert!(serve.cold.is_empty() && serve.active() == 0);
    ask(&mut serve, &mut acts, 1000);
    ask(&mut serve, &mut acts, 1001);
    serve.ended(PeerId(1000), StreamId(1000));
    assert_eq!(serve.cold.values().map(BTreeSet::len).collect::<Vec<_>>(), [1]);
    while let Some((handle, slice)) = store.on_their_way.pop_first() {
        store.here.insert((handle, slice));
        serve.warmed(handle, slice, &mut store, &mut acts);
    }
    let ended = acts.iter().filter(|act| matches!(act, Act::Finish(..))).count();
    assert_eq!((ended, serve.active(), serve.cold.len()), (1, 0, 0));
}

#[test]
fn strangers_have_less_room_than_friends_and_none_where_they_are_not_served() {
    let (mut serve, mut acts) = (Serve::default(), Vec::new());
    let now = Time::from_millis(0);
    for n in 0..REQUESTS_PER_STRANGER_MAX as u64 + 1 {
        serve.opened(now, PeerId(1), StreamId(2 * n), true, &mut acts);
    }
    assert_eq!((serve.counters().busy, serve.active()), (1, REQUESTS_PER_STRANGER_MAX));
    for n in 0..STRANGER_REQUESTS_MAX as u64 {
        serve.opened(now, PeerId(2 + n), StreamId(0), true, &mut acts);
    }
    assert_eq!(serve.active(), STRANGER_REQUESTS_MAX, "all strangers together");
    serve.opened(now, PeerId(9999), StreamId(0), false, &mut acts);
    assert_eq!(serve.active(), STRANGER_REQUESTS_MAX + 1, "a friend has room");
    serve.peer_down(PeerId(1));
    let store = &mut NoChunks;
    let request = SliceRequest { chunk: ChunkId([1; 20]), mask: 1, list: false };
    serve.data(PeerId(2), StreamId(0), &request.emit(), true, store, &mut acts);
    assert_eq!(serve.stranger_requests, STRANGER_REQUESTS_MAX - REQUESTS_PER_STRANGER_MAX - 1);
    serve.serve_strangers(false);
    acts.clear();
    serve.opened(now, PeerId(5000), StreamId(0), true, &mut acts);
    let refused = ReplyHead::failed(Status::Refused, 0).emit().to_vec();
    assert!(matches!(&acts[..], [Act::Write(_, _, bytes), Act::Finish(..)] if *bytes == refused));
    for n in 0..STRANGER_REQUESTS_MAX as u64 {
        serve.peer_down(PeerId(2 + n));
    }
    assert_eq!((serve.stranger_requests, serve.strangers.len(), serve.active()), (0, 0, 1));
}

#[test]
fn a_request_that_comes_byte_by_byte_is_given_up() {
    let (mut serve, mut acts, peer) = (Serve::default(), Vec::new(), PeerId(1));
    for n in 0..REQUESTS_PER_SESSION_MAX as u64 + 1 {
        serve.opened(Time::from_millis(n), peer, StreamId(2 * n), false, &mut acts);
    }
    assert_eq!((serve.counters().busy, acts.len()), (1, 2), "one more than allowed is told so");
    acts.clear();
    // One is whole in time, one comes slowly, one is taken back, the others never come.
    let request = [&[1, 0, 0, 0][..], &[7; 20]].concat();
    serve.data(peer, StreamId(0), &request, true, &mut NoChunks, &mut acts);
    assert_eq!(acts.len(), 2, "not found, and the end");
    serve.ended(peer, StreamId(2));
    acts.clear();
    let limit = Time::from_millis(REQUEST_MS_MAX);
    for byte in 0..20 {
        let now = Time::from_millis(byte * REQUEST_MS_MAX / 20);
        serve.handle_timeout(now, &mut acts);
        serve.data(peer, StreamId(4), &request[byte as usize..][..1], false, &mut NoChunks, &mut acts);
        assert!(acts.is_empty(), "{byte}");
    }
    assert_eq!(serve.poll_timeout(), Some(limit + Duration::from_millis(2)));
    serve.handle_timeout(limit + Duration::from_millis(2), &mut acts);
    assert!(matches!(acts[..], [Act::Abandon(PeerId(1), StreamId(4))]), "{acts:?}");
    serve.handle_timeout(limit + Duration::from_secs(1), &mut acts);
    assert_eq!((serve.active(), serve.poll_timeout()), (0, None));
    assert_eq!(serve.counters().late as usize, REQUESTS_PER_SESSION_MAX - 2);
    // The peer may ask again.
    serve.opened(limit, peer, StreamId(1000), false, &mut acts);
    serve.peer_down(peer);
    assert_eq!((serve.active(), serve.poll_timeout()), (0, None));
}

/// Found by review: strangers held every place for slices from the disk, and friends waited behind them.
#[test]
fn cold_reads_of_strangers_leave_room_for_friends_who_come_first() {
    let (mut serve, mut acts) = (Serve::default(), Vec::new());
    let room = STRANGER_COLD_MAX + 2;
    let mut store = Cold { room, on_their_way: BTreeSet::new(), here: BTreeSet::new() };
    let ask = |serve: &mut Serve, store: &mut Cold, n: u64, chunk: u8, mask: u16, stranger: bool| {
        serve.opened(Time::from_millis(0), PeerId(n), StreamId(0), stranger, &mut Vec::new());
        let request = SliceRequest { chunk: ChunkId([chunk; 20]), mask, list: false };
        serve.data(PeerId(n), StreamId(0), &request.emit(), true, store, &mut Vec::new());
    };
    // Each of three slices of 256 chunks is another; resets give nothing back before the slice is there.
    for n in 0..3 * 250u64 {
        ask(&mut serve, &mut store, n, (n / 3) as u8, 1 << (n % 3), true);
        if n % 2 == 0 {
            serve.ended(PeerId(n), StreamId(0));
        }
    }
    assert_eq!(store.on_their_way.len(), STRANGER_COLD_MAX, "and nothing is read ahead for them");
    for n in 1000..1003 {
        ask(&mut serve, &mut store, n, 250 + (n - 1000) as u8, 1, false);
    }
    assert_eq!(store.on_their_way.len(), room, "friends have room");
    assert_eq!(serve.starved.first_key_value().map(|(_, at)| *at), Some((PeerId(1002), StreamId(0))));
    let (handle, slice) = store.on_their_way.pop_first().expect("one of a stranger's");
    store.here.insert((handle, slice));
    serve.warmed(handle, slice, &mut store, &mut acts);
    assert!(store.on_their_way.contains(&(252, 0)), "the friend is next");
    while let Some((handle, slice)) = store.on_their_way.pop_first() {
        store.here.insert((handle, slice));
        serve.warmed(handle, slice, &mut store, &mut acts);
        assert!(serve.cold_of_strangers.len() <= STRANGER_COLD_MAX);
    }
    assert_eq!(
        (serve.active(), serve.starved.len(), serve.cold_of_strangers.len()),
        (0, 0, 0),
        "none is forgotten"
    );
}
