//! What tables, stores and memories keep, and what not.

use super::*;
use crate::base::Rng;

#[test]
fn a_network_has_few_places_and_private_addresses_are_not_counted() {
    let mut table = Table::new(peer(0).id, 0, 0);
    let mut lab = table.clone();
    table.open(Time::ZERO);
    let at_ip = |number, ip: [u8; 4]| {
        Peer::of(Contact::new(peer(number).contact.card, [SocketAddr::from((ip, 4600))]))
    };
    let mut came = 0;
    for number in 1..2000u32 {
        let [_, _, c, d] = number.to_be_bytes();
        came += usize::from(table.admit(at_ip(number, [203, 0, c, d]), Time::ZERO) == Admission::Added);
    }
    assert_eq!(came, TABLE_PER_NETWORK_MAX.min(came), "one /16 has so many places");
    for bucket in table.buckets() {
        assert!(bucket.entries().len() <= BUCKET_PER_NETWORK_MAX);
    }
    let before = table.len();
    for number in 2000..2200u32 {
        table.admit(at_ip(number, [192, 168, 0, number as u8]), Time::ZERO);
        lab.admit(at_ip(number, [192, 168, 0, number as u8]), Time::ZERO);
    }
    assert!(lab.len() > 50, "a lab is one network, and no attack");
    assert_eq!(table.len() - before, TABLE_PER_SITE_MAX, "in the world, a home is one site");
    // Whoever fills a node's table in its first minute from its home has few places once the world is there.
    lab.open(Time::ZERO);
    assert_eq!(lab.len(), TABLE_PER_SITE_MAX);
    assert!(lab.buckets().iter().all(|bucket| bucket.entries().len() <= BUCKET_CONTACTS_MAX));
}

#[test]
fn what_is_given_comes_first_and_age_keeps_half_of_a_bucket() {
    let own = peer(0).id;
    let mut table = Table::new(own, 0, 0);
    let first: Vec<Peer> =
        (1..).map(peer).filter(|peer| shared_bits(&own.0, &peer.id.0) == 0).take(200).collect();
    for (index, peer) in first.iter().take(BUCKET_CONTACTS_MAX).enumerate() {
        assert_eq!(table.admit(*peer, Time::from_millis(index as u64)), Admission::Added);
    }
    // Those that come later rank higher, and all want in.
    let mined = |peer: &Peer| {
        let mut card = peer.contact.card;
        while card.rank() < 8 {
            card.rank_nonce += 1;
        }
        Peer { id: peer.id, contact: Contact::new(card, peer.contact.addresses()) }
    };
    let now = Time::ZERO + ms(3_600_000);
    for peer in &first[BUCKET_CONTACTS_MAX..] {
        assert_ne!(table.admit(mined(peer), now), Admission::Known);
    }
    let old = first[..BUCKET_CONTACTS_MAX]
        .iter()
        .filter(|peer| table.buckets()[0].entries().iter().any(|entry| entry.peer.id == peer.id));
    let old = old.count();
    assert!((BUCKET_OLDEST_KEPT..=BUCKET_OLDEST_KEPT + 2).contains(&old), "{old}");
    let entry = |standing: Standing, rank: u8| {
        let mut entry = bucket::Entry::new(first[0], Time::ZERO);
        (entry.standing, entry.rank) = (standing, rank);
        entry.worth(now)
    };
    let none = Standing::default();
    assert!(
        entry(Standing { contributed: 1 << 20, ..none }, 1) > entry(Standing { paid: 1 << 40, ..none }, 60)
    );
    assert!(entry(Standing { paid: 5000, ..none }, 1) > entry(none, 60));
    assert!(entry(none, 9) > entry(Standing { bandwidth: 1 << 40, ..none }, 8));
}

#[test]
fn peers_are_remembered_and_the_least_worth_goes() {
    let mut peers = Peers::new(16);
    let mut rng = Rng::from_number(1);
    let good = peer(1);
    (0..50).for_each(|_| peers.met(&good, 1000, Some(ms(80)), &mut rng));
    peers.missed(&good.id);
    assert!(
        peers.get(&good.id).is_some_and(|known| known.availability_milli() == 980 && known.errors_since == 1)
    );
    peers.met(&good, 1000, None, &mut rng);
    for number in 2..200 {
        let other = peer(number);
        peers.met(&other, 1000, None, &mut rng);
        (0..5).for_each(|_| peers.missed(&other.id));
    }
    assert!(peers.len() == 16 && peers.get(&good.id).is_some());
    let stored: Vec<_> = peers.iter().map(|(_, known)| known.clone()).collect();
    let mut after = Peers::new(64);
    after.restore(stored);
    assert_eq!(after.get(&good.id), peers.get(&good.id));
    let drawn = after.draw(&mut rng, |_| false).map(|peer| peer.id);
    assert!(drawn.is_some_and(|id| after.get(&id).is_some()) && after.draw(&mut rng, |_| true).is_none());
    after.age(1000 + PEER_AGE_S_MAX + 1);
    assert!(after.is_empty());
}
