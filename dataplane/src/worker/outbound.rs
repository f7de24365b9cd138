//! Outbound SAs, a burst at a time (RFC 4301 s5.1, RFC 4303 s3.3): admit, take sequence numbers by runs of the
//! same SA, wrap, seal, hand to the next hop.

use std::collections::VecDeque;

use arrayvec::ArrayVec;

use crate::ah;
use crate::buffer::{BURST, Packet};
use crate::crypto::Job;
use crate::drops::DropReason;
use crate::esp::outbound::{self as esp, Header};
use crate::host::icmp::Error;
use crate::message::{Direction, Event};
use crate::outer::Stamp;
use crate::packet::ecn;
use crate::packet::ip::{self, IpInfo, Version};
use crate::packet::ipv6::MIN_MTU;
use crate::packet::udp;
use crate::sa::{DfPolicy, DscpPolicy, Fragmentation, Mode, MssClamp, OutboundOptions, Protocol, TunnelId};
use crate::worker::Worker;
use crate::worker::tables::{Adjacency, OutboundSlot};
use crate::worker::transit::Origin;

/// TCP and IP headers without options, which the MSS leaves out (RFC 9293 s3.7.1).
const fn tcp_headers(version: Version) -> usize {
    match version {
        Version::V4 => 40,
        Version::V6 => 60,
    }
}

/// A packet that policy sends through a tunnel. It starts at its IP header.
pub(super) struct Sealing {
    pub(super) packet: Packet,
    pub(super) tunnel: TunnelId,
    pub(super) info: IpInfo,
    pub(super) origin: Origin,
}

/// A packet that its SA will carry, before it has a sequence number.
pub(super) struct Admitted {
    packet: Packet,
    tunnel: TunnelId,
    info: IpInfo,
    adjacency: Adjacency,
    /// What the path carries, outer headers included.
    mtu: u32,
}

/// A packet in its outer headers.
struct Wrapped {
    packet: Packet,
    tunnel: TunnelId,
    seq: u64,
    inner_len: u16,
    /// Offset of the ESP or AH header.
    at: u16,
    adjacency: Adjacency,
    mtu: u32,
}

impl Worker {
    /// Queues a packet for its tunnel.
    #[inline]
    pub(super) fn protect(&mut self, work: Sealing, now: u64, sealing: &mut ArrayVec<Sealing, BURST>) {
        if sealing.is_full() {
            self.seal(sealing, now);
        }
        sealing.push(work);
    }

    /// Seals and sends what is queued.
    pub(super) fn seal(&mut self, sealing: &mut ArrayVec<Sealing, BURST>, now: u64) {
        if sealing.is_empty() {
            return;
        }
        let mut admitted = ArrayVec::new();
        for work in sealing.drain(..) {
            self.admit(work, now, &mut admitted);
        }
        self.send_admitted(&mut admitted, now);
    }

    /// Checks what does not depend on the sequence number: SA, route, lifetime, size.
    fn admit(&mut self, mut work: Sealing, now: u64, admitted: &mut ArrayVec<Admitted, BURST>) {
        let tunnel = work.tunnel;
        if self.tables.tunnel(tunnel).is_none() {
            return self.acquire(work, now);
        }
        let Some(adjacency) = self.tunnel_adjacency(tunnel) else {
            return self.drop_on_sa(work.packet, tunnel, DropReason::NoRoute);
        };
        let Some(slot) = self.tables.tunnel_mut(tunnel) else { return };
        let mtu = slot.sa.path_mtu.get(adjacency.mtu, now);
        let capacity = slot.capacity(mtu as usize, &work.info);
        if let Some(clamp) = slot.sa.options.mss_clamp {
            clamp_mss(clamp, capacity, &mut work);
        }
        let restricts_ports = self.tables.spd.restricts_ports();
        let Some(slot) = self.tables.tunnel_mut(tunnel) else { return };
        match slot.fit(&work, capacity, restricts_ports) {
            Fit::Whole => {
                let Sealing { packet, info, .. } = work;
                // Only what is sent is charged.
                if !slot.charge(packet.len(), now, &mut self.unsent) {
                    return self.drop_on_sa(packet, tunnel, DropReason::SaExpired);
                }
                self.push_admitted(Admitted { packet, tunnel, info, adjacency, mtu }, now, admitted);
            }
            Fit::Pieces => self.admit_pieces(work, capacity, adjacency, mtu, now, admitted),
            Fit::TooBig => {
                self.count_on_sa(tunnel, DropReason::TooBig);
                self.complain(
                    &work.packet,
                    &work.info,
                    work.origin,
                    Error::TooBig { mtu: capacity as u32 },
                    now,
                );
                self.drop_packet(work.packet, DropReason::TooBig);
            }
            Fit::Never(reason) => self.drop_on_sa(work.packet, tunnel, reason),
        }
    }

