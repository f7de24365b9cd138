//! What a worker looks packets up in. It alone writes them, at the batch boundary.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use crate::host::Interface;
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
use crate::worker::next_hops::Adjacency;

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

/// Our own addresses. There are few, so a scan beats a search.
pub(super) struct Addresses {
    v4: Vec<(u32, PortId)>,
    v6: Vec<(u128, PortId)>,
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
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for (port, settings) in config.ports.iter().enumerate() {
            let port = port as PortId;
            // An Ethernet port has a link-local address beside the configured ones.
            let addresses = match settings.mac {
                Some(mac) => Interface::new(port, mac, &[], &settings.addresses).addresses().to_vec(),
                None => settings.addresses.clone(),
            };
            for net in addresses {
                match net.addr() {
                    IpAddr::V4(address) => v4.push((address.into(), port)),
                    IpAddr::V6(address) => v6.push((address.into(), port)),
                }
            }
        }
        Self { v4, v6 }
    }

    /// Whether this address is ours.
    #[inline]
    pub(super) fn contains(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => {
                let bits = u32::from(address);
                self.v4.iter().any(|&(known, _)| known == bits)
            }
            IpAddr::V6(address) => {
                let bits = u128::from(address);
                self.v6.iter().any(|&(known, _)| known == bits)
            }
        }
    }

    /// Our address on a port, of the family of `like`.
    pub(super) fn on_port(&self, port: PortId, like: IpAddr) -> Option<IpAddr> {
        self.with_ports()
            .find(|&(address, at)| at == port && can_answer(address, like))
            .map(|(address, _)| address)
    }

    /// Any address of ours of the family of `like`.
    pub(super) fn any(&self, like: IpAddr) -> Option<IpAddr> {
        self.all().find(|&address| can_answer(address, like))
    }

    /// All of our addresses.
    pub(super) fn all(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.with_ports().map(|(address, _)| address)
    }

    fn with_ports(&self) -> impl Iterator<Item = (IpAddr, PortId)> + '_ {
        let v4 = self.v4.iter().map(|&(bits, port)| (Ipv4Addr::from(bits).into(), port));
        v4.chain(self.v6.iter().map(|&(bits, port)| (Ipv6Addr::from(bits).into(), port)))
    }
}

/// Whether a packet from `own` to `peer` can arrive: same family, and a link-local address only to its like.
fn can_answer(own: IpAddr, peer: IpAddr) -> bool {
    match (own, peer) {
        (IpAddr::V4(_), IpAddr::V4(_)) => true,
        (IpAddr::V6(own), IpAddr::V6(peer)) => !own.is_unicast_link_local() || peer.is_unicast_link_local(),
        _ => false,
    }
}
