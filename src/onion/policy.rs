//! What an exit lets out (docs/protocol/onion.md §9): nothing, until its operator names networks and ports.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use crate::base::Prefix;
use crate::wire::ip::{ICMP, ICMP6, Ip, TCP, UDP, V4_HEADER, half};

/// Networks that are not the global one. A rule reaches into one only when it lies inside it: `0.0.0.0/0` does not mean
/// the exit's own home. Of IPv6 only 2000::/3 is global, without what carries IPv4 addresses.
const LOCAL: [&str; 26] = [
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.88.99.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "224.0.0.0/4",
    "240.0.0.0/4",
    "::/3",
    "2001::/32",
    "2001:db8::/32",
    "2002::/16",
    "4000::/3",
    "6000::/3",
    "8000::/3",
    "a000::/3",
    "c000::/3",
    "e000::/4",
    "f000::/4",
];
/// Mail from one server to another: refused unless it is named.
const SMTP: u16 = 25;

/// A network, and the ports that may be reached there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    prefix: Prefix,
    /// Whether the network lies inside one that is not global.
    local: bool,
    ports: Option<(u16, u16)>,
}

/// Not a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("NETWORK, NETWORK PORT or NETWORK FIRST-LAST, such as 0.0.0.0/0 443 or 2000::/3 80-8080")]
pub struct NotARule;

impl FromStr for Rule {
    type Err = NotARule;

    fn from_str(text: &str) -> Result<Self, NotARule> {
        let mut words = text.split_whitespace();
        let prefix: Prefix = words.next().and_then(|word| word.parse().ok()).ok_or(NotARule)?;
        let port = |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0).ok_or(NotARule);
        let ports = match words.next().map(|word| word.split_once('-').unwrap_or((word, word))) {
            Some((first, last)) => Some((port(first)?, port(last)?)),
            None => None,
        };
        if words.next().is_some() || ports.is_some_and(|(first, last)| first > last) {
            return Err(NotARule);
        }
        let prefix = prefix.network();
        Ok(Self { prefix, local: local().any(|local| local.covers(prefix)), ports })
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.ports {
            None => write!(f, "{}", self.prefix),
            Some((first, last)) if first == last => write!(f, "{} {first}", self.prefix),
            Some((first, last)) => write!(f, "{} {first}-{last}", self.prefix),
        }
    }
}

impl Rule {
    /// Whether it lets a packet out.
    pub fn allows(&self, packet: &[u8], header: &Ip) -> bool {
        if !self.prefix.contains(header.destination) || (!self.local && is_local(header.destination)) {
            return false;
        }
        let transport = &packet[header.header..];
        match (header.protocol, header.is_v6()) {
            (TCP | UDP, _) if transport.len() >= 8 => {
                let port = half(transport, 2);
                match self.ports {
                    Some((first, last)) => (first..=last).contains(&port),
                    None => header.protocol == UDP || port != SMTP,
                }
            }
            // A question whether somebody is there, and no other of ICMP.
            (ICMP, false) => self.ports.is_none() && transport.first() == Some(&8),
            (ICMP6, true) => self.ports.is_none() && transport.first() == Some(&128),
            _ => false,
        }
    }
}

fn local() -> impl Iterator<Item = Prefix> {
    LOCAL.iter().filter_map(|text| text.parse().ok())
}

/// Whether an address is not one of the global network.
pub fn is_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let [a, b, c, _] = v4.octets();
            matches!(
                (a, b, c),
                (0 | 10 | 127 | 224.., ..)
                    | (100, 64..=127, _)
                    | (169, 254, _)
                    | (172, 16..=31, _)
                    | (192, 0, 0 | 2)
                    | (192, 88, 99)
                    | (192, 168, _)
                    | (198, 18 | 19, _)
                    | (198, 51, 100)
                    | (203, 0, 113)
            )
        }
        IpAddr::V6(v6) => {
            let [a, b, ..] = v6.segments();
            a & 0xe000 != 0x2000 || a == 0x2002 || (a == 0x2001 && (b == 0 || b == 0xdb8))
        }
    }
}

/// What an exit lets out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy(pub Vec<Rule>);

impl Policy {
    /// Whether any rule lets a packet out. Parts of packets are never: their ports are not known.
    pub fn allows(&self, packet: &[u8], header: &Ip) -> bool {
        // IPv4 options can name the routers on the way, this host's inner addresses among them.
        let has_options = header.destination.is_ipv4() && header.header != V4_HEADER;
        !header.fragment
            && !has_options
            && !header.destination.is_multicast()
            && self.0.iter().any(|rule| rule.allows(packet, header))
    }

