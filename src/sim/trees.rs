//! Random trees: what is put, and what must come back.

use std::collections::BTreeMap;

use super::files::Node;
use crate::base::Rng;
use crate::base::fileop::FileTime;
use crate::limits::{PIECE_PLAIN_MAX, RECORD_PLAIN};

/// One step of a walk, as an import takes it.
#[derive(Debug, Clone)]
pub enum Step {
    /// Into a directory: name, mode, time.
    BeginDirectory(Vec<u8>, u16, FileTime),
    /// Out of it.
    EndDirectory,
    /// A file: name, mode, time, content.
    File(Vec<u8>, u16, FileTime, Vec<u8>),
    /// A symlink: name, target, time.
    Symlink(Vec<u8>, Vec<u8>, FileTime),
}

/// A tree of one entry, by path from its parent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tree {
    /// Every entry, directories too.
    pub entries: BTreeMap<Vec<u8>, Node>,
}

const ODD: [&[u8]; 8] = [
    b"with space",
    b"-rf",
    b"\xff\xfe not text",
    b"new\nline",
    "\u{fc}ml\u{e4}ut".as_bytes(),
    b"...",
    b".hidden",
    b"tab\tand\x1b[31m",
];

impl Tree {
    /// A tree of one of several shapes, of at most a few megabytes.
    pub fn random(rng: &mut Rng) -> Self {
        let mut tree = Self::default();
        let top = format!("t{}", rng.below(1000)).into_bytes();
        let shape = rng.below(12);
        if shape == 0 {
            let size = size(rng, 2);
            tree.file(top, size, rng);
            return tree;
        }
        tree.directory(top.clone(), rng);
        let mut dirs = vec![top];
        let (files, deep, large) = match shape {
            1 => (rng.below(6), 0, 1 + rng.below(2)),
            2 => (20 + rng.below(150), rng.below(4), 0),
            3 => (rng.below(20), 5 + rng.below(20), 0),
            4 => (rng.below(10), rng.below(3), 1),
            5 => (0, rng.below(3), 0),
            6 => (200 + rng.below(400), 2 + rng.below(10), 0),
            _ => (5 + rng.below(60), rng.below(8), rng.below(3)),
        };
        for n in 0..deep {
            let above = &dirs[rng.below(dirs.len() as u64) as usize];
            let above = if rng.chance(0.6) { dirs.last().unwrap_or(above) } else { above };
            let path = join(above, &tree.free_name(above, n, rng));
            tree.directory(path.clone(), rng);
            dirs.push(path);
        }
        for n in 0..files + large {
            let above = dirs[rng.below(dirs.len() as u64) as usize].clone();
            let path = join(&above, &tree.free_name(&above, n + 100, rng));
            let class = if n < files { rng.below(2) } else { 2 };
            let size = size(rng, class);
            match rng.below(12) {
                0 => tree.link(path, rng),
                1 if n > 0 => tree.copy(path, rng),
                _ => tree.file(path, size, rng),
            }
        }
        tree
    }

    fn free_name(&self, above: &[u8], number: u64, rng: &mut Rng) -> Vec<u8> {
        let odd = ODD[rng.below(ODD.len() as u64) as usize];
        match rng.below(10) {
            0 if !self.entries.contains_key(&join(above, odd)) => odd.to_vec(),
            1 => format!("{number}-{}", "long".repeat(60)).into_bytes(),
            _ => format!("e{number}").into_bytes(),
        }
    }

    fn directory(&mut self, path: Vec<u8>, rng: &mut Rng) {
        let mode = [0o755, 0o700, 0o555, 0o1777][rng.below(4) as usize];
        self.entries.insert(path, Node::Dir(mode, time(rng)));
    }

    fn file(&mut self, path: Vec<u8>, size: usize, rng: &mut Rng) {
        let mut bytes = vec![0; size];
        rng.fill(&mut bytes);
        if rng.chance(0.1) {
            bytes.fill(7);
        }
        let mode = [0o644, 0o600, 0o444, 0o755][rng.below(4) as usize];
        self.entries.insert(path, Node::File(bytes, mode, time(rng)));
    }

