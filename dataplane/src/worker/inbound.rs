//! Inbound SAs, a burst at a time (RFC 4301 s5.2, RFC 4303 s3.4): look up, replay pre-check, open, replay
//! window, unwrap, selector check. Nothing that is not authenticated changes any state.

use std::collections::VecDeque;

use arrayvec::ArrayVec;

use crate::ah;
use crate::buffer::{BURST, Packet};
use crate::crypto::Job;
use crate::drops::DropReason;
use crate::esp;
use crate::message::{Direction, Event};
use crate::packet::ip::{self, IpInfo, Version};
use crate::packet::{ah as ah_header, ecn, esp as esp_header, ipv4};
use crate::sa::spi_table::SlotIndex;
use crate::sa::{InboundSa, Mode, Protocol, Spi};
use crate::worker::Worker;
use crate::worker::outbound::SealQueue;
use crate::worker::stages::Stage;
use crate::worker::tables::{InboundSlot, Whence};
use crate::worker::transit::{Origin, strip};
use crate::worker::usual::{self, Usual};

/// Packets that wait to be opened.
pub(super) type OpenQueue = ArrayVec<Opening, BURST>;

/// A packet that waits to be opened. It starts at its outer IP header.
pub(super) struct Opening {
    packet: Packet,
    /// The lower half, until the SA says what the upper one is.
    seq: u64,
    spi: Spi,
    /// `None` while it was not looked up, and when there is no such SA.
    slot: Option<SlotIndex>,
    /// Offset of the ESP or AH header within the outer packet.
    at: u16,
    /// Length of the outer IP header with its extensions.
    ip_len: u16,
    protocol: Protocol,
    version: Version,
    /// TOS or traffic class of the outer header.
    tos: u8,
    /// It does not come from where the SA's last packets came from.
    elsewhere: bool,
}

/// What became of each packet of a burst so far.
type Verdicts = [Result<(), DropReason>; BURST];

impl Worker {
    /// Takes an ESP or AH packet to us and queues it to be opened. Its protected header is at `at`, counted from its IP
    /// header; `link_len` is the length of the link header that it still has.
    #[inline]
    pub(super) fn accept_protected(
        &mut self,
        packet: Packet,
        link_len: usize,
        protocol: Protocol,
        outer: &IpInfo,
        at: usize,
        opening: &mut OpenQueue,
    ) {
        // What is behind the packet is padding of the link.
        let end = packet.len().min(link_len + usize::from(outer.total_len));
        let protected = packet.data().get(link_len + at..end).unwrap_or_default();
        let (spi, seq) = match spi_and_sequence(protected, protocol) {
            Ok(found) => found,
            Err(reason) => return self.drop_packet(packet, reason),
        };
        opening.push(Opening {
            packet,
            seq: seq.into(),
            spi,
            slot: None,
            at: at as u16,
            ip_len: outer.header_len,
            protocol,
            version: outer.version,
            tos: outer.tos,
            elsewhere: false,
        });
        // Moved first and cut then: see `Packet`.
        if link_len > 0
            && let Some(work) = opening.last_mut()
        {
            strip(&mut work.packet, link_len, outer);
        }
    }

    /// As [`Worker::accept_protected`] for a usual packet, which still has its link header.
    #[inline(always)]
    pub(super) fn accept_usual(
        packet: Packet,
        usual: &Usual,
        header: esp_header::Header,
        opening: &mut OpenQueue,
    ) {
        opening.push(Opening {
            packet,
            seq: header.sequence.into(),
            spi: header.spi,
            slot: None,
            at: ipv4::HEADER_LEN as u16,
            ip_len: ipv4::HEADER_LEN as u16,
            protocol: Protocol::Esp,
            version: Version::V4,
            tos: usual.tos,
            elsewhere: false,
        });
        // Moved first and cut then: see `Packet`.
        if let Some(work) = opening.last_mut() {
            usual::strip(&mut work.packet, usual, false);
        }
    }

    /// Opens what is queued, and passes on what is good.
    pub(super) fn open(&mut self, opening: &mut OpenQueue, sealing: &mut SealQueue, now: u64) {
        if opening.is_empty() {
            return;
        }
        let mut verdicts = [Ok(()); BURST];
        self.find_sas(opening);
        self.passed(Stage::FindSas);
        for (run, verdicts) in runs(opening, &mut verdicts) {
            self.examine(run, verdicts);
        }
        self.passed(Stage::Examine);
        self.open_burst(opening, &mut verdicts);
        self.passed(Stage::Open);
        for (run, verdicts) in runs(opening, &mut verdicts) {
            self.claim_and_unwrap(run, verdicts, now);
        }
        self.passed(Stage::Claim);
        for (work, verdict) in opening.drain(..).zip(verdicts) {
            self.opened(work, verdict, sealing, now);
        }
        self.passed(Stage::Deliver);
    }

