//! What an application and its SOCKS5 proxy say to each other (RFC 1928): greeting, request, reply, and the header before
//! each UDP datagram. Integers are big-endian.
//!
//! ```text
//! greeting   5 | count 1 | methods …                            choice  5 | method 1
//! request    5 | command 1 | 0 | place                          reply   5 | code 1 | 0 | place
//! datagram   0 0 | fragment 1 | place | payload …
//! place      1 | address 4  | port 2      3 | length 1 | name … | port 2      4 | address 16 | port 2
//! ```
//!
//! Bytes of a stream come in any pieces: what is not whole yet is [`None`], and how long a message may be is known.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::Malformed;
use crate::limits::{SOCKS_LABEL_MAX, SOCKS_NAME_MAX};

const VERSION: u8 = 5;
const V4: u8 = 1;
const NAME: u8 = 3;
const V6: u8 = 4;

/// No authentication.
pub const METHOD_NONE: u8 = 0;
/// None of those that were offered.
pub const METHOD_REFUSED: u8 = 0xff;
/// The longest greeting, bytes.
pub const GREETING_MAX: usize = 2 + 255;
/// The longest request, bytes.
pub const REQUEST_MAX: usize = 4 + 1 + 255 + 2;

/// Who is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    /// An address.
    Address(IpAddr),
    /// A name, in lower case and without a dot at its end; never an address written out.
    Name(String),
}

/// A host and a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Who.
    pub host: Host,
    /// Which port.
    pub port: u16,
}

/// What an application asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// A connection.
    Connect,
    /// That somebody may connect to it.
    Bind,
    /// To send datagrams.
    Associate,
}

/// A request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// What.
    pub command: Command,
    /// To whom; with [`Command::Associate`], from where the datagrams will come, if that is known.
    pub place: Place,
}

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Code {
    /// It is done.
    Granted = 0,
    /// It failed for a reason that has no code.
    Failure = 1,
    /// A rule forbids it.
    NotAllowed = 2,
    /// No way to the network.
    NetworkUnreachable = 3,
    /// No way to the host, or no such name.
    HostUnreachable = 4,
    /// The host refused.
    Refused = 5,
    /// Lost on a way that was too long.
    TtlExpired = 6,
    /// The proxy does not do that.
    UnknownCommand = 7,
    /// Nor know such addresses.
    UnknownAddress = 8,
}

/// Why a request is not one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct NoRequest {
    /// What is wrong.
    pub what: &'static str,
    /// What to answer; none to who does not speak the protocol.
    pub code: Option<Code>,
}

/// Reads a greeting: whether [`METHOD_NONE`] is offered, and its length, once it is whole.
pub fn greeting(bytes: &[u8]) -> Result<Option<(bool, usize)>, Malformed> {
    match *bytes {
        [version, ..] if version != VERSION => Err(Malformed("not SOCKS5")),
        [_, count, ref rest @ ..] => {
            let methods = rest.get(..usize::from(count));
            Ok(methods.map(|methods| (methods.contains(&METHOD_NONE), 2 + methods.len())))
        }
        _ => Ok(None),
    }
}

/// The answer to a greeting.
pub fn choice(method: u8) -> [u8; 2] {
    [VERSION, method]
}

/// Reads a request: it and its length, once it is whole.
pub fn request(bytes: &[u8]) -> Result<Option<(Request, usize)>, NoRequest> {
    let &[version, command, _, ref rest @ ..] = bytes else {
        return match bytes.first() {
            Some(version) if *version != VERSION => Err(NoRequest { what: "not SOCKS5", code: None }),
            _ => Ok(None),
        };
    };
    if version != VERSION {
        return Err(NoRequest { what: "not SOCKS5", code: None });
    }
    let command = match command {
        1 => Command::Connect,
        2 => Command::Bind,
        3 => Command::Associate,
        _ => return Err(NoRequest { what: "no such command", code: Some(Code::UnknownCommand) }),
    };
    let place = place(rest).map_err(|why| NoRequest { what: why.0, code: Some(Code::UnknownAddress) })?;
    Ok(place.map(|(place, len)| (Request { command, place }, 3 + len)))
}

/// The answer to a request: where it leaves from, all zeros where that is nobody's business.
pub fn reply(code: Code, bound: SocketAddr) -> Vec<u8> {
    let mut out = vec![VERSION, code as u8, 0];
    emit_address(bound, &mut out);
    out
}

