//! `[[tunnel.peer]]` entries: tunnels to friends.

use toml_edit::{Array, ArrayOfTables, DocumentMut, Item, Table, TableLike, value};

use super::keys::unknown;
use super::{Config, ConfigError, FriendEntry};
use crate::base::{Prefix, PublicKey};
use crate::limits::{TUNNEL_LISTED_MAX, TUNNELS_MAX};
use crate::tunnel::{Routes, Taken};

/// One tunnel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TunnelEntry {
    /// The friend's key.
    pub peer: PublicKey,
    /// This host's addresses in the tunnel, with their networks; at least one.
    pub addresses: Vec<Prefix>,
    /// What the friend is believed to be; none stands for the networks of the addresses.
    pub allow: Vec<Prefix>,
    /// Networks behind the friend, which the kernel sends into the tunnel.
    pub routes: Vec<Prefix>,
}

impl TunnelEntry {
    /// Everything that goes to the friend and is believed from it.
    pub fn allowed(&self) -> Vec<Prefix> {
        let own = if self.allow.is_empty() { &self.addresses } else { &self.allow };
        let mut all: Vec<Prefix> = own.iter().chain(&self.routes).map(|prefix| prefix.network()).collect();
        all.sort();
        all.dedup();
        all
    }

    fn read(table: &dyn TableLike, number: usize) -> Result<Self, ConfigError> {
        let wrong = |field: &str, wanted: &str| {
            ConfigError::Invalid(format!("tunnel.peer {number}: {field} must be {wanted}"))
        };
        let known = ["key", "addr", "allow", "route"];
        if let Some((name, _)) = table.iter().find(|(name, _)| !known.contains(name)) {
            return Err(unknown(&format!("tunnel.peer.{name}")));
        }
        let key = table.get("key").and_then(Item::as_str).and_then(|text| text.parse().ok());
        let list = |field: &str| match table.get(field) {
            None => Ok(Vec::new()),
            Some(item) => item
                .as_array()
                .filter(|array| array.len() <= TUNNEL_LISTED_MAX)
                .and_then(|array| array.iter().map(|v| v.as_str()?.parse().ok()).collect())
                .ok_or_else(|| wrong(field, "a list of at most 64 networks such as [\"10.9.0.1/24\"]")),
        };
        let entry = Self {
            peer: key.ok_or_else(|| wrong("key", "the friend's key, 64 hexadecimal digits"))?,
            addresses: list("addr")?,
            allow: list("allow")?,
            routes: list("route")?,
        };
        if entry.addresses.is_empty() {
            return Err(wrong("addr", "this host's address in the tunnel, such as [\"10.9.0.1/24\"]"));
        }
        let own = |prefix: &Prefix| entry.addresses.iter().find(|own| *prefix == Prefix::host(own.address()));
        if let Some(own) = entry.allowed().iter().find_map(own) {
            return Err(ConfigError::Invalid(format!(
                "tunnel.peer {number}: {} is this host's own and cannot be the friend's: give addr the length of a network \
                 that both are in, such as {}/24, or name the friend's address with allow",
                own.address(),
                own.address()
            )));
        }
        Ok(entry)
    }

    fn write(&self, table: &mut Table) {
        let texts = |list: &[Prefix]| value(list.iter().map(Prefix::to_string).collect::<Array>());
        table.insert("key", value(self.peer.to_string()));
        table.insert("addr", texts(&self.addresses));
        for (name, list) in [("allow", &self.allow), ("route", &self.routes)] {
            if list.is_empty() {
                table.remove(name);
            } else {
                table.insert(name, texts(list));
            }
        }
    }
}

/// All `[[tunnel.peer]]` entries of a document.
pub(super) fn read_all(item: &Item) -> Result<Vec<TunnelEntry>, ConfigError> {
    let Item::ArrayOfTables(tables) = item else {
        let line = "tunnel.peer: write each tunnel as a [[tunnel.peer]] table";
        return Err(ConfigError::Invalid(line.into()));
    };
    if tables.len() > TUNNELS_MAX {
        return Err(ConfigError::Invalid(format!("tunnel.peer: at most {TUNNELS_MAX} tunnels")));
    }
    tables.iter().zip(1..).map(|(table, number)| TunnelEntry::read(table, number)).collect()
}

