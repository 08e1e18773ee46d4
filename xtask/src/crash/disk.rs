//! A disk that keeps what was synced, and of the rest what a seed says. Pure.
//!
//! The model is POSIX's, which promises least: a file's bytes are durable after fsync or fdatasync of *that
//! file* (or a write with O_DSYNC), its permissions and times after fsync, its name after fsync of *the directory*;
//! and everything after syncfs or sync. Until then each write may be kept,
//! lost, or torn at sectors of 512 bytes, in any order; of a directory's changes a prefix is kept, since file
//! systems log those in order; a rename happens whole or not at all.

use std::collections::BTreeMap;
use std::rc::Rc;

use super::rng::Rng;

/// What a disk writes as one.
const SECTOR: usize = 512;
/// The unit in which contents are kept here.
const PAGE: usize = 4096;

/// A file or directory, by the order in which they came to be. The first is the root.
pub type Inode = usize;

/// One thing that was done to a file or directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Bytes at an offset.
    Write(u64, Rc<[u8]>),
    /// A new length.
    Truncate(u64),
    /// Permissions.
    Mode(u32),
    /// Modification time: seconds and nanoseconds.
    Time(i64, i64),
    /// A name in a directory.
    Add(Vec<u8>, Inode),
    /// A name taken away.
    Remove(Vec<u8>),
    /// A name that replaces another, or none, in the same directory.
    Rename(Vec<u8>, Vec<u8>),
}

/// What something is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// A file: its length and its pages; absent ones are zero.
    File(u64, BTreeMap<u64, Rc<[u8; PAGE]>>),
    /// A directory.
    Directory(BTreeMap<Vec<u8>, Inode>),
    /// A symlink.
    Link(Vec<u8>),
}

/// A file or directory with what is known of it besides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// What it is.
    pub body: Body,
    /// Permissions.
    pub mode: u32,
    /// Modification time, if one was set and nothing was written since.
    pub time: Option<(i64, i64)>,
}

impl Node {
    /// An empty file.
    pub fn file(mode: u32) -> Node {
        Node { body: Body::File(0, BTreeMap::new()), mode, time: None }
    }

    /// An empty directory.
    pub fn directory(mode: u32) -> Node {
        Node { body: Body::Directory(BTreeMap::new()), mode, time: None }
    }

    /// Does it.
    pub fn apply(&mut self, change: &Change) {
        match (&mut self.body, change) {
            (Body::File(len, pages), Change::Write(offset, data)) => {
                self.time = None;
                *len = (*len).max(offset + data.len() as u64);
                write(pages, *offset, data);
            }
            (Body::File(len, pages), Change::Truncate(to)) => {
                self.time = None;
                if to < len {
                    pages.split_off(&to.div_ceil(PAGE as u64));
                    let inside = (to % PAGE as u64) as usize;
                    if inside > 0
                        && let Some(page) = pages.get_mut(&(to / PAGE as u64))
                    {
                        Rc::make_mut(page)[inside..].fill(0);
                    }
                }
                *len = *to;
            }
            (Body::Directory(names), Change::Add(name, inode)) => {
                self.time = None;
                names.insert(name.clone(), *inode);
            }
            (Body::Directory(names), Change::Remove(name)) => {
                self.time = None;
                names.remove(name);
            }
            (Body::Directory(names), Change::Rename(from, to)) => {
                self.time = None;
                if let Some(inode) = names.remove(from) {
                    names.insert(to.clone(), inode);
                }
            }
            (_, Change::Mode(mode)) => self.mode = *mode,
            (_, Change::Time(seconds, nanos)) => self.time = Some((*seconds, *nanos)),
            (body, change) => unreachable!("the recorder made {change:?} of {body:?}"),
        }
    }
}

fn write(pages: &mut BTreeMap<u64, Rc<[u8; PAGE]>>, offset: u64, data: &[u8]) {
    let mut done = 0;
    while done < data.len() {
        let at = offset + done as u64;
        let inside = (at % PAGE as u64) as usize;
        let count = (PAGE - inside).min(data.len() - done);
        let page = pages.entry(at / PAGE as u64).or_insert_with(|| Rc::new([0; PAGE]));
        Rc::make_mut(page)[inside..inside + count].copy_from_slice(&data[done..done + count]);
        done += count;
    }
}

/// What happens to what was not synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// All of it is lost.
    Lose,
    /// All of it is kept, as when only the process dies.
    Keep,
    /// Each write is kept or lost.
    Some,
    /// Each write is kept, lost or torn.
    Tear,
    /// The same, but all names are kept: what file systems that log names and not bytes do most often.
    Names,
}

struct Kept {
    durable: Node,
    pending: Vec<Pending>,
}

/// A change that is on its way to the disk.
struct Pending {
    /// When its call came back.
    end: usize,
    change: Change,
    /// It is on the disk, though what was done before it may not be.
    there: bool,
}

