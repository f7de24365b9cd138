//! A report as one HTML page that needs nothing else: machine, plots, tables, findings.

use std::fmt::Write;

use anyhow::{Context, anyhow};
use plotters::prelude::*;

use crate::report::{Report, Row, column};

/// Percentiles of a latency row, and their colours.
const PERCENTILES: [(&str, &str, RGBColor); 4] = [
    ("p50_us", "p50", RGBColor(0, 114, 178)),
    ("p99_us", "p99", RGBColor(0, 158, 115)),
    ("p999_us", "p99.9", RGBColor(230, 159, 0)),
    ("max_us", "max", RGBColor(213, 94, 0)),
];
const BAR: RGBColor = RGBColor(0, 114, 178);
/// Pixels.
const WIDTH: u32 = 1000;
const LABELS: u32 = 380;
const ROW: u32 = 20;

const STYLE: &str = "body{font-family:sans-serif;max-width:66rem;margin:2rem auto;padding:0 1rem;color:#222}\
    table{border-collapse:collapse;margin:1rem 0}th,td{border:1px solid #ccc;padding:.2rem .5rem;text-align:left}\
    td.n{text-align:right;font-variant-numeric:tabular-nums}.met{color:#060}.missed{color:#a00}code{background:#eee}";

/// The page.
///
/// # Errors
/// When a plot cannot be drawn.
pub fn page(report: &Report) -> anyhow::Result<String> {
    let mut out = String::new();
    let title = format!("spillway-bench {}", escape(report.bench));
    write!(out, "<!DOCTYPE html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title>")?;
    write!(out, "<style>{STYLE}</style></head><body><h1>{title}</h1>")?;
    write!(out, "<p><code>{}</code></p>", escape(&report.command.join(" ")))?;
    write!(out, "<pre>{}</pre>", escape(&report.machine.to_string()))?;
    for rows in report.groups() {
        out.push_str(&plot(rows)?);
        table(rows, &mut out)?;
    }
    if !report.findings.is_empty() {
        out.push_str("<h2>Findings</h2><ul>");
    }
    for finding in &report.findings {
        let class = match finding.met() {
            Some(true) => " class=\"met\"",
            Some(false) => " class=\"missed\"",
            None => "",
        };
        write!(out, "<li{class}>{}</li>", escape(&finding.to_string()))?;
    }
    if !report.findings.is_empty() {
        out.push_str("</ul>");
    }
    for note in &report.notes {
        write!(out, "<p>{}</p>", escape(note))?;
    }
    out.push_str("</body></html>\n");
    Ok(out)
}

/// The plot of rows that have the same columns; empty when they have no figure that is plotted.
fn plot(rows: &[Row]) -> anyhow::Result<String> {
    let has = |name: &str| rows.iter().all(|row| row.figure(name).is_some());
    let drawn = if has("p50_us") {
        percentiles(rows)
    } else if has("ns") {
        bars(rows)
    } else {
        return Ok(String::new());
    };
    drawn.map_err(|error| anyhow!("{error}")).context("cannot draw a plot")
}

type Drawn = Result<String, Box<dyn std::error::Error>>;

/// Nanoseconds a packet: a bar to the median, a line from the tenth to the ninetieth percentile.
fn bars(rows: &[Row]) -> Drawn {
    let labels = labels(rows);
    let ns = |row: &Row, name| row.figure(name).unwrap_or_default();
    let most = rows.iter().map(|row| ns(row, "ns")).fold(1.0, f64::max) * 1.5;
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (WIDTH, height(rows))).into_drawing_area();
        area.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&area)
            .margin(8)
            .x_label_area_size(40)
            .y_label_area_size(LABELS)
            .build_cartesian_2d(0.0..most, (0..rows.len()).into_segmented())?;
        chart
            .configure_mesh()
            .disable_y_mesh()
            .x_desc("ns a packet")
            .y_labels(rows.len())
            .y_label_formatter(&|at| label_at(&labels, at))
            .draw()?;
        for (at, row) in rows.iter().rev().enumerate() {
            let corners = [(0.0, SegmentValue::Exact(at)), (ns(row, "ns"), SegmentValue::Exact(at + 1))];
            let mut bar = Rectangle::new(corners, BAR.mix(0.5).filled());
            bar.set_margin(3, 3, 0, 0);
            chart.draw_series(std::iter::once(bar))?;
            if let (Some(low), Some(high)) = (row.figure("ns_p10"), row.figure("ns_p90")) {
                let ends = [low.min(most), high.min(most)].map(|x| (x, SegmentValue::CenterOf(at)));
                chart.draw_series(std::iter::once(PathElement::new(ends, BLACK.stroke_width(2))))?;
            }
        }
        area.present()?;
    }
    Ok(svg)
}

