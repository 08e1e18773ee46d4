//! Content that is got through circuits: the provider sees the exit, and nobody learns who gets it.
//!
//! ```text
//! o ─┬─ r1 ─┐              n: a node of the network, by which all enter it
//!    ├─ r2 ─┼─ x ─┬─ w     w: the provider, which o has no way to
//!    ├─ r3 ─┘     │  │
//!    └─ n ────────┴──┘
//! ```

use std::collections::BTreeMap;
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};
use serde_json::Value;

use super::{Case, Scene, counter};
use crate::lab::node::{PATIENT, PROMPT, text};
use crate::lab::{Host, Lab, Node, files};
use crate::stop;

pub const CASES: &[Case] = &[Case {
    name: "anonymous-get",
    about: "a get over three hops: the provider sees the exit's address and a key that nobody has",
    run,
}];

const MORE: &str = "hosts n\nveth n-o\nveth n-x\nveth n-w\n";
const BYTES: u64 = 5 << 20;
/// How long the network may take to know of what was put.
const ANNOUNCED: Duration = Duration::from_secs(60);

/// Who sends to a host, by the addresses of the packets that come to it.
struct Visitors(Arc<Mutex<BTreeMap<Ipv4Addr, u64>>>);

impl Visitors {
    fn of(host: &Host) -> Result<Visitors> {
        let tap = host.within(|| {
            Ok(socket(
                AddressFamily::Packet,
                SockType::Datagram,
                SockFlag::SOCK_CLOEXEC,
                SockProtocol::EthAll,
            )?)
        })?;
        let seen = Visitors(Arc::default());
        let bytes_from = seen.0.clone();
        std::thread::spawn(move || {
            let (mut file, mut bytes) = (std::fs::File::from(tap), vec![0; 1 << 16]);
            while let Ok(len) = file.read(&mut bytes) {
                // Without the link's header: IPv4 begins with its version and the length of its header.
                if len >= 20 && bytes[0] >> 4 == 4 {
                    let from = Ipv4Addr::new(bytes[12], bytes[13], bytes[14], bytes[15]);
                    let mut all = bytes_from.lock().unwrap_or_else(PoisonError::into_inner);
                    *all.entry(from).or_default() += len as u64;
                }
            }
        });
        Ok(seen)
    }

    fn all(&self) -> BTreeMap<Ipv4Addr, u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The scene, the provider's node, and the one in the midst of the network.
pub(super) struct Hidden {
    pub(super) scene: Scene,
    pub(super) provider: Node,
    pub(super) middle: Node,
}

impl Hidden {
    pub(super) fn new(binary: &Path) -> Result<Hidden> {
        let scene = Scene::with(binary, 1, MORE)?;
        let begin = |host: usize, entry: Option<&Node>| -> Result<Node> {
            let host = &scene.lab.hosts()[host];
            let mut node =
                Node::new(&scene.lab, host, &host.name, binary, 4001, scene.lab.dir().join(&host.name));
            node.init()?;
            if let Some(entry) = entry {
                node.run(&["config", "set", "overlay.bootstrap", &entry.invite()?], PROMPT)?;
            }
            node.start()?;
            Ok(node)
        };
        let middle = begin(6, None)?;
        let provider = begin(5, Some(&middle))?;
        let invite = middle.invite()?;
        scene.origin().run(&["config", "set", "overlay.bootstrap", &invite], PROMPT)?;
        let known = stop::until(PROMPT, || {
            Ok(scene.origin().status()?["overlay"]["contacts"].as_u64() > Some(0)
                && middle.status()?["overlay"]["contacts"].as_u64() > Some(1))
        })?;
        ensure!(known, "o does not meet n: {}", scene.origin().status()?["overlay"]);
        Ok(Hidden { scene, provider, middle })
    }

