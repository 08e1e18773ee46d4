//! What a process has used and what its host's sockets have taken, as the kernel counts them.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};

/// CPU time of each thread of a process so far, nanoseconds, as the scheduler counts it.
pub struct Cpu(BTreeMap<String, u64>);

impl Cpu {
    /// So far.
    pub fn of(pid: u32) -> Result<Cpu> {
        let mut threads = BTreeMap::new();
        for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
            let task = task?;
            // A thread may end while we look.
            let Ok(text) = std::fs::read_to_string(task.path().join("schedstat")) else { continue };
            let ns = text.split_whitespace().next().context("schedstat")?.parse()?;
            threads.insert(task.file_name().to_string_lossy().into_owned(), ns);
        }
        Ok(Cpu(threads))
    }

    /// What the threads that run now have used since; those that ended meanwhile, such as an import's, are left
    /// out.
    pub fn since(&self, before: &Cpu) -> u64 {
        let used = |(thread, ns): (&String, &u64)| ns.saturating_sub(*before.0.get(thread).unwrap_or(&0));
        self.0.iter().map(used).sum()
    }
}

/// `InDatagrams` and `RcvbufErrors` of `/proc/net/snmp`.
pub fn parse_snmp(text: &str) -> Result<(u64, u64)> {
    let mut lines = text.lines().filter(|line| line.starts_with("Udp:"));
    let (Some(names), Some(values)) = (lines.next(), lines.next()) else { bail!("no Udp lines in snmp") };
    let value = |name: &str| {
        let pairs = names.split_whitespace().zip(values.split_whitespace());
        let found = pairs.into_iter().find(|(each, _)| *each == name);
        found.and_then(|(_, value)| value.parse().ok()).with_context(|| format!("no {name} in snmp"))
    };
    Ok((value("InDatagrams")?, value("RcvbufErrors")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_that_come_and_go_do_not_disturb_the_sum() {
        let cpu = |list: &[(&str, u64)]| Cpu(list.iter().map(|(id, ns)| (id.to_string(), *ns)).collect());
        let before = cpu(&[("1", 100), ("2", 5000)]);
        assert_eq!(cpu(&[("1", 170), ("3", 30)]).since(&before), 100);
        assert!(Cpu::of(std::process::id()).unwrap().0.values().any(|ns| *ns > 0));
    }

    #[test]
    fn counts_are_found_by_name() {
        let text = "Tcp: A\nTcp: 1\nUdp: InDatagrams NoPorts InErrors OutDatagrams RcvbufErrors\n\
                    Udp: 11 2 3 4 5\nUdpLite: InDatagrams\nUdpLite: 9\n";
        assert_eq!(parse_snmp(text).unwrap(), (11, 5));
        assert!(parse_snmp("Udp: InDatagrams\nUdp: 1\n").is_err());
        assert!(parse_snmp("").is_err());
    }
}
