//! The quick set of seeds, and the planted mistakes.

use super::*;

fn run_plain(seed: u64) -> Outcome {
    run(seed, Options::default(), None)
}

#[test]
fn no_seed_fails_and_each_means_the_same_run() {
    for seed in 0..8 {
        let outcome = run_plain(seed);
        assert_eq!(outcome.failures, [""; 0], "seed {seed}");
        let excused: u64 = outcome.excused.values().sum();
        assert_eq!(outcome.complete + excused, outcome.attempted, "seed {seed}");
        if seed < 2 {
            assert_eq!(outcome, run_plain(seed));
        }
    }
}

#[test]
fn every_planted_mistake_is_found_within_a_few_seeds() {
    for (name, canary) in Canary::ALL {
        let options = Options { canary: Some(canary), ..Options::default() };
        let found = (0..120).find(|seed| !run(*seed, options, None).failures.is_empty());
        assert!(found.is_some(), "{name} was not found");
    }
}
