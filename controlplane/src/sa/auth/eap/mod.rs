//! EAP inside IKE_AUTH (RFC 7296 s2.16), and EAP alone (RFC 5998).
//!
//! ```text
//! IDi, [CERTREQ], SA, TSi, TSr            -->
//!                                         <--  IDr, CERT, AUTH, EAP      without CERT and AUTH: EAP alone
//! EAP                                     -->
//!                                         <--  EAP                       as often as the method needs
//! AUTH by the MSK                         -->
//!                                         <--  AUTH by the MSK, SA, TSi, TSr
//! ```
//!
//! The responder proves itself by a certificate or a raw key before EAP begins, or else by a method that proves
//! both ends safely; the initiator goes on with nothing less. Both AUTH payloads at the end tie the EAP exchange
//! to this IKE SA, so nobody can carry one into the other.

mod peer;
mod server;

pub(crate) use peer::Peering;
pub(crate) use server::Serving;

use crate::wire::{Eap, Payload};

/// The one EAP payload of a message.
fn only_eap<'p>(payloads: &'p [Payload<'_>]) -> Option<&'p Eap<'p>> {
    let mut packets = payloads.iter().filter_map(|payload| match payload {
        Payload::Eap(eap) => Some(eap),
        _ => None,
    });
    packets.next().filter(|_| packets.next().is_none())
}
