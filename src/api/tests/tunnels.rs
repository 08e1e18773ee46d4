//! Tunnels through the API.

use super::*;

#[test]
fn a_tunnel_is_brought_up_listed_and_taken_down() {
    block_on(async {
        let mut world = world().await;
        let add = json!({ "invite": invitation(2), "name": "bob" });
        assert_eq!(world.unix("POST", "/v1/friends", &add).await.0, 200);
        assert_eq!(world.told.recv().await, Some(Told::Friends(1)));
        let up = json!({ "peer": "bob", "addr": ["10.9.0.1/24"], "route": ["192.168.7.9/24"] });
        let (code, answer) = world.unix("POST", "/v1/tunnels", &up).await;
        assert_eq!(
            (code, &answer["new"], &answer["device"]),
            (200, &json!(true), &json!("tornet0")),
            "{answer}"
        );
        assert_eq!(answer["tunnel"]["allow"], json!(["10.9.0.0/24", "192.168.7.0/24"]));
        assert_eq!(world.told.recv().await, Some(Told::Tunnels(1)));
        let Some(Told::Host(Some(plan))) = world.told.recv().await else { panic!("the host is asked") };
        assert_eq!((plan.addresses.len(), plan.routes.len(), plan.ports), (1, 1, vec![4700]));
        assert_eq!(world.told.recv().await, Some(Told::Relay(true)), "an exit may depend on the device");
        assert!(world.settings().contains("[[tunnel.peer]]"));
        let (_, list) = world.unix("GET", "/v1/tunnels", &Value::Null).await;
        assert_eq!(
            (&list["tunnels"][0]["peer"], &list["tunnels"][0]["sent_bytes"]),
            (&json!("bob"), &json!(0))
        );
        assert_eq!(world.unix("DELETE", "/v1/friends/bob", &Value::Null).await.0, 409, "it has a tunnel");
        let (code, answer) = world.unix("DELETE", "/v1/tunnels/bob", &Value::Null).await;
        assert_eq!((code, answer["removed"].as_array().map(Vec::len)), (200, Some(1)), "{answer}");
        assert_eq!(world.told.recv().await, Some(Told::Tunnels(0)));
        assert_eq!(world.told.recv().await, Some(Told::Host(None)));
        assert_eq!(world.unix("DELETE", "/v1/tunnels/bob", &Value::Null).await.0, 404);
        assert_eq!(world.tcp("GET", "/v1/tunnels", "127.0.0.1").await.0, 404, "for the node's user alone");
    });
}

#[test]
fn what_the_host_refuses_is_not_remembered() {
    block_on(async {
        let world = world().await;
        let add = json!({ "invite": invitation(2), "name": "bob" });
        assert_eq!(world.unix("POST", "/v1/friends", &add).await.0, 200);
        let device = json!({ "tunnel.device": "refused" });
        assert_eq!(world.unix("PATCH", "/v1/config", &device).await.0, 200);
        for (body, wanted) in [
            (json!({ "peer": "bob", "addr": ["10.9.0.1/24"] }), 409),
            (json!({ "peer": "bob", "addr": [] }), 400),
            (json!({ "peer": "bob", "addr": ["10.9.0.1/33"] }), 400),
            (json!({ "peer": "ann", "addr": ["10.9.0.1/24"] }), 404),
        ] {
            let (code, answer) = world.unix("POST", "/v1/tunnels", &body).await;
            assert_eq!(code, wanted, "{body}: {answer}");
            assert!(answer["error"].as_str().is_some_and(|line| !line.contains('\n')), "{answer}");
            let (_, list) = world.unix("GET", "/v1/tunnels", &Value::Null).await;
            assert_eq!(list["tunnels"], json!([]), "{body}");
        }
    });
}

