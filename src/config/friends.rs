//! `[[friend]]` entries: peers trusted by the operator.

use std::net::SocketAddr;

use toml_edit::{Array, ArrayOfTables, DocumentMut, Item, Table, TableLike, Value, value};

use super::keys::{label, unknown};
use super::{Config, ConfigError, ConfigFile};
use crate::base::PublicKey;
use crate::base::id::parse_hex;
use crate::crypto::IdentityCard;
use crate::crypto::rank::PLACE_FLOOR_BITS;
use crate::limits::{ADDRESSES_PER_PEER_MAX, FRIENDS_MAX};
use crate::wire::bridge::{BadBridge, BridgeUrl};
use crate::wire::invite::{Invite, network_hash};

/// Trust of a friend for whom none is given.
pub const DEFAULT_TRUST: u8 = 50;

/// One friend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FriendEntry {
    /// What the operator calls it.
    pub name: Option<String>,
    /// Who it is.
    pub card: IdentityCard,
    /// Where it may be reached, best first.
    pub addresses: Vec<SocketAddr>,
    /// 0 to 100.
    pub trust: u8,
    /// Whether it is told of others, and others of it.
    pub introduce: bool,
    /// The bridge by which it is reached where UDP does not get through.
    pub bridge: Option<BridgeUrl>,
}

impl FriendEntry {
    /// The entry that an invitation makes in `config` for the node `own`. What is not given stays as it
    /// is when the friend is known already.
    pub fn from_invite(
        invite: Invite,
        trust: Option<u8>,
        name: Option<String>,
        config: &Config,
        own: &IdentityCard,
    ) -> Result<Self, ConfigError> {
        if invite.card.key == own.key {
            return Err(ConfigError::Conflict(
                "this invitation is this node's own: add it on the other node".into(),
            ));
        }
        if invite.network != network_hash(&config.network) {
            return Err(ConfigError::Conflict(format!(
                "this invitation is for another network; this node is in {:?} (setting `network`)",
                config.network
            )));
        }
        if trust.is_some_and(|trust| trust > 100) {
            return Err(ConfigError::Invalid("trust must be 0 to 100".into()));
        }
        let known = config.friends.iter().find(|friend| friend.card.key == invite.card.key);
        Ok(Self {
            name: name.or_else(|| known.and_then(|friend| friend.name.clone())),
            card: invite.card,
            addresses: invite.addresses,
            bridge: invite.bridge.or_else(|| known.and_then(|friend| friend.bridge.clone())),
            trust: trust.or(known.map(|friend| friend.trust)).unwrap_or(DEFAULT_TRUST),
            introduce: known.is_none_or(|friend| friend.introduce),
        })
    }

    /// The name, or the node id.
    pub fn title(&self) -> String {
        self.name.clone().unwrap_or_else(|| self.card.node_id().to_string())
    }

    fn read(table: &dyn TableLike, number: usize) -> Result<Self, ConfigError> {
        let wrong = |field: &str, wanted: &str| {
            ConfigError::Invalid(format!("friend {number}: {field} must be {wanted}"))
        };
        let known = ["key", "place_nonce", "rank_nonce", "addresses", "trust", "name", "introduce", "bridge"];
        if let Some((name, _)) = table.iter().find(|(name, _)| !known.contains(name)) {
            return Err(unknown(&format!("friend.{name}")));
        }
        let text = |field: &str| table.get(field).and_then(Item::as_str);
        let nonce = |field: &str| {
            let bytes = text(field).and_then(|text| parse_hex::<8>(text).ok());
            bytes.map(u64::from_be_bytes).ok_or_else(|| wrong(field, "16 hexadecimal digits"))
        };
        let key: Option<PublicKey> = text("key").and_then(|text| text.parse().ok());
        let card = IdentityCard {
            key: key.ok_or_else(|| wrong("key", "64 hexadecimal digits"))?,
            place_nonce: nonce("place_nonce")?,
            rank_nonce: nonce("rank_nonce")?,
        };
        check_card(&card).map_err(|error| ConfigError::Invalid(format!("friend {number}: {error}")))?;
        let addresses = match table.get("addresses") {
            None => Vec::new(),
            Some(item) => item
                .as_array()
                .filter(|array| array.len() <= ADDRESSES_PER_PEER_MAX)
                .and_then(|array| {
                    array.iter().map(|v| v.as_str().and_then(|text| text.parse().ok())).collect()
                })
                .ok_or_else(|| wrong("addresses", "at most 8 addresses such as \"192.0.2.1:4600\""))?,
        };
        let trust = match table.get("trust") {
            None => DEFAULT_TRUST,
            Some(item) => item
                .as_integer()
                .and_then(|n| u8::try_from(n).ok())
                .filter(|n| *n <= 100)
                .ok_or_else(|| wrong("trust", "0 to 100"))?,
        };
        let name = match table.get("name") {
            None => None,
            Some(item) => {
                let text = item.as_str().ok_or_else(|| wrong("name", "a text"))?;
                Some(label(text).map_err(|wanted| wrong("name", &wanted))?)
            }
        };
        let introduce = match table.get("introduce") {
            None => true,
            Some(item) => item.as_bool().ok_or_else(|| wrong("introduce", "true or false"))?,
        };
        let bridge = match table.get("bridge") {
            None => None,
            Some(item) => {
                let url = item.as_str().ok_or_else(|| wrong("bridge", "a text"))?;
                Some(url.parse().map_err(|bad: BadBridge| wrong("bridge", &format!("a URL: {bad}")))?)
            }
        };
        Ok(Self { name, card, addresses, trust, introduce, bridge })
    }

