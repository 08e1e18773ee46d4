use super::*;
use crate::limits::HELLO_MS_MAX;

/// Found by review: a peer could keep a stream, and what came on it, as long as its session.
#[test]
fn an_introduction_that_is_not_whole_in_time_is_given_up() {
    let mut scene = Scene::new(&mut Input::new(&[0; 8]));
    let card = *scene.hostile.identity.card();
    let friend =
        Friend { card, addresses: vec![scene.hostile.address], bridge: None, trust: 50, introduce: true };
    scene.input(NodeInput::Command(Command::Friends(vec![friend])));
    scene.exchange();
    let hello = Hello::ours(&[CHUNK_CHANNEL]).emit();
    let say = |scene: &mut Scene, stream, fin| {
        let bytes = if fin { &hello[..] } else { &hello[..2] };
        let payload = stream_payload(StreamId(stream), Some(HELLO_CHANNEL), 0, fin, bytes);
        scene.say(&mut Input::new(&[1, 1]), &payload);
    };
    say(&mut scene, 1, true);
    say(&mut scene, 3, false);
    scene.heard_payloads = Some(Vec::new());
    let stopped = |scene: &Scene| -> Vec<(u64, u64)> {
        let payloads = scene.heard_payloads.iter().flatten();
        let all = payloads.flat_map(|payload| frames(payload)).filter_map(Result::ok);
        let stops = all.filter_map(|frame| match frame {
            Frame::Stop { stream, code } => Some((stream.0, code)),
            _ => None,
        });
        stops.collect()
    };
    let begun = scene.now;
    let late = begun + Duration::from_millis(HELLO_MS_MAX);
    while let Some(next) = scene.node.poll_timeout().filter(|next| *next < late) {
        scene.now = scene.now.max(next);
        scene.tick();
        scene.exchange();
    }
    assert_eq!(stopped(&scene), [], "it has its time");
    scene.now = late;
    scene.tick();
    scene.exchange();
    let stopped = stopped(&scene);
    assert!(stopped.contains(&(3, 4)) && stopped.iter().all(|(stream, _)| *stream == 3), "{stopped:?}");
}
