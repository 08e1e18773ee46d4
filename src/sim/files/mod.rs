//! A file system in memory that executes [`FileOp`]s as `io::files` does.

use std::collections::BTreeMap;

use crate::base::fileop::{
    FileAct, FileDone, FileFault, FileOp, FileOutcome, FileTime, JobId, JournalRecord,
};

/// A finished entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    /// A file: its content, mode and time.
    File(Vec<u8>, u32, FileTime),
    /// A symlink and its target.
    Link(Vec<u8>),
    /// A directory: mode and time once finished.
    Dir(u32, FileTime),
}

/// Records of one file's journal: number → tag.
type Journal = BTreeMap<u64, [u8; 16]>;

#[derive(Default)]
struct Job {
    journal: [u8; 16],
    dirs: BTreeMap<u32, String>,
    files: BTreeMap<u32, String>,
}

/// The files of one simulated node. Survives a simulated crash: drop the jobs with [`SimFiles::crash`].
#[derive(Default)]
pub struct SimFiles {
    /// Finished entries by path.
    pub tree: BTreeMap<String, Node>,
    /// Unfinished files by the path that they will have.
    pub partial: BTreeMap<String, Vec<u8>>,
    /// Journals of unfinished jobs, by name and path.
    pub journals: BTreeMap<[u8; 16], BTreeMap<String, Journal>>,
    jobs: BTreeMap<JobId, Job>,
    /// Refuse writes after so many more bytes: a full disk.
    pub room: Option<u64>,
    /// Plaintext bytes written, also repeatedly.
    pub bytes_written: u64,
}

impl SimFiles {
    /// The process dies: open jobs are forgotten, files and journals stay.
    pub fn crash(&mut self) {
        self.jobs.clear();
    }

    /// Executes one operation.
    pub fn execute(&mut self, op: FileOp) -> FileDone {
        FileDone { job: op.job, result: self.act(op.job, op.act) }
    }

    fn act(&mut self, id: JobId, act: FileAct) -> Result<FileOutcome, FileFault> {
        if let FileAct::Begin { root, journal, .. } = act {
            let resumed = self.journals.contains_key(&journal);
            self.journals.entry(journal).or_default();
            let dirs = BTreeMap::from([(0, root)]);
            self.jobs.insert(id, Job { journal, dirs, files: BTreeMap::new() });
            return Ok(FileOutcome::Began { resumed });
        }
        let Some(job) = self.jobs.get_mut(&id) else { return Err(fault("no such job")) };
        let journal = self.journals.entry(job.journal).or_default();
        let path = |job: &Job, parent: u32, name: &[u8]| {
            format!("{}/{}", job.dirs[&parent], String::from_utf8_lossy(name))
        };
        match act {
            FileAct::Begin { .. } => unreachable!("handled above"),
            FileAct::Directory { dir, parent, name } => {
                let path = path(job, parent, &name);
                job.dirs.insert(dir, path.clone());
                self.tree.insert(path, Node::Dir(0o700, FileTime::default()));
                Ok(FileOutcome::Done)
            }
            FileAct::Open { file, parent, name, size } => {
                let path = path(job, parent, &name);
                job.files.insert(file, path.clone());
                let known = journal.entry(path.clone()).or_default();
                let records =
                    known.iter().map(|(record, tag)| JournalRecord { record: *record, tag: *tag }).collect();
                if let Some(Node::File(bytes, ..)) = self.tree.get(&path) {
                    self.partial.insert(path.clone(), bytes.clone());
                }
                self.partial.entry(path).or_default().resize(size as usize, 0);
                Ok(FileOutcome::Opened { file, journal: records })
            }
            FileAct::ReadBack { file, offset, mut into, len, record } => {
                let bytes = &self.partial[&job.files[&file]];
                let from = (offset as usize).min(bytes.len());
                let to = (from + len as usize).min(bytes.len());
                into[..to - from].copy_from_slice(&bytes[from..to]);
                Ok(FileOutcome::Read { file, record, data: into, len: (to - from) as u32 })
            }
            FileAct::Write { file, offset, data, start, len, record, tag } => {
                take_room(&mut self.room, len)?;
                let path = &job.files[&file];
                let plain = &data[start as usize..(start + len) as usize];
                let bytes = self.partial.get_mut(path).expect("opened before");
                bytes[offset as usize..offset as usize + plain.len()].copy_from_slice(plain);
                journal.entry(path.clone()).or_default().insert(record, tag);
                self.bytes_written += u64::from(len);
                Ok(FileOutcome::Written { len })
            }
            FileAct::Finish { file, mode, mtime } => {
                let path = job.files.remove(&file).expect("opened before");
                let bytes = self.partial.remove(&path).expect("opened before");
                self.tree.insert(path, Node::File(bytes, mode, mtime));
                Ok(FileOutcome::Done)
            }
            FileAct::Whole { parent, name, data, start, len, tag, mode, mtime } => {
                take_room(&mut self.room, len)?;
                let path = path(job, parent, &name);
                let bytes =
                    data.map_or_else(Vec::new, |data| data[start as usize..(start + len) as usize].to_vec());
                journal.entry(path.clone()).or_default().insert(0, tag);
                self.tree.insert(path, Node::File(bytes, mode, mtime));
                self.bytes_written += u64::from(len);
                Ok(FileOutcome::Written { len })
            }
            FileAct::Symlink { parent, name, target, .. } => {
                let path = path(job, parent, &name);
                self.tree.insert(path, Node::Link(target));
                Ok(FileOutcome::Done)
            }
            FileAct::FinishDirectory { dir, mode, mtime } => {
                self.tree.insert(job.dirs[&dir].clone(), Node::Dir(mode, mtime));
                Ok(FileOutcome::Done)
            }
            FileAct::End { complete } => {
                if complete {
                    let name = job.journal;
                    self.journals.remove(&name);
                }
                self.jobs.remove(&id);
                Ok(FileOutcome::Done)
            }
        }
    }
}

fn take_room(room: &mut Option<u64>, len: u32) -> Result<(), FileFault> {
    match room {
        None => Ok(()),
        Some(left) if *left >= u64::from(len) => {
            *left -= u64::from(len);
            Ok(())
        }
        Some(_) => Err(FileFault { message: "disk full".into(), retryable: true }),
    }
}

fn fault(message: &str) -> FileFault {
    FileFault { message: message.into(), retryable: false }
}
