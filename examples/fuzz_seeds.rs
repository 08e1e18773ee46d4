//! Writes the seeds of every fuzz target: `fuzz_seeds DIR` makes `DIR/TARGET/seed-N` (docs/testing/fuzzing.md).

use std::path::Path;

fn main() -> std::io::Result<()> {
    let dir = std::env::args().nth(1).unwrap_or_else(|| panic!("say where to"));
    let mut all = tornet::sim::fuzzing::seeds();
    all.extend(tornet::io::fuzzing::seeds());
    for (target, seeds) in all {
        let dir = Path::new(&dir).join(target);
        std::fs::create_dir_all(&dir)?;
        for (number, bytes) in seeds.iter().enumerate() {
            std::fs::write(dir.join(format!("seed-{number}")), bytes)?;
        }
    }
    Ok(())
}
