//! By whom an identity that is made for a job enters the network.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use super::Keeper;
use crate::base::{NodeId, PublicKey};
use crate::crypto::IdentityCard;
use crate::limits::{ANONYMOUS_ENTERED_MIN, ANONYMOUS_ENTRIES_MAX};
use crate::overlay::site::{Site, is_global};
use crate::wire::overlay::Endpoint;

impl Keeper {
    /// The network's name, and by whom another identity may enter it without anybody being led to this node by that: those of
    /// the configuration, whose addresses many know, as far as they are no friends; else some drawn among all that are known, none in a network of ours or twice in another as far as there are enough, and friends
    /// only when there is nobody else (docs/threat-model.md).
    pub(in crate::node) fn entries(
        &mut self,
        is_friend: impl Fn(&PublicKey) -> bool,
    ) -> (String, Vec<(IdentityCard, Vec<SocketAddr>)>) {
        let named = self.rules.bootstrap.iter().filter(|(card, at)| !at.is_empty() && !is_friend(&card.key));
        let named: Vec<_> = named.take(ANONYMOUS_ENTRIES_MAX).cloned().collect();
        if !named.is_empty() {
            return (self.rules.network.clone(), named);
        }
        let known = self.core.peers().iter().map(|(_, known)| known);
        let met = known.filter(|known| known.errors_since == 0).map(|known| known.contact);
        let met = met.chain(self.core.table().entries().map(|entry| entry.peer.contact));
        let met = met.map(|contact| (contact.card, contact.addresses().collect::<Vec<_>>()));
        let mut all: BTreeMap<NodeId, (IdentityCard, Vec<SocketAddr>)> =
            met.chain(self.rules.bootstrap.iter().cloned()).map(|one| (one.0.node_id(), one)).collect();
        all.retain(|_, (_, addresses)| !addresses.is_empty());
        if all.values().any(|(_, addresses)| addresses.iter().any(|address| is_global(*address))) {
            all.values_mut().for_each(|(_, addresses)| addresses.retain(|address| is_global(*address)));
            all.retain(|_, (_, addresses)| !addresses.is_empty());
        }
        if all.values().any(|(card, _)| !is_friend(&card.key)) {
            all.retain(|_, (card, _)| !is_friend(&card.key));
        }
        let site = |address: &SocketAddr| {
            Endpoint::new(*address).and_then(|endpoint| Site::of(&endpoint, false)).map(Site::network)
        };
        let mut near: BTreeSet<Site> = self.named.iter().filter_map(site).collect();
        let mut left: Vec<_> = all.into_values().collect();
        let mut drawn = Vec::new();
        let mut crowded = Vec::new();
        while !left.is_empty() && drawn.len() < ANONYMOUS_ENTRIES_MAX {
            let one = left.swap_remove(self.rng.below(left.len() as u64) as usize);
            let sites: Vec<Site> = one.1.iter().filter_map(site).collect();
            match sites.iter().any(|site| near.contains(site)) {
                true => crowded.push(one),
                false => {
                    near.extend(sites);
                    drawn.push(one);
                }
            }
        }
        let room = ANONYMOUS_ENTERED_MIN.saturating_sub(drawn.len());
        drawn.extend(crowded.into_iter().take(room));
        (self.rules.network.clone(), drawn)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::base::{Rng, Time};
    use crate::crypto::{Identity, Secret};
    use crate::node::command::{Known, OverlayRules};
    use crate::overlay::rtt::Rtt;
    use crate::wire::overlay::Contact;

    fn entry(n: u8, address: &str) -> (IdentityCard, Vec<SocketAddr>) {
        let card = IdentityCard { key: PublicKey([n; 32]), place_nonce: 0, rank_nonce: 0 };
        (card, vec![address.parse().expect("an address")])
    }

    type Entries = Vec<(IdentityCard, Vec<SocketAddr>)>;

    fn drawn(seed: u64, met: Entries, friends: &[u8]) -> BTreeSet<u8> {
        drawn_of(seed, Vec::new(), met, friends)
    }

    fn drawn_of(seed: u64, bootstrap: Entries, met: Entries, friends: &[u8]) -> BTreeSet<u8> {
        let rules = OverlayRules {
            enabled: true,
            network: "test".into(),
            addresses: vec!["20.1.0.1:1".parse().expect("an address")],
            bootstrap,
            far: false,
            serve_strangers: true,
            keep: None,
        };
        let identity = Arc::new(Identity::new(Secret::from_bytes([99; 32]), 0, 0));
        let rng = Rng::from_number(seed);
        let mut keeper = Keeper::new(identity, 0, false, rules, Time::ZERO, rng);
        keeper.tell_addresses(Time::ZERO);
        let known = |(card, at): (IdentityCard, Vec<SocketAddr>)| Known {
            contact: Contact::new(card, at),
            first_s: 1,
            last_s: 1,
            answered: 1,
            errors: 0,
            errors_since: 0,
            rtt: Rtt::default(),
            bandwidth: 0,
        };
        keeper.restore(Time::ZERO, met.into_iter().map(known).collect());
        let (network, entries) = keeper.entries(|key| friends.contains(&key.0[0]));
        assert_eq!(network, "test");
        entries.iter().map(|(card, _)| card.key.0[0]).collect()
    }

    #[test]
    fn another_identity_enters_by_strangers_of_other_networks() {
        let near = ["20.1.5.5:1", "20.1.6.6:1"];
        let far = ["30.1.0.1:1", "31.1.0.1:1", "32.1.0.1:1", "32.1.9.9:1"];
        let mut all: Vec<_> = (1..).zip(near.iter().chain(&far)).map(|(n, at)| entry(n, at)).collect();
        all.extend([entry(50, "40.1.0.1:1"), entry(60, "10.0.0.5:1")]);
        let mut of_one = BTreeSet::new();
        for seed in 0..40 {
            let drawn = drawn(seed, all.clone(), &[50]);
            assert!(drawn.contains(&3) && drawn.contains(&4) && drawn.len() == 3, "{drawn:?}");
            of_one.extend(drawn.intersection(&[5, 6].into()).copied());
            // Where there are too few others, those that are near are better than one alone.
            let few = super::tests::drawn(seed, all[..3].to_vec(), &[]);
            assert_eq!(few, BTreeSet::from([1, 2, 3]));
        }
        assert_eq!(of_one, BTreeSet::from([5, 6]), "one of the two, and not always the same");
        let friends = drawn(1, vec![entry(50, "40.1.0.1:1")], &[50]);
        assert_eq!(friends, BTreeSet::from([50]), "nobody else is there");
        let many = (1..40).map(|n| entry(n, &format!("{}.7.0.1:1", 40 + n))).collect();
        assert_eq!(drawn(1, many, &[]).len(), ANONYMOUS_ENTRIES_MAX);
    }

    /// Found by review: whoever is known to this node alone, by a key or a port that it was shown, knows whose identity comes.
    #[test]
    fn who_is_configured_is_known_to_many_and_comes_before_who_was_met() {
        let met = || (1..20).map(|n| entry(n, &format!("{}.7.0.1:1", 40 + n))).collect::<Entries>();
        let named = vec![entry(30, "90.1.0.1:1"), entry(50, "91.1.0.1:1")];
        assert_eq!(drawn_of(1, named.clone(), met(), &[50]), BTreeSet::from([30]));
        assert_eq!(
            drawn_of(1, named[1..].to_vec(), met(), &[50]).len(),
            ANONYMOUS_ENTRIES_MAX,
            "a friend is no entry"
        );
    }
}
