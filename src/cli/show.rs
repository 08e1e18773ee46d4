//! Progress bars and tables for people.

use std::time::Instant;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;

use crate::base::units::{show_duration, show_rate, show_size};

/// A job's progress on stderr; nothing when that is no terminal.
pub(super) struct Progress {
    bar: ProgressBar,
    planned: bool,
    started: Instant,
}

impl Progress {
    /// Begins to show.
    pub(super) fn new(doing: &'static str) -> Self {
        let bar = ProgressBar::no_length();
        set_style(&bar, "{spinner} {prefix} {bytes} ({binary_bytes_per_sec}) {msg}");
        bar.set_prefix(doing);
        Self { bar, planned: false, started: Instant::now() }
    }

    /// Takes a progress or done object of the API.
    pub(super) fn update(&mut self, progress: &Value) {
        if progress["planned"] == true && !self.planned {
            self.planned = true;
            set_style(
                &self.bar,
                "{prefix} [{bar:30}] {bytes}/{total_bytes} {binary_bytes_per_sec} {eta} left {msg}",
            );
            // Rate and time left are of what is moved from here on, not of what an earlier run had.
            self.bar.set_position(number(progress, "bytes_done"));
            self.bar.reset_eta();
        }
        if self.planned {
            self.bar.set_length(number(progress, "bytes_total"));
        }
        self.bar.set_position(number(progress, "bytes_done"));
        let (done, total) = (number(progress, "files_done"), number(progress, "files_total"));
        self.bar.set_message(match progress["waits_for"].as_str() {
            Some(what) => format!("waiting for {what}"),
            None => match number(progress, "chunks_given") {
                0 => format!("{done} of {total} files"),
                given => format!("{given} chunks given to keepers"),
            },
        });
    }

    /// Takes the bar away and says how long it took, seconds.
    pub(super) fn finish(self) -> f64 {
        self.bar.finish_and_clear();
        self.started.elapsed().as_secs_f64()
    }
}

fn set_style(bar: &ProgressBar, template: &str) {
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("=> "));
    }
}

/// `12.0 MiB in 1.5 s (67.1 Mbit/s)`.
pub(super) fn amount(bytes: u64, seconds: f64) -> String {
    let took = std::time::Duration::from_secs_f64(seconds.max(0.0));
    let rate = show_rate(bytes as f64 * 8.0 / seconds.max(1e-3));
    format!("{} in {} ({rate})", show_size(bytes), show_duration(took))
}

/// A number of an object of the API; 0 when it is not there.
pub(super) fn number(value: &Value, name: &str) -> u64 {
    value[name].as_u64().unwrap_or(0)
}

/// `1 file`, `2 files`.
pub(super) fn count(n: u64, one: &str) -> String {
    if n == 1 { format!("1 {one}") } else { format!("{n} {one}s") }
}

/// Rows under a head, columns aligned: numbers (columns in `right`) to the right.
pub(super) fn table(head: &[&str], right: &[usize], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain([head[column].chars().count()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut out = String::new();
        for (column, cell) in cells.enumerate().take(widths.len()) {
            let room = widths[column] - cell.chars().count();
            let (before, after) = if right.contains(&column) { (room, 0) } else { (0, room) };
            out.push_str(&" ".repeat(before));
            out.push_str(cell);
            out.push_str(&" ".repeat(after + 2));
        }
        out.trim_end().to_owned() + "\n"
    };
    let mut out = line(&mut head.iter().copied());
    for row in rows {
        out.push_str(&line(&mut row.iter().map(String::as_str)));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_align() {
        let rows = vec![vec!["a".into(), "1".into()], vec!["long".into(), "100".into()]];
        assert_eq!(table(&["NAME", "N"], &[1], &rows), "NAME    N\na       1\nlong  100\n");
        assert_eq!(table(&["NAME", "N"], &[1], &[]), "NAME  N\n");
    }

    #[test]
    fn amounts_survive_no_time_at_all() {
        assert_eq!(amount(1 << 20, 1.0), "1.0 MiB in 1.0 s (8.4 Mbit/s)");
        assert_eq!(amount(0, 0.0), "0 B in 0 ms (0 bit/s)");
    }
}
