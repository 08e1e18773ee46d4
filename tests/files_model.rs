//! The simulator's model of the files thread (`sim::files`) against the real one (`io::files`): the same random
//! scripts of operations, with a person who interferes and processes that die, give the same answers and leave the
//! same files. What the simulator finds out about crashes means something only as long as this holds.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use tornet::base::fileop::{FileAct, FileFault, FileOp, FileOutcome, FileTime, JobId};
use tornet::base::{Rng, SliceBuf, SlicePool};
use tornet::io::files::Files;
use tornet::sim::Crash;
use tornet::sim::files::disk::Kind;
use tornet::sim::files::{Node, SimFiles};

/// They wait for the disk at every sync.
const SEEDS: u64 = 150;
/// Bytes of a record in these scripts: small, since contents are not the point.
const RECORD: u64 = 100;
/// Few, so that runs meet what earlier ones left.
const NAMES: [&[u8]; 6] = [b"a", b"b", b"c", b"with space", b"\xff\xfe", b".hidden"];

/// A file that a script has open.
#[derive(Clone)]
struct Open {
    number: u32,
    size: u64,
    journal: Vec<u64>,
}

/// The two, side by side.
struct Pair {
    seed: u64,
    rng: Rng,
    place: tempfile::TempDir,
    real: Files,
    model: SimFiles,
    pool: SlicePool,
    log: Vec<String>,
    /// Directories whose time is settled: by path below the root.
    timed: BTreeSet<Vec<u8>>,
}

/// What is compared of an answer: everything but the words of a fault, which name paths.
fn shape(result: &Result<FileOutcome, FileFault>) -> String {
    match result {
        Ok(FileOutcome::Read { file, record, data, len }) => {
            format!("read {file} {record}: {:?}", &data[..*len as usize])
        }
        Ok(outcome) => format!("{outcome:?}"),
        Err(fault) => {
            assert!(!fault.message.contains('\n') && fault.message.contains(' '), "{fault}");
            "a fault".into()
        }
    }
}

impl Pair {
    fn new(seed: u64) -> Self {
        let place = tempfile::tempdir().expect("a temporary directory");
        let real = Files::new(place.path().join("gets")).expect("journals");
        let (rng, pool) = (Rng::from_number(seed), SlicePool::new(4));
        let (model, log) = (SimFiles::default(), Vec::new());
        Self { seed, rng, place, real, model, pool, log, timed: BTreeSet::new() }
    }

    fn below(&mut self, most: u64) -> u64 {
        self.rng.below(most)
    }

    fn buffer(&self, byte: u8) -> SliceBuf {
        let mut buffer = self.pool.lease().expect("buffers come back");
        buffer[..RECORD as usize + 3].fill(byte);
        buffer
    }

    /// The same to both; the answer, if they agree.
    fn act(&mut self, job: u64, act: impl Fn(&Self, bool) -> FileAct) -> Result<FileOutcome, FileFault> {
        let (job, to_real, to_model) = (JobId(job), act(self, true), act(self, false));
        self.log.push(format!("job {}: {}", job.0, tornet::sim::trace::describe(&to_model)));
        let real = self.real.execute(FileOp { job, act: to_real });
        let model = self.model.execute(FileOp { job, act: to_model });
        let (left, right) = (shape(&real.result), shape(&model.result));
        assert!(
            left == right && real.job == model.job,
            "seed {}: really {left} ({:?}), in the model {right} ({:?}), after\n{}",
            self.seed,
            real.result.as_ref().err(),
            model.result.as_ref().err(),
            self.log.join("\n")
        );
        real.result
    }

    fn real_path(&self, path: &[u8]) -> PathBuf {
        self.place.path().join(OsStr::from_bytes(&path[1..]))
    }

    // ---- scripts ----

    /// One get, or as much of it as there is before something ends it.
    fn run(&mut self, job: u64, number: u8) {
        let (overwrite, journal) = (self.below(3) == 0, [number; 16]);
        let begun = self.act(job, |pair, is_real| {
            let root = if is_real {
                pair.real_path(b"/out").to_str().expect("text").to_owned()
            } else {
                "/out".into()
            };
            FileAct::Begin { root, journal, overwrite }
        });
        if begun.is_err() {
            return;
        }
        self.timed.clear();
        let mut dirs: Vec<(u32, Vec<u8>)> = vec![(0, Vec::new())];
        let (mut used, mut open) = (BTreeSet::new(), BTreeMap::<Vec<u8>, Open>::new());
        for step in 1..5 + self.below(30) as u32 {
            let at = self.below(dirs.len() as u64) as usize;
            let (parent, above) = dirs[at].clone();
            let name = NAMES[self.below(NAMES.len() as u64) as usize].to_vec();
            let path = [&above[..], b"/", &name].concat();
            let kind = self.below(10);
            if kind < 7 && !used.insert(path.clone()) {
                continue;
            }
            match kind {
                0 | 1 if above.len() < 20 => {
                    let made =
                        self.act(job, |_, _| FileAct::Directory { dir: step, parent, name: name.clone() });
                    if made.is_ok() {
                        dirs.push((step, path));
                    }
                }
                0..=3 => self.open(job, step, parent, &name, &path, &mut open),
                4 => {
                    let target = [&b"../x"[..], b"a", b"/nowhere"][self.below(3) as usize].to_vec();
                    let mtime = self.time();
                    _ = self.act(job, |_, _| FileAct::Symlink {
                        parent,
                        name: name.clone(),
                        target: target.clone(),
                        mtime,
                    });
                }
                5 | 6 => self.whole(job, parent, &name),
                7 | 8 => self.record(job, &mut open),
                _ => self.finish(job, &mut open),
            }
        }
        if self.below(4) == 0 {
            // Killed; or given up, with files open.
            if self.below(2) == 0 {
                self.killed();
            } else {
                _ = self.act(job, |_, _| FileAct::End { complete: false });
            }
            return;
        }
        while !open.is_empty() {
            self.finish(job, &mut open);
        }
        for (dir, path) in dirs.into_iter().rev() {
            let (mode, mtime) = (0o700 | self.below(0o100) as u32, self.time());
            if dir != 0 && self.act(job, |_, _| FileAct::FinishDirectory { dir, mode, mtime }).is_ok() {
                self.timed.insert(path);
            }
        }
        let complete = self.below(3) > 0;
        _ = self.act(job, |_, _| FileAct::End { complete });
    }

