use super::*;
use crate::base::{NoChunks, Rng, StoredChunk};
use crate::chunk::SliceList;
use crate::crypto::hash::sha1;

const CACHE: u64 = 16 << 30;

fn at(millis: u64) -> Time {
    Time::from_millis(1_000_000 + millis)
}

fn keep() -> Keep {
    let mut keep = Keep::default();
    keep.allow(Some(CACHE), 1);
    keep
}

/// A stranger of a network of its own.
fn guest(n: u8) -> Guest {
    Guest::of(None, ([20, n, 1, 1], 4600).into())
}

fn chunk(seed: u64, len: usize) -> (Offer, Vec<u8>) {
    let mut bytes = vec![0; len];
    Rng::from_number(seed).fill(&mut bytes);
    let root = *SliceList::from_chunk(&bytes).root();
    (Offer { chunk: ChunkId(sha1(&[&bytes])), len: len as u32, root }, bytes)
}

/// One request of a peer on a stream.
struct Asks(PeerId, StreamId);

impl Asks {
    fn open(&self, keep: &mut Keep, now: Time, guest: Guest) -> Vec<Act> {
        let mut acts = Vec::new();
        keep.opened(now, self.0, self.1, Some(guest), &mut acts);
        acts
    }

    fn offer(&self, keep: &mut Keep, now: Time, offer: &Offer) -> Vec<Act> {
        let mut acts = Vec::new();
        keep.offer(now, (self.0, self.1), &offer.emit(), false, &mut NoChunks, &mut acts);
        acts
    }

    /// Opens and offers; whether it was accepted.
    fn begin(&self, keep: &mut Keep, now: Time, guest: Guest, offer: &Offer) -> bool {
        let opened = self.open(keep, now, guest);
        let acts = self.offer(keep, now, offer);
        opened.is_empty() && matches!(acts[..], [Act::Accept(..)])
    }

    fn send(&self, keep: &mut Keep, bytes: &[u8]) -> Vec<Act> {
        for (at, piece) in bytes.chunks(50_000).enumerate().collect::<Vec<_>>().into_iter().rev() {
            keep.body(self.0, self.1, (Offer::LEN + at * 50_000) as u64, piece);
        }
        let mut acts = Vec::new();
        keep.look(&mut acts);
        acts
    }

    fn says(&self, answer: Answer) -> [Act; 2] {
        [Act::Answer(self.0, self.1, answer), Act::End(self.0, self.1)]
    }
}

#[test]
fn what_is_offered_accepted_and_comes_is_stored_and_told() {
    let mut keep = keep();
    let (offer, bytes) = chunk(1, 200_000);
    let ask = Asks(PeerId(1), StreamId(0));
    assert!(ask.begin(&mut keep, at(0), guest(1), &offer));
    assert!(keep.takes(PeerId(1), StreamId(0)) && keep.bodies() == 1);
    assert!(ask.send(&mut keep, &bytes).is_empty(), "the store comes first");
    let (number, new) = keep.poll_store().expect("stored");
    assert!((new.id, new.root) == (offer.chunk, offer.root) && new.bytes == bytes);
    assert_eq!((keep.poll_timeout(), keep.poll_kept()), (None, None));
    let mut acts = Vec::new();
    keep.stored(at(5), number, Kept::Done, &mut acts);
    assert_eq!(acts, ask.says(Answer::Kept));
    assert_eq!((keep.poll_kept(), keep.bodies()), (Some(offer.chunk), 0));
}

#[test]
fn a_store_that_is_busy_or_broken_is_told_and_nothing_is_provided() {
    for (kept, answer) in [(Kept::Busy, Answer::Busy(KEEP_RETRY_MS)), (Kept::Failed, Answer::Refused)] {
        let (mut keep, mut acts) = (keep(), Vec::new());
        let (offer, bytes) = chunk(1, 1000);
        let ask = Asks(PeerId(1), StreamId(0));
        assert!(ask.begin(&mut keep, at(0), guest(1), &offer));
        ask.send(&mut keep, &bytes);
        let (number, _) = keep.poll_store().expect("stored");
        keep.stored(at(5), number, kept, &mut acts);
        assert_eq!((&acts[..], keep.poll_kept(), keep.bodies()), (&ask.says(answer)[..], None, 0));
    }
}

