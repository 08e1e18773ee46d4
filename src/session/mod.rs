//! The encrypted association with peers: handshake, demultiplexing, header masks, AEAD, replay, epochs,
//! paths, cookies, keepalive, close. Knows nothing of streams: it opens a packet where it lies and says
//! its kind and range, and it seals a payload that the caller wrote (docs/protocol/session.md).
//!
//! A packet's way in: [`sessions`] unmasks the header and looks the connection id up → [`lane`] picks the
//! epoch's key, asks the replay window, opens → [`path`] when the address is new → the caller, or [`control`].
//! A first flight's way in: [`disguise`] → [`gate`] (load, cookies, prefixes) → [`seen`] → [`noise`] →
//! [`accept`]. Its way out: [`initiate`], with [`pending`] keeping the attempts. What crosses between the shards of
//! a node: [`shards`], [`lanes`] for the further lanes of a session, [`circuits`]
//! and [`overlay`] for what it only carries.

mod accept;
mod association;
mod circuits;
mod control;
mod disguise;
mod door;
#[cfg(any(test, feature = "sim"))]
pub mod forge;
mod gate;
mod home;
mod initiate;
mod intents;
mod introduce;
mod knock;
mod lane;
mod lanes;
mod meet;
mod moves;
mod noise;
mod overlay;
mod path;
mod peers;
mod pending;
mod punch;
mod seen;
mod sessions;
mod shards;
mod slab;
mod timers;
mod token;
mod types;

#[cfg(test)]
mod tests;

pub use crate::wire::control::CloseCode;
pub use crate::wire::packet::PacketKind;
pub use circuits::{CircuitCross, NotOpened};
pub use intents::IntentCross;
pub use introduce::IntroduceCross;
pub use lanes::Seat;
pub use meet::MeetCross;
pub use overlay::OverlayCross;
pub use sessions::Sessions;
pub use shards::{Cross, Homes, Offer};
pub use types::{
    ClosedWhy, Config, ConnectError, Counters, DropCause, Event, FailedWhy, Received, SealError, SessionKey,
};
