//! Forms, bounds, signatures.

use super::*;
use crate::base::PublicKey;
use crate::crypto::kdf::Secret;
use crate::limits::HANDED_RECORDS_MAX;
use proptest::prelude::*;

fn contact() -> impl Strategy<Value = Contact> {
    let address = (any::<IpAddr>(), any::<u16>()).prop_map(|(ip, port)| SocketAddr::new(ip, port));
    (any::<[u8; 32]>(), any::<[u64; 2]>(), prop::collection::vec(address, 0..3)).prop_map(
        |(key, [place_nonce, rank_nonce], addresses)| {
            Contact::new(IdentityCard { key: PublicKey(key), place_nonce, rank_nonce }, addresses)
        },
    )
}

fn record() -> impl Strategy<Value = Record> {
    (contact(), any::<u32>(), any::<[u8; 32]>()).prop_map(|(provider, expires, half)| Record {
        expires,
        provider,
        signature: std::array::from_fn(|at| half[at % 32]),
    })
}

fn answer() -> impl Strategy<Value = Answer> {
    let records = prop::collection::vec(record(), 0..=ANSWER_RECORDS_MAX);
    let contacts = prop::collection::vec(contact(), 0..=ANSWER_CONTACTS_MAX);
    (any::<bool>(), any::<u16>(), any::<u16>(), records, contacts).prop_map(
        |(refused, not_found, queries, records, contacts)| Answer {
            refused,
            not_found,
            queries,
            records,
            contacts,
        },
    )
}

fn keeping() -> impl Strategy<Value = Keeping> {
    let verdict = prop_oneof![Just(Verdict::Kept), Just(Verdict::Full), Just(Verdict::Unfit)];
    (verdict, any::<u8>(), any::<u16>()).prop_map(|(verdict, hosts, queries)| Keeping {
        verdict,
        hosts,
        queries,
    })
}

fn handed() -> impl Strategy<Value = Handed> {
    let records = prop::collection::vec(record(), 1..=ANSWER_RECORDS_MAX);
    let chunks = prop::collection::btree_map(any::<[u8; 20]>().prop_map(ChunkId), records, 0..10);
    chunks.prop_map(Handed::first)
}

fn body() -> impl Strategy<Value = Body> {
    prop_oneof![
        (any::<[u8; 20]>(), any::<[bool; 3]>(), 0u8..=160).prop_map(|(key, [records, far, quiet], reach)| {
            Body::Find(Find { key, records, far, reach: if far { reach } else { 0 }, quiet })
        }),
        Just(Body::Probe),
        (prop::collection::vec(any::<[u8; 20]>(), 1..=ANNOUNCED_CHUNKS_MAX), record()).prop_map(
            |(chunks, record)| {
                let all: Vec<_> = chunks.into_iter().map(|chunk| (ChunkId(chunk), record)).collect();
                Body::Announce(Announcement::of(&all).expect("not too many, and alike"))
            }
        ),
        (any::<[u8; 20]>(), any::<bool>()).prop_map(|(key, far)| Body::Delegate { key, far }),
        answer().prop_map(Body::Answer),
        any::<(IpAddr, u16)>().prop_map(|(ip, port)| Body::Here(Endpoint::new((ip, port).into()))),
        prop::collection::vec(keeping(), 1..=ANNOUNCED_CHUNKS_MAX).prop_map(Body::Verdicts),
        (0u8..=160, any::<[u8; 20]>()).prop_map(|(bits, from)| Body::Collect { bits, from: ChunkId(from) }),
        handed().prop_map(Body::Handed),
    ]
}

