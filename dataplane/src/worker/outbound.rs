//! Outbound SAs, a burst at a time (RFC 4301 s5.1, RFC 4303 s3.3): admit, take sequence numbers by runs of the
//! same SA, wrap, seal, hand to the next hop.
//!
//! Packets stay where they were queued until they are sent: every step works on the burst in place.

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
use crate::packet::ip::{self, IpInfo, Version};
use crate::packet::ipv6::MIN_MTU;
use crate::packet::{ecn, ipv4, tcp, udp};
use crate::sa::{DfPolicy, DscpPolicy, Fragmentation, Mode, MssClamp, OutboundOptions, Protocol, TunnelId};
use crate::worker::Worker;
use crate::worker::stages::Stage;
use crate::worker::tables::OutboundSlot;
use crate::worker::transit::{Origin, strip};
use crate::worker::transmit::version;
use crate::worker::usual::{self, Usual};

/// TCP and IP headers without options, which the MSS leaves out (RFC 9293 s3.7.1).
const fn tcp_headers(version: Version) -> usize {
    match version {
        Version::V4 => 40,
        Version::V6 => 60,
    }
}

/// Packets that wait to be sealed.
pub(super) type SealQueue = ArrayVec<Sealing, BURST>;

/// A packet that policy sends through a tunnel. It starts at its IP header.
pub(super) struct Sealing {
    /// `None` once it is sent or dropped.
    packet: Option<Packet>,
    seq: u64,
    tunnel: TunnelId,
    origin: Origin,
    inner: Inner,
    /// Bytes before it was wrapped.
    inner_len: u16,
    /// Offset of the ESP or AH header once it is wrapped.
    at: u16,
    /// What the path carries, outer headers included.
    mtu: u32,
}

/// What the outer headers depend on.
#[derive(Clone, Copy)]
struct Inner {
    header_len: u16,
    protocol: u8,
    tos: u8,
    version: Version,
    dont_fragment: bool,
    is_fragment: bool,
}

impl Inner {
    /// `link_len` is how many bytes the packet has in front of its IP header.
    #[inline]
    fn of(packet: &Packet, link_len: usize, info: &IpInfo) -> Self {
        Self {
            header_len: info.header_len,
            protocol: info.protocol,
            // Of the packet and not of `info`: ECN may have changed it since it was parsed.
            tos: ip::tos(packet.data().get(link_len..).unwrap_or_default()),
            version: info.version,
            dont_fragment: info.dont_fragment,
            is_fragment: info.fragment.is_some(),
        }
    }
}

impl Sealing {
    #[inline]
    fn new(packet: Packet, tunnel: TunnelId, origin: Origin, inner: Inner) -> Self {
        Self { packet: Some(packet), seq: 0, tunnel, origin, inner, inner_len: 0, at: 0, mtu: 0 }
    }
}

impl Worker {
    /// Queues a packet for its tunnel. `link_len` is the length of the link header that it still has.
    #[inline]
    #[allow(clippy::too_many_arguments, reason = "by reference and inlined: a struct would be copied")]
    pub(super) fn protect(
        &mut self,
        packet: Packet,
        link_len: usize,
        tunnel: TunnelId,
        info: &IpInfo,
        origin: Origin,
        now: u64,
        queue: &mut SealQueue,
    ) {
        self.make_room(tunnel, now, queue);
        let inner = Inner::of(&packet, link_len, info);
        queue.push(Sealing::new(packet, tunnel, origin, inner));
        // Moved first and cut then: see `Packet`.
        if link_len > 0
            && let Some(Sealing { packet: Some(packet), .. }) = queue.last_mut()
        {
            strip(packet, link_len, info);
        }
    }

    /// As [`Worker::protect`] for a usual packet, which still has its link header.
    #[inline(always)]
    pub(super) fn protect_usual(
        &mut self,
        packet: Packet,
        tunnel: TunnelId,
        usual: &Usual,
        now: u64,
        queue: &mut SealQueue,
    ) {
        self.make_room(tunnel, now, queue);
        let inner = Inner {
            header_len: ipv4::HEADER_LEN as u16,
            protocol: usual.protocol,
            tos: usual.tos,
            version: Version::V4,
            dont_fragment: usual.dont_fragment,
            is_fragment: false,
        };
        let origin = Origin::Port(packet.rx_port);
        queue.push(Sealing::new(packet, tunnel, origin, inner));
        // Moved first and cut then: see `Packet`.
        if let Some(Sealing { packet: Some(packet), .. }) = queue.last_mut() {
            usual::strip(packet, usual, true);
        }
    }

