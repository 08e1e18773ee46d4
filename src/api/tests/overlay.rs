//! The overlay through the API: what the node is told, and what is kept for it.

use super::*;
use crate::config::peers;
use crate::limits::{PEERS_BATCH, PROVIDE_BATCH};
use crate::node::command::Known;
use crate::overlay::rtt::Rtt;
use crate::wire::overlay::Contact;

/// So many peers, in the order of their places.
pub(super) fn met(count: usize) -> Vec<Known> {
    let known = |n: usize| {
        let card = crate::crypto::IdentityCard { place_nonce: n as u64, ..*identity(3).card() };
        let contact = Contact::new(card, [([192, 0, 2, 1], 4600).into()]);
        let (first_s, last_s, answered, errors, errors_since) = (1, 2, 3, 0, 0);
        Known { contact, first_s, last_s, answered, errors, errors_since, rtt: Rtt::default(), bandwidth: 0 }
    };
    let mut all: Vec<Known> = (0..count).map(known).collect();
    all.sort_by_key(|known| known.contact.node_id());
    all
}

fn restored(told: Option<Told>) -> usize {
    match told {
        Some(Told::Restore(count)) => count,
        other => panic!("{other:?}"),
    }
}

#[test]
fn settings_of_the_overlay_are_followed_at_once() {
    block_on(async {
        let mut world = world().await;
        world.api.tell_overlay().await.expect("told");
        assert_eq!(world.told.recv().await, Some(Told::Overlay(true, "tornet".into(), 0)));
        world.api.tell_overlay().await.expect("told");
        assert!(world.told.try_recv().is_err(), "nothing has changed");
        let set = json!({ "overlay.network": "test-7", "overlay.bootstrap": invitation(2) });
        let (code, answer) = world.unix("PATCH", "/v1/config", &set).await;
        assert_eq!((code, answer), (200, json!({ "restart_needed_for": [] })));
        assert_eq!(world.told.recv().await, Some(Told::Overlay(true, "test-7".into(), 1)));
        let set = json!({ "overlay.bootstrap": "tornet:node:nonsense" });
        let (code, answer) = world.unix("PATCH", "/v1/config", &set).await;
        assert_eq!(code, 400, "{answer}");
        let set = json!({ "overlay.enabled": false });
        assert_eq!(world.unix("PATCH", "/v1/config", &set).await.0, 200);
        assert_eq!(world.told.recv().await, Some(Told::Overlay(false, "test-7".into(), 1)));
        let (_, status) = world.unix("GET", "/v1/status", &Value::Null).await;
        assert_eq!(
            (&status["overlay"]["network"], &status["overlay"]["contacts"]),
            (&json!("test-7"), &json!(12))
        );
    });
}

#[test]
fn what_the_store_has_is_provided_in_batches_and_what_comes_later_then() {
    block_on(async {
        let mut world = world().await;
        world.fake.stored.store(PROVIDE_BATCH as u64 + 10, Ordering::Relaxed);
        world.api.provide_more().await.expect("nothing to do");
        assert!(world.told.try_recv().is_err(), "the overlay is not on yet");
        world.api.tell_overlay().await.expect("told");
        let _ = world.told.recv().await;
        world.api.provide_more().await.expect("provided");
        assert_eq!(world.told.recv().await, Some(Told::Provide(PROVIDE_BATCH)));
        assert_eq!(world.told.recv().await, Some(Told::Provide(10)));
        world.api.provide_more().await.expect("nothing new");
        assert!(world.told.try_recv().is_err());
        world.fake.stored.fetch_add(1, Ordering::Relaxed);
        world.api.provide_more().await.expect("provided");
        assert_eq!(world.told.recv().await, Some(Told::Provide(1)), "what was put since");
        // Found by review: what only friends are given was announced to everybody all the same.
        let set = json!({ "serve.strangers": false });
        assert_eq!(world.unix("PATCH", "/v1/config", &set).await.0, 200);
        let _ = world.told.recv().await;
        world.fake.stored.fetch_add(1, Ordering::Relaxed);
        world.api.provide_more().await.expect("nothing to do");
        assert!(world.told.try_recv().is_err(), "friends alone are served");
        world.fake.stored.fetch_sub(1, Ordering::Relaxed);
        let set = json!({ "serve.strangers": true });
        assert_eq!(world.unix("PATCH", "/v1/config", &set).await.0, 200);
        let _ = world.told.recv().await;
        world.api.provide_more().await.expect("provided");
        assert_eq!(world.told.recv().await, Some(Told::Provide(PROVIDE_BATCH)), "anew, from the first");
        assert_eq!(world.told.recv().await, Some(Told::Provide(11)));
        // Another overlay begins with nothing.
        let set = json!({ "overlay.network": "another" });
        assert_eq!(world.unix("PATCH", "/v1/config", &set).await.0, 200);
        let _ = world.told.recv().await;
        world.api.provide_more().await.expect("provided");
        assert_eq!(world.told.recv().await, Some(Told::Provide(PROVIDE_BATCH)));
        assert_eq!(world.told.recv().await, Some(Told::Provide(11)));
    });
}

#[test]
fn what_earlier_runs_kept_for_others_is_provided_again_once() {
    block_on(async {
        let mut world = world().await;
        world.fake.kept.store(PROVIDE_BATCH as u64 + 3, Ordering::Relaxed);
        world.api.provide_kept().await.expect("nothing to do");
        assert!(world.told.try_recv().is_err(), "the overlay is not on yet");
        world.api.tell_overlay().await.expect("told");
        let _ = world.told.recv().await;
        world.api.provide_kept().await.expect("provided");
        assert_eq!(world.told.recv().await, Some(Told::Provide(PROVIDE_BATCH)));
        assert_eq!(world.told.recv().await, Some(Told::Provide(3)));
        world.fake.kept.fetch_add(1, Ordering::Relaxed);
        world.api.provide_kept().await.expect("nothing to do");
        assert!(world.told.try_recv().is_err(), "what is kept since is provided by the node itself");
        for on in [false, true] {
            let set = json!({ "serve.strangers": on });
            assert_eq!(world.unix("PATCH", "/v1/config", &set).await.0, 200);
            let _ = world.told.recv().await;
            world.api.provide_kept().await.expect("looked at");
        }
        assert_eq!(world.told.recv().await, Some(Told::Provide(PROVIDE_BATCH)), "anew, from the first");
    });
}

#[test]
fn peers_are_saved_restored_and_forgotten_when_their_file_is_damaged() {
    block_on(async {
        let mut world = world().await;
        let path = world.dir.path().join("peers");
        world.api.tell_overlay().await.expect("told");
        let _ = world.told.recv().await;
        world.api.save_peers(&path).await;
        assert!(!path.exists(), "nobody was met");
        let count = PEERS_BATCH + 44;
        world.fake.met.store(count, Ordering::Relaxed);
        world.api.save_peers(&path).await;
        let loaded = world.api.load_peers(&path);
        assert_eq!(loaded, met(count));
        world.api.restore_peers(&loaded).await.expect("told");
        let batches = [restored(world.told.recv().await), restored(world.told.recv().await)];
        assert_eq!(batches, [PEERS_BATCH, 44]);
        let mut bytes = std::fs::read(&path).expect("read");
        bytes[100] ^= 1;
        std::fs::write(&path, bytes).expect("written");
        assert_eq!(world.api.load_peers(&path), []);
        assert!(!path.exists() && path.with_extension("bad").exists(), "put aside");
        assert!(peers::load(&path, "tornet").is_ok_and(|known| known.is_empty()));
    });
}
