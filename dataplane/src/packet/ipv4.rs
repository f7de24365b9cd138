//! IPv4 headers (RFC 791).

use std::net::Ipv4Addr;

use super::address::Address;
use super::bytes::{array, be16, put};
use super::checksum::{self, update};
use super::ip::{self, FragmentInfo, IpInfo, Version};
use crate::drops::DropReason;

mod field {
    pub const VERSION_IHL: usize = 0;
    pub const TOS: usize = 1;
    pub const TOTAL_LEN: usize = 2;
    pub const IDENTIFICATION: usize = 4;
    pub const FRAGMENT: usize = 6;
    pub const TTL: usize = 8;
    pub const PROTOCOL: usize = 9;
    pub const CHECKSUM: usize = 10;
    pub const SOURCE: usize = 12;
    pub const DESTINATION: usize = 16;
}

/// Bytes of a header without options.
pub const HEADER_LEN: usize = 20;
/// Bytes of a header with as many options as fit.
pub const MAX_HEADER_LEN: usize = 60;

const DONT_FRAGMENT: u16 = 0x4000;
const MORE_FRAGMENTS: u16 = 0x2000;
const OFFSET: u16 = 0x1fff;

/// Kinds of options (RFC 791 s3.1).
pub mod option {
    /// End of the options.
    pub const END: u8 = 0;
    /// No operation.
    pub const NOP: u8 = 1;
    /// Loose source route.
    pub const LOOSE_SOURCE_ROUTE: u8 = 131;
    /// Strict source route.
    pub const STRICT_SOURCE_ROUTE: u8 = 137;
    /// The bit of a kind that says: copied into all fragments.
    pub const COPIED: u8 = 0x80;
}

/// A header without options, to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Repr {
    /// Source address.
    pub source: Ipv4Addr,
    /// Destination address.
    pub destination: Ipv4Addr,
    /// Protocol of the payload.
    pub protocol: u8,
    /// Header and payload in bytes.
    pub total_len: u16,
    /// Identification; unique among packets in flight that may be fragmented (RFC 6864).
    pub identification: u16,
    /// DF bit.
    pub dont_fragment: bool,
    /// TTL.
    pub ttl: u8,
    /// DSCP and ECN.
    pub tos: u8,
}

impl Repr {
    /// Writes the header with its checksum.
    #[inline]
    pub fn emit(&self, out: &mut [u8; HEADER_LEN]) {
        let flags = if self.dont_fragment { DONT_FRAGMENT } else { 0 };
        out[field::VERSION_IHL] = 0x45;
        out[field::TOS] = self.tos;
        put::<{ field::TOTAL_LEN }, 2, _>(out, self.total_len.to_be_bytes());
        put::<{ field::IDENTIFICATION }, 2, _>(out, self.identification.to_be_bytes());
        put::<{ field::FRAGMENT }, 2, _>(out, flags.to_be_bytes());
        out[field::TTL] = self.ttl;
        out[field::PROTOCOL] = self.protocol;
        put::<{ field::CHECKSUM }, 2, _>(out, [0; 2]);
        put::<{ field::SOURCE }, 4, _>(out, self.source.octets());
        put::<{ field::DESTINATION }, 4, _>(out, self.destination.octets());
        let checksum = checksum::of(out);
        put::<{ field::CHECKSUM }, 2, _>(out, checksum.to_be_bytes());
    }
}

/// The fixed fields of a header, as they are. Nothing is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fixed {
    pub version: u8,
    pub header_len: usize,
    pub total_len: u16,
    /// In bytes.
    pub offset: u16,
    pub protocol: u8,
    pub source: Ipv4Addr,
    pub destination: Ipv4Addr,
}

impl Fixed {
    pub fn read(header: &[u8; HEADER_LEN]) -> Self {
        Self {
            version: header[field::VERSION_IHL] >> 4,
            header_len: usize::from(header[field::VERSION_IHL] & 0x0f) * 4,
            total_len: be16::<{ field::TOTAL_LEN }, _>(header),
            offset: (be16::<{ field::FRAGMENT }, _>(header) & OFFSET) << 3,
            protocol: header[field::PROTOCOL],
            source: array::<{ field::SOURCE }, 4, _>(header).into(),
            destination: array::<{ field::DESTINATION }, 4, _>(header).into(),
        }
    }
}

/// The identification field.
#[inline]
pub fn identification(header: &[u8; HEADER_LEN]) -> u16 {
    be16::<{ field::IDENTIFICATION }, _>(header)
}

