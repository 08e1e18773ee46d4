//! What the shaper keeps of one peer: a cache line that every decision reads, and beside it what only some need.

use super::bucket::Bucket;
use super::types::{Class, Limits, Reservation};
use crate::base::Time;
use crate::base::budget::Short;
use crate::limits::WEIGHT_USUAL;

/// The classes that are served by rings, and what each ring's turn is worth: background is kept alive, no more.
pub(super) const RINGS: [(Class, i64); 3] =
    [(Class::Friend, 16), (Class::Market, 16), (Class::Background, 1)];
/// No ring.
pub(super) const NO_RING: u8 = RINGS.len() as u8;
/// Everything but control.
pub(super) const DATA: u8 = !(1 << Class::Control as u8);

/// What every decision about a peer reads and writes: one cache line.
#[derive(Debug, Clone)]
#[repr(align(64))]
pub(super) struct Peer {
    pub(super) cap: Bucket,
    /// When what it waits with came, control apart; the delay is counted from there.
    pub(super) since: Time,
    /// Bytes on the wire so far.
    pub(super) sent: u64,
    /// Bytes that it may still send in its ring's turn; below zero when it sent more.
    pub(super) deficit: i32,
    /// When control came that waits, microseconds, truncated: it comes and goes while data wait.
    pub(super) control_since: u32,
    pub(super) weight: u16,
    /// Classes in which it has something to send, by bit.
    pub(super) waiting: u8,
    /// Classes whose delay is being measured.
    pub(super) fresh: u8,
    /// The ring that it is in; [`NO_RING`] for none.
    pub(super) ring: u8,
    pub(super) base: u8,
    pub(super) flags: u8,
}

/// The cap ran empty and is not back at a quantum.
pub(super) const DRY: u8 = 1;
/// In the deadlines' calendar.
pub(super) const DUE: u8 = 1 << 1;
/// In the ring of floors.
pub(super) const OWED: u8 = 1 << 2;
/// Has a floor or a reservation.
pub(super) const SPECIAL: u8 = 1 << 3;
pub(super) const FLOOR_DRY: u8 = 1 << 4;
pub(super) const RESERVE_DRY: u8 = 1 << 5;
/// The slot is taken.
pub(super) const ALIVE: u8 = 1 << 6;
/// It lent last, and has sent nothing since.
pub(super) const LENT: u8 = 1 << 7;

/// What only peers with a floor or a reservation need, and the figures. The first cache line is what is read when one of
/// them is served.
#[derive(Debug, Clone)]
#[repr(C, align(64))]
pub(super) struct Extra {
    pub(super) floor: Bucket,
    pub(super) reserve: Bucket,
    pub(super) reservation: Option<Reservation>,
    /// Bytes above the reservation in its class.
    pub(super) overuse: u64,
    pub(super) limits: Limits,
    /// It has nothing of its own but what another place lends it.
    pub(super) borrows: bool,
    /// What it has run out of and asks for.
    pub(super) short: Short,
}

impl Peer {
    pub(super) fn new() -> Self {
        Self {
            cap: Bucket::UNLIMITED,
            since: Time::ZERO,
            sent: 0,
            deficit: 0,
            control_since: 0,
            weight: WEIGHT_USUAL,
            waiting: 0,
            fresh: 0,
            ring: NO_RING,
            base: Class::Market as u8,
            flags: 0,
        }
    }
}

impl Extra {
    pub(super) fn new() -> Self {
        Self {
            floor: Bucket::NOTHING,
            reserve: Bucket::NOTHING,
            reservation: None,
            overuse: 0,
            limits: Limits::default(),
            borrows: false,
            short: Short::default(),
        }
    }
}

const _: () = assert!(size_of::<Peer>() == 64, "one cache line");
const _: () =
    assert!(size_of::<Extra>() == 192 && 2 * size_of::<Bucket>() == 64, "three, the buckets in the first");
