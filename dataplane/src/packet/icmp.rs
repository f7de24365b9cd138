//! ICMP for IPv4 (RFC 792).

use super::bytes::{array, be16, put};
use super::checksum;
use crate::drops::DropReason;

mod field {
    pub const TYPE: usize = 0;
    pub const CODE: usize = 1;
    pub const CHECKSUM: usize = 2;
    pub const REST: usize = 4;
}

/// Bytes of the header.
pub const HEADER_LEN: usize = 8;

/// Message types.
pub mod kind {
    /// Echo reply.
    pub const ECHO_REPLY: u8 = 0;
    /// Destination unreachable.
    pub const UNREACHABLE: u8 = 3;
    /// Source quench, deprecated (RFC 6633).
    pub const SOURCE_QUENCH: u8 = 4;
    /// Redirect.
    pub const REDIRECT: u8 = 5;
    /// Echo request.
    pub const ECHO_REQUEST: u8 = 8;
    /// Time exceeded.
    pub const TIME_EXCEEDED: u8 = 11;
    /// Parameter problem.
    pub const PARAMETER_PROBLEM: u8 = 12;
}

/// Codes of [`kind::UNREACHABLE`].
pub mod unreachable {
    /// No route.
    pub const NETWORK: u8 = 0;
    /// The next hop does not answer.
    pub const HOST: u8 = 1;
    /// No such protocol.
    pub const PROTOCOL: u8 = 2;
    /// Nobody serves the port.
    pub const PORT: u8 = 3;
    /// Fragmentation needed, and DF is set (RFC 1191).
    pub const FRAGMENTATION_NEEDED: u8 = 4;
    /// Administratively prohibited (RFC 1812 s5.2.7.1).
    pub const PROHIBITED: u8 = 13;
}

/// A message's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Type; see [`kind`].
    pub kind: u8,
    /// Code; its meaning depends on the type.
    pub code: u8,
    /// The four bytes behind the checksum: identifier and sequence number, MTU, or nothing.
    pub rest: [u8; 4],
}

impl Header {
    /// Parses a message and verifies its checksum. Returns what follows the header too.
    ///
    /// # Errors
    /// [`DropReason::IcmpMalformed`] when it is cut or its checksum is wrong.
    pub fn parse(message: &[u8]) -> Result<(Self, &[u8]), DropReason> {
        if checksum::of(message) != 0 {
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

    /// The MTU of the next hop in a "fragmentation needed" (RFC 1191 s4); 0 from a router that does not know.
    pub fn mtu(&self) -> u16 {
        be16::<2, _>(&self.rest)
    }

    /// Writes the header at the start of `message`, behind which the rest of the message is in place, with the
    /// checksum over all of it. Nothing happens when `message` is shorter than a header.
    pub fn emit(&self, message: &mut [u8]) {
        let Some(header) = message.first_chunk_mut::<HEADER_LEN>() else { return };
        header[field::TYPE] = self.kind;
        header[field::CODE] = self.code;
        put::<{ field::CHECKSUM }, 2, _>(header, [0; 2]);
        put::<{ field::REST }, 4, _>(header, self.rest);
        let checksum = checksum::of(message);
        if let Some(header) = message.first_chunk_mut::<HEADER_LEN>() {
            put::<{ field::CHECKSUM }, 2, _>(header, checksum.to_be_bytes());
        }
    }
}

/// Whether a type is an error, about which no error may be sent (RFC 1122 s3.2.2). A type that nobody knows is
/// taken for one.
pub const fn is_error(kind: u8) -> bool {
    // Echo, router discovery, timestamp, information and address mask are queries.
    !matches!(kind, kind::ECHO_REPLY | kind::ECHO_REQUEST | 9 | 10 | 13..=18 | 42 | 43)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_an_echo_request_and_verifies_it() {
        let message = [8, 0, 0xf7, 0xfd, 0, 1, 0, 1, 0, 0];
        let (header, body) = Header::parse(&message).unwrap();
        assert_eq!(header, Header { kind: 8, code: 0, rest: [0, 1, 0, 1] });
        assert_eq!(body, [0, 0]);
        let mut bad = message;
        bad[9] = 1;
        assert_eq!(Header::parse(&bad), Err(DropReason::IcmpMalformed));
        assert_eq!(Header::parse(&[0; 0]), Err(DropReason::IcmpMalformed));
        assert_eq!(Header::parse(&[0xff; 6]), Err(DropReason::IcmpMalformed));
    }

    #[test]
    fn queries_and_errors() {
        assert!([3, 4, 5, 11, 12, 200].into_iter().all(is_error));
        assert!(![0, 8, 13, 14, 17].into_iter().any(is_error));
    }

    proptest! {
        #[test]
        fn what_is_written_is_parsed(kind: u8, code: u8, rest: [u8; 4], body in prop::collection::vec(any::<u8>(), 0..50)) {
            let mut message = [&[0xaa; HEADER_LEN][..], &body].concat();
            let header = Header { kind, code, rest };
            header.emit(&mut message);
            prop_assert_eq!(Header::parse(&message), Ok((header, &body[..])));
        }
    }
}