#[test]
fn a_circuit_is_brought_up_listed_and_taken_down() {
    block_on(async {
        let mut world = world().await;
        let (code, answer) = world.unix("POST", "/v1/circuit", &json!({ "hops": 3 })).await;
        assert_eq!((code, &answer["circuit"]["open"]), (200, &json!(true)), "{answer}");
        assert_eq!(world.told.recv().await, Some(Told::Tunnels(0)));
        let Some(Told::Host(Some(plan))) = world.told.recv().await else { panic!("the host is asked") };
        assert!(plan.kill_switch && plan.routes.len() == 2 && plan.addresses.len() == 2, "{plan:?}");
        assert_eq!(world.told.recv().await, Some(Told::Relay(true)));
        assert_eq!(world.told.recv().await, Some(Told::Socks(None)));
        assert!(world.settings().contains("hops = 3"));
        let (_, list) = world.unix("GET", "/v1/tunnels", &Value::Null).await;
        assert_eq!((&list["circuit"]["hops"], &list["tunnels"]), (&json!(3), &json!([])), "{list}");
        // An exit has none.
        let exit = json!({ "exit.allow": "0.0.0.0/0 443" });
        let (code, answer) = world.unix("PATCH", "/v1/config", &exit).await;
        assert_eq!(code, 409, "{answer}");
        let (code, answer) = world.unix("DELETE", "/v1/circuit", &Value::Null).await;
        assert_eq!((code, &answer["removed"]), (200, &json!(true)));
        assert_eq!(world.told.recv().await, Some(Told::Socks(None)));
        assert_eq!(world.told.recv().await, Some(Told::Tunnels(0)));
        assert_eq!(world.told.recv().await, Some(Told::Host(None)));
        assert_eq!(world.told.recv().await, Some(Told::Relay(true)));
        let (code, answer) = world.unix("PATCH", "/v1/config", &exit).await;
        assert_eq!(code, 200, "{answer}");
        assert_eq!(world.told.recv().await, Some(Told::Tunnels(0)));
        let Some(Told::Host(Some(plan))) = world.told.recv().await else { panic!("the host is asked") };
        assert_eq!((plan.exit.len(), plan.kill_switch), (1, false));
        for (body, wanted) in [
            (json!({ "hops": 0 }), 400),
            (json!({ "hops": 6 }), 400),
            (json!({ "hops": 2, "exit": "nobody" }), 404),
            (json!({ "hops": 2, "route": ["everything"] }), 400),
            (json!({ "hops": 2 }), 409),
        ] {
            let (code, answer) = world.unix("POST", "/v1/circuit", &body).await;
            assert_eq!(code, wanted, "{body}: {answer}");
            assert!(answer["error"].as_str().is_some_and(|line| !line.contains('\n')), "{answer}");
        }
    });
}

#[test]
fn a_proxy_alone_asks_nothing_of_the_host_and_ends_with_its_circuit() {
    block_on(async {
        let mut world = world().await;
        let alone = json!({ "hops": 3, "socks": "127.0.0.1:1080" });
        let (code, answer) = world.unix("POST", "/v1/circuit", &alone).await;
        assert_eq!((code, &answer["device"]), (200, &Value::Null), "{answer}");
        assert_eq!(answer["circuit"]["socks"], json!("127.0.0.1:1080"));
        assert_eq!(world.told.recv().await, Some(Told::Tunnels(0)));
        assert_eq!(world.told.recv().await, Some(Told::Host(None)));
        assert_eq!(world.told.recv().await, Some(Told::Relay(true)));
        let listen = "127.0.0.1:1080".parse().expect("an address");
        let plan = SocksPlan { listen, resolvers: Vec::new() };
        assert_eq!(world.told.recv().await, Some(Told::Socks(Some(plan.clone()))));
        // Beside a device, for the networks that are named.
        let beside = json!({ "hops": 3, "socks": "127.0.0.1:1080", "route": ["192.0.2.0/24"] });
        let (code, answer) = world.unix("POST", "/v1/circuit", &beside).await;
        assert_eq!((code, &answer["device"]), (200, &json!("tornet0")), "{answer}");
        assert_eq!(world.told.recv().await, Some(Told::Tunnels(0)));
        let Some(Told::Host(Some(host))) = world.told.recv().await else { panic!("the host is asked") };
        assert_eq!((host.routes.len(), host.kill_switch), (1, false));
        assert_eq!(world.told.recv().await, Some(Told::Relay(true)));
        assert_eq!(world.told.recv().await, Some(Told::Socks(Some(plan))));
        for (socks, wanted, hint) in [
            ("0.0.0.0:1080", 400, "socks.public"),
            ("127.0.0.1", 400, "127.0.0.1:1080"),
            ("127.0.0.1:0", 400, "port"),
            ("127.0.0.1:1", 409, "in use"),
        ] {
            let body = json!({ "hops": 2, "socks": socks });
            let (code, answer) = world.unix("POST", "/v1/circuit", &body).await;
            let line = answer["error"].as_str().unwrap_or_default();
            assert!(
                code == wanted && line.contains(hint) && !line.contains('\n'),
                "{socks}: {code} {answer}"
            );
            let (_, list) = world.unix("GET", "/v1/tunnels", &Value::Null).await;
            assert_eq!(list["circuit"]["hops"], json!(3), "as it was");
        }
        while world.told.try_recv().is_ok() {}
        let (code, _) = world.unix("DELETE", "/v1/circuit", &Value::Null).await;
        assert_eq!((code, world.told.recv().await), (200, Some(Told::Socks(None))));
        // What would carry nothing is no circuit.
        let (code, answer) = world
            .unix(
                "PATCH",
                "/v1/config",
                &json!({ "socks.listen": "", "onion.routes": "", "onion.hops": "2" }),
            )
            .await;
        assert_eq!(code, 400, "{answer}");
    });
}
