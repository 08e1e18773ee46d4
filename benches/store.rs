//! The store under churn: a cache that is full takes ten times its capacity, and must write, read and occupy
//! what it did when it was new. Every ratio is of windows of this one run, medians of many; a new store is
//! filled once before and once after the churn, so that a machine that changed its speed shows.
//!
//! `cargo bench --bench store -- [--capacity MIB] [--factor N] [--window MIB] [--dir DIR] [--json FILE] [--no-judge]`
//!
//! Fails when a write was refused, when the file outgrows its limit, and, unless told not to judge on a busy machine, when
//! a full store is slower than [`WRITE_MIN`] and [`READ_MIN`] say.

#![allow(clippy::disallowed_methods, missing_docs)]

use std::fmt::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use tornet::base::{ChunkId, ChunkRead, Rng};
use tornet::crypto::hash;
use tornet::io::store::{Ack, ColdRange, NewChunk, Readers, Store, StoreConfig};
use tornet::limits::{CHUNK_SIZE_MAX, SLICE_SIZE};
use tornet::sys::memory;

const MIB: u64 = 1 << 20;
/// Bytes of one packet, as a shard reads them, and packets between two snapshots.
const PACKET: usize = 1400;
const PACKETS_PER_TURN: usize = 46;
/// Writing beside a reader goes at this rate, MB/s, which a new store and a churned one both hold: what a reader loses
/// to a writer is compared at equal writing. 2 Gbit/s of chunks come to no cache from its network.
const BESIDE_RATE: f64 = 250.0;
/// The reader beside reads the newest windows only, as many in a new store as in a full one: else one would read from
/// the processor's caches and the other from memory.
const BESIDE_WINDOWS: u64 = 2;
/// A full, churned cache writes so much of what a new one did, at least, and reads so much of it.
const WRITE_MIN: f64 = 0.7;
const READ_MIN: f64 = 0.9;
/// The file is at most so many times as long as its limit: tables, and pages between two snapshots.
const OCCUPIED_MAX: f64 = 1.15;
/// Different bodies; ids are made up, since the store takes its caller's word for them.
const BODIES: u64 = 96;

/// Cold slices of one chunk that follow each other, and those of them that lie side by side in the file.
static PAIRS: AtomicU64 = AtomicU64::new(0);
static NEIGHBOURS: AtomicU64 = AtomicU64::new(0);

/// Percentage of neighbours since the last question.
fn neighbours() -> f64 {
    NEIGHBOURS.swap(0, Relaxed) as f64 * 100.0 / PAIRS.swap(0, Relaxed).max(1) as f64
}

struct Options {
    capacity: u64,
    factor: u64,
    window: u64,
    dir: PathBuf,
    json: Option<PathBuf>,
    judge: bool,
}

fn options() -> Options {
    let mut options = Options {
        capacity: 1024 * MIB,
        factor: 10,
        window: 64 * MIB,
        dir: PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target"),
        json: None,
        judge: true,
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        if word == "--bench" {
            continue;
        }
        if word == "--no-judge" {
            options.judge = false;
            continue;
        }
        let value = words.next().unwrap_or_else(|| panic!("{word} needs a value"));
        let number = || value.parse::<u64>().unwrap_or_else(|_| panic!("{word}: not a number: {value}"));
        match word.as_str() {
            "--capacity" => options.capacity = number() * MIB,
            "--factor" => options.factor = number(),
            "--window" => options.window = number() * MIB,
            "--dir" => options.dir = value.into(),
            "--json" => options.json = Some(value.into()),
            _ => panic!("--capacity, --factor, --window, --dir, --json or --no-judge, not {word}"),
        }
    }
    assert!(options.capacity >= 4 * options.window, "at least four windows to a capacity");
    options
}

/// Chunks as `put` and a cache see them: by number 6 of 10 are full, 3 are of any size, 1 is small.
struct Source {
    rng: Rng,
    bodies: Vec<(Vec<u8>, [u8; 32], Vec<u8>)>,
}

impl Source {
    fn new() -> Self {
        let mut rng = Rng::from_number(1);
        let bodies = (0..BODIES)
            .map(|n| {
                let len = match n % 10 {
                    0..6 => CHUNK_SIZE_MAX,
                    6..9 => 1 + rng.below(CHUNK_SIZE_MAX as u64) as usize,
                    _ => 1 + rng.below(SLICE_SIZE as u64) as usize,
                };
                let mut bytes = vec![0; len];
                rng.fill(&mut bytes);
                let only = len <= SLICE_SIZE;
                let slices = bytes.chunks(SLICE_SIZE).enumerate();
                let list = slices.flat_map(|(n, slice)| hash::slice_cv(n as u32, slice, only)).collect();
                let root = hash::blake3(&[&bytes]);
                (bytes, root, list)
            })
            .collect();
        Self { rng, bodies }
    }

