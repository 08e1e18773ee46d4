//! From system calls to what they did to files below one folder, step by step. Pure.
//!
//! Whatever touches a file there in a way that is not understood is an error, and `power` compares the replay
//! of everything with the real folder: so nothing is left out unnoticed.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use super::disk::{Body, Change, Inode, Node};
use super::trace::Call;

/// What to record: all that can change a file or make a change durable, and what is said to others.
pub const CALLS: &str = "open,openat,openat2,creat,dup,dup2,dup3,lseek,write,pwrite64,writev,pwritev,pwritev2,\
    ftruncate,truncate,fallocate,copy_file_range,sendfile,splice,vmsplice,rename,renameat,renameat2,link,linkat,\
    symlink,symlinkat,unlink,unlinkat,rmdir,mkdir,mkdirat,mknod,mknodat,chmod,fchmod,fchmodat,?fchmodat2,\
    chown,lchown,fchown,fchownat,setxattr,lsetxattr,fsetxattr,utime,utimes,futimesat,utimensat,umask,\
    fsync,fdatasync,sync,syncfs,sync_file_range,msync,mmap";

/// A step: when its call began and ended (lines of the recording), and what it did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// When what it does may begin to show.
    pub begin: usize,
    /// When it was done.
    pub end: usize,
    /// What.
    pub effect: Effect,
}

/// What a call did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Something new, not yet named; the next of the disk's inodes.
    Create(Node),
    /// A change, durable by itself or not.
    Change(Inode, Change, bool),
    /// All changes of one file or directory before it are durable.
    Sync(Inode),
    /// The same but for its permissions and times, which fdatasync may leave out.
    SyncData(Inode),
    /// All changes of everything before it are durable.
    SyncAll,
    /// Bytes to a socket or to a file elsewhere: what the world was told.
    Said(Vec<u8>),
}

impl Step {
    /// Whether something is durable by it.
    pub fn is_sync(&self) -> bool {
        match &self.effect {
            Effect::Sync(_) | Effect::SyncData(_) | Effect::SyncAll => true,
            Effect::Change(_, _, durable) => *durable,
            Effect::Create(_) | Effect::Said(_) => false,
        }
    }
}

/// Follows the calls of one process after another.
pub struct Recorder {
    root: PathBuf,
    /// Everything that exists now, by its path.
    names: BTreeMap<PathBuf, Inode>,
    /// Lengths of files.
    lengths: Vec<u64>,
    open: BTreeMap<i32, Open>,
    /// Permissions that each process begins with taking away, and those that this one takes away now.
    umask: [u32; 2],
    steps: Vec<Step>,
}

struct Open {
    inode: Inode,
    offset: u64,
    append: bool,
    dsync: bool,
}

impl Recorder {
    /// `root` is an empty folder; processes begin with this `umask`.
    pub fn new(root: &Path, umask: u32) -> Recorder {
        Recorder {
            root: root.to_path_buf(),
            names: BTreeMap::from([(root.to_path_buf(), 0)]),
            lengths: vec![0],
            open: BTreeMap::new(),
            umask: [umask; 2],
            steps: Vec::new(),
        }
    }

    /// All that was done.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// Another process, which begins with nothing open.
    pub fn process(&mut self, calls: &[Call]) -> Result<()> {
        self.open.clear();
        self.umask[1] = self.umask[0];
        for call in calls {
            self.call(call)
                .with_context(|| format!("line {}: {}({})", call.begin, call.name, shown(call)))?;
        }
        Ok(())
    }

    fn step(&mut self, call: &Call, effect: Effect) {
        self.steps.push(Step { begin: call.begin, end: call.end, effect });
    }

    fn change(&mut self, call: &Call, inode: Inode, change: Change, durable: bool) {
        self.step(call, Effect::Change(inode, change, durable));
    }

