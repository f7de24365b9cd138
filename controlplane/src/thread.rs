//! The control thread: the only place of this crate with a clock, a channel and a thread.
//!
//! ```text
//! appliance --- datagrams, what workers tell, what operators want --> thread: Endpoint
//!     ^                                                                 |
//!     +---------- orders: SAs, barriers, datagrams, news ---------------+
//! ```
//!
//! Messages go round in one direction and nobody waits for anybody: the thread never sees a worker, and the
//! appliance never runs a protocol step. So a signature that takes a millisecond here costs no packet there and no
//! answer to an operator. It does cost the other IKE SAs that millisecond: signatures and key exchanges are computed
//! on this thread.
//!
//! **Make before break.** Whenever a step of the core adds an inbound SA, its datagrams wait behind a barrier
//! ([`Order::Barrier`]) until the appliance reports that every worker has passed it ([`Input::InForce`]). Other
//! IKE SAs go on meanwhile (`gate`).
//!
//! **On demand.** A packet that finds no SA sets off an attempt ([`Input::Acquire`]), but not again right after one
//! that failed: a peer that refuses is not hammered, however much traffic there is (`ledger`).
//!
//! **Floods.** Datagrams come through a channel with a bound; when it is full they are dropped and counted. What
//! workers and operators tell has a channel of its own without a bound, and goes first.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use crossbeam::channel::{Receiver, Sender, bounded, select_biased, unbounded};
use dataplane::message::Datagram;
use dataplane::sa::{Endpoints, Spi, TunnelId};
use tracing::warn;

use crate::config::Config;
use crate::crypto::SystemRandom;
use crate::endpoint::{Endpoint, ServedUnderAttack, WallClock};
use crate::gate::Gate;
use crate::keylog::IkeKeyLog;
use crate::ledger::{ConnectionStatus, Ledger};
use crate::selector::Packet;
use crate::update::{ChildUpdate, Event};
use crate::waiters::{Answer, Command, Verb, Waiters};

/// What the datagrams are counted as that did not even wait.
const QUEUE_FULL: &str = "queue-full";
/// How often the wall clock is looked at.
const CLOCK_EVERY: Duration = Duration::from_secs(60);
/// How long IKE SAs have to say goodbye when the gateway stops.
const FAREWELL: Duration = Duration::from_secs(2);

/// What the thread wants done, in this order.
#[derive(Clone, Debug)]
pub enum Order {
    /// Change the SAs of every worker.
    Update(ChildUpdate),
    /// Report by [`Input::InForce`] once every worker has applied all updates before it.
    Barrier(u64),
    /// Send a datagram.
    Send(Datagram),
    /// News.
    Event(Event),
    /// Write these keys down; only when the configuration says so.
    LogKeys(Box<IkeKeyLog>),
}

/// What the thread is told.
#[derive(Debug)]
pub enum Input {
    /// An SA reached a limit.
    Expired {
        /// Its tunnel.
        tunnel: TunnelId,
        /// Ours inbound, the peer's outbound.
        spi: Spi,
        /// It carries nothing any more.
        hard: bool,
    },
    /// An authentic packet came from another address or port than the peer's.
    PeerMoved {
        /// The tunnel.
        tunnel: TunnelId,
        /// Where it came from.
        endpoints: Endpoints,
    },
    /// A packet found no SA, and the child is to be set up by traffic.
    Acquire {
        /// The connection.
        connection: Arc<str>,
        /// The child.
        child: Arc<str>,
        /// The packet.
        packet: Packet,
    },
    /// Our addresses that packets can come by are these from now on.
    Addresses(Vec<IpAddr>),
    /// Every worker has passed this barrier.
    InForce(u64),
    /// An operator wants something done; the answer comes when its end is known, or after a while.
    Command(Command, Sender<Answer>),
    /// An operator asks how things stand.
    Report(Sender<Report>),
    /// Say goodbye to all peers and end.
    Stop,
}

/// How things stand.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// All connections, in the order of the configuration.
    pub connections: Vec<ConnectionStatus>,
    /// What was not accepted, by name.
    pub rejections: Vec<(&'static str, u64)>,
    /// IKE SAs that a peer has begun and not authenticated yet.
    pub half_open: usize,
    /// First requests that were served while puzzles were given.
    pub served_under_attack: ServedUnderAttack,
}

/// Asks the thread, from any other.
#[derive(Clone, Debug)]
pub struct Asker(Sender<Input>);

impl Asker {
    /// How things stand; `None` when the thread has ended or does not answer in time.
    pub fn report(&self, patience: Duration) -> Option<Report> {
        let (reply, report) = bounded(1);
        self.0.send(Input::Report(reply)).ok()?;
        report.recv_timeout(patience).ok()
    }

