//! The bridge that leads to this node: settings that belong together.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::{Config, ConfigError};
use crate::wire::bridge::BridgeUrl;

/// `bridge.*`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Serving {
    /// TCP address at which guests come, if there is a bridge.
    pub listen: Option<SocketAddr>,
    /// What they ask for: a secret.
    pub path: String,
    /// Certificates in PEM, the node's own first; without them it speaks no TLS.
    pub certificate: Option<PathBuf>,
    /// Their private key in PEM.
    pub key: Option<PathBuf>,
    /// Where others find it, for invitations.
    pub url: Option<BridgeUrl>,
    /// Whether one without TLS may be where others reach it.
    pub public: bool,
}

pub(super) fn check(config: &Config) -> Result<(), ConfigError> {
    let own = &config.bridge;
    let invalid = |text: String| Err(ConfigError::Invalid(text));
    // One after another is set: only then is it looked whether they fit.
    let Some(listen) = own.listen else { return Ok(()) };
    if own.certificate.is_some() != own.key.is_some() {
        return invalid("bridge.certificate and bridge.key belong together: set both, or neither".into());
    }
    if own.path.is_empty() {
        return invalid(
            "a bridge has a secret path by which its guests are known: set bridge.path first, to / and something long \
             that nobody guesses"
                .into(),
        );
    }
    if own.certificate.is_none() && !listen.ip().is_loopback() && !own.public {
        return invalid(format!(
            "bridge.listen = \"{listen}\" would show the secret path to everybody: set bridge.certificate and bridge.key, \
             listen on 127.0.0.1 behind a web server that speaks TLS, or set bridge.public = true if that is meant"
        ));
    }
    if !config.listen.iter().any(std::net::IpAddr::is_ipv4) {
        return invalid("a bridge needs an IPv4 address among `listen`: 127.0.0.1 will do".into());
    }
    if let Some(url) = &own.url
        && url.path() != own.path
    {
        tracing::debug!(
            "bridge.url has another path than bridge.path: a web server before it may write it so"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bridge_shows_its_path_to_nobody_unless_that_is_meant() {
        let text = |config: &Config| check(config).expect_err("refused").to_string();
        let mut config = Config::default();
        assert!(check(&config).is_ok());
        config.bridge.listen = Some(([0, 0, 0, 0], 443).into());
        assert!(text(&config).contains("bridge.path"));
        config.bridge.path = "/a-secret-path".into();
        assert!(text(&config).contains("bridge.public"));
        config.bridge.certificate = Some("cert.pem".into());
        assert!(text(&config).contains("bridge.key"));
        config.bridge.key = Some("key.pem".into());
        assert!(check(&config).is_ok());
        (config.bridge.certificate, config.bridge.key) = (None, None);
        config.bridge.public = true;
        assert!(check(&config).is_ok());
        config.bridge.public = false;
        config.bridge.listen = Some(([127, 0, 0, 1], 8080).into());
        assert!(check(&config).is_ok());
        config.listen = vec!["::".parse().expect("an address")];
        assert!(text(&config).contains("IPv4"));
    }
}
