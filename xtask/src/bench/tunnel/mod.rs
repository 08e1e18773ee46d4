//! `cargo xtask bench tunnel`: TCP, UDP and echoes from one namespace to another through a tunnel, by tornet and by
//! WireGuard's user-space programs in turn, beside the bare link.

mod forwarder;
mod iperf;
pub mod ping;
mod report;
mod tornet;
mod wireguard;

use std::net::Ipv4Addr;
use std::path::PathBuf;

use anyhow::{Context, Result};
use serde_json::json;

use super::machine;
use super::peer::Settings;
use crate::args::Args;
use crate::lab::{Lab, Process, Wiring, scratch};
use crate::{setup, sh};
use report::Row;

/// A tunnel that is up.
pub struct Tunnel {
    /// A's and B's addresses in it.
    pub ends: [Ipv4Addr; 2],
    /// What carries it, at both ends; empty for the bare link.
    pub processes: Vec<Process>,
    /// Files that a killed process leaves.
    pub leftovers: Vec<PathBuf>,
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        for path in &self.leftovers {
            let _ = std::fs::remove_file(path);
        }
    }
}

impl Tunnel {
    /// User and system time of all its processes so far, seconds.
    fn cpu_seconds(&self) -> Result<f64> {
        self.processes.iter().map(Process::cpu_seconds).sum()
    }
}

/// A contestant, not yet ready.
struct Entry {
    /// Its name in `--peers` and in the table.
    name: &'static str,
    /// What protects the packets on their way.
    protection: &'static str,
    /// Where it comes from and its version. An error means that it cannot be had here, which is said aloud.
    version: fn(&Settings) -> Result<String>,
    /// Brings a tunnel up; the network's third byte is its own.
    up: fn(&Settings, &Lab, u8) -> Result<Tunnel>,
    /// Whether it carries bulk, or is there for the echoes alone.
    bulk: bool,
}

const ENTRIES: &[Entry] = &[
    Entry { name: "plain", protection: "none", version: |_| machine::kernel(), up: plain, bulk: true },
    Entry {
        name: "tornet",
        protection: "AES-256-GCM",
        version: |settings| Ok(sh::words(&settings.binary.to_string_lossy(), &["--version"])?.trim().into()),
        up: tornet::up,
        bulk: true,
    },
    Entry {
        name: "gotatun",
        protection: wireguard::PROTECTION,
        version: |_| wireguard::GOTATUN.version(),
        up: |_, lab, network| wireguard::GOTATUN.up(lab, network),
        bulk: true,
    },
    Entry {
        name: "boringtun",
        protection: wireguard::PROTECTION,
        version: |_| wireguard::BORINGTUN.version(),
        up: |_, lab, network| wireguard::BORINGTUN.up(lab, network),
        bulk: true,
    },
    Entry {
        name: "wireguard-go",
        protection: wireguard::PROTECTION,
        version: |_| wireguard::DEBIAN_GO.version(),
        up: |_, lab, network| wireguard::DEBIAN_GO.up(lab, network),
        bulk: true,
    },
    Entry {
        name: "wireguard-go-new",
        protection: wireguard::PROTECTION,
        version: |_| wireguard::NEW_GO.version(),
        up: |_, lab, network| wireguard::NEW_GO.up(lab, network),
        bulk: true,
    },
    Entry {
        name: "forwarder",
        protection: "none",
        version: |_| Ok("examples/tun_forwarder.rs".into()),
        up: forwarder::up,
        bulk: false,
    },
];

