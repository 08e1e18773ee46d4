//! What decides how much may be in flight. The connection counts bytes and finds losses; a controller
//! turns that into a window. Everything is in bytes of UDP payload.

use std::time::Duration;

use super::rtt::Rtt;
use crate::base::Time;

/// What one acknowledgement brought.
#[derive(Debug, Clone, Copy)]
pub struct Acked<'a> {
    /// Now.
    pub now: Time,
    /// Bytes that it newly acknowledged and that counted as in flight.
    pub bytes: u64,
    /// The largest packet number that it newly acknowledged.
    pub largest: u64,
    /// When that packet left.
    pub sent: Time,
    /// The number that the next packet will have at least: marks the end of a round.
    pub next: u64,
    /// Whether the window (not the application, nor the driver) limited sending in the last round trip.
    pub limited: bool,
    /// The round trip that it measured, if it did.
    pub sample: Option<Duration>,
    /// The estimator, already updated.
    pub rtt: &'a Rtt,
    /// Bytes in flight before it came.
    pub in_flight: u64,
}

/// Why the network is thought to be congested.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// A packet was lost.
    Loss,
    /// A router marked a packet (ECN).
    Marked,
    /// All packets over a long time were lost (RFC 9002 §7.6).
    Persistent,
}

/// Decides the congestion window of one path. Pure: time comes as an argument.
pub trait Controller: std::fmt::Debug + Send {
    /// Packets were acknowledged.
    fn on_acked(&mut self, acked: &Acked<'_>);

    /// The network is congested; `sent` is when the last affected packet left. Returns whether this was
    /// a new event (true) or belongs to one that was already answered.
    fn on_congestion(&mut self, now: Time, sent: Time, signal: Signal) -> bool;

    /// Every loss of the last event turned out to be reordering: undo it.
    fn on_spurious(&mut self);

    /// Full packets have this size now.
    fn on_packet_size(&mut self, bytes: u64);

    /// Bytes that may be in flight.
    fn window(&self) -> u64;

    /// Whether the window doubles each round: pacing leaves room for that.
    fn in_slow_start(&self) -> bool;

    /// The rate to pace at, bytes per second, when the controller wants its own; `None` derives it from
    /// window and round trip.
    fn pacing_rate(&self) -> Option<u64> {
        None
    }

    /// A new one of the same kind for a new path.
    fn fresh(&self) -> Box<dyn Controller>;
}

/// RFC 6928: what may be sent before anything is known.
pub fn initial_window(packet: u64) -> u64 {
    (10 * packet).min(14_720.max(2 * packet))
}

/// RFC 9002 §7.2.
pub fn minimum_window(packet: u64) -> u64 {
    2 * packet
}
