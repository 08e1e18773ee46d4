//! What the bridge's web server answers: a guest that knows the path becomes one, everybody else hears that there is nothing.
//!
//! It imitates no other server: who imitates one in most things is known by the rest. With a real one before it
//! (docs/operating.md §4) there is nothing to imitate.

use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Method, Request, Response, StatusCode, Version};
use tokio_tungstenite::tungstenite::Bytes;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::crypto::hash::blake3;

/// What is said of every page.
const NOTHING: &str =
    "<html>\n<head><title>404 Not Found</title></head>\n<body>\n<h1>404 Not Found</h1>\n</body>\n</html>\n";

/// A whole answer.
pub(super) type Answer = Response<Full<Bytes>>;

/// The path that guests know, as a hash: comparing takes as long wherever it differs.
#[derive(Clone, Copy)]
pub(super) struct Secret([u8; 32]);

impl Secret {
    pub(super) fn new(path: &str) -> Self {
        Self(blake3(&[b"tornet bridge path\0", path.as_bytes()]))
    }

    fn is(&self, path: &str) -> bool {
        Self::new(path).0 == self.0
    }
}

/// Whether a header names a word among others.
fn names(headers: &HeaderMap, name: header::HeaderName, word: &str) -> bool {
    let mut values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.any(|value| value.split(',').any(|one| one.trim().eq_ignore_ascii_case(word)))
}

/// Whether somebody knows the path and asks for WebSocket there: the answer that makes a guest of it.
pub(super) fn welcome(request: &Request<Incoming>, secret: &Secret) -> Option<Answer> {
    let headers = request.headers();
    let fits = request.method() == Method::GET
        && request.version() == Version::HTTP_11
        && request.uri().query().is_none()
        && secret.is(request.uri().path())
        && names(headers, header::CONNECTION, "upgrade")
        && names(headers, header::UPGRADE, "websocket")
        && headers.get(header::SEC_WEBSOCKET_VERSION).is_some_and(|version| version == "13");
    let key = headers.get(header::SEC_WEBSOCKET_KEY).filter(|_| fits)?;
    let mut answer = Response::new(Full::default());
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let out = answer.headers_mut();
    out.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    out.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    let accepted = HeaderValue::from_str(&derive_accept_key(key.as_bytes())).ok()?;
    out.insert(header::SEC_WEBSOCKET_ACCEPT, accepted);
    Some(answer)
}

/// What everybody else hears.
pub(super) fn nothing() -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from_static(NOTHING.as_bytes())));
    *answer.status_mut() = StatusCode::NOT_FOUND;
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html"));
    answer
}

/// Whether a connection may be a web server's of this host that stands before the bridge: from this host, and to a bridge that
/// leaves TLS to it.
pub(super) fn is_before(peer: std::net::IpAddr, own_tls: bool) -> bool {
    peer.to_canonical().is_loopback() && !own_tls
}

/// Whose question it is: the connection's other end, or, where that is a web server of this host, whom that one names last.
pub(super) fn asker(peer: std::net::IpAddr, before: bool, headers: &HeaderMap) -> std::net::IpAddr {
    let named = || {
        let last = headers.get_all("x-forwarded-for").iter().next_back()?.to_str().ok()?;
        last.rsplit(',').next()?.trim().parse().ok()
    };
    if before { named().unwrap_or(peer) } else { peer }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_known_whole_or_not_at_all() {
        let secret = Secret::new("/a-secret-path");
        assert!(secret.is("/a-secret-path"));
        for other in ["", "/", "/a-secret-pat", "/a-secret-path/", "/A-secret-path"] {
            assert!(!secret.is(other), "{other}");
        }
    }

    #[test]
    fn whom_a_web_server_of_this_host_names_is_believed_and_nobody_elses() {
        let ip = |text: &str| text.parse::<std::net::IpAddr>().expect("ip");
        let (here, far) = (ip("127.0.0.1"), ip("192.0.2.7"));
        let mut headers = HeaderMap::new();
        assert_eq!(asker(here, is_before(here, false), &headers), here);
        headers.insert("x-forwarded-for", HeaderValue::from_static("6.6.6.6, 203.0.113.5"));
        assert_eq!(asker(here, is_before(here, false), &headers), ip("203.0.113.5"));
        assert_eq!(asker(far, is_before(far, false), &headers), far);
        // Before a bridge that speaks TLS itself nobody stands: it is a user of this host who says so.
        assert_eq!(asker(here, is_before(here, true), &headers), here);
        headers.insert("x-forwarded-for", HeaderValue::from_static("nobody"));
        assert_eq!(asker(here, is_before(here, false), &headers), here);
    }
}
