//! A node among strangers: any datagrams, first flights that say anything inside, answers to its own that do.
//! Who did not prove his address gets little; nothing grows; all is forgotten.

use super::Input;
use super::endpoint::{Endpoint, NETWORK, address, identity, later, wall};
use crate::base::{Time, UnixMs};
use crate::crypto::{IdentityCard, Suite};
use crate::limits::{EARLY_DATA_MAX, HANDSHAKE_INIT_MIN, UNCONFIRMED_PER_PEER_MAX};
use crate::session::{Received, forge};
use crate::wire::handshake::{Init, Reply, VERSION};

/// Identities of strangers.
const STRANGERS: u8 = 3;
/// Hosts of strangers; those that the node writes to by itself are above.
const HOSTS: u8 = 4;
const STEPS_MAX: usize = 48;

/// What a first flight says: nearly right, so that the next check is reached.
fn init(input: &mut Input<'_>, card: IdentityCard, now: Time) -> Vec<u8> {
    let skew = match input.byte() % 4 {
        0 => input.number(),
        _ => 0,
    };
    let mut card = card;
    match input.byte() % 16 {
        0 => card.key.0 = input.array(),
        1 => card.key = identity(200 + input.byte() % STRANGERS).card().key,
        _ => {}
    }
    card.place_nonce = input.byte().into();
    let (token, early) = (input.bytes(64), input.bytes(40));
    let init = Init {
        timestamp: UnixMs(wall(now).0.wrapping_add(skew)),
        card,
        cid: input.long(),
        aes: input.flag(),
        token,
        early: &early[..early.len().min(EARLY_DATA_MAX)],
    };
    let mut payload = vec![0; init.size()];
    init.emit(&mut payload).expect("room");
    if input.one_in(4) {
        input.mutate(&mut payload);
    }
    // Long enough to be looked at, most often.
    let len = if input.one_in(8) { payload.len() } else { payload.len().max(HANDSHAKE_INIT_MIN) };
    payload.resize(len, 0);
    payload
}

fn reply(input: &mut Input<'_>) -> Vec<u8> {
    let reply = Reply {
        cid: input.long(),
        aes: input.flag(),
        early_accepted: input.flag(),
        home_port: input.half(),
        token: input.bytes(64),
    };
    let mut payload = vec![0; reply.size()];
    reply.emit(&mut payload).expect("room");
    if input.one_in(4) {
        input.mutate(&mut payload);
    }
    if input.one_in(8) { [&[VERSION][..], input.bytes(60)].concat() } else { payload }
}

/// See the module.
pub fn stranger(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let mut rng = input.rng();
    let mut now = Time::from_millis(1000);
    let suite = if input.flag() { Suite::Aes256Gcm } else { Suite::ChaCha20Poly1305 };
    let home_port = if input.flag() { 4601 } else { 0 };
    let mut node = Endpoint::new(1, 99, suite, home_port, rng.fork(), now);
    let peer = node.identity.card().key;
    let strangers: Vec<_> = (0..STRANGERS).map(|index| identity(200 + index)).collect();
    let mut log: Vec<Vec<u8>> = Vec::new();
    for _ in 0..STEPS_MAX {
        if input.is_empty() {
            break;
        }
        let from = address(input.byte() % HOSTS);
        let who = input.below(strangers.len());
        let stranger = &strangers[who];
        match input.below(10) {
            0 => {
                let datagram = input.bytes(1500).to_vec();
                assert!(matches!(node.receive(now, from, &datagram), Received::Dropped(_)));
            }
            1..=3 => {
                let payload = init(&mut input, *stranger.card(), now);
                let cookie = if input.one_in(8) { input.array() } else { [0; 16] };
                let first = forge::first_flight(stranger, NETWORK, &peer, &cookie, &payload, &mut rng);
                let first = first.expect("a key");
                let sent = node.sent.len();
                node.receive(now, from, &first);
                // A first flight of its own may follow, when it calls that peer too.
                let calls = node.sessions.counters().handshakes_started > 0;
                assert!(calls || node.sent[sent..].iter().all(|(_, answer)| answer.len() <= first.len()));
                log.push(first);
            }
            4 if !log.is_empty() => {
                let mut again = log[input.below(log.len())].clone();
                if input.flag() {
                    input.mutate(&mut again);
                }
                node.receive(now, from, &again);
            }
            5 => {
                let at = [address(100 + who as u8), address(110 + who as u8)];
                let early = input.bytes(EARLY_DATA_MAX);
                node.connect(now, stranger, &at[..1 + input.below(2)], early);
            }
            6 => {
                // An answer to a first flight of the node, from anywhere.
                let flights: Vec<_> =
                    node.sent.iter().filter(|(_, datagram)| datagram.len() >= 900).collect();
                if flights.is_empty() {
                    continue;
                }
                let flight = flights[input.below(flights.len())].1.clone();
                let payload = reply(&mut input);
                for who in &strangers {
                    if let Some(answer) = forge::answer(who, NETWORK, &flight, &payload, &mut rng) {
                        node.receive(now, if input.flag() { from } else { address(100) }, &answer);
                    }
                }
            }
            7 if !node.alive.is_empty() => {
                let at = input.below(node.alive.len());
                let key = *node.alive.iter().nth(at).expect("there");
                let reason = String::from_utf8_lossy(input.bytes(400)).into_owned();
                node.sessions.close(now, key, crate::session::CloseCode(input.half()), &reason);
                node.flush(now);
            }
            8 if !node.established.is_empty() => {
                let key = node.established[input.below(node.established.len())];
                let len = input.below(1400);
                node.seal(now, key, crate::session::PacketKind::Stream, &vec![0; len]);
                node.sessions.set_keepalive(key, input.flag());
            }
            _ => {
                now = later(now, input.byte(), input.half(), node.sessions.poll_timeout());
                node.tick(now);
            }
        }
        (0..HOSTS).for_each(|host| node.assert_no_amplification(address(host)));
        let most = usize::from(STRANGERS) * (UNCONFIRMED_PER_PEER_MAX + 2) + 2 * STEPS_MAX;
        assert!(node.sessions.len() <= most, "{} sessions", node.sessions.len());
    }
    node.assert_forgets(now);
}
