//! Bytes between an application and the far side of its connection, both ways, with what each says of its end: a half that
//! is closed is closed on the other side, too, and a reset is passed on. Nothing is held but what the two TCPs hold: who
//! does not read stops who writes.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp::{RecvError, Socket, State};

use super::stats::Stats;
use crate::base::Time;
use crate::limits::{SOCKS_IDLE_MS_MAX, SOCKS_STUCK_MS_MAX, SOCKS_TURN_BYTES};
use crate::service::proxy::stack::Stack;

/// What of an application's socket can be done at once, as far as is known.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ready {
    pub read: bool,
    pub write: bool,
    /// Its last bytes are there: reading goes on to the end.
    pub ending: bool,
    /// It was reset.
    pub broken: bool,
}

/// A connection that is open.
pub(super) struct Relay {
    pub handle: SocketHandle,
    /// Its local port.
    pub port: u16,
    /// The application has sent its last.
    pub sent_all: bool,
    /// That was passed on.
    closed: bool,
    /// The far side has, and the application knows.
    told_end: bool,
    /// When something moved last.
    moved: Time,
}

/// How a connection stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Course {
    /// It goes on.
    On,
    /// There is more to do at once.
    More,
    /// Both sides have said their last.
    Done,
    /// It is broken, and the application is to learn it.
    Broken,
}

impl Relay {
    pub(super) fn new(now: Time, handle: SocketHandle, port: u16, sent_all: bool) -> Self {
        Self { handle, port, sent_all, closed: false, told_end: false, moved: now }
    }

    /// When it is given up unless something moves.
    pub(super) fn due(&self, stack: &mut Stack) -> Time {
        let waits = self.sent_all || self.told_end || stack.socket(self.handle).send_queue() > 0;
        let limit = if waits { SOCKS_STUCK_MS_MAX } else { SOCKS_IDLE_MS_MAX };
        self.moved + Duration::from_millis(limit)
    }

    /// Moves what can be moved. `early` is what the application sent before there was a connection.
    pub(super) fn step(
        &mut self,
        now: Time,
        stream: &mut TcpStream,
        ready: &mut Ready,
        early: &mut Vec<u8>,
        stack: &mut Stack,
        stats: &Stats,
    ) -> Course {
        let socket = stack.socket(self.handle);
        if ready.broken {
            socket.abort();
            return Course::Broken;
        }
        let Ok(received) = receive(socket, stream, ready) else {
            socket.abort();
            return Course::Broken;
        };
        if !self.told_end && matches!(socket.peek(1), Err(RecvError::Finished)) {
            // Nothing is lost where it is gone already.
            let _ = stream.shutdown(Shutdown::Write);
            self.told_end = true;
            self.moved = now;
        }
        let Ok(sent) = self.send(socket, stream, ready, early) else {
            socket.abort();
            return Course::Broken;
        };
        if received + sent > 0 {
            self.moved = now;
            Stats::add(&stats.received_bytes, received as u64);
            Stats::add(&stats.sent_bytes, sent as u64);
        }
        if self.sent_all && early.is_empty() && !self.closed {
            socket.close();
            self.closed = true;
            self.moved = now;
        }
        match socket.state() {
            State::Closed | State::TimeWait if self.told_end && self.closed => Course::Done,
            // What came before the reset is the application's.
            State::Closed if socket.recv_queue() > 0 => Course::On,
            State::Closed => Course::Broken,
            _ if received >= SOCKS_TURN_BYTES || sent >= SOCKS_TURN_BYTES => Course::More,
            _ => Course::On,
        }
    }

    /// Takes what the application has sent; how many bytes.
    fn send(
        &mut self,
        socket: &mut Socket<'static>,
        stream: &mut TcpStream,
        ready: &mut Ready,
        early: &mut Vec<u8>,
    ) -> io::Result<usize> {
        let mut sent = 0;
        if !early.is_empty() && socket.can_send() {
            sent += socket.send_slice(early).unwrap_or(0);
            early.drain(..sent);
        }
        while early.is_empty() && ready.read && !self.sent_all && sent < SOCKS_TURN_BYTES && socket.can_send()
        {
            let read = socket.send(|room| match stream.read(room) {
                Ok(len) => (len, Ok((len, room.len()))),
                Err(error) => (0, Err(error)),
            });
            match read {
                Ok(Ok((_, 0))) => break,
                Ok(Ok((0, _))) => self.sent_all = true,
                Ok(Ok((len, room))) => {
                    sent += len;
                    // A short read emptied it; if more came meanwhile, that is an event of its own.
                    ready.read = len == room || ready.ending;
                }
                Ok(Err(error)) if error.kind() == ErrorKind::Interrupted => {}
                Ok(Err(error)) if error.kind() == ErrorKind::WouldBlock => ready.read = false,
                Ok(Err(error)) => return Err(error),
                Err(_) => break,
            }
        }
        Ok(sent)
    }
}

/// Gives the application what came; how many bytes.
fn receive(socket: &mut Socket<'static>, stream: &mut TcpStream, ready: &mut Ready) -> io::Result<usize> {
    let mut received = 0;
    while ready.write && received < SOCKS_TURN_BYTES && socket.can_recv() {
        let written = socket.recv(|bytes| match stream.write(bytes) {
            Ok(len) => (len, Ok(len)),
            Err(error) => (0, Err(error)),
        });
        match written {
            Ok(Ok(len)) => received += len,
            Ok(Err(error)) if error.kind() == ErrorKind::Interrupted => {}
            Ok(Err(error)) if error.kind() == ErrorKind::WouldBlock => ready.write = false,
            Ok(Err(error)) => return Err(error),
            Err(_) => break,
        }
    }
    Ok(received)
}
