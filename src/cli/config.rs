//! `config get` and `config set`.

use hyper::Method;
use serde_json::{Value, json};

use super::client::ask;
use super::friend::offline;
use super::show::table;
use super::{Failure, args, print, tell};
use crate::api::settings::settings_json;
use crate::config::NodeDir;
use crate::config::keys::Key;

pub(super) fn config(dir: &NodeDir, command: args::Config) -> Result<(), Failure> {
    match command {
        args::Config::Get { key, json } => get(dir, key.as_deref(), json),
        args::Config::Set { key, value } => set(dir, &key, value.as_deref()),
    }
}

fn get(dir: &NodeDir, key: Option<&str>, as_json: bool) -> Result<(), Failure> {
    if let Some(key) = key {
        Key::find(key)?;
    }
    // From the file, which holds what the operator decided; the daemon may not have followed yet.
    let rows = settings_json(dir.load_config()?.config());
    let rows: Vec<Value> = rows.into_iter().filter(|row| key.is_none_or(|key| row["key"] == key)).collect();
    let text = |row: &Value, field: &str| row[field].as_str().unwrap_or_default().to_owned();
    match (as_json, key, rows.as_slice()) {
        (true, _, _) => print(json!({ "settings": rows })),
        (false, Some(_), [row]) => print(text(row, "value")),
        _ => {
            let cells = |row: &Value| vec![text(row, "key"), text(row, "value"), text(row, "what")];
            let rows: Vec<Vec<String>> = rows.iter().map(cells).collect();
            print(table(&["KEY", "VALUE", "MEANING"], &[], &rows).trim_end())
        }
    }
}

fn set(dir: &NodeDir, key: &str, value: Option<&str>) -> Result<(), Failure> {
    let live = Key::find(key)?.live;
    match ask(dir, Method::PATCH, "/v1/config", Some(&json!({ key: value })))? {
        None => {
            offline(dir, |file| file.set(&[(key, value)]))?;
            tell(format!("{key} is saved"));
        }
        Some(_) if live => tell(format!("{key} is saved and in use")),
        Some(_) => tell(format!("{key} is saved; restart the daemon to use it")),
    }
    Ok(())
}
