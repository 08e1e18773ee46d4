//! Effects on files: what the pure `get` state machine asks of the thread that owns file descriptors
//! (`io/files.rs`), and what comes back. In the simulator the same operations act on a model.
//!
//! Directories and files are numbered by the asker, per job. Directory 0 is the job's output root.
//! Every operation is answered by exactly one [`FileDone`], in order per job.

use super::SliceBuf;

/// One `get` of this daemon's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobId(pub u64);

/// Modification time: seconds since the Unix epoch and nanoseconds (0 to 999,999,999).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FileTime {
    /// Seconds; negative before 1970.
    pub seconds: i64,
    /// Nanoseconds within the second.
    pub nanos: u32,
}

/// One operation of a job.
#[derive(Debug)]
pub struct FileOp {
    /// Whose.
    pub job: JobId,
    /// What.
    pub act: FileAct,
}

/// What to do. Names are single path components, already checked by the asker and checked again by the
/// executor (not empty, not `.` or `..`, no `/`, no NUL).
#[derive(Debug)]
pub enum FileAct {
    /// Opens the output root, creating it (and nothing above it) if missing, and the job's journal.
    Begin {
        /// Absolute path of the directory that becomes directory 0.
        root: String,
        /// Names the content and the output: the journal of an earlier, interrupted run has this name.
        journal: [u8; 16],
        /// Whether existing files may be replaced (atomically, when complete).
        overwrite: bool,
    },
    /// Makes (or enters, never through a symlink) a directory, writable until `FinishDirectory`.
    Directory {
        /// The new directory's number.
        dir: u32,
        /// The directory that it lies in.
        parent: u32,
        /// Its name.
        name: Vec<u8>,
    },
    /// Creates or reopens the temporary file that will become `name`.
    Open {
        /// The file's number.
        file: u32,
        /// The directory that it lies in.
        parent: u32,
        /// Its name.
        name: Vec<u8>,
        /// Its final size, bytes.
        size: u64,
    },
    /// Reads back one record's plaintext that an earlier run's journal names.
    ReadBack {
        /// Which file.
        file: u32,
        /// Where, bytes.
        offset: u64,
        /// Where to put it, from byte 0.
        into: SliceBuf,
        /// How many bytes.
        len: u32,
        /// The record's number, handed back.
        record: u64,
    },
    /// Writes one verified record and enters it in the journal.
    Write {
        /// Which file.
        file: u32,
        /// Where in the file, bytes.
        offset: u64,
        /// The plaintext, `data[start..start + len]`.
        data: SliceBuf,
        /// First byte in `data`.
        start: u32,
        /// Number of bytes.
        len: u32,
        /// The record's number within the file.
        record: u64,
        /// The record's authentication tag: what the journal remembers it by.
        tag: [u8; 16],
    },
    /// Gives the temporary file its mode and time and renames it into place.
    Finish {
        /// Which file.
        file: u32,
        /// Permission bits (0o7777; set-id bits are dropped by the executor).
        mode: u32,
        /// Modification time.
        mtime: FileTime,
    },
    /// Open, Write and Finish in one, for a file of one record (or none: `len` 0, `data` `None`).
    Whole {
        /// The directory that it lies in.
        parent: u32,
        /// Its name.
        name: Vec<u8>,
        /// The plaintext, `data[start..start + len]`.
        data: Option<SliceBuf>,
        /// First byte in `data`.
        start: u32,
        /// Number of bytes.
        len: u32,
        /// The record's authentication tag.
        tag: [u8; 16],
        /// Permission bits.
        mode: u32,
        /// Modification time.
        mtime: FileTime,
    },
    /// Makes a symlink. Its target is never followed by any operation of any job.
    Symlink {
        /// The directory that it lies in.
        parent: u32,
        /// Its name.
        name: Vec<u8>,
        /// What it points to, as it is.
        target: Vec<u8>,
        /// Modification time.
        mtime: FileTime,
    },
    /// Sets a directory's mode and time once everything in it is done.
    FinishDirectory {
        /// Which directory.
        dir: u32,
        /// Permission bits.
        mode: u32,
        /// Modification time.
        mtime: FileTime,
    },
    /// Ends the job: removes the journal when `complete`, keeps journal and temporary files otherwise.
    End {
        /// Whether all of it was restored.
        complete: bool,
    },
}

/// A record that an earlier run wrote: its number and the tag that it was verified by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JournalRecord {
    /// The record's number within the file.
    pub record: u64,
    /// Its authentication tag.
    pub tag: [u8; 16],
}

/// The answer to one [`FileOp`].
#[derive(Debug)]
pub struct FileDone {
    /// Whose.
    pub job: JobId,
    /// What came of it.
    pub result: Result<FileOutcome, FileFault>,
}

/// What an operation brought, when it is more than success.
#[derive(Debug)]
pub enum FileOutcome {
    /// `Begin`: whether the journal of an earlier run was found.
    Began {
        /// True when there is something to resume.
        resumed: bool,
    },
    /// `Open`: what an earlier run's journal says of this file; empty when there is none.
    Opened {
        /// Which file.
        file: u32,
        /// Records that may be there, unchecked.
        journal: Vec<JournalRecord>,
    },
    /// `ReadBack`: the bytes, or fewer than asked when the file is shorter.
    Read {
        /// Which file.
        file: u32,
        /// The record's number.
        record: u64,
        /// The bytes, from 0.
        data: SliceBuf,
        /// How many there were.
        len: u32,
    },
    /// `Write`, `Whole`: done; the buffer is free again.
    Written {
        /// Bytes written.
        len: u32,
    },
    /// Everything else: done.
    Done,
}

/// Why an operation failed: which path, and what to do about it. One line, shown to the person.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct FileFault {
    /// The line.
    pub message: String,
    /// Whether trying the same `get` again later could help (disk full) or not (permission).
    pub retryable: bool,
}
