//! Circuits between real daemons: an application that knows nothing of them reaches a server through relays and an exit.
//!
//! ```text
//! o ─┬─ r1 ─┐     o: the origin      w: a web server, which only the exit reaches
//!    ├─ r2 ─┼─ x ─ w
//!    └─ r3 ─┘     each r is a friend of o, of x and of the other two
//! ```

mod asking;
pub mod beside;
pub mod giving;
pub mod hidden;
pub mod multipath;
mod proxying;
pub mod socks;
pub mod walls;

use std::io::{Read, Write};
use std::net::IpAddr;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};
use serde_json::Value;

use super::{Case, one_line};
use crate::lab::{Description, Host, Lab, Node, Process, node, scratch};
use crate::stop;

pub const CASES: &[Case] = &[
    Case {
        name: "onion",
        about: "curl through three hops, nothing readable on the way; `down` and kill -9 leave nothing",
        run,
    },
    Case { name: "onion-shards", about: "the same with nodes of two shards each", run: shards },
    Case {
        name: "onion-relay-dies",
        about: "a relay is killed in a download: it goes on within 3 s, in the same TCP connection",
        run: relay_dies,
    },
    Case {
        name: "onion-exit-rules",
        about: "an exit lets out what its operator named and nothing else",
        run: exit_rules,
    },
    Case {
        name: "onion-errors",
        about: "a circuit that cannot be is refused in one line and changes nothing",
        run: errors,
    },
];

const HOSTS: &str = "hosts o r1 r2 r3 x w\n\
                     veth o-r1\nveth o-r2\nveth o-r3\n\
                     veth r1-r2\nveth r1-r3\nveth r2-r3\n\
                     veth r1-x\nveth r2-x\nveth r3-x\n\
                     veth x-w\n";
const WEB: u16 = 8080;
/// Every line that the server sends, of 31 bytes: whole ones in each part.
const MARKER: &str = "plaintext-that-nobody-shall-see";

/// The hosts, and their nodes: o, r1, r2, r3, x.
pub struct Scene {
    pub nodes: Vec<Node>,
    pub lab: Lab,
    /// The web server's address.
    pub web: String,
}

impl Scene {
    /// All of them running, the friends connected.
    pub fn new(binary: &Path, shards: u8) -> Result<Scene> {
        Scene::with(binary, shards, "")
    }

    /// The same with more hosts, which have no nodes.
    fn with(binary: &Path, shards: u8, more: &str) -> Result<Scene> {
        let lab = Lab::described(Description::parse(&[HOSTS, more].concat())?, &scratch())?;
        let web = lab.hosts()[5].address.to_string();
        let mut nodes = Vec::new();
        for host in &lab.hosts()[..5] {
            let mut node = Node::new(&lab, host, &host.name, binary, 4001, lab.dir().join(&host.name));
            node.init()?;
            node.run(&["config", "set", "shards.count", &shards.to_string()], node::PROMPT)?;
            node.start()?;
            nodes.push(node);
        }
        let pairs = [[0, 1], [0, 2], [0, 3], [1, 2], [1, 3], [2, 3], [1, 4], [2, 4], [3, 4]];
        for [a, b] in pairs {
            nodes[a].befriend(&nodes[b])?;
            nodes[b].befriend(&nodes[a])?;
        }
        for [a, b] in pairs {
            nodes[a].meets(&nodes[b])?;
        }
        Ok(Scene { nodes, lab, web })
    }

    fn origin(&self) -> &Node {
        &self.nodes[0]
    }

    fn exit(&self) -> &Node {
        &self.nodes[4]
    }

    /// Has the exit let out what the rules say.
    pub fn open(&self, rules: &str) -> Result<()> {
        self.exit().run(&["config", "set", "exit.allow", rules], node::PROMPT).map(drop)
    }

    /// Brings the circuit up: what the origin's friends said of the exit may be on its way.
    pub fn up(&self, hops: &str) -> Result<()> {
        self.up_with(hops, &[]).map(drop)
    }

    /// The same with more words; what the command said beside.
    fn up_with(&self, hops: &str, more: &[&str]) -> Result<String> {
        let mut last = String::new();
        let words = [&["tunnel", "up", "--hops", hops], more].concat();
        let up = stop::until(node::PROMPT, || {
            let done = self.origin().attempt(&words, node::PATIENT)?;
            last = done.stderr;
            Ok(done.status.success())
        })?;
        ensure!(up, "no circuit of {hops} hops: {last}");
        Ok(last)
    }

    fn url(&self) -> String {
        format!("http://{}:{WEB}/", self.web)
    }

