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
use crate::packet::{self, ecn};
use crate::policy::any_matches_inbound;
use crate::sa::spi_table::SlotIndex;
use crate::sa::{Endpoints, InboundSa, Mode, Protocol, TunnelId, UdpPorts};
use crate::worker::Worker;
use crate::worker::outbound::Sealing;
use crate::worker::tables::InboundSlot;
use crate::worker::transit::Origin;

/// A packet that waits to be opened.
pub(super) struct Opening {
    packet: Packet,
    slot: SlotIndex,
    seq: u64,
    /// Offset of the ESP or AH header within the outer packet.
    at: u16,
    outer: IpInfo,
    /// UDP ports, source and destination, when it came encapsulated.
    udp: Option<(u16, u16)>,
}

impl Worker {
    /// Takes an ESP or AH packet to us, its protected header at `at`: finds its SA and queues it to be opened.
    pub(super) fn accept_protected(
        &mut self,
        packet: Packet,
        protocol: Protocol,
        outer: IpInfo,
        at: usize,
        udp: Option<(u16, u16)>,
        opening: &mut ArrayVec<Opening, BURST>,
    ) {
        match self.look_up(&packet, protocol, outer.version, at) {
            Ok((slot, seq)) => opening.push(Opening { packet, slot, seq, at: at as u16, outer, udp }),
            Err(reason) => self.drop_packet(packet, reason),
        }
    }

