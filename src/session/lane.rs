//! One lane of a session: its keys, packet numbers, epochs and replay window, per direction
//! (docs/protocol/session.md §3, docs/protocol/packet.md §2). Lane 0 begins with the session; further lanes are
//! further values of this type.

use std::time::Duration;

use super::types::DropCause;
use crate::base::{Rng, Time, Window};
use crate::crypto::{AeadKey, Secret, Suite, kdf};
use crate::limits::{
    EPOCH_AGE_MS_MAX, EPOCH_GRACE_MS, EPOCH_PACKETS_MAX, HEADER_SIZE, NUMBERS_BETWEEN_SKIPS_MAX,
    PACKET_OVERHEAD, TAG_SIZE,
};
use crate::sys::hint;
use crate::wire::packet::{Header, KIND_AT, Series, expand_number, nonce};

/// Both directions of a lane.
pub(super) struct Lane {
    suite: Suite,
    send: Sending,
    receive: Receiving,
}

struct Sending {
    /// Makes the next epoch's secret; that of epochs before is gone.
    secret: Secret,
    key: AeadKey,
    epoch: u64,
    epoch_began: Time,
    epoch_packets: u64,
    next_number: u64,
    /// That of packets which nobody acknowledges.
    next_datagram: u64,
    /// The number that is left out next, or the one behind it when that is taken already.
    skip_at: Option<u64>,
    /// Numbers between two that are left out, at most; grows, so that a liar is caught early.
    skip_span: u64,
    /// The last one that was left out and not reported.
    skipped: Option<u64>,
}

/// Numbers before the first that is left out, at most.
const FIRST_SKIP_SPAN: u64 = 32;

struct Receiving {
    secret: Secret,
    key: AeadKey,
    epoch: u64,
    /// The key of the epoch before, raw: expanded on need, as few packets are late.
    previous: Option<(Secret, Time)>,
    /// The key of the epoch to come, raw, once a packet claimed to be sealed with it; so that forgeries
    /// cost no derivation each.
    next: Option<Secret>,
    window: Window,
    /// That of packets which nobody acknowledges, once the first of them came.
    datagrams: Option<Box<Window>>,
}

/// An authenticated packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Opened {
    pub(super) number: u64,
    /// Whether no authenticated packet had a higher number.
    pub(super) highest: bool,
    /// Whether it began a new epoch; its predecessor's key wants erasing later.
    pub(super) rekeyed: bool,
}

fn packet_key(secret: &Secret) -> Secret {
    kdf::expand(secret, "tornet packet key", b"")
}

fn next_epoch(secret: &Secret) -> Secret {
    kdf::expand(secret, "tornet next epoch", b"")
}

impl Lane {
    /// Lane `number` of a session. Both sides call this with the same secret.
    pub(super) fn new(session: &Secret, number: u32, initiator: bool, suite: Suite, now: Time) -> Self {
        let context = number.to_le_bytes();
        let forward = kdf::expand(session, "tornet lane to responder", &context);
        let backward = kdf::expand(session, "tornet lane to initiator", &context);
        let (ours, theirs) = if initiator { (forward, backward) } else { (backward, forward) };
        Self {
            suite,
            send: Sending {
                key: AeadKey::new(suite, &packet_key(&ours)),
                secret: ours,
                epoch: 0,
                epoch_began: now,
                epoch_packets: 0,
                // Number 0 is the request that a first flight may carry.
                next_number: 1,
                next_datagram: 0,
                skip_at: None,
                skip_span: FIRST_SKIP_SPAN,
                skipped: None,
            },
            receive: Receiving {
                key: AeadKey::new(suite, &packet_key(&theirs)),
                secret: theirs,
                epoch: 0,
                previous: None,
                next: None,
                window: Window::new(),
                datagrams: None,
            },
        }
    }

    /// Has the processor fetch what opening a packet needs: its own lines in the first step, in a second the window that
    /// they point to.
    pub(super) fn expect_opening(&self, step: usize) {
        match step {
            0 => hint::prefetch(&self.receive),
            _ => self.receive.datagrams.iter().for_each(|window| hint::prefetch(&**window)),
        }
    }