    fn call(&mut self, call: &Call) -> Result<()> {
        let Some(result) = call.result else {
            ensure!(!self.touches(call), "a call that never came back: what it did cannot be known");
            return Ok(());
        };
        // A call that failed did nothing.
        if result < 0 {
            return Ok(());
        }
        match call.name.as_str() {
            "open" | "openat" | "openat2" | "creat" => self.opened(call),
            "lseek" => {
                let (fd, _) = call.descriptor(0)?;
                if let Some(open) = self.open.get_mut(&fd) {
                    open.offset = result as u64;
                }
                Ok(())
            }
            "write" | "writev" | "pwrite64" | "pwritev" => self.write(call, result),
            "ftruncate" => {
                let (Some(inode), len) = (self.at(call)?, call.number(1)? as u64) else { return Ok(()) };
                self.lengths[inode] = len;
                self.change(call, inode, Change::Truncate(len), false);
                Ok(())
            }
            "fchmod" => {
                let (Some(inode), mode) = (self.at(call)?, call.number(1)? as u32) else { return Ok(()) };
                self.change(call, inode, Change::Mode(mode), false);
                Ok(())
            }
            "utimensat" => self.time(call),
            "fsync" | "fdatasync" => {
                let Some(inode) = self.at(call)? else { return Ok(()) };
                let all = call.name == "fsync";
                self.step(call, if all { Effect::Sync(inode) } else { Effect::SyncData(inode) });
                Ok(())
            }
            "sync" => {
                self.step(call, Effect::SyncAll);
                Ok(())
            }
            // Everything below the root is one file system. Of one elsewhere nothing is promised, even if it is this.
            "syncfs" => {
                if self.at(call)?.is_some() {
                    self.step(call, Effect::SyncAll);
                }
                Ok(())
            }
            // It promises neither lengths nor places; maps that are written through are refused below.
            "sync_file_range" | "msync" => Ok(()),
            "umask" => {
                self.umask[1] = call.number(0)? as u32;
                Ok(())
            }
            "mkdir" | "mkdirat" => {
                let first = usize::from(call.name == "mkdirat");
                let path = self.path(call, first)?;
                let node = Node::directory(call.number(first + 1)? as u32 & !self.umask[1]);
                self.create(call, path, node).map(drop)
            }
            "symlink" | "symlinkat" => {
                let path = self.path(call, usize::from(call.name == "symlinkat") + 1)?;
                let node = Node { body: Body::Link(call.bytes(0)?), mode: 0o777, time: None };
                self.create(call, path, node).map(drop)
            }
            "unlink" | "unlinkat" | "rmdir" => {
                let path = self.path(call, usize::from(call.name == "unlinkat"))?;
                let Some(parent) = self.parent(&path) else { return Ok(()) };
                // A socket's file is made by a call that is not recorded, and means nothing after a crash.
                if self.names.remove(&path).is_some() {
                    self.change(call, parent, Change::Remove(name(&path)?), false);
                }
                Ok(())
            }
            "rename" | "renameat" | "renameat2" => self.rename(call),
            "mmap" => {
                let shared = call.arg(3)?.contains("MAP_SHARED") && call.arg(2)?.contains("PROT_WRITE");
                // The table of LMDB's readers is made anew by whoever opens it first.
                let unseen = shared && self.touches(call) && !shown_path(call).ends_with(b"/lock.mdb");
                ensure!(!unseen, "a file that is written through its map cannot be recorded");
                Ok(())
            }
            _ if self.touches(call) => bail!("a call that the recorder does not know"),
            _ => Ok(()),
        }
    }

    /// Whether any argument names something below the root.
    fn touches(&self, call: &Call) -> bool {
        let below = |path: &[u8]| Path::new(OsStr::from_bytes(path)).starts_with(&self.root);
        (0..call.args.len()).any(|index| {
            call.descriptor(index).is_ok_and(|(_, path)| below(&path))
                || call.bytes(index).is_ok_and(|path| below(&path))
        })
    }

    fn opened(&mut self, call: &Call) -> Result<()> {
        let (Some(fd), Some(path)) = (call.result, &call.opened) else { return Ok(()) };
        let path = PathBuf::from(OsStr::from_bytes(path));
        self.open.remove(&(fd as i32));
        if !path.starts_with(&self.root) {
            return Ok(());
        }
        let flags = match call.name.as_str() {
            "open" => call.arg(1)?,
            "creat" => "O_CREAT|O_TRUNC",
            _ => call.arg(2)?,
        };
        let has = |flag: &str| flags.split(['|', ',', '=', '{', '}']).any(|word| word == flag);
        let inode = match self.names.get(&path) {
            Some(&inode) => inode,
            None => {
                ensure!(has("O_CREAT"), "opened {} which nobody made", path.display());
                self.create(call, path, Node::file(mode(call)? & !self.umask[1]))?
                    .context("a file without a folder")?
            }
        };
        if has("O_TRUNC") && self.lengths[inode] > 0 {
            self.lengths[inode] = 0;
            self.change(call, inode, Change::Truncate(0), false);
        }
        let dsync = has("O_DSYNC") || has("O_SYNC");
        self.open.insert(fd as i32, Open { inode, offset: 0, append: has("O_APPEND"), dsync });
        Ok(())
    }

