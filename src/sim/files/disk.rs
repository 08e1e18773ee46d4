//! A file system with a disk below it: what programs see, and what is left of it when the power goes.
//!
//! A program sees every write at once. The disk has what was synced; of the rest it has, after a power loss, what
//! the seed says: each 4 KiB page of a file as it was, as it became, or torn between the two at a sector; each
//! change of a name done or not, mostly up to one moment, as journaling file systems do it, sometimes each by
//! itself, which POSIX permits; lengths, modes and times likewise.

use std::collections::BTreeMap;

use crate::base::Rng;
use crate::base::fileop::FileTime;
use crate::sim::effects::{Effect, Effects};

const PAGE: usize = 4096;
const SECTOR: u64 = 512;

/// A file or directory, whatever its name is now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Inode(u64);

/// What an inode is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// Bytes.
    File(Vec<u8>),
    /// Where a symlink points.
    Link(Vec<u8>),
    /// Named by the paths that begin with its own.
    Directory,
}

struct Node {
    kind: Kind,
    mode: u32,
    mtime: FileTime,
    /// Mode and time on the disk, where they differ.
    synced_times: Option<(u32, FileTime)>,
    /// Length on the disk, where it differs.
    synced_len: Option<usize>,
    /// Pages on the disk that differ, by number; shorter than a page beyond the end.
    synced_pages: BTreeMap<usize, Vec<u8>>,
}

/// A change of names that the disk may not have.
enum Naming {
    Link(Vec<u8>, Inode),
    Unlink(Vec<u8>),
    Rename(Vec<u8>, Vec<u8>, Inode),
}

impl Naming {
    fn parent(&self) -> &[u8] {
        match self {
            Self::Link(path, _) | Self::Unlink(path) | Self::Rename(_, path, _) => parent(path),
        }
    }
}

/// The disk is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full;

/// One node's file system.
#[derive(Default)]
pub struct Disk {
    nodes: BTreeMap<Inode, Node>,
    next: u64,
    names: BTreeMap<Vec<u8>, Inode>,
    synced_names: BTreeMap<Vec<u8>, Inode>,
    unsynced: Vec<Naming>,
    /// Bytes that may still be written; `None`: as many as one likes.
    pub room: Option<u64>,
    /// Syncs so far, of whatever.
    pub syncs: u64,
    /// What faults did.
    pub effects: Effects,
}

/// The directory that a path lies in.
pub fn parent(path: &[u8]) -> &[u8] {
    let slash = path.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
    &path[..slash]
}

impl Disk {
    /// What a path names.
    pub fn find(&self, path: &[u8]) -> Option<Inode> {
        self.names.get(path).copied()
    }

    /// What an inode is, its mode and its time.
    pub fn stat(&self, inode: Inode) -> (&Kind, u32, FileTime) {
        let node = &self.nodes[&inode];
        (&node.kind, node.mode, node.mtime)
    }

    /// The bytes of a file; none of anything else.
    pub fn bytes(&self, inode: Inode) -> &[u8] {
        match &self.nodes[&inode].kind {
            Kind::File(bytes) => bytes,
            _ => &[],
        }
    }

