//! What the demo says while it goes on.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::traffic::Progress;

/// Where it is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Console {
    /// To people: lines on standard output, and a live line when standard error is a terminal.
    Text,
    /// Nowhere: standard output is for JSON.
    Quiet,
}

impl Console {
    /// Says something.
    pub(super) fn say(self, text: &str) -> io::Result<()> {
        if self == Self::Quiet {
            return Ok(());
        }
        let mut out = io::stdout().lock();
        writeln!(out, "{text}")?;
        out.flush()
    }

    /// Shows that something of known length goes on.
    pub(super) fn live(self, duration: Duration) -> Live {
        let bar = match self {
            Self::Text if io::stderr().is_terminal() => {
                let bar = ProgressBar::with_draw_target(
                    Some(duration.as_millis() as u64),
                    ProgressDrawTarget::stderr(),
                );
                // The template is fixed, and good; the default would do as well.
                bar.set_style(
                    ProgressStyle::with_template("{spinner} [{bar:30}] {msg}")
                        .unwrap_or_else(|_| ProgressStyle::default_bar()),
                );
                Some(bar)
            }
            _ => None,
        };
        Live { console: self, bar, duration, lines: 0 }
    }
}

/// A live line on a terminal; elsewhere a line a second.
pub(super) struct Live {
    console: Console,
    bar: Option<ProgressBar>,
    duration: Duration,
    lines: u64,
}

impl Live {
    /// How often it is to be told of progress.
    pub(super) const INTERVAL: Duration = Duration::from_millis(250);

    /// Shows progress.
    pub(super) fn show(&mut self, progress: &Progress) -> io::Result<()> {
        let text = format!(
            "{:>4.1} of {} s  {:>6.0} Mbit/s  {} packets",
            progress.elapsed.as_secs_f64().min(self.duration.as_secs_f64()),
            self.duration.as_secs(),
            progress.mbit_per_second,
            progress.packets
        );
        if let Some(bar) = &self.bar {
            bar.set_position(progress.elapsed.as_millis() as u64);
            bar.set_message(text);
            return Ok(());
        }
        if progress.elapsed.as_secs() <= self.lines {
            return Ok(());
        }
        self.lines = progress.elapsed.as_secs();
        self.console.say(&text)
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
