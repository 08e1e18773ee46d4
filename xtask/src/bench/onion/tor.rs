//! A private Tor network: three relays, of which the first is the directory authority too and the last the exit, and a client.

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path as FilePath;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::Path;
use crate::lab::{Host, Lab, Process};
use crate::{sh, stop};

/// What votes and descriptors take until the client may build circuits: some rounds of 20 s.
const BOOTSTRAP: Duration = Duration::from_secs(180);
const SOCKS: u16 = 9050;

/// What is installed, or can be.
pub fn version() -> Result<String> {
    crate::bench::program("tor", "tor")?;
    let text = sh::words("tor", &["--version"])?;
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

/// Starts it, and waits until the client is ready.
pub fn up(lab: &Lab) -> Result<Path> {
    let dir = lab.make_dir("tor")?;
    let hosts = &lab.hosts()[..4];
    for host in hosts {
        let mut builder = fs::DirBuilder::new();
        builder.mode(0o700).create(dir.join(&host.name))?;
    }
    let authority = &hosts[1];
    let keys = dir.join(&authority.name).join("keys");
    fs::DirBuilder::new().mode(0o700).create(&keys)?;
    let identity = certify(&keys, authority)?;
    for host in hosts {
        fs::write(dir.join(format!("{}.rc", host.name)), settings(&dir, host))?;
    }
    let line = |fingerprint: &str| {
        let at = authority.address;
        format!("DirAuthority r1 orport=5001 no-v2 v3ident={identity} {at}:7001 {fingerprint}")
    };
    // Relays have their keys before anybody can name them.
    let file = dir.join("r1.rc");
    let placeholder = line(&"F".repeat(40)).replacen("DirAuthority ", "", 1);
    let shown = sh::words(
        "tor",
        &["--quiet", "--list-fingerprint", "-f", &file.to_string_lossy(), "--DirAuthority", &placeholder],
    )?;
    let fingerprint: String = shown.lines().last().unwrap_or_default().split_whitespace().skip(1).collect();
    ensure!(fingerprint.len() == 40, "tor names no fingerprint: {shown}");
    let mut processes = Vec::new();
    for host in hosts {
        let file = dir.join(format!("{}.rc", host.name));
        let text = fs::read_to_string(&file)?;
        fs::write(&file, format!("{text}{}\n", line(&fingerprint)))?;
        let mut command = host.command("tor");
        command.arg("-f").arg(&file);
        processes.push(Process::start(&format!("tor-{}", host.name), lab.dir(), &mut command)?);
    }
    let log = dir.join("o/log");
    let ready = stop::until(BOOTSTRAP, || {
        Ok(fs::read_to_string(&log).unwrap_or_default().contains("Bootstrapped 100%"))
    })?;
    ensure!(ready, "Tor's client is not ready within {BOOTSTRAP:?}: see {}", log.display());
    // Circuits of before the exit was known may still be tried.
    std::thread::sleep(Duration::from_secs(10));
    let proxy = |n: usize| {
        vec!["--socks5".into(), format!("127.0.0.1:{SOCKS}"), "--proxy-user".into(), format!("u{n}:p")]
    };
    Ok(Path { processes, proxy })
}

/// Makes the authority's keys; its identity.
fn certify(keys: &FilePath, host: &Host) -> Result<String> {
    let file = |name: &str| keys.join(name);
    let mut child = Command::new("tor-gencert")
        .args([
            "--create-identity-key",
            "-m",
            "12",
            "-a",
            &format!("{}:7001", host.address),
            "--passphrase-fd",
            "0",
            "-i",
        ])
        .arg(file("authority_identity_key"))
        .arg("-s")
        .arg(file("authority_signing_key"))
        .arg("-c")
        .arg(file("authority_certificate"))
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("tor-gencert")?;
    if let Some(mut stdin) = child.stdin.take() {
        std::io::Write::write_all(&mut stdin, b"\n")?;
    }
    ensure!(child.wait()?.success(), "tor-gencert failed");
    let text = fs::read_to_string(file("authority_certificate"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("fingerprint "));
    Ok(line.context("a certificate without a fingerprint")?.to_owned())
}

/// What a private network needs, and what each part of it is.
fn settings(dir: &FilePath, host: &Host) -> String {
    let (name, address, at) = (&host.name, host.address, dir.join(&host.name));
    let at = at.display();
    let common = format!(
        "TestingTorNetwork 1\nDataDirectory {at}\nNickname {name}\nLog notice file {at}/log\nAssumeReachable 1\n\
         PathsNeededToBuildCircuits 0.25\nTestingDirAuthVoteExit *\nTestingDirAuthVoteGuard *\n\
         TestingDirAuthVoteHSDir *\nTestingMinExitFlagThreshold 0\nTestingMinFastFlagThreshold 0\n\
         ServerDNSDetectHijacking 0\nServerDNSAllowBrokenConfig 1\nEnforceDistinctSubnets 0\n"
    );
    let own = match name.as_str() {
        "o" => format!(
            "SocksPort {SOCKS} IsolateSOCKSAuth\nClientRejectInternalAddresses 0\nClientDNSRejectInternalAddresses 0\n"
        ),
        "x" => "ExitRelay 1\nExitPolicyRejectPrivate 0\nExitPolicy accept *:*\n".to_owned(),
        _ => "ExitPolicy reject *:*\n".to_owned(),
    };
    let relay = if name == "o" { String::new() } else { format!("ORPort 5001\nAddress {address}\n") };
    let authority = if name == "r1" {
        "DirPort 7001\nAuthoritativeDirectory 1\nV3AuthoritativeDirectory 1\nContactInfo a@b.c\n\
         TestingV3AuthInitialVotingInterval 20\nTestingV3AuthInitialVoteDelay 4\nTestingV3AuthInitialDistDelay 4\n\
         V3AuthVotingInterval 20\nV3AuthVoteDelay 4\nV3AuthDistDelay 4\n"
    } else {
        ""
    };
    format!("{common}{own}{relay}{authority}")
}
