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
    /// [`Worker::epoch`] when it was asked for.
    epoch: u64,
    /// The port that packets to it leave by.
    pub(super) port: Option<PortId>,
    /// It is one of our own addresses.
    pub(super) is_ours: bool,
    /// A policy has it on its remote side.
    pub(super) is_remote: bool,
    /// Packets from it may be forwarded, whatever the policy, if they come by the right port.
    is_usual: bool,
}

/// A direct-mapped cache. A scan can only push out what is asked for again.
pub(super) struct Sources {
    places: Box<[Option<Source>]>,
}

impl Sources {
    pub(super) fn new() -> Self {
        Self { places: vec![None; PLACES].into_boxed_slice() }
    }

    #[inline]
    fn place(address: Address) -> usize {
        (address.spread() >> 56) as usize % PLACES
    }

    /// Whether an IPv4 source is known as one whose packets may be forwarded: its address is a host's and not ours, packets
    /// to it leave by `port` if that is asked for, and no policy expects it behind a tunnel.
    #[inline(always)]
    pub(super) fn is_usual(&self, source: u32, epoch: u64, port: PortId, strict: bool) -> bool {
        let address = Address::v4(source.to_be_bytes());
        match self.places.get(Self::place(address)) {
            Some(Some(known)) => {
                known.address == address
                    && known.epoch == epoch
                    && known.is_usual
                    && (!strict || known.port == Some(port))
            }
            _ => false,
        }
    }
}

impl Worker {
    /// What is known of a source address.
    #[inline]
    pub(super) fn source(&mut self, address: Address) -> Source {
        let epoch = self.epoch();
        match self.sources.places.get(Sources::place(address)) {
            Some(Some(known)) if known.address == address && known.epoch == epoch => *known,
            _ => self.find_source(address, epoch),
        }
    }

    #[cold]
    fn find_source(&mut self, address: Address, epoch: u64) -> Source {
        let is_ours = self.tables.addresses.contains(address);
        let is_remote = self.tables.spd.has_remote(address);
        let source = Source {
            address,
            epoch,
            port: self.port_towards(address),
            is_ours,
            is_remote,
            is_usual: address.is_forwardable() && !is_ours && !is_remote,
        };
        if let Some(place) = self.sources.places.get_mut(Sources::place(address)) {
            *place = Some(source);
        }
        source
    }
}
