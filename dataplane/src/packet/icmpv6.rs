//! ICMPv6 (RFC 4443) and the messages of Neighbour Discovery that a gateway needs (RFC 4861).

use std::net::Ipv6Addr;

use super::bytes::{array, be32, put};
use super::ip::{protocol, pseudo_header};
use crate::drops::DropReason;
use crate::port::Mac;

mod field {
    pub const TYPE: usize = 0;
    pub const CODE: usize = 1;
    pub const CHECKSUM: usize = 2;
    pub const REST: usize = 4;
}

/// Bytes of the header.
pub const HEADER_LEN: usize = 8;

/// Where the checksum is.
pub const CHECKSUM_OFFSET: usize = field::CHECKSUM;

/// Message types.
pub mod kind {
    /// Destination unreachable.
    pub const UNREACHABLE: u8 = 1;
    /// Packet too big.
    pub const PACKET_TOO_BIG: u8 = 2;
    /// Time exceeded.
    pub const TIME_EXCEEDED: u8 = 3;
    /// Parameter problem.
    pub const PARAMETER_PROBLEM: u8 = 4;
    /// Echo request.
    pub const ECHO_REQUEST: u8 = 128;
    /// Echo reply.
    pub const ECHO_REPLY: u8 = 129;
    /// Router solicitation.
    pub const ROUTER_SOLICITATION: u8 = 133;
    /// Router advertisement.
    pub const ROUTER_ADVERTISEMENT: u8 = 134;
    /// Neighbour solicitation.
    pub const NEIGHBOUR_SOLICITATION: u8 = 135;
    /// Neighbour advertisement.
    pub const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
    /// Redirect.
    pub const REDIRECT: u8 = 137;
}

/// Codes of [`kind::UNREACHABLE`].
pub mod unreachable {
    /// No route.
    pub const NO_ROUTE: u8 = 0;
    /// Administratively prohibited.
    pub const PROHIBITED: u8 = 1;
    /// The next hop does not answer.
    pub const ADDRESS: u8 = 3;
    /// Nobody serves the port.
    pub const PORT: u8 = 4;
}

/// Codes of [`kind::PARAMETER_PROBLEM`].
pub mod parameter_problem {
    /// Next header not known.
    pub const NEXT_HEADER: u8 = 1;
    /// Option not known.
    pub const OPTION: u8 = 2;
}

/// A message's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Type; see [`kind`].
    pub kind: u8,
    /// Code; its meaning depends on the type.
    pub code: u8,
    /// The four bytes behind the checksum: identifier and sequence number, MTU, flags, or nothing.
    pub rest: [u8; 4],
}

impl Header {
    /// Parses a message and verifies its checksum. Returns what follows the header too.
    ///
    /// # Errors
    /// [`DropReason::IcmpMalformed`] when it is cut or its checksum is wrong.
    pub fn parse(
        source: Ipv6Addr,
        destination: Ipv6Addr,
        message: &[u8],
    ) -> Result<(Self, &[u8]), DropReason> {
        if sum(source, destination, message) != 0 {
            return Err(DropReason::IcmpMalformed);
        }
        Self::parse_unverified(message)
    }

    /// Parses a message without looking at its checksum, as one quoted in part by an error.
    ///
    /// # Errors
    /// [`DropReason::IcmpMalformed`] when it is cut.
    pub fn parse_unverified(message: &[u8]) -> Result<(Self, &[u8]), DropReason> {
        let (header, body) = message.split_first_chunk::<HEADER_LEN>().ok_or(DropReason::IcmpMalformed)?;
        let this = Self {
            kind: header[field::TYPE],
            code: header[field::CODE],
            rest: array::<{ field::REST }, 4, _>(header),
        };
        Ok((this, body))
    }

    /// The MTU of a "packet too big" (RFC 4443 s3.2).
    pub fn mtu(&self) -> u32 {
        be32::<0, _>(&self.rest)
    }

    /// Writes the header at the start of `message`, behind which the rest of the message is in place, with the
    /// checksum over all of it. Nothing happens when `message` is shorter than a header.
    pub fn emit(&self, source: Ipv6Addr, destination: Ipv6Addr, message: &mut [u8]) {
        let Some(header) = message.first_chunk_mut::<HEADER_LEN>() else { return };
        header[field::TYPE] = self.kind;
        header[field::CODE] = self.code;
        put::<{ field::CHECKSUM }, 2, _>(header, [0; 2]);
        put::<{ field::REST }, 4, _>(header, self.rest);
        let checksum = sum(source, destination, message);
        if let Some(header) = message.first_chunk_mut::<HEADER_LEN>() {
            put::<{ field::CHECKSUM }, 2, _>(header, checksum.to_be_bytes());
        }
    }
}

/// Whether a type is an error (RFC 4443 s2.1), about which no error may be sent.
pub const fn is_error(kind: u8) -> bool {
    kind < 128
}

