//! The API over real sockets, with a backend that does what the test says.

mod anonymous;
mod intents;
mod introductions;
mod overlay;
mod tunnels;

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::mpsc;

use super::*;
use crate::base::fileop::JobId;
use crate::base::{ChunkId, NodeId, PublicKey};
use crate::config::ConfigFile;
use crate::crypto::{Identity, Secret};
use crate::io::latency::{Board, Latencies, Recorder};
use crate::limits::PEERS_BATCH;
use crate::node::command::{CircuitSnapshot, GetProgress, OverlaySnapshot, PeerSnapshot, Report, Snapshot};
use crate::shape::{Class, ClassStats};
use crate::wire::invite::{Invite, network_hash};
use crate::wire::locator::Locator;
use crate::wire::reference::{Blob, Reference};

type Progress = Box<dyn FnMut(PutEvent) + Send>;

/// What the fake was told.
#[derive(Debug, PartialEq, Eq)]
enum Told {
    Friends(usize),
    Tunnels(usize),
    Host(Option<TunnelPlan>),
    Socks(Option<SocksPlan>),
    Limits(Option<u64>, Option<u64>, usize),
    Get(JobId, Vec<Vec<u8>>, String, Option<Vec<u8>>, bool, bool),
    Put(Asked),
    Anonymous(JobId, u8, Option<PublicKey>, bool),
    Cancel(JobId),
    PutDropped,
    Relay(bool),
    Overlay(bool, String, usize),
    Introductions(bool, u8, usize),
    Provide(usize),
    Restore(usize),
    Leave(Option<u64>),
    Online(Option<u32>),
    Intents(u32, u8, u32),
    AskStay(PublicKey, u32),
    Shutdown,
}

struct Fake {
    reports: Reports,
    told: mpsc::UnboundedSender<Told>,
    puts: Mutex<Vec<Progress>>,
    busy: std::sync::atomic::AtomicBool,
    /// Chunks in the store's order.
    stored: std::sync::atomic::AtomicU64,
    kept: std::sync::atomic::AtomicU64,
    /// Peers that were met.
    met: std::sync::atomic::AtomicUsize,
}

/// A put as it was asked for.
#[derive(Debug, PartialEq, Eq)]
struct Asked {
    paths: Vec<std::path::PathBuf>,
    salt: bool,
    skip_unreadable: bool,
    /// Its job, hops and exit, and whether one friend, and however few keepers, will do.
    anonymous: Option<(JobId, u8, Option<PublicKey>, bool, bool)>,
}

impl Backend for Fake {
    fn command(&self, command: Command) -> Result<(), Busy> {
        if self.busy.load(Ordering::Relaxed) {
            return Err(Busy);
        }
        let told = match command {
            Command::Friends(friends) => Told::Friends(friends.len()),
            Command::Tunnels(tunnels) => Told::Tunnels(tunnels.len()),
            Command::Get(g) => Told::Get(g.job, g.inside, g.root, g.rename, g.merge, g.overwrite),
            Command::Anonymous(one) => {
                assert!(one.identity.card().check(crate::crypto::rank::PLACE_FLOOR_BITS).is_ok());
                Told::Anonymous(one.job(), one.hops, one.exit, one.force)
            }
            Command::Cancel(job) => Told::Cancel(job),
            Command::Status { token } => {
                self.reports.deliver(Report::Status(token, Box::new(snapshot())));
                return Ok(());
            }
            Command::Limits(limits) => Told::Limits(limits.up, limits.down, limits.peers.len()),
            Command::Relay(rules) => Told::Relay(rules.relay),
            Command::Peers { after } => {
                let mut met = overlay::met(self.met.load(Ordering::Relaxed));
                met.retain(|known| Some(known.contact.node_id()) > after);
                met.truncate(PEERS_BATCH);
                self.reports.deliver(Report::Peers(met));
                return Ok(());
            }
            Command::Circuit(_) | Command::Exit(_) => return Ok(()),
            Command::Nat(_) => return Ok(()),
            Command::Introductions(rules) => Told::Introductions(rules.only, rules.hands, rules.adopt),
            Command::Overlay(rules) => Told::Overlay(rules.enabled, rules.network, rules.bootstrap.len()),
            Command::Provide(chunks) => Told::Provide(chunks.len()),
            Command::Restore(known) => Told::Restore(known.len()),
            Command::Push { .. } => return Ok(()),
            Command::Leave(in_ms) => Told::Leave(in_ms),
            Command::Online(for_s) => Told::Online(for_s),
            Command::Intents(rules) => Told::Intents(rules.grant_max_s, rules.grant_trust, rules.ask_max_s),
            Command::AskStay { peer, more_s } => Told::AskStay(peer, more_s),
            Command::Shutdown => Told::Shutdown,
        };
        let _ = self.told.send(told);
        Ok(())
    }

