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
use crate::packet::{ah as ah_header, ecn, esp as esp_header};
use crate::policy::any_matches_inbound;
use crate::sa::spi_table::SlotIndex;
use crate::sa::{Endpoints, InboundSa, Mode, Protocol, UdpPorts};
use crate::worker::Worker;
use crate::worker::outbound::SealQueue;
use crate::worker::tables::InboundSlot;
use crate::worker::transit::Origin;

/// Packets that wait to be opened.
pub(super) type OpenQueue = ArrayVec<Opening, BURST>;

/// A packet that waits to be opened. It starts at its outer IP header.
pub(super) struct Opening {
    packet: Packet,
    seq: u64,
    slot: SlotIndex,
    /// Offset of the ESP or AH header within the outer packet.
    at: u16,
    /// Length of the outer IP header with its extensions.
    ip_len: u16,
    /// TOS or traffic class of the outer header.
    tos: u8,
    /// It does not come from where the SA's last packets came from.
    elsewhere: bool,
}

impl Worker {
    /// Takes an ESP or AH packet to us, its protected header at `at`: finds its SA and queues it to be opened. `udp`
    /// are source and destination port when it came encapsulated.
    #[inline]
    pub(super) fn accept_protected(
        &mut self,
        packet: Packet,
        protocol: Protocol,
        outer: &IpInfo,
        at: usize,
        udp: Option<(u16, u16)>,
        opening: &mut OpenQueue,
    ) {
        match self.look_up(&packet, protocol, outer.version, at) {
            Ok((slot, seq, heard)) => opening.push(Opening {
                packet,
                seq,
                slot,
                at: at as u16,
                ip_len: outer.header_len,
                tos: outer.tos,
                elsewhere: (came_from(outer, udp), self.tables.moves) != heard,
            }),
            Err(reason) => self.drop_packet(packet, reason),
        }
    }

    /// The SA of a packet, its sequence number, and where the SA's packets came from lately.
    #[inline]
    fn look_up(
        &mut self,
        packet: &Packet,
        protocol: Protocol,
        version: Version,
        at: usize,
    ) -> Result<(SlotIndex, u64, (Endpoints, u32)), DropReason> {
        let protected = packet.data().get(at..).unwrap_or_default();
        let (spi, seq_low) = match protocol {
            Protocol::Esp => {
                let header = esp_header::Header::parse(protected)?;
                (header.spi, header.sequence)
            }
            Protocol::Ah => {
                let (header, _) = ah_header::Header::parse(protected)?;
                (header.spi, header.sequence)
            }
        };
        let (index, slot) = self.tables.inbound.get_mut(spi).ok_or(DropReason::SpiUnknown)?;
        let sa = &*slot.sa;
        let checked = if sa.params.protocol != protocol {
            Err(DropReason::SaMismatch)
        } else {
            match protocol {
                Protocol::Esp => esp::inbound::check_len(&sa.key, protected.len()),
                Protocol::Ah => ah::check_len(&sa.key, protected, version),
            }
            .and_then(|()| match &sa.replay {
                Some(window) => window.infer(seq_low),
                None => Ok(u64::from(seq_low)),
            })
        };
        match checked {
            Ok(seq) => Ok((index, seq, slot.heard)),
            Err(reason) => {
                slot.counters.dropped(reason);
                Err(reason)
            }
        }
    }

    /// Opens what is queued, and passes on what is good.
    pub(super) fn open(&mut self, opening: &mut OpenQueue, sealing: &mut SealQueue, now: u64) {
        if opening.is_empty() {
            return;
        }
        let mut verdicts = self.open_burst(opening);
        let mut rest = &mut verdicts[..];
        for run in opening.chunk_by(|a, b| a.slot == b.slot) {
            let (mine, others) = rest.split_at_mut(run.len());
            rest = others;
            if let Some(slot) = run.first().and_then(|work| self.tables.inbound.at(work.slot)) {
                claim(slot, run, mine);
            }
        }
        for (work, verdict) in opening.drain(..).zip(verdicts) {
            self.opened(work, verdict, sealing, now);
        }
    }

