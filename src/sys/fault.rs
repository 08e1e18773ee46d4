//! A last line when mapped memory fails. The kernel answers a read of a mapped page that the disk cannot give, or
//! that a file lost when it was cut, by SIGBUS; no error can be returned there. LMDB answers a page that
//! cannot be by `abort`. Both end the process, with a line that says what to do instead of none.

use std::sync::Once;

static INSTALLED: Once = Once::new();

/// What is said when a page cannot be read.
const UNREADABLE: &[u8] =
    b"tornet: a page of the store could not be read (SIGBUS): its file was cut, or the disk \
    fails; check the disk and start again: the store is looked at when it is opened\n";
const DAMAGED: &[u8] =
    b"tornet: the store is damaged; start again: it is looked at when it is opened, and what is \
    to be done is said then. LMDB: ";

/// From now on, SIGBUS says its line and ends the process with status 1.
pub fn explain_sigbus() {
    extern "C" fn say(_: libc::c_int) {
        last_words(&[UNREADABLE]);
    }
    INSTALLED.call_once(|| {
        // SAFETY: all zeros is a valid `sigaction`: no flags, an empty mask. The handler only calls functions that
        // may be called in a signal handler, and never returns.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = say as extern "C" fn(libc::c_int) as libc::sighandler_t;
            action.sa_flags = libc::SA_RESETHAND;
            libc::sigaction(libc::SIGBUS, &action, std::ptr::null_mut());
        }
    });
}

/// From now on, a failed assertion about this environment says its line and ends the process with status 1.
pub fn explain_assertions(env: &lmdb::Environment) {
    unsafe extern "C" fn say(_: *mut lmdb_sys::MDB_env, message: *const libc::c_char) {
        // SAFETY: LMDB hands in a text of its own that ends with NUL.
        let text = unsafe { std::ffi::CStr::from_ptr(message) };
        last_words(&[DAMAGED, text.to_bytes(), b"\n"]);
    }
    // SAFETY: the pointer is the environment's own and valid while `env` is borrowed. It cannot fail for one.
    unsafe { lmdb_sys::mdb_env_set_assert(env.env(), Some(say)) };
}

fn last_words(parts: &[&[u8]]) -> ! {
    for part in parts {
        // SAFETY: the range is a live slice; whether it could be written does not matter any more.
        unsafe { libc::write(libc::STDERR_FILENO, part.as_ptr().cast(), part.len()) };
    }
    // SAFETY: ends the process without running anything of it, as a kill would: what was acknowledged is durable.
    unsafe { libc::_exit(1) }
}