    fn local_chunks(&self, from: u64, most: usize) -> Result<Vec<(u64, ChunkId)>, String> {
        let count = self.stored.load(Ordering::Relaxed);
        Ok((from..count).take(most).map(|place| (place, ChunkId([place as u8; 20]))).collect())
    }

    fn kept_chunks(&self, from: u64, most: usize) -> Result<Vec<(u64, ChunkId)>, String> {
        let count = self.kept.load(Ordering::Relaxed);
        Ok((from..count).take(most).map(|place| (place, ChunkId([place as u8; 20]))).collect())
    }

    fn put(&self, request: PutRequest, progress: Progress) -> Result<PutHandle, Busy> {
        lock(&self.puts).push(progress);
        let PutRequest { paths, salt, skip_unreadable, anonymous } = request;
        let anonymous =
            anonymous.map(|one| (one.job, one.begin.hops, one.begin.exit, one.begin.force, one.force));
        let _ = self.told.send(Told::Put(Asked { paths, salt, skip_unreadable, anonymous }));
        let told = self.told.clone();
        Ok(PutHandle::new(move || {
            let _ = told.send(Told::PutDropped);
        }))
    }

    fn tunnel(&self, plan: Option<TunnelPlan>) -> Result<(), String> {
        if plan.as_ref().is_some_and(|plan| plan.device == "refused") {
            return Err("creating a network device is not permitted".into());
        }
        let _ = self.told.send(Told::Host(plan));
        Ok(())
    }

    fn socks(&self, plan: Option<SocksPlan>) -> Result<(), String> {
        if plan.as_ref().is_some_and(|plan| plan.listen.port() == 1) {
            return Err(
                "the SOCKS proxy's 127.0.0.1:1 is in use by another program: choose another port".into()
            );
        }
        let _ = self.told.send(Told::Socks(plan));
        Ok(())
    }

    fn socks_state(&self) -> Option<SocksState> {
        None
    }

    fn counters(&self) -> Vec<(&'static str, &'static str, u64)> {
        vec![("store_commits", "Group commits", 3), ("packets_received", "Packets received", 1)]
    }

    fn latencies(&self) -> Vec<Latencies> {
        let (mut recorder, board) = (Recorder::new(), Board::new());
        recorder.own.queueing.record(Duration::from_micros(3), 4);
        recorder.touch();
        recorder.publish(&board);
        vec![Board::new().read(), board.read()]
    }

    fn store_stats(&self) -> StoreStats {
        StoreStats {
            local_chunks: 2 + self.stored.load(Ordering::Relaxed),
            local_bytes: 2 << 20,
            local_bytes_max: 1 << 30,
            ..StoreStats::default()
        }
    }

    fn join(&self) {}
}

fn snapshot() -> Snapshot {
    let peer = PeerSnapshot {
        node: NodeId([0xbb; 20]),
        key: PublicKey([0xcc; 32]),
        lane: 0,
        rank: 18,
        trust: Some(50),
        introduced: None,
        address: "192.0.2.1:4600".parse().ok(),
        relayed: false,
        bridged: false,
        relayed_by: None,
        straight_after_us: None,
        connected: true,
        rtt_us: 1500,
        sent_bytes: 10,
        received_bytes: 20,
        lost_packets: 1,
        window: 14_720,
        mtu: 1472,
        agent: "tornet 0.1.0".into(),
        shaped: crate::node::command::ShapedSnapshot::default(),
        intent: crate::node::command::IntentSnapshot::default(),
    };
    Snapshot {
        introductions: Some(introductions::introduced()),
        circuit: Some(CircuitSnapshot {
            hops: 3,
            path: vec![PublicKey([7; 32])],
            ..CircuitSnapshot::default()
        }),
        peers: vec![peer],
        counters: vec![("packets_received", "Packets received", 41)],
        gauges: vec![("slices_free", "Slice buffers that are free", 768.0)],
        jobs: vec![(JobId(7), GetProgress::default())],
        job_circuits: vec![(
            JobId(7),
            CircuitSnapshot { hops: 2, path: vec![PublicKey([7; 32])], ..CircuitSnapshot::default() },
        )],
        tunnels: Vec::new(),
        leaving: Some(crate::node::command::LeavingSnapshot { in_ms: 41_001, ..Default::default() }),
        online_s: None,
        seen_at: Vec::new(),
        one_port_for_all: None,
        overlay: Some(OverlaySnapshot { contacts: 12, ..OverlaySnapshot::default() }),
        classes: Class::ALL.map(|class| (class, ClassStats::default())).to_vec(),
    }
}

