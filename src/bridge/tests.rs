//! Two nodes' ends of a bridge, over real sockets of loopback; the nodes themselves are sockets here.

use std::collections::BTreeSet;

use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::tungstenite::Message;

use super::*;
use crate::base::bridge::is_bridged;
use crate::limits::{BRIDGE_CONNECTIONS_PER_SOURCE_MAX, BRIDGE_STRANGERS_MAX, DATAGRAM_MAX};

const PATH: &str = "/a-path-that-nobody-guesses";
const PIN: &str = include_str!("tests/pin");
/// "Never", for what must come.
const PATIENCE: Duration = Duration::from_secs(20);

/// A node: its UDP port.
struct Node(UdpSocket);

impl Node {
    fn new() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("bound");
        socket.set_read_timeout(Some(PATIENCE)).expect("set");
        Self(socket)
    }

    fn host(&self) -> Host {
        let port = self.0.local_addr().expect("bound").port();
        Host { listen: vec![Ipv4Addr::UNSPECIFIED.into()], port, shards: 1 }
    }

    fn hear(&self) -> (Vec<u8>, SocketAddr) {
        let mut buffer = [0; 2048];
        let (len, from) = self.0.recv_from(&mut buffer).expect("something comes");
        (buffer[..len].to_vec(), from)
    }

    fn say(&self, bytes: &[u8], to: SocketAddr) {
        self.0.send_to(bytes, to).expect("sent");
    }

    /// Says something again and again, as handshakes do, until the other hears of it.
    fn insist(&self, bytes: &[u8], to: SocketAddr, other: &Node) -> SocketAddr {
        other.0.set_read_timeout(Some(Duration::from_millis(100))).expect("set");
        for _ in 0..200 {
            self.say(bytes, to);
            let mut buffer = [0; 2048];
            if let Ok((len, from)) = other.0.recv_from(&mut buffer) {
                assert_eq!(&buffer[..len], bytes);
                other.0.set_read_timeout(Some(PATIENCE)).expect("set");
                // What was said meanwhile may come yet.
                return from;
            }
        }
        panic!("nothing comes")
    }
}

fn start(node: &Node, serving: Option<Serving>) -> Bridges {
    Bridges::start(node.host(), serving, Rng::from_number(1)).expect("started")
}

fn serving(tls: bool) -> Serving {
    let file = |name: &str| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/bridge/tests").join(name);
    let tls = tls.then(|| (file("certificate.pem"), file("key.pem")));
    Serving { listen: ([127, 0, 0, 1], 0).into(), path: PATH.into(), tls }
}

/// A bridge to a node, and its URL.
fn bridge(node: &Node, tls: bool) -> (Bridges, BridgeUrl) {
    let bridges = start(node, Some(serving(tls)));
    let at = bridges.listen().expect("it serves");
    let url =
        if tls { format!("wss://{at}{PATH}#sha256={}", PIN.trim()) } else { format!("ws://{at}{PATH}") };
    (bridges, url.parse().expect("a URL"))
}

fn line(bridges: &Bridges, url: &BridgeUrl) -> SocketAddr {
    bridges.set(&[Some(url.clone())])[0].expect("an address")
}

fn count(counter: &std::sync::atomic::AtomicU64) -> u64 {
    counter.load(std::sync::atomic::Ordering::Relaxed)
}

/// Waits for what another thread counts.
fn until(what: impl Fn() -> bool) {
    let began = std::time::Instant::now();
    while !what() {
        assert!(began.elapsed() < PATIENCE, "never");
        std::thread::yield_now();
    }
}

fn passes(tls: bool) {
    let (a, b) = (Node::new(), Node::new());
    let (at, url) = bridge(&a, tls);
    let to = start(&b, None);
    let address = line(&to, &url);
    assert!(is_bridged(&address), "{address}");
    for size in [1, 64, 1232, DATAGRAM_MAX] {
        let bytes: Vec<u8> = (0..size).map(|n| n as u8).collect();
        b.say(&bytes, address);
        let (heard, from) = a.hear();
        assert_eq!(heard, bytes);
        assert!(is_bridged(&from) && from.ip() != address.ip(), "{from}");
        a.say(&bytes, from);
        assert_eq!(b.hear(), (bytes, address));
    }
    // Too long for any packet: the connection goes on without it.
    b.say(&[7; DATAGRAM_MAX + 1], address);
    b.say(b"next", address);
    assert_eq!(a.hear().0, b"next");
    assert_eq!((count(&at.stats().guests), count(&to.stats().lines)), (1, 1));
    assert_eq!((count(&to.stats().sent_datagrams), count(&at.stats().sent_datagrams)), (5, 4));
    drop(to);
    until(|| count(&at.stats().guests) == 0);
}

