//! Packets to the gateway itself: protected ones and their UDP encapsulation, IKE, ICMP, ARP and ND, fragments;
//! and packets that the gateway makes.

use std::net::{IpAddr, SocketAddr};

use crate::buffer::{BURST, HEADROOM, Packet, Pool};
use crate::drops::DropReason;
use crate::host::fragment::{DontFragment, fragment_v4, fragment_v6};
use crate::host::icmp::{self, Icmp, IcmpConfig, Offender};
use crate::host::neighbour::NeighbourConfig;
use crate::host::rate_limit::TokenBucket;
use crate::host::reassembly::Reassembly;
use crate::host::{self, Context, Interface, NeighbourTable, Output, feedback, nd};
use crate::message::{Datagram, Event, Inject};
use crate::packet::esp::Encapsulated;
use crate::packet::ethernet::VlanTag;
use crate::packet::ip::{self, IpInfo, Version, protocol};
use crate::packet::{ipv4, ipv6, udp};
use crate::policy::Action;
use crate::port::PortId;
use crate::sa::Protocol;
use crate::worker::inbound::OpenQueue;
use crate::worker::outbound::SealQueue;
use crate::worker::transit::Origin;
use crate::worker::{Worker, WorkerConfig};

/// The port of IKE (RFC 7296 s2).
const IKE_PORT: u16 = 500;
/// TTL of packets that we make.
const TTL: u8 = 64;
/// Rounds in which packets that we made may cause others: an error about a reply to an error is already one too
/// many, since no error is sent about an error.
const ROUNDS: usize = 4;

/// Tells fragments out of a tunnel from those that a port received.
const FROM_TUNNEL: u32 = 1 << 31;

/// What a worker keeps to speak for the gateway.
pub(super) struct Local {
    pub(super) neighbours: NeighbourTable,
    pub(super) outputs: Vec<Output>,
    pub(super) reassembly: Reassembly,
    icmp: Icmp,
    pub(super) hints: TokenBucket,
    /// Packets whose other fragments did not come, for their sources to be told.
    pub(super) incomplete: Vec<Packet>,
    /// Where fragments are made; empty in between.
    pieces: Vec<Packet>,
    /// Identification of the next fragmented IPv6 packet.
    next_id_v6: u32,
    /// IP packets of our own that wait for their way out.
    originated: Vec<Packet>,
    large: Pool,
    nat_port: u16,
}

impl Local {
    pub(super) fn new(config: &WorkerConfig, neighbours: NeighbourConfig, large: Pool) -> Self {
        let rate = config.answers_per_second;
        let burst = rate / 5 + 1;
        let limits = IcmpConfig { errors: rate, error_burst: burst, echoes: rate, echo_burst: burst };
        Self {
            neighbours: NeighbourTable::new(neighbours, interfaces(config)),
            outputs: Vec::with_capacity(BURST),
            reassembly: Reassembly::new(config.reassembly.clone()),
            icmp: Icmp::new(&limits),
            hints: TokenBucket::new(rate, burst),
            incomplete: Vec::with_capacity(BURST),
            pieces: Vec::with_capacity(BURST),
            next_id_v6: random_u32(),
            originated: Vec::with_capacity(BURST),
            large,
            nat_port: config.nat_port,
        }
    }
}

#[cfg(any(test, fuzzing))]
impl Local {
    /// Without what cannot be repeated.
    pub(super) fn repeatable(self) -> Self {
        Self { next_id_v6: 0, ..self }
    }
}

/// Identifications start where nobody can guess (RFC 7739).
fn random_u32() -> u32 {
    let mut bytes = [0; 4];
    // A refused draw leaves zero: guessable, but nothing else depends on it.
    let _ = aws_lc_rs::rand::fill(&mut bytes);
    u32::from_ne_bytes(bytes)
}

/// Our side of every Ethernet port.
fn interfaces(config: &WorkerConfig) -> Vec<Interface> {
    let ports = config.ports.iter().enumerate();
    ports
        .filter_map(|(port, settings)| {
            let tag = settings.vlan.map(VlanTag::customer);
            Some(Interface::new(port as PortId, settings.mac?, tag.as_slice(), &settings.addresses))
        })
        .collect()
}

