//! IKEv2 in the appliance: the control thread's orders become SAs and policies of the workers, and what workers
//! tell goes to the control thread.
//!
//! Every child of the configuration has a tunnel id of its own that never gets an SA, its *hold*: policies send the
//! child's traffic there as long as no tunnel is up, so that it never leaves in the clear. A tunnel that comes up
//! claims the traffic that was negotiated for it.

mod inner;
mod install;
mod keylog;
mod proofs;
mod report;
mod translate;

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::ops::Range;
use std::sync::Arc;

use anyhow::{Context, Result};
use controlplane::keylog::esp_line;
use controlplane::selector::Packet;
use controlplane::thread::{ControlThread, Input, Order};
use controlplane::update::{ChildInstall, ChildUpdate};
use crossbeam::channel::{Receiver, never, unbounded};
use dataplane::crypto::Crypto;
use dataplane::fleet::Fleet;
use dataplane::message::{Datagram, SaUpdate, Update};
use dataplane::policy::{Action, Selector};
use dataplane::sa::{Endpoints, Spi, TunnelId};

use super::spd::{Claimant, SpdEntries};
use super::tunnels::{RowId, Tunnels};
use crate::config::{Config, OurProof, SaOptions, Start, TheirProof};

use inner::InnerAddresses;
use keylog::KeyLog;
pub(super) use report::Desk;

/// Reads the files that connections name, and says what is wrong with them.
///
/// # Errors
/// The first that cannot be used.
pub(super) fn check(config: &Config) -> Result<()> {
    translate::config(config, 0).map(drop)
}

/// What the configuration says of a child.
struct Plan {
    row: RowId,
    options: SaOptions,
    start: Start,
    /// Traffic that is held back while it is down.
    held: Vec<Selector>,
    /// Any peer may come for it: whoever else names the same traffic has it.
    shared: bool,
    /// Our side of it is an address that the peer gave us.
    assigned: bool,
}

/// A child by the names of its connection and its own.
type Name = (Arc<str>, Arc<str>);

/// The children of the configuration, before anything runs.
pub(super) struct Plans {
    first_hold: u32,
    /// In the order of their holds: first those that traffic sets up.
    children: Vec<(Name, Plan)>,
    on_demand: u32,
    key_log: Option<KeyLog>,
    inner: InnerAddresses,
    config: controlplane::config::Config,
}

impl Plans {
    /// Reads the configuration, and adds a row for each child. Tunnel ids start at `first_tunnel`.
    ///
    /// # Errors
    /// Files of certificates and keys that cannot be used.
    pub(super) fn new(config: &Config, first_tunnel: u32, tunnels: &mut Tunnels) -> Result<Self> {
        let mut children = Vec::new();
        for (connection_name, connection) in &config.connections {
            for (child_name, child) in &connection.children {
                let name = format!("{connection_name}/{child_name}");
                let row = tunnels.add_row(&name, connection.local.address, connection.remote.address);
                let held = translate::held(connection, child);
                let shared = connection.remote.address.is_none();
                let assigned = !child.assigned.is_empty();
                let options = child.options.clone();
                let plan = Plan { row, options, start: child.start, held, shared, assigned };
                children.push(((connection_name.as_str().into(), child_name.as_str().into()), plan));
            }
        }
        warn_of_anonymity(config);
        children.sort_by_key(|(_, plan)| plan.start != Start::Traffic);
        let holds = u32::try_from(children.len()).context("too many children")?;
        let on_demand = children.iter().filter(|(_, plan)| plan.start == Start::Traffic).count() as u32;
        let key_log = config.log.key_log.as_deref().map(KeyLog::open).transpose()?;
        let inner = InnerAddresses::new(config);
        let config = translate::config(config, first_tunnel + holds)?;
        Ok(Self { first_hold: first_tunnel, children, on_demand, key_log, inner, config })
    }

    /// Holds of the children that traffic sets up.
    pub(super) fn on_demand(&self) -> Range<u32> {
        self.first_hold..self.first_hold + self.on_demand
    }

    /// Names of the children by their holds, and the first of these.
    pub(super) fn holds(&self) -> (u32, Vec<String>) {
        let names = self.children.iter().map(|((connection, child), _)| format!("{connection}/{child}"));
        (self.first_hold, names.collect())
    }

    /// Lays claim to the traffic of all children, so that it is held back.
    pub(super) fn hold(&self, spd: &mut SpdEntries) {
        let mut children: Vec<_> = (self.first_hold..).zip(&self.children).collect();
        children.sort_by_key(|(_, (_, plan))| !plan.shared);
        for (hold, (_, plan)) in children {
            for selector in &plan.held {
                spd.claim(selector, Claimant::Configuration, Action::Protect(TunnelId(hold)));
            }
        }
    }

