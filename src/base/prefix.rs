//! Runs of IP addresses that share their first bits, and addresses with the length of their network (CIDR, RFC 4632).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// An address and how many of its first bits name the network. Two are the same only if the other bits are, too;
/// [`Prefix::network`] clears them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix {
    address: IpAddr,
    len: u8,
}

/// Not a prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not ADDRESS/LENGTH, such as 10.9.0.0/24 or fd00:9::/64")]
pub struct NotAPrefix;

impl Prefix {
    /// A prefix; `None` when there are not so many bits.
    pub fn new(address: IpAddr, len: u8) -> Option<Self> {
        (len <= Self::bits(address)).then_some(Self { address, len })
    }

    /// One address alone.
    pub fn host(address: IpAddr) -> Self {
        Self { address, len: Self::bits(address) }
    }

    fn bits(address: IpAddr) -> u8 {
        if address.is_ipv4() { 32 } else { 128 }
    }

    /// The address, as given.
    pub fn address(self) -> IpAddr {
        self.address
    }

    /// Length of the network part, bits.
    #[expect(clippy::len_without_is_empty, reason = "a number of bits, not of elements")]
    pub fn len(self) -> u8 {
        self.len
    }

    /// Whether it holds all addresses of its family.
    pub fn is_default(self) -> bool {
        self.len == 0
    }

    /// Whether it is of IPv4.
    pub fn is_ipv4(self) -> bool {
        self.address.is_ipv4()
    }

    /// The same network, host bits cleared.
    pub fn network(self) -> Self {
        let address = match self.address {
            IpAddr::V4(v4) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.len)).unwrap_or(0);
                IpAddr::V4(Ipv4Addr::from_bits(v4.to_bits() & mask))
            }
            IpAddr::V6(v6) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.len)).unwrap_or(0);
                IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & mask))
            }
        };
        Self { address, len: self.len }
    }

    /// Whether an address lies in the network.
    pub fn contains(self, address: IpAddr) -> bool {
        Self { address, len: self.len }.network() == self.network() && address.is_ipv4() == self.is_ipv4()
    }

    /// Whether all of another network lies in this one.
    pub fn covers(self, other: Self) -> bool {
        self.len <= other.len && self.contains(other.address)
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.len)
    }
}

impl FromStr for Prefix {
    type Err = NotAPrefix;

    /// `ADDRESS/LENGTH`, or `ADDRESS` for one alone.
    fn from_str(text: &str) -> Result<Self, NotAPrefix> {
        let Some((address, len)) = text.split_once('/') else {
            return text.parse().map(Self::host).map_err(|_| NotAPrefix);
        };
        let digits = (1..=3).contains(&len.len()) && len.bytes().all(|b| b.is_ascii_digit());
        let len = len.parse().ok().filter(|_| digits).ok_or(NotAPrefix)?;
        Self::new(address.parse().map_err(|_| NotAPrefix)?, len).ok_or(NotAPrefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn prefix(text: &str) -> Prefix {
        text.parse().expect("a prefix")
    }

    #[test]
    fn contains_and_covers() {
        let net = prefix("10.9.7.1/20");
        assert_eq!(net.network(), prefix("10.9.0.0/20"));
        assert!(net.contains("10.9.15.255".parse().unwrap()) && !net.contains("10.9.16.0".parse().unwrap()));
        assert!(net.covers(prefix("10.9.8.0/24")) && !net.covers(prefix("10.9.0.0/19")));
        assert!(prefix("0.0.0.0/0").covers(net) && prefix("0.0.0.0/0").is_default());
        assert!(!prefix("::/0").contains("1.2.3.4".parse().unwrap()), "families are apart");
        assert!(!prefix("::/0").covers(net));
        assert_eq!(prefix("fd00::1").len(), 128);
        assert_eq!(prefix("fd00:1::ffff/16").network(), prefix("fd00::/16"));
    }

    #[test]
    fn what_is_no_prefix_is_refused() {
        for bad in ["", "/", "1.2.3.4/", "1.2.3.4/33", "::/129", "1.2.3/8", "1.2.3.4/+8", "1.2.3.4/ 8", "a/8"]
        {
            assert_eq!(bad.parse::<Prefix>(), Err(NotAPrefix), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn text_comes_back_and_the_network_holds_the_address(bits: u128, v4: bool, len in 0u8..=128) {
            let address = if v4 { IpAddr::V4(Ipv4Addr::from_bits(bits as u32)) } else { Ipv6Addr::from_bits(bits).into() };
            let Some(prefix) = Prefix::new(address, len) else {
                prop_assert!(v4 && len > 32);
                return Ok(());
            };
            prop_assert_eq!(prefix.to_string().parse(), Ok(prefix));
            prop_assert!(prefix.network().contains(address));
            prop_assert_eq!(prefix.network().network(), prefix.network());
        }
    }
}
