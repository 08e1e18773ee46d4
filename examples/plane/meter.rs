//! What a process used between two moments, as one line of JSON.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::{TimeVal, TimeValLike};
use nix::time::{ClockId, clock_gettime};
use tornet::shard::Handle;
use tornet::sys::allocations::allocations;

use super::Fallible;

/// Bytes before measuring begins: caches, windows and path-MTU discovery have settled by then.
const WARM: Duration = Duration::from_millis(1000);

/// Bytes and datagrams that went through, counted by whoever moves them.
#[derive(Clone, Default)]
pub struct Moved(Arc<(AtomicU64, AtomicU64)>);

impl Moved {
    pub fn add(&self, bytes: u64, packets: u64) {
        // One writer: a load and a store cost nothing.
        self.0.0.store(self.0.0.load(Ordering::Relaxed) + bytes, Ordering::Relaxed);
        self.0.1.store(self.0.1.load(Ordering::Relaxed) + packets, Ordering::Relaxed);
    }

    fn read(&self) -> [u64; 2] {
        [self.0.0.load(Ordering::Relaxed), self.0.1.load(Ordering::Relaxed)]
    }
}

struct Moment {
    at: Instant,
    user: i64,
    system: i64,
    moved: [u64; 2],
    allocations: u64,
    counters: Vec<(&'static str, &'static str, u64)>,
}

impl Moment {
    fn now(moved: &Moved, handle: Option<&Handle>) -> Fallible<Self> {
        let usage = getrusage(UsageWho::RUSAGE_SELF)?;
        let us = |time: TimeVal| time.num_microseconds();
        Ok(Self {
            at: Instant::now(),
            user: us(usage.user_time()),
            system: us(usage.system_time()),
            moved: moved.read(),
            allocations: allocations(),
            counters: handle.map(Handle::counters).unwrap_or_default(),
        })
    }
}

/// Waits until things have settled, measures, and prints what `part` did.
pub fn measure(part: &str, seconds: u64, moved: &Moved, handle: Option<&Handle>) -> Fallible<()> {
    let deadline = Instant::now() + Duration::from_secs(20);
    while moved.read()[0] == 0 {
        if Instant::now() > deadline {
            return Err(format!("{part}: nothing moves").into());
        }
        sleep(Duration::from_millis(5));
    }
    sleep(WARM);
    let before = Moment::now(moved, handle)?;
    sleep(Duration::from_secs(seconds));
    let after = Moment::now(moved, handle)?;
    let counters: serde_json::Map<String, serde_json::Value> = (after.counters.iter().zip(&before.counters))
        .filter(|(after, before)| after.2 != before.2)
        .map(|(after, before)| (after.0.to_owned(), after.2.wrapping_sub(before.2).into()))
        .collect();
    let line = serde_json::json!({
        "part": part,
        "seconds": (after.at - before.at).as_secs_f64(),
        "bytes": after.moved[0] - before.moved[0],
        "packets": after.moved[1] - before.moved[1],
        "user": (after.user - before.user) as f64 / 1e6,
        "system": (after.system - before.system) as f64 / 1e6,
        "allocations": after.allocations - before.allocations,
        "counters": counters,
    });
    println!("{line}");
    Ok(())
}

/// What this thread used of a processor so far, seconds.
pub fn thread_seconds() -> Fallible<f64> {
    let time = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?;
    Ok(time.tv_sec() as f64 + time.tv_nsec() as f64 / 1e9)
}
