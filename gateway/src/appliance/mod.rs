//! The gateway at work: ports, workers, tunnels, and the loop that answers for them.
//!
//! Data flows one way: the configuration becomes devices (`devices`), tunnels (`tunnels`) and policies (`spd`);
//! workers get them as updates; what workers report comes to `events`; what operators ask is answered from
//! `readings`. SAs are keyed by hand (`manual`) or negotiated (`ike`). Sequence numbers of manual SAs outlive the
//! process in `state`.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use crossbeam::channel::{Receiver, after, bounded, select_biased, tick};
use dataplane::crypto::Crypto;
use dataplane::fleet::{Fleet, FleetConfig, frame_size_for};
use dataplane::host::reassembly::ReassemblyConfig;
use dataplane::message::{PolicyUpdate, RouteUpdate, SaUpdate, Update};
use dataplane::policy::Action;
use dataplane::worker::thread;
use dataplane::worker::{OnDemand, WorkerConfig};

use crate::config::{ClearAction, Config, Driver, Idle, MAX_SAS, Port};
use crate::control::{self, ControlSocket};
use crate::metrics::MetricsServer;

mod conflicts;
mod devices;
mod dpdk;
mod events;
mod ike;
mod links;
mod manual;
mod readings;
mod shutdown;
mod spd;
mod state;
mod tunnels;
mod uplinks;
mod view;

use devices::OpenPorts;
pub use dpdk::probe;
use ike::{Desk, Ike, Plans};
use links::LinkWatch;
use manual::Manual;
use readings::Collector;
use spd::{Claimant, SpdEntries};
use state::State;
use tunnels::Tunnels;
use uplinks::Routes;
use view::{Facts, View};

/// Frames of a worker beyond what its ports' rings hold.
const FRAMES: usize = 16_384;
/// How often counters are read when nobody asks, so that metrics are never old.
const READ_EVERY: Duration = Duration::from_secs(1);
/// How often the loop looks whether it is to stop.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Tables of a worker. An entry costs memory only when it is used.
const MAX_POLICIES: usize = 1 << 18;
/// Answers a second that a worker gives of its own: ICMP errors, echo replies.
const ANSWERS: u32 = 1000;
/// How often, and how far apart, the links are told of our addresses at the start (RFC 5227 s1.1: ANNOUNCE_NUM,
/// ANNOUNCE_INTERVAL).
const ANNOUNCEMENTS: u32 = 2;
const ANNOUNCE_EVERY: Duration = Duration::from_secs(2);
/// How long IKE may take to say goodbye, beyond what it allows itself.
const FAREWELL: Duration = Duration::from_secs(3);
/// UDP port of encapsulated ESP (RFC 3948 s2).
const NAT_PORT: u16 = 4500;

/// Says what a configuration that reads well cannot be run with: certificates and keys that are of no use.
///
/// # Errors
/// The first of them.
pub fn check(config: &Config) -> Result<()> {
    ike::check(config)
}

