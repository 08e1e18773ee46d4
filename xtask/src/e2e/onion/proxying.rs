//! What asks a SOCKS5 proxy, byte by byte (RFC 1928), and the servers that it reaches.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::libc;
use nix::sys::socket::{setsockopt, sockopt::Linger};

use crate::lab::Host;

/// Where the proxy listens.
pub const PROXY: ([u8; 4], u16) = ([127, 0, 0, 1], 1080);
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(45);

/// Whom a request names.
pub enum To<'a> {
    Address(Ipv4Addr),
    Name(&'a str),
}

fn place(to: &To, port: u16) -> Vec<u8> {
    let mut bytes = match to {
        To::Address(address) => [&[1][..], &address.octets()].concat(),
        To::Name(name) => [&[3, name.len() as u8][..], name.as_bytes()].concat(),
    };
    bytes.extend(port.to_be_bytes());
    bytes
}

/// A connection to the proxy that has agreed to serve.
fn greeted(host: &Host) -> Result<TcpStream> {
    let mut stream = host.within(|| Ok(TcpStream::connect(SocketAddr::from(PROXY))?)).context("no proxy")?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(&[5, 2, 2, 0])?;
    let mut choice = [0; 2];
    stream.read_exact(&mut choice)?;
    ensure!(choice == [5, 0], "the proxy chose {choice:?}");
    Ok(stream)
}

/// Makes a request; the code that answers it, the address in it, and the stream.
pub fn request(host: &Host, command: u8, to: &To, port: u16) -> Result<(u8, SocketAddr, TcpStream)> {
    let mut stream = greeted(host)?;
    stream.write_all(&[&[5, command, 0][..], &place(to, port)].concat())?;
    let mut reply = [0; 10];
    stream.read_exact(&mut reply)?;
    ensure!(reply[0] == 5 && reply[3] == 1, "the proxy answers {reply:?}");
    let at = Ipv4Addr::new(reply[4], reply[5], reply[6], reply[7]);
    let port = u16::from_be_bytes([reply[8], reply[9]]);
    Ok((reply[1], (at, port).into(), stream))
}

/// The code alone.
pub fn code(host: &Host, command: u8, to: &To, port: u16) -> Result<u8> {
    request(host, command, to, port).map(|(code, ..)| code)
}

/// A connection through the proxy.
pub fn connect(host: &Host, to: &To, port: u16) -> Result<TcpStream> {
    let (code, _, stream) = request(host, 1, to, port)?;
    ensure!(code == 0, "the proxy answers {code}");
    Ok(stream)
}

/// Sends a datagram by an association and awaits its answer, asking again; what came, and from where.
pub fn exchange(host: &Host, to: &To, port: u16, payload: &[u8]) -> Result<(Vec<u8>, Vec<u8>)> {
    let (code, at, stream) = request(host, 3, &To::Address(Ipv4Addr::UNSPECIFIED), 0)?;
    ensure!(code == 0 && at.ip().is_loopback(), "the proxy answers {code}, {at}");
    let socket = host.within(|| Ok(UdpSocket::bind("127.0.0.1:0")?))?;
    socket.set_read_timeout(Some(Duration::from_secs(2)))?;
    let whole = [&[0, 0, 0][..], &place(to, port), payload].concat();
    // A part of a datagram leads nowhere, and does no harm.
    let part = [&[0, 0, 1][..], &place(to, port), b"a part"].concat();
    let mut answer = [0; 2048];
    for _ in 0..10 {
        socket.send_to(&part, at)?;
        socket.send_to(&whole, at)?;
        let Ok((len, from)) = socket.recv_from(&mut answer) else { continue };
        ensure!(from == at && len >= 10, "{len} bytes from {from}");
        drop(stream);
        return Ok((answer[10..len].to_vec(), answer[..10].to_vec()));
    }
    anyhow::bail!("no answer to a datagram")
}

/// Answers questions for one name of IPv4; there is no other.
pub fn answer_names(host: &Host, name: &'static str, address: Ipv4Addr) -> Result<()> {
    let own = host.address;
    let socket = host.within(move || Ok(UdpSocket::bind((own, 53))?))?;
    std::thread::spawn(move || {
        let mut question = [0; 512];
        while let Ok((len, from)) = socket.recv_from(&mut question) {
            if len < 17 {
                continue;
            }
            let asked = &question[12..len - 4];
            let mut known: Vec<u8> =
                name.split('.').flat_map(|l| [&[l.len() as u8], l.as_bytes()].concat()).collect();
            known.push(0);
            let is_v4 = question[len - 3] == 1;
            let mut answer = question[..len].to_vec();
            let (there, records) = (asked == known, u8::from(asked == known && is_v4));
            (answer[2], answer[3], answer[7]) = (0x81, if there { 0x80 } else { 0x83 }, records);
            if records > 0 {
                answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
                answer.extend(address.octets());
            }
            let _ = socket.send_to(&answer, from);
        }
    });
    Ok(())
}

/// Says everything back, datagram by datagram.
pub fn echo(host: &Host, port: u16) -> Result<()> {
    let own = host.address;
    let socket = host.within(move || Ok(UdpSocket::bind((own, port))?))?;
    std::thread::spawn(move || {
        let mut bytes = [0; 2048];
        while let Ok((len, from)) = socket.recv_from(&mut bytes) {
            let _ = socket.send_to(&bytes[..len], from);
        }
    });
    Ok(())
}

/// Answers, once it has heard the last, with how many bytes it heard.
pub fn count_to_the_end(host: &Host, port: u16) -> Result<()> {
    host.answer(port, |mut stream| {
        let mut bytes = Vec::new();
        if stream.read_to_end(&mut bytes).is_ok() {
            let _ = stream.write_all(bytes.len().to_string().as_bytes());
        }
    })
}

/// Resets whoever says something.
pub fn reset(host: &Host, port: u16) -> Result<()> {
    host.answer(port, |mut stream| {
        let _ = stream.read(&mut [0; 1]);
        let _ = setsockopt(&stream, Linger, &libc::linger { l_onoff: 1, l_linger: 0 });
    })
}

/// Says how many bytes were sent before the end, and hears it back.
pub fn counted(mut stream: TcpStream, bytes: usize) -> Result<()> {
    let part = vec![7; 10_000];
    let mut left = bytes;
    while left > 0 {
        let len = left.min(part.len());
        stream.write_all(&part[..len])?;
        left -= len;
    }
    stream.shutdown(Shutdown::Write)?;
    let mut heard = String::new();
    stream.read_to_string(&mut heard).context("after the end of our half")?;
    ensure!(heard == bytes.to_string(), "of {bytes} bytes it heard {heard:?}");
    Ok(())
}
