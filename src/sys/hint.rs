//! Hints to the processor. They change nothing that a program can see, so cores, which name nothing else of `sys`, may give
//! them too.

/// Bytes that a cache fetches at once.
const CACHE_LINE: usize = 64;

/// Asks for the cache lines of a value that will be used soon, so that they are on their way meanwhile: those that it lies in
/// itself, not what it points to.
#[inline]
pub fn prefetch<T: ?Sized>(value: &T) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        let start = std::ptr::from_ref(value).cast::<i8>();
        let (len, inside) = (size_of_val(value), start as usize % CACHE_LINE);
        for at in (0..inside + len).step_by(CACHE_LINE) {
            // SAFETY: a hint, which reads nothing as far as the program can see and never faults.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(start.wrapping_add(at)) };
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = value;
}
