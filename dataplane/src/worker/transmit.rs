//! The last steps: route, next hop, link header, transmit burst.

use crate::buffer::Packet;
use crate::drops::DropReason;
use crate::host::icmp::Error;
use crate::host::{Context, Output};
use crate::message::{Event, Neighbour};
use crate::packet::ethernet::{self, ethertype};
use crate::packet::ip::{self, IpInfo, Version};
use crate::port::PortId;
use crate::worker::next_hops::Adjacency;
use crate::worker::transit::Origin;
use crate::worker::{Worker, send};

impl Worker {
    /// Sends an IP packet in the clear towards its destination.
    #[inline]
    pub(super) fn route(&mut self, packet: Packet, info: &IpInfo, origin: Origin, now: u64) {
        let Some(adjacency) = self.adjacency(info.destination) else {
            self.complain(&packet, info, origin, Error::NoRoute, now);
            return self.drop_packet(packet, DropReason::NoRoute);
        };
        if packet.len() <= adjacency.mtu as usize {
            return self.transmit(packet, &adjacency, now);
        }
        // RFC 1812 s5.3.1, RFC 8200 s5: only IPv4 without DF is fragmented on the way.
        if info.dont_fragment && origin != Origin::Local {
            self.complain(&packet, info, origin, Error::TooBig { mtu: adjacency.mtu }, now);
            return self.drop_packet(packet, DropReason::TooBig);
        }
        // IPv6 that may be fragmented is our own, or was put together here.
        let own = origin == Origin::Local || info.version == Version::V6;
        self.transmit_pieces(packet, adjacency.mtu, own, &adjacency, now);
    }

    /// Fragments a packet to `mtu` bytes and sends the pieces. Counts it when that cannot be.
    #[cold]
    pub(super) fn transmit_pieces(
        &mut self,
        packet: Packet,
        mtu: u32,
        own: bool,
        adjacency: &Adjacency,
        now: u64,
    ) {
        let sent =
            self.fragment(packet, mtu as usize, own, |worker, piece| worker.transmit(piece, adjacency, now));
        if let Err(reason) = sent {
            self.drops.count(reason);
        }
    }

    /// Puts the link header on an IP packet and queues it, or has its next hop resolved first.
    #[inline]
    pub(super) fn transmit(&mut self, mut packet: Packet, adjacency: &Adjacency, now: u64) {
        let Some(state) = self.ports.get(usize::from(adjacency.port)) else {
            return self.drop_packet(packet, DropReason::NoRoute);
        };
        let Some(own) = state.config.mac else {
            return self.enqueue(adjacency.port, packet);
        };
        let Some(mac) = adjacency.neighbour.and_then(|index| self.local.neighbours.mac(index)) else {
            return self.resolve_and_send(packet, adjacency, now);
        };
        let ethertype = match packet.data().first() {
            Some(byte) if byte >> 4 == 6 => ethertype::IPV6,
            _ => ethertype::IPV4,
        };
        let pushed = match state.config.vlan {
            None => push_header(&mut packet, mac, own, ethertype),
            Some(id) => {
                let mut header = ethernet::Header::untagged(mac, own, ethertype);
                header.tags.push(ethernet::VlanTag::customer(id));
                header.push(&mut packet)
            }
        };
        match pushed {
            Ok(()) => self.enqueue(adjacency.port, packet),
            Err(reason) => self.drop_packet(packet, reason),
        }
    }

    #[cold]
    fn resolve_and_send(&mut self, packet: Packet, adjacency: &Adjacency, now: u64) {
        let local = &mut self.local;
        let mut context = Context { now, pool: &self.pool, drops: &mut self.drops, out: &mut local.outputs };
        local.neighbours.send(adjacency.port, adjacency.next_hop, packet, &mut context);
        self.carry_out(now);
    }

    /// Queues a complete frame.
    #[inline]
    pub(super) fn enqueue(&mut self, port: PortId, packet: Packet) {
        let Some(state) = self.ports.get_mut(usize::from(port)) else { return };
        if state.tx.is_full() {
            send(state, &mut self.drops);
        }
        state.tx.push(packet);
    }

    /// Does what host code asked for.
    pub(super) fn carry_out(&mut self, now: u64) {
        let mut outputs = std::mem::take(&mut self.local.outputs);
        for output in outputs.drain(..) {
            match output {
                Output::Frame(port, packet) => self.enqueue(port, packet),
                Output::Unreachable(packet) => {
                    if let Ok(info) = ip::parse(packet.data()) {
                        let origin = Origin::Port(packet.rx_port);
                        self.complain(&packet, &info, origin, Error::HostUnreachable, now);
                    }
                }
                Output::Learned(neighbour) => {
                    // Lost when the control side is behind: the other workers then ask for themselves.
                    self.hint(Event::Neighbour(neighbour));
                }
                Output::Conflict(other) => {
                    self.hint_limited(Event::Conflict(other), now);
                }
            }
        }
        // Keep the memory for the next time.
        self.local.outputs = outputs;
    }

    /// Takes over what another worker learned.
    pub(super) fn neighbour_learned(&mut self, neighbour: &Neighbour, now: u64) {
        let local = &mut self.local;
        let mut context = Context { now, pool: &self.pool, drops: &mut self.drops, out: &mut local.outputs };
        local.neighbours.apply(neighbour, &mut context);
        self.carry_out(now);
    }
}

#[inline]
fn push_header(packet: &mut Packet, to: [u8; 6], from: [u8; 6], ethertype: u16) -> Result<(), DropReason> {
    let header = packet.prepend(ethernet::HEADER_LEN).ok_or(DropReason::NoRoom)?;
    let header: &mut [u8; ethernet::HEADER_LEN] = header.first_chunk_mut().ok_or(DropReason::NoRoom)?;
    header[..6].copy_from_slice(&to);
    header[6..12].copy_from_slice(&from);
    header[12..].copy_from_slice(&ethertype.to_be_bytes());
    Ok(())
}
