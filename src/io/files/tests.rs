//! The executor against real directories: what it makes, what it survives, what it refuses.

mod place;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::process::Command;

use super::*;
use crate::base::fileop::JournalRecord;
use crate::base::{SliceBuf, SlicePool};
use crate::limits::{FILES_OPEN_MAX, RECORD_PLAIN};

const JOB: JobId = JobId(1);
const TIME: FileTime = FileTime { seconds: 1_234_567_890, nanos: 5_000_000 };

/// An output, a place for journals, and the executor on them.
struct Bed {
    dir: tempfile::TempDir,
    files: Files,
    pool: SlicePool,
}

impl Bed {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("temporary directory");
        let files = Files::new(dir.path().join("gets")).expect("journals");
        Self { dir, files, pool: SlicePool::new(8) }
    }

    fn out(&self, path: &str) -> PathBuf {
        self.dir.path().join("out").join(path)
    }

    /// What a kill leaves: the executor is gone, the disk as it is.
    fn killed(&mut self) {
        self.files = Files::new(self.dir.path().join("gets")).expect("journals");
    }

    fn act(&mut self, act: FileAct) -> Result<FileOutcome, FileFault> {
        let done = self.files.execute(FileOp { job: JOB, act });
        assert_eq!(done.job, JOB);
        done.result
    }

    fn begin_with(&mut self, overwrite: bool) -> Result<bool, FileFault> {
        let root = self.out("").to_str().expect("text").to_owned();
        match self.act(FileAct::Begin { root, journal: [9; 16], overwrite })? {
            FileOutcome::Began { resumed } => Ok(resumed),
            other => panic!("{other:?}"),
        }
    }

    fn begin(&mut self) -> bool {
        self.begin_with(false).expect("begun")
    }

    fn buf(&self, bytes: &[u8]) -> SliceBuf {
        let mut buf = self.pool.lease().expect("every buffer comes back");
        buf[3..3 + bytes.len()].copy_from_slice(bytes);
        buf
    }

    fn directory(&mut self, dir: u32, parent: u32, name: &str) -> Result<(), FileFault> {
        self.act(FileAct::Directory { dir, parent, name: name.into() }).map(|_| ())
    }

    fn open(
        &mut self,
        file: u32,
        parent: u32,
        name: &str,
        size: u64,
    ) -> Result<Vec<JournalRecord>, FileFault> {
        match self.act(FileAct::Open { file, parent, name: name.into(), size })? {
            FileOutcome::Opened { file: opened, journal } if opened == file => Ok(journal),
            other => panic!("{other:?}"),
        }
    }

    fn write(&mut self, file: u32, record: u64, bytes: &[u8]) -> Result<(), FileFault> {
        let (data, offset) = (self.buf(bytes), record * RECORD_PLAIN as u64);
        let len = bytes.len() as u32;
        let tag = [record as u8; 16];
        match self.act(FileAct::Write { file, offset, data, start: 3, len, record, tag })? {
            FileOutcome::Written { len: written } if written == len => Ok(()),
            other => panic!("{other:?}"),
        }
    }

    fn read_back(&mut self, file: u32, record: u64, len: u32) -> Vec<u8> {
        let (into, offset) = (self.buf(&[]), record * RECORD_PLAIN as u64);
        match self.act(FileAct::ReadBack { file, offset, into, len, record }) {
            Ok(FileOutcome::Read { data, len, record: read, .. }) if read == record => {
                data[..len as usize].to_vec()
            }
            other => panic!("{other:?}"),
        }
    }

    fn finish(&mut self, file: u32, mode: u32) -> Result<(), FileFault> {
        self.act(FileAct::Finish { file, mode, mtime: TIME }).map(|_| ())
    }

    fn whole(&mut self, parent: u32, name: &str, bytes: &[u8], mode: u32) -> Result<(), FileFault> {
        let data = (!bytes.is_empty()).then(|| self.buf(bytes));
        let (name, len) = (name.into(), bytes.len() as u32);
        self.act(FileAct::Whole { parent, name, data, start: 3, len, tag: [4; 16], mode, mtime: TIME })
            .map(|_| ())
    }

    fn link(&mut self, parent: u32, name: &str, target: &str) -> Result<(), FileFault> {
        let (name, target) = (name.into(), target.into());
        self.act(FileAct::Symlink { parent, name, target, mtime: TIME }).map(|_| ())
    }

    /// What a full batch, the first finished directory and the end do.
    fn place(&mut self) -> Result<(), FileFault> {
        let Files { jobs, descriptors, .. } = &mut self.files;
        Work { id: JOB, job: jobs.get_mut(&JOB).expect("begun"), descriptors }.place()
    }

    fn end(&mut self, complete: bool) {
        self.act(FileAct::End { complete }).expect("ended");
    }

    fn leftovers(&self) -> usize {
        self.leftovers_in("")
    }

    fn leftovers_in(&self, path: &str) -> usize {
        fs::read_dir(self.out(path))
            .expect("output")
            .filter(|entry| {
                entry.as_ref().is_ok_and(|entry| entry.file_name().to_string_lossy().contains("tornet-part"))
            })
            .count()
    }
}