    fn copy(&mut self, path: Vec<u8>, rng: &mut Rng) {
        let files: Vec<_> =
            self.entries.values().filter(|node| matches!(node, Node::File(..))).cloned().collect();
        match files.get(rng.below(files.len() as u64) as usize) {
            Some(node) => {
                self.entries.insert(path, node.clone());
            }
            None => self.file(path, 100, rng),
        }
    }

    fn link(&mut self, path: Vec<u8>, rng: &mut Rng) {
        let target: &[u8] = [&b"../../etc/passwd"[..], b"e101", b"/nowhere", b"."][rng.below(4) as usize];
        self.entries.insert(path, Node::Link(target.to_vec(), time(rng)));
    }

    /// The walk: each directory's entries after it and before its end.
    pub fn steps(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        let roots = self.entries.keys().filter(|path| !path.contains(&b'/'));
        roots.for_each(|root| self.walk(root, &mut steps));
        steps
    }

    fn walk(&self, path: &[u8], steps: &mut Vec<Step>) {
        let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or(path).to_vec();
        match &self.entries[path] {
            Node::File(bytes, mode, time) => {
                steps.push(Step::File(name, *mode as u16, *time, bytes.clone()));
            }
            Node::Link(target, time) => steps.push(Step::Symlink(name, target.clone(), *time)),
            Node::Dir(mode, time) => {
                steps.push(Step::BeginDirectory(name, *mode as u16, *time));
                let children = self.entries.keys().filter(|child| {
                    child.len() > path.len()
                        && child.starts_with(path)
                        && child[path.len()] == b'/'
                        && !child[path.len() + 1..].contains(&b'/')
                });
                children.for_each(|child| self.walk(child, steps));
                steps.push(Step::EndDirectory);
            }
        }
    }

    /// The part of it that lies at a path, with the entry's name as its top.
    pub fn inside(&self, path: &[u8]) -> Self {
        let above = path.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
        let below = |entry: &[u8]| entry == path || entry.starts_with(&[path, b"/"].concat());
        let entries = self.entries.iter().filter(|(entry, _)| below(entry));
        Self { entries: entries.map(|(entry, node)| (entry[above..].to_vec(), node.clone())).collect() }
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        let size = |node: &Node| if let Node::File(bytes, ..) = node { bytes.len() as u64 } else { 0 };
        self.entries.values().map(size).sum()
    }
}

fn join(above: &[u8], name: &[u8]) -> Vec<u8> {
    [above, b"/", name].concat()
}

fn size(rng: &mut Rng, class: u64) -> usize {
    let edge = [0, 1, 2][rng.below(3) as usize];
    match (class, rng.below(6)) {
        (0, _) => rng.below(3000) as usize,
        (1, 0) => RECORD_PLAIN - 1 + edge,
        (1, 1) => 0,
        (1, _) => rng.below(150_000) as usize,
        (_, 0) => PIECE_PLAIN_MAX - 1 + edge,
        (_, 1) => 2 * PIECE_PLAIN_MAX + rng.below(1_500_000) as usize,
        _ => rng.below(2 * PIECE_PLAIN_MAX as u64) as usize,
    }
}

fn time(rng: &mut Rng) -> FileTime {
    FileTime { seconds: rng.below(2_000_000_000) as i64, nanos: rng.below(1_000_000_000) as u32 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_entry_is_walked_once_and_inside_is_a_part() {
        for seed in 0..60 {
            let tree = Tree::random(&mut Rng::from_number(seed));
            let steps = tree.steps();
            let entered = steps.iter().filter(|step| !matches!(step, Step::EndDirectory)).count();
            assert_eq!(entered, tree.entries.len(), "seed {seed}");
            for path in tree.entries.keys() {
                let part = tree.inside(path);
                let name = path.rsplit(|byte| *byte == b'/').next().unwrap();
                assert_eq!(part.entries.get(name), tree.entries.get(path), "seed {seed}");
            }
        }
    }
}
