//! Fuzz targets of files that another program may have damaged: see `sim::fuzzing` for the rest, and
//! docs/testing/fuzzing.md.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use nix::sys::memfd::{MFdFlags, memfd_create};

use super::{files, store};

/// A target: its name, and what is done with the bytes.
pub type Target = (&'static str, fn(&[u8]));

/// Every target of files.
pub const TARGETS: &[Target] = &[
    ("store_record", store::fuzzing::record),
    ("store_header", store::fuzzing::header),
    ("journal", files::fuzzing::journal),
];

/// Seeds of these targets.
pub fn seeds() -> Vec<(&'static str, Vec<Vec<u8>>)> {
    vec![
        ("store_record", store::fuzzing::record_seeds()),
        ("store_header", store::fuzzing::header_seeds()),
        ("journal", files::fuzzing::seeds()),
    ]
}

/// A file of these bytes that is on no disk, and a path that opens it.
pub(super) fn file_of(bytes: &[u8]) -> (File, PathBuf) {
    let file = File::from(memfd_create("fuzz", MFdFlags::MFD_CLOEXEC).expect("memory"));
    file.write_all_at(bytes, 0).expect("memory");
    let path = format!("/proc/self/fd/{}", file.as_fd().as_raw_fd());
    (file, path.into())
}
