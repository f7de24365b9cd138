//! Where packets leave, remembered by destination: the routing table and the neighbours are asked once, and again
//! when either changed.

use crate::host::neighbour::NeighbourIndex;
use crate::packet::address::Address;
use crate::packet::ip::Version;
use crate::port::PortId;
use crate::sa::TunnelId;
use crate::worker::Worker;
use crate::worker::remembered::Remembered;
use crate::worker::slots::Exit;
use crate::worker::transmit::Egress;

/// Sets of four destinations that are remembered: 80 KB if all are in use.
const SETS: usize = 256;

/// Where packets to one destination leave. Good while the routing table's generation is the same and the neighbour
/// is known.
#[derive(Clone, Copy, Debug)]
pub(super) struct Adjacency {
    pub(super) generation: u64,
    pub(super) next_hop: Address,
    /// `None` on a port without Ethernet, and until the neighbour is first asked for.
    pub(super) neighbour: Option<NeighbourIndex>,
    pub(super) mtu: u32,
    pub(super) port: PortId,
}

/// Where packets leave, by destination, while routes stay what they are.
pub(super) struct NextHops {
    places: Remembered<Address, Adjacency>,
}

impl NextHops {
    pub(super) fn new() -> Self {
        let any = Address::v4([0; 4]);
        let nowhere = Adjacency { generation: 0, next_hop: any, neighbour: None, mtu: 0, port: 0 };
        Self { places: Remembered::new(SETS, any, nowhere) }
    }
}

/// By which port packets of a version leave, and to which neighbour: one word, since it is compared for each packet.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Hop(u64);

impl Hop {
    /// Above the neighbour's number and the port's.
    const HAS_NEIGHBOUR: u64 = 1 << 48;
    const V6: u64 = 1 << 49;

    #[inline(always)]
    fn new(port: PortId, version: Version, neighbour: Option<NeighbourIndex>) -> Self {
        let neighbour = neighbour.map_or(0, |index| u64::from(index.to_bits()) | Self::HAS_NEIGHBOUR);
        let version = if version == Version::V6 { Self::V6 } else { 0 };
        Self(neighbour | u64::from(port) << 32 | version)
    }

    #[inline]
    pub(super) fn port(self) -> PortId {
        (self.0 >> 32) as PortId
    }

    #[inline]
    pub(super) fn version(self) -> Version {
        if self.0 & Self::V6 != 0 { Version::V6 } else { Version::V4 }
    }

    /// As [`Adjacency::neighbour`].
    #[inline]
    pub(super) fn neighbour(self) -> Option<NeighbourIndex> {
        (self.0 & Self::HAS_NEIGHBOUR != 0).then(|| NeighbourIndex::from_bits(self.0 as u32))
    }
}

impl Adjacency {
    #[inline(always)]
    pub(super) fn hop(&self, version: Version) -> Hop {
        Hop::new(self.port, version, self.neighbour)
    }
}

/// How packets leave, for as long as they go to the same next hop.
#[derive(Default)]
pub(super) struct LastWay {
    known: Option<(Hop, Egress)>,
    /// A destination behind it, and what its link carries: packets to one host come in trains.
    destination: Option<(u32, u32)>,
}

impl LastWay {
    #[inline(always)]
    fn is_of(&self, hop: Hop) -> bool {
        self.known.as_ref().is_some_and(|(known, _)| *known == hop)
    }

    #[inline(always)]
    fn egress(&self) -> Option<&Egress> {
        self.known.as_ref().map(|(_, egress)| egress)
    }
}