    fn write(&self, table: &mut Table) {
        let set = |table: &mut Table, key: &str, item: Item| {
            table.insert(key, item);
        };
        match &self.name {
            Some(name) => set(table, "name", value(name)),
            None => {
                table.remove("name");
            }
        }
        set(table, "key", value(self.card.key.to_string()));
        set(table, "place_nonce", value(format!("{:016x}", self.card.place_nonce)));
        set(table, "rank_nonce", value(format!("{:016x}", self.card.rank_nonce)));
        let addresses: Array = self.addresses.iter().map(SocketAddr::to_string).collect();
        set(table, "addresses", value(addresses));
        set(table, "trust", value(i64::from(self.trust)));
        // The usual is not written out.
        if self.introduce {
            table.remove("introduce");
        } else {
            set(table, "introduce", value(false));
        }
        match &self.bridge {
            Some(bridge) => set(table, "bridge", value(bridge.to_string())),
            None => {
                table.remove("bridge");
            }
        }
    }
}

fn check_card(card: &IdentityCard) -> Result<(), String> {
    card.check(PLACE_FLOOR_BITS).map_err(|bad| bad.to_string())
}

/// All `[[friend]]` entries of a document.
pub(super) fn read_all(item: &Item) -> Result<Vec<FriendEntry>, ConfigError> {
    let tables: Vec<&dyn TableLike> = match item {
        Item::ArrayOfTables(array) => array.iter().map(|table| table as &dyn TableLike).collect(),
        Item::Value(Value::Array(array)) => array
            .iter()
            .map(|v| v.as_inline_table().map(|t| t as &dyn TableLike))
            .collect::<Option<_>>()
            .ok_or_else(|| ConfigError::Invalid("friend: every entry is a [[friend]] table".into()))?,
        _ => return Err(ConfigError::Invalid("friend: write each friend as a [[friend]] table".into())),
    };
    if tables.len() > FRIENDS_MAX {
        return Err(ConfigError::Invalid(format!("friend: at most {FRIENDS_MAX} friends")));
    }
    let mut friends: Vec<FriendEntry> = Vec::with_capacity(tables.len());
    let mut keys = std::collections::BTreeMap::new();
    let mut names = std::collections::BTreeMap::new();
    for (index, table) in tables.into_iter().enumerate() {
        let number = index + 1;
        let friend = FriendEntry::read(table, number)?;
        if let Some(first) = keys.insert(friend.card.key, number) {
            return Err(ConfigError::Invalid(format!(
                "friend {number} has the same key as friend {first}: remove one"
            )));
        }
        if let Some(name) = &friend.name
            && let Some(first) = names.insert(name.clone(), number)
        {
            return Err(ConfigError::Invalid(format!(
                "friend {number} has the same name as friend {first}: rename one"
            )));
        }
        friends.push(friend);
    }
    Ok(friends)
}

/// Enters a friend, or changes the entry with the same key. Returns whether it is new.
pub(super) fn enter(
    document: &mut DocumentMut,
    config: &Config,
    friend: &FriendEntry,
) -> Result<bool, ConfigError> {
    check_card(&friend.card)
        .map_err(|error| ConfigError::Invalid(format!("this friend is refused: {error}")))?;
    if let Some(name) = &friend.name {
        label(name).map_err(|wanted| ConfigError::Invalid(format!("a friend's name must be {wanted}")))?;
        if config.friends.iter().any(|f| f.name.as_ref() == Some(name) && f.card.key != friend.card.key) {
            return Err(ConfigError::Conflict(format!(
                "another friend is named {name:?}: choose another --name"
            )));
        }
    }
    let index = config.friends.iter().position(|known| known.card.key == friend.card.key);
    if index.is_none() && config.friends.len() >= FRIENDS_MAX {
        return Err(ConfigError::Conflict(format!(
            "there are {FRIENDS_MAX} friends already: remove one first"
        )));
    }
    if let Some(index) = index {
        if let Some(table) = tables_mut(document)?.get_mut(index) {
            friend.write(table);
        }
        return Ok(false);
    }
    let mut table = Table::new();
    friend.write(&mut table);
    // Comments at the file's end stay before the new entry, with the table that they belong to.
    let above = document.trailing().as_str().unwrap_or_default().to_owned();
    if !above.trim().is_empty() {
        table.decor_mut().set_prefix(format!("{}\n\n", above.trim_end()));
        document.set_trailing("");
    }
    tables_mut(document)?.push(table);
    Ok(true)
}

