//! Files for labs: made, and compared from outside of tornet.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::sh;

/// Makes a file of random bytes.
pub fn random(path: &Path, bytes: u64) -> Result<()> {
    let mut file = File::create(path).with_context(|| path.display().to_string())?;
    let copied = std::io::copy(&mut File::open("/dev/urandom")?.take(bytes), &mut file)?;
    ensure!(copied == bytes, "{}: {copied} of {bytes} bytes written", path.display());
    Ok(())
}

/// Copies a tree as it is, links as links.
pub fn copy(from: &Path, to: &Path) -> Result<()> {
    sh::read(Command::new("cp").arg("--archive").arg("--no-target-directory").arg(from).arg(to)).map(drop)
}

/// SHA-256 of one file, hexadecimal.
pub fn sha256(path: &Path) -> Result<String> {
    let printed = sh::read(Command::new("sha256sum").arg("--").arg(path))?;
    Ok(printed.split_whitespace().next().unwrap_or_default().trim_start_matches('\\').to_string())
}

/// What a tree holds, one line per entry: kind, mode, time and name, then SHA-256 or the link's target.
pub fn manifest(dir: &Path) -> Result<String> {
    const SCRIPT: &str = r#"
        cd -- "$1" || exit 1
        find . -mindepth 1 \( -type f -printf 'f %m %T@ %P\n' -o -type d -printf 'd %m %P\n' \
            -o -type l -printf 'l %P -> %l\n' -o -printf '%y %P\n' \) | LC_ALL=C sort
        find . -type f -print0 | LC_ALL=C sort -z | xargs -0 --no-run-if-empty sha256sum --"#;
    sh::read(Command::new("sh").args(["-c", SCRIPT, "manifest"]).arg(dir))
}

/// Two trees are the same, entry for entry; else the first difference.
pub fn same(one: &Path, other: &Path) -> Result<usize> {
    let (left, right) = (manifest(one)?, manifest(other)?);
    for (left, right) in left.lines().zip(right.lines()) {
        ensure!(left == right, "the trees differ: {left:?} became {right:?}");
    }
    ensure!(left.len() == right.len(), "one tree has entries that the other lacks");
    Ok(left.lines().filter(|line| line.starts_with("f ")).count())
}

/// Bytes of all files in a tree.
pub fn size(dir: &Path) -> Result<u64> {
    let printed = sh::read(Command::new("find").arg(dir).args(["-type", "f", "-printf", "%s\\n"]))?;
    printed.lines().map(|line| line.parse::<u64>().context("find's %s")).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_difference_between_trees_is_found() {
        let dir = std::env::temp_dir().join(format!("xtask-files-{}", std::process::id()));
        let (one, other) = (dir.join("one"), dir.join("other"));
        std::fs::create_dir_all(one.join("sub")).unwrap();
        random(&one.join("sub/a b"), 70_000).unwrap();
        std::fs::write(one.join("empty"), "").unwrap();
        std::os::unix::fs::symlink("../nowhere", one.join("link")).unwrap();
        copy(&one, &other).unwrap();
        assert_eq!(same(&one, &other).unwrap(), 2);
        assert_eq!(size(&one).unwrap(), 70_000);
        assert_eq!(sha256(&one.join("empty")).unwrap()[..8], *"e3b0c442");

        std::fs::write(other.join("more"), "").unwrap();
        assert!(same(&one, &other).is_err());
        std::fs::remove_file(other.join("more")).unwrap();
        std::fs::remove_file(other.join("link")).unwrap();
        assert!(same(&one, &other).is_err());
        std::os::unix::fs::symlink("elsewhere", other.join("link")).unwrap();
        assert!(same(&one, &other).is_err());
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
