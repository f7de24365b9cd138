//! Answers about the running gateway: what the configuration says, joined with what the workers counted.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use controlplane::waiters::Verb;
use crossbeam::channel::{Sender, bounded};
use dataplane::clock;
use dataplane::crypto::{Crypto, Suite};
use dataplane::drops::{DropCounters, DropReason};
use dataplane::message::Route;
use dataplane::policy::{Action, Policy};
use dataplane::port::{DeviceInfo, Mac};
use dataplane::sa::counters::SaCounters;
use dataplane::sa::{Mode, Protocol, SaParams};

use super::ike::Desk;
use super::readings::{AnySa, Readings, SaReading};
use super::uplinks::Routes;
use crate::config::Config;
use crate::control::{Operator, Target};
use crate::snapshot as shown;

/// How long an answer waits for the workers. They answer between two batches, so only a defect takes as long.
const PATIENCE: Duration = Duration::from_secs(2);
/// The least time between two readings, so that operators who ask without end cost the workers little.
const BETWEEN: Duration = Duration::from_millis(50);

/// What does not change while the gateway runs.
pub(super) struct Facts {
    name: String,
    crypto: String,
    cores: Vec<usize>,
    ports: Vec<(String, shown::Port)>,
    /// Of the links, which are always in force, and of the configuration.
    routes: Vec<(Option<Route>, shown::Route)>,
    uplinks: Routes,
    /// Names of the children that hold their traffic back while they are down, by tunnel id from the first.
    holds: (u32, Vec<String>),
    started: Instant,
}

/// Answers from any thread.
pub(super) struct View {
    facts: Facts,
    readings: Arc<Mutex<Arc<Readings>>>,
    ask: Sender<Request>,
    /// When the last readings were asked for.
    last: Mutex<Option<Instant>>,
    ike: Arc<Desk>,
}

/// Asks for new readings; told when they are there.
pub(super) struct Request(Sender<()>);

impl Request {
    pub(super) fn done(self) {
        // Whoever asked may have lost patience.
        let _ = self.0.try_send(());
    }
}

impl View {
    pub(super) fn new(facts: Facts, ask: Sender<Request>, ike: Arc<Desk>) -> Self {
        Self { facts, readings: Arc::default(), ask, last: Mutex::new(None), ike }
    }

    /// Where the collector puts what it read.
    pub(super) fn readings(&self) -> &Arc<Mutex<Arc<Readings>>> {
        &self.readings
    }

