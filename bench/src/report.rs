//! Results as tables on the terminal and as JSON.
//!
//! # The JSON
//!
//! One object a run, `schema` 1. Fields are only ever added within a schema.
//!
//! ```json
//! { "schema": 1, "bench": "esp", "command": ["spillway-bench", "esp", "--json", "f"],
//!   "machine": { "cpu": "…", "cores": 2, "flags": ["vaes"], "virtualised": true, "kernel": "…", "version": "0.1.0",
//!                "optimised": true },
//!   "rows": [ { "labels": { "suite": "aes128gcm16", "bytes": "64", "direction": "out" },
//!               "figures": { "ns": 212.5, "ns_p10": 210.1, "ns_p90": 220.3, "mpps": 4.71, "gbits": 2.41 } } ],
//!   "findings": [ { "what": "…", "value": 2.1, "p10": 2.0, "p90": 2.2, "unit": "x",
//!                   "goal": { "at_most": 3.0 }, "met": true } ],
//!   "notes": ["…"] }
//! ```
//!
//! Labels say what was measured and are strings; figures are numbers, and [`FIGURES`] lists them with their units. A
//! row has the figures that its bench takes. `goal` is `at_most`, `at_least` or absent, and `met` is with it.

use std::fmt;
use std::fs::File;
use std::io::BufWriter;
use std::path::Path;

use anyhow::Context;
use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{CellAlignment, Table};
use serde::{Serialize, Serializer};

use crate::machine::Machine;
use crate::measure::{Samples, Stats};

/// Version of the JSON.
const SCHEMA: u32 = 1;

/// Every figure: its name in the JSON, its heading in a table, and how many decimals are shown there.
pub const FIGURES: &[(&str, &str, usize)] = &[
    // Nanoseconds a packet: the median round, and what a tenth of the rounds were below and above.
    ("ns", "ns/packet", 1),
    ("ns_p10", "p10", 1),
    ("ns_p90", "p90", 1),
    // Cycles of the time stamp counter a packet, and their share of the whole path.
    ("cycles", "cycles/packet", 1),
    ("share", "% of the path", 1),
    // Millions of packets, and 10^9 bits of what the bench counts as a packet, in a second.
    ("mpps", "Mpps", 2),
    ("gbits", "Gbit/s", 1),
    // Millions of packets that arrived in a second.
    ("offered_mpps", "Mpps offered", 2),
    // Microseconds from a packet's arrival to the end of the poll that sent it, or from the first message to a live peer
    // until the tunnel was up; and of the longest poll.
    ("p50_us", "p50 us", 2),
    ("p99_us", "p99 us", 2),
    ("p999_us", "p99.9 us", 2),
    ("max_us", "max us", 2),
    ("longest_poll_us", "longest poll us", 2),
    // Packets that did not come out, and slices that count although another thread of the machine disturbed them.
    ("lost", "lost", 0),
    ("disturbed", "disturbed slices", 0),
    // Packets of all rounds that were lost because the next device took no more, or refused them; because the one before was
    // full, received them wrong, or had no buffer; for any other reason; and that a generator could not hand over.
    ("tx_full", "tx full", 0),
    ("tx_errors", "tx errors", 0),
    ("rx_missed", "rx missed", 0),
    ("rx_errors", "rx errors", 0),
    ("rx_no_buffer", "no buffer", 0),
    ("other_drops", "other drops", 0),
    ("unsent", "unsent", 0),
    // Microseconds of CPU time a handshake, as above, and how many a second of CPU time, or of
    // the clock on the wall with a live peer.
    ("cpu_us", "us/handshake", 1),
    ("cpu_us_p10", "p10", 1),
    ("cpu_us_p90", "p90", 1),
    ("handshakes", "handshakes/s", 0),
    // Memory of a tunnel that is up; seconds until all of them are, of one side's CPU time and in all.
    ("bytes", "bytes/tunnel", 0),
    ("all_up_cpu_s", "CPU s until all are up", 2),
    ("all_up_s", "s until all are up", 2),
    // IKE SAs that are half open after a flood, the memory that they take, CPU time a first request, and CPU time that a
    // stranger spends on a puzzle.
    ("half_open", "half open", 0),
    ("flood_bytes", "bytes in all", 0),
    ("request_us", "us/request", 2),
    ("puzzle_us", "us/puzzle", 0),
];

