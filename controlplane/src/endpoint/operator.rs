//! What an operator, the data plane or the configuration asks for.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use dataplane::sa::{Endpoints, Spi, TunnelId};
use thiserror::Error;

use super::Endpoint;
use crate::auth::Identity;
use crate::config::{Connection, RemoteAddress, Start};
use crate::crypto::Random;
use crate::rejection::Rejection;
use crate::sa::{Context, IkeSa, Path, Sent, State, Task, Traffic, Wanted};
use crate::selector::Packet;
use crate::update::{DownReason, Event};

/// The UDP port of IKE.
const IKE_PORT: u16 = 500;

/// Why something cannot be done.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum OperatorError {
    /// No connection has this name.
    #[error("no connection `{0}`")]
    NoConnection(String),
    /// The connection has no child of this name.
    #[error("connection `{0}` has no child `{1}`")]
    NoChild(String, String),
    /// The connection does not say where the peer is.
    #[error("connection `{0}` has no remote address: it only responds")]
    NoRemote(String),
    /// No address of ours that the connection may use, of the family of the peer's.
    #[error("connection `{0}` has no local address to begin from")]
    NoLocal(String),
    /// There is nothing to do it to.
    #[error("connection `{0}` is not up")]
    NotUp(String),
}

/// An IKE SA, for `show`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IkeStatus {
    /// Name of the connection, once it is known.
    pub connection: Option<Arc<str>>,
    /// Our SPI.
    pub spi: u64,
    /// The peer's SPI.
    pub peer_spi: u64,
    /// Our address and port.
    pub local: SocketAddr,
    /// The peer's.
    pub remote: SocketAddr,
    /// Who the peer proved to be.
    pub peer: Option<Identity>,
    /// Inner addresses that we gave the peer.
    pub given: Vec<IpAddr>,
    /// Its state in a word.
    pub state: &'static str,
    /// Its Child SAs.
    pub children: Vec<ChildStatus>,
}

/// A Child SA, for `show`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChildStatus {
    /// Its name.
    pub name: Arc<str>,
    /// Its tunnel.
    pub tunnel: TunnelId,
    /// SPI that we receive on.
    pub spi_in: Spi,
    /// SPI that we send on.
    pub spi_out: Spi,
    /// The tunnel sends on it.
    pub active: bool,
}

impl Endpoint {
    /// Sets up what the configuration wants up from the start.
    pub fn start(&mut self, now: Instant, rng: &mut dyn Random) {
        for connection in self.config.connections.clone() {
            let boot = connection.children.iter().filter(|child| child.start == Start::Boot);
            let children: Vec<_> = boot.map(Wanted::all).collect();
            if !children.is_empty() {
                self.bring_up(now, rng, &connection, &children);
            }
        }
    }

    /// Sets up a connection with all its children, or with one.
    pub fn initiate(
        &mut self,
        now: Instant,
        rng: &mut dyn Random,
        connection: &str,
        child: Option<&str>,
    ) -> Result<(), OperatorError> {
        self.set_up(now, rng, connection, child, Traffic::All)
    }

    /// A packet needs a child of a connection: sets it up, if it is one that traffic brings up, or another Child SA of
    /// it, if those that there are do not carry the packet. Nothing happens when packets cannot ask for it.
    pub fn acquire(
        &mut self,
        now: Instant,
        rng: &mut dyn Random,
        connection: &str,
        child: &str,
        packet: Packet,
    ) -> Result<(), OperatorError> {
        let found = self.find(connection)?;
        let no_child = || OperatorError::NoChild(connection.into(), child.into());
        let config = found.child(child).ok_or_else(no_child)?;
        let may = match config.start {
            Start::Traffic => true,
            Start::Boot => self.of(&found).any(|sa| match &sa.state {
                State::Established(established) => established.lets_packets_ask(config),
                _ => false,
            }),
            Start::Wait => false,
        };
        if may && self.spis.len() >= self.config.peers.child_sas {
            self.out.counters.count(Rejection::ChildSaLimit);
        } else if may {
            self.set_up(now, rng, connection, Some(child), Traffic::Packet(packet))?;
        }
        Ok(())
    }

    fn set_up(
        &mut self,
        now: Instant,
        rng: &mut dyn Random,
        connection: &str,
        child: Option<&str>,
        traffic: Traffic,
    ) -> Result<(), OperatorError> {
        let connection = self.find(connection)?;
        let name = || connection.name.to_string();
        let children = match child {
            None => connection.children.iter().map(Wanted::all).collect(),
            Some(child) => {
                let missing = || OperatorError::NoChild(name(), child.into());
                let config = connection.child(child).ok_or_else(missing)?.clone();
                vec![Wanted { config, traffic }]
            }
        };
        if connection.remote == RemoteAddress::Any {
            return Err(OperatorError::NoRemote(name()));
        }
        if self.way(&connection).is_none() {
            return Err(OperatorError::NoLocal(name()));
        }
        self.bring_up(now, rng, &connection, &children);
        Ok(())
    }

