//! Services: requests in, effects out. Pure; the node connects them to streams, stores and files.
//!
//! * [`serve`] answers chunk requests from what is stored here.
//! * [`fetch`] gets slices of chunks from peers, verified.
//! * [`get`] restores a tree from a reference into files, through `fetch`.
//! * [`intents`] says what this node means to do, hears it of others, and judges who may have it stay.
//! * [`keep`] keeps chunks for others, and [`push`] has others keep ours.
//! * [`put`] makes a reference from a tree.
//! * [`proxy`] is a TCP/IP host whose packets go through a circuit.

pub mod fetch;
pub mod get;
pub mod intents;
pub mod keep;
pub mod proxy;
pub mod push;
pub mod put;
pub mod serve;

/// A connected peer, as services name it: given by the node, never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId(pub u64);