#[test]
fn what_is_not_what_was_offered_is_not_kept() {
    let mut keep = keep();
    let (offer, mut bytes) = chunk(1, 100_000);
    bytes[70_000] ^= 1;
    let ask = Asks(PeerId(1), StreamId(0));
    assert!(ask.begin(&mut keep, at(0), guest(1), &offer));
    assert_eq!(ask.send(&mut keep, &bytes), ask.says(Answer::Wrong));
    // The right address and another root: nobody could verify its slices.
    let (offer, bytes) = chunk(2, 100_000);
    let ask = Asks(PeerId(1), StreamId(2));
    assert!(ask.begin(&mut keep, at(0), guest(1), &Offer { root: [0; 32], ..offer }));
    assert_eq!(ask.send(&mut keep, &bytes), ask.says(Answer::Wrong));
    assert!(keep.poll_store().is_none() && keep.bodies() == 0 && keep.counters().wrong == 2);
}

#[test]
fn what_is_longer_or_shorter_than_it_was_offered_is_given_up() {
    let mut keep = keep();
    let (offer, bytes) = chunk(1, 1000);
    let ask = Asks(PeerId(1), StreamId(0));
    assert!(ask.begin(&mut keep, at(0), guest(1), &offer));
    assert_eq!(ask.send(&mut keep, &[&bytes[..], &[0]].concat()), [Act::Abandon(PeerId(1), StreamId(0))]);
    let ask = Asks(PeerId(1), StreamId(2));
    assert!(ask.begin(&mut keep, at(0), guest(1), &offer));
    ask.send(&mut keep, &bytes[..999]);
    keep.finished(PeerId(1), StreamId(2));
    let mut acts = Vec::new();
    keep.look(&mut acts);
    assert_eq!(acts, [Act::Abandon(PeerId(1), StreamId(2))]);
    // Bytes behind an offer that nobody has accepted are none, and neither is an offer that ends.
    let ask = Asks(PeerId(1), StreamId(4));
    ask.open(&mut keep, at(0), guest(1));
    let early = [&offer.emit()[..], &bytes].concat();
    keep.offer(at(0), (PeerId(1), StreamId(4)), &early, false, &mut NoChunks, &mut acts);
    assert_eq!(acts[1..], ask.says(Answer::Bad));
    acts.clear();
    let ask = Asks(PeerId(1), StreamId(6));
    ask.open(&mut keep, at(0), guest(1));
    keep.offer(at(0), (PeerId(1), StreamId(6)), &offer.emit(), true, &mut NoChunks, &mut acts);
    assert_eq!(acts, ask.says(Answer::Bad));
    assert!(keep.bodies() == 0 && keep.poll_timeout().is_none());
}

#[test]
fn slow_offers_and_slow_chunks_are_given_up() {
    let (mut keep, mut acts) = (keep(), Vec::new());
    let (offer, bytes) = chunk(1, 1000);
    let (slow, slower) = (Asks(PeerId(1), StreamId(0)), Asks(PeerId(1), StreamId(2)));
    slow.open(&mut keep, at(0), guest(1));
    keep.offer(at(0), (PeerId(1), StreamId(0)), &offer.emit()[..50], false, &mut NoChunks, &mut acts);
    assert!(acts.is_empty() && slower.begin(&mut keep, at(0), guest(1), &offer));
    slower.send(&mut keep, &bytes[..500]);
    assert_eq!(keep.poll_timeout(), Some(at(REQUEST_MS_MAX)));
    keep.handle_timeout(at(REQUEST_MS_MAX), &mut acts);
    assert_eq!(acts, [Act::Abandon(PeerId(1), StreamId(0))]);
    acts.clear();
    keep.handle_timeout(at(KEEP_BODY_MS_MAX - 1), &mut acts);
    assert!(acts.is_empty());
    keep.handle_timeout(at(KEEP_BODY_MS_MAX), &mut acts);
    assert_eq!(acts, [Act::Abandon(PeerId(1), StreamId(2))]);
    assert_eq!((keep.bodies(), keep.poll_timeout()), (0, None));
}

#[test]
fn two_who_offer_one_chunk_do_not_both_send_it() {
    let mut keep = keep();
    let (offer, bytes) = chunk(1, 1000);
    let (first, second) = (Asks(PeerId(1), StreamId(0)), Asks(PeerId(2), StreamId(0)));
    assert!(first.begin(&mut keep, at(0), guest(1), &offer));
    second.open(&mut keep, at(0), guest(2));
    assert_eq!(second.offer(&mut keep, at(0), &offer), second.says(Answer::Busy(KEEP_RETRY_MS)));
    first.send(&mut keep, &bytes);
    // The giver is gone; what came is kept, and memory until then.
    keep.peer_down(PeerId(1));
    assert_eq!(keep.bodies(), 1);
    let (number, _) = keep.poll_store().expect("stored");
    let mut acts = Vec::new();
    keep.stored(at(1), number, Kept::Done, &mut acts);
    assert!(acts.is_empty() && keep.poll_kept() == Some(offer.chunk) && keep.bodies() == 0);
}