#[test]
fn datagrams_pass_both_ways() {
    passes(false);
}

#[test]
fn datagrams_pass_through_tls_by_a_pinned_certificate() {
    passes(true);
}

#[test]
fn another_certificate_than_the_pinned_one_is_refused_and_so_is_one_that_nobody_vouches_for() {
    let (a, b) = (Node::new(), Node::new());
    let (at, url) = bridge(&a, true);
    let to = start(&b, None);
    let host = url.to_string().split('#').next().expect("a first part").to_owned();
    let wrong: BridgeUrl = format!("{host}#sha256={}", "0".repeat(64)).parse().expect("a URL");
    for (tried, url) in [wrong, host.parse().expect("a URL")].into_iter().enumerate() {
        b.say(b"x", line(&to, &url));
        until(|| count(&to.stats().failed) > tried as u64);
    }
    assert_eq!((count(&to.stats().connected), count(&at.stats().came)), (0, 0));
}

#[test]
fn others_of_this_host_do_not_speak_by_a_line() {
    let (a, b, other) = (Node::new(), Node::new(), Node::new());
    let (_at, url) = bridge(&a, false);
    let to = start(&b, None);
    let address = line(&to, &url);
    // Its port at another address of loopback, too, is not the node's.
    let port = b.0.local_addr().expect("bound").port();
    let beside = UdpSocket::bind(("127.0.0.2", port)).expect("bound");
    beside.send_to(b"beside", address).expect("sent");
    other.say(b"other", address);
    b.say(b"own", address);
    let (heard, from) = a.hear();
    assert_eq!(heard, b"own");
    a.say(b"answer", from);
    assert_eq!(b.hear().0, b"answer");
}

#[test]
fn a_bridge_that_was_gone_is_called_again() {
    let (a, b) = (Node::new(), Node::new());
    let (at, url) = bridge(&a, false);
    let to = start(&b, None);
    let address = line(&to, &url);
    b.say(b"first", address);
    assert_eq!(a.hear().0, b"first");
    drop(at);
    // The port may be kept by what is left of the connection, for a moment.
    let again = Serving { listen: ([127, 0, 0, 1], url.port()).into(), ..serving(false) };
    let _at = start(&a, Some(again));
    let from = b.insist(b"second", address, &a);
    a.say(b"answer", from);
    assert_eq!(b.hear().0, b"answer");
}

#[test]
fn lines_keep_their_addresses_until_they_are_not_wanted_any_more() {
    let (a, b) = (Node::new(), Node::new());
    let (at, url) = bridge(&a, false);
    let other: BridgeUrl = "wss://bridge.example/a-secret-path".parse().expect("a URL");
    let to = start(&b, None);
    let address = line(&to, &url);
    b.say(b"x", address);
    a.hear();
    let both = to.set(&[Some(other.clone()), None, Some(url.clone()), Some(url.clone())]);
    assert_eq!((both[1], both[2], both[3]), (None, Some(address), Some(address)));
    let addresses: BTreeSet<_> = both.iter().flatten().collect();
    assert_eq!(addresses.len(), 2);
    assert_eq!(to.set(&[Some(other), None]).len(), 2);
    until(|| count(&at.stats().guests) == 0);
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
    runtime.block_on(async { tokio::time::timeout(PATIENCE, work).await.expect("in time") })
}

/// Through TLS: what is answered to a question.
async fn answer(url: &BridgeUrl, question: &str) -> String {
    let tcp = tokio::net::TcpStream::connect((url.host(), url.port())).await.expect("connected");
    let mut stream = tls::Client::new().wrap(url, tcp).await.expect("TLS");
    stream.write_all(question.as_bytes()).await.expect("written");
    let mut said = Vec::new();
    let mut buffer = [0; 1024];
    while !said.ends_with(b"</html>\n") {
        match stream.read(&mut buffer).await {
            Ok(0) | Err(_) => break,
            Ok(len) => said.extend_from_slice(&buffer[..len]),
        }
    }
    let said = String::from_utf8(said).expect("text");
    said.lines().filter(|line| !line.starts_with("date:")).map(|line| format!("{line}\n")).collect()
}