struct World {
    api: Arc<Api>,
    fake: Arc<Fake>,
    told: mpsc::UnboundedReceiver<Told>,
    dir: tempfile::TempDir,
    tcp: std::net::SocketAddr,
    served: tokio::task::JoinHandle<()>,
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime").block_on(future)
}

fn identity(seed: u8) -> Identity {
    Identity::passing(Secret::from_bytes([seed; 32]), 0, crate::crypto::rank::PLACE_FLOOR_BITS)
}

fn invitation(seed: u8) -> String {
    let addresses = vec!["192.0.2.9:4600".parse().expect("address")];
    Invite { card: *identity(seed).card(), addresses, network: network_hash("tornet"), bridge: None }
        .to_string()
}

async fn world() -> World {
    let dir = tempfile::tempdir().expect("temporary folder");
    let path = dir.path().join("tornet.toml");
    std::fs::write(&path, "# mine\nport = 4700 # chosen\n").expect("written");
    let file = ConfigFile::load(&path).expect("loaded");
    let (sender, told) = mpsc::unbounded_channel();
    let reports = Reports::new();
    let fake = Arc::new(Fake {
        reports: reports.clone(),
        told: sender,
        puts: Mutex::default(),
        busy: std::sync::atomic::AtomicBool::new(false),
        stored: std::sync::atomic::AtomicU64::new(0),
        kept: std::sync::atomic::AtomicU64::new(0),
        met: std::sync::atomic::AtomicUsize::new(0),
    });
    let usage = Usage::new(&dir.path().join("usage"));
    let api = Api::new(fake.clone(), reports, *identity(1).card(), &file, usage, Box::new(|_| {}));
    let unix = UnixListener::bind(dir.path().join("tornet.sock")).expect("bound");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let tcp = listener.local_addr().expect("bound");
    let served = tokio::spawn(serve(api.clone(), unix, Some(listener)));
    World { api, fake, told, dir, tcp, served }
}

/// Writes a request as bytes, so that what the server sees is exactly what the test says.
fn request(method: &str, path: &str, host: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "{method} {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )
}

async fn converse(
    stream: &mut (impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin),
    text: &str,
) -> (u16, String) {
    stream.write_all(text.as_bytes()).await.expect("written");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.expect("read");
    let answer = String::from_utf8(answer).expect("text");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status");
    (status, body.to_owned())
}

impl World {
    fn socket(&self) -> impl AsRef<Path> + use<> {
        self.dir.path().join("tornet.sock")
    }

    async fn unix(&self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let mut stream = UnixStream::connect(self.socket()).await.expect("connected");
        let (status, body) = converse(&mut stream, &request(method, path, "tornet", &body)).await;
        (status, serde_json::from_str(&body).unwrap_or(Value::String(body)))
    }

    /// A whole `get`, not borrowing the world.
    fn get(&self) -> impl Future<Output = (u16, String)> + use<> {
        let socket = self.socket();
        async move {
            let mut stream = UnixStream::connect(socket).await.expect("connected");
            converse(&mut stream, &request("POST", "/v1/get", "tornet", &get_body().to_string())).await
        }
    }

    async fn tcp(&self, method: &str, path: &str, host: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.tcp).await.expect("connected");
        converse(&mut stream, &request(method, path, host, "")).await
    }

    fn settings(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("tornet.toml")).expect("read")
    }
}

/// The JSON lines of a chunked answer.
fn lines(body: &Value) -> Vec<Value> {
    body.as_str()
        .unwrap_or_default()
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .filter(Value::is_object)
        .collect()
}