/// Reads the header of a datagram: to whom, and where its payload begins. Parts of datagrams are malformed: nobody sends
/// them (RFC 1928 §7 allows to drop them).
pub fn datagram(bytes: &[u8]) -> Result<(Place, usize), Malformed> {
    let &[0, 0, fragment, ref rest @ ..] = bytes else {
        return Err(Malformed("SOCKS datagram: header"));
    };
    if fragment != 0 {
        return Err(Malformed("SOCKS datagram: a part of one"));
    }
    let (place, len) = place(rest)?.ok_or(Malformed("SOCKS datagram: cut off"))?;
    Ok((place, 3 + len))
}

/// Writes the header of a datagram that came from somewhere.
pub fn emit_datagram(from: SocketAddr, out: &mut Vec<u8>) {
    out.extend([0, 0, 0]);
    emit_address(from, out);
}

impl Place {
    /// Writes it, as a request has it.
    pub fn emit(&self, out: &mut Vec<u8>) {
        match &self.host {
            Host::Address(address) => emit_address(SocketAddr::new(*address, self.port), out),
            Host::Name(name) => {
                // A name that was read is short enough.
                let name = &name.as_bytes()[..name.len().min(SOCKS_NAME_MAX)];
                out.extend([NAME, name.len() as u8]);
                out.extend(name);
                out.extend(self.port.to_be_bytes());
            }
        }
    }
}

fn emit_address(at: SocketAddr, out: &mut Vec<u8>) {
    match at.ip() {
        IpAddr::V4(v4) => {
            out.push(V4);
            out.extend(v4.octets());
        }
        IpAddr::V6(v6) => {
            out.push(V6);
            out.extend(v6.octets());
        }
    }
    out.extend(at.port().to_be_bytes());
}

/// Reads a place: it and its length, once it is whole.
fn place(bytes: &[u8]) -> Result<Option<(Place, usize)>, Malformed> {
    let (host, len) = match bytes {
        [] => return Ok(None),
        [V4, rest @ ..] => match rest.first_chunk::<4>() {
            Some(octets) => (Host::Address(Ipv4Addr::from(*octets).into()), 5),
            None => return Ok(None),
        },
        [V6, rest @ ..] => match rest.first_chunk::<16>() {
            Some(octets) => (Host::Address(Ipv6Addr::from(*octets).to_canonical()), 17),
            None => return Ok(None),
        },
        [NAME] => return Ok(None),
        [NAME, len, rest @ ..] => match rest.get(..usize::from(*len)) {
            Some(text) => (host(text)?, 2 + text.len()),
            None => return Ok(None),
        },
        _ => return Err(Malformed("SOCKS: kind of address")),
    };
    let Some([high, low, ..]) = bytes.get(len..) else { return Ok(None) };
    Ok(Some((Place { host, port: u16::from_be_bytes([*high, *low]) }, len + 2)))
}

