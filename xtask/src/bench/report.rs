//! Medians, the table and the JSON.

use serde_json::{Value, json};

use super::peer::Sample;
use super::ratio;

/// What one contestant showed.
pub struct Row {
    /// Its name.
    pub name: &'static str,
    /// What protects its bytes.
    pub protection: &'static str,
    /// What ran.
    pub version: String,
    /// Its runs.
    pub samples: Vec<Sample>,
}

impl Row {
    /// Median rate, Gbit/s.
    pub fn gbit_per_second(&self, size: u64) -> f64 {
        gbit(size) / median(self.samples.iter().map(|sample| sample.seconds))
    }

    /// Median cost, CPU seconds at both ends per Gbit.
    pub fn cpu_per_gbit(&self, size: u64) -> f64 {
        median(self.samples.iter().map(|sample| sample.cpu_seconds)) / gbit(size)
    }

    fn spread(&self, size: u64) -> (f64, f64) {
        let rates = self.samples.iter().map(|sample| gbit(size) / sample.seconds);
        rates.fold((f64::MAX, 0.0), |(low, high), rate| (low.min(rate), high.max(rate)))
    }
}

fn gbit(size: u64) -> f64 {
    size as f64 * 8.0 / 1e9
}

/// The middle; of an even number, the mean of the two in the middle.
pub fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => values[n / 2],
        n => (values[n / 2 - 1] + values[n / 2]) / 2.0,
    }
}

/// The table in Markdown, as docs/benchmarks.md has it. Ratios are to tornet: a rate of 2.0 is twice as
/// fast as tornet, a cost of 2.0 twice as dear.
pub fn table(rows: &[Row], size: u64) -> String {
    let tornet = rows.iter().find(|row| row.name == "tornet");
    let mut text = String::from(
        "| peer | protection | Gbit/s | lowest–highest | ÷ tornet | CPU s/Gbit | ÷ tornet |\n\
         |---|---|--:|--:|--:|--:|--:|\n",
    );
    for row in rows {
        let (rate, cost) = (row.gbit_per_second(size), row.cpu_per_gbit(size));
        let (low, high) = row.spread(size);
        text += &format!(
            "| {} | {} | {rate:.2} | {low:.2}–{high:.2} | {} | {cost:.3} | {} |\n",
            row.name,
            row.protection,
            ratio(rate, tornet.map(|row| row.gbit_per_second(size))),
            ratio(cost, tornet.map(|row| row.cpu_per_gbit(size))),
        );
    }
    text
}

/// Everything, for programs.
pub fn json(rows: &[Row], size: u64) -> Value {
    let row = |row: &Row| {
        json!({
            "name": row.name,
            "protection": row.protection,
            "version": row.version,
            "gbit_per_second": row.gbit_per_second(size),
            "cpu_seconds_per_gbit": row.cpu_per_gbit(size),
            "seconds": row.samples.iter().map(|sample| sample.seconds).collect::<Vec<_>>(),
            "cpu_seconds": row.samples.iter().map(|sample| sample.cpu_seconds).collect::<Vec<_>>(),
        })
    };
    rows.iter().map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &'static str, seconds: &[f64]) -> Row {
        let sample = |seconds: &f64| Sample { seconds: *seconds, cpu_seconds: seconds * 2.0 };
        Row {
            name,
            protection: "none",
            version: String::new(),
            samples: seconds.iter().map(sample).collect(),
        }
    }

    #[test]
    fn medians_and_ratios() {
        let size = 125_000_000; // one Gbit
        let rows = [row("tornet", &[0.5, 9.0, 0.4]), row("other", &[1.0, 2.0])];
        assert_eq!(rows[0].gbit_per_second(size), 2.0);
        assert_eq!(rows[0].cpu_per_gbit(size), 1.0);
        assert_eq!(rows[1].cpu_per_gbit(size), 3.0);
        let table = table(&rows, size);
        assert!(table.contains("| tornet | none | 2.00 | 0.11–2.50 | 1.00 | 1.000 | 1.00 |"), "{table}");
        assert!(table.contains("| other | none | 0.67 | 0.50–1.00 | 0.33 | 3.000 | 3.00 |"), "{table}");
        assert_eq!(json(&rows, size)[1]["seconds"][1], 2.0);
    }

    #[test]
    fn without_tornet_there_are_no_ratios() {
        let table = table(&[row("other", &[1.0])], 125_000_000);
        assert!(table.contains("| – | 2.000 | – |"), "{table}");
    }
}
