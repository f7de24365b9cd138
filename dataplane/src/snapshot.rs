//! What the control side reads of a worker. The reader brings the memory, the worker fills it in between two
//! batches: a few microseconds, no allocation, and no counter that two cores write.

use hdrhistogram::Histogram;

use crate::drops::DropCounters;
use crate::message::{Direction, Neighbour};
use crate::port::PortCounters;
use crate::sa::counters::SaCounters;
use crate::sa::{Spi, TunnelId};

/// SAs in one [`SaPage`].
pub const PAGE: usize = 128;

/// The longest time in nanoseconds that a latency histogram tells apart; longer ones count as this.
const LONGEST: u64 = 1_000_000_000;

/// An empty histogram of nanoseconds, from 1 ns to 1 s at two significant digits, 19 KB in all.
pub fn latency_histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LONGEST, 2).expect("the bounds are constant and valid")
}

/// One worker's counters.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Index of the worker.
    pub worker: usize,
    /// Drops by reason.
    pub drops: DropCounters,
    /// Counters of its queue on every port, in the order of the ports.
    pub ports: Vec<PortCounters>,
    /// Nanoseconds from a packet's receipt to the end of its burst, by packet.
    pub latency: Histogram<u64>,
    /// Polls that found packets.
    pub busy_polls: u64,
    /// Polls that found none.
    pub idle_polls: u64,
    /// Times that the worker slept.
    pub sleeps: u64,
    /// Free frames in the pool, and all of them.
    pub frames: (usize, usize),
    /// Inbound SAs.
    pub inbound_sas: u32,
    /// Tunnels with an outbound SA.
    pub outbound_sas: u32,
    /// Policies.
    pub policies: usize,
    /// Routes.
    pub routes: usize,
    /// Neighbours, as many as there was room for.
    pub neighbours: Vec<Neighbour>,
}

impl Snapshot {
    /// Room for the counters of `ports` ports and `neighbours` neighbours.
    pub fn with_room(ports: usize, neighbours: usize) -> Self {
        Self {
            worker: 0,
            drops: DropCounters::default(),
            ports: Vec::with_capacity(ports),
            latency: latency_histogram(),
            busy_polls: 0,
            idle_polls: 0,
            sleeps: 0,
            frames: (0, 0),
            inbound_sas: 0,
            outbound_sas: 0,
            policies: 0,
            routes: 0,
            neighbours: Vec::with_capacity(neighbours),
        }
    }
}

/// Counters of some SAs of one direction, read a page at a time so that 100,000 SAs do not stall a worker.
#[derive(Clone, Debug)]
pub struct SaPage {
    /// Index of the worker.
    pub worker: usize,
    /// Which table.
    pub direction: Direction,
    /// In: where to start, 0 at first. Out: where the next page starts, `None` after the last.
    pub cursor: Option<u32>,
    /// What was found, at most [`PAGE`].
    pub entries: Vec<SaReading>,
}

impl SaPage {
    /// An empty page that starts at the front of the table.
    pub fn first(direction: Direction) -> Self {
        Self { worker: 0, direction, cursor: Some(0), entries: Vec::with_capacity(PAGE) }
    }
}

/// One worker's counters of one SA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SaReading {
    /// The tunnel.
    pub tunnel: TunnelId,
    /// The SA.
    pub spi: Spi,
    /// What this worker counted.
    pub counters: SaCounters,
}