/// [`ip::parse`] for IPv4.
#[inline]
pub(super) fn parse(packet: &[u8]) -> Result<IpInfo, DropReason> {
    let header: &[u8; HEADER_LEN] = packet.first_chunk().ok_or(DropReason::IpMalformed)?;
    let header_len = match header[field::VERSION_IHL] {
        0x45 if checksum::of(header) == 0 => HEADER_LEN,
        0x45 => return Err(DropReason::IpChecksum),
        _ => check_options(packet)?,
    };
    let total_len = be16::<{ field::TOTAL_LEN }, _>(header);
    let upper = packet.get(header_len..usize::from(total_len)).ok_or(DropReason::IpMalformed)?;
    let protocol = header[field::PROTOCOL];
    let word = be16::<{ field::FRAGMENT }, _>(header);
    let fragment = if word & (MORE_FRAGMENTS | OFFSET) == 0 {
        None
    } else {
        let fragment = FragmentInfo {
            identification: u32::from(be16::<{ field::IDENTIFICATION }, _>(header)),
            offset: (word & OFFSET) << 3,
            more: word & MORE_FRAGMENTS != 0,
        };
        Some(ip::check_fragment(fragment, header_len, upper.len(), protocol, upper.len())?)
    };
    let ports = if word & OFFSET == 0 { ip::ports(protocol, upper) } else { None };
    Ok(IpInfo {
        version: Version::V4,
        source: Address::v4(array::<{ field::SOURCE }, 4, _>(header)),
        destination: Address::v4(array::<{ field::DESTINATION }, 4, _>(header)),
        protocol,
        header_len: header_len as u16,
        total_len,
        ttl: header[field::TTL],
        tos: header[field::TOS],
        dont_fragment: word & DONT_FRAGMENT != 0,
        fragment,
        ports,
    })
}

/// The options of a header, each with its kind and length bytes. Padding is left out. An option that does not
/// parse ends them with an error.
pub fn options(options: &[u8]) -> impl Iterator<Item = Result<&[u8], DropReason>> {
    let mut rest = options;
    std::iter::from_fn(move || {
        while let [option::NOP, tail @ ..] = rest {
            rest = tail;
        }
        let len = match rest {
            [] | [option::END, ..] => return None,
            [_, len, ..] if *len >= 2 => usize::from(*len),
            _ => usize::MAX,
        };
        match rest.split_at_checked(len) {
            Some((option, tail)) => {
                rest = tail;
                Some(Ok(option))
            }
            None => {
                rest = &[];
                Some(Err(DropReason::IpOptions))
            }
        }
    })
}

/// Sets the protocol of the payload and mends the checksum.
#[inline]
pub fn set_protocol(header: &mut [u8; HEADER_LEN], protocol: u8) {
    put_checked::<{ field::TTL }>(header, u16::from_be_bytes([header[field::TTL], protocol]));
}

/// Makes a fragment's header of a whole packet's header: sets length, offset (a multiple of 8) and the MF bit,
/// keeps DF and identification, and computes the checksum anew. `header` is as long as its IHL says.
pub(crate) fn set_fragment(header: &mut [u8], total_len: u16, offset: u16, more: bool) {
    let header_len = header.len();
    let Some(fixed) = header.first_chunk_mut::<HEADER_LEN>() else { return };
    fixed[field::VERSION_IHL] = 0x40 | (header_len / 4) as u8;
    let dont_fragment = be16::<{ field::FRAGMENT }, _>(fixed) & DONT_FRAGMENT;
    let word = dont_fragment | if more { MORE_FRAGMENTS } else { 0 } | offset >> 3;
    put::<{ field::FRAGMENT }, 2, _>(fixed, word.to_be_bytes());
    put::<{ field::TOTAL_LEN }, 2, _>(fixed, total_len.to_be_bytes());
    put::<{ field::CHECKSUM }, 2, _>(fixed, [0; 2]);
    let checksum = checksum::of(header);
    if let Some(fixed) = header.first_chunk_mut::<HEADER_LEN>() {
        put::<{ field::CHECKSUM }, 2, _>(fixed, checksum.to_be_bytes());
    }
}

/// Clears the DF bit and mends the checksum.
#[inline]
pub fn clear_dont_fragment(header: &mut [u8; HEADER_LEN]) {
    let old = be16::<{ field::FRAGMENT }, _>(header);
    put_checked::<{ field::FRAGMENT }>(header, old & !DONT_FRAGMENT);
}