    fn write(&mut self, call: &Call, result: i64) -> Result<()> {
        let (fd, path) = call.descriptor(0)?;
        let mut data = call.bytes(1)?;
        data.truncate(result as usize);
        // The number alone says nothing: closing is not recorded, and sockets get numbers, too.
        if !Path::new(OsStr::from_bytes(&path)).starts_with(&self.root) {
            self.step(call, Effect::Said(data));
            return Ok(());
        }
        let open = self.open.get_mut(&fd).context("a descriptor whose opening was not seen")?;
        let (inode, dsync) = (open.inode, open.dsync);
        let offset = match (call.name.as_str(), open.append) {
            (_, true) => self.lengths[inode],
            ("write" | "writev", _) => open.offset,
            _ => call.number(3)? as u64,
        };
        let end = offset + data.len() as u64;
        if matches!(call.name.as_str(), "write" | "writev") {
            open.offset = end;
        }
        self.lengths[inode] = self.lengths[inode].max(end);
        self.change(call, inode, Change::Write(offset, data.into()), dsync);
        Ok(())
    }

    /// `utimensat(7<…>, NULL, [UTIME_OMIT, {tv_sec=1, tv_nsec=2}], 0)`
    fn time(&mut self, call: &Call) -> Result<()> {
        let inode = match call.arg(1)? {
            "NULL" => self.at(call)?,
            _ => self.names.get(&self.path(call, 1)?).copied(),
        };
        let Some(inode) = inode else { return Ok(()) };
        let times = call.arg(2)?;
        let field = |name: &str| -> Option<i64> {
            let rest = &times[times.rfind(name)? + name.len()..];
            rest[..rest.find(|c: char| !c.is_ascii_digit() && c != '-')?].parse().ok()
        };
        let (seconds, nanos) = field("tv_sec=").zip(field("tv_nsec=")).context("no time")?;
        self.change(call, inode, Change::Time(seconds, nanos), false);
        Ok(())
    }

    fn rename(&mut self, call: &Call) -> Result<()> {
        let at = call.name != "rename";
        let (from, to) = match at {
            true => (self.path(call, 1)?, self.path_from(call, 2, 3)?),
            false => (self.path(call, 0)?, self.path(call, 1)?),
        };
        if !self.names.contains_key(&from) {
            ensure!(!to.starts_with(&self.root), "something unknown was moved in");
            return Ok(());
        }
        let parent = self.parent(&from).context("the root was moved")?;
        ensure!(self.parent(&to) == Some(parent), "moves between folders are not modelled");
        // With all that is below, if it is a folder; what it replaces is gone.
        self.names.retain(|path, _| !path.starts_with(&to));
        let moved =
            |path: PathBuf| path.strip_prefix(&from).map(|rest| join(&to, rest)).unwrap_or(path.clone());
        let names = std::mem::take(&mut self.names).into_iter();
        self.names = names.map(|(path, inode)| (moved(path), inode)).collect();
        self.change(call, parent, Change::Rename(name(&from)?, name(&to)?), false);
        Ok(())
    }

    /// The inode of the first argument, a descriptor, if it lies below the root.
    fn at(&self, call: &Call) -> Result<Option<Inode>> {
        let (fd, path) = call.descriptor(0)?;
        let path = Path::new(OsStr::from_bytes(&path));
        if !path.starts_with(&self.root) {
            return Ok(None);
        }
        let by_path = || self.names.get(path).copied();
        let found = self.open.get(&fd).map(|open| open.inode).or_else(by_path);
        found.map(Some).context("a descriptor whose opening was not seen")
    }

    fn create(&mut self, call: &Call, path: PathBuf, node: Node) -> Result<Option<Inode>> {
        let Some(parent) = self.parent(&path) else { return Ok(None) };
        let inode = self.lengths.len();
        self.lengths.push(0);
        self.step(call, Effect::Create(node));
        self.change(call, parent, Change::Add(name(&path)?, inode), false);
        self.names.insert(path, inode);
        Ok(Some(inode))
    }

    /// The directory that holds `path`, if it lies below the root.
    fn parent(&self, path: &Path) -> Option<Inode> {
        self.names.get(path.parent()?).copied()
    }

