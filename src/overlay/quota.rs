//! How many questions each peer may ask: a bucket of tokens each, bounded in number.

use std::collections::BTreeMap;

use crate::base::{NodeId, Time};
use crate::limits::{REQUESTERS_MAX, REQUESTS_PER_PEER_BURST, REQUESTS_PER_PEER_PER_SECOND};

/// Who asked lately; about 50 bytes each.
#[derive(Debug, Clone, Default)]
pub struct Quota {
    peers: BTreeMap<NodeId, (u32, Time)>,
}

impl Quota {
    /// Whether a peer may ask now.
    pub fn take(&mut self, id: &NodeId, now: Time) -> bool {
        if !self.peers.contains_key(id) && self.peers.len() >= REQUESTERS_MAX {
            // Whose bucket is full again is as good as unknown.
            let full = u64::from(REQUESTS_PER_PEER_BURST / REQUESTS_PER_PEER_PER_SECOND) * 1_000_000_000;
            self.peers.retain(|_, (_, since)| now.0 < since.0.saturating_add(full));
            if self.peers.len() >= REQUESTERS_MAX {
                return false;
            }
        }
        let (tokens, since) = self.peers.entry(*id).or_insert((REQUESTS_PER_PEER_BURST, now));
        let step = 1_000_000_000 / u64::from(REQUESTS_PER_PEER_PER_SECOND);
        let steps = now.0.saturating_sub(since.0) / step;
        *tokens = u32::try_from(u64::from(*tokens) + steps).unwrap_or(u32::MAX).min(REQUESTS_PER_PEER_BURST);
        *since = Time(since.0 + steps * step);
        *tokens > 0 && {
            *tokens -= 1;
            true
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::overlay::types::ms;

    #[test]
    fn a_peer_asks_so_much_and_no_more_and_many_peers_are_bounded() {
        let (mut quota, one) = (Quota::default(), NodeId([1; 20]));
        let mut asked = (0..1000).filter(|_| quota.take(&one, Time::ZERO)).count();
        assert_eq!(asked, REQUESTS_PER_PEER_BURST as usize);
        let later = Time::ZERO + ms(1_000);
        asked = (0..1000).filter(|_| quota.take(&one, later)).count();
        assert_eq!(asked, REQUESTS_PER_PEER_PER_SECOND as usize);
        for n in 0..2 * REQUESTERS_MAX as u64 {
            let mut id = [0; 20];
            id[..8].copy_from_slice(&n.to_le_bytes());
            quota.take(&NodeId(id), later);
        }
        assert!(quota.peers.len() <= REQUESTERS_MAX);
        assert!(quota.take(&one, later + ms(10_000)), "time makes room");
    }
}