/// The temporary name of a file of the only job.
fn part(name: &str) -> String {
    String::from_utf8(names::part_name(name.as_bytes(), &names::part_suffix(&[9; 16]))).expect("text")
}

fn record(n: u8) -> Vec<u8> {
    vec![n; RECORD_PLAIN]
}

#[test]
fn a_tree_is_restored_with_modes_and_times() {
    let mut bed = Bed::new();
    assert!(!bed.begin());
    bed.directory(1, 0, "dir").expect("made");
    bed.directory(2, 1, "inner").expect("made");
    bed.open(1, 2, "large", RECORD_PLAIN as u64 + 10).expect("opened");
    bed.write(1, 1, &[2; 10]).expect("written");
    bed.write(1, 0, &record(1)).expect("written");
    assert!(!bed.out("dir/inner/large").exists(), "not before it is complete");
    bed.finish(1, 0o6754).expect("finished");
    bed.whole(1, "small", b"hello", 0o400).expect("whole");
    bed.whole(1, "empty", b"", 0o644).expect("whole");
    bed.link(1, "link", "../../etc/passwd").expect("link");
    bed.link(1, "link", "../../etc/passwd").expect("the same again");
    bed.act(FileAct::FinishDirectory { dir: 2, mode: 0o6555, mtime: TIME }).expect("finished");
    bed.act(FileAct::FinishDirectory { dir: 1, mode: 0o1777, mtime: TIME }).expect("finished");
    bed.end(true);
    assert_eq!(fs::read(bed.out("dir/inner/large")).expect("read"), [record(1), vec![2; 10]].concat());
    assert_eq!(fs::read(bed.out("dir/small")).expect("read"), b"hello");
    assert_eq!(fs::read_link(bed.out("dir/link")).expect("link"), Path::new("../../etc/passwd"));
    let modes = [
        ("dir/inner/large", 0o754),
        ("dir/small", 0o400),
        ("dir/empty", 0o644),
        ("dir/inner", 0o555),
        ("dir", 0o1777),
    ];
    for (path, mode) in modes {
        let metadata = fs::symlink_metadata(bed.out(path)).expect(path);
        assert_eq!(metadata.permissions().mode() & 0o7777, mode, "{path}");
        assert_eq!(
            (metadata.mtime(), metadata.mtime_nsec()),
            (TIME.seconds, i64::from(TIME.nanos)),
            "{path}"
        );
    }
    assert_eq!(fs::symlink_metadata(bed.out("dir/link")).expect("link").mtime(), TIME.seconds);
    assert_eq!(
        fs::read_dir(bed.dir.path().join("gets")).expect("journals").count(),
        0,
        "the journal is gone"
    );
    assert_eq!(bed.pool.available(), 8, "every buffer came back");
}

#[test]
fn a_killed_get_goes_on_where_it_was() {
    let mut bed = Bed::new();
    bed.begin();
    bed.directory(1, 0, "d").expect("made");
    bed.open(1, 1, "f", 3 * RECORD_PLAIN as u64).expect("opened");
    bed.write(1, 2, &record(3)).expect("written");
    bed.write(1, 0, &record(1)).expect("written");
    bed.killed();
    assert!(bed.begin(), "there is something to resume");
    bed.directory(8, 0, "d").expect("entered");
    let journal = bed.open(7, 8, "f", 3 * RECORD_PLAIN as u64).expect("reopened");
    assert_eq!(journal, [0, 2].map(|n| JournalRecord { record: n, tag: [n as u8; 16] }));
    assert_eq!(bed.read_back(7, 2, RECORD_PLAIN as u32), record(3));
    assert_eq!(bed.read_back(7, 3, 10), b"", "nothing beyond the end");
    bed.write(7, 1, &record(2)).expect("written");
    bed.finish(7, 0o644).expect("finished");
    bed.end(true);
    assert_eq!(fs::read(bed.out("d/f")).expect("read"), [record(1), record(2), record(3)].concat());
    assert_eq!(bed.leftovers(), 0);
}