    /// The path in argument `index`, relative to the directory before it, if there is one.
    fn path(&self, call: &Call, index: usize) -> Result<PathBuf> {
        self.path_from(call, index.wrapping_sub(1), index)
    }

    fn path_from(&self, call: &Call, directory: usize, index: usize) -> Result<PathBuf> {
        let path = call.bytes(index)?;
        let path = Path::new(OsStr::from_bytes(&path));
        if path.is_absolute() {
            return Ok(path.to_path_buf());
        }
        let (_, base) = call.descriptor(directory).context("a path relative to what?")?;
        Ok(Path::new(OsStr::from_bytes(&base)).join(path))
    }
}

/// `base` itself when nothing is to be joined: a path that ends in `/` is another one.
fn join(base: &Path, rest: &Path) -> PathBuf {
    if rest.as_os_str().is_empty() { base.to_path_buf() } else { base.join(rest) }
}

fn name(path: &Path) -> Result<Vec<u8>> {
    Ok(path.file_name().context("a path without a name")?.as_bytes().to_vec())
}

/// The permissions with which a call makes a file.
fn mode(call: &Call) -> Result<u32> {
    let last = call.args.last().context("no arguments")?;
    let text = match (call.name.as_str(), last.as_str()) {
        ("openat2", _) => {
            let how = call.arg(2)?;
            how.split(", ").find_map(|field| field.strip_prefix("mode=")).context("no mode")?
        }
        (_, last) => last,
    };
    u32::from_str_radix(text, 8).with_context(|| format!("not a mode: {text}"))
}

fn shown_path(call: &Call) -> Vec<u8> {
    (0..call.args.len())
        .find_map(|index| call.descriptor(index).ok())
        .map(|(_, path)| path)
        .unwrap_or_default()
}

