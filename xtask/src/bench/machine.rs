//! What the numbers were measured on.

use serde_json::{Value, json};

use crate::sh;

/// The machine, as JSON.
pub fn describe() -> Value {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let memory = read("/proc/meminfo").split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok());
    let system = read("/etc/os-release");
    let system = system.lines().find_map(|line| line.strip_prefix("PRETTY_NAME=")).unwrap_or("Linux");
    let load = read("/proc/loadavg");
    json!({
        "cpu": model.map_or("unknown", |(_, name)| name),
        "cores": std::thread::available_parallelism().map_or(0, usize::from),
        "memory_gib": memory.unwrap_or(0) >> 20,
        "kernel": read("/proc/sys/kernel/osrelease").trim(),
        "system": system.trim_matches('"'),
        "load_before": load.split_whitespace().next().unwrap_or_default(),
        "rustc": sh::words("rustc", &["--version"]).unwrap_or_default().trim(),
        "revision": sh::words("git", &["-C", &sh::root().to_string_lossy(), "describe", "--always", "--dirty"])
            .unwrap_or_default().trim(),
    })
}

/// The running kernel, for what only it does.
pub fn kernel() -> anyhow::Result<String> {
    Ok(format!("Linux {}", std::fs::read_to_string("/proc/sys/kernel/osrelease")?.trim()))
}

/// The same in one line.
pub fn line(machine: &Value) -> String {
    let text = |key: &str| machine[key].as_str().unwrap_or_default().to_string();
    format!(
        "{} ({} cores, {} GiB), Linux {}, {}, load before {}",
        text("cpu"),
        machine["cores"],
        machine["memory_gib"],
        text("kernel"),
        text("system"),
        text("load_before")
    )
}