impl Worker {
    /// Takes a packet to one of our addresses. `opening` is `None` when it came out of an SA already.
    pub(super) fn receive(
        &mut self,
        packet: Packet,
        info: &IpInfo,
        origin: Origin,
        now: u64,
        opening: Option<&mut OpenQueue>,
    ) {
        if info.fragment.is_some() {
            return self.reassemble(packet, info, origin, now, opening);
        }
        let protocol = match info.protocol {
            protocol::ESP => Protocol::Esp,
            protocol::AH => Protocol::Ah,
            // Nobody else has our address (RFC 1812 s5.3.8), and we would answer ourselves.
            _ if matches!(origin, Origin::Port(_)) && self.tables.addresses.contains(info.source) => {
                return self.drop_packet(packet, DropReason::AddressInvalid);
            }
            protocol::UDP if self.is_ike_or_nat(info) => return self.receive_udp(packet, info, opening),
            _ => return self.serve(packet, info, origin, now),
        };
        match opening {
            Some(opening) => {
                self.accept_protected(packet, 0, protocol, info, info.header_len.into(), opening);
            }
            // Nested SAs that both end here are not supported.
            None => self.drop_packet(packet, DropReason::NoService),
        }
    }

    fn is_ike_or_nat(&self, info: &IpInfo) -> bool {
        info.ports.is_some_and(|(_, to)| to == IKE_PORT || to == self.local.nat_port)
    }

    /// ESP in UDP, IKE, or a keepalive (RFC 3948 s2).
    fn receive_udp(&mut self, mut packet: Packet, info: &IpInfo, opening: Option<&mut OpenQueue>) {
        match (FromUdp::parse(packet.data(), info), opening) {
            (Ok(FromUdp::Esp { at, end }), Some(opening)) => {
                packet.truncate(end);
                self.accept_protected(packet, 0, Protocol::Esp, info, at, opening);
            }
            (Ok(FromUdp::Esp { .. }), None) => self.drop_packet(packet, DropReason::NoService),
            (Ok(FromUdp::Ike(datagram)), _) => {
                if !self.hint(Event::Punt(datagram)) {
                    self.drop_packet(packet, DropReason::PuntQueueFull);
                }
            }
            (Err(reason), _) => self.drop_packet(packet, reason),
        }
    }

    /// What we serve in the clear or out of a tunnel: ping, and errors about our own packets.
    fn serve(&mut self, mut packet: Packet, info: &IpInfo, origin: Origin, now: u64) {
        match self.try_serve(&mut packet, info, origin, now) {
            Ok(Served::Consumed) => {}
            Ok(Served::Reply) => match origin {
                Origin::Port(port) if info.destination.is_link_local_v6() => {
                    self.answer_on_link(packet, info, port, now);
                }
                _ => self.local.originated.push(packet),
            },
            Err(reason) => self.drop_packet(packet, reason),
        }
    }

    /// Sends the answer to what came to our link-local address of a port: by that port and to the station itself, since
    /// the address means nothing elsewhere (RFC 4291 s2.5.6). Policy may forbid it, but no tunnel carries it.
    #[cold]
    fn answer_on_link(&mut self, answer: Packet, info: &IpInfo, port: PortId, now: u64) {
        let (own, to) = (info.destination, info.source);
        match self.tables.spd.lookup(own, to, protocol::ICMPV6, None) {
            None | Some((_, Action::Bypass)) => {}
            Some(_) => return self.drop_packet(answer, DropReason::PolicyDiscard),
        }
        let adjacency = if to.is_link_local_v6() {
            self.adjacency_on_link(port, to)
        } else {
            self.adjacency(to).filter(|way| way.port == port && way.next_hop == to)
        };
        let Some(adjacency) = adjacency else { return self.drop_packet(answer, DropReason::NoRoute) };
        if answer.len() <= adjacency.mtu as usize {
            self.transmit(answer, &adjacency, now);
        } else if let Err(reason) = self.transmit_pieces(answer, adjacency.mtu, true, &adjacency, now) {
            self.drops.count(reason);
        }
    }

