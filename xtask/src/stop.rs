//! Ctrl-C and `kill`: the first asks every waiting loop to end, so that guards run and tear down what
//! was made; the second ends the program at once.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Result, bail};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

static ASKED: OnceLock<Arc<AtomicBool>> = OnceLock::new();

fn asked() -> &'static Arc<AtomicBool> {
    ASKED.get_or_init(|| {
        let flag = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            // In this order: the shutdown acts only where the flag is up already, from an earlier signal.
            let _ = signal_hook::flag::register_conditional_shutdown(signal, 130, flag.clone());
            let _ = signal_hook::flag::register(signal, flag.clone());
        }
        flag
    })
}

/// From now on signals are noted instead of ending the program.
pub fn listen() {
    asked();
}

/// Whether somebody asked to end.
pub fn requested() -> bool {
    asked().load(Ordering::Relaxed)
}

/// An error if somebody asked to end.
pub fn check() -> Result<()> {
    if requested() {
        bail!("interrupted");
    }
    Ok(())
}

/// Waits until `done` says so. `false` when `limit` passed first; an error when asked to end.
pub fn until(limit: Duration, mut done: impl FnMut() -> Result<bool>) -> Result<bool> {
    let start = std::time::Instant::now();
    loop {
        if done()? {
            return Ok(true);
        }
        check()?;
        if start.elapsed() >= limit {
            return Ok(false);
        }
        // Short, since the end of timed transfers is noticed here.
        std::thread::sleep(Duration::from_millis(1));
    }
}