    /// Fragments the inner packet, so that each piece fits (RFC 4301 s8.1 leaves the choice to us).
    #[cold]
    fn admit_pieces(
        &mut self,
        work: Sealing,
        capacity: usize,
        adjacency: Adjacency,
        mtu: u32,
        now: u64,
        admitted: &mut ArrayVec<Admitted, BURST>,
    ) {
        let tunnel = work.tunnel;
        let own = work.info.version == Version::V6;
        let made =
            self.fragment(work.packet, capacity, own, |worker, packet| match ip::parse(packet.data()) {
                Ok(info) => {
                    let Some(slot) = worker.tables.tunnel_mut(tunnel) else { return };
                    if !slot.charge(packet.len(), now, &mut worker.unsent) {
                        return worker.drop_on_sa(packet, tunnel, DropReason::SaExpired);
                    }
                    worker.push_admitted(Admitted { packet, tunnel, info, adjacency, mtu }, now, admitted)
                }
                Err(reason) => worker.drop_on_sa(packet, tunnel, reason),
            });
        if let Err(reason) = made {
            self.count_on_sa(tunnel, reason);
            self.drops.count(reason);
        }
    }

    fn push_admitted(&mut self, packet: Admitted, now: u64, admitted: &mut ArrayVec<Admitted, BURST>) {
        if admitted.is_full() {
            self.send_admitted(admitted, now);
        }
        admitted.push(packet);
    }

    /// Takes sequence numbers, wraps, seals and sends.
    fn send_admitted(&mut self, admitted: &mut ArrayVec<Admitted, BURST>, now: u64) {
        let numbers = self.reserve(admitted);
        let mut wrapped = ArrayVec::<Wrapped, BURST>::new();
        for (work, number) in admitted.drain(..).zip(numbers) {
            let tunnel = work.tunnel;
            match number {
                Some(seq) => match self.wrap(work, seq) {
                    Ok(work) => wrapped.push(work),
                    Err(reason) => {
                        self.count_on_sa(tunnel, reason);
                        self.drops.count(reason);
                    }
                },
                None => self.drop_on_sa(work.packet, tunnel, DropReason::SequenceExhausted),
            }
        }
        let sealed = self.seal_burst(&mut wrapped);
        for (work, sealed) in wrapped.drain(..).zip(sealed) {
            if sealed {
                self.sealed(work, now);
            } else {
                self.drop_on_sa(work.packet, work.tunnel, DropReason::SealFailed);
            }
        }
    }

    /// One block of sequence numbers for each run of packets of the same SA.
    fn reserve(&mut self, admitted: &[Admitted]) -> ArrayVec<Option<u64>, BURST> {
        let mut numbers = ArrayVec::new();
        for run in admitted.chunk_by(|a, b| a.tunnel == b.tunnel) {
            let slot = run.first().and_then(|work| self.tables.tunnel(work.tunnel));
            let first = slot.and_then(|slot| slot.reserve(run.len() as u64, &mut self.unsent));
            numbers.extend((0..run.len() as u64).map(|i| first.map(|first| first + i)));
        }
        numbers
    }

