//! An application's datagrams (RFC 1928 §7): taken from it on a socket of their own, sent from one local port, for as long
//! as the connection that asked for it lasts.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use super::owner;
use super::stats::Stats;
use crate::base::Time;
use crate::limits::{
    CELL_INNER_LARGE, SOCKS_DATAGRAMS_PER_TURN, SOCKS_DATAGRAMS_WAITING_MAX, SOCKS_OWNER_MS,
    SOCKS_UDP_IDLE_MS_MAX,
};
use crate::service::proxy::names::{Names, NoAddress};
use crate::service::proxy::stack::{Stack, is_elsewhere};
use crate::wire::socks::{Host, datagram, emit_datagram};

/// Longer datagrams find no room in a circuit: with every header that there may be.
const DATAGRAM_MAX: usize = CELL_INNER_LARGE + 300;

/// One.
pub(super) struct Association {
    socket: UdpSocket,
    /// The local port.
    pub port: u16,
    /// Where the application is, once it is known; nobody else's datagrams are taken.
    from: IpAddr,
    application: Option<SocketAddr>,
    /// Whose the application is, until it has shown that: on loopback any user may be the first to send.
    owner: Option<u32>,
    /// When it is looked again whose a datagram is, at the earliest.
    look_at: Time,
    /// Datagrams to names that are being asked for.
    waiting: VecDeque<(String, u16, Vec<u8>)>,
    pub readable: bool,
    moved: Time,
}

impl Association {
    /// For the application that has connected from `from` to `own`; its datagrams come from the port `expected`, unless
    /// that is 0, and on loopback from a socket of the same user.
    pub(super) fn new(
        now: Time,
        own: SocketAddr,
        from: SocketAddr,
        expected: u16,
        port: u16,
    ) -> io::Result<Self> {
        let owner = match from.ip().to_canonical().is_loopback() {
            true => Some(owner::of_tcp(from, own)?.ok_or(ErrorKind::PermissionDenied)?),
            false => None,
        };
        let socket = UdpSocket::bind((own.ip(), 0))?;
        socket.set_nonblocking(true)?;
        let from = from.ip();
        let application = (expected != 0).then(|| SocketAddr::new(from, expected));
        let waiting = VecDeque::new();
        Ok(Self { socket, port, from, application, owner, look_at: now, waiting, readable: true, moved: now })
    }

    /// Whether a datagram is of the application's user. Asked until one is.
    fn is_owned(&mut self, now: Time, from: SocketAddr) -> bool {
        let Some(owner) = self.owner else { return true };
        // Others can send as much as they like.
        if now < self.look_at {
            return false;
        }
        self.look_at = now + Duration::from_millis(SOCKS_OWNER_MS);
        let owned = owner::of_udp(from).is_ok_and(|user| user == Some(owner));
        if owned {
            self.owner = None;
        }
        owned
    }

    pub(super) fn socket(&self) -> &UdpSocket {
        &self.socket
    }

    pub(super) fn due(&self) -> Time {
        self.moved + Duration::from_millis(SOCKS_UDP_IDLE_MS_MAX)
    }

    /// Takes what the application has sent, up to a bound; whether there may be more.
    pub(super) fn step(
        &mut self,
        now: Time,
        id: u64,
        stack: &mut Stack,
        names: &mut Names,
        stats: &Stats,
    ) -> bool {
        let mut room = [0; DATAGRAM_MAX];
        for _ in 0..SOCKS_DATAGRAMS_PER_TURN {
            if !self.readable {
                return false;
            }
            let (len, from) = match self.socket.recv_from(&mut room) {
                Ok(got) => got,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                // An application that went away is an error of the socket's, and no reason to end.
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => continue,
                Err(_) => {
                    self.readable = false;
                    return false;
                }
            };
            let expected = self.application.is_none_or(|application| application == from);
            let known = expected && from.ip() == self.from && self.is_owned(now, from);
            if known {
                self.application = Some(from);
            }
            let sent = known && self.sent(now, id, &room[..len], stack, names, stats);
            if !sent {
                Stats::add(&stats.dropped_datagrams, 1);
            }
        }
        true
    }

