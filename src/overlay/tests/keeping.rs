//! What a keeper keeps when strangers want it to forget.

use super::*;
use crate::overlay::records::Bringer;
use crate::overlay::site::Site;
use crate::wire::overlay::Endpoint;

const NOW: u32 = 1_800_000_000;
const CHUNK: ChunkId = ChunkId([1; 20]);

fn site(ip: [u8; 4]) -> Option<Site> {
    Endpoint::new(SocketAddr::from((ip, 1))).and_then(|endpoint| Site::of(&endpoint, true))
}

fn by(ip: [u8; 4]) -> Bringer {
    Bringer { site: site(ip), is_provider: true }
}

/// A provider with so much rank at least.
fn record_of(seed: u32, rank: u32, chunk: &ChunkId, expires: u32) -> Record {
    let mut secret = [9; 32];
    secret[..4].copy_from_slice(&seed.to_le_bytes());
    let mut provider = Identity::new(Secret::from_bytes(secret), 0, 0);
    let mut nonce = 0;
    while provider.card().rank() < rank {
        nonce += 1;
        provider = provider.with_nonces(0, nonce);
    }
    Record::sign(&provider, chunk, Contact::new(*provider.card(), []), expires)
}

fn record(seed: u32, expires: u32) -> Record {
    record_of(seed, 1, &CHUNK, expires)
}

struct Keeper {
    records: Records,
    rng: Rng,
}

impl Keeper {
    fn new() -> Self {
        Self { records: Records::default(), rng: Rng::from_number(1) }
    }

    fn keep(&mut self, record: &Record, by: Bringer, now: u32) -> Verdict {
        self.records.keep(CHUNK, record, by, RECORD_S_MAX, now, &mut self.rng)
    }

    fn has(&mut self, record: &Record, now: u32) -> bool {
        let (records, rng) = (&mut self.records, &mut self.rng);
        (0..200).any(|_| {
            records.of(&CHUNK, now, rng, |_| false).iter().any(|kept| kept.provider == record.provider)
        })
    }
}

#[test]
fn who_renews_is_displaced_by_no_flood_of_identities() {
    let mut keeper = Keeper::new();
    let honest: Vec<Record> = (0..5).map(|n| record(n, NOW + 7200)).collect();
    for (n, record) in honest.iter().enumerate() {
        assert_eq!(keeper.keep(record, by([10 + n as u8, 1, 1, 1]), NOW), Verdict::Kept);
    }
    let again: Vec<Record> = (0..5).map(|n| record(n, NOW + 3600 + 7200)).collect();
    for (n, record) in again.iter().enumerate() {
        assert_eq!(keeper.keep(record, by([10 + n as u8, 1, 1, 1]), NOW + 3600), Verdict::Kept);
    }
    // Thousands of identities, from everywhere, with all the rank that a flood can have, for an hour.
    let mut kept = 0;
    for n in 0..3_000u32 {
        let [_, _, b, a] = n.to_le_bytes();
        let from = [50 + (n % 150) as u8, a, b, 1];
        let flood = record_of(1_000 + n, 1 + n / 500, &CHUNK, NOW + 3601 + 7000);
        kept += u32::from(keeper.keep(&flood, by(from), NOW + 3601 + n) == Verdict::Kept);
    }
    assert!(kept > 0, "they found places");
    assert!(again.iter().all(|record| keeper.has(record, NOW + 6700)), "but nobody's who was there");
    assert_eq!(keeper.records.len(), RECORDS_PER_KEY_MAX);
}

#[test]
fn who_was_there_before_a_flood_is_told_by_every_answer() {
    let mut keeper = Keeper::new();
    let honest = record(1, NOW + 7200);
    assert_eq!(keeper.keep(&honest, by([10, 1, 1, 1]), NOW), Verdict::Kept);
    for n in 0..100u32 {
        keeper.keep(&record_of(100 + n, 2, &CHUNK, NOW + 7200), by([50 + n as u8, 1, 1, 1]), NOW + 1 + n);
    }
    assert_eq!(keeper.records.len(), RECORDS_PER_KEY_MAX);
    let Keeper { records, rng } = &mut keeper;
    for _ in 0..100 {
        let told = records.of(&CHUNK, NOW + 200, rng, |_| false);
        assert!(told.iter().any(|one| one.provider == honest.provider), "the eldest");
        assert_eq!(told.len(), ANSWER_RECORDS_MAX);
    }
    let others: std::collections::BTreeSet<_> = (0..100)
        .flat_map(|_| records.of(&CHUNK, NOW + 200, rng, |_| false))
        .map(|one| one.provider.node_id())
        .collect();
    assert_eq!(others.len(), RECORDS_PER_KEY_MAX, "and the others in turn");
}