#[test]
fn whoever_does_not_know_the_path_hears_the_same_as_everybody() {
    let a = Node::new();
    let (at, url) = bridge(&a, true);
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAA\r\n";
    let nothing = block_on(answer(&url, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"));
    assert!(nothing.starts_with("HTTP/1.1 404 Not Found") && !nothing.contains("tornet"), "{nothing}");
    for (method, path, headers) in [
        ("GET", "/another", ""),
        ("GET", PATH, ""),
        ("POST", PATH, upgrade),
        ("GET", "/a-path-that-nobody-guessed", upgrade),
        ("GET", &format!("{PATH}?x"), upgrade),
        ("GET", PATH, "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: AAAA\r\n"),
    ] {
        let said = block_on(answer(&url, &format!("{method} {path} HTTP/1.1\r\nHost: x\r\n{headers}\r\n")));
        assert_eq!(said, nothing, "{method} {path} {headers:?}");
    }
    assert_eq!((count(&at.stats().strangers), count(&at.stats().came)), (7, 0));
}

#[test]
fn a_guest_that_speaks_otherwise_is_shown_out() {
    let a = Node::new();
    let (at, url) = bridge(&a, false);
    let ends = |message: Message| {
        let address = (url.host().to_owned(), url.port());
        let ask = url.to_string();
        block_on(async move {
            let tcp = tokio::net::TcpStream::connect(address).await.expect("connected");
            let (mut socket, _) = tokio_tungstenite::client_async(ask, tcp).await.expect("let in");
            socket.send(message).await.expect("sent");
            while let Some(Ok(_)) = socket.next().await {}
        });
    };
    ends(Message::text("hello"));
    ends(Message::binary(vec![0; 4096]));
    until(|| count(&at.stats().guests) == 0);
    assert_eq!((count(&at.stats().came), count(&at.stats().received_datagrams)), (2, 0));
}

#[test]
fn one_address_has_so_many_connections_and_no_more() {
    let a = Node::new();
    let (at, url) = bridge(&a, false);
    block_on(async {
        let mut guests = Vec::new();
        for number in 0..=BRIDGE_CONNECTIONS_PER_SOURCE_MAX {
            let tcp = tokio::net::TcpStream::connect((url.host(), url.port())).await.expect("connected");
            let (mut socket, _) =
                tokio_tungstenite::client_async(url.to_string(), tcp).await.expect("let in");
            if number < BRIDGE_CONNECTIONS_PER_SOURCE_MAX {
                guests.push(socket);
            } else {
                assert!(!matches!(socket.next().await, Some(Ok(_))), "one too many");
            }
        }
    });
    assert_eq!(count(&at.stats().refused), 1);
}

/// A connection that completes TLS and ends held no place for long, and cost the thread a handshake: as often as it came.
#[test]
fn handshakes_of_one_source_are_bounded() {
    let a = Node::new();
    let (at, url) = bridge(&a, true);
    let done = block_on(async {
        for done in 0..1000 {
            let tcp = tokio::net::TcpStream::connect((url.host(), url.port())).await.expect("connected");
            if tls::Client::new().wrap(&url, tcp).await.is_err() {
                return done;
            }
        }
        1000
    });
    assert!(done < 1000 && count(&at.stats().refused) > 0, "{done}");
}

/// Whoever said nothing had all 512 places for 45 s each.
#[test]
fn strangers_make_room_and_guests_stay() {
    let (a, b) = (Node::new(), Node::new());
    let (at, url) = bridge(&a, false);
    let to = start(&b, None);
    let address = line(&to, &url);
    b.say(b"first", address);
    assert_eq!(a.hear().0, b"first");
    let mut idle: Vec<_> = (0..=BRIDGE_STRANGERS_MAX)
        .map(|_| std::net::TcpStream::connect((url.host(), url.port())).expect("connected"))
        .collect();
    idle[0].set_read_timeout(Some(PATIENCE)).expect("set");
    // The eldest of them is shown out, and nobody else.
    let ended = std::io::Read::read(&mut idle[0], &mut [0]);
    assert!(
        ended.as_ref().is_ok_and(|len| *len == 0)
            || ended.is_err_and(|e| e.kind() != io::ErrorKind::WouldBlock)
    );
    assert_eq!((count(&at.stats().refused), count(&at.stats().guests)), (1, 1));
    b.say(b"second", address);
    assert_eq!(a.hear().0, b"second");
}
