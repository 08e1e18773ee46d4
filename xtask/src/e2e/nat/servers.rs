//! Servers of Debian's that a node asks: a router that maps ports when it is asked, and one that says where it is seen.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, ensure};
use serde_json::Value;

use super::{Kind, LIMIT, Reach, host, node, on, passes, settles, translate, world};
use crate::lab::node::PROMPT;
use crate::lab::{Lab, Process};
use crate::stop;

/// Of Debian's, what the case of servers runs, with the libraries that are not everywhere: fetched and unpacked, not
/// installed.
const PACKAGES: &[&str] = &[
    "miniupnpd-nftables",
    "coturn",
    "libmnl0",
    "libnftnl11",
    "libevent-core-2.1-7",
    "libevent-extra-2.1-7",
    "libevent-openssl-2.1-7",
    "libevent-pthreads-2.1-7",
    "libhiredis0.14",
    "libmariadb3",
    "libpq5",
];
const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";
const STUN_PORT: u16 = 3478;
/// An address outside of the router that maps.
const OUTSIDE: &str = "60.0.0.1";

/// Unpacks the packages; `None` where they cannot be had.
fn unpacked(lab: &Lab) -> Result<Option<PathBuf>> {
    let (debs, root) = (lab.make_dir("debs")?, lab.make_dir("unpacked")?);
    let mut download = Command::new("apt-get");
    download.args(["-qq", "download"]).args(PACKAGES).current_dir(&debs);
    if let Err(error) = crate::sh::read(&mut download) {
        println!("        SKIPPED: apt-get gives no {}: {error:#}", PACKAGES.join(", "));
        return Ok(None);
    }
    for deb in std::fs::read_dir(&debs)? {
        crate::sh::read(Command::new("dpkg-deb").arg("-x").arg(deb?.path()).arg(&root))?;
    }
    Ok(Some(root))
}

/// A program of them on a host.
fn serve(lab: &Lab, on: &str, root: &Path, program: &str, words: &[&str]) -> Result<Process> {
    let mut command = host(lab, on)?.command(root.join(program));
    command.env("LD_LIBRARY_PATH", root.join(LIBRARIES)).args(words);
    Process::start(program.rsplit('/').next().unwrap_or(program), lab.dir(), &mut command)
}

/// A router that maps ports when it is asked: what never meets otherwise meets; and a server that says where one is seen.
pub fn run(_: &mut Lab, binary: &Path) -> Result<()> {
    let lab = world(&[])?;
    let Some(root) = unpacked(&lab)? else { return Ok(()) };
    translate(&lab, "na", Kind::Symmetric)?;
    translate(&lab, "nb", Kind::Symmetric)?;
    on(
        &lab,
        "na",
        &[
            "nft",
            "add table inet filter; add chain inet filter miniupnpd;
        add chain inet filter prerouting_miniupnpd; add chain inet filter postrouting_miniupnpd;
        add chain inet filter before { type nat hook prerouting priority -110; };
        add rule inet filter before jump prerouting_miniupnpd;
        add chain inet filter after { type nat hook postrouting priority 90; };
        add rule inet filter after jump postrouting_miniupnpd;",
        ],
    )?;
    // Multicast, by which UPnP looks for routers, leaves by the one device.
    on(&lab, "a", &["ip", "route", "add", "224.0.0.0/4", "dev", "to-na"])?;
    // A router with a private address outside maps nothing.
    on(&lab, "na", &["ip", "address", "add", &format!("{OUTSIDE}/32"), "dev", "to-c"])?;
    on(&lab, "c", &["ip", "route", "add", OUTSIDE, "dev", "to-na"])?;
    let conf = lab.dir().join("miniupnpd.conf");
    let inside = host(&lab, "na")?.address;
    std::fs::write(
        &conf,
        format!(
            "ext_ifname=to-c\next_ip={OUTSIDE}\nlistening_ip={inside}/24\nenable_natpmp=yes\nenable_upnp=yes\n\
             ipv6_disable=yes\nsystem_uptime=yes\nuuid=00000000-0000-0000-0000-000000000001\n\
             allow 1024-65535 0.0.0.0/0 1024-65535\n"
        ),
    )?;
    let conf = crate::lab::node::text(&conf)?;
    let pid = lab.dir().join("miniupnpd.pid");
    let words = ["-d", "-f", conf, "-P", crate::lab::node::text(&pid)?];
    let mut router = serve(&lab, "na", &root, "usr/sbin/miniupnpd", &words)?;
    let there = host(&lab, "c")?.address.to_string();
    let (port, db) = (STUN_PORT.to_string(), lab.dir().join("turn.db"));
    let words = [
        "-n",
        "--no-cli",
        "--no-tls",
        "--no-dtls",
        "--stun-only",
        "-L",
        &there,
        "-p",
        &port,
        "--log-file",
        "stdout",
        "--db",
        crate::lab::node::text(&db)?,
        "--pidfile",
        "",
    ];
    let mut server = serve(&lab, "c", &root, "usr/bin/turnserver", &words)?;

    let mut a = node(&lab, "a", binary)?;
    a.run(&["config", "set", "nat.stun", &format!("{there}:{STUN_PORT}")], PROMPT)?;
    a.start()?;
    ensure!(!router.ended()? && !server.ended()?, "{}\n{}", router.stderr().trim_end(), server.stdout());
    let outside = host(&lab, "na")?.address.to_string();
    let mut last = Value::Null;
    let seen = stop::until(LIMIT, || {
        last = a.status()?["nat"].clone();
        let at = last["seen_at"].as_array().is_some_and(|all| {
            all.iter().any(|one| one.as_str().is_some_and(|one| one.starts_with(&outside)))
        });
        let mapped = last["mapped"].as_str().is_some_and(|one| one.starts_with(OUTSIDE));
        Ok(at && mapped)
    })?;
    ensure!(
        seen,
        "not seen at {outside} and mapped at {OUTSIDE}: {last}; the router: {}",
        router.stderr().trim_end()
    );
    println!("        seen by coturn and mapped by miniupnpd: {last}");

    let (mut b, mut c) = (node(&lab, "b", binary)?, node(&lab, "c", binary)?);
    b.start()?;
    c.start()?;
    for (one, other) in [(&a, &c), (&c, &a), (&b, &c), (&c, &b)] {
        one.befriend(other)?;
    }
    a.meets(&c)?;
    b.meets(&c)?;
    a.befriend(&b)?;
    b.befriend(&a)?;
    let got = settles(&a, &b, Reach::Straight)?;
    ensure!(got == Reach::Straight, "{got:?}, with a port that the router maps");
    passes(&lab, &a, &b, "mapped")?;
    a.stop(nix::sys::signal::Signal::SIGTERM)?;
    let left = on(&lab, "na", &["nft", "list", "chain", "inet", "filter", "prerouting_miniupnpd"])?;
    ensure!(!left.contains("dnat"), "the router still maps after the daemon's end: {left}");
    println!("        symmetric before both, and a mapped port: straight; given back at the end");
    drop((router, server));
    Ok(())
}