    /// curl at the origin; its output is what the server sent.
    pub fn curl(&self, more: &[&str], limit: Duration) -> Result<crate::lab::Finished> {
        self.curl_at(&self.url(), more, limit)
    }

    fn curl_at(&self, url: &str, more: &[&str], limit: Duration) -> Result<crate::lab::Finished> {
        let mut command = self.origin().host.command("curl");
        command.args(["--silent", "--show-error", "--max-time", "60", url]).args(more);
        Process::finish("curl", self.lab.dir(), &mut command, limit)
    }

    /// The node of the relay in the middle of the circuit, by its key: the first is a friend, and so are all here.
    fn middle(&self) -> Result<usize> {
        let path = self.listed()?["circuit"]["path"].clone();
        let middle = path[1].as_str().context("no path in tunnel list --json")?.to_owned();
        let is = |n: &usize| {
            let status = self.nodes[*n].status().unwrap_or_default();
            ["key", "node_id"]
                .iter()
                .any(|key| status[*key].as_str().is_some_and(|text| middle.contains(text)))
        };
        (1..4).find(is).with_context(|| format!("{middle} is none of the relays"))
    }

    fn listed(&self) -> Result<Value> {
        let listed = self.origin().run(&["tunnel", "list", "--json"], node::PROMPT)?.stdout;
        serde_json::from_str(&listed).context("tunnel list --json")
    }
}

/// Serves lines with the marker to everybody who asks: `bytes` of them, `pause` after each 16 KiB.
pub fn serve(host: &Host, bytes: u64, pause: Duration) -> Result<()> {
    serve_at(host, host.address.into(), bytes, pause)
}

/// The same at another address of the host's.
fn serve_at(host: &Host, address: IpAddr, bytes: u64, pause: Duration) -> Result<()> {
    serve_on(host, address, WEB, bytes, pause)
}

/// The same at another port.
fn serve_on(host: &Host, address: IpAddr, port: u16, bytes: u64, pause: Duration) -> Result<()> {
    host.answer_at((address, port), move |mut stream| {
        let _ = stream.read(&mut [0; 4096]);
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {bytes}\r\nConnection: close\r\n\r\n");
        let text = format!("{MARKER}\n").repeat(600);
        let (mut left, mut sent) = (bytes as usize, stream.write_all(head.as_bytes()));
        while left > 0 && sent.is_ok() {
            let part = left.min(16 << 10);
            sent = stream.write_all(&text.as_bytes()[..part]);
            left -= part;
            std::thread::sleep(pause);
        }
    })
}

/// Looks at every packet of a host's devices until it is asked.
struct Tap {
    packets: Arc<AtomicU64>,
    readable: Arc<AtomicBool>,
}

impl Tap {
    fn start(host: &Host) -> Result<Tap> {
        let tap = host.within(|| {
            Ok(socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::EthAll)?)
        })?;
        let (packets, readable) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (count, found) = (packets.clone(), readable.clone());
        std::thread::spawn(move || {
            let mut file = std::fs::File::from(tap);
            let mut bytes = vec![0; 1 << 16];
            while let Ok(len) = file.read(&mut bytes) {
                count.fetch_add(1, Ordering::Relaxed);
                if bytes[..len].windows(MARKER.len()).any(|window| window == MARKER.as_bytes()) {
                    found.store(true, Ordering::Relaxed);
                }
            }
        });
        Ok(Tap { packets, readable })
    }

    fn read_nothing(&self, host: &str) -> Result<()> {
        let packets = self.packets.load(Ordering::Relaxed);
        ensure!(packets > 50, "{host}: only {packets} packets passed");
        ensure!(!self.readable.load(Ordering::Relaxed), "{host}: the text can be read on the way");
        Ok(())
    }
}

fn counter(node: &Node, name: &str) -> Result<u64> {
    node.status()?["counters"][name].as_u64().with_context(|| format!("status --json has no counter {name}"))
}

/// Nothing is left of a circuit or an exit.
fn assert_clean(lab: &Lab, host: &Host) -> Result<()> {
    for words in [
        &["ip", "-o", "link"][..],
        &["ip", "rule"],
        &["ip", "route", "show", "table", "all"],
        &["nft", "list", "tables"],
    ] {
        let mut command = host.command(words[0]);
        command.args(&words[1..]);
        let shown = Process::finish("look", lab.dir(), &mut command, node::PROMPT)?.stdout;
        ensure!(
            !["tornet0", "tornet_", "10.116.", "10.117."].iter().any(|ours| shown.contains(ours)),
            "{}: left:\n{shown}",
            words.join(" ")
        );
    }
    Ok(())
}

fn run(_: &mut Lab, binary: &Path) -> Result<()> {
    through(binary, 1)
}

