//! Settings, shown and changed.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use serde_json::{Value, json};

use super::Api;
use super::error::ApiError;
use super::routes::{answer, body};
use crate::config::Config;
use crate::config::keys::KEYS;

pub(super) async fn show(State(api): State<Arc<Api>>) -> Response {
    let config = api.config().clone();
    answer(&json!({ "settings": settings_json(&config) }))
}

/// Every setting as the API and `config get` show it.
pub fn settings_json(config: &Config) -> Vec<Value> {
    let defaults = Config::default();
    let row = |key: &crate::config::keys::Key| {
        let value = key.show(config);
        let default = value == key.show(&defaults);
        json!({ "key": key.name, "value": value, "default": default, "live": key.live, "what": key.what })
    };
    KEYS.iter().map(row).collect()
}

pub(super) async fn change(State(api): State<Arc<Api>>, request: Body) -> Result<Response, ApiError> {
    let changes: BTreeMap<String, Value> = body(request).await?;
    let mut texts: Vec<(String, Option<String>)> = Vec::with_capacity(changes.len());
    for (key, value) in changes {
        let text = match value {
            Value::Null => None,
            Value::String(text) => Some(text),
            Value::Bool(on) => Some(on.to_string()),
            Value::Number(number) => Some(number.to_string()),
            Value::Array(_) | Value::Object(_) => {
                return Err(ApiError::bad(format!(
                    "{key}: give the value as text, lists separated by commas"
                )));
            }
        };
        texts.push((key, text));
    }
    let before = api.config().clone();
    let keys = api
        .edit(move |file| {
            let changes: Vec<_> = texts.iter().map(|(key, text)| (key.as_str(), text.as_deref())).collect();
            file.set(&changes)
        })
        .await?;
    let log = api.config().log.clone();
    if keys.iter().any(|key| key.name == "log") {
        (api.log_changed)(&log);
    }
    if keys.iter().any(|key| key.name.starts_with("limits.")) {
        api.tell_limits().await?;
    }
    let of_overlay = |name: &str| {
        name.starts_with("overlay.")
            || matches!(name, "serve.strangers" | "serve.keep" | "advertise" | "friends.only")
    };
    // First, so that a door that is to be closed is.
    if keys.iter().any(|key| key.name.starts_with("friends.") || key.name == "advertise") {
        api.tell_introductions().await?;
    }
    if keys.iter().any(|key| of_overlay(key.name)) {
        api.tell_overlay().await?;
    }
    if keys.iter().any(|key| key.name.starts_with("intents.")) {
        api.tell_intents().await?;
    }
    if keys.iter().any(|key| key.name.starts_with("relay.")) {
        api.tell_relay().await?;
    }
    if keys.iter().any(|key| key.name.starts_with("exit.")) {
        let _one = api.tunnelling.lock().await;
        if let Err(error) = api.apply_tunnels().await {
            // As it was: what the host does not let us do is not remembered.
            let keys: Vec<_> = keys.iter().map(|key| (key.name, key.show(&before))).collect();
            let undo = move |file: &mut crate::config::ConfigFile| {
                let changes: Vec<_> = keys.iter().map(|(name, text)| (*name, Some(text.as_str()))).collect();
                file.set(&changes).map(drop)
            };
            if api.edit(undo).await.is_ok() {
                let _ = api.apply_tunnels().await;
            }
            return Err(error);
        }
    }
    let restart: Vec<&str> = keys.iter().filter(|key| !key.live).map(|key| key.name).collect();
    Ok(answer(&json!({ "restart_needed_for": restart })))
}
