//! What a received packet is: ours and protected, ours and for the gateway, or transit.

use std::net::IpAddr;

use crate::buffer::Packet;
use crate::drops::DropReason;
use crate::host::nd;
use crate::packet::ethernet::{self, ethertype};
use crate::packet::ip;
use crate::worker::Worker;
use crate::worker::inbound::OpenQueue;
use crate::worker::outbound::SealQueue;
use crate::worker::transit::Origin;

/// What is behind the link layer.
enum Link {
    /// An IP packet; the link header, of this many bytes, is gone. Whether it was sent to an Ethernet group.
    Ip { link_len: usize, to_group: bool },
    /// An ARP packet, with its Ethernet header.
    Arp,
}

impl Worker {
    /// Sends one received frame on its way.
    #[inline]
    pub(super) fn classify(
        &mut self,
        mut packet: Packet,
        now: u64,
        opening: &mut OpenQueue,
        sealing: &mut SealQueue,
    ) {
        let (link_len, to_group) = match self.strip_link(&mut packet) {
            Ok(Link::Ip { link_len, to_group }) => (link_len, to_group),
            Ok(Link::Arp) => return self.arp(packet, now),
            Err(reason) => return self.drop_packet(packet, reason),
        };
        // By reference from here on: a copy costs more than the parse.
        let parsed = ip::parse(packet.data());
        let info = match &parsed {
            Ok(info) => info,
            Err(reason) => return self.drop_packet(packet, *reason),
        };
        packet.truncate(usize::from(info.total_len));
        let origin = Origin::Port(packet.rx_port);
        if to_group && !is_group(info.destination) {
            // RFC 1812 s5.3.4, RFC 1122 s3.3.6: else every router on the link would forward or answer it.
            return self.drop_packet(packet, DropReason::NotOurMac);
        }
        if self.tables.addresses.contains(info.destination) {
            if nd::is_neighbour_message(info) {
                return self.neighbour_discovery(packet, link_len, now);
            }
            self.receive(packet, info, origin, now, Some(opening));
        } else if is_group(info.destination) || is_link_local(info.destination) {
            self.receive_on_link(packet, info, link_len, now);
        } else {
            self.forward(packet, info, origin, now, sealing);
        }
    }

    /// Takes the Ethernet header and the port's VLAN tag off.
    #[inline]
    fn strip_link(&self, packet: &mut Packet) -> Result<Link, DropReason> {
        let state = self.ports.get(usize::from(packet.rx_port)).ok_or(DropReason::EthernetTruncated)?;
        let Some(mac) = state.config.mac else { return Ok(Link::Ip { link_len: 0, to_group: false }) };
        // The common case first: to our address, untagged, IPv4.
        if let Some(header) = packet.data().first_chunk::<{ ethernet::HEADER_LEN }>()
            && state.config.vlan.is_none()
            && header[..6] == mac
            && header[12..] == ethertype::IPV4.to_be_bytes()
        {
            packet.trim_front(ethernet::HEADER_LEN);
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
            ethertype::IPV4 | ethertype::IPV6 => {
                packet.trim_front(header.header_len());
                Ok(Link::Ip { link_len: header.header_len(), to_group })
            }
            ethertype::ARP => Ok(Link::Arp),
            _ => Err(DropReason::EtherTypeUnknown),
        }
    }
}

fn is_group(destination: IpAddr) -> bool {
    match destination {
        IpAddr::V4(v4) => v4.is_multicast() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_multicast(),
    }
}

fn is_link_local(destination: IpAddr) -> bool {
    matches!(destination, IpAddr::V6(v6) if v6.is_unicast_link_local())
}
