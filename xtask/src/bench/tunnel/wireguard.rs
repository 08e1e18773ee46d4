//! WireGuard in user space: gotatun and boringtun (Rust, from crates.io) and wireguard-go (Go, Debian's and another).

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::{Tunnel, address, device, ends};
use crate::bench::program;
use crate::lab::{Lab, Process, node};
use crate::sh;

/// What WireGuard uses.
pub const PROTECTION: &str = "ChaCha20-Poly1305";
/// Names a wireguard-go that is newer than Debian's.
const NEW_GO_BINARY: &str = "WIREGUARD_GO";
/// Where these programs have their control sockets, whatever their network namespace.
const SOCKETS: &str = "/var/run/wireguard";
/// wg-quick's own choice on a link of 1500.
const MTU: u32 = 1420;

/// How to come by a program and run it.
pub struct Implementation {
    /// For names of devices: at most 3 letters.
    short: &'static str,
    find: fn() -> Result<PathBuf>,
    flags: &'static [&'static str],
}

/// Mullvad's, a descendant of boringtun.
pub const GOTATUN: Implementation = Implementation {
    short: "got",
    find: || tool("gotatun", "gotatun-cli", "0.10.2"),
    flags: &["--foreground", "--disable-drop-privileges", "--verbosity", "error"],
};
/// Cloudflare's.
pub const BORINGTUN: Implementation = Implementation {
    short: "bor",
    find: || tool("boringtun-cli", "boringtun-cli", "0.7.1"),
    flags: &["--foreground", "--disable-drop-privileges"],
};
/// The one that Debian has.
pub const DEBIAN_GO: Implementation =
    Implementation { short: "wgo", find: || program("wireguard-go", "wireguard-go"), flags: &["-f"] };
/// One that whoever measures has built.
pub const NEW_GO: Implementation = Implementation { short: "wgn", find: new_go, flags: &["-f"] };

fn new_go() -> Result<PathBuf> {
    let path = std::env::var_os(NEW_GO_BINARY).context("WIREGUARD_GO names no newer binary")?;
    std::fs::canonicalize(&path).with_context(|| PathBuf::from(path).display().to_string())
}

/// A program from crates.io, built into target/tools the first time.
fn tool(name: &str, package: &str, version: &str) -> Result<PathBuf> {
    let place = sh::root().join("target/tools");
    let program = place.join("bin").join(name);
    if !program.exists() {
        println!("building {name} into target/tools (some minutes, once)");
        let mut install = sh::cargo();
        install.args(["install", package, "--locked", "--quiet", "--version", version, "--root"]);
        sh::run(install.arg(&place).env("CARGO_TARGET_DIR", place.join("build")))?;
        std::fs::remove_dir_all(place.join("build")).ok();
    }
    Ok(program)
}

impl Implementation {
    /// What it says it is.
    pub fn version(&self) -> Result<String> {
        let program = (self.find)()?;
        let said = sh::read(Command::new(&program).arg("--version"))?;
        Ok(said.lines().next().unwrap_or_default().trim().to_owned())
    }

    /// Two of them, each other's only peer.
    pub fn up(&self, lab: &Lab, network: u8) -> Result<Tunnel> {
        let wg = program("wg", "wireguard-tools")?;
        let binary = (self.find)()?;
        let names = [true, false].map(|on_a| device(self.short, on_a));
        let leftovers = names.iter().map(|name| Path::new(SOCKETS).join(format!("{name}.sock"))).collect();
        let mut tunnel = Tunnel { ends: ends(network), processes: Vec::new(), leftovers };
        let mut keys = Vec::new();
        for (name, host) in names.iter().zip([lab.a(), lab.b()]) {
            let secret = sh::read(Command::new(&wg).arg("genkey"))?;
            let file = lab.dir().join(format!("{name}.key"));
            std::fs::write(&file, &secret)?;
            let public = sh::read(Command::new(&wg).arg("pubkey").stdin(std::fs::File::open(&file)?))?;
            let mut command = host.command(&binary);
            // Debian's warns that the kernel could do it, where it can.
            command.args(self.flags).arg(name).env("WG_I_PREFER_BUGGY_USERSPACE_TO_POLISHED_KMOD", "1");
            let mut process = Process::start(name, lab.dir(), &mut command)?;
            let there = crate::stop::until(node::PROMPT, || {
                ensure!(!process.ended()?, "{name} ended: {}{}", process.stderr(), process.stdout());
                Ok(Command::new(&wg).args(["show", name]).output()?.status.success())
            })?;
            ensure!(there, "{name} cannot be configured: {}", process.stderr());
            tunnel.processes.push(process);
            keys.push((file, public.trim().to_owned()));
        }
        for (at, name) in names.iter().enumerate() {
            let (file, _) = &keys[at];
            let other = [lab.b(), lab.a()][at];
            let mut set = Command::new(&wg);
            set.args(["set", name, "listen-port", &port(network, at), "private-key"]).arg(file);
            set.args(["peer", &keys[1 - at].1, "allowed-ips", "10.80.0.0/16"]);
            set.args(["endpoint", &format!("{}:{}", other.address, port(network, 1 - at))]);
            sh::read(&mut set)?;
            address(lab, at == 0, name, network, MTU)?;
        }
        Ok(tunnel)
    }
}

fn port(network: u8, end: usize) -> String {
    (5300 + 2 * u16::from(network) + end as u16).to_string()
}
