use std::net::SocketAddr;

use super::*;
use crate::crypto::IdentityCard;
use crate::limits::{PUSH_COPIES, PUSH_LOOKUPS_MAX, PUSH_OFFERS_MAX, PUSH_TRIES_MAX};

const JOB: JobId = JobId(7);
const OWN: PublicKey = PublicKey([255; 32]);

fn at(millis: u64) -> Time {
    Time::from_millis(1_000_000 + millis)
}

fn chunk(n: u8, len: usize) -> NewChunk {
    NewChunk { id: ChunkId([n; 20]), root: [n; 32], bytes: vec![n; len], list: vec![n; 32] }
}

/// A node of a network.
fn node(n: u8, network: u8) -> Contact {
    let card = IdentityCard { key: PublicKey([n; 32]), place_nonce: 0, rank_nonce: 0 };
    let address: SocketAddr = ([20, network, n, 1], 4600).into();
    Contact::new(card, [address])
}

/// Nodes, what each says to offers, and what happened.
struct World {
    push: Push,
    now: Time,
    nodes: Vec<Contact>,
    says: BTreeMap<u8, Vec<Answer>>,
    away: Vec<u8>,
    offered: Vec<u8>,
    lookups: usize,
    calls: usize,
    sent: BTreeMap<u8, Vec<u8>>,
    open: usize,
    streams: u64,
    withdrawn: usize,
}

impl World {
    fn new(nodes: Vec<Contact>) -> Self {
        Self {
            push: Push::default(),
            now: at(0),
            nodes,
            says: BTreeMap::new(),
            away: Vec::new(),
            offered: Vec::new(),
            lookups: 0,
            calls: 0,
            sent: BTreeMap::new(),
            open: 0,
            streams: 0,
            withdrawn: 0,
        }
    }

    /// Does what is wanted, at once, and answers; time passes when nothing is.
    fn run(&mut self) -> Vec<Placed> {
        let mut placed = Vec::new();
        for _ in 0..100_000 {
            let Some(action) = self.push.poll_action(self.now) else {
                placed.extend(std::iter::from_fn(|| self.push.poll_placed()));
                let Some(next) = self.push.poll_timeout() else { return placed };
                assert!(next > self.now, "nobody is woken for nothing");
                self.now = next;
                continue;
            };
            match action {
                Action::Find(chunk) => {
                    self.lookups += 1;
                    self.push.found(self.now, &chunk, &self.nodes, &OWN);
                }
                Action::Call(contact) => {
                    self.calls += 1;
                    let n = contact.card.key.0[0];
                    let up = (!self.away.contains(&n)).then_some(PeerId(n.into()));
                    self.push.called(self.now, &contact.card.key, up);
                }
                Action::Offer { peer, number, .. } => {
                    let n = peer.0 as u8;
                    self.offered.push(n);
                    self.streams += 2;
                    let stream = StreamId(self.streams);
                    self.push.offered(self.now, peer, number, Some(stream));
                    self.open = self.open.max(self.push.made.len());
                    let says = self.says.get_mut(&n).filter(|says| !says.is_empty());
                    let answer = says.map_or(Answer::GoOn, |says| says.remove(0));
                    self.push.answer(self.now, peer, stream, &answer.emit(), answer != Answer::GoOn);
                }
                Action::Send(peer, stream, source, len) => {
                    let mut bytes = vec![0; len as usize];
                    assert!(Push::is_source(source));
                    self.push.read(source, 0, &mut bytes).expect("it is there");
                    self.sent.insert(peer.0 as u8, bytes);
                    // Byte by byte, as streams may bring it.
                    let kept = Answer::Kept.emit();
                    self.push.answer(self.now, peer, stream, &kept[..3], false);
                    self.push.answer(self.now, peer, stream, &kept[3..], true);
                }
                Action::Withdraw(..) => self.withdrawn += 1,
            }
        }
        panic!("no end of it");
    }

    fn give(&mut self, n: u8) -> Placed {
        self.push.push(self.now, JOB, chunk(n, 1000)).expect("room");
        let placed = self.run();
        assert_eq!(placed.len(), 1);
        assert!(self.push.is_idle() && self.push.bytes == 0);
        placed[0]
    }
}

#[test]
fn a_chunk_comes_to_the_nearest_of_different_networks() {
    // The first three are of one network.
    let nodes = (0..10).map(|n| node(n, if n < 3 { 1 } else { n })).collect();
    let mut world = World::new(nodes);
    let placed = world.give(9);
    assert_eq!(placed, Placed { job: JOB, chunk: ChunkId([9; 20]), keepers: PUSH_COPIES as u8 });
    assert_eq!(world.offered, [0, 3, 4, 5]);
    assert!(world.sent.values().all(|bytes| *bytes == [9; 1000]));
    assert_eq!((world.lookups, world.open <= PUSH_OFFERS_MAX, world.withdrawn), (1, true, 0));
    // Who is known to be there is not called again for the next one, as long as there is one.
    world.push.push(world.now, JOB, chunk(1, 10)).expect("room");
    world.push.push(world.now, JOB, chunk(2, 10)).expect("room");
    let calls = world.calls;
    assert_eq!(world.run().len(), 2);
    assert_eq!(world.calls - calls, PUSH_COPIES);
}