/// The disk, at one moment.
pub struct Disk {
    nodes: Vec<Kept>,
}

impl Disk {
    /// A disk with an empty root.
    pub fn new() -> Disk {
        Disk { nodes: vec![Kept { durable: Node::directory(0o700), pending: Vec::new() }] }
    }

    /// Something new; no directory names it yet.
    pub fn create(&mut self, node: Node) -> Inode {
        self.nodes.push(Kept { durable: node, pending: Vec::new() });
        self.nodes.len() - 1
    }

    /// Something was done; `end` is when the call came back.
    pub fn change(&mut self, inode: Inode, end: usize, change: Change) {
        self.nodes[inode].pending.push(Pending { end, change, there: false });
    }

    /// A sync came back that had begun at `begin`: what had been done before it is durable.
    pub fn sync(&mut self, inode: Inode, begin: usize) {
        self.sync_what(inode, begin, |_| true);
    }

    /// fdatasync came back: bytes and lengths are durable.
    pub fn sync_data(&mut self, inode: Inode, begin: usize) {
        self.sync_what(inode, begin, |change| !matches!(change, Change::Mode(_) | Change::Time(..)));
    }

    /// syncfs came back: everything is durable.
    pub fn sync_all(&mut self, begin: usize) {
        (0..self.nodes.len()).for_each(|inode| self.sync(inode, begin));
    }

    fn sync_what(&mut self, inode: Inode, begin: usize, covered: impl Fn(&Change) -> bool) {
        let kept = &mut self.nodes[inode];
        let all = std::mem::take(&mut kept.pending).into_iter();
        let (done, pending): (Vec<Pending>, Vec<Pending>) =
            all.partition(|pending| pending.end < begin && covered(&pending.change));
        kept.pending = pending;
        done.iter().for_each(|pending| kept.durable.apply(&pending.change));
    }

    /// One write with O_DSYNC came back: it is durable, and nothing besides it.
    pub fn sync_one(&mut self, inode: Inode, end: usize) {
        let pending = self.nodes[inode].pending.iter_mut().filter(|pending| pending.end == end);
        pending.for_each(|pending| pending.there = true);
    }

    /// What is found when power is lost now.
    pub fn cut(&self, policy: Policy, rng: &mut Rng) -> Vec<Node> {
        let found = |kept: &Kept| {
            let mut node = kept.durable.clone();
            let directory = matches!(node.body, Body::Directory(_));
            // Losing and keeping some of a directory's changes means keeping those before some moment.
            let prefix = rng.below(kept.pending.len() as u64 + 1) as usize;
            for (index, Pending { change, there, .. }) in kept.pending.iter().enumerate() {
                match policy {
                    Policy::Keep => node.apply(change),
                    _ if *there => node.apply(change),
                    Policy::Lose => {}
                    _ if directory => {
                        if index < prefix || policy == Policy::Names {
                            node.apply(change);
                        }
                    }
                    Policy::Tear | Policy::Names if rng.chance(40) => {
                        torn(change, rng).iter().for_each(|part| node.apply(part))
                    }
                    Policy::Some | Policy::Tear | Policy::Names => {
                        if rng.chance(50) {
                            node.apply(change);
                        }
                    }
                }
            }
            node
        };
        self.nodes.iter().map(found).collect()
    }
}

