//! UDP sockets as shards want them: segmentation offload in both directions, ECN, don't-fragment, large
//! kernel buffers, one family each.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, bind, getsockname, socket as open_socket,
};

use crate::limits::{SOCKET_RECEIVE_BUFFER, SOCKET_SEND_BUFFER};

/// What packets of our sockets are marked with (`SO_MARK`), so that no tunnel's routes take what carries the tunnel:
/// "torn".
pub const MARK: u32 = 0x746f_726e;

/// A bound UDP socket.
pub struct Socket {
    fd: OwnedFd,
    local: SocketAddr,
    receive_buffer: usize,
    send_buffer: usize,
    marked: bool,
}

/// Why no socket could be bound, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Somebody else has the port.
    #[error(
        "UDP port {port} is taken by another program ({address}); `ss -ulpn 'sport = :{port}'` shows which: \
         stop it, or choose another port",
        port = address.port()
    )]
    Busy {
        /// What was to be bound.
        address: SocketAddr,
    },
    /// A privileged port.
    #[error(
        "UDP port {port} may not be bound by this user ({address}); choose a port above 1023",
        port = address.port()
    )]
    NotPermitted {
        /// What was to be bound.
        address: SocketAddr,
    },
    /// Not an address of this host.
    #[error("{ip} is no address of this host; `ip address` lists them", ip = address.ip())]
    NotHere {
        /// What was to be bound.
        address: SocketAddr,
    },
    /// The host does not speak this family.
    #[error("this host has no {family} ({address}); leave the address out", family = family(*address))]
    NoFamily {
        /// What was to be bound.
        address: SocketAddr,
    },
    /// Anything else.
    #[error("{address}: {what}: {source}")]
    Os {
        /// What was to be bound.
        address: SocketAddr,
        /// What was tried.
        what: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

fn family(address: SocketAddr) -> &'static str {
    if address.is_ipv6() { "IPv6" } else { "IPv4" }
}

impl Socket {
    /// Binds an address. With `report_local`, each received train says which address of ours it came to.
    pub fn bind(address: SocketAddr, report_local: bool) -> Result<Self, SocketError> {
        let fail = |what| {
            move |errno: nix::Error| match errno {
                nix::Error::EADDRINUSE => SocketError::Busy { address },
                nix::Error::EACCES => SocketError::NotPermitted { address },
                nix::Error::EADDRNOTAVAIL => SocketError::NotHere { address },
                nix::Error::EAFNOSUPPORT => SocketError::NoFamily { address },
                other => SocketError::Os { address, what, source: other.into() },
            }
        };
        let family = if address.is_ipv6() { AddressFamily::Inet6 } else { AddressFamily::Inet };
        let fd = open_socket(family, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)
            .map_err(fail("opening a UDP socket"))?;
        let on = |level, option, what| set(&fd, level, option, 1).map_err(fail(what));
        if address.is_ipv6() {
            on(libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, "IPV6_V6ONLY")?;
            on(libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS, "IPV6_RECVTCLASS")?;
            set(&fd, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_PROBE)
                .map_err(fail("IPV6_MTU_DISCOVER"))?;
            if report_local {
                on(libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, "IPV6_RECVPKTINFO")?;
            }
        } else {
            on(libc::IPPROTO_IP, libc::IP_RECVTOS, "IP_RECVTOS")?;
            set(&fd, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_PROBE)
                .map_err(fail("IP_MTU_DISCOVER"))?;
            if report_local {
                on(libc::IPPROTO_IP, libc::IP_PKTINFO, "IP_PKTINFO")?;
            }
        }
        on(libc::SOL_UDP, libc::UDP_GRO, "UDP_GRO")?;
        // Permitted with CAP_NET_ADMIN or CAP_NET_RAW alone, without which there are no routes of ours either.
        let marked = set(&fd, libc::SOL_SOCKET, libc::SO_MARK, MARK.cast_signed()).is_ok();
        let receive_buffer = grow(&fd, libc::SO_RCVBUFFORCE, libc::SO_RCVBUF, SOCKET_RECEIVE_BUFFER)
            .map_err(fail("SO_RCVBUF"))?;
        let send_buffer = grow(&fd, libc::SO_SNDBUFFORCE, libc::SO_SNDBUF, SOCKET_SEND_BUFFER)
            .map_err(fail("SO_SNDBUF"))?;
        bind(fd.as_raw_fd(), &SockaddrStorage::from(address)).map_err(fail("bind"))?;
        let name: SockaddrStorage = getsockname(fd.as_raw_fd()).map_err(fail("getsockname"))?;
        let local = name
            .as_sockaddr_in()
            .map(|v4| SocketAddr::V4((*v4).into()))
            .or_else(|| name.as_sockaddr_in6().map(|v6| SocketAddr::V6((*v6).into())))
            .unwrap_or(address);
        Ok(Self { fd, local, receive_buffer, send_buffer, marked })
    }

