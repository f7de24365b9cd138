//! Which packets an outbound SA takes, before their sequence numbers: whether there is an SA and a route, its lifetime, and
//! what the path carries (RFC 4301 s8, RFC 8200 s5): as they are, in pieces, or not.

use std::collections::VecDeque;
use std::mem;

use arrayvec::ArrayVec;

use crate::ah;
use crate::buffer::{BURST, Packet};
use crate::drops::DropReason;
use crate::esp::outbound as esp;
use crate::host::icmp::Error;
use crate::message::Event;
use crate::packet::ip::{self, Version};
use crate::packet::ipv6::MIN_MTU;
use crate::packet::tcp;
use crate::sa::{DfPolicy, Fragmentation, Mode, MssClamp, Protocol, TunnelId};
use crate::worker::Worker;
use crate::worker::next_hops::{Hop, LastWay};
use crate::worker::outbound::{Inner, Run, SealQueue, Sealing};
use crate::worker::slots::OutboundSlot;
use crate::worker::transit::Origin;

/// TCP and IP headers without options, which the MSS leaves out (RFC 9293 s3.7.1).
const fn tcp_headers(version: Version) -> usize {
    match version {
        Version::V4 => 40,
        Version::V6 => 60,
    }
}

/// Neighbours of one tunnel in a queue that were looked at alike. Those that were let pass are charged to the SA and
/// counted on it.
#[derive(Clone, Copy)]
pub(super) struct Admitted {
    pub(super) tunnel: TunnelId,
    pub(super) len: u8,
    /// What the path carries, outer headers included.
    pub(super) mtu: u32,
    pub(super) kind: Kind,
    /// `None` when none of them passed.
    pub(super) hop: Option<Hop>,
}

/// What is known of packets that were looked at.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// All are there, fit, and go the short way ([`OutboundSlot::usual`]).
    Usual,
    /// All are there and fit.
    Fits,
    /// Some may be gone, others longer than the path carries.
    Any,
}

/// Pieces of packets that were fragmented.
#[derive(Default)]
pub(super) struct Pieces {
    pub(super) works: ArrayVec<Sealing, BURST>,
    pub(super) runs: ArrayVec<Admitted, BURST>,
}

impl Worker {
    /// Checks what does not depend on the sequence number: SA, route, lifetime, size. `admitted` gets what comes of all packets
    /// of the queue, in order.
    #[inline]
    pub(super) fn admit_all(
        &mut self,
        queue: &mut SealQueue,
        now: u64,
        last: &mut LastWay,
        admitted: &mut ArrayVec<Admitted, BURST>,
        pieces: &mut Pieces,
    ) {
        let mut rest = &mut queue.works[..];
        for &Run { tunnel, len } in &queue.runs {
            let Some((works, behind)) = mem::take(&mut rest).split_at_mut_checked(len.into()) else { break };
            rest = behind;
            self.admit_run(tunnel, works, now, last, admitted, pieces);
        }
    }

    #[inline]
    fn admit_run(
        &mut self,
        tunnel: TunnelId,
        works: &mut [Sealing],
        now: u64,
        last: &mut LastWay,
        admitted: &mut ArrayVec<Admitted, BURST>,
        pieces: &mut Pieces,
    ) {
        let Some(exit) = self.tunnel_exit(tunnel, last) else {
            works.iter_mut().for_each(|work| self.refuse(work, now));
            return admitted.push(Admitted {
                tunnel,
                len: works.len() as u8,
                mtu: 0,
                kind: Kind::Any,
                hop: None,
            });
        };
        let mut rest = works;
        while !rest.is_empty() {
            let Some(slot) = self.tables.outbound.get_mut(tunnel.0) else { return };
            let mtu = slot.sa.path_mtu.get(exit.mtu, now);
            let kind = if slot.usual.is_some() { Kind::Usual } else { Kind::Fits };
            let hop = Some(exit.hop);
            let alike = slot.admit_alike(rest, mtu, now);
            if alike > 0 {
                admitted.push(Admitted { tunnel, len: alike as u8, mtu, kind, hop });
            }
            let Some((work, behind)) = rest.get_mut(alike..).and_then(<[_]>::split_first_mut) else { return };
            rest = behind;
            let any = Admitted { tunnel, len: 1, mtu, kind: Kind::Any, hop };
            self.admit(work, any, now, pieces);
            admitted.push(any);
        }
    }

    /// As [`Worker::admit_run`] for a packet that needs a closer look.
    #[inline(never)]
    fn admit(&mut self, work: &mut Sealing, alone: Admitted, now: u64, pieces: &mut Pieces) {
        let Some(slot) = self.tables.outbound.get_mut(work.tunnel.0) else { return };
        let Some(packet) = &mut work.packet else { return };
        let capacity = slot.capacity(alone.mtu as usize, &work.inner);
        if let Some(clamp) = slot.sa.options.mss_clamp {
            clamp_mss(clamp, capacity, packet, &work.inner);
        }
        let restricts_ports = self.tables.spd.restricts_ports();
        match slot.fit(packet, &work.inner, work.origin, capacity, restricts_ports) {
            // Only what is sent is charged.
            Fit::Whole => {
                work.inner_len = packet.len() as u16;
                if !slot.admit(packet.len(), now, &mut self.unsent) {
                    self.drop_on_sa(work, DropReason::SaExpired);
                }
            }
            Fit::Pieces => self.admit_pieces(work, alone, capacity, now, pieces),
            Fit::TooBig => self.too_big(work, capacity, now),
            Fit::Never(reason) => self.drop_on_sa(work, reason),
        }
    }

