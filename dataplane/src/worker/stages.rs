//! Where the time of a poll goes: the steps that a burst passes, each with its time, when a bench asks for them. Steps
//! are of whole bursts, so that a worker that nobody watches pays one branch for each step of a burst.

use std::time::Instant;

use hdrhistogram::Histogram;

use crate::worker::Worker;

/// A step of a burst, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Updates, and the burst off the port.
    Receive,
    /// Asking for what the packets will be looked up in.
    Foresee,
    /// Link header, parse, addresses; of packets in the clear also reverse path, policy and TTL.
    Classify,
    /// SAs of protected packets.
    FindSas,
    /// Length and replay window, before decryption.
    Examine,
    /// The engine's decryption.
    Open,
    /// Replay window for good, and from the outer to the inner packet; of usual packets also selectors, ECN, policy, lifetime
    /// and TTL.
    Claim,
    /// Of other packets parse, selectors, ECN, lifetime, policy; of all route and link header.
    Deliver,
    /// SA and next hop of a tunnel, lifetime, size.
    Admit,
    /// Sequence numbers, padding, ESP and outer headers.
    Wrap,
    /// The engine's encryption.
    Seal,
    /// Link header, into the port's queue.
    Send,
    /// The port's burst.
    Transmit,
}

impl Stage {
    /// All of them, in order.
    pub const ALL: [Self; 13] = [
        Self::Receive,
        Self::Foresee,
        Self::Classify,
        Self::FindSas,
        Self::Examine,
        Self::Open,
        Self::Claim,
        Self::Deliver,
        Self::Admit,
        Self::Wrap,
        Self::Seal,
        Self::Send,
        Self::Transmit,
    ];

    /// As in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Receive => "receive",
            Self::Foresee => "prefetch tables",
            Self::Classify => "classify",
            Self::FindSas => "find SAs",
            Self::Examine => "check replay",
            Self::Open => "open",
            Self::Claim => "claim and unwrap",
            Self::Deliver => "deliver",
            Self::Admit => "admit",
            Self::Wrap => "wrap",
            Self::Seal => "seal",
            Self::Send => "send",
            Self::Transmit => "transmit",
        }
    }
}

/// Times of the stages, by burst.
pub struct Stages {
    last: Instant,
    /// What a time stamp costs by itself.
    overhead: u64,
    bursts: Vec<Histogram<u64>>,
}

impl Stages {
    fn new() -> Self {
        let empty =
            || Histogram::new_with_bounds(1, 10_000_000, 3).expect("the bounds are constant and valid");
        let mut stages = Self { last: Instant::now(), overhead: 0, bursts: Vec::new() };
        stages.bursts = Stage::ALL.iter().map(|_| empty()).collect();
        for _ in 0..1_000 {
            stages.mark(Stage::Receive);
        }
        stages.overhead = stages.bursts.first().map_or(0, |receive| receive.value_at_quantile(0.5));
        stages.bursts.iter_mut().for_each(Histogram::reset);
        stages
    }

    fn mark(&mut self, stage: Stage) {
        let now = Instant::now();
        let took = now.duration_since(self.last).as_nanos() as u64;
        if let Some(bursts) = self.bursts.get_mut(stage as usize) {
            bursts.saturating_record(took.saturating_sub(self.overhead));
        }
        self.last = now;
    }

    /// The median time of a stage in nanoseconds a burst; `None` for a stage that no burst passed.
    pub fn median(&self, stage: Stage) -> Option<u64> {
        let bursts = self.bursts.get(stage as usize)?;
        (!bursts.is_empty()).then(|| bursts.value_at_quantile(0.5))
    }
}

impl Worker {
    /// Starts to take the times of the stages, from zero.
    pub fn watch_stages(&mut self) {
        self.stages = Some(Box::new(Stages::new()));
    }

    /// Ends it, and returns what was found.
    pub fn stages(&mut self) -> Option<Box<Stages>> {
        self.stages.take()
    }

    /// A poll begins.
    #[inline]
    pub(super) fn begin(&mut self) {
        if let Some(stages) = &mut self.stages {
            stages.last = Instant::now();
        }
    }

    /// A stage of a burst is over.
    #[inline]
    pub(super) fn passed(&mut self, stage: Stage) {
        mark(&mut self.stages, stage);
    }
}

/// As [`Worker::passed`] while other parts of the worker are in use.
#[inline]
pub(super) fn mark(stages: &mut Option<Box<Stages>>, stage: Stage) {
    if let Some(stages) = stages {
        stages.mark(stage);
    }
}
