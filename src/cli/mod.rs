//! The command line: what is asked, by whom it is done, and how its end is told.
//!
//! Results go to stdout; progress, logs and errors to stderr. The exit status is 0 only on success; an
//! error is one line that begins with `tornet:` and says what to do.

// The edge: clocks for progress, threads for mining.
#![allow(clippy::disallowed_methods)]

mod args;
mod client;
mod config;
mod friend;
mod get;
mod init;
mod leave;
mod limit;
mod mine;
mod node;
mod put;
mod reserve;
mod run;
mod show;
mod status;
mod tunnel;

use std::ffi::OsString;
use std::fmt::Display;
use std::io::{self, Write};
use std::process::ExitCode;

use args::Command;
use clap::Parser;

use crate::config::{ConfigError, NodeDir};

/// Why a command did not succeed: one line, and the exit status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    line: String,
    status: u8,
}

impl Failure {
    fn new(line: impl Display) -> Self {
        Self { line: one_line(&line.to_string()), status: 1 }
    }

    /// Ended by Ctrl-C: the shell's 128 + SIGINT.
    fn interrupted(line: impl Display) -> Self {
        Self { status: 130, ..Self::new(line) }
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::new(error)
    }
}

/// Runs the command line; the only way out of the program.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args = match args::Args::try_parse_from(arguments) {
        Ok(args) => args,
        Err(error) if !error.use_stderr() => {
            // --help and --version are results.
            let _ = error.print();
            return ExitCode::SUCCESS;
        }
        Err(error) => return fail(&Failure { line: args::usage_line(&error), status: 2 }),
    };
    match perform(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => fail(&failure),
    }
}

fn fail(failure: &Failure) -> ExitCode {
    let _ = writeln!(io::stderr(), "tornet: {}", failure.line);
    ExitCode::from(failure.status)
}

fn perform(args: args::Args) -> Result<(), Failure> {
    let dir = NodeDir::choose(args.dir.as_deref())?;
    match args.command {
        Command::Init(init) => init::init(&dir, init),
        Command::Run => run::run(&dir),
        Command::Invite { qr, bridge } => friend::invite(&dir, qr, bridge),
        Command::Friend(command) => friend::friend(&dir, command),
        Command::Status { json, watch } => status::status(&dir, json, watch),
        Command::Put(put) => put::put(&dir, put),
        Command::Get(get) => get::get(&dir, get),
        Command::Tunnel(command) => tunnel::tunnel(&dir, command),
        Command::Config(command) => config::config(&dir, command),
        Command::Leave(words) => leave::leave(&dir, &words),
        Command::Online(words) => leave::online(&dir, &words),
        Command::Limit(command) => limit::limit(&dir, command),
        Command::Rank(args::Rank::Raise { to }) => init::raise(&dir, to),
    }
}

/// Writes a result to stdout. A reader that has closed its end has seen enough: that is no panic.
fn print(line: impl Display) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match writeln!(out, "{line}").and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::new(format!("cannot write the result: {}", crate::config::plain(&error))))
        }
        _ => Ok(()),
    }
}

/// Writes for people, to stderr.
fn tell(line: impl Display) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// An error's text without line breaks and control characters.
fn one_line(text: &str) -> String {
    let clean: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    clean.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_one_line() {
        assert_eq!(Failure::new("a\n  b\x1b[31m").line, "a b [31m");
    }
}
