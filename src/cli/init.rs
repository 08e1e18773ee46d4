//! `init` and `rank raise`: making an identity, and putting more work into it.

use std::path::Path;

use ring::rand::{SecureRandom, SystemRandom};
use zeroize::Zeroizing;

use super::{Failure, args, mine, print, tell};
use crate::config::document::template;
use crate::config::{Config, ConfigFile, NodeDir, atomic, keyfile};
use crate::crypto::{Identity, Secret};

pub(super) fn init(dir: &NodeDir, init: args::Init) -> Result<(), Failure> {
    dir.check_vacant()?;
    let defaults = Config::default();
    let config = Config { port: init.port.unwrap_or(defaults.port), api: init.api, ..defaults };
    // Said before the work is done. A public address is the operator's explicit second step.
    ConfigFile::parse(&dir.config(), &template(&config))?;

    let seed = fresh_secret()?;
    let start = fresh_number()?;
    let identity = Identity::new(seed, 0, 0);
    let place_nonce = mine::place(&identity.card().key, start);
    let identity = identity.with_nonces(place_nonce, start);
    let (key, node) = (identity.card().key, identity.card().node_id());
    let mut rank_nonce = start;
    mine::rank(&key, &node, init.rank, 0, start, &mut |nonce, _| {
        rank_nonce = nonce;
        Ok(())
    })?;
    let identity = identity.with_nonces(place_nonce, rank_nonce);

    dir.create()?;
    let _lock = dir.lock()?;
    dir.check_vacant()?;
    write_config(&dir.config(), &config, &init)?;
    // Last: a folder with an identity is a node, whatever interrupts us before is not.
    keyfile::create_identity(&dir.identity(), &identity)?;
    let shown = dir.path().display();
    tell(format!(
        "made a node of rank {} in {shown}; start it with `tornet --dir {shown} run`",
        identity.card().rank()
    ));
    print(node)
}

/// Writes the commented template, or enters what was asked for into a file that was prepared.
fn write_config(path: &Path, config: &Config, init: &args::Init) -> Result<(), Failure> {
    if !path.exists() {
        let written = atomic::create(path, template(config).as_bytes(), 0o600);
        return written.map_err(|error| {
            Failure::new(format!("cannot create {}: {}", path.display(), crate::config::plain(&error)))
        });
    }
    let mut file = ConfigFile::load(path)?;
    let port = init.port.map(|port| port.to_string());
    let api = init.api.map(|api| api.to_string());
    let asked = [("port", port.as_deref()), ("api", api.as_deref())];
    let changes: Vec<_> = asked.into_iter().filter(|(_, value)| value.is_some()).collect();
    file.set(&changes)?;
    Ok(())
}

pub(super) fn raise(dir: &NodeDir, to: u32) -> Result<(), Failure> {
    let identity = dir.load_identity()?;
    let path = dir.identity();
    if keyfile::identity_source(&path).1 {
        return Err(Failure::new(format!(
            "the identity is the systemd credential {}: raise the rank of the file that it is made from",
            keyfile::CREDENTIAL
        )));
    }
    let card = *identity.card();
    if card.rank() >= to {
        tell(format!("the rank is {} already", card.rank()));
        return print(card.rank());
    }
    let start = fresh_number()?;
    let mut reached = card.rank();
    mine::rank(&card.key, &card.node_id(), to, card.rank(), start, &mut |nonce, rank| {
        keyfile::replace_identity(&path, &identity.with_nonces(card.place_nonce, nonce))?;
        reached = rank;
        Ok(())
    })?;
    tell("saved; a running daemon shows its new rank after a restart");
    print(reached)
}

/// 32 secret bytes from the operating system.
pub(super) fn fresh_secret() -> Result<Secret, Failure> {
    let mut bytes = Zeroizing::new([0; 32]);
    fill(&mut *bytes)?;
    Ok(Secret::from_bytes(*bytes))
}

fn fresh_number() -> Result<u64, Failure> {
    let mut bytes = [0; 8];
    fill(&mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}

fn fill(bytes: &mut [u8]) -> Result<(), Failure> {
    let no_randomness = |_| Failure::new("the operating system gives no random numbers: see getrandom(2)");
    SystemRandom::new().fill(bytes).map_err(no_randomness)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(temporary: &tempfile::TempDir) -> NodeDir {
        NodeDir::choose(Some(&temporary.path().join("node"))).expect("a folder")
    }

    fn easy() -> args::Init {
        args::Init { rank: 4, port: Some(4711), api: None }
    }

    #[test]
    fn init_makes_a_node_once() {
        let temporary = tempfile::tempdir().expect("temporary folder");
        let dir = node(&temporary);
        init(&dir, easy()).expect("made");
        let identity = dir.load_identity().expect("readable");
        assert!(identity.card().rank() >= 4);
        assert_eq!(dir.load_config().expect("readable").config().port, 4711);
        let again = init(&dir, easy()).expect_err("never twice");
        assert!(again.line.contains("never overwritten"), "{}", again.line);
        assert_eq!(dir.load_identity().expect("kept").card(), identity.card());
    }

    #[test]
    fn init_keeps_a_prepared_configuration() {
        let temporary = tempfile::tempdir().expect("temporary folder");
        let dir = node(&temporary);
        dir.create().expect("created");
        std::fs::write(dir.config(), "# mine\nnetwork = \"lab\"\n").expect("written");
        init(&dir, easy()).expect("made");
        let file = dir.load_config().expect("readable");
        assert!(file.text().starts_with("# mine\n"));
        assert_eq!((file.config().network.as_str(), file.config().port), ("lab", 4711));
    }

    #[test]
    fn init_refuses_a_public_api_and_leaves_nothing() {
        let temporary = tempfile::tempdir().expect("temporary folder");
        let dir = node(&temporary);
        let public = args::Init { api: "192.0.2.1:80".parse().ok(), ..easy() };
        assert!(init(&dir, public).expect_err("refused").line.contains("api_public"));
        assert!(!dir.path().exists());
    }

    #[test]
    fn raise_improves_the_rank_in_place() {
        let temporary = tempfile::tempdir().expect("temporary folder");
        let dir = node(&temporary);
        init(&dir, easy()).expect("made");
        let before = *dir.load_identity().expect("readable").card();
        let goal = before.rank() + 1;
        raise(&dir, goal).expect("raised");
        let after = *dir.load_identity().expect("readable").card();
        assert!(after.rank() >= goal);
        assert_eq!(after.node_id(), before.node_id());
    }
}
