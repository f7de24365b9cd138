//! A gateway over two DPDK ports, for as long as it is measured: `spillway-bench dpdk-forward`.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail, ensure};
use clap::Args;
use core_affinity::CoreId;
use dataplane::crypto::{Crypto, EngineChoice, Suite};
use dataplane::drops::DropReason;
use dataplane::fleet::{Fleet, FleetConfig, frame_size_for};
use dataplane::host::reassembly::ReassemblyConfig;
use dataplane::message::{Event, Neighbour, Route, RouteUpdate, Update};
use dataplane::port::dpdk;
use dataplane::snapshot::Snapshot;
use dataplane::worker::thread::Idle;
use dataplane::worker::{OnDemand, PortConfig, WorkerConfig};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::frames::NEIGHBOUR;
use crate::gateway::{Gateway, MTU, Pools};
use crate::latency::capacity;
use crate::traffic::{Order, Size, Stream};
use crate::tunnels::{Direction, GATEWAY, GATEWAY_LAN, ROUTER, Tunnels};
use crate::world::World;

/// Ports of the gateway, by id.
const WAN: usize = 0;
/// Time before the measurement: the first packets wait for a neighbour, and memif for its other end.
const WARM_UP: Duration = Duration::from_millis(500);
/// How long to wait for the first packet.
const PATIENCE: Duration = Duration::from_secs(20);
/// More than the gateway sends when it only asks for its router's address.
const REQUESTS: u64 = 1000;
/// What capsule calls the worker's thread.
const THREAD: &str = "spillway-core";

/// What to run.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Device that packets come from.
    #[arg(long)]
    lan: String,
    /// Device that they go to.
    #[arg(long)]
    wan: String,
    #[arg(long)]
    suite: Suite,
    #[arg(long)]
    seconds: f64,
    #[arg(long)]
    core: usize,
    #[arg(long)]
    control_core: usize,
    /// Its memory is in huge pages.
    #[arg(long)]
    huge_pages: bool,
    /// Measure packets of this size on memory ports too, on the same core right before and after.
    #[arg(long)]
    beside_memory: Option<Size>,
}

/// What was seen.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Outcome {
    packets: u64,
    seconds: f64,
    /// Time that the worker had its core for.
    core_seconds: f64,
    /// Packets that were dropped meanwhile.
    pub drops: Drops,
    /// Nanoseconds a packet on memory ports, the mean of before and after, if that was wanted.
    pub beside: Option<f64>,
}

/// Packets that were lost, by where: the names of the worker's reasons, and of the counters of ports.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drops(BTreeMap<String, u64>);

impl Drops {
    /// Adds packets of a name. One without packets is known all the same.
    pub fn add(&mut self, name: &str, packets: u64) {
        *self.0.entry(name.to_owned()).or_default() += packets;
    }

    /// Adds all of another.
    pub fn merge(&mut self, other: &Self) {
        other.0.iter().for_each(|(name, &packets)| self.add(name, packets));
    }

    /// Each name and its packets.
    pub fn iter(&self) -> impl Iterator<Item = (&str, u64)> {
        self.0.iter().map(|(name, &packets)| (name.as_str(), packets))
    }

    /// What came since an earlier reading.
    fn since(&self, before: &Self) -> Self {
        let before = |name| before.0.get(name).copied().unwrap_or_default();
        Self(self.0.iter().map(|(name, &packets)| (name.clone(), packets - before(name))).collect())
    }
}

impl fmt::Display for Drops {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut lost = self.iter().filter(|&(_, packets)| packets > 0).peekable();
        if lost.peek().is_none() {
            return f.write_str("no drops");
        }
        lost.try_for_each(|(name, packets)| write!(f, "{name} {packets} "))
    }
}

impl Outcome {
    /// Nanoseconds of its core that the worker took for each packet.
    pub fn nanoseconds(&self) -> f64 {
        self.core_seconds * 1e9 / self.packets as f64
    }

