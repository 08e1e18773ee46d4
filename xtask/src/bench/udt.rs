//! UDT (libudt), through scripts/bench/udt.cc.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use super::peer::{Contestant, Entry, Job, Sample, Settings, fetch, needs_file};
use crate::lab::{Process, node};
use crate::sh;

/// The entry.
pub const ENTRY: Entry = Entry { name: "udt", protection: "none", version, prepare };

const PORT: &str = "4200";

struct Udt {
    program: PathBuf,
    server: Process,
}

fn version(_: &Settings) -> Result<String> {
    let version = sh::words("dpkg-query", &["-W", "-f", "${Version}", "libudt-dev"])?;
    Ok(format!("libudt {version}"))
}

fn prepare(_: &Settings, job: &Job) -> Result<Box<dyn Contestant>> {
    needs_file("/usr/include/udt/udt.h", &["libudt-dev"])?;
    needs_file("/usr/bin/g++", &["g++"])?;
    let program = job.lab.dir().join("udt");
    let mut compile = Command::new("g++");
    compile.args(["-O2", "-w", "-o"]).arg(&program).arg(sh::root().join("scripts/bench/udt.cc"));
    sh::read(compile.args(["-ludt", "-lpthread"]))?;
    let mut command = job.lab.a().command(&program);
    command.arg("send").arg(&job.input).arg(PORT);
    let mut server = Process::start("udt-send", job.lab.dir(), &mut command)?;
    server.wait_line("ready", node::PROMPT)?;
    Ok(Box::new(Udt { program, server }))
}

impl Contestant for Udt {
    fn run(&mut self, job: &Job, out: &Path) -> Result<Sample> {
        let mut command = job.lab.b().command(&self.program);
        command.args(["receive", &job.lab.a().address.to_string(), PORT]).arg(out);
        fetch(job, "udt-receive", &self.server, &mut command)
    }
}
