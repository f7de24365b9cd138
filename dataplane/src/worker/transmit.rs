//! The last steps: route, next hop, link header, transmit burst.

use crate::buffer::Packet;
use crate::drops::DropReason;
use crate::host::icmp::Error;
use crate::host::{Context, Output};
use crate::message::{Event, Neighbour};
use crate::packet::ethernet::{self, ethertype};
use crate::packet::ip::{self, IpInfo, Version};
use crate::port::{Mac, PortId};
use crate::worker::next_hops::{Adjacency, Hop};
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
        if let Err(reason) = self.transmit_pieces(packet, adjacency.mtu, own, &adjacency, now) {
            self.drops.count(reason);
        }
    }

    /// Fragments a packet to `mtu` bytes and sends the pieces, all or none.
    ///
    /// # Errors
    /// The reason for which it cannot be; it is not counted yet.
    #[cold]
    pub(super) fn transmit_pieces(
        &mut self,
        packet: Packet,
        mtu: u32,
        own: bool,
        adjacency: &Adjacency,
        now: u64,
    ) -> Result<(), DropReason> {
        self.fragment(packet, mtu as usize, own, |worker, piece| worker.transmit(piece, adjacency, now))
    }

    /// Puts the link header on an IP packet and queues it, or has its next hop resolved first.
    #[inline]
    pub(super) fn transmit(&mut self, packet: Packet, adjacency: &Adjacency, now: u64) {
        match self.egress(adjacency.hop(version(packet.data()))) {
            Some(egress) => self.emit(packet, &egress),
            None => self.resolve_and_send(packet, adjacency, now),
        }
    }

    /// How packets leave to a next hop; `None` while its Ethernet address is not known.
    #[inline]
    pub(super) fn egress(&mut self, hop: Hop) -> Option<Egress> {
        let port = hop.port();
        let config = &self.ports.get(usize::from(port))?.config;
        let Some(own) = config.mac else {
            return Some(Egress { port, len: 0, header: [0; Egress::LONGEST] });
        };
        let mac = self.local.neighbours.mac(hop.neighbour()?)?;
        Some(Egress::ethernet(port, mac, own, config.vlan, hop.version()))
    }

    /// Queues a packet, and puts the link header on it.
    #[inline(always)]
    pub(super) fn emit(&mut self, packet: Packet, egress: &Egress) {
        self.emit_all(std::iter::once(packet), egress);
    }

    /// The same for several.
    #[inline(always)]
    pub(super) fn emit_all(&mut self, packets: impl Iterator<Item = Packet>, egress: &Egress) {
        let Some(state) = self.ports.get_mut(usize::from(egress.port)) else { return };
        for packet in packets {
            if state.tx.is_full() {
                send(state, &mut self.drops);
            }
            // Moved first and changed then: see `Packet`.
            state.tx.push(packet);
            if let Some(packet) = state.tx.last_mut()
                && egress.write(packet).is_none()
            {
                state.tx.pop();
                self.drops.count(DropReason::NoRoom);
            }
        }
    }

    #[cold]
    fn resolve_and_send(&mut self, packet: Packet, adjacency: &Adjacency, now: u64) {
        let local = &mut self.local;
        let mut context = Context { now, pool: &self.pool, drops: &mut self.drops, out: &mut local.outputs };
        local.neighbours.send(adjacency.port, adjacency.next_hop.to_ip(), packet, &mut context);
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

/// The way out of packets of one next hop: the port and the finished link header.
#[derive(Clone, Copy)]
pub(super) struct Egress {
    port: PortId,
    len: u8,
    header: [u8; Self::LONGEST],
}

impl Egress {
    /// Ethernet with one VLAN tag.
    const LONGEST: usize = ethernet::HEADER_LEN + ethernet::TAG_LEN;

    #[inline]
    fn ethernet(port: PortId, to: Mac, from: Mac, vlan: Option<u16>, version: Version) -> Self {
        let mut header = [0; Self::LONGEST];
        header[..6].copy_from_slice(&to);
        header[6..12].copy_from_slice(&from);
        let ethertype = match version {
            Version::V4 => ethertype::IPV4,
            Version::V6 => ethertype::IPV6,
        };
        let len = match vlan {
            None => {
                header[12..14].copy_from_slice(&ethertype.to_be_bytes());
                ethernet::HEADER_LEN
            }
            Some(id) => {
                header[12..14].copy_from_slice(&ethertype::VLAN.to_be_bytes());
                header[14..16].copy_from_slice(&ethernet::VlanTag::customer(id).tci.to_be_bytes());
                header[16..].copy_from_slice(&ethertype.to_be_bytes());
                Self::LONGEST
            }
        };
        Self { port, len: len as u8, header }
    }

    /// `None` when there is no room in front of the packet.
    #[inline]
    fn write(&self, packet: &mut Packet) -> Option<()> {
        if usize::from(self.len) == ethernet::HEADER_LEN {
            *packet.prepend(ethernet::HEADER_LEN)?.first_chunk_mut()? = *self.header.first_chunk::<14>()?;
        } else if self.len != 0 {
            *packet.prepend(Self::LONGEST)?.first_chunk_mut()? = self.header;
        }
        Some(())
    }
}

/// By the first nibble, of a packet that was parsed before.
#[inline]
fn version(packet: &[u8]) -> Version {
    match packet.first() {
        Some(byte) if byte >> 4 == 6 => Version::V6,
        _ => Version::V4,
    }
}