    fn try_serve(
        &mut self,
        packet: &mut Packet,
        info: &IpInfo,
        origin: Origin,
        now: u64,
    ) -> Result<Served, DropReason> {
        // RFC 4301 s5.2 step 3: what policy wants protected must not come in the clear.
        if matches!(origin, Origin::Port(_))
            && let Some((_, Action::Protect(_))) =
                self.tables.spd.lookup_inbound(info.source, info.destination, info.protocol, info.ports)
        {
            return Err(DropReason::PolicyClear);
        }
        if let Origin::Port(port) = origin
            && info.destination.is_link_local_v6()
            && !self.tables.addresses.is_on_port(info.destination, port)
        {
            // Another link's.
            return Err(DropReason::NoService);
        }
        if !matches!(info.protocol, protocol::ICMP | protocol::ICMPV6) {
            let error = match info.protocol {
                protocol::UDP => icmp::Error::PortUnreachable,
                _ => icmp::Error::ProtocolUnreachable,
            };
            self.complain(packet, info, origin, error, now);
            return Err(DropReason::NoService);
        }
        match feedback::parse(packet.data(), info) {
            Ok(feedback) if self.hint_limited(Event::Feedback(feedback), now) => Ok(Served::Consumed),
            Ok(_) => Err(DropReason::RateLimited),
            Err(DropReason::NoService) => self.local.icmp.echo(packet, info, now).map(|()| Served::Reply),
            Err(reason) => Err(reason),
        }
    }

    /// A packet to a group or a link-local address: only Neighbour Discovery is for us.
    pub(super) fn receive_on_link(&mut self, packet: Packet, info: &IpInfo, link_len: usize, now: u64) {
        if nd::is_neighbour_message(info) {
            self.neighbour_discovery(packet, link_len, now);
        } else {
            self.drop_packet(packet, DropReason::NoService);
        }
    }

    /// A neighbour solicitation or advertisement; `link_len` bytes of link header are still in front of it.
    pub(super) fn neighbour_discovery(&mut self, mut packet: Packet, link_len: usize, now: u64) {
        // The bytes are those that were trimmed off a moment ago.
        if packet.prepend(link_len).is_none() {
            return self.drop_packet(packet, DropReason::EthernetTruncated);
        }
        self.on_link(packet, now, nd::receive);
    }

    /// An ARP frame.
    pub(super) fn arp(&mut self, frame: Packet, now: u64) {
        self.on_link(frame, now, host::arp::receive);
    }