/// What one bench found.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    schema: u32,
    /// The bench.
    pub bench: &'static str,
    /// How it was called.
    pub command: Vec<String>,
    /// Where it ran.
    pub machine: Machine,
    /// One row a case.
    pub rows: Vec<Row>,
    /// What follows from the rows, such as a ratio and its goal.
    pub findings: Vec<Finding>,
    /// What to know of how it was measured.
    pub notes: Vec<String>,
}

/// One case.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// What was measured: name and value.
    #[serde(serialize_with = "as_map")]
    pub labels: Vec<(&'static str, String)>,
    /// What was found: a name of [`FIGURES`], and the value.
    #[serde(serialize_with = "as_map")]
    pub figures: Vec<(&'static str, f64)>,
}

/// A ratio or a difference within one run.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    what: String,
    value: f64,
    p10: f64,
    p90: f64,
    unit: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    goal: Option<Goal>,
    #[serde(skip_serializing_if = "Option::is_none")]
    met: Option<bool>,
}

/// What a finding should be.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Goal {
    /// No more than this.
    AtMost(f64),
    /// No less than this.
    AtLeast(f64),
}

impl Row {
    /// A row of these labels and figures.
    pub fn new(labels: Vec<(&'static str, String)>, figures: Vec<(&'static str, f64)>) -> Self {
        debug_assert!(figures.iter().all(|(name, _)| FIGURES.iter().any(|(known, ..)| known == name)));
        Self { labels, figures }
    }

    /// A row of throughput: `bytes` is the mean length of a packet as it counts for the bit rate.
    pub fn throughput(labels: Vec<(&'static str, String)>, bytes: f64, samples: &Samples) -> Self {
        let stats = samples.stats();
        let figures = vec![
            ("ns", stats.median),
            ("ns_p10", stats.p10),
            ("ns_p90", stats.p90),
            ("mpps", stats.mpps()),
            ("gbits", stats.gbits(bytes)),
        ];
        Self::new(labels, figures)
    }

    /// A figure by its name.
    pub fn figure(&self, name: &str) -> Option<f64> {
        self.figures.iter().find(|(known, _)| *known == name).map(|&(_, value)| value)
    }

    /// Names of its labels and figures.
    pub fn columns(&self) -> impl Iterator<Item = &'static str> + '_ {
        self.labels.iter().map(|&(name, _)| name).chain(self.figures.iter().map(|&(name, _)| name))
    }
}

impl Finding {
    /// A finding over many rounds. The unit is "x" for a ratio, "ns" for a difference.
    pub fn new(what: String, samples: &Samples, unit: &'static str, goal: Option<Goal>) -> Self {
        let Stats { median, p10, p90 } = samples.stats();
        Self { what, value: median, p10, p90, unit, goal, met: goal.map(|goal| goal.is_met(median)) }
    }

    /// Whether it reaches its goal, if it has one.
    pub fn met(&self) -> Option<bool> {
        self.met
    }

