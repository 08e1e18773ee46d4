//! Fuzzing: what hostile bytes may do, one function per target (docs/testing/fuzzing.md).
//!
//! A target takes any bytes and panics when a property fails. It is deterministic: what looks random comes
//! from the bytes. Decoders take them as they are; state machines read them as a script ([`Input`]), so that a
//! fuzzer can bend one step and keep the others.
//!
//! The fuzzer (`fuzz/`), the replay of the corpora (`tests/corpus.rs`) and nothing else call the table below.
//! Targets of files lie in `io::fuzzing`, since the simulator sees no files.

mod circuits;
mod config;
mod content;
mod endpoint;
mod fetching;
mod frames;
mod getting;
mod input;
mod keeping;
mod messages;
mod node_overlay;
mod node_peer;
mod overlay;
mod packets;
mod proxy;
mod seeds;
mod serving;
mod sessions;
mod stranger;
mod stream_pair;
mod stream_peer;
mod text;
mod trees;

pub use input::Input;
pub use seeds::{Seeds, seeds};

/// A target: its name, and what is done with the bytes.
pub type Target = (&'static str, fn(&[u8]));

/// Every target but those of files. `cargo xtask tidy` wants one for each file of `src/wire`, by its name.
pub const TARGETS: &[Target] = &[
    // Decoders.
    ("base32", text::base32),
    ("bridge", text::bridge),
    ("build", circuits::build),
    ("cell", circuits::cell),
    ("chunkmsg", messages::chunkmsg),
    ("control", messages::control),
    ("directory", content::directory),
    ("dns", proxy::dns),
    ("extents", content::extents),
    ("frame", frames::frame),
    ("handshake", messages::handshake),
    ("hello", messages::hello),
    ("intent", messages::intent),
    ("introduction", messages::introduction),
    ("invite", text::invite),
    ("ip", packets::ip),
    ("keep", keeping::message),
    ("locator", messages::locator),
    ("overlay", messages::overlay),
    ("packet", messages::packet),
    ("punch", messages::punch),
    ("reference", text::reference),
    ("relay", circuits::card),
    ("reserve", messages::reserve),
    ("socks", proxy::socks),
    ("stun", messages::stun),
    ("varint", frames::varint),
    ("lookup", content::lookup),
    ("seal", content::seal),
    ("slices", content::slices),
    ("config", config::document),
    ("keyfile", config::keyfile),
    // State machines.
    ("session_stranger", stranger::stranger),
    ("session_peer", sessions::peer),
    ("session_pair", sessions::pair),
    ("stream_peer", stream_peer::peer),
    ("stream_pair", stream_pair::pair),
    ("serve", serving::serve),
    ("fetch", fetching::fetch),
    ("keeper", keeping::keeper),
    ("giver", keeping::giver),
    ("get", getting::get),
    ("node_overlay", node_overlay::peer),
    ("node_peer", node_peer::peer),
    ("onion_origin", circuits::origin),
    ("onion_relay", circuits::relay),
    ("overlay_peer", overlay::peer_of_overlay),
    ("proxy_stack", proxy::stack),
    ("tunnel", packets::tunnel),
];
