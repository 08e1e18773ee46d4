//! `invite` and `friend`: with the daemon when it runs, on `tornet.toml` itself when it does not.

use hyper::Method;
use qrcode::render::unicode::Dense1x2;
use qrcode::{EcLevel, QrCode};
use serde_json::{Value, json};

use super::client::{ask, not_running, segment};
use super::show::table;
use super::{Failure, args, leave, print, tell};
use crate::api::friends::{friend_json, make_bridged_invite, make_invite};
use crate::config::{Config, ConfigError, ConfigFile, FriendChange, FriendEntry, NodeDir};
use crate::crypto::IdentityCard;
use crate::wire::bridge::{BadBridge, BridgeUrl};
use crate::wire::invite::{BadInvite, Invite};

pub(super) fn invite(dir: &NodeDir, qr: bool, bridge: bool) -> Result<(), Failure> {
    let (path, make): (_, fn(&Config, &IdentityCard) -> _) = match bridge {
        true => ("/v1/invite/bridged", make_bridged_invite),
        false => ("/v1/invite", make_invite),
    };
    let invite = match ask(dir, Method::GET, path, None)? {
        Some(answer) => answer["invite"].as_str().unwrap_or_default().to_owned(),
        None => {
            let config = dir.load_config()?;
            let identity = dir.load_identity()?;
            make(config.config(), identity.card()).map_err(Failure::new)?.to_string()
        }
    };
    if qr {
        // Not among the results: a program that reads the invitation need not know.
        tell(qr_code(&invite)?);
    }
    print(invite)
}

/// As dark and light half blocks, with the margin that cameras want. Dark is drawn as nothing, for a terminal is mostly dark.
fn qr_code(text: &str) -> Result<String, Failure> {
    let code = QrCode::with_error_correction_level(text, EcLevel::L)
        .map_err(|why| Failure::new(format!("the invitation makes no QR code: {why}")))?;
    let (dark, light) = (Dense1x2::Light, Dense1x2::Dark);
    Ok(code.render::<Dense1x2>().dark_color(dark).light_color(light).quiet_zone(true).build())
}

pub(super) fn friend(dir: &NodeDir, command: args::Friend) -> Result<(), Failure> {
    match command {
        args::Friend::Add { invitation, trust, name, bridge } => add(dir, &invitation, trust, name, bridge),
        args::Friend::Bridge { node, url } => set_bridge(dir, &node, &url),
        args::Friend::List { json } => list(dir, json),
        args::Friend::Set { node, trust, name, introduce } => {
            set(dir, &node, FriendChange { trust, name, introduce })
        }
        args::Friend::Offers { json } => offers(dir, json),
        args::Friend::Adopt { node, name, trust, force } => adopt(dir, &node, name, trust, force),
        args::Friend::Ask { node, stay } => leave::ask_friend(dir, &node, &stay),
        args::Friend::Remove { node } => remove(dir, &node),
    }
}

fn add(
    dir: &NodeDir,
    invitation: &str,
    trust: Option<u8>,
    name: Option<String>,
    bridge: Option<String>,
) -> Result<(), Failure> {
    let mut invite: Invite = invitation.trim().parse().map_err(|bad: BadInvite| Failure::new(bad))?;
    if let Some(url) = &bridge {
        invite.bridge = Some(bridge_url(url)?);
    }
    let body = json!({ "invite": invitation, "trust": trust, "name": name, "bridge": bridge });
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

fn bridge_url(text: &str) -> Result<BridgeUrl, Failure> {
    text.parse().map_err(|bad: BadBridge| Failure::new(bad))
}

fn set_bridge(dir: &NodeDir, who: &str, url: &str) -> Result<(), Failure> {
    let bridge = if url == "none" { None } else { Some(bridge_url(url)?) };
    let (path, body) = (
        format!("/v1/friends/{}/bridge", segment(who)),
        json!({ "url": bridge.as_ref().map(BridgeUrl::to_string) }),
    );
    let friend = match ask(dir, Method::PUT, &path, Some(&body))? {
        Some(answer) => answer["friend"].clone(),
        None => offline(dir, |file| Ok(friend_json(&file.set_friend_bridge(who, bridge)?)))?,
    };
    tell(match friend["bridge"].as_str() {
        Some(url) => format!("{} is reached by {url} where UDP does not get through", title(&friend)),
        None => format!("{} is reached by UDP alone", title(&friend)),
    });
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
            friend["bridge"].as_str().unwrap_or("-").to_owned(),
        ]
    };
    let rows: Vec<Vec<String>> = friends.iter().map(row).collect();
    print(table(&["NAME", "NODE", "RANK", "TRUST", "ADDRESSES", "BRIDGE"], &[2, 3], &rows).trim_end())
}

