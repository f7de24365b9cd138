//! Where packets leave, remembered by destination: the routing table and the neighbours are asked once, and again
//! when either changed.

use crate::host::neighbour::NeighbourIndex;
use crate::packet::address::Address;
use crate::port::PortId;
use crate::sa::TunnelId;
use crate::worker::Worker;

/// Destinations that are remembered: 16 KB, half of the first-level cache.
const PLACES: usize = 256;

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

/// A direct-mapped cache by destination. A scan can only push out what is asked for again.
pub(super) struct NextHops {
    places: Box<[Option<(Address, Adjacency)>]>,
}

impl NextHops {
    pub(super) fn new() -> Self {
        Self { places: vec![None; PLACES].into_boxed_slice() }
    }

    #[inline]
    fn place(destination: Address) -> usize {
        (destination.spread() >> 56) as usize % PLACES
    }
}

impl Worker {
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

    /// Where a tunnel's packets leave, remembered in its slot. `None` when it has no SA, or its peer no route.
    #[inline]
    pub(super) fn tunnel_adjacency(&mut self, tunnel: TunnelId) -> Option<Adjacency> {
        let slot = self.tables.tunnel(tunnel)?;
        if let Some(known) = slot.adjacency
            && known.generation == self.tables.routes.generation()
            && known.neighbour.is_some_and(|index| self.local.neighbours.mac(index).is_some())
        {
            return Some(known);
        }
        let found = self.find_adjacency(slot.endpoints.remote.into());
        if let Some(slot) = self.tables.tunnel_mut(tunnel) {
            slot.adjacency = found;
        }
        found
    }

    #[inline]
    fn remembered(&self, destination: Address) -> Option<Adjacency> {
        let (known, adjacency) = self.next_hops.places.get(NextHops::place(destination))?.as_ref()?;
        let good = *known == destination && adjacency.generation == self.tables.routes.generation();
        good.then_some(*adjacency)
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
        if let Some(place) = self.next_hops.places.get_mut(NextHops::place(destination)) {
            *place = Some((destination, found));
        }
        Some(found)
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
