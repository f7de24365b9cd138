//! One gateway over memory ports: a worker with its tables filled, and somebody who answers its ARP requests.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use crossbeam::channel::{Receiver, Sender, bounded, unbounded};
use dataplane::buffer::{Packet, Pool};
use dataplane::clock;
use dataplane::crypto::Crypto;
use dataplane::drops::DropCounters;
use dataplane::fleet::frame_size_for;
use dataplane::host::reassembly::ReassemblyConfig;
use dataplane::message::{Event, Route, RouteUpdate, Update};
use dataplane::packet::arp;
use dataplane::packet::ethernet::{self, ethertype};
use dataplane::port::memory::{self, Handle};
use dataplane::port::{Mac, Port};
use dataplane::snapshot::Snapshot;
use dataplane::worker::{Channels, OnDemand, PortConfig, Worker, WorkerConfig};
use ipnet::IpNet;

use crate::frames::{self, NEIGHBOUR};
use crate::tunnels::{Direction, GATEWAY, GATEWAY_LAN, ROUTER};

/// Packets that wait in each direction of a port.
pub const DEPTH: usize = 1024;

/// Largest IP packet on both ports.
pub const MTU: u32 = 1500;
/// Ports of the gateway, by id.
const WAN: usize = 0;
const LAN: usize = 1;
/// Events that wait: what a worker reports between two looks.
const EVENTS: usize = 16_384;

/// Frames of one thread. Pools are never freed, so all gateways of a thread share one.
#[derive(Clone, Copy)]
pub struct Pools {
    /// For what is received and sent; the size that `spillway` gives frames.
    pub frames: Pool,
    large: Pool,
}

impl Pools {
    /// Frames for an MTU of 1500: twice as many as can wait on both ports.
    ///
    /// # Errors
    /// When there is no memory.
    pub fn new() -> anyhow::Result<Self> {
        let frames = Pool::new(4 * DEPTH, frame_size_for(MTU)).context("memory for frames")?;
        Ok(Self { frames, large: Pool::new(16, 66_560).context("memory for large frames")? })
    }
}

/// A worker and what is around it.
pub struct Gateway {
    worker: Worker,
    ports: [Handle; 2],
    pool: Pool,
    updates: Sender<Update>,
    events: Receiver<Event>,
    barriers: u64,
}

impl Gateway {
    /// A gateway with room for `tunnels` tunnels, connected and default routes, and reverse path checks.
    ///
    /// # Errors
    /// When the worker refuses its configuration.
    pub fn new(index: usize, tunnels: usize, crypto: Arc<Crypto>, pools: Pools) -> anyhow::Result<Self> {
        let (ports, handles): (Vec<_>, Vec<_>) =
            [memory::local(DEPTH), memory::local(DEPTH)].into_iter().unzip();
        let queues = ports.into_iter().map(|port| Box::new(port) as Box<dyn Port>).collect();
        let ports = <[Handle; 2]>::try_from(handles).ok().context("two ports")?;
        let port = |address: Ipv4Addr, prefix_len, mac| -> anyhow::Result<PortConfig> {
            let addresses = vec![IpNet::new(address.into(), prefix_len)?];
            Ok(PortConfig { addresses, mac: Some(mac), mtu: MTU, vlan: None, reverse_path: true })
        };
        let config = WorkerConfig {
            index,
            max_sas: tunnels as u32 + 1,
            max_tunnels: tunnels as u32 + 1,
            on_demand: OnDemand::default(),
            max_policies: tunnels + 16,
            reassembly: ReassemblyConfig::default(),
            answers_per_second: 1000,
            nat_port: 4500,
            ports: vec![port(GATEWAY, 24, mac(WAN))?, port(GATEWAY_LAN, 16, mac(LAN))?],
        };
        let (updates, from_control) = unbounded();
        let (to_control, events) = bounded(EVENTS);
        let channels = Channels { updates: from_control, events: to_control };
        let worker = Worker::new(config, queues, pools.frames, pools.large, crypto, channels);
        let mut gateway = Self { worker, ports, pool: pools.frames, updates, events, barriers: 0 };
        let default = Route { to: IpNet::default(), port: Some(WAN as u16), via: Some(IpAddr::V4(ROUTER)) };
        gateway.apply([Update::Route(RouteUpdate::Add(default))].into_iter())?;
        Ok(gateway)
    }

    /// Sends updates, lets the worker apply them, and waits for the barrier behind them.
    ///
    /// # Errors
    /// When the worker refuses one.
    pub fn apply(&mut self, updates: impl Iterator<Item = Update>) -> anyhow::Result<()> {
        self.barriers += 1;
        for update in updates.chain([Update::Barrier(self.barriers)]) {
            self.updates.send(update).ok().context("the worker is gone")?;
        }
        loop {
            self.worker.poll(clock::now());
            for event in self.events.try_iter() {
                match event {
                    Event::Barrier { number, .. } if number == self.barriers => return Ok(()),
                    Event::Refused(_) => bail!("the worker has no room for an SA, a policy or a route"),
                    _ => {}
                }
            }
        }
    }

    /// The Ethernet address of the port that packets of a direction arrive at.
    pub fn mac(direction: Direction) -> Mac {
        mac(from(direction))
    }

    /// Where updates go that nobody waits for.
    pub fn updates(&self) -> &Sender<Update> {
        &self.updates
    }

    /// What the worker reports.
    pub fn events(&self) -> &Receiver<Event> {
        &self.events
    }

    /// Packets that wait to be received.
    pub fn waiting(&self, direction: Direction) -> usize {
        self.handle(from(direction)).arriving()
    }