#[test]
fn one_network_has_few_places_of_a_key_and_gives_them_to_others() {
    let mut keeper = Keeper::new();
    let one_site = (0..50)
        .filter(|n| keeper.keep(&record(*n, NOW + 7200), by([9, 9, 9, *n as u8]), NOW) == Verdict::Kept);
    assert_eq!(one_site.count(), RECORDS_PER_KEY_SITE_MAX);
    let one_network = (100..150)
        .filter(|n| keeper.keep(&record(*n, NOW + 7200), by([9, 9, *n as u8, 1]), NOW) == Verdict::Kept);
    assert_eq!(one_network.count(), RECORDS_PER_KEY_NETWORK_MAX - RECORDS_PER_KEY_SITE_MAX);
    // Four networks take all places; an honest one from elsewhere still finds one.
    for n in 0..12u32 {
        let from = by([20 + (n % 3) as u8, 1, n as u8, 1]);
        assert_eq!(keeper.keep(&record(200 + n, NOW + 7200), from, NOW), Verdict::Kept);
    }
    let honest = record(999, NOW + 7200);
    assert_eq!(keeper.keep(&honest, by([77, 1, 1, 1]), NOW), Verdict::Kept);
    assert!(keeper.has(&honest, NOW) && keeper.records.len() == RECORDS_PER_KEY_MAX);
}

/// Found by repeating the runs with floods: identities of eight networks, which a second buys, took the place of whoever came from a ninth.
#[test]
fn a_few_networks_do_not_take_the_place_of_who_comes_from_another() {
    let mut keeper = Keeper::new();
    let flood = |keeper: &mut Keeper, from: u32| {
        for n in from..from + 400 {
            let rank = 1 + n % 6;
            keeper.keep(
                &record_of(n, rank, &CHUNK, NOW + 7200),
                by([50 + (n % 8) as u8, 1, (n % 3) as u8, 1]),
                NOW + n,
            );
        }
    };
    flood(&mut keeper, 0);
    let late = record_of(9_999, 0, &CHUNK, NOW + 7200);
    assert_eq!(keeper.keep(&late, by([10, 1, 1, 1]), NOW + 400), Verdict::Kept);
    flood(&mut keeper, 1_000);
    assert!(keeper.has(&late, NOW + 2_000));
    assert_eq!(keeper.records.len(), RECORDS_PER_KEY_MAX);
}

#[test]
fn a_place_that_nobody_renewed_goes_to_a_higher_rank_and_not_to_the_next_cheap_one() {
    let mut keeper = Keeper::new();
    for n in 0..RECORDS_PER_KEY_MAX as u32 {
        let one = record_of(n, 3, &CHUNK, NOW + 7200);
        assert_eq!(keeper.keep(&one, by([20 + n as u8, 1, 1, 1]), NOW), Verdict::Kept);
    }
    let cheap = Identity::new(Secret::from_bytes([200; 32]), 0, 0);
    let cheap = Record::sign(&cheap, &CHUNK, Contact::new(*cheap.card(), []), NOW + 7200);
    assert!(cheap.provider.card.rank() <= 3, "or choose another seed");
    assert_eq!(keeper.keep(&cheap, by([90, 1, 1, 1]), NOW), Verdict::Full);
    let mined = record_of(500, 12, &CHUNK, NOW + 7200);
    assert_eq!(keeper.keep(&mined, by([91, 1, 1, 1]), NOW), Verdict::Kept);
}

#[test]
fn what_others_bring_makes_a_key_hot_and_providers_are_taken_all_the_same() {
    let mut keeper = Keeper::new();
    let spread = |n: u32| Bringer { site: site([30 + n as u8, 1, 1, 1]), is_provider: false };
    for n in 0..2 * ANNOUNCED_PER_MINUTE_MAX {
        keeper.keep(&record(n, NOW + 7200), spread(n), NOW);
    }
    assert_eq!(keeper.records.len(), ANNOUNCED_PER_MINUTE_MAX as usize);
    assert_eq!(keeper.keep(&record(500, NOW + 7200), spread(100), NOW), Verdict::Full, "Coral's sign");
    assert_eq!(keeper.keep(&record(501, NOW + 7200), by([9, 1, 1, 1]), NOW), Verdict::Kept);
    assert_eq!(keeper.keep(&record(502, NOW + 7200), spread(101), NOW + 61), Verdict::Kept);
}

