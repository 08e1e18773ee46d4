//! Files that are either the old or the new one after a crash, and private from their first byte.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

/// Reads a file of at most `limit` bytes.
pub fn read_bounded(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("larger than {limit} bytes")));
    }
    Ok(bytes)
}

/// Creates a file that must not exist, with its contents and directory entry on disk before it returns.
/// Nothing is left behind when that fails.
pub fn create(path: &Path, contents: &[u8], mode: u32) -> io::Result<()> {
    let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    let written = own_like(&file, parent(path))
        .and_then(|()| fill(file, contents, mode))
        .and_then(|()| sync_parent(path));
    if written.is_err() {
        let _ = fs::remove_file(path);
    }
    written
}

/// Replaces a file (following a symlink to the real one) by a complete new one of the same mode, or of
/// `mode` when there is none yet.
pub fn replace(path: &Path, contents: &[u8], mode: u32) -> io::Result<()> {
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let mode = fs::metadata(&path).map_or(mode, |meta| meta.permissions().mode() & 0o777);
    let temporary = beside(&path);
    // A leftover of a crash; whoever writes here holds the folder's lock.
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
    let model = if path.exists() { &path } else { parent(&path) };
    let written = own_like(&file, model)
        .and_then(|()| fill(file, contents, mode))
        .and_then(|()| fs::rename(&temporary, &path));
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written?;
    sync_parent(&path)
}

fn beside(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    path.with_file_name(name)
}

fn fill(mut file: File, contents: &[u8], mode: u32) -> io::Result<()> {
    // The umask may have taken bits away that the operator had set.
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    file.write_all(contents)?;
    file.sync_all()
}

/// Makes the name of a file or folder durable: only its folder's sync does, its own does not.
pub(super) fn sync_parent(path: &Path) -> io::Result<()> {
    File::open(parent(path))?.sync_all()
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// What root makes in a service's folder belongs to the service's user, or the service could not read
/// it. For other users nothing can differ.
pub(super) fn own_like(file: &File, model: &Path) -> io::Result<()> {
    let (ours, wanted) = (file.metadata()?, fs::metadata(model)?);
    if nix::unistd::geteuid().is_root() && (ours.uid(), ours.gid()) != (wanted.uid(), wanted.gid()) {
        fchown(file, Some(wanted.uid()), Some(wanted.gid()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn create_never_overwrites_and_replace_keeps_mode_and_symlink() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let file = dir.path().join("file");
        create(&file, b"one", 0o600).expect("created");
        assert_eq!(create(&file, b"two", 0o600).map_err(|e| e.kind()), Err(io::ErrorKind::AlreadyExists));
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).expect("chmod");
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&file, &link).expect("symlink");
        fs::write(beside(&file), b"left by a crash").expect("written");
        replace(&link, b"three", 0o600).expect("replaced");
        assert_eq!(fs::read(&file).expect("read"), b"three");
        assert!(fs::symlink_metadata(&link).expect("link").is_symlink());
        assert_eq!(fs::metadata(&file).expect("stat").permissions().mode() & 0o777, 0o640);
        assert!(!beside(&file).exists());
    }

    #[test]
    fn root_leaves_files_to_the_folders_user() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let dir = tempfile::tempdir().expect("temporary folder");
        std::os::unix::fs::chown(dir.path(), Some(4242), Some(4343)).expect("chown");
        let file = dir.path().join("file");
        create(&file, b"one", 0o600).expect("created");
        replace(&file, b"two", 0o600).expect("replaced");
        let meta = fs::metadata(&file).expect("there");
        assert_eq!((meta.uid(), meta.gid(), meta.mode() & 0o777), (4242, 4343, 0o600));
    }

    #[test]
    fn reading_is_bounded() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let file = dir.path().join("file");
        fs::write(&file, [7; 11]).expect("written");
        assert_eq!(read_bounded(&file, 11).expect("fits").len(), 11);
        assert!(read_bounded(&file, 10).is_err());
    }
}
