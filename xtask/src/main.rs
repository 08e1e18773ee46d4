//! One door to everything that a contributor, or CI, does here: `cargo xtask COMMAND`.
//!
//! This crate knows nothing of tornet's insides. It drives the `tornet` binary by its command line, as a
//! user does, and reads the sources as text.
#![allow(
    clippy::disallowed_methods,
    reason = "a tool at the edge: it reads the clock, waits and keeps threads"
)]

mod able;
mod alltests;
mod args;
mod bench;
mod ci;
mod crash;
mod demo;
mod e2e;
mod fuzz;
mod lab;
mod plant;
mod setup;
mod sh;
mod sim;
mod steps;
mod stop;
mod tidy;

use std::process::ExitCode;

use args::Args;

const HELP: &str = "\
cargo xtask COMMAND

  setup             install what building and testing need (apt, rustup components)
  demo  [--once] [--size SIZE] [--binary PATH]
                    two real nodes: put a tree on one, get it on the other; Ctrl-C ends it
  ci    [--step NAME]
                    everything that must hold before a merge, in order, with times and limits
  test  [--step NAME]
                    all tests: unit, integration and (as root) end to end
  tidy              the rules that the compiler does not know (docs/testing.md)
  e2e   [NAME…] [--list] [--keep] [--binary PATH]
                    real daemons in network namespaces: faults and what must be said about them
  crash [kill|points|power] [--rounds N] [--seed S] [--quick] [--at WHERE] [--keep]
        [--binary PATH]
                    daemons that are killed, or lose power, at bad moments (docs/testing/crash.md)
  sim   [--seeds N] [--seed S] [--nodes M] [--trace] [--twice] [--minutes M] [--canary NAME] [--light]
                    random networks with everything that can go wrong, under a virtual clock
  fuzz  [TARGET…] [--seconds N] [--jobs J] [--cmin] [--list] | TARGET --input FILE
                    every fuzz target, or those named, for N seconds each (60); --cmin keeps what they reached
                    | one input again, with a backtrace
  plant [NAME…] [--list] [--write]
                    one mistake at a time in a copy: how long until the simulator or the fuzzers find it
  bench transfer [--size SIZE] [--runs N] [--peers A,B] [--offloads on|off|both]
                 [--scratch DIR] [--json FILE] [--binary PATH]
                    one file between two namespaces, tornet beside its peers
  bench onion    [--seconds N] [--echoes N] [--json FILE] [--binary PATH]
                    downloads through three relays, tornet beside a private Tor network
  bench tunnel   [--seconds N] [--runs N] [--peers A,B] [--loads A,B] [--echoes N] [--json FILE] [--binary PATH]
                    iperf3 and echoes through a tunnel, tornet beside WireGuard's programs; WIREGUARD_GO names a newer
                    wireguard-go than Debian's
  bench hostile  [--rate N] [--seconds S] [--rounds N] [--kinds A,B] [--no-judge]
                 [--binary PATH] [--tool PATH]
                    a node pelted with hostile datagrams, beside a receiver that discards them
  bench floor    [--parts A,B] [--size BYTES] [--runs N] [--seconds S] [--offloads on|off]
                 [--json FILE] [--tool PATH]
                    session datagrams and a stream beside the sum of their unavoidable parts, and quinn
  bench latency  [--runs N] [--seconds S] [--size BYTES] [--json FILE] [--tool PATH]
                    round trips when nothing else goes on, beside a bare io_uring echo
  bench limits   [--parts caps,htb,overload,shards] [--peers N] [--seconds S] [--json FILE] [--binary PATH] [--tool PATH]
                    limits of a thousand peers on real sockets, beside the kernel's HTB; who gets what under overload
  bench sessions [--sessions N] [--size BYTES] [--json FILE] [--tool PATH]
                    100,000 sessions on one node: memory, handshakes, packets
  bench bridge   [--size SIZE] [--runs N] [--scratch DIR] [--binary PATH]
                    a file by UDP, and by a bridge where UDP is blocked
  bench serve    [--downloads A,B] [--size SIZE] [--runs N] [--scratch DIR] [--json FILE] [--binary PATH] [--tool PATH]
                    one daemon's store served to 1, 10 and 1,000 downloads at once, beside its floor
  bench circuits [--circuits N] [--rate N] [--seconds S] [--kinds A,B] [--json FILE] [--no-judge] [--binary PATH] [--tool PATH]
                    10,000 circuits through one relay: memory; and an honest one beside a neighbour's hostile cells
  bench relay    [--runs N] [--seconds S] [--json FILE] [--binary PATH] [--tool PATH]
                    what the middle one of three relays costs per Gbit, beside its floor
  bench scale    [--sessions N] [--mbit N] [--runs N] [--seconds S] [--json FILE] [--binary PATH] [--tool PATH]
                    the same load served by one shard and by two
  bench churn [--capacity SIZE] [--factor N] [--scratch DIR] [--json FILE] [--no-judge]
                    a full cache that is written over, beside a new one
  bench soak     [--minutes N] [--seconds S] [--json FILE] [--no-judge] [--binary PATH]
                    applications of six kinds through a circuit and through a tunnel, at once, for an hour
  bench shaper      what a packet costs in the scheduler, with ten peers and with a hundred thousand
  lab   up [FILE | --link TEXT | --rate RATE] [--binary PATH] | check | clean
                    namespaces joined by links, to play in until Ctrl-C (docs/testing/lab.md) |
                    what the link emulator does and can, measured | remove what dead runs left

SIZE is a number with KiB, MiB or GiB.
";

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    let command = words.next().unwrap_or_default();
    let args = Args::new(words.collect());
    let result = match command.as_str() {
        "setup" => setup::command(args),
        "demo" => demo::command(args),
        "ci" => ci::command(args),
        "test" => alltests::command(args),
        "tidy" => tidy::command(args),
        "e2e" => e2e::command(args),
        "crash" => crash::command(args),
        "fuzz" => fuzz::command(args),
        "bench" => bench::command(args),
        "lab" => lab::command(args),
        "plant" => plant::command(args),
        "sim" => sim::command(args),
        "" | "help" | "-h" | "--help" => {
            print!("{HELP}");
            return ExitCode::SUCCESS;
        }
        other => Err(anyhow::anyhow!("no command {other:?}; `cargo xtask help` lists them")),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask {command}: {error:#}");
            ExitCode::FAILURE
        }
    }
}
