//! What sealing and opening cost by themselves: a train of datagrams in one buffer, again and again.

use std::hint::black_box;
use std::time::{Duration, Instant};

use tornet::crypto::{AeadKey, Secret, Suite};
use tornet::limits::{HEADER_SIZE, TAG_SIZE, TRAIN_SEGMENTS_MAX, TRAIN_SIZE_MAX};
use tornet::sys::affinity;
use tornet::wire::packet::{Series, nonce};

use super::meter::thread_seconds;
use super::{Fallible, Plan};

pub fn run(plan: &Plan) -> Fallible<()> {
    affinity::pin_to(plan.core)?;
    let key = AeadKey::new(Suite::preferred(), &Secret::from_bytes([7; 32]));
    let count = (TRAIN_SIZE_MAX / plan.size).min(TRAIN_SEGMENTS_MAX);
    let mut train = vec![3u8; count * plan.size];
    let (mut seal, mut open, mut bytes, mut number) = (0.0, 0.0, 0u64, 0u64);
    let end = Instant::now() + Duration::from_secs(plan.seconds);
    while Instant::now() < end {
        // The clock is read once for so many trains that it does not count.
        for (sealing, spent) in [(true, &mut seal), (false, &mut open)] {
            let before = thread_seconds()?;
            for round in 0..64u64 {
                // What is sealed again and again cannot be opened as often: opening fails at the last step,
                // after all of its work.
                for (at, packet) in (0u64..).zip(train.chunks_exact_mut(plan.size)) {
                    let nonce = nonce(Series::Datagram, number + round * count as u64 + at);
                    let (header, body) = packet.split_at_mut(HEADER_SIZE);
                    if sealing {
                        let end = body.len() - TAG_SIZE;
                        let tag = key.seal(nonce, header, &mut body[..end]);
                        body[end..].copy_from_slice(&tag);
                    } else {
                        let _ = black_box(key.open(nonce, header, body));
                    }
                }
            }
            *spent += thread_seconds()? - before;
        }
        number += 64 * count as u64;
        bytes += 64 * train.len() as u64;
    }
    let line = serde_json::json!({ "part": "aead", "bytes": bytes, "seal": seal, "open": open });
    println!("{line}");
    Ok(())
}