/// A name, or an address that is written out.
fn host(text: &[u8]) -> Result<Host, Malformed> {
    let text = std::str::from_utf8(text).map_err(|_| Malformed("SOCKS: name"))?;
    let inner = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    if let Ok(address) = inner.parse::<IpAddr>() {
        return Ok(Host::Address(address.to_canonical()));
    }
    let name = text.strip_suffix('.').unwrap_or(text);
    let fits = |label: &str| {
        let known = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        !label.is_empty() && label.len() <= SOCKS_LABEL_MAX && label.bytes().all(known)
    };
    // A last label of digits would be an address to some and a name to others.
    let last = name.rsplit('.').next().unwrap_or_default();
    let numeric = !last.is_empty() && last.bytes().all(|byte| byte.is_ascii_digit());
    if name.len() > SOCKS_NAME_MAX || numeric || !name.split('.').all(fits) {
        return Err(Malformed("SOCKS: name"));
    }
    Ok(Host::Name(name.to_ascii_lowercase()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn hosts() -> impl Strategy<Value = Host> {
        prop_oneof![
            any::<u32>().prop_map(|bits| Host::Address(Ipv4Addr::from(bits).into())),
            any::<u128>().prop_map(|bits| Host::Address(Ipv6Addr::from(bits).to_canonical())),
            "[a-z0-9_-]{1,63}(\\.[a-z0-9-]{1,60}){0,2}\\.[a-z]{2,3}".prop_map(Host::Name),
        ]
    }

    proptest! {
        #[test]
        fn requests_come_in_any_pieces(host in hosts(), port: u16, command in 1u8..4, more in prop::collection::vec(any::<u8>(), 0..9)) {
            let place = Place { host, port };
            let mut bytes = vec![5, command, 0];
            place.emit(&mut bytes);
            let len = bytes.len();
            prop_assert!(len <= REQUEST_MAX);
            for cut in 0..len {
                prop_assert_eq!(request(&bytes[..cut]), Ok(None), "{} of {}", cut, len);
            }
            bytes.extend(more);
            let (read, used) = request(&bytes).expect("a request").expect("whole");
            prop_assert_eq!((used, read.place), (len, place));
        }

        #[test]
        fn datagrams_round_trip(host in hosts(), port: u16, payload in prop::collection::vec(any::<u8>(), 0..40), fragment: u8) {
            let place = Place { host: host.clone(), port };
            let mut bytes = vec![0, 0, fragment];
            place.emit(&mut bytes);
            let at = bytes.len();
            bytes.extend(&payload);
            if fragment != 0 {
                prop_assert!(datagram(&bytes).is_err());
                return Ok(());
            }
            prop_assert_eq!(datagram(&bytes), Ok((place, at)));
            for cut in 0..at {
                prop_assert!(datagram(&bytes[..cut]).is_err());
            }
            if let Host::Address(address) = host {
                let mut same = Vec::new();
                emit_datagram(SocketAddr::new(address, port), &mut same);
                prop_assert_eq!(&same[..], &bytes[..at]);
            }
        }

        #[test]
        fn greetings_come_in_any_pieces(methods in prop::collection::vec(any::<u8>(), 0..256)) {
            let methods = &methods[..methods.len().min(255)];
            let bytes = [&[5, methods.len() as u8], methods].concat();
            for cut in 0..bytes.len() {
                prop_assert_eq!(greeting(&bytes[..cut]), Ok(None));
            }
            prop_assert_eq!(greeting(&bytes), Ok(Some((methods.contains(&0), bytes.len()))));
        }

        #[test]
        fn any_bytes_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = (greeting(&bytes), request(&bytes), datagram(&bytes));
            // Whatever waits for more is shorter than the longest.
            prop_assert!(bytes.len() < GREETING_MAX || greeting(&bytes) != Ok(None));
            prop_assert!(bytes.len() < REQUEST_MAX || request(&bytes) != Ok(None));
        }
    }

    #[test]
    fn names_are_told_from_addresses() {
        let read = |text: &str| {
            let bytes = [&[5, 1, 0, 3, text.len() as u8], text.as_bytes(), &[0, 80]].concat();
            request(&bytes).map(|whole| whole.expect("whole").0.place.host)
        };
        let address = |text: &str| Ok(Host::Address(text.parse().expect("an address")));
        assert_eq!(read("192.0.2.7"), address("192.0.2.7"));
        assert_eq!(read("[2001:db8::1]"), address("2001:db8::1"));
        assert_eq!(read("::ffff:192.0.2.7"), address("192.0.2.7"));
        assert_eq!(read("Example.COM."), Ok(Host::Name("example.com".into())));
        let long = "a".repeat(64);
        for wrong in ["", ".", "a..b", "a b", "192.0.2", "1", "a.0x7f", "naïve", &long, "a/b"] {
            let answer = read(wrong);
            if wrong == "a.0x7f" {
                assert_eq!(answer, Ok(Host::Name(wrong.into())), "it begins with a digit only");
                continue;
            }
            assert_eq!(answer.map_err(|why| why.code), Err(Some(Code::UnknownAddress)), "{wrong:?}");
        }
    }

    #[test]
    fn others_protocols_are_told_apart() {
        assert!(greeting(b"GET / HTTP/1.1\r\n").is_err() && greeting(&[4, 1]).is_err());
        assert_eq!(request(&[4]).map_err(|why| why.code), Err(None));
        assert_eq!(request(&[5, 9, 0, 1]).map_err(|why| why.code), Err(Some(Code::UnknownCommand)));
        assert_eq!(request(&[5, 1, 0, 2]).map_err(|why| why.code), Err(Some(Code::UnknownAddress)));
        assert_eq!(reply(Code::Refused, ([0, 0, 0, 0], 0).into()), [5, 5, 0, 1, 0, 0, 0, 0, 0, 0]);
        assert_eq!(choice(METHOD_REFUSED), [5, 255]);
    }
}
