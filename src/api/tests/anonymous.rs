//! Gets over circuits through the API: what the node is told, and what is refused before it is.

use super::*;

#[test]
fn a_get_with_hops_brings_an_identity_of_its_own_and_is_cancelled_as_any() {
    block_on(async {
        let mut world = world().await;
        let mut asked = get_body();
        (asked["hops"], asked["exit"], asked["force"]) =
            (json!(3), json!(PublicKey([9; 32]).to_string()), json!(true));
        let mut stream = UnixStream::connect(world.socket()).await.expect("connected");
        let text = request("POST", "/v1/get", "tornet", &asked.to_string());
        stream.write_all(text.as_bytes()).await.expect("written");
        let Some(Told::Anonymous(job, 3, exit, true)) = world.told.recv().await else { panic!("a get") };
        assert_eq!(exit, Some(PublicKey([9; 32])));
        drop(stream);
        assert_eq!(world.told.recv().await, Some(Told::Cancel(job)));
    });
}

#[test]
fn what_makes_no_circuit_is_refused_in_the_words_of_a_tunnel() {
    block_on(async {
        let mut world = world().await;
        for (field, value, wanted) in [
            ("hops", json!(0), "--hops is a number from 1 to 5"),
            ("hops", json!(6), "--hops is a number from 1 to 5"),
            ("exit", json!("nobody"), "exit and force are for gets with hops"),
            ("force", json!(true), "exit and force are for gets with hops"),
        ] {
            let mut asked = get_body();
            asked[field] = value;
            let (code, answer) = world.unix("POST", "/v1/get", &asked).await;
            let line = answer["error"].as_str().unwrap_or_default();
            assert!(code == 400 && line.contains(wanted), "{field}: {code} {answer}");
        }
        let mut asked = get_body();
        (asked["hops"], asked["exit"]) = (json!(3), json!("nobody"));
        let (code, answer) = world.unix("POST", "/v1/get", &asked).await;
        assert!(code >= 400, "{answer}");
        assert!(world.told.try_recv().is_err(), "nothing reached the node");
    });
}
