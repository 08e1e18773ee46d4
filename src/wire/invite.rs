//! `tornet:node:…`: who a node is and where to find it, as text.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use super::Malformed;
use crate::base::id::{parse_hex, write_hex};
use crate::crypto::IdentityCard;
use crate::limits::ADDRESSES_PER_PEER_MAX;

/// An invitation: what `tornet invite` prints and `tornet friend add` takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invite {
    /// Who.
    pub card: IdentityCard,
    /// Where, best first.
    pub addresses: Vec<SocketAddr>,
    /// In which network.
    pub network: String,
}

impl fmt::Display for Invite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("tornet:node:")?;
        write_hex(f, &self.card.to_bytes())?;
        write!(f, "/{}/", self.network)?;
        let addresses: Vec<String> = self.addresses.iter().map(SocketAddr::to_string).collect();
        f.write_str(&addresses.join(","))
    }
}

impl FromStr for Invite {
    type Err = Malformed;
    fn from_str(text: &str) -> Result<Self, Malformed> {
        let rest = text.strip_prefix("tornet:node:").ok_or(Malformed("invitation"))?;
        let mut parts = rest.splitn(3, '/');
        let mut next = || parts.next().ok_or(Malformed("invitation"));
        let card = parse_hex::<{ IdentityCard::LEN }>(next()?).map_err(|_| Malformed("invitation"))?;
        let network = next()?.to_owned();
        let addresses: Vec<SocketAddr> = next()?
            .split(',')
            .filter(|a| !a.is_empty())
            .map(|a| a.parse().map_err(|_| Malformed("invitation: address")))
            .collect::<Result<_, _>>()?;
        if addresses.len() > ADDRESSES_PER_PEER_MAX {
            return Err(Malformed("invitation: too many addresses"));
        }
        Ok(Self { card: IdentityCard::from_bytes(&card), addresses, network })
    }
}
