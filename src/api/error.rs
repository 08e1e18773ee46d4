//! Every failure of a request: a status and `{"error": "one clear line"}`.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use crate::config::ConfigError;

/// An answer that is an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiError {
    /// The HTTP status.
    pub status: StatusCode,
    /// One clear line.
    pub line: String,
}

impl ApiError {
    /// An error with this status and line.
    pub fn new(status: StatusCode, line: impl Into<String>) -> Self {
        Self { status, line: line.into() }
    }
    /// The request is wrong.
    pub fn bad(line: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, line)
    }
    /// The node is at a bound.
    pub fn busy() -> Self {
        Self::unavailable(super::Busy.to_string())
    }
    /// Not now.
    pub fn unavailable(line: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, line)
    }
    /// Ours.
    pub fn internal(line: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, line)
    }
}

impl From<ConfigError> for ApiError {
    fn from(error: ConfigError) -> Self {
        let status = match error {
            ConfigError::Invalid(_) => StatusCode::BAD_REQUEST,
            ConfigError::Missing(_) => StatusCode::NOT_FOUND,
            ConfigError::Conflict(_) => StatusCode::CONFLICT,
            ConfigError::Io { .. } => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::new(status, error.to_string())
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = json!({ "error": self.line }).to_string() + "\n";
        let kind = HeaderValue::from_static("application/json");
        (self.status, [(header::CONTENT_TYPE, kind)], body).into_response()
    }
}
