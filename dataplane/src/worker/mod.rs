//! The poll loop of one worker, top to bottom: receive, classify, look up, crypto burst, send.
//!
//! A worker owns one core, one queue pair on every port, and all of its tables. Nothing here allocates, locks,
//! logs or makes a system call but the drivers' own; what must be told goes into the event channel.
//!
//! ```text
//! rx burst -> classify -+-> inbound  -> open burst -> strip, check -+-> transit -> outbound -> seal burst -+-> tx burst
//!                       +-> local (ARP, ND, ICMP, IKE, fragments)   |                                      |
//!                       +-> transit (policy) <----------------------+-> route, neighbour ------------------+
//! ```

use std::collections::VecDeque;
use std::sync::Arc;

use crossbeam::channel::{Receiver, Sender, TrySendError};
use hdrhistogram::Histogram;
use ipnet::IpNet;

use crate::buffer::{Burst, Packet, Pool};
use crate::clock;
use crate::crypto::Crypto;
use crate::drops::{DropCounters, DropReason};
use crate::host::neighbour::NeighbourConfig;
use crate::host::reassembly::ReassemblyConfig;
use crate::message::{Event, Update};
use crate::port::{Mac, Port, PortId};
use crate::snapshot;

mod acquire;
mod admission;
mod classify;
mod dummy;
mod housekeeping;
mod inbound;
mod local;
mod next_hops;
mod opened;
mod outbound;
mod remembered;
mod slots;
mod sources;
pub mod stages;
mod tables;
pub mod thread;
mod transit;
mod transmit;
mod updates;
mod usual;
mod whence;

use acquire::Waiting;
pub use acquire::{OnDemand, WaitingLimits};
use inbound::OpenQueue;
use local::Local;
use next_hops::NextHops;
use outbound::SealQueue;
use sources::Sources;
use stages::{Stage, Stages};
use tables::Tables;
use usual::Decisions;

/// Updates applied between two batches, so that a flood of them cannot stall the packets.
const UPDATES_PER_POLL: usize = 32;

/// Sizes of a worker's tables and the manners of its ports.
#[derive(Clone, Debug)]
pub struct WorkerConfig {
    /// Index of this worker.
    pub index: usize,
    /// The most inbound SAs.
    pub max_sas: u32,
    /// The most tunnels: ids are below this.
    pub max_tunnels: u32,
    /// Tunnels whose first packets wait for an SA.
    pub on_demand: OnDemand,
    /// Policies that there is room for without growing.
    pub max_policies: usize,
    /// Bounds on fragments that wait for the rest of their packet.
    pub reassembly: ReassemblyConfig,
    /// ICMP errors and ARP or ND answers a second that the gateway sends of itself.
    pub answers_per_second: u32,
    /// Inbound packets on this UDP port without a non-ESP marker are ESP (RFC 3948 s2.2), usually 4500.
    pub nat_port: u16,
    /// Ports, in the order of their ids.
    pub ports: Vec<PortConfig>,
}

/// One port as the worker sees it.
#[derive(Clone, Debug)]
pub struct PortConfig {
    /// Our addresses on it, with the prefix of its link.
    pub addresses: Vec<IpNet>,
    /// Ethernet address; `None` when it carries bare IP packets.
    pub mac: Option<Mac>,
    /// Largest IP packet.
    pub mtu: u32,
    /// Packets come and go with this VLAN tag.
    pub vlan: Option<u16>,
    /// Source addresses must route back to the port (RFC 3704 s2.2).
    pub reverse_path: bool,
}

/// The far ends of a worker's channels, on its side.
pub struct Channels {
    /// Where updates come from.
    pub updates: Receiver<Update>,
    /// Where events go. Bounded: what may be lost is lost when it is full, the rest waits in the worker.
    pub events: Sender<Event>,
}

