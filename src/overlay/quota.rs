//! How many questions each peer may ask: a bucket of tokens each, bounded in number. Strangers of one site share one, and
//! have a table of their own, so that no crowd of them takes the places of those who are known.

use std::collections::BTreeMap;

use super::site::Site;
use crate::base::{Budget, NodeId, Time};
use crate::limits::{REQUESTERS_MAX, REQUESTS_PER_PEER_BURST, REQUESTS_PER_PEER_PER_SECOND};

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Asker {
    /// A peer that answered us, or with which there is an account.
    Known(NodeId),
    /// A stranger in a network that is closed, or behind a relay.
    Stranger(NodeId),
    /// Any stranger of a site.
    Site(Site),
}

/// Who asked lately; about 60 bytes each.
#[derive(Debug, Clone, Default)]
pub struct Quota {
    known: BTreeMap<Asker, Budget>,
    strangers: BTreeMap<Asker, Budget>,
}

impl Quota {
    /// Whether it may ask now what costs so much, 1 or more.
    pub fn take(&mut self, asker: Asker, cost: u32, now: Time) -> bool {
        let is_known = matches!(asker, Asker::Known(_));
        let budgets = if is_known { &mut self.known } else { &mut self.strangers };
        let mut first = Budget::new(now, 0);
        if !budgets.contains_key(&asker) && budgets.len() >= REQUESTERS_MAX {
            // Whose budget is full again is as good as unknown.
            let full = u64::from(REQUESTS_PER_PEER_BURST / REQUESTS_PER_PEER_PER_SECOND) * 1_000_000_000;
            budgets.retain(|_, budget| now.0 < budget.since().0.saturating_add(full));
            if budgets.len() >= REQUESTERS_MAX {
                // So many sites at once are a flood. Whoever was silent longest goes, and little is given to whoever
                // comes, lest one asks more by being forgotten.
                let oldest = budgets.iter().min_by_key(|(_, budget)| budget.since()).map(|(asker, _)| *asker);
                if let Some(oldest) = oldest {
                    budgets.remove(&oldest);
                }
                first = Budget::new(now, REQUESTS_PER_PEER_BURST - 4);
            }
        }
        let budget = budgets.entry(asker).or_insert(first);
        budget.take(cost, REQUESTS_PER_PEER_PER_SECOND, REQUESTS_PER_PEER_BURST, now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::overlay::types::ms;

    fn id(n: u64) -> NodeId {
        let mut id = [0; 20];
        id[..8].copy_from_slice(&n.to_le_bytes());
        NodeId(id)
    }

    #[test]
    fn a_peer_asks_so_much_and_no_more_and_many_peers_are_bounded() {
        let (mut quota, one) = (Quota::default(), Asker::Known(id(1)));
        let mut asked = (0..1000).filter(|_| quota.take(one, 1, Time::ZERO)).count();
        assert_eq!(asked, REQUESTS_PER_PEER_BURST as usize);
        let later = Time::ZERO + ms(1_000);
        asked = (0..1000).filter(|_| quota.take(one, 1, later)).count();
        assert_eq!(asked, REQUESTS_PER_PEER_PER_SECOND as usize);
        for n in 0..2 * REQUESTERS_MAX as u64 {
            quota.take(Asker::Stranger(id(n)), 1, later);
        }
        assert!(quota.strangers.len() <= REQUESTERS_MAX);
        assert!(quota.take(one, 1, later + ms(10_000)), "time makes room");
    }

    #[test]
    fn a_table_full_of_strangers_keeps_nobody_out() {
        let mut quota = Quota::default();
        for n in 0..2 * REQUESTERS_MAX as u64 {
            assert!(quota.take(Asker::Stranger(id(n)), 1, Time::ZERO), "the next stranger, too");
        }
        for n in 0..100 {
            assert!(quota.take(Asker::Known(id(n)), 1, Time::ZERO));
        }
        let again = (0..100).filter(|_| quota.take(Asker::Stranger(id(1 << 40)), 1, Time::ZERO)).count();
        assert!(again <= 4, "but it asks little: {again}");
    }
}
