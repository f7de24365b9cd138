//! A capture file read into memory.

use std::collections::hash_map::DefaultHasher;
use std::fs::File;
use std::hash::{Hash, Hasher};
use std::io::{self, Read, Seek};
use std::path::Path;

use pcap_file::pcap::PcapReader;
use pcap_file::pcapng::{Block, PcapNgReader};
use pcap_file::{DataLink, PcapError};

use super::super::Mac;
use super::into_io;

/// What the packets of a capture begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Link {
    /// An Ethernet header.
    Ethernet,
    /// An IP header.
    Ip,
}

/// The packets of a capture, one behind the other.
#[derive(Debug)]
pub(super) struct Input {
    link: Link,
    bytes: Vec<u8>,
    /// Where each packet ends.
    ends: Vec<usize>,
}

impl Input {
    /// No packets.
    pub(super) fn empty(link: Link) -> Self {
        Self { link, bytes: Vec::new(), ends: Vec::new() }
    }

    /// Reads a pcap or pcapng file. One that ends in the middle of a packet, as a killed `tcpdump` leaves it,
    /// is taken up to there.
    pub(super) fn read(path: &Path) -> io::Result<Self> {
        let mut file = File::open(path)?;
        let mut magic = [0; 4];
        file.read_exact(&mut magic)
            .map_err(|_| invalid("shorter than the header of a capture file".to_owned()))?;
        file.rewind()?;
        let mut input = Self::empty(Link::Ethernet);
        let result = if magic == PCAPNG_MAGIC { input.read_pcapng(file) } else { input.read_pcap(file) };
        match result {
            Ok(()) => Ok(input),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof && input.len() > 0 => {
                tracing::warn!(
                    file = %path.display(), packets = input.len(),
                    "the capture ends in the middle of a packet; what is before it is used"
                );
                Ok(input)
            }
            Err(error) => {
                Err(io::Error::new(error.kind(), format!("after {} packets: {error}", input.len())))
            }
        }
    }

    /// What the packets begin with.
    pub(super) fn link(&self) -> Link {
        self.link
    }

    /// Packets in all.
    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    /// The bytes of a packet.
    #[inline]
    pub(super) fn packet(&self, index: u32) -> Option<&[u8]> {
        let index = index as usize;
        let start = index.checked_sub(1).map_or(Some(0), |before| self.ends.get(before).copied())?;
        self.bytes.get(start..*self.ends.get(index)?)
    }

    /// The Ethernet destination of the first packet, unless it is a group's.
    pub(super) fn first_destination(&self) -> Option<Mac> {
        let mac: Mac = self.packet(0)?.first_chunk().copied()?;
        (mac[0] & 1 == 0).then_some(mac)
    }

    /// The packets of each of `queues` queues, in order: those with the same addresses in the same queue.
    pub(super) fn spread(&self, queues: usize) -> Vec<Vec<u32>> {
        let mut spread = vec![Vec::new(); queues];
        for index in 0..self.len() as u32 {
            let mut hasher = DefaultHasher::new();
            self.packet(index).and_then(|packet| addresses(packet, self.link)).hash(&mut hasher);
            if let Some(queue) = spread.get_mut(hasher.finish() as usize % queues) {
                queue.push(index);
            }
        }
        spread
    }

    fn read_pcap(&mut self, file: File) -> io::Result<()> {
        let mut reader = PcapReader::new(file).map_err(not_a_capture)?;
        self.link = link(reader.header().datalink)?;
        // Raw packets, because files whose packets exceed their own snapshot length are common.
        while let Some(packet) = reader.next_raw_packet() {
            self.push(&packet.map_err(into_io)?.data)?;
        }
        Ok(())
    }

