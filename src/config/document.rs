//! `tornet.toml` as the operator's document: read as a whole, edited in place, written atomically.

use std::path::{Path, PathBuf};

use toml_edit::{Array, DocumentMut, Item, Table, TableLike, Value};

use super::keys::{KEYS, Key, Kind, unknown};
use super::{Config, ConfigError, FriendEntry, atomic, friends};
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
        let bytes = atomic::read_bounded(path, CONFIG_SIZE_MAX).map_err(|e| ConfigError::io("read", path, e))?;
        let text = String::from_utf8(bytes)
            .map_err(|_| ConfigError::Invalid(format!("{}: not UTF-8 text", path.display())))?;
        Self::parse(path, &text)
    }

    /// As [`Self::load`], from text that is not yet in the file.
    pub fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let at = |error: &dyn std::fmt::Display| ConfigError::Invalid(format!("{}: {error}", path.display()));
        let document: DocumentMut = text.parse().map_err(|error: toml_edit::TomlError| {
            let line = error.span().map_or(1, |span| 1 + text[..span.start.min(text.len())].matches('\n').count());
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

    /// Sets keys from the command line's texts (lists are separated by commas); `None` takes a key out,
    /// so that its default applies. All or none; writes the file.
    pub fn set(&mut self, changes: &[(&str, Option<&str>)]) -> Result<Vec<&'static Key>, ConfigError> {
        let keys: Vec<&'static Key> = changes.iter().map(|(name, _)| Key::find(name)).collect::<Result<_, _>>()?;
        self.edit(|document, _| {
            for (key, (_, text)) in keys.iter().zip(changes) {
                match text {
                    Some(text) => assign(document, key, text)?,
                    None => unassign(document, key.name),
                }
            }
            Ok(keys)
        })
    }

    /// Enters or changes a friend and writes the file. Returns whether the friend is new.
    pub fn add_friend(&mut self, friend: &FriendEntry) -> Result<bool, ConfigError> {
        self.edit(|document, config| friends::enter(document, config, friend))
    }

    /// Takes a friend out and writes the file.
    pub fn remove_friend(&mut self, who: &str) -> Result<FriendEntry, ConfigError> {
        self.edit(|document, config| friends::remove(document, config, who))
    }

    /// Edits a copy, checks all of it, writes it, and only then adopts it.
    fn edit<T>(
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
        text.push_str(&format!("\n# {}\n{lead}{name} = {}\n", key.what, literal(key.kind, example).to_string().trim()));
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
            table.insert(name, Item::Value(new));
        }
    }
    Ok(())
}

fn unassign(document: &mut DocumentMut, name: &str) {
    match name.rsplit_once('.') {
        None => {
            document.as_table_mut().remove(name);
        }
        Some((head, name)) => {
            if let Some(table) = document.get_mut(head).and_then(Item::as_table_like_mut) {
                table.remove(name);
            }
        }
    }
}
