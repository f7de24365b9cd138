//! The control side's view of all workers: start them, tell them, hear them, stop them.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use crossbeam::channel::{Receiver, Sender, bounded, unbounded};

use crate::buffer::{GROWTH, Pool};
use crate::crew::{Crew, Threads};
use crate::crypto::Crypto;
use crate::drops::DropCounters;
use crate::message::{AddressUpdate, Event, Inject, Neighbour, PolicyUpdate, RouteUpdate, SaUpdate, Update};
use crate::port::{Device, QueueOpener};
use crate::worker::thread::{Idle, Running, Waker};
use crate::worker::{Channels, Worker, WorkerConfig};

/// Events that wait for the control side before workers hold them back.
const EVENT_QUEUE: usize = 16_384;
/// Frames for reassembled packets, a worker.
const LARGE_FRAMES: usize = 64;
/// A reassembled packet has at most 65,535 bytes, and gets headers on both sides.
const LARGE_FRAME_SIZE: usize = 65_536 + 1_024;

/// How to start the workers.
pub struct FleetConfig {
    /// Core of each worker; one worker each. Empty strings of cores are not possible: there is at least one.
    pub cores: Vec<usize>,
    /// Whether workers are pinned to their cores.
    pub pin: bool,
    /// What they do when idle.
    pub idle: Idle,
    /// Frames in each worker's pool.
    pub frames: usize,
    /// Bytes in a frame, headroom included.
    pub frame_size: usize,
    /// Table sizes and ports; the index is set for each worker.
    pub worker: WorkerConfig,
    /// Devices, in the order of `worker.ports`, each opened with one queue a worker.
    pub devices: Vec<Box<dyn Device>>,
    /// The crypto engines.
    pub crypto: Arc<Crypto>,
}

/// All workers of the process.
pub struct Fleet {
    workers: Vec<Link>,
    events: Receiver<Event>,
    crew: Box<dyn Crew>,
}

struct Link {
    updates: Sender<Update>,
    waker: Waker,
}

/// The frame size that packets of `mtu` bytes need, as a UMEM chunk where that is possible.
pub fn frame_size_for(mtu: u32) -> usize {
    // Link header, both sides' encapsulation and the 256 bytes that AF_XDP keeps for itself.
    let needed = mtu as usize + 2 * GROWTH + 256;
    needed.next_power_of_two().max(2_048)
}

impl Fleet {
    /// Starts one worker a core on threads of its own and waits until each has opened its queues. They receive nothing
    /// before [`Fleet::receive`].
    ///
    /// # Errors
    /// The first error of a pool, a queue or a thread; no worker is left running then.
    pub fn start(config: FleetConfig) -> io::Result<Self> {
        Self::start_on(config, Box::new(Threads::default()))
    }

    /// As [`Fleet::start`], on the threads of `crew`.
    ///
    /// # Errors
    /// As [`Fleet::start`], and those of the crew.
    pub fn start_on(config: FleetConfig, crew: Box<dyn Crew>) -> io::Result<Self> {
        let (event_tx, events) = bounded(EVENT_QUEUE);
        let mut openers: Vec<std::vec::IntoIter<QueueOpener>> =
            config.devices.into_iter().map(|device| device.queues().into_iter()).collect();
        let mut fleet = Self { workers: Vec::with_capacity(config.cores.len()), events, crew };
        let mut opened = Vec::with_capacity(config.cores.len());
        for (index, &core) in config.cores.iter().enumerate() {
            let queues: Option<Vec<QueueOpener>> = openers.iter_mut().map(Iterator::next).collect();
            let queues =
                queues.ok_or_else(|| io::Error::other("a device has fewer queues than there are workers"))?;
            // Unbounded: an update is never lost, and the control side never waits for a worker.
            let (update_tx, updates) = unbounded();
            let (ready, is_open) = bounded(1);
            let waker = Waker::new()?;
            let task = Task {
                core: config.pin.then_some(core),
                idle: config.idle,
                frames: config.frames,
                frame_size: config.frame_size,
                worker: WorkerConfig { index, ..config.worker.clone() },
                queues,
                crypto: Arc::clone(&config.crypto),
                channels: Channels { updates, events: event_tx.clone() },
                waker: waker.clone(),
                ready,
            };
            fleet.crew.assign(task, core)?;
            fleet.workers.push(Link { updates: update_tx, waker });
            opened.push(is_open);
        }
        let begun = fleet.crew.begin().and_then(|()| {
            let ended = |_| io::Error::other("a worker ended before it was ready");
            opened.into_iter().try_for_each(|is_open| is_open.recv().map_err(ended)?)
        });
        match begun {
            Ok(()) => Ok(fleet),
            // What went wrong on the crew's side explains why a worker was not ready.
            Err(error) => Err(fleet.drain(&mut DropCounters::default()).err().unwrap_or(error)),
        }
    }

    /// Number of workers.
    pub fn len(&self) -> usize {
        self.workers.len()
    }

