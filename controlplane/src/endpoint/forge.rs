//! Authentic messages that no honest end sends, for tests of what a peer with the keys can do.

use dataplane::message::Datagram;

use super::Endpoint;
use crate::crypto::Random;
use crate::sa::Path;
use crate::wire::{ExchangeType, Header, PayloadType};

/// What to say.
pub(crate) struct Forgery {
    /// On which IKE SA that has keys, in the order of our SPIs.
    pub which: usize,
    pub exchange: ExchangeType,
    /// In answer to the peer's next request, or as our next request; our last one when it waits for its response.
    pub response: bool,
    /// Type of the first payload.
    pub first: PayloadType,
    /// The payloads.
    pub plain: Vec<u8>,
}

impl Endpoint {
    /// By what it knows the additional key exchanges that peers have under way.
    pub(crate) fn links(&self) -> Vec<Vec<u8>> {
        let mut links: Vec<_> = self.sas.values().flat_map(|sa| sa.links()).collect();
        links.sort();
        links
    }

    /// The message as the peer receives it. `None` when no IKE SA has keys. Our own state does not change.
    pub(crate) fn forge(&mut self, rng: &mut dyn Random, forgery: &Forgery) -> Option<Datagram> {
        let mut sas: Vec<_> = self.sas.values_mut().filter(|sa| sa.core.protection.is_some()).collect();
        sas.sort_by_key(|sa| sa.core.spi);
        let count = sas.len();
        let core = &mut sas.get_mut(forgery.which % count.max(1))?.core;
        let (spi_i, spi_r) = core.spis();
        let message_id = if forgery.response {
            core.responses.expected()
        } else {
            let waits = !core.requests.is_idle();
            core.requests.next_id().wrapping_sub(waits.into())
        };
        let header = Header {
            spi_i,
            spi_r,
            next_payload: forgery.first,
            minor: 0,
            exchange: forgery.exchange,
            initiator: core.initiator,
            version: false,
            response: forgery.response,
            message_id,
        };
        let payload = core.forge(rng, header, &forgery.plain)?;
        let Path { local, remote } = core.path;
        Some(Datagram { local: remote, remote: local, payload })
    }
}
