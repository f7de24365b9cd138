//! Outbound SAs, a burst at a time (RFC 4301 s5.1, RFC 4303 s3.3): what is admitted (see `admission`) takes sequence
//! numbers by runs of the same SA, is wrapped and sealed, and handed to the next hop.
//!
//! Packets stay where they were queued until they are sent: every step works on the burst in place.

use std::collections::VecDeque;

use arrayvec::ArrayVec;

use crate::ah;
use crate::buffer::{BURST, Packet};
use crate::crypto::Job;
use crate::drops::DropReason;
use crate::esp::outbound::{self as esp, Header};
use crate::esp::run;
use crate::message::{Direction, Event};
use crate::outer::Marks;
use crate::packet::ip::{self, IpInfo, Version};
use crate::packet::{ipv4, udp};
use crate::sa::{Mode, Protocol, TunnelId};
use crate::worker::Worker;
use crate::worker::next_hops::LastWay;
use crate::worker::slots::{Exit, OutboundSlot};
use crate::worker::stages::{self, Stage};
use crate::worker::transit::{Origin, strip};
use crate::worker::usual::{self, Usual};

/// Packets that wait to be sealed.
pub(super) type SealQueue = ArrayVec<Sealing, BURST>;

/// A packet that policy sends through a tunnel. It starts at its IP header.
pub(super) struct Sealing {
    /// `None` once it is sent or dropped.
    pub(super) packet: Option<Packet>,
    pub(super) tunnel: TunnelId,
    pub(super) origin: Origin,
    pub(super) inner: Inner,
    /// Bytes before it was wrapped.
    inner_len: u16,
    /// Offset of the ESP or AH header once it is wrapped.
    at: u16,
    /// What the path carries, outer headers included.
    pub(super) mtu: u32,
    /// It fits [`OutboundSlot::usual`], if the tunnel has one.
    pub(super) usual: bool,
}

/// What the outer headers and the SA's look at a packet depend on.
#[derive(Clone, Copy)]
pub(super) struct Inner {
    pub(super) marks: run::Inner,
    pub(super) header_len: u16,
    pub(super) protocol: u8,
    pub(super) is_fragment: bool,
}

impl Inner {
    /// `link_len` is how many bytes the packet has in front of its IP header.
    #[inline]
    pub(super) fn of(packet: &Packet, link_len: usize, info: &IpInfo) -> Self {
        let marks = run::Inner {
            version: info.version,
            // Of the packet and not of `info`: ECN may have changed it since it was parsed.
            tos: ip::tos(packet.data().get(link_len..).unwrap_or_default()),
            dont_fragment: info.dont_fragment,
        };
        Self {
            marks,
            header_len: info.header_len,
            protocol: info.protocol,
            is_fragment: info.fragment.is_some(),
        }
    }
}

