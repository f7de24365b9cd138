//! Outbound SAs, a burst at a time (RFC 4301 s5.1, RFC 4303 s3.3): admit, take sequence numbers by runs of the
//! same SA, wrap, seal, hand to the next hop.

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
            return self.acquire(work);
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
        let charge = slot.sa.usage.charge(&mut slot.lease, work.packet.len() as u64, now);
        if let Some(reached) = charge.reached {
            let event = Event::expired(&slot.sa.params, slot.sa.spi, Direction::Outbound, reached);
            self.unsent.push_back(event);
        }
        if !charge.allowed {
            return self.drop_on_sa(work.packet, tunnel, DropReason::SaExpired);
        }
        match slot.fit(&work, capacity) {
            Fit::Whole => {
                let Sealing { packet, info, .. } = work;
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
        let made =
            self.fragment(work.packet, capacity, false, |worker, packet| match ip::parse(packet.data()) {
                Ok(info) => {
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
                Some(seq) => match self.wrap(work, seq, now) {
                    Ok(work) => wrapped.push(work),
                    Err(reason) => {
                        self.count_on_sa(tunnel, reason);
                        self.drops.count(reason);
                    }
                },
                None => self.out_of_numbers(work.packet, tunnel),
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
            let first = slot.and_then(|slot| slot.sa.sequence.reserve(run.len() as u64));
            if let (None, Some(slot)) = (first, slot)
                && slot.sa.sequence.is_exhausted()
                && let Some(reached) = slot.sa.usage.exhaust()
            {
                let event = Event::expired(&slot.sa.params, slot.sa.spi, Direction::Outbound, reached);
                self.unsent.push_back(event);
            }
            numbers.extend((0..run.len() as u64).map(|i| first.map(|first| first + i)));
        }
        numbers
    }

    fn wrap(&mut self, work: Admitted, seq: u64, now: u64) -> Result<Wrapped, DropReason> {
        let Admitted { mut packet, tunnel, info, adjacency, mtu } = work;
        self.next_id = self.next_id.wrapping_add(1);
        let slot = self.tables.tunnel_mut(tunnel).ok_or(DropReason::NoSa)?;
        slot.last_sent = now;
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
            slot.outer.finish_udp6(work.packet.data_mut());
        }
        if work.packet.len() <= work.mtu as usize {
            return self.transmit(work.packet, &work.adjacency, now);
        }
        self.transmit_pieces(work.packet, work.mtu, true, &work.adjacency, now);
    }

    /// The tunnel has no SA: tell the control side, which may set one up.
    #[cold]
    fn acquire(&mut self, work: Sealing) {
        self.hint(Event::Acquire {
            tunnel: work.tunnel,
            source: work.info.source,
            destination: work.info.destination,
            protocol: work.info.protocol,
        });
        self.drop_packet(work.packet, DropReason::NoSa);
    }

    /// The numbers of the SA are used up, or may not be used yet.
    #[cold]
    fn out_of_numbers(&mut self, packet: Packet, tunnel: TunnelId) {
        let exhausted = self.tables.tunnel(tunnel).is_some_and(|slot| slot.sa.sequence.is_exhausted());
        let reason = if exhausted { DropReason::SequenceExhausted } else { DropReason::SequenceUnsaved };
        self.drop_on_sa(packet, tunnel, reason);
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

    #[inline]
    fn fit(&self, work: &Sealing, capacity: usize) -> Fit {
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
        let after = options.fragmentation == Fragmentation::After
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
        MssClamp::PathMtu => capacity.saturating_sub(tcp_headers(work.info.version)),
        MssClamp::Fixed(mss) => mss.into(),
    };
    ip::clamp_mss(work.packet.data_mut(), &work.info, u16::try_from(mss).unwrap_or(u16::MAX));
}
