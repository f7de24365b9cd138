//! A wiretap. Between the gateways it is the attacker: every frame goes through it, and it can take frames off the
//! wire and put others on. At one interface it only listens.

use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use crossbeam::channel::{Receiver, Sender, TryRecvError, bounded, unbounded};
use dataplane::buffer::{Burst, Pool};
use dataplane::fleet::frame_size_for;
use dataplane::port::{Device, Port, QueueOpener, af_packet};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::census::{Census, Wire};
use super::netns::Namespace;
use super::plan::Side;

/// Frames of memory for packets under way.
const FRAMES: usize = 1024;
/// What the gateways send, in bytes without the Ethernet header.
const MTU: u32 = 1500;
/// The longest sleep. An order waits no longer than this.
const SLEEP_MS: u16 = 5;
/// How long it may take to do what it is told.
const PATIENCE: Duration = Duration::from_secs(3);

/// At work until it is dropped.
pub(super) struct Wiretap {
    orders: Option<Sender<Order>>,
    thread: Option<JoinHandle<()>>,
}

enum Order {
    /// Take the next ESP packet that the left gateway sends off the wire, and hand it over.
    Intercept(Sender<Vec<u8>>),
    /// Send a frame to the right gateway.
    Deliver(Vec<u8>),
    /// Say what was seen.
    Report(Sender<Wire>),
}

impl Wiretap {
    /// Stands between two interfaces and passes on what comes: what comes in by the left one was sent by the left
    /// gateway, and the reverse.
    pub(super) fn between(namespace: &Namespace, left: Census, right: Census) -> Result<Self> {
        let ends = [(Side::Left.name(), left), (Side::Right.name(), right)];
        Self::start(namespace, ends.into())
    }

    /// Listens to what comes in by one interface.
    pub(super) fn listening(namespace: &Namespace, device: &str, census: Census) -> Result<Self> {
        Self::start(namespace, vec![(device, census)])
    }

    fn start(namespace: &Namespace, ends: Vec<(&str, Census)>) -> Result<Self> {
        let mut openers = Vec::new();
        for (device, census) in ends {
            let opened =
                namespace.run(|| open(device).with_context(|| format!("cannot listen on {device}")))?;
            openers.extend(opened.queues().into_iter().map(|queue| (queue, census.clone())));
        }
        let (orders, from_demo) = unbounded();
        let (report, started) = bounded(1);
        let body = move || match Taps::open(openers) {
            Ok(mut taps) => {
                // Nobody listens any more only when the demo is ending.
                let _ = report.send(Ok(()));
                taps.run(&from_demo);
            }
            Err(error) => drop(report.send(Err(error))),
        };
        let thread = std::thread::Builder::new().name("wiretap".to_owned()).spawn(body)?;
        started.recv().context("the wiretap does not start")??;
        Ok(Self { orders: Some(orders), thread: Some(thread) })
    }

    /// Takes the next ESP packet from the left gateway off the wire. `send` makes the left side send it.
    pub(super) fn intercept(&self, send: impl FnOnce() -> Result<()>) -> Result<Vec<u8>> {
        let (give, take) = bounded(1);
        self.order(Order::Intercept(give))?;
        // The answer to a report says that the order before it was taken.
        self.seen()?;
        send()?;
        take.recv_timeout(PATIENCE).context("no ESP packet came by to be intercepted")
    }

    /// Sends a frame to the right gateway.
    pub(super) fn deliver(&self, frame: &[u8]) -> Result<()> {
        self.order(Order::Deliver(frame.to_vec()))
    }

    /// What was on the wire until now.
    pub(super) fn seen(&self) -> Result<Wire> {
        let (give, take) = bounded(1);
        self.order(Order::Report(give))?;
        take.recv_timeout(PATIENCE).context("the wiretap does not answer")
    }

    fn order(&self, order: Order) -> Result<()> {
        match self.orders.as_ref().map(|orders| orders.send(order)) {
            Some(Ok(())) => Ok(()),
            _ => bail!("the wiretap is gone"),
        }
    }
}

impl Drop for Wiretap {
    fn drop(&mut self) {
        drop(self.orders.take());
        if let Some(thread) = self.thread.take() {
            // A panic was reported by its own message.
            let _ = thread.join();
        }
    }
}

fn open(device: &str) -> Result<Box<dyn Device>> {
    Ok(af_packet::open(af_packet::Config { promiscuous: true, ..af_packet::Config::new(device) })?)
}

/// The thread's side.
struct Taps {
    pool: Pool,
    /// One or two: what comes in by one goes out by the other.
    ends: Vec<(Box<dyn Port>, Census)>,
    /// Who wants the next ESP packet from the left.
    wanted: Option<Sender<Vec<u8>>>,
    /// Frames that a port had no room for.
    lost: u64,
}

impl Taps {
    fn open(openers: Vec<(QueueOpener, Census)>) -> Result<Self> {
        let pool = Pool::new(FRAMES, frame_size_for(MTU)).context("memory for packets")?;
        let mut ends = Vec::with_capacity(openers.len());
        for (open, census) in openers {
            ends.push((open(&pool)?, census));
        }
        Ok(Self { pool, ends, wanted: None, lost: 0 })
    }

    fn run(&mut self, orders: &Receiver<Order>) {
        loop {
            let passed: usize = (0..self.ends.len()).map(|end| self.pass(end)).sum();
            loop {
                match orders.try_recv() {
                    Ok(order) => self.obey(order),
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => return,
                }
            }
            if passed == 0 {
                self.sleep();
            }
        }
    }

    /// Passes on what came in by one end. Returns how many frames that were.
    fn pass(&mut self, end: usize) -> usize {
        let mut burst = Burst::new();
        let Some((port, census)) = self.ends.get_mut(end) else { return 0 };
        port.rx(&self.pool, &mut burst);
        let received = burst.len();
        let wanted = &mut self.wanted;
        burst.retain(|packet| {
            let esp = census.see(packet.data());
            if let Some(wanted) = wanted.take_if(|_| esp && end == 0) {
                // Who asked may have lost patience; the packet is taken all the same.
                let _ = wanted.send(packet.data().to_vec());
                return false;
            }
            true
        });
        self.send(1 - end, &mut burst);
        received
    }

    fn send(&mut self, end: usize, burst: &mut Burst) {
        if let Some((port, _)) = self.ends.get_mut(end) {
            port.tx(burst);
            self.lost += burst.len() as u64;
        }
    }

    fn obey(&mut self, order: Order) {
        match order {
            Order::Intercept(wanted) => self.wanted = Some(wanted),
            Order::Deliver(frame) => {
                let mut burst: Burst = self.pool.alloc_from(&frame).into_iter().collect();
                self.send(1, &mut burst);
            }
            Order::Report(report) => {
                let mut seen = Wire { lost: self.lost, ..Wire::default() };
                for (port, census) in &mut self.ends {
                    seen = seen + census.seen();
                    let counters = port.counters();
                    seen.lost += counters.rx_missed + counters.rx_errors + counters.rx_too_long;
                    seen.lost += counters.rx_no_buffer + counters.tx_errors;
                }
                // Who asked may have lost patience.
                let _ = report.send(seen);
            }
        }
    }

    fn sleep(&self) {
        let mut watched: Vec<_> = self
            .ends
            .iter()
            .filter_map(|(port, _)| port.poll_fd())
            .map(|fd| PollFd::new(fd, PollFlags::POLLIN))
            .collect();
        // A signal ends the sleep early, which does no harm.
        let _ = poll(&mut watched, PollTimeout::from(SLEEP_MS));
    }
}