/// Runs the gateway until SIGTERM or SIGINT, or until all of its ports came to their end: capture files that are read.
/// Where no file is read nothing ends, though a port that only writes will never receive.
///
/// # Errors
/// What this machine does not allow: a device, a socket, memory. Nothing is left running then.
pub fn run(config: &Config) -> Result<()> {
    let stop = shutdown::on_signals()?;
    pin_control(config.workers.control_core);
    let crypto = Arc::new(Crypto::new(config.workers.crypto)?);
    let ports = OpenPorts::open(config)?;
    let infos = ports.infos();
    let links = LinkWatch::open(config).context("state of links")?;
    let routes = Routes::new(config);
    let state = State::open(config).context("state of manual SAs")?;
    let mut tunnels = Tunnels::new(config.workers.cores.len());
    let manual = manual::make(config, &crypto, state.as_ref(), &mut tunnels).context("manual_sas")?;
    let plans = Plans::new(config, u32::try_from(manual.len())?, &mut tunnels)?;
    // Bound before traffic flows, so that a second gateway fails before it takes anything over.
    let socket = ControlSocket::bind(&config.gateway.control_socket)
        .with_context(|| format!("control socket {}", config.gateway.control_socket.display()))?;
    let fleet = start(config, ports, plans.on_demand(), Arc::clone(&crypto))?;
    let (ask, asked) = bounded(64);
    let facts = Facts::new(config, &infos, plans.holds(), &crypto);
    let desk = Arc::new(Desk::new(config));
    let view = Arc::new(View::new(facts, ask, Arc::clone(&desk)));
    let metrics = config
        .gateway
        .metrics
        .map(|address| {
            MetricsServer::start(address, Arc::clone(&view) as _)
                .with_context(|| format!("metrics on {address}"))
        })
        .transpose()?;
    // What fails before costs no sequence numbers.
    let keeper = state.map(|state| state.keep(manual::kept(&manual, config))).transpose()?;
    let spd = policies(config, &manual, &plans);
    routes.in_force(links.states()).for_each(|route| fleet.update_route(&RouteUpdate::Add(route)));
    install(&manual, &mut tunnels, &spd, &fleet);
    // No packet meets empty tables.
    fleet.receive();
    let ike = plans.start(crypto, uplinks::addresses(config, links.states()), &desk)?;
    // Last: a gateway that answers is up.
    let control =
        control::serve(socket, Arc::clone(&view) as _, Arc::clone(&view) as _).context("control socket")?;
    tracing::info!(
        name = config.gateway.name,
        workers = fleet.len(),
        ports = infos.len(),
        tunnels = tunnels.rows().len(),
        "the gateway is up"
    );

    let port_names = config.ports.keys().cloned().collect();
    let mut collector = Collector::new(fleet.len(), port_names, Arc::clone(view.readings()));
    collector.links(links.states());
    let mut gateway = Gateway { config, fleet, tunnels, spd, ike, collector, links, routes, finished: 0 };
    let ended = gateway.attend(&asked, &stop);
    gateway.say_goodbye();
    drop((control, metrics));
    let drops = gateway.fleet.stop();
    if let Some(keeper) = keeper {
        keeper.finish();
    }
    let drops: Vec<_> =
        drops.nonzero().map(|(reason, packets)| format!("{} {packets}", reason.name())).collect();
    tracing::info!(drops = drops.join(", "), "the gateway has stopped");
    ended
}

/// What the control side works on.
struct Gateway<'a> {
    config: &'a Config,
    fleet: Fleet,
    tunnels: Tunnels,
    spd: SpdEntries,
    ike: Ike,
    collector: Collector,
    links: LinkWatch,
    routes: Routes,
    /// Workers that will receive nothing more.
    finished: usize,
}

impl Gateway<'_> {
    /// Hears workers, IKE and operators until it is time to stop.
    fn attend(&mut self, asked: &Receiver<view::Request>, stop: &shutdown::Stop) -> Result<()> {
        let look = tick(LOOK_EVERY);
        let mut read_at = Instant::now();
        let (mut announce_at, mut announced) = (read_at, 0);
        let reads = |port: &Port| matches!(port.driver, Driver::Pcap { read: Some(_), .. });
        let ends = self.config.ports.values().any(reads);
        while !ends || self.finished < self.fleet.len() {
            select_biased! {
                recv(self.fleet.events()) -> event => match event {
                    Ok(event) => {
                        self.handle(event);
                        self.collector.go_on(&self.fleet);
                    }
                    Err(_) => return Ok(()),
                },
                recv(self.ike.orders()) -> orders => {
                    let orders = orders.map_err(|_| anyhow!("the IKE thread has ended: a defect"))?;
                    self.ike.carry_out(orders, &self.fleet, &mut self.tunnels, &mut self.spd);
                },
                recv(asked) -> request => if let Ok(request) = request {
                    self.collector.ask(&self.fleet, Some(request));
                },
                recv(look) -> _ => {
                    if let Some(signal) = stop.requested() {
                        tracing::info!(signal, "stopping: no more packets are received, those in hand are sent");
                        return Ok(());
                    }
                    self.watch_links();
                    if announced < ANNOUNCEMENTS && Instant::now() >= announce_at {
                        self.fleet.send(0, Update::Announce);
                        announce_at += ANNOUNCE_EVERY;
                        announced += 1;
                    }
                    if read_at.elapsed() >= READ_EVERY {
                        read_at = Instant::now();
                        self.collector.ask(&self.fleet, None);
                    }
                },
            }
        }
        tracing::info!("stopping: all ports came to their end");
        Ok(())
    }

    /// A port may have lost its link, or got it back.
    fn watch_links(&mut self) {
        let before = self.links.states().clone();
        if !self.links.look() {
            return;
        }
        let now = self.links.states();
        for update in self.routes.changes(&before, now) {
            self.fleet.update_route(&update);
        }
        // Whoever is behind a link that came back may have forgotten us, or is somebody else.
        if (0..self.config.ports.len()).any(|port| !before.usable(port) && now.usable(port)) {
            self.fleet.send(0, Update::Announce);
        }
        self.ike.set_addresses(uplinks::addresses(self.config, now));
        self.collector.links(now);
    }

    /// Lets IKE take its leave of the peers, while the workers still carry its messages.
    fn say_goodbye(&mut self) {
        if !self.ike.stop() {
            return;
        }
        let end = after(FAREWELL);
        loop {
            select_biased! {
                // First: traffic makes events without end.
                recv(end) -> _ => return,
                recv(self.fleet.events()) -> event => match event {
                    Ok(event) => self.handle(event),
                    Err(_) => return,
                },
                recv(self.ike.orders()) -> orders => match orders {
                    Ok(orders) => self.ike.carry_out(orders, &self.fleet, &mut self.tunnels, &mut self.spd),
                    Err(_) => return,
                },
            }
        }
    }
}

