//! Counters, collected from all workers, with the tunnels and SAs that they are of.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use dataplane::clock;
use dataplane::fleet::Fleet;
use dataplane::message::{Direction, Neighbour, Retired, Update};
use dataplane::policy::Policy;
use dataplane::sa::counters::SaCounters;
use dataplane::sa::{Endpoints, InboundSa, OutboundSa, TunnelId};
use dataplane::snapshot::{SaPage, Snapshot};

use super::conflicts::Conflicts;
use super::links::LinkStates;
use super::spd::SpdEntries;
use super::tunnels::{self, Installed, Key, Side, Tunnels};
use super::view::{Request, mac_text};

/// Neighbours that one worker tells of.
const NEIGHBOURS: usize = 4096;

/// What there was at the last reading.
#[derive(Clone, Default)]
pub(super) struct Readings {
    /// By worker.
    pub(super) workers: Vec<Snapshot>,
    /// Rows of tunnels, in the order of the configuration.
    pub(super) rows: Vec<RowReading>,
    /// SAs, by row.
    pub(super) sas: Vec<SaReading>,
    /// Stations that use addresses of ours.
    pub(super) conflicts: Conflicts,
    /// Which ports have their links.
    pub(super) links: LinkStates,
    /// The SPD, in no order.
    pub(super) policies: Arc<[Policy]>,
    /// The row of each tunnel that has SAs.
    pub(super) rows_of: HashMap<TunnelId, usize>,
}

/// A tunnel of the configuration.
#[derive(Clone)]
pub(super) struct RowReading {
    pub(super) name: Arc<str>,
    pub(super) up: bool,
    pub(super) local: Option<IpAddr>,
    pub(super) remote: Option<IpAddr>,
    pub(super) inbound: SaCounters,
    pub(super) outbound: SaCounters,
}

/// An SA.
#[derive(Clone)]
pub(super) struct SaReading {
    pub(super) row: usize,
    pub(super) endpoints: Endpoints,
    pub(super) sa: AnySa,
    pub(super) counters: SaCounters,
}

/// An SA of either direction.
#[derive(Clone)]
pub(super) enum AnySa {
    Inbound(Installed<InboundSa>),
    Outbound(Installed<OutboundSa>),
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
    ports: Vec<String>,
    conflicts: Conflicts,
    links: LinkStates,
    snapshots: Vec<Snapshot>,
    /// By worker.
    counters: Vec<HashMap<Key, SaCounters>>,
    policies: (u64, Arc<[Policy]>),
    /// Answers that this round still waits for.
    missing: usize,
    /// Who waits for this round, and who came too late for it.
    waiting: Vec<Request>,
    late: Vec<Request>,
    published: Arc<Mutex<Arc<Readings>>>,
}

