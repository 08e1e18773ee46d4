//! Finding the entry and planning the tree: directories are read, many at once, until all totals are known.

use super::super::find::Next;
use super::super::read::BlobRead;
use super::super::tree::{Dir, File, Link};
use super::{Job, Phase, Purpose, ReadFor, ReadId};
use crate::base::fileop::{FileAct, FileTime};
use crate::limits::{DIRECTORY_DEPTH_MAX, DIRECTORY_SIZE_MAX, GET_ENTRIES_MAX, PLAN_AHEAD_BYTES};
use crate::wire::directory::{DirectoryView, Entry, Node};
use crate::wire::extents::ExtentList;
use crate::wire::reference::Blob;

impl Job {
    pub(super) fn read_directory(&mut self, blob: Blob, purpose: ReadFor) {
        if blob.size > DIRECTORY_SIZE_MAX as u64 {
            return self.fail("a directory of this reference is larger than any directory may be");
        }
        self.read(blob, purpose);
    }

    pub(super) fn read(&mut self, blob: Blob, purpose: ReadFor) {
        let id = ReadId(self.next_read);
        self.next_read += 1;
        self.reading_bytes += blob.size;
        self.reads.insert(id, (BlobRead::new(&blob), purpose));
        self.go_on_reading(id);
    }

    pub(super) fn go_on_reading(&mut self, id: ReadId) {
        while let Some((blob, offset)) = self.reads.get_mut(&id).and_then(|(read, _)| read.poll_piece()) {
            let all = blob.top.as_ref().map_or(0, |top| ((1u32 << top.records()) - 1) as u16);
            let Some(task) = self.start(&blob, all, Purpose::Read(id)) else { continue };
            if let Some((read, _)) = self.reads.get_mut(&id) {
                read.started(task, blob, offset);
            }
        }
    }

    /// Takes reads that are complete.
    pub(super) fn finished_reads(&mut self) -> Vec<(Vec<u8>, ReadFor)> {
        let mut finished = Vec::new();
        let ids: Vec<_> = self.reads.keys().copied().collect();
        for id in ids {
            self.go_on_reading(id);
            let Some(bytes) = self.reads.get_mut(&id).and_then(|(read, _)| read.finished()) else { continue };
            let Some((_, purpose)) = self.reads.remove(&id) else { continue };
            self.reading_bytes = self.reading_bytes.saturating_sub(bytes.len() as u64);
            finished.push((bytes, purpose));
        }
        finished
    }

    pub(super) fn find(&mut self) -> bool {
        for (bytes, purpose) in self.finished_reads() {
            let ReadFor::FindList(blob) = purpose else { continue };
            let Ok(list) = ExtentList::new_checked(&bytes, &blob) else {
                self.fail("a directory of this reference is malformed: it is damaged or hostile");
                return false;
            };
            if let Phase::Find(find) = &mut self.phase {
                find.list(list.iter().collect());
            }
        }
        let Phase::Find(find) = &mut self.phase else { return false };
        if self.reads.values().any(|(_, purpose)| matches!(purpose, ReadFor::FindList(_))) {
            return false;
        }
        match find.next() {
            Next::Wait => false,
            Next::ReadList(blob) => {
                let list = Blob {
                    size: blob.top.as_ref().map_or(0, |t| u64::from(t.plain_len)),
                    depth: 0,
                    ..blob.clone()
                };
                self.read(list, ReadFor::FindList(blob));
                false
            }
            Next::Fetch(pieces) => {
                for (blob, offset, records) in pieces {
                    self.start(&blob, records, Purpose::Find(offset));
                }
                false
            }
            Next::Found(entry) => {
                self.begin(vec![*entry]);
                true
            }
            Next::Absent(path) => {
                self.fail(&format!("the reference has no entry {:?}", String::from_utf8_lossy(&path)));
                true
            }
            Next::Broken(what) => {
                self.fail(&format!("the reference is damaged or hostile: {what}"));
                true
            }
        }
    }