    /// Has the processor fetch what sealing a packet needs.
    pub(super) fn expect_sealing(&self) {
        hint::prefetch(&self.send);
    }

    /// The number that the next packet will have which is acknowledged.
    pub(super) fn next_number(&self) -> u64 {
        self.send.next_number
    }

    /// Leaves a number out now and then, where nobody can know: who acknowledges it acknowledges what never
    /// came (RFC 9000 §21.4).
    pub(super) fn skip_numbers(&mut self, rng: &mut Rng) {
        let send = &mut self.send;
        match send.skip_at {
            Some(at) if send.next_number < at => return,
            Some(_) => {
                send.skipped = Some(send.next_number);
                send.next_number += 1;
                send.skip_span = (2 * send.skip_span).min(NUMBERS_BETWEEN_SKIPS_MAX);
            }
            None => {}
        }
        send.skip_at = Some(send.next_number + 1 + rng.below(send.skip_span));
    }

    /// A number that was left out since this was last asked.
    pub(super) fn take_skipped(&mut self) -> Option<u64> {
        self.send.skipped.take()
    }

    /// Seals `packet[KIND_AT..]` where it lies and writes the header, unmasked. The packet has at least
    /// [`PACKET_OVERHEAD`] bytes. Returns its number and whether an epoch began with it.
    pub(super) fn seal(&mut self, now: Time, cid: u64, series: Series, packet: &mut [u8]) -> (u64, bool) {
        debug_assert!(packet.len() >= PACKET_OVERHEAD);
        let send = &mut self.send;
        let rekey = send.epoch_packets >= EPOCH_PACKETS_MAX
            || now.since(send.epoch_began) >= Duration::from_millis(EPOCH_AGE_MS_MAX);
        if rekey {
            send.secret = next_epoch(&send.secret);
            send.key = AeadKey::new(self.suite, &packet_key(&send.secret));
            send.epoch += 1;
            send.epoch_began = now;
            send.epoch_packets = 0;
        }
        let next = match series {
            Series::Stream => &mut send.next_number,
            Series::Datagram => &mut send.next_datagram,
        };
        let number = *next;
        *next += 1;
        send.epoch_packets += 1;
        let header = Header::new(cid, send.epoch, series, number).emit();
        let (head, rest) = packet.split_at_mut(KIND_AT);
        let (body, tag) = rest.split_at_mut(rest.len() - TAG_SIZE);
        head.copy_from_slice(&header);
        tag.copy_from_slice(&send.key.seal(nonce(series, number), &header, body));
        (number, rekey)
    }

    /// Opens `packet[KIND_AT..]` where it lies. Nothing changes unless it is authentic.
    pub(super) fn open(
        &mut self,
        now: Time,
        header: Header,
        aad: &[u8; HEADER_SIZE],
        packet: &mut [u8],
    ) -> Result<Opened, DropCause> {
        let receive = &mut self.receive;
        let series = header.series;
        let window = match series {
            Series::Stream => Some(&receive.window),
            Series::Datagram => receive.datagrams.as_deref(),
        };
        let number = expand_number(window.map_or(0, Window::next), header.number);
        if window.is_some_and(|window| !window.is_new(number)) {
            return Err(DropCause::Replayed);
        }
        let nonce = nonce(series, number);
        let body = packet.get_mut(KIND_AT..).ok_or(DropCause::Forged)?;
        let ahead = header.epoch.wrapping_sub(receive.epoch as u8) & 3;
        let opened = match ahead {
            0 => receive.key.open(nonce, aad, body).map(|_| ()),
            1 => {
                let secret = &receive.secret;
                let raw = receive.next.get_or_insert_with(|| packet_key(&next_epoch(secret)));
                let key = AeadKey::new(self.suite, raw);
                key.open(nonce, aad, body).map(|_| receive.follow(key, now))
            }
            3 => match &receive.previous {
                Some((raw, until)) if now < *until => {
                    AeadKey::new(self.suite, raw).open(nonce, aad, body).map(|_| ())
                }
                _ => return Err(DropCause::Forged),
            },
            _ => return Err(DropCause::Forged),
        };
        opened.map_err(|_| DropCause::Forged)?;
        let window = match series {
            Series::Stream => &mut receive.window,
            Series::Datagram => receive.datagrams.get_or_insert_with(|| Box::new(Window::new())),
        };
        let highest = window.insert(number);
        Ok(Opened { number, highest, rekeyed: ahead == 1 })
    }

