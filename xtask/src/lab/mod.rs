//! A laboratory: hosts (network namespaces joined by links, or just loopback), their processes and
//! a folder, all of which disappear when it is dropped, also on Ctrl-C and on panic.
//!
//! Each host has one address, 10.77.0.N, on all of its devices, and each device a route to the one host at its
//! other end; nothing is forwarded, so that only hosts with a link between them reach each other.
//!
//! Names carry our process id (`tornet-lab-PID-0-a`), so that a run killed with -9 leaves something that
//! the next run recognizes as nobody's and removes; it removes nothing else.

pub mod check;
mod command;
pub mod description;
pub mod emulator;
pub mod files;
pub mod node;
pub mod process;
mod stale;

use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, ensure};

pub use command::command;
pub use description::Description;
pub use node::Node;
pub use process::{Finished, Process};
pub use stale::{clean, remove_namespace};

use crate::able::{self, NAMESPACES};
use crate::{sh, stop};
use description::Kind;
use emulator::{Emulator, End, Stats};

const PREFIX: &str = "tornet-lab-";
/// Labs of this process so far.
static LABS: AtomicU32 = AtomicU32::new(0);

/// How the hosts are told apart and joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wiring {
    /// One network namespace each, joined by links. Needs root.
    Namespaces,
    /// Two, both on loopback; they differ by port only.
    Loopback,
}

/// Hosts and a folder.
pub struct Lab {
    /// Where and how.
    pub wiring: Wiring,
    description: Description,
    hosts: Vec<Host>,
    emulator: Option<Emulator>,
    dir: PathBuf,
    mounts: Vec<PathBuf>,
}

/// One of the hosts.
#[derive(Debug, Clone)]
pub struct Host {
    /// What the description calls it.
    pub name: String,
    /// Its address.
    pub address: Ipv4Addr,
    namespace: Option<String>,
    /// Its devices, one per link.
    devices: Vec<String>,
}

/// An emulated link, to be changed while the lab runs.
pub struct LinkOf<'a> {
    emulator: &'a Emulator,
    from: &'a str,
    to: &'a str,
}

impl LinkOf<'_> {
    /// Changes both directions: `loss=5%`, `down`; what the text does not name stays.
    pub fn set(&self, text: &str) -> Result<()> {
        self.emulator.say(&format!("{}-{} {text}", self.from, self.to)).map(drop)
    }

    /// Changes one direction.
    pub fn set_one_way(&self, text: &str) -> Result<()> {
        self.emulator.say(&format!("{}>{} {text}", self.from, self.to)).map(drop)
    }

    /// What was counted in this direction so far.
    pub fn stats(&self) -> Result<Stats> {
        self.emulator.stats(self.from, self.to)
    }
}

impl Lab {
    /// Makes two joined hosts, and a folder under `scratch`.
    pub fn new(wiring: Wiring, scratch: &Path) -> Result<Lab> {
        Lab::make(wiring, Description::two(), scratch)
    }

    /// Makes what is described, in namespaces; nodes are the caller's to start.
    pub fn described(description: Description, scratch: &Path) -> Result<Lab> {
        Lab::make(Wiring::Namespaces, description, scratch)
    }

    /// Namespaces as root, else loopback, in the project's target folder.
    pub fn here() -> Result<Lab> {
        let wiring = match able::skip(&[NAMESPACES])? {
            None => Wiring::Namespaces,
            Some(why) => {
                println!("both on this machine's loopback: {why}");
                Wiring::Loopback
            }
        };
        Lab::new(wiring, &scratch())
    }