    /// Fragments the inner packet, so that each piece fits (RFC 4301 s8.1 leaves the choice to us).
    #[cold]
    fn admit_pieces(
        &mut self,
        work: &mut Sealing,
        alone: Admitted,
        capacity: usize,
        now: u64,
        pieces: &mut Pieces,
    ) {
        let Some(packet) = work.packet.take() else { return };
        let (tunnel, origin) = (work.tunnel, work.origin);
        let own = work.inner.marks.version == Version::V6;
        let made = self.fragment(packet, capacity, own, |worker, packet| match ip::parse(packet.data()) {
            Ok(info) => {
                let Some(slot) = worker.tables.tunnel_mut(tunnel) else { return };
                let len = packet.len();
                if !slot.admit(len, now, &mut worker.unsent) {
                    return worker.count_on_sa(tunnel, DropReason::SaExpired);
                }
                if pieces.works.is_full() {
                    worker.send_pieces(pieces, now, &mut LastWay::default());
                }
                let inner = Inner::of(&packet, 0, &info);
                let mut piece = Sealing::new(packet, tunnel, origin, inner);
                piece.inner_len = len as u16;
                pieces.works.push(piece);
                pieces.runs.push(alone);
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
    /// Admits packets from the front for as long as they need no closer look: tunnel mode, no longer than what fits, within
    /// the lease of lifetime. Returns how many.
    #[inline]
    fn admit_alike(&mut self, works: &mut [Sealing], mtu: u32, now: u64) -> usize {
        let capacity = match &self.usual {
            Some(usual) => usual.capacity(mtu as usize),
            None if self.sa.params.mode == Mode::Tunnel && self.sa.options.mss_clamp.is_none() => {
                self.tunnel_capacity(mtu as usize)
            }
            None => return 0,
        };
        let mut lease = self.lease;
        let other = works.iter_mut().position(|work| {
            let len = work.packet.as_ref().map_or(usize::MAX, Packet::len);
            if len > capacity || !lease.charge(len as u64, now) {
                return true;
            }
            work.inner_len = len as u16;
            false
        });
        let (packets, bytes) = lease.charged_since(&self.lease);
        self.counters.carried(packets, bytes);
        self.lease = lease;
        other.unwrap_or(works.len())
    }

    /// Charges a packet to the SA and counts it; false when the SA is at its end.
    fn admit(&mut self, bytes: usize, now: u64, events: &mut VecDeque<Event>) -> bool {
        let admits = self.charge(bytes, now, events);
        if admits {
            self.counters.carried(1, bytes as u64);
        }
        admits
    }

    /// The longest IP packet that fits into `mtu` bytes once it is wrapped in tunnel mode.
    #[inline(never)]
    fn tunnel_capacity(&self, mtu: usize) -> usize {
        let sa = &*self.sa;
        match sa.params.protocol {
            Protocol::Esp => esp::tunnel_capacity(sa.params.suite, &self.outer, mtu),
            Protocol::Ah => mtu.saturating_sub(ah::tunnel_len(&sa.key, &self.outer, 0)),
        }
    }

    /// The longest IP packet like this one that fits into `mtu` bytes once it is wrapped.
    #[inline]
    fn capacity(&self, mtu: usize, inner: &Inner) -> usize {
        let params = &self.sa.params;
        match (params.protocol, params.mode) {
            (_, Mode::Tunnel) => self.tunnel_capacity(mtu),
            (Protocol::Esp, Mode::Transport) => {
                esp::transport_capacity(params.suite, &self.outer, mtu, inner.header_len.into())
            }
            (Protocol::Ah, Mode::Transport) => {
                mtu.saturating_sub(ah::header_len(&self.sa.key, inner.marks.version))
            }
        }
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
        let least = if inner.marks.version == Version::V6 { MIN_MTU } else { 0 };
        // Pieces that hide their ports may not match an SA that names some (RFC 4301 s7.2). But an IPv6 packet that
        // was put together here must stay in pieces, or no link behind the peer would carry it.
        let hides_ports = restricts_ports && inner.marks.version == Version::V4;
        let after = (hides_ports || options.fragmentation == Fragmentation::After)
            && (options.df == DfPolicy::Clear || !inner.marks.dont_fragment);
        let own = transport && origin == Origin::Local;
        if packet.len() <= capacity.max(least) || after || own {
            Fit::Whole
        } else if inner.marks.dont_fragment || transport {
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
}

/// Lowers the MSS of a TCP SYN to what fits.
#[inline]
fn clamp_mss(clamp: MssClamp, capacity: usize, packet: &mut Packet, inner: &Inner) {
    if inner.protocol != ip::protocol::TCP || !tcp::is_syn(packet.data(), inner.header_len.into()) {
        return;
    }
    let mss = match clamp {
        // IPv6 packets up to 1280 bytes always pass, in fragments if need be.
        MssClamp::PathMtu if inner.marks.version == Version::V6 => {
            capacity.max(MIN_MTU) - tcp_headers(Version::V6)
        }
        MssClamp::PathMtu => capacity.saturating_sub(tcp_headers(Version::V4)),
        MssClamp::Fixed(mss) => mss.into(),
    };
    if let Ok(info) = ip::parse(packet.data()) {
        ip::clamp_mss(packet.data_mut(), &info, u16::try_from(mss).unwrap_or(u16::MAX));
    }
}
