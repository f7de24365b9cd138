//! What a received packet is: ours and protected, ours and for the gateway, or transit.

use arrayvec::ArrayVec;

use crate::buffer::{BURST, Burst, Packet};
use crate::drops::DropReason;
use crate::host::nd;
use crate::packet::address::Address;
use crate::packet::ethernet::{self, ethertype};
use crate::packet::ip::{self, protocol};
use crate::sa::{Protocol, Spi};
use crate::worker::Worker;
use crate::worker::inbound::OpenQueue;
use crate::worker::outbound::SealQueue;
use crate::worker::transit::{Origin, strip};
use crate::worker::usual::{Usual, UsualLink};

/// What is behind the link layer.
enum Link {
    /// An IP packet, behind this many bytes of link header. Whether it was sent to an Ethernet group.
    Ip { link_len: usize, to_group: bool },
    /// An ARP packet.
    Arp,
}

/// With fewer policies or SAs than this, what packets are looked up in stays in the cache by itself.
const MANY: u32 = 256;

impl Worker {
    /// Asks for what the packets of a burst will be looked up in, so that the cache misses of all overlap. A wrong guess
    /// costs a little time.
    #[inline]
    pub(super) fn foresee(&self, burst: &Burst) {
        let tables = &self.tables;
        if tables.spd.len() < MANY as usize && tables.inbound.len() < MANY {
            return;
        }
        let mut destinations = ArrayVec::<Address, BURST>::new();
        let mut last_spi = 0;
        for packet in burst {
            match Glimpse::of(packet.data()) {
                Some(Glimpse::Esp { spi }) if spi != last_spi => {
                    last_spi = spi;
                    tables.prefetch_inbound(spi);
                }
                Some(Glimpse::Other { destination }) if destinations.last() != Some(&destination) => {
                    if let Some(destination) = destination.to_v4() {
                        self.decisions.prefetch(destination);
                    }
                    destinations.push(destination);
                }
                _ => {}
            }
        }
        let epoch = self.epoch();
        for &destination in &destinations {
            if !destination.to_v4().is_some_and(|destination| self.decisions.know(destination, epoch)) {
                tables.spd.prefetch(destination);
            }
        }
    }

    /// Sends one received frame on its way.
    #[inline]
    pub(super) fn classify(
        &mut self,
        packet: Packet,
        usual_link: Option<&UsualLink>,
        now: u64,
        opening: &mut OpenQueue,
        sealing: &mut SealQueue,
    ) {
        if let Some(link) = usual_link
            && let Some(usual) = Usual::read(packet.data(), &link.mac)
        {
            if let Some(tunnel) = self.usual_tunnel(&usual, packet.rx_port, link.strict) {
                return self.protect_usual(packet, tunnel, &usual, now, sealing);
            }
            if usual.protocol == protocol::ESP
                && let Some(header) = usual.esp_header()
                && self.tables.addresses.contains(Address::v4(usual.destination.to_be_bytes()))
            {
                return Self::accept_usual(packet, &usual, header, opening);
            }
        }
        self.classify_any(packet, now, opening, sealing);
    }

    /// As [`Worker::classify`], whatever the frame.
    #[inline(never)]
    fn classify_any(
        &mut self,
        mut packet: Packet,
        now: u64,
        opening: &mut OpenQueue,
        sealing: &mut SealQueue,
    ) {
        let (link_len, to_group) = match self.link(&packet) {
            Ok(Link::Ip { link_len, to_group }) => (link_len, to_group),
            Ok(Link::Arp) => return self.arp(packet, now),
            Err(reason) => return self.drop_packet(packet, reason),
        };
        // By reference from here on: a copy costs more than the parse.
        let parsed = ip::parse(packet.data().get(link_len..).unwrap_or_default());
        let info = match &parsed {
            Ok(info) => info,
            Err(reason) => return self.drop_packet(packet, *reason),
        };
        let ours = self.tables.addresses.contains(info.destination);
        let to_one = !info.destination.is_group() && !info.destination.is_link_local_v6();
        if info.fragment.is_none() && !to_group {
            // They keep their link header until they are in their queue.
            if ours && info.protocol == protocol::ESP {
                let at = usize::from(info.header_len);
                return self.accept_protected(packet, link_len, Protocol::Esp, info, at, opening);
            }
            if !ours && to_one {
                return self.forward_frame(packet, link_len, info, now, sealing);
            }
        }
        strip(&mut packet, link_len, info);
        let origin = Origin::Port(packet.rx_port);
        if to_group && !info.destination.is_group() {
            // RFC 1812 s5.3.4, RFC 1122 s3.3.6: else every router on the link would forward or answer it.
            return self.drop_packet(packet, DropReason::NotOurMac);
        }
        if ours {
            if nd::is_neighbour_message(info) {
                return self.neighbour_discovery(packet, link_len, now);
            }
            self.receive(packet, info, origin, now, Some(opening));
        } else if !to_one {
            self.receive_on_link(packet, info, link_len, now);
        } else {
            self.forward(packet, info, origin, now, sealing);
        }
    }