    fn make(wiring: Wiring, description: Description, scratch: &Path) -> Result<Lab> {
        stop::listen();
        clean()?;
        if description.links.iter().any(|link| link.kind == Kind::Emulated) {
            // It may take minutes: not while there is something to tear down.
            emulator::build()?;
        }
        let own = format!("{PREFIX}{}-{}", std::process::id(), LABS.fetch_add(1, Ordering::Relaxed));
        let host = |(number, name): (usize, &String)| match wiring {
            Wiring::Namespaces => Host {
                name: name.clone(),
                address: Ipv4Addr::new(10, 77, 0, number as u8 + 1),
                namespace: Some(format!("{own}-{name}")),
                devices: Vec::new(),
            },
            Wiring::Loopback => {
                let devices = vec!["lo".to_string()];
                Host { name: name.clone(), address: Ipv4Addr::LOCALHOST, namespace: None, devices }
            }
        };
        let hosts = description.hosts.iter().enumerate().map(host).collect();
        let dir = scratch.join(&own);
        // From here on drop tears down whatever part of it exists.
        let mut lab = Lab { wiring, description, hosts, emulator: None, dir, mounts: Vec::new() };
        let mut builder = std::fs::DirBuilder::new();
        builder.recursive(true).mode(0o700);
        builder.create(&lab.dir).with_context(|| lab.dir.display().to_string())?;
        stale::remember(scratch)?;
        if wiring == Wiring::Namespaces {
            lab.make_hosts()?;
            lab.wire()?;
        }
        Ok(lab)
    }

    fn make_hosts(&self) -> Result<()> {
        able::ensure(&[NAMESPACES])?;
        for host in &self.hosts {
            ip(&["netns", "add", host.namespace()])?;
            ip(&["-n", host.namespace(), "link", "set", "lo", "up"])?;
        }
        Ok(())
    }

    /// Makes all links, and gives their devices addresses.
    fn wire(&mut self) -> Result<()> {
        let mut emulated = Vec::new();
        for link in &self.description.links {
            let [a, b] = link.ends.map(|end| &self.hosts[end]);
            match link.kind {
                Kind::Veth => {
                    let pair = ["type", "veth", "peer", "name", &b.device_to(a), "netns", b.namespace()];
                    ip(&[&["link", "add", "name", &a.device_to(b), "netns", a.namespace()], &pair[..]]
                        .concat())?;
                }
                Kind::Emulated => emulated.push([(a, a.device_to(b)), (b, b.device_to(a))]),
            }
        }
        if !emulated.is_empty() {
            let ends: Vec<[End; 2]> = emulated.iter().map(|ends| ends.each_ref().map(End::new)).collect();
            let emulator = Emulator::start(&self.dir, &ends)?;
            for (number, line) in &self.description.control {
                emulator.say(line).with_context(|| format!("line {number}: {line}"))?;
            }
            self.emulator = Some(emulator);
        }
        for link in &self.description.links {
            for [own, peer] in [link.ends, [link.ends[1], link.ends[0]]] {
                let peer = self.hosts[peer].clone();
                let own = &mut self.hosts[own];
                let device = own.device_to(&peer);
                let (address, beyond) = (own.address.to_string(), peer.address.to_string());
                ip(&["-n", own.namespace(), "address", "add", &address, "peer", &beyond, "dev", &device])?;
                ip(&["-n", own.namespace(), "link", "set", &device, "up"])?;
                own.devices.push(device);
            }
        }
        Ok(())
    }

    /// Puts the emulator in the place of all links: from here on they delay, lose and so on as `text` says.
    pub fn emulate(&mut self, text: &str) -> Result<()> {
        self.unplug()?;
        self.emulator = None;
        self.description.control.clear();
        for link in &mut self.description.links {
            link.kind = Kind::Emulated;
            let [a, b] = link.ends.map(|end| &self.description.hosts[end]);
            self.description.control.push((1, format!("{a}-{b} {text}")));
        }
        self.wire()
    }

    /// Takes all links away, as if their devices were pulled out of the hosts: addresses and routes go with them.
    pub fn unplug(&mut self) -> Result<()> {
        ensure!(self.wiring == Wiring::Namespaces, "only links between namespaces can be changed");
        for host in &mut self.hosts {
            for device in std::mem::take(&mut host.devices) {
                // The other end of a veth pair goes with it, so that this may come too late.
                let _ = ip(&["-n", host.namespace(), "link", "delete", &device]);
            }
        }
        Ok(())
    }

    /// Puts links back that [`Self::unplug`] took away: new devices, the same names and addresses.
    pub fn plug(&mut self) -> Result<()> {
        self.wire()
    }

    /// The MTU of veth links, at both ends, bytes.
    pub fn mtu(&self, bytes: u32) -> Result<()> {
        for (host, device) in self.veth_devices()? {
            ip(&["-n", host.namespace(), "link", "set", device, "mtu", &bytes.to_string()])?;
        }
        Ok(())
    }

