//! A whole node of the overlay and an authenticated peer that says anything in it: questions, answers, records, ways
//! through others, chunks to be kept, between everything that [`super::node_peer`] does.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use super::Input;
use super::endpoint::{address, identity};
use super::node_peer::Scene;
use super::stream_peer;
use crate::base::{ChannelId, ChunkId, Kept, PublicKey, StreamId};
use crate::chunk::SliceList;
use crate::limits::{CARRIED_MAX, MEETING_PLACES_MAX};
use crate::node::command::OverlayRules;
use crate::node::{Command, Input as NodeInput, KEEP_CHANNEL, MEET_CHANNEL, OVERLAY_CHANNEL, Report};
use crate::wire::frame::{StreamHeader, Writer};
use crate::wire::keep::Offer;
use crate::wire::overlay::{
    Announcement, Answer, Body, Contact, Endpoint, Find, Handed, Keeping, Message, Record, Verdict,
};
use crate::wire::punch;

const STEPS_MAX: usize = 100;
const NAME: &str = "fuzz";
/// Tables of this node hold one peer: who else is named never answers.
const CONTACTS_MAX: u64 = 1;

fn rules(scene: &Scene, enabled: bool) -> Command {
    let entry = (*scene.hostile.identity.card(), vec![scene.hostile.address]);
    Command::Overlay(Box::new(OverlayRules {
        enabled,
        network: NAME.into(),
        addresses: vec![scene.at],
        bootstrap: vec![entry],
        far: false,
        serve_strangers: true,
        keep: Some(1 << 22),
    }))
}

/// An address: of the peer itself, of many networks, private, of a way, or none that may be.
fn place(scene: &Scene, input: &mut Input<'_>) -> SocketAddr {
    match input.below(6) {
        0 => scene.hostile.address,
        1 => scene.at,
        2 => address(input.byte()),
        3 => SocketAddr::from(([100, input.byte(), 0, input.byte()], 1 + input.half() % 60_000)),
        4 => SocketAddr::from(([10, 0, input.byte(), 1], 4600)),
        _ => {
            let mut octets = [0xfd; 16];
            octets[..6].copy_from_slice(&[0xfd, 0x74, 0x6f, 0x72, 0x6e, 0x77]);
            octets[15] = input.byte();
            SocketAddr::from((octets, 4600))
        }
    }
}

fn contact(scene: &Scene, input: &mut Input<'_>) -> Contact {
    let signer = identity(input.byte() % 6);
    let addresses: Vec<_> = (0..input.below(3)).map(|_| place(scene, input)).collect();
    Contact::new(*signer.card(), addresses)
}

fn record(scene: &Scene, input: &mut Input<'_>, chunk: &ChunkId) -> Record {
    let who = input.byte() % 6;
    let addresses: Vec<_> = (0..input.below(3)).map(|_| place(scene, input)).collect();
    let signer = identity(who);
    let provider = Contact::new(*signer.card(), addresses);
    let expires = scene.clock().wall.0 / 1000 + u64::from(input.half());
    Record::sign(&signer, chunk, provider, expires as u32)
}

fn chunk(scene: &Scene, input: &mut Input<'_>) -> ChunkId {
    match scene.chunks.keys().nth(input.below(scene.chunks.len() + 2)) {
        Some(chunk) => *chunk,
        None => ChunkId([input.byte() % 4; 20]),
    }
}

