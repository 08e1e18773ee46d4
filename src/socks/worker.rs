//! The proxy's thread. One turn:
//!
//! ```text
//! packets of the shard ─▶ stack ─▶ names and errors ─▶ each client: what it can do ─▶ stack ─▶ packets for the shard ─▶ sleep
//! ```

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use super::Plan;
use super::client::{Around, Client, Step};
use super::stats::Stats;
use crate::base::{Offload, Rng, Time};
use crate::io::clock::Clocks;
use crate::limits::{
    PIPE_PACKETS_PER_TURN, SOCKS_ACCEPT_PAUSE_MS, SOCKS_ASSOCIATIONS_MAX, SOCKS_CLIENTS_MAX, SOCKS_EVENTS_MAX,
};
use crate::service::proxy::names::Names;
use crate::service::proxy::stack::{Heard, Stack};
use crate::shard::{Parcel, Pipe};
use crate::tunnel::quoted::Quoted;
use crate::wire::ip::TCP;
use crate::wire::socks::Code;

/// What the kernel is told that a descriptor is: two for each client, by its number.
const LISTENER: u64 = u64::MAX;
const EVENT: u64 = u64::MAX - 1;
/// Until the shard has taken packets that found no room.
const CROWDED: Duration = Duration::from_millis(1);

/// The thread's own.
pub(super) struct Worker {
    pipe: Arc<Pipe>,
    clocks: Clocks,
    stack: Stack,
    names: Names,
    stats: Arc<Stats>,
    stopping: Arc<AtomicBool>,
    epoll: Epoll,
    listener: TcpListener,
    /// Whether somebody may wait to be accepted; not before the second time.
    accepts: bool,
    accept_at: Time,
    clients: BTreeMap<u64, Client>,
    next: u64,
    /// Whose association has a local port.
    associated: BTreeMap<u16, u64>,
    /// Whether somebody has more to do at once.
    more: bool,
}

fn edges() -> EpollFlags {
    EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLET
}

