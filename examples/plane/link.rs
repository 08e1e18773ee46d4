//! A session between two processes that know each other by a number, on a shard each.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crossbeam::channel::bounded;
use tornet::base::{Place, Rng, UnixMs};
use tornet::crypto::{Identity, Secret};
use tornet::io::clock::Clocks;
use tornet::limits::DATAGRAM_MAX;
use tornet::node::{Clock, Output, Train, World};
use tornet::session::{Config, Event, SessionKey, Sessions};
use tornet::shard::{Core, NoChunks, Running, Settings, start};

use super::{End, Fallible, Plan};

/// The sessions of one end, and the one that matters.
pub struct Link {
    pub sessions: Sessions,
    pub key: Option<SessionKey>,
}

fn identity(number: u8) -> Arc<Identity> {
    Arc::new(Identity::new(Secret::from_bytes([number; 32]), 0, 0))
}

impl Link {
    /// The receiver waits, the sender calls.
    pub fn new(end: End, clock: Clock, rng: Rng) -> Self {
        let (own, other) = match end {
            End::At(_) => (identity(1), identity(2)),
            End::To(_) => (identity(2), identity(1)),
        };
        let config = Config { place_floor_bits: 0, ..Config::new(own, b"bench", UnixMs(0)) };
        let mut sessions = Sessions::new(config, rng, clock.now);
        if let End::To(address) = end {
            let called = sessions.connect(clock.now, clock.wall, other.card(), &[address], b"");
            called.expect("a first handshake is taken");
        }
        Self { sessions, key: None }
    }

    /// Takes what there is to know.
    pub fn hear(&mut self) {
        while let Some(event) = self.sessions.poll_event() {
            match event {
                Event::Established { session, .. } => self.key = Some(session),
                Event::Closed { session, why } if self.key == Some(session) => panic!("the session: {why}"),
                Event::Failed { why, .. } => panic!("the handshake: {why}"),
                _ => {}
            }
        }
    }

    /// Handshakes and control packets, and time.
    pub fn poll<W: World>(&mut self, clock: Clock, world: &mut W) -> Option<Output> {
        if self.sessions.poll_timeout().is_some_and(|at| at <= clock.now) {
            self.sessions.handle_timeout(clock.now, clock.wall);
        }
        self.hear();
        let place = Place { len: DATAGRAM_MAX as u32, ..Place::room(world.alloc()?) };
        match self.sessions.poll_transmit(clock.now, clock.wall, world.bytes_mut(place)) {
            Some((path, len)) => {
                let place = Place { len: len as u32, ..place };
                Some(Output::Train(Train { path, place, segment: len as u32, ecn: 0 }))
            }
            None => {
                world.free(place.buf);
                None
            }
        }
    }
}

/// Starts a shard for one end; a receiver says that it is ready.
pub fn run<C: Core + Send + 'static>(
    end: End,
    plan: &Plan,
    make: impl FnOnce(Clock, Rng) -> C + Send + 'static,
) -> Fallible<Running<C>> {
    let running = run_polling(end, plan, Duration::ZERO, make)?;
    if matches!(end, End::At(_)) {
        println!("ready");
    }
    Ok(running)
}

/// Starts a shard that looks for work so long before it sleeps, and says nothing.
pub fn run_polling<C: Core + Send + 'static>(
    end: End,
    plan: &Plan,
    busy_poll: Duration,
    make: impl FnOnce(Clock, Rng) -> C + Send + 'static,
) -> Fallible<Running<C>> {
    let address: SocketAddr = match end {
        End::At(address) => address,
        End::To(_) => "0.0.0.0:0".parse()?,
    };
    let settings = Settings {
        index: 0,
        core: Some(plan.core),
        addresses: vec![address],
        report_local: false,
        busy_poll,
        clocks: Clocks::start(),
        shards: Vec::new(),
    };
    let (files, _) = bounded(1);
    Ok(start(settings, files, Box::new(drop), |around, rng| (make(around.clock, rng), NoChunks))?)
}