#[test]
fn clocks_may_differ_by_ten_minutes() {
    let mut keeper = Keeper::new();
    let signed = |n, clock: u32| record(n, clock + RECORD_S_MAX);
    assert_eq!(keeper.keep(&signed(1, NOW + 1), by([9, 1, 1, 1]), NOW), Verdict::Kept, "a second");
    assert_eq!(keeper.keep(&signed(2, NOW + CLOCK_GRACE_S), by([8, 1, 1, 1]), NOW), Verdict::Kept);
    assert_eq!(keeper.keep(&signed(3, NOW + CLOCK_GRACE_S + 1), by([7, 1, 1, 1]), NOW), Verdict::Unfit);
    assert_eq!(keeper.keep(&signed(4, NOW - CLOCK_GRACE_S), by([6, 1, 1, 1]), NOW), Verdict::Kept);
    assert_eq!(keeper.keep(&record(5, NOW), by([5, 1, 1, 1]), NOW), Verdict::Unfit, "it has ended");
}

#[test]
fn records_end_and_those_far_from_their_place_sooner() {
    let mut keeper = Keeper::new();
    let (chunk, far) = (CHUNK, ChunkId([2; 20]));
    for n in 0..6u32 {
        keeper.keep(&record(n, NOW + 600 + n), by([20 + n as u8, 1, 1, 1]), NOW);
    }
    let Keeper { records, rng } = &mut keeper;
    assert_eq!(records.of(&chunk, NOW, rng, |_| false).len(), ANSWER_RECORDS_MAX);
    assert_eq!(records.others(&chunk, &record(0, NOW).provider.node_id(), |_| false), 5);
    let one = record_of(1, 1, &far, NOW + 6000);
    assert_eq!(records.keep(far, &one, by([9, 1, 1, 1]), 300, NOW, rng), Verdict::Kept);
    assert!(
        records.of(&far, NOW + 299, rng, |_| false).len() == 1
            && records.of(&far, NOW + 300, rng, |_| false).is_empty()
    );
    assert_eq!(records.of(&chunk, NOW + 604, rng, |_| false).len(), 1);
    assert!(records.of(&chunk, NOW + 605, rng, |_| false).is_empty() && records.is_empty());
}

#[test]
fn a_provider_alone_makes_its_records_time_shorter() {
    let mut keeper = Keeper::new();
    let (long, short) = (record(1, NOW + 7200), record(1, NOW + 600));
    assert_eq!(keeper.keep(&long, by([9, 1, 1, 1]), NOW), Verdict::Kept);
    let other = Bringer { site: site([8, 1, 1, 1]), is_provider: false };
    assert_eq!(keeper.keep(&short, other, NOW + 1), Verdict::Kept);
    assert!(keeper.has(&long, NOW + 700), "somebody else's word");
    assert_eq!(keeper.keep(&short, by([9, 1, 1, 1]), NOW + 2), Verdict::Kept);
    assert!(keeper.has(&short, NOW + 599) && !keeper.has(&short, NOW + 600) && keeper.records.is_empty());
}

#[test]
fn nobody_is_told_of_a_provider_that_has_left() {
    let mut keeper = Keeper::new();
    let (left, stays) = (record(1, NOW + 7200), record(2, NOW + 7200));
    for (one, ip) in [(&left, [9, 1, 1, 1]), (&stays, [8, 1, 1, 1])] {
        assert_eq!(keeper.keep(one, by(ip), NOW), Verdict::Kept);
    }
    let gone = left.provider.node_id();
    let Keeper { records, rng } = &mut keeper;
    for _ in 0..50 {
        let told = records.of(&CHUNK, NOW, rng, |id| *id == gone);
        assert_eq!(told.iter().map(|one| one.provider).collect::<Vec<_>>(), [stays.provider]);
    }
    let asker = NodeId([7; 20]);
    assert_eq!(records.others(&CHUNK, &asker, |id| *id == gone), 1);
    assert_eq!(records.others(&CHUNK, &asker, |_| false), 2);
}

#[test]
fn who_was_first_is_displaced_by_no_rank_before_it_can_renew() {
    let mut keeper = Keeper::new();
    let fresh = record(1, NOW + 7200);
    assert_eq!(keeper.keep(&fresh, by([9, 1, 1, 1]), NOW), Verdict::Kept);
    for n in 0..200u32 {
        let mined = record_of(1_000 + n, 8, &CHUNK, NOW + 7200);
        keeper.keep(&mined, by([20 + n as u8, 1, 1, 1]), NOW + 1 + n);
    }
    assert!(keeper.has(&fresh, NOW + 300) && keeper.records.len() == RECORDS_PER_KEY_MAX);
}