    /// Starts the control thread, unless there is nothing for it to do. We have these `addresses` at the start.
    ///
    /// # Errors
    /// When the system has no thread to give.
    pub(super) fn start(self, crypto: Arc<Crypto>, addresses: Vec<IpAddr>, desk: &Desk) -> Result<Ike> {
        let first_tunnel = self.config.first_tunnel;
        let holds = self.children.iter().map(|(name, _)| name.clone()).collect();
        let (thread, orders) = if self.config.connections.is_empty() {
            (None, never())
        } else {
            let (sender, orders) = unbounded();
            let thread =
                ControlThread::start(Arc::new(self.config), addresses, sender).context("IKE thread")?;
            desk.open(thread.asker());
            (Some(thread), orders)
        };
        Ok(Ike {
            thread,
            orders,
            first_tunnel,
            crypto,
            key_log: self.key_log,
            first_hold: self.first_hold,
            holds,
            children: self.children.into_iter().collect(),
            claims: HashMap::new(),
            inner: self.inner,
            barriers: VecDeque::new(),
        })
    }
}

/// IKEv2 at work.
pub(super) struct Ike {
    thread: Option<ControlThread>,
    orders: Receiver<Vec<Order>>,
    /// Tunnels from here on are negotiated.
    first_tunnel: u32,
    crypto: Arc<Crypto>,
    key_log: Option<KeyLog>,
    first_hold: u32,
    /// Children, by their holds.
    holds: Vec<Name>,
    children: HashMap<Name, Plan>,
    /// What each tunnel that is up has claimed.
    claims: HashMap<TunnelId, Arc<[Selector]>>,
    /// Addresses that peers gave us.
    inner: InnerAddresses,
    /// Barriers under way, and how many workers have not passed them.
    barriers: VecDeque<(u64, usize)>,
}

impl Ike {
    /// Where orders come from.
    pub(super) fn orders(&self) -> &Receiver<Vec<Order>> {
        &self.orders
    }

    /// Carries out the orders of one step.
    pub(super) fn carry_out(
        &mut self,
        orders: Vec<Order>,
        fleet: &Fleet,
        tunnels: &mut Tunnels,
        spd: &mut SpdEntries,
    ) {
        for order in orders {
            match order {
                Order::Update(update) => self.update(update, fleet, tunnels, spd),
                Order::Barrier(number) => {
                    self.barriers.push_back((number, fleet.len()));
                    for worker in 0..fleet.len() {
                        fleet.send(worker, Update::Barrier(number));
                    }
                }
                Order::Send(datagram) => fleet.inject(dataplane::message::Inject(datagram)),
                Order::LogKeys(keys) => {
                    if let Some(log) = &mut self.key_log {
                        match keys.line() {
                            Some(line) => log.write(&line),
                            None => {
                                tracing::warn!(suite = ?keys.suite, "Wireshark does not know these algorithms")
                            }
                        }
                    }
                }
                Order::Event(event) => tracing::debug!(?event, "IKE"),
            }
        }
    }

    /// A worker has passed a barrier. All of them pass all barriers in order.
    pub(super) fn passed(&mut self, number: u64) {
        if let Some((_, missing)) = self.barriers.iter_mut().find(|(barrier, _)| *barrier == number) {
            *missing = missing.saturating_sub(1);
        }
        while let Some((number, _)) = self.barriers.pop_front_if(|(_, missing)| *missing == 0) {
            self.tell(Input::InForce(number));
        }
    }

    /// Hands over a peer's datagram. `false` when there are too many, or nobody speaks IKE here.
    pub(super) fn receive(&self, datagram: Datagram) -> bool {
        self.thread.as_ref().is_some_and(|thread| thread.receive(datagram))
    }

    /// Whether the tunnel is negotiated. Those that are not are keyed by hand.
    pub(super) fn has(&self, tunnel: TunnelId) -> bool {
        tunnel.0 >= self.first_tunnel
    }

    /// A packet found no SA.
    pub(super) fn acquire(&self, hold: TunnelId, packet: Packet) {
        let index = hold.0.checked_sub(self.first_hold).map(|index| index as usize);
        if let Some((connection, child)) = index.and_then(|index| self.holds.get(index)) {
            let (connection, child) = (Arc::clone(connection), Arc::clone(child));
            self.tell(Input::Acquire { connection, child, packet });
        }
    }

    /// An SA reached a limit.
    pub(super) fn expired(&self, tunnel: TunnelId, spi: Spi, hard: bool) {
        self.tell(Input::Expired { tunnel, spi, hard });
    }

    /// An authentic packet came from elsewhere.
    pub(super) fn peer_moved(&self, tunnel: TunnelId, endpoints: Endpoints) {
        self.tell(Input::PeerMoved { tunnel, endpoints });
    }

    /// Our addresses that packets can come by are these from now on.
    pub(super) fn set_addresses(&self, addresses: Vec<IpAddr>) {
        self.tell(Input::Addresses(addresses));
    }

    /// Lets the control thread say goodbye. Orders go on coming until their channel is closed. `false` when there is
    /// no such thread, and so nobody to say goodbye to.
    pub(super) fn stop(&self) -> bool {
        self.tell(Input::Stop);
        self.thread.is_some()
    }

