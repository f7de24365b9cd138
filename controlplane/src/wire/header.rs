//! The IKE header (RFC 7296 s3.1).

use super::reader::{Place, Reader, WireError, WireErrorKind};
use super::registry::{ExchangeType, PayloadType};

/// Length of the header in bytes.
pub const HEADER_LEN: usize = 28;

/// Offset of the Next Payload field, which RFC 9242 s3.3.2 and the SK payload need to know.
pub const NEXT_PAYLOAD_AT: usize = 16;

/// Offset of the Length field.
pub const LENGTH_AT: usize = 24;

const FLAG_INITIATOR: u8 = 0x08;
const FLAG_VERSION: u8 = 0x10;
const FLAG_RESPONSE: u8 = 0x20;

/// The IKE header. The length is not in it: it is that of the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// SPI of the IKE SA's original initiator.
    pub spi_i: u64,
    /// SPI of the original responder; 0 in the first message.
    pub spi_r: u64,
    /// Type of the first payload.
    pub next_payload: PayloadType,
    /// Minor version; ignored on receipt (RFC 7296 s2.5), 0 in what we send.
    pub minor: u8,
    /// Exchange type.
    pub exchange: ExchangeType,
    /// Sent by the original initiator of the IKE SA.
    pub initiator: bool,
    /// Sender can speak a higher major version; ignored on receipt, clear in what we send.
    pub version: bool,
    /// A response to the request with the same message ID.
    pub response: bool,
    /// Message ID.
    pub message_id: u32,
}

impl Header {
    /// Parses the header of a whole message. `datagram` must be as long as the Length field says: a datagram
    /// with bytes missing or to spare is not the message that its sender wrote.
    pub fn parse(datagram: &[u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new(datagram, 0, Place::Header);
        let spi_i = reader.u64()?;
        let spi_r = reader.u64()?;
        let next_payload = PayloadType(reader.u8()?);
        let version = reader.u8()?;
        if version >> 4 != 2 {
            return Err(reader.error(WireErrorKind::MajorVersion(version >> 4)));
        }
        let exchange = ExchangeType(reader.u8()?);
        let flags = reader.u8()?;
        let message_id = reader.u32()?;
        let length_at = reader;
        let length = reader.u32()? as usize;
        if length != datagram.len() {
            let expected = "the length of the datagram";
            return Err(length_at.error(WireErrorKind::Length { found: length, expected }));
        }
        Ok(Self {
            spi_i,
            spi_r,
            next_payload,
            minor: version & 0x0f,
            exchange,
            initiator: flags & FLAG_INITIATOR != 0,
            version: flags & FLAG_VERSION != 0,
            response: flags & FLAG_RESPONSE != 0,
            message_id,
        })
    }

    /// The 28 bytes of the header of a message that is `length` bytes long in all.
    pub fn emit(&self, length: usize) -> [u8; HEADER_LEN] {
        let mut out = [0; HEADER_LEN];
        let flags = (u8::from(self.initiator) * FLAG_INITIATOR)
            | (u8::from(self.version) * FLAG_VERSION)
            | (u8::from(self.response) * FLAG_RESPONSE);
        let length = u32::try_from(length).unwrap_or(u32::MAX);
        out[0..8].copy_from_slice(&self.spi_i.to_be_bytes());
        out[8..16].copy_from_slice(&self.spi_r.to_be_bytes());
        out[NEXT_PAYLOAD_AT] = self.next_payload.0;
        out[17] = 0x20 | self.minor & 0x0f;
        out[18] = self.exchange.0;
        out[19] = flags;
        out[20..24].copy_from_slice(&self.message_id.to_be_bytes());
        out[LENGTH_AT..].copy_from_slice(&length.to_be_bytes());
        out
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn header() -> Header {
        Header {
            spi_i: 0x0102_0304_0506_0708,
            spi_r: 0x1112_1314_1516_1718,
            next_payload: PayloadType::SK,
            minor: 0,
            exchange: ExchangeType::IKE_AUTH,
            initiator: true,
            version: false,
            response: false,
            message_id: 1,
        }
    }

    #[test]
    fn bytes_are_where_the_rfc_puts_them() {
        let expected: [u8; 28] = [
            1, 2, 3, 4, 5, 6, 7, 8, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18, 46, 0x20, 35, 0x08, 0, 0,
            0, 1, 0, 0, 0, 28,
        ];
        assert_eq!(header().emit(28), expected);
        assert_eq!(Header::parse(&expected), Ok(header()));
    }

    #[test]
    fn other_major_versions_and_wrong_lengths_are_refused() {
        let mut bytes = header().emit(28);
        bytes[17] = 0x10;
        assert_eq!(Header::parse(&bytes).unwrap_err().kind, WireErrorKind::MajorVersion(1));
        let bytes = header().emit(29);
        let error = Header::parse(&bytes).unwrap_err();
        assert_eq!(error.offset, LENGTH_AT);
        assert!(matches!(error.kind, WireErrorKind::Length { found: 29, .. }));
    }

    #[test]
    fn a_minor_version_is_ignored() {
        let mut bytes = header().emit(28);
        bytes[17] = 0x2f;
        assert_eq!(Header::parse(&bytes).unwrap().minor, 15);
    }

    proptest! {
        #[test]
        fn round_trip(spi_i: u64, spi_r: u64, next: u8, minor in 0u8..16, exchange: u8, flags: [bool; 3], id: u32) {
            let header = Header {
                spi_i, spi_r, next_payload: PayloadType(next), minor, exchange: ExchangeType(exchange),
                initiator: flags[0], version: flags[1], response: flags[2], message_id: id,
            };
            prop_assert_eq!(Header::parse(&header.emit(HEADER_LEN)), Ok(header));
        }

        #[test]
        fn truncation_is_an_error(cut in 0usize..HEADER_LEN) {
            prop_assert!(Header::parse(&header().emit(HEADER_LEN)[..cut]).is_err());
        }
    }
}