/// A message of the overlay; with the number of a question of the node, an answer to it.
fn overlay(scene: &Scene, input: &mut Input<'_>) -> Vec<u8> {
    let asked = scene.said.iter().filter(|(channel, _)| *channel == OVERLAY_CHANNEL);
    let asked: Vec<_> = asked.filter_map(|(_, bytes)| Message::parse(bytes.get(4..)?).ok()).collect();
    let question = asked.get(input.below(asked.len().max(1)));
    let number = question.map_or(7, |message| message.number);
    let key = chunk(scene, input);
    let body = match (input.below(8), question.map(|message| &message.body)) {
        (0..=3, Some(Body::Announce(_))) => {
            let keeping = Keeping { verdict: Verdict::Kept, hosts: input.byte(), queries: input.half() };
            Body::Verdicts(vec![keeping; 1 + input.below(12)])
        }
        (0..=3, Some(Body::Collect { from, .. })) => {
            let mut chunks = Vec::new();
            for n in (0..input.byte()).step_by(16) {
                let chunk = ChunkId([n; 20]);
                if chunk >= *from || input.one_in(8) {
                    let records = (0..input.below(5)).map(|_| record(scene, input, &chunk)).collect();
                    chunks.push((chunk, records));
                }
            }
            Body::Handed(Handed::first(chunks))
        }
        (0..=3, Some(Body::Probe)) => Body::Here(Endpoint::new(place(scene, input))),
        (0..=3, Some(_)) => Body::Answer(Answer {
            contacts: (0..input.below(9)).map(|_| contact(scene, input)).collect(),
            records: (0..input.below(5)).map(|_| record(scene, input, &key)).collect(),
            refused: input.one_in(8),
            ..Answer::default()
        }),
        (4, _) => {
            let one = record(scene, input, &key);
            let all = vec![(key, one); 1 + input.below(12)];
            Body::Announce(Announcement::of(&all).expect("not too many"))
        }
        (5, _) => Body::Delegate { key: key.0, far: input.flag() },
        (6, _) if input.flag() => Body::Collect { bits: input.byte() % 161, from: key },
        (6, _) => Body::Probe,
        _ => {
            let (records, far, reach) = (input.flag(), input.flag(), input.byte() % 161);
            Body::Find(Find { key: key.0, records, far, reach, quiet: input.flag() })
        }
    };
    Message { number, body }.emit()
}

/// A message about ways; with the number of a question of the node, an answer to it.
fn meeting(scene: &Scene, input: &mut Input<'_>) -> Vec<u8> {
    let asked = scene.said.iter().filter(|(channel, _)| *channel == MEET_CHANNEL);
    let asked: Vec<_> = asked.filter_map(|(_, bytes)| punch::Message::parse(bytes).ok()).collect();
    let number = match asked.get(input.below(asked.len().max(1))) {
        Some(punch::Message::Call { number, .. } | punch::Message::Hold { number }) => *number,
        _ => input.word(),
    };
    let who = identity(input.byte() % 6);
    let (node, key) = (who.card().node_id(), who.card().key);
    let bytes: Vec<u8> = match scene.hostile.sent.first().filter(|_| input.flag()) {
        Some((_, datagram)) => datagram.clone(),
        None => vec![input.byte(); 1 + input.below(CARRIED_MAX.min(600))],
    };
    let part = [punch::Part::Whole, punch::Part::First, punch::Part::Second][input.below(3)];
    let id = if part == punch::Part::Whole { 0 } else { input.half() % 4 };
    let carried = punch::Carry { part, id, node, bytes: &bytes };
    let verdicts = [punch::Verdict::Carried, punch::Verdict::Away, punch::Verdict::Refused];
    let seen = |input: &mut Input<'_>| {
        Endpoint::new(place(scene, input)).or(Endpoint::new(scene.hostile.address)).expect("usable")
    };
    let message = match input.below(8) {
        0 => punch::Message::Call { number, key: if input.flag() { key } else { PublicKey([9; 32]) } },
        1 => punch::Message::Answer { number, verdict: verdicts[input.below(3)], seen: seen(input) },
        2 => punch::Message::Carry(carried),
        3 => punch::Message::Bring(carried),
        4 => punch::Message::Gone(node),
        5 => {
            let candidates = (0..input.below(MEETING_PLACES_MAX + 1)).map(|_| seen(input)).collect();
            punch::Message::Meet { ask: input.flag(), candidates }
        }
        6 => punch::Message::Hold { number },
        _ => punch::Message::Here { number, seen: seen(input) },
    };
    message.emit()
}

/// One datagram in the session.
fn datagram(scene: &mut Scene, input: &mut Input<'_>, channel: ChannelId, bytes: &[u8]) {
    let mut room = [0; stream_peer::ROOM];
    let mut out = Writer::new(&mut room);
    if out.datagram(channel, bytes).is_some() {
        let len = out.written();
        let payload = room[..len].to_vec();
        scene.say(input, &payload);
    }
}

