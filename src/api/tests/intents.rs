//! Leaving, staying and asking through the API: what the node is told.

use super::*;

#[test]
fn leaving_and_staying_reach_the_node_within_bounds() {
    block_on(async {
        let mut world = world().await;
        let (code, answer) = world.unix("POST", "/v1/leave", &json!({ "in_s": 600, "early": true })).await;
        assert_eq!(
            (code, &answer["leaving"]["in_s"], &answer["leaving"]["early"]),
            (200, &json!(42), &json!(true))
        );
        assert_eq!(world.told.recv().await, Some(Told::Leave(Some(600_000))));
        // It leaves soon: nothing long is begun any more.
        for path in ["/v1/get", "/v1/put"] {
            let body = if path == "/v1/get" { get_body() } else { json!({ "paths": ["/x"] }) };
            let (code, answer) = world.unix("POST", path, &body).await;
            let line = answer["error"].as_str().unwrap_or_default();
            assert!(code == 409 && line.contains("leave --cancel"), "{path}: {code} {answer}");
        }
        assert_eq!(world.unix("DELETE", "/v1/leave", &Value::Null).await, (200, json!({ "was": true })));
        assert_eq!(world.told.recv().await, Some(Told::Leave(None)));
        assert_eq!(world.unix("DELETE", "/v1/leave", &Value::Null).await.1, json!({ "was": false }));
        assert_eq!(world.told.recv().await, Some(Told::Leave(None)));
        assert_eq!(world.unix("POST", "/v1/online", &json!({ "for_s": 60 })).await.0, 200);
        assert_eq!(world.told.recv().await, Some(Told::Online(Some(60))));
        assert_eq!(world.unix("DELETE", "/v1/online", &Value::Null).await.0, 200);
        assert_eq!(world.told.recv().await, Some(Told::Online(None)));
        for (path, body) in [
            ("/v1/leave", json!({ "in_s": u32::MAX })),
            ("/v1/leave", json!({})),
            ("/v1/online", json!({ "for_s": 0 })),
        ] {
            assert_eq!(world.unix("POST", path, &body).await.0, 400, "{path} {body}");
        }
        assert!(world.told.try_recv().is_err(), "nothing of that reached the node");
    });
}

#[test]
fn a_friend_is_asked_by_its_name_and_only_when_it_is_there() {
    block_on(async {
        let mut world = world().await;
        let add = json!({ "invite": invitation(5), "name": "bob" });
        assert_eq!(world.unix("POST", "/v1/friends", &add).await.0, 200);
        assert_eq!(world.told.recv().await, Some(Told::Friends(1)));
        for (who, code) in [("nobody", 404), ("bob", 409)] {
            let path = format!("/v1/friends/{who}/stay");
            assert_eq!(world.unix("POST", &path, &json!({ "more_s": 600 })).await.0, code, "{who}");
        }
        assert_eq!(world.unix("POST", "/v1/friends/bob/stay", &json!({ "more_s": 0 })).await.0, 400);
        assert!(world.told.try_recv().is_err(), "it is away");
    });
}

#[test]
fn what_friends_may_have_it_do_follows_the_settings() {
    block_on(async {
        let mut world = world().await;
        let change = json!({ "intents.grant_max": "1h", "intents.grant_trust": 80, "intents.ask_max": "0" });
        assert_eq!(world.unix("PATCH", "/v1/config", &change).await.0, 200);
        assert_eq!(world.told.recv().await, Some(Told::Intents(3600, 80, 0)));
        let change = json!({ "intents.grant_max": "2d" });
        assert_eq!(world.unix("PATCH", "/v1/config", &change).await.0, 400);
    });
}
