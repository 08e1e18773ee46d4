//! Every input that fuzzing found worth keeping, through its target again (docs/testing/fuzzing.md). Runs in the
//! debug build, so overflow is checked.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

type Target = fn(&[u8]);

fn targets() -> BTreeMap<&'static str, Target> {
    let all = tornet::sim::fuzzing::TARGETS.iter().chain(tornet::io::fuzzing::TARGETS);
    let by_name: BTreeMap<_, _> = all.copied().collect();
    let count = tornet::sim::fuzzing::TARGETS.len() + tornet::io::fuzzing::TARGETS.len();
    assert_eq!(by_name.len(), count, "each target has a name of its own");
    by_name
}

fn below(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz").join(folder);
    let entries = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    paths.sort();
    paths
}

/// The inputs of a pack: `length 4 | bytes`, little-endian, one behind another (xtask/src/fuzz/pack.rs).
fn unpack(mut bytes: &[u8]) -> Vec<&[u8]> {
    let mut inputs = Vec::new();
    while let Some((len, rest)) = bytes.split_first_chunk::<4>() {
        let (input, rest) = rest.split_at(u32::from_le_bytes(*len) as usize);
        inputs.push(input);
        bytes = rest;
    }
    assert!(bytes.is_empty(), "a pack is whole inputs");
    inputs
}

/// A target that fails says which input it was, by the panic's output.
fn run(target: Target, name: &str, input: &[u8]) {
    let outcome = std::panic::catch_unwind(|| target(input));
    assert!(
        outcome.is_ok(),
        "{name} fails; reproduce with: cargo xtask fuzz {}",
        name.replace(' ', " --input ")
    );
}

#[test]
fn kept_inputs_find_nothing() {
    let targets = targets();
    let mut seen = Vec::new();
    for path in below("corpus") {
        let name = path.file_stem().and_then(|name| name.to_str()).expect("a name").to_owned();
        let target = *targets.get(&*name).unwrap_or_else(|| panic!("{}: no such target", path.display()));
        let bytes = std::fs::read(&path).expect("a pack");
        for (number, input) in unpack(&bytes).into_iter().enumerate() {
            run(target, &format!("{name} #{number}"), input);
        }
        seen.push(name);
    }
    let missing: Vec<_> = targets.keys().filter(|name| !seen.iter().any(|seen| seen == *name)).collect();
    assert!(missing.is_empty(), "no corpus for {missing:?}: cargo xtask fuzz TARGET --cmin");
}

#[test]
fn what_was_found_once_is_not_found_again() {
    let targets = targets();
    for folder in below("regressions").into_iter().filter(|path| path.is_dir()) {
        let name = folder.file_name().and_then(|name| name.to_str()).expect("a name");
        let target = *targets.get(name).unwrap_or_else(|| panic!("{}: no such target", folder.display()));
        for path in below(&format!("regressions/{name}")) {
            run(target, &format!("{name} {}", path.display()), &std::fs::read(&path).expect("an input"));
        }
    }
}
