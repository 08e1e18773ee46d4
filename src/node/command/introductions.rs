//! What a node is told, and shows, of nodes that friends introduce.

use std::net::SocketAddr;

use crate::base::PublicKey;
use crate::crypto::IdentityCard;

/// Who hears of whom through friends.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IntroductionRules {
    /// Sessions are had with friends alone: nobody else gets an answer, is called, or hears of this node.
    pub only: bool,
    /// How many hands farther than to its friends this node agrees to be introduced: 0 to
    /// [`crate::limits::INTRODUCTION_HANDS_MAX`].
    pub hands: u8,
    /// With how many offered nodes to keep sessions; at most [`crate::limits::ACQUAINTANCES_MAX`].
    pub adopt: usize,
    /// Where others reach this node, best first.
    pub addresses: Vec<SocketAddr>,
}

/// What friends told of other nodes, to be shown.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IntroductionSnapshot {
    /// Friends' friends.
    pub once: u64,
    /// Those one hand farther.
    pub twice: u64,
    /// Of all of them, those with which sessions are to be kept.
    pub acquaintances: u64,
    /// Those that are worth most, at most [`crate::limits::OFFERS_SHOWN_MAX`].
    pub offers: Vec<OfferSnapshot>,
}

/// A node that friends introduced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OfferSnapshot {
    /// Who.
    pub card: IdentityCard,
    /// Where, in its own word.
    pub addresses: Vec<SocketAddr>,
    /// 1: a friend's friend; 2: one hand farther.
    pub hand: u8,
    /// What the best word of a friend is worth.
    pub trust: u8,
    /// Which friends told of it, those first whose word is worth most.
    pub by: Vec<PublicKey>,
    /// Whether a session with it is to be kept.
    pub is_acquaintance: bool,
}
