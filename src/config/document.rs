//! `tornet.toml` as the operator's document: read as a whole, edited in place, written atomically.

use std::path::{Path, PathBuf};

use toml_edit::{Array, DocumentMut, Item, Table, TableLike, Value};

use super::keys::{KEYS, Key, Kind, unknown};
use super::{Config, ConfigError, FriendChange, FriendEntry, TunnelEntry, atomic, friends, tunnels};
use crate::base::PublicKey;
use crate::limits::CONFIG_SIZE_MAX;

/// The file, its text with comments, and what it says.
pub struct ConfigFile {
    path: PathBuf,
    document: DocumentMut,
    config: Config,
}

impl ConfigFile {
    /// Reads and checks the file.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let bytes =
            atomic::read_bounded(path, CONFIG_SIZE_MAX).map_err(|e| ConfigError::io("read", path, e))?;
        let text = String::from_utf8(bytes)
            .map_err(|_| ConfigError::Invalid(format!("{}: not UTF-8 text", path.display())))?;
        Self::parse(path, &text)
    }

    /// As [`Self::load`], from text that is not yet in the file.
    pub fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let at = |error: &dyn std::fmt::Display| ConfigError::Invalid(format!("{}: {error}", path.display()));
        let document: DocumentMut = text.parse().map_err(|error: toml_edit::TomlError| {
            let line =
                error.span().map_or(1, |span| 1 + text[..span.start.min(text.len())].matches('\n').count());
            let message: Vec<&str> = error.message().lines().collect();
            at(&format!("line {line}: {}", message.join(", ")))
        })?;
        let config = read(&document).map_err(|error| at(&error))?;
        Ok(Self { path: path.to_owned(), document, config })
    }

    /// What the file says.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The text as it would be written.
    pub fn text(&self) -> String {
        self.document.to_string()
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Sets keys from the command line's texts (lists are separated by commas); `None` stands for the
    /// default. All or none; writes the file.
    pub fn set(&mut self, changes: &[(&str, Option<&str>)]) -> Result<Vec<&'static Key>, ConfigError> {
        let keys: Vec<&'static Key> =
            changes.iter().map(|(name, _)| Key::find(name)).collect::<Result<_, _>>()?;
        self.edit(|document, _| {
            for (key, (_, text)) in keys.iter().zip(changes) {
                // The default is written out: taking the line away would take its comments away.
                let default = key.show(&Config::default());
                assign(document, key, text.unwrap_or(&default))?;
            }
            Ok(keys)
        })
    }

    /// Enters or changes a friend and writes the file. Returns whether the friend is new.
    pub fn add_friend(&mut self, friend: &FriendEntry) -> Result<bool, ConfigError> {
        self.edit(|document, config| friends::enter(document, config, friend))
    }

    /// Changes what is said of a friend, and writes the file.
    pub fn change_friend(&mut self, who: &str, change: FriendChange) -> Result<FriendEntry, ConfigError> {
        self.edit(|document, config| friends::change(document, config, who, change))
    }

    /// Takes a friend out and writes the file.
    pub fn remove_friend(&mut self, who: &str) -> Result<FriendEntry, ConfigError> {
        self.edit(|document, config| friends::remove(document, config, who))
    }

    /// Enters or changes a tunnel and writes the file. Returns whether it is new.
    pub fn add_tunnel(&mut self, tunnel: &TunnelEntry) -> Result<bool, ConfigError> {
        self.edit(|document, _| tunnels::enter(document, tunnel))
    }

    /// Takes the tunnel to one friend out, or all, and writes the file.
    pub fn remove_tunnels(&mut self, peer: Option<&PublicKey>) -> Result<Vec<TunnelEntry>, ConfigError> {
        self.edit(|document, config| tunnels::remove(document, config, peer))
    }

    /// Edits a copy, checks all of it, writes it, and only then adopts it.
    pub(super) fn edit<T>(
        &mut self,
        change: impl FnOnce(&mut DocumentMut, &Config) -> Result<T, ConfigError>,
    ) -> Result<T, ConfigError> {
        let mut document = self.document.clone();
        let result = change(&mut document, &self.config)?;
        let config = read(&document)?;
        atomic::replace(&self.path, document.to_string().as_bytes(), 0o600)
            .map_err(|error| ConfigError::io("write", &self.path, error))?;
        self.document = document;
        self.config = config;
        Ok(result)
    }
}

