//! Nodes that friends introduced: shown, made friends; and what the node is told of it.

use super::*;
use crate::node::command::{IntroductionSnapshot, OfferSnapshot};

/// What the fake node says that friends told: of a node at the first hand, and of one at the second.
pub(super) fn introduced() -> IntroductionSnapshot {
    let offer = |seed: u8, hand: u8, trust: u8| OfferSnapshot {
        card: *identity(seed).card(),
        addresses: vec![([192, 0, 2, seed], 4600).into()],
        hand,
        trust,
        by: vec![*identity(2).card()].into_iter().map(|card| card.key).collect(),
        is_acquaintance: hand == 1,
    };
    IntroductionSnapshot {
        once: 1,
        twice: 1,
        acquaintances: 1,
        offers: vec![offer(3, 1, 40), offer(4, 2, 9)],
    }
}

#[test]
fn offers_are_shown_and_made_friends_for_no_more_than_they_are_worth() {
    block_on(async {
        let mut world = world().await;
        let by = identity(2).card().key.to_string();
        let (code, answer) = world.unix("GET", "/v1/offers", &Value::Null).await;
        assert_eq!(code, 200);
        let offers = answer["offers"].as_array().expect("offers").clone();
        let shown =
            |n: usize| (offers[n]["hand"].clone(), offers[n]["trust"].clone(), offers[n]["by"].clone());
        assert_eq!(shown(0), (json!(1), json!(40), json!([by])));
        assert_eq!((shown(1).0, offers[0]["acquaintance"].clone()), (json!(2), json!(true)));
        let (_, status) = world.unix("GET", "/v1/status", &Value::Null).await;
        assert_eq!(status["introductions"]["twice"], 1);
        assert_eq!(status["introductions"]["introduced_to"], "once");

        // What its friend is called shows, and not the friend's key.
        let add = json!({ "invite": invitation(2), "name": "bob" });
        assert_eq!(world.unix("POST", "/v1/friends", &add).await.0, 200);
        assert_eq!(world.told.recv().await, Some(Told::Friends(1)));
        let (_, answer) = world.unix("GET", "/v1/offers", &Value::Null).await;
        assert_eq!(answer["offers"][0]["by"], json!(["bob"]));

        let node = offers[0]["node_id"].as_str().expect("a node id").to_owned();
        let path = format!("/v1/offers/{}", &node[..8]);
        for (body, code) in [
            (json!({ "trust": 41 }), 409),
            (json!({ "trust": 101, "force": true }), 400),
            (json!({ "name": "bob" }), 409),
        ] {
            assert_eq!(world.unix("POST", &path, &body).await.0, code, "{body}");
        }
        assert_eq!(world.unix("POST", "/v1/offers/0000000000", &json!({})).await.0, 404);
        assert_eq!(world.unix("POST", "/v1/offers/ab", &json!({})).await.0, 404, "too few digits");
        let (code, answer) = world.unix("POST", &path, &json!({ "name": "carol" })).await;
        assert_eq!((code, &answer["friend"]["trust"], &answer["new"]), (200, &json!(40), &json!(true)));
        assert_eq!(world.told.recv().await, Some(Told::Friends(2)));
        assert!(world.settings().contains("carol"));
        let other = format!("/v1/offers/{}", offers[1]["key"].as_str().expect("a key"));
        let (code, answer) = world.unix("POST", &other, &json!({ "trust": 90, "force": true })).await;
        assert_eq!((code, &answer["friend"]["trust"]), (200, &json!(90)));
    });
}

#[test]
fn what_is_said_of_a_friend_is_changed_in_the_file() {
    block_on(async {
        let mut world = world().await;
        let add = json!({ "invite": invitation(2), "name": "bob" });
        assert_eq!(world.unix("POST", "/v1/friends", &add).await.0, 200);
        assert_eq!(world.told.recv().await, Some(Told::Friends(1)));
        let change = json!({ "introduce": false, "trust": 7 });
        let (code, answer) = world.unix("PATCH", "/v1/friends/bob", &change).await;
        let friend = &answer["friend"];
        assert_eq!((code, &friend["trust"], &friend["introduce"]), (200, &json!(7), &json!(false)));
        assert_eq!(world.told.recv().await, Some(Told::Friends(1)));
        assert!(world.settings().contains("introduce = false"), "{}", world.settings());
        let (_, answer) = world.unix("PATCH", "/v1/friends/bob", &json!({ "introduce": true })).await;
        assert_eq!((&answer["friend"]["trust"], &answer["friend"]["name"]), (&json!(7), &json!("bob")));
        assert!(!world.settings().contains("introduce"), "the usual is not written out");
        assert_eq!(world.unix("PATCH", "/v1/friends/bob", &json!({ "trust": 101 })).await.0, 400);
        assert_eq!(world.unix("PATCH", "/v1/friends/eve", &change).await.0, 404);
    });
}

#[test]
fn only_friends_closes_the_door_before_it_leaves_the_overlay() {
    block_on(async {
        let mut world = world().await;
        world.api.tell_overlay().await.expect("told");
        assert!(matches!(world.told.recv().await, Some(Told::Overlay(true, ..))));
        let settings = json!({ "friends.only": true, "friends.adopt": 3, "friends.introduce": "twice" });
        let (code, answer) = world.unix("PATCH", "/v1/config", &settings).await;
        assert_eq!((code, answer), (200, json!({ "restart_needed_for": [] })));
        assert_eq!(world.told.recv().await, Some(Told::Introductions(true, 2, 3)));
        assert!(matches!(world.told.recv().await, Some(Told::Overlay(false, ..))));
        let (_, status) = world.unix("GET", "/v1/status", &Value::Null).await;
        assert_eq!(status["introductions"]["introduced_to"], "nobody");
        assert_eq!(status["introductions"]["only_friends"], true);
        for bad in [json!({ "friends.introduce": "thrice" }), json!({ "friends.adopt": 65 })] {
            assert_eq!(world.unix("PATCH", "/v1/config", &bad).await.0, 400, "{bad}");
        }
    });
}