/// Latency: a dot for each percentile, on a logarithmic axis.
fn percentiles(rows: &[Row]) -> Drawn {
    let labels = labels(rows);
    let all = || rows.iter().flat_map(|row| PERCENTILES.iter().filter_map(|(name, ..)| row.figure(name)));
    let least = all().fold(f64::MAX, f64::min).max(0.01) / 2.0;
    let most = all().fold(least * 4.0, f64::max) * 2.0;
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (WIDTH, height(rows) + 20)).into_drawing_area();
        area.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&area)
            .margin(8)
            .x_label_area_size(40)
            .y_label_area_size(LABELS)
            .build_cartesian_2d((least..most).log_scale(), (0..rows.len()).into_segmented())?;
        chart
            .configure_mesh()
            .x_desc("microseconds")
            .y_labels(rows.len())
            .y_label_formatter(&|at| label_at(&labels, at))
            .draw()?;
        for (name, title, colour) in PERCENTILES {
            let dots = rows.iter().rev().enumerate().filter_map(|(at, row)| {
                Some(Circle::new((row.figure(name)?, SegmentValue::CenterOf(at)), 5, colour.filled()))
            });
            chart.draw_series(dots)?.label(title).legend(move |at| Circle::new(at, 5, colour.filled()));
        }
        chart.configure_series_labels().border_style(BLACK).background_style(WHITE).draw()?;
        area.present()?;
    }
    Ok(svg)
}

fn height(rows: &[Row]) -> u32 {
    70 + ROW * rows.len() as u32
}

/// What tells the rows apart, from the bottom up.
fn labels(rows: &[Row]) -> Vec<String> {
    let differs = |name: &str| {
        let value = |row: &Row| row.labels.iter().find(|(known, _)| *known == name).map(|(_, v)| v.clone());
        rows.iter().any(|row| value(row) != rows.first().and_then(value))
    };
    let label = |row: &Row| {
        let parts: Vec<_> = row.labels.iter().filter(|(name, _)| differs(name)).collect();
        let named = |(name, value): &&(&str, String)| match *name {
            "bytes" => format!("{value} B"),
            "SAs" => format!("{value} SAs"),
            _ => value.clone(),
        };
        parts.iter().map(named).collect::<Vec<_>>().join(", ")
    };
    rows.iter().rev().map(label).collect()
}

fn label_at(labels: &[String], at: &SegmentValue<usize>) -> String {
    match at {
        SegmentValue::CenterOf(at) => labels.get(*at).cloned().unwrap_or_default(),
        _ => String::new(),
    }
}

fn table(rows: &[Row], out: &mut String) -> std::fmt::Result {
    let Some(first) = rows.first() else { return Ok(()) };
    out.push_str("<table><tr>");
    for (name, _) in &first.labels {
        write!(out, "<th>{}</th>", escape(name))?;
    }
    for (name, _) in &first.figures {
        write!(out, "<th>{}</th>", escape(column(name).0))?;
    }
    out.push_str("</tr>");
    for row in rows {
        out.push_str("<tr>");
        for (_, value) in &row.labels {
            write!(out, "<td>{}</td>", escape(value))?;
        }
        for (name, value) in &row.figures {
            write!(out, "<td class=\"n\">{value:.*}</td>", column(name).1)?;
        }
        out.push_str("</tr>");
    }
    out.push_str("</table>");
    Ok(())
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{Finding, Goal};

    fn report() -> Report {
        let mut report = Report::new("esp");
        for (bytes, ns) in [("64", 100.0), ("1420", 200.0)] {
            let labels = vec![("suite", "aes128gcm16".to_owned()), ("bytes", bytes.to_owned())];
            let figures = vec![("ns", ns), ("ns_p10", ns - 5.0), ("ns_p90", 9_000.0)];
            report.rows.push(Row::new(labels, figures));
        }
        let latency = vec![("p50_us", 1.0), ("p99_us", 2.0), ("p999_us", 5.0), ("max_us", 40.0)];
        report.rows.push(Row::new(vec![("load", "10 %".to_owned())], latency));
        report.findings.push(Finding::exact("a < b".into(), 2.0, "x", Some(Goal::AtMost(1.0))));
        report.notes.push("a \"note\" & more".into());
        report
    }

    #[test]
    fn has_a_plot_and_a_table_for_each_group_of_rows() {
        let page = page(&report()).unwrap();
        assert_eq!((page.matches("<svg").count(), page.matches("<table>").count()), (2, 2));
        for part in ["1420 B", "microseconds", "p99.9", "<td class=\"n\">200.0</td>", "class=\"missed\""] {
            assert!(page.contains(part), "{part}");
        }
    }

    #[test]
    fn text_is_escaped_and_nothing_is_loaded() {
        let page = page(&report()).unwrap();
        assert!(page.contains("a &lt; b") && page.contains("a &quot;note&quot; &amp; more"));
        for word in ["<script", "src=", "href=", "url(", "@import"] {
            assert!(!page.contains(word), "{word}");
        }
    }
}
