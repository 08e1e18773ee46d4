//! What is put and got: a tree with one large file and many small ones, edited between puts; and the check of
//! what a killed `get` left under final names.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::rng::Rng;
use crate::lab::files;
use crate::sh;

/// How much to make.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// The large file, bytes.
    pub large: u64,
    /// How many small files.
    pub small: u64,
    /// Each of them at most, bytes.
    pub small_max: u64,
}

/// A tree of our own making.
pub struct Content {
    /// Where it lies.
    pub dir: PathBuf,
    shape: Shape,
}

impl Content {
    /// Makes the tree in `dir`, which does not exist yet.
    pub fn make(dir: PathBuf, shape: Shape, rng: &mut Rng) -> Result<Content> {
        let content = Content { dir, shape };
        for sub in 0..content.dirs() {
            fs::create_dir_all(content.dir.join(format!("dir-{sub}")))?;
        }
        fs::write(content.dir.join("large"), rng.bytes(shape.large as usize))?;
        for number in 0..shape.small {
            content.write_small(number, rng)?;
        }
        std::os::unix::fs::symlink("large", content.dir.join("link"))?;
        Ok(content)
    }

    fn dirs(&self) -> u64 {
        1 + self.shape.small / 100
    }

    fn small(&self, number: u64) -> PathBuf {
        self.dir.join(format!("dir-{}/{number}", number % self.dirs()))
    }

    fn write_small(&self, number: u64, rng: &mut Rng) -> Result<()> {
        let len = rng.below(self.shape.small_max + 1) as usize;
        let path = self.small(number);
        fs::write(&path, rng.bytes(len)).with_context(|| path.display().to_string())
    }

    /// Changes some of it: a few small files, now and then a part of the large one.
    pub fn edit(&self, rng: &mut Rng) -> Result<()> {
        for _ in 0..1 + rng.below(1 + self.shape.small / 20) {
            self.write_small(rng.below(self.shape.small), rng)?;
        }
        if rng.chance(60) {
            let len = 1 + rng.below(self.shape.large / 8);
            let at = rng.below(self.shape.large - len);
            let mut file = fs::OpenOptions::new().write(true).open(self.dir.join("large"))?;
            file.seek(SeekFrom::Start(at))?;
            file.write_all(&rng.bytes(len as usize))?;
        }
        Ok(())
    }

    /// What it holds now (`lab::files::manifest`).
    pub fn manifest(&self) -> Result<String> {
        files::manifest(&self.dir)
    }

    /// All bytes of its files.
    pub fn bytes(&self) -> Result<u64> {
        files::size(&self.dir)
    }
}

/// Whether a tree is what a manifest says; else the first difference.
pub fn is(dir: &Path, manifest: &str) -> Result<()> {
    let found = files::manifest(dir)?;
    for (wanted, got) in manifest.lines().zip(found.lines()) {
        ensure!(wanted == got, "{}: {wanted:?} became {got:?}", dir.display());
    }
    ensure!(manifest.len() == found.len(), "{}: entries are missing or too many", dir.display());
    Ok(())
}

/// What lies under final names in the output of a `get`, finished or not.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Finals {
    /// Files that are as in the source: content, mode and time.
    pub right: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Lines of the output's manifest that the source's lacks.
    pub wrong: Vec<String>,
}

/// Looks at every file and link under a final name; the `get` may be running. Directories are not finished
/// before all else is.
pub fn finals(out: &Path, manifest: &str) -> Result<Finals> {
    const SCRIPT: &str = r#"
        cd -- "$1" || exit 1
        find . -mindepth 1 ! -name '.*.tornet-part-*' \( -type f -printf 'f %m %T@ %P\n' -o -type l -printf 'l %P -> %l\n' \)
        find . -type f ! -name '.*.tornet-part-*' -print0 | xargs -0 --no-run-if-empty sha256sum --"#;
    if !out.exists() {
        return Ok(Finals::default());
    }
    let found = sh::read(Command::new("sh").args(["-c", SCRIPT, "finals"]).arg(out))?;
    let mut finals = judge(&found, manifest);
    for name in std::mem::take(&mut finals.names) {
        finals.result.bytes += fs::metadata(out.join(&name)).map_or(0, |meta| meta.len());
    }
    Ok(finals.result)
}

struct Judged {
    result: Finals,
    names: Vec<String>,
}

fn judge(found: &str, manifest: &str) -> Judged {
    let wanted: BTreeSet<&str> = manifest.lines().collect();
    let mut judged = Judged { result: Finals::default(), names: Vec::new() };
    for line in found.lines() {
        if !wanted.contains(line) {
            judged.result.wrong.push(line.to_string());
        } else if line.starts_with("f ") {
            judged.result.right += 1;
            judged.names.extend(line.splitn(4, ' ').nth(3).map(str::to_string));
        }
    }
    judged
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_final_file_is_told() {
        let source = "f 644 1.5 a\nf 644 2.5 b c\nl x -> y\nd 755 d\n00  ./a\n11  ./b c\n";
        let judged = judge("f 644 2.5 b c\n11  ./b c\n", source);
        assert_eq!((judged.result.right, judged.result.wrong.len()), (1, 0));
        assert_eq!(judged.names, ["b c"]);
        for wrong in ["f 600 1.5 a\n", "99  ./a\n", "l x -> z\n", "f 644 1.5 other\n"] {
            assert_eq!(judge(wrong, source).result.wrong.len(), 1, "{wrong}");
        }
    }

    #[test]
    fn content_is_seeded_and_edits_change_it() {
        let dir = std::env::temp_dir().join(format!("xtask-content-{}", std::process::id()));
        let shape = Shape { large: 100_000, small: 20, small_max: 50 };
        let digests = |manifest: &str| {
            manifest.lines().filter(|line| line.contains("  ./")).map(str::to_string).collect::<Vec<_>>()
        };
        let one = Content::make(dir.join("one"), shape, &mut Rng::new(1, "t", 0)).unwrap();
        let other = Content::make(dir.join("other"), shape, &mut Rng::new(1, "t", 0)).unwrap();
        let before = one.manifest().unwrap();
        assert_eq!(digests(&before), digests(&other.manifest().unwrap()));
        is(&one.dir, &before).unwrap();
        fs::write(one.dir.join(".large.tornet-part-0123abcd"), "unfinished").unwrap();
        let found = finals(&one.dir, &before).unwrap();
        assert_eq!((found.right, found.bytes, found.wrong.len()), (21, one.bytes().unwrap() - 10, 0));
        one.edit(&mut Rng::new(1, "t", 1)).unwrap();
        assert!(is(&one.dir, &before).is_err());
        assert!(!finals(&one.dir, &before).unwrap().wrong.is_empty());
        fs::remove_dir_all(&dir).unwrap();
    }
}