    /// Makes room for a packet of a tunnel, and asks for the tunnel's slot unless the packet in front did.
    #[inline(always)]
    fn make_room(&mut self, tunnel: TunnelId, now: u64, queue: &mut SealQueue) {
        if queue.is_full() {
            self.seal(queue, now);
        }
        if queue.last().is_none_or(|last| last.tunnel != tunnel) {
            self.tables.prefetch_tunnel(tunnel);
        }
    }

    /// Seals and sends what is queued.
    pub(super) fn seal(&mut self, queue: &mut SealQueue, now: u64) {
        if queue.is_empty() {
            return;
        }
        self.summon(queue);
        let mut pieces = SealQueue::new();
        for run in queue.chunk_by_mut(|a, b| a.tunnel == b.tunnel) {
            self.admit_run(run, now, &mut pieces);
        }
        self.passed(Stage::Admit);
        self.send_admitted(queue, now);
        if !pieces.is_empty() {
            self.send_admitted(&mut pieces, now);
        }
    }

    /// Asks for the SAs of a burst and their keys. The slots were asked for before. By the time that the last is asked for
    /// the first is there. That all are of the first one's suite is a guess.
    #[inline]
    fn summon(&self, queue: &SealQueue) {
        if let [first, .., last] = &queue[..]
            && first.tunnel == last.tunnel
        {
            // One SA, as good as always.
            return;
        }
        let mut suite = None;
        for run in queue.chunk_by(|a, b| a.tunnel == b.tunnel) {
            let Some(work) = run.first() else { continue };
            let Some(slot) = self.tables.tunnel(work.tunnel) else { continue };
            let suite = *suite.get_or_insert_with(|| slot.sa.params.suite);
            slot.sa.prefetch();
            self.crypto.prefetch(&slot.sa.key, suite, work.packet.as_ref().map_or(0, Packet::len));
        }
    }

    /// Checks what does not depend on the sequence number: SA, route, lifetime, size.
    #[inline]
    fn admit_run(&mut self, run: &mut [Sealing], now: u64, pieces: &mut SealQueue) {
        let Some(tunnel) = run.first().map(|work| work.tunnel) else { return };
        let Some(adjacency) = self.tunnel_adjacency(tunnel) else {
            return run.iter_mut().for_each(|work| self.refuse(work, now));
        };
        let mut done = 0;
        while let Some(rest @ [_, ..]) = run.get_mut(done..) {
            let Some(slot) = self.tables.outbound.get_mut(tunnel.0) else { return };
            let mtu = slot.sa.path_mtu.get(adjacency.mtu, now);
            let usual = slot.admit_usual(rest, mtu, now);
            if let Some(work) = rest.get_mut(usual) {
                work.mtu = mtu;
                self.admit(work, now, pieces);
            }
            done += usual + 1;
        }
    }

    /// As [`Worker::admit_run`] for a packet that needs a closer look.
    #[inline(never)]
    fn admit(&mut self, work: &mut Sealing, now: u64, pieces: &mut SealQueue) {
        let Some(slot) = self.tables.outbound.get_mut(work.tunnel.0) else { return };
        let Some(packet) = &mut work.packet else { return };
        let capacity = slot.capacity(work.mtu as usize, &work.inner);
        if let Some(clamp) = slot.sa.options.mss_clamp {
            clamp_mss(clamp, capacity, packet, &work.inner);
        }
        let restricts_ports = self.tables.spd.restricts_ports();
        match slot.fit(packet, &work.inner, work.origin, capacity, restricts_ports) {
            // Only what is sent is charged.
            Fit::Whole => {
                if !slot.charge(packet.len(), now, &mut self.unsent) {
                    self.drop_on_sa(work, DropReason::SaExpired);
                }
            }
            Fit::Pieces => self.admit_pieces(work, capacity, now, pieces),
            Fit::TooBig => self.too_big(work, capacity, now),
            Fit::Never(reason) => self.drop_on_sa(work, reason),
        }
    }

