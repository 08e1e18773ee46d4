//! One hop's layer in one direction: sealing and opening records where they lie (docs/protocol/onion.md §5).
//!
//! A record is `body | tag 16 | sequence 8`. The sequence's highest byte is the epoch; the rest is the number, which
//! begins at random in each epoch and is the nonce.

use std::time::Duration;

use super::keys::EpochSecret;
use crate::base::{Time, Window};
use crate::crypto::{AeadKey, Secret, Suite};
use crate::limits::{
    CELL_EPOCH_CELLS_JITTER, CELL_EPOCH_CELLS_MIN, CELL_EPOCH_MS_JITTER, CELL_EPOCH_MS_MIN, CELL_GRACE_MS,
    LAYER_OVERHEAD,
};
use crate::wire::cell::Class;

/// Which way a cell goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Direction {
    /// From the origin.
    Forward = 0,
    /// To the origin.
    Backward = 1,
}

/// Why a record was not opened. Its bytes may be garbage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OpenFault {
    /// It was opened before.
    Duplicate,
    /// It is of an epoch that is over or too far ahead, or lies behind the window: nobody can tell any more.
    Late,
    /// It is not what the other end of the layer sealed.
    Forged,
}

const EPOCH_AT: u32 = 56;
const NUMBER_MASK: u64 = (1 << EPOCH_AT) - 1;

/// Circuit and hop are bound by the key, which is theirs alone; their numbers on the wire change from link to link.
fn associated(direction: Direction, class: Class) -> [u8; 2] {
    [direction as u8, class as u8]
}

fn nonce(sequence: u64) -> [u8; 12] {
    let mut out = [0; 12];
    out[..8].copy_from_slice(&sequence.to_le_bytes());
    out
}

/// The side that adds the layer.
pub(super) struct Sealing {
    direction: Direction,
    suite: Suite,
    secret: EpochSecret,
    key: AeadKey,
    epoch: u64,
    first: u64,
    next: u64,
    /// Cells after which the epoch ends.
    cells_max: u64,
    /// When it ends at the latest.
    until: Time,
}

impl Sealing {
    pub(super) fn new(now: Time, direction: Direction, suite: Suite, secret: EpochSecret) -> Self {
        let (first, lots) = secret.numbers();
        let (cells_max, until) = epoch_end(now, lots);
        let key = AeadKey::new(suite, &secret.key());
        Self { direction, suite, secret, key, epoch: 0, first, next: first, cells_max, until }
    }

    /// Seals `record` but for its last 24 bytes, and writes tag and sequence there.
    pub(super) fn seal(&mut self, now: Time, class: Class, record: &mut [u8]) {
        if self.next - self.first >= self.cells_max || now >= self.until {
            self.begin_epoch(now);
        }
        let sequence = (self.epoch << EPOCH_AT) | self.next;
        self.next += 1;
        let (body, trailer) = record.split_at_mut(record.len() - LAYER_OVERHEAD);
        let tag = self.key.seal(nonce(sequence), &associated(self.direction, class), body);
        trailer[..16].copy_from_slice(&tag);
        trailer[16..].copy_from_slice(&sequence.to_le_bytes());
    }

    #[cold]
    fn begin_epoch(&mut self, now: Time) {
        self.secret = self.secret.next();
        self.key = AeadKey::new(self.suite, &self.secret.key());
        let (first, lots) = self.secret.numbers();
        (self.cells_max, self.until) = epoch_end(now, lots);
        (self.first, self.next) = (first, first);
        self.epoch = (self.epoch + 1) & 0xff;
    }

    /// Ends the epoch with the next cell.
    #[cfg(test)]
    pub(super) fn end_epoch(&mut self) {
        self.until = Time::ZERO;
    }
}

/// No two hops of a circuit change together: that would tell those that work together that it is one circuit.
fn epoch_end(now: Time, lots: u64) -> (u64, Time) {
    let (cells, ms) = (lots & 0xffff_ffff, lots >> 32);
    let ms = CELL_EPOCH_MS_MIN + ((ms * CELL_EPOCH_MS_JITTER) >> 32);
    let cells = CELL_EPOCH_CELLS_MIN + ((cells * CELL_EPOCH_CELLS_JITTER) >> 32);
    (cells, now + Duration::from_millis(ms))
}