impl Sealing {
    #[inline]
    pub(super) fn new(packet: Packet, tunnel: TunnelId, origin: Origin, inner: Inner) -> Self {
        Self { packet: Some(packet), tunnel, origin, inner, inner_len: 0, at: 0, mtu: 0, usual: false }
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
        let Usual { tos, dont_fragment, .. } = *usual;
        let inner = Inner {
            marks: run::Inner { version: Version::V4, tos, dont_fragment },
            header_len: ipv4::HEADER_LEN as u16,
            protocol: usual.protocol,
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
        let mut last = LastWay::default();
        for run in queue.chunk_by_mut(|a, b| a.tunnel == b.tunnel) {
            self.admit_run(run, now, &mut last, &mut pieces);
        }
        self.passed(Stage::Admit);
        self.send_admitted(queue, now, &mut last);
        if !pieces.is_empty() {
            self.send_admitted(&mut pieces, now, &mut last);
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
            if slot.usual.is_none() {
                slot.sa.prefetch_rest();
            }
            self.crypto.prefetch(&slot.sa.key, suite, work.packet.as_ref().map_or(0, Packet::len));
        }
    }

    /// Takes sequence numbers, wraps, seals and sends; leaves the queue empty.
    pub(super) fn send_admitted(&mut self, queue: &mut SealQueue, now: u64, last: &mut LastWay) {
        self.wrap_and_seal(queue);
        for run in queue.chunk_by_mut(|a, b| a.tunnel == b.tunnel) {
            self.send_run(run, now, last);
        }
        queue.clear();
        self.passed(Stage::Send);
    }

    /// One block of sequence numbers for each run of packets of the same SA, their headers, and the engine for all of the
    /// burst. Drops what it cannot wrap or seal.
    #[inline]
    fn wrap_and_seal(&mut self, queue: &mut SealQueue) {
        const { assert!(BURST <= u64::BITS as usize) };
        let Self { tables, unsent, crypto, stages, next_id, .. } = self;
        let mut refused = ArrayVec::<(u8, DropReason), BURST>::new();
        let mut jobs = ArrayVec::<Job<'_>, BURST>::new();
        // Places in the queue that a job is for.
        let mut asked = 0u64;
        let mut place = 0u8;
        for run in queue.chunk_by_mut(|a, b| a.tunnel == b.tunnel) {
            let first = place;
            place += run.len() as u8;
            let live = run.iter().filter(|work| work.packet.is_some()).count() as u64;
            let Some(work) = run.first().filter(|_| live > 0) else { continue };
            let taken = match tables.tunnel(work.tunnel) {
                Some(slot) => slot.reserve(live, unsent).map(|seq| (slot, seq)),
                None => Err(DropReason::NoSa),
            };
            let (slot, mut seq) = match taken {
                Ok(taken) => taken,
                Err(reason) => {
                    refused.extend((first..place).map(|place| (place, reason)));
                    continue;
                }
            };
            for (work, place) in run.iter_mut().zip(first..) {
                let Some(packet) = &mut work.packet else { continue };
                work.inner_len = packet.len() as u16;
                *next_id = next_id.wrapping_add(1);
                let wrapped = match &slot.usual {
                    Some(run) if work.usual => {
                        run.wrap(packet, work.inner.marks, seq, *next_id).ok_or(DropReason::NoRoom)
                    }
                    _ => slot.wrap(packet, &work.inner, work.mtu, seq, *next_id),
                };
                let at = match wrapped {
                    Ok(at) => at,
                    Err(reason) => {
                        refused.push((place, reason));
                        continue;
                    }
                };
                work.at = at as u16;
                let key = &slot.sa.key;
                // What goes the short way is ESP, without a look at a line of the SA that nobody asked for.
                let is_ah = slot.usual.is_none() && slot.sa.params.protocol == Protocol::Ah;
                let sealed = if is_ah {
                    ah::seal(crypto, key, packet, at, seq)
                } else {
                    packet.data_mut().get_mut(at..).is_some_and(|packet| {
                        jobs.push(Job { key, packet, seq, ok: false });
                        asked |= 1 << place;
                        true
                    })
                };
                if !sealed {
                    refused.push((place, DropReason::SealFailed));
                }
                seq += 1;
            }
        }
        stages::mark(stages, Stage::Wrap);
        crypto.seal(&mut jobs);
        if jobs.iter().any(|job| !job.ok) {
            for job in &jobs {
                if !job.ok {
                    refused.push((asked.trailing_zeros() as u8, DropReason::SealFailed));
                }
                // Without its lowest bit.
                asked &= asked.wrapping_sub(1);
            }
        }
        drop(jobs);
        self.passed(Stage::Seal);
        for (place, reason) in refused {
            if let Some(work) = queue.get_mut(usize::from(place)) {
                self.drop_on_sa(work, reason);
            }
        }
    }

    /// Sends a run of sealed packets of the same SA.
    #[inline]
    fn send_run(&mut self, run: &mut [Sealing], now: u64, last: &mut LastWay) {
        let Some(tunnel) = run.first().map(|work| work.tunnel) else { return };
        let Some(slot) = self.tables.tunnel_mut(tunnel) else { return };
        // Admission put it there, in the same poll.
        let Some(Exit { hop, .. }) = slot.exit else { return };
        let (mut packets, mut bytes, mut whole) = (0, 0, true);
        for work in run.iter() {
            let Some(packet) = &work.packet else { continue };
            packets += 1;
            bytes += u64::from(work.inner_len);
            whole &= packet.len() <= work.mtu as usize;
        }
        slot.counters.carried(packets, bytes);
        if slot.usual.is_none() && slot.outer.needs_checksum() {
            for work in run.iter_mut() {
                let Some(packet) = &mut work.packet else { continue };
                let at = usize::from(work.at).saturating_sub(udp::HEADER_LEN);
                slot.outer.finish_udp6(packet.data_mut(), at);
            }
        }
        if whole && let Some(egress) = self.way(hop, last) {
            return self.emit_all(run.iter_mut().filter_map(|work| work.packet.take()), egress);
        }
        for work in run {
            let Some(packet) = work.packet.take() else { continue };
            let sent = match self.tunnel_adjacency(tunnel) {
                None => Err(DropReason::NoRoute),
                Some(adjacency) if packet.len() <= work.mtu as usize => {
                    self.transmit(packet, &adjacency, now);
                    Ok(())
                }
                Some(adjacency) => self.transmit_pieces(packet, work.mtu, true, &adjacency, now),
            };
            if let Err(reason) = sent {
                self.take_back(tunnel, work.inner_len.into(), reason);
            }
        }
    }

    /// A packet that was counted as carried was dropped after all.
    #[cold]
    fn take_back(&mut self, tunnel: TunnelId, bytes: u64, reason: DropReason) {
        if let Some(slot) = self.tables.tunnel_mut(tunnel) {
            slot.counters.not_carried(bytes);
        }
        self.count_on_sa(tunnel, reason);
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
        // There is nothing inside to copy from.
        let stamp = Marks::new(&sa.options, sa.params.ecn).stamp(0, false, self.next_id);
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
    pub(super) fn drop_on_sa(&mut self, work: &mut Sealing, reason: DropReason) {
        if work.packet.take().is_some() {
            self.count_on_sa(work.tunnel, reason);
        }
    }

    #[cold]
    pub(super) fn count_on_sa(&mut self, tunnel: TunnelId, reason: DropReason) {
        self.drops.count(reason);
        if let Some(slot) = self.tables.tunnel_mut(tunnel) {
            slot.counters.dropped(reason);
        }
    }
}

impl OutboundSlot {
    /// Charges a packet to the SA's lifetime; false when the SA is at its end.
    #[inline]
    pub(super) fn charge(&mut self, bytes: usize, now: u64, events: &mut VecDeque<Event>) -> bool {
        let charge = self.sa.usage.charge(&mut self.lease, bytes as u64, now);
        if let Some(reached) = charge.reached {
            events.push_back(Event::expired(&self.sa.params, self.sa.spi, Direction::Outbound, reached));
        }
        charge.allowed
    }

    /// Takes sequence numbers. When there are none left, the SA is at its end.
    #[inline]
    pub(super) fn reserve(&self, count: u64, events: &mut VecDeque<Event>) -> Result<u64, DropReason> {
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

    /// Puts everything around the payload but IV and ICV, whatever the SA and the packet; `mtu` is what the path carries.
    /// Returns the offset of the ESP or AH header.
    #[inline(never)]
    fn wrap(
        &self,
        packet: &mut Packet,
        inner: &Inner,
        mtu: u32,
        seq: u64,
        id: u16,
    ) -> Result<usize, DropReason> {
        let (sa, outer) = (&*self.sa, &self.outer);
        let run::Inner { version, tos, dont_fragment } = inner.marks;
        let mut stamp = Marks::new(&sa.options, sa.params.ecn).stamp(tos, dont_fragment, id);
        let esp_capacity = esp::tunnel_capacity(sa.params.suite, outer, mtu as usize);
        let header = Header { spi: sa.spi, seq };
        match (sa.params.protocol, sa.params.mode) {
            (Protocol::Esp, Mode::Tunnel) => {
                // What does not fit is fragmented after, so the outer DF bit cannot be set.
                stamp.dont_fragment &= packet.len() <= esp_capacity;
                let tfc_pad = sa.options.tfc_pad.map_or(0, |pad| usize::from(pad).min(esp_capacity));
                esp::tunnel(packet, sa.params.suite, outer, stamp, header, version, tfc_pad)
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
                stamp.dont_fragment &= ah::tunnel_len(&sa.key, outer, packet.len()) <= mtu as usize;
                ah::tunnel(packet, &sa.key, outer, stamp, header, version)
            }
            (Protocol::Ah, Mode::Transport) => {
                ah::transport(packet, &sa.key, header, inner.header_len.into(), inner.protocol, version)
            }
        }
    }
}