#[test]
fn files_finished_before_the_kill_are_found_in_place() {
    let mut bed = Bed::new();
    bed.begin();
    bed.open(1, 0, "f", RECORD_PLAIN as u64).expect("opened");
    bed.write(1, 0, &record(1)).expect("written");
    bed.finish(1, 0o444).expect("finished");
    bed.whole(0, "w", b"small", 0o400).expect("whole");
    bed.whole(0, "empty", b"", 0o600).expect("whole");
    bed.place().expect("placed");
    bed.killed();
    assert!(bed.begin());
    let inode = fs::metadata(bed.out("f")).expect("there").ino();
    assert_eq!(bed.open(1, 0, "f", RECORD_PLAIN as u64).expect("reopened").len(), 1);
    assert_eq!(bed.read_back(1, 0, RECORD_PLAIN as u32), record(1));
    fs::set_permissions(bed.out("f"), fs::Permissions::from_mode(0o600)).expect("mode");
    bed.finish(1, 0o444).expect("finished again");
    let metadata = fs::metadata(bed.out("f")).expect("there");
    assert_eq!((metadata.ino(), metadata.mode() & 0o777), (inode, 0o444), "not copied, mode set again");
    assert_eq!(bed.open(2, 0, "w", 5).expect("reopened"), [JournalRecord { record: 0, tag: [4; 16] }]);
    assert_eq!(bed.read_back(2, 0, 5), b"small");
    bed.finish(2, 0o400).expect("finished again");
    bed.whole(0, "empty", b"", 0o600).expect("again");
    bed.whole(0, "w", b"small", 0o400).expect("again, as a whole");
    bed.end(true);
    assert_eq!(fs::read(bed.out("w")).expect("read"), b"small");
    assert_eq!(bed.leftovers(), 0);
}

#[test]
fn a_finished_file_that_turned_out_wrong_is_written_again_unless_somebody_changed_it() {
    for (changed, overwrite) in [(false, false), (true, false), (true, true)] {
        let mut bed = Bed::new();
        bed.begin();
        bed.open(1, 0, "f", 2 * RECORD_PLAIN as u64).expect("opened");
        bed.write(1, 0, &record(1)).expect("written");
        bed.write(1, 1, &record(7)).expect("written");
        bed.finish(1, 0o644).expect("finished");
        bed.place().expect("placed");
        bed.killed();
        if changed {
            fs::write(bed.out("f"), "my own notes").expect("write");
        }
        bed.begin_with(overwrite).expect("begun");
        bed.open(1, 0, "f", 2 * RECORD_PLAIN as u64).expect("reopened");
        let again = bed.write(1, 1, &record(2));
        if changed && !overwrite {
            let message = again.expect_err("refused").message;
            assert!(message.contains("changed since it was restored"), "{message}");
            assert_eq!(fs::read(bed.out("f")).expect("read"), b"my own notes");
            continue;
        }
        again.expect("written");
        if changed {
            bed.write(1, 0, &record(1)).expect("written");
        }
        // Stopped once more, now with a temporary file beside the one in place.
        bed.killed();
        bed.begin_with(overwrite).expect("begun");
        assert_eq!(bed.open(1, 0, "f", 2 * RECORD_PLAIN as u64).expect("reopened").len(), 2);
        bed.finish(1, 0o644).expect("finished");
        bed.place().expect("placed");
        assert_eq!(fs::read(bed.out("f")).expect("read"), [record(1), record(2)].concat());
        assert_eq!(bed.leftovers(), 0);
    }
}

#[test]
fn existing_files_are_kept_unless_told() {
    let mut bed = Bed::new();
    bed.begin();
    for name in ["f", "g"] {
        fs::write(bed.out(name), "mine").expect("write");
    }
    fs::create_dir(bed.out("d")).expect("directory");
    let fault = bed.open(1, 0, "f", 4).expect_err("exists");
    assert!(fault.message.contains("/out/f: exists already") && !fault.retryable, "{fault}");
    bed.whole(0, "g", b"new!", 0o644).expect_err("exists");
    bed.link(0, "g", "target").expect_err("exists");
    bed.open(1, 0, "late", 4).expect("opened");
    fs::write(bed.out("late"), "mine").expect("somebody was faster");
    bed.finish(1, 0o644).expect("finished");
    bed.place().expect_err("exists");
    for name in ["f", "g", "late"] {
        assert_eq!(fs::read(bed.out(name)).expect("read"), b"mine");
    }
    bed.end(false);
    bed.begin_with(true).expect("begun");
    bed.open(1, 0, "f", 4).expect("opened");
    assert_eq!(fs::read(bed.out("f")).expect("read"), b"mine", "until the new one is complete");
    bed.write(1, 0, b"new!").expect("written");
    bed.finish(1, 0o644).expect("finished");
    bed.place().expect("placed");
    bed.link(0, "g", "target").expect("replaced");
    assert_eq!(fs::read(bed.out("f")).expect("read"), b"new!");
    assert_eq!(fs::read_link(bed.out("g")).expect("link"), Path::new("target"));
    for fault in [bed.open(2, 0, "d", 1).map(|_| ()), bed.whole(0, "d", b"x", 0o600), bed.link(0, "d", "x")] {
        fault.expect_err("a directory is never replaced");
    }
    assert!(bed.out("d").is_dir());
}

