//! Friends and invitations.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::Response;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Api;
use super::error::ApiError;
use super::routes::{answer, body};
use crate::config::{Config, FriendChange, FriendEntry};
use crate::crypto::IdentityCard;
use crate::limits::ADDRESSES_PER_PEER_MAX;
use crate::overlay::site::{Realm, realm};
use crate::wire::bridge::{BadBridge, BridgeUrl};
use crate::wire::invite::{BadInvite, Invite, network_hash};

/// `POST /v1/friends`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Add {
    invite: String,
    trust: Option<u8>,
    name: Option<String>,
    bridge: Option<String>,
}

/// `PUT /v1/friends/{who}/bridge`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SetBridge {
    url: Option<String>,
}

pub(super) async fn invite(State(api): State<Arc<Api>>) -> Result<Response, ApiError> {
    let made = {
        let config = api.config();
        make_invite(&config, &api.card)
    };
    let made = made.map_err(ApiError::internal)?;
    Ok(answer(&json!({ "invite": made.to_string(), "addresses": made.addresses })))
}

pub(super) async fn bridged_invite(State(api): State<Arc<Api>>) -> Result<Response, ApiError> {
    let made = {
        let config = api.config();
        make_bridged_invite(&config, &api.card)
    };
    let made = made.map_err(ApiError::bad)?;
    Ok(answer(&json!({ "invite": made.to_string(), "addresses": made.addresses })))
}

pub(super) async fn list(State(api): State<Arc<Api>>) -> Response {
    let friends: Vec<Value> = api.config().friends.iter().map(friend_json).collect();
    answer(&json!({ "friends": friends }))
}

pub(super) async fn add(State(api): State<Arc<Api>>, request: Body) -> Result<Response, ApiError> {
    let add: Add = body(request).await?;
    let mut invite: Invite =
        add.invite.trim().parse().map_err(|bad: BadInvite| ApiError::bad(bad.to_string()))?;
    if let Some(url) = &add.bridge {
        invite.bridge = Some(bridge_url(url)?);
    }
    let own = api.card;
    let (entry, new) = api
        .edit(move |file| {
            let entry = FriendEntry::from_invite(invite, add.trust, add.name, file.config(), &own)?;
            let new = file.add_friend(&entry)?;
            Ok((entry, new))
        })
        .await?;
    api.tell_friends().await?;
    Ok(answer(&json!({ "friend": friend_json(&entry), "new": new })))
}

/// `PATCH /v1/friends/WHO`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Change {
    trust: Option<u8>,
    name: Option<String>,
    introduce: Option<bool>,
}

pub(super) async fn change(
    State(api): State<Arc<Api>>,
    Path(who): Path<String>,
    request: Body,
) -> Result<Response, ApiError> {
    let Change { trust, name, introduce } = body(request).await?;
    let change = FriendChange { trust, name, introduce };
    let entry = api.edit(move |file| file.change_friend(&who, change)).await?;
    api.tell_friends().await?;
    Ok(answer(&json!({ "friend": friend_json(&entry) })))
}

fn bridge_url(text: &str) -> Result<BridgeUrl, ApiError> {
    text.parse().map_err(|bad: BadBridge| ApiError::bad(bad.to_string()))
}

pub(super) async fn set_bridge(
    State(api): State<Arc<Api>>,
    Path(who): Path<String>,
    request: Body,
) -> Result<Response, ApiError> {
    let SetBridge { url } = body(request).await?;
    let bridge = url.as_deref().map(bridge_url).transpose()?;
    let entry = api.edit(move |file| file.set_friend_bridge(&who, bridge)).await?;
    api.tell_friends().await?;
    Ok(answer(&json!({ "friend": friend_json(&entry) })))
}

pub(super) async fn remove(
    State(api): State<Arc<Api>>,
    Path(who): Path<String>,
) -> Result<Response, ApiError> {
    let entry = api.edit(move |file| file.remove_friend(&who)).await?;
    api.tell_friends().await?;
    Ok(answer(&json!({ "friend": friend_json(&entry) })))
}

/// A friend as the API and `--json` show it.
pub fn friend_json(friend: &FriendEntry) -> Value {
    json!({
        "name": friend.name,
        "node_id": friend.card.node_id().to_string(),
        "key": friend.card.key.to_string(),
        "rank": friend.card.rank(),
        "trust": friend.trust,
        "introduce": friend.introduce,
        "addresses": friend.addresses,
        "bridge": friend.bridge.as_ref().map(ToString::to_string),
    })
}

