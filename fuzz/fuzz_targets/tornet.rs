//! libFuzzer's way into the targets of the library: `TORNET_FUZZ` names one.
#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;

static TARGET: OnceLock<fn(&[u8])> = OnceLock::new();

fn target() -> fn(&[u8]) {
    let name = std::env::var("TORNET_FUZZ").unwrap_or_default();
    let mut all = tornet::sim::fuzzing::TARGETS.iter().chain(tornet::io::fuzzing::TARGETS);
    match all.find(|(known, _)| *known == name) {
        Some((_, run)) => *run,
        None => panic!("TORNET_FUZZ={name:?} is no target: see src/sim/fuzzing/mod.rs"),
    }
}

fuzz_target!(|bytes: &[u8]| TARGET.get_or_init(target)(bytes));