    fn on_link(
        &mut self,
        frame: Packet,
        now: u64,
        receive: fn(&mut NeighbourTable, PortId, Packet, &mut Context<'_>) -> Result<(), DropReason>,
    ) {
        let port = frame.rx_port;
        let local = &mut self.local;
        let mut context = Context { now, pool: &self.pool, drops: &mut self.drops, out: &mut local.outputs };
        if let Err(reason) = receive(&mut local.neighbours, port, frame, &mut context) {
            self.drops.count(reason);
        }
        self.carry_out(now);
    }

    /// Tells neighbours where our addresses are now: those that knew us by another MAC would send there for as
    /// long as their entries last (RFC 5227 s2.3, RFC 4861 s7.2.6).
    pub(super) fn announce(&mut self, now: u64) {
        let local = &mut self.local;
        let mut context = Context { now, pool: &self.pool, drops: &mut self.drops, out: &mut local.outputs };
        for interface in local.neighbours.interfaces() {
            host::announce(interface, &mut context);
        }
        self.carry_out(now);
    }

    #[cold]
    fn reassemble(
        &mut self,
        packet: Packet,
        info: &IpInfo,
        origin: Origin,
        now: u64,
        opening: Option<&mut OpenQueue>,
    ) {
        let Some(whole) = self.collect_fragment(packet, info, origin, now) else { return };
        match ip::parse(whole.data()) {
            Ok(info) => self.receive(whole, &info, origin, now, opening),
            Err(reason) => self.drop_packet(whole, reason),
        }
    }

    /// Keeps a fragment until its packet is complete, and returns that.
    #[cold]
    pub(super) fn collect_fragment(
        &mut self,
        packet: Packet,
        info: &IpInfo,
        origin: Origin,
        now: u64,
    ) -> Option<Packet> {
        let context = match origin {
            Origin::Port(port) => port.into(),
            Origin::Tunnel(tunnel) => FROM_TUNNEL | tunnel.0,
            Origin::Local => u32::MAX,
        };
        let local = &mut self.local;
        local.reassembly.add(packet, info, context, now, &local.large, &mut self.drops)
    }

    /// Fragments a packet and hands on the pieces. An IPv6 packet, or an IPv4 packet with DF, only when it is `own`.
    ///
    /// # Errors
    /// The reason for which it cannot be fragmented; it is not counted yet.
    #[cold]
    pub(super) fn fragment(
        &mut self,
        packet: Packet,
        mtu: usize,
        own: bool,
        mut each: impl FnMut(&mut Self, Packet),
    ) -> Result<(), DropReason> {
        let info = ip::parse(packet.data())?;
        let mut pieces = std::mem::take(&mut self.local.pieces);
        let made = match info.version {
            Version::V4 => {
                let dont_fragment = if own { DontFragment::Override } else { DontFragment::Obey };
                fragment_v4(packet, &info, mtu, dont_fragment, &self.pool, &mut pieces)
            }
            Version::V6 if own => {
                self.local.next_id_v6 = self.local.next_id_v6.wrapping_add(1);
                fragment_v6(packet, &info, mtu, self.local.next_id_v6, &self.pool, &mut pieces)
            }
            Version::V6 => Err((DropReason::TooBig, packet)),
        };
        for piece in pieces.drain(..) {
            each(self, piece);
        }
        self.local.pieces = pieces;
        made.map_err(|(reason, _)| reason)
    }

    /// Tells the source of a packet what is wrong with it, within the rules and limits of [`Icmp::error`].
    #[cold]
    pub(super) fn complain(
        &mut self,
        packet: &Packet,
        info: &IpInfo,
        origin: Origin,
        error: icmp::Error,
        now: u64,
    ) {
        if origin == Origin::Local || self.tables.addresses.contains(info.source) {
            return;
        }
        let Some(source) = self.complaint_source(packet, info) else { return };
        let local = &mut self.local;
        let mut context = Context { now, pool: &self.pool, drops: &mut self.drops, out: &mut local.outputs };
        let offender = Offender { packet: packet.data(), info, link_multicast: false };
        if let Some(mut answer) = local.icmp.error(error, &offender, source, &mut context) {
            // It quotes the packet, so it must be as well protected.
            answer.set_from_sa(packet.is_from_sa());
            local.originated.push(answer);
        }
    }

    /// Our address to complain from: the port's that the packet came by or, when it came out of an SA, one that
    /// policy lets back through a tunnel. `None` when the complaint could only leave in the clear.
    fn complaint_source(&self, packet: &Packet, info: &IpInfo) -> Option<IpAddr> {
        let (addresses, source) = (&self.tables.addresses, info.source.to_ip());
        if !packet.is_from_sa() {
            return addresses.on_port(packet.rx_port, source).or_else(|| addresses.any(source));
        }
        let protocol = if source.is_ipv4() { protocol::ICMP } else { protocol::ICMPV6 };
        addresses.all().filter(|address| address.is_ipv4() == source.is_ipv4()).find(|&address| {
            let policy = self.tables.spd.lookup(address, source, protocol, None);
            matches!(policy, Some((_, Action::Protect(_))))
        })
    }

    /// Sends what we made: replies, errors, IKE.
    pub(super) fn originate(&mut self, sealing: &mut SealQueue, now: u64) {
        for _ in 0..ROUNDS {
            if self.local.originated.is_empty() {
                return;
            }
            let mut packets = std::mem::take(&mut self.local.originated);
            for packet in packets.drain(..) {
                match ip::parse(packet.data()) {
                    Ok(info) => self.forward(packet, &info, Origin::Local, now, sealing),
                    Err(reason) => self.drop_packet(packet, reason),
                }
            }
            self.seal(sealing, now);
            if self.local.originated.is_empty() {
                // Keep the memory for the next time.
                self.local.originated = packets;
            }
        }
    }

    /// Sends a datagram of the control plane, in the clear whatever policy says: IKE protects itself.
    pub(super) fn inject(&mut self, Inject(datagram): Inject, now: u64) {
        match self.build_datagram(&datagram) {
            Ok(packet) => match ip::parse(packet.data()) {
                Ok(info) => self.route(packet, &info, Origin::Local, now),
                Err(reason) => self.drop_packet(packet, reason),
            },
            Err(reason) => self.drops.count(reason),
        }
    }

    fn build_datagram(&mut self, datagram: &Datagram) -> Result<Packet, DropReason> {
        const MARKER: [u8; 4] = [0; 4];
        let (local, remote) = (datagram.local, datagram.remote);
        let marker: &[u8] = if local.port() == self.local.nat_port { &MARKER } else { &[] };
        let len = udp::HEADER_LEN + marker.len() + datagram.payload.len();
        // Large frames are few, and a datagram may wait long for its next hop to answer.
        let fits = len + ipv6::HEADER_LEN + HEADROOM <= self.pool.frame_size();
        let pool = if fits { &self.pool } else { &self.local.large };
        let mut packet = pool.alloc().ok_or(DropReason::NoBuffer)?;
        let body = packet.append(len).ok_or(DropReason::NoRoom)?;
        let (header, payload) = body.split_first_chunk_mut().ok_or(DropReason::NoRoom)?;
        let len = u16::try_from(len).map_err(|_| DropReason::NoRoom)?;
        udp::Header { source: local.port(), destination: remote.port(), len, checksum: 0 }.emit(header);
        payload[..marker.len()].copy_from_slice(marker);
        payload[marker.len()..].copy_from_slice(&datagram.payload);
        let checksum = udp::checksum(local.ip(), remote.ip(), body);
        body[6..8].copy_from_slice(&checksum.to_be_bytes());
        self.next_id = self.next_id.wrapping_add(1);
        match (local.ip(), remote.ip()) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let total_len = len.checked_add(ipv4::HEADER_LEN as u16).ok_or(DropReason::NoRoom)?;
                let repr = ipv4::Repr {
                    source,
                    destination,
                    protocol: protocol::UDP,
                    total_len,
                    identification: self.next_id,
                    dont_fragment: false,
                    ttl: TTL,
                    tos: 0,
                };
                repr.emit(
                    packet
                        .prepend(ipv4::HEADER_LEN)
                        .and_then(|h| h.first_chunk_mut())
                        .ok_or(DropReason::NoRoom)?,
                );
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let repr = ipv6::Repr {
                    source,
                    destination,
                    next_header: protocol::UDP,
                    payload_len: len,
                    hop_limit: TTL,
                    traffic_class: 0,
                    flow_label: 0,
                };
                repr.emit(
                    packet
                        .prepend(ipv6::HEADER_LEN)
                        .and_then(|h| h.first_chunk_mut())
                        .ok_or(DropReason::NoRoom)?,
                );
            }
            _ => return Err(DropReason::AddressInvalid),
        }
        Ok(packet)
    }
}

