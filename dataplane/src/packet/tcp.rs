//! TCP headers (RFC 9293), as far as a gateway reads them: ports, flags and the MSS option.

use super::bytes::{be16, put};
use super::checksum::update;

mod field {
    pub const DATA_OFFSET: usize = 12;
    pub const FLAGS: usize = 13;
    pub const CHECKSUM: usize = 16;
}

/// Bytes of a header without options.
pub const HEADER_LEN: usize = 20;
/// Where the checksum is.
pub const CHECKSUM_OFFSET: usize = field::CHECKSUM;
/// The SYN flag.
pub const SYN: u8 = 0x02;

const OPTION_END: u8 = 0;
const OPTION_NOP: u8 = 1;
const OPTION_MSS: u8 = 2;

/// Whether the TCP segment at `at` of `packet` is a SYN.
#[inline]
pub fn is_syn(packet: &[u8], at: usize) -> bool {
    packet.get(at + field::FLAGS).is_some_and(|flags| flags & SYN != 0)
}

/// Lowers the MSS option of a SYN to `max_mss` and mends the checksum. `segment` starts at the TCP header. Returns
/// whether it changed. A SYN without the option is left alone: its sender then keeps to 536 or 1220 bytes
/// (RFC 9293 s3.7.1).
pub fn clamp_mss(segment: &mut [u8], max_mss: u16) -> bool {
    let Some((at, mss)) = find_mss(segment) else { return false };
    if mss <= max_mss {
        return false;
    }
    let Some(header) = segment.first_chunk_mut::<HEADER_LEN>() else { return false };
    let checksum = be16::<{ field::CHECKSUM }, _>(header);
    // At an odd offset the value's bytes count in swapped places (RFC 1071 s2 (B)).
    let checksum = if at.is_multiple_of(2) {
        update(checksum, mss, max_mss)
    } else {
        update(checksum, mss.swap_bytes(), max_mss.swap_bytes())
    };
    put::<{ field::CHECKSUM }, 2, _>(header, checksum.to_be_bytes());
    if let Some(value) = segment.get_mut(at..at + 2) {
        value.copy_from_slice(&max_mss.to_be_bytes());
    }
    true
}

/// Where the value of the MSS option of a SYN is, and what it is.
fn find_mss(segment: &[u8]) -> Option<(usize, u16)> {
    let header: &[u8; HEADER_LEN] = segment.first_chunk()?;
    if header[field::FLAGS] & SYN == 0 {
        return None;
    }
    let options = segment.get(..usize::from(header[field::DATA_OFFSET] >> 4) * 4)?;
    let mut at = HEADER_LEN;
    loop {
        match options.get(at..)? {
            [OPTION_END, ..] | [] => return None,
            [OPTION_NOP, ..] => at += 1,
            [OPTION_MSS, 4, high, low, ..] => return Some((at + 2, u16::from_be_bytes([*high, *low]))),
            [_, len, ..] if *len >= 2 => at += usize::from(*len),
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::packet::checksum;

    fn segment(flags: u8, options: &[u8], payload: &[u8]) -> Vec<u8> {
        let mut segment = vec![0, 80, 0x30, 0x39, 0, 0, 0, 1, 0, 0, 0, 2, 0, flags, 0xff, 0xff, 0, 0, 0, 0];
        segment[12] = (5 + options.len() as u8 / 4) << 4;
        segment.extend_from_slice(options);
        segment.extend_from_slice(payload);
        let checksum = checksum::of(&segment);
        segment[16..18].copy_from_slice(&checksum.to_be_bytes());
        segment
    }

    #[test]
    fn clamps_at_even_and_odd_offsets() {
        for options in
            [[2, 4, 0x05, 0xb4, 1, 1, 1, 0], [1, 2, 4, 0x05, 0xb4, 0, 0, 0], [3, 3, 7, 2, 4, 0x05, 0xb4, 0]]
        {
            let mut bytes = segment(SYN, &options, b"odd");
            assert!(clamp_mss(&mut bytes, 1337));
            assert_eq!(checksum::of(&bytes), 0);
            assert_eq!(find_mss(&bytes).unwrap().1, 1337);
        }
    }

    #[test]
    fn leaves_everything_else_alone() {
        let mss = [2, 4, 0x05, 0xb4];
        for (bytes, why) in [
            (segment(SYN, &[2, 4, 0x05, 0x14], &[]), "small enough"),
            (segment(0x10, &mss, &[]), "not a SYN"),
            (segment(SYN, &[0, 0, 0, 0, 2, 4, 0x05, 0xb4], &[]), "behind the end of the options"),
            (segment(SYN, &[], &mss), "in the payload"),
            (segment(SYN, &[2, 3, 0x05, 0xb4], &[]), "wrong length"),
            (segment(SYN, &[8, 0, 0, 0, 2, 4, 0x05, 0xb4], &[]), "an option of no length"),
            (segment(SYN, &[1, 1, 2, 4], &[0x05, 0xb4]), "cut by the end of the options"),
            (segment(SYN, &mss, &[])[..22].to_vec(), "cut by the end of the packet"),
            (segment(SYN, &mss, &[])[..19].to_vec(), "no whole header"),
        ] {
            let mut changed = bytes.clone();
            assert!(!clamp_mss(&mut changed, 1300), "{why}");
            assert_eq!(changed, bytes, "{why}");
        }
        let mut short = segment(SYN, &[], &[]);
        short[12] = 0x40;
        assert!(!clamp_mss(&mut short, 0));
    }

    proptest! {
        #[test]
        fn any_options_keep_the_checksum_right(
            words in 0usize..11, options in prop::collection::vec(prop::sample::select(vec![0u8, 1, 1, 2, 3, 4, 4, 5, 255]), 40),
            max_mss: u16,
        ) {
            let mut bytes = segment(SYN, &options[..words * 4], b"x");
            let changed = clamp_mss(&mut bytes, max_mss);
            prop_assert_eq!(checksum::of(&bytes), 0);
            prop_assert!(!changed || find_mss(&bytes).unwrap().1 == max_mss);
        }
    }
}
