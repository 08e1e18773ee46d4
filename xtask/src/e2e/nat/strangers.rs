//! Nobody is anybody's friend: content between two that never meet, by way of the stranger by whom both entered.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::{Kind, PORT, host, translate, world};
use crate::lab::node::PROMPT;
use crate::lab::{Lab, Node, files};
use crate::stop;

/// What is got: some chunks, at what a stranger carries for strangers.
const BYTES: u64 = 3 << 20;
/// Until the overlay knows who has it.
const LIMIT: Duration = Duration::from_secs(60);

pub fn run(_: &mut Lab, binary: &Path) -> Result<()> {
    let lab = world(&[])?;
    translate(&lab, "na", Kind::Symmetric)?;
    translate(&lab, "nb", Kind::Symmetric)?;
    let make = |name: &str| -> Result<Node> {
        let node = Node::new(&lab, &host(&lab, name)?, name, binary, PORT, lab.dir().join(name));
        node.init()?;
        Ok(node)
    };
    let (mut a, mut b, mut c) = (make("a")?, make("b")?, make("c")?);
    c.start()?;
    let entry = c.invite()?;
    for node in [&mut a, &mut b] {
        node.run(&["config", "set", "overlay.bootstrap", &entry], PROMPT)?;
        node.start()?;
    }
    let input = lab.dir().join("strangers.in");
    files::random(&input, BYTES)?;
    let (_, reference) = a.put(&input)?;
    let announced = stop::until(LIMIT, || {
        let overlay = a.status()?["overlay"].clone();
        let (all, there) = (overlay["chunks_provided"].as_u64(), overlay["chunks_announced"].as_u64());
        Ok(all.is_some_and(|all| all > 0) && all == there)
    })?;
    ensure!(announced, "nobody keeps a record: {}", a.status()?["overlay"]);
    let (out, began) = (lab.dir().join("strangers.out"), Instant::now());
    b.get(&reference, &out)?;
    ensure!(files::sha256(&out)? == files::sha256(&input)?, "the file differs");
    let took = began.elapsed().as_secs_f64();
    println!("        {} MiB by a stranger's way: {took:.1} s", BYTES >> 20);
    Ok(())
}
