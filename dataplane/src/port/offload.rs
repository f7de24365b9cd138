//! What a sender on this host left to the NIC, and the completion of partial checksums. Local senders over
//! veth, TAP and bridges leave it to whoever comes last. Segmentation is in [`super::segment`].

/// Bytes of the header that the kernel puts in front of a packet (`struct virtio_net_hdr`).
pub(super) const VNET_LEN: usize = 10;

/// What the kernel says about a packet's offloads (virtio 1.2 s5.1.6, in host byte order).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct VnetHeader {
    /// The checksum is partial: it holds the sum over the pseudo-header only.
    pub(super) needs_checksum: bool,
    /// How the packet is to be segmented.
    pub(super) gso: Gso,
    /// Payload bytes a segment.
    pub(super) gso_size: u16,
    /// Where the checksummed bytes begin: the TCP or UDP header, from the start of the frame.
    pub(super) checksum_start: u16,
    /// Where the checksum is, from there.
    checksum_offset: u16,
}

/// Kinds of segmentation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Gso {
    /// An ordinary packet.
    #[default]
    None,
    /// TCP over IPv4 or IPv6.
    Tcp,
    /// UDP datagrams of one size (UDP_SEGMENT).
    Udp,
    /// A kind that we do not segment.
    Unknown,
}

impl VnetHeader {
    /// Parses the header.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let &[flags, gso, _, _, size0, size1, start0, start1, offset0, offset1] = bytes else { return None };
        Some(Self {
            needs_checksum: flags & 1 != 0,
            gso: match gso & !GSO_ECN {
                0 => Gso::None,
                1 | 4 => Gso::Tcp,
                5 => Gso::Udp,
                _ => Gso::Unknown,
            },
            gso_size: u16::from_ne_bytes([size0, size1]),
            checksum_start: u16::from_ne_bytes([start0, start1]),
            checksum_offset: u16::from_ne_bytes([offset0, offset1]),
        })
    }

    /// Accounts for `n` bytes of VLAN tag put back into the frame before the network header.
    pub(super) fn shift(&mut self, n: u16) {
        self.checksum_start = self.checksum_start.saturating_add(n);
    }

    /// Completes the partial checksum of a whole frame. Returns `false`, and leaves the frame alone, when the
    /// header points outside of it.
    pub(super) fn complete_checksum(&self, frame: &mut [u8]) -> bool {
        let start = usize::from(self.checksum_start);
        let Some(covered) = frame.get_mut(start..) else { return false };
        let at = usize::from(self.checksum_offset);
        if at + 2 > covered.len() {
            return false;
        }
        let sum = finish(add(0, covered));
        // The field holds the pseudo-header's sum. A sum of zero is sent as all ones: required of UDP
        // (RFC 768), and the same number for TCP.
        write_u16(covered, at, if sum == 0 { 0xffff } else { sum });
        true
    }
}

/// Set beside the kind when the packet is TCP with ECN.
const GSO_ECN: u8 = 0x80;

/// Adds bytes to a running sum of 16-bit words (RFC 1071). Only the last slice may have an odd length.
pub(super) fn add(mut sum: u64, bytes: &[u8]) -> u64 {
    let mut words = bytes.chunks_exact(4);
    for word in &mut words {
        if let &[a, b, c, d] = word {
            sum += u64::from(u32::from_be_bytes([a, b, c, d]));
        }
    }
    match *words.remainder() {
        [a] => sum += u64::from(u16::from_be_bytes([a, 0])),
        [a, b] => sum += u64::from(u16::from_be_bytes([a, b])),
        [a, b, c] => sum += u64::from(u16::from_be_bytes([a, b])) + u64::from(u16::from_be_bytes([c, 0])),
        _ => {}
    }
    sum
}