impl Worker {
    /// How packets leave to this next hop; `None` while its Ethernet address is not known.
    #[inline(always)]
    pub(super) fn way<'l>(&mut self, hop: Hop, last: &'l mut LastWay) -> Option<&'l Egress> {
        if !last.is_of(hop) {
            *last = LastWay { known: Some((hop, self.egress(hop)?)), destination: None };
        }
        last.egress()
    }

    /// How an IPv4 packet of `len` bytes to `destination` leaves, if that is remembered and it fits.
    #[inline(always)]
    pub(super) fn usual_egress<'l>(
        &mut self,
        destination: u32,
        len: usize,
        last: &'l mut LastWay,
    ) -> Option<&'l Egress> {
        let mtu = match last.destination {
            Some((known, mtu)) if known == destination => mtu,
            _ => {
                let address = Address::v4(destination.to_be_bytes());
                let adjacency = *self.next_hops.places.find(address, self.tables.routes.generation())?;
                self.way(adjacency.hop(Version::V4), last)?;
                last.destination = Some((destination, adjacency.mtu));
                adjacency.mtu
            }
        };
        if len <= mtu as usize { last.egress() } else { None }
    }

    /// Where packets to `destination` leave.
    #[inline]
    pub(super) fn adjacency(&mut self, destination: Address) -> Option<Adjacency> {
        match self.remembered(destination) {
            Some(adjacency) if self.is_resolved(&adjacency) => Some(adjacency),
            _ => self.find_and_remember(destination),
        }
    }

    /// The port by which packets to `destination` leave, whether their next hop is known or not.
    pub(super) fn port_towards(&mut self, destination: Address) -> Option<PortId> {
        let adjacency = self.remembered(destination).or_else(|| self.find_and_remember(destination));
        adjacency.map(|adjacency| adjacency.port)
    }

    /// Where a tunnel's packets leave. `None` when it has no SA, or its peer no route. How they do is then in `last`, if their
    /// next hop is known.
    #[inline]
    pub(super) fn tunnel_exit(&mut self, tunnel: TunnelId, last: &mut LastWay) -> Option<Exit> {
        let slot = self.tables.tunnel(tunnel)?;
        if let Some(exit) = slot.exit
            && exit.generation == self.tables.routes.generation()
            && self.way(exit.hop, last).is_some()
        {
            return Some(exit);
        }
        self.find_exit(tunnel, last)
    }

    #[cold]
    fn find_exit(&mut self, tunnel: TunnelId, last: &mut LastWay) -> Option<Exit> {
        let adjacency = self.tunnel_adjacency(tunnel)?;
        let Adjacency { generation, mtu, .. } = adjacency;
        let slot = self.tables.tunnel_mut(tunnel)?;
        let hop = adjacency.hop(slot.outer.version());
        let exit = Exit { generation, hop, mtu };
        slot.exit = Some(exit);
        self.way(hop, last);
        Some(exit)
    }

    /// Where a tunnel's packets leave. `None` when it has no SA, or its peer no route.
    pub(super) fn tunnel_adjacency(&self, tunnel: TunnelId) -> Option<Adjacency> {
        self.find_adjacency(self.tables.tunnel(tunnel)?.endpoints.remote.into())
    }

    #[inline]
    fn remembered(&self, destination: Address) -> Option<Adjacency> {
        self.next_hops.places.find(destination, self.tables.routes.generation()).copied()
    }

    /// Whether the Ethernet address is known, or none is needed.
    #[inline]
    fn is_resolved(&mut self, adjacency: &Adjacency) -> bool {
        match adjacency.neighbour {
            Some(index) => self.local.neighbours.mac(index).is_some(),
            None => {
                self.ports.get(usize::from(adjacency.port)).is_some_and(|state| state.config.mac.is_none())
            }
        }
    }

    #[cold]
    fn find_and_remember(&mut self, destination: Address) -> Option<Adjacency> {
        let found = self.find_adjacency(destination)?;
        self.next_hops.places.remember(destination, found.generation, found);
        Some(found)
    }

    /// Where packets to a station leave that is on this port's own link, whatever the routes say: link-local addresses are
    /// in none (RFC 4291 s2.5.6).
    pub(super) fn adjacency_on_link(&self, port: PortId, destination: Address) -> Option<Adjacency> {
        Some(Adjacency {
            generation: self.tables.routes.generation(),
            next_hop: destination,
            neighbour: self.local.neighbours.find(port, destination.to_ip()),
            mtu: self.ports.get(usize::from(port))?.config.mtu,
            port,
        })
    }

    fn find_adjacency(&self, destination: Address) -> Option<Adjacency> {
        let routes = &self.tables.routes;
        let next_hop = routes.lookup(destination.to_ip())?;
        let state = self.ports.get(usize::from(next_hop.port))?;
        Some(Adjacency {
            generation: routes.generation(),
            next_hop: next_hop.address.into(),
            neighbour: self.local.neighbours.find(next_hop.port, next_hop.address),
            mtu: state.config.mtu,
            port: next_hop.port,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_hop_holds_what_it_was_made_of(port: PortId, v6: bool, neighbour: Option<u32>) {
            let version = if v6 { Version::V6 } else { Version::V4 };
            let neighbour = neighbour.map(NeighbourIndex::from_bits);
            let hop = Hop::new(port, version, neighbour);
            prop_assert_eq!((hop.port(), hop.version(), hop.neighbour()), (port, version, neighbour));
        }
    }
}
