//! `wss://host[:port]/path#sha256=…`: where a bridge is, and by which certificate it is known (docs/protocol/bridge.md §2).
//!
//! ```text
//! scheme  wss:// | ws://       ws only to an address that is not global, or localhost
//! host    a name, an IPv4 address, or an IPv6 address in brackets
//! port    443 | 80 where none is written
//! path    /… of unreserved characters, so that no proxy writes it otherwise
//! pin     SHA-256 of the certificate (DER), 64 hexadecimal digits
//! ```

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use crate::base::id::{parse_hex, write_hex};
use crate::limits::{BRIDGE_PATH_MAX, BRIDGE_PATH_MIN, BRIDGE_URL_MAX};

const PIN: &str = "sha256=";

/// Where a bridge is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct BridgeUrl {
    tls: bool,
    /// In lower case; an address without brackets.
    host: String,
    port: u16,
    path: String,
    pin: Option<[u8; 32]>,
}

/// Why a text is no bridge's URL: one line for the person who gave it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadBridge {
    /// It does not begin with a scheme that is known, or has characters that none has.
    #[error("a bridge's URL is wss://host/path or wss://host:port/path#sha256=…")]
    Form,
    /// It is long.
    #[error("a bridge's URL has at most {BRIDGE_URL_MAX} characters")]
    Long,
    /// The host is no name and no address.
    #[error("a bridge's host is a name, an IPv4 address, or an IPv6 address in brackets")]
    Host,
    /// Port 0, or none.
    #[error("a bridge's port is a number from 1 to 65535")]
    Port,
    /// The path is guessed too easily, or has characters that a proxy may write otherwise.
    #[error(
        "a bridge's path begins with / and has {BRIDGE_PATH_MIN} to {BRIDGE_PATH_MAX} letters, digits, '-', '_', '.', '~' and '/'"
    )]
    Path,
    /// What follows the path is no pin.
    #[error("behind a bridge's path there may be #sha256= and 64 hexadecimal digits, and nothing else")]
    Pin,
    /// Whoever stands between could read the path.
    #[error("ws:// without TLS shows the path to everybody: only to a private address; write wss://")]
    Plain,
}

/// Whether a text may be a bridge's path.
pub fn check_path(path: &str) -> Result<(), BadBridge> {
    let usable = |c: char| c.is_ascii_alphanumeric() || "-_.~/".contains(c);
    let fits = (BRIDGE_PATH_MIN..=BRIDGE_PATH_MAX).contains(&path.len());
    // Proxies take dots away.
    let plain = !path.split('/').any(|part| part == "." || part == "..") && !path.contains("//");
    (path.starts_with('/') && fits && plain && path.chars().all(usable)).then_some(()).ok_or(BadBridge::Path)
}

impl BridgeUrl {
    /// Whether it is spoken to through TLS.
    pub fn is_tls(&self) -> bool {
        self.tls
    }

    /// A name or an address.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Its TCP port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// What is asked for.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// SHA-256 of the one certificate that it may have.
    pub fn pin(&self) -> Option<&[u8; 32]> {
        self.pin.as_ref()
    }

    /// Its host as `Host` and `Origin` have it: the port only where it is not the usual one.
    pub fn authority(&self) -> String {
        let host = if self.is_v6() { format!("[{}]", self.host) } else { self.host.clone() };
        if self.port == usual_port(self.tls) { host } else { format!("{host}:{}", self.port) }
    }

    /// Scheme and host, for the log: not the path, which is a secret.
    pub fn place(&self) -> String {
        format!("{}{}", scheme(self.tls), self.authority())
    }

    fn is_v6(&self) -> bool {
        self.host.contains(':')
    }
}

fn scheme(tls: bool) -> &'static str {
    if tls { "wss://" } else { "ws://" }
}

fn usual_port(tls: bool) -> u16 {
    if tls { 443 } else { 80 }
}

/// Whether an address leads only to this machine or to its own network.
fn is_near(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => ip.is_loopback() || ip.is_private() || ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_loopback() || ip.octets()[0] & 0xfe == 0xfc,
    }
}

fn is_name(host: &str) -> bool {
    let usable = |c: char| c.is_ascii_alphanumeric() || c == '-';
    let part = |part: &str| {
        (1..=63).contains(&part.len())
            && part.chars().all(usable)
            && !part.starts_with('-')
            && !part.ends_with('-')
    };
    // What looks like an address and is none, such as 1.2.3, resolvers take for one.
    let last = host.rsplit('.').next().unwrap_or_default();
    host.len() <= 253 && host.split('.').all(part) && !last.starts_with(|c: char| c.is_ascii_digit())
}

impl fmt::Display for BridgeUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}{}", scheme(self.tls), self.authority(), self.path)?;
        let Some(pin) = &self.pin else { return Ok(()) };
        write!(f, "#{PIN}")?;
        write_hex(f, pin)
    }
}

impl FromStr for BridgeUrl {
    type Err = BadBridge;