    fn next(&mut self) -> NewChunk {
        let (bytes, root, list) = &self.bodies[self.rng.below(BODIES) as usize];
        let (bytes, list) = (bytes.clone(), list.clone());
        NewChunk { id: ChunkId(self.rng.bytes()), root: *root, bytes, list }
    }
}

/// What was measured under one name, MB/s.
#[derive(Default)]
struct Series(Vec<f64>);

impl Series {
    fn add(&mut self, bytes: u64, took: Duration) {
        if bytes > 0 {
            self.0.push(bytes as f64 / took.as_secs_f64() / 1e6);
        }
    }

    fn at(&self, quantile: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        sorted.get(((sorted.len() as f64 - 1.0) * quantile).round() as usize).copied().unwrap_or(f64::NAN)
    }

    fn median(&self) -> f64 {
        self.at(0.5)
    }
}

/// A cache on the disk, and which chunks it was given last.
struct Cache {
    dir: tempfile::TempDir,
    config: StoreConfig,
    store: Option<Store>,
    recent: Vec<ChunkId>,
    refused: Arc<AtomicU64>,
}

impl Cache {
    fn new(options: &Options) -> Self {
        let dir = tempfile::tempdir_in(&options.dir).expect("a folder");
        let config = StoreConfig { local_limit: MIB, cache_limit: options.capacity };
        let store = Store::open(dir.path(), config).expect("a store");
        Self { dir, config, store: Some(store), recent: Vec::new(), refused: Arc::default() }
    }

    fn store(&self) -> &Store {
        self.store.as_ref().expect("open")
    }

    /// Writes until `bytes` were given and can be read, at `rate` MB/s at most.
    fn write(&mut self, source: &mut Source, bytes: u64, rate: f64) -> (u64, Duration) {
        let handle = self.store().handle();
        let (start, mut given) = (Instant::now(), 0);
        while given < bytes {
            let due = Duration::from_secs_f64(given as f64 / 1e6 / rate);
            std::thread::sleep(due.saturating_sub(start.elapsed()));
            let chunk = source.next();
            given += chunk.bytes.len() as u64;
            self.recent.push(chunk.id);
            let refused = Arc::clone(&self.refused);
            let ack = Ack::new(move |result| _ = refused.fetch_add(u64::from(result.is_err()), Relaxed));
            handle.put_cache(chunk, ack);
        }
        handle.flush_cache().expect("written");
        (given, start.elapsed())
    }

    /// Writes a window into a cache with room for it, or into a full one.
    fn window(&mut self, source: &mut Source, bytes: u64, into: &mut Series) {
        let (given, took) = self.write(source, bytes, f64::INFINITY);
        into.add(given, took);
    }

    /// Chunks that are very likely there still.
    fn likely(&mut self) -> Vec<ChunkId> {
        let keep = self.store().stats().cache.chunks as usize * 3 / 4;
        let from = self.recent.len().saturating_sub(keep);
        self.recent.drain(..from);
        self.recent.clone()
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("store/cache/data.mdb")
    }

    /// Bytes that the file occupies.
    fn occupied(&self) -> u64 {
        std::fs::metadata(self.file()).expect("the file").blocks() * 512
    }

    /// Closes it and has the kernel forget its pages.
    fn make_cold(&mut self) {
        self.store = None;
        let file = std::fs::File::open(self.file()).expect("the file");
        file.sync_all().expect("sync");
        let advice = nix::fcntl::PosixFadviseAdvice::POSIX_FADV_DONTNEED;
        nix::fcntl::posix_fadvise(&file, 0, 0, advice).expect("advice");
        self.store = Some(Store::open(self.dir.path(), self.config).expect("a store"));
    }
}

