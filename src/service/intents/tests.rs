//! Two nodes that say what they mean to do, over a link that loses some of it; and one that says too much.

use super::*;
use crate::base::Rng;
use crate::limits::{INTENT_S_MAX, LEAVING_SOON_MS};
use proptest::prelude::*;

const A: PeerId = PeerId(1);
const B: PeerId = PeerId(2);

fn key(n: u8) -> PublicKey {
    PublicKey([n; 32])
}

fn at(seconds: u64) -> Time {
    Time::from_millis(1_000 * seconds)
}

/// `a` knows `b` as peer 2, and `b` knows `a` as peer 1.
struct Pair {
    a: Intents,
    b: Intents,
    now: Time,
    rng: Rng,
    loss: f64,
    trust: Option<u8>,
}

impl Pair {
    fn new(trust: Option<u8>, loss: f64, seed: u64) -> Self {
        let rng = Rng::from_number(seed);
        let mut pair = Self { a: Intents::default(), b: Intents::default(), now: at(1000), rng, loss, trust };
        pair.a.met(pair.now, B, key(2), trust, true);
        pair.b.met(pair.now, A, key(1), trust, true);
        pair
    }

    /// Lets them talk for so many seconds.
    fn run(&mut self, seconds: u64) {
        let end = self.now + Duration::from_secs(seconds);
        loop {
            let next = [self.a.poll_timeout(), self.b.poll_timeout()].into_iter().flatten().min();
            let Some(next) = next.filter(|next| *next <= end) else { break };
            self.now = self.now.max(next);
            self.a.handle_timeout(self.now);
            self.b.handle_timeout(self.now);
            loop {
                let from_a = self.a.poll_say();
                let from_b = self.b.poll_say();
                if from_a.is_none() && from_b.is_none() {
                    break;
                }
                for (message, to_b) in from_a.map(|m| (m, true)).into_iter().chain(from_b.map(|m| (m, false)))
                {
                    if self.rng.chance(self.loss) {
                        continue;
                    }
                    let bytes = message.1.emit();
                    let heard = match to_b {
                        true => self.b.hear(self.now, A, key(1), self.trust, &bytes),
                        false => self.a.hear(self.now, B, key(2), self.trust, &bytes),
                    };
                    heard.expect("well-formed");
                }
            }
        }
        self.now = end;
    }

    fn b_expects(&self) -> Option<Time> {
        self.b.leaves_at(self.now, &key(1))
    }

    fn said(&self) -> Said {
        self.b.known(&key(1)).and_then(|known| known.asked).expect("asked").said
    }
}

fn about(a: Time, b: Time) -> bool {
    a.since(b).max(b.since(a)) <= Duration::from_secs(2)
}

#[test]
fn what_is_meant_is_heard_however_much_is_lost() {
    for seed in 0..40 {
        let mut pair = Pair::new(Some(50), 0.3, seed);
        let until = pair.now + Duration::from_secs(8 * 3600);
        pair.a.online(pair.now, Some(until));
        pair.run(60);
        let known = pair.b.known(&key(1)).expect("heard");
        assert!(
            known.stays_until.is_some_and(|at| about(at, until)) && known.leaves_at.is_none(),
            "seed {seed}"
        );
        let leaves = pair.now + Duration::from_secs(600);
        pair.a.leave(pair.now, Some(leaves));
        pair.run(60);
        assert!(pair.b_expects().is_some_and(|at| about(at, leaves)), "seed {seed}");
        pair.a.leave(pair.now, None);
        pair.run(60);
        let known = pair.b.known(&key(1)).expect("heard");
        assert!(
            known.leaves_at.is_none() && known.stays_until.is_some(),
            "seed {seed}: it stays as it meant to"
        );
        assert_eq!(pair.a.open(), 0, "seed {seed}: nothing is said any more");
    }
}

