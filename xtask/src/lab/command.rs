//! `cargo xtask lab`: a lab to play in.

use std::io::BufRead;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::{Description, Lab, Node, check, clean, scratch};
use crate::able::{self, NAMESPACES};
use crate::args::Args;
use crate::{setup, sh, stop};

/// First UDP port of a lab's nodes; each has its own, so that logs cannot be mistaken.
const PORT: u16 = 4001;

/// The command.
pub fn command(mut args: Args) -> Result<()> {
    match args.word().as_deref() {
        Some("clean") => {
            args.finish()?;
            clean()
        }
        Some("check") => {
            args.finish()?;
            setup::ensure()?;
            check::command()
        }
        Some("up") => {
            let rate = args.value("--rate")?;
            let link = args.value("--link")?;
            let binary = args.value("--binary")?.map(PathBuf::from);
            let file = args.word().map(PathBuf::from);
            args.finish()?;
            let description = match (&file, &link, &rate) {
                (Some(file), None, None) => {
                    let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
                    Description::parse(&text).with_context(|| file.display().to_string())?
                }
                (None, Some(text), None) => Description::emulated(text),
                (None, None, _) => Description::two(),
                _ => bail!("one of a file, --link and --rate"),
            };
            able::ensure(&[NAMESPACES])?;
            setup::ensure()?;
            up(description, rate.as_deref(), binary)
        }
        _ => bail!("`lab up`, `lab check` or `lab clean`"),
    }
}

fn up(description: Description, rate: Option<&str>, binary: Option<PathBuf>) -> Result<()> {
    let binary = if description.nodes.is_empty() { None } else { Some(sh::binary_or_build(binary)?) };
    let lab = Lab::described(description, &scratch())?;
    if let Some(rate) = rate {
        lab.limit(rate)?;
    }
    let nodes = binary.map(|binary| start_nodes(&lab, &binary)).transpose()?.unwrap_or_default();
    for host in lab.hosts() {
        println!("{:<8} {}  ip netns exec {} bash", host.name, host.address, host.namespace());
    }
    for node in &nodes {
        let words = node.command(&["status"]);
        println!("a node on {}: {}", node.name, sh::show(&words));
    }
    if lab.emulator().is_ok() {
        println!("type `a>b loss=5%`, `a-b down` or `stats`; docs/testing/lab.md has the words");
    }
    println!("all of it is gone after Ctrl-C");
    let lines = typed();
    let _ = stop::until(Duration::MAX, || {
        match lines.try_recv() {
            Ok(line) => match lab.emulator().and_then(|emulator| emulator.say(&line)) {
                Ok(said) => said.iter().for_each(|line| println!("{line}")),
                Err(error) => println!("{error:#}"),
            },
            Err(TryRecvError::Empty | TryRecvError::Disconnected) => {
                std::thread::sleep(Duration::from_millis(20))
            }
        }
        Ok(false)
    });
    Ok(())
}

/// The nodes of a lab, running, and their friendships.
pub fn start_nodes(lab: &Lab, binary: &Path) -> Result<Vec<Node>> {
    let description = lab.description();
    let mut nodes = Vec::new();
    for (&host, port) in description.nodes.iter().zip(PORT..) {
        let host = &lab.hosts()[host];
        let mut node =
            Node::new(lab, host, &host.name, binary, port, lab.dir().join(format!("node-{}", host.name)));
        node.init()?;
        node.start()?;
        nodes.push(node);
    }
    for ends in &description.friends {
        let found = ends.map(|end| description.nodes.iter().position(|&host| host == end));
        let [Some(a), Some(b)] = found else { bail!("only nodes have friends") };
        nodes[a].befriend(&nodes[b])?;
        nodes[b].befriend(&nodes[a])?;
    }
    Ok(nodes)
}

/// Lines from the terminal.
fn typed() -> Receiver<String> {
    let (sender, lines) = channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    lines
}