    /// Looks up the SAs of a burst, whose slots were asked for before, and asks for the SAs themselves and their keys. By
    /// the time that the last is found the first is there. That all are of the first one's suite is a guess. At last
    /// replay windows are asked for, which lie behind a pointer in the SA.
    #[inline]
    fn find_sas(&self, opening: &mut OpenQueue) {
        let table = &self.tables.inbound;
        let mut last: Option<(Spi, Option<SlotIndex>)> = None;
        let mut suite = None;
        for work in opening.iter_mut() {
            match last {
                Some((spi, slot)) if spi == work.spi => work.slot = slot,
                _ => {
                    work.slot = table.place(work.spi);
                    if last.is_some()
                        && let Some(slot) = work.slot.and_then(|slot| table.at(slot))
                    {
                        let suite = *suite.get_or_insert_with(|| slot.sa.params.suite);
                        slot.sa.prefetch();
                        self.crypto.prefetch(&slot.sa.key, suite, work.packet.len());
                    }
                    last = Some((work.spi, work.slot));
                }
            }
        }
        if suite.is_some() {
            for run in opening.chunk_by(|a, b| a.slot == b.slot) {
                let slot = run.first().and_then(|work| table.at(work.slot?));
                if let Some(window) = slot.and_then(|slot| slot.sa.replay.as_ref()) {
                    window.prefetch();
                }
            }
        }
    }

    /// What is checked before a run of packets of one SA is decrypted: protocol, length, and the replay window for the
    /// first time.
    #[inline]
    fn examine(&mut self, run: &mut [Opening], verdicts: &mut [Result<(), DropReason>]) {
        let moves = self.tables.moves;
        let Some(slot) = run.first().and_then(|work| self.tables.inbound.at(work.slot?)) else {
            return verdicts.fill(Err(DropReason::SpiUnknown));
        };
        let sa = &*slot.sa;
        let window = sa.replay.as_ref().map(|window| window.look());
        for (work, verdict) in run.iter_mut().zip(verdicts) {
            let protected = work.packet.data().get(usize::from(work.at)..).unwrap_or_default();
            let checked = if sa.params.protocol != work.protocol {
                Err(DropReason::SaMismatch)
            } else {
                match work.protocol {
                    Protocol::Esp => esp::inbound::check_len(sa.params.suite, protected.len()),
                    Protocol::Ah => ah::check_len(&sa.key, protected, work.version),
                }
            };
            let low = work.seq as u32;
            let inferred =
                checked.and_then(|()| window.as_ref().map_or(Ok(work.seq), |look| look.infer(low)));
            match inferred {
                Ok(seq) => work.seq = seq,
                Err(reason) => *verdict = Err(reason),
            }
            let whence = Whence::read(work.packet.data(), work.ip_len.into(), work.at.into());
            work.elsewhere = (whence, moves) != slot.heard;
        }
    }

    /// Runs the engine over those packets of the burst that passed so far.
    #[inline]
    fn open_burst(&self, opening: &mut OpenQueue, verdicts: &mut Verdicts) {
        let mut jobs = ArrayVec::<Job<'_>, BURST>::new();
        let mut places = ArrayVec::<u8, BURST>::new();
        let mut place = 0;
        for run in opening.chunk_by_mut(|a, b| a.slot == b.slot) {
            let first = place;
            place += run.len();
            let Some(slot) = run.first().and_then(|work| self.tables.inbound.at(work.slot?)) else {
                continue;
            };
            let (key, protocol) = (&slot.sa.key, slot.sa.params.protocol);
            for (work, place) in run.iter_mut().zip(first..) {
                let Some(verdict @ Ok(())) = verdicts.get_mut(place) else { continue };
                *verdict = Err(DropReason::IcvBad);
                match protocol {
                    Protocol::Esp => {
                        let Some(packet) = work.packet.data_mut().get_mut(usize::from(work.at)..) else {
                            continue;
                        };
                        jobs.push(Job { key, packet, seq: work.seq, ok: false });
                        places.push(place as u8);
                    }
                    Protocol::Ah => {
                        if ah::verify(&self.crypto, key, &mut work.packet, work.at.into(), work.seq) {
                            *verdict = Ok(());
                        }
                    }
                }
            }
        }
        self.crypto.open(&mut jobs);
        for (job, &place) in jobs.iter().zip(&places) {
            if job.ok {
                verdicts[usize::from(place)] = Ok(());
            }
        }
    }