    fn read_pcapng(&mut self, file: File) -> io::Result<()> {
        let mut reader = PcapNgReader::new(file).map_err(not_a_capture)?;
        while let Some(block) = reader.next_block() {
            match block.map_err(into_io)? {
                Block::InterfaceDescription(interface) => {
                    let link = link(interface.linktype)?;
                    if self.len() > 0 && link != self.link {
                        return Err(invalid("it mixes Ethernet and bare IP packets".to_owned()));
                    }
                    self.link = link;
                }
                Block::EnhancedPacket(packet) => self.push(&packet.data)?,
                Block::Packet(packet) => self.push(&packet.data)?,
                // This block alone has no captured length, so its data end with the padding.
                Block::SimplePacket(packet) => {
                    let len = packet.data.len().min(packet.original_len as usize);
                    self.push(packet.data.get(..len).unwrap_or_default())?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn push(&mut self, packet: &[u8]) -> io::Result<()> {
        if self.len() == u32::MAX as usize {
            return Err(invalid("more than 4,294,967,295 packets".to_owned()));
        }
        self.bytes.extend_from_slice(packet);
        self.ends.push(self.bytes.len());
        Ok(())
    }
}

/// Type of the Section Header Block that a pcapng file begins with; the same in either byte order.
const PCAPNG_MAGIC: [u8; 4] = [0x0a, 0x0d, 0x0d, 0x0a];

/// The source and destination address of an IP packet.
fn addresses(packet: &[u8], link: Link) -> Option<&[u8]> {
    let mut l3 = 0;
    if link == Link::Ethernet {
        l3 = 14;
        while let Some([0x81, 0x00] | [0x88, 0xa8]) = packet.get(l3 - 2..l3) {
            l3 += 4;
        }
        match packet.get(l3 - 2..l3)? {
            [0x08, 0x00] | [0x86, 0xdd] => {}
            _ => return None,
        }
    }
    match packet.get(l3)? >> 4 {
        4 => packet.get(l3 + 12..l3 + 20),
        6 => packet.get(l3 + 8..l3 + 40),
        _ => None,
    }
}

fn link(datalink: DataLink) -> io::Result<Link> {
    match datalink {
        DataLink::ETHERNET => Ok(Link::Ethernet),
        DataLink::RAW | DataLink::IPV4 | DataLink::IPV6 => Ok(Link::Ip),
        other => Err(invalid(format!(
            "its link type is {other:?} ({}); a port takes Ethernet (1) or bare IP (101, 228, 229)",
            u32::from(other)
        ))),
    }
}

fn not_a_capture(error: PcapError) -> io::Error {
    match into_io(error) {
        error if error.kind() == io::ErrorKind::InvalidData => {
            invalid(format!("no pcap or pcapng file: {error}"))
        }
        error => error,
    }
}

fn invalid(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use pcap_file::pcapng::PcapNgWriter;
    use pcap_file::pcapng::blocks::enhanced_packet::EnhancedPacketBlock;
    use pcap_file::pcapng::blocks::interface_description::InterfaceDescriptionBlock;
    use pcap_file::pcapng::blocks::simple_packet::SimplePacketBlock;
    use proptest::prelude::*;
    use std::borrow::Cow;
    use std::io::Write;
    use std::time::Duration;

    fn read(bytes: &[u8]) -> io::Result<Input> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        Input::read(file.path())
    }

    fn interface(link: DataLink) -> InterfaceDescriptionBlock<'static> {
        InterfaceDescriptionBlock::new(link, 0)
    }

    fn packet(data: &[u8]) -> EnhancedPacketBlock<'_> {
        EnhancedPacketBlock {
            interface_id: 0,
            timestamp: Duration::from_secs(1),
            original_len: data.len() as u32,
            data: Cow::Borrowed(data),
            options: vec![],
        }
    }

    fn pcapng() -> Vec<u8> {
        let mut writer = PcapNgWriter::new(Vec::new()).unwrap();
        writer.write_pcapng_block(interface(DataLink::ETHERNET)).unwrap();
        writer.write_pcapng_block(packet(&[2; 61])).unwrap();
        let simple = SimplePacketBlock { original_len: 63, data: Cow::Borrowed(&[3; 63]) };
        writer.write_pcapng_block(simple).unwrap();
        writer.into_inner()
    }

    /// A pcap file in either byte order, microseconds, with a snapshot length shorter than its packets.
    fn pcap(big_endian: bool, link: u32) -> Vec<u8> {
        let word = |n: u32| if big_endian { n.to_be_bytes() } else { n.to_le_bytes() };
        let half = |n: u16| if big_endian { n.to_be_bytes() } else { n.to_le_bytes() };
        let mut file = word(0xa1b2_c3d4).to_vec();
        file.extend([half(2), half(4)].concat());
        file.extend([word(0), word(0), word(50), word(link)].concat());
        for len in [60u32, 70] {
            file.extend([word(1), word(2), word(len), word(1500)].concat());
            file.extend(vec![len as u8; len as usize]);
        }
        file
    }

    #[test]
    fn both_byte_orders_of_pcap_are_read() {
        for big_endian in [false, true] {
            let input = read(&pcap(big_endian, 1)).unwrap();
            assert_eq!((input.link(), input.len()), (Link::Ethernet, 2));
            assert_eq!(input.packet(0).unwrap(), [60; 60]);
            assert_eq!(input.packet(1).unwrap(), [70; 70]);
            assert_eq!(input.packet(2), None);
        }
        assert_eq!(read(&pcap(false, 101)).unwrap().link(), Link::Ip);
    }

    #[test]
    fn pcapng_is_read_with_packets_of_either_kind() {
        let input = read(&pcapng()).unwrap();
        assert_eq!((input.link(), input.len()), (Link::Ethernet, 2));
        assert_eq!(input.packet(0).unwrap(), [2; 61]);
        assert_eq!(input.packet(1).unwrap(), [3; 63]);
        assert_eq!(input.first_destination(), Some([2; 6]));
    }

    #[test]
    fn what_is_no_capture_is_refused_with_a_reason() {
        let why = |bytes: &[u8]| read(bytes).unwrap_err().to_string();
        assert!(why(b"abc").contains("shorter than the header"), "{}", why(b"abc"));
        assert!(why(&[7; 100]).contains("no pcap or pcapng file"), "{}", why(&[7; 100]));
        assert!(why(&pcap(false, 105)).contains("(105)"), "{}", why(&pcap(false, 105)));
        let mut mixed = PcapNgWriter::new(Vec::new()).unwrap();
        mixed.write_pcapng_block(interface(DataLink::ETHERNET)).unwrap();
        mixed.write_pcapng_block(packet(&[2; 60])).unwrap();
        mixed.write_pcapng_block(interface(DataLink::RAW)).unwrap();
        assert!(why(&mixed.into_inner()).contains("mixes"));
    }

    #[test]
    fn a_capture_that_was_cut_is_used_up_to_the_cut() {
        let file = pcap(false, 1);
        assert_eq!(read(&file[..file.len() - 1]).unwrap().len(), 1);
        assert_eq!(read(&file[..file.len() - 75]).unwrap().len(), 1);
        assert!(read(&file[..60]).is_err(), "not one packet");
    }

    #[test]
    fn addresses_are_found_behind_tags_and_without_ethernet() {
        let mut ip4 = vec![0x45; 12];
        ip4.extend(1..=8);
        let ethernet = |tags: &[u8]| [&[0; 12], tags, &[0x08, 0x00], &ip4[..]].concat();
        assert_eq!(addresses(&ip4, Link::Ip), Some(&[1, 2, 3, 4, 5, 6, 7, 8][..]));
        assert_eq!(addresses(&ethernet(&[]), Link::Ethernet), addresses(&ip4, Link::Ip));
        let tags = [0x88, 0xa8, 0, 1, 0x81, 0, 0, 2];
        assert_eq!(addresses(&ethernet(&tags), Link::Ethernet), addresses(&ip4, Link::Ip));
        let ip6: Vec<u8> = [0x60; 8].into_iter().chain(1..=32).collect();
        assert_eq!(addresses(&ip6, Link::Ip).unwrap().len(), 32);
        for len in 0..20 {
            assert_eq!(addresses(&ip4[..len], Link::Ip), None);
        }
        assert_eq!(addresses(&[0; 60], Link::Ethernet), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]
        #[test]
        fn a_damaged_capture_never_panics(
            kind in 0..3, cut in 0..400usize, damage in prop::collection::vec((0..400usize, any::<u8>()), 0..8),
        ) {
            let mut file = match kind { 0 => pcap(false, 1), 1 => pcap(true, 1), _ => pcapng() };
            for (at, byte) in damage {
                if let Some(target) = file.get_mut(at) {
                    *target = byte;
                }
            }
            file.truncate(file.len().saturating_sub(cut));
            let _whatever = read(&file);
        }
    }
}
