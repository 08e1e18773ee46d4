//! `cargo xtask setup`: installs what is missing, and nothing else. Quiet and quick when all is there.

use std::process::Command;

use anyhow::{Result, bail};

use crate::args::Args;
use crate::sh;

/// Something that we run, where it comes from and what for.
struct Need {
    /// Program that tells whether it is there.
    program: &'static str,
    /// Debian package that has it.
    package: &'static str,
    /// What for.
    why: &'static str,
    /// Without it nothing can be built; the others are for namespaces, which need root anyhow.
    build: bool,
}

const NEEDS: &[Need] = &[
    Need { program: "cc", package: "gcc", why: "links Rust; compiles ring's and LMDB's C", build: true },
    Need { program: "ar", package: "binutils", why: "archives that C", build: true },
    Need { program: "ip", package: "iproute2", why: "network namespaces", build: false },
    Need { program: "tc", package: "iproute2", why: "slow links in namespaces", build: false },
    Need { program: "ethtool", package: "ethtool", why: "offloads on and off", build: false },
    Need { program: "ping", package: "iputils-ping", why: "checks of the link emulator", build: false },
    Need { program: "iperf3", package: "iperf3", why: "checks of the link emulator", build: false },
    Need { program: "nft", package: "nftables", why: "the kill switch of tunnels", build: false },
    Need { program: "conntrack", package: "conntrack", why: "translators that forget", build: false },
    Need { program: "strace", package: "strace", why: "crash tests: kills at system calls", build: false },
    Need { program: "setpriv", package: "util-linux", why: "daemons that end with their test", build: false },
];

/// Headers that have no program of their own.
const LIBC_HEADER: &str = "/usr/include/stdio.h";

/// Subcommands of cargo and the components that bring them. That rustup has put a program of that name there
/// says nothing: it may stand for one that is not installed.
const COMPONENTS: &[(&str, &str)] = &[("fmt", "rustfmt"), ("clippy", "clippy")];

/// The command.
pub fn command(args: Args) -> Result<()> {
    args.finish()?;
    ensure()?;
    ensure_components()?;
    println!("setup: everything is there");
    Ok(())
}

/// Installs the packages that are missing.
pub fn ensure() -> Result<()> {
    let missing: Vec<&Need> = NEEDS.iter().filter(|need| sh::which(need.program).is_none()).collect();
    let mut packages: Vec<&str> = missing.iter().map(|need| need.package).collect();
    if !std::path::Path::new(LIBC_HEADER).exists() {
        packages.push("libc6-dev");
    }
    packages.sort_unstable();
    packages.dedup();
    for need in &missing {
        println!("setup: no {} ({})", need.program, need.why);
    }
    if !packages.is_empty() {
        if sh::is_root() {
            install(&packages)?;
        } else {
            let line = format!("sudo apt-get install {}", packages.join(" "));
            if missing.iter().any(|need| need.build) || packages.contains(&"libc6-dev") {
                bail!("packages are missing; run `{line}`, then this again");
            }
            println!("setup: going on without; for namespaces run `{line}`, then this as root");
        }
    }
    Ok(())
}

/// Installs Debian packages; we are root.
pub fn install(packages: &[&str]) -> Result<()> {
    if sh::which("apt-get").is_none() {
        bail!("no apt-get here; install these by your system's means: {}", packages.join(" "));
    }
    println!("setup: installing {}", packages.join(" "));
    let apt = || {
        let mut command = Command::new("apt-get");
        command.env("DEBIAN_FRONTEND", "noninteractive").args(["-qq", "-o", "DPkg::Lock::Timeout=300"]);
        command
    };
    // A fresh image has no lists, an old one stale lists.
    sh::run(apt().arg("update"))?;
    sh::run(apt().args(["install", "--yes", "--no-install-recommends"]).args(packages))
}

/// Installs the parts of Rust that checks need and building does not.
pub fn ensure_components() -> Result<()> {
    let works = |command: &str| {
        let output = sh::cargo().args([command, "--version"]).output();
        output.is_ok_and(|output| output.status.success())
    };
    let missing: Vec<&str> =
        COMPONENTS.iter().filter(|(command, _)| !works(command)).map(|(_, name)| *name).collect();
    if missing.is_empty() {
        return Ok(());
    }
    if sh::which("rustup").is_none() {
        bail!("{} missing; install by the means that Rust was installed by", missing.join(" and "));
    }
    sh::run(Command::new("rustup").args(["component", "add"]).args(missing))
}
