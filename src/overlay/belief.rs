//! What is believed of what peers tell: which contacts, which records, and which addresses may be tried by whose word
//! (docs/protocol/overlay.md §3).

use std::collections::BTreeMap;

use super::Overlay;
use super::records::Records;
use super::site::{Site, may_tell};
use super::types::{Moment, Peer};
use crate::base::ChunkId;
use crate::limits::{AIMS_PER_TELLER_MAX, ANSWER_PER_SITE_MAX};
use crate::wire::overlay::{Answer, Contact, Record};

impl Overlay {
    /// The contacts of an answer that may be there: their places show their work, whoever tells can know of such
    /// addresses, and no site is named more often than an honest table has it.
    pub(super) fn believed(&self, from: &Peer, answer: &Answer) -> Vec<Peer> {
        let teller = from.contact.addresses().next();
        let mut sites: BTreeMap<Site, usize> = BTreeMap::new();
        let mut machines: BTreeMap<std::net::SocketAddr, usize> = BTreeMap::new();
        let mut out = Vec::new();
        for contact in &answer.contacts {
            let told = contact.addresses().filter(|address| may_tell(teller, *address));
            let peer = Peer::of(Contact::new(contact.card, told));
            let is_known = self.linked.contains_key(&peer.id) || self.contact_of(&peer.id).is_some();
            let is_nowhere = peer.contact.endpoints().next().is_none() && !is_known;
            if peer.id == self.own.id || is_nowhere || !peer.shows(self.config.place_floor) {
                continue;
            }
            let mut crowded = false;
            for site in Site::all(&peer.contact, false) {
                let count = sites.entry(site).or_default();
                *count += 1;
                crowded |= *count > ANSWER_PER_SITE_MAX;
            }
            for address in peer.contact.addresses() {
                let count = machines.entry(address).or_default();
                *count += 1;
                crowded |= *count > AIMS_PER_TELLER_MAX;
            }
            if !crowded || is_known {
                out.push(peer);
            }
        }
        out
    }

    /// The records of an answer that hold: signed by a provider whose work shows, for a time that does.
    pub(super) fn good_records(&mut self, at: Moment, chunk: &ChunkId, answer: &Answer) -> Vec<Record> {
        let now_s = at.unix_s();
        let good = |record: &&Record| {
            Records::is_timely(record, now_s) && self.is_fit(record) && record.verify(chunk)
        };
        let records: Vec<Record> = answer.records.iter().filter(good).copied().collect();
        self.counters.unfit += (answer.records.len() - records.len()) as u64;
        records
    }

    /// Whether a record's provider shows the work that is asked for.
    pub(super) fn is_fit(&self, record: &Record) -> bool {
        let provider = Peer::of(record.provider);
        record.provider.card.rank() >= self.config.rank_floor && provider.shows(self.config.place_floor)
    }

    /// A record as the caller is told of it: with the addresses at which its provider may be tried. Those at which it
    /// answered come first; those that `from` tells are left out where they may not be tried by its word.
    pub(super) fn worth_trying(&mut self, at: Moment, record: &Record, from: &Peer) -> Record {
        let id = record.provider.node_id();
        let path = self.linked.get(&id).copied().flatten();
        let known = self.contact_of(&id);
        let mut addresses: Vec<_> =
            path.into_iter().chain(known.iter().flat_map(Contact::addresses)).collect();
        if path.is_none() {
            let own = addresses.clone();
            let teller = from.contact.addresses().next();
            let told = record.provider.addresses().filter(|address| !own.contains(address));
            addresses.extend(
                told.filter(|address| {
                    may_tell(teller, *address) && self.aims.take(&from.id, *address, at.now)
                }),
            );
        }
        record.to_be_reached_at(addresses)
    }
}