    /// The emulated link between two hosts, by name.
    pub fn link<'a>(&'a self, from: &'a str, to: &'a str) -> Result<LinkOf<'a>> {
        let emulator = self.emulator()?;
        let ends = [self.description.host(from)?, self.description.host(to)?];
        let link = self.description.link_between(ends);
        ensure!(link.is_some_and(|link| link.kind == Kind::Emulated), "no emulated link {from}-{to}");
        Ok(LinkOf { emulator, from, to })
    }

    /// The emulator of this lab's links.
    pub fn emulator(&self) -> Result<&Emulator> {
        self.emulator.as_ref().context("this lab has no emulated link")
    }

    /// The first host.
    pub fn a(&self) -> &Host {
        &self.hosts[0]
    }

    /// The second host.
    pub fn b(&self) -> &Host {
        &self.hosts[1]
    }

    /// All of them.
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// What it was made from.
    pub fn description(&self) -> &Description {
        &self.description
    }

    /// The lab's folder; mode 0700, gone with the lab.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A new, empty folder in it.
    pub fn make_dir(&self, name: &str) -> Result<PathBuf> {
        let path = self.dir.join(name);
        std::fs::create_dir(&path).with_context(|| path.display().to_string())?;
        Ok(path)
    }

    /// A new folder in it that holds `bytes` at most: a disk that can be filled. Needs root.
    pub fn make_disk(&mut self, name: &str, bytes: u64) -> Result<PathBuf> {
        let path = self.make_dir(name)?;
        let size = format!("size={bytes},mode=0700");
        sh::read(
            std::process::Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tornet-lab"]).arg(&path),
        )?;
        self.mounts.push(path.clone());
        Ok(path)
    }

    /// Makes veth links slow in both directions; `rate` as in tc.
    pub fn limit(&self, rate: &str) -> Result<()> {
        for (host, device) in self.veth_devices()? {
            let tbf = ["root", "tbf", "rate", rate, "burst", "256k", "latency", "30ms"];
            let line = [&["-n", host.namespace(), "qdisc", "replace", "dev", device], &tbf[..]].concat();
            sh::words("tc", &line)?;
        }
        Ok(())
    }

    /// Takes the limit off.
    pub fn unlimit(&self) -> Result<()> {
        for (host, device) in self.veth_devices()? {
            sh::words("tc", &["-n", host.namespace(), "qdisc", "delete", "dev", device, "root"])?;
        }
        Ok(())
    }

    /// Segmentation and merging by veth devices, on or off, at both ends: off is what a path without a
    /// capable card costs.
    pub fn offloads(&self, on: bool) -> Result<()> {
        let state = if on { "on" } else { "off" };
        for (host, device) in self.veth_devices()? {
            let words = ["-K", device, "tso", state, "gso", state, "tx-udp-segmentation", state];
            sh::read(host.command("ethtool").args(words))?;
        }
        Ok(())
    }

    /// Gives a host another address, which its neighbours know the way to, and takes away the one that it had.
    pub fn readdress(&self, host: &Host, address: &str) -> Result<()> {
        for link in &self.description.links {
            for [own, peer] in [link.ends, [link.ends[1], link.ends[0]]] {
                let (own, peer) = (&self.hosts[own], &self.hosts[peer]);
                if own.name != host.name {
                    continue;
                }
                let (device, beyond, old) =
                    (own.device_to(peer), peer.address.to_string(), own.address.to_string());
                ip(&["-n", peer.namespace(), "route", "add", address, "dev", &peer.device_to(own)])?;
                // In this order: the second address of a network goes with the first.
                for (act, address) in [("del", &*old), ("add", address)] {
                    ip(&["-n", own.namespace(), "address", act, address, "peer", &beyond, "dev", &device])?;
                }
            }
        }
        Ok(())
    }

    /// The hosts' devices, where the kernel alone makes the links.
    fn veth_devices(&self) -> Result<impl Iterator<Item = (&Host, &str)>> {
        ensure!(self.wiring == Wiring::Namespaces, "only links between namespaces can be changed");
        ensure!(self.emulator.is_none(), "an emulated link is changed by its text: `rate=100mbit`");
        Ok(self.hosts.iter().flat_map(|host| host.devices.iter().map(move |device| (host, &device[..]))))
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.emulator = None;
        for host in &self.hosts {
            if let Some(namespace) = &host.namespace {
                stale::remove_namespace(namespace);
            }
        }
        for mount in &self.mounts {
            stale::unmount(mount);
        }
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

impl Host {
    /// A command that runs on this host, and ends when we do.
    pub fn command(&self, program: impl AsRef<Path>) -> std::process::Command {
        let mut words = Vec::new();
        if let Some(namespace) = &self.namespace {
            words.extend(["ip", "netns", "exec", namespace]);
        }
        process::tied(&words, program.as_ref())
    }

    /// The namespace's name; only where there is one.
    pub fn namespace(&self) -> &str {
        self.namespace.as_deref().expect("a host with a namespace")
    }

    /// Bytes that this host's devices have received, headers included.
    pub fn received_bytes(&self) -> Result<u64> {
        let mut bytes = 0;
        for device in &self.devices {
            let Some(namespace) = &self.namespace else {
                let path = format!("/sys/class/net/{device}/statistics/rx_bytes");
                return Ok(std::fs::read_to_string(&path).with_context(|| path.clone())?.trim().parse()?);
            };
            let words = ["-j", "-s", "-n", namespace, "link", "show", "dev", device];
            let shown: serde_json::Value = serde_json::from_str(&sh::words("ip", &words)?)?;
            bytes += shown[0]["stats64"]["rx"]["bytes"].as_u64().context("`ip -s link` without rx bytes")?;
        }
        Ok(bytes)
    }

    fn device_to(&self, peer: &Host) -> String {
        format!("to-{}", peer.name)
    }

    /// Runs `act` with this host's network, on a thread of its own.
    pub fn within<T: Send + 'static>(&self, act: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
        let file = self.namespace.as_ref().map(|name| format!("/run/netns/{name}"));
        let thread = std::thread::spawn(move || {
            if let Some(path) = file {
                let handle = std::fs::File::open(&path).with_context(|| path.clone())?;
                nix::sched::setns(handle, nix::sched::CloneFlags::CLONE_NEWNET)?;
            }
            act()
        });
        thread.join().map_err(|_| anyhow::anyhow!("a thread of the lab panicked"))?
    }

    /// Listens on a port of this host for as long as this program runs, and has each who connects answered.
    pub fn answer(&self, port: u16, with: impl Fn(TcpStream) + Clone + Send + 'static) -> Result<()> {
        self.answer_at((self.address.into(), port), with)
    }

    /// The same at another address of it.
    pub fn answer_at(
        &self,
        place: (IpAddr, u16),
        with: impl Fn(TcpStream) + Clone + Send + 'static,
    ) -> Result<()> {
        let listener = self.within(move || Ok(TcpListener::bind(place)?))?;
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let with = with.clone();
                std::thread::spawn(move || with(stream));
            }
        });
        Ok(())
    }
}

