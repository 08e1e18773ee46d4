//! Walks what a `put` was given: depth first, in an order that depends on names only, one directory descriptor
//! per level. Symlinks are told, not followed, except for a path that the person named; what is no file,
//! directory or symlink is told as skipped.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::dir::{Dir, Type};
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, fstat, fstatat};

use crate::base::fileop::FileTime;
use crate::limits::{DIRECTORY_DEPTH_MAX, DIRECTORY_ENTRIES_MAX};

/// What to do about something that may not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unreadable {
    /// End with an error that names it.
    Fail,
    /// Tell it as skipped and go on.
    Skip,
}

/// One step of a walk. Of each directory first the files and symlinks come, by name, then the directories.
#[derive(Debug)]
pub enum Event {
    /// A directory begins.
    EnterDir {
        /// Its name.
        name: Vec<u8>,
        /// Permission bits.
        mode: u32,
        /// Modification time.
        mtime: FileTime,
    },
    /// A file, opened for reading.
    File {
        /// Its name.
        name: Vec<u8>,
        /// Permission bits.
        mode: u32,
        /// Modification time.
        mtime: FileTime,
        /// Its size when it was opened, bytes; it may change while it is read.
        size: u64,
        /// At its beginning.
        file: File,
    },
    /// A symlink.
    Symlink {
        /// Its name.
        name: Vec<u8>,
        /// What it says.
        target: Vec<u8>,
        /// Modification time.
        mtime: FileTime,
    },
    /// The last directory that was entered and not left ends.
    LeaveDir,
    /// Something is left out.
    Skipped {
        /// Where.
        path: PathBuf,
        /// Why, in a few words.
        why: String,
    },
}

/// Why a walk ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {why}", .path.display())]
pub struct TreeError {
    /// Where.
    pub path: PathBuf,
    /// Why, and what to do.
    pub why: String,
}

/// A walk in progress: an iterator that ends after its first error.
pub struct Walk {
    roots: std::vec::IntoIter<PathBuf>,
    levels: Vec<Level>,
    policy: Unreadable,
    done: bool,
}

/// An open directory and what of it is still to come, last first.
struct Level {
    fd: OwnedFd,
    path: PathBuf,
    files: Names,
    dirs: Names,
}

impl Walk {
    /// A walk of these absolute paths, in their order. Their last components become names, so no two may be
    /// the same.
    pub fn new(paths: Vec<PathBuf>, policy: Unreadable) -> Result<Self, TreeError> {
        let mut names = BTreeSet::new();
        let mut roots = Vec::with_capacity(paths.len());
        for path in paths {
            let refuse = |why: &str| Err(TreeError { path: path.clone(), why: why.into() });
            if !path.is_absolute() {
                return refuse("not an absolute path");
            }
            // `/a/..` has no name of its own, but the directory that it leads to has one, `/` excepted.
            let root = match path.file_name() {
                Some(_) => path.clone(),
                None => std::fs::canonicalize(&path)
                    .map_err(|error| TreeError { path: path.clone(), why: error.to_string() })?,
            };
            match root.file_name() {
                None => return refuse("has no name; name the directories in it instead"),
                Some(name) if !names.insert(name.to_owned()) => {
                    return refuse("another of the paths has the same name; put them separately");
                }
                Some(_) => roots.push(root),
            }
        }
        Ok(Self { roots: roots.into_iter(), levels: Vec::new(), policy, done: false })
    }

    fn step(&mut self) -> Result<Option<Event>, TreeError> {
        let Some(level) = self.levels.last_mut() else {
            let Some(root) = self.roots.next() else { return Ok(None) };
            let name = root.file_name().map(|name| name.as_bytes().to_vec()).unwrap_or_default();
            return self.visit(None, root.as_os_str().as_bytes(), name, root.clone()).map(Some);
        };
        let Some(name) = level.files.pop().or_else(|| level.dirs.pop()) else {
            self.levels.pop();
            return Ok(Some(Event::LeaveDir));
        };
        let (path, depth) = (level.path.join(OsStr::from_bytes(&name)), self.levels.len());
        self.visit(Some(depth - 1), &name.clone(), name, path).map(Some)
    }