/// A neighbour solicitation (RFC 4861 s4.3) or advertisement (s4.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Neighbour {
    /// Who has the target address?
    Solicitation {
        /// The address that is asked for.
        target: Ipv6Addr,
        /// Ethernet address of who asks.
        source_mac: Option<Mac>,
    },
    /// The sender has the target address.
    Advertisement {
        /// The address.
        target: Ipv6Addr,
        /// The sender is a router.
        router: bool,
        /// It answers a solicitation.
        solicited: bool,
        /// It replaces what is in the cache.
        overriding: bool,
        /// Its Ethernet address.
        target_mac: Option<Mac>,
    },
}

const ROUTER: u8 = 0x80;
const SOLICITED: u8 = 0x40;
const OVERRIDE: u8 = 0x20;
const OPTION_SOURCE_LINK_LAYER: u8 = 1;
const OPTION_TARGET_LINK_LAYER: u8 = 2;
const TARGET_LEN: usize = 16;
const OPTION_LEN: usize = 8;

impl Neighbour {
    /// Bytes of the longest message that is written.
    pub const MAX_LEN: usize = HEADER_LEN + TARGET_LEN + OPTION_LEN;

    /// Parses a message whose header was. The checks on the IPv6 header are left to the caller; those on the
    /// message are here (RFC 4861 s7.1.1, s7.1.2).
    ///
    /// # Errors
    /// [`DropReason::IcmpMalformed`] for another type, a code that is not 0, a multicast target, or an option
    /// that is cut or has no length.
    pub fn parse(header: &Header, body: &[u8]) -> Result<Self, DropReason> {
        let (target, mut options) =
            body.split_first_chunk::<TARGET_LEN>().ok_or(DropReason::IcmpMalformed)?;
        let target = Ipv6Addr::from(*target);
        if header.code != 0 || target.is_multicast() {
            return Err(DropReason::IcmpMalformed);
        }
        let wanted = match header.kind {
            kind::NEIGHBOUR_SOLICITATION => OPTION_SOURCE_LINK_LAYER,
            kind::NEIGHBOUR_ADVERTISEMENT => OPTION_TARGET_LINK_LAYER,
            _ => return Err(DropReason::IcmpMalformed),
        };
        let mut mac = None;
        while let [kind, len, ..] = options {
            let (option, rest) =
                options.split_at_checked(usize::from(*len) * 8).ok_or(DropReason::IcmpMalformed)?;
            match option {
                [] => return Err(DropReason::IcmpMalformed),
                [_, _, a, b, c, d, e, f] if *kind == wanted => mac = Some([*a, *b, *c, *d, *e, *f]),
                // RFC 4861 s4.6: options that are not known are skipped.
                _ => {}
            }
            options = rest;
        }
        if !options.is_empty() {
            return Err(DropReason::IcmpMalformed);
        }
        let [flags, ..] = header.rest;
        Ok(match header.kind {
            kind::NEIGHBOUR_SOLICITATION => Self::Solicitation { target, source_mac: mac },
            _ => Self::Advertisement {
                target,
                router: flags & ROUTER != 0,
                solicited: flags & SOLICITED != 0,
                overriding: flags & OVERRIDE != 0,
                target_mac: mac,
            },
        })
    }

    /// Bytes of the message: 24, or 32 with an Ethernet address.
    pub fn message_len(&self) -> usize {
        match self.mac() {
            Some(_) => Self::MAX_LEN,
            None => Self::MAX_LEN - OPTION_LEN,
        }
    }

    /// Writes the message with its checksum.
    ///
    /// # Errors
    /// [`DropReason::NoRoom`] when `out` has not [`Neighbour::message_len`] bytes.
    pub fn emit(&self, source: Ipv6Addr, destination: Ipv6Addr, out: &mut [u8]) -> Result<(), DropReason> {
        let message = out.get_mut(..self.message_len()).ok_or(DropReason::NoRoom)?;
        let (kind, flags, target, option) = match *self {
            Self::Solicitation { target, .. } => {
                (kind::NEIGHBOUR_SOLICITATION, 0, target, OPTION_SOURCE_LINK_LAYER)
            }
            Self::Advertisement { target, router, solicited, overriding, .. } => {
                let flags = [(router, ROUTER), (solicited, SOLICITED), (overriding, OVERRIDE)];
                let flags = flags.iter().fold(0, |all, &(set, flag)| if set { all | flag } else { all });
                (kind::NEIGHBOUR_ADVERTISEMENT, flags, target, OPTION_TARGET_LINK_LAYER)
            }
        };
        let (_, body) = message.split_at_mut(HEADER_LEN);
        let (address, options) = body.split_at_mut(TARGET_LEN);
        address.copy_from_slice(&target.octets());
        if let (Some([a, b, c, d, e, f]), Some(place)) = (self.mac(), options.first_chunk_mut::<OPTION_LEN>())
        {
            *place = [option, 1, a, b, c, d, e, f];
        }
        Header { kind, code: 0, rest: [flags, 0, 0, 0] }.emit(source, destination, message);
        Ok(())
    }

