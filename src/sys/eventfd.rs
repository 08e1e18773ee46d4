//! A counter in the kernel that one thread writes and a ring of another waits for.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use nix::sys::eventfd::{EfdFlags, EventFd as Inner};

/// Wakes a thread that sleeps in its ring. Blocking on purpose: io_uring answers a read of an empty
/// non-blocking file with `EAGAIN` at once instead of waiting for it.
pub struct EventFd(Inner);

impl EventFd {
    /// A counter of zero.
    pub fn new() -> io::Result<Self> {
        Ok(Self(Inner::from_flags(EfdFlags::EFD_CLOEXEC)?))
    }

    /// Wakes whoever waits. Never blocks: the counter would have to reach 2⁶⁴ first.
    pub fn signal(&self) {
        // Cannot fail for a descriptor that we own and that counts to 2⁶⁴.
        let _ = self.0.write(1);
    }
}

impl AsRawFd for EventFd {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl AsFd for EventFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_signals() {
        let event = EventFd::new().expect("an eventfd");
        event.signal();
        event.signal();
        assert_eq!(event.0.read(), Ok(2));
    }
}
