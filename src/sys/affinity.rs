//! Pins threads to cores.

use std::io;

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// Pins the calling thread to one core, numbered as `/proc/cpuinfo` does.
pub fn pin_to(core: usize) -> io::Result<()> {
    let mut set = CpuSet::new();
    set.set(core)?;
    Ok(sched_setaffinity(Pid::from_raw(0), &set)?)
}

/// The cores that the calling thread may run on, ascending.
pub fn allowed() -> io::Result<Vec<usize>> {
    let set = sched_getaffinity(Pid::from_raw(0))?;
    Ok((0..CpuSet::count()).filter(|core| set.is_set(*core).unwrap_or(false)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_to_a_core_that_is_allowed() {
        let core = *allowed().expect("cores").last().expect("a core to run on");
        let pinned = std::thread::scope(|s| {
            s.spawn(|| pin_to(core).and_then(|()| allowed())).join().expect("the thread")
        });
        assert_eq!(pinned.expect("pinned"), vec![core]);
        assert!(pin_to(CpuSet::count()).is_err());
    }
}
