//! Ethernet II headers with up to two VLAN tags (IEEE 802.1Q, 802.1ad).

use arrayvec::ArrayVec;

use super::bytes::{array, be16};
use crate::buffer::Packet;
use crate::drops::DropReason;
use crate::port::Mac;

mod field {
    pub const DESTINATION: usize = 0;
    pub const SOURCE: usize = 6;
    pub const ETHERTYPE: usize = 12;
    /// Within a tag, counted from the EtherType that announces it.
    pub const TCI: usize = 0;
    pub const TAGGED_ETHERTYPE: usize = 2;
}

/// Bytes of a header without tags.
pub const HEADER_LEN: usize = 14;
/// Bytes of one VLAN tag.
pub const TAG_LEN: usize = 4;
/// The most tags that are parsed.
pub const MAX_TAGS: usize = 2;
/// The broadcast address.
pub const BROADCAST: Mac = [0xff; 6];

/// EtherTypes.
pub mod ethertype {
    /// IPv4.
    pub const IPV4: u16 = 0x0800;
    /// ARP.
    pub const ARP: u16 = 0x0806;
    /// A customer VLAN tag (802.1Q).
    pub const VLAN: u16 = 0x8100;
    /// IPv6.
    pub const IPV6: u16 = 0x86dd;
    /// A service VLAN tag (802.1ad).
    pub const SERVICE_VLAN: u16 = 0x88a8;
}

/// One VLAN tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VlanTag {
    /// The EtherType that announces it: [`ethertype::VLAN`] or [`ethertype::SERVICE_VLAN`].
    pub tpid: u16,
    /// Priority (3 bits), drop eligible (1 bit), VLAN id (12 bits).
    pub tci: u16,
}

impl VlanTag {
    /// A customer tag with this VLAN id, priority 0.
    pub const fn customer(id: u16) -> Self {
        Self { tpid: ethertype::VLAN, tci: id & 0xfff }
    }

    /// The VLAN id; 0 is a tag for its priority alone, 4095 is reserved.
    pub const fn id(self) -> u16 {
        self.tci & 0xfff
    }

    /// The priority, 0 to 7.
    pub const fn priority(self) -> u8 {
        (self.tci >> 13) as u8
    }
}

/// A header, outermost tag first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Who it is sent to.
    pub destination: Mac,
    /// Who sent it.
    pub source: Mac,
    /// VLAN tags.
    pub tags: ArrayVec<VlanTag, MAX_TAGS>,
    /// What follows. Below 1536 it is an 802.3 length.
    pub ethertype: u16,
}

impl Header {
    /// Parses the header. What follows it starts at [`Header::header_len`]. A third tag is left as EtherType.
    ///
    /// # Errors
    /// [`DropReason::EthernetTruncated`].
    #[inline]
    pub fn parse(frame: &[u8]) -> Result<Self, DropReason> {
        let header: &[u8; HEADER_LEN] = frame.first_chunk().ok_or(DropReason::EthernetTruncated)?;
        let mut ethertype = be16::<{ field::ETHERTYPE }, _>(header);
        let mut tags = ArrayVec::new();
        while is_tag(ethertype) && !tags.is_full() {
            let tag = frame
                .get(HEADER_LEN + tags.len() * TAG_LEN..)
                .and_then(|rest| rest.first_chunk::<TAG_LEN>())
                .ok_or(DropReason::EthernetTruncated)?;
            tags.push(VlanTag { tpid: ethertype, tci: be16::<{ field::TCI }, _>(tag) });
            ethertype = be16::<{ field::TAGGED_ETHERTYPE }, _>(tag);
        }
        Ok(Self {
            destination: array::<{ field::DESTINATION }, 6, _>(header),
            source: array::<{ field::SOURCE }, 6, _>(header),
            tags,
            ethertype,
        })
    }

    /// A header without tags.
    pub fn untagged(destination: Mac, source: Mac, ethertype: u16) -> Self {
        Self { destination, source, tags: ArrayVec::new(), ethertype }
    }

    /// Bytes of the header with its tags: 14, 18 or 22.
    #[inline]
    pub fn header_len(&self) -> usize {
        HEADER_LEN + self.tags.len() * TAG_LEN
    }

    /// The header of an answer from `source`: to the sender, on the same VLAN.
    pub fn reply(&self, source: Mac) -> Self {
        Self { destination: self.source, source, tags: self.tags.clone(), ethertype: self.ethertype }
    }

    /// Writes the header in front of the packet's data.
    ///
    /// # Errors
    /// [`DropReason::NoRoom`] when the headroom is too small.
    #[inline]
    pub fn push(&self, packet: &mut Packet) -> Result<(), DropReason> {
        let out = packet.prepend(self.header_len()).ok_or(DropReason::NoRoom)?;
        self.emit(out)
    }

