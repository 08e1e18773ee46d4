//! Whose network an address is of, so that nobody with one network has many places in a table (decision 19).

use std::net::{IpAddr, SocketAddr};

use crate::wire::overlay::{Contact, Endpoint};

/// An IPv4 /24 or IPv6 /48, and the /16 or /32 around it. All addresses that are not global are one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Site {
    is_ipv4: bool,
    bits: [u8; 6],
}

/// How far an address leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Realm {
    /// This machine.
    Machine,
    /// A home, a company, a lab, or those behind one translator.
    Local,
    /// Everywhere.
    Global,
}

/// How far an address leads; `None` of what says nothing away from its link.
pub fn realm(ip: IpAddr) -> Option<Realm> {
    match ip.to_canonical() {
        IpAddr::V4(ip) => {
            let [a, b, ..] = ip.octets();
            let shared = a == 100 && b & 0xc0 == 64;
            match () {
                () if ip.is_link_local() || ip.is_broadcast() || a == 0 => None,
                () if ip.is_loopback() => Some(Realm::Machine),
                () if ip.is_private() || shared => Some(Realm::Local),
                () => Some(Realm::Global),
            }
        }
        IpAddr::V6(ip) => {
            let [a, b, ..] = ip.octets();
            match () {
                () if a == 0xfe && b & 0xc0 == 0x80 => None,
                () if ip.is_loopback() => Some(Realm::Machine),
                () if a & 0xfe == 0xfc => Some(Realm::Local),
                () => Some(Realm::Global),
            }
        }
    }
}

/// Whether an address that a peer tells is to be believed as far as that: whoever speaks from afar knows nobody's
/// home. `teller` is where its own session's path leads.
pub fn may_tell(teller: Option<SocketAddr>, told: SocketAddr) -> bool {
    let teller = teller.map_or(Some(Realm::Global), |teller| realm(teller.ip()));
    realm(told.ip()).zip(teller).is_some_and(|(told, teller)| told >= teller)
}

/// Whether an address that somebody named of itself may be called: what is global, and what is of a home or a lab only by
/// those that have nothing global themselves (`closed`). This machine is nobody else's.
pub fn may_call(told: SocketAddr, closed: bool) -> bool {
    match realm(told.ip()) {
        Some(Realm::Global) => true,
        Some(Realm::Local) => closed,
        Some(Realm::Machine) | None => false,
    }
}

/// Whether an address is of nobody in particular for the world.
pub fn is_global(address: SocketAddr) -> bool {
    realm(address.ip()) == Some(Realm::Global)
}

impl Site {
    const LOCAL: Self = Self { is_ipv4: false, bits: [0xfc, 0, 0, 0, 0, 0] };

    /// Of an address. `None` where neighbours are no attack: an address that is not global, in a network that has no
    /// others (`open` is false).
    pub fn of(endpoint: &Endpoint, open: bool) -> Option<Self> {
        let address = endpoint.address();
        if !is_global(address) {
            return open.then_some(Self::LOCAL);
        }
        Some(match address.ip() {
            IpAddr::V4(ip) => {
                let [a, b, c, _] = ip.octets();
                Self { is_ipv4: true, bits: [a, b, c, 0, 0, 0] }
            }
            IpAddr::V6(ip) => Self { is_ipv4: false, bits: *ip.octets().first_chunk().expect("16 bytes") },
        })
    }

    /// The /16 or /32 that it lies in.
    pub fn network(mut self) -> Self {
        self.bits[if self.is_ipv4 { 2 } else { 4 }..].fill(0);
        self
    }

    /// Whether both are of one /16 or /32.
    pub fn same_network(self, other: Self) -> bool {
        self.network() == other.network()
    }

    /// Those of a contact.
    pub fn all(contact: &Contact, open: bool) -> impl Iterator<Item = Self> + '_ {
        contact.endpoints().filter_map(move |endpoint| Self::of(endpoint, open))
    }
}

/// Counts, among others, who is of a contact's sites and networks: the most of any one.
pub fn crowd<'a>(
    contact: &Contact,
    others: impl Iterator<Item = &'a Contact> + Clone,
    open: bool,
) -> (usize, usize) {
    let mut most = (0, 0);
    for own in Site::all(contact, open) {
        let mut here = (0, 0);
        for other in others.clone() {
            here.0 += usize::from(Site::all(other, open).any(|site| site == own));
            here.1 += usize::from(Site::all(other, open).any(|site| site.same_network(own)));
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

    const PRIVATE: [&str; 4] = ["10.0.0.1:1", "127.0.0.1:1", "100.64.0.1:1", "[fd00::1]:1"];

    fn contact(addresses: &[&str]) -> Contact {
        let card = IdentityCard { key: PublicKey([0; 32]), place_nonce: 0, rank_nonce: 0 };
        Contact::new(card, addresses.iter().map(|text| text.parse().expect("an address")))
    }

    #[test]
    fn neighbours_are_counted_and_private_addresses_only_in_an_open_network() {
        let others = [
            contact(&["192.0.2.1:1"]),
            contact(&["192.0.9.1:1", "[2001:db8:1::1]:1"]),
            contact(&["[2001:db8:1:5::1]:1"]),
            contact(&["10.0.0.1:1"]),
        ];
        let count = |text: &str, open| crowd(&contact(&[text]), others.iter(), open);
        assert_eq!(count("192.0.2.7:5", true), (1, 2));
        assert_eq!(count("[2001:db8:1:9::7]:5", true), (2, 2));
        assert_eq!(count("[2001:db8:2::7]:5", true), (0, 2));
        for private in PRIVATE {
            assert_eq!(count(private, false), (0, 0), "{private}");
            assert_eq!(count(private, true), (1, 1), "{private}: they are all of one site");
        }
    }

    /// Found by review: whoever was introduced had all that call it send handshakes to their own machines and homes.
    #[test]
    fn what_strangers_name_leads_to_no_neighbours_but_in_a_lab() {
        let address = |text: &str| text.parse::<SocketAddr>().expect("an address");
        for closed in [false, true] {
            assert!(
                may_call(address("203.0.113.5:1"), closed) && may_call(address("[2001:db8::1]:1"), closed)
            );
            for local in ["192.168.1.2:1", "100.64.0.1:1", "[fd00::1]:1", "[::ffff:10.0.0.1]:1"].map(address)
            {
                assert_eq!(may_call(local, closed), closed, "{local}");
            }
            for nobody in ["127.0.0.1:1", "[::1]:1", "169.254.0.1:1", "[fe80::1]:1", "0.0.0.0:1"].map(address)
            {
                assert!(!may_call(nobody, closed), "{nobody}");
            }
        }
    }

    #[test]
    fn whoever_speaks_from_afar_knows_nobodys_home() {
        let address = |text: &str| text.parse::<SocketAddr>().expect("an address");
        let (far, home, here) = (address("192.0.2.1:1"), address("10.0.0.9:1"), address("127.0.0.1:9"));
        for private in PRIVATE.map(address) {
            assert!(!may_tell(Some(far), private) && !may_tell(None, private), "{private}");
            assert!(may_tell(Some(here), private));
        }
        assert!(may_tell(Some(home), home) && !may_tell(Some(home), here) && may_tell(Some(home), far));
        for nobody in ["169.254.0.1:1", "[fe80::1]:1", "0.1.2.3:1", "255.255.255.255:1"].map(address) {
            assert!(!may_tell(Some(here), nobody), "{nobody}");
        }
    }
}