    fn time(&mut self) -> FileTime {
        FileTime { seconds: self.below(2_000_000_000) as i64, nanos: self.below(1_000_000_000) as u32 }
    }

    fn open(
        &mut self,
        job: u64,
        number: u32,
        parent: u32,
        name: &[u8],
        path: &[u8],
        open: &mut BTreeMap<Vec<u8>, Open>,
    ) {
        // Of a name every run says the same, as a get of one content does.
        let size = RECORD * (u64::from(path[path.len() - 1]) % 4) + 30;
        let name = name.to_vec();
        let opened = self.act(job, |_, _| FileAct::Open { file: number, parent, name: name.clone(), size });
        if let Ok(FileOutcome::Opened { journal, .. }) = opened {
            let journal = journal.iter().map(|entry| entry.record).collect();
            open.insert(path.to_vec(), Open { number, size, journal });
        }
    }

    fn whole(&mut self, job: u64, parent: u32, name: &[u8]) {
        let (len, byte) = (self.below(RECORD) as u32, self.below(256) as u8);
        let (mode, mtime, name) = (self.below(0o1000) as u32 | 0o400, self.time(), name.to_vec());
        _ = self.act(job, |pair, _| FileAct::Whole {
            parent,
            name: name.clone(),
            data: (len > 0).then(|| pair.buffer(byte)),
            start: if len > 0 { 2 } else { 0 },
            len,
            tag: [byte; 16],
            mode,
            mtime,
        });
    }

    fn some(&mut self, open: &BTreeMap<Vec<u8>, Open>) -> Option<(Vec<u8>, Open)> {
        let at = self.below(open.len().max(1) as u64) as usize;
        open.iter().nth(at).map(|(path, file)| (path.clone(), file.clone()))
    }

    /// Writes a record of an open file, or reads one back that its journal names.
    fn record(&mut self, job: u64, open: &mut BTreeMap<Vec<u8>, Open>) {
        let Some((path, Open { number: file, size, journal })) = self.some(open) else { return };
        let record = self.below(size.div_ceil(RECORD));
        let (offset, len) = (record * RECORD, (size - record * RECORD).min(RECORD) as u32);
        if journal.contains(&record) && self.below(2) == 0 {
            _ = self.act(job, |pair, _| FileAct::ReadBack {
                file,
                offset,
                into: pair.buffer(0),
                len,
                record,
            });
            return;
        }
        let byte = self.below(256) as u8;
        let written = self.act(job, |pair, _| FileAct::Write {
            file,
            offset,
            data: pair.buffer(byte),
            start: 1,
            len,
            record,
            tag: [byte; 16],
        });
        if written.is_err() {
            // It is closed, and says so.
            _ = self.act(job, |_, _| FileAct::Finish { file, mode: 0o644, mtime: FileTime::default() });
            open.remove(&path);
        }
    }

    fn finish(&mut self, job: u64, open: &mut BTreeMap<Vec<u8>, Open>) {
        let Some((path, Open { number: file, .. })) = self.some(open) else { return };
        let (mode, mtime) = (self.below(0o10000) as u32, self.time());
        _ = self.act(job, |_, _| FileAct::Finish { file, mode, mtime });
        open.remove(&path);
    }

    fn killed(&mut self) {
        self.log.push("killed".into());
        self.real = Files::new(self.place.path().join("gets")).expect("journals");
        self.model.crash(Crash::Process, &mut self.rng);
    }