    /// Fragments the inner packet, so that each piece fits (RFC 4301 s8.1 leaves the choice to us).
    #[cold]
    fn admit_pieces(&mut self, work: &mut Sealing, capacity: usize, now: u64, pieces: &mut SealQueue) {
        let Some(packet) = work.packet.take() else { return };
        let (tunnel, origin, mtu) = (work.tunnel, work.origin, work.mtu);
        let own = work.inner.version == Version::V6;
        let made = self.fragment(packet, capacity, own, |worker, packet| match ip::parse(packet.data()) {
            Ok(info) => {
                let Some(slot) = worker.tables.tunnel_mut(tunnel) else { return };
                if !slot.charge(packet.len(), now, &mut worker.unsent) {
                    return worker.count_on_sa(tunnel, DropReason::SaExpired);
                }
                if pieces.is_full() {
                    worker.send_admitted(pieces, now);
                }
                let inner = Inner::of(&packet, 0, &info);
                pieces.push(Sealing { mtu, ..Sealing::new(packet, tunnel, origin, inner) });
            }
            Err(reason) => worker.count_on_sa(tunnel, reason),
        });
        if let Err(reason) = made {
            self.count_on_sa(tunnel, reason);
        }
    }

    #[cold]
    fn too_big(&mut self, work: &mut Sealing, capacity: usize, now: u64) {
        if let Some(packet) = &work.packet
            && let Ok(info) = ip::parse(packet.data())
        {
            self.complain(packet, &info, work.origin, Error::TooBig { mtu: capacity as u32 }, now);
        }
        self.drop_on_sa(work, DropReason::TooBig);
    }

    /// Takes sequence numbers, wraps, seals and sends; leaves the queue empty.
    fn send_admitted(&mut self, queue: &mut SealQueue, now: u64) {
        for run in queue.chunk_by_mut(|a, b| a.tunnel == b.tunnel) {
            self.wrap_run(run);
        }
        self.passed(Stage::Wrap);
        let sealed = self.seal_burst(queue);
        self.passed(Stage::Seal);
        for (work, sealed) in queue.iter_mut().zip(sealed) {
            if work.packet.is_some() && !sealed {
                self.drop_on_sa(work, DropReason::SealFailed);
            }
        }
        for run in queue.chunk_by_mut(|a, b| a.tunnel == b.tunnel) {
            self.send_run(run, now);
        }
        queue.clear();
        self.passed(Stage::Send);
    }

    /// One block of sequence numbers for a run of packets of the same SA, and their headers.
    #[inline]
    fn wrap_run(&mut self, run: &mut [Sealing]) {
        let Some(tunnel) = run.first().map(|work| work.tunnel) else { return };
        let Some(slot) = self.tables.tunnel_mut(tunnel) else { return };
        let live = run.iter().filter(|work| work.packet.is_some()).count() as u64;
        if live == 0 {
            return;
        }
        let mut seq = match slot.reserve(live, &mut self.unsent) {
            Ok(first) => first,
            Err(reason) => return run.iter_mut().for_each(|work| self.drop_on_sa(work, reason)),
        };
        // Admission found one path MTU for all, as good as always.
        let mut limit = Limit::new(slot, run.first().map_or(0, |work| work.mtu));
        for work in run.iter_mut() {
            let Some(packet) = &mut work.packet else { continue };
            work.seq = seq;
            work.inner_len = packet.len() as u16;
            seq += 1;
            self.next_id = self.next_id.wrapping_add(1);
            if work.mtu != limit.mtu {
                limit = Limit::new(slot, work.mtu);
            }
            match slot.wrap(packet, &work.inner, work.seq, limit, self.next_id) {
                Ok(at) => work.at = at as u16,
                Err(reason) => {
                    work.packet = None;
                    slot.counters.dropped(reason);
                    self.drops.count(reason);
                }
            }
        }
    }