    /// Everything below a directory, by path.
    pub fn below<'a>(&'a self, directory: &'a [u8]) -> impl Iterator<Item = (&'a [u8], Inode)> {
        let inside = move |path: &[u8]| path.len() > directory.len() && path[directory.len()] == b'/';
        self.names
            .range(directory.to_vec()..)
            .take_while(move |(path, _)| path.starts_with(directory))
            .filter(move |(path, _)| inside(path))
            .map(|(path, inode)| (&path[..], *inode))
    }

    /// Makes something new at a path where nothing is.
    pub fn create(&mut self, path: &[u8], kind: Kind, mode: u32) -> Inode {
        assert!(!self.names.contains_key(path), "something is there");
        self.next += 1;
        let inode = Inode(self.next);
        let mtime = FileTime::default();
        let node = Node {
            kind,
            mode,
            mtime,
            synced_times: None,
            synced_len: Some(0),
            synced_pages: BTreeMap::new(),
        };
        self.nodes.insert(inode, node);
        self.names.insert(path.to_vec(), inode);
        self.unsynced.push(Naming::Link(path.to_vec(), inode));
        inode
    }

    /// Takes a name away.
    pub fn unlink(&mut self, path: &[u8]) {
        if self.names.remove(path).is_some() {
            self.unsynced.push(Naming::Unlink(path.to_vec()));
        }
    }

    /// Gives what `from` names the name `to`, in place of what had it.
    pub fn rename(&mut self, from: &[u8], to: &[u8]) {
        let inode = self.names.remove(from).expect("there is something to rename");
        self.names.insert(to.to_vec(), inode);
        self.unsynced.push(Naming::Rename(from.to_vec(), to.to_vec(), inode));
    }

    /// Writes into a file, which grows as needed.
    pub fn write(&mut self, inode: Inode, offset: usize, data: &[u8]) -> Result<(), Full> {
        if let Some(room) = &mut self.room {
            let Some(left) = room.checked_sub(data.len() as u64) else {
                self.effects.add(Effect::DiskFull, 1);
                return Err(Full);
            };
            *room = left;
        }
        let end = offset + data.len();
        if end > self.bytes(inode).len() {
            self.resize(inode, end);
        }
        let node = self.nodes.get_mut(&inode).expect("an inode is never removed");
        let Kind::File(bytes) = &mut node.kind else { unreachable!("only files are written") };
        if !data.is_empty() {
            remember(&mut node.synced_pages, bytes, offset / PAGE..end.div_ceil(PAGE));
        }
        bytes[offset..end].copy_from_slice(data);
        Ok(())
    }

    /// Gives a file its length.
    pub fn resize(&mut self, inode: Inode, len: usize) {
        let node = self.nodes.get_mut(&inode).expect("an inode is never removed");
        let Kind::File(bytes) = &mut node.kind else { unreachable!("only files have a length") };
        let old = bytes.len();
        if old == len {
            return;
        }
        node.synced_len.get_or_insert(old);
        remember(&mut node.synced_pages, bytes, old.min(len) / PAGE..old.max(len).div_ceil(PAGE));
        bytes.resize(len, 0);
    }

    /// Sets mode and time; `None` leaves one.
    pub fn set_times(&mut self, inode: Inode, mode: Option<u32>, mtime: Option<FileTime>) {
        let node = self.nodes.get_mut(&inode).expect("an inode is never removed");
        node.synced_times.get_or_insert((node.mode, node.mtime));
        node.mode = mode.unwrap_or(node.mode);
        node.mtime = mtime.unwrap_or(node.mtime);
    }

    /// Puts a file's bytes, length, mode and time on the disk; of a directory the names in it as well.
    pub fn sync(&mut self, inode: Inode) {
        self.syncs += 1;
        self.settle(inode);
        if matches!(self.nodes[&inode].kind, Kind::Directory)
            && let Some((path, _)) = self.names.iter().find(|(_, other)| **other == inode)
        {
            self.sync_names(&path.clone());
        }
    }

    /// Puts the names in a directory on the disk, also of one that has no inode here (it was always there).
    pub fn sync_names(&mut self, directory: &[u8]) {
        let (done, left) =
            std::mem::take(&mut self.unsynced).into_iter().partition(|naming| naming.parent() == directory);
        self.unsynced = left;
        let done: Vec<Naming> = done;
        done.into_iter().for_each(|naming| apply(&mut self.synced_names, naming));
    }

    /// Puts everything on the disk but what lies in [`OLD`], which may be another file system.
    pub fn sync_all(&mut self) {
        self.syncs += 1;
        let old: std::collections::BTreeSet<Inode> = self.below(OLD).map(|(_, inode)| inode).collect();
        let inodes: Vec<Inode> = self.nodes.keys().filter(|inode| !old.contains(inode)).copied().collect();
        inodes.into_iter().for_each(|inode| self.settle(inode));
        let unsynced = std::mem::take(&mut self.unsynced).into_iter();
        let (left, done): (Vec<_>, Vec<_>) = unsynced.partition(|naming| naming.parent() == OLD);
        self.unsynced = left;
        done.into_iter().for_each(|naming| apply(&mut self.synced_names, naming));
    }

    fn settle(&mut self, inode: Inode) {
        let node = self.nodes.get_mut(&inode).expect("an inode is never removed");
        (node.synced_times, node.synced_len) = (None, None);
        node.synced_pages.clear();
    }

    /// The power goes and comes back: programs see what the disk has, which the seed decides.
    pub fn lose_power(&mut self, rng: &mut Rng) {
        let unsynced = std::mem::take(&mut self.unsynced);
        let (in_order, kept) = (rng.chance(0.7), rng.below(unsynced.len() as u64 + 1) as usize);
        for (number, naming) in unsynced.into_iter().enumerate() {
            let keep = if in_order { number < kept } else { rng.chance(0.5) };
            if keep {
                apply(&mut self.synced_names, naming);
            } else {
                self.effects.add(Effect::NameLost, 1);
            }
        }
        let luck = [0.0, 0.5, 1.0][rng.below(3) as usize];
        for node in self.nodes.values_mut() {
            if let Some((mode, mtime)) = node.synced_times.take()
                && !rng.chance(luck)
            {
                (node.mode, node.mtime) = (mode, mtime);
            }
            tear(node, luck, rng, &mut self.effects);
        }
        let all = std::mem::take(&mut self.synced_names);
        // What lies in a directory that was lost is lost with it. A parent's path sorts before its children's.
        for (path, inode) in all {
            let above = parent(&path);
            if above.is_empty() || self.is_old(above) || self.synced_names.contains_key(above) {
                self.synced_names.insert(path, inode);
            }
        }
        self.names = self.synced_names.clone();
        let named: std::collections::BTreeSet<Inode> = self.names.values().copied().collect();
        self.nodes.retain(|inode, _| named.contains(inode));
    }

    /// Directories that were there before the simulation began have no inode.
    fn is_old(&self, path: &[u8]) -> bool {
        path == OLD
    }
}

/// The directory that every node has from the beginning: where its journals lie.
pub const OLD: &[u8] = b"/node";

