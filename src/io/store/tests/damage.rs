//! Damage at seeded places of a whole database file, at rest and under an open store. Whatever happens, no wrong byte
//! may be served; how each trial ended is counted and printed.
//!
//! LMDB may fail an assertion or fault on a damaged page, so the trials run in a child, which is started anew after
//! the trial that ended it. `TORNET_TEST_TRIALS=5000 cargo test --lib damage_anywhere -- --nocapture` tries more;
//! `TORNET_TEST_FIRST=n` begins at trial n.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use super::*;
use crate::base::Rng;

/// Trials of an ordinary run.
const TRIALS: u64 = 150;
const PAGE: usize = 4096;
const MAPS: [u64; 2] = [12 << 20; 2];
const SMALL: StoreConfig = StoreConfig { local_limit: 6 << 20, cache_limit: 6 << 20 };
const NAME: &str = "io::store::tests::damage::child_that_reads_damaged_stores";

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn memory_dir() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("temporary directory")
}

/// Chunks of all shapes, so many small ones that the tables are as large as the bodies and have branches.
fn contents() -> Vec<NewChunk> {
    let small = (0..400).map(|n| chunk(1 + (n * 37) % 1900, 1000 + n as u64));
    let large = (0..6).map(|n| chunk(60_000 + n * 61_000, n as u64));
    small.chain(large).collect()
}

/// Chunks that come and go.
fn passing(n: u64) -> NewChunk {
    chunk(500 + 7000 * n as usize, 2000 + n)
}

/// What lies where a store is closed: the used part of both files.
struct Pristine {
    dir: tempfile::TempDir,
    files: [(std::path::PathBuf, Vec<u8>); 2],
}

impl Pristine {
    fn new(chunks: &[NewChunk]) -> Self {
        let dir = memory_dir();
        let store = Store::open_mapped(dir.path(), SMALL, MAPS).expect("a store");
        for (n, chunk) in chunks.iter().enumerate() {
            let handle = store.handle();
            if n % 2 == 0 {
                handle.put_local(chunk.clone(), Ack::none());
            } else {
                handle.put_cache(chunk.clone(), Ack::none());
            }
            // Many transactions, so that there is a free list.
            if n % 40 == 0 {
                handle.sync().expect("durable");
                handle.flush_cache().expect("written");
            }
        }
        (0..24).for_each(|n| put(&store, &passing(n)).map(drop).expect("stored"));
        (0..12).for_each(|n| delete(&store, passing(n).id).map(drop).expect("removed"));
        drop(store);
        let used = |side: &str| {
            let path = dir.path().join("store").join(side).join("data.mdb");
            let mut whole = fs::read(&path).expect("read");
            let end = whole.iter().rposition(|byte| *byte != 0).expect("not empty") + 1;
            whole.truncate(end.next_multiple_of(PAGE));
            (path, whole)
        };
        let files = [used("local"), used("cache")];
        Self { dir, files }
    }

    fn restore(&self) {
        for ((path, bytes), map) in self.files.iter().zip(MAPS) {
            fs::create_dir_all(path.parent().expect("a folder")).expect("folder");
            let file =
                fs::OpenOptions::new().write(true).create(true).truncate(true).open(path).expect("open");
            file.write_all_at(bytes, 0).expect("write");
            file.set_len(map).expect("length");
        }
    }

    /// Damages one of the files, as the seed says; in words.
    fn damage(&self, rng: &mut Rng) -> String {
        let side = rng.below(2) as usize;
        let (path, bytes) = &self.files[side];
        let file = fs::OpenOptions::new().write(true).open(path).expect("open");
        let page = |rng: &mut Rng| {
            let any = rng.below((bytes.len() / PAGE) as u64) as usize;
            // Half of the places are in the tables, most of the others in bodies.
            let table = |n: &usize| {
                let head = &bytes[n * PAGE..n * PAGE + PAGE];
                head[..8] == (*n as u64).to_le_bytes() && head[11] == 0 && head[10] != 0
            };
            if rng.chance(0.5) { (any..bytes.len() / PAGE).find(table).unwrap_or(0) } else { any }
        };
        let at = page(rng);
        let side = ["local", "cache"][side];
        match rng.below(10) {
            0..6 => {
                // Heads and lists of nodes are a small part of a page and the most delicate.
                let span = if rng.chance(0.4) { 64 } else { PAGE };
                let (byte, bit) = (at * PAGE + rng.below(span as u64) as usize, rng.below(8));
                file.write_all_at(&[bytes[byte] ^ 1 << bit], byte as u64).expect("write");
                format!("bit {bit} of byte {byte} in {side}")
            }
            6 => {
                file.write_all_at(&[0; PAGE], (at * PAGE) as u64).expect("write");
                format!("page {at} zeroed in {side}")
            }
            7 => {
                let other = page(rng);
                let copy = |n: usize| &bytes[n * PAGE..(n + 1) * PAGE];
                file.write_all_at(copy(other), (at * PAGE) as u64).expect("write");
                file.write_all_at(copy(at), (other * PAGE) as u64).expect("write");
                format!("pages {at} and {other} swapped in {side}")
            }
            8 => {
                let mut noise = vec![0; 1 + rng.below(600) as usize];
                rng.fill(&mut noise);
                let byte = at * PAGE + rng.below((PAGE - noise.len()) as u64) as usize;
                file.write_all_at(&noise, byte as u64).expect("write");
                format!("noise at {byte} in {side}")
            }
            _ => {
                file.set_len((at * PAGE) as u64).expect("cut");
                format!("cut to {at} pages in {side}")
            }
        }
    }
}

