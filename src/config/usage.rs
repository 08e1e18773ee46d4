//! What the node sent this month, kept for its quota (`limits.quota`): one line in a file of the node's folder.

use std::io;
use std::path::{Path, PathBuf};

use super::atomic;
use crate::base::UnixMs;
use crate::shape::Spent;

/// The longest text that such a file has, bytes.
const TEXT_MAX: u64 = 64;

/// The count of the running month, and where it is kept.
#[derive(Debug)]
pub struct Usage {
    path: PathBuf,
    spent: Spent,
    /// What the daemon had sent in all when it was looked at last.
    counted: u64,
    saved: Spent,
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
        Ok(Self { path: path.to_owned(), spent, counted: 0, saved: spent })
    }

    /// An empty count, for when the file cannot be read. It is replaced at the next [`Self::save`].
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), spent: Spent::default(), counted: 0, saved: Spent::default() }
    }

    /// The daemon has sent `total` bytes since it began.
    pub fn note(&mut self, wall: UnixMs, total: u64) {
        self.spent.add(wall, total.saturating_sub(self.counted));
        self.counted = total;
    }

    /// Bytes sent in the month in which this is.
    pub fn at(&self, wall: UnixMs) -> u64 {
        self.spent.at(wall)
    }

    /// What is to be written, and where, unless the file has it: by [`Self::write`], off the thread that must not wait.
    pub fn to_save(&mut self) -> Option<(PathBuf, String)> {
        if self.saved == self.spent {
            return None;
        }
        self.saved = self.spent;
        Some((self.path.clone(), format!("{}\n", self.spent)))
    }

    /// Writes it.
    pub fn write(path: &Path, text: &str) -> io::Result<()> {
        atomic::replace(path, text.as_bytes(), 0o644)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_month_is_counted_across_starts() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("usage");
        let wall = UnixMs(1_780_000_000_000);
        for (start, total) in [(0, 1000), (1, 500)] {
            let mut usage = Usage::load(&path).expect("usage");
            assert_eq!((usage.at(wall), usage.to_save()), (start * 1000, None));
            usage.note(wall, total / 2);
            usage.note(wall, total);
            let (to, text) = usage.to_save().expect("it changed");
            Usage::write(&to, &text).expect("written");
        }
        assert_eq!(Usage::load(&path).expect("usage").at(wall), 1500);
        std::fs::write(&path, "what?").expect("written");
        let why = Usage::load(&path).expect_err("no count").to_string();
        assert!(why.contains("a month as"), "{why}");
    }
}
