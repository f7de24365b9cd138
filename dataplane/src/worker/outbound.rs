//! Outbound SAs, a burst at a time (RFC 4301 s5.1, RFC 4303 s3.3): what is admitted (see `admission`) takes sequence
//! numbers by runs of the same SA, is wrapped and sealed, and handed to the next hop.
//!
//! Packets stay where they were queued until they are sent: every step works on the burst in place.

use std::collections::VecDeque;
use std::mem;

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
use crate::worker::admission::{Admitted, Kind, Pieces};
use crate::worker::next_hops::LastWay;
use crate::worker::slots::OutboundSlot;
use crate::worker::stages::{self, Stage};
use crate::worker::transit::{Origin, strip};
use crate::worker::usual::{self, Usual};

/// Packets that wait to be sealed, in the order in which they came.
#[derive(Default)]
pub(super) struct SealQueue {
    pub(super) works: ArrayVec<Sealing, BURST>,
    /// Neighbours of one tunnel; together they are all of `works`.
    pub(super) runs: ArrayVec<Run, BURST>,
}

/// How many packets of a tunnel follow each other in a queue.
#[derive(Clone, Copy)]
pub(super) struct Run {
    pub(super) tunnel: TunnelId,
    pub(super) len: u8,
}

/// A packet that policy sends through a tunnel. It starts at its IP header.
pub(super) struct Sealing {
    /// `None` once it is sent or dropped.
    pub(super) packet: Option<Packet>,
    pub(super) tunnel: TunnelId,
    pub(super) origin: Origin,
    pub(super) inner: Inner,
    /// Bytes before it was wrapped.
    pub(super) inner_len: u16,
    /// Offset of the ESP or AH header once it is wrapped.
    at: u16,
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
        Self { packet: Some(packet), tunnel, origin, inner, inner_len: 0, at: 0 }
    }
}

impl SealQueue {
    /// Makes the packet that is put at the end next one of a tunnel. Whether the packet in front is of the same.
    #[inline(always)]
    fn announce(&mut self, tunnel: TunnelId) -> bool {
        match self.runs.last_mut() {
            Some(run) if run.tunnel == tunnel => {
                run.len += 1;
                true
            }
            _ => {
                self.runs.push(Run { tunnel, len: 1 });
                false
            }
        }
    }

    fn clear(&mut self) {
        self.works.clear();
        self.runs.clear();
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
        queue.works.push(Sealing::new(packet, tunnel, origin, inner));
        // Moved first and cut then: see `Packet`.
        if link_len > 0
            && let Some(Sealing { packet: Some(packet), .. }) = queue.works.last_mut()
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
        queue.works.push(Sealing::new(packet, tunnel, origin, inner));
        // Moved first and cut then: see `Packet`.
        if let Some(Sealing { packet: Some(packet), .. }) = queue.works.last_mut() {
            usual::strip(packet, usual, true);
        }
    }

    /// Makes room for a packet of a tunnel, which is put there next, and asks for the tunnel's slot unless the packet in front
    /// did.
    #[inline(always)]
    fn make_room(&mut self, tunnel: TunnelId, now: u64, queue: &mut SealQueue) {
        if queue.works.is_full() {
            self.seal(queue, now);
        }
        if !queue.announce(tunnel) {
            self.tables.prefetch_tunnel(tunnel);
        }
    }

    /// Seals and sends what is queued; leaves the queue empty.
    pub(super) fn seal(&mut self, queue: &mut SealQueue, now: u64) {
        if queue.works.is_empty() {
            return;
        }
        self.summon(queue);
        let mut last = LastWay::default();
        let mut pieces = Pieces::default();
        let mut admitted = ArrayVec::new();
        self.admit_all(queue, now, &mut last, &mut admitted, &mut pieces);
        self.passed(Stage::Admit);
        self.send_admitted(&mut queue.works, &admitted, now, &mut last);
        queue.clear();
        self.send_pieces(&mut pieces, now, &mut last);
    }

    /// Asks for the SAs of a burst and their keys. The slots were asked for before. By the time that the last is asked for
    /// the first is there. That all are of the first one's suite is a guess.
    #[inline]
    fn summon(&self, queue: &SealQueue) {
        if queue.runs.len() == 1 {
            // One SA, as good as always.
            return;
        }
        let mut suite = None;
        let mut place = 0;
        for run in &queue.runs {
            let packet = queue.works.get(place).and_then(|work| work.packet.as_ref());
            let len = packet.map_or(0, Packet::len);
            place += usize::from(run.len);
            let Some(slot) = self.tables.tunnel(run.tunnel) else { continue };
            let suite = *suite.get_or_insert_with(|| slot.sa.params.suite);
            slot.sa.prefetch();
            if slot.usual.is_none() {
                slot.sa.prefetch_rest();
            }
            self.crypto.prefetch(&slot.sa.key, suite, len);
        }
    }

    /// Sends pieces of packets that were fragmented; leaves none.
    pub(super) fn send_pieces(&mut self, pieces: &mut Pieces, now: u64, last: &mut LastWay) {
        if !pieces.works.is_empty() {
            self.send_admitted(&mut pieces.works, &pieces.runs, now, last);
            *pieces = Pieces::default();
        }
    }