fn shown(call: &Call) -> String {
    let words = call.args.iter().map(|arg| arg.chars().take(60).collect::<String>());
    words.collect::<Vec<_>>().join(", ") + " at " + &String::from_utf8_lossy(&shown_path(call))
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::trace::parse;
    use super::*;

    fn hex(text: &str) -> String {
        text.bytes().map(|byte| format!("\\x{byte:02x}")).collect()
    }

    /// A trace in which `'…'` and `<…>` are written plainly.
    pub fn steps(plain: &str) -> Result<Vec<Step>> {
        let mut text = String::new();
        for (part, inside) in plain.split(['<', '>', '\'']).zip([false, true].into_iter().cycle()) {
            text.push_str(&if inside { hex(part) } else { part.to_string() });
            text.push(if inside { '>' } else { '<' });
        }
        // Which of the three it was.
        let mut marks = plain.chars().filter(|c| "<>'".contains(*c));
        let text: String =
            text.chars().filter_map(|c| if "<>".contains(c) { marks.next() } else { Some(c) }).collect();
        let text = text.replace('\'', "\"");
        let mut recorder = Recorder::new(Path::new("/d"), 0o022);
        recorder.process(&parse(&text, 0)?)?;
        Ok(recorder.steps)
    }

    pub const PLAIN: &str = "1 mkdir('/d/n', 0700) = 0
1 openat(AT_FDCWD</x>, '/d/n/f', O_RDWR|O_CREAT, 0600) = 3</d/n/f>
1 openat(AT_FDCWD</x>, '/d/n/f', O_WRONLY|O_DSYNC) = 4</d/n/f>
1 lseek(3</d/n/f>, 2, SEEK_SET) = 2
1 writev(3</d/n/f>, [{iov_base='ab', iov_len=2}, {iov_base='c', iov_len=1}], 2) = 3
1 write(3</d/n/f>, 'de', 2) = 1
1 pwrite64(4</d/n/f>, 'Z', 1, 0) = 1
1 fsync(3</d/n/f>) = 0
1 openat2(5</d/n>, 'g', {flags=O_RDWR|O_CREAT|O_EXCL, mode=0640, resolve=X}, 24) = 6</d/n/g>
1 utimensat(6</d/n/g>, NULL, [UTIME_OMIT, {tv_sec=-5, tv_nsec=7} /* then */], 0) = 0
1 renameat2(5</d/n>, 'g', 5</d/n>, 'f', RENAME_NOREPLACE) = -1 EEXIST (File exists)
1 renameat2(5</d/n>, 'g', 5</d/n>, 'h', 0) = 0
1 write(9</elsewhere>, 'told', 4) = 4
1 write(3<anon>, 'more', 4) = 4
";

    #[test]
    fn calls_become_steps() {
        let steps = steps(PLAIN).unwrap();
        let effects: Vec<&Effect> = steps.iter().map(|step| &step.effect).collect();
        let write = |at, data: &[u8]| Change::Write(at, data.into());
        let expected = [
            &Effect::Create(Node::directory(0o700)),
            &Effect::Change(0, Change::Add(b"n".to_vec(), 1), false),
            &Effect::Create(Node::file(0o600)),
            &Effect::Change(1, Change::Add(b"f".to_vec(), 2), false),
            &Effect::Change(2, write(2, b"abc"), false),
            &Effect::Change(2, write(5, b"d"), false),
            &Effect::Change(2, write(0, b"Z"), true),
            &Effect::Sync(2),
            &Effect::Create(Node::file(0o640)),
            &Effect::Change(1, Change::Add(b"g".to_vec(), 3), false),
            &Effect::Change(3, Change::Time(-5, 7), false),
            &Effect::Change(1, Change::Rename(b"g".to_vec(), b"h".to_vec()), false),
            &Effect::Said(b"told".to_vec()),
            &Effect::Said(b"more".to_vec()),
        ];
        assert_eq!(effects, expected);
    }

    #[test]
    fn every_way_to_sync_is_told_apart() {
        let begin = "1 umask(077) = 022\n1 openat(AT_FDCWD</x>, '/d/f', O_RDWR|O_CREAT, 0666) = 3</d/f>\n";
        let syncs = "1 fdatasync(3</d/f>) = 0
1 fsync(3</d/f>) = 0
1 syncfs(3</d/f>) = 0
1 syncfs(7</elsewhere>) = 0
1 sync() = 0
1 syncfs(3</d/f>) = -1 EIO (Input/output error)
1 sync_file_range(3</d/f>, 0, 5, 2) = 0
";
        let steps = steps(&format!("{begin}{syncs}")).unwrap();
        assert_eq!(steps[0].effect, Effect::Create(Node::file(0o600)));
        let effects: Vec<&Effect> = steps[2..].iter().map(|step| &step.effect).collect();
        assert_eq!(effects, [&Effect::SyncData(1), &Effect::Sync(1), &Effect::SyncAll, &Effect::SyncAll]);
        assert!(steps[2..].iter().all(Step::is_sync) && !steps[..2].iter().any(Step::is_sync));
    }

    #[test]
    fn a_renamed_folder_takes_along_what_is_in_it() {
        let rest = "1 rename('/d/n', '/d/m') = 0\n1 openat(AT_FDCWD</x>, '/d/m/f', O_RDONLY) = 7</d/m/f>\n1 fsync(7</d/m/f>) = 0\n";
        let steps = steps(&format!("{PLAIN}{rest}")).unwrap();
        assert_eq!(steps[steps.len() - 1].effect, Effect::Sync(2));
        assert_eq!(
            steps[steps.len() - 2].effect,
            Effect::Change(0, Change::Rename(b"n".to_vec(), b"m".to_vec()), false)
        );
    }

    #[test]
    fn what_is_not_understood_is_not_passed_over() {
        let begin = "1 openat(AT_FDCWD</x>, '/d/f', O_RDWR|O_CREAT, 0600) = 3</d/f>\n";
        for bad in [
            "1 fallocate(3</d/f>, 0, 0, 5) = 0\n",
            "1 mmap(NULL, 5, PROT_READ|PROT_WRITE, MAP_SHARED, 3</d/f>, 0) = 0x7f\n",
            "1 link('/d/f', '/d/g') = 0\n",
            "1 chmod('/d/f', 0600) = 0\n",
            "1 fchown(3</d/f>, 0, 0) = 0\n",
            "1 syncfs(8</d/unseen>) = 0\n",
            "1 pwrite64(8</d/f>, 'Z', 1, 0) = 1\n",
            "1 pwrite64(3</d/f>, 'Z', 1, 0) = ?\n",
            "1 openat(AT_FDCWD</x>, '/d/other', O_RDONLY) = 4</d/other>\n",
        ] {
            assert!(steps(&format!("{begin}{bad}")).is_err(), "{bad}");
        }
        let fine = "1 mmap(NULL, 5, PROT_READ, MAP_SHARED, 3</d/f>, 0) = 0x7f\n1 link('/a', '/b') = 0\n";
        assert!(steps(&format!("{begin}{fine}")).is_ok());
    }
}
