//! Direct tunnels between friends (docs/protocol/tunnel.md): which friend an address belongs to, superpackets of a TUN
//! device cut into packets, and packets joined into superpackets; other
//! addresses put into packets of circuits ([`readdress`]), which [`flow`] a packet is of, and datagrams of a node without a
//! socket ([`datagrams`]). Pure; sessions and trains are the composer's.
//!
//! Out: a packet of the device → [`routes`] (to whom) → [`segment`] (into a send buffer, one copy, segment by segment;
//! sealed there). In: an opened packet → [`routes`] (may it come from there) → [`coalesce`] (into a send buffer, one
//! copy, joined with those before it) → the device.

pub mod coalesce;
pub mod datagrams;
pub mod flow;
pub mod quoted;
pub mod readdress;
pub mod routes;
pub mod segment;

#[cfg(test)]
mod tests;

pub use coalesce::Coalescer;
pub use routes::{Routes, Taken};
pub use segment::{Cut, Unfit};