impl Collector {
    pub(super) fn new(workers: usize, ports: Vec<String>, published: Arc<Mutex<Arc<Readings>>>) -> Self {
        Self {
            ports,
            conflicts: Conflicts::default(),
            links: LinkStates::default(),
            snapshots: Vec::new(),
            counters: vec![HashMap::new(); workers],
            policies: (u64::MAX, Arc::default()),
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
        self.snapshots.clear();
        self.counters.iter_mut().for_each(HashMap::clear);
        self.missing = 3 * self.counters.len();
        for worker in 0..self.counters.len() {
            fleet.send(worker, Update::Snapshot(Box::new(Snapshot::with_room(self.ports.len(), NEIGHBOURS))));
            for direction in [Direction::Inbound, Direction::Outbound] {
                fleet.send(worker, Update::SaPage(Box::new(SaPage::first(direction))));
            }
        }
    }

    /// Takes a worker's counters.
    pub(super) fn worker(&mut self, snapshot: Snapshot, tunnels: &Tunnels, spd: &SpdEntries) {
        self.snapshots.push(snapshot);
        self.arrived(tunnels, spd);
    }

    /// Takes a page of SA counters, and asks for the next one.
    pub(super) fn page(&mut self, mut page: Box<SaPage>, fleet: &Fleet, tunnels: &Tunnels, spd: &SpdEntries) {
        let side = Side::from(page.direction);
        if let Some(counters) = self.counters.get_mut(page.worker) {
            for reading in page.entries.drain(..) {
                counters.insert((side, reading.tunnel, reading.spi), reading.counters);
            }
        }
        if page.cursor.is_some() {
            fleet.send(page.worker, Update::SaPage(page));
        } else {
            self.arrived(tunnels, spd);
        }
    }

    /// A worker gave an SA back with its counters. What it said of it in this round would count twice.
    pub(super) fn retired(&mut self, worker: usize, sa: &Retired) {
        if let Some(counters) = self.counters.get_mut(worker) {
            counters.remove(&tunnels::key(sa));
        }
    }

    /// Takes in which ports have their links.
    pub(super) fn links(&mut self, links: &LinkStates) {
        self.links = links.clone();
    }

    /// Takes in that a station uses an address of ours.
    pub(super) fn conflict(&mut self, other: &Neighbour) {
        if self.conflicts.add(other, Instant::now()) {
            tracing::error!(
                port = self.ports.get(usize::from(other.port)).map_or("?", String::as_str),
                address = %other.address,
                mac = mac_text(other.mac),
                "another station uses this address of ours: packets to it may go there; one of the two must change"
            );
        }
    }

    fn arrived(&mut self, tunnels: &Tunnels, spd: &SpdEntries) {
        self.missing = self.missing.saturating_sub(1);
        if self.missing > 0 {
            return;
        }
        let readings = Arc::new(self.publish(tunnels, spd));
        *self.published.lock().unwrap_or_else(PoisonError::into_inner) = readings;
        for request in self.waiting.drain(..) {
            request.done();
        }
        self.waiting.append(&mut self.late);
    }

    fn publish(&mut self, tunnels: &Tunnels, spd: &SpdEntries) -> Readings {
        let now = clock::now();
        let mut workers = std::mem::take(&mut self.snapshots);
        workers.sort_by_key(|snapshot| snapshot.worker);
        let mut rows: Vec<_> = tunnels
            .rows()
            .iter()
            .map(|row| RowReading {
                name: Arc::clone(&row.name),
                up: false,
                local: row.local,
                remote: row.remote,
                inbound: row.retired.0,
                outbound: row.retired.1,
            })
            .collect();
        for (key, row) in tunnels.accounts() {
            let counted = self.counters_of(key);
            if let Some(row) = rows.get_mut(row) {
                match key.0 {
                    Side::Inbound => row.inbound.merge(&counted),
                    Side::Outbound => row.outbound.merge(&counted),
                }
            }
        }
        let mut sas = Vec::new();
        let mut rows_of = HashMap::new();
        for (tunnel, live) in tunnels.live() {
            let (row, endpoints) = (live.row.index(), live.endpoints);
            rows_of.insert(tunnel, row);
            if let Some(reading) = rows.get_mut(row)
                && let Some(outbound) = &live.outbound
            {
                reading.up |= !outbound.sa.usage.is_spent(now);
                (reading.local, reading.remote) = (Some(endpoints.local), Some(endpoints.remote));
            }
            let inbound = live.inbound.iter().map(|one| (AnySa::Inbound(one.clone()), one.sa.spi));
            let outbound = live.outbound.iter().map(|one| (AnySa::Outbound(one.clone()), one.sa.spi));
            for (sa, spi) in inbound.chain(outbound) {
                let side = if matches!(sa, AnySa::Inbound(_)) { Side::Inbound } else { Side::Outbound };
                let counters = self.counters_of((side, tunnel, spi));
                sas.push(SaReading { row, endpoints, sa, counters });
            }
        }
        sas.sort_by_key(|reading| reading.row);
        if self.policies.0 != spd.changes() {
            self.policies = (spd.changes(), spd.policies().collect());
        }
        let (conflicts, policies) = (self.conflicts.clone(), Arc::clone(&self.policies.1));
        let links = self.links.clone();
        Readings { workers, rows, sas, conflicts, links, policies, rows_of }
    }

    fn counters_of(&self, key: Key) -> SaCounters {
        let mut sum = SaCounters::default();
        self.counters.iter().filter_map(|worker| worker.get(&key)).for_each(|counted| sum.merge(counted));
        sum
    }

    /// Starts the round that was asked for while the last one was under way.
    pub(super) fn go_on(&mut self, fleet: &Fleet) {
        if self.missing == 0 && !self.waiting.is_empty() {
            self.ask(fleet, None);
        }
    }
}