    /// Everybody that a node had a session with, and where it was seen.
    pub(super) fn met(node: &Node) -> Result<Vec<(String, String)>> {
        let peers = node.status()?["peers"].clone();
        let one = |peer: &Value| {
            let field = |name: &str| peer[name].as_str().unwrap_or_default().to_owned();
            (field("key"), field("address"))
        };
        Ok(peers.as_array().context("no peers in status")?.iter().map(one).collect())
    }
}

/// Whether an address is one of a host's.
pub(super) fn at(address: &str, of: IpAddr) -> bool {
    address.starts_with(&format!("{of}:"))
}

fn run(_: &mut Lab, binary: &Path) -> Result<()> {
    let hidden = Hidden::new(binary)?;
    let Hidden { scene, provider, middle } = &hidden;
    let (input, out) = (scene.lab.dir().join("input"), scene.lab.dir().join("out"));
    files::random(&input, BYTES)?;
    let wanted = files::sha256(&input)?;
    let (_, reference) = provider.put(&input)?;
    let mut last = Value::Null;
    let announced = stop::until(ANNOUNCED, || {
        last = provider.status()?["overlay"].clone();
        Ok(last["chunks_provided"].as_u64() > Some(0) && last["chunks_announced"] == last["chunks_provided"])
    })?;
    ensure!(announced, "not announced: {last}");

    // No exit yet, and then one that lets other things out: each is said in one line.
    let words = ["get", &reference, "--hops", "3", "-o", text(&out)?];
    let refused = scene.origin().attempt(&words, PATIENT)?;
    ensure!(!refused.status.success() && refused.stderr.contains("exit.allow"), "{}", refused.stderr);
    scene.open(&format!("{}/32 80", scene.web))?;
    let mut said = String::new();
    let silent = stop::until(PATIENT, || {
        said = scene.origin().attempt(&words, PATIENT)?.stderr;
        Ok(said.contains("lets nothing out to the network"))
    })?;
    ensure!(silent && said.contains("--exit NODE"), "{said}");

    scene.open("10.77.0.0/16")?;
    let origin: IpAddr = scene.lab.hosts()[0].address.into();
    let asked = counter(scene.origin(), "overlay_lookups")?;
    let visitors = Visitors::of(&scene.lab.hosts()[5])?;
    let done = stop::until(PATIENT, || {
        let done = scene.origin().attempt(&words, PATIENT)?;
        said = done.stderr;
        Ok(done.status.success())
    })?;
    ensure!(done, "no get: {said}");
    ensure!(files::sha256(&out)? == wanted, "the file differs");

    // Whom the provider met: nobody at the origin's address, nobody of its name; somebody at the exit's.
    let key = scene.origin().status()?["key"].as_str().context("no key")?.to_owned();
    let exit = scene.lab.hosts()[4].address;
    for (node, name) in [(provider, "w"), (middle, "n")] {
        let met = Hidden::met(node)?;
        let by_name = met.iter().any(|(one, _)| *one == key);
        let by_address = met.iter().any(|(one, address)| at(address, origin) && *one != key);
        // n knows o as one of the network; never under another name.
        ensure!(!by_address && (name == "n" || !by_name), "{name} met {met:?}");
    }
    ensure!(counter(provider, "serve_strangers")? > 0, "somebody else gave it");
    ensure!(counter(scene.origin(), "overlay_lookups")? == asked, "it was looked up by the origin's name");
    ensure!(counter(scene.exit(), "exit_out_packets")? > 20, "the exit let nothing out");
    let seen = visitors.all();
    println!("        the provider was sent bytes by {seen:?}; the exit is {exit}, the origin {origin}");
    ensure!(seen.keys().all(|from| IpAddr::from(*from) != origin), "the provider saw the origin: {seen:?}");
    ensure!(seen.get(&exit).is_some_and(|bytes| *bytes > 5_000), "not by the exit: {seen:?}");
    let status = scene.origin().status()?;
    ensure!(status["jobs"].as_array().is_some_and(Vec::is_empty), "{}", status["jobs"]);
    Ok(())
}
