//! Measurements, printed; run by hand: `cargo test --release -- --ignored --nocapture store_speed`.

use super::*;
use std::time::Instant;

#[test]
#[ignore = "a measurement, not a test"]
fn store_speed() {
    const CHUNKS: u64 = 1024;
    let base = std::env::var_os("TORNET_BENCH_DIR").unwrap_or_else(|| "/tmp".into());
    let dir = tempfile::tempdir_in(base).expect("temporary directory");
    let config = StoreConfig { local_limit: 2 << 30, cache_limit: 2 << 30 };
    let store = try_open(dir.path(), config).expect("a store");
    let handle = store.handle();
    let chunks: Vec<_> = (0..CHUNKS).map(|seed| chunk(CHUNK_SIZE_MAX, seed)).collect();
    let ids: Vec<_> = chunks.iter().map(|chunk| chunk.id).collect();
    for (name, cache) in [("local", false), ("cache", true)] {
        let chunks = chunks.clone();
        let start = Instant::now();
        for chunk in chunks {
            if cache { handle.put_cache(chunk, Ack::none()) } else { handle.put_local(chunk, Ack::none()) }
        }
        if cache { handle.flush_cache() } else { handle.sync() }.expect("written");
        let took = start.elapsed().as_secs_f64();
        let stats = if cache { store.stats().cache } else { store.stats().local };
        println!(
            "{name}: {:.2} GB/s, {} commits of {:.1} ms (slowest {:.1} ms)",
            CHUNKS as f64 * CHUNK_SIZE_MAX as f64 / took / 1e9,
            stats.commits,
            stats.commit_ns as f64 / stats.commits as f64 / 1e6,
            stats.commit_ns_max as f64 / 1e6,
        );
    }
    let mut reader = store.readers().reader();
    for name in ["first read, hashes checked", "again"] {
        let (start, mut packet, mut packets) = (Instant::now(), [0u8; 1400], 0u64);
        for id in &ids {
            reader.park();
            let found = reader.find(id).expect("stored");
            for slice in 0..16 {
                reader.warm(found.handle, slice).expect("stored");
            }
            let mut offset = 0;
            while offset < found.len {
                let count = packet.len().min((found.len - offset) as usize);
                reader.read(found.handle, offset, &mut packet[..count]).expect("stored");
                std::hint::black_box(&packet);
                offset += count as u32;
                packets += 1;
                if packets.is_multiple_of(46) {
                    reader.park();
                }
            }
        }
        let took = start.elapsed();
        println!(
            "{name}: {:.2} GB/s, {:.0} ns per packet of 1400 bytes, a snapshot per 46",
            CHUNKS as f64 * CHUNK_SIZE_MAX as f64 / took.as_secs_f64() / 1e9,
            took.as_nanos() as f64 / packets as f64,
        );
    }
}