#[test]
fn a_friend_that_is_trusted_has_it_stay_and_no_longer_than_that() {
    for (seed, loss) in (0..30).zip([0.0, 0.3, 0.3].into_iter().cycle()) {
        let mut pair = Pair::new(Some(50), loss, seed);
        let leaves = pair.now + Duration::from_secs(120);
        pair.a.leave(pair.now, Some(leaves));
        pair.run(40);
        let more = pair.b_expects().expect("heard") + Duration::from_secs(300);
        assert!(pair.b.ask(pair.now, &key(1), more));
        pair.run(40);
        let moved = pair.a.own().leaves_at().expect("leaving");
        assert!(about(moved, leaves + Duration::from_secs(300)), "seed {seed}");
        assert!(matches!(pair.said(), Said::Granted(Some(at)) if about(at, moved)), "seed {seed}");
        assert!(pair.b_expects().is_some_and(|at| about(at, moved)), "seed {seed}");
        // All of it, and then no more, whoever asks.
        pair.b.ask(pair.now, &key(1), leaves + Duration::from_secs(600));
        pair.run(40);
        assert!(matches!(pair.said(), Said::Granted(_)), "seed {seed}");
        pair.b.ask(pair.now, &key(1), leaves + Duration::from_secs(700));
        pair.run(40);
        let most = leaves + Duration::from_secs(600);
        assert!(matches!(pair.said(), Said::Less(at) if about(at, most)), "seed {seed}: {:?}", pair.said());
        assert!(pair.a.own().leaves_at().is_some_and(|at| at <= most), "seed {seed}");
    }
}

#[test]
fn a_friend_with_too_little_trust_hears_no_and_a_stranger_nothing() {
    let mut pair = Pair::new(Some(49), 0.0, 1);
    let leaves = pair.now + Duration::from_secs(120);
    pair.a.leave(pair.now, Some(leaves));
    pair.run(5);
    pair.b.ask(pair.now, &key(1), leaves + Duration::from_secs(60));
    pair.run(5);
    assert_eq!(pair.said(), Said::Refused);
    // What needs nothing of it is said to any friend.
    pair.b.ask(pair.now, &key(1), leaves - Duration::from_secs(60));
    pair.run(5);
    assert!(matches!(pair.said(), Said::Granted(Some(_))));
    let mut pair = Pair::new(None, 0.0, 1);
    pair.a.leave(pair.now, Some(leaves));
    pair.run(5);
    pair.b.ask(pair.now, &key(1), leaves + Duration::from_secs(60));
    pair.run(60);
    assert_eq!(pair.said(), Said::Silence);
    assert_eq!(pair.a.own().leaves_at(), Some(leaves));
}

#[test]
fn with_nothing_to_be_granted_nobody_has_it_stay() {
    let mut pair = Pair::new(Some(100), 0.0, 1);
    pair.a.set_rules(Rules { grant_max: Duration::ZERO, grant_trust: 0 });
    let leaves = pair.now + Duration::from_secs(120);
    pair.a.leave(pair.now, Some(leaves));
    pair.run(5);
    pair.b.ask(pair.now, &key(1), leaves + Duration::from_secs(60));
    pair.run(5);
    assert_eq!((pair.said(), pair.a.own().leaves_at()), (Said::Refused, Some(leaves)));
}

#[test]
fn who_does_not_mean_to_go_says_so() {
    let mut pair = Pair::new(Some(1), 0.0, 1);
    pair.b.ask(pair.now, &key(1), pair.now + Duration::from_secs(60));
    pair.run(5);
    assert_eq!(pair.said(), Said::Granted(None));
}

#[test]
fn strangers_hear_that_it_leaves_when_that_is_soon() {
    let mut pair = Pair::new(None, 0.0, 1);
    let leaves = pair.now + Duration::from_millis(LEAVING_SOON_MS) + Duration::from_secs(60);
    pair.a.leave(pair.now, Some(leaves));
    pair.run(50);
    assert_eq!(pair.b_expects(), None);
    pair.run(20);
    assert!(pair.b_expects().is_some_and(|at| about(at, leaves)));
    // And of its staying nothing, but that it does not leave.
    pair.a.leave(pair.now, None);
    pair.a.online(pair.now, Some(leaves));
    pair.run(20);
    assert!(pair.b_expects().is_none() && pair.b.known(&key(1)).is_none());
}

