//! What this node means to do, and asks of friends (docs/protocol/intents.md): leaving, staying, and the daemon's end when its
//! time has come.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::error::ApiError;
use super::routes::{answer, body};
use super::{Api, lock};
use crate::base::PublicKey;
use crate::base::units::{show_duration, show_size};
use crate::config::friends;
use crate::limits::{
    INTENT_AGAIN_MS, INTENT_S_MAX, LEAVE_EARLY_MS, LEAVE_LOOK_MS, LEAVING_SOON_MS, STAY_S_MAX,
};
use crate::node::command::{
    Command, HandoverSnapshot, IntentRules, IntentSnapshot, LeavingSnapshot, SaidToStay, Snapshot,
};

/// What the operator said of leaving.
#[derive(Debug, Clone, Copy)]
pub(super) struct Leave {
    since: Instant,
    /// Whether the node goes before its time when nobody needs it any more.
    early: bool,
}

/// `POST /v1/leave`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct In {
    in_s: u32,
    #[serde(default)]
    early: bool,
}

/// `POST /v1/online`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct For {
    for_s: u32,
}

/// `POST /v1/friends/WHO/stay`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct More {
    more_s: u32,
}

/// How often a friend's answer is looked for.
const LOOK: Duration = Duration::from_millis(100);

pub(super) async fn leave(State(api): State<Arc<Api>>, request: Body) -> Result<Response, ApiError> {
    let In { in_s, early } = body(request).await?;
    if in_s > INTENT_S_MAX {
        return Err(ApiError::bad(format!("in_s is at most {INTENT_S_MAX}")));
    }
    api.command(|| Command::Leave(Some(u64::from(in_s) * 1000))).await?;
    *lock(&api.leave) = Some(Leave { since: Instant::now(), early });
    api.leave_changed.notify_one();
    let left = Duration::from_secs(in_s.into());
    tracing::info!(
        "leaving in {}{}",
        show_duration(left),
        if early { ", or when nobody needs it" } else { "" }
    );
    shown(&api).await
}

pub(super) async fn stay(State(api): State<Arc<Api>>) -> Result<Response, ApiError> {
    let was = lock(&api.leave).take().is_some();
    api.command(|| Command::Leave(None)).await?;
    if was {
        tracing::info!("not leaving any more");
    }
    Ok(answer(&json!({ "was": was })))
}

pub(super) async fn online(State(api): State<Arc<Api>>, request: Body) -> Result<Response, ApiError> {
    let For { for_s } = body(request).await?;
    if !(1..=INTENT_S_MAX).contains(&for_s) {
        return Err(ApiError::bad(format!("for_s is from 1 to {INTENT_S_MAX}")));
    }
    api.command(|| Command::Online(Some(for_s))).await?;
    shown(&api).await
}

pub(super) async fn not_said(State(api): State<Arc<Api>>) -> Result<Response, ApiError> {
    api.command(|| Command::Online(None)).await?;
    shown(&api).await
}

async fn shown(api: &Api) -> Result<Response, ApiError> {
    let snapshot = api.snapshot().await?;
    let early = lock(&api.leave).is_some_and(|leave| leave.early);
    let leaving = snapshot.leaving.map(|leaving| leaving_json(&leaving, early));
    Ok(answer(&json!({ "leaving": leaving, "online_s": snapshot.online_s })))
}

/// Asks a friend to stay, and waits for what it says.
pub(super) async fn ask(
    State(api): State<Arc<Api>>,
    Path(who): Path<String>,
    request: Body,
) -> Result<Response, ApiError> {
    let More { more_s } = body(request).await?;
    if !(1..=STAY_S_MAX).contains(&more_s) {
        return Err(ApiError::bad(format!("more_s is from 1 to {STAY_S_MAX}")));
    }
    let peer = {
        let config = api.config();
        config.friends[friends::find(&config.friends, &who)?].card.key
    };
    let away = || {
        ApiError::new(
            StatusCode::CONFLICT,
            format!("{who} is not connected, or does not listen to such questions"),
        )
    };
    if !connected(&api.snapshot().await?, &peer) {
        return Err(away());
    }
    api.command(|| Command::AskStay { peer, more_s }).await?;
    let patience = Duration::from_millis(INTENT_AGAIN_MS.iter().sum::<u64>()) + 2 * LOOK;
    let begun = Instant::now();
    loop {
        tokio::time::sleep(LOOK).await;
        let snapshot = api.snapshot().await?;
        let one = snapshot.peers.iter().find(|one| one.key == peer).map(|one| one.intent).unwrap_or_default();
        let Some(asked) = one.asked else { return Err(away()) };
        if asked.said != SaidToStay::Nothing || begun.elapsed() > patience {
            return Ok(answer(&json!({ "intent": intent_json(&one) })));
        }
    }
}

