//! What became of each connection and its children, for operators: what is down is listed as down, with the reason
//! and the last try.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use dataplane::sa::TunnelId;
use tracing::{info, warn};

use crate::config::{Config, Start};
use crate::endpoint::IkeStatus;
use crate::update::{Assigned, DownReason, Event};
use crate::wire::NotifyType;

/// A connection of the configuration.
#[derive(Clone, Debug)]
pub struct ConnectionStatus {
    /// Its name.
    pub name: Arc<str>,
    /// How often we tried to set up an IKE SA.
    pub tries: u64,
    /// When we did so last.
    pub last_try: Option<SystemTime>,
    /// The last thing that went wrong.
    pub trouble: Option<Trouble>,
    /// What the peer gave us, while there is an IKE SA.
    pub assigned: Option<Assigned>,
    /// Its IKE SAs.
    pub ike_sas: Vec<IkeStatus>,
    /// Its children.
    pub children: Vec<ChildReport>,
}

/// A child of a connection, up or down.
#[derive(Clone, Debug)]
pub struct ChildReport {
    /// Its name.
    pub name: Arc<str>,
    /// When it is set up.
    pub start: Start,
    /// How many tunnels it has: one for each peer.
    pub tunnels: usize,
    /// The last thing that went wrong.
    pub trouble: Option<Trouble>,
}

/// What went wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// When.
    pub at: SystemTime,
    /// What.
    pub reason: String,
}

/// All connections.
#[derive(Debug)]
pub(crate) struct Ledger {
    /// In the order of the configuration.
    connections: Vec<Entry>,
    by_name: HashMap<Arc<str>, usize>,
    /// Packets do not set off another attempt for so long after one that failed.
    pause: Duration,
}

#[derive(Debug)]
struct Entry {
    name: Arc<str>,
    tries: u64,
    last_try: Option<SystemTime>,
    failed: Option<Instant>,
    trouble: Option<Trouble>,
    assigned: Option<Assigned>,
    children: Vec<Child>,
}

#[derive(Debug)]
struct Child {
    name: Arc<str>,
    start: Start,
    tunnels: Vec<TunnelId>,
    trouble: Option<Trouble>,
}

impl Ledger {
    pub fn new(config: &Config) -> Self {
        let connections: Vec<_> = config
            .connections
            .iter()
            .map(|connection| Entry {
                name: connection.name.clone(),
                tries: 0,
                last_try: None,
                failed: None,
                trouble: None,
                assigned: None,
                children: connection
                    .children
                    .iter()
                    .map(|child| Child {
                        name: child.name.clone(),
                        start: child.start,
                        tunnels: Vec::new(),
                        trouble: None,
                    })
                    .collect(),
            })
            .collect();
        let by_name = connections.iter().enumerate().map(|(index, one)| (one.name.clone(), index)).collect();
        Self { connections, by_name, pause: config.peers.acquire_pause }
    }

    /// Enters news, and tells the log what the core has not told it.
    pub fn enter(&mut self, event: &Event, now: Instant, at: SystemTime) {
        match event {
            Event::Connecting { connection, .. } => self.with(connection, |entry| {
                entry.tries += 1;
                entry.last_try = Some(at);
            }),
            // What it gives us comes afterwards.
            Event::IkeUp { connection, .. } => self.with(connection, |entry| {
                (entry.failed, entry.assigned) = (None, None);
            }),
            Event::IkeDown { connection: Some(connection), reason, .. } => self.with(connection, |entry| {
                let wanted = matches!(reason, DownReason::Terminated | DownReason::Replaced);
                entry.failed = Some(now).filter(|_| !wanted);
                entry.trouble = Some(trouble(at, reason));
            }),
            Event::Refused { connection, remote, why } => self.with(connection, |entry| {
                entry.trouble = Some(Trouble { at, reason: format!("peer {remote} refused: {why}") });
            }),
            Event::ChildUp { connection, child, tunnel } => {
                info!(%connection, %child, tunnel = tunnel.0, "Child SA up");
                self.child(connection, child, |child| {
                    child.tunnels.push(*tunnel);
                    child.trouble = None;
                });
            }
            Event::ChildRekeyed { connection, child, spi, .. } => {
                info!(%connection, %child, spi = format!("{spi:08x}"), "Child SA rekeyed");
            }
            Event::ChildDown { connection, child, tunnel, reason } => {
                if matches!(reason, DownReason::Terminated) {
                    info!(%connection, %child, %reason, "Child SA down");
                } else {
                    warn!(%connection, %child, %reason, "Child SA down");
                }
                self.child(connection, child, |child| {
                    child.tunnels.retain(|up| up != tunnel);
                    child.trouble = Some(trouble(at, reason));
                });
            }
            Event::ChildFailed { connection, child, reason } => {
                // RFC 7296 s2.9: it makes Child SAs for packets alone.
                if !matches!(reason, DownReason::Rejected(NotifyType::SINGLE_PAIR_REQUIRED)) {
                    self.with(connection, |entry| entry.failed = Some(now));
                }
                self.child(connection, child, |child| child.trouble = Some(trouble(at, reason)));
            }
            Event::IkeRekeyed { connection, old, new } => {
                info!(%connection, old = %Spi(*old), new = %Spi(*new), "IKE SA rekeyed");
            }
            Event::Configured { connection, assigned } => {
                info!(%connection, addresses = ?assigned.addresses, dns = ?assigned.dns, subnets = ?assigned.subnets, "the peer assigned inner addresses");
                self.with(connection, |entry| entry.assigned = Some(assigned.clone()));
            }
            Event::IkeDown { connection: None, .. } => {}
        }
    }