/// Reads chunks in a random order as a shard does, until `bytes` or until told to stop.
fn read(readers: &Readers, ids: &[ChunkId], seed: u64, bytes: u64, stop: &AtomicBool) -> (u64, Duration) {
    let mut reader = readers.reader();
    let mut rng = Rng::from_number(seed);
    let (start, mut done, mut packet) = (Instant::now(), 0, [0; PACKET]);
    let mut misses = 0;
    while done < bytes && !stop.load(Relaxed) && misses < ids.len() * 10 {
        reader.park();
        let Some(found) = reader.find(&ids[rng.below(ids.len() as u64) as usize]) else {
            misses += 1;
            continue;
        };
        let slices = found.len.div_ceil(SLICE_SIZE as u32);
        'chunk: for slice in 0..slices {
            loop {
                match reader.warm(found.handle, slice) {
                    Ok(true) => break,
                    // Evicted meanwhile.
                    Err(_) => break 'chunk,
                    // All that follow are asked for at once, and the disk reads them side by side, as through a ring.
                    Ok(false) => {
                        (slice + 1..slices).for_each(|later| _ = reader.warm(found.handle, later));
                        let cold = reader.take_cold();
                        reader.park();
                        let follow = |pair: &[ColdRange]| pair[1].address == pair[0].address + pair[0].len;
                        PAIRS.fetch_add(cold.len() as u64 - 1, Relaxed);
                        NEIGHBOURS
                            .fetch_add(cold.windows(2).filter(|pair| follow(pair)).count() as u64, Relaxed);
                        std::thread::scope(|scope| {
                            for range in &cold {
                                scope.spawn(|| memory::populate(range.address, range.len));
                            }
                        });
                        cold.iter().for_each(|range| reader.warmed(range.handle, range.slice, Ok(())));
                    }
                }
            }
            let first = slice * SLICE_SIZE as u32;
            let end = found.len.min(first + SLICE_SIZE as u32);
            for (n, offset) in (first..end).step_by(PACKET).enumerate() {
                if n % PACKETS_PER_TURN == 0 {
                    reader.park();
                }
                let len = PACKET.min((end - offset) as usize);
                if reader.read(found.handle, offset, &mut packet[..len]).is_err() {
                    break 'chunk;
                }
                std::hint::black_box(&packet);
                done += len as u64;
            }
        }
    }
    (done, start.elapsed())
}

fn read_alone(cache: &mut Cache, bytes: u64, into: &mut Series) {
    let (ids, readers) = (cache.likely(), cache.store().readers());
    let seed = into.0.len() as u64;
    let (read, took) = read(&readers, &ids, seed, bytes, &AtomicBool::new(false));
    into.add(read, took);
}

/// A window written at [`BESIDE_RATE`] while another thread reads the newest chunks.
fn both(cache: &mut Cache, source: &mut Source, bytes: u64, writes: &mut Series, reads: &mut Series) {
    let (mut ids, readers) = (cache.likely(), cache.store().readers());
    // Chunks have three quarters of a full one's size in the mean.
    let newest = (BESIDE_WINDOWS * bytes * 4 / 3) as usize / CHUNK_SIZE_MAX;
    ids.drain(..ids.len().saturating_sub(newest));
    let seed = reads.0.len() as u64;
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reading = scope.spawn(|| read(&readers, &ids, seed, u64::MAX, &stop));
        let (given, took) = cache.write(source, bytes, BESIDE_RATE);
        writes.add(given, took);
        stop.store(true, Relaxed);
        let (read, took) = reading.join().expect("the reader");
        reads.add(read, took);
    });
}

#[derive(Default)]
struct Results {
    fresh: Series,
    churn: Series,
    last: Series,
    read_fresh: Series,
    read_churned: Series,
    cold_fresh: Series,
    cold_churned: Series,
    write_beside_fresh: Series,
    write_beside_churn: Series,
    read_beside_fresh: Series,
    read_beside_churn: Series,
    occupied: Vec<u64>,
    /// Percent of a chunk's slices that lie beside the one before: new, churned.
    neighbours: [f64; 2],
    refused: u64,
    commit_ms_max: f64,
}

/// Fills new stores: one by writing alone, one with a reader beside.
fn fresh(options: &Options, source: &mut Source, results: &mut Results) -> Cache {
    let windows = options.capacity * 9 / 10 / options.window;
    let mut beside = Cache::new(options);
    beside.write(source, BESIDE_WINDOWS * options.window, f64::INFINITY);
    let (writes, reads) = (&mut results.write_beside_fresh, &mut results.read_beside_fresh);
    (BESIDE_WINDOWS..windows).for_each(|_| both(&mut beside, source, options.window, writes, reads));
    drop(beside);
    let mut cache = Cache::new(options);
    (0..windows).for_each(|_| cache.window(source, options.window, &mut results.fresh));
    (0..9).for_each(|_| read_alone(&mut cache, options.window, &mut results.read_fresh));
    for _ in 0..5 {
        cache.make_cold();
        read_alone(&mut cache, options.window / 4, &mut results.cold_fresh);
    }
    results.neighbours[0] = neighbours();
    cache
}