    /// Has a command carried out; `None` as for [`Asker::report`].
    pub fn command(&self, command: Command, patience: Duration) -> Option<Answer> {
        let (reply, answer) = bounded(1);
        self.0.send(Input::Command(command, reply)).ok()?;
        answer.recv_timeout(patience).ok()
    }
}

/// The running thread.
pub struct ControlThread {
    inputs: Sender<Input>,
    datagrams: Sender<Datagram>,
    dropped: Arc<AtomicU64>,
    thread: JoinHandle<()>,
}

impl ControlThread {
    /// Starts it, and what the configuration wants up from the start. We have these `addresses` then. Orders come by `orders`, those of one step
    /// together. When the thread has ended, that channel has no sender any more.
    ///
    /// # Errors
    /// When the system has no thread to give.
    pub fn start(
        config: Arc<Config>,
        addresses: Vec<IpAddr>,
        orders: Sender<Vec<Order>>,
    ) -> io::Result<Self> {
        let (inputs, told) = unbounded();
        let (datagrams, received) = bounded(config.limits.queue);
        let dropped = Arc::new(AtomicU64::new(0));
        let overflow = Arc::clone(&dropped);
        let thread = std::thread::Builder::new().name("ike".into()).spawn(move || {
            let ledger = Ledger::new(&config);
            let endpoint = Endpoint::new(config, wall_clock(Instant::now()));
            let (gate, waiters) = Default::default();
            let driver = Driver { endpoint, ledger, waiters, gate, barriers: 0, overflow, orders };
            driver.run(addresses, &told, &received);
        })?;
        Ok(Self { inputs, datagrams, dropped, thread })
    }

    /// Hands over a datagram of a peer. `false` when too many are waiting: it is dropped.
    pub fn receive(&self, datagram: Datagram) -> bool {
        let taken = self.datagrams.try_send(datagram).is_ok();
        if !taken {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        taken
    }

    /// Tells it something.
    pub fn tell(&self, input: Input) {
        // It ends only when it is told to, and then there is nothing to tell it any more.
        let _ = self.inputs.send(input);
    }

    /// For operators.
    pub fn asker(&self) -> Asker {
        Asker(self.inputs.clone())
    }

    /// Waits for its end.
    pub fn join(self) {
        let _ = self.thread.join();
    }
}

/// The thread's own side.
struct Driver {
    endpoint: Endpoint,
    ledger: Ledger,
    waiters: Waiters,
    gate: Gate,
    /// The last barrier.
    barriers: u64,
    /// Datagrams that were dropped because too many were waiting.
    overflow: Arc<AtomicU64>,
    orders: Sender<Vec<Order>>,
}

impl Driver {
    fn run(mut self, addresses: Vec<IpAddr>, told: &Receiver<Input>, received: &Receiver<Datagram>) {
        let mut rng = SystemRandom;
        self.endpoint.set_local_addresses(Instant::now(), &mut rng, addresses);
        self.endpoint.start(Instant::now(), &mut rng);
        let mut clock_read = Instant::now();
        let mut ends: Option<Instant> = None;
        loop {
            if !self.hand_out() {
                return;
            }
            let now = Instant::now();
            if ends.is_some_and(|end| end <= now || self.endpoint.is_quiet()) {
                return;
            }
            if now.saturating_duration_since(clock_read) >= CLOCK_EVERY {
                clock_read = now;
                self.endpoint.set_clock(wall_clock(now));
            }
            let deadline = self.endpoint.next_deadline();
            if deadline.is_some_and(|at| at <= now) {
                self.endpoint.handle_timeout(now, &mut rng);
                continue;
            }
            self.waiters.look(now);
            let next = deadline.into_iter().chain(ends).chain(self.waiters.deadline()).min();
            let wait = next.map_or(CLOCK_EVERY, |at| at.saturating_duration_since(now));
            select_biased! {
                recv(told) -> input => match input {
                    Ok(Input::Stop) => {
                        self.endpoint.shut_down(Instant::now(), &mut rng);
                        ends = Some(Instant::now() + FAREWELL);
                    }
                    Ok(input) => self.hear(input, &mut rng),
                    Err(_) => return,
                },
                recv(received) -> datagram => match datagram {
                    Ok(datagram) => self.endpoint.handle_datagram(Instant::now(), datagram, &mut rng),
                    Err(_) => return,
                },
                default(wait) => {}
            }
        }
    }

