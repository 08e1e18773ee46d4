//! `cargo xtask bench serve`: what one daemon spends to serve its store to one download, to ten and to a thousand at
//! once, beside what nobody can leave out (docs/benchmarks.md).

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::plane::{self, Tools};
use super::report::median;
use super::transfer::default_scratch;
use super::{floor, machine, ratio};
use crate::args::Args;
use crate::lab::node::PROMPT;
use crate::lab::{Lab, Node, Wiring, files};
use crate::{able, setup, sh};

/// Downloads that one getting daemon runs: fewer than the connections to its API and its jobs.
const PER_NODE: usize = 50;
/// How long all downloads of a round may take together.
const PATIENCE: Duration = Duration::from_secs(300);
/// UDP payload of a datagram of a transfer over a path with an MTU of 1500, bytes.
const DATAGRAM: u64 = 1472;

/// The command.
pub fn command(mut args: Args) -> Result<()> {
    let size = args.size("--size", 1 << 30)?;
    let runs = args.number("--runs", 5)?.max(1);
    let counts = args.value("--downloads")?.unwrap_or_else(|| "1,10,1000".into());
    let counts = counts
        .split(',')
        .map(|word| word.parse().ok().filter(|count| (1..=2000).contains(count)))
        .collect::<Option<Vec<usize>>>()
        .context("--downloads: numbers from 1 to 2000, separated by commas")?;
    let json = args.value("--json")?.map(PathBuf::from);
    let scratch = args.value("--scratch")?.map_or_else(|| default_scratch(size), PathBuf::from);
    let (binary, tool) =
        (args.value("--binary")?.map(PathBuf::from), args.value("--tool")?.map(PathBuf::from));
    args.finish()?;
    able::ensure(&[able::NAMESPACES])?;
    setup::ensure()?;
    let binary = sh::binary_or_build(binary)?;
    let tools = Tools::build(tool, false)?;
    let machine = machine::describe();
    println!("{}", machine::line(&machine));

    let lab = Lab::new(Wiring::Namespaces, &scratch)?;
    let mut scene = Scene::new(&lab, &binary, size, &counts)?;
    let (mut floors, mut rows) = (Vec::new(), counts.iter().map(|_| Vec::new()).collect::<Vec<_>>());
    for run in 0..=runs {
        let lowest = floor_of(&lab, &tools)?;
        for (row, &count) in rows.iter_mut().zip(&counts) {
            let sample = scene.run(count)?;
            eprintln!("  run {run} {count:>5}: {}", sample.line());
            // One round is not counted: stores are read for the first time.
            if run > 0 {
                row.push(sample);
            }
        }
        floors.push(lowest);
    }
    let lowest = Floor::median(&floors);
    println!("\n{}", table(&lowest, &counts, &rows));
    if let Some(path) = json {
        let rows = rows.iter().zip(&counts).map(|(row, count)| {
            json!({ "downloads": count, "runs": row.iter().map(Sample::json).collect::<Vec<_>>() })
        });
        let rows: Vec<_> = rows.collect();
        floor::write(
            &path,
            &json!({ "machine": machine, "size": size, "floor": lowest.json(), "rows": rows }),
        )?;
    }
    Ok(())
}

/// What serving cannot do without, CPU seconds per Gbit.
#[derive(Debug, Clone, Copy)]
struct Floor {
    sockets: f64,
    seal: f64,
    read: f64,
}

fn floor_of(lab: &Lab, tools: &Tools) -> Result<Floor> {
    let [seal, _] = plane::aead(lab, tools, DATAGRAM)?;
    let sockets = plane::pair(lab, tools, "raw", 1, DATAGRAM)?.sender();
    Ok(Floor { sockets, seal, read: plane::read(lab, tools, DATAGRAM)? })
}

impl Floor {
    fn median(all: &[Self]) -> Self {
        let of = |part: fn(&Self) -> f64| median(all.iter().map(part));
        Self { sockets: of(|one| one.sockets), seal: of(|one| one.seal), read: of(|one| one.read) }
    }

    fn sum(&self) -> f64 {
        self.sockets + self.seal + self.read
    }

    fn json(&self) -> Value {
        json!({ "sockets": self.sockets, "seal": self.seal, "read": self.read, "sum": self.sum() })
    }
}

