//! Two endpoints that hand each other datagrams, and the CPU time that each spends.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, ensure};
use controlplane::Endpoint;
use controlplane::config::Config;
use controlplane::crypto::{Random, SystemRandom};
use controlplane::endpoint::WallClock;
use controlplane::update::Event;
use dataplane::message::Datagram;
use nix::time::{ClockId, clock_gettime};

use super::case::Plan;
use crate::measure::Round;

/// An end of a handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Initiator,
    Responder,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if *self == Self::Initiator { "initiator" } else { "responder" })
    }
}

/// One end.
pub struct Gateway {
    endpoint: Endpoint,
    now: Instant,
    /// CPU time that it took.
    pub cpu: Duration,
    /// Child SAs that came up.
    pub up: usize,
    sent: VecDeque<Datagram>,
}

impl Gateway {
    /// Without IKE SAs.
    pub fn new(config: Arc<Config>) -> Self {
        let now = Instant::now();
        let endpoint = Endpoint::new(config, WallClock::new(now, SystemTime::now()));
        Self { endpoint, now, cpu: Duration::ZERO, up: 0, sent: VecDeque::new() }
    }

    /// Begins a connection; what it sends first.
    pub fn begin(&mut self, connection: usize) -> anyhow::Result<Option<Datagram>> {
        let mut result = Ok(());
        let name = connection.to_string();
        self.step(|endpoint, now, rng| result = endpoint.initiate(now, rng, &name, None))?;
        result.with_context(|| format!("connection {name}"))?;
        Ok(self.sent.pop_front())
    }

    /// Takes a datagram; what it sends first.
    pub fn answer(&mut self, datagram: Datagram) -> anyhow::Result<Option<Datagram>> {
        self.step(|endpoint, now, rng| endpoint.handle_datagram(now, datagram, rng))?;
        let first = self.sent.pop_front();
        self.sent.clear();
        Ok(first)
    }

    /// Lets time pass until it sends something.
    pub fn wait(&mut self) -> anyhow::Result<Option<Datagram>> {
        while self.sent.is_empty() {
            let Some(deadline) = self.endpoint.next_deadline() else { break };
            self.now = self.now.max(deadline);
            self.step(|endpoint, now, rng| endpoint.handle_timeout(now, rng))?;
        }
        Ok(self.sent.pop_front())
    }

    /// IKE SAs that were begun and not finished.
    pub fn half_open(&self) -> usize {
        self.endpoint.half_open()
    }

    /// Does something, and drains what comes of it.
    fn step(&mut self, step: impl FnOnce(&mut Endpoint, Instant, &mut dyn Random)) -> anyhow::Result<()> {
        let start = cpu_time()?;
        step(&mut self.endpoint, self.now, &mut SystemRandom);
        while self.endpoint.poll_sa_update().is_some() {}
        self.sent.extend(std::iter::from_fn(|| self.endpoint.poll_transmit()));
        let events = std::iter::from_fn(|| self.endpoint.poll_event());
        self.up += events.filter(|event| matches!(event, Event::ChildUp { .. })).count();
        self.cpu += cpu_time()? - start;
        Ok(())
    }
}

/// Sets up a connection of the initiator.
///
/// # Errors
/// When its child is not up at both ends after that.
pub fn handshake(initiator: &mut Gateway, responder: &mut Gateway, connection: usize) -> anyhow::Result<()> {
    let (name, mut result) = (connection.to_string(), Ok(()));
    let before = (initiator.up, responder.up);
    initiator.step(|endpoint, now, rng| result = endpoint.initiate(now, rng, &name, None))?;
    result.with_context(|| format!("connection {name}"))?;
    loop {
        let (from, to) = if initiator.sent.is_empty() {
            (&mut *responder, &mut *initiator)
        } else {
            (&mut *initiator, &mut *responder)
        };
        let Some(Datagram { local, remote, payload }) = from.sent.pop_front() else { break };
        let datagram = Datagram { local: remote, remote: local, payload };
        to.step(|endpoint, now, rng| endpoint.handle_datagram(now, datagram, rng))?;
    }
    ensure!(
        (initiator.up, responder.up) == (before.0 + 1, before.1 + 1),
        "connection {name} did not come up"
    );
    Ok(())
}

/// Sets up so many connections between new endpoints; the time of each side, by [`Side`].
pub fn round(plan: &Plan, handshakes: usize) -> anyhow::Result<[Round; 2]> {
    let mut initiator = Gateway::new(Arc::new(plan.initiator(0..handshakes, false)?));
    let mut responder = Gateway::new(Arc::new(plan.responder()?));
    (0..handshakes).try_for_each(|peer| handshake(&mut initiator, &mut responder, peer))?;
    Ok([initiator, responder].map(|side| Round { time: side.cpu, packets: handshakes as u64 }))
}

/// Of this thread: what others do on the machine is not in it.
fn cpu_time() -> anyhow::Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?.into())
}
