//! Who a request on the TCP door says it talks to.
//!
//! A web page can make a browser resolve the page's own name to 127.0.0.1 (DNS rebinding) and then read
//! what this API answers. Such a request carries that name in `Host`; one that was meant for this
//! address carries the address, or `localhost`.

use std::net::IpAddr;

use axum::http::uri::Authority;
use axum::http::{HeaderMap, StatusCode};
use axum::http::{Uri, header::HOST};

use super::error::ApiError;

/// Passes requests whose every named host is an IP address or `localhost`.
pub(super) fn check(uri: &Uri, headers: &HeaderMap) -> Result<(), ApiError> {
    let mut hosts = headers.get_all(HOST).iter();
    let host =
        hosts.next().and_then(|value| value.to_str().ok()).and_then(|text| text.parse::<Authority>().ok());
    let host = match (host, hosts.next()) {
        (Some(host), None) => host,
        _ => return Err(ApiError::bad("the request needs exactly one Host header")),
    };
    if is_address(&host) && uri.authority().is_none_or(is_address) {
        return Ok(());
    }
    Err(ApiError::new(
        StatusCode::FORBIDDEN,
        "the Host header must be this server's IP address or localhost, so that web pages cannot reach it by a name of theirs",
    ))
}

fn is_address(authority: &Authority) -> bool {
    let host = authority.host();
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    !authority.as_str().contains('@')
        && (host.eq_ignore_ascii_case("localhost") || bare.parse::<IpAddr>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    fn passes(hosts: &[&str], uri: &str) -> bool {
        let mut headers = HeaderMap::new();
        for host in hosts {
            headers.append(HOST, HeaderValue::from_str(host).expect("header"));
        }
        check(&uri.parse().expect("uri"), &headers).is_ok()
    }

    #[test]
    fn only_addresses_and_localhost_pass() {
        for host in ["127.0.0.1", "127.0.0.1:4680", "localhost:4680", "LOCALHOST", "[::1]:4680", "192.0.2.7"]
        {
            assert!(passes(&[host], "/metrics"), "{host}");
        }
        for host in
            ["evil.example", "127.0.0.1.evil.example:80", "localhost.evil.example", "a@127.0.0.1", "", "[::1"]
        {
            assert!(!passes(&[host], "/metrics"), "{host}");
        }
        assert!(!passes(&[], "/metrics"));
        assert!(!passes(&["127.0.0.1", "evil.example"], "/metrics"));
        assert!(!passes(&["127.0.0.1"], "http://evil.example/metrics"));
    }
}