fn apply(names: &mut BTreeMap<Vec<u8>, Inode>, naming: Naming) {
    match naming {
        Naming::Link(path, inode) => {
            names.insert(path, inode);
        }
        Naming::Unlink(path) => {
            names.remove(&path);
        }
        Naming::Rename(from, to, inode) => {
            names.remove(&from);
            names.insert(to, inode);
        }
    }
}

/// Keeps what the disk has of pages that are about to change.
fn remember(synced: &mut BTreeMap<usize, Vec<u8>>, bytes: &[u8], pages: std::ops::Range<usize>) {
    for page in pages {
        synced.entry(page).or_insert_with(|| {
            let start = (page * PAGE).min(bytes.len());
            bytes[start..bytes.len().min(start + PAGE)].to_vec()
        });
    }
}

fn tear(node: &mut Node, luck: f64, rng: &mut Rng, effects: &mut Effects) {
    let (pages, synced_len) = (std::mem::take(&mut node.synced_pages), node.synced_len.take());
    let Kind::File(bytes) = &mut node.kind else { return };
    let len = match synced_len {
        Some(len) if !rng.chance(luck) => len,
        _ => bytes.len(),
    };
    bytes.resize(len, 0);
    for (page, mut old) in pages {
        let start = page * PAGE;
        if start >= len {
            continue;
        }
        let now = &mut bytes[start..len.min(start + PAGE)];
        old.resize(now.len(), 0);
        let torn = rng.chance(0.1).then(|| rng.below(PAGE as u64 / SECTOR) * SECTOR);
        let new = match torn {
            Some(sector) => (sector as usize).min(now.len()),
            None if rng.chance(luck) => now.len(),
            None => 0,
        };
        if now[new..] != old[new..] {
            let is_torn = torn.is_some() && new > 0 && now[..new] != old[..new];
            effects.add(if is_torn { Effect::PageTorn } else { Effect::PageLost }, 1);
        }
        now[new..].copy_from_slice(&old[new..]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(disk: &mut Disk, path: &[u8], bytes: &[u8]) -> Inode {
        let inode = disk.create(path, Kind::File(Vec::new()), 0o600);
        disk.write(inode, 0, bytes).unwrap();
        inode
    }

    #[test]
    fn what_was_synced_stays_and_the_rest_may_be_anything_between() {
        let (mut lost, mut kept, mut torn) = (0, 0, 0);
        for seed in 0..200 {
            let mut disk = Disk::default();
            let one = file(&mut disk, b"/one", &[1; 10_000]);
            disk.sync(one);
            disk.sync_names(b"");
            disk.write(one, 4096, &[2; 4096]).unwrap();
            file(&mut disk, b"/two", &[3; 100]);
            disk.lose_power(&mut Rng::from_number(seed));
            let bytes =
                disk.bytes(disk.find(b"/one").unwrap_or_else(|| panic!("seed {seed}: it was synced")));
            assert!(bytes.len() == 10_000 && bytes[..4096] == [1; 4096], "seed {seed}");
            assert!(bytes[8192..].iter().all(|byte| *byte == 1), "seed {seed}");
            match bytes[4096..8192].iter().filter(|byte| **byte == 2).count() {
                0 => lost += 1,
                4096 => kept += 1,
                _ => torn += 1,
            }
        }
        assert!(lost > 10 && kept > 10 && torn > 5, "{lost} lost, {kept} kept, {torn} torn");
    }

    #[test]
    fn a_name_can_be_on_the_disk_before_the_bytes_are() {
        let wrong = (0..200).filter(|seed| {
            let mut disk = Disk::default();
            file(&mut disk, b"/part", &[7; 5000]);
            disk.rename(b"/part", b"/whole");
            disk.lose_power(&mut Rng::from_number(*seed));
            disk.find(b"/whole").is_some_and(|inode| disk.bytes(inode) != [7; 5000])
        });
        assert!(wrong.count() > 20);
    }

    #[test]
    fn after_syncing_everything_nothing_is_lost() {
        for seed in 0..50 {
            let mut disk = Disk::default();
            disk.create(b"/d", Kind::Directory, 0o700);
            let inode = file(&mut disk, b"/d/part", &[7; 5000]);
            disk.set_times(inode, Some(0o444), None);
            disk.rename(b"/d/part", b"/d/whole");
            disk.sync_all();
            disk.lose_power(&mut Rng::from_number(seed));
            let inode = disk.find(b"/d/whole").unwrap();
            assert!(disk.bytes(inode) == [7; 5000] && disk.stat(inode).1 == 0o444, "seed {seed}");
        }
    }

    #[test]
    fn what_lies_in_a_lost_directory_is_lost() {
        let lost = (0..40).find(|seed| {
            let mut disk = Disk::default();
            disk.create(b"/d", Kind::Directory, 0o700);
            let inode = file(&mut disk, b"/d/f", b"x");
            disk.sync(inode);
            disk.sync_names(b"/d");
            disk.lose_power(&mut Rng::from_number(*seed));
            disk.find(b"/d").is_none() && disk.find(b"/d/f").is_none()
        });
        assert!(lost.is_some());
    }
}
