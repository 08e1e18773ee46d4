//! The pictures of docs/overlay.md, drawn from what a run of `hops` or `popularity` printed with `--json`.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;

use plotters::prelude::*;
use serde_json::Value;

type Fallible<T> = Result<T, Box<dyn Error>>;

/// Points of one line.
type Series = Vec<(f64, f64)>;

const SIZE: (u32, u32) = (760, 460);
const COLOURS: [RGBColor; 6] = [
    RGBColor(31, 119, 180),
    RGBColor(214, 39, 40),
    RGBColor(44, 160, 44),
    RGBColor(148, 103, 189),
    RGBColor(255, 127, 14),
    BLACK,
];
/// What the seed says of a million nodes: hops of a far-first lookup.
const SEED: (f64, f64) = (19.93, 20.0);

/// One picture from all reports of a file.
pub fn draw(from: &Path, to: &Path) -> Fallible<()> {
    let text = std::fs::read_to_string(from)?;
    let reports: Vec<Value> = text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let by_size = reports.iter().any(|report| rows(report).any(|(name, _)| name.contains(" nodes (2^")));
    let (mut lines, axis) = if by_size {
        let mut lines = sizes(&reports);
        let xs: Vec<f64> = lines.values().flatten().map(|(x, _)| *x).collect();
        lines.insert("log2 of the nodes".to_owned(), xs.iter().map(|x| (*x, *x)).collect());
        (lines, "log2 of the number of nodes")
    } else {
        (doublings(&reports), "log2 of the copies, or of the lookups so far")
    };
    for points in lines.values_mut() {
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        points.dedup();
    }
    if lines.is_empty() {
        return Err(format!("{}: no run of hops or popularity", from.display()).into());
    }
    picture(to, &lines, axis, by_size)
}

fn rows(report: &Value) -> impl Iterator<Item = (&str, f64)> {
    let rows = report["rows"].as_array().into_iter().flatten();
    rows.filter_map(|row| Some((row["name"].as_str()?, row["values"]["hops"].as_f64()?)))
}

/// `1000 nodes (2^10.0), far-first, one copy`: a line for what stands behind the size.
fn sizes(reports: &[Value]) -> BTreeMap<String, Series> {
    let mut lines: BTreeMap<String, Series> = BTreeMap::new();
    for (name, hops) in reports.iter().flat_map(rows) {
        if let Some((size, how)) = name.split_once("), ")
            && let Some(log) = size.split_once("2^").and_then(|(_, log)| log.parse().ok())
        {
            lines.entry(how.to_owned()).or_default().push((log, hops));
        }
    }
    lines
}

/// `2^4 copies`, and `2^4` of the lookups.
fn doublings(reports: &[Value]) -> BTreeMap<String, Series> {
    let mut lines: BTreeMap<String, Series> = BTreeMap::new();
    for (name, hops) in reports.iter().flat_map(rows) {
        let Some(rest) = name.strip_prefix("2^") else { continue };
        let (log, what) = rest.split_once(' ').unwrap_or((rest, ""));
        let Ok(log) = log.parse() else { continue };
        let line = if what.is_empty() { "by lookups so far" } else { "by nodes that have it" };
        lines.entry(line.to_owned()).or_default().push((log, hops));
    }
    lines
}

fn picture(to: &Path, lines: &BTreeMap<String, Series>, axis: &str, seed: bool) -> Fallible<()> {
    let root = SVGBackend::new(to, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let all = || lines.values().flatten();
    let (from, until) = all().fold((f64::MAX, 0.0f64), |(from, until), (x, _)| (from.min(*x), until.max(*x)));
    let top = all().map(|(_, y)| *y).fold(if seed { SEED.1 } else { 0.0 }, f64::max);
    let mut chart = ChartBuilder::on(&root)
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(40)
        .build_cartesian_2d(from..until * 1.01, 0.0..top * 1.05)?;
    chart.configure_mesh().x_desc(axis).y_desc("hops").light_line_style(WHITE).draw()?;
    for ((name, points), colour) in lines.iter().zip(COLOURS.iter().cycle()) {
        let drawn = chart.draw_series(LineSeries::new(points.iter().copied(), colour.stroke_width(2)))?;
        let colour = *colour;
        drawn
            .label(name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
    }
    if seed {
        let dot = chart.draw_series([Circle::new(SEED, 4, BLACK.filled())])?;
        dot.label("the seed's estimate").legend(|(x, y)| Circle::new((x + 9, y), 4, BLACK.filled()));
    }
    let style = WHITE.mix(0.85);
    chart
        .configure_series_labels()
        .background_style(style)
        // Where no line is: those by size rise, the others fall.
        .position(if seed { SeriesLabelPosition::UpperLeft } else { SeriesLabelPosition::LowerLeft })
        .draw()?;
    root.present()?;
    Ok(())
}
