//! What a worker looks packets up in. It alone writes them, at the batch boundary.

use std::net::IpAddr;

use crate::buffer::prefetch;
use crate::host::Interface;
use crate::message::Route;
use crate::packet::address::Address;
use crate::packet::ip::Version;
use crate::policy::spd::Spd;
use crate::port::PortId;
use crate::route::RouteTable;
use crate::sa::slot_table::SlotTable;
use crate::sa::spi_table::SpiTable;
use crate::sa::{Spi, TunnelId};
use crate::worker::WorkerConfig;
use crate::worker::slots::{InboundSlot, OutboundSlot};

pub(super) struct Tables {
    pub(super) inbound: SpiTable<InboundSlot>,
    pub(super) outbound: SlotTable<OutboundSlot>,
    pub(super) spd: Spd,
    pub(super) routes: RouteTable,
    pub(super) addresses: Addresses,
    /// Changes with every update that may have changed where a tunnel's peer is.
    pub(super) moves: u32,
}

/// Our own addresses. There are few, so a scan beats a search.
pub(super) struct Addresses {
    v4: Vec<(Address, Option<PortId>)>,
    v6: Vec<(Address, Option<PortId>)>,
    /// Changes with them and never becomes less.
    generation: u64,
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

    /// The same routes and policies, and nothing else of what was added.
    #[cfg(any(test, fuzzing))]
    pub(super) fn without_sas(self, config: &WorkerConfig) -> Self {
        Self {
            inbound: SpiTable::with_capacity(config.max_sas),
            outbound: SlotTable::with_limit(config.max_tunnels),
            addresses: Addresses::new(config),
            moves: 0,
            ..self
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

    /// Asks for what a packet needs of a tunnel's slot.
    #[inline]
    pub(super) fn prefetch_tunnel(&self, tunnel: TunnelId) {
        if let Some(slot) = self.outbound.address(tunnel.0) {
            prefetch(slot, OutboundSlot::USUAL);
        }
    }

    /// Asks for what a packet needs of an inbound SA's slot.
    #[inline]
    pub(super) fn prefetch_inbound(&self, spi: Spi) {
        if let Some(entry) = self.inbound.address(spi) {
            // The SPI stands in front.
            prefetch(entry, size_of::<u64>() + InboundSlot::USUAL);
        }
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
                let family = if net.addr().is_ipv4() { &mut v4 } else { &mut v6 };
                family.push((net.addr().into(), Some(port)));
            }
        }
        Self { v4, v6, generation: 0 }
    }

    /// Changes whenever an address comes or goes, and never becomes less.
    #[inline]
    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    /// One more, which is on no port.
    pub(super) fn add(&mut self, address: IpAddr) {
        self.remove(address);
        let family = if address.is_ipv4() { &mut self.v4 } else { &mut self.v6 };
        family.push((address.into(), None));
    }

    /// Takes back what [`Addresses::add`] did.
    pub(super) fn remove(&mut self, address: IpAddr) {
        self.generation += 1;
        let family = if address.is_ipv4() { &mut self.v4 } else { &mut self.v6 };
        family.retain(|&(known, port)| known.to_ip() != address || port.is_some());
    }

    /// Whether this address is ours.
    #[inline]
    pub(super) fn contains(&self, address: Address) -> bool {
        match address.version() {
            Version::V4 => self.v4.iter().any(|&(known, _)| known == address),
            Version::V6 => self.v6.iter().any(|&(known, _)| known == address),
        }
    }

    /// Whether this address is ours on this port.
    pub(super) fn is_on_port(&self, address: Address, port: PortId) -> bool {
        self.v4.iter().chain(&self.v6).any(|&known| known == (address, Some(port)))
    }

    /// Our address on a port, of the family of `like`.
    pub(super) fn on_port(&self, port: PortId, like: IpAddr) -> Option<IpAddr> {
        self.with_ports()
            .find(|&(address, at)| at == Some(port) && can_answer(address, like))
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

    fn with_ports(&self) -> impl Iterator<Item = (IpAddr, Option<PortId>)> + '_ {
        self.v4.iter().chain(&self.v6).map(|&(address, port)| (address.to_ip(), port))
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
