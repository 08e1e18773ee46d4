//! Messages of fixed layouts.

use super::Input;
use crate::crypto::{MaskKey, Secret};
use crate::limits::{
    ADDRESS_TOKEN_SIZE_MAX, CARRIED_MAX, CHUNK_SIZE_MAX, CLOSE_REASON_MAX, EARLY_DATA_MAX, HELLO_AGENT_MAX,
    HELLO_SERVICES_MAX, HELLO_SIZE_MAX, INTENT_S_MAX, INTRODUCTION_HANDS_MAX, INTRODUCTIONS_SIZE_MAX,
    INTRODUCTIONS_TOLD_MAX, MEETING_PLACES_MAX, OVERLAY_MESSAGE_MAX, PACKET_OVERHEAD, RECORD_PLAIN,
    SLICE_SIZE, STAY_S_MAX, TAG_SIZE,
};
use crate::wire::chunkmsg::{Part, ReplyHead, ReplyLayout, SliceRequest, mask_of};
use crate::wire::control::{Control, Controls};
use crate::wire::handshake::{Init, Reply};
use crate::wire::hello::Hello;
use crate::wire::intent;
use crate::wire::introduction::Introductions;
use crate::wire::locator::{self, Locator};
use crate::wire::overlay::{self, Message};
use crate::wire::packet::{
    Header, NUMBER_BITS, PacketKind, Series, expand_number, nonce, split_sample, toggle_mask,
};
use crate::wire::punch;
use crate::wire::reserve;
use crate::wire::stun;

/// Headers and their masks; the expansion of numbers.
pub fn packet(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let (expected, truncated) = (input.long() >> 2, input.word());
    let full = expand_number(expected, truncated);
    let bits = (1u64 << NUMBER_BITS) - 1;
    assert_eq!(full & bits, u64::from(truncated) & bits);
    let apart = full.abs_diff(expected);
    assert!(apart <= 1 << (NUMBER_BITS - 1) || full <= bits, "{expected} {truncated}: {full}");
    assert_eq!(nonce(Series::Datagram, full)[..8], full.to_le_bytes());
    let Some((raw, sample)) = split_sample(bytes) else {
        return assert!(bytes.len() < PACKET_OVERHEAD);
    };
    let mask = MaskKey::derive(&Secret::from_bytes([7; 32]), "fuzz").mask(sample);
    let mut header = raw;
    toggle_mask(&mut header, &mask);
    assert_eq!(Header::parse(&header).emit(), header);
    toggle_mask(&mut header, &mask);
    assert_eq!(header, raw);
    if let Some(kind) = PacketKind::from_byte(raw[0]) {
        assert_eq!(kind as u8, raw[0]);
    }
}

/// What a peer asks to be promised, and the answer: one form each, within the bounds.
pub fn reserve(bytes: &[u8]) {
    if let Ok(request) = reserve::Request::parse(bytes) {
        assert_eq!(request.emit()[..], *bytes);
        if let reserve::Request::Ask(wanted) = request {
            assert!(wanted.is_sound());
        }
    }
    if let Ok(answer) = reserve::Answer::parse(bytes) {
        assert_eq!(answer.emit()[..], *bytes);
        let promised = answer.verdict == reserve::Verdict::Promised;
        assert!(if promised { answer.most == 0 } else { answer.duration_s == 0 });
    }
}

/// A message by which nodes meet: one form, within the bounds.
pub fn punch(bytes: &[u8]) {
    let Ok(message) = punch::Message::parse(bytes) else { return };
    assert_eq!(message.emit(), bytes);
    match message {
        punch::Message::Carry(carry) | punch::Message::Bring(carry) => {
            assert!((1..=CARRIED_MAX).contains(&carry.bytes.len()))
        }
        punch::Message::Meet { candidates, .. } => assert!(candidates.len() <= MEETING_PLACES_MAX),
        _ => {}
    }
}