/// Where labs lie by default: on the project's disk.
pub fn scratch() -> PathBuf {
    sh::root().join("target/lab")
}

fn ip(words: &[&str]) -> Result<()> {
    sh::words("ip", words).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_namespaces_reach_each_other_and_disappear() {
        if let Some(why) = able::skip(&[NAMESPACES]).unwrap() {
            eprintln!("skipped: {why}");
            return;
        }
        let lab = Lab::new(Wiring::Namespaces, &scratch()).unwrap();
        let name = lab.a().namespace().to_string();
        let dir = lab.dir().to_path_buf();
        let there = lab.b().address;
        let socket = lab.b().within(move || Ok(std::net::UdpSocket::bind((there, 7))?)).unwrap();
        let before = lab.b().received_bytes().unwrap();
        lab.a()
            .within(move || {
                Ok(std::net::UdpSocket::bind("0.0.0.0:0")?.send_to(b"hello", (there, 7)).map(drop)?)
            })
            .unwrap();
        let mut buffer = [0; 16];
        assert_eq!(socket.recv(&mut buffer).unwrap(), 5);
        assert!(lab.b().received_bytes().unwrap() > before);
        assert!(dir.exists());
        drop(lab);
        assert!(!dir.exists());
        assert!(!sh::words("ip", &["netns", "list"]).unwrap().contains(&name));
    }
}
