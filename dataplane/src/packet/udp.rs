//! UDP headers (RFC 768).

use super::address::Address;
use super::bytes::{be16, put};
use super::ip::{Version, protocol, pseudo_header};
use crate::drops::DropReason;

mod field {
    pub const SOURCE: usize = 0;
    pub const DESTINATION: usize = 2;
    pub const LEN: usize = 4;
    pub const CHECKSUM: usize = 6;
}

/// Bytes of the header.
pub const HEADER_LEN: usize = 8;

/// Where the checksum is.
pub const CHECKSUM_OFFSET: usize = field::CHECKSUM;

/// A header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Source port; 0 when the sender wants no answer.
    pub source: u16,
    /// Destination port.
    pub destination: u16,
    /// Header and payload in bytes.
    pub len: u16,
    /// Checksum; 0 when there is none.
    pub checksum: u16,
}

impl Header {
    /// Parses a datagram: its header and its payload. What lies behind the length field is left out. The checksum
    /// is not verified.
    ///
    /// # Errors
    /// [`DropReason::UdpMalformed`] when the datagram is cut, or its length field below 8.
    #[inline]
    pub fn parse(datagram: &[u8]) -> Result<(Self, &[u8]), DropReason> {
        let header: &[u8; HEADER_LEN] = datagram.first_chunk().ok_or(DropReason::UdpMalformed)?;
        let this = Self {
            source: be16::<{ field::SOURCE }, _>(header),
            destination: be16::<{ field::DESTINATION }, _>(header),
            len: be16::<{ field::LEN }, _>(header),
            checksum: be16::<{ field::CHECKSUM }, _>(header),
        };
        let payload = datagram.get(HEADER_LEN..usize::from(this.len)).ok_or(DropReason::UdpMalformed)?;
        Ok((this, payload))
    }

    /// Writes the header.
    #[inline]
    pub fn emit(&self, out: &mut [u8; HEADER_LEN]) {
        put::<{ field::SOURCE }, 2, _>(out, self.source.to_be_bytes());
        put::<{ field::DESTINATION }, 2, _>(out, self.destination.to_be_bytes());
        put::<{ field::LEN }, 2, _>(out, self.len.to_be_bytes());
        put::<{ field::CHECKSUM }, 2, _>(out, self.checksum.to_be_bytes());
    }
}

/// The checksum to write for a datagram whose checksum field is zero.
pub fn checksum(source: impl Into<Address>, destination: impl Into<Address>, datagram: &[u8]) -> u16 {
    match sum(source.into(), destination.into(), datagram) {
        // A computed zero is sent as all ones (RFC 768, RFC 8200 s8.1).
        0 => 0xffff,
        sum => sum,
    }
}

/// Verifies the checksum of a datagram, header included, cut to its length field.
///
/// # Errors
/// [`DropReason::UdpMalformed`] when it is wrong; or zero over IPv6, where that is not allowed but for tunnels
/// that need not look at it at all, as ESP in UDP (RFC 8200 s8.1, RFC 3948 s2.1).
pub fn verify(
    source: impl Into<Address>,
    destination: impl Into<Address>,
    datagram: &[u8],
) -> Result<(), DropReason> {
    let source = source.into();
    let (header, payload) = Header::parse(datagram)?;
    let datagram = datagram.get(..HEADER_LEN + payload.len()).ok_or(DropReason::UdpMalformed)?;
    let good = match header.checksum {
        0 => source.version() == Version::V4,
        _ => sum(source, destination.into(), datagram) == 0,
    };
    if good { Ok(()) } else { Err(DropReason::UdpMalformed) }
}

fn sum(source: Address, destination: Address, datagram: &[u8]) -> u16 {
    pseudo_header(source, destination, protocol::UDP, datagram.len() as u32).bytes(datagram).finish()
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use proptest::prelude::*;

    use super::*;

    fn addresses(six: bool) -> (IpAddr, IpAddr) {
        let [source, destination] =
            if six { ["2001:db8::1", "2001:db8::2"] } else { ["198.51.100.1", "203.0.113.7"] };
        (source.parse().unwrap(), destination.parse().unwrap())
    }

    #[test]
    fn reads_a_datagram_without_what_lies_behind() {
        let bytes = [0x11, 0x94, 0x01, 0xf4, 0, 10, 0xab, 0xcd, b'h', b'i', 0, 0];
        let (header, payload) = Header::parse(&bytes).unwrap();
        assert_eq!(header, Header { source: 4500, destination: 500, len: 10, checksum: 0xabcd });
        assert_eq!(payload, b"hi");
        let mut out = [0; HEADER_LEN];
        header.emit(&mut out);
        assert_eq!(out, bytes[..8]);
    }

    #[test]
    fn lengths_that_do_not_fit() {
        for bytes in [&[0; 7][..], &[0, 0, 0, 0, 0, 7, 0, 0], &[0, 0, 0, 0, 0, 9, 0, 0]] {
            assert_eq!(Header::parse(bytes), Err(DropReason::UdpMalformed));
        }
    }

    #[test]
    fn a_checksum_may_be_missing_over_ipv4_only() {
        let bytes = [0, 1, 0, 2, 0, 8, 0, 0];
        let ((s4, d4), (s6, d6)) = (addresses(false), addresses(true));
        assert_eq!(verify(s4, d4, &bytes), Ok(()));
        assert_eq!(verify(s6, d6, &bytes), Err(DropReason::UdpMalformed));
    }

    #[test]
    fn a_computed_zero_is_sent_as_ones() {
        let (source, destination) = addresses(false);
        let mut bytes = [0, 1, 0, 2, 0, 10, 0, 0, 0, 0];
        let missing = checksum(source, destination, &bytes);
        bytes[8..].copy_from_slice(&missing.to_be_bytes());
        assert_eq!(checksum(source, destination, &bytes), 0xffff);
    }

    proptest! {
        #[test]
        fn a_bit_error_is_found(
            payload in prop::collection::vec(any::<u8>(), 0..60), six: bool, bit in any::<prop::sample::Index>(),
        ) {
            let (source, destination) = addresses(six);
            let len = (HEADER_LEN + payload.len()) as u16;
            let mut datagram = vec![0; HEADER_LEN];
            let header = Header { source: 500, destination: 500, len, checksum: 0 };
            header.emit(datagram.first_chunk_mut().unwrap());
            datagram.extend_from_slice(&payload);
            let sum = checksum(source, destination, &datagram);
            datagram[6..8].copy_from_slice(&sum.to_be_bytes());
            prop_assert_eq!(verify(source, destination, &datagram), Ok(()));
            let bit = bit.index(payload.len() * 8 + 32);
            // Not in the length, which moves the end, nor in the checksum, which could become zero.
            let at = if bit < 32 { bit } else { 32 + bit };
            datagram[at / 8] ^= 1 << (at % 8);
            prop_assert_eq!(verify(source, destination, &datagram), Err(DropReason::UdpMalformed));
        }

        #[test]
        fn any_bytes_do_not_panic(bytes in prop::collection::vec(any::<u8>(), 0..40), six: bool) {
            let (source, destination) = addresses(six);
            let _ = Header::parse(&bytes);
            let _ = verify(source, destination, &bytes);
        }
    }
}