    /// Takes down a connection, or one of its children.
    pub fn terminate(
        &mut self,
        now: Instant,
        rng: &mut dyn Random,
        connection: &str,
        child: Option<&str>,
    ) -> Result<(), OperatorError> {
        let connection = self.find(connection)?;
        self.restarts.retain(|(_, waiting, _)| waiting.name != connection.name);
        self.each(now, rng, &connection, |sa, ctx| match (&mut sa.state, child) {
            (State::Established(established), None) => {
                established.leave(ctx, DownReason::Terminated);
                established.advance(&mut sa.core, ctx);
            }
            (State::Established(established), Some(child)) => {
                let spis = established
                    .children
                    .iter()
                    .filter(|one| &*one.config.name == child)
                    .map(|one| one.spi_in);
                for spi in spis.collect::<Vec<_>>() {
                    established.add_task(ctx.now, Task::DeleteChild { spi, reason: DownReason::Terminated });
                }
                established.advance(&mut sa.core, ctx);
            }
            (_, None) => sa.abolish(ctx, DownReason::Terminated),
            (_, Some(_)) => {}
        })
    }

    /// Takes everything down and tells the peers. What is only half set up is forgotten, and nothing new begins.
    pub fn shut_down(&mut self, now: Instant, rng: &mut dyn Random) {
        self.closing = true;
        self.restarts.clear();
        for spi in self.sas.keys().copied().collect::<Vec<_>>() {
            self.serve(now, rng, spi, |sa, ctx| match &mut sa.state {
                State::Established(established) => {
                    established.leave(ctx, DownReason::Terminated);
                    established.advance(&mut sa.core, ctx);
                }
                _ => sa.abolish(ctx, DownReason::Terminated),
            });
        }
    }

    /// Rekeys the IKE SA of a connection.
    pub fn rekey_ike(
        &mut self,
        now: Instant,
        rng: &mut dyn Random,
        connection: &str,
    ) -> Result<(), OperatorError> {
        let connection = self.find(connection)?;
        self.each(now, rng, &connection, |sa, ctx| {
            if let State::Established(established) = &mut sa.state {
                established.add_task(ctx.now, Task::RekeyIke { group: None });
                established.advance(&mut sa.core, ctx);
            }
        })
    }

    /// Rekeys a child of a connection.
    pub fn rekey_child(
        &mut self,
        now: Instant,
        rng: &mut dyn Random,
        connection: &str,
        child: &str,
    ) -> Result<(), OperatorError> {
        let connection = self.find(connection)?;
        self.each(now, rng, &connection, |sa, ctx| {
            if let State::Established(established) = &mut sa.state {
                let named =
                    established.children.iter().filter(|one| one.active && &*one.config.name == child);
                for spi in named.map(|one| one.spi_in).collect::<Vec<_>>() {
                    established.add_task(ctx.now, Task::RekeyChild { spi, group: None });
                }
                established.advance(&mut sa.core, ctx);
            }
        })
    }

    /// The data plane used up an SA, by its inbound or outbound SPI: soft means to rekey it, hard that it is dead.
    pub fn child_expired(
        &mut self,
        now: Instant,
        rng: &mut dyn Random,
        tunnel: TunnelId,
        spi: Spi,
        hard: bool,
    ) {
        let Some(owner) = self.tunnels.owner(tunnel) else { return };
        self.serve(now, rng, owner, |sa, ctx| {
            let State::Established(established) = &mut sa.state else { return };
            let children = established.children.iter().filter(|child| child.tunnel == tunnel);
            let mut found =
                children.filter(|one| one.spi_in == spi || one.spi_out == spi).map(|one| one.spi_in);
            let Some(spi_in) = found.next() else { return };
            drop(found);
            let task = if hard {
                Task::DeleteChild { spi: spi_in, reason: DownReason::Expired }
            } else {
                Task::RekeyChild { spi: spi_in, group: None }
            };
            established.add_task(ctx.now, task);
            established.advance(&mut sa.core, ctx);
        });
    }

    /// The data plane saw an authentic packet of the tunnel come from another address or port: a NAT mapping
    /// moved (RFC 7296 s2.23).
    pub fn peer_moved(&mut self, now: Instant, rng: &mut dyn Random, tunnel: TunnelId, seen: Endpoints) {
        let Some(owner) = self.tunnels.owner(tunnel) else { return };
        self.serve(now, rng, owner, |sa, ctx| sa.peer_moved(ctx, seen));
    }

