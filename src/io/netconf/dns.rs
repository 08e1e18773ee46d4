//! Who answers this host's questions for names while a tunnel is up.
//!
//! Where systemd-resolved runs, it is told per device, and forgets with the device. Elsewhere `resolv.conf` is replaced
//! and the one before kept beside it; our first line says that it is ours, so that whoever else has replaced it since is
//! left alone.

use std::fs;
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::NetError;

/// What makes systemd-resolved's presence known.
const RESOLVED: &str = "/run/systemd/resolve/io.systemd.Resolve";
const RESOLV_CONF: &str = "/etc/resolv.conf";
const MARKER: &str = "# Written by tornet for the tunnel ";
const KEPT: &str = "before-tornet";

/// Has names looked up by these. With `all`, no other device's servers are asked.
pub(super) fn set(device: &str, servers: &[IpAddr], all: bool) -> Result<(), NetError> {
    if Path::new(RESOLVED).exists() {
        let servers: Vec<String> = servers.iter().map(IpAddr::to_string).collect();
        let mut words = vec!["dns", device];
        words.extend(servers.iter().map(String::as_str));
        resolvectl(&words)?;
        if all {
            resolvectl(&["domain", device, "~."])?;
        }
        return resolvectl(&["default-route", device, if all { "yes" } else { "no" }]);
    }
    replace(Path::new(RESOLV_CONF), device, servers)
        .map_err(|e| NetError::os("replacing /etc/resolv.conf", e))
}

/// Undoes [`set`], also of an earlier process; true when there was something to undo.
pub(super) fn unset(device: &str) -> Result<bool, NetError> {
    if Path::new(RESOLVED).exists() {
        // A device that is gone took its settings along, which is all that an error can say.
        let _ = resolvectl(&["revert", device]);
    }
    restore(Path::new(RESOLV_CONF), device).map_err(|e| NetError::os("restoring /etc/resolv.conf", e))
}

fn resolvectl(words: &[&str]) -> Result<(), NetError> {
    let output = Command::new("resolvectl")
        .args(words)
        .stdin(Stdio::null())
        .output()
        .map_err(|e| NetError::os("running resolvectl", e))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(NetError::Resolver(said.lines().next().unwrap_or("resolvectl gave no reason").to_owned()))
}

fn beside(path: &Path, what: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(what);
    name.into()
}

fn first_line(device: &str) -> String {
    format!("{MARKER}{device}; the file before it is {KEPT}.")
}

/// Whose the file is: `None` when it is not ours.
fn owner(path: &Path) -> io::Result<Option<String>> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidData) => {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    let line = text.lines().next().and_then(|line| line.strip_prefix(MARKER));
    Ok(line.and_then(|rest| rest.split_once(';')).map(|(device, _)| device.to_owned()))
}

fn replace(path: &Path, device: &str, servers: &[IpAddr]) -> io::Result<()> {
    match owner(path)? {
        Some(other) if other != device => {
            return Err(io::Error::other(format!("the tunnel {other} has set it")));
        }
        Some(_) => {}
        None => {
            let kept = beside(path, KEPT);
            allow_missing(fs::remove_file(&kept))?;
            // The name itself, be it a link: at every moment there is one file that can be read.
            allow_missing(fs::hard_link(path, &kept))?;
        }
    }
    let mut text = first_line(device) + "\n";
    for server in servers {
        text += &format!("nameserver {server}\n");
    }
    let new = beside(path, "new-tornet");
    let mut file = fs::File::create(&new)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&new, path)
}

fn restore(path: &Path, device: &str) -> io::Result<bool> {
    let kept = beside(path, KEPT);
    match owner(path)? {
        Some(own) if own == device => {
            if !allow_missing(fs::rename(&kept, path))? {
                fs::remove_file(path)?; // There was none before.
            }
            Ok(true)
        }
        Some(_) => Ok(false),
        // Somebody has written it anew: theirs stays, and what lay under ours is out of date.
        None => allow_missing(fs::remove_file(&kept)).map(|_| false),
    }
}

fn allow_missing(result: io::Result<()>) -> io::Result<bool> {
    match result {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn servers() -> Vec<IpAddr> {
        vec!["10.9.0.53".parse().unwrap(), "fd00::53".parse().unwrap()]
    }

    #[test]
    fn the_file_before_comes_back_be_it_a_link_or_none() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("resolv.conf");
        for before in ["none", "file", "link"] {
            match before {
                "file" => fs::write(&path, "nameserver 192.0.2.1\n").unwrap(),
                "link" => std::os::unix::fs::symlink("stub", &path).unwrap(),
                _ => {}
            }
            replace(&path, "tornet0", &servers()).unwrap();
            replace(&path, "tornet0", &servers()).unwrap();
            let text = fs::read_to_string(&path).unwrap();
            assert!(text.ends_with(".\nnameserver 10.9.0.53\nnameserver fd00::53\n"), "{text}");
            assert!(!restore(&path, "tornet1").unwrap(), "another tunnel's is left alone");
            assert!(replace(&path, "tornet1", &servers()).is_err());
            assert!(restore(&path, "tornet0").unwrap());
            assert!(!restore(&path, "tornet0").unwrap(), "once");
            match before {
                "file" => assert_eq!(fs::read_to_string(&path).unwrap(), "nameserver 192.0.2.1\n"),
                "link" => assert_eq!(fs::read_link(&path).unwrap(), Path::new("stub")),
                _ => assert!(!path.exists()),
            }
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), usize::from(before != "none"));
            let _ = fs::remove_file(&path);
        }
    }

    #[test]
    fn what_somebody_wrote_since_stays() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("resolv.conf");
        fs::write(&path, "before").unwrap();
        replace(&path, "tornet0", &servers()).unwrap();
        fs::write(&path, "dhclient's").unwrap();
        assert!(!restore(&path, "tornet0").unwrap());
        assert_eq!(fs::read_to_string(&path).unwrap(), "dhclient's");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