/// One worker. Drive it with [`Worker::poll`].
pub struct Worker {
    index: usize,
    ports: Vec<PortState>,
    pool: Pool,
    tables: Tables,
    next_hops: NextHops,
    sources: Sources,
    decisions: Decisions,
    local: Local,
    on_demand: OnDemand,
    waiting: Waiting,
    crypto: Arc<Crypto>,
    channels: Channels,
    /// Events that must not be lost and did not fit.
    unsent: VecDeque<Event>,
    drops: DropCounters,
    latency: Histogram<u64>,
    busy_polls: u64,
    idle_polls: u64,
    sleeps: u64,
    next_id: u16,
    next_housekeeping: u64,
    /// Where the next tick looks on in the tables of SAs.
    swept_inbound: u32,
    swept_outbound: u32,
    reception: Reception,
    /// Set while a bench watches.
    stages: Option<Box<Stages>>,
}

/// Whether packets are received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reception {
    /// Not yet: the tables are empty still.
    Held,
    /// Yes.
    Open,
    /// As [`Reception::Open`], but all ports came to their end, and the control side knows.
    Finished,
    /// Not any more; what is in hand is sent.
    Draining,
    /// Nothing is in hand.
    Drained,
}

struct PortState {
    driver: Box<dyn Port>,
    config: PortConfig,
    tx: Burst,
}

impl Worker {
    /// A worker over these queues, one a port in the order of `config.ports`. Frames come from `pool`; `large` is
    /// for reassembled packets.
    pub fn new(
        config: WorkerConfig,
        queues: Vec<Box<dyn Port>>,
        pool: Pool,
        large: Pool,
        crypto: Arc<Crypto>,
        channels: Channels,
    ) -> Self {
        let tables = Tables::new(&config);
        let local = Local::new(&config, NeighbourConfig::default(), large);
        Self::around(tables, local, config, queues, pool, crypto, channels)
    }

    /// Has the worker receive nothing before [`Update::Receive`], so that no packet meets tables that are not filled yet.
    /// Until then packets wait where they are: in the kernel, the NIC, the file.
    pub fn hold(&mut self) {
        self.reception = Reception::Held;
    }

    fn around(
        tables: Tables,
        local: Local,
        config: WorkerConfig,
        queues: Vec<Box<dyn Port>>,
        pool: Pool,
        crypto: Arc<Crypto>,
        channels: Channels,
    ) -> Self {
        let ports = queues
            .into_iter()
            .zip(config.ports)
            .map(|(driver, config)| PortState { driver, config, tx: Burst::new() })
            .collect();
        Self {
            index: config.index,
            ports,
            pool,
            tables,
            next_hops: NextHops::new(),
            sources: Sources::new(),
            decisions: Decisions::new(config.max_policies),
            local,
            waiting: Waiting::new(&config.on_demand.limits),
            on_demand: config.on_demand,
            crypto,
            channels,
            unsent: VecDeque::with_capacity(1024),
            drops: DropCounters::default(),
            latency: snapshot::latency_histogram(),
            busy_polls: 0,
            idle_polls: 0,
            sleeps: 0,
            // Workers start far apart, so that two of them give the same Identification as seldom as can be.
            next_id: (config.index as u16).wrapping_mul(0x9e37),
            next_housekeeping: 0,
            swept_inbound: 0,
            swept_outbound: 0,
            reception: Reception::Open,
            stages: None,
        }
    }

    /// One round over all ports at `now` (see [`clock::now`]); returns the packets received. Updates that wait are
    /// applied first.
    pub fn poll(&mut self, now: u64) -> usize {
        self.begin();
        self.apply_updates(now);
        self.send_waiting(now);
        let mut received = 0;
        for port in 0..self.ports.len() {
            received += self.poll_port(port as PortId, now);
        }
        if now >= self.next_housekeeping {
            self.housekeeping(now);
            // Complaints that it made go now: the next packet may be long in coming.
            self.originate(&mut SealQueue::default(), now);
        }
        if self.reception == Reception::Draining {
            self.give_up_waiting();
        }
        self.flush();
        if self.reception == Reception::Draining {
            self.reception = Reception::Drained;
            self.report(Event::Drained { drops: Box::new(self.drops.clone()) });
        }
        if received == 0 {
            self.idle_polls += 1;
            self.tell_of_the_end();
        } else {
            self.passed(Stage::Transmit);
            self.busy_polls += 1;
            let took = clock::now().saturating_sub(now).max(1);
            self.latency.saturating_record_n(took, received as u64);
        }
        received
    }

