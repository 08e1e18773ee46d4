use proptest::prelude::*;

use super::*;
use crate::crypto::{Identity, Secret};
use crate::wire::overlay::Contact;

const NOW: UnixMs = UnixMs(1_800_000_000_000);
const SOON: u32 = 1_800_000_000 + 3600;

fn identity(n: u16) -> Identity {
    let mut seed = [9; 32];
    seed[..2].copy_from_slice(&n.to_le_bytes());
    Identity::new(Secret::from_bytes(seed), 0, 0)
}

fn key(n: u16) -> PublicKey {
    identity(n).card().key
}

fn word(n: u16, hands: u8, expires: u32) -> Introduction {
    let identity = identity(n);
    let contact = Contact::new(*identity.card(), [([10, 0, (n >> 8) as u8, n as u8], 4600).into()]);
    Introduction::sign(&identity, contact, hands, expires)
}

fn told(n: u16, hand: u8, trust: u8) -> Told {
    Told { hand, trust, introduction: word(n, 2, SOON) }
}

/// Node 0, with friends 1, 2, … of these trusts.
fn with_friends(trusts: &[u8]) -> Introduced {
    let mut introduced = Introduced::new(key(0), 0);
    let friend = |(n, trust): (u16, &u8)| (key(n), Friend { trust: *trust, introduce: true });
    introduced.set_friends((1..).zip(trusts).map(friend));
    introduced
}

proptest! {
    #[test]
    fn each_hand_is_worth_less_than_the_one_before(friend in 1u8..=100, asserted: u8, hand in 1u8..=2) {
        prop_assert!(derived(friend, asserted, hand) < friend, "an introduced node is below its introducer");
        prop_assert!(derived(friend, 100, 2) <= derived(friend, 100, 1));
        prop_assert!(derived(friend, asserted, 2) <= derived(friend, asserted, 1));
        prop_assert!(derived(friend, asserted, 1) <= derived(100, asserted, 1));
        if friend > 2 {
            prop_assert!(derived(friend, 100, 2) < derived(friend, 100, 1));
        }
    }

    /// However many nodes a friend makes up, and whatever it says of them.
    #[test]
    fn many_voices_behind_one_friend_are_worth_no_more_than_the_friend(
        trusts in prop::collection::vec(0u8..=100, 1..4),
        lies in prop::collection::vec((0usize..4, 10u16..16, 1u8..=2, 0u8..=100), 0..40),
    ) {
        let mut introduced = with_friends(&trusts);
        for friend in 0..trusts.len() {
            let of = lies.iter().filter(|(by, ..)| by % trusts.len() == friend);
            let told: Vec<Told> = of.map(|(_, n, hand, trust)| told(*n, *hand, *trust)).collect();
            introduced.hear(NOW, &key(friend as u16 + 1), &told, false);
        }
        for offer in introduced.offers(NOW) {
            let best = offer.by.iter().map(|by| introduced.said[by].friend.trust).max().unwrap_or(0);
            prop_assert!(u32::from(offer.trust) <= u32::from(best) * u32::from(TRUST_PER_HAND) / 100);
            prop_assert_eq!(introduced.worth(NOW, &offer.contact.card.key), Some(offer.trust));
        }
        // One who makes up all others is worth what it was before.
        let worth = |n: u16| introduced.worth(NOW, &key(n)).unwrap_or(0);
        let most = trusts.iter().copied().max().unwrap_or(0);
        prop_assert!((10..16).all(|n| u32::from(worth(n)) <= u32::from(most) * u32::from(TRUST_PER_HAND) / 100));
    }

    #[test]
    fn memory_is_bounded_whatever_friends_tell(messages in prop::collection::vec((1u16..4, 0usize..90, 0u16..1000), 0..8)) {
        let mut introduced = with_friends(&[50, 60, 70]);
        for (friend, count, first) in messages {
            let one = told(900, 1, 50);
            let other = |n: u16| {
                let mut card = one.introduction.contact.card;
                card.key.0[..2].copy_from_slice(&n.to_le_bytes());
                let contact = Contact::new(card, []);
                Told { introduction: one.introduction.altered(contact, 2), ..one }
            };
            let told: Vec<Told> = (0..count as u16).map(|n| other(first + n)).collect();
            let heard = introduced.hear(NOW, &key(friend), &told, true);
            prop_assert_eq!(heard.forged, 0);
            let kept = introduced.told_by(&key(friend)).len();
            prop_assert_eq!(kept, count.min(INTRODUCTIONS_TOLD_MAX));
            prop_assert!(introduced.len() <= 3 * INTRODUCTIONS_TOLD_MAX);
        }
        // Many friends have less each.
        introduced.set_friends((1..=1024).map(|n| {
            let mut key = key(1);
            key.0[..2].copy_from_slice(&u16::to_le_bytes(n));
            (key, Friend { trust: 1, introduce: true })
        }).chain((1..4).map(|n| (key(n), Friend { trust: 1, introduce: true }))));
        prop_assert!(introduced.len() <= 3 * (INTRODUCTIONS_KNOWN_MAX / 1027));
    }
}

