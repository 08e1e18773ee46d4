//! Runs files through one fuzz target, without libFuzzer: `fuzz_replay TARGET FILE…`. In a debug build this
//! gives a backtrace with every line; docs/testing/fuzzing.md says the rest.

fn main() {
    let mut words = std::env::args().skip(1);
    let name = words.next().unwrap_or_default();
    let mut all = tornet::sim::fuzzing::TARGETS.iter().chain(tornet::io::fuzzing::TARGETS);
    let Some((_, target)) = all.find(|(known, _)| *known == name) else {
        panic!("{name:?} is no target: see src/sim/fuzzing/mod.rs");
    };
    for file in words {
        println!("{file}");
        target(&std::fs::read(&file).unwrap_or_else(|error| panic!("{file}: {error}")));
    }
}
