//! Which fields of an IP header AH leaves out, because routers change them (RFC 4302 s3.3.3.1, appendix A).

use crate::packet::ip::protocol;
use crate::packet::{ipv4, ipv6};

/// The longest header with extensions that is handled.
const LONGEST: usize = ipv6::HEADER_LEN + ipv6::MAX_EXTENSION_BYTES;

/// A header as it was, to be put back after the ICV is computed.
pub(super) struct Saved {
    bytes: [u8; LONGEST],
    len: usize,
}

impl Saved {
    /// Keeps the first `ip_len` bytes of `packet` and zeroes what is mutable in them. `None` when the headers do not
    /// parse; the packet is then as it was.
    pub(super) fn mask(packet: &mut [u8], ip_len: usize) -> Option<Self> {
        let header = packet.get_mut(..ip_len)?;
        let mut saved = Self { bytes: [0; LONGEST], len: ip_len };
        saved.bytes.get_mut(..ip_len)?.copy_from_slice(header);
        let masked = match header.first()? >> 4 {
            4 => mask_ipv4(header),
            _ => mask_ipv6(header),
        };
        if masked.is_none() {
            saved.restore(packet);
            return None;
        }
        Some(saved)
    }

    /// Puts the header back.
    pub(super) fn restore(&self, packet: &mut [u8]) {
        if let (Some(to), Some(from)) = (packet.get_mut(..self.len), self.bytes.get(..self.len)) {
            to.copy_from_slice(from);
        }
    }
}

/// RFC 4302 s3.3.3.1.1: DSCP and ECN, flags, fragment offset, TTL, checksum, and options but for those that
/// appendix A1 lists as immutable.
fn mask_ipv4(header: &mut [u8]) -> Option<()> {
    let (fixed, mut options) = header.split_at_mut_checked(ipv4::HEADER_LEN)?;
    for at in [1, 6, 7, 8, 10, 11] {
        *fixed.get_mut(at)? = 0;
    }
    while let Some((&mut kind, _)) = options.split_first_mut() {
        let len = match kind {
            ipv4::option::END => return Some(()),
            ipv4::option::NOP => 1,
            _ => usize::from(*options.get(1)?),
        };
        if len == 0 || (len == 1 && kind != ipv4::option::NOP) {
            return None;
        }
        let (option, rest) = options.split_at_mut_checked(len)?;
        if !is_immutable(kind) {
            option.fill(0);
        }
        options = rest;
    }
    Some(())
}

/// Appendix A1: no operation, the security options, router alert, and sender directed delivery.
fn is_immutable(kind: u8) -> bool {
    matches!(kind, ipv4::option::NOP | 130 | 133 | 134 | 148 | 149)
}

/// RFC 4302 s3.3.3.1.2: traffic class, flow label, hop limit, and the data of options whose third-highest bit says
/// that they may change on the way (RFC 8200 s4.2).
fn mask_ipv6(header: &mut [u8]) -> Option<()> {
    let (fixed, mut extensions) = header.split_at_mut_checked(ipv6::HEADER_LEN)?;
    let [first, second, third, fourth, _, _, next_header, hop_limit, ..] = fixed else { return None };
    *first &= 0xf0;
    (*second, *third, *fourth, *hop_limit) = (0, 0, 0, 0);
    let mut kind = *next_header;
    while !extensions.is_empty() {
        let len = (usize::from(*extensions.get(1)?) + 1) * 8;
        let (extension, rest) = extensions.split_at_mut_checked(len)?;
        let next = *extension.first()?;
        if matches!(kind, protocol::HOP_BY_HOP | protocol::DESTINATION_OPTIONS) {
            mask_options(extension.get_mut(2..)?)?;
        }
        (kind, extensions) = (next, rest);
    }
    Some(())
}

fn mask_options(mut options: &mut [u8]) -> Option<()> {
    const PAD1: u8 = 0;
    const MAY_CHANGE: u8 = 0x20;
    while let Some((&mut kind, rest)) = options.split_first_mut() {
        if kind == PAD1 {
            options = rest;
            continue;
        }
        let (&mut len, rest) = rest.split_first_mut()?;
        let (data, rest) = rest.split_at_mut_checked(len.into())?;
        if kind & MAY_CHANGE != 0 {
            data.fill(0);
        }
        options = rest;
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ipv4_keeps_immutable_options_and_zeroes_the_rest() {
        // Options: router alert, NOP, record route, security, end, and what comes behind the end.
        let mut packet =
            vec![0x4a, 0xb8, 0, 40, 0x12, 0x34, 0x40, 0, 63, 51, 0xaa, 0xbb, 10, 0, 0, 1, 10, 0, 0, 2];
        packet.extend([148, 4, 0, 0, 1, 7, 7, 4, 1, 2, 3, 4, 130, 3, 9, 0, 99, 99, 99, 99]);
        let original = packet.clone();
        let saved = Saved::mask(&mut packet, 40).unwrap();
        let mut expected = vec![0x4a, 0, 0, 40, 0x12, 0x34, 0, 0, 0, 51, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
        expected.extend([148, 4, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 130, 3, 9, 0, 99, 99, 99, 99]);
        assert_eq!(packet, expected);
        saved.restore(&mut packet);
        assert_eq!(packet, original);
    }

    #[test]
    fn ipv6_zeroes_changing_options_in_hop_by_hop_only_where_they_say_so() {
        let mut packet = vec![0x6f, 0xff, 0xff, 0xff, 0, 32, 0, 64];
        packet.extend([1; 32]);
        // Hop-by-hop: router alert (may not change), then an option that may.
        packet.extend([60, 1, 5, 2, 7, 7, 0x3e, 4, 1, 2, 3, 4, 1, 2, 0, 0]);
        // Destination options: one that may change, and padding.
        packet.extend([51, 1, 0xfe, 8, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 1, 0]);
        let original = packet.clone();
        let len = packet.len();
        let saved = Saved::mask(&mut packet, len).unwrap();
        assert_eq!(packet[..8], [0x60, 0, 0, 0, 0, 32, 0, 0]);
        assert_eq!(packet[40..56], [60, 1, 5, 2, 7, 7, 0x3e, 4, 0, 0, 0, 0, 1, 2, 0, 0]);
        assert_eq!(packet[56..], [51, 1, 0xfe, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]);
        saved.restore(&mut packet);
        assert_eq!(packet, original);
    }

    #[test]
    fn headers_that_do_not_parse_are_left_as_they_were() {
        let mut packet = vec![0x46; 24];
        packet[20..].copy_from_slice(&[7, 9, 1, 1]);
        let original = packet.clone();
        assert!(Saved::mask(&mut packet, 24).is_none());
        assert_eq!(packet, original);
        assert!(Saved::mask(&mut packet, 99).is_none());
    }
}