fn get_body() -> Value {
    let top = Locator {
        chunk: ChunkId([1; 20]),
        root: [2; 32],
        chunk_len: 116,
        offset: 0,
        plain_len: 100,
        key: [3; 32],
    };
    let reference = Reference { root: Blob { size: 100, depth: 0, top: Some(top) } };
    json!({ "reference": format!("{reference}/a/b"), "root": "/tmp/out", "rename": "new", "overwrite": true })
}

#[test]
fn status_shows_the_node_its_peers_and_counters() {
    block_on(async {
        let world = world().await;
        let (code, status) = world.unix("GET", "/v1/status", &Value::Null).await;
        assert_eq!(code, 200);
        assert_eq!(status["node_id"], identity(1).card().node_id().to_string());
        assert_eq!(status["port"], 4700);
        assert_eq!(status["peers"][0]["rtt_us"], 1500);
        assert_eq!(status["store"]["local_bytes"], 2 << 20);
        assert_eq!(status["jobs"][0]["id"], 7);
        assert_eq!(status["jobs"][0]["circuit"]["hops"], 2);
        assert_eq!(status["counters"]["packets_received"], 42, "counters of one name are summed");
        let latency = &status["latency"][1];
        assert_eq!((&latency["shard"], &latency["queueing"]["count"]), (&json!(1), &json!(4)));
        assert!(latency["queueing"]["p99_us"].as_f64().is_some_and(|us| (us - 3.0).abs() < 0.1));
        assert_eq!(status["latency"][0]["round_trip"]["max_us"], 0.0);
    });
}

#[test]
fn metrics_are_valid_openmetrics() {
    block_on(async {
        let world = world().await;
        let (code, text) = world.tcp("GET", "/metrics", "127.0.0.1").await;
        assert_eq!(code, 200);
        let text: Vec<&str> =
            text.lines().filter(|line| !line.chars().all(|c| c.is_ascii_hexdigit())).collect();
        assert_eq!(text.last(), Some(&"# EOF"));
        let mut types = std::collections::BTreeMap::new();
        for line in &text[..text.len() - 1] {
            if let Some(rest) = line.strip_prefix("# ") {
                let words: Vec<&str> = rest.splitn(3, ' ').collect();
                if words[0] == "TYPE" {
                    assert!(
                        types.insert(words[1].to_owned(), words[2].to_owned()).is_none(),
                        "twice: {line}"
                    );
                }
                continue;
            }
            let (series, value) = line.rsplit_once(' ').expect("series and value");
            assert!(value.parse::<f64>().is_ok(), "{line}");
            let name = series.split('{').next().expect("a name");
            assert!(name.starts_with("tornet_"), "{line}");
            let family = ["_total", "_info", "_sum", "_count", "_bucket"]
                .iter()
                .find_map(|end| name.strip_suffix(end))
                .unwrap_or(name);
            let kind = types.get(family).unwrap_or_else(|| panic!("no type for {line}"));
            assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
        }
        assert!(text.contains(&"tornet_packets_received_total 42"), "{text:#?}");
        assert!(text.contains(&"tornet_slices_free 768.0"));
        assert!(text.iter().any(|line| line.starts_with("tornet_build_info{version=")));
        let peer = format!("tornet_peer_rtt_seconds{{peer=\"{}\"}} 0.0015", NodeId([0xbb; 20]));
        assert!(text.contains(&peer.as_str()));
        // Buckets add up, and each shard has its own.
        for (line, count) in [
            ("tornet_shard_queueing_seconds_bucket{le=\"0.000002\",shard=\"1\"}", 0),
            ("tornet_shard_queueing_seconds_bucket{le=\"0.000005\",shard=\"1\"}", 4),
            ("tornet_shard_queueing_seconds_bucket{le=\"+Inf\",shard=\"1\"}", 4),
            ("tornet_shard_queueing_seconds_count{shard=\"1\"}", 4),
            ("tornet_shard_processing_seconds_count{shard=\"0\"}", 0),
        ] {
            assert!(text.contains(&format!("{line} {count}").as_str()), "{line}: {text:#?}");
        }
    });
}

