//! What the node sent this month, kept for its quota (`limits.quota`): one line in a file of the node's folder.

use std::io;
use std::path::{Path, PathBuf};

use super::atomic;
use crate::base::UnixMs;
use crate::shape::Spent;

/// The longest text that such a file has, bytes.
const TEXT_MAX: u64 = 128;
/// What may have been sent since it was saved, bytes: an idle node does not write to its disk all day.
const UNSAVED_MAX: u64 = 16 << 20;

/// The count of the running month, and where it is kept.
#[derive(Debug)]
pub struct Usage {
    path: PathBuf,
    spent: Spent,
    /// What the daemon had sent in all when it was looked at last.
    counted: u64,
    /// What was counted and is not in the file.
    unsaved: u64,
}

/// What is to be written, off the thread that must not wait.
#[derive(Debug, PartialEq, Eq)]
pub struct Save {
    path: PathBuf,
    text: String,
    bytes: u64,
}

impl Save {
    /// Writes it. One at a time.
    pub fn write(&self) -> io::Result<()> {
        atomic::replace(&self.path, self.text.as_bytes(), 0o644)
    }
}

impl Usage {
    /// What `path` has. A file that is not there is a month in which nothing was sent.
    pub fn load(path: &Path) -> io::Result<Self> {
        let spent = match atomic::read_bounded(path, TEXT_MAX) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Spent::default(),
            Err(error) => return Err(error),
            Ok(bytes) => {
                let wanted =
                    |what: &str| io::Error::new(io::ErrorKind::InvalidData, format!("it should have {what}"));
                let text = std::str::from_utf8(&bytes).map_err(|_| wanted("text"))?;
                text.parse().map_err(wanted)?
            }
        };
        Ok(Self { spent, ..Self::new(path) })
    }

    /// An empty count.
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), spent: Spent::default(), counted: 0, unsaved: 0 }
    }

    /// The daemon has sent `total` bytes since it began.
    pub fn note(&mut self, wall: UnixMs, total: u64) {
        let new = total.saturating_sub(self.counted);
        self.spent.add(wall, new);
        self.unsaved += new;
        self.counted = self.counted.max(total);
    }

    /// Bytes sent in the month in which this is.
    pub fn at(&self, wall: UnixMs) -> u64 {
        self.spent.at(wall)
    }

    /// What should be written now; everything that is not in the file when these are the last words.
    pub fn to_save(&self, last: bool) -> Option<Save> {
        let due = self.unsaved >= UNSAVED_MAX || last && self.unsaved > 0;
        due.then(|| Save { path: self.path.clone(), text: self.spent.to_string(), bytes: self.unsaved })
    }

    /// That was written.
    pub fn saved(&mut self, save: &Save) {
        self.unsaved = self.unsaved.saturating_sub(save.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WALL: UnixMs = UnixMs(1_780_000_000_000);

    #[test]
    fn a_month_is_counted_across_starts() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("usage");
        for (start, total) in [(0, 1000), (1, 500)] {
            let mut usage = Usage::load(&path).expect("usage");
            assert_eq!((usage.at(WALL), usage.to_save(true)), (start * 1000, None));
            usage.note(WALL, total / 2);
            usage.note(WALL, total);
            // What fell was wrong: nothing is counted twice.
            usage.note(WALL, total / 2);
            usage.note(WALL, total);
            assert_eq!(usage.to_save(false), None, "so little can wait");
            let save = usage.to_save(true).expect("it is not in the file");
            save.write().expect("written");
            usage.saved(&save);
            assert_eq!(usage.to_save(true), None);
        }
        assert_eq!(Usage::load(&path).expect("usage").at(WALL), 1500);
        std::fs::write(&path, "what?").expect("written");
        let why = Usage::load(&path).expect_err("no count").to_string();
        assert!(why.contains("a month as"), "{why}");
    }

    #[test]
    fn what_could_not_be_written_is_still_to_be_saved() {
        let mut usage = Usage::new(Path::new("/nowhere/at/all/usage"));
        usage.note(WALL, UNSAVED_MAX);
        let save = usage.to_save(false).expect("as much as may be unsaved");
        assert!(save.write().is_err());
        assert_eq!(usage.to_save(false), Some(save));
    }
}