    fn hear(&mut self, input: Input, rng: &mut SystemRandom) {
        let now = Instant::now();
        match input {
            Input::Expired { tunnel, spi, hard } => self.endpoint.child_expired(now, rng, tunnel, spi, hard),
            Input::PeerMoved { tunnel, endpoints } => self.endpoint.peer_moved(now, rng, tunnel, endpoints),
            Input::Addresses(addresses) => self.endpoint.set_local_addresses(now, rng, addresses),
            Input::InForce(barrier) => {
                let free: Vec<_> = self.gate.open(barrier).map(Order::Send).collect();
                // When the appliance is gone the next step notices.
                let _ = free.is_empty() || self.orders.send(free).is_ok();
            }
            Input::Acquire { connection, child, packet } => {
                if self.ledger.may_try(&connection, now)
                    && let Err(error) = self.endpoint.acquire(now, rng, &connection, &child, packet)
                {
                    warn!(%connection, %child, %error, "traffic cannot set it up");
                }
            }
            Input::Command(command, reply) => {
                if let Some(answer) = self.obey(&command, now, rng) {
                    // The operator may have gone.
                    let _ = reply.send(answer);
                } else {
                    self.waiters.add(command, now, reply);
                }
            }
            Input::Report(reply) => _ = reply.send(self.report()),
            Input::Stop => {}
        }
    }

    /// Begins what an operator wants. Its end, if it is known already.
    fn obey(&mut self, command: &Command, now: Instant, rng: &mut SystemRandom) -> Option<Answer> {
        let Command { verb, connection, child } = command;
        if let Some(child) = child
            && *verb != Verb::Initiate
            && !self.ledger.is_up(connection, Some(child))
        {
            return Some(Err(format!("there is no child `{child}` of connection `{connection}` that is up")));
        }
        let begun = match (verb, child) {
            (Verb::Initiate, child) => self.endpoint.initiate(now, rng, connection, child.as_deref()),
            (Verb::Terminate, child) => self.endpoint.terminate(now, rng, connection, child.as_deref()),
            (Verb::Rekey, Some(child)) => self.endpoint.rekey_child(now, rng, connection, child),
            (Verb::Rekey, None) => self.endpoint.rekey_ike(now, rng, connection),
        };
        match begun {
            Err(error) => Some(Err(error.to_string())),
            Ok(()) if *verb == Verb::Initiate && self.ledger.is_up(connection, child.as_deref()) => {
                Some(Ok("is up already".into()))
            }
            Ok(()) => None,
        }
    }

    fn report(&self) -> Report {
        let overflow = self.overflow.load(Ordering::Relaxed);
        Report {
            connections: self.ledger.report(self.endpoint.status()),
            rejections: self.endpoint.counters().iter().chain([(QUEUE_FULL, overflow)]).collect(),
            half_open: self.endpoint.half_open(),
            served_under_attack: self.endpoint.served_under_attack(),
        }
    }

    /// Hands out what a step of the core brought about. `false` when nobody takes it any more.
    fn hand_out(&mut self) -> bool {
        let mut orders = Vec::new();
        let mut barrier = None;
        while let Some(keys) = self.endpoint.poll_keys() {
            orders.push(Order::LogKeys(Box::new(keys)));
        }
        while let Some(update) = self.endpoint.poll_sa_update() {
            if let ChildUpdate::AddInbound(_) = &update {
                barrier = Some(self.barriers + 1);
            }
            orders.push(Order::Update(update));
        }
        if let Some(barrier) = barrier {
            self.barriers = barrier;
            orders.push(Order::Barrier(barrier));
        }
        while let Some(datagram) = self.endpoint.poll_transmit() {
            orders.extend(self.gate.pass(barrier, datagram).map(Order::Send));
        }
        let mut news = Vec::new();
        while let Some(event) = self.endpoint.poll_event() {
            self.ledger.enter(&event, Instant::now(), SystemTime::now());
            news.push(event.clone());
            orders.push(Order::Event(event));
        }
        let taken = orders.is_empty() || self.orders.send(orders).is_ok();
        // Last: an operator who gets the answer and asks how things stand sees what the orders brought about.
        for event in &news {
            self.waiters.hear(event, &self.ledger);
        }
        taken
    }
}

fn wall_clock(now: Instant) -> WallClock {
    WallClock::new(now, SystemTime::now())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Start;
    use crate::sim;

    /// The thread waits for somebody who takes its first order, so nobody takes what is queued.
    #[test]
    fn as_many_datagrams_wait_as_configured() {
        let [mut config, _] = sim::configs(|_, connection| {
            Arc::make_mut(&mut connection.children[0]).start = Start::Boot;
        });
        config.limits.queue = 3;
        let (orders, taken) = bounded(0);
        let addresses = vec![sim::address(sim::A)];
        let thread = ControlThread::start(Arc::new(config), addresses, orders).unwrap();
        let datagram = || Datagram {
            local: sim::socket(sim::A, 500),
            remote: sim::socket(sim::B, 500),
            payload: vec![0; 40],
        };
        assert_eq!([(); 5].map(|()| thread.receive(datagram())), [true, true, true, false, false]);
        let taker = std::thread::spawn(move || taken.iter().count());
        let report = thread.asker().report(Duration::from_secs(60)).unwrap();
        assert!(report.rejections.contains(&(QUEUE_FULL, 2)));
        thread.tell(Input::Stop);
        thread.join();
        assert!(taker.join().unwrap() > 0);
    }
}
