//! What reading memory costs that no cache holds: a gigabyte, copied datagram by datagram into one buffer.

use std::hint::black_box;
use std::time::{Duration, Instant};

use tornet::limits::TRAIN_SIZE_MAX;
use tornet::sys::affinity;

use super::meter::thread_seconds;
use super::{Fallible, Plan};

/// Larger than any cache.
const MEMORY: usize = 1 << 30;

pub fn run(plan: &Plan) -> Fallible<()> {
    affinity::pin_to(plan.core)?;
    let memory = vec![5u8; MEMORY];
    let mut train = vec![0u8; TRAIN_SIZE_MAX];
    let count = TRAIN_SIZE_MAX / plan.size;
    let (mut bytes, before) = (0u64, thread_seconds()?);
    let end = Instant::now() + Duration::from_secs(plan.seconds);
    while Instant::now() < end {
        for from in memory.chunks_exact(count * plan.size) {
            for (to, from) in train.chunks_exact_mut(plan.size).zip(from.chunks_exact(plan.size)) {
                to.copy_from_slice(from);
            }
            black_box(&mut train);
            bytes += from.len() as u64;
        }
    }
    let line = serde_json::json!({ "part": "read", "bytes": bytes, "read": thread_seconds()? - before });
    println!("{line}");
    Ok(())
}