/// The side that takes the layer off.
pub(super) struct Opening {
    direction: Direction,
    suite: Suite,
    secret: EpochSecret,
    key: AeadKey,
    epoch: u8,
    first: u64,
    window: Window,
    /// The epoch before, whose key is kept raw: few cells are late.
    previous: Option<Box<Previous>>,
}

struct Previous {
    key: Secret,
    first: u64,
    window: Window,
    until: Time,
}

impl Opening {
    pub(super) fn new(direction: Direction, suite: Suite, secret: EpochSecret) -> Self {
        let (first, _) = secret.numbers();
        let key = AeadKey::new(suite, &secret.key());
        Self { direction, suite, secret, key, epoch: 0, first, window: Window::new(), previous: None }
    }

    /// Opens a record where it lies. Only what was sealed for this layer, direction and class, and was not opened
    /// before, opens.
    pub(super) fn open(&mut self, now: Time, class: Class, record: &mut [u8]) -> Result<(), OpenFault> {
        let (body_and_tag, sequence) = record.split_at_mut(record.len() - 8);
        let sequence = u64::from_le_bytes((&*sequence).try_into().expect("eight bytes"));
        let (epoch, number) = ((sequence >> EPOCH_AT) as u8, sequence & NUMBER_MASK);
        let (nonce, associated) = (nonce(sequence), associated(self.direction, class));
        match epoch.wrapping_sub(self.epoch) {
            0 => {
                let number = fresh(&self.window, self.first, number)?;
                self.key.open(nonce, &associated, body_and_tag).map_err(|_| OpenFault::Forged)?;
                self.window.insert(number);
                Ok(())
            }
            255 => {
                let previous = self.previous.as_mut().filter(|p| now < p.until).ok_or(OpenFault::Late)?;
                let number = fresh(&previous.window, previous.first, number)?;
                let key = AeadKey::new(self.suite, &previous.key);
                key.open(nonce, &associated, body_and_tag).map_err(|_| OpenFault::Forged)?;
                previous.window.insert(number);
                Ok(())
            }
            1 => self.open_next(now, nonce, &associated, number, body_and_tag),
            _ => Err(OpenFault::Late),
        }
    }

    /// Whoever names the next epoch must have sealed with its key, or the circuit ends: one derivation per forgery.
    #[cold]
    fn open_next(
        &mut self,
        now: Time,
        nonce: [u8; 12],
        associated: &[u8],
        number: u64,
        body_and_tag: &mut [u8],
    ) -> Result<(), OpenFault> {
        let secret = self.secret.next();
        let (first, _) = secret.numbers();
        let mut window = Window::new();
        let number = fresh(&window, first, number)?;
        let key = AeadKey::new(self.suite, &secret.key());
        key.open(nonce, associated, body_and_tag).map_err(|_| OpenFault::Forged)?;
        window.insert(number);
        let until = now + Duration::from_millis(CELL_GRACE_MS);
        let before = std::mem::replace(&mut self.window, window);
        let raw = self.secret.key();
        self.previous = Some(Box::new(Previous { key: raw, first: self.first, window: before, until }));
        (self.secret, self.key, self.first) = (secret, key, first);
        self.epoch = self.epoch.wrapping_add(1);
        Ok(())
    }

    /// Erases the key of the epoch before once its grace is over; returns when to ask again.
    pub(super) fn forget(&mut self, now: Time) -> Option<Time> {
        self.previous.take_if(|previous| previous.until <= now);
        self.previous.as_ref().map(|previous| previous.until)
    }
}

/// The number within its epoch, if it may still be opened. What lies before the first is of nobody.
fn fresh(window: &Window, first: u64, number: u64) -> Result<u64, OpenFault> {
    let number = number.checked_sub(first).ok_or(OpenFault::Late)?;
    if window.is_new(number) {
        return Ok(number);
    }
    let behind = window.next() - number > crate::limits::REPLAY_WINDOW;
    Err(if behind { OpenFault::Late } else { OpenFault::Duplicate })
}