    fn mac(&self) -> Option<Mac> {
        match *self {
            Self::Solicitation { source_mac: mac, .. } | Self::Advertisement { target_mac: mac, .. } => mac,
        }
    }
}

fn sum(source: Ipv6Addr, destination: Ipv6Addr, message: &[u8]) -> u16 {
    pseudo_header(source, destination, protocol::ICMPV6, message.len() as u32).bytes(message).finish()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const A: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
    const B: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2);

    /// A solicitation of fe80::2 by fe80::1 with its source link-layer address, checksum left out.
    fn solicitation() -> Vec<u8> {
        let mut message = vec![135, 0, 0, 0, 0, 0, 0, 0];
        message.extend_from_slice(&[0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
        message.extend_from_slice(&[1, 1, 2, 0, 0, 0, 0, 1]);
        message
    }

    fn parse(message: &[u8]) -> Result<Neighbour, DropReason> {
        let (header, body) = Header::parse_unverified(message)?;
        Neighbour::parse(&header, body)
    }

    #[test]
    fn reads_a_solicitation() {
        let expected = Neighbour::Solicitation {
            target: "fe80::2".parse().unwrap(),
            source_mac: Some([2, 0, 0, 0, 0, 1]),
        };
        assert_eq!(parse(&solicitation()), Ok(expected));
    }

    #[test]
    fn reads_an_advertisement_and_skips_other_options() {
        let mut message = solicitation();
        message[0] = 136;
        message[4] = 0xe0;
        message.extend_from_slice(&[14, 1, 0, 0, 0, 0, 0, 0]);
        message.extend_from_slice(&[2, 1, 2, 0, 0, 0, 0, 9]);
        let expected = Neighbour::Advertisement {
            target: "fe80::2".parse().unwrap(),
            router: true,
            solicited: true,
            overriding: true,
            target_mac: Some([2, 0, 0, 0, 0, 9]),
        };
        assert_eq!(parse(&message), Ok(expected));
    }

    #[test]
    fn what_rfc_4861_says_to_discard() {
        let with = |at: usize, value: u8| {
            let mut message = solicitation();
            message[at] = value;
            parse(&message)
        };
        assert_eq!(with(1, 1), Err(DropReason::IcmpMalformed), "code");
        assert_eq!(with(8, 0xff), Err(DropReason::IcmpMalformed), "multicast target");
        assert_eq!(with(25, 0), Err(DropReason::IcmpMalformed), "option of no length");
        assert_eq!(with(25, 2), Err(DropReason::IcmpMalformed), "option that is cut");
        assert_eq!(with(0, 134), Err(DropReason::IcmpMalformed), "another type");
        assert_eq!(parse(&solicitation()[..23]), Err(DropReason::IcmpMalformed), "shorter than 24 bytes");
        assert_eq!(parse(&solicitation()[..25]), Err(DropReason::IcmpMalformed), "half an option");
        assert!(parse(&solicitation()[..24]).is_ok());
    }

    #[test]
    fn the_checksum_covers_the_addresses() {
        let mut message = [0; Neighbour::MAX_LEN];
        let repr = parse(&solicitation()).unwrap();
        repr.emit(A, B, &mut message).unwrap();
        assert!(Header::parse(A, B, &message).is_ok());
        let other = Ipv6Addr::from(u128::from(B) + 1);
        assert_eq!(Header::parse(A, other, &message), Err(DropReason::IcmpMalformed));
        assert_eq!(repr.emit(A, B, &mut message[..31]), Err(DropReason::NoRoom));
    }

    proptest! {
        #[test]
        fn what_is_written_is_parsed(
            advertisement: bool, target: [u8; 15], flags: [bool; 3], mac in prop::option::of(any::<Mac>()),
        ) {
            let mut octets = [0x20; 16];
            octets[1..].copy_from_slice(&target);
            let target = octets.into();
            let [router, solicited, overriding] = flags;
            let repr = match advertisement {
                true => Neighbour::Advertisement { target, router, solicited, overriding, target_mac: mac },
                false => Neighbour::Solicitation { target, source_mac: mac },
            };
            let mut message = vec![0xaa; repr.message_len()];
            repr.emit(A, B, &mut message).unwrap();
            let (header, body) = Header::parse(A, B, &message).unwrap();
            prop_assert_eq!(Neighbour::parse(&header, body), Ok(repr));
        }

        #[test]
        fn any_bytes_do_not_panic(mut message in prop::collection::vec(any::<u8>(), 0..80), advertisement: bool) {
            if let Some(kind) = message.first_mut() {
                *kind = 135 + u8::from(advertisement);
            }
            let _ = parse(&message);
            let _ = Header::parse(A, B, &message);
        }
    }
}