    /// Runs the engine over the burst; says which packets it sealed.
    #[inline]
    fn seal_burst(&self, queue: &mut SealQueue) -> [bool; BURST] {
        let mut sealed = [false; BURST];
        let mut jobs = ArrayVec::<Job<'_>, BURST>::new();
        let mut places = ArrayVec::<u8, BURST>::new();
        let mut place = 0;
        for run in queue.chunk_by_mut(|a, b| a.tunnel == b.tunnel) {
            let first = place;
            place += run.len();
            let Some(slot) = run.first().and_then(|work| self.tables.tunnel(work.tunnel)) else { continue };
            let (key, protocol) = (&slot.sa.key, slot.sa.params.protocol);
            for (work, place) in run.iter_mut().zip(first..) {
                let Some(packet) = &mut work.packet else { continue };
                match protocol {
                    Protocol::Esp => {
                        let Some(packet) = packet.data_mut().get_mut(usize::from(work.at)..) else {
                            continue;
                        };
                        jobs.push(Job { key, packet, seq: work.seq, ok: false });
                        places.push(place as u8);
                    }
                    Protocol::Ah => {
                        sealed[place] = ah::seal(&self.crypto, key, packet, work.at.into(), work.seq);
                    }
                }
            }
        }
        self.crypto.seal(&mut jobs);
        for (job, &place) in jobs.iter().zip(&places) {
            sealed[usize::from(place)] = job.ok;
        }
        sealed
    }

    /// Sends a run of sealed packets of the same SA.
    #[inline]
    fn send_run(&mut self, run: &mut [Sealing], now: u64) {
        let Some(tunnel) = run.first().map(|work| work.tunnel) else { return };
        let Some(slot) = self.tables.tunnel_mut(tunnel) else { return };
        // Admission put it there, in the same poll.
        let Some(adjacency) = slot.adjacency else { return };
        let outer = slot.outer.needs_checksum().then_some(slot.outer);
        let mut whole = true;
        for work in run.iter_mut() {
            let Some(packet) = &mut work.packet else { continue };
            slot.counters.carried(work.inner_len.into());
            whole &= packet.len() <= work.mtu as usize;
            if let Some(outer) = &outer {
                outer.finish_udp6(packet.data_mut(), usize::from(work.at).saturating_sub(udp::HEADER_LEN));
            }
        }
        // In transport mode the IP header is the packet's own; then too all of a run are of the SA's family.
        let version = run.iter().find_map(|work| work.packet.as_ref()).map(|packet| version(packet.data()));
        let egress = version.and_then(|version| self.egress(&adjacency, version));
        if let (true, Some(egress)) = (whole, egress) {
            return self.emit_all(run.iter_mut().filter_map(|work| work.packet.take()), &egress);
        }
        for work in run {
            let Some(packet) = work.packet.take() else { continue };
            if packet.len() <= work.mtu as usize {
                self.transmit(packet, &adjacency, now);
            } else {
                self.transmit_pieces(packet, work.mtu, true, &adjacency, now);
            }
        }
    }

    /// The tunnel has no SA, which the control side may mend; or its peer cannot be reached.
    #[cold]
    fn refuse(&mut self, work: &mut Sealing, now: u64) {
        if self.tables.tunnel(work.tunnel).is_some() {
            return self.drop_on_sa(work, DropReason::NoRoute);
        }
        if let Some(packet) = work.packet.take() {
            self.acquire(packet, work.tunnel, work.origin, now);
        }
    }

    /// Sends a dummy packet (RFC 4303 s2.6), which the peer drops: as long as the padded packets of the SA, or one
    /// block of its cipher.
    pub(super) fn send_dummy(&mut self, tunnel: TunnelId, now: u64) {
        if let Err(reason) = self.try_send_dummy(tunnel, now) {
            self.count_on_sa(tunnel, reason);
        }
    }

