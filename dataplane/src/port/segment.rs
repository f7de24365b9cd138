//! Cutting TCP and UDP super-packets (GSO) into frames.

use super::offload::{Gso, VnetHeader, add, finish, read_u16, read_u32, write_u16};
use crate::buffer::{Packet, Pool};

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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::offload::samples::{packet, verify, vnet};
    use super::*;

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

    proptest! {
        /// The kernel's header is trusted to be right, but never to be in bounds.
        #[test]
        fn no_header_leads_out_of_the_packet(
            kind in 0..4usize, len in 0..400usize, gso in 0..6u8, size in 0..600u16, start in 0..120u16,
            offset in 0..40u16, damage in prop::collection::vec((0..80usize, any::<u8>()), 0..6),
        ) {
            let pool = Pool::new(512, 2048).unwrap();
            let (mut frame, right) = packet(kind & 1 == 1, kind & 2 == 2, false, len);
            for (at, byte) in damage {
                if let Some(target) = frame.get_mut(at) {
                    *target = byte;
                }
            }
            for start in [start, right] {
                let header = vnet(1, gso, size, start, offset);
                let mut segmenter = Segmenter::new();
                segmenter.buffer()[..frame.len()].copy_from_slice(&frame);
                if segmenter.start(frame.len(), &header, 1800) {
                    let mut segments = 0;
                    while let Segment::Frame(segment) = segmenter.next(&pool) {
                        prop_assert!(segment.len() <= frame.len());
                        segments += 1;
                    }
                    prop_assert!(segments >= 1 && !segmenter.is_pending());
                }
                header.complete_checksum(&mut frame.clone());
            }
        }
    }
}