    /// Packets a second by the clock.
    pub fn packets_per_second(&self) -> f64 {
        self.packets as f64 / self.seconds
    }
}

/// Runs it, and prints what was seen as JSON.
///
/// # Errors
/// When DPDK does not start, or nothing is forwarded.
pub fn run(options: &Options) -> anyhow::Result<()> {
    let memory = || options.beside_memory.map(|size| on_memory_ports(options, size)).transpose();
    let before = memory()?;
    let fleet = start(options)?;
    let outcome = measure(&fleet, Duration::from_secs_f64(options.seconds));
    fleet.stop();
    let beside = before.zip(memory()?).map(|(before, after)| f64::midpoint(before, after));
    println!("{}", serde_json::to_string(&Outcome { beside, ..outcome? })?);
    Ok(())
}

/// Nanoseconds a packet of the same worker on memory ports, on the core that is measured.
fn on_memory_ports(options: &Options, size: Size) -> anyhow::Result<f64> {
    std::thread::scope(|scope| {
        let measured = scope.spawn(|| {
            ensure!(core_affinity::set_for_current(CoreId { id: options.core }), "no core {}", options.core);
            let crypto = Arc::new(Crypto::new(EngineChoice::Auto)?);
            let mut world = World::new(&crypto, options.suite, 1, Pools::new()?)?;
            capacity(&mut world, Direction::Outbound, Stream::new(size, 1, Order::Random))
        });
        measured.join().map_err(|_| anyhow!("memory ports: the thread panicked"))?
    })
}

fn start(options: &Options) -> anyhow::Result<Fleet> {
    let crypto = Arc::new(Crypto::new(EngineChoice::Auto)?);
    let port = |device: &String| dpdk::PortConfig { device: device.clone(), mtu: MTU, descriptors: 1024 };
    let opened = dpdk::open(dpdk::Config {
        ports: vec![port(&options.wan), port(&options.lan)],
        cores: vec![options.core],
        control_core: options.control_core,
        huge_pages: options.huge_pages,
        memory: 256 << 20,
        buffers: 8192,
        eal: Vec::new(),
    })?;
    // Our addresses and not the devices', so that captures need not know those.
    let port = |address: IpAddr, prefix_len, direction| -> anyhow::Result<PortConfig> {
        let (addresses, mac) = (vec![IpNet::new(address, prefix_len)?], Some(Gateway::mac(direction)));
        Ok(PortConfig { addresses, mac, mtu: MTU, vlan: None, reverse_path: true })
    };
    let tunnels = Tunnels::new(&crypto, options.suite, 1, 0)?;
    let config = FleetConfig {
        cores: vec![options.core],
        pin: true,
        idle: Idle::Spin,
        frames: 1024,
        frame_size: frame_size_for(MTU),
        worker: WorkerConfig {
            index: 0,
            max_sas: 16,
            max_tunnels: 16,
            on_demand: OnDemand::default(),
            max_policies: 16,
            reassembly: ReassemblyConfig::default(),
            answers_per_second: 1000,
            nat_port: 4500,
            ports: vec![
                port(GATEWAY.into(), 24, Direction::Inbound)?,
                port(GATEWAY_LAN.into(), 16, Direction::Outbound)?,
            ],
        },
        devices: opened.devices,
        crypto,
    };
    let fleet = Fleet::start_on(config, opened.crew)?;
    let default = Route { to: IpNet::default(), port: Some(WAN as u16), via: Some(ROUTER.into()) };
    fleet.update_route(&RouteUpdate::Add(default));
    for update in tunnels.updates() {
        fleet.send(0, update);
    }
    fleet.receive();
    Ok(fleet)
}

