//! Servers of STUN, where the operator names some, say where a shard's socket is seen; and others may ask this node, where the
//! operator lets them (docs/protocol/nat.md §6).

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use super::command::NatRules;
use super::punch::Teller;
use super::{Clock, Foreign, Node};
use crate::base::{Budget, NodeId, Path, Time};
use crate::limits::{
    PASSING_MAX, STUN_AGAIN_MS, STUN_ANSWERS_BURST, STUN_ANSWERS_PER_SECOND, STUN_RETRY_MS, STUN_SERVERS_MAX,
    STUN_TRIES_MAX,
};
use crate::wire::stun::{Message, RESPONSE_SIZE_MAX, TransactionId};

/// A shard's part.
#[derive(Default)]
pub(super) struct Stun {
    /// Whether others are answered.
    answers: bool,
    given: Budget,
    /// At most [`STUN_SERVERS_MAX`].
    servers: BTreeMap<SocketAddr, Asked>,
    pub(super) counters: Counters,
}

#[derive(Debug, Clone, Copy)]
struct Asked {
    id: TransactionId,
    /// How often in a row, without an answer.
    tries: u32,
    next_at: Time,
}

/// What happened.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Counters {
    pub(super) asked: u64,
    pub(super) answered: u64,
    pub(super) given: u64,
    pub(super) refused: u64,
}

impl Stun {
    pub(super) fn poll_timeout(&self) -> Option<Time> {
        self.servers.values().map(|asked| asked.next_at).min()
    }
}

impl Node {
    /// What the settings say of translators.
    pub(super) fn set_nat(&mut self, clock: Clock, rules: NatRules) {
        self.punch.mapped = rules.mapped;
        let own = &mut self.stun;
        own.answers = rules.answers;
        own.servers.retain(|server, _| rules.stun.contains(server));
        for server in rules.stun.into_iter().take(STUN_SERVERS_MAX) {
            own.servers.entry(server).or_insert(Asked { id: [0; 12], tries: 0, next_at: clock.now });
        }
        self.tell_mapped(clock);
    }

    /// Asks the servers that are due.
    pub(super) fn settle_stun(&mut self, clock: Clock) {
        if self.stun.poll_timeout().is_none_or(|at| at > clock.now) {
            return;
        }
        let due = |(_, asked): &(&SocketAddr, &Asked)| asked.next_at <= clock.now;
        let due: Vec<SocketAddr> = self.stun.servers.iter().filter(due).map(|(server, _)| *server).collect();
        for server in due {
            let id = self.rng.bytes();
            let Some(asked) = self.stun.servers.get_mut(&server) else { continue };
            let tries = asked.tries % STUN_TRIES_MAX + 1;
            let pause = if tries < STUN_TRIES_MAX { STUN_RETRY_MS << (tries - 1) } else { STUN_AGAIN_MS };
            *asked = Asked { id, tries, next_at: clock.now + Duration::from_millis(pause) };
            self.stun.counters.asked += 1;
            let local = if server.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0u16; 8], 0).into() };
            self.say_stun(Path { local, remote: server }, &Message::Request(id));
        }
    }

    fn say_stun(&mut self, path: Path, message: &Message) {
        let mut out = [0; RESPONSE_SIZE_MAX];
        let len = message.emit(&mut out);
        if self.foreign.len() < PASSING_MAX {
            self.foreign.push_back(Foreign { path, segment: len as u32, ecn: 0, bytes: out[..len].into() });
        }
    }

    /// A message of STUN came; whether anything follows from it.
    pub(super) fn handle_stun(&mut self, clock: Clock, path: Path, datagram: &[u8]) -> bool {
        match Message::parse(datagram) {
            Ok(Message::Request(id)) if self.stun.answers && !self.introducing.rules.only => {
                let own = &mut self.stun;
                let may = own.given.take(1, STUN_ANSWERS_PER_SECOND, STUN_ANSWERS_BURST, clock.now);
                *(if may { &mut own.counters.given } else { &mut own.counters.refused }) += 1;
                if may {
                    self.say_stun(path, &Message::Response(id, path.remote));
                }
                // What is to be sent is asked for after every train.
                false
            }
            Ok(Message::Response(id, address)) => {
                let server = SocketAddr::new(path.remote.ip().to_canonical(), path.remote.port());
                let Some(asked) = self.stun.servers.get_mut(&server) else { return false };
                if asked.id != id || asked.tries == 0 {
                    return false;
                }
                let again = Duration::from_millis(STUN_AGAIN_MS);
                *asked = Asked { tries: 0, next_at: clock.now + again, ..*asked };
                self.stun.counters.answered += 1;
                self.note_told(clock, Teller::Server(server), address);
                // It is a witness as good as a peer in its network.
                if let Some((keeper, at)) = self.overlay.core(clock) {
                    keeper.seen_by_server(at.now, NodeId([0; 20]), server, address);
                }
                true
            }
            _ => false,
        }
    }
}