#[test]
fn what_is_told_goes_two_hands_far_and_not_to_whom_it_is_about() {
    let mut introduced = with_friends(&[80, 40]);
    introduced.hear(NOW, &key(1), &[told(1, 0, 0), told(3, 1, 50), told(4, 2, 50), told(2, 1, 50)], false);
    introduced.hear(NOW, &key(2), &[told(2, 0, 0)], false);
    let tell = |to: u16| -> Vec<(PublicKey, u8, u8)> {
        let all = introduced.tellings(NOW).to(&key(to));
        all.iter().map(|told| (told.introduction.contact.card.key, told.hand, told.trust)).collect()
    };
    // The first hears of the second alone: what it told itself is no news to it.
    assert_eq!(tell(1), [(key(2), 1, 40)]);
    // Who came at the second hand goes no farther, and the hearer hears nothing of itself.
    assert_eq!(tell(2), [(key(1), 1, 80), (key(3), 2, derived(80, 50, 1))]);
    assert_eq!(tell(9), [], "a stranger");
    let offers: Vec<_> = introduced.offers(NOW).into_iter().map(|o| (o.contact.card.key, o.hand)).collect();
    let mut all = vec![(key(3), 1), (key(4), 2)];
    all.sort_by_key(|(n, hand)| (*hand, *n));
    assert_eq!(offers, all, "friends are not offered");
}

#[test]
fn agreement_bounds_how_far_it_goes_and_the_latest_word_counts() {
    let mut introduced = with_friends(&[80, 40, 30]);
    let once = Told { hand: 0, trust: 0, introduction: word(1, 1, SOON) };
    introduced.hear(NOW, &key(1), &[once, Told { hand: 1, trust: 9, introduction: word(7, 1, SOON) }], false);
    let all = introduced.tellings(NOW).to(&key(2));
    assert_eq!(all.len(), 1, "a friend's friend agreed to one hand: {all:?}");
    // A friend goes on telling what was agreed to before.
    introduced.hear(NOW, &key(3), &[Told { hand: 1, trust: 9, introduction: word(7, 2, SOON - 9) }], false);
    assert_eq!(introduced.tellings(NOW).to(&key(2)).len(), 1);
    introduced.hear(NOW, &key(1), &[once], false);
    assert_eq!(introduced.tellings(NOW).to(&key(2)).len(), 2, "nothing later is known");
}