/// What friends tell of others: one form, within the bounds, no farther than they agreed; and nobody signed what the fuzzer made.
pub fn introduction(bytes: &[u8]) {
    let Ok(message) = Introductions::parse(bytes) else { return };
    assert!(bytes.len() <= INTRODUCTIONS_SIZE_MAX && message.0.len() <= INTRODUCTIONS_TOLD_MAX);
    assert_eq!(message.emit(), bytes);
    for told in message.0 {
        let own = told.introduction;
        assert!(told.hand <= own.hands && own.hands <= INTRODUCTION_HANDS_MAX && told.trust <= 100);
        // One hand more or less than was signed is nobody's word.
        assert!(!(own.verify() && own.altered(own.contact, 3 - own.hands).verify()));
    }
}

/// A message of intents: one form, within the bounds.
pub fn intent(bytes: &[u8]) {
    let Ok(message) = intent::Message::parse(bytes) else { return };
    assert_eq!(message.emit(), bytes);
    match message {
        intent::Message::Say { what: intent::What::Stay, seconds, .. } => {
            assert!((1..=STAY_S_MAX).contains(&seconds))
        }
        intent::Message::Say { seconds, .. } | intent::Message::Answer { seconds, .. } => {
            assert!(seconds <= INTENT_S_MAX)
        }
    }
}

/// A message of STUN: what is read is what would be written, attributes aside.
pub fn stun(bytes: &[u8]) {
    let Ok(message) = stun::Message::parse(bytes) else { return };
    assert!(stun::is_message(bytes));
    let mut out = [0; stun::RESPONSE_SIZE_MAX];
    let len = message.emit(&mut out);
    if let stun::Message::Response(id, mapped) = message {
        let canonical = std::net::SocketAddr::new(mapped.ip().to_canonical(), mapped.port());
        assert_eq!(stun::Message::parse(&out[..len]), Ok(stun::Message::Response(id, canonical)));
    } else {
        assert_eq!(stun::Message::parse(&out[..len]), Ok(message));
    }
}

/// A message of the overlay: one form, within the bounds; a record that nobody signed is nobody's.
pub fn overlay(bytes: &[u8]) {
    let Ok(message) = Message::parse(bytes) else { return };
    assert!(bytes.len() <= OVERLAY_MESSAGE_MAX);
    assert_eq!(message.emit(), bytes);
    if let overlay::Body::Announce(announcement) = message.body {
        for (chunk, record) in announcement.records() {
            assert!(record.size() <= overlay::Record::LEN_MAX);
            assert!(!record.verify(&crate::base::ChunkId(chunk.0.map(|byte| !byte))));
        }
    }
}

/// A run of control messages.
pub fn control(payload: &[u8]) {
    let mut failed = false;
    let mut size = 0;
    for control in Controls::new(payload) {
        assert!(!failed, "nothing follows an error");
        let Ok(control) = control else {
            failed = true;
            continue;
        };
        match control {
            Control::Close { reason, .. } => assert!(reason.len() <= CLOSE_REASON_MAX),
            Control::Token(token) => assert!(token.len() <= ADDRESS_TOKEN_SIZE_MAX),
            _ => {}
        }
        size += control.size();
        let mut out = vec![0xff; control.size()];
        assert_eq!(control.put(&mut out), Some(control.size()));
        assert_eq!(Controls::new(&out).collect::<Vec<_>>(), [Ok(control)]);
        assert_eq!(control.put(&mut out[1..]), None);
    }
    assert!(size <= payload.len());
}

