//! The thread that writes sequence numbers down before, or as, they are used.

use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, bounded};
use dataplane::message::Direction;
use dataplane::sa::{InboundSa, OutboundSa};

use super::file::{Entry, Fingerprint, StateError, StateFile};
use crate::config::ManualSa;

/// How often the numbers are looked at: an SA uses up the half of its reach in no less.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How often they are written when no ceiling is near, and how long a write that failed is not tried again.
const WRITE_EVERY: Duration = Duration::from_secs(1);
/// Seconds at the pace of an SA that its ceiling is ahead of it.
const SECONDS_AHEAD: u64 = 4;

/// How many numbers a ceiling may be ahead of an SA: what a crash costs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::appliance) struct Reach {
    least: u64,
    most: u64,
}

impl Reach {
    /// See the module [`super`] for the reasons.
    pub(in crate::appliance) const fn of(esn: bool) -> Self {
        match esn {
            true => Self { least: 1 << 24, most: 1 << 28 },
            false => Self { least: 1 << 20, most: 1 << 24 },
        }
    }
}

/// Both SAs of a tunnel whose numbers are kept.
pub(in crate::appliance) struct Kept {
    name: String,
    keys: (Fingerprint, Fingerprint),
    outbound: Arc<OutboundSa>,
    inbound: Arc<InboundSa>,
    /// The ceiling that is on the disk.
    ceiling: u64,
    /// The highest number received that is on the disk.
    received: u64,
    pace: Pace,
}

/// How fast an SA uses numbers up.
#[derive(Default)]
struct Pace {
    /// Its next number a second ago, at most.
    mark: u64,
    /// Numbers in the second before that.
    last: u64,
}

impl Kept {
    pub(in crate::appliance) fn new(
        name: &str,
        config: &ManualSa,
        outbound: Arc<OutboundSa>,
        inbound: Arc<InboundSa>,
    ) -> Self {
        let keys = (Fingerprint::of(&config.outbound.key), Fingerprint::of(&config.inbound.key));
        let next = outbound.sequence.peek();
        let received = inbound.replay.as_ref().map_or(0, |replay| replay.high_water());
        let pace = Pace { mark: next, last: 0 };
        Self { name: name.to_owned(), keys, outbound, inbound, ceiling: next - 1, received, pace }
    }

    /// The ceiling that should be written; the one that is there when it is far enough away.
    fn wanted(&self) -> u64 {
        let reach = Reach::of(self.outbound.params.esn);
        let next = self.outbound.sequence.peek();
        let fastest = self.pace.last.max(next.saturating_sub(self.pace.mark));
        let ahead = fastest.saturating_mul(SECONDS_AHEAD).clamp(reach.least, reach.most);
        // `next` is above the ceiling when a block was refused.
        if self.ceiling.saturating_sub(next) < ahead / 2 {
            next.saturating_add(ahead - 1)
        } else {
            self.ceiling
        }
    }

    fn high_water(&self) -> u64 {
        self.inbound.replay.as_ref().map_or(0, |replay| replay.high_water())
    }

    /// A second has passed.
    fn measure(&mut self) {
        let next = self.outbound.sequence.peek();
        self.pace = Pace { mark: next, last: next.saturating_sub(self.pace.mark) };
    }

    fn enter(&self, file: &mut StateFile, sent: u64, received: u64) {
        let entry = |direction, spi, used| Entry { sa: self.name.clone(), spi, direction, used };
        file.set(&self.keys.0, entry(Direction::Outbound, self.outbound.spi, sent));
        // What is left of a window that is off now may be on again later.
        if self.inbound.replay.is_some() || file.get(&self.keys.1).is_none() {
            file.set(&self.keys.1, entry(Direction::Inbound, self.inbound.spi, received));
        }
    }
}

/// Keeps sequence numbers until it is dropped, which is as good as a crash, or [finished](Keeper::finish).
pub(in crate::appliance) struct Keeper {
    finish: Sender<()>,
    thread: JoinHandle<()>,
}

impl Keeper {
    pub(super) fn start(file: StateFile, sas: Vec<Kept>) -> Result<Self> {
        let mut book = Book { file, sas, failing: false };
        book.write(true).context("sequence numbers of manual SAs")?;
        let (finish, finished) = bounded(1);
        let thread = thread::Builder::new()
            .name("sequence-numbers".to_owned())
            .spawn(move || book.keep(&finished))
            .context("no thread for the sequence numbers")?;
        Ok(Self { finish, thread })
    }

    /// Writes the exact numbers. No worker may run any more: what it sent would not be in them.
    pub(in crate::appliance) fn finish(self) {
        // Only a thread that panicked does not take it.
        let _ = self.finish.send(());
        if self.thread.join().is_err() {
            tracing::error!(
                "the thread that keeps sequence numbers panicked; the next start goes on behind the ceilings"
            );
        }
    }
}

struct Book {
    file: StateFile,
    sas: Vec<Kept>,
    /// The last write failed, and this was said.
    failing: bool,
}

impl Book {
    fn keep(mut self, finished: &Receiver<()>) {
        let mut measured = Instant::now();
        let mut tried = Instant::now();
        loop {
            match finished.recv_timeout(LOOK_EVERY) {
                Ok(()) => return self.close(),
                Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => {}
            }
            if self.failing && tried.elapsed() < WRITE_EVERY {
                continue;
            }
            let second = measured.elapsed() >= WRITE_EVERY;
            if second || self.sas.iter().any(|sa| sa.wanted() > sa.ceiling) {
                tried = Instant::now();
                self.try_write();
            }
            if second {
                measured = Instant::now();
                self.sas.iter_mut().for_each(Kept::measure);
            }
        }
    }

    /// Writes unless nothing changed, and says so once when that begins to fail and when it no longer does.
    fn try_write(&mut self) {
        let failing = self.failing;
        match self.write(false) {
            Ok(()) if failing => tracing::info!("sequence numbers of manual SAs can be written again"),
            Err(error) if !failing => tracing::error!(
                %error,
                "sequence numbers of manual SAs cannot be written; they stop sending when the last ones that were are used up"
            ),
            Ok(()) | Err(_) => {}
        }
    }

    fn write(&mut self, always: bool) -> Result<(), StateError> {
        let numbers: Vec<_> = self.sas.iter().map(|sa| (sa.wanted(), sa.high_water())).collect();
        let changed = self.sas.iter().zip(&numbers).any(|(sa, n)| (sa.ceiling, sa.received) != *n);
        if !(changed || always) {
            return Ok(());
        }
        for (sa, &(ceiling, received)) in self.sas.iter().zip(&numbers) {
            sa.enter(&mut self.file, ceiling, received);
        }
        let written = self.file.write();
        self.failing = written.is_err();
        written?;
        for (sa, (ceiling, received)) in self.sas.iter_mut().zip(numbers) {
            sa.outbound.sequence.set_ceiling(ceiling);
            (sa.ceiling, sa.received) = (ceiling, received);
        }
        Ok(())
    }

    /// The last write: what was sent, not what might have been.
    fn close(mut self) {
        for sa in &self.sas {
            let sent = (sa.outbound.sequence.peek() - 1).min(sa.ceiling);
            sa.enter(&mut self.file, sent, sa.high_water());
        }
        if let Err(error) = self.file.write() {
            tracing::error!(%error, "the last sequence numbers were not written; the next start goes on behind the ceilings");
        }
    }
}

#[cfg(test)]
mod tests;