fn shards(_: &mut Lab, binary: &Path) -> Result<()> {
    through(binary, 2)
}

fn through(binary: &Path, shards: u8) -> Result<()> {
    let mut scene = Scene::new(binary, shards)?;
    let bytes = 3_000_000;
    serve(&scene.lab.hosts()[5], bytes, Duration::ZERO)?;
    ensure!(!scene.curl(&["--max-time", "2"], node::PROMPT)?.status.success(), "the server is no secret");
    scene.open(&format!("{}/32 {WEB}", scene.web))?;
    // Between the origin and the exit: the device's own packets are the origin's business.
    let taps = [1, 2, 3].map(|n| Tap::start(&scene.lab.hosts()[n]));
    for hops in ["3", "2", "3"] {
        scene.up(hops)?;
        let got = scene.curl(&[], node::PATIENT)?;
        ensure!(got.status.success(), "{hops} hops: {}", got.stderr);
        ensure!(got.stdout.len() as u64 == bytes, "{hops} hops: {} of {bytes} bytes", got.stdout.len());
        ensure!(got.stdout.lines().all(|line| MARKER.starts_with(line)), "{hops} hops: altered");
        let circuit = &scene.listed()?["circuit"];
        ensure!(
            circuit["open"] == true
                && circuit["path"].as_array().is_some_and(|p| p.len().to_string() == hops),
            "{circuit}"
        );
    }
    for (tap, name) in taps.into_iter().zip(["r1", "r2", "r3"]) {
        let tap = tap?;
        if counter(&scene.nodes[usize::from(name.as_bytes()[1] - b'0')], "circuit_cells_backward")? > 50 {
            tap.read_nothing(name)?;
        }
    }
    ensure!(counter(scene.exit(), "exit_back_packets")? > 0, "{}", scene.exit().status()?["counters"]);
    ensure!(counter(scene.exit(), "tun_write_refused")? == 0, "the kernel refused what the exit wrote");
    // The origin never met who lets it out.
    let exit = scene.exit().status()?["key"].clone();
    let peers = scene.origin().status()?["peers"].clone();
    ensure!(peers.as_array().is_some_and(|peers| peers.iter().all(|peer| peer["key"] != exit)), "{peers}");

    // The daemon dies: nothing goes another way, and the circuit comes back with it.
    scene.nodes[0].kill();
    ensure!(!scene.curl(&["--max-time", "2"], node::PROMPT)?.status.success(), "around the dead daemon");
    scene.nodes[0].start()?;
    let back =
        stop::until(node::PROMPT, || Ok(scene.curl(&["--max-time", "3"], node::PROMPT)?.status.success()))?;
    ensure!(back, "the circuit did not come back: {}", scene.listed()?);
    scene.origin().run(&["tunnel", "down"], node::PROMPT)?;
    assert_clean(&scene.lab, &scene.lab.hosts()[0])?;
    ensure!(scene.listed()?["circuit"].is_null(), "{}", scene.listed()?);
    scene.nodes[4].stop(Signal::SIGTERM)?;
    assert_clean(&scene.lab, &scene.lab.hosts()[4])
}

/// Kills the middle one of the circuit's relays while a command downloads `bytes` into a file, which it must do all the same. Says which
/// node that was, and for how long nothing came.
fn outlives_middle(
    scene: &mut Scene,
    command: &mut Command,
    to: &Path,
    bytes: u64,
) -> Result<(usize, Duration)> {
    let mut curl = Process::start("curl-slow", scene.lab.dir(), command)?;
    let size = || std::fs::metadata(to).map_or(0, |file| file.len());
    ensure!(stop::until(node::PROMPT, || Ok(size() > 1 << 20))?, "nothing comes: {}", curl.stderr());
    let victim = scene.middle()?;
    scene.nodes[victim].kill();
    let (mut last, mut since, mut longest) = (size(), Instant::now(), Duration::ZERO);
    let done = stop::until(node::PATIENT, || {
        let now = size();
        if now != last {
            (last, since) = (now, Instant::now());
        }
        longest = longest.max(since.elapsed());
        curl.ended()
    })?;
    ensure!(done && curl.wait(node::PROMPT)?.success(), "the download ended: {}", curl.stderr());
    ensure!(size() == bytes, "{} of {bytes} bytes", size());
    ensure!(counter(scene.origin(), "circuit_silent")? >= 1, "the relay was not in the path");
    println!("        nothing came for {} ms", longest.as_millis());
    Ok((victim, longest))
}