/// The sectors of a write that reached the disk.
fn torn(change: &Change, rng: &mut Rng) -> Vec<Change> {
    let Change::Write(offset, data) = change else { return Vec::new() };
    let (mut parts, mut at) = (Vec::new(), 0);
    while at < data.len() {
        let inside = ((offset + at as u64) % SECTOR as u64) as usize;
        let count = (SECTOR - inside).min(data.len() - at);
        if rng.chance(50) {
            parts.push(Change::Write(offset + at as u64, data[at..at + count].into()));
        }
        at += count;
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(node: &Node) -> Vec<u8> {
        let Body::File(len, pages) = &node.body else { panic!("no file") };
        let mut out = vec![0; *len as usize];
        for (page, data) in pages {
            let at = *page as usize * PAGE;
            let end = (at + PAGE).min(out.len());
            out[at..end].copy_from_slice(&data[..end - at]);
        }
        out
    }

    fn wrote(at: u64, fill: u8, len: usize) -> Change {
        Change::Write(at, vec![fill; len].into())
    }

    #[test]
    fn only_what_ended_before_the_sync_began_is_durable() {
        let mut disk = Disk::new();
        let file = disk.create(Node::file(0o600));
        disk.change(file, 10, wrote(0, 1, 600));
        disk.change(file, 21, wrote(600, 2, 600));
        disk.sync(file, 20);
        let lost = disk.cut(Policy::Lose, &mut Rng::new(1, "", 0));
        assert_eq!(bytes(&lost[file]), vec![1; 600]);
        let kept = disk.cut(Policy::Keep, &mut Rng::new(1, "", 0));
        assert_eq!(bytes(&kept[file]), [vec![1; 600], vec![2; 600]].concat());
        disk.sync(file, 30);
        assert_eq!(disk.cut(Policy::Lose, &mut Rng::new(1, "", 0)), kept);
    }

    #[test]
    fn a_file_without_its_directorys_sync_has_no_name() {
        let mut disk = Disk::new();
        let file = disk.create(Node::file(0o600));
        disk.change(0, 1, Change::Add(b"a".to_vec(), file));
        disk.sync(file, 5);
        let names = |disk: &Disk, policy| {
            let found = disk.cut(policy, &mut Rng::new(1, "", 0));
            let Body::Directory(names) = &found[0].body else { panic!("no directory") };
            names.keys().cloned().collect::<Vec<_>>()
        };
        assert!(names(&disk, Policy::Lose).is_empty());
        assert_eq!(names(&disk, Policy::Names), [b"a".to_vec()]);
        disk.sync(0, 6);
        disk.change(0, 7, Change::Rename(b"a".to_vec(), b"b".to_vec()));
        assert_eq!(names(&disk, Policy::Lose), [b"a".to_vec()]);
        assert_eq!(names(&disk, Policy::Keep), [b"b".to_vec()]);
        disk.change(0, 8, Change::Remove(b"b".to_vec()));
        assert!(names(&disk, Policy::Keep).is_empty());
    }

    #[test]
    fn fdatasync_leaves_out_modes_and_times_and_syncfs_nothing() {
        let mut disk = Disk::new();
        let file = disk.create(Node::file(0o600));
        disk.change(0, 1, Change::Add(b"a".to_vec(), file));
        disk.change(file, 2, wrote(0, 1, 10));
        disk.change(file, 3, Change::Mode(0o644));
        disk.change(file, 4, Change::Time(7, 8));
        let found = |disk: &Disk| disk.cut(Policy::Lose, &mut Rng::new(1, "", 0));
        disk.sync_data(file, 9);
        let after = found(&disk);
        assert_eq!((bytes(&after[file]), after[file].mode, after[file].time), (vec![1; 10], 0o600, None));
        disk.change(file, 19, Change::Truncate(3));
        disk.sync_all(15);
        let after = found(&disk);
        assert_eq!((after[file].mode, after[file].time), (0o644, Some((7, 8))));
        assert_eq!(bytes(&after[file]).len(), 10, "that came back after the sync had begun");
        assert!(matches!(&after[0].body, Body::Directory(names) if names.contains_key(&b"a"[..])));
        disk.sync_all(20);
        assert_eq!(found(&disk)[file].time, None, "what is written has a time of its own");
    }

    #[test]
    fn a_torn_write_keeps_whole_sectors_and_all_outcomes_occur() {
        let mut disk = Disk::new();
        let file = disk.create(Node::file(0o600));
        disk.change(file, 1, wrote(0, 1, 8192));
        disk.sync(file, 2);
        disk.change(file, 3, wrote(100, 2, 4000));
        let (mut old, mut new, mut mixed) = (0, 0, 0);
        for seed in 0..200 {
            let found = bytes(&disk.cut(Policy::Tear, &mut Rng::new(seed, "", 0))[file]);
            assert!(found[..100].iter().chain(&found[4100..]).all(|byte| *byte == 1));
            let written = &found[100..4100];
            match written.iter().filter(|byte| **byte == 2).count() {
                0 => old += 1,
                4000 => new += 1,
                _ => mixed += 1,
            }
            for sector in found.chunks(SECTOR).skip(1).take(6) {
                assert!(sector.iter().all(|byte| *byte == sector[0]), "a sector is old or new");
            }
        }
        assert!(old > 0 && new > 0 && mixed > 0, "{old} {new} {mixed}");
    }

    #[test]
    fn o_dsync_syncs_one_write_and_lengths_are_changes() {
        let mut disk = Disk::new();
        let file = disk.create(Node::file(0o600));
        disk.change(file, 1, wrote(0, 1, 10));
        disk.change(file, 2, wrote(20, 2, 10));
        disk.change(file, 3, wrote(25, 3, 5));
        disk.sync_one(file, 3);
        let found = |disk: &Disk| bytes(&disk.cut(Policy::Lose, &mut Rng::new(1, "", 0))[file]);
        assert_eq!(found(&disk), [vec![0; 25], vec![3; 5]].concat());
        disk.sync(file, 4);
        let all = [vec![1; 10], vec![0; 10], vec![2; 5], vec![3; 5]].concat();
        assert_eq!(found(&disk), all, "what was written before does not come back over it");
        disk.change(file, 5, Change::Truncate(5));
        disk.change(file, 6, Change::Truncate(12));
        disk.sync(file, 9);
        assert_eq!(found(&disk), [vec![1; 5], vec![0; 7]].concat(), "what was cut off is zero");
    }
}