    /// When a key of the epoch before must be erased.
    pub(super) fn erase_at(&self) -> Option<Time> {
        self.receive.previous.as_ref().map(|(_, until)| *until)
    }

    /// Erases it when that time has come.
    pub(super) fn erase(&mut self, now: Time) {
        self.receive.previous.take_if(|(_, until)| *until <= now);
    }

    /// Makes the next packet begin an epoch.
    #[cfg(test)]
    pub(super) fn force_rekey(&mut self) {
        self.send.epoch_packets = EPOCH_PACKETS_MAX;
    }
}

impl Receiving {
    /// Moves to the next epoch, whose expanded key is `key`; keeps the current one's for the grace.
    fn follow(&mut self, key: AeadKey, now: Time) {
        let grace = now + Duration::from_millis(EPOCH_GRACE_MS);
        self.previous = Some((packet_key(&self.secret), grace));
        self.secret = next_epoch(&self.secret);
        self.key = key;
        self.epoch += 1;
        self.next = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::REPLAY_WINDOW;
    use proptest::prelude::*;

    fn pair() -> (Lane, Lane) {
        let secret = Secret::from_bytes([7; 32]);
        let make = |initiator| Lane::new(&secret, 0, initiator, Suite::ChaCha20Poly1305, Time::ZERO);
        (make(true), make(false))
    }

    fn sealed(lane: &mut Lane, now: Time, content: &[u8]) -> Vec<u8> {
        let mut packet = vec![0; PACKET_OVERHEAD - 1];
        packet.splice(KIND_AT..KIND_AT, content.iter().copied());
        lane.seal(now, 99, Series::Stream, &mut packet);
        packet
    }

    fn datagram(lane: &mut Lane) -> Vec<u8> {
        let mut packet = vec![0; PACKET_OVERHEAD];
        lane.seal(Time::ZERO, 99, Series::Datagram, &mut packet);
        packet
    }

    fn open(lane: &mut Lane, now: Time, packet: &[u8]) -> Result<Vec<u8>, DropCause> {
        let mut packet = packet.to_vec();
        let aad = *packet.first_chunk().unwrap();
        lane.open(now, Header::parse(&aad), &aad, &mut packet)?;
        Ok(packet[KIND_AT..packet.len() - TAG_SIZE].to_vec())
    }

    proptest! {
        /// Whatever the order, losses, duplicates and rekeys: each packet is opened at most once, unaltered,
        /// and always when it is no older than the grace and the window allow.
        #[test]
        fn epochs_follow_through_loss_and_reordering(
            plan in prop::collection::vec((0u8..4, 0usize..12, 0u8..10), 1..150),
        ) {
            let (mut a, mut b) = pair();
            let mut flying: Vec<(u64, Vec<u8>)> = Vec::new();
            let (mut count, mut epoch, mut b_epoch) = (0u64, 0u64, 0u64);
            let mut opened = std::collections::BTreeSet::new();
            for (what, pick, rekey) in plan {
                // The receiver follows one epoch at a time, so a sender never gets two ahead of it here.
                if rekey == 0 && epoch == b_epoch {
                    a.force_rekey();
                    epoch += 1;
                }
                flying.push((epoch, sealed(&mut a, Time::ZERO, &count.to_le_bytes())));
                count += 1;
                if what == 0 || flying.is_empty() {
                    continue;
                }
                let at = pick % flying.len();
                let (its_epoch, packet) = if what == 1 { flying[at].clone() } else { flying.remove(at) };
                match open(&mut b, Time::ZERO, &packet) {
                    Ok(content) => {
                        let number = u64::from_le_bytes(content.try_into().unwrap());
                        prop_assert!(opened.insert(number), "opened twice");
                        b_epoch = b_epoch.max(its_epoch);
                    }
                    Err(DropCause::Replayed) => {
                        prop_assert!(what == 1 || !opened.is_empty());
                    }
                    Err(cause) => {
                        prop_assert!(its_epoch + 1 < b_epoch, "{cause:?} for epoch {its_epoch} at {b_epoch}");
                    }
                }
            }
        }
    }

    #[test]
    fn each_series_has_its_numbers_and_its_window_and_none_passes_for_the_other() {
        let (mut a, mut b) = pair();
        let first = a.next_number();
        let datagrams: Vec<_> = (0..3 * REPLAY_WINDOW).map(|_| datagram(&mut a)).collect();
        assert_eq!(a.next_number(), first, "tunnels leave no gaps among what is acknowledged");
        let late = sealed(&mut a, Time::ZERO, b"late");
        for packet in &datagrams {
            assert!(open(&mut b, Time::ZERO, packet).is_ok());
        }
        assert_eq!(open(&mut b, Time::ZERO, &late), Ok(b"late".to_vec()), "its window stayed where it was");
        assert_eq!(open(&mut b, Time::ZERO, datagrams.last().unwrap()), Err(DropCause::Replayed));
        let mut moved = datagram(&mut a);
        moved[HEADER_SIZE - 1] ^= 0x20;
        assert_eq!(open(&mut b, Time::ZERO, &moved), Err(DropCause::Forged));
    }

    #[test]
    fn a_forged_next_epoch_changes_nothing() {
        let (mut a, mut b) = pair();
        let early = sealed(&mut a, Time::ZERO, b"early");
        let mut forged = early.clone();
        forged[HEADER_SIZE - 1] ^= 0x40;
        assert_eq!(open(&mut b, Time::ZERO, &forged), Err(DropCause::Forged));
        assert_eq!(b.receive.epoch, 0);
        assert_eq!(b.receive.window.next(), 0);
        assert_eq!(open(&mut b, Time::ZERO, &early), Ok(b"early".to_vec()));
    }

    #[test]
    fn keys_change_by_age_and_old_ones_are_erased_after_the_grace() {
        let (mut a, mut b) = pair();
        let late = sealed(&mut a, Time::ZERO, b"late");
        let later = sealed(&mut a, Time::ZERO, b"later");
        let now = Time::from_millis(EPOCH_AGE_MS_MAX);
        let fresh = sealed(&mut a, now, b"fresh");
        assert_eq!((a.send.epoch, Header::parse(fresh.first_chunk().unwrap()).epoch), (1, 1));
        assert_eq!(open(&mut b, now, &fresh), Ok(b"fresh".to_vec()));
        assert_eq!(open(&mut b, now, &late), Ok(b"late".to_vec()));
        let end = b.erase_at().unwrap();
        assert_eq!(end, now + Duration::from_millis(EPOCH_GRACE_MS));
        assert_eq!(open(&mut b, end, &later), Err(DropCause::Forged));
        b.erase(end);
        assert!(b.receive.previous.is_none());
    }

    #[test]
    fn keys_change_by_count() {
        let (mut a, mut b) = pair();
        for round in 1..=9u64 {
            a.force_rekey();
            let packet = sealed(&mut a, Time::ZERO, b"x");
            assert_eq!(a.send.epoch_packets, 1);
            assert!(open(&mut b, Time::ZERO, &packet).is_ok());
            assert_eq!((a.send.epoch, b.receive.epoch), (round, round));
        }
    }

    #[test]
    fn directions_and_lanes_have_keys_of_their_own() {
        let (mut a, mut b) = pair();
        let packet = sealed(&mut a, Time::ZERO, b"x");
        assert_eq!(open(&mut a, Time::ZERO, &packet), Err(DropCause::Forged));
        let secret = Secret::from_bytes([7; 32]);
        let mut other = Lane::new(&secret, 1, false, Suite::ChaCha20Poly1305, Time::ZERO);
        assert_eq!(open(&mut other, Time::ZERO, &packet), Err(DropCause::Forged));
        assert!(open(&mut b, Time::ZERO, &packet).is_ok());
    }
}