fn relay_dies(_: &mut Lab, binary: &Path) -> Result<()> {
    let mut scene = Scene::new(binary, 1)?;
    let bytes = 12_000_000;
    serve(&scene.lab.hosts()[5], bytes, Duration::from_millis(8))?;
    scene.open(&format!("{}/32", scene.web))?;
    scene.up("3")?;
    let to = scene.lab.dir().join("got");
    let mut command = scene.origin().host.command("curl");
    command.args(["--silent", "--show-error", "--max-time", "60", &scene.url(), "-o"]).arg(&to);
    let (_, longest) = outlives_middle(&mut scene, &mut command, &to, bytes)?;
    ensure!(longest < Duration::from_secs(3), "nothing came for {longest:?}");
    Ok(())
}

fn exit_rules(_: &mut Lab, binary: &Path) -> Result<()> {
    let mut scene = Scene::new(binary, 1)?;
    serve(&scene.lab.hosts()[5], 1000, Duration::ZERO)?;
    // The exit's own host serves, too.
    serve(&scene.lab.hosts()[4], 1000, Duration::ZERO)?;
    scene.open(&format!("{}/32 {WEB}", scene.web))?;
    scene.up("3")?;
    let reaches = |scene: &Scene| {
        Ok::<bool, anyhow::Error>(scene.curl(&["--max-time", "4"], node::PROMPT)?.status.success())
    };
    ensure!(reaches(&scene)?, "what is named");
    let own = format!("http://{}:{WEB}/", scene.lab.hosts()[4].address);
    // Others wait for what is not let out no longer than for an answer.
    let began = Instant::now();
    let mut command = scene.origin().host.command("curl");
    command.args(["--silent", "--max-time", "10", &own]);
    let refused = Process::finish("curl", scene.lab.dir(), &mut command, node::PROMPT)?;
    ensure!(
        !refused.status.success() && began.elapsed() < Duration::from_secs(5),
        "a refusal is said at once"
    );
    ensure!(counter(scene.exit(), "exit_refused")? > 0, "{}", scene.exit().status()?["counters"]);
    // Another port; everything but local networks; the exit's own address by name; no exit at all.
    for (rules, may) in [
        (format!("{}/32 {}", scene.web, WEB + 1), false),
        ("0.0.0.0/0".to_owned(), false),
        ("10.77.0.0/16 80-9000".to_owned(), true),
    ] {
        scene.open(&rules)?;
        ensure!(reaches(&scene)? == may, "{rules}");
    }
    let mut command = scene.origin().host.command("curl");
    command.args(["--silent", "--max-time", "3", &own]);
    let refused = Process::finish("curl", scene.lab.dir(), &mut command, node::PROMPT)?;
    ensure!(!refused.status.success(), "an exit's own host is never reached");
    scene.open("")?;
    ensure!(!reaches(&scene)?, "a closed exit");
    assert_clean(&scene.lab, &scene.lab.hosts()[4])?;
    // Killed, it leaves no way open, and the next start tidies up.
    scene.open(&format!("{}/32", scene.web))?;
    let back = stop::until(node::PATIENT, || reaches(&scene))?;
    ensure!(back, "an exit that opened again is not found: {}", scene.listed()?);
    scene.nodes[4].kill();
    scene.exit().run(&["config", "set", "exit.allow", ""], node::PROMPT)?;
    scene.nodes[4].start()?;
    assert_clean(&scene.lab, &scene.lab.hosts()[4])
}

fn errors(_: &mut Lab, binary: &Path) -> Result<()> {
    let scene = Scene::new(binary, 1)?;
    let fails = |words: &[&str], hint: &str| -> Result<()> {
        // What friends say of themselves and of the exit may be on its way.
        let mut line = String::new();
        let said = stop::until(node::PROMPT, || {
            line =
                one_line(&scene.origin().attempt(words, node::PATIENT)?).with_context(|| words.join(" "))?;
            Ok(line.contains(hint))
        })?;
        ensure!(said, "{}: {line}", words.join(" "));
        ensure!(scene.listed()?["circuit"].is_null(), "what failed is remembered");
        assert_clean(&scene.lab, &scene.lab.hosts()[0])
    };
    fails(&["tunnel", "up", "--hops", "3"], "exit.allow")?;
    scene.open(&format!("{}/32", scene.web))?;
    fails(&["tunnel", "up", "--hops", "5"], "fewer hops")?;
    fails(&["tunnel", "up", "--hops", "3", "--exit", "nobody"], "nobody")?;
    fails(&["tunnel", "up", "--hops", "3", "--route", "10.0.0.0/33"], "onion.routes")?;
    // Who is an exit has no circuit of its own.
    let done = scene.exit().attempt(&["tunnel", "up", "--hops", "2"], node::PATIENT)?;
    ensure!(one_line(&done)?.contains("exit"), "{}", done.stderr);
    Ok(())
}
