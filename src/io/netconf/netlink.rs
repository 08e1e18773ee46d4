//! One rtnetlink socket: a request and the kernel's answer at a time. The kernel answers before `send` returns, so that
//! nothing here waits.

use std::io;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

/// Answers of one dump at most: what is asked for is filtered by the kernel.
const DUMP_MAX: usize = 65_536;

/// A socket to the kernel's tables of devices, addresses, routes and rules.
pub(in crate::io) struct Netlink {
    socket: Socket,
    sequence: u32,
}

impl Netlink {
    /// Opens one in the calling thread's network namespace.
    pub(in crate::io) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        // Dumps hold what was asked for, not everything.
        socket.set_netlink_get_strict_chk(true)?;
        Ok(Self { socket, sequence: 0 })
    }

    fn send(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let mut packet = NetlinkMessage::new(header, NetlinkPayload::from(message));
        packet.finalize();
        let mut bytes = vec![0; packet.buffer_len()];
        packet.serialize(&mut bytes);
        self.socket.send(&bytes, 0).map(drop)
    }

    /// Has something changed, and waits for the kernel's word on it.
    pub(super) fn change(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.send(message, NLM_F_ACK | flags)?;
        self.answers(|_| {})
    }

    /// Asks for one thing, or for all that match (`dump`).
    pub(super) fn ask(
        &mut self,
        message: RouteNetlinkMessage,
        dump: bool,
    ) -> io::Result<Vec<RouteNetlinkMessage>> {
        self.send(message, if dump { NLM_F_DUMP } else { NLM_F_ACK })?;
        let mut all = Vec::new();
        self.answers(|answer| {
            if all.len() < DUMP_MAX {
                all.push(answer);
            }
        })?;
        Ok(all)
    }

    /// Reads answers to the last request until the one that ends them.
    fn answers(&mut self, mut take: impl FnMut(RouteNetlinkMessage)) -> io::Result<()> {
        loop {
            let (bytes, _) = self.socket.recv_from_full()?;
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                let invalid =
                    |e: netlink_packet_core::DecodeError| io::Error::new(io::ErrorKind::InvalidData, e);
                let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest).map_err(invalid)?;
                let len = (message.header.length as usize).next_multiple_of(4).min(rest.len());
                rest = if len == 0 { &[] } else { &rest[len..] };
                if message.header.sequence_number != self.sequence {
                    continue; // Left over from a request whose answers were not all read.
                }
                match message.payload {
                    NetlinkPayload::Done(_) => return Ok(()),
                    NetlinkPayload::Error(error) => {
                        return match error.code {
                            None => Ok(()),
                            Some(code) => Err(io::Error::from_raw_os_error(-code.get())),
                        };
                    }
                    NetlinkPayload::InnerMessage(answer) => take(answer),
                    _ => {}
                }
            }
        }
    }
}

/// Takes an answer that says that what is to be there is there, or what is to go is gone.
pub(super) fn allow(result: io::Result<()>, errnos: &[i32]) -> io::Result<bool> {
    match result {
        Ok(()) => Ok(true),
        Err(error) if error.raw_os_error().is_some_and(|errno| errnos.contains(&errno)) => Ok(false),
        Err(error) => Err(error),
    }
}