/// What no entry can say by itself: each is a friend's, and no network is two friends'.
pub(super) fn check(tunnels: &[TunnelEntry], friends: &[FriendEntry]) -> Result<(), ConfigError> {
    let title = |key: &PublicKey| friends.iter().find(|f| f.card.key == *key).map(FriendEntry::title);
    let mut routes = Routes::default();
    for (number, tunnel) in (0u32..).zip(tunnels) {
        let Some(name) = title(&tunnel.peer) else {
            return Err(ConfigError::Conflict(format!(
                "there is a tunnel to {}, who is no friend: `tornet tunnel down --peer {}` removes it",
                tunnel.peer, tunnel.peer
            )));
        };
        if tunnels[..number as usize].iter().any(|other| other.peer == tunnel.peer) {
            return Err(ConfigError::Invalid(format!("two [[tunnel.peer]] entries for {name}: remove one")));
        }
        for prefix in tunnel.allowed() {
            routes.insert(prefix, number).map_err(|taken| match taken {
                Taken::By(prefix) => {
                    let other = routes.owner(prefix.address()).and_then(|other| tunnels.get(other as usize));
                    let other = other.and_then(|other| title(&other.peer)).unwrap_or_default();
                    ConfigError::Conflict(format!(
                        "{prefix} is allowed for the tunnel to {other} already: name what belongs to {name} \
                         with --allow, such as its own address"
                    ))
                }
                Taken::Full => ConfigError::Conflict(taken.to_string()),
            })?;
        }
    }
    Ok(())
}

/// Enters a tunnel, or changes the one to the same friend. Returns whether it is new.
pub(super) fn enter(document: &mut DocumentMut, tunnel: &TunnelEntry) -> Result<bool, ConfigError> {
    let tables = tables_mut(document)?;
    let key = tunnel.peer.to_string();
    let known = tables.iter().position(|t| t.get("key").and_then(Item::as_str) == Some(&key));
    if let Some(table) = known.and_then(|index| tables.get_mut(index)) {
        tunnel.write(table);
        return Ok(false);
    }
    let mut table = Table::new();
    tunnel.write(&mut table);
    tables.push(table);
    Ok(true)
}

/// Takes out the tunnel to a friend, or all of them. Returns what was taken out.
pub(super) fn remove(
    document: &mut DocumentMut,
    config: &Config,
    peer: Option<&PublicKey>,
) -> Result<Vec<TunnelEntry>, ConfigError> {
    let removed: Vec<TunnelEntry> =
        config.tunnels.iter().filter(|t| peer.is_none_or(|peer| *peer == t.peer)).cloned().collect();
    if !removed.is_empty() {
        let keys: Vec<String> = removed.iter().map(|tunnel| tunnel.peer.to_string()).collect();
        let gone = |table: &Table| {
            table.get("key").and_then(Item::as_str).is_some_and(|key| keys.iter().any(|gone| gone == key))
        };
        tables_mut(document)?.retain(|table| !gone(table));
    }
    Ok(removed)
}

fn tables_mut(document: &mut DocumentMut) -> Result<&mut ArrayOfTables, ConfigError> {
    let wrong = || ConfigError::Invalid("tunnel.peer: write each tunnel as a [[tunnel.peer]] table".into());
    let mut implicit = Table::new();
    implicit.set_implicit(true);
    let tunnel = document.entry("tunnel").or_insert(Item::Table(implicit));
    let tunnel = tunnel.as_table_mut().ok_or_else(wrong)?;
    let peers = tunnel.entry("peer").or_insert(Item::ArrayOfTables(ArrayOfTables::new()));
    peers.as_array_of_tables_mut().ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefixes(list: &[&str]) -> Vec<Prefix> {
        list.iter().map(|text| text.parse().expect("a network")).collect()
    }

    #[test]
    fn what_is_allowed_is_the_network_unless_it_is_named() {
        let mut tunnel = TunnelEntry {
            peer: PublicKey([1; 32]),
            addresses: prefixes(&["10.9.0.1/24", "fd00::1/64"]),
            allow: Vec::new(),
            routes: prefixes(&["192.168.7.0/24"]),
        };
        assert_eq!(tunnel.allowed(), prefixes(&["10.9.0.0/24", "192.168.7.0/24", "fd00::/64"]));
        tunnel.allow = prefixes(&["10.9.0.2"]);
        assert_eq!(tunnel.allowed(), prefixes(&["10.9.0.2/32", "192.168.7.0/24"]));
    }

    #[test]
    fn the_own_address_is_not_the_friends() {
        let key = PublicKey([1; 32]);
        let read = |rest: &str| {
            let text = format!("[[tunnel.peer]]\nkey = \"{key}\"\n{rest}\n");
            let document: DocumentMut = text.parse().expect("TOML");
            read_all(&document["tunnel"]["peer"]).map(drop).map_err(|error| error.to_string())
        };
        for wrong in [
            "addr = [\"10.9.0.1\"]",
            "addr = [\"fd00::1/128\"]",
            "addr = [\"10.9.0.1/24\"]\nallow = [\"10.9.0.1\"]",
        ] {
            assert!(
                read(wrong).is_err_and(|why| why.contains("this host's own")),
                "{wrong}: {:?}",
                read(wrong)
            );
        }
        for right in ["addr = [\"10.9.0.1/24\"]", "addr = [\"10.9.0.1\"]\nallow = [\"10.9.0.2\"]"] {
            assert_eq!(read(right), Ok(()), "{right}");
        }
    }
}