    /// Whether a packet may set off an attempt now.
    pub fn may_try(&self, connection: &str, now: Instant) -> bool {
        let entry = self.by_name.get(connection).and_then(|&index| self.connections.get(index));
        entry.is_some_and(|entry| {
            entry.failed.is_none_or(|at| now.saturating_duration_since(at) >= self.pause)
        })
    }

    /// Whether a child, or all children, have a tunnel.
    pub fn is_up(&self, connection: &str, child: Option<&str>) -> bool {
        let entry = self.by_name.get(connection).and_then(|&index| self.connections.get(index));
        entry.is_some_and(|entry| {
            let named = entry.children.iter().filter(|one| child.is_none_or(|child| &*one.name == child));
            let mut named = named.peekable();
            named.peek().is_some() && named.all(|one| !one.tunnels.is_empty())
        })
    }

    /// All of it, joined with the IKE SAs of this moment.
    pub fn report(&self, sas: impl Iterator<Item = IkeStatus>) -> Vec<ConnectionStatus> {
        let mut by_connection: HashMap<Arc<str>, Vec<IkeStatus>> = HashMap::new();
        for sa in sas {
            if let Some(name) = &sa.connection {
                by_connection.entry(name.clone()).or_default().push(sa);
            }
        }
        let status = |entry: &Entry| {
            let mut ike_sas = by_connection.remove(&entry.name).unwrap_or_default();
            ike_sas.sort_by_key(|sa| sa.spi);
            ConnectionStatus {
                name: entry.name.clone(),
                tries: entry.tries,
                last_try: entry.last_try,
                trouble: entry.trouble.clone(),
                assigned: entry.assigned.clone().filter(|_| !ike_sas.is_empty()),
                ike_sas,
                children: entry.children.iter().map(Child::report).collect(),
            }
        };
        self.connections.iter().map(status).collect()
    }

    fn with(&mut self, connection: &str, change: impl FnOnce(&mut Entry)) {
        if let Some(entry) = self.by_name.get(connection).and_then(|&index| self.connections.get_mut(index)) {
            change(entry);
        }
    }

    fn child(&mut self, connection: &str, name: &str, change: impl FnOnce(&mut Child)) {
        self.with(connection, |entry| {
            if let Some(child) = entry.children.iter_mut().find(|child| &*child.name == name) {
                change(child);
            }
        });
    }
}

impl Child {
    fn report(&self) -> ChildReport {
        ChildReport {
            name: self.name.clone(),
            start: self.start,
            tunnels: self.tunnels.len(),
            trouble: self.trouble.clone(),
        }
    }
}

/// An IKE SPI as tshark and other peers show it.
struct Spi(u64);