    fn try_send_dummy(&mut self, tunnel: TunnelId, now: u64) -> Result<(), DropReason> {
        let adjacency = self.tunnel_adjacency(tunnel).ok_or(DropReason::NoRoute)?;
        self.next_id = self.next_id.wrapping_add(1);
        let slot = self.tables.tunnel_mut(tunnel).ok_or(DropReason::NoSa)?;
        let mut packet = self.pool.alloc().ok_or(DropReason::NoBuffer)?;
        let mtu = slot.sa.path_mtu.get(adjacency.mtu, now);
        let capacity = esp::tunnel_capacity(slot.sa.params.suite, &slot.outer, mtu as usize);
        let len = slot.sa.options.tfc_pad.map_or(0, |pad| usize::from(pad).min(capacity));
        if !slot.charge(len, now, &mut self.unsent) {
            return Err(DropReason::SaExpired);
        }
        let seq = slot.reserve(1, &mut self.unsent)?;
        let sa = &*slot.sa;
        let dscp = if let DscpPolicy::Set(dscp) = sa.options.dscp { dscp << 2 } else { 0 };
        let stamp = Stamp { tos: dscp, dont_fragment: sa.options.df == DfPolicy::Set, id: self.next_id };
        let at =
            esp::dummy(&mut packet, sa.params.suite, &slot.outer, stamp, Header { spi: sa.spi, seq }, len)?;
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

    /// Drops a packet if it is still there, and counts it on its SA and on the worker.
    #[cold]
    fn drop_on_sa(&mut self, work: &mut Sealing, reason: DropReason) {
        if work.packet.take().is_some() {
            self.count_on_sa(work.tunnel, reason);
        }
    }

    #[cold]
    fn count_on_sa(&mut self, tunnel: TunnelId, reason: DropReason) {
        self.drops.count(reason);
        if let Some(slot) = self.tables.tunnel_mut(tunnel) {
            slot.counters.dropped(reason);
        }
    }
}

/// What the path of an SA carries.
#[derive(Clone, Copy)]
struct Limit {
    /// Outer packets.
    mtu: u32,
    /// Inner packets of ESP in tunnel mode.
    esp_capacity: usize,
}

impl Limit {
    #[inline]
    fn new(slot: &OutboundSlot, mtu: u32) -> Self {
        Self { mtu, esp_capacity: esp::tunnel_capacity(slot.sa.params.suite, &slot.outer, mtu as usize) }
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
    /// Admits packets from the front for as long as they are of the usual kind: tunnel mode, no longer than what fits,
    /// within the lease of lifetime. Returns how many.
    #[inline]
    fn admit_usual(&mut self, run: &mut [Sealing], mtu: u32, now: u64) -> usize {
        let sa = &*self.sa;
        if sa.params.mode != Mode::Tunnel || sa.options.mss_clamp.is_some() {
            return 0;
        }
        let capacity = match sa.params.protocol {
            Protocol::Esp => esp::tunnel_capacity(sa.params.suite, &self.outer, mtu as usize),
            Protocol::Ah => (mtu as usize).saturating_sub(ah::tunnel_len(&sa.key, &self.outer, 0)),
        };
        let mut lease = self.lease;
        let unusual = run.iter_mut().position(|work| {
            let len = work.packet.as_ref().map_or(usize::MAX, Packet::len);
            work.mtu = mtu;
            len > capacity || !lease.charge(len as u64, now)
        });
        self.lease = lease;
        unusual.unwrap_or(run.len())
    }

    /// The longest IP packet like this one that fits into `mtu` bytes once it is wrapped.
    #[inline]
    fn capacity(&self, mtu: usize, inner: &Inner) -> usize {
        let (key, suite, outer) = (&self.sa.key, self.sa.params.suite, &self.outer);
        match (self.sa.params.protocol, self.sa.params.mode) {
            (Protocol::Esp, Mode::Tunnel) => esp::tunnel_capacity(suite, outer, mtu),
            (Protocol::Esp, Mode::Transport) => {
                esp::transport_capacity(suite, outer, mtu, inner.header_len.into())
            }
            (Protocol::Ah, Mode::Tunnel) => mtu.saturating_sub(ah::tunnel_len(key, outer, 0)),
            (Protocol::Ah, Mode::Transport) => mtu.saturating_sub(ah::header_len(key, inner.version)),
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
    fn reserve(&self, count: u64, events: &mut VecDeque<Event>) -> Result<u64, DropReason> {
        self.sa.sequence.reserve(count).ok_or_else(|| self.out_of_numbers(events))
    }

    /// Why there are no numbers: they are used up, or may not be used yet.
    #[cold]
    fn out_of_numbers(&self, events: &mut VecDeque<Event>) -> DropReason {
        if !self.sa.sequence.is_exhausted() {
            return DropReason::SequenceUnsaved;
        }
        if let Some(reached) = self.sa.usage.exhaust() {
            events.push_back(Event::expired(&self.sa.params, self.sa.spi, Direction::Outbound, reached));
        }
        DropReason::SequenceExhausted
    }

    #[inline]
    fn fit(
        &self,
        packet: &Packet,
        inner: &Inner,
        origin: Origin,
        capacity: usize,
        restricts_ports: bool,
    ) -> Fit {
        let transport = self.sa.params.mode == Mode::Transport;
        if packet.len() <= capacity && !transport {
            return Fit::Whole;
        }
        let options = &self.sa.options;
        if transport && !self.joins(packet) {
            return Fit::Never(DropReason::SaMismatch);
        }
        if transport && inner.is_fragment {
            return Fit::Never(DropReason::TransportFragment);
        }
        // RFC 8200 s5, RFC 2473 s7.1: an IPv6 source need not go below 1280 bytes, so the tunnel must.
        let least = if inner.version == Version::V6 { MIN_MTU } else { 0 };
        // Pieces that hide their ports may not match an SA that names some (RFC 4301 s7.2). But an IPv6 packet that
        // was put together here must stay in pieces, or no link behind the peer would carry it.
        let hides_ports = restricts_ports && inner.version == Version::V4;
        let after = (hides_ports || options.fragmentation == Fragmentation::After)
            && (options.df == DfPolicy::Clear || !inner.dont_fragment);
        let own = transport && origin == Origin::Local;
        if packet.len() <= capacity.max(least) || after || own {
            Fit::Whole
        } else if inner.dont_fragment || transport {
            Fit::TooBig
        } else {
            Fit::Pieces
        }
    }

    /// Whether the packet runs between the SA's own endpoints, as transport mode needs.
    fn joins(&self, packet: &Packet) -> bool {
        ip::parse(packet.data()).is_ok_and(|info| {
            info.source == self.endpoints.local && info.destination == self.endpoints.remote
        })
    }

    /// Puts everything around the payload but IV and ICV. Returns the offset of the ESP or AH header.
    #[inline]
    fn wrap(
        &self,
        packet: &mut Packet,
        inner: &Inner,
        seq: u64,
        limit: Limit,
        id: u16,
    ) -> Result<usize, DropReason> {
        let (sa, outer) = (&*self.sa, &self.outer);
        let header = Header { spi: sa.spi, seq };
        let mut stamp = sa.options.stamp(inner, sa.params.ecn, id);
        match (sa.params.protocol, sa.params.mode) {
            (Protocol::Esp, Mode::Tunnel) => {
                // What does not fit is fragmented after, so the outer DF bit cannot be set.
                stamp.dont_fragment &= packet.len() <= limit.esp_capacity;
                let tfc_pad = sa.options.tfc_pad.map_or(0, |pad| usize::from(pad).min(limit.esp_capacity));
                esp::tunnel(packet, sa.params.suite, outer, stamp, header, inner.version, tfc_pad)
            }
            (Protocol::Esp, Mode::Transport) => esp::transport(
                packet,
                sa.params.suite,
                outer,
                header,
                inner.header_len.into(),
                inner.protocol,
            ),
            (Protocol::Ah, Mode::Tunnel) => {
                stamp.dont_fragment &= ah::tunnel_len(&sa.key, outer, packet.len()) <= limit.mtu as usize;
                ah::tunnel(packet, &sa.key, outer, stamp, header, inner.version)
            }
            (Protocol::Ah, Mode::Transport) => {
                ah::transport(packet, &sa.key, header, inner.header_len.into(), inner.protocol, inner.version)
            }
        }
    }
}

impl OutboundOptions {
    /// DSCP, ECN and DF of the outer header (RFC 4301 s5.1.2, RFC 6040 s4.1).
    #[inline]
    fn stamp(&self, inner: &Inner, ecn: bool, id: u16) -> Stamp {
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

/// Lowers the MSS of a TCP SYN to what fits.
#[inline]
fn clamp_mss(clamp: MssClamp, capacity: usize, packet: &mut Packet, inner: &Inner) {
    if inner.protocol != ip::protocol::TCP || !tcp::is_syn(packet.data(), inner.header_len.into()) {
        return;
    }
    let mss = match clamp {
        // IPv6 packets up to 1280 bytes always pass, in fragments if need be.
        MssClamp::PathMtu if inner.version == Version::V6 => capacity.max(MIN_MTU) - tcp_headers(Version::V6),
        MssClamp::PathMtu => capacity.saturating_sub(tcp_headers(Version::V4)),
        MssClamp::Fixed(mss) => mss.into(),
    };
    if let Ok(info) = ip::parse(packet.data()) {
        ip::clamp_mss(packet.data_mut(), &info, u16::try_from(mss).unwrap_or(u16::MAX));
    }
}
