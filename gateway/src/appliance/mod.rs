//! The gateway at work: ports, workers, tunnels, and the loop that answers for them.
//!
//! Data flows one way: the configuration becomes devices (`devices`) and tunnels (`tunnels`); workers get them
//! as updates; what workers report comes to `events`; what operators ask is answered from `readings`. Sequence
//! numbers of manual SAs outlive the process in `state`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use crossbeam::channel::{Receiver, bounded, select_biased, tick};
use dataplane::crypto::{Crypto, EngineChoice};
use dataplane::fleet::{Fleet, FleetConfig, frame_size_for};
use dataplane::host::reassembly::ReassemblyConfig;
use dataplane::message::{PolicyUpdate, RouteUpdate, SaUpdate, Update};
use dataplane::worker::WorkerConfig;
use dataplane::worker::thread;

use crate::config::{Config, CryptoEngine, Idle};
use crate::control::{self, ControlSocket};
use crate::metrics::MetricsServer;

mod devices;
mod events;
mod readings;
mod shutdown;
mod state;
mod tunnels;
mod view;

use devices::OpenPorts;
use readings::Collector;
use state::State;
use tunnels::Tunnels;
use view::{Facts, View};

/// Frames of a worker beyond what its ports' rings hold.
const FRAMES: usize = 16_384;
/// How often counters are read when nobody asks, so that metrics are never old.
const READ_EVERY: Duration = Duration::from_secs(1);
/// How often the loop looks whether it is to stop.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Tables of a worker. An entry costs memory only when it is used.
const MAX_SAS: u32 = 1 << 18;
const MAX_POLICIES: usize = 1 << 18;
/// Answers a second that a worker gives of its own: ICMP errors, echo replies.
const ANSWERS: u32 = 1000;
/// How often, and how far apart, the links are told of our addresses at the start (RFC 5227 s1.1: ANNOUNCE_NUM,
/// ANNOUNCE_INTERVAL).
const ANNOUNCEMENTS: u32 = 2;
const ANNOUNCE_EVERY: Duration = Duration::from_secs(2);
/// UDP port of encapsulated ESP (RFC 3948 s2).
const NAT_PORT: u16 = 4500;

/// Runs the gateway until SIGTERM or SIGINT, or until all of its ports came to their end.
///
/// # Errors
/// What this machine does not allow: a device, a socket, memory. Nothing is left running then.
pub fn run(config: &Config) -> Result<()> {
    let stop = shutdown::on_signals()?;
    pin_control(config.workers.control_core);
    let crypto = Arc::new(Crypto::new(engine(config.workers.crypto))?);
    let ports = OpenPorts::open(config)?;
    let infos = ports.infos();
    let state = State::open(config).context("state of manual SAs")?;
    let tunnels = Tunnels::from_manual(config, &crypto, state.as_ref()).context("manual_sas")?;
    // Bound before traffic flows, so that a second gateway fails before it takes anything over.
    let socket = ControlSocket::bind(&config.gateway.control_socket)
        .with_context(|| format!("control socket {}", config.gateway.control_socket.display()))?;
    let fleet = start(config, ports, Arc::clone(&crypto))?;
    let (ask, asked) = bounded(64);
    let facts = Facts::new(config, &infos, &tunnels, &crypto);
    let view = Arc::new(View::new(facts, ask));
    let metrics = config
        .gateway
        .metrics
        .map(|address| {
            MetricsServer::start(address, Arc::clone(&view) as _)
                .with_context(|| format!("metrics on {address}"))
        })
        .transpose()?;
    // What fails before costs no sequence numbers.
    let keeper = state.map(|state| state.keep(tunnels.kept(config))).transpose()?;
    install(config, &tunnels, &fleet);
    // Last: a gateway that answers is up.
    let control = control::serve(socket, Arc::clone(&view) as _).context("control socket")?;
    tracing::info!(
        name = config.gateway.name,
        workers = fleet.len(),
        ports = infos.len(),
        tunnels = tunnels.len(),
        "the gateway is up"
    );

    let collector = Collector::new(fleet.len(), infos.len(), Arc::clone(view.readings()));
    attend(&fleet, tunnels, collector, &asked, &stop);
    drop((control, metrics));
    fleet.stop();
    if let Some(keeper) = keeper {
        keeper.finish();
    }
    tracing::info!("the gateway has stopped");
    Ok(())
}

/// Hears workers and operators until it is time to stop.
fn attend(
    fleet: &Fleet,
    mut tunnels: Tunnels,
    mut collector: Collector,
    asked: &Receiver<view::Request>,
    stop: &shutdown::Stop,
) {
    let look = tick(LOOK_EVERY);
    let mut read_at = Instant::now();
    let (mut announce_at, mut announced) = (read_at, 0);
    loop {
        select_biased! {
            recv(fleet.events()) -> event => match event {
                Ok(event) => {
                    events::handle(event, fleet, &mut tunnels, &mut collector);
                    collector.go_on(fleet);
                }
                Err(_) => return,
            },
            recv(asked) -> request => if let Ok(request) = request {
                collector.ask(fleet, Some(request));
            },
            recv(look) -> _ => {
                if let Some(signal) = stop.requested() {
                    tracing::info!(signal, "stopping: no more packets are received, those in hand are sent");
                    return;
                }
                if announced < ANNOUNCEMENTS && Instant::now() >= announce_at {
                    fleet.send(0, Update::Announce);
                    announce_at += ANNOUNCE_EVERY;
                    announced += 1;
                }
                if read_at.elapsed() >= READ_EVERY {
                    read_at = Instant::now();
                    collector.ask(fleet, None);
                }
            },
        }
    }
}

fn start(config: &Config, ports: OpenPorts, crypto: Arc<Crypto>) -> Result<Fleet> {
    let mtu = ports.largest_mtu();
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
            max_policies: MAX_POLICIES,
            reassembly: ReassemblyConfig::default(),
            answers_per_second: ANSWERS,
            nat_port: NAT_PORT,
            ports: ports.worker_ports(),
        },
        devices: ports.into_devices(),
        crypto,
    };
    Fleet::start(fleet_config).context("cannot start the workers")
}

/// Tells the workers routes, SAs and policies, in this order: a policy never points at a tunnel that is not there.
fn install(config: &Config, tunnels: &Tunnels, fleet: &Fleet) {
    for &route in &config.routes {
        fleet.update_route(&RouteUpdate::Add(route));
    }
    for tunnel in tunnels.iter() {
        fleet.update_sa(&SaUpdate::AddInbound(Arc::clone(&tunnel.inbound)));
        fleet.update_sa(&SaUpdate::SetOutbound(Arc::clone(&tunnel.outbound), tunnel.endpoints));
    }
    for policy in tunnels.policies() {
        fleet.update_policy(&PolicyUpdate::Add(policy.clone()));
    }
    for worker in 0..fleet.len() {
        fleet.send(worker, Update::Barrier(0));
    }
}

fn engine(choice: CryptoEngine) -> EngineChoice {
    match choice {
        CryptoEngine::Auto => EngineChoice::Auto,
        CryptoEngine::AwsLc => EngineChoice::AwsLc,
        CryptoEngine::Vaes => EngineChoice::Vaes,
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
