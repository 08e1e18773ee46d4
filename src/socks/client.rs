//! One application's connection to the proxy: from its greeting to the end of what it asked for.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use nix::libc;
use nix::sys::socket::{setsockopt, sockopt::Linger};
use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp::State;

use super::association::Association;
use super::relay::{Course, Ready, Relay};
use super::stats::Stats;
use crate::base::Time;
use crate::limits::{
    SOCKS_ADDRESSES_MAX, SOCKS_CONNECT_MS_MAX, SOCKS_EARLY_MAX, SOCKS_HANDSHAKE_MS_MAX, SOCKS_LINGER_MS,
};
use crate::service::proxy::names::{Names, NoAddress};
use crate::service::proxy::stack::{Stack, is_elsewhere};
use crate::wire::socks::{
    Code, Command, Host, METHOD_NONE, METHOD_REFUSED, Request, choice, greeting, reply, request,
};

/// What is said of addresses that are nobody's business.
const NOWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

/// What a client uses.
pub(super) struct Around<'a> {
    pub stack: &'a mut Stack,
    pub names: &'a mut Names,
    pub stats: &'a Stats,
    /// Whether another association may be.
    pub may_associate: bool,
}

/// One.
pub(super) struct Client {
    pub stream: TcpStream,
    pub ready: Ready,
    /// When it is given up.
    pub due: Time,
    stage: Stage,
    /// What it sent that was not used yet.
    early: Vec<u8>,
    /// Nothing more comes from it.
    sent_all: bool,
}

enum Stage {
    Greeting,
    Request,
    Naming {
        name: String,
        port: u16,
    },
    Connecting {
        handle: SocketHandle,
        port: u16,
        to: SocketAddr,
        others: VecDeque<SocketAddr>,
    },
    Relaying(Relay),
    Associated(Box<Association>),
    /// It was told that it gets nothing, and reads that.
    Leaving,
    Gone,
}

/// What is to become of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// It waits.
    Wait,
    /// It has more to do at once.
    More,
    /// A socket for datagrams was made, which is to be watched.
    Associated,
    /// It is to be dropped.
    End,
}

impl Client {
    pub(super) fn new(now: Time, stream: TcpStream) -> Self {
        Self {
            stream,
            ready: Ready { read: true, write: true, ending: false, broken: false },
            due: now + Duration::from_millis(SOCKS_HANDSHAKE_MS_MAX),
            stage: Stage::Greeting,
            early: Vec::new(),
            sent_all: false,
        }
    }

    /// Its association, if it has one.
    pub(super) fn association(&mut self) -> Option<&mut Association> {
        match &mut self.stage {
            Stage::Associated(association) => Some(association),
            _ => None,
        }
    }

    /// Does what can be done.
    pub(super) fn step(&mut self, now: Time, id: u64, around: &mut Around<'_>) -> Step {
        loop {
            if now >= self.due {
                return self.overdue(now, around);
            }
            let next = match &mut self.stage {
                Stage::Relaying(relay) => {
                    let (stream, ready) = (&mut self.stream, &mut self.ready);
                    let course = relay.step(now, stream, ready, &mut self.early, around.stack, around.stats);
                    self.due = relay.due(around.stack);
                    return match course {
                        Course::On => Step::Wait,
                        Course::More => Step::More,
                        Course::Done => Step::End,
                        Course::Broken => self.broken(around.stats),
                    };
                }
                Stage::Greeting => self.greet(now, around.stats),
                Stage::Request => self.request(now, id, around),
                Stage::Naming { .. } => self.wait_early(),
                Stage::Connecting { .. } => self.connecting(now, around),
                Stage::Associated(association) => {
                    let more = association.step(now, id, around.stack, around.names, around.stats);
                    self.due = association.due();
                    match self.read_early() {
                        // Whatever it says means nothing.
                        Ok(()) => self.early.clear(),
                        Err(_) => return Step::End,
                    }
                    return if self.sent_all {
                        Step::End
                    } else if more {
                        Step::More
                    } else {
                        Step::Wait
                    };
                }
                Stage::Leaving => {
                    self.early.clear();
                    let over = self.read_early().is_err() || self.sent_all;
                    Err(if over {
                        Step::End
                    } else if self.ready.read {
                        Step::More
                    } else {
                        Step::Wait
                    })
                }
                Stage::Gone => Err(Step::End),
            };
            if let Err(step) = next {
                return step;
            }
        }
    }