fn start(config: &Config, mut ports: OpenPorts, on_demand: Range<u32>, crypto: Arc<Crypto>) -> Result<Fleet> {
    let (mtu, crew) = (ports.largest_mtu(), ports.take_crew());
    let fleet_config = FleetConfig {
        cores: config.workers.cores.clone(),
        pin: true,
        idle: match config.workers.idle {
            Idle::Spin => thread::Idle::Spin,
            Idle::Adaptive => thread::Idle::Adaptive,
        },
        frames: FRAMES + ports.frames(),
        frame_size: frame_size_for(mtu),
        worker: WorkerConfig {
            index: 0,
            max_sas: MAX_SAS,
            max_tunnels: MAX_SAS,
            on_demand: OnDemand { tunnels: on_demand, limits: config.ike.limits.waiting },
            max_policies: MAX_POLICIES,
            reassembly: ReassemblyConfig::default(),
            answers_per_second: ANSWERS,
            nat_port: NAT_PORT,
            ports: ports.worker_ports(),
        },
        devices: ports.into_devices(),
        crypto,
    };
    let fleet = match crew {
        Some(crew) => Fleet::start_on(fleet_config, crew),
        None => Fleet::start(fleet_config),
    };
    fleet.context("cannot start the workers")
}

/// The SPD at the start. Of two that name the same traffic the later one has it.
fn policies(config: &Config, manual: &[Manual], plans: &Plans) -> SpdEntries {
    let mut spd = SpdEntries::default();
    plans.hold(&mut spd);
    for (made, sa) in manual.iter().zip(config.manual_sas.values()) {
        for selector in &sa.selectors {
            let action = Action::Protect(made.outbound.params.tunnel);
            spd.claim(selector, Claimant::Configuration, action);
        }
    }
    for policy in &config.policies {
        let action = match policy.action {
            ClearAction::Bypass => Action::Bypass,
            ClearAction::Discard => Action::Discard,
        };
        spd.claim(&policy.selector, Claimant::Configuration, action);
    }
    spd
}

/// Tells the workers SAs and policies, in this order: a policy never points at a tunnel that is not there.
fn install(manual: &[Manual], tunnels: &mut Tunnels, spd: &SpdEntries, fleet: &Fleet) {
    for Manual { row, endpoints, outbound, inbound } in manual {
        tunnels.add_inbound(*row, inbound);
        fleet.update_sa(&SaUpdate::AddInbound(Arc::clone(inbound)));
        tunnels.set_outbound(*row, outbound, *endpoints);
        fleet.update_sa(&SaUpdate::SetOutbound(Arc::clone(outbound), *endpoints));
    }
    for policy in spd.policies() {
        fleet.update_policy(&PolicyUpdate::Add(policy));
    }
    for worker in 0..fleet.len() {
        fleet.send(worker, Update::Barrier(0));
    }
}

/// This thread makes way for the workers.
fn pin_control(core: usize) {
    if !core_affinity::set_for_current(core_affinity::CoreId { id: core }) {
        tracing::warn!(
            core,
            "the control thread cannot be pinned to its core; it runs wherever the kernel puts it"
        );
    }
}
