//! Whose network an address is of, so that nobody with one network has many places in a table.

use std::net::IpAddr;

use crate::wire::overlay::{Contact, Endpoint};

/// An IPv4 /24 or IPv6 /48, and the /16 or /32 around it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Site {
    is_ipv4: bool,
    bits: [u8; 6],
}

impl Site {
    /// `None` for addresses that are not global: at home, in a lab and behind one translator all are neighbours.
    pub fn of(endpoint: &Endpoint) -> Option<Self> {
        match endpoint.address().ip() {
            IpAddr::V4(ip) => {
                let [a, b, c, _] = ip.octets();
                let shared = a == 100 && b & 0xc0 == 64;
                let local = ip.is_private() || ip.is_loopback() || ip.is_link_local() || shared;
                (!local).then_some(Self { is_ipv4: true, bits: [a, b, c, 0, 0, 0] })
            }
            IpAddr::V6(ip) => {
                let bytes = ip.octets();
                let local = ip.is_loopback()
                    || bytes[0] & 0xfe == 0xfc
                    || bytes[0] == 0xfe && bytes[1] & 0xc0 == 0x80;
                let bits = *bytes.first_chunk().expect("16 bytes");
                (!local).then_some(Self { is_ipv4: false, bits })
            }
        }
    }

    /// Whether both are of one /16 or /32.
    pub fn same_network(&self, other: &Self) -> bool {
        let len = if self.is_ipv4 { 2 } else { 4 };
        self.is_ipv4 == other.is_ipv4 && self.bits[..len] == other.bits[..len]
    }

    /// Those of a contact.
    pub fn all(contact: &Contact) -> impl Iterator<Item = Self> + '_ {
        contact.endpoints().filter_map(Self::of)
    }
}

/// Counts, among others, who is of a contact's sites and networks: the most of any one.
pub fn crowd<'a>(contact: &Contact, others: impl Iterator<Item = &'a Contact> + Clone) -> (usize, usize) {
    let mut most = (0, 0);
    for own in Site::all(contact) {
        let mut here = (0, 0);
        for other in others.clone() {
            here.0 += usize::from(Site::all(other).any(|site| site == own));
            here.1 += usize::from(Site::all(other).any(|site| site.same_network(&own)));
        }
        most = (most.0.max(here.0), most.1.max(here.1));
    }
    most
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::PublicKey;
    use crate::crypto::IdentityCard;

    fn contact(addresses: &[&str]) -> Contact {
        let card = IdentityCard { key: PublicKey([0; 32]), place_nonce: 0, rank_nonce: 0 };
        Contact::new(card, addresses.iter().map(|text| text.parse().expect("an address")))
    }

    #[test]
    fn neighbours_are_counted_and_private_addresses_are_not() {
        let others = [
            contact(&["192.0.2.1:1"]),
            contact(&["192.0.9.1:1", "[2001:db8:1::1]:1"]),
            contact(&["[2001:db8:1:5::1]:1"]),
            contact(&["10.0.0.1:1"]),
        ];
        let count = |text: &str| crowd(&contact(&[text]), others.iter());
        assert_eq!(count("192.0.2.7:5"), (1, 2));
        assert_eq!(count("[2001:db8:1:9::7]:5"), (2, 2));
        assert_eq!(count("[2001:db8:2::7]:5"), (0, 2));
        for private in
            ["10.0.0.1:1", "127.0.0.1:1", "100.64.0.1:1", "[fd00::1]:1", "[fe80::1]:1", "169.254.0.1:1"]
        {
            assert_eq!(count(private), (0, 0), "{private}");
        }
    }
}