    /// Reads what it has sent, up to a bound.
    fn read_early(&mut self) -> io::Result<()> {
        if self.ready.broken {
            return Err(ErrorKind::ConnectionReset.into());
        }
        while self.ready.read && !self.sent_all && self.early.len() < SOCKS_EARLY_MAX {
            let mut room = [0; SOCKS_EARLY_MAX];
            let room = &mut room[..SOCKS_EARLY_MAX - self.early.len()];
            match self.stream.read(room) {
                Ok(0) => self.sent_all = true,
                Ok(len) => self.early.extend(&room[..len]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.ready.read = false,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Answers; the socket of a client that has been told next to nothing so far has room.
    fn say(&mut self, bytes: &[u8]) -> Result<(), Step> {
        match self.stream.write(bytes) {
            Ok(len) if len == bytes.len() => Ok(()),
            _ => Err(Step::End),
        }
    }

    fn wait_early(&mut self) -> Result<(), Step> {
        self.read_early().map_err(|_| Step::End)?;
        Err(Step::Wait)
    }

    fn greet(&mut self, now: Time, stats: &Stats) -> Result<(), Step> {
        self.read_early().map_err(|_| Step::End)?;
        match greeting(&self.early) {
            Ok(Some((acceptable, len))) => {
                self.early.drain(..len);
                let method = if acceptable { METHOD_NONE } else { METHOD_REFUSED };
                self.say(&choice(method))?;
                if !acceptable {
                    Stats::add(&stats.strangers, 1);
                    return self.leave(now);
                }
                self.stage = Stage::Request;
                Ok(())
            }
            Ok(None) => Err(if self.sent_all { Step::End } else { Step::Wait }),
            Err(_) => {
                Stats::add(&stats.strangers, 1);
                Err(Step::End)
            }
        }
    }

    fn request(&mut self, now: Time, id: u64, around: &mut Around<'_>) -> Result<(), Step> {
        self.read_early().map_err(|_| Step::End)?;
        match request(&self.early) {
            Ok(Some((Request { command, place }, len))) => {
                self.early.drain(..len);
                match (command, place.host) {
                    (Command::Bind, _) => self.refuse(now, Code::UnknownCommand, around.stats),
                    (Command::Associate, _) => self.associate(now, place.port, around),
                    (Command::Connect, Host::Address(address)) => {
                        let only = [SocketAddr::new(address, place.port)];
                        self.connect(now, only.into(), Code::Failure, around)
                    }
                    (Command::Connect, Host::Name(name)) => {
                        around.names.ask(now, &name, id, &mut around.stack.ports);
                        // The names have an end of their own.
                        self.due = now + Duration::from_millis(3 * SOCKS_CONNECT_MS_MAX);
                        self.stage = Stage::Naming { name, port: place.port };
                        Ok(())
                    }
                }
            }
            Ok(None) => Err(if self.sent_all { Step::End } else { Step::Wait }),
            Err(why) => match why.code {
                Some(code) => self.refuse(now, code, around.stats),
                None => Err(Step::End),
            },
        }
    }

    /// Tells it no, and lets it read that.
    fn refuse(&mut self, now: Time, code: Code, stats: &Stats) -> Result<(), Step> {
        Stats::add(&stats.refused, 1);
        self.say(&reply(code, NOWHERE))?;
        self.leave(now)
    }

    fn leave(&mut self, now: Time) -> Result<(), Step> {
        // A socket with something unread in it would take the answer away with it.
        if self.stream.shutdown(Shutdown::Write).is_err() {
            return Err(Step::End);
        }
        self.due = now + Duration::from_millis(SOCKS_LINGER_MS);
        self.stage = Stage::Leaving;
        Ok(())
    }

    /// Tries the first of these, for the others' sake if it comes to nothing. `why` is said when there is none.
    fn connect(
        &mut self,
        now: Time,
        mut to: VecDeque<SocketAddr>,
        why: Code,
        around: &mut Around<'_>,
    ) -> Result<(), Step> {
        let Some(first) = to.pop_front() else { return self.refuse(now, why, around.stats) };
        if !is_elsewhere(first) {
            return self.connect(now, to, Code::NotAllowed, around);
        }
        let Some((handle, port)) = around.stack.connect(first) else {
            return self.connect(now, to, Code::Failure, around);
        };
        self.due = now + Duration::from_millis(SOCKS_CONNECT_MS_MAX);
        self.stage = Stage::Connecting { handle, port, to: first, others: to };
        Err(Step::More)
    }

    fn connecting(&mut self, now: Time, around: &mut Around<'_>) -> Result<(), Step> {
        let Stage::Connecting { handle, port, .. } = self.stage else { return Ok(()) };
        if self.read_early().is_err() {
            return Err(self.give_up(now, around));
        }
        match around.stack.socket(handle).state() {
            State::SynSent | State::SynReceived => Err(Step::Wait),
            State::Closed => self.failed(now, Code::Refused, around),
            _ => {
                Stats::add(&around.stats.connected, 1);
                let said = self.say(&reply(Code::Granted, NOWHERE));
                self.stage = Stage::Relaying(Relay::new(now, handle, port, self.sent_all));
                said?;
                let _ = self.stream.set_nodelay(true);
                Ok(())
            }
        }
    }

    /// The address came to nothing: the next one.
    fn failed(&mut self, now: Time, why: Code, around: &mut Around<'_>) -> Result<(), Step> {
        let stage = std::mem::replace(&mut self.stage, Stage::Gone);
        let Stage::Connecting { handle, port, others, .. } = stage else { return Err(Step::End) };
        around.stack.socket(handle).abort();
        around.stack.end(now, handle, port);
        self.connect(now, others, why, around)
    }

    /// What ICMP says of what it tries to reach.
    pub(super) fn unreachable(
        &mut self,
        now: Time,
        from: u16,
        at: SocketAddr,
        why: Code,
        around: &mut Around<'_>,
    ) {
        if let Stage::Connecting { port, to, .. } = &self.stage
            && (*port, *to) == (from, at)
            && let Err(Step::End) = self.failed(now, why, around)
        {
            self.stage = Stage::Gone;
        }
    }

    /// A name was found, or was not.
    pub(super) fn found(
        &mut self,
        now: Time,
        found: &str,
        result: &Result<Vec<IpAddr>, NoAddress>,
        around: &mut Around<'_>,
    ) {
        let (name, port) = match &mut self.stage {
            Stage::Associated(association) => {
                return association.found(now, found, result, around.stack, around.stats);
            }
            Stage::Naming { name, port } if name == found => (name.clone(), *port),
            _ => return,
        };
        let next = match result {
            Ok(addresses) => {
                let all = addresses.iter().take(SOCKS_ADDRESSES_MAX);
                let all = all.map(|address| SocketAddr::new(*address, port)).collect();
                self.connect(now, all, Code::HostUnreachable, around)
            }
            Err(why) => {
                Stats::add(&around.stats.unnamed, 1);
                tracing::debug!("a name was not found for an application: {why}");
                tracing::trace!(%name, "not found");
                let code = match why {
                    NoAddress::NoName | NoAddress::Silence => Code::HostUnreachable,
                    NoAddress::NoResolver | NoAddress::Busy | NoAddress::Failed => Code::Failure,
                };
                self.refuse(now, code, around.stats)
            }
        };
        if next == Err(Step::End) {
            self.stage = Stage::Gone;
        }
    }

    fn associate(&mut self, now: Time, expected: u16, around: &mut Around<'_>) -> Result<(), Step> {
        let own = self.stream.local_addr().map_err(|_| Step::End)?;
        let from = self.stream.peer_addr().map_err(|_| Step::End)?;
        let port = if around.may_associate { around.stack.ports.take() } else { None };
        let Some(port) = port else { return self.refuse(now, Code::Failure, around.stats) };
        let made = Association::new(now, own, from, expected, port);
        let made = made.and_then(|made| made.socket().local_addr().map(|bound| (made, bound)));
        let (association, bound) = match made {
            Ok(made) => made,
            Err(error) => {
                tracing::debug!("no association for an application: {error}");
                around.stack.ports.give(port);
                return self.refuse(now, Code::Failure, around.stats);
            }
        };
        self.due = association.due();
        self.stage = Stage::Associated(Box::new(association));
        self.say(&reply(Code::Granted, bound))?;
        Err(Step::Associated)
    }

    fn overdue(&mut self, now: Time, around: &mut Around<'_>) -> Step {
        match &self.stage {
            Stage::Connecting { .. } => match self.failed(now, Code::HostUnreachable, around) {
                Ok(()) => Step::More,
                Err(step) => step,
            },
            Stage::Naming { .. } => match self.refuse(now, Code::HostUnreachable, around.stats) {
                Ok(()) => Step::More,
                Err(step) => step,
            },
            Stage::Relaying(relay) => {
                around.stack.socket(relay.handle).abort();
                self.broken(around.stats)
            }
            _ => Step::End,
        }
    }

    fn give_up(&mut self, now: Time, around: &mut Around<'_>) -> Step {
        self.ended(now, around);
        self.stage = Stage::Gone;
        Step::End
    }

    /// The application learns that its connection is broken.
    fn broken(&mut self, stats: &Stats) -> Step {
        Stats::add(&stats.broken, 1);
        // Closed without a time to wait, it is reset.
        let _ = setsockopt(&self.stream, Linger, &libc::linger { l_onoff: 1, l_linger: 0 });
        Step::End
    }

    /// It is dropped: what it had in the stack is given back.
    pub(super) fn ended(&mut self, now: Time, around: &mut Around<'_>) {
        match std::mem::replace(&mut self.stage, Stage::Gone) {
            Stage::Connecting { handle, port, .. } => {
                around.stack.socket(handle).abort();
                around.stack.end(now, handle, port);
            }
            Stage::Relaying(relay) => {
                // One that ended well says its last again if it has to; any other is reset.
                let socket = around.stack.socket(relay.handle);
                if socket.state() != State::TimeWait {
                    socket.abort();
                }
                around.stack.end(now, relay.handle, relay.port);
            }
            Stage::Associated(association) => around.stack.ports.give(association.port),
            _ => {}
        }
    }
}
