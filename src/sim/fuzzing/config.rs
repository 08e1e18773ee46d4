//! Files that the operator edits.

use std::path::Path;

use crate::config::keyfile::parse_identity;
use crate::config::keys::{KEYS, Kind};
use crate::config::{ConfigError, ConfigFile};
use crate::limits::{ADDRESSES_PER_PEER_MAX, FRIENDS_MAX, LABEL_MAX, LISTEN_ADDRESSES_MAX};

fn one_line(error: &ConfigError) {
    let text = error.to_string();
    assert!(!text.is_empty() && !text.contains(['\n', '\r', '\u{1b}']), "{text:?}");
}

/// `tornet.toml`: what is accepted is within the limits, says the same when written, and every key shows a
/// value that it takes again.
pub fn document(bytes: &[u8]) {
    let path = Path::new("tornet.toml");
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let file = match ConfigFile::parse(path, text) {
        Ok(file) => file,
        Err(error) => return one_line(&error),
    };
    let config = file.config();
    assert!(config.friends.len() <= FRIENDS_MAX && config.listen.len() <= LISTEN_ADDRESSES_MAX);
    assert!(config.network.len() <= LABEL_MAX && config.shards_count > 0);
    for friend in &config.friends {
        assert!(friend.addresses.len() <= ADDRESSES_PER_PEER_MAX && friend.trust <= 100);
        assert!(friend.name.as_ref().is_none_or(|name| name.len() <= LABEL_MAX));
    }
    let again = ConfigFile::parse(path, &file.text()).expect("what was read can be written");
    assert_eq!(again.config(), config);
    let mut copy = config.clone();
    for key in KEYS {
        let shown = key.show(config);
        let values: Vec<String> = match key.kind {
            Kind::List => shown.split(',').filter(|part| !part.is_empty()).map(str::to_owned).collect(),
            _ => vec![shown],
        };
        key.read(&mut copy, &values).expect("a value that was shown");
    }
    assert_eq!(copy, *config);
}

/// `identity.key`: errors never tell the seed.
pub fn keyfile(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match parse_identity(Path::new("identity.key"), text) {
        Ok(identity) => {
            let seed =
                identity.seed().as_bytes().iter().map(|byte| format!("{byte:02x}")).collect::<String>();
            assert!(text.to_ascii_lowercase().contains(&seed));
        }
        Err(error) => {
            one_line(&error);
            let text = text.to_ascii_lowercase();
            let told = error.to_string().to_ascii_lowercase();
            let secrets = text.split_whitespace().filter(|word| word.len() >= 24);
            assert!(secrets.into_iter().all(|word| !told.contains(word)), "{told}");
        }
    }
}