    /// Writes the header to the start of `out`.
    ///
    /// # Errors
    /// [`DropReason::NoRoom`] when `out` is shorter than [`Header::header_len`].
    #[inline]
    pub fn emit(&self, out: &mut [u8]) -> Result<(), DropReason> {
        let out = out.get_mut(..self.header_len()).ok_or(DropReason::NoRoom)?;
        let (addresses, tags) = out.split_at_mut(field::ETHERTYPE);
        let (destination, source) = addresses.split_at_mut(field::SOURCE);
        destination.copy_from_slice(&self.destination);
        source.copy_from_slice(&self.source);
        for (tag, place) in self.tags.iter().zip(tags.as_chunks_mut().0) {
            let ([t0, t1], [c0, c1]) = (tag.tpid.to_be_bytes(), tag.tci.to_be_bytes());
            *place = [t0, t1, c0, c1];
        }
        if let Some(ethertype) = out.last_chunk_mut() {
            *ethertype = self.ethertype.to_be_bytes();
        }
        Ok(())
    }
}

/// Whether frames to this address are for more than one station.
#[inline]
pub const fn is_multicast(mac: Mac) -> bool {
    mac[0] & 1 != 0
}

/// The group address that an IPv6 multicast address maps to (RFC 2464 s7).
pub const fn ipv6_multicast(address: std::net::Ipv6Addr) -> Mac {
    let [.., a, b, c, d] = address.octets();
    [0x33, 0x33, a, b, c, d]
}

const fn is_tag(ethertype: u16) -> bool {
    matches!(ethertype, ethertype::VLAN | ethertype::SERVICE_VLAN)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::buffer::Pool;

    const QINQ: [u8; 22] = [
        0x02, 0, 0, 0, 0, 1, 0x02, 0, 0, 0, 0, 2, 0x88, 0xa8, 0x00, 0x64, 0x81, 0x00, 0xe0, 0x0a, 0x08, 0x00,
    ];

    #[test]
    fn reads_both_tags() {
        let header = Header::parse(&QINQ).unwrap();
        assert_eq!(header.destination, [2, 0, 0, 0, 0, 1]);
        assert_eq!(header.source, [2, 0, 0, 0, 0, 2]);
        assert_eq!((header.tags[0].tpid, header.tags[0].id()), (0x88a8, 100));
        assert_eq!((header.tags[1].id(), header.tags[1].priority()), (10, 7));
        assert_eq!((header.ethertype, header.header_len()), (ethertype::IPV4, 22));
    }

    #[test]
    fn a_cut_header_is_truncated_wherever_it_is_cut() {
        for len in 0..QINQ.len() {
            assert_eq!(Header::parse(&QINQ[..len]), Err(DropReason::EthernetTruncated), "{len}");
        }
    }

    #[test]
    fn a_third_tag_is_an_ethertype_that_nobody_knows() {
        let mut frame = QINQ.to_vec();
        frame[20..].copy_from_slice(&[0x81, 0x00]);
        assert_eq!(Header::parse(&frame).unwrap().ethertype, ethertype::VLAN);
    }

    #[test]
    fn an_answer_goes_back_on_the_same_vlan() {
        let header = Header::parse(&QINQ).unwrap().reply([9; 6]);
        assert_eq!((header.destination, header.source, header.tags.len()), ([2, 0, 0, 0, 0, 2], [9; 6], 2));
    }

    #[test]
    fn is_written_in_front_of_a_packet_if_there_is_room() {
        let pool = Pool::new(1, 2048).unwrap();
        let mut packet = pool.alloc_from(b"payload").unwrap();
        let header = Header::parse(&QINQ).unwrap();
        header.push(&mut packet).unwrap();
        assert_eq!(packet.data(), [&QINQ[..], b"payload"].concat());
        while header.push(&mut packet).is_ok() {}
        assert_eq!(header.push(&mut packet), Err(DropReason::NoRoom));
        assert_eq!(header.emit(&mut [0; 21]), Err(DropReason::NoRoom));
    }

    #[test]
    fn groups() {
        assert!(is_multicast(BROADCAST) && !is_multicast([2, 0, 0, 0, 0, 1]));
        let group = "ff02::1:ff28:9c5a".parse().unwrap();
        assert_eq!(ipv6_multicast(group), [0x33, 0x33, 0xff, 0x28, 0x9c, 0x5a]);
    }

    proptest! {
        #[test]
        fn what_is_parsed_is_written_back(frame in prop::collection::vec(any::<u8>(), 0..40), tags in 0usize..4) {
            let mut frame = frame;
            for tag in 0..tags {
                if let Some(place) = frame.get_mut(12 + tag * 4..14 + tag * 4) {
                    place.copy_from_slice(&[0x81, 0x00]);
                }
            }
            if let Ok(header) = Header::parse(&frame) {
                let mut out = vec![0; header.header_len()];
                header.emit(&mut out).unwrap();
                prop_assert_eq!(&out, &frame[..out.len()]);
            }
        }
    }
}