    fn read(&self) -> Arc<Readings> {
        self.readings.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl View {
    fn show_policy(&self, policy: &Policy, readings: &Readings) -> shown::Policy {
        let (action, tunnel) = match policy.action {
            Action::Protect(id) => {
                let (first, holds) = &self.facts.holds;
                let held = id.0.checked_sub(*first).and_then(|index| holds.get(index as usize)).cloned();
                let row = readings.rows_of.get(&id).and_then(|&row| readings.rows.get(row));
                ("protect", row.map(|row| row.name.to_string()).or(held))
            }
            Action::Bypass => ("bypass", None),
            Action::Discard => ("discard", None),
        };
        let ports = |range: &std::ops::RangeInclusive<u16>| {
            (*range != (0..=u16::MAX)).then(|| (*range.start(), *range.end()))
        };
        shown::Policy {
            action: action.to_owned(),
            tunnel,
            local: policy.selector.local,
            remote: policy.selector.remote,
            protocol: policy.selector.protocol,
            local_ports: ports(&policy.selector.local_ports),
            remote_ports: ports(&policy.selector.remote_ports),
        }
    }
}

impl Facts {
    pub(super) fn new(
        config: &Config,
        infos: &[DeviceInfo],
        holds: (u32, Vec<String>),
        crypto: &Crypto,
    ) -> Self {
        let port_name =
            |id: u16| config.ports.get_index(id.into()).map_or_else(String::new, |(name, _)| name.clone());
        let connected = config.ports.iter().flat_map(|(name, port)| {
            port.addresses.iter().map(|net| {
                let (to, port) = (net.trunc(), name.clone());
                (None, shown::Route { to, port, via: None, in_force: true })
            })
        });
        let fixed = config.routes.iter().map(|&route| {
            let port = route.port.map_or_else(String::new, port_name);
            (Some(route), shown::Route { to: route.to, port, via: route.via, in_force: true })
        });
        let fast: Suite =
            "aes128gcm16".parse().unwrap_or_else(|_| unreachable!("a keyword of the data plane"));
        Self {
            name: config.gateway.name.clone(),
            crypto: crypto.engine_name(fast).to_owned(),
            cores: config.workers.cores.clone(),
            ports: config
                .ports
                .iter()
                .zip(infos)
                .map(|((name, port), info)| (name.clone(), show_port(name, port.mtu, &port.addresses, info)))
                .collect(),
            routes: connected.chain(fixed).collect(),
            uplinks: Routes::new(config),
            holds,
            started: Instant::now(),
        }
    }
}

impl Operator for View {
    fn operate(&self, verb: Verb, target: &Target) -> Result<String, String> {
        self.ike.operate(verb, target)
    }
}

impl shown::Snapshot for View {
    fn refresh(&self) {
        let since = Instant::now();
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(last) = *last {
            if last >= since {
                return; // Somebody else asked meanwhile.
            }
            std::thread::sleep(BETWEEN.saturating_sub(last.elapsed()));
        }
        *last = Some(Instant::now());
        let (done, when_done) = bounded(1);
        let answered = self.ask.send_timeout(Request(done), PATIENCE).is_ok()
            && when_done.recv_timeout(PATIENCE).is_ok();
        if !answered {
            tracing::warn!(
                "the workers gave no counters for {} s; those shown are older",
                PATIENCE.as_secs()
            );
        }
    }

    fn status(&self) -> shown::Status {
        let tunnels = self.tunnels();
        shown::Status {
            name: self.facts.name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime_seconds: self.facts.started.elapsed().as_secs(),
            crypto: self.facts.crypto.clone(),
            workers: self.facts.cores.len(),
            ports: self.facts.ports.len(),
            tunnels: tunnels.len(),
            tunnels_up: tunnels.iter().filter(|tunnel| tunnel.up).count(),
            sas: self.read().sas.len(),
        }
    }

    fn tunnels(&self) -> Vec<shown::Tunnel> {
        let rows = self.read();
        rows.rows
            .iter()
            .map(|row| shown::Tunnel {
                name: row.name.to_string(),
                up: row.up,
                local: row.local,
                remote: row.remote,
                inbound: totals(&row.inbound),
                outbound: totals(&row.outbound),
            })
            .collect()
    }

    fn ike(&self) -> shown::Ike {
        self.ike.report()
    }

    fn sas(&self) -> Vec<shown::Sa> {
        let readings = self.read();
        let now = clock::now();
        let name = |row: usize| readings.rows.get(row).map_or_else(String::new, |row| row.name.to_string());
        readings.sas.iter().map(|reading| show_sa(name(reading.row), reading, now)).collect()
    }

    fn policies(&self) -> Vec<shown::Policy> {
        let readings = self.read();
        let mut policies: Vec<&Policy> = readings.policies.iter().collect();
        policies.sort_by_key(|policy| policy.order());
        policies.into_iter().map(|policy| self.show_policy(policy, &readings)).collect()
    }

    fn ports(&self) -> Vec<shown::Port> {
        let readings = self.read();
        self.facts
            .ports
            .iter()
            .enumerate()
            .map(|(index, (_, port))| {
                let queues = readings.workers.iter().filter_map(|worker| worker.ports.get(index));
                let counters = queues.fold(shown::PortCounters::default(), |sum, &queue| sum + queue.into());
                let mut conflicts: Vec<shown::Conflict> = readings
                    .conflicts
                    .on(index as u16)
                    .map(|(address, mac, at)| shown::Conflict {
                        address,
                        mac: mac_text(mac),
                        seconds_ago: at.elapsed().as_secs(),
                    })
                    .collect();
                conflicts.sort_by_key(|conflict| conflict.address);
                shown::Port { link: readings.links.of(index), counters, conflicts, ..port.clone() }
            })
            .collect()
    }

    fn workers(&self) -> Vec<shown::Worker> {
        let readings = self.read();
        let cores = &self.facts.cores;
        readings
            .workers
            .iter()
            .map(|worker| shown::Worker {
                index: worker.worker,
                core: cores.get(worker.worker).copied().unwrap_or_default(),
                rx_packets: worker.ports.iter().map(|port| port.rx_packets).sum(),
                tx_packets: worker.ports.iter().map(|port| port.tx_packets).sum(),
                drops: by_name(worker.drops.nonzero()),
                polls: worker.busy_polls + worker.idle_polls,
                empty_polls: worker.idle_polls,
                sleeps: worker.sleeps,
                free_frames: worker.frames.0,
                frames: worker.frames.1,
                latency_histogram: (&worker.latency).into(),
                latency: (!worker.latency.is_empty()).then(|| shown::Latency {
                    p50_ns: worker.latency.value_at_quantile(0.5),
                    p99_ns: worker.latency.value_at_quantile(0.99),
                    p999_ns: worker.latency.value_at_quantile(0.999),
                    max_ns: worker.latency.max(),
                }),
            })
            .collect()
    }

    fn drops(&self) -> DropCounters {
        let mut all = DropCounters::default();
        for worker in &self.read().workers {
            all.merge(&worker.drops);
        }
        all
    }

    fn routes(&self) -> Vec<shown::Route> {
        let readings = self.read();
        let in_force: HashMap<ipnet::IpNet, Route> =
            self.facts.uplinks.in_force(&readings.links).map(|route| (route.to, route)).collect();
        let is_in_force = |route: &Route| in_force.get(&route.to) == Some(route);
        let rows = self.facts.routes.iter();
        rows.map(|(route, shown)| {
            let in_force = route.as_ref().is_none_or(is_in_force);
            shown::Route { in_force, ..shown.clone() }
        })
        .collect()
    }

    fn neighbours(&self) -> Vec<shown::Neighbour> {
        let readings = self.read();
        let mut rows: Vec<shown::Neighbour> = readings
            .workers
            .iter()
            .flat_map(|worker| &worker.neighbours)
            .map(|neighbour| shown::Neighbour {
                address: neighbour.address,
                port: self
                    .facts
                    .ports
                    .get(usize::from(neighbour.port))
                    .map_or_else(String::new, |(name, _)| name.clone()),
                mac: Some(mac_text(neighbour.mac)),
            })
            .collect();
        rows.sort_by(|a, b| (&a.port, a.address).cmp(&(&b.port, b.address)));
        rows.dedup();
        rows
    }
}

fn totals(counters: &SaCounters) -> shown::Totals {
    shown::Totals { packets: counters.packets, bytes: counters.bytes, drops: by_name(counters.drops()) }
}

fn by_name(drops: impl Iterator<Item = (DropReason, u64)>) -> BTreeMap<String, u64> {
    drops.map(|(reason, packets)| (reason.name().to_owned(), packets)).collect()
}

fn show_sa(tunnel: String, reading: &SaReading, now: u64) -> shown::Sa {
    let endpoints = &reading.endpoints;
    let row = |params: &SaParams, direction, spi, since: u64| shown::Sa {
        tunnel,
        direction,
        spi,
        protocol: match params.protocol {
            Protocol::Esp => "esp".to_owned(),
            Protocol::Ah => "ah".to_owned(),
        },
        mode: match params.mode {
            Mode::Tunnel => "tunnel".to_owned(),
            Mode::Transport => "transport".to_owned(),
        },
        suite: params.suite.to_string(),
        esn: params.esn,
        local: endpoints.local,
        remote: endpoints.remote,
        udp: endpoints.udp.map(|ports| (ports.local, ports.remote)),
        sequence: 0,
        replay_window: None,
        age_seconds: now.saturating_sub(since) / clock::SECOND,
        expires_seconds: None,
        expired: false,
        totals: totals(&reading.counters),
    };
    match &reading.sa {
        AnySa::Inbound(installed) => {
            let sa = &installed.sa;
            shown::Sa {
                sequence: sa.replay.as_ref().map_or(0, |window| window.high_water()),
                replay_window: sa.replay.as_ref().map(|window| window.size()),
                expires_seconds: sa.usage.seconds_left(now),
                expired: sa.usage.is_spent(now),
                ..row(&sa.params, shown::Direction::Inbound, sa.spi, installed.since)
            }
        }
        AnySa::Outbound(installed) => {
            let sa = &installed.sa;
            shown::Sa {
                sequence: sa.sequence.peek().saturating_sub(1),
                expires_seconds: sa.usage.seconds_left(now),
                expired: sa.usage.is_spent(now),
                ..row(&sa.params, shown::Direction::Outbound, sa.spi, installed.since)
            }
        }
    }
}

fn show_port(name: &str, mtu: u32, addresses: &[ipnet::IpNet], info: &DeviceInfo) -> shown::Port {
    shown::Port {
        name: name.to_owned(),
        driver: info.driver.to_owned(),
        device: info.device.clone(),
        mac: info.mac.map(mac_text),
        mtu: mtu.min(info.mtu),
        addresses: addresses.to_vec(),
        queues: info.queues,
        link: None,
        features: info.features.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect(),
        conflicts: Vec::new(),
        counters: shown::PortCounters::default(),
    }
}

/// As it is shown and logged.
pub(super) fn mac_text(mac: Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}