    /// A fragment out of an SA whose selectors name ports: all of its packet is checked (RFC 4301 s7.4).
    #[cold]
    fn opened_fragment(
        &mut self,
        packet: Packet,
        index: SlotIndex,
        info: &IpInfo,
        sealing: &mut SealQueue,
        now: u64,
    ) {
        let Some(slot) = self.tables.inbound.at(index) else { return };
        let origin = Origin::Tunnel(slot.sa.params.tunnel);
        let Some(whole) = self.collect_fragment(packet, info, origin, now) else { return };
        let Some(slot) = self.tables.inbound.at_mut(index) else { return };
        match ip::parse(whole.data()) {
            Ok(mut info) if selected(&slot.sa, &info) => {
                // We put it together, so it may be taken apart again, over IPv6 too.
                info.dont_fragment &= info.version == Version::V4;
                self.deliver(whole, &info, origin, now, sealing);
            }
            checked => {
                let reason = checked.err().unwrap_or(DropReason::SelectorMismatch);
                slot.counters.dropped(reason);
                self.drop_packet(whole, reason);
            }
        }
    }

    /// A packet came from another address or port than the SA's last one: tell the control side when it is not where
    /// our packets to the peer go, once. It may not keep up with an attacker on the path who sends genuine packets on
    /// from ever new addresses, so there is a limit, and what it does not take is told with the next packet. A packet
    /// that was overtaken says nothing about where the peer is now.
    #[cold]
    fn heard_elsewhere(&mut self, work: &Opening, now: u64) {
        let Some(slot) = work.slot.and_then(|slot| self.tables.inbound.at(slot)) else { return };
        let sa = &*slot.sa;
        if sa.replay.as_ref().is_some_and(|window| window.high_water() > work.seq) {
            return;
        }
        // The outer headers are still there, in front of what was opened.
        let from = Whence::read(work.packet.data(), work.ip_len.into(), work.at.into());
        let (tunnel, spi) = (sa.params.tunnel, sa.spi);
        let known = self.tables.tunnel(tunnel).map_or(sa.endpoints, |slot| slot.endpoints);
        let endpoints = from.into();
        if endpoints != known && !self.hint_limited(Event::PeerMoved { tunnel, spi, endpoints }, now) {
            return;
        }
        let moves = self.tables.moves;
        if let Some(slot) = work.slot.and_then(|slot| self.tables.inbound.at_mut(slot)) {
            slot.heard = (from, moves);
        }
    }

    /// A run of packets of one SA after the engine: replay window for good, and from the outer to the inner packets.
    #[inline]
    fn claim_and_unwrap(&mut self, run: &mut [Opening], verdicts: &mut [Result<(), DropReason>], now: u64) {
        let Some(index) = run.first().and_then(|work| work.slot) else { return };
        if let Some(slot) = self.tables.inbound.at(index) {
            claim(slot, run, verdicts);
        }
        // The address counts from here on, whatever is inside (RFC 7296 s2.23: any authenticated packet).
        for (work, verdict) in run.iter().zip(&*verdicts) {
            if work.elsewhere && verdict.is_ok() {
                self.heard_elsewhere(work, now);
            }
        }
        let Some(slot) = self.tables.inbound.at(index) else { return };
        for (work, verdict) in run.iter_mut().zip(verdicts) {
            if verdict.is_ok() {
                *verdict = unwrap(&slot.sa, work);
            }
        }
    }

    /// One packet after all that: what is good goes on its way, the rest is counted on its SA.
    #[inline]
    fn opened(&mut self, work: Opening, verdict: Result<(), DropReason>, sealing: &mut SealQueue, now: u64) {
        let Opening { mut packet, slot: index, tos: outer_tos, at, ip_len, .. } = work;
        let slot = index.and_then(|index| Some((index, self.tables.inbound.at_mut(index)?)));
        let (index, slot) = match (slot, verdict) {
            (Some(found), Ok(())) => found,
            (slot, verdict) => {
                let reason = verdict.err().unwrap_or(DropReason::SpiUnknown);
                if let Some((_, slot)) = slot {
                    slot.counters.dropped(reason);
                }
                return self.drop_packet(packet, reason);
            }
        };
        // RFC 3948 s3.1.2: a NAT changed the addresses under the checksum. UDP lies between IP and ESP.
        if slot.sa.params.mode == Mode::Transport && at != ip_len {
            renew_checksum(&mut packet);
        }
        // By reference from here on: a copy costs more than the parse.
        let parsed = ip::parse(packet.data());
        let checked = match &parsed {
            Ok(info) => check_inner(slot, &mut packet, info, outer_tos, now, &mut self.unsent).map(|()| info),
            Err(reason) => Err(*reason),
        };
        match checked {
            Ok(info) => {
                let tunnel = slot.sa.params.tunnel;
                slot.counters.carried(packet.len());
                packet.from_sa = true;
                if info.fragment.is_some() && slot.sa.selectors.restrict_ports() {
                    return self.opened_fragment(packet, index, info, sealing, now);
                }
                self.deliver(packet, info, Origin::Tunnel(tunnel), now, sealing);
            }
            Err(reason) => {
                slot.counters.dropped(reason);
                self.drop_packet(packet, reason);
            }
        }
    }
}