    /// Looks at one entry: of a level, or (named by the person, so symlinks are followed) of the whole system.
    fn visit(
        &mut self,
        level: Option<usize>,
        at: &[u8],
        name: Vec<u8>,
        path: PathBuf,
    ) -> Result<Event, TreeError> {
        let follow = level.is_none();
        let parent = match level {
            Some(level) => self.levels[level].fd.as_fd(),
            None => AT_FDCWD,
        };
        let stat_flags = if follow { AtFlags::empty() } else { AtFlags::AT_SYMLINK_NOFOLLOW };
        let look = || -> Result<Seen, Errno> {
            let stat = fstatat(parent, at, stat_flags)?;
            match stat.st_mode & libc::S_IFMT {
                libc::S_IFLNK => {
                    let target = readlinkat(parent, at)?.as_bytes().to_vec();
                    Ok(Seen::Event(Event::Symlink { name: name.clone(), target, mtime: mtime(&stat) }))
                }
                libc::S_IFDIR => Ok(Seen::Dir(open_dir(parent, at, follow)?)),
                libc::S_IFREG => {
                    let file = open_file(parent, at, follow)?;
                    let stat = fstat(&file)?;
                    // It may have been exchanged since it was looked at.
                    if stat.st_mode & libc::S_IFMT != libc::S_IFREG {
                        return Ok(Seen::Event(skipped(&path, kind(&stat))));
                    }
                    let (mode, mtime, size) = (stat.st_mode & 0o7777, mtime(&stat), stat.st_size as u64);
                    Ok(Seen::Event(Event::File { name: name.clone(), mode, mtime, size, file }))
                }
                _ => Ok(Seen::Event(skipped(&path, kind(&stat)))),
            }
        };
        match look() {
            // Inside a tree it is left out and told; a path that the person named is what they want put.
            Ok(Seen::Event(Event::Skipped { path, why })) if follow => {
                Err(TreeError { path, why: format!("cannot be put: {why}") })
            }
            Ok(Seen::Event(event)) => Ok(event),
            Ok(Seen::Dir(fd)) => self.enter(fd, name, path),
            Err(errno) => self.unreadable(path, errno, follow),
        }
    }

    fn enter(&mut self, fd: OwnedFd, name: Vec<u8>, path: PathBuf) -> Result<Event, TreeError> {
        if self.levels.len() >= DIRECTORY_DEPTH_MAX {
            return Err(TreeError {
                path,
                why: format!("nested deeper than {DIRECTORY_DEPTH_MAX} directories"),
            });
        }
        let listed = fstat(&fd).and_then(|stat| Ok((stat, list(&fd)?)));
        let (stat, (mut files, mut dirs)) = match listed {
            Ok(listed) => listed,
            Err(Errno::E2BIG) => {
                return Err(TreeError { path, why: format!("more than {DIRECTORY_ENTRIES_MAX} entries") });
            }
            Err(errno) => return self.unreadable(path, errno, false),
        };
        // Taken from the back.
        files.sort_unstable_by(|a, b| b.cmp(a));
        dirs.sort_unstable_by(|a, b| b.cmp(a));
        self.levels.push(Level { fd, path, files, dirs });
        Ok(Event::EnterDir { name, mode: stat.st_mode & 0o7777, mtime: mtime(&stat) })
    }

    fn unreadable(&self, path: PathBuf, errno: Errno, named: bool) -> Result<Event, TreeError> {
        let why = match errno {
            Errno::EACCES | Errno::EPERM => "permission denied".to_owned(),
            Errno::ENOENT => "no such file or directory".to_owned(),
            other => std::io::Error::from(other).to_string(),
        };
        // What the person asked for by name is never left out silently, but what vanished below it has nothing
        // to be read any more.
        match errno {
            Errno::ENOENT if !named => Ok(skipped(&path, "vanished while it was looked at")),
            // Our own shortage says nothing about the entry.
            Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM => Err(TreeError { path, why }),
            _ if self.policy == Unreadable::Skip && !named => Ok(skipped(&path, &why)),
            _ => Err(TreeError { path, why }),
        }
    }
}

impl Iterator for Walk {
    type Item = Result<Event, TreeError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let step = self.step().transpose();
        self.done = !matches!(step, Some(Ok(_)));
        step
    }
}

