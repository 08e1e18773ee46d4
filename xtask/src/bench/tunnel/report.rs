//! Medians, the tables and the JSON.

use serde_json::{Value, json};

use super::iperf::{Load, Sample};
use crate::bench::report::median;

/// What one contestant showed.
pub struct Row {
    /// Its name.
    pub name: &'static str,
    /// What protects its packets.
    pub protection: &'static str,
    /// What ran.
    pub version: String,
    /// Whether it carries bulk.
    pub bulk: bool,
    /// Each load's measurements.
    pub samples: Vec<(&'static str, Sample)>,
    /// Round trips when idle, microseconds.
    pub echoes: Vec<f64>,
}

impl Row {
    /// One without measurements.
    pub fn new(name: &'static str, protection: &'static str, version: String, bulk: bool) -> Row {
        Row { name, protection, version, bulk, samples: Vec::new(), echoes: Vec::new() }
    }

    fn median(&self, load: &str, of: fn(&Sample) -> f64) -> f64 {
        median(self.samples.iter().filter(|(name, _)| *name == load).map(|(_, sample)| of(sample)))
    }

    fn spread(&self, load: &str) -> (f64, f64) {
        let rates =
            self.samples.iter().filter(|(name, _)| *name == load).map(|(_, sample)| sample.gbit_per_second);
        rates.fold((f64::MAX, 0.0), |(low, high), rate| (low.min(rate), high.max(rate)))
    }
}

/// One table per load, and one of the echoes, in Markdown. Ratios are to tornet, as in the other tables.
pub fn table(rows: &[Row], loads: &[&Load]) -> String {
    let tornet = rows.iter().find(|row| row.name == "tornet");
    let ratio = |own: f64, theirs: Option<f64>| theirs.map_or("–".into(), |it| format!("{:.2}", own / it));
    let mut text = String::new();
    for load in loads {
        text += &format!(
            "\n**{}**\n\n| peer | Gbit/s | lowest–highest | ÷ tornet | lost | CPU s/Gbit | ÷ tornet | tunnel's part | \
             whole machine |\n|---|--:|--:|--:|--:|--:|--:|--:|--:|\n",
            load.name
        );
        for row in rows.iter().filter(|row| row.bulk) {
            let of = |row: &Row, of: fn(&Sample) -> f64| row.median(load.name, of);
            let (rate, cost) = (of(row, |s| s.gbit_per_second), of(row, Sample::cpu_per_gbit));
            let (low, high) = row.spread(load.name);
            text += &format!(
                "| {} | {rate:.2} | {low:.2}–{high:.2} | {} | {:.1} % | {cost:.3} | {} | {:.3} | {:.3} |\n",
                row.name,
                ratio(rate, tornet.map(|row| of(row, |s| s.gbit_per_second))),
                of(row, |s| s.lost) * 100.0,
                ratio(cost, tornet.map(|row| of(row, Sample::cpu_per_gbit))),
                of(row, Sample::tunnel_cpu_per_gbit),
                of(row, Sample::machine_cpu_per_gbit),
            );
        }
    }
    if rows.iter().any(|row| !row.echoes.is_empty()) {
        text +=
            "\n**round trip when idle**\n\n| peer | median µs | 90 % µs | ÷ forwarder |\n|---|--:|--:|--:|\n";
        let bare = rows.iter().find(|row| row.name == "forwarder").map(|row| quantile(&row.echoes, 0.5));
        for row in rows {
            let middle = quantile(&row.echoes, 0.5);
            let (tail, times) = (quantile(&row.echoes, 0.9), ratio(middle, bare));
            text += &format!("| {} | {middle:.0} | {tail:.0} | {times} |\n", row.name);
        }
    }
    text
}

fn quantile(values: &[f64], part: f64) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values
        .get(((values.len() as f64 * part) as usize).min(values.len().saturating_sub(1)))
        .copied()
        .unwrap_or(f64::NAN)
}

/// Everything, for programs.
pub fn json(rows: &[Row], loads: &[&Load]) -> Value {
    let of_load = |row: &Row, load: &Load| {
        let of = |of: fn(&Sample) -> f64| row.median(load.name, of);
        let runs: Vec<Value> = row
            .samples
            .iter()
            .filter(|(name, _)| *name == load.name)
            .map(|(_, s)| {
                json!({ "gbit_per_second": s.gbit_per_second, "seconds": s.seconds, "lost": s.lost,
                        "tunnel_cpu_seconds": s.tunnel_cpu, "iperf3_cpu_seconds": s.iperf_cpu,
                        "machine_cpu_seconds": s.machine_cpu })
            })
            .collect();
        json!({
            "load": load.name,
            "gbit_per_second": of(|s| s.gbit_per_second),
            "lost": of(|s| s.lost),
            "cpu_seconds_per_gbit": of(Sample::cpu_per_gbit),
            "tunnel_cpu_seconds_per_gbit": of(Sample::tunnel_cpu_per_gbit),
            "machine_cpu_seconds_per_gbit": of(Sample::machine_cpu_per_gbit),
            "runs": runs,
        })
    };
    let row = |row: &Row| {
        let measured: Vec<Value> = loads.iter().filter(|_| row.bulk).map(|load| of_load(row, load)).collect();
        json!({
            "name": row.name,
            "protection": row.protection,
            "version": row.version,
            "loads": measured,
            "idle_round_trip_us": { "median": quantile(&row.echoes, 0.5), "p90": quantile(&row.echoes, 0.9),
                                    "count": row.echoes.len() },
        })
    };
    rows.iter().map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::super::iperf::LOADS;
    use super::*;

    fn row(name: &'static str, rates: &[f64]) -> Row {
        let mut row = Row::new(name, "none", String::new(), true);
        for rate in rates {
            let sample = Sample {
                gbit_per_second: *rate,
                seconds: 2.0,
                lost: 0.0,
                tunnel_cpu: 1.0,
                iperf_cpu: 1.0,
                machine_cpu: 3.0,
            };
            row.samples.push(("tcp1", sample));
        }
        row.echoes = vec![100.0 * rates[0]; 3];
        row
    }

    #[test]
    fn medians_ratios_and_costs() {
        let rows = [row("tornet", &[4.0, 1.0, 5.0]), row("other", &[2.0, 2.0]), row("forwarder", &[2.0])];
        let table = table(&rows, &[&LOADS[0]]);
        assert!(
            table.contains("| tornet | 4.00 | 1.00–5.00 | 1.00 | 0.0 % | 0.250 | 1.00 | 0.125 | 0.375 |"),
            "{table}"
        );
        assert!(
            table.contains("| other | 2.00 | 2.00–2.00 | 0.50 | 0.0 % | 0.500 | 2.00 | 0.250 | 0.750 |"),
            "{table}"
        );
        assert!(table.contains("| tornet | 400 | 400 | 2.00 |"), "{table}");
        let json = json(&rows, &[&LOADS[0]]);
        assert_eq!(json[0]["loads"][0]["gbit_per_second"], 4.0);
        assert_eq!(json[0]["loads"][0]["runs"][2]["gbit_per_second"], 5.0);
    }

    #[test]
    fn without_tornet_there_are_no_ratios() {
        let table = table(&[row("other", &[1.0])], &[&LOADS[0]]);
        assert!(table.contains("| other | 1.00 | 1.00–1.00 | – |"), "{table}");
    }
}