    /// The addresses that this gateway has now. Connections begin from one of them that they may use; those with
    /// MOBIKE move when theirs is gone, or when one that they prefer is there again, and tell their peers of the others
    /// (RFC 4555). Before the first call all configured addresses count as present.
    pub fn set_local_addresses(&mut self, now: Instant, rng: &mut dyn Random, addresses: Vec<IpAddr>) {
        if self.addresses.as_ref() == Some(&addresses) {
            return;
        }
        let before = self.addresses.replace(addresses);
        let mut spis: Vec<_> = self.sas.keys().copied().collect();
        spis.sort_unstable();
        for spi in spis {
            self.serve(now, rng, spi, |sa, ctx| sa.addresses_changed(ctx, before.as_deref()));
        }
    }

    /// All IKE SAs.
    pub fn status(&self) -> impl Iterator<Item = IkeStatus> {
        self.sas.values().map(|sa| {
            let (peer, children) = match &sa.state {
                State::Established(established) => {
                    let children = established.children.iter().map(|child| ChildStatus {
                        name: child.config.name.clone(),
                        tunnel: child.tunnel,
                        spi_in: child.spi_in,
                        spi_out: child.spi_out,
                        active: child.active,
                    });
                    (Some(established.peer.clone()), children.collect())
                }
                _ => (None, Vec::new()),
            };
            IkeStatus {
                connection: sa.connection().map(|connection| connection.name.clone()),
                spi: sa.core.spi,
                peer_spi: sa.core.peer_spi,
                local: sa.core.path.local,
                remote: sa.core.path.remote,
                peer,
                given: sa.core.inner.remote.clone(),
                state: sa.state.name(),
                children,
            }
        })
    }

    /// Makes children of a connection be set up: on the IKE SA that it has, or on a new one.
    pub(super) fn bring_up(
        &mut self,
        now: Instant,
        rng: &mut dyn Random,
        connection: &Arc<Connection>,
        children: &[Wanted],
    ) {
        let existing = self.of(connection).find(|sa| sa.takes_children()).map(|sa| sa.core.spi);
        if let Some(spi) = existing {
            return self.serve(now, rng, spi, |sa, ctx| sa.add_children(ctx, children));
        }
        let Some((local, remote)) = self.way(connection) else { return };
        let port = if connection.start_on_4500 { crate::sa::NAT_PORT } else { IKE_PORT };
        let path = Path { local: SocketAddr::new(local, port), remote: SocketAddr::new(remote, port) };
        match Sent::start(&mut self.context(now, rng, 0), connection.clone(), children.to_vec(), path) {
            Ok(sa) => {
                let (connection, ike) = (connection.name.clone(), sa.core.spi);
                self.out.events.push_back(Event::Connecting { connection, ike, remote: path.remote });
                self.put_back(now, sa);
            }
            Err(reason) => {
                let connection = Some(connection.name.clone());
                self.out.events.push_back(Event::IkeDown { connection, ike: 0, reason });
            }
        }
    }

    /// The addresses to begin a connection with: the first pair of one family.
    fn way(&self, connection: &Connection) -> Option<(IpAddr, IpAddr)> {
        let RemoteAddress::Addresses(theirs) = &connection.remote else { return None };
        let mut ours = crate::sa::usable(connection, self.addresses.as_deref());
        if ours.is_empty() {
            // What we send may be repeated until one of them is there.
            ours.clone_from(&connection.local_addresses);
        }
        let pairs = theirs.iter().flat_map(|&remote| ours.iter().map(move |&local| (local, remote)));
        pairs.into_iter().find(|(local, remote)| local.is_ipv4() == remote.is_ipv4())
    }

    fn find(&self, name: &str) -> Result<Arc<Connection>, OperatorError> {
        self.directory.named(name).cloned().ok_or_else(|| OperatorError::NoConnection(name.into()))
    }

    pub(super) fn of<'a>(&'a self, connection: &'a Arc<Connection>) -> impl Iterator<Item = &'a IkeSa> {
        self.connections.of(&connection.name).filter_map(|spi| self.sas.get(&spi))
    }

    fn each(
        &mut self,
        now: Instant,
        rng: &mut dyn Random,
        connection: &Arc<Connection>,
        mut step: impl FnMut(&mut IkeSa, &mut Context<'_>),
    ) -> Result<(), OperatorError> {
        let spis: Vec<_> = self.connections.of(&connection.name).collect();
        if spis.is_empty() {
            return Err(OperatorError::NotUp(connection.name.to_string()));
        }
        for spi in spis {
            self.serve(now, rng, spi, &mut step);
        }
        Ok(())
    }
}