enum Seen {
    Event(Event),
    Dir(OwnedFd),
}

fn skipped(path: &Path, why: &str) -> Event {
    Event::Skipped { path: path.into(), why: why.into() }
}

fn kind(stat: &FileStat) -> &'static str {
    match stat.st_mode & libc::S_IFMT {
        libc::S_IFSOCK => "a socket",
        libc::S_IFIFO => "a pipe",
        libc::S_IFBLK | libc::S_IFCHR => "a device",
        _ => "neither a file nor a directory",
    }
}

fn mtime(stat: &FileStat) -> FileTime {
    FileTime { seconds: stat.st_mtime, nanos: u32::try_from(stat.st_mtime_nsec).unwrap_or(0) }
}

fn open_dir(parent: impl AsFd, name: &[u8], follow: bool) -> Result<OwnedFd, Errno> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC | no_follow(follow);
    openat(parent, name, flags, Mode::empty())
}

/// Opens a file without changing its access time where that is allowed; never waits for a pipe's other end.
fn open_file(parent: impl AsFd, name: &[u8], follow: bool) -> Result<File, Errno> {
    let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC | no_follow(follow);
    match openat(parent.as_fd(), name, flags | OFlag::O_NOATIME, Mode::empty()) {
        Err(Errno::EPERM) => openat(parent.as_fd(), name, flags, Mode::empty()),
        opened => opened,
    }
    .map(File::from)
}

fn no_follow(follow: bool) -> OFlag {
    if follow { OFlag::empty() } else { OFlag::O_NOFOLLOW }
}

type Names = Vec<Vec<u8>>;