    fn wrap(&mut self, work: Admitted, seq: u64) -> Result<Wrapped, DropReason> {
        let Admitted { mut packet, tunnel, info, adjacency, mtu } = work;
        self.next_id = self.next_id.wrapping_add(1);
        let slot = self.tables.tunnel_mut(tunnel).ok_or(DropReason::NoSa)?;
        let (sa, outer) = (&*slot.sa, &slot.outer);
        let inner_len = packet.len() as u16;
        let header = Header { spi: sa.spi, seq };
        let mut stamp = sa.options.stamp(&info, sa.params.ecn, self.next_id);
        let at = match (sa.params.protocol, sa.params.mode) {
            (Protocol::Esp, Mode::Tunnel) => {
                let capacity = esp::tunnel_capacity(&sa.key, outer, mtu as usize);
                // What does not fit is fragmented after, so the outer DF bit cannot be set.
                stamp.dont_fragment &= packet.len() <= capacity;
                let tfc_pad = sa.options.tfc_pad.map_or(0, |pad| usize::from(pad).min(capacity));
                esp::tunnel(&mut packet, &sa.key, outer, stamp, header, info.version, tfc_pad)?
            }
            (Protocol::Esp, Mode::Transport) => esp::transport(&mut packet, &sa.key, outer, header, &info)?,
            (Protocol::Ah, Mode::Tunnel) => {
                stamp.dont_fragment &= ah::tunnel_len(&sa.key, outer, packet.len()) <= mtu as usize;
                ah::tunnel(&mut packet, &sa.key, outer, stamp, header, info.version)?
            }
            (Protocol::Ah, Mode::Transport) => ah::transport(&mut packet, &sa.key, header, &info)?,
        };
        Ok(Wrapped { packet, tunnel, seq, inner_len, at: at as u16, adjacency, mtu })
    }

    /// Runs the engine over the burst; says which packets it sealed.
    fn seal_burst(&self, wrapped: &mut ArrayVec<Wrapped, BURST>) -> [bool; BURST] {
        let mut sealed = [false; BURST];
        let mut jobs = ArrayVec::<Job<'_>, BURST>::new();
        let mut indices = ArrayVec::<usize, BURST>::new();
        for (i, work) in wrapped.iter_mut().enumerate() {
            let Some(slot) = self.tables.tunnel(work.tunnel) else { continue };
            match slot.sa.params.protocol {
                Protocol::Esp => {
                    let Some(packet) = work.packet.data_mut().get_mut(usize::from(work.at)..) else {
                        continue;
                    };
                    jobs.push(Job { key: &slot.sa.key, packet, seq: work.seq, ok: false });
                    indices.push(i);
                }
                Protocol::Ah => {
                    let ok = ah::seal(&self.crypto, &slot.sa.key, &mut work.packet, work.at.into(), work.seq);
                    if let Some(sealed) = sealed.get_mut(i) {
                        *sealed = ok;
                    }
                }
            }
        }
        self.crypto.seal(&mut jobs);
        for (job, &i) in jobs.iter().zip(&indices) {
            if let Some(sealed) = sealed.get_mut(i) {
                *sealed = job.ok;
            }
        }
        sealed
    }

    fn sealed(&mut self, mut work: Wrapped, now: u64) {
        if let Some(slot) = self.tables.tunnel_mut(work.tunnel) {
            slot.counters.carried(work.inner_len.into());
            slot.outer
                .finish_udp6(work.packet.data_mut(), usize::from(work.at).saturating_sub(udp::HEADER_LEN));
        }
        if work.packet.len() <= work.mtu as usize {
            return self.transmit(work.packet, &work.adjacency, now);
        }
        self.transmit_pieces(work.packet, work.mtu, true, &work.adjacency, now);
    }

    /// Sends a dummy packet (RFC 4303 s2.6), which the peer drops: as long as the padded packets of the SA, or one
    /// block of its cipher.
    pub(super) fn send_dummy(&mut self, tunnel: TunnelId, now: u64) {
        if let Err(reason) = self.try_send_dummy(tunnel, now) {
            self.count_on_sa(tunnel, reason);
            self.drops.count(reason);
        }
    }