/// Folds a sum to 16 bits and complements it.
pub(super) fn finish(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

pub(super) fn read_u16(bytes: &[u8], at: usize) -> Option<u16> {
    match bytes.get(at..at + 2) {
        Some(&[a, b]) => Some(u16::from_be_bytes([a, b])),
        _ => None,
    }
}

pub(super) fn read_u32(bytes: &[u8], at: usize) -> Option<u32> {
    match bytes.get(at..at + 4) {
        Some(&[a, b, c, d]) => Some(u32::from_be_bytes([a, b, c, d])),
        _ => None,
    }
}

/// Writes a word that the caller knows to lie within `bytes`.
pub(super) fn write_u16(bytes: &mut [u8], at: usize, value: u16) {
    if let Some(field) = bytes.get_mut(at..at + 2) {
        field.copy_from_slice(&value.to_be_bytes());
    }
}

#[cfg(test)]
pub(super) mod samples {
    use super::*;

    pub(in super::super) const TCP: u8 = 6;
    pub(in super::super) const UDP: u8 = 17;

    pub(in super::super) fn vnet(flags: u8, gso: u8, size: u16, start: u16, offset: u16) -> VnetHeader {
        let mut bytes = vec![flags, gso, 0, 0];
        for word in [size, start, offset] {
            bytes.extend(word.to_ne_bytes());
        }
        VnetHeader::parse(&bytes).unwrap()
    }

    /// Ethernet, IP and TCP or UDP headers around a payload of counting bytes, checksums left out.
    pub(in super::super) fn packet(ipv6: bool, tcp: bool, vlan: bool, payload: usize) -> (Vec<u8>, u16) {
        let mut frame = vec![2; 12];
        if vlan {
            frame.extend([0x81, 0, 0, 7]);
        }
        let l4_len = payload + if tcp { 20 } else { 8 };
        if ipv6 {
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            frame.extend((l4_len as u16).to_be_bytes());
            frame.extend([if tcp { TCP } else { UDP }, 64]);
            frame.extend((0..32).map(|n| n as u8));
        } else {
            frame.extend([8, 0, 0x45, 0]);
            frame.extend(((20 + l4_len) as u16).to_be_bytes());
            frame.extend([0xff, 0xff, 0x40, 0, 64, if tcp { TCP } else { UDP }, 0, 0]);
            frame.extend([10, 1, 0, 1, 10, 2, 0, 1]);
        }
        let start = frame.len() as u16;
        frame.extend([0x12, 0x34, 0x01, 0xbb]);
        if tcp {
            // Sequence number near its end, so that it wraps; ACK, PSH, FIN and CWR set.
            frame.extend([0xff, 0xff, 0xff, 0xf0, 0, 0, 0, 1, 0x50, 0x99, 1, 0, 0, 0, 0, 0]);
        } else {
            frame.extend((l4_len as u16).to_be_bytes());
            frame.extend([0, 0]);
        }
        frame.extend((0..payload).map(|n| n as u8));
        (frame, start)
    }

    /// Sum over pseudo-header and everything from `l4`: zero when the checksum is right.
    pub(in super::super) fn verify(frame: &[u8], l3: usize, l4: usize, ipv6: bool, protocol: u8) -> u16 {
        let addresses = if ipv6 { &frame[l3 + 8..l3 + 40] } else { &frame[l3 + 12..l3 + 20] };
        let sum = add(0, addresses) + u64::from(protocol) + (frame.len() - l4) as u64;
        finish(add(sum, &frame[l4..]))
    }
}

#[cfg(test)]
mod tests {
    use super::samples::*;
    use super::*;

    #[test]
    fn a_partial_checksum_is_completed() {
        for (ipv6, tcp, payload) in [(false, true, 100), (true, false, 33), (false, false, 0)] {
            let (mut frame, start) = packet(ipv6, tcp, false, payload);
            let (l3, l4) = (14, usize::from(start));
            let (protocol, offset) = if tcp { (TCP, 16) } else { (UDP, 6) };
            let addresses =
                if ipv6 { frame[l3 + 8..l3 + 40].to_vec() } else { frame[l3 + 12..l3 + 20].to_vec() };
            let pseudo = add(0, &addresses) + u64::from(protocol) + (frame.len() - l4) as u64;
            write_u16(&mut frame, l4 + offset, !finish(pseudo));
            assert!(vnet(1, 0, 0, start, offset as u16).complete_checksum(&mut frame));
            assert_eq!(verify(&frame, l3, l4, ipv6, protocol), 0);
        }
    }

    #[test]
    fn a_checksum_of_zero_is_sent_as_all_ones() {
        let mut frame = [0xff, 0xff, 0, 0];
        assert!(vnet(1, 0, 0, 0, 2).complete_checksum(&mut frame));
        assert_eq!(frame, [0xff, 0xff, 0xff, 0xff]);
    }

    #[test]
    fn offsets_outside_of_the_frame_change_nothing() {
        let mut frame = [7u8; 60];
        for (start, offset) in [(61, 0), (40, 19), (0, 59), (u16::MAX, u16::MAX)] {
            assert!(!vnet(1, 0, 0, start, offset).complete_checksum(&mut frame));
        }
        assert_eq!(frame, [7; 60]);
    }
}