#[test]
fn tcp_only_shows_and_only_to_those_who_call_it_by_its_address() {
    block_on(async {
        let mut world = world().await;
        for path in ["/", "/metrics", "/v1/status", "/v1/invite"] {
            assert_eq!(world.tcp("GET", path, "localhost:1").await.0, 200, "{path}");
            let (code, body) = world.tcp("GET", path, "evil.example").await;
            assert_eq!(code, 403, "{path}");
            assert!(body.contains("\"error\""), "{body}");
        }
        for (method, path) in [
            ("POST", "/v1/put"),
            ("POST", "/v1/get"),
            ("GET", "/v1/friends"),
            ("POST", "/v1/friends"),
            ("DELETE", "/v1/friends/bob"),
            ("GET", "/v1/config"),
            ("PATCH", "/v1/config"),
        ] {
            assert_eq!(world.tcp(method, path, "127.0.0.1").await.0, 404, "{method} {path}");
            let (_, answer) = world.unix(method, path, &Value::Null).await;
            assert!(!answer.to_string().contains("nothing at this path"), "{path}: {answer}");
        }
        assert_eq!(world.tcp("POST", "/v1/status", "127.0.0.1").await.0, 405);
        assert!(world.told.try_recv().is_err(), "nothing reached the node");
    });
}

#[test]
fn every_error_is_one_line_of_json() {
    block_on(async {
        let world = world().await;
        let relative = json!({ "paths": ["etc/passwd"] });
        let twins = json!({ "paths": ["/a/x", "/b/x"] });
        let not_a_reference = json!({ "reference": "tornet:no", "root": "/tmp" });
        let mut climbing = get_body();
        climbing["rename"] = json!("../up");
        let mut unknown = get_body();
        unknown["colour"] = json!("red");
        for (method, path, body, wanted) in [
            ("GET", "/v2", Value::Null, 404),
            ("PUT", "/v1/put", Value::Null, 405),
            ("POST", "/v1/put", json!({ "paths": [] }), 400),
            ("POST", "/v1/put", relative, 400),
            ("POST", "/v1/put", twins, 400),
            ("POST", "/v1/put", json!("\u{0}"), 400),
            ("POST", "/v1/get", not_a_reference, 400),
            ("POST", "/v1/get", climbing, 400),
            ("POST", "/v1/get", unknown, 400),
            ("POST", "/v1/friends", json!({ "invite": "hello" }), 400),
            ("POST", "/v1/friends", json!({ "invite": invitation(1) }), 409),
            ("DELETE", "/v1/friends/nobody", Value::Null, 404),
            ("PATCH", "/v1/config", json!({ "prot": 1 }), 404),
            ("PATCH", "/v1/config", json!({ "port": 0 }), 400),
            ("POST", "/v1/put", json!({ "paths": [" ".repeat(crate::limits::API_BODY_MAX)] }), 413),
        ] {
            let (code, answer) = world.unix(method, path, &body).await;
            assert_eq!(code, wanted, "{method} {path}: {answer}");
            let line = answer["error"].as_str().unwrap_or_else(|| panic!("{method} {path}: {answer}"));
            assert!(!line.is_empty() && !line.contains('\n'), "{line}");
        }
        assert_eq!(world.settings(), "# mine\nport = 4700 # chosen\n");
    });
}

#[test]
fn a_get_streams_progress_to_its_end() {
    block_on(async {
        let mut world = world().await;
        let client = world.get();
        let reports = world.fake.reports.clone();
        let node = async {
            let Some(Told::Get(job, inside, root, rename, merge, overwrite)) = world.told.recv().await else {
                panic!("a get")
            };
            assert_eq!(inside, [b"a", b"b"]);
            assert_eq!(
                (root.as_str(), rename, merge, overwrite),
                ("/tmp/out", Some(b"new".to_vec()), false, true)
            );
            let progress =
                GetProgress { bytes_done: 5, sources: vec![NodeId([3; 20])], ..Default::default() };
            reports.deliver(Report::Done(job, progress));
        };
        let ((code, body), ()) = tokio::join!(client, node);
        assert_eq!(code, 200);
        let last = lines(&Value::String(body)).pop().expect("lines");
        assert_eq!(last["done"]["bytes_done"], 5);
        assert_eq!(last["done"]["sources"][0], NodeId([3; 20]).to_string());
        assert!(world.told.try_recv().is_err(), "a finished job is not cancelled");
    });
}

