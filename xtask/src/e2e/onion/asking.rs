//! Who can be reached from where: services that say their host's name, hosts that ask them, and packets that are counted.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockProtocol, SockType, setsockopt, socket, sockopt::BindToDevice,
};

use crate::e2e::tunnel::on;
use crate::lab::{Host, Lab, node};
use crate::stop;

/// How long one question waits; it is asked again where an answer is due.
const PATIENCE: Duration = Duration::from_secs(2);
const WORD: &[u8] = b"who is there";

/// Something that listens, over TCP and UDP.
pub struct Service {
    asked: Arc<AtomicU64>,
}

impl Service {
    /// Says its host's name to whoever asks at this address, which may be all of them.
    pub fn start(host: &Host, address: impl Into<IpAddr>, port: u16) -> Result<Service> {
        let address = address.into();
        Service::at(host, address, port, &[address])
    }

    /// The same at all addresses over TCP, and over UDP at these: answers of a socket for all of them would leave from the
    /// one that the way back prefers.
    pub fn at_each(host: &Host, port: u16, addresses: &[IpAddr]) -> Result<Service> {
        Service::at(host, Ipv6Addr::UNSPECIFIED.into(), port, addresses)
    }

    fn at(host: &Host, tcp: IpAddr, port: u16, udp: &[IpAddr]) -> Result<Service> {
        let asked = Arc::new(AtomicU64::new(0));
        let (name, count) = (host.name.clone(), asked.clone());
        let answer = move |mut stream: TcpStream| {
            count.fetch_add(1, Ordering::Relaxed);
            let _ = stream.write_all(name.as_bytes());
        };
        host.answer_at((tcp, port), answer).context("a listener")?;
        for address in udp.iter().copied() {
            let socket = host.within(move || Ok(UdpSocket::bind((address, port))?));
            let socket = socket.with_context(|| address.to_string())?;
            let (name, count) = (host.name.clone(), asked.clone());
            std::thread::spawn(move || {
                let mut word = [0; 64];
                while let Ok((_, from)) = socket.recv_from(&mut word) {
                    count.fetch_add(1, Ordering::Relaxed);
                    let _ = socket.send_to(name.as_bytes(), from);
                }
            });
        }
        Ok(Service { asked })
    }

    /// Connections and datagrams that reached it.
    pub fn asked(&self) -> u64 {
        self.asked.load(Ordering::Relaxed)
    }
}

/// What a host hears at an address, by TCP and by UDP.
pub fn ask(host: &Host, to: SocketAddr) -> Result<[Option<String>; 2]> {
    host.within(move || Ok([by_tcp(to).ok(), by_udp(to).ok()]))
}

fn by_tcp(to: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut name = String::new();
    stream.read_to_string(&mut name)?;
    Ok(name)
}

fn by_udp(to: SocketAddr) -> std::io::Result<String> {
    let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(to)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.send(WORD)?;
    let mut name = [0; 64];
    let len = socket.recv(&mut name)?;
    Ok(String::from_utf8_lossy(&name[..len]).into_owned())
}

/// A host hears who is there, by TCP and by UDP.
pub fn hears(host: &Host, to: SocketAddr, name: &str) -> Result<()> {
    let mut last = [None, None];
    let heard = stop::until(node::PROMPT, || {
        last = ask(host, to)?;
        Ok(last.iter().all(|heard| heard.as_deref() == Some(name)))
    })?;
    ensure!(heard, "{} hears {last:?} at {to}, where {name} is", host.name);
    Ok(())
}

/// A host hears nothing, and what it asked for was not reached.
pub fn hears_nothing(host: &Host, to: SocketAddr, service: &Service, why: &str) -> Result<()> {
    let before = service.asked();
    let heard = ask(host, to)?;
    ensure!(heard == [None, None], "{why}: {} hears {heard:?} at {to}", host.name);
    let asked = service.asked() - before;
    ensure!(asked == 0, "{why}: {asked} questions of {} to {to} arrived", host.name);
    Ok(())
}

/// Has nft carry out a script on a host.
pub fn nft(lab: &Lab, host: &Host, script: &str) -> Result<String> {
    on(lab, host, &["nft", script])
}

