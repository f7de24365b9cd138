//! Results as a table on the terminal and as JSON.

use std::fmt;
use std::fs::File;
use std::io::BufWriter;
use std::path::Path;

use anyhow::Context;
use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{CellAlignment, Table};
use serde::Serialize;

use crate::machine::Machine;
use crate::measure::Stats;

/// What one bench found.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The bench.
    pub bench: &'static str,
    /// Where it ran.
    pub machine: Machine,
    /// One row a case.
    pub rows: Vec<Row>,
    /// What follows from the rows, such as a ratio and its goal.
    pub findings: Vec<Finding>,
}

/// One case.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// What was measured, in words that sort.
    pub labels: Vec<String>,
    /// Bytes of a packet as it is counted for the bit rate.
    pub bytes: f64,
    /// Nanoseconds a packet.
    pub nanoseconds: Stats,
    /// Millions of packets a second.
    pub mpps: f64,
    /// Gigabits a second.
    pub gbits: f64,
}

/// A ratio or a difference within one run.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    /// What is compared with what.
    pub what: String,
    /// The value.
    pub value: f64,
    /// Its unit: "x" for a ratio, "ns" for a difference.
    pub unit: &'static str,
    /// What it should be, in words.
    pub goal: String,
}

impl Row {
    /// A row from a case's statistics.
    pub fn new(labels: Vec<String>, bytes: f64, stats: Stats) -> Self {
        Self { labels, bytes, nanoseconds: stats, mpps: stats.mpps(), gbits: stats.gbits(bytes) }
    }
}

impl Report {
    /// An empty report of this machine.
    pub fn new(bench: &'static str) -> Self {
        Self { bench, machine: Machine::detect(), rows: Vec::new(), findings: Vec::new() }
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
        let mut table = Table::new();
        table.load_style(UTF8_FULL_CONDENSED);
        table.set_header(["case", "ns/packet", "p10", "p90", "Mpps", "Gbit/s"]);
        for row in &self.rows {
            let ns = row.nanoseconds;
            table.add_row([
                row.labels.join("  "),
                format!("{:.1}", ns.median),
                format!("{:.1}", ns.p10),
                format!("{:.1}", ns.p90),
                format!("{:.2}", row.mpps),
                format!("{:.1}", row.gbits),
            ]);
        }
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        writeln!(f, "{table}")?;
        for Finding { what, value, unit, goal } in &self.findings {
            writeln!(f, "{what}: {value:.2} {unit} ({goal})")?;
        }
        Ok(())
    }
}