    /// Looks at the Ethernet header and the port's VLAN tag.
    #[inline]
    fn link(&self, packet: &Packet) -> Result<Link, DropReason> {
        let state = self.ports.get(usize::from(packet.rx_port)).ok_or(DropReason::EthernetTruncated)?;
        let Some(mac) = state.config.mac else { return Ok(Link::Ip { link_len: 0, to_group: false }) };
        // The common case first: to our address, untagged, IPv4.
        if let Some(header) = packet.data().first_chunk::<{ ethernet::HEADER_LEN }>()
            && state.config.vlan.is_none()
            && header[..6] == mac
            && header[12..] == ethertype::IPV4.to_be_bytes()
        {
            return Ok(Link::Ip { link_len: ethernet::HEADER_LEN, to_group: false });
        }
        let header = ethernet::Header::parse(packet.data())?;
        let to_group = ethernet::is_multicast(header.destination);
        if header.destination != mac && !to_group {
            return Err(DropReason::NotOurMac);
        }
        // VLAN 0 is a priority tag on untagged traffic (IEEE 802.1Q s6.9).
        let vlan = header.tags.first().map(|tag| tag.id()).filter(|&id| id != 0);
        if vlan != state.config.vlan || header.tags.len() > 1 {
            return Err(DropReason::VlanUnknown);
        }
        match header.ethertype {
            ethertype::IPV4 | ethertype::IPV6 => Ok(Link::Ip { link_len: header.header_len(), to_group }),
            ethertype::ARP => Ok(Link::Arp),
            _ => Err(DropReason::EtherTypeUnknown),
        }
    }
}

/// What an untagged Ethernet frame with the shortest IPv4 or IPv6 header seems to be. Nothing of it is checked: it is good
/// for guesses alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Glimpse {
    Esp { spi: Spi },
    Other { destination: Address },
}

impl Glimpse {
    #[inline]
    fn of(frame: &[u8]) -> Option<Self> {
        const AT: usize = ethernet::HEADER_LEN;
        // Up to the SPI behind an IPv4 header, which an IPv6 header is longer than.
        let header: &[u8; AT + 24] = frame.first_chunk()?;
        let [.., kind, low] = *header.first_chunk::<AT>()?;
        match (u16::from_be_bytes([kind, low]), header[AT]) {
            (ethertype::IPV4, 0x45) if header[AT + 9] == protocol::ESP => {
                Some(Self::Esp { spi: u32::from_be_bytes(*header.last_chunk()?) })
            }
            (ethertype::IPV4, 0x45) => {
                let destination = header[AT + 16..].first_chunk::<4>()?;
                Some(Self::Other { destination: Address::v4(*destination) })
            }
            (ethertype::IPV6, _) if header[AT + 6] == protocol::ESP => {
                let spi = frame.get(AT + 40..)?.first_chunk()?;
                Some(Self::Esp { spi: u32::from_be_bytes(*spi) })
            }
            (ethertype::IPV6, _) => {
                let destination = frame.get(AT + 24..)?.first_chunk::<16>()?;
                Some(Self::Other { destination: Address::v6(*destination) })
            }
            _ => None,
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn frame(ethertype: u16, packet: &[u8]) -> Vec<u8> {
        [&[0; 12][..], &ethertype.to_be_bytes(), packet].concat()
    }

    #[test]
    fn a_glimpse_shows_spi_or_destination_of_either_version() {
        let mut v4 = [0; 28];
        (v4[0], v4[9]) = (0x45, 50);
        v4[16..20].copy_from_slice(&[10, 2, 0, 1]);
        v4[20..24].copy_from_slice(&[0x12, 0x34, 0x56, 0x78]);
        assert_eq!(Glimpse::of(&frame(0x0800, &v4)), Some(Glimpse::Esp { spi: 0x1234_5678 }));
        v4[9] = 17;
        let destination = Address::v4([10, 2, 0, 1]);
        assert_eq!(Glimpse::of(&frame(0x0800, &v4)), Some(Glimpse::Other { destination }));
        let mut v6 = [0; 48];
        (v6[0], v6[6]) = (0x60, 50);
        v6[24..40].copy_from_slice(&[7; 16]);
        v6[40..44].copy_from_slice(&[0x12, 0x34, 0x56, 0x78]);
        assert_eq!(Glimpse::of(&frame(0x86dd, &v6)), Some(Glimpse::Esp { spi: 0x1234_5678 }));
        v6[6] = 17;
        let destination = Address::v6([7; 16]);
        assert_eq!(Glimpse::of(&frame(0x86dd, &v6)), Some(Glimpse::Other { destination }));
    }

    #[test]
    fn a_glimpse_of_anything_else_shows_nothing() {
        for len in 0..60 {
            let _ = Glimpse::of(&frame(0x86dd, &vec![50; len]));
            let _ = Glimpse::of(&vec![0x45; len]);
        }
        assert_eq!(Glimpse::of(&frame(0x0806, &[0x45; 46])), None);
        assert_eq!(Glimpse::of(&frame(0x0800, &[0x46; 46])), None);
        assert_eq!(Glimpse::of(&frame(0x0800, &[0x45; 20])), None);
    }
}