/// Names in a directory: directories apart from everything else. A file system that does not say what an entry
/// is when it lists it is asked once more for each.
fn list(fd: &OwnedFd) -> Result<(Names, Names), Errno> {
    let mut dir = Dir::from_fd(open_dir(fd, b".", false)?)?;
    let (mut files, mut dirs) = (Vec::new(), Vec::new());
    for entry in dir.iter() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name == b"." || name == b".." {
            continue;
        }
        if files.len() + dirs.len() >= DIRECTORY_ENTRIES_MAX {
            return Err(Errno::E2BIG);
        }
        let is_dir = match entry.file_type() {
            Some(kind) => kind == Type::Directory,
            None => fstatat(fd, name, AtFlags::AT_SYMLINK_NOFOLLOW)
                .is_ok_and(|stat| stat.st_mode & libc::S_IFMT == libc::S_IFDIR),
        };
        if is_dir { dirs.push(name.to_vec()) } else { files.push(name.to_vec()) }
    }
    Ok((files, dirs))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn walk(paths: &[&Path], policy: Unreadable) -> Result<Vec<String>, TreeError> {
        let name = |name: &[u8]| String::from_utf8_lossy(name).into_owned();
        Walk::new(paths.iter().map(|path| path.to_path_buf()).collect(), policy)?
            .map(|event| {
                Ok(match event? {
                    Event::EnterDir { name: n, .. } => format!("{}/", name(&n)),
                    Event::File { name: n, size, file, .. } => {
                        assert_eq!(std::io::read_to_string(file).expect("opened").len() as u64, size);
                        format!("{} {size}", name(&n))
                    }
                    Event::Symlink { name: n, target, .. } => format!("{} -> {}", name(&n), name(&target)),
                    Event::LeaveDir => "..".into(),
                    Event::Skipped { path, why } => {
                        format!("skipped {}: {why}", path.file_name().expect("named").to_string_lossy())
                    }
                })
            })
            .collect()
    }

    fn tree() -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("temporary directory");
        let at = |name: &str| dir.path().join("top").join(name);
        fs::create_dir_all(at("b/deep")).expect("directories");
        fs::create_dir(at("a")).expect("directory");
        fs::write(at("z"), "12345").expect("file");
        fs::write(at("b/one"), "1").expect("file");
        fs::write(at("b/deep/two"), "").expect("file");
        symlink("/etc", at("link")).expect("symlink");
        symlink("nowhere", at("a/dangling")).expect("symlink");
        nix::unistd::mkfifo(&at("c-pipe"), Mode::S_IRWXU).expect("pipe");
        dir
    }

    #[test]
    fn files_first_then_directories_each_by_name() {
        let dir = tree();
        let top = dir.path().join("top");
        let expected = [
            "top/",
            "skipped c-pipe: a pipe",
            "link -> /etc",
            "z 5",
            "a/",
            "dangling -> nowhere",
            "..",
            "b/",
            "one 1",
            "deep/",
            "two 0",
            "..",
            "..",
            "..",
        ];
        assert_eq!(walk(&[&top], Unreadable::Fail).expect("readable"), expected);
        let file = top.join("z");
        assert_eq!(walk(&[&file, &top.join("a")], Unreadable::Fail).expect("readable")[..2], ["z 5", "a/"]);
        assert_eq!(walk(&[&top.join("b/..")], Unreadable::Fail).expect("readable"), expected);
    }

    #[test]
    fn a_named_symlink_is_followed_under_its_own_name() {
        let dir = tree();
        let (to_dir, to_file) = (dir.path().join("d"), dir.path().join("f"));
        symlink("top/b", &to_dir).expect("symlink");
        symlink("top/z", &to_file).expect("symlink");
        let events = walk(&[&to_dir, &to_file], Unreadable::Fail).expect("readable");
        assert_eq!(events, ["d/", "one 1", "deep/", "two 0", "..", "..", "f 5"]);
    }

    #[test]
    fn modes_and_times_are_told() {
        let dir = tree();
        let file = dir.path().join("top/z");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).expect("mode");
        let time = std::time::UNIX_EPOCH + std::time::Duration::new(1_000_000_000, 123_456_789);
        File::options().write(true).open(&file).and_then(|f| f.set_modified(time)).expect("time");
        let event = Walk::new(vec![file], Unreadable::Fail).expect("a walk").next();
        let Some(Ok(Event::File { mode, mtime, .. })) = event else { panic!("{event:?}") };
        assert_eq!((mode, mtime), (0o640, FileTime { seconds: 1_000_000_000, nanos: 123_456_789 }));
    }

    #[test]
    fn what_cannot_be_walked_is_named() {
        let dir = tree();
        let top = dir.path().join("top");
        let missing = dir.path().join("missing");
        for policy in [Unreadable::Fail, Unreadable::Skip] {
            let error = walk(&[&top, &missing], policy).expect_err("missing");
            assert_eq!(error, TreeError { path: missing.clone(), why: "no such file or directory".into() });
        }
        assert!(walk(&[Path::new("/")], Unreadable::Fail).is_err());
        assert!(walk(&[Path::new("relative")], Unreadable::Fail).is_err());
        let same =
            walk(&[&top.join("b/one"), &dir.path().join("one")], Unreadable::Fail).expect_err("same name");
        assert!(same.why.contains("same name"));
        let mut deep = dir.path().join("nest");
        for _ in 0..=DIRECTORY_DEPTH_MAX {
            deep.push("d");
        }
        fs::create_dir_all(&deep).expect("directories");
        let error = walk(&[&dir.path().join("nest")], Unreadable::Skip).expect_err("too deep");
        assert!(error.why.contains("nested deeper"), "{error}");
    }

    /// Root may read everything, so the policy is asked directly.
    #[test]
    fn the_policy_decides_about_unreadable_entries() {
        let deny = |policy, named| {
            let walk = Walk::new(vec![], policy).expect("a walk");
            walk.unreadable("/x/secret".into(), Errno::EACCES, named)
        };
        let error = deny(Unreadable::Fail, false).expect_err("fails");
        assert_eq!(error.to_string(), "/x/secret: permission denied");
        assert!(
            matches!(deny(Unreadable::Skip, false), Ok(Event::Skipped { why, .. }) if why == "permission denied")
        );
        assert!(deny(Unreadable::Skip, true).is_err(), "named by the person");
        let mut walk = Walk::new(vec!["/nonexistent-a".into(), "/nonexistent-b".into()], Unreadable::Skip)
            .expect("walk");
        assert!(walk.next().is_some_and(|event| event.is_err()));
        assert!(walk.next().is_none(), "ends after its first error");
    }
}
