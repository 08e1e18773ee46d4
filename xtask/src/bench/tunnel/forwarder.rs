//! The floor under a round trip: a program that polls a TUN device and a socket, and does nothing else.

use std::process::Command;

use anyhow::Result;

use super::{Tunnel, address, device, ends};
use crate::bench::peer::Settings;
use crate::lab::{Lab, Process, node};
use crate::sh;

const PORT: u16 = 5290;

/// Two of them.
pub fn up(_: &Settings, lab: &Lab, network: u8) -> Result<Tunnel> {
    let program = sh::build_example("tun_forwarder")?;
    let mut tunnel = Tunnel { ends: ends(network), processes: Vec::new(), leftovers: Vec::new() };
    for (on_a, own, other) in [(true, lab.a(), lab.b()), (false, lab.b(), lab.a())] {
        let name = device("fwd", on_a);
        let mut command: Command = own.command(&program);
        command.arg(&name).arg(format!("{}:{PORT}", own.address)).arg(format!("{}:{PORT}", other.address));
        let mut process = Process::start(&name, lab.dir(), &mut command)?;
        process.wait_line("ready", node::PROMPT)?;
        tunnel.processes.push(process);
        address(lab, on_a, &name, network, 1400)?;
    }
    Ok(tunnel)
}