    /// Runs the engine over the burst. A packet whose ICV is good gets `Ok`.
    #[inline]
    fn open_burst(&self, opening: &mut OpenQueue) -> [Result<(), DropReason>; BURST] {
        let mut verdicts = [Err(DropReason::IcvBad); BURST];
        let mut jobs = ArrayVec::<Job<'_>, BURST>::new();
        let mut places = ArrayVec::<u8, BURST>::new();
        for (place, work) in opening.iter_mut().enumerate() {
            let Some(slot) = self.tables.inbound.at(work.slot) else { continue };
            let key = &slot.sa.key;
            match slot.sa.params.protocol {
                Protocol::Esp => {
                    let Some(packet) = work.packet.data_mut().get_mut(usize::from(work.at)..) else {
                        continue;
                    };
                    jobs.push(Job { key, packet, seq: work.seq, ok: false });
                    places.push(place as u8);
                }
                Protocol::Ah => {
                    if ah::verify(&self.crypto, key, &mut work.packet, work.at.into(), work.seq) {
                        verdicts[place] = Ok(());
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
        verdicts
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
        let Some(slot) = self.tables.inbound.at(work.slot) else { return };
        // The outer headers are still there, in front of what was opened.
        let Ok(outer) = ip::parse(work.packet.data()) else { return };
        let sa = &*slot.sa;
        if sa.replay.as_ref().is_some_and(|window| window.high_water() > work.seq) {
            return;
        }
        let udp = if outer.protocol == ip::protocol::UDP { outer.ports } else { None };
        let (from, tunnel, spi) = (came_from(&outer, udp), sa.params.tunnel, sa.spi);
        let known = self.tables.tunnel(tunnel).map_or(sa.endpoints, |slot| slot.endpoints);
        if from != known && !self.hint_limited(Event::PeerMoved { tunnel, spi, endpoints: from }, now) {
            return;
        }
        let moves = self.tables.moves;
        if let Some(slot) = self.tables.inbound.at_mut(work.slot) {
            slot.heard = (from, moves);
        }
    }

    /// One packet after the engine and the replay window: what is good goes on its way, the rest is counted on its
    /// SA.
    #[inline]
    fn opened(
        &mut self,
        mut work: Opening,
        verdict: Result<(), DropReason>,
        sealing: &mut SealQueue,
        now: u64,
    ) {
        // The address counts from here on, whatever is inside (RFC 7296 s2.23: any authenticated packet).
        if work.elsewhere && verdict.is_ok() {
            self.heard_elsewhere(&work, now);
        }
        let Some(slot) = self.tables.inbound.at_mut(work.slot) else { return };
        if let Err(reason) = verdict.and_then(|()| unwrap(&slot.sa, &mut work)) {
            slot.counters.dropped(reason);
            return self.drop_packet(work.packet, reason);
        }
        let Opening { mut packet, slot: index, tos: outer_tos, at, ip_len, .. } = work;
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
                if info.fragment.is_some() && restricts_ports(&slot.sa) {
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
    any_matches_inbound(&sa.selectors, info.source, info.destination, info.protocol, info.ports)
}

/// Whether a packet must show its ports to match (RFC 4301 s7).
fn restricts_ports(sa: &InboundSa) -> bool {
    const ALL: std::ops::RangeInclusive<u16> = 0..=u16::MAX;
    sa.selectors.iter().any(|selector| selector.local_ports != ALL || selector.remote_ports != ALL)
}

/// From the outer to the inner packet, for a packet whose ICV was good and whose number is new.
#[inline]
fn unwrap(sa: &InboundSa, work: &mut Opening) -> Result<(), DropReason> {
    let (packet, mode) = (&mut work.packet, sa.params.mode);
    match sa.params.protocol {
        Protocol::Esp => esp::inbound::unwrap(packet, &sa.key, mode, work.ip_len.into(), work.at.into()),
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
    let later = info.fragment.is_some() && restricts_ports(sa);
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

/// Where a packet came from, with our own side as it was addressed.
#[inline]
fn came_from(outer: &IpInfo, udp: Option<(u16, u16)>) -> Endpoints {
    Endpoints {
        local: outer.destination,
        remote: outer.source,
        udp: udp.map(|(remote, local)| UdpPorts { local, remote }),
    }
}
