//! Echoes through a tunnel that carries nothing else.

use std::net::Ipv4Addr;

use anyhow::{Context, Result, ensure};

use crate::lab::{Lab, Process, node};

/// Waits until the other end answers.
pub fn answers(lab: &Lab, to: Ipv4Addr) -> Result<()> {
    let to = to.to_string();
    let answered = crate::stop::until(node::PROMPT, || {
        let mut command = lab.a().command("ping");
        command.args(["-n", "-q", "-c", "1", "-W", "1", &to]);
        Ok(Process::finish("ping", lab.dir(), &mut command, node::PROMPT)?.status.success())
    })?;
    ensure!(answered, "{to} does not answer through the tunnel");
    Ok(())
}

/// Round trips in microseconds, one after the other with a pause of 5 ms between, so that nothing is warm from the last.
pub fn round_trips(lab: &Lab, to: Ipv4Addr, count: u64) -> Result<Vec<f64>> {
    let (count, to) = (count.to_string(), to.to_string());
    let mut command = lab.a().command("ping");
    command.args(["-n", "-c", &count, "-i", "0.005", "-W", "1", &to]);
    let done = Process::finish("ping", lab.dir(), &mut command, node::PATIENT)?;
    ensure!(done.status.success(), "ping {to}: {}\n{}", done.status, done.stdout);
    let times: Option<Vec<f64>> =
        done.stdout.lines().filter(|line| line.contains(" time=")).map(parse).collect();
    times.filter(|times| !times.is_empty()).with_context(|| format!("ping: {}", done.stdout))
}

/// `64 bytes from …: icmp_seq=1 ttl=64 time=0.123 ms`
fn parse(line: &str) -> Option<f64> {
    let (number, unit) = line.split_once(" time=")?.1.split_once(' ')?;
    (unit == "ms").then(|| number.parse::<f64>().ok().map(|ms| ms * 1000.0))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_in_microseconds() {
        assert_eq!(parse("64 bytes from 10.0.0.2: icmp_seq=1 ttl=64 time=0.125 ms"), Some(125.0));
        assert_eq!(parse("64 bytes from 10.0.0.2: icmp_seq=1 ttl=64"), None);
    }
}