    /// Whether nothing is let out.
    pub fn is_closed(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn packet(to: IpAddr, protocol: u8, port: u16) -> Vec<u8> {
        let source: IpAddr = if to.is_ipv4() { "10.0.0.1" } else { "fd00::1" }.parse().unwrap();
        let ip =
            Ip { source, destination: to, protocol, header: 0, ecn: 0, fragment: false, divisible: false };
        let mut bytes = vec![0; 80];
        let at = ip.emit(24, &mut bytes).unwrap();
        bytes.truncate(at + 24);
        match protocol {
            ICMP | ICMP6 => bytes[at] = port as u8,
            _ => bytes[at + 2..at + 4].copy_from_slice(&port.to_be_bytes()),
        }
        bytes
    }

    fn allows(rules: &[&str], to: &str, protocol: u8, port: u16) -> bool {
        let policy = Policy(rules.iter().map(|text| text.parse().unwrap()).collect());
        let bytes = packet(to.parse().unwrap(), protocol, port);
        policy.allows(&bytes, &Ip::parse(&bytes).unwrap())
    }

    #[test]
    fn local_networks_are_reached_only_when_named() {
        let all = &["0.0.0.0/0", "::/0"][..];
        for to in
            ["10.1.2.3", "127.0.0.1", "192.168.1.1", "169.254.169.254", "100.100.1.1", "255.255.255.255"]
        {
            assert!(!allows(all, to, TCP, 80), "{to}");
        }
        for to in
            ["::1", "::ffff:10.0.0.1", "fe80::1", "fd00::1", "64:ff9b::a00:1", "2002:a00:1::1", "ff02::1"]
        {
            assert!(!allows(all, to, TCP, 80), "{to}");
        }
        assert!(allows(all, "9.9.9.9", TCP, 80) && allows(all, "2620:fe::fe", UDP, 53));
        assert!(allows(&["10.1.0.0/16"], "10.1.2.3", TCP, 80));
        assert!(!allows(&["10.1.0.0/16"], "10.2.2.3", TCP, 80));
        assert!(!allows(&["224.0.0.0/4"], "224.0.0.1", UDP, 80), "never many hosts at once");
        // A network around a local one is not its name.
        assert!(!allows(&["8.0.0.0/6"], "10.1.2.3", TCP, 80));
    }

    #[test]
    fn ports_and_protocols() {
        assert!(
            allows(&["0.0.0.0/0 443"], "9.9.9.9", TCP, 443)
                && allows(&["0.0.0.0/0 443"], "9.9.9.9", UDP, 443)
        );
        assert!(!allows(&["0.0.0.0/0 443"], "9.9.9.9", TCP, 80));
        assert!(
            allows(&["0.0.0.0/0 80-90"], "9.9.9.9", TCP, 90)
                && !allows(&["0.0.0.0/0 80-90"], "9.9.9.9", TCP, 91)
        );
        assert!(
            !allows(&["0.0.0.0/0"], "9.9.9.9", TCP, 25)
                && allows(&["0.0.0.0/0", "9.9.9.9 25"], "9.9.9.9", TCP, 25)
        );
        assert!(allows(&["0.0.0.0/0"], "9.9.9.9", ICMP, 8) && !allows(&["0.0.0.0/0"], "9.9.9.9", ICMP, 5));
        assert!(!allows(&["0.0.0.0/0 443"], "9.9.9.9", ICMP, 8) && !allows(&["0.0.0.0/0"], "9.9.9.9", 47, 0));
        assert!(!allows(&[], "9.9.9.9", TCP, 443), "closed");
        for wrong in ["", "all", "0.0.0.0/0 0", "0.0.0.0/0 9-8", "0.0.0.0/0 1 2", "0.0.0.0/33", "::/0 65536"]
        {
            assert_eq!(wrong.parse::<Rule>(), Err(NotARule), "{wrong}");
        }
        for text in ["0.0.0.0/0 443", "10.0.0.0/8", "2000::/3 1-65535"] {
            assert_eq!(text.parse::<Rule>().unwrap().to_string(), text);
        }
    }

    proptest! {
        /// The table and the quick answer are the same.
        #[test]
        fn what_is_local_is_listed(v4: u32, v6: u128, high in prop::sample::select(vec![0x2001u16, 0x2002, 0x2000, 0xfe80, 0])) {
            let v6 = v6 & (u128::MAX >> 16) | u128::from(high) << 112;
            for address in [IpAddr::V4(v4.into()), IpAddr::V6(v6.into())] {
                let listed = local().any(|prefix| prefix.contains(address));
                prop_assert_eq!(is_local(address), listed, "{}", address);
            }
        }
    }
}
