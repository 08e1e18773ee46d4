//! A network namespace for a test.

use nix::sched::{CloneFlags, unshare};

/// Runs a test on a thread with a network namespace of its own, which goes with it; or says that it was not run.
pub(in crate::io) fn in_namespace(test: impl FnOnce() + Send + 'static) {
    let thread = std::thread::Builder::new().spawn(move || match unshare(CloneFlags::CLONE_NEWNET) {
        Ok(()) if !std::path::Path::new("/dev/net/tun").exists() => {
            eprintln!("SKIPPED: there is no /dev/net/tun");
        }
        Ok(()) => test(),
        Err(errno) => eprintln!("SKIPPED: a network namespace of its own needs root: {errno}"),
    });
    if let Err(panic) = thread.expect("a thread").join() {
        std::panic::resume_unwind(panic);
    }
}
