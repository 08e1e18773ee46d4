//! Page-aligned anonymous memory that never moves: what may be shared with the kernel.

use std::io;
use std::num::NonZeroUsize;
use std::ptr::NonNull;

use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap_anonymous, munmap};

/// The size of a huge page, bytes; regions of this size and more are aligned to it.
const HUGE: usize = 2 << 20;

/// A mapping of our own, zeroed at first, unmapped when dropped.
pub(super) struct Region {
    mapping: NonNull<u8>,
    mapped: usize,
    start: NonNull<u8>,
    len: usize,
}

impl Region {
    /// Maps and faults in `len` bytes, so that no page fault is left for the packet path. Large regions
    /// ask for huge pages, which cost nothing when there are none.
    pub(super) fn new(len: usize) -> io::Result<Self> {
        let slack = if len >= HUGE { HUGE } else { 0 };
        let mapped = NonZeroUsize::new(len + slack).ok_or(io::ErrorKind::InvalidInput)?;
        // SAFETY: an anonymous private mapping at an address of the kernel's choice aliases nothing.
        let mapping = unsafe {
            mmap_anonymous(
                None,
                mapped,
                ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
                MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE,
            )
        }?
        .cast::<u8>();
        let skip = if slack > 0 { mapping.as_ptr().align_offset(HUGE) } else { 0 };
        // SAFETY: `skip` is less than `HUGE`, the slack that was mapped beyond `len`.
        let start = unsafe { mapping.add(skip) };
        let region = Self { mapping, mapped: mapped.get(), start, len };
        // SAFETY: the range lies inside our own mapping; both calls keep its content.
        unsafe {
            if slack > 0 {
                // A wish: refused where huge pages are compiled out.
                let _ = madvise(start.cast(), len, MmapAdvise::MADV_HUGEPAGE);
            }
            madvise(start.cast(), len, MmapAdvise::MADV_POPULATE_WRITE)?;
        }
        Ok(region)
    }

    /// The first byte, aligned to a page.
    pub(super) fn start(&self) -> NonNull<u8> {
        self.start
    }

    /// Number of bytes.
    pub(super) fn len(&self) -> usize {
        self.len
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: we mapped exactly this, and whoever lent parts of it to the kernel got them back first.
        // Failure would leave the mapping in place, which harms nobody.
        let _ = unsafe { munmap(self.mapping.cast(), self.mapped) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_aligned_zeroed_and_whole() {
        for len in [4096, 3 << 20] {
            let region = Region::new(len).expect("memory");
            assert_eq!(region.start().as_ptr().align_offset(if len >= HUGE { HUGE } else { 4096 }), 0);
            // SAFETY: `len` zeroed bytes of the region, which nobody else sees.
            let bytes = unsafe { std::slice::from_raw_parts_mut(region.start().as_ptr(), region.len()) };
            assert!(bytes.iter().all(|b| *b == 0));
            bytes[len - 1] = 1;
        }
    }
}