    /// Whether [`Update::Drain`] has been carried out; [`Worker::poll`] need not be called again.
    pub fn is_drained(&self) -> bool {
        self.reception == Reception::Drained && self.unsent.is_empty()
    }

    /// Reports once that all ports came to their end. Called when a poll has received nothing, so all that they gave is
    /// done with.
    fn tell_of_the_end(&mut self) {
        if self.reception == Reception::Open && self.ports.iter().all(|state| state.driver.finished()) {
            self.reception = Reception::Finished;
            self.report(Event::Finished { worker: self.index });
        }
    }

    fn poll_port(&mut self, port: PortId, now: u64) -> usize {
        let mut burst = Burst::new();
        let Some(state) = self.ports.get_mut(usize::from(port)) else { return 0 };
        if !matches!(self.reception, Reception::Open | Reception::Finished) {
            return 0;
        }
        state.driver.rx(&self.pool, &mut burst);
        let received = burst.len();
        if received == 0 {
            return 0;
        }
        for packet in &mut burst {
            packet.rx_port = port;
            // A NIC may have left it in a farther cache or in memory.
            packet.prefetch();
        }
        self.passed(Stage::Receive);
        self.foresee(&burst);
        self.passed(Stage::Foresee);
        let mut opening = OpenQueue::new();
        let mut sealing = SealQueue::default();
        let link = self.usual_link(port);
        for packet in burst.drain(..) {
            self.classify(packet, link.as_ref(), now, &mut opening, &mut sealing);
        }
        self.passed(Stage::Classify);
        self.open(&mut opening, &mut sealing, now);
        self.seal(&mut sealing, now);
        self.originate(&mut sealing, now);
        received
    }

    /// Sends what every port's burst holds.
    fn flush(&mut self) {
        for state in &mut self.ports {
            if !state.tx.is_empty() {
                send(state, &mut self.drops);
            }
        }
    }

    /// Counts a packet that ends here.
    fn drop_packet(&mut self, packet: Packet, reason: DropReason) {
        self.drops.count(reason);
        drop(packet);
    }

    /// Reports what the control side must learn, in order: it waits when the channel is full.
    fn report(&mut self, event: Event) {
        if !self.unsent.is_empty() {
            self.unsent.push_back(event);
        } else if let Err(TrySendError::Full(event)) = self.channels.events.try_send(event) {
            self.unsent.push_back(event);
        }
    }

    /// Reports what packets of strangers can cause, as often as [`WorkerConfig::answers_per_second`] allows, so that
    /// they cannot fill the channel. Returns whether it was taken.
    fn hint_limited(&mut self, event: Event, now: u64) -> bool {
        self.local.hints.take(now) && self.hint(event)
    }

    /// Reports what may be lost when the control side does not keep up. Returns whether it was taken.
    fn hint(&self, event: Event) -> bool {
        self.channels.events.try_send(event).is_ok()
    }
}

/// Routes and policies of a worker that is gone. They take longest to make, and no packet changes them.
#[cfg(any(test, fuzzing))]
pub(crate) struct Legacy(Tables);

#[cfg(any(test, fuzzing))]
impl Worker {
    /// Ends the worker but for its routes and policies.
    pub(crate) fn into_legacy(self) -> Legacy {
        Legacy(self.tables)
    }

    /// A new worker with the routes and policies of another, and nothing else of it.
    pub(crate) fn inheriting(
        legacy: Legacy,
        neighbours: NeighbourConfig,
        config: WorkerConfig,
        queues: Vec<Box<dyn Port>>,
        [pool, large]: [Pool; 2],
        crypto: Arc<Crypto>,
        channels: Channels,
    ) -> Self {
        let tables = legacy.0.without_sas(&config);
        let local = Local::new(&config, neighbours, large).repeatable();
        Self::around(tables, local, config, queues, pool, crypto, channels)
    }

    /// What it dropped.
    pub(crate) fn drops(&self) -> &DropCounters {
        &self.drops
    }
}

/// Sends a port's burst and drops what did not fit.
fn send(state: &mut PortState, drops: &mut DropCounters) {
    state.driver.tx(&mut state.tx);
    drops.add(DropReason::TxFull, state.tx.len() as u64);
    state.tx.clear();
}

#[cfg(test)]
mod tests;