/// A store with one chunk.
struct One(Offer);

impl ChunkRead for One {
    fn find(&mut self, id: &ChunkId) -> Option<StoredChunk> {
        let stored = StoredChunk { handle: 1, len: self.0.len, root: self.0.root };
        (*id == self.0.chunk).then_some(stored)
    }
    fn slice_list(&mut self, _: u64, _: &mut Vec<u8>) -> Result<(), crate::base::ReadFault> {
        Ok(())
    }
    fn warm(&mut self, _: u64, _: u32) -> Result<bool, crate::base::ReadFault> {
        Ok(true)
    }
    fn prefetch(&mut self, _: u64, _: u32) {}
    fn read(&mut self, _: u64, _: u32, _: &mut [u8]) -> Result<(), crate::base::ReadFault> {
        Ok(())
    }
}

#[test]
fn what_is_here_is_not_sent_again_and_off_is_off() {
    let (mut keep, mut acts) = (keep(), Vec::new());
    let (offer, _) = chunk(1, 1000);
    let mut store = One(offer);
    for (stream, root, answer) in [(0, offer.root, Answer::Here), (2, [0; 32], Answer::Refused)] {
        let ask = Asks(PeerId(1), StreamId(stream));
        ask.open(&mut keep, at(0), guest(1));
        let offer = Offer { root, ..offer };
        keep.offer(at(0), (ask.0, ask.1), &offer.emit(), false, &mut store, &mut acts);
        assert_eq!(std::mem::take(&mut acts), ask.says(answer));
    }
    let ask = Asks(PeerId(1), StreamId(4));
    keep.opened(at(0), ask.0, ask.1, None, &mut acts);
    assert_eq!(acts, ask.says(Answer::Busy(KEEP_RETRY_MS)), "in whose name is not known yet");
    keep.allow(None, 1);
    let ask = Asks(PeerId(1), StreamId(6));
    assert_eq!(ask.open(&mut keep, at(0), guest(1)), ask.says(Answer::Refused));
    assert!(!keep.is_on());
}

#[test]
fn memory_is_bounded_for_each_and_strangers_leave_room_for_friends() {
    let mut keep = keep();
    let mut accepted = BTreeMap::new();
    let mut seed = 0;
    for network in 0..40u8 {
        for session in 0..4u64 {
            for stream in 0..4 {
                seed += 1;
                let ask = Asks(PeerId(u64::from(network) * 100 + session), StreamId(2 * stream));
                let (offer, _) = chunk(seed, 10);
                if ask.begin(&mut keep, at(0), guest(network), &offer) {
                    *accepted.entry((network, session)).or_insert(0) += 1;
                }
            }
        }
    }
    assert!(accepted.values().all(|count| *count <= KEEP_BODIES_PER_SESSION_MAX), "{accepted:?}");
    let of = |network| {
        accepted.iter().filter(|((one, _), _)| *one == network).map(|(_, count)| count).sum::<usize>()
    };
    assert_eq!(of(0), KEEP_BODIES_PER_GUEST_MAX);
    assert_eq!(keep.bodies(), KEEP_BODIES_STRANGERS);
    let friend = Guest::Friend(crate::base::PublicKey([1; 32]));
    assert!(Asks(PeerId(9999), StreamId(0)).begin(&mut keep, at(0), friend, &chunk(100_000, 10).0));
    for stream in 0..2 * KEEP_OFFERS_PER_SESSION_MAX as u64 {
        Asks(PeerId(8888), StreamId(2 * stream)).open(&mut keep, at(0), guest(250));
    }
    assert_eq!(of_session(&keep.asking, PeerId(8888)).count(), KEEP_OFFERS_PER_SESSION_MAX);
}

#[test]
fn offering_without_sending_costs_the_offerer_alone() {
    let mut keep = keep();
    let large = |n: u64| {
        let mut id = [0; 20];
        id[..8].copy_from_slice(&n.to_le_bytes());
        Offer { chunk: ChunkId(id), len: 1 << 20, root: [0; 32] }
    };
    let mut accepted = 0;
    for n in 0..2000 {
        let ask = Asks(PeerId(n), StreamId(0));
        if ask.begin(&mut keep, at(n), guest(1), &large(n)) {
            accepted += 1;
        }
        keep.peer_down(PeerId(n));
    }
    let most = crate::limits::KEEP_NETWORK_KIB_BURST / 1024 + 2;
    assert!(accepted > 0 && accepted <= most, "{accepted}");
    assert!(Asks(PeerId(5000), StreamId(0)).begin(&mut keep, at(2000), guest(2), &large(5000)));
}