/// What both handshake messages say inside Noise.
pub fn handshake(bytes: &[u8]) {
    if let Ok(init) = Init::parse(bytes) {
        assert!(init.token.len() <= ADDRESS_TOKEN_SIZE_MAX && init.early.len() <= EARLY_DATA_MAX);
        let mut out = vec![0xff; bytes.len()];
        assert_eq!(init.emit(&mut out), Some(()), "no longer than it was");
        assert_eq!(Init::parse(&out), Ok(init));
        assert_eq!(Init::parse(&out[..init.size()]), Ok(init));
        assert!(Init::parse(&out[..init.size() - 1]).is_err());
    }
    if let Ok(reply) = Reply::parse(bytes) {
        assert!(reply.token.len() <= ADDRESS_TOKEN_SIZE_MAX);
        let mut out = vec![0xff; bytes.len()];
        assert_eq!(reply.emit(&mut out), Some(()), "no longer than it was");
        assert_eq!(Reply::parse(&out), Ok(reply));
        assert!(Reply::parse(&out[..reply.size() - 1]).is_err());
    }
}

/// A node's introduction.
pub fn hello(bytes: &[u8]) {
    let Ok(hello) = Hello::parse(bytes) else { return };
    assert!(bytes.len() <= HELLO_SIZE_MAX && hello.version > 0);
    assert!(hello.agent.len() <= HELLO_AGENT_MAX && hello.services.len() <= HELLO_SERVICES_MAX);
    assert!(hello.agent.bytes().all(|byte| (0x20..0x7f).contains(&byte)), "a terminal shows it");
    assert_eq!(Hello::parse(&hello.emit()), Ok(hello));
}

/// Requests for slices, the heads of answers, and the places of an answer's bytes.
pub fn chunkmsg(bytes: &[u8]) {
    match SliceRequest::parse(bytes) {
        Ok(Some(request)) => {
            assert_eq!(request.emit(), *bytes);
            for cut in 0..bytes.len() {
                assert_eq!(SliceRequest::parse(&bytes[..cut]), Ok(None));
            }
        }
        Ok(None) => assert!(bytes.len() < SliceRequest::LEN),
        Err(_) => {}
    }
    if let Ok(head) = ReplyHead::parse(bytes) {
        assert_eq!(head.emit(), bytes[..ReplyHead::LEN]);
        assert!(head.chunk_len as usize <= CHUNK_SIZE_MAX && head.mask & !mask_of(head.chunk_len) == 0);
    }
    let mut input = Input::new(bytes);
    let layout = ReplyLayout::new(input.word(), input.half(), input.flag());
    let mut end = 0;
    for part in [Part::Head, Part::List].into_iter().chain((0..16).map(Part::Slice)) {
        let Some(range) = layout.range(part).filter(|range| !range.is_empty()) else { continue };
        assert_eq!(range.start, end, "parts lie one behind another");
        assert_eq!(layout.locate(range.end - 1).map(|spot| (spot.part, spot.rest)), Some((part, 1)));
        end = range.end;
    }
    assert_eq!((layout.total(), layout.locate(end)), (end, None));
    for offset in [input.number(), input.long(), u64::MAX] {
        let Some(spot) = layout.locate(offset) else {
            assert!(offset >= end);
            continue;
        };
        let range = layout.range(spot.part).expect("a part of the answer");
        assert_eq!(range.start + u64::from(spot.offset), offset);
        assert_eq!(offset + u64::from(spot.rest), range.end);
    }
}

/// Where a piece lies: inside its chunk, whatever is asked.
pub fn locator(bytes: &[u8]) {
    let Ok(locator) = Locator::parse(bytes) else { return };
    assert_eq!(locator.emit(), bytes[..locator::LEN]);
    let chunk = 0..locator.chunk_len as usize;
    assert!(chunk.end <= CHUNK_SIZE_MAX && locator.slices().end as usize <= CHUNK_SIZE_MAX / SLICE_SIZE);
    let (mut end, mut plain) = (locator.offset as usize, 0);
    for record in 0..locator.records() {
        let place = locator.record(record);
        assert!(place.start == end && place.end <= chunk.end);
        assert!((TAG_SIZE + 1..=RECORD_PLAIN + TAG_SIZE).contains(&place.len()));
        (end, plain) = (place.end, plain + place.len() - TAG_SIZE);
    }
    assert_eq!((plain, end), (locator.plain_len as usize, locator.offset as usize + locator.sealed_len()));
}