/// Reads all that can be had; whether all of it was there. A wrong byte ends the process with a panic.
fn read_everything(store: &Store, chunks: &[NewChunk], what: &str) -> bool {
    let mut reader = store.readers().reader();
    let mut all = true;
    for (n, chunk) in chunks.iter().enumerate() {
        if n % 50 == 0 {
            reader.park();
        }
        let Some(found) = reader.find(&chunk.id) else {
            all = false;
            continue;
        };
        assert!(found.root == chunk.root, "WRONG root after {what}");
        let mut list = Vec::new();
        match reader.slice_list(found.handle, &mut list) {
            Ok(()) => assert!(list == chunk.list, "WRONG list after {what}"),
            Err(_) => all = false,
        }
        for (slice, expected) in chunk.bytes.chunks(SLICE_SIZE).enumerate() {
            let mut bytes = vec![0; expected.len()];
            let offset = (slice * SLICE_SIZE) as u32;
            let warm = reader.warm(found.handle, slice as u32);
            match warm.and_then(|_| reader.read(found.handle, offset, &mut bytes)) {
                Ok(()) => assert!(bytes == expected, "WRONG bytes after {what}"),
                Err(_) => all = false,
            }
        }
    }
    all
}

/// Not a test: the process that may end in the middle.
#[test]
#[ignore = "runs as the child of `damage_anywhere_never_serves_wrong_bytes`"]
fn child_that_reads_damaged_stores() {
    let (Some(first), Some(end)) = (number("TORNET_TEST_FIRST"), number("TORNET_TEST_END")) else { return };
    let chunks = contents();
    let pristine = Pristine::new(&chunks);
    for trial in first..end {
        let mut rng = Rng::from_number(trial);
        pristine.restore();
        let running = rng.chance(0.3);
        let open = || Store::open_mapped(pristine.dir.path(), SMALL, MAPS);
        let whole = running.then(|| open().expect("not damaged yet"));
        let what = pristine.damage(&mut rng);
        let when = if running { "open" } else { "rest" };
        println!("\ntrial {trial} {when}: {what}");
        let mut all = true;
        let mut refused = false;
        // Read, write, read; then the same after a restart.
        for store in [whole.map_or_else(open, Ok), open()] {
            let Ok(store) = store else {
                refused = true;
                break;
            };
            all &= read_everything(&store, &chunks, &what);
            for seed in 0..12 {
                let new = chunk(1 + 30_000 * seed as usize, (1 << 40) + seed);
                for result in [put(&store, &new), put_cache(&store, &new)] {
                    let there = || read_all_checked(&store, &new, &what);
                    all &= result.is_ok() && there();
                }
                drop(delete(&store, passing(12 + seed).id));
            }
            all &= read_everything(&store, &chunks, &what);
        }
        println!(
            "\noutcome {}",
            if refused {
                "refused"
            } else if all {
                "right"
            } else {
                "partly"
            }
        );
    }
}

fn read_all_checked(store: &Store, new: &NewChunk, what: &str) -> bool {
    let mut reader = store.readers().reader();
    let Some(found) = reader.find(&new.id) else { return false };
    let mut out = vec![0; new.bytes.len()];
    let read = reader.read(found.handle, 0, &mut out);
    assert!(read.is_err() || out == new.bytes, "WRONG bytes of a new chunk after {what}");
    read.is_ok()
}

#[test]
fn damage_anywhere_never_serves_wrong_bytes() {
    let first = number("TORNET_TEST_FIRST").unwrap_or(0);
    let end = first + number("TORNET_TEST_TRIALS").unwrap_or(TRIALS);
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    let mut next = first;
    while next < end {
        let mut child = Command::new(std::env::current_exe().expect("this test"))
            .args(["--ignored", "--exact", "--nocapture", NAME])
            .env("TORNET_TEST_FIRST", next.to_string())
            .env("TORNET_TEST_END", end.to_string())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("child");
        let stderr = child.stderr.take().expect("piped");
        let said = std::thread::spawn(move || BufReader::new(stderr).lines().map_while(Result::ok).last());
        let (mut trial, mut when) = (None, String::new());
        for line in BufReader::new(child.stdout.take().expect("piped")).lines().map_while(Result::ok) {
            if let Some(begun) = line.strip_prefix("trial ") {
                let (number, rest) = begun.split_once(' ').expect("a number and a time");
                next = number.parse::<u64>().expect("a number") + 1;
                when = rest.split(':').next().unwrap_or_default().to_string();
                trial = Some(line);
            } else if let Some(outcome) = line.strip_prefix("outcome ") {
                *counts.entry(format!("{when}: {outcome}")).or_default() += 1;
                trial = None;
            }
        }
        let status = child.wait().expect("wait");
        let said = said.join().expect("stderr").unwrap_or_default();
        let Some(trial) = trial else {
            assert!(status.success(), "the child failed outside a trial: {said}");
            continue;
        };
        use std::os::unix::process::ExitStatusExt;
        let how = match (status.code(), status.signal()) {
            (Some(1), _) if said.starts_with("tornet: ") => "ended with a line".to_string(),
            (_, Some(signal)) => format!("signal {signal}"),
            _ => panic!("{trial}: the child ended with {status}: {said}"),
        };
        eprintln!("{trial}: {how}: {said}");
        *counts.entry(format!("{when}: {how}")).or_default() += 1;
    }
    eprintln!("{} trials from {first}: {counts:?}", end - first);
}
