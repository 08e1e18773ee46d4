//! A laboratory: hosts (network namespaces joined by a veth pair, or just loopback), their processes and
//! a folder, all of which disappear when it is dropped, also on Ctrl-C and on panic.
//!
//! Names carry our process id (`tornet-lab-PID-0-a`), so that a run killed with -9 leaves something that
//! the next run recognizes as nobody's and removes; it removes nothing else.

mod command;
pub mod files;
pub mod node;
pub mod process;
mod stale;

use std::net::Ipv4Addr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, ensure};

pub use command::command;
pub use node::Node;
pub use process::{Finished, Process};
pub use stale::{clean, remove_namespace};

use crate::{sh, stop};

const PREFIX: &str = "tornet-lab-";
/// The veth's name in either namespace; it is made there, so it meets no other.
const DEVICE: &str = "veth0";
/// Labs of this process so far.
static LABS: AtomicU32 = AtomicU32::new(0);

/// How the hosts are told apart and joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wiring {
    /// One network namespace each, joined by a veth pair. Needs root.
    Namespaces,
    /// Both on loopback; they differ by port only.
    Loopback,
}

/// Two hosts and a folder.
pub struct Lab {
    /// Where and how.
    pub wiring: Wiring,
    hosts: [Host; 2],
    dir: PathBuf,
    mounts: Vec<PathBuf>,
}

/// One of the two.
#[derive(Debug, Clone)]
pub struct Host {
    /// Its address on the link.
    pub address: Ipv4Addr,
    namespace: Option<String>,
    device: &'static str,
}

impl Lab {
    /// Makes two joined hosts, and a folder under `scratch`.
    pub fn new(wiring: Wiring, scratch: &Path) -> Result<Lab> {
        stop::listen();
        clean()?;
        let own = format!("{PREFIX}{}-{}", std::process::id(), LABS.fetch_add(1, Ordering::Relaxed));
        let host = |name: &'static str, last: u8| match wiring {
            Wiring::Namespaces => Host {
                address: Ipv4Addr::new(10, 77, 0, last),
                namespace: Some(format!("{own}-{name}")),
                device: DEVICE,
            },
            Wiring::Loopback => Host { address: Ipv4Addr::LOCALHOST, namespace: None, device: "lo" },
        };
        let dir = scratch.join(&own);
        // From here on drop tears down whatever part of it exists.
        let lab = Lab { wiring, hosts: [host("a", 1), host("b", 2)], dir, mounts: Vec::new() };
        let mut builder = std::fs::DirBuilder::new();
        builder.recursive(true).mode(0o700);
        builder.create(&lab.dir).with_context(|| lab.dir.display().to_string())?;
        stale::remember(scratch)?;
        if wiring == Wiring::Namespaces {
            lab.wire()?;
        }
        Ok(lab)
    }

    /// Namespaces as root, else loopback, in the project's target folder.
    pub fn here() -> Result<Lab> {
        let wiring = if sh::is_root() { Wiring::Namespaces } else { Wiring::Loopback };
        Lab::new(wiring, &scratch())
    }

    fn wire(&self) -> Result<()> {
        ensure!(sh::is_root(), "network namespaces need root");
        for host in &self.hosts {
            ip(&["netns", "add", host.namespace()])?;
            ip(&["-n", host.namespace(), "link", "set", "lo", "up"])?;
        }
        let [a, b] = &self.hosts;
        let pair = ["type", "veth", "peer", "name", DEVICE, "netns", b.namespace()];
        ip(&[&["link", "add", "name", DEVICE, "netns", a.namespace()], &pair[..]].concat())?;
        for host in &self.hosts {
            let address = format!("{}/24", host.address);
            ip(&["-n", host.namespace(), "address", "add", &address, "dev", host.device])?;
            ip(&["-n", host.namespace(), "link", "set", host.device, "up"])?;
        }
        Ok(())
    }

    /// The first host.
    pub fn a(&self) -> &Host {
        &self.hosts[0]
    }

    /// The second host.
    pub fn b(&self) -> &Host {
        &self.hosts[1]
    }

    /// Both.
    pub fn hosts(&self) -> &[Host; 2] {
        &self.hosts
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

    /// Makes the link slow in both directions; `rate` as in tc.
    pub fn limit(&self, rate: &str) -> Result<()> {
        ensure!(self.wiring == Wiring::Namespaces, "only a link between namespaces can be slowed");
        for host in &self.hosts {
            let tbf = ["root", "tbf", "rate", rate, "burst", "256k", "latency", "30ms"];
            let line = [&["-n", host.namespace(), "qdisc", "replace", "dev", host.device], &tbf[..]].concat();
            sh::words("tc", &line)?;
        }
        Ok(())
    }

    /// Takes the limit off.
    pub fn unlimit(&self) -> Result<()> {
        for host in &self.hosts {
            sh::words("tc", &["-n", host.namespace(), "qdisc", "delete", "dev", host.device, "root"])?;
        }
        Ok(())
    }

    /// Segmentation and merging by the device, on or off, at both ends: off is what a path without a
    /// capable card costs.
    pub fn offloads(&self, on: bool) -> Result<()> {
        let state = if on { "on" } else { "off" };
        for host in &self.hosts {
            let words = ["-K", host.device, "tso", state, "gso", state, "tx-udp-segmentation", state];
            sh::read(host.command("ethtool").args(words))?;
        }
        Ok(())
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
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

    /// Bytes that this host's device has received, headers included.
    pub fn received_bytes(&self) -> Result<u64> {
        let Some(namespace) = &self.namespace else {
            let path = format!("/sys/class/net/{}/statistics/rx_bytes", self.device);
            return Ok(std::fs::read_to_string(&path).with_context(|| path.clone())?.trim().parse()?);
        };
        let words = ["-j", "-s", "-n", namespace, "link", "show", "dev", self.device];
        let shown: serde_json::Value = serde_json::from_str(&sh::words("ip", &words)?)?;
        shown[0]["stats64"]["rx"]["bytes"].as_u64().context("`ip -s link` without rx bytes")
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
        if !sh::is_root() {
            eprintln!("skipped: needs root");
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
