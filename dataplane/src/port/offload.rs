//! Finishing in software what a sender on this host left to the NIC: partial checksums and packets that
//! are to be segmented (GSO). Local senders over veth, TAP and bridges leave both to whoever comes last.

use crate::buffer::{Packet, Pool};

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
    gso_size: u16,
    /// Where the checksummed bytes begin: the TCP or UDP header, from the start of the frame.
    checksum_start: u16,
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

/// Cuts one large packet at a time into frames.
pub(super) struct Segmenter {
    /// The large packet, Ethernet header first.
    packet: Box<[u8]>,
    len: usize,
    /// Where the payload of the next segment begins; `len` when there is none.
    next: usize,
    plan: Plan,
}

/// Where the headers of the large packet are.
#[derive(Clone, Copy, Default)]
struct Plan {
    l3: usize,
    l4: usize,
    payload: usize,
    size: usize,
    ipv4: bool,
    tcp: bool,
}

/// What comes of asking for a segment.
pub(super) enum Segment {
    /// The next frame.
    Frame(Packet),
    /// The pool has no frame for it; the segment is lost.
    NoBuffer,
    /// There is no segment left.
    Done,
}

impl Segmenter {
    /// A segmenter with room for the largest packet of `GSO_MAX_SIZE`.
    pub(super) fn new() -> Self {
        Self { packet: vec![0; CAPACITY].into_boxed_slice(), len: 0, next: 0, plan: Plan::default() }
    }

    /// Room to receive a large packet into, before [`Segmenter::start`].
    pub(super) fn buffer(&mut self) -> &mut [u8] {
        &mut self.packet
    }

    /// Whether segments are waiting.
    pub(super) fn is_pending(&self) -> bool {
        self.next < self.len
    }

    /// Begins with the packet in the first `len` bytes of the buffer. Returns `false`, and drops it, when it
    /// is not TCP or UDP in IP as `header` says, or a segment would not fit into `frame_room` bytes.
    pub(super) fn start(&mut self, len: usize, header: &VnetHeader, frame_room: usize) -> bool {
        (self.len, self.next) = (0, 0);
        let Some(plan) = self.packet.get(..len).and_then(|packet| plan(packet, header)) else { return false };
        if plan.payload + plan.size.min(len - plan.payload) > frame_room {
            return false;
        }
        (self.len, self.next, self.plan) = (len, plan.payload, plan);
        true
    }

    /// Makes the next segment in a frame of `pool`.
    pub(super) fn next(&mut self, pool: &Pool) -> Segment {
        let plan = self.plan;
        let (begin, end) = (self.next, (self.next + plan.size).min(self.len));
        let (Some(headers), Some(payload)) = (self.packet.get(..plan.payload), self.packet.get(begin..end))
        else {
            return Segment::Done;
        };
        if payload.is_empty() {
            return Segment::Done;
        }
        self.next = end;
        let Some(mut segment) = pool.alloc() else { return Segment::NoBuffer };
        let Some(room) = segment.append(headers.len() + payload.len()) else { return Segment::NoBuffer };
        let (front, back) = room.split_at_mut(headers.len());
        front.copy_from_slice(headers);
        back.copy_from_slice(payload);
        finish_segment(room, &plan, begin - plan.payload, end == self.len);
        Segment::Frame(segment)
    }
}

const GSO_ECN: u8 = 0x80;
/// 65,536 bytes of IP packet, an Ethernet header and two VLAN tags.
const CAPACITY: usize = 65_536 + 14 + 8;
const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const ETHERTYPE_VLAN: [u16; 2] = [0x8100, 0x88a8];
const TCP: u8 = 6;
const UDP: u8 = 17;
const TCP_FIN_PSH: u8 = 0x09;
const TCP_CWR: u8 = 0x80;

/// Checks that the packet is what `header` says, and finds its parts.
fn plan(packet: &[u8], header: &VnetHeader) -> Option<Plan> {
    let mut l3 = 14;
    while ETHERTYPE_VLAN.contains(&read_u16(packet, l3 - 2)?) {
        l3 += 4;
    }
    let l4 = usize::from(header.checksum_start);
    let (ipv4, protocol, l3_len) = match read_u16(packet, l3 - 2)? {
        ETHERTYPE_IPV4 => (true, *packet.get(l3 + 9)?, usize::from(*packet.get(l3)? & 0x0f) * 4),
        ETHERTYPE_IPV6 => (false, *packet.get(l3 + 6)?, 40),
        _ => return None,
    };
    if l3_len < 20 || l3 + l3_len != l4 {
        return None;
    }
    let l4_len = match (header.gso, protocol) {
        (Gso::Tcp, TCP) => usize::from(packet.get(l4 + 12)? >> 4) * 4,
        (Gso::Udp, UDP) => 8,
        _ => return None,
    };
    let payload = l4 + l4_len;
    let size = usize::from(header.gso_size);
    let minimum = if header.gso == Gso::Tcp { 20 } else { 8 };
    (size > 0 && l4_len >= minimum && payload < packet.len()).then_some(Plan {
        l3,
        l4,
        payload,
        size,
        ipv4,
        tcp: header.gso == Gso::Tcp,
    })
}