    fn look_up(
        &mut self,
        packet: &Packet,
        protocol: Protocol,
        version: Version,
        at: usize,
    ) -> Result<(SlotIndex, u64), DropReason> {
        let protected = packet.data().get(at..).unwrap_or_default();
        let (spi, seq_low) = match protocol {
            Protocol::Esp => {
                packet::esp::Header::parse(protected).map(|header| (header.spi, header.sequence))?
            }
            Protocol::Ah => {
                packet::ah::Header::parse(protected).map(|(header, _)| (header.spi, header.sequence))?
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
            Ok(seq) => Ok((index, seq)),
            Err(reason) => {
                slot.counters.dropped(reason);
                Err(reason)
            }
        }
    }

    /// Opens what is queued, and passes on what is good.
    pub(super) fn open(
        &mut self,
        opening: &mut ArrayVec<Opening, BURST>,
        sealing: &mut ArrayVec<Sealing, BURST>,
        now: u64,
    ) {
        if opening.is_empty() {
            return;
        }
        let mut good = [false; BURST];
        let mut jobs = ArrayVec::<Job<'_>, BURST>::new();
        let mut esp_jobs = ArrayVec::<usize, BURST>::new();
        for (i, work) in opening.iter_mut().enumerate() {
            let Some(slot) = self.tables.inbound.at(work.slot) else { continue };
            match slot.sa.params.protocol {
                Protocol::Esp => {
                    let Some(packet) = work.packet.data_mut().get_mut(usize::from(work.at)..) else {
                        continue;
                    };
                    jobs.push(Job { key: &slot.sa.key, packet, seq: work.seq, ok: false });
                    esp_jobs.push(i);
                }
                Protocol::Ah => {
                    let verified =
                        ah::verify(&self.crypto, &slot.sa.key, &mut work.packet, work.at.into(), work.seq);
                    if let Some(good) = good.get_mut(i) {
                        *good = verified;
                    }
                }
            }
        }
        self.crypto.open(&mut jobs);
        for (job, &i) in jobs.iter().zip(&esp_jobs) {
            if let Some(good) = good.get_mut(i) {
                *good = job.ok;
            }
        }
        drop(jobs);
        for (work, good) in opening.drain(..).zip(good) {
            self.opened(work, good, sealing, now);
        }
    }

    /// A fragment out of an SA whose selectors name ports: all of its packet is checked (RFC 4301 s7.4).
    #[cold]
    fn opened_fragment(
        &mut self,
        work: Opening,
        info: IpInfo,
        tunnel: TunnelId,
        sealing: &mut ArrayVec<Sealing, BURST>,
        now: u64,
    ) {
        let origin = Origin::Tunnel(tunnel);
        let Some((whole, mut info)) = self.reassemble(work.packet, &info, origin, now) else { return };
        let Some(slot) = self.tables.inbound.at_mut(work.slot) else { return };
        if !selected(&slot.sa, &info) {
            slot.counters.dropped(DropReason::SelectorMismatch);
            return self.drop_packet(whole, DropReason::SelectorMismatch);
        }
        // We put it together, so it may be taken apart again, over IPv6 too.
        info.dont_fragment &= info.version == Version::V4;
        self.deliver(whole, info, origin, now, sealing);
    }

    /// A packet came from another address or port than the SA's last one: tell the control side when it is not where
    /// our packets to the peer go, once. It may not keep up with an attacker on the path who sends genuine packets on
    /// from ever new addresses, so there is a limit, and what it does not take is told with the next packet. A packet
    /// that was overtaken says nothing about where the peer is now.
    #[cold]
    fn heard_elsewhere(&mut self, work: &Opening, now: u64) {
        let Some(slot) = self.tables.inbound.at(work.slot) else { return };
        let sa = &*slot.sa;
        if sa.replay.as_ref().is_some_and(|window| window.high_water() > work.seq) {
            return;
        }
        let (from, tunnel, spi) = (work.from(), sa.params.tunnel, sa.spi);
        let known = self.tables.tunnel(tunnel).map_or(sa.endpoints, |slot| slot.endpoints);
        if from != known && !self.hint_limited(Event::PeerMoved { tunnel, spi, endpoints: from }, now) {
            return;
        }
        let moves = self.tables.moves;
        if let Some(slot) = self.tables.inbound.at_mut(work.slot) {
            slot.heard = (from, moves);
        }
    }

    /// One packet after the engine: what is good goes on its way, the rest is counted on its SA.
    fn opened(&mut self, mut work: Opening, good: bool, sealing: &mut ArrayVec<Sealing, BURST>, now: u64) {
        let moves = self.tables.moves;
        let Some(slot) = self.tables.inbound.at_mut(work.slot) else { return };
        let claimed = match &slot.sa.replay {
            _ if !good => Err(DropReason::IcvBad),
            Some(window) => window.accept(work.seq),
            None => Ok(()),
        };
        // The address counts from here on, whatever is inside (RFC 7296 s2.23: any authenticated packet).
        if claimed.is_ok() && slot.heard != (work.from(), moves) {
            self.heard_elsewhere(&work, now);
        }
        let Some(slot) = self.tables.inbound.at_mut(work.slot) else { return };
        match claimed.and_then(|()| unwrap(slot, &mut work, now, &mut self.unsent)) {
            Ok(info) => {
                let tunnel = slot.sa.params.tunnel;
                slot.counters.carried(work.packet.len());
                work.packet.from_sa = true;
                if info.fragment.is_some() && restricts_ports(&slot.sa) {
                    return self.opened_fragment(work, info, tunnel, sealing, now);
                }
                self.deliver(work.packet, info, Origin::Tunnel(tunnel), now, sealing);
            }
            Err(reason) => {
                slot.counters.dropped(reason);
                self.drop_packet(work.packet, reason);
            }
        }
    }
}

fn selected(sa: &InboundSa, info: &IpInfo) -> bool {
    any_matches_inbound(&sa.selectors, info.source, info.destination, info.protocol, info.ports)
}

/// Whether a packet must show its ports to match (RFC 4301 s7).
fn restricts_ports(sa: &InboundSa) -> bool {
    const ALL: std::ops::RangeInclusive<u16> = 0..=u16::MAX;
    sa.selectors.iter().any(|selector| selector.local_ports != ALL || selector.remote_ports != ALL)
}

/// Everything from the trailer to the inner packet, for a packet whose ICV was good and whose number is new.
#[inline]
fn unwrap(
    slot: &mut InboundSlot,
    work: &mut Opening,
    now: u64,
    events: &mut VecDeque<Event>,
) -> Result<IpInfo, DropReason> {
    let sa = &*slot.sa;
    let packet = &mut work.packet;
    match sa.params.protocol {
        Protocol::Esp => {
            let ip_len = usize::from(work.outer.header_len);
            esp::inbound::unwrap(packet, &sa.key, sa.params.mode, ip_len, work.at.into())?;
        }
        Protocol::Ah => ah::unwrap(packet, sa.params.mode, work.at.into())?,
    }
    let mut info = ip::parse(packet.data())?;
    packet.truncate(usize::from(info.total_len));
    if sa.params.mode == Mode::Transport && work.udp.is_some() {
        ip::renew_checksum(packet.data_mut(), &info);
    }
    let later = info.fragment.is_some() && restricts_ports(sa);
    if !later && !selected(sa, &info) {
        return Err(DropReason::SelectorMismatch);
    }
    if sa.params.mode == Mode::Tunnel && sa.params.ecn {
        let tos = ecn::decapsulate(info.tos, work.outer.tos)?;
        if tos != info.tos {
            ip::set_tos(packet.data_mut(), tos)?;
            info.tos = tos;
        }
    }
    let charge = sa.usage.charge(&mut slot.lease, packet.len() as u64, now);
    if let Some(reached) = charge.reached {
        events.push_back(Event::expired(&sa.params, sa.spi, Direction::Inbound, reached));
    }
    if charge.allowed { Ok(info) } else { Err(DropReason::SaExpired) }
}

impl Opening {
    /// Where the packet came from, with our own side as it was addressed.
    fn from(&self) -> Endpoints {
        Endpoints {
            local: self.outer.destination,
            remote: self.outer.source,
            udp: self.udp.map(|(remote, local)| UdpPorts { local, remote }),
        }
    }
}