    /// One datagram of the application's; false when it leads nowhere.
    fn sent(
        &mut self,
        now: Time,
        id: u64,
        bytes: &[u8],
        stack: &mut Stack,
        names: &mut Names,
        stats: &Stats,
    ) -> bool {
        let Ok((place, at)) = datagram(bytes) else { return false };
        let payload = &bytes[at..];
        match place.host {
            Host::Address(address) => {
                self.moved = now;
                self.send(SocketAddr::new(address, place.port), payload, stack, stats)
            }
            Host::Name(name) => {
                if self.waiting.len() >= SOCKS_DATAGRAMS_WAITING_MAX {
                    return false;
                }
                let first = self.waiting.iter().all(|(waiting, ..)| *waiting != name);
                self.waiting.push_back((name.clone(), place.port, payload.to_vec()));
                if first {
                    names.ask(now, &name, id, &mut stack.ports);
                }
                true
            }
        }
    }

    fn send(&mut self, to: SocketAddr, payload: &[u8], stack: &mut Stack, stats: &Stats) -> bool {
        let sent = is_elsewhere(to) && stack.send_datagram(self.port, to, payload);
        Stats::add(&stats.sent_datagrams, u64::from(sent));
        sent
    }

    /// A name was found, or was not.
    pub(super) fn found(
        &mut self,
        now: Time,
        name: &str,
        result: &Result<Vec<IpAddr>, NoAddress>,
        stack: &mut Stack,
        stats: &Stats,
    ) {
        for (waiting, port, payload) in std::mem::take(&mut self.waiting) {
            if waiting != name {
                self.waiting.push_back((waiting, port, payload));
                continue;
            }
            let address = result.as_ref().ok().and_then(|all| all.first());
            let sent =
                address.is_some_and(|to| self.send(SocketAddr::new(*to, port), &payload, stack, stats));
            self.moved = now;
            Stats::add(&stats.dropped_datagrams, u64::from(!sent));
        }
    }

    /// A datagram came for the application.
    pub(super) fn came(&mut self, now: Time, from: SocketAddr, payload: &[u8], stats: &Stats) {
        let Some(to) = self.application else { return };
        let mut bytes = Vec::with_capacity(payload.len() + 22);
        emit_datagram(from, &mut bytes);
        bytes.extend(payload);
        self.moved = now;
        // What the application has no room for is lost, as datagrams are.
        let sent = self.socket.send_to(&bytes, to).is_ok();
        Stats::add(if sent { &stats.received_datagrams } else { &stats.dropped_datagrams }, 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    /// Found by review: whoever sent first, any user of the host, took the association over.
    #[test]
    fn an_association_on_loopback_is_its_users() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
        let own = listener.local_addr().expect("bound");
        let stream = TcpStream::connect(own).expect("connected");
        let from = stream.local_addr().expect("bound");
        let mut association = Association::new(Time::ZERO, own, from, 0, 20_000).expect("made");
        let user = association.owner.expect("it is looked");
        let application = UdpSocket::bind("127.0.0.1:0").expect("bound");
        let sender = application.local_addr().expect("bound");
        // As if the connection were another user's.
        association.owner = Some(user + 1);
        assert!(!association.is_owned(Time::ZERO, sender));
        association.owner = Some(user);
        assert!(!association.is_owned(Time::ZERO, sender), "not looked at that often");
        let later = Time::from_millis(SOCKS_OWNER_MS);
        assert!(association.is_owned(later, sender) && association.owner.is_none());
        drop(stream);
        let nobody = SocketAddr::new(from.ip(), 1);
        assert!(
            Association::new(Time::ZERO, own, nobody, 0, 20_001).is_err(),
            "nobody is connected from there"
        );
    }
}