impl Worker {
    pub(super) fn new(
        plan: &Plan,
        listener: TcpListener,
        pipe: Arc<Pipe>,
        clocks: Clocks,
        rng: Rng,
        stats: Arc<Stats>,
        stopping: Arc<AtomicBool>,
    ) -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let arrives = EpollFlags::EPOLLIN | EpollFlags::EPOLLET;
        epoll.add(&listener, EpollEvent::new(arrives, LISTENER))?;
        epoll.add(pipe.event(), EpollEvent::new(arrives, EVENT))?;
        let now = clocks.now();
        Ok(Self {
            pipe,
            clocks,
            stack: Stack::new(now, rng),
            names: Names::new(&plan.resolvers),
            stats,
            stopping,
            epoll,
            listener,
            accepts: true,
            accept_at: now,
            clients: BTreeMap::new(),
            next: 0,
            associated: BTreeMap::new(),
            more: false,
        })
    }

    /// Until it is told to stop.
    pub(super) fn run(mut self) {
        let mut events = vec![EpollEvent::empty(); SOCKS_EVENTS_MAX];
        while !self.stopping.load(Ordering::Acquire) {
            let now = self.clocks.now();
            self.turn(now);
            let wait = self.wait(now);
            let wait = if wait.is_zero() || !self.pipe.park() { Duration::ZERO } else { wait };
            // Rounded up, or the last part of a millisecond would be spent looking.
            let wait = u16::try_from(wait.as_micros().div_ceil(1000)).unwrap_or(u16::MAX);
            let count = match self.epoll.wait(&mut events, EpollTimeout::from(wait)) {
                Ok(count) => count,
                Err(nix::errno::Errno::EINTR) => 0,
                Err(error) => {
                    tracing::error!("the SOCKS proxy ends: waiting for its sockets: {error}");
                    return;
                }
            };
            self.pipe.unpark();
            for event in &events[..count] {
                self.event(event.data(), event.events());
            }
        }
        self.stats.clients.store(0, Ordering::Relaxed);
        self.stats.associations.store(0, Ordering::Relaxed);
    }

    fn event(&mut self, token: u64, flags: EpollFlags) {
        match token {
            LISTENER => self.accepts = true,
            EVENT => {}
            _ => {
                let Some(client) = self.clients.get_mut(&(token >> 1)) else { return };
                if token & 1 == 1 {
                    if let Some(association) = client.association() {
                        association.readable = true;
                    }
                    return;
                }
                let has = |flag| flags.intersects(flag);
                let gone = EpollFlags::EPOLLERR | EpollFlags::EPOLLHUP | EpollFlags::EPOLLRDHUP;
                client.ready.read |= has(EpollFlags::EPOLLIN | gone);
                client.ready.write |= has(EpollFlags::EPOLLOUT | gone);
                client.ready.ending |= has(gone);
                client.ready.broken |= has(EpollFlags::EPOLLERR);
            }
        }
    }

    fn turn(&mut self, now: Time) {
        self.more = false;
        self.take(now);
        self.accept(now);
        self.stack.poll(now, self.pipe.room());
        self.names.handle_timeout(now, &mut self.stack.ports);
        self.tell_found(now);
        self.clients(now);
        while let Some(asked) = self.names.poll_datagram() {
            self.stack.send_datagram(asked.port, asked.to, &asked.payload);
        }
        self.stack.poll(now, self.pipe.room());
        self.send();
        let relaxed = Ordering::Relaxed;
        self.stats.clients.store(self.clients.len() as u64, relaxed);
        self.stats.associations.store(self.associated.len() as u64, relaxed);
        Stats::add(&self.stats.questions, self.names.take_questions());
        Stats::add(&self.stats.strays, std::mem::take(&mut self.stack.strays) + self.pipe.take_dropped());
    }

    /// Takes packets of the shard's.
    fn take(&mut self, now: Time) {
        for _ in 0..PIPE_PACKETS_PER_TURN {
            if !self.stack.takes_more() {
                break;
            }
            let Some(Parcel { offload, bytes }) = self.pipe.receive() else { break };
            self.stack.take(offload, bytes);
        }
        while let Some(heard) = self.stack.poll_heard() {
            match heard {
                Heard::Datagram { port, from, payload } => {
                    if self.names.heard(now, port, from, &payload, &mut self.stack.ports) {
                        continue;
                    }
                    let client = self.associated.get(&port).and_then(|id| self.clients.get_mut(id));
                    match client.and_then(Client::association) {
                        Some(association) => association.came(now, from, &payload, &self.stats),
                        None => self.stack.strays += 1,
                    }
                }
                Heard::Error(quoted) => self.error(now, &quoted),
            }
        }
    }

    /// ICMP says that something was in vain.
    fn error(&mut self, now: Time, quoted: &Quoted) {
        if quoted.protocol != TCP {
            return self.names.undelivered(now, quoted.port);
        }
        let Some(why) = code(quoted) else { return };
        let mut around = around(&mut self.stack, &mut self.names, &self.stats, &self.associated);
        for client in self.clients.values_mut() {
            client.unreachable(now, quoted.port, quoted.to, why, &mut around);
        }
    }

    fn accept(&mut self, now: Time) {
        while self.accepts && now >= self.accept_at && self.clients.len() < SOCKS_CLIENTS_MAX {
            match self.listener.accept() {
                Ok((stream, _)) => {
                    let id = self.next;
                    self.next += 1;
                    let watched = stream.set_nonblocking(true).is_ok()
                        && self.epoll.add(&stream, EpollEvent::new(edges(), id << 1)).is_ok();
                    if watched {
                        self.clients.insert(id, Client::new(now, stream));
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.accepts = false,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    tracing::warn!("the SOCKS proxy cannot accept an application: {error}");
                    self.accept_at = now + Duration::from_millis(SOCKS_ACCEPT_PAUSE_MS);
                }
            }
        }
    }

    fn tell_found(&mut self, now: Time) {
        while let Some(found) = self.names.poll_found() {
            let mut around = around(&mut self.stack, &mut self.names, &self.stats, &self.associated);
            if let Some(client) = self.clients.get_mut(&found.asker) {
                client.found(now, &found.name, &found.result, &mut around);
            }
        }
    }

    fn clients(&mut self, now: Time) {
        let mut ended = Vec::new();
        for (id, client) in &mut self.clients {
            let mut around = around(&mut self.stack, &mut self.names, &self.stats, &self.associated);
            match client.step(now, *id, &mut around) {
                Step::Wait => {}
                Step::More => self.more = true,
                Step::Associated => {
                    self.more = true;
                    let Some(association) = client.association() else { continue };
                    let event = EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, *id << 1 | 1);
                    if self.epoll.add(association.socket(), event).is_ok() {
                        self.associated.insert(association.port, *id);
                    } else {
                        ended.push(*id);
                    }
                }
                Step::End => ended.push(*id),
            }
        }
        for id in ended {
            let Some(mut client) = self.clients.remove(&id) else { continue };
            if let Some(association) = client.association() {
                self.associated.remove(&association.port);
            }
            let mut around = around(&mut self.stack, &mut self.names, &self.stats, &self.associated);
            client.ended(now, &mut around);
            self.names.forget(id);
            self.more = true;
        }
    }

    /// Hands the shard what the stack has to say.
    fn send(&mut self) {
        let mut sent = false;
        while let Some(bytes) = self.stack.poll_packet() {
            if self.pipe.room() == 0 {
                self.stack.unsent(bytes);
                break;
            }
            sent |= self.pipe.send(Parcel { offload: Offload::default(), bytes });
        }
        if sent {
            self.pipe.left_for_shard();
        }
    }

    /// How long there is nothing to do.
    fn wait(&mut self, now: Time) -> Duration {
        if self.more || self.names.has_found() {
            return Duration::ZERO;
        }
        if self.stack.has_packets() || self.pipe.room() == 0 {
            return CROWDED;
        }
        let due = self.clients.values().map(|client| client.due).min();
        let accept = (self.accepts && self.clients.len() < SOCKS_CLIENTS_MAX).then_some(self.accept_at);
        let all = [due, accept, self.names.poll_timeout(), self.stack.poll_timeout(now)];
        let at = all.into_iter().flatten().min();
        at.map_or(Duration::MAX, |at| at.since(now))
    }
}

fn around<'a>(
    stack: &'a mut Stack,
    names: &'a mut Names,
    stats: &'a Stats,
    associated: &BTreeMap<u16, u64>,
) -> Around<'a> {
    Around { stack, names, stats, may_associate: associated.len() < SOCKS_ASSOCIATIONS_MAX }
}

/// What an application is told of an error of ICMP (RFC 792, RFC 1812 §5.2.7.1, RFC 4443 §3).
fn code(quoted: &Quoted) -> Option<Code> {
    let is_v4 = matches!(quoted.to, SocketAddr::V4(_));
    Some(match (is_v4, quoted.error) {
        (true, (3, 4)) | (false, (2, _)) => return None,
        (true, (3, 9 | 10 | 13)) | (false, (1, 1 | 5 | 6)) => Code::NotAllowed,
        (true, (3, 0 | 6 | 11)) | (false, (1, 0)) => Code::NetworkUnreachable,
        (true, (3, 2 | 3)) | (false, (1, 4)) => Code::Refused,
        (true, (11, _)) | (false, (3, _)) => Code::TtlExpired,
        (true, (3, _)) | (false, (1, _)) => Code::HostUnreachable,
        _ => return None,
    })
}
