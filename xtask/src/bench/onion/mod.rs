//! `cargo xtask bench onion`: downloads through three relays, the third the exit, by tornet and by a private Tor network of the
//! same hosts in turn.
//!
//! ```text
//! o ── r1 ── r2 ── x ── w      o: curl; w: a server that sends for as long as somebody listens
//! ```
//!
//! Beside these links each Tor relay needs one to each other, and the client to the first authority.

mod hops;
mod tor;

use std::io::{Read, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::machine;
use crate::args::Args;
use crate::lab::{Description, Host, Lab, Node, Process, node, scratch};
use crate::{setup, sh, stop};

pub const HOSTS: &str = "hosts o r1 r2 x w\n\
                     veth o-r1\nveth o-r2\nveth o-x\nveth r1-r2\nveth r1-x\nveth r2-x\nveth x-w\n";
/// Where the server listens.
const WEB: u16 = 8080;
/// Where the origin's SOCKS proxy listens.
const SOCKS: &str = "127.0.0.1:1080";
/// Downloads at once, one after the other.
const FLOWS: [usize; 2] = [1, 8];
/// Origins with a circuit each.
const ORIGINS: usize = 8;
/// Their row.
const MANY: &str = "tornet, eight origins";

/// What one contestant is made of, once it carries something.
pub struct Path {
    /// Of o, r1, r2 and x; then further ones of o.
    pub processes: Vec<Process>,
    /// What curl is told, for the nth download.
    proxy: fn(usize) -> Vec<String>,
}

/// One measurement.
struct Row {
    name: &'static str,
    flows: usize,
    gbit: f64,
    /// CPU seconds per Gbit of o, r1, r2, x.
    cpu: [f64; 4],
}

/// The command.
pub fn command(mut args: Args) -> Result<()> {
    let seconds: u64 = args.value("--seconds")?.map_or(Ok(5), |text| text.parse()).context("--seconds")?;
    let echoes = args.number("--echoes", 500)?.clamp(20, 10_000);
    let json = args.value("--json")?.map(PathBuf::from);
    let binary = args.value("--binary")?.map(PathBuf::from);
    args.finish()?;
    setup::ensure()?;
    let binary = sh::binary_or_build(binary)?;
    stop::listen();
    let about = machine::describe();
    println!("{}", machine::line(&about));
    let length = Duration::from_secs(seconds.clamp(1, 60));
    let mut rows = Vec::new();
    // Each in a lab of its own: a kill switch is no help to the others.
    let lab = Lab::described(Description::parse(HOSTS)?, &scratch())?;
    serve(&lab.hosts()[4])?;
    let (mut path, nodes) = tornet(&lab, &binary)?;
    measure(&lab, "tornet", &mut path, length, &FLOWS, &mut rows)?;
    let hop = hops::compare(&lab, &nodes, echoes)?;
    // The same circuit, and applications without a device.
    socks(&mut path, &nodes)?;
    measure(&lab, "tornet, SOCKS", &mut path, length, &FLOWS, &mut rows)?;
    drop((path, nodes, lab));
    let lab = Lab::described(Description::parse(HOSTS)?, &scratch())?;
    serve(&lab.hosts()[4])?;
    let (mut path, nodes) = many(&lab, &binary)?;
    measure(&lab, MANY, &mut path, length, &[ORIGINS], &mut rows)?;
    drop((path, nodes, lab));
    match tor::version() {
        Err(why) => println!("no Tor: {why}"),
        Ok(version) => {
            println!("{version}");
            let lab = Lab::described(Description::parse(HOSTS)?, &scratch())?;
            serve(&lab.hosts()[4])?;
            let mut path = tor::up(&lab)?;
            measure(&lab, "tor", &mut path, length, &FLOWS, &mut rows)?;
        }
    }
    show(&rows);
    println!("{hop}");
    if let Some(file) = json {
        let rows: Vec<Value> = rows.iter().map(row_json).collect();
        let text =
            json!({ "machine": about, "seconds": seconds, "rows": rows, "hop_us": hop.json() }).to_string();
        std::fs::write(&file, text).with_context(|| file.display().to_string())?;
    }
    Ok(())
}

fn row_json(row: &Row) -> Value {
    json!({ "name": row.name, "flows": row.flows, "gbit_per_second": row.gbit, "cpu_seconds_per_gbit": row.cpu })
}

fn show(rows: &[Row]) {
    println!(
        "\n| | downloads | Gbit/s | CPU-s/Gbit: origin | first | middle | exit |\n|---|--:|--:|--:|--:|--:|--:|"
    );
    for row in rows {
        let [o, r1, r2, x] = row.cpu;
        println!("| {} | {} | {:.3} | {o:.2} | {r1:.2} | {r2:.2} | {x:.2} |", row.name, row.flows, row.gbit);
    }
    let of = |name: &str, flows: usize| rows.iter().find(|row| row.name == name && row.flows == flows);
    if let (Some(ours), Some(one), Some(eight)) = (of("tornet", 1), of("tor", 1), of("tor", 8)) {
        println!(
            "\none circuit of tornet to one of Tor: {:.1}; to Tor's eight: {:.1}; CPU of the middle relay to Tor's: {:.2}",
            ours.gbit / one.gbit,
            ours.gbit / eight.gbit,
            ours.cpu[2] / one.cpu[2]
        );
        if let Some(many) = of(MANY, ORIGINS) {
            println!("eight circuits of tornet to Tor's eight: {:.1}", many.gbit / eight.gbit);
        }
    }
    println!(
        "\nEight downloads share one circuit of tornet, but in the row of eight origins; Tor's have one each. All hosts share this \
         machine's cores."
    );
}

/// Sends zeros to everybody who asks, for as long as they listen.
pub fn serve(host: &Host) -> Result<()> {
    host.answer(WEB, |mut stream| {
        let _ = stream.read(&mut [0; 4096]);
        let mut sent = stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n");
        let zeros = vec![0; 1 << 18];
        while sent.is_ok() {
            sent = stream.write_all(&zeros);
        }
    })
}

/// A circuit of three relays, and the four daemons' nodes, whose processes the path has.
pub fn tornet(lab: &Lab, binary: &std::path::Path) -> Result<(Path, Vec<Node>)> {
    let mut nodes = Vec::new();
    for host in &lab.hosts()[..4] {
        let mut node = Node::new(lab, host, &host.name, binary, 4001, lab.dir().join(&host.name));
        node.init()?;
        node.start()?;
        nodes.push(node);
    }
    // The origin knows r1 alone, and by it r2 and x.
    let pairs = [[0, 1], [1, 2], [1, 3], [2, 3]];
    for [a, b] in pairs {
        nodes[a].befriend(&nodes[b])?;
        nodes[b].befriend(&nodes[a])?;
    }
    for [a, b] in pairs {
        nodes[a].meets(&nodes[b])?;
    }
    let rules = format!("{}/32", lab.hosts()[4].address);
    nodes[3].run(&["config", "set", "exit.allow", &rules], node::PROMPT)?;
    let mut last = String::new();
    let up = stop::until(node::PROMPT, || {
        let done = nodes[0].attempt(&["tunnel", "up", "--hops", "3", "--force"], node::PATIENT)?;
        last = done.stderr;
        Ok(done.status.success())
    })?;
    ensure!(up, "no circuit: {last}");
    let processes = nodes.iter_mut().map(Node::take_daemon).collect::<Result<_>>()?;
    Ok((Path { processes, proxy: |_| Vec::new() }, nodes))
}

/// Several origins on one host, with a circuit each that applications reach by a proxy.
fn many(lab: &Lab, binary: &std::path::Path) -> Result<(Path, Vec<Node>)> {
    let mut nodes = Vec::new();
    for host in &lab.hosts()[1..4] {
        nodes.push((host, host.name.clone(), 4001));
    }
    for n in 0..ORIGINS as u16 {
        nodes.push((&lab.hosts()[0], format!("o{n}"), 4001 + n));
    }
    let mut nodes = nodes
        .into_iter()
        .map(|(host, name, port)| {
            let mut node = Node::new(lab, host, &name, binary, port, lab.dir().join(&name));
            node.init()?;
            node.start()?;
            Ok(node)
        })
        .collect::<Result<Vec<Node>>>()?;
    let relays = [[0, 1], [0, 2], [1, 2]];
    let pairs: Vec<[usize; 2]> = relays.into_iter().chain((3..nodes.len()).map(|n| [0, n])).collect();
    for [a, b] in &pairs {
        nodes[*a].befriend(&nodes[*b])?;
        nodes[*b].befriend(&nodes[*a])?;
    }
    for [a, b] in &pairs {
        nodes[*a].meets(&nodes[*b])?;
    }
    nodes[2]
        .run(&["config", "set", "exit.allow", &format!("{}/32", lab.hosts()[4].address)], node::PROMPT)?;
    for (n, origin) in nodes[3..].iter().enumerate() {
        let words = ["tunnel", "up", "--hops", "3", "--force", "--socks", &socks_of(n)];
        let up = stop::until(node::PROMPT, || Ok(origin.attempt(&words, node::PATIENT)?.status.success()))?;
        ensure!(up, "no circuit of {}", origin.name);
    }
    let order = [3, 0, 1, 2].into_iter().chain(4..nodes.len());
    let processes = order.map(|n| nodes[n].take_daemon()).collect::<Result<_>>()?;
    let proxy = |n: usize| vec!["--socks5-hostname".into(), socks_of(n)];
    Ok((Path { processes, proxy }, nodes))
}

fn socks_of(origin: usize) -> String {
    format!("127.0.0.1:{}", 1080 + origin)
}

/// Has the origin's circuit used by way of its SOCKS proxy.
fn socks(path: &mut Path, nodes: &[Node]) -> Result<()> {
    nodes[0].run(&["tunnel", "up", "--hops", "3", "--force", "--socks", SOCKS], node::PATIENT)?;
    path.proxy = |_| vec!["--socks5-hostname".into(), SOCKS.into()];
    Ok(())
}

fn measure(
    lab: &Lab,
    name: &'static str,
    path: &mut Path,
    length: Duration,
    flows: &[usize],
    rows: &mut Vec<Row>,
) -> Result<()> {
    // Congestion windows, and whatever is made at the first use.
    download(lab, path, flows[0], Duration::from_secs(2))?;
    for &flows in flows {
        stop::check()?;
        let cpu = |path: &Path| path.processes.iter().map(Process::cpu_seconds).collect::<Result<Vec<f64>>>();
        let (before, began) = (cpu(path)?, Instant::now());
        let bytes = download(lab, path, flows, length)?;
        let (took, after) = (began.elapsed().as_secs_f64(), cpu(path)?);
        let gbit = bytes * 8.0 / 1e9;
        ensure!(gbit > 0.0, "{name}: nothing came");
        let spent = |n: usize| (after[n] - before[n]) / gbit;
        let mut cpu: [f64; 4] = std::array::from_fn(spent);
        cpu[0] += (4..after.len()).map(spent).sum::<f64>();
        rows.push(Row { name, flows, gbit: gbit / took, cpu });
        println!("{name}: {flows} downloads, {:.3} Gbit/s", gbit / took);
    }
    Ok(())
}

/// Bytes that so many downloads at once bring in a time.
pub fn download(lab: &Lab, path: &Path, flows: usize, length: Duration) -> Result<f64> {
    let (origin, web) = (&lab.hosts()[0], &lab.hosts()[4]);
    let url = format!("http://{}:{WEB}/", web.address);
    let start = |n: usize| {
        let mut command = origin.command("curl");
        command.args(["--silent", "--output", "/dev/null", "--write-out", "%{size_download}"]);
        command.args(["--max-time", &length.as_secs().to_string()]).args((path.proxy)(n)).arg(&url);
        Process::start(&format!("curl-{n}"), lab.dir(), &mut command)
    };
    let mut running = (0..flows).map(start).collect::<Result<Vec<_>>>()?;
    let mut bytes = 0.0;
    for one in &mut running {
        one.wait(length + node::PROMPT)?;
        let text = one.stdout();
        bytes += text.trim().parse::<f64>().with_context(|| format!("curl says {text:?}"))?;
    }
    Ok(bytes)
}
