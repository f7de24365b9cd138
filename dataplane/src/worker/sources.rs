//! What is known of where packets in the clear come from, remembered by source address: the reverse path and whether
//! policy expects the address behind a tunnel. Asked once, and again when routes or policies changed.

use crate::packet::address::Address;
use crate::port::PortId;
use crate::worker::Worker;
use crate::worker::remembered::Remembered;

/// Sets of four sources that are remembered.
const SETS: usize = 256;

/// What is known of a source.
#[derive(Clone, Copy, Debug)]
pub(super) struct Source {
    /// The port that packets to it leave by.
    pub(super) port: Option<PortId>,
    /// It is one of our own addresses.
    pub(super) is_ours: bool,
    /// A policy has it on its remote side.
    pub(super) is_remote: bool,
    /// Packets from it may be forwarded, whatever the policy, if they come by the right port.
    is_usual: bool,
}

/// What is known, by address.
pub(super) struct Sources {
    places: Remembered<Address, Source>,
}

impl Sources {
    pub(super) fn new() -> Self {
        let any = Source { port: None, is_ours: false, is_remote: false, is_usual: false };
        Self { places: Remembered::new(SETS, Address::v4([0; 4]), any) }
    }

    /// Whether an IPv4 source is known as one whose packets may be forwarded: its address is a host's and not ours, packets
    /// to it leave by `port` if that is asked for, and no policy expects it behind a tunnel.
    #[inline(always)]
    pub(super) fn is_usual(&self, source: u32, epoch: u64, port: PortId, strict: bool) -> bool {
        self.places
            .find(Address::v4(source.to_be_bytes()), epoch)
            .is_some_and(|known| known.is_usual && (!strict || known.port == Some(port)))
    }
}

impl Worker {
    /// What is known of a source address.
    #[inline]
    pub(super) fn source(&mut self, address: Address) -> Source {
        let epoch = self.epoch();
        match self.sources.places.find(address, epoch) {
            Some(known) => *known,
            None => self.find_source(address, epoch),
        }
    }

    #[cold]
    fn find_source(&mut self, address: Address, epoch: u64) -> Source {
        let is_ours = self.tables.addresses.contains(address);
        let is_remote = self.tables.spd.has_remote(address);
        let source = Source {
            port: self.port_towards(address),
            is_ours,
            is_remote,
            is_usual: address.is_forwardable() && !is_ours && !is_remote,
        };
        self.sources.places.remember(address, epoch, source);
        source
    }
}
