//! The shaper core: which peer may send how many bytes now, exactly, for a few thousand peers and for a hundred thousand
//! at the same cost. The data structures, what else was considered, and what was measured are in `docs/shaping.md`.
//!
//! Stream bytes wait nowhere: they are read when a packet is made. So the [`Shaper`] holds no packets; it answers who may
//! send, and each peer's one node on its timing wheel says when to look at that peer again. What does wait, packets of
//! tunnels and cells of circuits, lies in [`Queues`], from which a grant is served as from a stream.
//!
//! # How to drive it
//! ```text
//! ready(peer, class)                 whenever a peer has something to send
//! while let Some(grant) = next(now)  make packets of at most grant.bytes on the wire, then settle(grant, bytes, more)
//! poll_timeout                       when to ask again
//! limit, reserve, set_node           at any time; they hold from the next grant on
//! ```

mod admission;
mod bucket;
mod calendar;
mod codel;
mod exchange;
mod flows;
mod histogram;
mod lease;
mod line;
mod links;
mod loans;
mod peer;
mod place;
mod plan;
mod queues;
mod shaper;
#[cfg(test)]
mod tests;
mod types;
mod wheel;

pub use admission::{Admission, Refused};
pub use bucket::Bucket;
pub use codel::Codel;
pub use exchange::{Demand, Exchange, Tokens};
pub use histogram::Histogram;
pub use line::Line;
pub use plan::{Asked, NodeLimits, PeerLimits, Plan, Spent, Window};
pub use queues::{QueueStats, Queues};
pub use shaper::Shaper;
pub use types::{CLASSES, Class, ClassStats, Grant, Limits, PeerStats, Reservation, Slot};
