//! Which user of this host has a socket: loopback is everybody's, and one user's association is not another's.

use std::fs::File;
use std::io::{self, Read};
use std::net::{IpAddr, SocketAddr};

use crate::limits::SOCKS_SOCKETS_BYTES_MAX;

/// The user of the TCP socket at `local` that is connected to `remote`; `None` when there is none, or more than one user's.
pub(super) fn of_tcp(local: SocketAddr, remote: SocketAddr) -> io::Result<Option<u32>> {
    let (local, remote) = (canonical(local), canonical(remote));
    let all = read(&["tcp", "tcp6"])?;
    Ok(only(all.lines().filter_map(entry).filter(|one| (one.local, one.remote) == (local, remote))))
}

/// The user of the UDP socket that sends from `local`; `None` when there is none, or when several users' may be it.
pub(super) fn of_udp(local: SocketAddr) -> io::Result<Option<u32>> {
    let local = canonical(local);
    // A socket of both families sends from IPv4, too.
    let all = read(if local.is_ipv4() { &["udp", "udp6"] } else { &["udp6"] })?;
    let sends = |one: &Entry| {
        let ip = one.local.ip();
        one.local.port() == local.port() && (ip.is_unspecified() || ip == local.ip())
    };
    Ok(only(all.lines().filter_map(entry).filter(sends)))
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// The kernel's tables, one after another.
fn read(names: &[&str]) -> io::Result<String> {
    let mut all = String::new();
    for name in names {
        match File::open(format!("/proc/self/net/{name}")) {
            Ok(file) => _ = file.take(SOCKS_SOCKETS_BYTES_MAX).read_to_string(&mut all)?,
            // A host may have no IPv6.
            Err(error) if error.kind() == io::ErrorKind::NotFound && name.ends_with('6') => {}
            Err(error) => return Err(error),
        }
    }
    Ok(all)
}

/// The user, if it is one and the same.
fn only(mut all: impl Iterator<Item = Entry>) -> Option<u32> {
    let first = all.next()?.user;
    all.all(|one| one.user == first).then_some(first)
}

/// A line of one of the kernel's tables (proc(5)).
#[derive(Debug, PartialEq, Eq)]
struct Entry {
    local: SocketAddr,
    remote: SocketAddr,
    user: u32,
}

/// `sl: local remote state queues timer retransmits user …`; `None` of what is none, as the first line.
fn entry(line: &str) -> Option<Entry> {
    let mut words = line.split_ascii_whitespace();
    let (local, remote) = (address(words.nth(1)?)?, address(words.next()?)?);
    let user = words.nth(4)?.parse().ok()?;
    Some(Entry { local, remote, user })
}

/// Words of 32 bits, as this machine has them in memory, and a port.
fn address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |at: usize| {
        let word = u32::from_str_radix(ip.get(8 * at..8 * at + 8)?, 16).ok()?;
        Some(word.to_ne_bytes())
    };
    let ip = match ip.len() {
        8 => IpAddr::from(word(0)?),
        32 => {
            let mut octets = [0; 16];
            for (at, four) in octets.chunks_exact_mut(4).enumerate() {
                four.copy_from_slice(&word(at)?);
            }
            IpAddr::from(octets).to_canonical()
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream, UdpSocket};
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn the_kernel_says_whose_a_socket_is() {
        let own = std::fs::metadata("/proc/self").expect("this process").uid();
        for here in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(here) else { continue };
            let at = listener.local_addr().expect("bound");
            let stream = TcpStream::connect(at).expect("connected");
            let from = stream.local_addr().expect("bound");
            assert_eq!(of_tcp(from, at).expect("read"), Some(own));
            assert_eq!(of_tcp(from, from).expect("read"), None);
            let socket = UdpSocket::bind(here).expect("bound");
            let at = socket.local_addr().expect("bound");
            assert_eq!(of_udp(at).expect("read"), Some(own));
            drop(socket);
            assert_eq!(of_udp(at).expect("read"), None);
        }
        let any = UdpSocket::bind("0.0.0.0:0").expect("bound");
        let port = any.local_addr().expect("bound").port();
        assert_eq!(of_udp(([127, 0, 0, 1], port).into()).expect("read"), Some(own));
    }

    #[test]
    fn several_users_sockets_are_nobodys_and_other_lines_say_nothing() {
        let line = |user: u32| {
            let port = "16B2";
            let word = format!("{:08X}", u32::from_ne_bytes([127, 0, 0, 1]));
            format!(
                " 8: {word}:{port} 00000000:0000 07 00000000:00000000 00:00000000 00000000  {user}  0 9 2 0 0"
            )
        };
        let of = |users: &[u32]| only(users.iter().filter_map(|user| entry(&line(*user))));
        assert_eq!((of(&[7, 7]), of(&[7, 8]), of(&[])), (Some(7), None, None));
        let one = entry(&line(7)).expect("a socket");
        assert_eq!(one.local, "127.0.0.1:5810".parse().expect("an address"));
        for bad in [
            "",
            "  sl  local_address rem_address   st",
            "1: xyz:1 00000000:0000 07 0 0 0 7",
            "1: 0100007F:99999 2 3",
        ] {
            assert_eq!(entry(bad), None, "{bad}");
        }
    }
}