fn measure(fleet: &Fleet, span: Duration) -> anyhow::Result<Outcome> {
    let end = Instant::now() + PATIENCE;
    while sent(fleet)? < REQUESTS {
        ensure!(Instant::now() < end, "nothing is forwarded: {}", drops(fleet)?);
        meet_router(fleet);
        std::thread::sleep(Duration::from_millis(10));
    }
    keep(fleet, WARM_UP);
    let (sent_before, drops_before) = (sent(fleet)?, drops(fleet)?);
    let (core_before, since) = (core_time()?, Instant::now());
    keep(fleet, span);
    let (core, time) = (core_time()? - core_before, since.elapsed());
    let (packets, drops) = (sent(fleet)? - sent_before, drops(fleet)?.since(&drops_before));
    ensure!(packets > 0, "nothing is forwarded any more: {drops}");
    Ok(Outcome {
        packets,
        seconds: time.as_secs_f64(),
        core_seconds: core.as_secs_f64(),
        drops,
        beside: None,
    })
}

/// Waits, and keeps the neighbour known: nobody is there to answer for it.
fn keep(fleet: &Fleet, span: Duration) {
    let end = Instant::now() + span;
    while Instant::now() < end {
        meet_router(fleet);
        std::thread::sleep(Duration::from_millis(20).min(span));
    }
}

fn meet_router(fleet: &Fleet) {
    fleet.share_neighbour(Neighbour { port: WAN as u16, address: ROUTER.into(), mac: NEIGHBOUR });
}

/// Packets that the WAN port sent.
fn sent(fleet: &Fleet) -> anyhow::Result<u64> {
    let counters = snapshot(fleet)?.ports;
    Ok(counters.get(WAN).context("no counters of the WAN port")?.tx_packets)
}

/// Everything that was lost since the start.
fn drops(fleet: &Fleet) -> anyhow::Result<Drops> {
    let snapshot = snapshot(fleet)?;
    let mut drops = Drops::default();
    drops.add(DropReason::TxFull.name(), 0);
    for (reason, packets) in snapshot.drops.nonzero() {
        drops.add(reason.name(), packets);
    }
    for port in &snapshot.ports {
        for (name, packets) in [
            ("rx_missed", port.rx_missed),
            ("rx_errors", port.rx_errors),
            ("rx_no_buffer", port.rx_no_buffer),
            ("tx_errors", port.tx_errors),
        ] {
            drops.add(name, packets);
        }
    }
    Ok(drops)
}

fn snapshot(fleet: &Fleet) -> anyhow::Result<Snapshot> {
    fleet.send(0, Update::Snapshot(Box::new(Snapshot::with_room(2, 16))));
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end {
        if let Some(Event::Snapshot(snapshot)) = fleet.next_event(Duration::from_millis(100)) {
            return Ok(*snapshot);
        }
    }
    bail!("the worker does not answer")
}

/// Time that the worker's thread had its core for.
fn core_time() -> anyhow::Result<Duration> {
    for task in fs::read_dir("/proc/self/task")? {
        let task = task?.path();
        // The kernel cuts names at 15 bytes.
        if fs::read_to_string(task.join("comm"))?.trim().starts_with(&THREAD[..13]) {
            let text = fs::read_to_string(task.join("schedstat"))?;
            let nanoseconds = text.split(' ').next().context("an empty schedstat")?.parse()?;
            return Ok(Duration::from_nanos(nanoseconds));
        }
    }
    bail!("no thread is called {THREAD}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drops(all: &[(&str, u64)]) -> Drops {
        let mut drops = Drops::default();
        all.iter().for_each(|&(name, packets)| drops.add(name, packets));
        drops
    }

    #[test]
    fn drops_are_those_of_the_time() {
        let before = drops(&[("tx_full", 3), ("rx_missed", 1)]);
        let after = drops(&[("tx_full", 5), ("rx_missed", 1), ("no_neighbour", 2)]);
        let mut meanwhile = after.since(&before);
        assert_eq!(meanwhile, drops(&[("tx_full", 2), ("rx_missed", 0), ("no_neighbour", 2)]));
        meanwhile.merge(&before);
        assert_eq!(meanwhile, after.clone());
        assert_eq!(before.since(&before).to_string(), "no drops");
        assert_eq!(before.to_string(), "rx_missed 1 tx_full 3 ");
    }
}