impl std::fmt::Display for Spi {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

fn trouble(at: SystemTime, reason: &DownReason) -> Trouble {
    Trouble { at, reason: reason.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim;

    fn ledger() -> Ledger {
        Ledger::new(&config(Start::Traffic))
    }

    fn config(start: Start) -> Config {
        let [config, _] =
            sim::configs(|_, connection| Arc::make_mut(&mut connection.children[0]).start = start);
        config
    }

    fn net() -> Arc<str> {
        "net".into()
    }

    #[test]
    fn what_is_down_says_why_and_when_it_was_tried() {
        let (mut ledger, now, at) = (ledger(), Instant::now(), SystemTime::UNIX_EPOCH);
        let remote = ([198, 51, 100, 2], 500).into();
        ledger.enter(&Event::Connecting { connection: net(), ike: 7, remote }, now, at);
        let reason = DownReason::Rejected(NotifyType::AUTHENTICATION_FAILED);
        ledger.enter(&Event::IkeDown { connection: Some(net()), ike: 7, reason }, now, at);
        let [report] = &ledger.report(std::iter::empty())[..] else { panic!() };
        assert_eq!((report.tries, report.last_try), (1, Some(at)));
        assert_eq!(report.trouble.as_ref().unwrap().reason, "peer says AUTHENTICATION_FAILED");
        assert_eq!((&*report.children[0].name, report.children[0].tunnels), ("lan", 0));
    }

    #[test]
    fn what_the_peer_gave_us_is_shown_while_there_is_an_ike_sa() {
        let (mut ledger, now, at) = (ledger(), Instant::now(), SystemTime::UNIX_EPOCH);
        let peer = crate::auth::Identity::Null;
        let up = Event::IkeUp { connection: net(), ike: 7, peer };
        let assigned = Assigned { addresses: vec!["10.9.0.1".parse().unwrap()], ..Assigned::default() };
        ledger.enter(&up, now, at);
        ledger.enter(&Event::Configured { connection: net(), assigned: assigned.clone() }, now, at);
        let end = || std::net::SocketAddr::from(([198, 51, 100, 1], 500));
        let sa = IkeStatus {
            connection: Some(net()),
            spi: 7,
            peer_spi: 8,
            local: end(),
            remote: end(),
            peer: None,
            given: Vec::new(),
            state: "established",
            children: Vec::new(),
        };
        assert_eq!(ledger.report(std::iter::once(sa.clone()))[0].assigned, Some(assigned));
        assert_eq!(ledger.report(std::iter::empty())[0].assigned, None);
        ledger.enter(&up, now, at);
        assert_eq!(ledger.report(std::iter::once(sa))[0].assigned, None, "a new one, which gave nothing");
    }

    #[test]
    fn packets_do_not_hammer_a_peer_that_refuses() {
        let (mut ledger, now, at) = (ledger(), Instant::now(), SystemTime::UNIX_EPOCH);
        assert!(ledger.may_try("net", now));
        let reason = DownReason::Unreachable(String::new());
        ledger.enter(&Event::IkeDown { connection: Some(net()), ike: 7, reason }, now, at);
        assert!(!ledger.may_try("net", now + ledger.pause / 2));
        assert!(ledger.may_try("net", now + ledger.pause));
        let reason = DownReason::Terminated;
        ledger.enter(&Event::IkeDown { connection: Some(net()), ike: 7, reason }, now, at);
        assert!(ledger.may_try("net", now), "an operator who terminates does not forbid");
        assert!(!ledger.may_try("other", now));
    }

    #[test]
    fn the_pause_is_the_configured_one() {
        let mut config = config(Start::Traffic);
        config.peers.acquire_pause = Duration::from_secs(60);
        let (mut ledger, now) = (Ledger::new(&config), Instant::now());
        let reason = DownReason::Unreachable(String::new());
        let down = Event::IkeDown { connection: Some(net()), ike: 7, reason };
        ledger.enter(&down, now, SystemTime::UNIX_EPOCH);
        assert!(!ledger.may_try("net", now + Duration::from_secs(59)));
        assert!(ledger.may_try("net", now + Duration::from_secs(60)));
    }

    #[test]
    fn a_child_is_up_while_it_has_a_tunnel() {
        let (mut ledger, now, at) = (ledger(), Instant::now(), SystemTime::UNIX_EPOCH);
        let up = |tunnel| Event::ChildUp { connection: net(), child: "lan".into(), tunnel: TunnelId(tunnel) };
        let down = |tunnel| Event::ChildDown {
            connection: net(),
            child: "lan".into(),
            tunnel: TunnelId(tunnel),
            reason: DownReason::PeerDeleted,
        };
        ledger.enter(&up(1), now, at);
        ledger.enter(&up(2), now, at);
        ledger.enter(&down(1), now, at);
        assert!(ledger.is_up("net", Some("lan")) && ledger.is_up("net", None));
        assert!(!ledger.is_up("net", Some("wan")) && !ledger.is_up("other", None));
        ledger.enter(&down(2), now, at);
        assert!(!ledger.is_up("net", Some("lan")));
        let [report] = &ledger.report(std::iter::empty())[..] else { panic!() };
        assert_eq!(report.children[0].trouble.as_ref().unwrap().reason, "deleted by the peer");
    }
}