/// What came on a UDP port of IPsec (RFC 3948 s2).
enum FromUdp {
    /// ESP, from and to these offsets of the packet.
    Esp { at: usize, end: usize },
    /// An IKE message.
    Ike(Datagram),
}

impl FromUdp {
    fn parse(packet: &[u8], info: &IpInfo) -> Result<Self, DropReason> {
        let at = usize::from(info.header_len);
        let datagram = packet.get(at..).unwrap_or_default();
        let (header, payload) = udp::Header::parse(datagram)?;
        let message = match Encapsulated::parse(payload) {
            _ if header.destination == IKE_PORT => payload,
            Ok(Encapsulated::Ike(message)) => message,
            Ok(Encapsulated::Keepalive) => return Err(DropReason::NatKeepalive),
            Ok(Encapsulated::Esp(_)) => {
                return Ok(Self::Esp { at: at + udp::HEADER_LEN, end: at + usize::from(header.len) });
            }
            Err(reason) => return Err(reason),
        };
        udp::verify(info.source, info.destination, datagram)?;
        Ok(Self::Ike(Datagram {
            local: SocketAddr::new(info.destination.to_ip(), header.destination),
            remote: SocketAddr::new(info.source.to_ip(), header.source),
            payload: message.to_vec(),
        }))
    }
}

/// What became of a packet that we serve.
enum Served {
    /// It is done with.
    Consumed,
    /// It has become its own answer.
    Reply,
}

#[cfg(test)]
impl Worker {
    /// Sends a packet as if the gateway had made it.
    pub(super) fn originate_for_test(&mut self, packet: Packet, now: u64) {
        self.local.originated.push(packet);
        self.originate(&mut SealQueue::default(), now);
    }
}