fn set(dir: &NodeDir, who: &str, change: FriendChange) -> Result<(), Failure> {
    if change == FriendChange::default() {
        return Err(Failure::new("nothing is to be changed: give --trust, --name or --introduce"));
    }
    let path = format!("/v1/friends/{}", segment(who));
    let body = json!({ "trust": change.trust, "name": change.name, "introduce": change.introduce });
    let friend = match ask(dir, Method::PATCH, &path, Some(&body))? {
        Some(answer) => answer["friend"].clone(),
        None => offline(dir, |file| Ok(friend_json(&file.change_friend(who, change)?)))?,
    };
    let hidden = if friend["introduce"] == false { ", introduced to nobody" } else { "" };
    tell(format!("changed {} (trust {}{hidden})", title(&friend), friend["trust"]));
    Ok(())
}

fn offers(dir: &NodeDir, as_json: bool) -> Result<(), Failure> {
    let answer = ask(dir, Method::GET, "/v1/offers", None)?.ok_or_else(|| not_running(dir))?;
    if as_json {
        return print(answer);
    }
    let texts = |list: &Value| {
        let texts = list.as_array().map(Vec::as_slice).unwrap_or_default();
        texts.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" ")
    };
    let row = |offer: &Value| {
        let standing = match (&offer["acquaintance"], &offer["connected"]) {
            (_, Value::Bool(true)) => "connected",
            (Value::Bool(true), _) => "called",
            _ => "-",
        };
        vec![
            offer["node_id"].as_str().unwrap_or_default().to_owned(),
            offer["rank"].to_string(),
            offer["hand"].to_string(),
            offer["trust"].to_string(),
            texts(&offer["by"]),
            standing.to_owned(),
            texts(&offer["addresses"]),
        ]
    };
    let rows: Vec<Vec<String>> =
        answer["offers"].as_array().map(Vec::as_slice).unwrap_or_default().iter().map(row).collect();
    print(
        table(&["NODE", "RANK", "HAND", "TRUST", "BY", "SESSION", "ADDRESSES"], &[1, 2, 3], &rows).trim_end(),
    )
}

fn adopt(
    dir: &NodeDir,
    node: &str,
    name: Option<String>,
    trust: Option<u8>,
    force: bool,
) -> Result<(), Failure> {
    let path = format!("/v1/offers/{}", segment(node));
    let body = json!({ "trust": trust, "name": name, "force": force });
    let answer = ask(dir, Method::POST, &path, Some(&body))?.ok_or_else(|| not_running(dir))?;
    let friend = &answer["friend"];
    tell(format!(
        "added {} (trust {}); it is a friend's friend until its operator adds this node, too",
        title(friend),
        friend["trust"]
    ));
    Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_invitation_fits_a_terminal_as_a_qr_code_with_a_bright_margin() {
        let card = IdentityCard { key: crate::base::PublicKey([7; 32]), place_nonce: 9, rank_nonce: 9 };
        let advertise = vec![
            "203.0.113.9:4600".parse().expect("address"),
            "[2001:db8::9]:4600".parse().expect("address"),
        ];
        let config = Config { advertise, ..Config::default() };
        let code = qr_code(&make_invite(&config, &card).expect("made").to_string()).expect("it fits");
        let lines: Vec<&str> = code.lines().collect();
        assert!(lines.iter().all(|line| line.chars().count() == lines[0].chars().count()));
        assert!(lines[0].chars().count() <= 80 && lines[0].chars().all(|c| c == '█'), "{code}");
        assert!(code.contains(' '), "and dark modules:\n{code}");
        assert!(qr_code(&"x".repeat(5000)).is_err());
    }
}