    fn from_str(text: &str) -> Result<Self, BadBridge> {
        let text = text.trim();
        if text.len() > BRIDGE_URL_MAX {
            return Err(BadBridge::Long);
        }
        let (tls, rest) = match (text.strip_prefix("wss://"), text.strip_prefix("ws://")) {
            (Some(rest), _) => (true, rest),
            (_, Some(rest)) => (false, rest),
            _ => return Err(BadBridge::Form),
        };
        let (authority, path) = rest.split_at(rest.find('/').ok_or(BadBridge::Path)?);
        let (path, pin) = match path.split_once('#') {
            None => (path, None),
            Some((path, pin)) => {
                let digits = pin.strip_prefix(PIN).ok_or(BadBridge::Pin)?;
                (path, Some(parse_hex::<32>(digits).map_err(|_| BadBridge::Pin)?))
            }
        };
        check_path(path)?;
        let (host, port) = match authority.strip_prefix('[') {
            Some(inner) => {
                let (ip, port) = inner.split_once(']').ok_or(BadBridge::Host)?;
                let ip: Ipv6Addr = ip.parse().map_err(|_| BadBridge::Host)?;
                (ip.to_string(), port.strip_prefix(':').or(port.is_empty().then_some("")))
            }
            None => match authority.split_once(':') {
                Some((host, port)) => (host.to_ascii_lowercase(), Some(port).filter(|port| !port.is_empty())),
                None => (authority.to_ascii_lowercase(), Some("")),
            },
        };
        let port = match port.ok_or(BadBridge::Port)? {
            "" => usual_port(tls),
            digits if digits.starts_with(|c: char| c.is_ascii_digit()) => {
                digits.parse().ok().filter(|port| *port > 0).ok_or(BadBridge::Port)?
            }
            _ => return Err(BadBridge::Port),
        };
        let ip = host.parse::<IpAddr>().ok();
        if ip.is_none() && !is_name(&host) {
            return Err(BadBridge::Host);
        }
        if !tls && !ip.map_or(host == "localhost", is_near) {
            return Err(BadBridge::Plain);
        }
        Ok(Self { tls, host, port, path: path.to_owned(), pin }).and_then(|url| match url.to_string().len() {
            0..=BRIDGE_URL_MAX => Ok(url),
            _ => Err(BadBridge::Long),
        })
    }
}

/// URLs of every form, for the tests of whatever carries one.
#[cfg(test)]
pub mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Any bridge's URL.
    pub fn urls() -> impl Strategy<Value = BridgeUrl> {
        let host = prop_oneof![
            "[a-z]([a-z0-9-]{0,8}[a-z0-9])?(\\.[a-z]{1,8}){0,3}",
            any::<std::net::Ipv4Addr>().prop_map(|ip| ip.to_string()),
            any::<Ipv6Addr>().prop_map(|ip| ip.to_string()),
        ];
        let pin = prop::option::of(any::<[u8; 32]>());
        (host, 1u16.., "/[A-Za-z0-9_~-]{8,60}", pin).prop_map(|(host, port, path, pin)| BridgeUrl {
            tls: true,
            host,
            port,
            path,
            pin,
        })
    }

    fn url(text: &str) -> Result<BridgeUrl, BadBridge> {
        text.parse()
    }

    proptest! {
        #[test]
        fn round_trips(url in urls()) {
            prop_assert_eq!(url.to_string().parse(), Ok(url));
        }

        #[test]
        fn never_panics_and_has_one_spelling(text in "(wss?://)?[ -~é]{0,80}") {
            if let Ok(url) = text.parse::<BridgeUrl>() {
                prop_assert!(url.to_string().len() <= BRIDGE_URL_MAX);
                prop_assert_eq!(url.to_string().parse(), Ok(url));
            }
        }
    }

    #[test]
    fn the_usual_port_is_not_written() {
        let read = url("wss://Bridge.Example.org:443/a-secret-path").unwrap();
        assert_eq!((read.host(), read.port(), read.pin()), ("bridge.example.org", 443, None));
        assert_eq!(read.to_string(), "wss://bridge.example.org/a-secret-path");
        assert_eq!(url("wss://[2001:DB8::1]:8443/a-secret-path").unwrap().authority(), "[2001:db8::1]:8443");
        assert_eq!(url("wss://192.0.2.1/a-secret-path").unwrap().place(), "wss://192.0.2.1");
        let pinned = format!("wss://x.org/a-secret-path#sha256={}", "AB".repeat(32));
        assert_eq!(url(&pinned).unwrap().pin(), Some(&[0xab; 32]));
    }

    #[test]
    fn each_mistake_has_its_own_line() {
        for (text, wrong) in [
            ("https://x.org/a-secret-path", BadBridge::Form),
            ("", BadBridge::Form),
            ("wss://x.org", BadBridge::Path),
            ("wss://x.org/short", BadBridge::Path),
            ("wss://x.org/with?question=1", BadBridge::Path),
            ("wss://x.org/a/../../secret", BadBridge::Path),
            ("wss://x.org/secret%2fpath", BadBridge::Path),
            ("wss:///a-secret-path", BadBridge::Host),
            ("wss://1.2.3/a-secret-path", BadBridge::Host),
            ("wss://user@x.org/a-secret-path", BadBridge::Host),
            ("wss://x_y.org/a-secret-path", BadBridge::Host),
            ("wss://[::1/a-secret-path", BadBridge::Host),
            ("wss://x.org:0/a-secret-path", BadBridge::Port),
            ("wss://x.org:/a-secret-path", BadBridge::Port),
            ("wss://x.org:+9/a-secret-path", BadBridge::Port),
            ("wss://[::1]9/a-secret-path", BadBridge::Port),
            ("wss://x.org/a-secret-path#sha256=ab", BadBridge::Pin),
            ("wss://x.org/a-secret-path#top", BadBridge::Pin),
            ("ws://x.org/a-secret-path", BadBridge::Plain),
            ("ws://192.0.2.1/a-secret-path", BadBridge::Plain),
        ] {
            assert_eq!(url(text), Err(wrong), "{text}");
        }
        assert_eq!(url(&format!("wss://x.org/{}", "a".repeat(300))), Err(BadBridge::Long));
        for near in [
            "ws://localhost:9/a-secret-path",
            "ws://127.0.0.1:9/a-secret-path",
            "ws://[fd00::1]/a-secret-path",
        ] {
            assert!(url(near).is_ok(), "{near}");
        }
    }
}
