//! AH headers (RFC 4302 s2).

use super::bytes::{be32, put};
use crate::drops::DropReason;
use crate::sa::Spi;

mod field {
    pub const NEXT_HEADER: usize = 0;
    pub const LEN: usize = 1;
    pub const RESERVED: usize = 2;
    pub const SPI: usize = 4;
    pub const SEQUENCE: usize = 8;
}

/// Bytes in front of the ICV.
pub const FIXED_LEN: usize = 12;
/// Where the SPI is.
pub const SPI_OFFSET: usize = field::SPI;

/// A header without its ICV.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Protocol of what follows.
    pub next_header: u8,
    /// Bytes of the whole header: fixed part, ICV, and the ICV's padding. A multiple of 4.
    pub len: u16,
    /// Security Parameter Index.
    pub spi: Spi,
    /// Sequence number as sent: with ESN its lower 32 bits.
    pub sequence: u32,
}

impl Header {
    /// Reads the header at the start of `packet`, and the ICV with its padding. The reserved field is left to the
    /// ICV (RFC 4302 s2.3). Whether the length fits the SA is for the caller to check.
    ///
    /// # Errors
    /// [`DropReason::AhMalformed`] when the header is cut or its length leaves no ICV; [`DropReason::SpiReserved`]
    /// for an SPI from 0 to 255 (RFC 4302 s2.4).
    #[inline]
    pub fn parse(packet: &[u8]) -> Result<(Self, &[u8]), DropReason> {
        let header: &[u8; FIXED_LEN] = packet.first_chunk().ok_or(DropReason::AhMalformed)?;
        // RFC 4302 s2.2: in 32-bit words, less two.
        let len = (u16::from(header[field::LEN]) + 2) * 4;
        let icv = packet.get(FIXED_LEN..usize::from(len)).ok_or(DropReason::AhMalformed)?;
        if icv.is_empty() {
            return Err(DropReason::AhMalformed);
        }
        let spi = be32::<{ field::SPI }, _>(header);
        if spi < 256 {
            return Err(DropReason::SpiReserved);
        }
        let sequence = be32::<{ field::SEQUENCE }, _>(header);
        Ok((Self { next_header: header[field::NEXT_HEADER], len, spi, sequence }, icv))
    }

    /// Writes everything but the ICV. `len` is a multiple of 4 from 16 to 1028.
    #[inline]
    pub fn emit(&self, out: &mut [u8; FIXED_LEN]) {
        out[field::NEXT_HEADER] = self.next_header;
        out[field::LEN] = (self.len / 4).saturating_sub(2) as u8;
        put::<{ field::RESERVED }, 2, _>(out, [0; 2]);
        put::<{ field::SPI }, 4, _>(out, self.spi.to_be_bytes());
        put::<{ field::SEQUENCE }, 4, _>(out, self.sequence.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_a_header_with_a_96_bit_icv() {
        let mut bytes = vec![4, 4, 0, 0, 0, 0, 0x10, 1, 0, 0, 0, 9];
        bytes.extend_from_slice(&[0xcc; 12]);
        bytes.push(0x45);
        let (header, icv) = Header::parse(&bytes).unwrap();
        assert_eq!(header, Header { next_header: 4, len: 24, spi: 0x1001, sequence: 9 });
        assert_eq!(icv, [0xcc; 12]);
        assert_eq!(Header::parse(&bytes[..23]), Err(DropReason::AhMalformed));
        bytes[1] = 1;
        assert_eq!(Header::parse(&bytes), Err(DropReason::AhMalformed), "no ICV");
        bytes[1] = 0;
        assert_eq!(Header::parse(&bytes), Err(DropReason::AhMalformed), "shorter than itself");
        bytes[1] = 4;
        bytes[6] = 0;
        assert_eq!(Header::parse(&bytes), Err(DropReason::SpiReserved));
    }

    proptest! {
        #[test]
        fn what_is_written_is_parsed(next_header: u8, words in 4u16..=257, spi in 256u32.., sequence: u32) {
            let header = Header { next_header, len: words * 4, spi, sequence };
            let mut out = vec![0xaa; usize::from(header.len)];
            header.emit(out.first_chunk_mut().unwrap());
            prop_assert_eq!(Header::parse(&out).map(|(header, _)| header), Ok(header));
        }

        #[test]
        fn any_bytes_do_not_panic(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = Header::parse(&bytes);
        }
    }
}
