//! What a worker looks packets up in. It alone writes them, at the batch boundary.

use std::mem::offset_of;
use std::net::IpAddr;
use std::sync::Arc;

use crate::buffer::prefetch;
use crate::host::Interface;
use crate::message::Route;
use crate::outer::Outer;
use crate::packet::address::Address;
use crate::packet::ip::Version;
use crate::policy::spd::Spd;
use crate::port::PortId;
use crate::route::RouteTable;
use crate::sa::counters::SaCounters;
use crate::sa::lifetime::Lease;
use crate::sa::slot_table::SlotTable;
use crate::sa::spi_table::SpiTable;
use crate::sa::{Endpoints, InboundSa, OutboundSa, Spi, TunnelId, UdpPorts};
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

/// An inbound SA and what this worker keeps of it. What every packet needs comes first, up to the counters' drops.
#[repr(C)]
pub(super) struct InboundSlot {
    pub(super) sa: Arc<InboundSa>,
    /// Where its packets come from. Packets from there need no look at the tunnel's own endpoints while
    /// [`Tables::moves`] is what it was.
    pub(super) heard: (Whence, u32),
    pub(super) lease: Lease,
    pub(super) counters: SaCounters,
}

/// Where a packet came from, with our own side as it was addressed: [`Endpoints`] that are quick to compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Whence {
    local: Address,
    remote: Address,
    udp: Option<(u16, u16)>,
}

/// A tunnel's outbound SA and what this worker keeps of it, ordered as [`InboundSlot`] is.
#[repr(C)]
pub(super) struct OutboundSlot {
    pub(super) sa: Arc<OutboundSa>,
    pub(super) adjacency: Option<Adjacency>,
    pub(super) lease: Lease,
    pub(super) outer: Outer,
    pub(super) counters: SaCounters,
    pub(super) endpoints: Endpoints,
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
            prefetch(slot, offset_of!(OutboundSlot, counters) + COUNTED);
        }
    }

    /// Asks for what a packet needs of an inbound SA's slot.
    #[inline]
    pub(super) fn prefetch_inbound(&self, spi: Spi) {
        if let Some(entry) = self.inbound.address(spi) {
            // The SPI stands in front.
            prefetch(entry, size_of::<u64>() + offset_of!(InboundSlot, counters) + COUNTED);
        }
    }
}

/// Counters of packets and bytes.
const COUNTED: usize = 2 * size_of::<u64>();

impl OutboundSlot {
    pub(super) fn new(sa: Arc<OutboundSa>, endpoints: Endpoints) -> Self {
        let outer = Outer::new(&endpoints, sa.params.protocol.number(), sa.options.ttl);
        Self {
            sa,
            adjacency: None,
            lease: Lease::default(),
            outer,
            counters: SaCounters::default(),
            endpoints,
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

impl Whence {
    /// Of a packet that was parsed before: its IP header is `ip_len` bytes long, and a UDP header is behind it when its
    /// protected header is not, but at `at`.
    #[inline]
    pub(super) fn read(packet: &[u8], ip_len: usize, at: usize) -> Self {
        let v4 = |at: usize| Address::v4(copy(packet, at));
        let v6 = |at: usize| Address::v6(copy(packet, at));
        let (remote, local) = match packet.first() {
            Some(byte) if byte >> 4 == 6 => (v6(8), v6(24)),
            _ => (v4(12), v4(16)),
        };
        let port = |at: usize| u16::from_be_bytes(copy(packet, at));
        let udp = (at != ip_len).then(|| (port(ip_len + 2), port(ip_len)));
        Self { local, remote, udp }
    }
}

/// `N` bytes at `at`; zeros behind the end.
#[inline]
fn copy<const N: usize>(packet: &[u8], at: usize) -> [u8; N] {
    packet.get(at..).and_then(|rest| rest.first_chunk()).copied().unwrap_or([0; N])
}

impl From<Endpoints> for Whence {
    fn from(endpoints: Endpoints) -> Self {
        Self {
            local: endpoints.local.into(),
            remote: endpoints.remote.into(),
            udp: endpoints.udp.map(|ports| (ports.local, ports.remote)),
        }
    }
}

impl From<Whence> for Endpoints {
    fn from(whence: Whence) -> Self {
        Self {
            local: whence.local.to_ip(),
            remote: whence.remote.to_ip(),
            udp: whence.udp.map(|(local, remote)| UdpPorts { local, remote }),
        }
    }
}

impl InboundSlot {
    pub(super) fn new(sa: Arc<InboundSa>, moves: u32) -> Self {
        let heard = (sa.endpoints.into(), moves);
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
