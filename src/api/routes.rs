//! Which request goes where, and through which door.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post, put};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::error::ApiError;
use super::{Api, circuits, friends, host, intents, introductions, jobs, metrics, settings, status, tunnels};
use crate::limits::{API_BODY_MAX, API_BODY_MS_MAX};

/// How a request came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    /// The unix socket: the node's own user, who may do everything.
    Unix,
    /// TCP, which web pages and other users reach: it shows, and names no path of this host.
    Tcp,
}

/// The requests that a door answers.
pub fn router(api: Arc<Api>, door: Door) -> Router {
    let shown = Router::new()
        .route("/", get(page))
        .route("/metrics", get(metrics::show))
        .route("/v1/status", get(status::show))
        .route("/v1/invite", get(friends::invite));
    let routes = match door {
        Door::Tcp => shown,
        Door::Unix => shown
            .route("/v1/friends", get(friends::list).post(friends::add))
            .route("/v1/friends/{who}", delete(friends::remove).patch(friends::change))
            .route("/v1/offers", get(introductions::list))
            .route("/v1/offers/{node}", post(introductions::adopt))
            .route("/v1/friends/{who}/bridge", put(friends::set_bridge))
            .route("/v1/invite/bridged", get(friends::bridged_invite))
            .route("/v1/friends/{who}/stay", post(intents::ask))
            .route("/v1/leave", post(intents::leave).delete(intents::stay))
            .route("/v1/online", post(intents::online).delete(intents::not_said))
            .route("/v1/tunnels", get(tunnels::list).post(tunnels::up).delete(tunnels::down))
            .route("/v1/tunnels/{who}", delete(tunnels::down))
            .route("/v1/circuit", post(circuits::up).delete(circuits::down))
            .route("/v1/config", get(settings::show).patch(settings::change))
            .route("/v1/put", post(jobs::put))
            .route("/v1/get", post(jobs::get)),
    };
    routes
        .fallback(move || async move { nothing_here(door) })
        .method_not_allowed_fallback(async || {
            ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "this path exists, but not for this method")
        })
        .layer(middleware::from_fn_with_state((api.clone(), door), guard))
        .with_state(api)
}

fn nothing_here(door: Door) -> ApiError {
    let hint = match door {
        Door::Unix => "there is nothing at this path: see docs/protocol/api.md",
        Door::Tcp => "there is nothing at this path; what changes the node is served on its unix socket only",
    };
    ApiError::new(StatusCode::NOT_FOUND, hint)
}

async fn guard(State((api, door)): State<(Arc<Api>, Door)>, request: Request, next: Next) -> Response {
    api.requests.fetch_add(1, Ordering::Relaxed);
    let mut response = match door {
        Door::Unix => next.run(request).await,
        Door::Tcp => match host::check(request.uri(), request.headers()) {
            Ok(()) => next.run(request).await,
            Err(error) => error.into_response(),
        },
    };
    if response.status().is_client_error() || response.status().is_server_error() {
        api.requests_refused.fetch_add(1, Ordering::Relaxed);
    }
    let headers = response.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

async fn page() -> Response {
    const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; \
                          connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
    let kind = HeaderValue::from_static("text/html; charset=utf-8");
    let policy = HeaderValue::from_static(POLICY);
    let headers = [(header::CONTENT_TYPE, kind), (header::CONTENT_SECURITY_POLICY, policy)];
    (headers, include_str!("page.html")).into_response()
}

/// Reads a JSON body within its bounds of size and time.
pub(super) async fn body<T: DeserializeOwned>(body: Body) -> Result<T, ApiError> {
    let patience = Duration::from_millis(API_BODY_MS_MAX);
    let bytes = tokio::time::timeout(patience, axum::body::to_bytes(body, API_BODY_MAX))
        .await
        .map_err(|_| ApiError::new(StatusCode::REQUEST_TIMEOUT, "the request's body did not arrive in time"))?
        .map_err(|_| {
            let line = format!("the request's body is broken or larger than {API_BODY_MAX} bytes");
            ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, line)
        })?;
    serde_json::from_slice(&bytes).map_err(|error| ApiError::bad(format!("the request's body: {error}")))
}

/// A JSON answer, ending in a newline for people with curl.
pub(super) fn answer(value: &Value) -> Response {
    let kind = HeaderValue::from_static("application/json");
    ([(header::CONTENT_TYPE, kind)], value.to_string() + "\n").into_response()
}
