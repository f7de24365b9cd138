//! What a worker looks packets up in. It alone writes them, at the batch boundary.

use std::net::IpAddr;
use std::sync::Arc;

use crate::host::neighbour::NeighbourIndex;
use crate::message::Route;
use crate::outer::Outer;
use crate::policy::spd::Spd;
use crate::port::PortId;
use crate::route::RouteTable;
use crate::sa::counters::SaCounters;
use crate::sa::lifetime::Lease;
use crate::sa::slot_table::SlotTable;
use crate::sa::spi_table::SpiTable;
use crate::sa::{Endpoints, InboundSa, OutboundSa, TunnelId};
use crate::worker::WorkerConfig;

pub(super) struct Tables {
    pub(super) inbound: SpiTable<InboundSlot>,
    pub(super) outbound: SlotTable<OutboundSlot>,
    pub(super) spd: Spd,
    pub(super) routes: RouteTable,
    pub(super) addresses: Addresses,
    /// Changes with every update that may have changed where a tunnel's peer is.
    pub(super) moves: u32,
}

/// An inbound SA and what this worker keeps of it.
pub(super) struct InboundSlot {
    pub(super) sa: Arc<InboundSa>,
    pub(super) lease: Lease,
    pub(super) counters: SaCounters,
    /// Where its packets come from. Packets from there need no look at the tunnel's own endpoints while
    /// [`Tables::moves`] is what it was.
    pub(super) heard: (Endpoints, u32),
}

/// A tunnel's outbound SA and what this worker keeps of it.
pub(super) struct OutboundSlot {
    pub(super) sa: Arc<OutboundSa>,
    pub(super) outer: Outer,
    pub(super) endpoints: Endpoints,
    pub(super) adjacency: Option<Adjacency>,
    pub(super) lease: Lease,
    pub(super) counters: SaCounters,
    pub(super) quiet: Quiet,
}

/// Since when no worker has sent on an SA. The SA's sequence number tells, so that sending costs nothing extra.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Quiet {
    /// The next sequence number at the last look.
    pub(super) next: u64,
    /// When it last changed, or we sent something without one.
    pub(super) since: u64,
}

/// Where packets to one destination leave, valid while the routing table's generation is the same.
#[derive(Clone, Copy, Debug)]
pub(super) struct Adjacency {
    pub(super) generation: u64,
    pub(super) port: PortId,
    pub(super) mtu: u32,
    pub(super) next_hop: IpAddr,
    /// `None` on a port without Ethernet.
    pub(super) neighbour: Option<NeighbourIndex>,
}

/// Our own addresses.
pub(super) struct Addresses {
    sorted: Vec<(IpAddr, PortId)>,
}

impl Tables {
    pub(super) fn new(config: &WorkerConfig) -> Self {
        let mut routes = RouteTable::new();
        for (port, settings) in config.ports.iter().enumerate() {
            for address in &settings.addresses {
                let route = Route { to: address.trunc(), port: Some(port as PortId), via: None };
                routes.insert(route);
            }
        }
        Self {
            inbound: SpiTable::with_capacity(config.max_sas),
            outbound: SlotTable::with_limit(config.max_tunnels),
            spd: Spd::with_capacity(config.max_policies),
            routes,
            addresses: Addresses::new(config),
            moves: 0,
        }
    }
}

impl Tables {
    /// A tunnel's outbound SA.
    #[inline]
    pub(super) fn tunnel(&self, tunnel: TunnelId) -> Option<&OutboundSlot> {
        self.outbound.get(tunnel.0)
    }

    /// A tunnel's outbound SA, to change.
    #[inline]
    pub(super) fn tunnel_mut(&mut self, tunnel: TunnelId) -> Option<&mut OutboundSlot> {
        self.outbound.get_mut(tunnel.0)
    }
}

impl OutboundSlot {
    pub(super) fn new(sa: Arc<OutboundSa>, endpoints: Endpoints) -> Self {
        let outer = Outer::new(&endpoints, sa.params.protocol.number(), sa.options.ttl);
        Self {
            sa,
            outer,
            endpoints,
            adjacency: None,
            lease: Lease::default(),
            counters: SaCounters::default(),
            quiet: Quiet::default(),
        }
    }

    /// Sends to another address or port from now on. What was learned of the old path does not hold for the new.
    pub(super) fn move_to(&mut self, endpoints: Endpoints) {
        self.outer = Outer::new(&endpoints, self.sa.params.protocol.number(), self.sa.options.ttl);
        self.endpoints = endpoints;
        self.adjacency = None;
        self.sa.path_mtu.forget();
    }
}

impl InboundSlot {
    pub(super) fn new(sa: Arc<InboundSa>, moves: u32) -> Self {
        let heard = (sa.endpoints, moves);
        Self { sa, lease: Lease::default(), counters: SaCounters::default(), heard }
    }
}

impl Addresses {
    fn new(config: &WorkerConfig) -> Self {
        let mut sorted: Vec<_> = config
            .ports
            .iter()
            .enumerate()
            .flat_map(|(port, settings)| {
                settings.addresses.iter().map(move |net| (net.addr(), port as PortId))
            })
            .collect();
        sorted.sort_unstable();
        Self { sorted }
    }

    /// The port that has this address.
    #[inline]
    pub(super) fn port_of(&self, address: IpAddr) -> Option<PortId> {
        let at = self.sorted.binary_search_by_key(&address, |&(known, _)| known).ok()?;
        self.sorted.get(at).map(|&(_, port)| port)
    }

    /// Our address on a port, of the family of `like`.
    pub(super) fn on_port(&self, port: PortId, like: IpAddr) -> Option<IpAddr> {
        let here = |(address, at): &&(IpAddr, PortId)| *at == port && address.is_ipv4() == like.is_ipv4();
        self.sorted.iter().find(here).map(|&(address, _)| address)
    }

    /// Any address of ours of the family of `like`.
    pub(super) fn any(&self, like: IpAddr) -> Option<IpAddr> {
        self.all().find(|address| address.is_ipv4() == like.is_ipv4())
    }

    /// All of our addresses.
    pub(super) fn all(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.sorted.iter().map(|&(address, _)| address)
    }
}
