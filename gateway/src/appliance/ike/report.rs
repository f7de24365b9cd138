//! What operators are told of connections, and what they have done to them.

use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use controlplane::config::Start;
use controlplane::endpoint::IkeStatus;
use controlplane::ledger::{ChildReport, ConnectionStatus, Trouble};
use controlplane::thread::{Asker, Report};
use controlplane::update::Assigned;
use controlplane::waiters::{Command, Verb};

use crate::config::Config;
use crate::control::Target;
use crate::snapshot as shown;

/// How long the control thread may take to say how things stand.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long it may take to say what came of a command: a little longer than it waits itself.
const COMMAND_PATIENCE: Duration = Duration::from_secs(25);

/// Answers about IKE from any thread.
pub(in crate::appliance) struct Desk {
    /// What the configuration says, in its order.
    connections: Vec<shown::Connection>,
    /// Set once the control thread runs; never without connections.
    asker: OnceLock<Asker>,
}

impl Desk {
    pub(in crate::appliance) fn new(config: &Config) -> Self {
        let connections = config.connections.iter().map(|(name, one)| shown::Connection {
            name: name.clone(),
            state: shown::ConnectionState::Down,
            local: one.local.address,
            remote: one.remote.address,
            local_id: one.local.id.to_string(),
            remote_id: one.remote.id.to_string(),
            tries: 0,
            last_try_seconds: None,
            last_error: None,
            assigned: None,
            ike_sas: Vec::new(),
            children: Vec::new(),
        });
        Self { connections: connections.collect(), asker: OnceLock::new() }
    }

    /// The control thread runs.
    pub(in crate::appliance) fn open(&self, asker: Asker) {
        // It is started once.
        let _ = self.asker.set(asker);
    }

    /// How things stand.
    pub(in crate::appliance) fn report(&self) -> shown::Ike {
        let Some(asker) = self.asker.get() else {
            let connections = self.connections.clone();
            return shown::Ike { connections, ..shown::Ike::default() };
        };
        let report = asker.report(PATIENCE).unwrap_or_else(|| {
            tracing::warn!("IKE gives no answer for {} s", PATIENCE.as_secs());
            Report::default()
        });
        let now = SystemTime::now();
        let mut statuses = report.connections.into_iter();
        let join = |fixed: &shown::Connection| match statuses.next() {
            Some(status) => join(fixed.clone(), status, now),
            None => fixed.clone(),
        };
        let connections = self.connections.iter().map(join).collect();
        let rejections = report.rejections.into_iter().map(|(name, packets)| {
            let reason = format!("ike_{}", name.replace('-', "_"));
            shown::Drop { reason, packets }
        });
        shown::Ike {
            connections,
            rejections: rejections.collect(),
            half_open: report.half_open,
            puzzles_solved: report.served_under_attack.solved,
            puzzles_by_lot: report.served_under_attack.by_lot,
        }
    }

    /// Has something done.
    pub(in crate::appliance) fn operate(&self, verb: Verb, target: &Target) -> Result<String, String> {
        let Some(asker) = self.asker.get() else {
            return Err("the configuration has no connections".to_owned());
        };
        let child = target.child.as_deref().map(Into::into);
        let command = Command { verb, connection: target.connection.as_str().into(), child };
        asker.command(command, COMMAND_PATIENCE).unwrap_or_else(|| Err("IKE gives no answer".to_owned()))
    }
}

fn join(fixed: shown::Connection, status: ConnectionStatus, now: SystemTime) -> shown::Connection {
    let established = |sa: &IkeStatus| !matches!(sa.state, "connecting" | "half-open");
    let state = match status.ike_sas.as_slice() {
        [] => shown::ConnectionState::Down,
        sas if sas.iter().any(established) => shown::ConnectionState::Up,
        _ => shown::ConnectionState::Connecting,
    };
    shown::Connection {
        state,
        tries: status.tries,
        last_try_seconds: status.last_try.map(|at| seconds(at, now)),
        last_error: status.trouble.map(|trouble| show_trouble(trouble, now)),
        assigned: status.assigned.map(|Assigned { addresses, dns, subnets }| shown::Assigned {
            addresses,
            dns,
            subnets,
        }),
        ike_sas: status.ike_sas.into_iter().map(show_sa).collect(),
        children: status.children.into_iter().map(|child| show_child(child, now)).collect(),
        ..fixed
    }
}

fn show_sa(sa: IkeStatus) -> shown::IkeSa {
    let children = sa.children.into_iter().map(|child| shown::ChildSa {
        name: child.name.to_string(),
        spi_in: child.spi_in,
        spi_out: child.spi_out,
        sending: child.active,
    });
    shown::IkeSa {
        spi: format!("{:016x}", sa.spi),
        peer_spi: format!("{:016x}", sa.peer_spi),
        state: sa.state.to_owned(),
        local: sa.local,
        remote: sa.remote,
        peer: sa.peer.map(|peer| peer.to_string()),
        given: sa.given,
        children: children.collect(),
    }
}

fn show_child(child: ChildReport, now: SystemTime) -> shown::ConnectionChild {
    let start = match child.start {
        Start::Boot => "boot",
        Start::Traffic => "traffic",
        Start::Wait => "wait",
    };
    shown::ConnectionChild {
        name: child.name.to_string(),
        tunnels: child.tunnels,
        start: start.to_owned(),
        last_error: child.trouble.map(|trouble| show_trouble(trouble, now)),
    }
}

fn show_trouble(trouble: Trouble, now: SystemTime) -> shown::Trouble {
    shown::Trouble { reason: trouble.reason, seconds: seconds(trouble.at, now) }
}

/// Since then. A clock that was set back makes it no time.
fn seconds(at: SystemTime, now: SystemTime) -> u64 {
    now.duration_since(at).unwrap_or_default().as_secs()
}