    fn tell(&self, input: Input) {
        if let Some(thread) = &self.thread {
            thread.tell(input);
        }
    }

    fn update(&mut self, update: ChildUpdate, fleet: &Fleet, tunnels: &mut Tunnels, spd: &mut SpdEntries) {
        self.log_keys(&update);
        match update {
            ChildUpdate::AddInbound(install) => {
                let Some(plan) = plan(&self.children, &install) else { return };
                match install::inbound(&install, &plan.options, &self.crypto) {
                    Ok(sa) => {
                        tunnels.add_inbound(plan.row, &sa);
                        fleet.update_sa(&SaUpdate::AddInbound(sa));
                    }
                    Err(error) => self.refuse(&install, &error),
                }
            }
            ChildUpdate::SetOutbound(install) => {
                let Some(plan) = plan(&self.children, &install) else { return };
                match install::outbound(&install, &plan.options, &self.crypto) {
                    Ok(sa) => {
                        tunnels.set_outbound(plan.row, &sa, install.endpoints);
                        fleet.update_sa(&SaUpdate::SetOutbound(sa, install.endpoints));
                        if plan.assigned {
                            let own = self.inner.set(install.tunnel, &install.selectors);
                            own.iter().for_each(|update| fleet.update_address(update));
                        }
                        self.claim(install.tunnel, &install.selectors, fleet, spd);
                    }
                    Err(error) => self.refuse(&install, &error),
                }
            }
            ChildUpdate::RemoveInbound { tunnel, spi } => {
                tunnels.remove_inbound(tunnel, spi);
                fleet.update_sa(&SaUpdate::RemoveInbound(spi));
            }
            ChildUpdate::RemoveOutbound(tunnel) => {
                self.release(tunnel, fleet, spd);
                self.inner.set(tunnel, &[]).iter().for_each(|update| fleet.update_address(update));
                tunnels.remove_outbound(tunnel);
                fleet.update_sa(&SaUpdate::RemoveOutbound(tunnel));
            }
            ChildUpdate::MovePeer(tunnel, endpoints) => {
                tunnels.move_peer(tunnel, endpoints);
                fleet.update_sa(&SaUpdate::MovePeer(tunnel, endpoints));
            }
        }
    }

    /// The tunnel takes the traffic that was negotiated for it. Policies point at it once it has an SA.
    fn claim(&mut self, tunnel: TunnelId, selectors: &Arc<[Selector]>, fleet: &Fleet, spd: &mut SpdEntries) {
        let before = self.claims.insert(tunnel, Arc::clone(selectors));
        if before.as_ref() == Some(selectors) {
            return;
        }
        for selector in selectors.iter() {
            fleet.update_policy(&spd.claim(selector, Claimant::Tunnel(tunnel), Action::Protect(tunnel)));
        }
        // A rekey may narrow: what is not negotiated any more goes back to who held it.
        for selector in before.iter().flat_map(|before| before.iter()) {
            if !selectors.contains(selector)
                && let Some(update) = spd.release(selector, Claimant::Tunnel(tunnel))
            {
                fleet.update_policy(&update);
            }
        }
    }

    /// The tunnel goes down: its traffic goes back to who held it.
    fn release(&mut self, tunnel: TunnelId, fleet: &Fleet, spd: &mut SpdEntries) {
        for selector in self.claims.remove(&tunnel).iter().flat_map(|claimed| claimed.iter()) {
            if let Some(update) = spd.release(selector, Claimant::Tunnel(tunnel)) {
                fleet.update_policy(&update);
            }
        }
    }

    fn log_keys(&mut self, update: &ChildUpdate) {
        let Some(log) = &mut self.key_log else { return };
        let line = match update {
            ChildUpdate::AddInbound(install) => esp_line(install, false),
            ChildUpdate::SetOutbound(install) => esp_line(install, true),
            _ => None,
        };
        line.iter().for_each(|line| log.write(line));
    }

    /// An SA could not be made: the Child SA is of no use.
    fn refuse(&self, install: &ChildInstall, error: &anyhow::Error) {
        let (connection, child) = (&install.connection, &install.child.name);
        tracing::error!(%connection, %child, spi = install.spi, "{error:#}; the Child SA is deleted");
        self.expired(install.tunnel, install.spi, true);
    }
}

/// Loud, since whoever reads the log may not be who wrote the configuration.
fn warn_of_anonymity(config: &Config) {
    for (connection, one) in &config.connections {
        if matches!(one.auth.theirs, TheirProof::Null) {
            tracing::warn!(%connection, "WHOEVER COMES IS LET IN: the peer need not prove who it is (`null_auth`, RFC 7619)");
        }
        if matches!(one.auth.ours, OurProof::Null) {
            tracing::warn!(%connection, "we do not prove who we are (`null_auth`, RFC 7619)");
        }
    }
}

fn plan<'a>(children: &'a HashMap<Name, Plan>, install: &ChildInstall) -> Option<&'a Plan> {
    children.get(&(Arc::clone(&install.connection), Arc::clone(&install.child.name)))
}
