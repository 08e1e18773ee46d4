//! What peers may ask of this node beyond small answers: lookups that it makes for them, paid by their standing.

use std::collections::BTreeMap;

use super::types::{Standing, ms};
use crate::base::{NodeId, Time};
use crate::limits::{DELEGATED_FREE_MS, DELEGATED_PRICE, STANDINGS_MAX};

#[derive(Debug, Clone, Copy, Default)]
struct Account {
    standing: Standing,
    /// What delegated lookups took of it.
    spent: u64,
}

impl Account {
    fn credit(&self) -> u64 {
        self.standing.contributed.saturating_add(self.standing.paid).saturating_sub(self.spent)
    }
}

/// How a delegated lookup is taken on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Price {
    /// Its asker's standing pays.
    Paid,
    /// For nothing, as far as there is room for such.
    Free,
}

/// Accounts by peer, bounded; about 90 bytes each.
#[derive(Debug, Clone, Default)]
pub struct Accounts {
    accounts: BTreeMap<NodeId, Account>,
    /// When those whose standing does not pay had something for nothing last.
    free: BTreeMap<NodeId, Time>,
}

impl Accounts {
    /// What the accounts say of a peer.
    pub fn set(&mut self, id: &NodeId, standing: Standing) {
        if !self.accounts.contains_key(id) {
            if standing.contributed == 0 && standing.paid == 0 {
                return;
            }
            if self.accounts.len() >= STANDINGS_MAX {
                let least = self.accounts.iter().min_by_key(|(_, account)| account.credit());
                let least = least.map(|(id, account)| (*id, account.credit()));
                let own = Account { standing, spent: 0 }.credit();
                let Some((least, _)) = least.filter(|(_, credit)| *credit < own) else { return };
                self.accounts.remove(&least);
            }
        }
        self.accounts.entry(*id).or_default().standing = standing;
    }

    /// Whether there is an account.
    pub fn has(&self, id: &NodeId) -> bool {
        self.accounts.contains_key(id)
    }

    /// What a lookup costs this peer now. `None` when it has to wait.
    pub fn price(&self, id: &NodeId, now: Time) -> Option<Price> {
        if self.accounts.get(id).is_some_and(|account| account.credit() >= DELEGATED_PRICE) {
            return Some(Price::Paid);
        }
        let waited = self.free.get(id).is_none_or(|last| now >= *last + ms(DELEGATED_FREE_MS));
        waited.then_some(Price::Free)
    }

    /// It had one.
    pub fn charge(&mut self, id: &NodeId, price: Price, now: Time) {
        match price {
            Price::Paid => {
                if let Some(account) = self.accounts.get_mut(id) {
                    account.spent = account.spent.saturating_add(DELEGATED_PRICE);
                }
            }
            Price::Free => {
                if self.free.len() >= STANDINGS_MAX {
                    self.free.retain(|_, last| now < *last + ms(DELEGATED_FREE_MS));
                }
                if self.free.len() < STANDINGS_MAX || self.free.contains_key(id) {
                    self.free.insert(*id, now);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn standing_pays_for_lookups_and_is_used_up() {
        let (mut accounts, giver, other) = (Accounts::default(), NodeId([1; 20]), NodeId([2; 20]));
        accounts.set(&giver, Standing { contributed: 3 * DELEGATED_PRICE + 5, ..Standing::default() });
        let mut paid = 0;
        while accounts.price(&giver, Time::ZERO) == Some(Price::Paid) {
            accounts.charge(&giver, Price::Paid, Time::ZERO);
            paid += 1;
        }
        assert_eq!((paid, accounts.price(&giver, Time::ZERO)), (3, Some(Price::Free)));
        assert_eq!(accounts.price(&other, Time::ZERO), Some(Price::Free));
        accounts.charge(&other, Price::Free, Time::ZERO);
        assert_eq!(accounts.price(&other, Time::ZERO + ms(DELEGATED_FREE_MS - 1)), None, "strangers wait");
        assert_eq!(accounts.price(&other, Time::ZERO + ms(DELEGATED_FREE_MS)), Some(Price::Free));
    }

    #[test]
    fn accounts_are_bounded_and_the_least_goes() {
        let mut accounts = Accounts::default();
        for n in 0..2 * STANDINGS_MAX as u32 {
            let mut id = [0; 20];
            id[..4].copy_from_slice(&n.to_le_bytes());
            accounts.set(&NodeId(id), Standing { contributed: 1 + u64::from(n), ..Standing::default() });
            accounts.charge(&NodeId(id), Price::Free, Time::ZERO);
        }
        assert_eq!(accounts.accounts.len(), STANDINGS_MAX);
        assert!(!accounts.has(&NodeId([0; 20])) && accounts.free.len() <= STANDINGS_MAX);
    }
}