    pub(super) fn plan(&mut self) -> bool {
        let mut went_on = false;
        for (bytes, purpose) in self.finished_reads() {
            let parent = match purpose {
                ReadFor::Root => 0,
                ReadFor::Dir(dir) => dir,
                ReadFor::FindList(_) | ReadFor::FileList(..) => continue,
            };
            went_on = true;
            let Ok(view) = DirectoryView::new_checked(&bytes) else {
                self.fail("a directory of this reference is malformed: it is damaged or hostile");
                return true;
            };
            let mut entries: Vec<Entry<'static>> = view.iter().map(Entry::into_owned).collect();
            entries.sort_unstable_by(|a, b| a.name.cmp(&b.name));
            match purpose {
                ReadFor::Root => self.begin(entries),
                _ => entries.into_iter().for_each(|entry| self.add(parent, entry)),
            }
            if self.outcome.is_some() {
                return true;
            }
        }
        while self.reading_bytes < PLAN_AHEAD_BYTES as u64
            && let Some((dir, blob)) = self.unread.pop_front()
        {
            self.read_directory(blob, ReadFor::Dir(dir));
            went_on = true;
        }
        if self.begun && self.reads.is_empty() && self.unread.is_empty() && self.outcome.is_none() {
            self.progress.planned = true;
            self.order = self.tree.order();
            self.phase = Phase::Dirs(1);
            return true;
        }
        went_on
    }

    /// The entries to restore are known: decides where they go, opens the root, goes on planning.
    pub(super) fn begin(&mut self, mut entries: Vec<Entry<'static>>) {
        let mut root = self.request.root.clone();
        let root_dir = Dir { parent: 0, name: Vec::new(), mode: 0, mtime: FileTime::default(), depth: 0 };
        self.tree.dirs.push(root_dir);
        if let Some(name) = self.request.rename.clone() {
            match &mut entries[..] {
                [entry] => entry.name = name.into(),
                _ => match std::str::from_utf8(&name) {
                    Ok(name) => root = format!("{}/{name}", root.trim_end_matches('/')),
                    Err(_) => {
                        return self
                            .fail("several entries need a directory whose name is UTF-8; choose another");
                    }
                },
            }
        }
        // Merged into `root`, or made there under that name: the same place, so the same journal resumes it.
        if self.request.merge
            && self.request.rename.is_none()
            && let [Entry { node: Node::Directory(_), name, .. }] = &mut entries[..]
            && let Some((parent, own)) = root.clone().trim_end_matches('/').rsplit_once('/')
        {
            *name = own.as_bytes().to_vec().into();
            root = if parent.is_empty() { "/".into() } else { parent.into() };
        }
        if let [entry] = &entries[..] {
            self.progress.name = entry.name.to_vec();
        }
        let journal = self.request.journal_name(&root, entries.first().map(|entry| &*entry.name));
        self.ops.push_back(FileAct::Begin { root, journal, overwrite: self.request.overwrite });
        self.phase = Phase::Plan;
        entries.into_iter().for_each(|entry| self.add(0, entry));
    }

    pub(super) fn add(&mut self, parent: u32, entry: Entry<'static>) {
        if self.tree.entries() >= GET_ENTRIES_MAX {
            return self.fail(&format!(
                "the tree has more than {GET_ENTRIES_MAX} entries; get it in parts: REFERENCE/sub/directory"
            ));
        }
        let depth = self.tree.dirs[parent as usize].depth + 1;
        let Entry { name, mode, mtime, node } = entry;
        let (name, mode) = (name.into_owned(), u32::from(mode));
        match node {
            Node::Directory(_) if usize::from(depth) > DIRECTORY_DEPTH_MAX => {
                self.fail(&format!("directories are nested more than {DIRECTORY_DEPTH_MAX} deep"));
            }
            Node::Directory(blob) => {
                let dir = self.tree.dirs.len() as u32;
                self.tree.dirs.push(Dir { parent, name, mode, mtime, depth });
                self.unread.push_back((dir, blob));
            }
            Node::File(blob) => {
                self.progress.files_total += 1;
                self.progress.bytes_total = self.progress.bytes_total.saturating_add(blob.size);
                self.tree.files.push(File { parent, name, mode, mtime, blob });
            }
            Node::Symlink(target) => {
                let target = target.into_owned();
                self.tree.links.push(Link { parent, name, target, mtime });
            }
        }
    }
}