/// What is to be said of a friend from now on; what is `None` stays.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FriendChange {
    /// How far it is trusted.
    pub trust: Option<u8>,
    /// What the operator calls it.
    pub name: Option<String>,
    /// Whether it is told of others, and others of it.
    pub introduce: Option<bool>,
}

/// Changes what is said of a friend.
pub(super) fn change(
    document: &mut DocumentMut,
    config: &Config,
    who: &str,
    change: FriendChange,
) -> Result<FriendEntry, ConfigError> {
    if change.trust.is_some_and(|trust| trust > 100) {
        return Err(ConfigError::Invalid("trust must be 0 to 100".into()));
    }
    let known = &config.friends[find(&config.friends, who)?];
    let friend = FriendEntry {
        name: change.name.or_else(|| known.name.clone()),
        trust: change.trust.unwrap_or(known.trust),
        introduce: change.introduce.unwrap_or(known.introduce),
        ..known.clone()
    };
    enter(document, config, &friend)?;
    Ok(friend)
}

/// Takes the friend out that `who` names: its name, or the beginning (4 digits or more) of its node id
/// or key.
pub(super) fn remove(
    document: &mut DocumentMut,
    config: &Config,
    who: &str,
) -> Result<FriendEntry, ConfigError> {
    let index = find(&config.friends, who)?;
    let tables = tables_mut(document)?;
    let prefix =
        |table: &Table| table.decor().prefix().and_then(|raw| raw.as_str()).unwrap_or_default().to_owned();
    let above = tables.get(index).map(prefix).unwrap_or_default();
    tables.remove(index);
    // Comments above an entry may belong to what comes before it: they move to what follows.
    if !above.trim().is_empty() {
        match tables.get_mut(index) {
            Some(next) => {
                let both = above + &prefix(next);
                next.decor_mut().set_prefix(both);
            }
            None => {
                let both = above + document.trailing().as_str().unwrap_or_default();
                document.set_trailing(both);
            }
        }
    }
    Ok(config.friends[index].clone())
}

impl ConfigFile {
    /// Says by which bridge a friend is reached, none for no bridge, and writes the file. The friend as it is then.
    pub fn set_friend_bridge(
        &mut self,
        who: &str,
        bridge: Option<BridgeUrl>,
    ) -> Result<FriendEntry, ConfigError> {
        self.edit(|document, config| {
            let index = find(&config.friends, who)?;
            let entry = FriendEntry { bridge, ..config.friends[index].clone() };
            enter(document, config, &entry)?;
            Ok(entry)
        })
    }
}

/// The index of the friend that `who` names.
pub fn find(friends: &[FriendEntry], who: &str) -> Result<usize, ConfigError> {
    if let Some(index) = friends.iter().position(|friend| friend.name.as_deref() == Some(who)) {
        return Ok(index);
    }
    let prefix = who.to_ascii_lowercase();
    let named = |friend: &FriendEntry| {
        friend.card.node_id().to_string().starts_with(&prefix)
            || friend.card.key.to_string().starts_with(&prefix)
    };
    let short = who.chars().count() < 4;
    let found: Vec<usize> =
        friends.iter().enumerate().filter(|(_, f)| !short && named(f)).map(|(index, _)| index).collect();
    let shown: String = who.chars().take(80).collect();
    match found[..] {
        [index] => Ok(index),
        [] => Err(ConfigError::Missing(format!("no friend is called {shown:?}: see `tornet friend list`"))),
        _ => Err(ConfigError::Conflict(format!(
            "{} friends begin with {shown:?}: give more digits",
            found.len()
        ))),
    }
}

/// The friends as an array of tables, converting an inline array that the operator wrote.
fn tables_mut(document: &mut DocumentMut) -> Result<&mut ArrayOfTables, ConfigError> {
    if let Some(Item::Value(Value::Array(inline))) = document.get("friend") {
        let tables: ArrayOfTables = inline
            .iter()
            .filter_map(Value::as_inline_table)
            .map(|table| table.clone().into_table())
            .collect();
        document.remove("friend");
        document.insert("friend", Item::ArrayOfTables(tables));
    }
    let item = document.entry("friend").or_insert(Item::ArrayOfTables(ArrayOfTables::new()));
    item.as_array_of_tables_mut()
        .ok_or_else(|| ConfigError::Invalid("friend: write each friend as a [[friend]] table".into()))
}