/// The text of a new `tornet.toml`.
pub fn template(config: &Config) -> String {
    let mut text = String::from(
        "# tornet's settings. `tornet config set KEY VALUE` edits this file and keeps your comments;\n\
         # docs/operating.md explains every key. Keys that are commented out have their defaults.\n",
    );
    let defaults = Config::default();
    let mut table = "";
    for key in KEYS {
        let (head, name) = key.name.rsplit_once('.').unwrap_or(("", key.name));
        if head != table {
            table = head;
            text.push_str(&format!("\n[{head}]"));
        }
        let shown = key.show(config);
        let lead = if shown == key.show(&defaults) && key.name != "port" { "# " } else { "" };
        let example = if key.name == "api" && shown.is_empty() { "127.0.0.1:4680" } else { &shown };
        text.push_str(&format!(
            "\n# {}\n{lead}{name} = {}\n",
            key.what,
            literal(key.kind, example).to_string().trim()
        ));
    }
    text
}

/// Every leaf of the document goes through the table of keys; nothing is skipped.
fn read(document: &DocumentMut) -> Result<Config, ConfigError> {
    let mut config = Config::default();
    read_table(document.as_table(), "", &mut config)?;
    config.check()?;
    Ok(config)
}

fn read_table(table: &dyn TableLike, prefix: &str, config: &mut Config) -> Result<(), ConfigError> {
    for (name, item) in table.iter() {
        let full = if prefix.is_empty() { name.to_owned() } else { format!("{prefix}.{name}") };
        if full == "friend" {
            config.friends = friends::read_all(item)?;
        } else if full == "tunnel.peer" {
            config.tunnels = tunnels::read_all(item)?;
        } else if let Some(key) = KEYS.iter().find(|key| key.name == full) {
            key.read(config, &values(key, item)?)?;
        } else if let Some(inner) = item.as_table_like()
            && KEYS.iter().any(|key| key.name.split('.').next() == Some(&full))
        {
            read_table(inner, &full, config)?;
        } else {
            return Err(unknown(&full));
        }
    }
    Ok(())
}

/// The texts of a TOML value, once it is of the key's kind.
fn values(key: &Key, item: &Item) -> Result<Vec<String>, ConfigError> {
    let wanted = match key.kind {
        Kind::Text => item.as_str().map(|text| vec![text.to_owned()]).ok_or("a text in quotes"),
        Kind::Number => item.as_integer().map(|n| vec![n.to_string()]).ok_or("a whole number"),
        Kind::Switch => item.as_bool().map(|on| vec![on.to_string()]).ok_or("true or false"),
        Kind::List => item
            .as_array()
            .and_then(|array| array.iter().map(|v| v.as_str().map(str::to_owned)).collect())
            .ok_or("a list of texts such as [\"…\", \"…\"]"),
    };
    wanted.map_err(|wanted| ConfigError::Invalid(format!("{}: must be {wanted}", key.name)))
}

/// A value of the wanted kind from text; text that does not fit stays text and fails the check.
fn literal(kind: Kind, text: &str) -> Value {
    match kind {
        Kind::Text => text.into(),
        Kind::Number => text.trim().parse::<i64>().map_or_else(|_| text.into(), Value::from),
        Kind::Switch => text.trim().parse::<bool>().map_or_else(|_| text.into(), Value::from),
        Kind::List => {
            let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
            Value::Array(parts.collect::<Array>())
        }
    }
}

fn assign(document: &mut DocumentMut, key: &Key, text: &str) -> Result<(), ConfigError> {
    let (head, name) = key.name.rsplit_once('.').unwrap_or(("", key.name));
    if let Some(uncommented) = uncomment(document, key, &literal(key.kind, text)) {
        *document = uncommented;
        return Ok(());
    }
    let table: &mut dyn TableLike = if head.is_empty() {
        document.as_table_mut()
    } else {
        document
            .entry(head)
            .or_insert(Item::Table(Table::new()))
            .as_table_like_mut()
            .ok_or_else(|| ConfigError::Invalid(format!("{head}: must be a table, [{head}]")))?
    };
    let mut new = literal(key.kind, text);
    match table.get_mut(name) {
        Some(item) => {
            if let Some(old) = item.as_value() {
                // The operator's comment behind the value stays.
                *new.decor_mut() = old.decor().clone();
            }
            *item = Item::Value(new);
        }
        None => {
            let first = table.is_empty();
            table.insert(name, Item::Value(new));
            // Its own comment, else it would stand under that of its neighbour.
            if let Some(mut key_in_file) = table.key_mut(name).filter(|_| !first) {
                key_in_file.leaf_decor_mut().set_prefix(format!("\n# {}\n", key.what));
            }
        }
    }
    Ok(())
}