#[test]
fn a_failed_get_ends_in_an_error_line() {
    block_on(async {
        let mut world = world().await;
        let reports = world.fake.reports.clone();
        let client = world.get();
        let node = async {
            let Some(Told::Get(job, ..)) = world.told.recv().await else { panic!("a get") };
            reports.deliver(Report::Failed(job, "no friend has it".into()));
        };
        let ((_, body), ()) = tokio::join!(client, node);
        assert_eq!(lines(&Value::String(body)).pop(), Some(json!({ "error": "no friend has it" })));
    });
}

#[test]
fn hanging_up_cancels_a_get_and_a_put() {
    block_on(async {
        let mut world = world().await;
        let mut stream = UnixStream::connect(world.socket()).await.expect("connected");
        let text = request("POST", "/v1/get", "tornet", &get_body().to_string());
        stream.write_all(text.as_bytes()).await.expect("written");
        let Some(Told::Get(job, ..)) = world.told.recv().await else { panic!("a get") };
        drop(stream);
        assert_eq!(world.told.recv().await, Some(Told::Cancel(job)));

        let mut stream = UnixStream::connect(world.socket()).await.expect("connected");
        let text =
            request("POST", "/v1/put", "tornet", &json!({ "paths": ["/etc/hosts", [47, 255]] }).to_string());
        stream.write_all(text.as_bytes()).await.expect("written");
        let Some(Told::Put(put)) = world.told.recv().await else { panic!("a put") };
        assert_eq!(put.paths[1].as_os_str().as_encoded_bytes(), [47, 255], "any name, not only UTF-8");
        drop(stream);
        assert_eq!(world.told.recv().await, Some(Told::PutDropped));
        let (_, status) = world.unix("GET", "/v1/status", &Value::Null).await;
        assert_eq!(status["jobs"].as_array().map(Vec::len), Some(1), "the put has left the table: {status}");
    });
}

#[test]
fn a_put_ends_with_its_reference_and_puts_are_bounded() {
    block_on(async {
        let mut world = world().await;
        let body = json!({ "paths": ["/etc/hosts"], "salt": true }).to_string();
        let text = request("POST", "/v1/put", "tornet", &body);
        let mut streams = Vec::new();
        for _ in 0..crate::limits::PUT_JOBS_MAX {
            let mut stream = UnixStream::connect(world.socket()).await.expect("connected");
            stream.write_all(text.as_bytes()).await.expect("written");
            let Some(Told::Put(put)) = world.told.recv().await else { panic!("a put") };
            assert!(put.salt && !put.skip_unreadable);
            streams.push(stream);
        }
        assert_eq!(world.unix("POST", "/v1/put", &json!({ "paths": ["/etc/hosts"] })).await.0, 429);
        let mut progress = lock(&world.fake.puts).pop().expect("the last one's");
        progress(PutEvent::Progress(PutProgress { bytes_done: 3, ..PutProgress::default() }));
        let stats = PutProgress { chunks_new: 2, ..PutProgress::default() };
        progress(PutEvent::Done { reference: "tornet:ref".into(), stats });
        let mut answer = String::new();
        streams.pop().expect("the last").read_to_string(&mut answer).await.expect("read");
        let last = lines(&Value::String(answer)).pop().expect("lines");
        assert_eq!(
            (last["done"]["reference"].as_str(), &last["done"]["chunks_new"]),
            (Some("tornet:ref"), &json!(2))
        );

        // An import that vanishes without a word is an error too.
        lock(&world.fake.puts).clear();
        let mut answer = String::new();
        streams.pop().expect("another").read_to_string(&mut answer).await.expect("read");
        let last = lines(&Value::String(answer)).pop().expect("lines");
        assert!(last["error"].as_str().is_some_and(|line| line.contains("unexpectedly")), "{last}");
    });
}