/// One round with so many downloads.
#[derive(Debug, Clone, Copy)]
struct Sample {
    bits: f64,
    seconds: f64,
    /// Of the serving daemon.
    cpu_seconds: f64,
    /// Anonymous memory of the serving daemon beyond what it had before, at most, per download.
    memory: f64,
}

impl Sample {
    fn rate(&self) -> f64 {
        self.bits / 1e9 / self.seconds
    }

    fn cost(&self) -> f64 {
        self.cpu_seconds * 1e9 / self.bits
    }

    fn line(&self) -> String {
        let (rate, cost, memory) = (self.rate(), self.cost(), self.memory / 1024.0);
        format!("{rate:.2} Gbit/s, {cost:.4} CPU s/Gbit of the server, {memory:.1} KiB per download")
    }

    fn json(&self) -> Value {
        json!({
            "gbit_per_second": self.rate(), "cpu_seconds_per_gbit": self.cost(),
            "memory_per_download": self.memory, "seconds": self.seconds,
        })
    }
}

/// The serving node on host A's core, and those that get on host B with the other core.
struct Scene<'l> {
    lab: &'l Lab,
    server: Node,
    getters: Vec<Node>,
    /// For each count of downloads: its tree, of so many files, and their size.
    trees: Vec<(usize, String, u64)>,
}

impl<'l> Scene<'l> {
    fn new(lab: &'l Lab, binary: &Path, size: u64, counts: &[usize]) -> Result<Self> {
        let mut server = Node::new(lab, lab.a(), "server", binary, 4001, lab.dir().join("node-server"));
        server.init()?;
        server.start()?;
        let most = counts.iter().copied().max().unwrap_or(1);
        let mut getters = Vec::new();
        for index in 0..most.div_ceil(PER_NODE) {
            let (name, port) = (format!("getter-{index}"), 4100 + index as u16);
            let dir = lab.dir().join(format!("node-{name}"));
            let mut node = Node::new(lab, lab.b(), &name, binary, port, dir);
            node.init()?;
            node.run(&["config", "set", "shards.pin", "false"], PROMPT)?;
            node.start_through(&["taskset".into(), "--cpu-list".into(), "1".into()])?;
            node.befriend(&server)?;
            server.befriend(&node)?;
            getters.push(node);
        }
        for node in &getters {
            node.meets(&server)?;
        }
        let mut trees = Vec::new();
        for &count in counts {
            let dir = lab.make_dir(&format!("tree-{count}"))?;
            let each = size / count as u64;
            for index in 0..count {
                files::random(&dir.join(index.to_string()), each)?;
            }
            let (_, reference) = server.put(&dir)?;
            std::fs::remove_dir_all(&dir)?;
            trees.push((count, reference, each));
        }
        Ok(Self { lab, server, getters, trees })
    }

    fn run(&mut self, count: usize) -> Result<Sample> {
        let (_, reference, each) = self.trees.iter().find(|tree| tree.0 == count).context("a tree")?;
        let (reference, each) = (reference.clone(), *each);
        let out = self.lab.make_dir("out")?;
        // Spread evenly, so that ten downloads are ten nodes' where there are as many.
        let nodes = self.getters.len();
        let daemon = self.server.daemon()?;
        let (before, memory) = (daemon.cpu_seconds()?, daemon.anonymous_memory()?);
        let began = Instant::now();
        let mut answers = Vec::with_capacity(count);
        for index in 0..count {
            let request = json!({ "reference": format!("{reference}/tree-{count}/{index}"), "root": out, "overwrite": true });
            answers.push(post(&self.getters[index % nodes].dir.join("tornet.sock"), "/v1/get", &request)?);
        }
        let (mut most, mut bytes) = (memory, 0);
        for (index, answer) in answers.into_iter().enumerate() {
            let done = last(answer).with_context(|| format!("download {index}"))?;
            // Directories too: at a thousand downloads they are a third of what is served.
            let fetched = done["bytes_fetched"].as_u64().unwrap_or(0);
            ensure!(fetched >= each, "download {index} fetched too little: {done}");
            bytes += fetched;
            if index % 20 == 0 {
                most = most.max(daemon.anonymous_memory()?);
            }
        }
        let seconds = began.elapsed().as_secs_f64();
        let cpu_seconds = daemon.cpu_seconds()? - before;
        for index in 0..count {
            let length = std::fs::metadata(out.join(index.to_string()))?.len();
            ensure!(length == each, "output {index} has {length} bytes of {each}");
        }
        std::fs::remove_dir_all(&out)?;
        let bits = bytes as f64 * 8.0;
        Ok(Sample { bits, seconds, cpu_seconds, memory: (most - memory) as f64 / count as f64 })
    }
}