    /// Lets frames arrive: copies each into a frame of the pool, as a driver that copies does.
    ///
    /// # Errors
    /// When there is no room.
    pub fn arrive<'f>(
        &self,
        direction: Direction,
        frames: impl Iterator<Item = &'f [u8]>,
    ) -> anyhow::Result<usize> {
        let mut count = 0;
        for frame in frames {
            self.push(from(direction), frame)?;
            count += 1;
        }
        Ok(count)
    }

    /// Polls until `packets` packets were received, and says how long it took. This is all that is timed.
    ///
    /// # Errors
    /// When a poll receives nothing before that.
    pub fn work(&mut self, packets: usize) -> anyhow::Result<Duration> {
        let mut received = 0;
        let start = Instant::now();
        while received < packets {
            match self.worker.poll(clock::now()) {
                0 => break,
                some => received += some,
            }
        }
        let time = start.elapsed();
        ensure!(received == packets, "the worker received {received} of {packets} packets");
        Ok(time)
    }

    /// The worker, for its stages.
    pub fn worker(&mut self) -> &mut Worker {
        &mut self.worker
    }

    /// One poll at a time of the caller's, whatever waits: how many packets were received, and how long it took.
    pub fn poll_at(&mut self, now: u64) -> (usize, Duration) {
        let start = Instant::now();
        let received = self.worker.poll(now);
        (received, start.elapsed())
    }

    /// Takes what was sent: shows every IP packet with its direction, and answers ARP. Returns how many packets there
    /// were.
    ///
    /// # Errors
    /// When something else was sent.
    pub fn collect(&mut self, show: &mut dyn FnMut(Direction, &[u8])) -> anyhow::Result<usize> {
        let mut count = 0;
        let mut asked = false;
        for direction in [Direction::Outbound, Direction::Inbound] {
            let port = to(direction);
            while let Some(packet) = self.handle(port).pop() {
                let (header, payload) = split(&packet)?;
                match header.ethertype {
                    ethertype::ARP => asked |= self.answer(port, payload)?,
                    ethertype::IPV4 => {
                        count += 1;
                        show(direction, payload);
                    }
                    other => bail!("the gateway sent a frame of type {other:#06x} by port {port}"),
                }
            }
        }
        if asked {
            // The answers are no part of the traffic that is measured.
            self.worker.poll(clock::now());
            count += self.collect(show)?;
        }
        Ok(count)
    }

    /// Drops by name since the start, as text; empty when there were none.
    ///
    /// # Errors
    /// When the worker does not answer.
    pub fn drops(&mut self) -> anyhow::Result<String> {
        let counters = self.drop_counters()?;
        let named: Vec<_> =
            counters.nonzero().map(|(reason, count)| format!("{} {count}", reason.name())).collect();
        Ok(named.join(", "))
    }

    /// Drops since the start.
    ///
    /// # Errors
    /// When the worker does not answer.
    pub fn drop_counters(&mut self) -> anyhow::Result<DropCounters> {
        let snapshot = Box::new(Snapshot::with_room(2, 16));
        self.updates.send(Update::Snapshot(snapshot)).ok().context("the worker is gone")?;
        self.worker.poll(clock::now());
        for event in self.events.try_iter() {
            if let Event::Snapshot(snapshot) = event {
                return Ok(snapshot.drops);
            }
        }
        bail!("the worker did not answer")
    }

    /// Answers an ARP request of the gateway. Returns whether it was one.
    fn answer(&self, port: usize, message: &[u8]) -> anyhow::Result<bool> {
        let Ok(request) = arp::Repr::parse(message) else { bail!("the gateway sent malformed ARP") };
        // An address conflict check of our own address is not answered (RFC 5227).
        let asks = request.operation == arp::Operation::Request;
        if !asks || [GATEWAY, GATEWAY_LAN].contains(&request.target_ip) {
            return Ok(false);
        }
        let reply = arp::Repr {
            operation: arp::Operation::Reply,
            sender_mac: NEIGHBOUR,
            sender_ip: request.target_ip,
            target_mac: request.sender_mac,
            target_ip: request.sender_ip,
        };
        let mut frame = [0; ethernet::HEADER_LEN + arp::LEN];
        frame[..ethernet::HEADER_LEN].copy_from_slice(&frames::ethernet_header(mac(port), ethertype::ARP));
        if let Some(message) = frame.last_chunk_mut() {
            reply.emit(message);
        }
        self.push(port, &frame)?;
        Ok(true)
    }

    fn push(&self, port: usize, frame: &[u8]) -> anyhow::Result<()> {
        let packet = self.pool.alloc_from(frame).context("no free frame")?;
        self.handle(port).push(packet).ok().context("the port's queue is full")
    }

    fn handle(&self, port: usize) -> &Handle {
        if port == WAN { &self.ports[0] } else { &self.ports[1] }
    }
}

/// The port that packets of a direction arrive at.
fn from(direction: Direction) -> usize {
    match direction {
        Direction::Outbound => LAN,
        Direction::Inbound => WAN,
    }
}

/// The port that they leave by.
fn to(direction: Direction) -> usize {
    WAN + LAN - from(direction)
}

/// Our Ethernet address on a port.
fn mac(port: usize) -> Mac {
    [0x02, 0, 0, 0, 0, 1 + port as u8]
}

fn split(packet: &Packet) -> anyhow::Result<(ethernet::Header, &[u8])> {
    let Ok(header) = ethernet::Header::parse(packet.data()) else { bail!("the gateway sent a cut frame") };
    let payload = packet.data().get(header.header_len()..).unwrap_or_default();
    Ok((header, payload))
}