#[test]
fn friends_are_saved_and_told_to_the_node() {
    block_on(async {
        let mut world = world().await;
        // As if the operator edited the file while the daemon runs.
        std::fs::write(world.dir.path().join("tornet.toml"), "# by hand\nport = 4701\n").expect("written");
        let add = json!({ "invite": invitation(2), "trust": 80, "name": "bob" });
        let (code, answer) = world.unix("POST", "/v1/friends", &add).await;
        assert_eq!((code, &answer["new"]), (200, &json!(true)), "{answer}");
        assert_eq!(world.told.recv().await, Some(Told::Friends(1)));
        let text = world.settings();
        assert!(text.starts_with("# by hand\nport = 4701\n") && text.contains("name = \"bob\""), "{text}");

        let (_, answer) = world.unix("POST", "/v1/friends", &json!({ "invite": invitation(2) })).await;
        assert_eq!((&answer["new"], &answer["friend"]["trust"]), (&json!(false), &json!(80)), "kept");
        let (_, answer) = world.unix("GET", "/v1/friends", &Value::Null).await;
        assert_eq!(answer["friends"][0]["name"], "bob");
        let prefix = &identity(2).card().key.to_string()[..8];
        assert_eq!(world.unix("DELETE", &format!("/v1/friends/{prefix}"), &Value::Null).await.0, 200);
        assert_eq!(world.told.recv().await, Some(Told::Friends(1)));
        assert_eq!(world.told.recv().await, Some(Told::Friends(0)));
        assert!(!world.settings().contains("bob"));
    });
}

#[test]
fn settings_are_changed_together_or_not_at_all() {
    block_on(async {
        let world = world().await;
        let half = json!({ "api": "192.0.2.1:80", "port": 4800 });
        assert_eq!(world.unix("PATCH", "/v1/config", &half).await.0, 400);
        assert!(world.settings().contains("port = 4700 # chosen"));
        let whole = json!({ "api": "192.0.2.1:80", "api_public": true, "log": "debug", "port": 4800 });
        let (code, answer) = world.unix("PATCH", "/v1/config", &whole).await;
        assert_eq!(code, 200, "{answer}");
        assert_eq!(answer["restart_needed_for"], json!(["api", "api_public", "port"]));
        assert!(world.settings().contains("port = 4800 # chosen"), "{}", world.settings());
        let (_, answer) = world.unix("GET", "/v1/config", &Value::Null).await;
        let rows = answer["settings"].as_array().expect("rows");
        assert!(
            rows.iter().any(|row| row["key"] == "log" && row["value"] == "debug" && row["default"] == false)
        );
    });
}

#[test]
fn stopping_ends_jobs_with_a_word_and_the_server() {
    block_on(async {
        let mut world = world().await;
        let mut stream = UnixStream::connect(world.socket()).await.expect("connected");
        let text = request("POST", "/v1/get", "tornet", &get_body().to_string());
        stream.write_all(text.as_bytes()).await.expect("written");
        let Some(Told::Get(job, ..)) = world.told.recv().await else { panic!("a get") };
        world.api.stop();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("read");
        let last = lines(&Value::String(answer)).pop().expect("lines");
        assert!(last["error"].as_str().is_some_and(|line| line.contains("stopping")), "{last}");
        assert_eq!(world.told.recv().await, Some(Told::Cancel(job)));
        world.served.await.expect("served");
        world.api.shut_down().await.expect("told");
        assert_eq!(world.told.recv().await, Some(Told::Shutdown));
    });
}

#[test]
fn a_busy_node_is_an_answer() {
    block_on(async {
        let world = world().await;
        world.fake.busy.store(true, Ordering::Relaxed);
        let (code, answer) = world.unix("POST", "/v1/get", &get_body()).await;
        assert_eq!(code, 503);
        assert!(answer["error"].as_str().is_some_and(|line| line.contains("busy")));
    });
}

#[test]
fn a_dead_node_ends_its_jobs() {
    block_on(async {
        let mut world = world().await;
        let reports = world.fake.reports.clone();
        let client = world.get();
        let node = async {
            assert!(matches!(world.told.recv().await, Some(Told::Get(..))));
            reports.fatal("shard 0 ended: disk full");
        };
        let ((_, body), ()) = tokio::join!(client, node);
        assert_eq!(lines(&Value::String(body)).pop(), Some(json!({ "error": "shard 0 ended: disk full" })));
        assert_eq!(reports.failure().await, "shard 0 ended: disk full");
    });
}

#[test]
fn the_page_is_self_contained() {
    let page = include_str!("page.html");
    for outside in ["http://", "https://", "innerHTML", "src="] {
        assert!(!page.contains(outside), "{outside}");
    }
    assert!(page.contains("name=\"viewport\""));
}