/// Begins a request to a daemon's API; its answer follows.
fn post(socket: &Path, path: &str, body: &Value) -> Result<UnixStream> {
    let mut stream = UnixStream::connect(socket).with_context(|| socket.display().to_string())?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let body = body.to_string();
    let length = body.len();
    write!(
        stream,
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n\
         Content-Length: {length}\r\n\r\n{body}"
    )?;
    Ok(stream)
}

/// What a job came to: its last line says it.
fn last(answer: UnixStream) -> Result<Value> {
    let mut said = String::new();
    for line in BufReader::new(answer).lines() {
        let line = line?;
        // Chunk sizes and headers stand between.
        if let Ok(mut object) = serde_json::from_str::<Value>(&line) {
            if let Some(error) = object.get("error") {
                bail!("{error}");
            }
            if object.get("done").is_some() {
                return Ok(object["done"].take());
            }
        }
        said = line;
    }
    bail!("the answer ended with {said:?}")
}

fn table(floor: &Floor, counts: &[usize], rows: &[Vec<Sample>]) -> String {
    let cost = |row: &[Sample]| median(row.iter().map(Sample::cost));
    let first = rows.first().map(|row| cost(row));
    let mut text = format!(
        "The floor of serving: sockets {:.4} + sealing {:.4} + reading memory {:.4} = {:.4} CPU s/Gbit.\n\n\
         | downloads | Gbit/s | CPU s/Gbit of the server | ÷ floor | ÷ first row | KiB per download |\n\
         |--:|--:|--:|--:|--:|--:|\n",
        floor.sockets,
        floor.seal,
        floor.read,
        floor.sum()
    );
    for (row, count) in rows.iter().zip(counts) {
        text += &format!(
            "| {count} | {:.2} | {:.4} | {} | {} | {:.1} |\n",
            median(row.iter().map(Sample::rate)),
            cost(row),
            ratio(cost(row), Some(floor.sum())),
            ratio(cost(row), first),
            median(row.iter().map(|sample| sample.memory)) / 1024.0,
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_to_the_floor_and_to_the_first_row() {
        let floor = Floor::median(&[
            Floor { sockets: 0.01, seal: 0.02, read: 0.01 },
            Floor { sockets: 0.01, seal: 0.02, read: 0.01 },
            Floor { sockets: 9.0, seal: 9.0, read: 9.0 },
        ]);
        let sample = |cpu_seconds| Sample { bits: 8e9, seconds: 2.0, cpu_seconds, memory: 2048.0 };
        let rows = [vec![sample(0.4)], vec![sample(0.48), sample(0.4), sample(4.0)]];
        let table = table(&floor, &[1, 1000], &rows);
        assert!(table.contains("| 1 | 4.00 | 0.0500 | 1.25 | 1.00 | 2.0 |"), "{table}");
        assert!(table.contains("| 1000 | 4.00 | 0.0600 | 1.50 | 1.20 | 2.0 |"), "{table}");
    }

    #[test]
    fn the_last_line_of_a_job_says_what_it_came_to() {
        let told = |text: &str| {
            let (mut ours, theirs) = UnixStream::pair().unwrap();
            ours.write_all(text.as_bytes()).unwrap();
            drop(ours);
            last(theirs)
        };
        let head = "HTTP/1.1 200 OK\r\n\r\n12\r\n{\"job\": 1}\n\r\n";
        let done =
            told(&format!("{head}19\r\n{{\"done\": {{\"bytes_fetched\": 7}}}}\n\r\n0\r\n\r\n")).unwrap();
        assert_eq!(done["bytes_fetched"], 7);
        assert!(
            told(&format!("{head}14\r\n{{\"error\": \"no room\"}}\n\r\n"))
                .unwrap_err()
                .to_string()
                .contains("no room")
        );
        assert!(told(head).is_err(), "a daemon that died");
    }
}