/// A chunk is offered to be kept, and its first bytes come with it.
fn offer(scene: &mut Scene, input: &mut Input<'_>) {
    let body = vec![input.byte(); 1 + input.below(900)];
    let root = *SliceList::from_chunk(&body).root();
    let id = ChunkId(crate::crypto::hash::sha1(&[&body]));
    let offer = Offer { chunk: id, len: body.len() as u32, root };
    let mut bytes = offer.emit().to_vec();
    let stream = StreamId(2 * (20 + input.below(20) as u64) + u64::from(input.flag()));
    let whole = input.flag();
    if whole {
        bytes.extend_from_slice(&body);
    }
    if input.one_in(6) {
        input.mutate(&mut bytes);
    }
    let mut room = [0; stream_peer::ROOM];
    let mut out = Writer::new(&mut room);
    let header = StreamHeader { stream, channel: Some(KEEP_CHANNEL), offset: 0, fin: whole };
    out.stream(&header, Some(bytes.len())).expect("room");
    out.take(bytes.len()).expect("room").copy_from_slice(&bytes);
    let len = out.written();
    let payload = room[..len].to_vec();
    scene.say(input, &payload);
}

fn step(scene: &mut Scene, input: &mut Input<'_>, tag: [u8; 4]) {
    match input.below(10) {
        0..=3 => {
            let mut bytes = tag.to_vec();
            bytes.extend(overlay(scene, input));
            if input.one_in(12) {
                input.mutate(&mut bytes);
            }
            datagram(scene, input, OVERLAY_CHANNEL, &bytes);
        }
        4 | 5 => {
            let mut bytes = meeting(scene, input);
            if input.one_in(12) {
                input.mutate(&mut bytes);
            }
            datagram(scene, input, MEET_CHANNEL, &bytes);
        }
        6 => offer(scene, input),
        7 => {
            let command = match input.below(6) {
                0 => rules(scene, false),
                1 | 2 => rules(scene, true),
                3 => Command::Peers { after: None },
                _ => Command::Provide(scene.chunks.keys().copied().collect()),
            };
            scene.input(NodeInput::Command(command));
            let kept = scene.keeping.replace(Vec::new()).unwrap_or_default();
            for (number, _) in kept {
                let kept = [Kept::Done, Kept::Busy, Kept::Failed][input.below(3)];
                scene.input(NodeInput::Kept { number, kept });
            }
            scene.exchange();
        }
        _ => scene.step(input),
    }
}

/// What holds beside [`Scene::check`].
fn check(scene: &mut Scene) {
    scene.check();
    let before = scene.reports.len();
    scene.input(NodeInput::Command(Command::Status { token: 3 }));
    for report in scene.reports.drain(before..) {
        if let Report::Status(_, snapshot) = &report
            && let Some(overlay) = snapshot.overlay
        {
            assert!(overlay.contacts <= CONTACTS_MAX, "{overlay:?}: who answered nothing is in no table");
            assert!(overlay.announced <= overlay.provided, "{overlay:?}");
        }
    }
    let offered = scene.keeping.iter().flatten().map(|(number, _)| *number);
    let numbers: BTreeSet<u64> = offered.clone().collect();
    assert_eq!(numbers.len(), offered.count(), "each copy is offered to the store once");
}

/// See the module: the node comes to rest, leaks no buffer, every `get` ends, no file is wrong, and in its table is nobody
/// but who answered.
pub fn peer(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let mut scene = Scene::new(&mut input);
    scene.keeping = Some(Vec::new());
    let command = rules(&scene, true);
    scene.input(NodeInput::Command(command));
    scene.begin(&mut input);
    let tag = crate::node::overlay_tag(NAME);
    for _ in 0..STEPS_MAX {
        if input.is_empty() {
            break;
        }
        step(&mut scene, &mut input, tag);
        check(&mut scene);
    }
    scene.end();
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn random_scripts_hold(bytes in prop::collection::vec(any::<u8>(), 0..800)) {
            super::peer(&bytes);
        }
    }
}