/// The same with the bridge that leads to this node. Apart, since an invitation may be given to anybody, and the bridge's path
/// is worth something while few know it.
pub fn make_bridged_invite(config: &Config, card: &IdentityCard) -> Result<Invite, String> {
    let bridge = config.bridge.url.clone().ok_or(
        "it is not known where others find this node's bridge: tornet config set bridge.url wss://HOST/PATH",
    )?;
    if !bridge.is_tls() {
        return Err("an invitation names no bridge without TLS (ws://): say its URL to those who are to use it, for `tornet friend bridge`"
            .into());
    }
    Ok(Invite { bridge: Some(bridge), ..make_invite(config, card)? })
}

/// This node's invitation: the addresses that the operator advertises, else those that it listens on.
pub fn make_invite(config: &Config, card: &IdentityCard) -> Result<Invite, String> {
    let mut addresses: Vec<SocketAddr> = if config.advertise.is_empty() {
        let found = interface_addresses()?;
        listening(&config.listen, &found).into_iter().map(|ip| (ip, config.port).into()).collect()
    } else {
        let port = |a: &SocketAddr| if a.port() == 0 { config.port } else { a.port() };
        config.advertise.iter().map(|a| (a.ip(), port(a)).into()).collect()
    };
    addresses.truncate(ADDRESSES_PER_PEER_MAX);
    Ok(Invite { card: *card, addresses, network: network_hash(&config.network), bridge: None })
}

fn interface_addresses() -> Result<Vec<IpAddr>, String> {
    let interfaces = nix::ifaddrs::getifaddrs()
        .map_err(|error| format!("cannot list this host's addresses ({}): set `advertise`", error.desc()))?;
    let up = interfaces.filter(|interface| interface.flags.contains(nix::net::if_::InterfaceFlags::IFF_UP));
    let addresses = up.filter_map(|interface| {
        let address = interface.address?;
        let v4 = address.as_sockaddr_in().map(|a| IpAddr::V4(a.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip())))
    });
    Ok(addresses.collect())
}

/// What others may reach of `listen` on a host with the addresses `found`: global before private
/// addresses, loopback only when there is nothing else.
fn listening(listen: &[IpAddr], found: &[IpAddr]) -> Vec<IpAddr> {
    let any = |v6: bool| listen.iter().any(|ip| ip.is_unspecified() && ip.is_ipv6() == v6);
    let named = listen.iter().filter(|ip| !ip.is_unspecified());
    let mut all: Vec<IpAddr> = named.chain(found.iter().filter(|ip| any(ip.is_ipv6()))).copied().collect();
    all.retain(|ip| !is_link_local(ip) && !ip.is_multicast() && !ip.is_unspecified());
    let mut seen = std::collections::BTreeSet::new();
    all.retain(|ip| seen.insert(*ip));
    if all.iter().any(|ip| !ip.is_loopback()) {
        all.retain(|ip| !ip.is_loopback());
    }
    all.sort_by_key(|ip| realm(*ip) != Some(Realm::Global));
    all
}

fn is_link_local(ip: &IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ips(list: &[&str]) -> Vec<IpAddr> {
        list.iter().map(|text| text.parse().expect("address")).collect()
    }

    #[test]
    fn invitations_prefer_global_addresses_and_know_loopback_as_the_last_resort() {
        let host = ips(&["127.0.0.1", "10.0.0.2", "203.0.113.5", "::1", "fe80::1", "fd00::2", "2001:db8::1"]);
        let everywhere = ips(&["0.0.0.0", "::"]);
        assert_eq!(
            listening(&everywhere, &host),
            ips(&["203.0.113.5", "2001:db8::1", "10.0.0.2", "fd00::2"])
        );
        assert_eq!(listening(&ips(&["0.0.0.0"]), &host), ips(&["203.0.113.5", "10.0.0.2"]));
        assert_eq!(listening(&ips(&["10.0.0.2"]), &host), ips(&["10.0.0.2"]));
        assert_eq!(listening(&everywhere, &ips(&["127.0.0.1", "::1"])), ips(&["127.0.0.1", "::1"]));
    }

    #[test]
    fn advertised_addresses_take_the_place_of_the_hosts_own() {
        let advertise =
            vec!["203.0.113.9:0".parse().expect("address"), "203.0.113.9:99".parse().expect("address")];
        let config = Config { advertise, port: 4601, ..Config::default() };
        let card = IdentityCard { key: crate::base::PublicKey([1; 32]), place_nonce: 0, rank_nonce: 0 };
        let invite = make_invite(&config, &card).expect("made");
        assert_eq!(invite.addresses.iter().map(SocketAddr::port).collect::<Vec<_>>(), [4601, 99]);
        assert_eq!(invite.to_string().parse(), Ok(invite));
    }
}
