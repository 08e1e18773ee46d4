//! What this machine lets us do, tried rather than concluded from who we are: root in a container may lack any of it.

use std::path::Path;
use std::sync::OnceLock;

use anyhow::{Context, Result, anyhow, bail, ensure};

use crate::lab::{Lab, Node, Process, Wiring, node, scratch};
use crate::{sh, stop};

/// Something that only some may do.
pub type Ability = (&'static str, fn() -> Result<()>, &'static OnceLock<Option<String>>);

/// Network namespaces that are made and joined.
pub const NAMESPACES: Ability = ("network namespaces", namespaces, {
    static TRIED: OnceLock<Option<String>> = OnceLock::new();
    &TRIED
});
/// Devices whose packets a program sees.
pub const TUN: Ability = ("TUN devices", tun, {
    static TRIED: OnceLock<Option<String>> = OnceLock::new();
    &TRIED
});
/// strace of processes that are not its children.
pub const TRACING: Ability = ("strace", tracing, {
    static TRIED: OnceLock<Option<String>> = OnceLock::new();
    &TRIED
});

/// An error that says what cannot be done here, and why. Each is tried once.
pub fn ensure(abilities: &[Ability]) -> Result<()> {
    for (name, attempt, tried) in abilities {
        if let Some(why) = tried.get_or_init(|| attempt().err().map(|error| format!("{error:#}"))) {
            let advice = if sh::is_root() { "" } else { "; root may" };
            bail!("no {name} here: {why}{advice}");
        }
    }
    Ok(())
}

/// Why tests that need these are to be skipped, if they are. Root is expected to be able: then it is an error, lest
/// CI pass because its machine changed.
pub fn skip(abilities: &[Ability]) -> Result<Option<String>> {
    match ensure(abilities) {
        Ok(()) => Ok(None),
        Err(error) if sh::is_root() => Err(error),
        Err(error) => Ok(Some(format!("{error:#}"))),
    }
}

/// The same for io_uring, which the daemon itself tries best.
pub fn skip_uring(binary: &Path) -> Result<Option<String>> {
    let lab = Lab::new(Wiring::Namespaces, &scratch())?;
    let mut node = Node::new(&lab, lab.a(), "probe", binary, 4001, lab.dir().join("node-probe"));
    node.init()?;
    match node.start() {
        // Whatever else is wrong with it is for the tests to find.
        Err(error) if error.to_string().contains("io_uring") && !sh::is_root() => {
            Ok(Some(format!("{error:#}")))
        }
        Err(error) if error.to_string().contains("io_uring") => Err(error),
        _ => Ok(None),
    }
}

/// A namespace that is gone when dropped.
struct Namespace(String);

impl Namespace {
    fn new() -> Result<Namespace> {
        // By its name a later run knows that it is nobody's, if we are killed here.
        let namespace = Namespace(format!("tornet-lab-{}-probe", std::process::id()));
        sh::words("ip", &["netns", "add", &namespace.0])?;
        Ok(namespace)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = sh::words("ip", &["netns", "delete", &self.0]);
    }
}

fn namespaces() -> Result<()> {
    let namespace = Namespace::new()?;
    sh::words("ip", &["-n", &namespace.0, "link", "set", "lo", "up"])?;
    let path = format!("/run/netns/{}", namespace.0);
    let join = move || -> Result<()> {
        let handle = std::fs::File::open(&path).with_context(|| path.clone())?;
        nix::sched::setns(handle, nix::sched::CloneFlags::CLONE_NEWNET).context("setns")
    };
    std::thread::spawn(join).join().map_err(|_| anyhow!("a thread panicked"))?
}

fn tun() -> Result<()> {
    ensure(&[NAMESPACES])?;
    let path = "/dev/net/tun";
    std::fs::OpenOptions::new().read(true).write(true).open(path).context(path)?;
    let namespace = Namespace::new()?;
    sh::words("ip", &["-n", &namespace.0, "tuntap", "add", "dev", "probe0", "mode", "tun"]).map(drop)
}

fn tracing() -> Result<()> {
    let dir = std::env::temp_dir().join(format!("tornet-probe-{}", std::process::id()));
    std::fs::create_dir_all(&dir)?;
    let attach = || -> Result<()> {
        let mut sleep = crate::lab::process::tied(&[], Path::new("sleep"));
        let sleeper = Process::start("sleeper", &dir, sleep.arg("1000"))?;
        let mut strace = crate::lab::process::tied(&[], Path::new("strace"));
        strace.args(["-o", "/dev/null", "-p", &sleeper.pid().to_string()]);
        let mut strace = Process::start("strace", &dir, &mut strace)?;
        let attached = stop::until(node::PROMPT, || {
            ensure!(!strace.ended()?, "{}", strace.stderr().trim_end());
            Ok(strace.stderr().contains("attached"))
        })?;
        ensure!(attached, "it does not attach");
        Ok(())
    };
    let result = attach();
    std::fs::remove_dir_all(&dir)?;
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_done_is_an_error_for_root_and_a_reason_for_others() {
        static TRIED: OnceLock<Option<String>> = OnceLock::new();
        let unable: Ability = ("flight", || bail!("no wings"), &TRIED);
        let error = ensure(&[unable]).unwrap_err().to_string();
        assert!(error.starts_with("no flight here: no wings"), "{error}");
        match skip(&[unable]) {
            Err(_) => assert!(sh::is_root()),
            Ok(why) => assert!(!sh::is_root() && why.is_some()),
        }
        static CAN: OnceLock<Option<String>> = OnceLock::new();
        assert!(skip(&[("standing", || Ok(()), &CAN)]).unwrap().is_none());
    }

    #[test]
    fn the_probes_leave_nothing_behind() {
        let able = ensure(&[NAMESPACES, TUN, TRACING]);
        assert!(able.is_ok() || !sh::is_root() || std::env::var_os("CI").is_none(), "{able:?}");
        let name = format!("/run/netns/tornet-lab-{}-probe", std::process::id());
        assert!(!Path::new(&name).exists());
    }
}