#[test]
fn hostile_names_and_planted_symlinks_lead_nowhere() {
    let mut bed = Bed::new();
    let outside = bed.dir.path().join("outside");
    fs::create_dir(&outside).expect("directory");
    fs::write(outside.join("target"), "precious").expect("write");
    bed.begin();
    for name in ["", ".", "..", "../outside", "a/b", "/etc", "nul\0", &"x".repeat(256)] {
        bed.directory(1, 0, name).expect_err(name);
        bed.open(1, 0, name, 1).expect_err(name);
        bed.whole(0, name, b"x", 0o644).expect_err(name);
        bed.link(0, name, "t").expect_err(name);
    }
    let unfinished = part("f");
    bed.whole(0, &unfinished, b"x", 0o644).expect_err("a name that takes another file's place");
    symlink(&outside, bed.out("dirlink")).expect("plant");
    symlink(outside.join("target"), bed.out("filelink")).expect("plant");
    symlink(outside.join("target"), bed.out(&unfinished)).expect("plant");
    let fault = bed.directory(1, 0, "dirlink").expect_err("a symlink in place of a directory");
    assert!(fault.message.contains("symlink"), "{fault}");
    bed.open(1, 0, "filelink", 1).expect_err("exists");
    bed.open(1, 0, "f", 4).expect("opened, with the planted symlink out of the way");
    bed.write(1, 0, b"evil").expect("written");
    bed.finish(1, 0o777).expect("finished");
    // The content itself makes a symlink and then goes through it.
    bed.link(0, "up", "../outside").expect("made");
    bed.directory(2, 0, "up").expect_err("never entered");
    bed.directory(3, 0, "swap").expect("made");
    bed.files.descriptors = Descriptors::default();
    fs::remove_dir(bed.out("swap")).expect("remove");
    symlink(&outside, bed.out("swap")).expect("plant");
    bed.whole(3, "target", b"evil", 0o777).expect_err("exchanged behind our back");
    bed.end(false);
    bed.begin_with(true).expect("begun");
    bed.whole(0, "filelink", b"evil", 0o777).expect("the link is replaced, not its target");
    bed.place().expect("placed");
    assert_eq!(fs::read(outside.join("target")).expect("read"), b"precious");
    assert_eq!(fs::metadata(outside.join("target")).expect("there").mode() & 0o777, 0o644);
    assert_eq!(fs::read_dir(&outside).expect("outside").count(), 1);
    assert_eq!(fs::read(bed.out("f")).expect("read"), b"evil");
}

#[test]
fn a_planted_hard_link_is_not_written_through() {
    let mut bed = Bed::new();
    let precious = bed.dir.path().join("precious");
    fs::write(&precious, "precious").expect("write");
    bed.begin();
    fs::hard_link(&precious, bed.out(&part("f"))).expect("plant");
    bed.open(1, 0, "f", 4).expect("opened");
    bed.write(1, 0, b"evil").expect("written");
    bed.finish(1, 0o644).expect("finished");
    bed.place().expect("placed");
    assert_eq!(fs::read(&precious).expect("read"), b"precious");
}

#[test]
fn read_only_directories_of_an_earlier_run_can_be_entered() {
    let mut bed = Bed::new();
    bed.begin();
    bed.directory(1, 0, "d").expect("made");
    bed.act(FileAct::FinishDirectory { dir: 1, mode: 0o500, mtime: TIME }).expect("finished");
    bed.killed();
    bed.begin();
    bed.directory(1, 0, "d").expect("entered");
    assert_eq!(
        fs::metadata(bed.out("d")).expect("there").mode() & 0o700,
        0o700,
        "writable while it is filled"
    );
    bed.whole(1, "f", b"x", 0o600).expect("written");
    bed.act(FileAct::FinishDirectory { dir: 1, mode: 0o500, mtime: TIME }).expect("finished");
    assert_eq!(fs::metadata(bed.out("d")).expect("there").mode() & 0o777, 0o500);
    fs::set_permissions(bed.out("d"), fs::Permissions::from_mode(0o700)).expect("so that it can be removed");
}