#[test]
fn who_comes_again_means_what_it_says_then() {
    let mut pair = Pair::new(Some(50), 0.0, 1);
    pair.a.leave(pair.now, Some(pair.now + Duration::from_secs(600)));
    pair.run(5);
    while pair.b.poll_event().is_some() {}
    pair.b.down(A);
    assert!(pair.b_expects().is_some(), "a friend's word stays while it is away");
    pair.b.met(pair.now, PeerId(9), key(1), Some(50), true);
    assert_eq!(pair.b_expects(), None);
    assert_eq!(pair.b.poll_event(), Some(Event::Leaves { peer: PeerId(9), key: key(1), at: None }));
}

#[test]
fn what_comes_late_changes_nothing() {
    let mut own = Intents::default();
    let say = |what, number, seconds| Message::Say { what, number, seconds }.emit();
    let hear = |own: &mut Intents, bytes: &[u8]| own.hear(at(1), A, key(1), Some(50), bytes);
    hear(&mut own, &say(What::Online, 7, 0)).expect("heard");
    hear(&mut own, &say(What::Leaving, 6, 60)).expect("heard");
    assert_eq!(own.leaves_at(at(1), &key(1)), None);
    hear(&mut own, &say(What::Leaving, 8, 60)).expect("heard");
    hear(&mut own, &say(What::Leaving, 8, 90)).expect("heard");
    assert_eq!(own.leaves_at(at(1), &key(1)), Some(at(61)));
    assert_eq!(std::iter::from_fn(|| own.poll_say()).count(), 4, "each is answered all the same");
    assert!(hear(&mut own, b"").is_err() && hear(&mut own, &[9; 9]).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// A hostile peer says anything, as often as it likes.
    #[test]
    fn a_flood_is_bounded(
        friend: bool,
        steps in prop::collection::vec((0u8..5, any::<u32>(), any::<u32>(), 0u64..400), 1..300),
    ) {
        let mut own = Intents::default();
        let trust = friend.then_some(100);
        let mut now = at(1000);
        let leaves = now + Duration::from_secs(3600);
        own.leave(now, Some(leaves));
        own.met(now, A, key(1), trust, true);
        let mut said = 0;
        for (what, number, seconds, ms) in &steps {
            now += Duration::from_millis(*ms);
            let message = match what {
                0 => Message::Say { what: What::Online, number: *number, seconds: seconds % INTENT_S_MAX },
                1 => Message::Say { what: What::Leaving, number: *number, seconds: seconds % INTENT_S_MAX },
                2 | 3 => Message::Say { what: What::Stay, number: *number, seconds: 1 + seconds % 86_400 },
                _ => Message::Answer { number: number % 4, verdict: Verdict::Granted, seconds: seconds % INTENT_S_MAX },
            };
            prop_assert!(own.hear(now, A, key(1), trust, &message.emit()).is_ok());
            own.handle_timeout(now);
            said += std::iter::from_fn(|| own.poll_say()).count();
            prop_assert!(own.poll_timeout().is_none_or(|at| at > now));
        }
        // Whatever is asked, this node goes within what its operator grants; and it says about as much as it hears.
        let most = leaves + Rules::default().grant_max;
        prop_assert!(own.own().leaves_at().is_some_and(|at| at >= leaves && at <= most));
        let span = now.since(at(1000)).as_secs() as usize;
        prop_assert!(said <= 2 * (INTENTS_BURST as usize + (span + 1) * INTENTS_PER_SECOND as usize) + INTENT_AGAIN_MS.len());
        prop_assert!(own.known.len() <= 1 && own.saying.len() <= 1);
        own.down(A);
        prop_assert!(own.talks.is_empty() && own.saying.is_empty() && own.due.is_empty());
    }
}

#[test]
fn strangers_that_leave_are_remembered_within_bounds() {
    let mut own = Intents::default();
    for n in 0..2 * LEAVERS_MAX as u64 {
        let mut key = key(7);
        key.0[..8].copy_from_slice(&n.to_le_bytes());
        let leaving = Message::Say { what: What::Leaving, number: 1, seconds: 60 };
        own.hear(at(1), PeerId(n), key, None, &leaving.emit()).expect("heard");
        while own.poll_say().is_some() {}
    }
    assert_eq!(own.known.len(), LEAVERS_MAX);
}
