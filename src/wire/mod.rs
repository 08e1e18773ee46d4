//! One file per message: field offsets, a checked view or struct, `parse` and `emit`, a round-trip
//! property test. After a successful parse no accessor can fail. Integers are little-endian.

pub mod base32;
pub mod bridge;
pub mod build;
pub mod cell;
pub mod chunkmsg;
pub mod control;
pub mod directory;
pub mod dns;
pub mod extents;
pub mod frame;
pub mod handshake;
pub mod hello;
pub mod intent;
pub mod introduction;
pub mod invite;
pub mod ip;
pub mod keep;
pub mod locator;
pub mod overlay;
pub mod packet;
pub mod punch;
pub mod reference;
pub mod relay;
pub mod reserve;
pub mod socks;
pub mod stun;
pub mod varint;

/// Bytes that are not the message that they should be. Says which part, for the log; peers that send
/// such bytes are closed with `docs/protocol/session.md` §7's *malformed*.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed {0}")]
pub struct Malformed(pub &'static str);