/// Has a host lead ports on: rules of nft's for what comes in.
pub fn lead_on(lab: &Lab, host: &Host, rules: &str) -> Result<()> {
    forward(host)?;
    let chain = format!("chain in {{ type nat hook prerouting priority dstnat; {rules} }}");
    nft(lab, host, &format!("table ip ports {{ {chain}; }}")).map(drop)
}

/// Packets of a host that match, from now on.
pub struct Count {
    host: Host,
    name: String,
}

impl Count {
    /// `hook` is one of nft's, such as prerouting.
    pub fn start(lab: &Lab, host: &Host, name: &str, hook: &str, matching: &str) -> Result<Count> {
        let script = format!(
            "table ip {name} {{ counter those {{ }}; chain look {{ type filter hook {hook} priority raw; \
             {matching} counter name those; }}; }}"
        );
        nft(lab, host, &script)?;
        Ok(Count { host: host.clone(), name: name.to_owned() })
    }

    /// How many so far.
    pub fn packets(&self, lab: &Lab) -> Result<u64> {
        let shown = on(lab, &self.host, &["nft", "list", "counter", "ip", &self.name, "those"])?;
        let number = shown.split_once("packets ").and_then(|(_, rest)| rest.split_whitespace().next());
        number.and_then(|text| text.parse().ok()).with_context(|| shown.clone())
    }
}

/// Has a host pass on packets of others.
fn forward(host: &Host) -> Result<()> {
    host.within(|| Ok(std::fs::write("/proc/sys/net/ipv4/ip_forward", "1")?))
}

/// Sends whole IPv4 packets, whatever their source, by a device.
pub fn send_raw(host: &Host, device: &str, packets: Vec<Vec<u8>>) -> Result<()> {
    let device = std::ffi::OsString::from(device);
    host.within(move || {
        let raw = socket(AddressFamily::Inet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Raw)?;
        setsockopt(&raw, BindToDevice, &device)?;
        // The standard library's has the one call that is needed.
        let raw = UdpSocket::from(raw);
        for packet in packets {
            let [a, b, c, d] = [16, 17, 18, 19].map(|at| packet[at]);
            raw.send_to(&packet, (Ipv4Addr::new(a, b, c, d), 0)).context("sending a raw packet")?;
        }
        Ok(())
    })
}

/// An IPv4 packet.
pub fn packet(source: Ipv4Addr, destination: Ipv4Addr, protocol: u8, content: &[u8]) -> Vec<u8> {
    let len = (20 + content.len()) as u16;
    let mut bytes = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, protocol, 0, 0];
    bytes[2..4].copy_from_slice(&len.to_be_bytes());
    bytes.extend(source.octets());
    bytes.extend(destination.octets());
    let sum = checksum(&bytes).to_be_bytes();
    bytes[10..12].copy_from_slice(&sum);
    bytes.extend(content);
    bytes
}

/// A message of ICMP.
pub fn icmp(what: u8, code: u8, rest: [u8; 4], quoted: &[u8]) -> Vec<u8> {
    let mut bytes = vec![what, code, 0, 0];
    bytes.extend(rest);
    bytes.extend(quoted);
    let sum = checksum(&bytes).to_be_bytes();
    bytes[2..4].copy_from_slice(&sum);
    bytes
}

/// A segment of TCP or, with no flags, a datagram of UDP; with its checksum.
pub fn transport(source: (Ipv4Addr, u16), destination: (Ipv4Addr, u16), flags: Option<u8>) -> Vec<u8> {
    let mut bytes = [source.1.to_be_bytes(), destination.1.to_be_bytes()].concat();
    let (protocol, at) = match flags {
        Some(flags) => {
            bytes.extend([0, 0, 0, 7, 0, 0, 0, 9, 5 << 4, flags, 0xff, 0xff, 0, 0, 0, 0]);
            (6, 16)
        }
        None => {
            let len = (8 + WORD.len()) as u16;
            bytes.extend([len.to_be_bytes(), [0, 0]].concat());
            bytes.extend(WORD);
            (17, 6)
        }
    };
    let mut summed = [source.0.octets(), destination.0.octets()].concat();
    summed.extend([0, protocol]);
    summed.extend((bytes.len() as u16).to_be_bytes());
    summed.extend(&bytes);
    let sum = checksum(&summed).to_be_bytes();
    bytes[at..at + 2].copy_from_slice(&sum);
    packet(source.0, destination.0, protocol, &bytes)
}

fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 =
        bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
