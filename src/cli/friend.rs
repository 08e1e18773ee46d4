//! `invite` and `friend`: with the daemon when it runs, on `tornet.toml` itself when it does not.

use hyper::Method;
use qrcode::render::unicode::Dense1x2;
use qrcode::{EcLevel, QrCode};
use serde_json::{Value, json};

use super::client::{ask, segment};
use super::show::table;
use super::{Failure, args, leave, print, tell};
use crate::api::friends::{friend_json, make_invite};
use crate::config::{ConfigError, ConfigFile, FriendEntry, NodeDir};
use crate::wire::invite::{BadInvite, Invite};

pub(super) fn invite(dir: &NodeDir, qr: bool) -> Result<(), Failure> {
    let invite = match ask(dir, Method::GET, "/v1/invite", None)? {
        Some(answer) => answer["invite"].as_str().unwrap_or_default().to_owned(),
        None => {
            let config = dir.load_config()?;
            let identity = dir.load_identity()?;
            make_invite(config.config(), identity.card()).map_err(Failure::new)?.to_string()
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
        args::Friend::Add { invitation, trust, name } => add(dir, &invitation, trust, name),
        args::Friend::List { json } => list(dir, json),
        args::Friend::Ask { node, stay } => leave::ask_friend(dir, &node, &stay),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::crypto::IdentityCard;

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