proptest! {
    #[test]
    fn messages_round_trip_and_fit_one_packet(number: u32, body in body()) {
        let message = Message { number, body };
        let bytes = message.emit();
        prop_assert!(bytes.len() <= OVERLAY_MESSAGE_MAX);
        let mut read = Message::parse(&bytes).expect("what was written");
        if let (Body::Answer(read), Body::Answer(written)) = (&mut read.body, &message.body) {
            // What did not fit is missing from the end, and only then.
            let missing = written.contacts.get(read.contacts.len());
            prop_assert!(missing.is_none_or(|next| bytes.len() + next.size() > OVERLAY_MESSAGE_MAX));
            read.contacts.extend_from_slice(&written.contacts[read.contacts.len()..]);
        }
        prop_assert_eq!(read, message);
    }

    #[test]
    fn whatever_reads_has_one_form(kind in 0u8..11, bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let bytes = [vec![kind], bytes].concat();
        if let Ok(message) = Message::parse(&bytes) {
            prop_assert_eq!(message.emit(), bytes);
        }
    }

    #[test]
    fn what_is_handed_is_whole_chunks_in_order_and_says_whether_there_are_more(
        chunks in prop::collection::btree_map(any::<[u8; 20]>().prop_map(ChunkId), prop::collection::vec(record(), 1..=ANSWER_RECORDS_MAX), 0..12),
    ) {
        let handed = Handed::first(chunks.clone());
        let all: Vec<_> = chunks.iter().flat_map(|(chunk, records)| records.iter().map(|record| (*chunk, *record))).collect();
        let count = handed.records().len();
        prop_assert!(count <= HANDED_RECORDS_MAX && (count > 0 || all.is_empty()), "some always fit");
        prop_assert_eq!(handed.records(), &all[..count]);
        prop_assert_eq!(handed.more, count < all.len());
        let cut = all.get(count).map(|(chunk, _)| *chunk);
        prop_assert!(handed.records().last().map(|(chunk, _)| *chunk) != cut || cut.is_none(), "no chunk is cut");
    }

    #[test]
    fn what_is_cut_is_malformed(number: u32, body in body(), at in any::<prop::sample::Index>()) {
        let bytes = Message { number, body }.emit();
        prop_assert!(Message::parse(&bytes[..at.index(bytes.len())]).is_err());
    }
}

#[test]
fn a_record_is_its_providers_word_for_one_chunk() {
    let identity = Identity::new(Secret::from_bytes([7; 32]), 1, 2);
    let provider = Contact::new(*identity.card(), ["192.0.2.1:7".parse().expect("an address")]);
    let chunk = ChunkId([9; 20]);
    let record = Record::sign(&identity, &chunk, provider, 1_000);
    assert!(record.verify(&chunk) && !record.verify(&ChunkId([8; 20])));
    assert!(!Record { expires: 1_001, ..record }.verify(&chunk));
    let elsewhere = Contact::new(*identity.card(), ["192.0.2.2:7".parse().expect("an address")]);
    assert!(!Record { provider: elsewhere, ..record }.verify(&chunk), "nobody is sent to a third");
}

#[test]
fn sizes_are_what_the_page_says() {
    let card = IdentityCard { key: PublicKey([1; 32]), place_nonce: 0, rank_nonce: 0 };
    let four = Contact::new(card, ["192.0.2.1:7".parse().expect("an address")]);
    let six =
        Contact::new(card, ["[2001:db8::1]:7", "[2001:db8::2]:7"].map(|text| text.parse().expect("one")));
    assert_eq!((four.size(), six.size(), Contact::LEN_MAX, Record::LEN_MAX), (56, 87, 87, 155));
    let identity = Identity::new(Secret::from_bytes([7; 32]), 1, 2);
    let all: Vec<_> = (0..=ANNOUNCED_CHUNKS_MAX as u8)
        .map(|n| (ChunkId([n; 20]), Record::sign(&identity, &ChunkId([n; 20]), four, 1_000)))
        .collect();
    assert_eq!(Announcement::of(&all), None, "more than fit");
    let announcement = Announcement::of(&all[1..]).expect("as many as fit");
    assert!(announcement.records().eq(all[1..].iter().copied()), "each is what it is alone");
    let announce = |announcement| Message { number: 0, body: Body::Announce(announcement) }.emit().len();
    assert_eq!((announce(announcement), announce(Announcement::one(all[0].0, &all[0].1))), (1074, 150));
    let find = Find { key: [0; 20], records: true, far: false, reach: 0, quiet: false };
    assert_eq!(Message { number: 0, body: Body::Find(find) }.emit().len(), 27);
    let answer = Answer { contacts: vec![four; ANSWER_CONTACTS_MAX], ..Answer::default() };
    assert_eq!(Message { number: 0, body: Body::Answer(answer) }.emit().len(), 460);
}
