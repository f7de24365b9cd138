//! What is known of where packets in the clear come from, remembered by source address: the reverse path and whether
//! policy expects the address behind a tunnel. Asked once, and again when routes or policies changed.

use crate::packet::address::Address;
use crate::port::PortId;
use crate::worker::Worker;

/// Sources that are remembered.
const PLACES: usize = 256;

/// What is known of a source.
#[derive(Clone, Copy, Debug)]
pub(super) struct Source {
    address: Address,
    routes: u64,
    policies: u64,
    /// The port that packets to it leave by.
    pub(super) port: Option<PortId>,
    /// It is one of our own addresses.
    pub(super) is_ours: bool,
    /// A policy has it on its remote side.
    pub(super) is_remote: bool,
}

/// A direct-mapped cache. A scan can only push out what is asked for again.
pub(super) struct Sources {
    places: Box<[Option<Source>]>,
}

impl Sources {
    pub(super) fn new() -> Self {
        Self { places: vec![None; PLACES].into_boxed_slice() }
    }

    /// Our own addresses changed.
    pub(super) fn forget(&mut self) {
        self.places.fill(None);
    }

    #[inline]
    fn place(address: Address) -> usize {
        (address.spread() >> 56) as usize % PLACES
    }
}

impl Worker {
    /// What is known of a source address.
    #[inline]
    pub(super) fn source(&mut self, address: Address) -> Source {
        let (routes, policies) = (self.tables.routes.generation(), self.tables.spd.generation());
        match self.sources.places.get(Sources::place(address)) {
            Some(Some(known))
                if known.address == address && known.routes == routes && known.policies == policies =>
            {
                *known
            }
            _ => self.find_source(address, routes, policies),
        }
    }

    #[cold]
    fn find_source(&mut self, address: Address, routes: u64, policies: u64) -> Source {
        let source = Source {
            address,
            routes,
            policies,
            port: self.port_towards(address),
            is_ours: self.tables.addresses.contains(address),
            is_remote: self.tables.spd.has_remote(address),
        };
        if let Some(place) = self.sources.places.get_mut(Sources::place(address)) {
            *place = Some(source);
        }
        source
    }
}