    /// A person deletes, changes or puts something below the output.
    fn interfere(&mut self) {
        let entries: Vec<_> =
            self.model.disk.below(b"/out").map(|(path, inode)| (path.to_vec(), inode)).collect();
        let Some((path, inode)) = entries.get(self.below(entries.len().max(1) as u64) as usize).cloned()
        else {
            return;
        };
        let real = self.real_path(&path);
        let kind = self.model.disk.stat(inode).0.clone();
        let above = path[..path.iter().rposition(|byte| *byte == b'/').expect("absolute")].to_vec();
        self.timed.remove(&above[b"/out".len()..]);
        match (kind, self.below(3)) {
            (Kind::Directory, _) => {
                let path = [&path[..], b"/b"].concat();
                let is_unfinished = path.windows(8).any(|part| part == b".tornet-");
                if self.model.at(&path).is_none() && !is_unfinished {
                    self.log.push(format!("a person makes {}", path.escape_ascii()));
                    self.timed.remove(&path[b"/out".len()..path.len() - 2]);
                    std::fs::write(self.real_path(&path), b"mine").expect("written");
                    self.touch(&path, 5);
                    self.model.plant(&path, b"mine");
                    self.settle_planted(&path);
                }
            }
            (Kind::File(bytes), 0) if !bytes.is_empty() => {
                self.log.push(format!("a person changes {}", path.escape_ascii()));
                let mut changed = bytes;
                changed[0] ^= 1;
                std::fs::write(&real, &changed).expect("written");
                self.touch(&path, 9);
                self.model.disk.write(inode, 0, &changed[..1]).expect("there is room");
                let time = FileTime { seconds: 9, nanos: 0 };
                self.model.disk.set_times(inode, None, Some(time));
            }
            _ => {
                self.log.push(format!("a person deletes {}", path.escape_ascii()));
                std::fs::remove_file(&real).expect("deleted");
                self.model.disk.unlink(&path);
            }
        }
    }

    fn touch(&self, path: &[u8], seconds: u64) {
        let file = std::fs::File::options().write(true).open(self.real_path(path)).expect("it is there");
        file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)).expect("set");
    }

    fn settle_planted(&mut self, path: &[u8]) {
        let inode = self.model.disk.find(path).expect("planted");
        self.model.disk.set_times(inode, Some(0o644), Some(FileTime { seconds: 5, nanos: 0 }));
    }

    // ---- comparing ----

    fn compare(&self) {
        let mut real = BTreeMap::new();
        let root = self.place.path().join("out");
        if root.exists() {
            self.walk(&root, &mut real);
        }
        let model: BTreeMap<Vec<u8>, Node> = self
            .model
            .disk
            .below(b"/out")
            .map(|(path, _)| {
                (path[b"/out".len()..].to_vec(), self.settled(path, self.model.at(path).expect("named")))
            })
            .collect();
        let real: BTreeMap<Vec<u8>, Node> = real.into_iter().collect();
        for path in real.keys().chain(model.keys()) {
            assert!(
                real.get(path) == model.get(path),
                "seed {}: {}: really {:?}, in the model {:?}, after\n{}",
                self.seed,
                path.escape_ascii(),
                real.get(path),
                model.get(path),
                self.log.join("\n")
            );
        }
        let journals = std::fs::read_dir(self.place.path().join("gets")).expect("journals").count();
        let modelled = self.model.disk.below(b"/node").count();
        assert_eq!(journals, modelled, "seed {}: journals, after\n{}", self.seed, self.log.join("\n"));
    }

    /// What no operation settles is whatever the file system makes of it.
    fn settled(&self, path: &[u8], node: Node) -> Node {
        let path = path.strip_prefix(b"/out").unwrap_or(path);
        let is_unfinished = path.windows(8).any(|part| part == b".tornet-");
        match node {
            Node::Dir(mode, _) if !self.timed.contains(path) => Node::Dir(mode, FileTime::default()),
            Node::File(bytes, mode, _) if is_unfinished => Node::File(bytes, mode, FileTime::default()),
            node => node,
        }
    }

    fn walk(&self, folder: &Path, into: &mut BTreeMap<Vec<u8>, Node>) {
        for entry in std::fs::read_dir(folder).expect("a directory") {
            let path = entry.expect("an entry").path();
            let meta = path.symlink_metadata().expect("it is there");
            let time = FileTime { seconds: meta.mtime(), nanos: meta.mtime_nsec() as u32 };
            let mode = meta.mode() & 0o7777;
            let node = if meta.is_symlink() {
                let target = path.read_link().expect("a link");
                Node::Link(target.as_os_str().as_bytes().to_vec(), time)
            } else if meta.is_dir() {
                self.walk(&path, into);
                Node::Dir(mode, time)
            } else {
                Node::File(std::fs::read(&path).expect("a file"), mode, time)
            };
            let root = self.place.path().as_os_str().len();
            let path = path.as_os_str().as_bytes()[root..].to_vec();
            let node = self.settled(&path, node);
            into.insert(path[b"/out".len()..].to_vec(), node);
        }
    }
}

#[test]
fn the_model_of_the_files_thread_does_what_the_thread_does() {
    for seed in 0..SEEDS {
        let mut pair = Pair::new(seed);
        for job in 1..3 + pair.below(5) {
            let journal = 1 + pair.below(2) as u8;
            pair.run(job, journal);
            pair.compare();
            for _ in 0..pair.below(3) {
                pair.interfere();
            }
            pair.compare();
        }
    }
}