#[inline]
pub(crate) fn decrement_ttl(header: &mut [u8; HEADER_LEN]) -> Result<u8, DropReason> {
    let ttl = match header[field::TTL] {
        0 | 1 => return Err(DropReason::TtlExceeded),
        ttl => ttl - 1,
    };
    header[field::TTL] = ttl;
    // RFC 1624 s3, equation 3, where the word becomes less by 0x100 whatever else it holds.
    let sum = u32::from(!be16::<{ field::CHECKSUM }, _>(header)) + 0xfeff;
    let sum = (sum >> 16) + (sum & 0xffff);
    put::<{ field::CHECKSUM }, 2, _>(header, (!sum as u16).to_be_bytes());
    Ok(ttl)
}

#[inline]
pub(super) fn set_tos(header: &mut [u8; HEADER_LEN], tos: u8) {
    put_checked::<{ field::VERSION_IHL }>(header, u16::from_be_bytes([header[field::VERSION_IHL], tos]));
}

#[inline]
pub(super) fn set_total_len(header: &mut [u8; HEADER_LEN], total_len: u16) {
    put_checked::<{ field::TOTAL_LEN }>(header, total_len);
}

/// Writes a 16-bit word at an even offset and updates the checksum.
#[inline]
fn put_checked<const AT: usize>(header: &mut [u8; HEADER_LEN], new: u16) {
    const { assert!(AT.is_multiple_of(2)) };
    let old = be16::<AT, _>(header);
    let checksum = update(be16::<{ field::CHECKSUM }, _>(header), old, new);
    put::<AT, 2, _>(header, new.to_be_bytes());
    put::<{ field::CHECKSUM }, 2, _>(header, checksum.to_be_bytes());
}