    /// Takes sequence numbers, wraps, seals and sends.
    fn send_admitted(&mut self, works: &mut [Sealing], runs: &[Admitted], now: u64, last: &mut LastWay) {
        self.wrap_and_seal(works, runs);
        let (mut works, mut runs) = (works, runs);
        while let Some((run, behind)) = runs.split_first() {
            runs = behind;
            let mut len = usize::from(run.len);
            // Packets that leave by one way leave together, whatever their tunnels.
            while let Some((next, behind)) = runs.split_first()
                && (run.kind, next.kind) == (Kind::Usual, Kind::Usual)
                && next.hop == run.hop
            {
                len += usize::from(next.len);
                runs = behind;
            }
            let Some((these, rest)) = mem::take(&mut works).split_at_mut_checked(len) else { break };
            works = rest;
            self.send_alike(these, run, now, last);
        }
        self.passed(Stage::Send);
    }

    /// One block of sequence numbers for each run of packets of the same SA, their headers, and the engine for all of the
    /// burst. Drops what it cannot wrap or seal.
    #[inline]
    fn wrap_and_seal(&mut self, works: &mut [Sealing], runs: &[Admitted]) {
        const { assert!(BURST <= u64::BITS as usize) };
        let Self { tables, unsent, crypto, stages, next_id, .. } = self;
        let mut refused = ArrayVec::<(u8, DropReason), BURST>::new();
        let mut jobs = ArrayVec::<Job<'_>, BURST>::new();
        // Places in the queue that a job is for.
        let mut asked = 0u64;
        let mut place = 0u8;
        let mut rest = &mut *works;
        for run in runs {
            let first = place;
            place += run.len;
            let Some((works, behind)) = mem::take(&mut rest).split_at_mut_checked(run.len.into()) else {
                break;
            };
            rest = behind;
            let live = match run.kind {
                Kind::Usual | Kind::Fits => u64::from(run.len),
                Kind::Any => works.iter().filter(|work| work.packet.is_some()).count() as u64,
            };
            if live == 0 {
                continue;
            }
            let taken = match tables.tunnel(run.tunnel) {
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
            let usual = slot.usual.as_ref().filter(|_| run.kind == Kind::Usual);
            for (work, place) in works.iter_mut().zip(first..) {
                let Some(packet) = &mut work.packet else { continue };
                *next_id = next_id.wrapping_add(1);
                let wrapped = match usual {
                    Some(usual) => {
                        usual.wrap(packet, work.inner.marks, seq, *next_id).ok_or(DropReason::NoRoom)
                    }
                    None => slot.wrap(packet, &work.inner, run.mtu, seq, *next_id),
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
                let is_ah = usual.is_none() && slot.sa.params.protocol == Protocol::Ah;
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
        for &(place, reason) in &refused {
            if let Some(work) = works.get_mut(usize::from(place))
                && work.packet.take().is_some()
            {
                self.take_back(work.tunnel, work.inner_len.into(), reason);
            }
        }
    }

    /// Sends sealed packets: those of a run, or of several usual ones with the same way.
    #[inline]
    fn send_alike(&mut self, works: &mut [Sealing], run: &Admitted, now: u64, last: &mut LastWay) {
        let fits =
            |work: &Sealing| work.packet.as_ref().is_none_or(|packet| packet.len() <= run.mtu as usize);
        if run.kind != Kind::Usual {
            self.finish_checksums(works, run.tunnel);
        }
        if let Some(hop) = run.hop
            && (run.kind != Kind::Any || works.iter().all(fits))
            && let Some(egress) = self.way(hop, last)
        {
            return self.emit_all(works.iter_mut().filter_map(|work| work.packet.take()), egress);
        }
        for work in works {
            let Some(packet) = work.packet.take() else { continue };
            let sent = match self.tunnel_adjacency(work.tunnel) {
                None => Err(DropReason::NoRoute),
                Some(adjacency) if packet.len() <= run.mtu as usize => {
                    self.transmit(packet, &adjacency, now);
                    Ok(())
                }
                Some(adjacency) => self.transmit_pieces(packet, run.mtu, true, &adjacency, now),
            };
            if let Err(reason) = sent {
                self.take_back(work.tunnel, work.inner_len.into(), reason);
            }
        }
    }

    /// UDP over IPv6 has a checksum (RFC 8200 s8.1), which covers what was sealed.
    fn finish_checksums(&self, works: &mut [Sealing], tunnel: TunnelId) {
        let Some(slot) = self.tables.tunnel(tunnel).filter(|slot| slot.outer.needs_checksum()) else {
            return;
        };
        for work in works {
            let Some(packet) = &mut work.packet else { continue };
            let at = usize::from(work.at).saturating_sub(udp::HEADER_LEN);
            slot.outer.finish_udp6(packet.data_mut(), at);
        }
    }

    /// A packet that was admitted was dropped after all.
    #[cold]
    fn take_back(&mut self, tunnel: TunnelId, bytes: u64, reason: DropReason) {
        if let Some(slot) = self.tables.tunnel_mut(tunnel) {
            slot.counters.not_carried(bytes);
        }
        self.count_on_sa(tunnel, reason);
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