    fn try_send_dummy(&mut self, tunnel: TunnelId, now: u64) -> Result<(), DropReason> {
        let adjacency = self.tunnel_adjacency(tunnel).ok_or(DropReason::NoRoute)?;
        self.next_id = self.next_id.wrapping_add(1);
        let slot = self.tables.tunnel_mut(tunnel).ok_or(DropReason::NoSa)?;
        let mut packet = self.pool.alloc().ok_or(DropReason::NoBuffer)?;
        let mtu = slot.sa.path_mtu.get(adjacency.mtu, now);
        let capacity = esp::tunnel_capacity(&slot.sa.key, &slot.outer, mtu as usize);
        let len = slot.sa.options.tfc_pad.map_or(0, |pad| usize::from(pad).min(capacity));
        if !slot.charge(len, now, &mut self.unsent) {
            return Err(DropReason::SaExpired);
        }
        let seq = slot.reserve(1, &mut self.unsent).ok_or(DropReason::SequenceExhausted)?;
        let sa = &*slot.sa;
        let dscp = if let DscpPolicy::Set(dscp) = sa.options.dscp { dscp << 2 } else { 0 };
        let stamp = Stamp { tos: dscp, dont_fragment: sa.options.df == DfPolicy::Set, id: self.next_id };
        let at = esp::dummy(&mut packet, &sa.key, &slot.outer, stamp, Header { spi: sa.spi, seq }, len)?;
        let sealed_part = packet.data_mut().get_mut(at..).ok_or(DropReason::NoRoom)?;
        let mut jobs = [Job { key: &sa.key, packet: sealed_part, seq, ok: false }];
        self.crypto.seal(&mut jobs);
        if jobs.iter().any(|job| !job.ok) {
            return Err(DropReason::SealFailed);
        }
        slot.outer.finish_udp6(packet.data_mut(), at.saturating_sub(udp::HEADER_LEN));
        self.transmit(packet, &adjacency, now);
        Ok(())
    }

    /// The tunnel has no SA: tell the control side, which may set one up. Once a second is enough, and leaves room in
    /// the channel for the answers of the peer.
    #[cold]
    fn acquire(&mut self, work: Sealing, now: u64) {
        const AGAIN: u64 = 1_000_000_000;
        let tunnel = work.tunnel;
        let place = tunnel.0 as usize % self.local.acquired.len();
        let known = self.local.acquired.get(place).copied().flatten();
        let lately = known.is_some_and(|(asked, at)| asked == tunnel && now.saturating_sub(at) < AGAIN);
        let IpInfo { source, destination, protocol, .. } = work.info;
        if !lately
            && self.hint_limited(Event::Acquire { tunnel, source, destination, protocol }, now)
            && let Some(entry) = self.local.acquired.get_mut(place)
        {
            *entry = Some((tunnel, now));
        }
        self.drop_packet(work.packet, DropReason::NoSa);
    }

    #[cold]
    fn drop_on_sa(&mut self, packet: Packet, tunnel: TunnelId, reason: DropReason) {
        self.count_on_sa(tunnel, reason);
        self.drop_packet(packet, reason);
    }

    #[cold]
    fn count_on_sa(&mut self, tunnel: TunnelId, reason: DropReason) {
        if let Some(slot) = self.tables.tunnel_mut(tunnel) {
            slot.counters.dropped(reason);
        }
    }
}

/// What becomes of a packet of this size on an SA.
enum Fit {
    /// It goes as it is; when it is longer than the path carries, the outer packet is fragmented.
    Whole,
    /// It is fragmented first.
    Pieces,
    /// Its source must send smaller ones.
    TooBig,
    /// The SA cannot carry it.
    Never(DropReason),
}

impl OutboundSlot {
    /// The longest IP packet like this one that fits into `mtu` bytes once it is wrapped.
    #[inline]
    fn capacity(&self, mtu: usize, info: &IpInfo) -> usize {
        let (key, outer) = (&self.sa.key, &self.outer);
        let header_len = usize::from(info.header_len);
        match (self.sa.params.protocol, self.sa.params.mode) {
            (Protocol::Esp, Mode::Tunnel) => esp::tunnel_capacity(key, outer, mtu),
            (Protocol::Esp, Mode::Transport) => esp::transport_capacity(key, outer, mtu, header_len),
            (Protocol::Ah, Mode::Tunnel) => mtu.saturating_sub(ah::tunnel_len(key, outer, 0)),
            (Protocol::Ah, Mode::Transport) => mtu.saturating_sub(ah::header_len(key, info.version)),
        }
    }

