//! What settings of the overlay must be beyond what each key says.

use super::{Config, ConfigError};
use crate::wire::invite::network_hash;

/// Whoever is to let us in must be of the same network, or every handshake with it is in vain.
pub(super) fn check(config: &Config) -> Result<(), ConfigError> {
    let own = network_hash(&config.network);
    match config.overlay_bootstrap.iter().find(|invite| invite.network != own) {
        None => Ok(()),
        Some(other) => Err(ConfigError::Conflict(format!(
            "overlay.bootstrap: the invitation of {} is for another network; this node is in {:?} (setting `network`)",
            other.card.node_id(),
            config.network
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::PublicKey;
    use crate::crypto::IdentityCard;
    use crate::wire::invite::Invite;

    #[test]
    fn whoever_lets_us_in_is_of_the_same_network() {
        let card = IdentityCard { key: PublicKey([1; 32]), place_nonce: 0, rank_nonce: 0 };
        let invite = |name: &str| Invite {
            bridge: None,
            network: network_hash(name),
            card,
            addresses: vec![([192, 0, 2, 1], 4600).into()],
        };
        let mut config = Config { overlay_bootstrap: vec![invite("tornet")], ..Config::default() };
        assert!(check(&config).is_ok());
        config.overlay_bootstrap.push(invite("elsewhere"));
        let why = check(&config).expect_err("another network").to_string();
        assert!(why.contains("another network") && why.contains("overlay.bootstrap"), "{why}");
    }
}
