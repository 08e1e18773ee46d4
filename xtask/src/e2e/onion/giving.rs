//! Content that is given to keepers through circuits: whoever put it is killed, and it is got all the same; nobody who keeps it
//! has ever seen the one who put it. The scene is that of [`super::hidden`].

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::hidden::{Hidden, at};
use super::{Case, counter};
use crate::lab::node::{PATIENT, PROMPT};
use crate::lab::{Lab, Node, files};
use crate::stop;

pub const CASES: &[Case] = &[Case {
    name: "anonymous-put",
    about: "a put over three hops, its node killed, and a get of it; keepers never see whose it was",
    run,
}];

const BYTES: u64 = 3 << 20;
/// What a put may take: circuits, lookups and some copies over three hops.
const GIVEN: Duration = Duration::from_secs(180);

fn run(_: &mut Lab, binary: &Path) -> Result<()> {
    let mut hidden = Hidden::new(binary)?;
    let origin = hidden.scene.lab.hosts()[0].address;
    let input = hidden.scene.lab.dir().join("input");
    files::random(&input, BYTES)?;
    let wanted = files::sha256(&input)?;
    hidden.scene.open("10.77.0.0/16")?;
    let words = ["put", crate::lab::node::text(&input)?, "--hops", "3", "--salt"];
    let (mut said, mut reference) = (String::new(), String::new());
    let given = stop::until(GIVEN, || {
        let done = hidden.scene.origin().attempt(&words, GIVEN)?;
        (said, reference) = (done.stderr, done.stdout.lines().last().unwrap_or_default().to_owned());
        Ok(done.status.success())
    })?;
    ensure!(given && reference.starts_with("tornet:"), "no put: {said}");
    println!("        {}", said.lines().last().unwrap_or_default());

    // The one who put it has nothing of it, and tells nobody.
    let status = hidden.scene.origin().status()?;
    let folder = hidden.scene.origin().dir.join("anonymous");
    let left = std::fs::read_dir(&folder).map_or(0, Iterator::count);
    ensure!(status["store"]["local_chunks"] == 0 && left == 0, "{}, {left} folders", status["store"]);
    ensure!(status["overlay"]["chunks_provided"] == status["store"]["cache_chunks"], "{}", status["overlay"]);
    ensure!(
        status["counters"]["push_chunks"] == 0,
        "it was given by the node itself: {}",
        status["counters"]
    );

    // What keepers have seen: chunks, and nobody of the giver's name or at its address.
    let key = status["key"].as_str().context("no key")?.to_owned();
    let mut kept = 0;
    for (node, name) in [(&hidden.provider, "w"), (&hidden.middle, "n")] {
        kept += counter(node, "keep_chunks")?;
        let met = Hidden::met(node)?;
        let by_name = met.iter().any(|(one, _)| *one == key);
        let by_address = met.iter().any(|(one, address)| at(address, origin.into()) && *one != key);
        // n knows it as one of the network; never under another name.
        ensure!(!by_address && (name == "n" || !by_name), "{name} met {met:?}");
    }
    ensure!(kept > 0, "neither w nor n keeps anything");

    hidden.scene.nodes[0].kill();
    let out = hidden.scene.lab.dir().join("out");
    got(&hidden.provider, &reference, &out)?;
    ensure!(files::sha256(&out)? == wanted, "the file differs");

    // What an anonymous put of a daemon that was killed has left is removed.
    let left = folder.join("7/store");
    std::fs::create_dir_all(&left)?;
    hidden.scene.nodes[0].start()?;
    ensure!(!folder.exists(), "{} is still there", left.display());
    Ok(())
}

/// Others may have to be found first: who kept it has just begun to say so.
fn got(node: &Node, reference: &str, out: &Path) -> Result<()> {
    let mut said = String::new();
    let words = ["get", reference, "-o", crate::lab::node::text(out)?];
    let done = stop::until(PATIENT + PROMPT, || {
        let done = node.attempt(&words, PATIENT)?;
        said = done.stderr;
        Ok(done.status.success())
    })?;
    ensure!(done, "not got: {said}");
    Ok(())
}