#[test]
fn more_is_named_than_is_kept_open() {
    let mut bed = Bed::new();
    bed.begin();
    let count = FILES_OPEN_MAX as u32 + 50;
    for n in 0..count {
        bed.directory(n + 1, n.min(40), &format!("d{n}")).expect("made");
        bed.open(n, n + 1, "f", 10).expect("opened");
        bed.write(n, 0, b"12345").expect("written");
    }
    for n in 0..count {
        bed.write(n, 0, b"abcdefghij").expect("written again");
        assert_eq!(bed.read_back(n, 0, 10), b"abcdefghij");
        bed.finish(n, 0o600).expect("finished");
    }
    bed.place().expect("placed");
    assert_eq!(fs::read(bed.out("d0/d1/d2/f")).expect("read"), b"abcdefghij");
}

#[test]
fn mistakes_of_the_asker_are_answered_not_obeyed() {
    let mut bed = Bed::new();
    bed.open(1, 0, "f", 1).expect_err("not begun");
    bed.begin();
    let root = bed.out("").to_str().expect("text").to_owned();
    let twin = FileOp { job: JobId(2), act: FileAct::Begin { root, journal: [9; 16], overwrite: false } };
    let fault = bed.files.execute(twin).result.expect_err("the same get");
    assert!(fault.message.contains("already running"), "{fault}");
    bed.begin_with(false).expect_err("begun already");
    bed.directory(1, 77, "d").expect_err("no such parent");
    bed.write(5, 0, b"x").expect_err("no such file");
    bed.open(5, 0, "f", 4).expect("opened");
    bed.open(5, 0, "g", 4).expect_err("the number is in use");
    bed.write(5, 0, b"12345").expect_err("beyond the end");
    let data = bed.buf(b"");
    let act =
        FileAct::Write { file: 5, offset: 0, data, start: u32::MAX, len: u32::MAX, record: 0, tag: [0; 16] };
    bed.act(act).expect_err("beyond the buffer");
    bed.link(0, "l", "").expect_err("to nowhere");
    let missing = bed.dir.path().join("no/where").to_str().expect("text").to_owned();
    let op =
        FileOp { job: JobId(3), act: FileAct::Begin { root: missing, journal: [1; 16], overwrite: false } };
    let fault = bed.files.execute(op).result.expect_err("nothing above the output is made");
    assert!(fault.message.contains("does not exist"), "{fault}");
    bed.end(false);
    bed.act(FileAct::End { complete: true }).expect_err("ended already");
}

#[test]
fn a_full_disk_is_told_and_can_be_resumed() {
    let mut bed = Bed::new();
    fs::create_dir(bed.out("")).expect("output");
    let mounted =
        Command::new("mount").args(["-t", "tmpfs", "-o", "size=400k", "tmpfs"]).arg(bed.out("")).output();
    if !mounted.is_ok_and(|output| output.status.success()) {
        eprintln!("SKIPPED: mounting a small file system needs root");
        return;
    }
    let unmount = |path: &Path| Command::new("umount").arg("--lazy").arg(path).output().expect("umount");
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        bed.begin();
        fs::write(bed.out("ballast"), vec![1; 200 << 10]).expect("ballast");
        bed.open(1, 0, "f", 5 * RECORD_PLAIN as u64).expect("opened");
        let failed: Vec<_> = (0..5u8).map(|n| bed.write(1, n.into(), &record(n))).collect();
        let fault = failed.iter().find_map(|result| result.as_ref().err()).expect("full");
        assert!(fault.retryable && fault.message.contains("/out/f: the disk is full"), "{fault}");
        bed.end(false);
        fs::remove_file(bed.out("ballast")).expect("space is freed");
        bed.begin();
        let journal = bed.open(1, 0, "f", 5 * RECORD_PLAIN as u64).expect("reopened");
        assert_eq!(journal.len(), failed.iter().filter(|result| result.is_ok()).count());
        for n in 0..5u8 {
            if journal.iter().any(|kept| kept.record == u64::from(n)) {
                assert_eq!(bed.read_back(1, n.into(), RECORD_PLAIN as u32), record(n));
            } else {
                bed.write(1, n.into(), &record(n)).expect("written");
            }
        }
        bed.finish(1, 0o644).expect("finished");
        bed.end(true);
        assert_eq!(fs::read(bed.out("f")).expect("read"), (0..5).flat_map(record).collect::<Vec<_>>());
    }));
    unmount(&bed.out(""));
    result.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}
