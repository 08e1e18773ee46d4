//! Counts allocations, so that benchmarks and tests can show that a path makes none. The daemon's own
//! allocator is not wrapped: nothing is counted there.

use std::alloc::{GlobalAlloc, Layout};
use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};

static COUNT: AtomicU64 = AtomicU64::new(0);

thread_local! {
    /// Needs neither memory nor an end of its own, so that an allocator may use it at any time.
    static OWN: Cell<u64> = const { Cell::new(0) };
}

fn count() {
    COUNT.fetch_add(1, Ordering::Relaxed);
    OWN.with(|own| own.set(own.get() + 1));
}

/// How often the calling thread asked for memory so far.
pub fn own_allocations() -> u64 {
    OWN.with(Cell::get)
}

/// How often memory was asked for so far, by all threads: new, or of another size.
pub fn allocations() -> u64 {
    COUNT.load(Ordering::Relaxed)
}

/// An allocator that counts for [`allocations`]; to be a program's `global_allocator`.
pub struct Counted<A>(pub A);

// SAFETY: every call is handed on to an allocator that keeps the contract, with the arguments that came; the
// counter beside it is no memory that anybody was given.
unsafe impl<A: GlobalAlloc> GlobalAlloc for Counted<A> {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller keeps the contract of `GlobalAlloc::alloc`.
        unsafe { self.0.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: `at` came from the same allocator through this one, with the same layout.
        unsafe { self.0.dealloc(at, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller keeps the contract of `GlobalAlloc::alloc_zeroed`.
        unsafe { self.0.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: `at` came from the same allocator through this one, with the same layout.
        unsafe { self.0.realloc(at, layout, size) }
    }
}