/// Packets of one SA that follow each other, each run with its verdicts.
#[inline]
fn runs<'a>(
    opening: &'a mut [Opening],
    verdicts: &'a mut Verdicts,
) -> impl Iterator<Item = (&'a mut [Opening], &'a mut [Result<(), DropReason>])> {
    let mut rest = &mut verdicts[..];
    opening.chunk_by_mut(|a, b| a.slot == b.slot).map(move |run| {
        let (mine, others) = std::mem::take(&mut rest).split_at_mut(run.len());
        rest = others;
        (run, mine)
    })
}

/// SPI and sequence number in front of a protected packet.
#[inline]
fn spi_and_sequence(protected: &[u8], protocol: Protocol) -> Result<(Spi, u32), DropReason> {
    match protocol {
        Protocol::Esp => {
            let header = esp_header::Header::parse(protected)?;
            Ok((header.spi, header.sequence))
        }
        Protocol::Ah => {
            let (header, _) = ah_header::Header::parse(protected)?;
            Ok((header.spi, header.sequence))
        }
    }
}

/// Claims the sequence numbers of those packets of a run whose ICV was good (RFC 4303 s3.4.3).
#[inline]
fn claim(slot: &InboundSlot, run: &[Opening], verdicts: &mut [Result<(), DropReason>]) {
    let Some(window) = &slot.sa.replay else { return };
    let mut numbers = ArrayVec::<u64, BURST>::new();
    let mut places = ArrayVec::<u8, BURST>::new();
    for (place, (work, verdict)) in run.iter().zip(&*verdicts).enumerate() {
        if verdict.is_ok() {
            numbers.push(work.seq);
            places.push(place as u8);
        }
    }
    window.accept_run(&numbers, |index, verdict| {
        if let Some(place) = places.get(index)
            && let Some(entry) = verdicts.get_mut(usize::from(*place))
        {
            *entry = verdict;
        }
    });
}

#[inline]
fn selected(sa: &InboundSa, info: &IpInfo) -> bool {
    sa.selectors.admit(info.source, info.destination, info.protocol, info.ports)
}

/// From the outer to the inner packet, for a packet whose ICV was good and whose number is new.
#[inline]
fn unwrap(sa: &InboundSa, work: &mut Opening) -> Result<(), DropReason> {
    let (packet, mode) = (&mut work.packet, sa.params.mode);
    match sa.params.protocol {
        Protocol::Esp => {
            esp::inbound::unwrap(packet, sa.params.suite, mode, work.ip_len.into(), work.at.into())
        }
        Protocol::Ah => ah::unwrap(packet, mode, work.at.into()),
    }
}

/// Computes the checksum of the upper layer anew.
#[cold]
fn renew_checksum(packet: &mut Packet) {
    if let Ok(info) = ip::parse(packet.data()) {
        ip::renew_checksum(packet.data_mut(), &info);
    }
}

/// What an inner packet must pass: selectors, ECN, lifetime. Cuts off what is behind it.
#[inline]
fn check_inner(
    slot: &mut InboundSlot,
    packet: &mut Packet,
    info: &IpInfo,
    outer_tos: u8,
    now: u64,
    events: &mut VecDeque<Event>,
) -> Result<(), DropReason> {
    let sa = &*slot.sa;
    packet.truncate(usize::from(info.total_len));
    let later = info.fragment.is_some() && sa.selectors.restrict_ports();
    if !later && !selected(sa, info) {
        return Err(DropReason::SelectorMismatch);
    }
    if sa.params.mode == Mode::Tunnel && sa.params.ecn {
        let tos = ecn::decapsulate(info.tos, outer_tos)?;
        if tos != info.tos {
            ip::set_tos(packet.data_mut(), tos)?;
        }
    }
    let charge = sa.usage.charge(&mut slot.lease, packet.len() as u64, now);
    if let Some(reached) = charge.reached {
        events.push_back(Event::expired(&sa.params, sa.spi, Direction::Inbound, reached));
    }
    if charge.allowed { Ok(()) } else { Err(DropReason::SaExpired) }
}
