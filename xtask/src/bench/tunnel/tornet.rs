//! tornet itself: two friends, and a tunnel between them.

use anyhow::{Context, Result};

use super::{Tunnel, ends};
use crate::bench::peer::Settings;
use crate::lab::{Lab, Node, node};

/// `tunnel up --peer` at both ends.
pub fn up(settings: &Settings, lab: &Lab, network: u8) -> Result<Tunnel> {
    let (mut a, mut b) = node::pair(lab, &settings.binary)?;
    let ids: Vec<String> = [&a, &b].into_iter().map(id).collect::<Result<_>>()?;
    for (at, own) in [&a, &b].into_iter().enumerate() {
        let address = format!("{}/24", ends(network)[at]);
        own.run(&["tunnel", "up", "--peer", &ids[1 - at], "--addr", &address], node::PROMPT)?;
    }
    let processes = vec![a.take_daemon()?, b.take_daemon()?];
    Ok(Tunnel { ends: ends(network), processes, leftovers: Vec::new() })
}

fn id(node: &Node) -> Result<String> {
    Ok(node.status()?["node_id"].as_str().context("status --json has no node_id")?.to_owned())
}
