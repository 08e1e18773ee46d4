//! iperf3 through a tunnel, and what it and the tunnel cost.

use std::net::Ipv4Addr;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::Tunnel;
use crate::lab::{Lab, Process, node};

const PORT: &str = "5201";

/// One way of using a tunnel.
pub struct Load {
    /// Its name in `--loads` and in the table.
    pub name: &'static str,
    words: &'static [&'static str],
}

/// UDP payloads fit every contestant's MTU.
pub const LOADS: &[Load] = &[
    Load { name: "tcp1", words: &[] },
    Load { name: "tcp1-back", words: &["-R"] },
    Load { name: "tcp8", words: &["-P", "8"] },
    Load { name: "tcp8-back", words: &["-P", "8", "-R"] },
    Load { name: "udp", words: &["-u", "-b", "0", "-l", "1200"] },
];

/// The loads that were asked for.
pub fn choose(names: Option<&str>) -> Result<Vec<&'static Load>> {
    crate::bench::choose("load", LOADS, names, |load| load.name)
}

/// One measurement.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    /// What arrived, Gbit/s of payload.
    pub gbit_per_second: f64,
    /// For how long, seconds.
    pub seconds: f64,
    /// UDP datagrams that did not arrive, of those sent.
    pub lost: f64,
    /// User and system time of the tunnel's processes at both ends, seconds.
    pub tunnel_cpu: f64,
    /// The same of iperf3.
    pub iperf_cpu: f64,
    /// Time that the machine was not idle, in whatever, seconds.
    pub machine_cpu: f64,
}

impl Sample {
    fn gbit(&self) -> f64 {
        self.gbit_per_second * self.seconds
    }

    /// Cost of the tunnel and iperf3 together, CPU seconds per Gbit that arrived.
    pub fn cpu_per_gbit(&self) -> f64 {
        (self.tunnel_cpu + self.iperf_cpu) / self.gbit()
    }

    /// Cost of the tunnel alone.
    pub fn tunnel_cpu_per_gbit(&self) -> f64 {
        self.tunnel_cpu / self.gbit()
    }

    /// Cost of everything that ran, interrupts for nobody included.
    pub fn machine_cpu_per_gbit(&self) -> f64 {
        self.machine_cpu / self.gbit()
    }

    /// In one line.
    pub fn line(&self) -> String {
        format!(
            "{:6.2} Gbit/s, lost {:4.1} %, CPU s/Gbit {:.3} tunnel + {:.3} iperf3",
            self.gbit_per_second,
            self.lost * 100.0,
            self.tunnel_cpu_per_gbit(),
            self.iperf_cpu / self.gbit()
        )
    }
}

/// iperf3 that waits on B.
pub struct Server(Process);

impl Server {
    /// Starts it and waits until it listens.
    pub fn start(lab: &Lab) -> Result<Server> {
        let mut command = lab.b().command("iperf3");
        command.args(["-s", "-p", PORT, "--forceflush"]);
        let process = Process::start("iperf3-server", lab.dir(), &mut command)?;
        let listens = crate::stop::until(node::PROMPT, || {
            Ok(process.stdout().contains(&format!("Server listening on {PORT}")))
        })?;
        ensure!(listens, "iperf3 does not listen: {}", process.stderr());
        Ok(Server(process))
    }

    /// One load through one tunnel.
    pub fn run(&self, lab: &Lab, load: &Load, tunnel: &Tunnel, seconds: u64) -> Result<Sample> {
        let (seconds, to) = (seconds.to_string(), tunnel.ends[1]);
        let mut command = lab.a().command("iperf3");
        command.args(["-J", "-c", &to.to_string(), "-p", PORT, "-t", &seconds]);
        bind(&mut command, tunnel.ends[0]);
        command.args(load.words);
        let before = (tunnel.cpu_seconds()?, self.0.cpu_seconds()?, machine_cpu()?);
        let done = Process::finish("iperf3", lab.dir(), &mut command, node::PATIENT)?;
        let after = (tunnel.cpu_seconds()?, self.0.cpu_seconds()?, machine_cpu()?);
        ensure!(done.status.success(), "iperf3: {}\n{}{}", done.status, done.stderr, done.stdout);
        let (gbit_per_second, seconds, lost) = parse(&done.stdout)?;
        Ok(Sample {
            gbit_per_second,
            seconds,
            lost,
            tunnel_cpu: after.0 - before.0,
            iperf_cpu: after.1 - before.1 + done.cpu_seconds,
            machine_cpu: after.2 - before.2,
        })
    }
}

fn bind(command: &mut std::process::Command, address: Ipv4Addr) {
    command.args(["-B", &address.to_string()]);
}

/// Gbit/s, seconds and the part that was lost, from iperf3's JSON.
fn parse(text: &str) -> Result<(f64, f64, f64)> {
    let all: Value = serde_json::from_str(text).context("iperf3 printed no JSON")?;
    let end = &all["end"];
    // TCP says what was received; UDP says what was sent and how much of it was lost on the way.
    let received =
        end.get("sum_received").filter(|sum| sum["bits_per_second"].as_f64().is_some_and(|rate| rate > 0.0));
    let sum = received.unwrap_or(&end["sum"]);
    let number = |value: &Value| value.as_f64();
    let rate = number(&sum["bits_per_second"]).context("iperf3 names no rate")?;
    let seconds = number(&sum["seconds"]).context("iperf3 names no time")?;
    let lost = number(&end["sum"]["lost_percent"]).unwrap_or(0.0) / 100.0;
    let arrived = if received.is_some() { 1.0 } else { 1.0 - lost };
    ensure!(rate > 0.0 && seconds > 0.0, "nothing arrived");
    Ok((rate * arrived / 1e9, seconds, lost))
}

/// Time that the machine's cores were not idle so far, seconds.
fn machine_cpu() -> Result<f64> {
    parse_stat(&std::fs::read_to_string("/proc/stat")?).context("/proc/stat")
}

/// user, nice, system, irq and softirq of the first line, which are in hundredths; not idle, iowait and steal.
fn parse_stat(text: &str) -> Option<f64> {
    let fields: Vec<u64> = text
        .lines()
        .next()?
        .strip_prefix("cpu ")?
        .split_whitespace()
        .map_while(|word| word.parse().ok())
        .collect();
    Some([0, 1, 2, 5, 6].iter().map(|at| fields.get(*at)).sum::<Option<u64>>()? as f64 / 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tcp_counts_what_arrived_and_udp_what_was_not_lost() {
        let tcp = r#"{"end": {"sum_sent": {"bits_per_second": 3e9, "seconds": 5.0},
                      "sum_received": {"bits_per_second": 2e9, "seconds": 5.0}}}"#;
        assert_eq!(parse(tcp).unwrap(), (2.0, 5.0, 0.0));
        let udp = r#"{"end": {"sum": {"bits_per_second": 4e9, "seconds": 5.0, "lost_percent": 25.0}}}"#;
        assert_eq!(parse(udp).unwrap(), (3.0, 5.0, 0.25));
        assert!(parse(r#"{"error": "refused"}"#).is_err());
        assert!(parse("").is_err());
    }

    #[test]
    fn idle_time_is_no_cost() {
        assert_eq!(parse_stat("cpu  100 10 200 9999 50 30 60 7 0 0\ncpu0 1"), Some(4.0));
        assert_eq!(parse_stat("intr 1"), None);
    }
}
