//! Searching for nonces on all cores, with an honest estimate.
//!
//! The search has no memory: each hash succeeds with probability 2^(1 − rank), whatever was tried
//! before. So what can be said is when half of all searches are over, and when 95 % are; a "time left"
//! that counts down would be a lie.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use sha1::block_api::compress;

use super::Failure;
use crate::base::units::show_duration;
use crate::base::{NodeId, PublicKey};
use crate::crypto::rank::{self, PLACE_FLOOR_BITS, expected_hashes};

/// Hashes between two looks at whether another core was faster.
const BATCH: u64 = 1 << 14;
/// How often the estimate is written anew.
const REFRESH: Duration = Duration::from_millis(200);

/// SHA-1's initial state (FIPS 180-4 §5.3.1).
const INITIAL: [u32; 5] = [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476, 0xc3d2_e1f0];

/// The two padded blocks of `nonce ‖ NodeId ‖ public key` (60 bytes); only the nonce changes.
struct RankBlocks([[u8; 64]; 2]);

impl RankBlocks {
    fn new(key: &PublicKey, node: &NodeId) -> Self {
        let mut blocks = [[0; 64]; 2];
        blocks[0][8..28].copy_from_slice(&node.0);
        blocks[0][28..60].copy_from_slice(&key.0);
        blocks[0][60] = 0x80;
        blocks[1][56..].copy_from_slice(&(60u64 * 8).to_be_bytes());
        Self(blocks)
    }

    /// As [`rank::rank`].
    fn rank(&mut self, nonce: u64) -> u32 {
        self.0[0][..8].copy_from_slice(&nonce.to_le_bytes());
        let mut state = INITIAL;
        compress(&mut state, &self.0);
        // Whole words of zeros first; then the first word that is not.
        let zeros = state.iter().take_while(|word| **word == 0).count();
        1 + 32 * zeros as u32 + state.get(zeros).map_or(0, |word| word.leading_zeros())
    }
}

/// The first place nonce, from `start`, that shows the network's floor of work.
pub(super) fn place(key: &PublicKey, start: u64) -> u64 {
    rank::mine_place(key, start, PLACE_FLOOR_BITS)
}

/// Searches for a rank nonce of at least `wanted`, from `start`. `better` is told of each nonce that
/// beats `known` and all before it; the last one told is the result. Stops early when `better` fails.
pub(super) fn rank(
    key: &PublicKey,
    node: &NodeId,
    wanted: u32,
    known: u32,
    start: u64,
    better: &mut (dyn FnMut(u64, u32) -> Result<(), Failure> + Send),
) -> Result<(), Failure> {
    let cores = thread::available_parallelism().map_or(1, usize::from) as u64;
    let (stop, best, hashes) = (AtomicBool::new(false), AtomicU32::new(known), AtomicU64::new(0));
    let found = Mutex::new((better, Ok(())));
    let search = |core: u64| {
        let mut blocks = RankBlocks::new(key, node);
        // Each core has a 256th of the numbers to itself, more than it can ever try.
        let mut nonce = start.wrapping_add(core << 56);
        while !stop.load(Ordering::Relaxed) {
            for _ in 0..BATCH {
                let reached = blocks.rank(nonce);
                if reached > best.load(Ordering::Relaxed) {
                    let mut found = found.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                    // Another core may have been faster between the two looks.
                    if reached > best.load(Ordering::Relaxed) && found.1.is_ok() {
                        best.store(reached, Ordering::Relaxed);
                        found.1 = (found.0)(nonce, reached);
                        if reached >= wanted || found.1.is_err() {
                            stop.store(true, Ordering::Relaxed);
                        }
                    }
                }
                nonce = nonce.wrapping_add(1);
            }
            hashes.fetch_add(BATCH, Ordering::Relaxed);
        }
    };
    let watcher = thread::current();
    thread::scope(|scope| {
        for core in 0..cores.min(256) {
            let (search, watcher, stop) = (&search, watcher.clone(), &stop);
            let worker = move || {
                search(core);
                watcher.unpark();
            };
            let spawned = thread::Builder::new().name(format!("mine {core}")).spawn_scoped(scope, worker);
            if core == 0 && spawned.is_err() {
                stop.store(true, Ordering::Relaxed);
                return Err(Failure::new("cannot start a thread to search with"));
            }
        }
        show_progress(wanted, &stop, &best, &hashes);
        Ok(())
    })?;
    found.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner).1
}