#[test]
fn what_nobody_signed_and_what_holds_too_long_is_not_believed() {
    let mut introduced = with_friends(&[80]);
    let mut forged = told(3, 1, 50);
    let card = forged.introduction.contact.card;
    forged.introduction = forged.introduction.altered(Contact::new(card, []), 2);
    let once = word(4, 1, SOON);
    let widened = Told { hand: 2, trust: 50, introduction: once.altered(once.contact, 2) };
    let late = Told { hand: 1, trust: 50, introduction: word(5, 2, 1_800_000_000) };
    let long = INTRODUCTION_S + INTRODUCTION_SKEW_S + 1;
    let long = Told { hand: 1, trust: 50, introduction: word(6, 2, 1_800_000_000 + long) };
    let not_itself = told(7, 0, 0);
    let as_other = told(1, 1, 50);
    let all = [forged, widened, late, long, not_itself, as_other];
    let heard = introduced.hear(NOW, &key(1), &all, false);
    assert_eq!((heard.forged, introduced.len(), heard.news), (6, 0, false));
    // The same card under a floor of work that it does not show.
    let mut strict = Introduced::new(key(0), 60);
    strict.set_friends([(key(1), Friend { trust: 80, introduce: true })]);
    assert_eq!(strict.hear(NOW, &key(1), &[told(3, 1, 50)], false).forged, 1);
}

#[test]
fn it_is_forgotten_in_time_and_with_the_friendship() {
    let mut introduced = with_friends(&[80, 40]);
    assert!(introduced.hear(NOW, &key(1), &[told(1, 0, 0), told(3, 1, 50)], false).news);
    assert!(!introduced.hear(NOW, &key(1), &[told(1, 0, 0), told(3, 1, 50)], false).news);
    let renewed = Told { hand: 1, trust: 50, introduction: word(3, 2, SOON + 60) };
    assert!(!introduced.hear(NOW, &key(1), &[told(1, 0, 0), renewed], false).news, "a later date is none");
    let at = |s: u32| UnixMs(u64::from(s) * 1000);
    assert!(!introduced.expire(at(SOON - 1)));
    assert!(introduced.expire(at(SOON)) && introduced.len() == 1);
    assert_eq!(
        (introduced.worth(at(SOON), &key(3)), introduced.worth(at(SOON + 60), &key(3))),
        (Some(30), None)
    );
    assert!(introduced.hear(NOW, &key(1), &[], false).news, "nobody agrees any more");
    introduced.hear(NOW, &key(1), &[told(3, 1, 50)], false);
    introduced.set_friends([(key(2), Friend { trust: 40, introduce: true })]);
    assert!(introduced.is_empty());
    introduced.set_friends([(key(2), Friend { trust: 40, introduce: false })]);
    introduced.hear(NOW, &key(2), &[told(3, 1, 50)], false);
    assert!(introduced.is_empty() && introduced.tellings(NOW).to(&key(2)).is_empty());
}

proptest! {
    /// The way in which all are told at once says what telling each by itself would.
    #[test]
    fn each_is_told_the_best_words_of_others(
        words in prop::collection::vec((0u16..5, 10u16..30, 0u8..=100), 0..60),
        to in 0u16..5,
    ) {
        let trusts = [90, 70, 50, 30, 10];
        let mut introduced = with_friends(&trusts);
        for friend in 0..5u16 {
            let own = words.iter().filter(|(by, ..)| *by == friend);
            let told: Vec<Told> = own.map(|(_, n, trust)| told(*n, 1, *trust)).collect();
            introduced.hear(NOW, &key(friend + 1), &told, true);
        }
        let told = introduced.tellings(NOW).to(&key(to + 1));
        let mut expected = BTreeMap::new();
        for (friend, trust) in (1u16..).zip(trusts).filter(|(friend, _)| *friend != to + 1) {
            for one in introduced.told_by(&key(friend)) {
                let entry = expected.entry(one.introduction.contact.card.key).or_insert(0);
                *entry = derived(trust, one.trust, 1).max(*entry);
            }
        }
        let told: BTreeMap<PublicKey, u8> = told.iter().map(|one| (one.introduction.contact.card.key, one.trust)).collect();
        prop_assert_eq!(told, expected);
    }
}
