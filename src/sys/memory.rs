//! What the kernel knows of mapped pages: which are resident, and faulting them in.

use std::io;

/// Smallest page of any machine that this runs on, bytes; the kernel is asked for the real one.
const PAGE_MIN: usize = 4096;
/// What memory moves in, bytes.
#[cfg(target_arch = "x86_64")]
/// Pages asked for in one call.
const PAGES_PER_CALL: usize = 64;

/// The machine's page size, bytes.
pub fn page_size() -> usize {
    // SAFETY: no memory is involved.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(size).unwrap_or(PAGE_MIN).max(PAGE_MIN)
}

/// The whole pages that `bytes` touch: address of the first and length of all, bytes.
pub fn pages_of(bytes: &[u8]) -> (usize, usize) {
    let page = page_size();
    let start = bytes.as_ptr() as usize & !(page - 1);
    let end = (bytes.as_ptr() as usize + bytes.len()).next_multiple_of(page);
    (start, if bytes.is_empty() { 0 } else { end - start })
}

/// Whether every page of `bytes` is in memory, so that reading them does not wait for the disk.
pub fn is_resident(bytes: &[u8]) -> io::Result<bool> {
    let page = page_size();
    let (mut start, len) = pages_of(bytes);
    let end = start + len;
    let mut states = [0u8; PAGES_PER_CALL];
    while start < end {
        let span = (end - start).min(PAGES_PER_CALL * page);
        let count = span / page;
        // SAFETY: the range consists of the pages of a live slice, so it is mapped; `states` has a byte for
        // each of the `count` pages, which is what the kernel writes.
        let code = unsafe { libc::mincore(start as *mut libc::c_void, span, states.as_mut_ptr().cast()) };
        if code != 0 {
            return Err(io::Error::last_os_error());
        }
        if states[..count].iter().any(|state| state & 1 == 0) {
            return Ok(false);
        }
        start += span;
    }
    Ok(true)
}

/// Faults whole pages in for reading, waiting for the disk; fails where nothing is mapped. All of them are asked of
/// the disk at once, and no more than them, whatever the map's read-ahead is. A shard asks its ring for the same
/// (`Ring::populate`), which waits elsewhere.
pub fn populate(address: usize, len: usize) -> io::Result<()> {
    // SAFETY: this advice changes no content and no mapping either. What it could not begin, the second does.
    unsafe { libc::madvise(address as *mut libc::c_void, len, libc::MADV_WILLNEED) };
    // SAFETY: this advice changes no content and no mapping, and the kernel refuses a range that is not mapped
    // or not of whole pages; so any two numbers do.
    let code = unsafe { libc::madvise(address as *mut libc::c_void, len, libc::MADV_POPULATE_READ) };
    if code == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Whether this error number of [`populate`] says that the bytes cannot be had from the disk: reading them would
/// raise SIGBUS. Others (no memory, an interruption, a kernel that cannot do it) say nothing of the bytes.
pub fn is_lost(code: i32) -> bool {
    matches!(code, libc::EFAULT | libc::EHWPOISON | libc::EIO)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn populated_memory_is_resident() {
        let bytes = vec![1u8; 300 * 4096];
        let (address, len) = pages_of(&bytes);
        populate(address, len).expect("madvise");
        assert!(populate(1, 4096).is_err());
        assert!(is_resident(&bytes).expect("mincore"));
        assert!(is_resident(&[]).expect("nothing is always there"));
    }

    /// Found by review: a chunk was marked as damaged for good when the kernel had no memory for a moment.
    #[test]
    fn only_what_the_disk_lost_is_lost() {
        assert!([libc::EFAULT, libc::EHWPOISON, libc::EIO].into_iter().all(is_lost));
        let passing = [libc::ENOMEM, libc::EINTR, libc::EAGAIN, libc::ECANCELED, libc::EINVAL];
        assert!(!passing.into_iter().any(is_lost));
    }

    #[test]
    fn pages_cover_the_bytes() {
        let page = page_size();
        let bytes = vec![0u8; 4 * page];
        for (from, to) in [(0, 1), (1, page), (5, 3 * page), (0, 4 * page)] {
            let part = &bytes[from..to];
            let (start, len) = pages_of(part);
            assert!(start % page == 0 && len % page == 0);
            assert!(start <= part.as_ptr() as usize && part.as_ptr() as usize + part.len() <= start + len);
            assert!(len < part.len() + 2 * page);
        }
        assert_eq!(pages_of(&bytes[..0]).1, 0);
    }
}
