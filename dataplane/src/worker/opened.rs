//! What came out of inbound SAs: from the outer to the inner packet, selectors, ECN and lifetime (RFC 4301 s5.2 steps 3 and
//! 4), and on its way. Usual packets are checked a run at a time and go in the clear as was decided before; all others go
//! the long way, which says what becomes of them.

use std::collections::VecDeque;

use crate::ah;
use crate::buffer::Packet;
use crate::drops::DropReason;
use crate::esp;
use crate::esp::inbound::Layout;
use crate::message::{Direction, Event};
use crate::packet::ip::{self, IpInfo, Version};
use crate::packet::{ecn, ipv4};
use crate::sa::spi_table::SlotIndex;
use crate::sa::{InboundSa, Mode, Protocol, SaParams};
use crate::worker::Worker;
use crate::worker::inbound::{OpenQueue, Opening, Verdict, Verdicts};
use crate::worker::next_hops::LastWay;
use crate::worker::outbound::SealQueue;
use crate::worker::slots::{Heard, InboundSlot};
use crate::worker::transit::Origin;
use crate::worker::usual::Usual;
use crate::worker::whence::Whence;

impl Worker {
    /// From the outer to the inner packets of a run of one SA, whose ICVs were good and whose numbers are new. Those that are
    /// usual pass all checks here.
    #[inline(never)]
    pub(super) fn unwrap_run(&mut self, run: &mut [Opening], verdicts: &mut [Verdict], now: u64) {
        // The address counts from here on, whatever is inside (RFC 7296 s2.23: any authenticated packet).
        for (work, verdict) in run.iter().zip(&*verdicts) {
            if work.elsewhere && verdict.is_ok() {
                self.heard_elsewhere(work, now);
            }
        }
        let epoch = self.epoch();
        let Some(index) = run.first().and_then(|work| work.slot) else { return };
        let Some(slot) = self.tables.inbound.at_mut(index) else { return };
        let Some(usual) = slot.usual else {
            for (work, verdict) in run.iter_mut().zip(verdicts).filter(|(_, verdict)| verdict.is_ok()) {
                *verdict = unwrap(&slot.sa.params, work);
            }
            return;
        };
        let mut lease = slot.lease;
        for (work, verdict) in run.iter_mut().zip(verdicts) {
            if verdict.is_err() {
                continue;
            }
            let (ip_len, at) = (work.ip_len.into(), work.at.into());
            *verdict = esp::inbound::unwrap(&mut work.packet, usual.layout, Mode::Tunnel, ip_len, at);
            if verdict.is_ok()
                && let Some(inner) = Usual::of_packet(work.packet.data())
                && usual.selector.admits(inner.source, inner.destination, inner.protocol)
                && (!usual.ecn || ecn::decapsulate(inner.tos, work.tos) == Ok(inner.tos))
                && self.decisions.goes_clear(&inner, epoch)
                && lease.charge(inner.total_len.into(), now)
            {
                work.packet.truncate(inner.total_len.into());
                if let Some(header) = work.packet.data_mut().first_chunk_mut() {
                    // Its TTL was looked at.
                    let _still_alive = ipv4::decrement_ttl(header);
                }
                work.clear_to = Some(inner.destination);
            }
        }
        let (packets, bytes) = lease.charged_since(&slot.lease);
        slot.counters.carried(packets, bytes);
        slot.lease = lease;
    }

    /// Sends on what was opened, and counts what was not.
    #[inline(never)]
    pub(super) fn deliver_opened(
        &mut self,
        opening: &mut OpenQueue,
        verdicts: &Verdicts,
        sealing: &mut SealQueue,
        now: u64,
    ) {
        let mut last = LastWay::default();
        for (work, verdict) in opening.drain(..).zip(verdicts) {
            match work.clear_to {
                Some(destination) => match self.usual_egress(destination, work.packet.len(), &mut last) {
                    Some(egress) => self.emit(work.packet, egress),
                    None => self.route_opened(work, now),
                },
                None => self.opened(work, *verdict, sealing, now),
            }
        }
    }

    /// A packet that passed all checks, whose next hop is not remembered or which is too long for it.
    #[cold]
    fn route_opened(&mut self, work: Opening, now: u64) {
        let Opening { mut packet, slot, .. } = work;
        let Some(slot) = slot.and_then(|slot| self.tables.inbound.at(slot)) else { return };
        let origin = Origin::Tunnel(slot.sa.params.tunnel);
        packet.set_from_sa(true);
        match &ip::parse(packet.data()) {
            Ok(info) => self.route(packet, info, origin, now),
            Err(reason) => self.drop_packet(packet, *reason),
        }
    }

    /// One packet in full: what is good goes on its way, the rest is counted on its SA.
    #[inline(never)]
    fn opened(&mut self, work: Opening, verdict: Verdict, sealing: &mut SealQueue, now: u64) {
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
                slot.counters.carried(1, packet.len() as u64);
                packet.set_from_sa(true);
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
            slot.heard = Heard { moves, from };
        }
    }
}

#[inline]
fn selected(sa: &InboundSa, info: &IpInfo) -> bool {
    sa.selectors.admit(info.source, info.destination, info.protocol, info.ports)
}

/// From the outer to the inner packet, for a packet whose ICV was good and whose number is new.
#[inline]
fn unwrap(params: &SaParams, work: &mut Opening) -> Verdict {
    let (packet, mode) = (&mut work.packet, params.mode);
    match params.protocol {
        Protocol::Esp => {
            let layout = Layout::of(params.suite);
            esp::inbound::unwrap(packet, layout, mode, work.ip_len.into(), work.at.into())
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
