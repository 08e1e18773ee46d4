//! Local ports of the proxy's flows: drawn at random, so that nobody guesses them (RFC 6056).

use std::collections::BTreeSet;

use crate::base::Rng;
use crate::limits::{SOCKS_PORT_FIRST, SOCKS_PORT_LAST};

/// Draws before it is given up: at most a quarter of the ports is ever taken.
const DRAWS: usize = 64;

/// Those that are taken.
#[derive(Debug)]
pub struct Ports {
    taken: BTreeSet<u16>,
    rng: Rng,
}

impl Ports {
    /// None is.
    pub fn new(rng: Rng) -> Self {
        Self { taken: BTreeSet::new(), rng }
    }

    /// Takes one.
    pub fn take(&mut self) -> Option<u16> {
        let count = u64::from(SOCKS_PORT_LAST - SOCKS_PORT_FIRST) + 1;
        let port = (0..DRAWS)
            .map(|_| SOCKS_PORT_FIRST + self.rng.below(count) as u16)
            .find(|port| !self.taken.contains(port))?;
        self.taken.insert(port);
        Some(port)
    }

    /// Gives one back.
    pub fn give(&mut self, port: u16) {
        self.taken.remove(&port);
    }

    /// A number that nobody guesses.
    pub fn number(&mut self) -> u16 {
        self.rng.below(1 << 16) as u16
    }
}