#[test]
fn where_all_are_of_one_network_they_will_do_and_own_is_left_out() {
    let mut nodes: Vec<Contact> = (0..3).map(|n| node(n, 1)).collect();
    nodes.insert(0, node(255, 2));
    nodes.insert(0, node(254, 3));
    let mut world = World::new(nodes);
    world.push.avoid(PublicKey([254; 32]));
    assert_eq!(world.give(1).keepers, 3);
    assert_eq!(
        (world.offered.clone(), world.lookups),
        (vec![0, 1, 2], 1),
        "two are enough where there are no more"
    );
}

#[test]
fn others_are_asked_in_the_place_of_those_who_refuse_are_away_or_lie() {
    let mut world = World::new((0..10).map(|n| node(n, n)).collect());
    world.away = vec![0, 4];
    world.says.insert(1, vec![Answer::Refused]);
    world.says.insert(2, vec![Answer::Here]);
    world.says.insert(3, vec![Answer::Wrong]);
    world.says.insert(5, vec![Answer::Bad]);
    let placed = world.give(1);
    assert_eq!(placed.keepers, 4);
    assert_eq!(world.offered, [1, 2, 3, 5, 6, 7, 8]);
    assert!(!world.sent.contains_key(&2), "what is there is not sent");
}

#[test]
fn who_is_busy_is_asked_again_later_and_not_for_ever() {
    let mut world = World::new(vec![node(1, 1), node(2, 2)]);
    world.says.insert(1, vec![Answer::Busy(1000); 2]);
    world.says.insert(2, vec![Answer::Busy(10); 100]);
    let before = world.now;
    assert_eq!(world.give(1).keepers, 1);
    let of = |n| world.offered.iter().filter(|one| **one == n).count();
    assert_eq!((of(1), of(2)), (3, usize::from(PUSH_TRIES_MAX) + 1));
    assert!(world.now.since(before) >= Duration::from_secs(1));
}

#[test]
fn nobody_to_ask_is_looked_for_again_and_given_up_in_time() {
    let mut world = World::new(Vec::new());
    let before = world.now;
    assert_eq!(world.give(1).keepers, 0);
    assert_eq!(world.lookups, usize::from(PUSH_LOOKUPS_MAX));
    assert!(world.now.since(before) <= CHUNK_TIME);
    assert_eq!(world.push.counters().vain, 1);
}

#[test]
fn silence_is_waited_for_so_long_and_a_session_that_ends_is_tried_anew() {
    let mut push = Push::default();
    push.push(at(0), JOB, chunk(1, 10)).expect("room");
    assert_eq!(push.poll_action(at(0)), Some(Action::Find(ChunkId([1; 20]))));
    push.found(at(0), &ChunkId([1; 20]), &[node(1, 1), node(2, 2)], &OWN);
    assert_eq!(push.poll_action(at(0)), Some(Action::Call(node(1, 1))));
    assert_eq!(push.poll_action(at(0)), None, "one call after another");
    push.called(at(1), &node(1, 1).card.key, Some(PeerId(1)));
    let Some(Action::Offer { peer: PeerId(1), number, .. }) = push.poll_action(at(1)) else { panic!() };
    push.offered(at(1), PeerId(1), number, Some(StreamId(2)));
    assert_eq!(push.poll_action(at(1)), Some(Action::Call(node(2, 2))));
    push.called(at(2), &node(2, 2).card.key, Some(PeerId(2)));
    let Some(Action::Offer { peer: PeerId(2), .. }) = push.poll_action(at(2)) else { panic!() };
    push.offered(at(2), PeerId(2), number, Some(StreamId(4)));
    assert_eq!(push.poll_action(at(2)), None);
    // The first session ends, the second is silent.
    push.peer_down(at(3), PeerId(1));
    assert_eq!(push.poll_action(at(3)), None);
    let later = push.poll_timeout().expect("again");
    assert_eq!(push.poll_action(later), Some(Action::Call(node(1, 1))), "anew");
    let silent = at(2) + Duration::from_millis(PUSH_ANSWER_MS_MAX);
    assert_eq!(push.poll_action(silent), Some(Action::Withdraw(PeerId(2), StreamId(4))));
    // An offer that ends after its chunk is taken back at once.
    push.cancel(JOB);
    push.offered(silent, PeerId(2), number, Some(StreamId(6)));
    assert_eq!(push.poll_action(silent), None, "the sessions are forgotten with the last chunk");
    assert!(push.is_idle() && push.poll_placed().is_none());
}

#[test]
fn memory_is_bounded_and_what_is_cancelled_is_gone() {
    let mut push = Push::default();
    let mut taken = 0;
    while push.push(at(0), JOB, chunk(1, 1 << 20)).is_ok() {
        taken += 1;
    }
    assert_eq!(taken, PUSH_BYTES_MAX >> 20);
    assert!(push.push(at(0), JobId(8), chunk(2, 1)).is_err());
    push.cancel(JOB);
    assert!(push.is_idle() && push.bytes == 0);
    let small = (0..1000).take_while(|_| push.push(at(0), JOB, chunk(1, 1)).is_ok()).count();
    assert_eq!(small, PUSH_CHUNKS_MAX);
    let mut into = [0; 1];
    assert!(push.read(GIVEN | 9999, 0, &mut into).is_err());
}
