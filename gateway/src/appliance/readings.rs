//! Counters, collected from all workers.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use dataplane::fleet::Fleet;
use dataplane::message::{Direction, Update};
use dataplane::sa::counters::SaCounters;
use dataplane::sa::{Endpoints, Spi, TunnelId};
use dataplane::snapshot::{SaPage, Snapshot};

use super::tunnels::Tunnels;
use super::view::Request;

/// Neighbours that one worker tells of.
const NEIGHBOURS: usize = 4096;

/// The last counters that all workers gave.
#[derive(Clone, Default)]
pub(super) struct Readings {
    /// By worker.
    pub(super) workers: Vec<Snapshot>,
    /// By SA, all workers together.
    pub(super) sas: HashMap<(Side, TunnelId, Spi), SaCounters>,
    /// By tunnel: what SAs carried that are gone.
    pub(super) retired: Vec<(SaCounters, SaCounters)>,
    /// By tunnel: where its peer is now.
    pub(super) endpoints: Vec<Endpoints>,
}

/// Direction of an SA, as a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Side {
    Inbound,
    Outbound,
}

impl From<Direction> for Side {
    fn from(direction: Direction) -> Self {
        match direction {
            Direction::Inbound => Self::Inbound,
            Direction::Outbound => Self::Outbound,
        }
    }
}

/// Collects readings: one round at a time over all workers.
pub(super) struct Collector {
    workers: usize,
    ports: usize,
    current: Readings,
    /// Answers that this round still waits for.
    missing: usize,
    /// Who waits for this round, and who came too late for it.
    waiting: Vec<Request>,
    late: Vec<Request>,
    published: Arc<Mutex<Readings>>,
}

impl Collector {
    pub(super) fn new(workers: usize, ports: usize, published: Arc<Mutex<Readings>>) -> Self {
        Self {
            workers,
            ports,
            current: Readings::default(),
            missing: 0,
            waiting: Vec::new(),
            late: Vec::new(),
            published,
        }
    }

    /// Starts a round, unless one is under way: then `request` has the next one.
    pub(super) fn ask(&mut self, fleet: &Fleet, request: Option<Request>) {
        if self.missing > 0 {
            self.late.extend(request);
            return;
        }
        self.waiting.extend(request);
        self.current = Readings::default();
        self.missing = 3 * self.workers;
        for worker in 0..self.workers {
            fleet.send(worker, Update::Snapshot(Box::new(Snapshot::with_room(self.ports, NEIGHBOURS))));
            for direction in [Direction::Inbound, Direction::Outbound] {
                fleet.send(worker, Update::SaPage(Box::new(SaPage::first(direction))));
            }
        }
    }

    /// Takes a worker's counters.
    pub(super) fn worker(&mut self, snapshot: Snapshot, tunnels: &Tunnels) {
        self.current.workers.push(snapshot);
        self.arrived(tunnels);
    }

    /// Takes a page of SA counters, and asks for the next one.
    pub(super) fn page(&mut self, mut page: Box<SaPage>, fleet: &Fleet, tunnels: &Tunnels) {
        let side = Side::from(page.direction);
        for reading in page.entries.drain(..) {
            let sum = self.current.sas.entry((side, reading.tunnel, reading.spi)).or_default();
            sum.merge(&reading.counters);
        }
        if page.cursor.is_some() {
            fleet.send(page.worker, Update::SaPage(page));
        } else {
            self.arrived(tunnels);
        }
    }

    fn arrived(&mut self, tunnels: &Tunnels) {
        self.missing = self.missing.saturating_sub(1);
        if self.missing > 0 {
            return;
        }
        self.current.workers.sort_by_key(|snapshot| snapshot.worker);
        self.current.retired = tunnels.iter().map(|tunnel| tunnel.retired).collect();
        self.current.endpoints = tunnels.iter().map(|tunnel| tunnel.endpoints).collect();
        *self.published.lock().unwrap_or_else(PoisonError::into_inner) = std::mem::take(&mut self.current);
        for request in self.waiting.drain(..) {
            request.done();
        }
        self.waiting.append(&mut self.late);
    }

    /// Starts the round that was asked for while the last one was under way.
    pub(super) fn go_on(&mut self, fleet: &Fleet) {
        if self.missing == 0 && !self.waiting.is_empty() {
            self.ask(fleet, None);
        }
    }
}