/// Writes the lengths, numbers, flags and checksums of a segment whose headers are those of the large
/// packet and whose payload begins `offset` bytes into the large payload.
fn finish_segment(segment: &mut [u8], plan: &Plan, offset: usize, last: bool) {
    let total = segment.len();
    let (ip, l4) = (&mut *segment, plan.l4);
    let l4_len = total - l4;
    let mut sum = 0;
    if plan.ipv4 {
        write_u16(ip, plan.l3 + 2, (total - plan.l3) as u16);
        // Each segment is a packet of its own and so has an identification of its own (RFC 791).
        let index = (offset / plan.size) as u16;
        let id = read_u16(ip, plan.l3 + 4).unwrap_or_default().wrapping_add(index);
        write_u16(ip, plan.l3 + 4, id);
        write_u16(ip, plan.l3 + 10, 0);
        let checksum = finish(add(0, ip.get(plan.l3..l4).unwrap_or_default()));
        write_u16(ip, plan.l3 + 10, checksum);
        sum = add(sum, ip.get(plan.l3 + 12..plan.l3 + 20).unwrap_or_default());
    } else {
        write_u16(ip, plan.l3 + 4, l4_len as u16);
        sum = add(sum, ip.get(plan.l3 + 8..plan.l3 + 40).unwrap_or_default());
    }
    sum += l4_len as u64 + u64::from(if plan.tcp { TCP } else { UDP });
    let checksum_at = if plan.tcp {
        let sequence = read_u32(ip, l4 + 4).unwrap_or_default().wrapping_add(offset as u32);
        write_u16(ip, l4 + 4, (sequence >> 16) as u16);
        write_u16(ip, l4 + 6, sequence as u16);
        if let Some(flags) = ip.get_mut(l4 + 13) {
            if !last {
                *flags &= !TCP_FIN_PSH;
            }
            // CWR is said once (RFC 3168 s6.1.2).
            if offset > 0 {
                *flags &= !TCP_CWR;
            }
        }
        l4 + 16
    } else {
        write_u16(ip, l4 + 4, l4_len as u16);
        l4 + 6
    };
    write_u16(ip, checksum_at, 0);
    let checksum = finish(add(sum, ip.get(l4..).unwrap_or_default()));
    write_u16(ip, checksum_at, if checksum == 0 { 0xffff } else { checksum });
}