/// The command.
pub fn command(mut args: Args) -> Result<()> {
    let seconds = args.number("--seconds", 5)?.max(1);
    let runs = args.number("--runs", 3)?.max(1);
    let entries = choose(args.value("--peers")?.as_deref())?;
    let loads = iperf::choose(args.value("--loads")?.as_deref())?;
    let echoes = args.number("--echoes", 500)?;
    let json_path = args.value("--json")?.map(PathBuf::from);
    let binary = args.value("--binary")?.map(PathBuf::from);
    args.finish()?;
    crate::able::ensure(&[crate::able::NAMESPACES, crate::able::TUN])?;
    setup::ensure()?;
    let measured = entries.iter().any(|entry| entry.name == "tornet");
    let settings = Settings { binary: if measured { sh::binary_or_build(binary)? } else { PathBuf::new() } };

    let machine = machine::describe();
    println!("{}", machine::line(&machine));
    let lab = Lab::new(Wiring::Namespaces, &scratch())?;
    let mut ready: Vec<(Row, Tunnel)> = Vec::new();
    for (number, entry) in entries.iter().enumerate() {
        let made = (entry.version)(&settings).and_then(|version| {
            let tunnel = (entry.up)(&settings, &lab, number as u8 + 1)?;
            ping::answers(&lab, tunnel.ends[1])?;
            Ok((Row::new(entry.name, entry.protection, version, entry.bulk), tunnel))
        });
        match made {
            Ok((row, tunnel)) => {
                println!("  {:<17} {}", row.name, row.version);
                ready.push((row, tunnel));
            }
            Err(error) => {
                crate::stop::check()?;
                println!("  {:<17} SKIPPED: {error:#}", entry.name);
            }
        }
    }
    let server = iperf::Server::start(&lab)?;
    // Once unmeasured and short, so that nobody pays for being first.
    for run in 0..=runs {
        for (row, tunnel) in &mut ready {
            if echoes > 0 {
                let times = ping::round_trips(&lab, tunnel.ends[1], if run == 0 { 20 } else { echoes })?;
                if run > 0 {
                    row.echoes.extend(times);
                }
            }
            for load in loads.iter().filter(|_| row.bulk) {
                let sample = server
                    .run(&lab, load, tunnel, if run == 0 { 1 } else { seconds })
                    .with_context(|| format!("{}, {}", row.name, load.name))?;
                if run > 0 {
                    eprintln!("  run {run} {:<17} {:<10} {}", row.name, load.name, sample.line());
                    row.samples.push((load.name, sample));
                }
            }
        }
    }
    let rows: Vec<Row> = ready.into_iter().map(|(row, _)| row).collect();
    println!("\n{}", report::table(&rows, &loads));
    if let Some(path) = json_path {
        let peers = report::json(&rows, &loads);
        let all = json!({ "machine": machine, "seconds": seconds, "runs": runs, "peers": peers });
        std::fs::write(path, serde_json::to_string_pretty(&all)? + "\n")?;
    }
    Ok(())
}

fn choose(names: Option<&str>) -> Result<Vec<&'static Entry>> {
    super::choose("peer", ENTRIES, names, |entry| entry.name)
}

/// The link itself.
fn plain(_: &Settings, lab: &Lab, _: u8) -> Result<Tunnel> {
    Ok(Tunnel { ends: [lab.a().address, lab.b().address], processes: Vec::new(), leftovers: Vec::new() })
}

/// A's and B's addresses in a tunnel's network.
fn ends(network: u8) -> [Ipv4Addr; 2] {
    [1, 2].map(|host| Ipv4Addr::new(10, 80, network, host))
}

/// Gives a host's end of a tunnel its address and brings it up.
fn address(lab: &Lab, on_a: bool, device: &str, network: u8, mtu: u32) -> Result<()> {
    let host = if on_a { lab.a() } else { lab.b() };
    let address = format!("{}/24", ends(network)[usize::from(!on_a)]);
    let mtu = mtu.to_string();
    sh::words("ip", &["-n", host.namespace(), "address", "add", &address, "dev", device])?;
    sh::words("ip", &["-n", host.namespace(), "link", "set", device, "mtu", &mtu, "up"])?;
    Ok(())
}

/// The name of a device for this benchmark, of this process.
fn device(what: &str, on_a: bool) -> String {
    let name = format!("{what}{}{}", std::process::id(), if on_a { "a" } else { "b" });
    assert!(name.len() <= 15, "{name} is too long for a device");
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_are_chosen_by_name() {
        assert_eq!(choose(None).unwrap().len(), ENTRIES.len());
        let names: Vec<&str> = choose(Some("plain,tornet")).unwrap().iter().map(|entry| entry.name).collect();
        assert_eq!(names, ["plain", "tornet"]);
        assert!(choose(Some("plain,none")).is_err());
    }
}
