//! ESP headers (RFC 4303) and what shares a UDP port with them (RFC 3948).

use super::bytes::{be32, put};
use crate::drops::DropReason;
use crate::sa::Spi;

mod field {
    pub const SPI: usize = 0;
    pub const SEQUENCE: usize = 4;
}

/// Bytes of SPI and sequence number.
pub const HEADER_LEN: usize = 8;
/// Where the SPI is.
pub const SPI_OFFSET: usize = field::SPI;
/// The four zero bytes in front of an IKE message on port 4500 (RFC 3948 s2.2).
pub const NON_ESP_MARKER: [u8; 4] = [0; 4];
/// The payload of a NAT keepalive (RFC 3948 s2.3).
pub const NAT_KEEPALIVE: u8 = 0xff;

/// SPI and the lower half of the sequence number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Security Parameter Index.
    pub spi: Spi,
    /// Sequence number as sent: with ESN its lower 32 bits.
    pub sequence: u32,
}

impl Header {
    /// Reads the header at the start of an ESP packet.
    ///
    /// # Errors
    /// [`DropReason::EspMalformed`] when it is cut, [`DropReason::SpiReserved`] for an SPI that no SA on the wire
    /// has: 0 to 255 (RFC 4303 s2.1).
    #[inline]
    pub fn parse(packet: &[u8]) -> Result<Self, DropReason> {
        let header: &[u8; HEADER_LEN] = packet.first_chunk().ok_or(DropReason::EspMalformed)?;
        let spi = be32::<{ field::SPI }, _>(header);
        if spi < 256 {
            return Err(DropReason::SpiReserved);
        }
        Ok(Self { spi, sequence: be32::<{ field::SEQUENCE }, _>(header) })
    }

    /// Writes the header.
    #[inline]
    pub fn emit(&self, out: &mut [u8; HEADER_LEN]) {
        put::<{ field::SPI }, 4, _>(out, self.spi.to_be_bytes());
        put::<{ field::SEQUENCE }, 4, _>(out, self.sequence.to_be_bytes());
    }
}

/// What a UDP payload on an IPsec port is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encapsulated<'a> {
    /// A NAT keepalive, to be ignored.
    Keepalive,
    /// An IKE message, without the marker.
    Ike(&'a [u8]),
    /// An ESP packet.
    Esp(&'a [u8]),
}

impl<'a> Encapsulated<'a> {
    /// Tells them apart (RFC 3948 s2).
    ///
    /// # Errors
    /// [`DropReason::UdpMalformed`] for a payload too short to be any of them.
    #[inline]
    pub fn parse(payload: &'a [u8]) -> Result<Self, DropReason> {
        match payload {
            [0, 0, 0, 0, message @ ..] => Ok(Self::Ike(message)),
            [_, _, _, _, ..] => Ok(Self::Esp(payload)),
            [NAT_KEEPALIVE] => Ok(Self::Keepalive),
            _ => Err(DropReason::UdpMalformed),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_spi_and_sequence_number() {
        let bytes = [0x00, 0x00, 0x43, 0x21, 0x00, 0x00, 0x00, 0x01, 0xff];
        assert_eq!(Header::parse(&bytes), Ok(Header { spi: 0x4321, sequence: 1 }));
        assert_eq!(Header::parse(&bytes[..7]), Err(DropReason::EspMalformed));
        assert_eq!(Header::parse(&[0, 0, 0, 255, 0, 0, 0, 1]), Err(DropReason::SpiReserved));
        assert_eq!(Header::parse(&[0, 0, 1, 0, 0, 0, 0, 1]).map(|header| header.spi), Ok(256));
    }

    #[test]
    fn tells_apart_what_comes_in_udp() {
        assert_eq!(Encapsulated::parse(&[0xff]), Ok(Encapsulated::Keepalive));
        assert_eq!(Encapsulated::parse(&[0, 0, 0, 0, 1, 2]), Ok(Encapsulated::Ike(&[1, 2])));
        assert_eq!(Encapsulated::parse(&[0, 0, 0, 1, 1, 2]), Ok(Encapsulated::Esp(&[0, 0, 0, 1, 1, 2])));
        for payload in [&[][..], &[0xfe], &[0xff, 0xff], &[0, 0, 0]] {
            assert_eq!(Encapsulated::parse(payload), Err(DropReason::UdpMalformed));
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_parsed(spi in 256u32.., sequence: u32) {
            let header = Header { spi, sequence };
            let mut out = [0; HEADER_LEN];
            header.emit(&mut out);
            prop_assert_eq!(Header::parse(&out), Ok(header));
        }
    }
}