/// Checks a header that has options, or one whose IHL is too small. Returns its length.
#[cold]
fn check_options(packet: &[u8]) -> Result<usize, DropReason> {
    let header_len = packet.first().map_or(0, |byte| usize::from(byte & 0x0f) * 4);
    let header = packet.get(..header_len).ok_or(DropReason::IpMalformed)?;
    let list = header.get(HEADER_LEN..).ok_or(DropReason::IpMalformed)?;
    if checksum::of(header) != 0 {
        return Err(DropReason::IpChecksum);
    }
    for option in options(list) {
        // The destination field of a source-routed packet is not where it goes, so that policy would be matched
        // against the wrong address. RFC 7126 s4.3 and s4.4: dropped by default.
        if let [option::LOOSE_SOURCE_ROUTE | option::STRICT_SOURCE_ROUTE, ..] = option? {
            return Err(DropReason::IpOptions);
        }
    }
    Ok(header_len)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// 10.0.0.1 to 10.0.0.2, ICMP, 84 bytes, DF.
    const PING: [u8; 20] =
        [0x45, 0, 0, 84, 0x1c, 0x46, 0x40, 0, 0x40, 1, 0x0a, 0x61, 10, 0, 0, 1, 10, 0, 0, 2];

    fn packet(header: &[u8], payload: usize) -> Vec<u8> {
        let mut packet = [header, &vec![0; payload]].concat();
        let header_len = header.len();
        packet[10..12].fill(0);
        let checksum = checksum::of(&packet[..header_len]);
        packet[10..12].copy_from_slice(&checksum.to_be_bytes());
        packet
    }

    fn fragment(word: u16, protocol: u8, payload: usize) -> Result<IpInfo, DropReason> {
        let mut header = PING;
        header[2..4].copy_from_slice(&((20 + payload) as u16).to_be_bytes());
        header[6..8].copy_from_slice(&word.to_be_bytes());
        header[9] = protocol;
        parse(&packet(&header, payload))
    }

    #[test]
    fn reads_a_header() {
        let info = parse(&[&PING[..], &[8; 64], &[0xff; 6]].concat()).unwrap();
        assert_eq!(info.source, Ipv4Addr::new(10, 0, 0, 1));
        assert_eq!(info.destination, Ipv4Addr::new(10, 0, 0, 2));
        assert_eq!((info.version, info.protocol, info.ttl, info.tos), (Version::V4, 1, 64, 0));
        assert_eq!((info.header_len, info.total_len, info.payload_len()), (20, 84, 64));
        assert!(info.dont_fragment && info.fragment.is_none());
        assert_eq!(info.ports, Some((0x0808, 0x0808)));
    }

    #[test]
    fn every_single_bit_error_in_the_header_is_found() {
        let good = [&PING[..], &[8; 64]].concat();
        for bit in 0..160 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(
                matches!(ip::parse(&bad), Err(DropReason::IpChecksum | DropReason::IpMalformed)),
                "{bit}"
            );
        }
    }

    #[test]
    fn lengths_that_do_not_fit() {
        let with = |at: usize, value: u8| {
            let mut header = PING;
            header[at] = value;
            parse(&packet(&header, 64))
        };
        assert_eq!(with(3, 85), Err(DropReason::IpMalformed), "longer than the slice");
        assert_eq!(with(3, 19), Err(DropReason::IpMalformed), "shorter than the header");
        assert_eq!(with(3, 20).map(|info| info.payload_len()), Ok(0));
        assert_eq!(with(0, 0x44), Err(DropReason::IpMalformed), "IHL of 16 bytes");
        assert_eq!(parse(&PING[..19]), Err(DropReason::IpMalformed));
        let mut long = packet(&PING, 0);
        long[0] = 0x4f;
        assert_eq!(parse(&long), Err(DropReason::IpMalformed), "IHL past the slice");
    }

    #[test]
    fn options_are_checked_and_skipped() {
        let with = |options: [u8; 8]| {
            let mut header = [&PING[..], &options].concat();
            header[0] = 0x47;
            header[3] = 36;
            parse(&packet(&header, 8))
        };
        let info = with([1, 148, 4, 0, 0, 0, 0, 0]).unwrap();
        assert_eq!((info.header_len, info.payload_len()), (28, 8));
        for bad in [[131, 7, 4, 1, 2, 3, 4, 0], [137, 3, 4, 1, 1, 1, 1, 0]] {
            assert_eq!(with(bad), Err(DropReason::IpOptions), "source route");
        }
        for bad in [[148, 1, 0, 0, 0, 0, 0, 0], [148, 9, 0, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1, 1, 148]] {
            assert_eq!(with(bad), Err(DropReason::IpOptions), "length");
        }
        let mut header = [&PING[..], &[1; 4]].concat();
        header[0] = 0x46;
        assert_eq!(parse(&[header, vec![0; 64]].concat()), Err(DropReason::IpChecksum));
    }

    #[test]
    fn fragments() {
        let info = fragment(0x2000, 17, 16).unwrap();
        let expected = FragmentInfo { identification: 0x1c46, offset: 0, more: true };
        assert_eq!((info.fragment, info.ports), (Some(expected), Some((0, 0))));
        let info = fragment(0x0002, 17, 5).unwrap();
        assert_eq!(info.fragment, Some(FragmentInfo { offset: 16, more: false, ..expected }));
        assert_eq!((info.ports, info.is_later_fragment()), (None, true));
    }

    #[test]
    fn fragments_that_make_no_sense() {
        for (word, protocol, payload, why) in [
            (0x2000, 17, 12, "not a multiple of 8"),
            (0x2001, 17, 0, "empty"),
            (0x2000, 6, 16, "first, without the TCP flags behind it (RFC 1858)"),
            (0x0001, 6, 40, "within the TCP header (RFC 3128)"),
        ] {
            assert_eq!(fragment(word, protocol, payload), Err(DropReason::FragmentMalformed), "{why}");
        }
        assert_eq!(fragment(0x1fff, 17, 8), Err(DropReason::FragmentTooLong));
        assert!(fragment(0x2000, 6, 24).is_ok() && fragment(0x0003, 6, 40).is_ok());
    }

    #[test]
    fn df_is_cleared() {
        let mut header = PING;
        clear_dont_fragment(&mut header);
        assert_eq!((header[6], checksum::of(&header)), (0, 0));
    }

    proptest! {
        #[test]
        fn what_is_written_is_parsed(
            source: [u8; 4], destination: [u8; 4], protocol: u8, payload in 0usize..100, identification: u16,
            dont_fragment: bool, ttl: u8, tos: u8,
        ) {
            let repr = Repr {
                source: source.into(), destination: destination.into(), protocol,
                total_len: (HEADER_LEN + payload) as u16, identification, dont_fragment, ttl, tos,
            };
            let mut header = [0xaa; HEADER_LEN];
            repr.emit(&mut header);
            let info = parse(&[&header[..], &vec![0; payload + 3]].concat()).unwrap();
            prop_assert_eq!((info.source, info.destination), (repr.source.into(), repr.destination.into()));
            prop_assert_eq!((info.protocol, info.total_len, info.ttl, info.tos), (protocol, repr.total_len, ttl, tos));
            prop_assert_eq!((info.dont_fragment, info.fragment), (dont_fragment, None));
        }

        #[test]
        fn options_end_whatever_they_hold(list in prop::collection::vec(any::<u8>(), 0..41)) {
            prop_assert!(options(&list).count() <= 41);
        }
    }
}