    /// Whether there is no worker, which [`Fleet::start`] never leaves.
    pub fn is_empty(&self) -> bool {
        self.workers.is_empty()
    }

    /// Lets all workers receive. What they were told before is in force for the first packet.
    pub fn receive(&self) {
        self.broadcast(|| Update::Receive);
    }

    /// Changes the SAs on every worker.
    pub fn update_sa(&self, update: &SaUpdate) {
        self.broadcast(|| Update::Sa(update.clone()));
    }

    /// Changes the SPD on every worker.
    pub fn update_policy(&self, update: &PolicyUpdate) {
        self.broadcast(|| Update::Policy(update.clone()));
    }

    /// Changes the routing table of every worker.
    pub fn update_route(&self, update: &RouteUpdate) {
        self.broadcast(|| Update::Route(update.clone()));
    }

    /// Changes the addresses that are ours on every worker.
    pub fn update_address(&self, update: &AddressUpdate) {
        self.broadcast(|| Update::Address(*update));
    }

    /// Tells every worker what one of them learned.
    pub fn share_neighbour(&self, neighbour: Neighbour) {
        self.broadcast(|| Update::Neighbour(neighbour));
    }

    /// Sends a datagram of the control plane through the first worker.
    pub fn inject(&self, inject: Inject) {
        self.send(0, Update::Inject(inject));
    }

    /// Sends one update to one worker, such as a request for a snapshot.
    pub fn send(&self, worker: usize, update: Update) {
        if let Some(link) = self.workers.get(worker) {
            // The receiver lives until its thread ends, and a worker that died has ended the process.
            let _ = link.updates.send(update);
            link.waker.wake();
        }
    }

    /// The next event of any worker, or `None` after `timeout`.
    pub fn next_event(&self, timeout: Duration) -> Option<Event> {
        self.events.recv_timeout(timeout).ok()
    }

    /// The channel of events, to select on.
    pub fn events(&self) -> &Receiver<Event> {
        &self.events
    }

    /// Stops receiving, lets every worker send what it holds, and waits for the threads. Returns all that they dropped,
    /// what could not be sent any more included.
    pub fn stop(self) -> DropCounters {
        let mut drops = DropCounters::default();
        if let Err(error) = self.drain(&mut drops) {
            tracing::error!(%error, "the workers' threads did not end well");
        }
        drops
    }

    fn drain(mut self, dropped: &mut DropCounters) -> io::Result<()> {
        self.broadcast(|| Update::Drain);
        let mut hear = |event| {
            if let Event::Drained { drops } = event {
                dropped.merge(&drops);
            }
        };
        for worker in 0..self.workers.len() {
            // Events that the worker still wants to report must not keep it from ending.
            while !self.crew.is_finished(worker) {
                self.events.recv_timeout(Duration::from_millis(1)).into_iter().for_each(&mut hear);
            }
        }
        self.events.try_iter().for_each(hear);
        self.crew.end()
    }

    fn broadcast(&self, update: impl Fn() -> Update) {
        for worker in 0..self.workers.len() {
            self.send(worker, update());
        }
    }
}

/// A worker that is to come to life on its thread.
pub struct Task {
    core: Option<usize>,
    idle: Idle,
    frames: usize,
    frame_size: usize,
    worker: WorkerConfig,
    queues: Vec<QueueOpener>,
    crypto: Arc<Crypto>,
    channels: Channels,
    waker: Waker,
    ready: Sender<io::Result<()>>,
}

impl Task {
    /// What its thread is called.
    pub fn name(&self) -> String {
        format!("worker-{}", self.worker.index)
    }

    /// Makes the worker on this thread, which it stays on. `None` when it cannot be: whoever started the fleet is told
    /// why.
    pub fn begin(self) -> Option<Running> {
        let index = self.worker.index;
        if let Some(core) = self.core
            && !core_affinity::set_for_current(core_affinity::CoreId { id: core })
        {
            tracing::warn!(
                worker = index,
                core,
                "cannot be pinned to its core; it runs wherever the kernel puts it"
            );
        }
        let (idle, waker, ready) = (self.idle, self.waker.clone(), self.ready.clone());
        let worker = self.open();
        let (running, told) = match worker {
            Ok(worker) => (Some(Running::new(worker, idle, waker)), Ok(())),
            Err(error) => (None, Err(error)),
        };
        // The starter waits for this message, so it is there to take it.
        let _ = ready.send(told);
        running
    }

    /// Says why the worker cannot be made, in place of [`Task::begin`].
    pub fn fail(self, error: io::Error) {
        // As there.
        let _ = self.ready.send(Err(error));
    }

    fn open(self) -> io::Result<Worker> {
        let pool = Pool::new(self.frames, self.frame_size)?;
        let large = Pool::new(LARGE_FRAMES, LARGE_FRAME_SIZE)?;
        let queues = self.queues.into_iter().map(|open| open(&pool)).collect::<io::Result<Vec<_>>>()?;
        let mut worker = Worker::new(self.worker, queues, pool, large, self.crypto, self.channels);
        worker.hold();
        Ok(worker)
    }
}