    /// The bound address, with the port that the kernel chose when none was asked for.
    pub fn local(&self) -> SocketAddr {
        self.local
    }

    /// Bytes of received datagrams that the kernel keeps at most, by its own account (twice what
    /// `net.core.rmem_max` says, with its overhead).
    pub fn receive_buffer(&self) -> usize {
        self.receive_buffer
    }

    /// Bytes of unsent datagrams that the kernel keeps at most, by its own account.
    pub fn send_buffer(&self) -> usize {
        self.send_buffer
    }

    /// Whether packets carry [`MARK`].
    pub fn is_marked(&self) -> bool {
        self.marked
    }

    /// Sends without checksums from now on, for which the kernel refuses segmentation with `EINVAL`: a
    /// device without it, for tests.
    #[cfg(test)]
    pub fn refuse_segmentation(&self) {
        set(&self.fd, libc::SOL_SOCKET, libc::SO_NO_CHECK, 1).expect("SO_NO_CHECK");
    }
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

/// Asks for a buffer size, past the system's limit when we may; what the kernel then says it is.
fn grow(fd: &OwnedFd, force: i32, plain: i32, bytes: usize) -> nix::Result<usize> {
    let value = i32::try_from(bytes).unwrap_or(i32::MAX);
    if set(fd, libc::SOL_SOCKET, force, value).is_err() {
        set(fd, libc::SOL_SOCKET, plain, value)?;
    }
    get(fd, libc::SOL_SOCKET, plain).map(|size| size.max(0) as usize)
}

fn set(fd: &OwnedFd, level: i32, option: i32, value: i32) -> nix::Result<()> {
    let len = size_of::<i32>() as libc::socklen_t;
    // SAFETY: the kernel reads `len` bytes of `value`, which outlives the call, and keeps nothing.
    let result = unsafe { libc::setsockopt(fd.as_raw_fd(), level, option, (&raw const value).cast(), len) };
    nix::Error::result(result).map(drop)
}

fn get(fd: &OwnedFd, level: i32, option: i32) -> nix::Result<i32> {
    let mut value = 0i32;
    let mut len = size_of::<i32>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes into `value` and the length into `len`.
    let result =
        unsafe { libc::getsockopt(fd.as_raw_fd(), level, option, (&raw mut value).cast(), &raw mut len) };
    nix::Error::result(result).map(|_| value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn binds_both_families_and_names_a_busy_port() {
        for any in ["127.0.0.1:0", "[::1]:0"] {
            let any: SocketAddr = any.parse().expect("an address");
            let first = match Socket::bind(any, true) {
                Ok(socket) => socket,
                Err(SocketError::NoFamily { .. } | SocketError::NotHere { .. }) => {
                    eprintln!("SKIPPED {any}: this host does not speak the family");
                    continue;
                }
                Err(error) => panic!("{error}"),
            };
            assert_ne!(first.local().port(), 0);
            assert!(first.receive_buffer() > 0 && first.send_buffer() > 0);
            assert_eq!(get(&first.fd, libc::SOL_UDP, libc::UDP_GRO), Ok(1));
            let error = Socket::bind(first.local(), false).err().expect("the port is taken").to_string();
            let port = first.local().port().to_string();
            assert!(error.contains(&port) && error.contains("choose another port"), "{error}");
        }
    }

    #[test]
    fn says_when_an_address_is_not_ours() {
        let error = Socket::bind("192.0.2.1:0".parse().expect("an address"), false).err().expect("not ours");
        assert!(error.to_string().contains("192.0.2.1 is no address of this host"), "{error}");
    }
}