    /// Charges a packet to the SA's lifetime; false when the SA is at its end.
    #[inline]
    fn charge(&mut self, bytes: usize, now: u64, events: &mut VecDeque<Event>) -> bool {
        let charge = self.sa.usage.charge(&mut self.lease, bytes as u64, now);
        if let Some(reached) = charge.reached {
            events.push_back(Event::expired(&self.sa.params, self.sa.spi, Direction::Outbound, reached));
        }
        charge.allowed
    }

    /// Takes sequence numbers. When there are none left, the SA is at its end.
    #[inline]
    fn reserve(&self, count: u64, events: &mut VecDeque<Event>) -> Option<u64> {
        let first = self.sa.sequence.reserve(count);
        if first.is_none()
            && let Some(reached) = self.sa.usage.exhaust()
        {
            events.push_back(Event::expired(&self.sa.params, self.sa.spi, Direction::Outbound, reached));
        }
        first
    }

    #[inline]
    fn fit(&self, work: &Sealing, capacity: usize, restricts_ports: bool) -> Fit {
        let (params, options) = (&self.sa.params, &self.sa.options);
        let transport = params.mode == Mode::Transport;
        if transport && !self.joins(&work.info) {
            return Fit::Never(DropReason::SaMismatch);
        }
        if transport && work.info.fragment.is_some() {
            return Fit::Never(DropReason::TransportFragment);
        }
        if work.packet.len() <= capacity {
            return Fit::Whole;
        }
        // RFC 8200 s5, RFC 2473 s7.1: an IPv6 source need not go below 1280 bytes, so the tunnel must.
        let least = if work.info.version == Version::V6 { MIN_MTU } else { 0 };
        // Pieces that hide their ports may not match an SA that names some (RFC 4301 s7.2). But an IPv6 packet that
        // was put together here must stay in pieces, or no link behind the peer would carry it.
        let hides_ports = restricts_ports && work.info.version == Version::V4;
        let after = (hides_ports || options.fragmentation == Fragmentation::After)
            && (options.df == DfPolicy::Clear || !work.info.dont_fragment);
        if after || work.packet.len() <= least || (transport && matches!(work.origin, Origin::Local)) {
            Fit::Whole
        } else if work.info.dont_fragment || transport {
            Fit::TooBig
        } else {
            Fit::Pieces
        }
    }

    /// Whether the packet runs between the SA's own endpoints, as transport mode needs.
    fn joins(&self, info: &IpInfo) -> bool {
        info.source == self.endpoints.local && info.destination == self.endpoints.remote
    }
}

impl OutboundOptions {
    /// DSCP, ECN and DF of the outer header (RFC 4301 s5.1.2, RFC 6040 s4.1).
    #[inline]
    fn stamp(&self, inner: &IpInfo, ecn: bool, id: u16) -> Stamp {
        let dscp = match self.dscp {
            DscpPolicy::Copy => inner.tos & !ecn::MASK,
            DscpPolicy::Set(dscp) => dscp << 2,
        };
        let mode = if ecn { ecn::Mode::Normal } else { ecn::Mode::Compatibility };
        let dont_fragment = match self.df {
            DfPolicy::Copy => inner.dont_fragment,
            DfPolicy::Set => true,
            DfPolicy::Clear => false,
        };
        Stamp { tos: dscp | ecn::encapsulate(inner.tos, mode), dont_fragment, id }
    }
}

fn clamp_mss(clamp: MssClamp, capacity: usize, work: &mut Sealing) {
    if work.info.protocol != ip::protocol::TCP {
        return;
    }
    let mss = match clamp {
        // IPv6 packets up to 1280 bytes always pass, in fragments if need be.
        MssClamp::PathMtu if work.info.version == Version::V6 => {
            capacity.max(MIN_MTU) - tcp_headers(Version::V6)
        }
        MssClamp::PathMtu => capacity.saturating_sub(tcp_headers(Version::V4)),
        MssClamp::Fixed(mss) => mss.into(),
    };
    ip::clamp_mss(work.packet.data_mut(), &work.info, u16::try_from(mss).unwrap_or(u16::MAX));
}