/// Draws until the search is over. Hidden when stderr is no terminal.
fn show_progress(wanted: u32, stop: &AtomicBool, best: &AtomicU32, hashes: &AtomicU64) {
    let bar = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {elapsed} {wide_msg}") {
        bar.set_style(style);
    }
    let started = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        thread::park_timeout(REFRESH);
        let elapsed = started.elapsed();
        let tried = hashes.load(Ordering::Relaxed);
        if elapsed >= REFRESH && tried > 0 {
            let rate = tried as f64 / elapsed.as_secs_f64();
            let best = best.load(Ordering::Relaxed);
            bar.set_message(format!("rank {best}/{wanted}: {}", estimate(wanted, rate)));
        }
        bar.tick();
    }
    bar.finish_and_clear();
}

/// What can honestly be said about a search at `rate` hashes per second.
fn estimate(wanted: u32, rate: f64) -> String {
    let mean = expected_hashes(wanted) / rate;
    let show = |seconds: f64| match Duration::try_from_secs_f64(seconds) {
        Ok(time) if seconds < 100.0 * 365.25 * 86_400.0 => show_duration(time),
        _ => "more than a century".to_owned(),
    };
    // Exponential waiting time: the median is ln 2 of the mean, 95 % are over after ln 20 of it.
    // Short: a terminal is 80 columns wide.
    format!(
        "{:.1} MH/s, 50 % of searches end within {}, 95 % within {}",
        rate / 1e6,
        show(mean * std::f64::consts::LN_2),
        show(mean * 20f64.ln())
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_fast_loop_agrees_with_the_definition(key: [u8; 32], node: [u8; 20], nonce: u64) {
            let (key, node) = (PublicKey(key), NodeId(node));
            prop_assert_eq!(RankBlocks::new(&key, &node).rank(nonce), rank::rank(&key, &node, nonce));
        }
    }

    #[test]
    fn a_search_reaches_its_rank_and_keeps_improvements() {
        let key = PublicKey([7; 32]);
        let node = rank::place(&key, 0);
        let mut told = Vec::new();
        super::rank(&key, &node, 12, 3, 99, &mut |nonce, reached| {
            assert_eq!(rank::rank(&key, &node, nonce), reached);
            told.push(reached);
            Ok(())
        })
        .expect("found");
        assert!(told.windows(2).all(|pair| pair[0] < pair[1]) && told[0] > 3);
        assert!(told.last().is_some_and(|last| *last >= 12));
    }

    #[test]
    fn a_failure_to_save_ends_the_search() {
        let key = PublicKey([7; 32]);
        let node = rank::place(&key, 0);
        let failed = super::rank(&key, &node, 60, 0, 0, &mut |_, _| Err(Failure::new("disk full")));
        assert_eq!(failed, Err(Failure::new("disk full")));
    }

    #[test]
    fn places_show_the_floor() {
        let key = PublicKey([8; 32]);
        let nonce = place(&key, 5);
        assert!(rank::place_work(&key, &rank::place(&key, nonce)) >= PLACE_FLOOR_BITS);
    }

    #[test]
    fn the_estimate_names_median_and_95_percent() {
        // 2^20 hashes at 2^20 per second: a mean of one second.
        let text = estimate(21, f64::from(1 << 20));
        assert!(text.contains("693 ms") && text.contains("3.0 s"), "{text}");
        assert!(estimate(64, 1.0).contains("century"));
    }
}
