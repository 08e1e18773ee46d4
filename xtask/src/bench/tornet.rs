//! tornet itself: a daemon on either host; `get` is timed, `put` is not.

use std::path::Path;
use std::process::Command;

use anyhow::Result;

use super::peer::{Contestant, Entry, Job, Sample, Settings};
use crate::lab::{Node, node};
use crate::sh;

/// The entry.
pub const ENTRY: Entry = Entry {
    name: "tornet",
    protection: "Noise, AES-256-GCM, BLAKE3",
    version: |settings| Ok(sh::read(Command::new(&settings.binary).arg("--version"))?.trim().to_string()),
    prepare,
};

struct Nodes {
    a: Node,
    b: Node,
    reference: String,
}

fn prepare(settings: &Settings, job: &Job) -> Result<Box<dyn Contestant>> {
    let (a, b) = node::pair(job.lab, &settings.binary)?;
    let (_, reference) = a.put(&job.input)?;
    Ok(Box::new(Nodes { a, b, reference }))
}

impl Contestant for Nodes {
    fn run(&mut self, _: &Job, out: &Path) -> Result<Sample> {
        let before = self.a.daemon()?.cpu_seconds()? + self.b.daemon()?.cpu_seconds()?;
        let done = self.b.get(&self.reference, out)?;
        let after = self.a.daemon()?.cpu_seconds()? + self.b.daemon()?.cpu_seconds()?;
        Ok(Sample { seconds: done.took.as_secs_f64(), cpu_seconds: done.cpu_seconds + after - before })
    }
}
