//! `invite` and `friend`: with the daemon when it runs, on `tornet.toml` itself when it does not.

use hyper::Method;
use serde_json::{Value, json};

use super::client::{ask, segment};
use super::show::table;
use super::{Failure, args, print, tell};
use crate::api::friends::{friend_json, make_invite};
use crate::config::{ConfigError, ConfigFile, FriendEntry, NodeDir};
use crate::wire::invite::{BadInvite, Invite};

pub(super) fn invite(dir: &NodeDir) -> Result<(), Failure> {
    if let Some(answer) = ask(dir, Method::GET, "/v1/invite", None)? {
        return print(answer["invite"].as_str().unwrap_or_default());
    }
    let config = dir.load_config()?;
    let identity = dir.load_identity()?;
    print(make_invite(config.config(), identity.card()).map_err(Failure::new)?)
}

pub(super) fn friend(dir: &NodeDir, command: args::Friend) -> Result<(), Failure> {
    match command {
        args::Friend::Add { invitation, trust, name } => add(dir, &invitation, trust, name),
        args::Friend::List { json } => list(dir, json),
        args::Friend::Remove { node } => remove(dir, &node),
    }
}

fn add(dir: &NodeDir, invitation: &str, trust: Option<u8>, name: Option<String>) -> Result<(), Failure> {
    let invite: Invite = invitation.trim().parse().map_err(|bad: BadInvite| Failure::new(bad))?;
    let body = json!({ "invite": invitation, "trust": trust, "name": name });
    let (friend, new) = match ask(dir, Method::POST, "/v1/friends", Some(&body))? {
        Some(answer) => (answer["friend"].clone(), answer["new"] == true),
        None => {
            let own = *dir.load_identity()?.card();
            offline(dir, |file| {
                let entry = FriendEntry::from_invite(invite, trust, name, file.config(), &own)?;
                let new = file.add_friend(&entry)?;
                Ok((friend_json(&entry), new))
            })?
        }
    };
    let verb = if new { "added" } else { "changed" };
    tell(format!("{verb} {} (trust {})", title(&friend), friend["trust"]));
    Ok(())
}

fn list(dir: &NodeDir, as_json: bool) -> Result<(), Failure> {
    let friends = match ask(dir, Method::GET, "/v1/friends", None)? {
        Some(answer) => answer["friends"].as_array().cloned().unwrap_or_default(),
        None => dir.load_config()?.config().friends.iter().map(friend_json).collect(),
    };
    if as_json {
        return print(json!({ "friends": friends }));
    }
    let row = |friend: &Value| {
        let addresses = friend["addresses"].as_array().map(Vec::as_slice).unwrap_or_default();
        let addresses: Vec<&str> = addresses.iter().filter_map(Value::as_str).collect();
        vec![
            friend["name"].as_str().unwrap_or("-").to_owned(),
            friend["node_id"].as_str().unwrap_or_default().to_owned(),
            friend["rank"].to_string(),
            friend["trust"].to_string(),
            addresses.join(" "),
        ]
    };
    let rows: Vec<Vec<String>> = friends.iter().map(row).collect();
    print(table(&["NAME", "NODE", "RANK", "TRUST", "ADDRESSES"], &[2, 3], &rows).trim_end())
}

fn remove(dir: &NodeDir, who: &str) -> Result<(), Failure> {
    let path = format!("/v1/friends/{}", segment(who));
    let friend = match ask(dir, Method::DELETE, &path, None)? {
        Some(answer) => answer["friend"].clone(),
        None => offline(dir, |file| Ok(friend_json(&file.remove_friend(who)?)))?,
    };
    tell(format!("removed {}", title(&friend)));
    Ok(())
}

/// Changes the settings file while no daemon runs, and keeps one from starting meanwhile.
pub(super) fn offline<T>(
    dir: &NodeDir,
    change: impl FnOnce(&mut ConfigFile) -> Result<T, ConfigError>,
) -> Result<T, Failure> {
    // First, so that a folder that is no node's gets no lock file.
    dir.load_config()?;
    let _lock = dir.lock().map_err(|error| match error {
        ConfigError::Conflict(_) => {
            Failure::new("the daemon is just starting or stopping: try again in a moment")
        }
        other => other.into(),
    })?;
    let mut file = dir.load_config()?;
    Ok(change(&mut file)?)
}

fn title(friend: &Value) -> String {
    let node = friend["node_id"].as_str().unwrap_or_default();
    match friend["name"].as_str() {
        Some(name) => format!("{name} ({node})"),
        None => node.to_owned(),
    }
}