fn run(options: &Options) -> Results {
    let (mut results, mut source) = (Results::default(), Source::new());
    let mut cache = fresh(options, &mut source, &mut results);
    // Full, and as long as it gets once each page was used.
    cache.write(&mut source, options.capacity / 5, f64::INFINITY);
    results.occupied.push(cache.occupied());
    for round in 0..options.factor {
        let windows = options.capacity / options.window;
        for n in 0..windows {
            if n % 4 == 3 {
                let (writes, reads) = (&mut results.write_beside_churn, &mut results.read_beside_churn);
                both(&mut cache, &mut source, options.window, writes, reads);
            } else {
                cache.window(&mut source, options.window, &mut results.churn);
                if round + 1 == options.factor {
                    let last = *results.churn.0.last().expect("just added");
                    results.last.0.push(last);
                }
            }
        }
        results.occupied.push(cache.occupied());
        eprintln!(
            "round {}: {:.0} MB/s, {} MiB on disk",
            round + 1,
            results.churn.median(),
            cache.occupied() / MIB
        );
    }
    results.commit_ms_max = cache.store().stats().cache.commit_ns_max as f64 / 1e6;
    (0..9).for_each(|_| read_alone(&mut cache, options.window, &mut results.read_churned));
    for _ in 0..5 {
        cache.make_cold();
        read_alone(&mut cache, options.window / 4, &mut results.cold_churned);
    }
    results.neighbours[1] = neighbours();
    results.refused = cache.refused.load(Relaxed);
    drop(cache);
    drop(fresh(options, &mut source, &mut results));
    results
}

fn report(options: &Options, results: &Results) -> (String, serde_json::Value) {
    let mut text = format!(
        "cache of {} MiB, {} × written over, windows of {} MiB in {}\n\n\
         | MB/s, median (10 %–90 %) | new store | full, churned | ratio |\n|---|--:|--:|--:|\n",
        options.capacity / MIB,
        options.factor,
        options.window / MIB,
        options.dir.display()
    );
    let rows = [
        ("write", &results.fresh, &results.churn),
        ("write, last round", &results.fresh, &results.last),
        ("write beside a reader, held", &results.write_beside_fresh, &results.write_beside_churn),
        ("read, resident", &results.read_fresh, &results.read_churned),
        ("read, cold", &results.cold_fresh, &results.cold_churned),
        ("read beside that writer", &results.read_beside_fresh, &results.read_beside_churn),
    ];
    let mut all = serde_json::Map::new();
    for (name, new, full) in rows {
        let show = |s: &Series| format!("{:.0} ({:.0}–{:.0})", s.median(), s.at(0.1), s.at(0.9));
        let ratio = full.median() / new.median();
        writeln!(text, "| {name} | {} | {} | {ratio:.2} |", show(new), show(full)).expect("memory");
        all.insert(name.into(), serde_json::json!({ "new": new.0, "full": full.0, "ratio": ratio }));
    }
    let (first, last) = (results.occupied[0], results.occupied[results.occupied.len() - 1]);
    let most = results.occupied.iter().copied().max().unwrap_or(0);
    writeln!(
        text,
        "\nfile: {} MiB when full, {} MiB at the end, {} MiB at most ({:.2} × the limit); refused writes: {}; \
         slowest commit {:.0} ms; slices beside the one before: {:.0} % new, {:.0} % churned",
        first / MIB,
        last / MIB,
        most / MIB,
        most as f64 / options.capacity as f64,
        results.refused,
        results.commit_ms_max,
        results.neighbours[0],
        results.neighbours[1],
    )
    .expect("memory");
    all.insert("occupied_bytes".into(), serde_json::json!(results.occupied));
    all.insert("refused".into(), serde_json::json!(results.refused));
    (text, all.into())
}

/// What does not hold.
fn faults(options: &Options, results: &Results) -> Vec<String> {
    let mut found = Vec::new();
    if results.refused > 0 {
        found.push(format!("{} writes were refused", results.refused));
    }
    let most = results.occupied.iter().copied().max().unwrap_or(0) as f64 / options.capacity as f64;
    if most > OCCUPIED_MAX {
        found.push(format!("the file came to {most:.2} times its limit, not {OCCUPIED_MAX}"));
    }
    let rows = [
        ("writing", &results.fresh, &results.churn, WRITE_MIN),
        ("writing, in the last round", &results.fresh, &results.last, WRITE_MIN),
        ("reading what is resident", &results.read_fresh, &results.read_churned, READ_MIN),
        ("reading what is cold", &results.cold_fresh, &results.cold_churned, READ_MIN),
        ("reading beside a writer", &results.read_beside_fresh, &results.read_beside_churn, READ_MIN),
    ];
    for (what, new, full, least) in rows.into_iter().filter(|_| options.judge) {
        let ratio = full.median() / new.median();
        // Without a figure there is nothing to be content with.
        if ratio.is_nan() || ratio < least {
            found.push(format!("{what} came to {ratio:.2} of a new store's, not {least}"));
        }
    }
    found
}

fn write_json(path: &Path, value: &serde_json::Value) {
    let text = serde_json::to_string_pretty(value).expect("JSON") + "\n";
    std::fs::write(path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

fn main() -> ExitCode {
    let options = options();
    let results = run(&options);
    let (text, json) = report(&options, &results);
    print!("{text}");
    if let Some(path) = &options.json {
        write_json(path, &json);
    }
    let faults = faults(&options, &results);
    faults.iter().for_each(|what| println!("\nFAILED: {what}"));
    if faults.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
