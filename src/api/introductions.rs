//! Nodes that friends introduced: told to the node what is agreed to, shown, and made friends.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::Response;
use serde::Deserialize;
use serde_json::{Value, json};

use super::error::ApiError;
use super::friends::friend_json;
use super::routes::{answer, body};
use super::{Api, lock};
use crate::base::PublicKey;
use crate::config::{Config, ConfigError, FriendEntry};
use crate::node::command::{Command, IntroductionRules, OfferSnapshot, Snapshot};

impl Api {
    /// Tells the node who hears of whom through friends, and whether anybody else is heard, unless it knows.
    pub async fn tell_introductions(&self) -> Result<(), ApiError> {
        let rules = {
            let config = self.config();
            IntroductionRules {
                only: config.friends_only,
                hands: config.friends_introduce,
                adopt: usize::from(config.friends_adopt),
                addresses: self.own_addresses(&config),
            }
        };
        if lock(&self.told_introductions).as_ref() == Some(&rules) {
            return Ok(());
        }
        self.command(|| Command::Introductions(Box::new(rules.clone()))).await?;
        *lock(&self.told_introductions) = Some(rules);
        Ok(())
    }

    async fn offers(&self) -> Result<(Vec<OfferSnapshot>, Snapshot), ApiError> {
        let mut snapshot = self.snapshot().await?;
        let offers = snapshot.introductions.take().map_or(Vec::new(), |own| own.offers);
        Ok((offers, snapshot))
    }
}

pub(super) async fn list(State(api): State<Arc<Api>>) -> Result<Response, ApiError> {
    let (offers, snapshot) = api.offers().await?;
    let config = api.config().clone();
    let connected = |key: &PublicKey| snapshot.peers.iter().any(|peer| peer.key == *key && peer.connected);
    let offers: Vec<Value> = offers
        .iter()
        .map(|offer| {
            let mut json = offer_json(offer, &config);
            json["connected"] = json!(connected(&offer.card.key));
            json
        })
        .collect();
    Ok(answer(&json!({ "offers": offers })))
}

/// `POST /v1/offers/NODE`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Adopt {
    trust: Option<u8>,
    name: Option<String>,
    #[serde(default)]
    force: bool,
}

pub(super) async fn adopt(
    State(api): State<Arc<Api>>,
    Path(node): Path<String>,
    request: Body,
) -> Result<Response, ApiError> {
    let adopt: Adopt = body(request).await?;
    let (offers, _) = api.offers().await?;
    let offer = find(&offers, &node)?;
    let trust = adopt.trust.unwrap_or(offer.trust);
    if trust > 100 {
        return Err(ApiError::bad("trust must be 0 to 100"));
    }
    if trust > offer.trust && !adopt.force {
        return Err(ApiError::from(ConfigError::Conflict(format!(
            "friends' words make it worth {}: take that, or say that you know better (--force)",
            offer.trust
        ))));
    }
    let entry = FriendEntry {
        name: adopt.name,
        card: offer.card,
        addresses: offer.addresses.clone(),
        trust,
        introduce: true,
        bridge: None,
    };
    let (entry, new) = api
        .edit(move |file| {
            let new = file.add_friend(&entry)?;
            Ok((entry, new))
        })
        .await?;
    api.tell_friends().await?;
    Ok(answer(&json!({ "friend": friend_json(&entry), "new": new })))
}

/// The offer that a node id's or a key's first digits name.
fn find<'a>(offers: &'a [OfferSnapshot], node: &str) -> Result<&'a OfferSnapshot, ApiError> {
    let prefix = node.to_ascii_lowercase();
    let named = |offer: &&OfferSnapshot| {
        prefix.len() >= 4
            && (offer.card.node_id().to_string().starts_with(&prefix)
                || offer.card.key.to_string().starts_with(&prefix))
    };
    let shown: String = node.chars().take(80).collect();
    let found: Vec<&OfferSnapshot> = offers.iter().filter(named).collect();
    match found[..] {
        [offer] => Ok(offer),
        [] => Err(ApiError::from(ConfigError::Missing(format!(
            "nobody offers {shown:?}: see `tornet friend offers`"
        )))),
        _ => Err(ApiError::from(ConfigError::Conflict(format!(
            "{} offers begin with {shown:?}: give more digits",
            found.len()
        )))),
    }
}

/// What the operator calls a friend, or its node id.
fn title(config: &Config, key: &PublicKey) -> String {
    let friend = config.friends.iter().find(|friend| friend.card.key == *key);
    friend.map_or_else(|| key.to_string(), FriendEntry::title)
}

fn offer_json(offer: &OfferSnapshot, config: &Config) -> Value {
    json!({
        "node_id": offer.card.node_id().to_string(),
        "key": offer.card.key.to_string(),
        "rank": offer.card.rank(),
        "hand": offer.hand,
        "trust": offer.trust,
        "by": offer.by.iter().map(|key| title(config, key)).collect::<Vec<_>>(),
        "addresses": offer.addresses,
        "acquaintance": offer.is_acquaintance,
    })
}

/// How many were introduced, as it is shown.
pub(super) fn introductions_json(snapshot: &Snapshot, config: &Config) -> Value {
    let own = snapshot.introductions.as_ref();
    let connected = snapshot.peers.iter().filter(|peer| peer.introduced.is_some() && peer.connected).count();
    json!({
        "once": own.map_or(0, |own| own.once),
        "twice": own.map_or(0, |own| own.twice),
        "acquaintances": own.map_or(0, |own| own.acquaintances),
        "acquaintances_connected": connected,
        "introduced_to": crate::config::keys::show_hands(if config.friends_only { 0 } else { config.friends_introduce }),
        "only_friends": config.friends_only,
    })
}