/// The document with a value in the place where the key stands commented out, as the template has it; `None` when it
/// is there already, or nowhere.
fn uncomment(document: &DocumentMut, key: &Key, value: &Value) -> Option<DocumentMut> {
    let (head, name) = key.name.rsplit_once('.').unwrap_or(("", key.name));
    let has = |document: &DocumentMut| match head {
        "" => document.contains_key(name),
        head => {
            document.get(head).and_then(Item::as_table_like).is_some_and(|table| table.contains_key(name))
        }
    };
    if has(document) {
        return None;
    }
    let text = document.to_string();
    let (mut table, mut at) = ("", 0);
    for line in text.split_inclusive('\n') {
        let bare = line.trim();
        if let Some(header) = bare.strip_prefix('[') {
            table = header.split(']').next().unwrap_or("").trim();
        }
        let stands = bare.strip_prefix('#').map(str::trim_start).and_then(|rest| rest.strip_prefix(name));
        if table == head && stands.is_some_and(|rest| rest.trim_start().starts_with('=')) {
            let (before, after) = (&text[..at], &text[at + line.len()..]);
            let new = format!("{before}{name} = {}\n{after}", value.to_string().trim());
            // It may have stood in the middle of a text.
            return new.parse().ok().filter(has);
        }
        at += line.len();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::PublicKey;
    use crate::crypto::rank::PLACE_FLOOR_BITS;
    use crate::crypto::{Identity, IdentityCard, Secret};
    use proptest::prelude::*;

    fn card(seed: u8) -> IdentityCard {
        let card = *Identity::passing(Secret::from_bytes([seed; 32]), 0, PLACE_FLOOR_BITS).card();
        IdentityCard { rank_nonce: u64::MAX, ..card }
    }

    fn friend(seed: u8, name: Option<&str>) -> FriendEntry {
        let addresses = vec!["[2001:db8::1]:4600".parse().expect("address")];
        let (name, card) = (name.map(str::to_owned), card(seed));
        FriendEntry { name, card, addresses, trust: 70, bridge: None, introduce: true }
    }

    fn parse(text: &str) -> Result<Config, String> {
        let file = ConfigFile::parse(Path::new("tornet.toml"), text);
        file.map(|file| file.config().clone()).map_err(|error| error.to_string())
    }

    fn file(text: &str) -> (tempfile::TempDir, ConfigFile) {
        let dir = tempfile::tempdir().expect("temporary folder");
        let path = dir.path().join("tornet.toml");
        std::fs::write(&path, text).expect("written");
        let file = ConfigFile::load(&path).expect("loaded");
        (dir, file)
    }

    #[test]
    fn an_empty_file_and_the_template_are_the_defaults() {
        assert_eq!(parse(""), Ok(Config::default()));
        assert_eq!(parse(&template(&Config::default())), Ok(Config::default()));
        let mut config = Config { port: 4711, api: "127.0.0.1:1".parse().ok(), ..Config::default() };
        config.store_cache_max = 0;
        assert_eq!(parse(&template(&config)), Ok(config));
    }

    #[test]
    fn the_template_can_be_uncommented_as_it_stands() {
        let text = template(&Config::default());
        let uncommented: String = text
            .lines()
            .map(|line| line.strip_prefix("# ").filter(|rest| rest.contains(" = ")).unwrap_or(line))
            .map(|line| format!("{line}\n"))
            .collect();
        let config = parse(&uncommented).expect("valid");
        assert_eq!(Config { api: None, ..config }, Config::default());
    }

    #[test]
    fn wrong_files_are_refused_with_the_place_and_the_nearest_key() {
        let hex = |n: usize| "0".repeat(n);
        let bad_card =
            format!("[[friend]]\nkey='{}'\nplace_nonce='{}'\nrank_nonce='{}'", hex(64), hex(16), hex(16));
        for (text, wanted) in [
            ("prot = 1", "unknown setting \"prot\"; the nearest one is \"port\""),
            ("[store]\nlocalmax = '1GiB'", "\"store.local_max\""),
            ("[stores]\nlocal_max = '1GiB'", "unknown setting \"stores\""),
            ("port = '1'", "port: must be a whole number"),
            ("port = 70000", "port: \"70000\" will not do"),
            ("a = 1\nport = \n", "line 2"),
            ("port = 1\nport = 2", "line 2"),
            ("api = '0.0.0.0:80'", "api_public"),
            ("friend = 1", "[[friend]]"),
            ("[[friend]]\nkeey = 'x'", "\"friend.key\""),
            ("[[friend]]\nkey = 'x'", "friend 1: key must be 64"),
            (&bad_card, "friend 1: "),
        ] {
            let error = parse(text).expect_err(text);
            assert!(error.contains(wanted), "{text}: {error}");
            assert!(!error.contains('\n') && error.starts_with("tornet.toml: "), "{error}");
        }
    }

    #[test]
    fn tunnels_are_entered_changed_and_removed_and_belong_to_friends() {
        let (_dir, mut file) = file(&template(&Config::default()));
        let tunnel = |seed: u8, addr: &str, allow: &[&str]| crate::config::TunnelEntry {
            peer: card(seed).key,
            addresses: vec![addr.parse().expect("a network")],
            allow: allow.iter().map(|text| text.parse().expect("a network")).collect(),
            routes: Vec::new(),
        };
        let stranger = file.add_tunnel(&tunnel(1, "10.9.0.1/24", &[])).expect_err("no friend");
        assert!(stranger.to_string().contains("no friend"), "{stranger}");
        let before = file.text();
        file.add_friend(&friend(1, Some("ann"))).expect("added");
        file.add_friend(&friend(2, Some("bob"))).expect("added");
        assert!(file.add_tunnel(&tunnel(1, "10.9.0.1/24", &[])).expect("added"));
        let taken = file.add_tunnel(&tunnel(2, "10.9.0.1/24", &[])).expect_err("taken").to_string();
        assert!(
            taken.contains("10.9.0.0/24") && taken.contains("ann") && taken.contains("--allow"),
            "{taken}"
        );
        assert!(file.add_tunnel(&tunnel(2, "10.9.0.1/24", &["10.9.0.3"])).expect("added"));
        assert!(!file.add_tunnel(&tunnel(1, "fd00::1/64", &[])).expect("changed"));
        let read = ConfigFile::load(file.path()).expect("loaded");
        assert_eq!(
            read.config().tunnels,
            [tunnel(1, "fd00::1/64", &[]), tunnel(2, "10.9.0.1/24", &["10.9.0.3"])]
        );
        let kept = file.remove_friend("bob").expect_err("has a tunnel");
        assert!(kept.to_string().contains("tunnel down --peer"), "{kept}");
        assert_eq!(file.remove_tunnels(Some(&card(2).key)).expect("removed").len(), 1);
        assert_eq!(file.remove_tunnels(None).expect("removed").len(), 1);
        assert_eq!(file.remove_tunnels(None).expect("none").len(), 0);
        file.remove_friend("ann").expect("removed");
        file.remove_friend("bob").expect("removed");
        assert_eq!(parse(&file.text()), parse(&before));
    }

    #[test]
    fn edits_keep_comments_and_order() {
        let (_dir, mut file) =
            file("# top\nport = 1 # here\n\n# of the store\n[store]\nlocal_max = \"1GiB\" # small\n");
        file.set(&[
            ("port", Some("2")),
            ("store.local_max", Some("2GiB")),
            ("listen", Some("127.0.0.1, ::1")),
        ])
        .expect("set");
        let text = std::fs::read_to_string(file.path()).expect("read");
        assert_eq!(
            text,
            "# top\nport = 2 # here\n\n# local IP addresses, one socket each\nlisten = [\"127.0.0.1\", \"::1\"]\n\n# of the store\n[store]\nlocal_max = \"2GiB\" # small\n"
        );
        file.set(&[("api", None), ("store.local_max", None), ("shards.pin", Some("false"))]).expect("set");
        assert!(
            file.text().contains("local_max = \"64GiB\" # small")
                && file.text().contains("[shards]\npin = false")
        );
        assert_eq!(file.config().api, None);
        assert_eq!(file.config().store_local_max, Config::default().store_local_max);
    }

    /// Found by review: it was written behind the last key of its table, under that one's comment.
    #[test]
    fn a_key_is_written_where_it_stands_commented_out() {
        let (_dir, mut file) = file(&template(&Config::default()));
        let before = file.text();
        for (key, value) in [("api", "127.0.0.1:4680"), ("listen", "127.0.0.1"), ("store.cache_max", "3GiB")]
        {
            file.set(&[(key, Some(value))]).expect("set");
        }
        let changed = before.lines().zip(file.text().lines().map(str::to_owned).collect::<Vec<_>>());
        let changed: Vec<_> = changed.filter(|(old, new)| old != new).map(|(_, new)| new).collect();
        assert_eq!(
            changed,
            ["listen = [\"127.0.0.1\"]", "api = \"127.0.0.1:4680\"", "cache_max = \"3GiB\""],
            "in the order of the file, and nothing else"
        );
        assert_eq!(before.lines().count(), file.text().lines().count());
    }

    #[test]
    fn a_refused_edit_changes_nothing() {
        let (_dir, mut file) = file("port = 1\n");
        assert!(file.set(&[("port", Some("2")), ("listen", Some("nowhere"))]).is_err());
        assert!(file.set(&[("prot", Some("2"))]).is_err());
        assert_eq!(file.config().port, 1);
        assert_eq!(std::fs::read_to_string(file.path()).expect("read"), "port = 1\n");
    }

    #[test]
    fn friends_come_change_and_go() {
        let (_dir, mut file) = file("# mine\n");
        assert!(file.add_friend(&friend(1, Some("alice"))).expect("added"));
        assert!(file.add_friend(&friend(2, None)).expect("added"));
        let changed = FriendEntry { trust: 1, ..friend(1, Some("alice")) };
        assert!(!file.add_friend(&changed).expect("changed"));
        assert!(matches!(file.add_friend(&friend(3, Some("alice"))), Err(ConfigError::Conflict(_))));
        assert!(matches!(file.add_friend(&friend(3, Some("a b"))), Err(ConfigError::Invalid(_))));
        let worthless = FriendEntry { card: IdentityCard { place_nonce: 0, ..card(3) }, ..friend(3, None) };
        assert!(matches!(file.add_friend(&worthless), Err(ConfigError::Invalid(_))));
        let again = ConfigFile::load(file.path()).expect("loaded");
        assert_eq!(again.config().friends, [changed, friend(2, None)]);
        assert!(again.text().starts_with("# mine\n"));

        let node = card(2).node_id().to_string();
        assert!(matches!(file.remove_friend(&node[..3]), Err(ConfigError::Missing(_))), "too short");
        assert_eq!(file.remove_friend(&node[..6].to_uppercase()).expect("removed").card, card(2));
        assert_eq!(file.remove_friend("alice").expect("removed").card, card(1));
        assert!(matches!(file.remove_friend("alice"), Err(ConfigError::Missing(_))));
        assert_eq!(file.config().friends, []);
        assert!(file.add_friend(&friend(1, None)).expect("added again"));
    }

    #[test]
    fn comments_around_friends_stay_with_what_they_are_about() {
        let (_dir, mut file) = file("[store]\n# cache_max = \"1GiB\"\n");
        file.add_friend(&friend(1, Some("alice"))).expect("added");
        file.add_friend(&friend(2, Some("bob"))).expect("added");
        assert!(
            file.text().starts_with("[store]\n# cache_max = \"1GiB\"\n\n[[friend]]\n"),
            "{}",
            file.text()
        );
        file.remove_friend("alice").expect("removed");
        assert!(file.text().starts_with("[store]\n# cache_max = \"1GiB\"\n\n"), "{}", file.text());
        file.remove_friend("bob").expect("removed");
        assert_eq!(file.text().trim_end(), "[store]\n# cache_max = \"1GiB\"");
    }

    #[test]
    fn friends_twice_and_inline_friends() {
        let (_dir, mut file) = file("friend = []\n");
        file.add_friend(&friend(1, Some("alice"))).expect("added");
        let entry = &file.text()[file.text().find("[[friend]]").expect("an entry")..];
        let twice = parse(&format!("{entry}\n{entry}")).expect_err("twice");
        assert!(twice.contains("same key"), "{twice}");
        let inline = format!("friend = [{{ {} }}]\n", entry.lines().skip(1).collect::<Vec<_>>().join(", "));
        let (_dir, mut file) = self::file(&inline);
        assert!(!file.add_friend(&friend(1, None)).expect("changed"));
        assert_eq!(file.config().friends, [friend(1, None)]);
    }

    #[test]
    fn a_prefix_that_fits_two_friends_is_ambiguous() {
        let alike = |n: u8| FriendEntry {
            card: IdentityCard { key: PublicKey([0xab; 32]), place_nonce: u64::from(n), rank_nonce: 0 },
            ..friend(1, None)
        };
        assert!(matches!(friends::find(&[alike(1), alike(2)], "abab"), Err(ConfigError::Conflict(_))));
    }

    proptest! {
        #[test]
        fn no_text_panics(text: String, key in "[a-z._]{0,12}", value: String) {
            let _ = parse(&text);
            let _ = parse(&format!("{key} = {value}"));
        }
    }
}
