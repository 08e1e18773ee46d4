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

/// What replays an input that fails, once that input lies in a file of its own; `None` when it does not fail.
fn failing(target: Target, name: &str, input: &[u8], file: &Path) -> Option<String> {
    std::panic::catch_unwind(|| target(input)).err()?;
    // A regression lies in its file already; a pack may have had another input of this number before.
    if std::fs::read(file).ok().as_deref() != Some(input) {
        let folder = file.parent().expect("a file lies in a folder");
        std::fs::create_dir_all(folder).expect("the target folder can be written");
        std::fs::write(file, input).expect("the target folder can be written");
    }
    Some(format!("cargo xtask fuzz {name} --input {}", file.display()))
}

/// Where inputs out of packs that fail are put.
fn unpacked(name: &str, number: usize) -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR");
    let target = target.map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("target"), PathBuf::from);
    target.join("corpus-failures").join(format!("{name}-{number}"))
}

/// Fails with a line for every failure, each a command to paste.
fn report(failures: &[String]) {
    assert!(failures.is_empty(), "{} inputs fail; see each again:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn kept_inputs_find_nothing() {
    let targets = targets();
    let (mut seen, mut failures) = (Vec::new(), Vec::new());
    for path in below("corpus") {
        let name = path.file_stem().and_then(|name| name.to_str()).expect("a name").to_owned();
        let target = *targets.get(&*name).unwrap_or_else(|| panic!("{}: no such target", path.display()));
        let bytes = std::fs::read(&path).expect("a pack");
        for (number, input) in unpack(&bytes).into_iter().enumerate() {
            failures.extend(failing(target, &name, input, &unpacked(&name, number)));
        }
        seen.push(name);
    }
    report(&failures);
    let missing: Vec<_> = targets.keys().filter(|name| !seen.iter().any(|seen| seen == *name)).collect();
    assert!(missing.is_empty(), "no corpus for {missing:?}: cargo xtask fuzz TARGET --cmin");
}

#[test]
fn what_was_found_once_is_not_found_again() {
    let targets = targets();
    let mut failures = Vec::new();
    for folder in below("regressions").into_iter().filter(|path| path.is_dir()) {
        let name = folder.file_name().and_then(|name| name.to_str()).expect("a name");
        let target = *targets.get(name).unwrap_or_else(|| panic!("{}: no such target", folder.display()));
        for path in below(&format!("regressions/{name}")) {
            let input = std::fs::read(&path).expect("an input");
            failures.extend(failing(target, name, &input, &path));
        }
    }
    report(&failures);
}

/// The command that a failure is told with leads to the very bytes that failed.
#[test]
fn a_failure_is_told_with_its_input_in_a_file() {
    fn picky(input: &[u8]) {
        assert!(input != b"bad\xff", "found");
    }
    let file = unpacked("none-such", 7);
    assert_eq!(failing(picky, "none-such", b"good", &file), None);
    assert!(!file.exists());
    let told = failing(picky, "none-such", b"bad\xff", &file).expect("it fails");
    assert_eq!(told, format!("cargo xtask fuzz none-such --input {}", file.display()));
    assert_eq!(std::fs::read(&file).expect("written"), b"bad\xff");
    std::fs::remove_file(&file).expect("written");
}