/// Adds bytes to a running sum of 16-bit words (RFC 1071). Only the last slice may have an odd length.
fn add(mut sum: u64, bytes: &[u8]) -> u64 {
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
fn finish(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

fn read_u16(bytes: &[u8], at: usize) -> Option<u16> {
    match bytes.get(at..at + 2) {
        Some(&[a, b]) => Some(u16::from_be_bytes([a, b])),
        _ => None,
    }
}

fn read_u32(bytes: &[u8], at: usize) -> Option<u32> {
    match bytes.get(at..at + 4) {
        Some(&[a, b, c, d]) => Some(u32::from_be_bytes([a, b, c, d])),
        _ => None,
    }
}

/// Writes a word that the caller knows to lie within `bytes`.
fn write_u16(bytes: &mut [u8], at: usize, value: u16) {
    if let Some(field) = bytes.get_mut(at..at + 2) {
        field.copy_from_slice(&value.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vnet(flags: u8, gso: u8, size: u16, start: u16, offset: u16) -> VnetHeader {
        let mut bytes = vec![flags, gso, 0, 0];
        for word in [size, start, offset] {
            bytes.extend(word.to_ne_bytes());
        }
        VnetHeader::parse(&bytes).unwrap()
    }

    /// Ethernet, IP and TCP or UDP headers around a payload of counting bytes, checksums left out.
    fn packet(ipv6: bool, tcp: bool, vlan: bool, payload: usize) -> (Vec<u8>, u16) {
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
    fn verify(frame: &[u8], l3: usize, l4: usize, ipv6: bool, protocol: u8) -> u16 {
        let addresses = if ipv6 { &frame[l3 + 8..l3 + 40] } else { &frame[l3 + 12..l3 + 20] };
        let sum = add(0, addresses) + u64::from(protocol) + (frame.len() - l4) as u64;
        finish(add(sum, &frame[l4..]))
    }

    fn segments(frame: &[u8], header: &VnetHeader, pool: &Pool) -> Vec<Packet> {
        let mut segmenter = Segmenter::new();
        segmenter.buffer()[..frame.len()].copy_from_slice(frame);
        assert!(segmenter.start(frame.len(), header, 1800));
        let mut all = Vec::new();
        while let Segment::Frame(packet) = segmenter.next(pool) {
            all.push(packet);
        }
        assert!(!segmenter.is_pending());
        all
    }

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

    #[test]
    fn tcp_is_segmented_with_numbers_flags_and_checksums() {
        let pool = Pool::new(64, 2048).unwrap();
        for (ipv6, vlan) in [(false, false), (true, false), (false, true)] {
            let (frame, start) = packet(ipv6, true, vlan, 3500);
            let all = segments(&frame, &vnet(1, if ipv6 { 4 } else { 1 }, 1400, start, 16), &pool);
            assert_eq!(all.len(), 3);
            let l4 = usize::from(start);
            let l3 = if vlan { 18 } else { 14 };
            let mut payload: Vec<u8> = Vec::new();
            for (i, segment) in all.iter().enumerate() {
                let bytes = segment.data();
                assert_eq!(verify(bytes, l3, l4, ipv6, TCP), 0, "segment {i}");
                let sequence = u32::from_be_bytes(bytes[l4 + 4..l4 + 8].try_into().unwrap());
                assert_eq!(sequence, 0xffff_fff0u32.wrapping_add(1400 * i as u32));
                assert_eq!(bytes[l4 + 13], [0x90, 0x10, 0x19][i], "flags of segment {i}");
                if ipv6 {
                    assert_eq!(read_u16(bytes, l3 + 4).unwrap() as usize, bytes.len() - l4);
                } else {
                    assert_eq!(finish(add(0, &bytes[l3..l4])), 0);
                    assert_eq!(read_u16(bytes, l3 + 2).unwrap() as usize, bytes.len() - l3);
                    assert_eq!(read_u16(bytes, l3 + 4).unwrap(), 0xffffu16.wrapping_add(i as u16));
                }
                payload.extend(&bytes[l4 + 20..]);
            }
            assert_eq!(payload, frame[l4 + 20..]);
        }
    }

    #[test]
    fn udp_is_segmented_into_datagrams() {
        let pool = Pool::new(64, 2048).unwrap();
        let (frame, start) = packet(true, false, false, 2500);
        let all = segments(&frame, &vnet(1, 5, 1000, start, 6), &pool);
        let sizes: Vec<_> = all.iter().map(|segment| segment.len() - usize::from(start) - 8).collect();
        assert_eq!(sizes, [1000, 1000, 500]);
        for segment in &all {
            assert_eq!(verify(segment.data(), 14, usize::from(start), true, UDP), 0);
            assert_eq!(
                read_u16(segment.data(), usize::from(start) + 4).unwrap() as usize,
                segment.len() - usize::from(start)
            );
        }
    }

    #[test]
    fn what_does_not_parse_is_refused() {
        let (frame, start) = packet(false, true, false, 3000);
        let good = vnet(1, 1, 1400, start, 16);
        let mut segmenter = Segmenter::new();
        let mut refused = |frame: &[u8], header: &VnetHeader, room: usize| {
            segmenter.buffer()[..frame.len()].copy_from_slice(frame);
            !segmenter.start(frame.len(), header, room) && !segmenter.is_pending()
        };
        assert!(!refused(&frame, &good, 1454));
        assert!(refused(&frame, &good, 1453), "a segment larger than a frame");
        assert!(refused(&frame, &vnet(1, 1, 0, start, 16), 1800), "a segment size of zero");
        assert!(refused(&frame, &vnet(1, 5, 1400, start, 6), 1800), "TCP said to be UDP");
        assert!(refused(&frame, &vnet(1, 3, 1400, start, 6), 1800), "an unknown kind");
        assert!(refused(&frame, &vnet(1, 1, 1400, start + 1, 16), 1800), "a wrong start");
        for len in 0..54 {
            assert!(refused(&frame[..len], &good, 1800), "cut to {len} bytes");
        }
        let mut arp = frame.clone();
        arp[13] = 6;
        assert!(refused(&arp, &good, 1800), "not IP");
        assert!(VnetHeader::parse(&[0; 9]).is_none());
    }

    #[test]
    fn a_segment_without_a_frame_is_lost_and_the_rest_goes_on() {
        let pool = Pool::new(1, 2048).unwrap();
        let (frame, start) = packet(false, true, false, 3000);
        let mut segmenter = Segmenter::new();
        segmenter.buffer()[..frame.len()].copy_from_slice(&frame);
        assert!(segmenter.start(frame.len(), &vnet(1, 1, 1400, start, 16), 1800));
        let Segment::Frame(first) = segmenter.next(&pool) else { panic!("a frame was free") };
        assert!(matches!(segmenter.next(&pool), Segment::NoBuffer));
        drop(first);
        assert!(matches!(segmenter.next(&pool), Segment::Frame(_)));
        assert!(matches!(segmenter.next(&pool), Segment::Done));
    }
}