    /// A count, or another figure that has no spread.
    pub fn exact(what: String, value: f64, unit: &'static str, goal: Option<Goal>) -> Self {
        Self { what, value, p10: value, p90: value, unit, goal, met: goal.map(|goal| goal.is_met(value)) }
    }
}

impl Goal {
    /// Whether a value reaches it.
    pub fn is_met(self, value: f64) -> bool {
        match self {
            Self::AtMost(most) => value <= most,
            Self::AtLeast(least) => value >= least,
        }
    }
}

impl Report {
    /// An empty report of this machine.
    pub fn new(bench: &'static str) -> Self {
        Self {
            schema: SCHEMA,
            bench,
            command: std::env::args().collect(),
            machine: Machine::detect(),
            rows: Vec::new(),
            findings: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// Rows that have the same columns.
    pub fn groups(&self) -> impl Iterator<Item = &[Row]> {
        self.rows.chunk_by(|a, b| a.columns().eq(b.columns()))
    }

    /// Writes it as JSON.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write_json(&self, path: &Path) -> anyhow::Result<()> {
        let file = File::create(path).with_context(|| format!("cannot create {}", path.display()))?;
        serde_json::to_writer_pretty(BufWriter::new(file), self)
            .with_context(|| format!("cannot write {}", path.display()))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.machine)?;
        for rows in self.groups() {
            writeln!(f, "{}", table(rows))?;
        }
        for finding in &self.findings {
            writeln!(f, "{finding}")?;
        }
        for note in &self.notes {
            writeln!(f, "{note}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, value, p10, p90, unit, goal, met } = self;
        if p10 == p90 {
            write!(f, "{what}: {value} {unit}")?;
        } else {
            write!(f, "{what}: {value:.2} {unit} ({p10:.2} to {p90:.2})")?;
        }
        match goal {
            Some(Goal::AtMost(most)) => write!(f, "; goal: at most {}", short(*most))?,
            Some(Goal::AtLeast(least)) => write!(f, "; goal: at least {}", short(*least))?,
            None => {}
        }
        match met {
            Some(true) => f.write_str(", met"),
            Some(false) => f.write_str(", MISSED"),
            None => Ok(()),
        }
    }
}

/// A goal with two digits behind the point at most.
fn short(goal: f64) -> f64 {
    (goal * 100.0).round() / 100.0
}

/// Rows that have the same columns.
fn table(rows: &[Row]) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED);
    let Some(first) = rows.first() else { return table };
    // A label may have the name of a figure.
    let labels = first.labels.iter().map(|&(name, _)| name);
    table.set_header(labels.chain(first.figures.iter().map(|&(name, _)| column(name).0)));
    for row in rows {
        let labels = row.labels.iter().map(|(_, value)| value.clone());
        let figures = row.figures.iter().map(|&(name, value)| format!("{value:.*}", column(name).1));
        table.add_row(labels.chain(figures));
    }
    for column in table.column_iter_mut().skip(first.labels.len()) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// Heading and decimals of a column.
pub fn column(name: &'static str) -> (&'static str, usize) {
    let known = FIGURES.iter().find(|(figure, ..)| *figure == name);
    known.map_or((name, 2), |&(_, heading, decimals)| (heading, decimals))
}

fn as_map<S: Serializer, V: Serialize>(entries: &[(&'static str, V)], to: S) -> Result<S::Ok, S::Error> {
    to.collect_map(entries.iter().map(|(name, value)| (name, value)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let samples: Samples = [100.0, 90.0, 110.0].into_iter().collect();
        let mut report = Report::new("esp");
        let labels = vec![("suite", "aes128gcm16".to_owned()), ("bytes", "64".to_owned())];
        report.rows.push(Row::throughput(labels, 64.0, &samples));
        report.findings.push(Finding::new("a over b".into(), &samples, "x", Some(Goal::AtMost(99.0))));
        report.findings.push(Finding::new("c over d".into(), &samples, "x", None));
        report
    }

    #[test]
    fn json_has_the_documented_fields() {
        let json = serde_json::to_value(report()).unwrap();
        assert_eq!(json["schema"], 1);
        assert_eq!(json["rows"][0]["labels"]["suite"], "aes128gcm16");
        assert_eq!(json["rows"][0]["figures"]["ns"], 100.0);
        assert_eq!(json["rows"][0]["figures"]["mpps"], 10.0);
        assert_eq!(json["findings"][0]["goal"]["at_most"], 99.0);
        assert_eq!(json["findings"][0]["met"], false);
        assert!(json["findings"][1].get("met").is_none());
        assert!(json["machine"]["cores"].as_u64().unwrap() > 0);
    }

    #[test]
    fn text_shows_spread_and_whether_a_goal_is_met() {
        let text = report().to_string();
        assert!(text.contains("a over b: 100.00 x (90.00 to 110.00); goal: at most 99, MISSED"), "{text}");
        assert!(text.contains("ns/packet"), "{text}");
        assert!(Goal::AtLeast(2.0).is_met(2.0) && !Goal::AtLeast(2.0).is_met(1.99));
    }

    #[test]
    fn figures_are_named_once() {
        let names: std::collections::BTreeSet<_> = FIGURES.iter().map(|(name, ..)| name).collect();
        assert_eq!(names.len(), FIGURES.len());
    }
}