fn connected(snapshot: &Snapshot, peer: &PublicKey) -> bool {
    snapshot.peers.iter().any(|one| one.key == *peer && one.connected)
}

/// What a peer means to do, as the status shows it.
pub(super) fn intent_json(intent: &IntentSnapshot) -> Value {
    let asked = intent.asked.map(|asked| {
        let said = match asked.said {
            SaidToStay::Nothing => None,
            SaidToStay::Silence => Some("silence"),
            SaidToStay::Granted => Some("granted"),
            SaidToStay::Less => Some("less"),
            SaidToStay::Refused => Some("refused"),
        };
        json!({ "for_s": asked.left_s, "said": said, "stays_s": asked.stays_s })
    });
    json!({ "leaves_in_s": intent.leaves_in_s, "stays_s": intent.stays_s, "asked": asked })
}

/// That this node leaves, as the status shows it.
pub(super) fn leaving_json(leaving: &LeavingSnapshot, early: bool) -> Value {
    let HandoverSnapshot { given, given_bytes, short, left } = leaving.handover;
    json!({
        "in_s": leaving.in_ms.div_ceil(1000),
        "early": early,
        "untold": leaving.untold,
        "busy": leaving.busy,
        "handover": { "given": given, "given_bytes": given_bytes, "short": short, "left": left },
    })
}

impl Api {
    /// Tells the node what friends may have it do.
    pub async fn tell_intents(&self) -> Result<(), ApiError> {
        let rules = {
            let config = self.config();
            IntentRules {
                grant_max_s: config.intents_grant_max_s,
                grant_trust: config.intents_grant_trust,
                ask_max_s: config.intents_ask_max_s,
            }
        };
        self.command(|| Command::Intents(rules)).await
    }

    /// Whether the node goes before its time when nobody needs it, if it leaves at all.
    pub(super) fn leaves_early(&self) -> bool {
        lock(&self.leave).is_some_and(|leave| leave.early)
    }

    /// An error while this node leaves so soon that nothing long is begun any more.
    pub(super) async fn refuse_while_leaving(&self) -> Result<(), ApiError> {
        if lock(&self.leave).is_none() {
            return Ok(());
        }
        match self.snapshot().await?.leaving {
            Some(leaving) if leaving.in_ms <= LEAVING_SOON_MS => {
                let left = show_duration(Duration::from_millis(leaving.in_ms));
                let line = format!(
                    "this node leaves in {left}: `tornet leave --cancel` first, or wait until it is back"
                );
                Err(ApiError::new(StatusCode::CONFLICT, line))
            }
            _ => Ok(()),
        }
    }

    /// Returns when this node's time has come, however long that takes; says in the log what it could not hand over.
    pub async fn left(&self) {
        let last = loop {
            let Some(leave) = *lock(&self.leave) else {
                self.leave_changed.notified().await;
                continue;
            };
            tokio::time::sleep(Duration::from_millis(LEAVE_LOOK_MS)).await;
            // A node that does not answer now is asked again. One that was told not to leave says so.
            let Ok(snapshot) = self.snapshot().await else { continue };
            let Some(leaving) = snapshot.leaving else { continue };
            let settled = leave.since.elapsed() >= Duration::from_millis(LEAVE_EARLY_MS);
            let needless = leaving.untold == 0 && !leaving.busy && leaving.handover.left == 0;
            if lock(&self.leave).is_some() && (leaving.in_ms == 0 || leave.early && settled && needless) {
                break leaving;
            }
        };
        let HandoverSnapshot { given, given_bytes, short, left } = last.handover;
        let handed = format!("handed over {given} chunks ({})", show_size(given_bytes));
        match short + left {
            0 => tracing::info!("leaving: {handed}"),
            rest => tracing::warn!(
                "leaving: {handed}; {rest} that too few others have were not ({short} found too few keepers, for {left} there was no time)"
            ),
        }
    }
}
