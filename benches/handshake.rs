//! What a first flight of somebody who knows the identity costs its receiver, with the receiver's static public key at
//! hand (as `session` has it) and computed anew: `cargo bench --bench handshake`.

use criterion::{Criterion, criterion_group, criterion_main};
use snow::Builder;
use tornet::base::Rng;
use tornet::crypto::dh::Resolver;
use tornet::crypto::{Identity, Secret};

const PATTERN: &str = "Noise_IK_25519_ChaChaPoly_SHA256";

fn builder<'a>(rng: &mut Rng, identity: &'a Identity, public: Option<[u8; 32]>) -> Builder<'a> {
    let params = PATTERN.parse().expect("a pattern");
    let builder = Builder::with_resolver(params, Box::new(Resolver::new(rng, public)));
    let builder = builder.prologue(b"net").expect("a prologue");
    builder.local_private_key(identity.dh_secret()).expect("a key")
}

fn first_message(c: &mut Criterion) {
    let mut rng = Rng::from_number(1);
    let [a, b] = [1, 2].map(|seed| Identity::new(Secret::from_bytes([seed; 32]), 0, 0));
    let mut first = [0; 1100];
    let initiator =
        builder(&mut rng, &a, Some(*a.dh_public())).remote_public_key(b.dh_public()).expect("a key");
    let mut initiator = initiator.build_initiator().expect("an initiator");
    let len = initiator.write_message(&[0; 900], &mut first).expect("room");
    let mut payload = [0; 1100];
    let mut group = c.benchmark_group("first message");
    for (name, public) in [("public key at hand", Some(*b.dh_public())), ("public key computed", None)] {
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let mut responder = builder(&mut rng, &b, public).build_responder().expect("a responder");
                responder.read_message(&first[..len], &mut payload).expect("genuine")
            });
        });
    }
    group.finish();
}

criterion_group!(benches, first_message);
criterion_main!(benches);
