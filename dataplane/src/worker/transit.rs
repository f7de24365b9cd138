//! The way of a packet that is not for us: address sanity, reverse path, policy both ways, TTL, route.

use crate::buffer::Packet;
use crate::drops::DropReason;
use crate::host::icmp::Error;
use crate::packet::ip::{self, IpInfo, Version};
use crate::policy::spd::Scope;
use crate::policy::{Action, PolicyId};
use crate::port::PortId;
use crate::sa::TunnelId;
use crate::worker::Worker;
use crate::worker::outbound::SealQueue;
use crate::worker::sources::Source;

/// Where a packet in the clear came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// A port, unprotected.
    Port(PortId),
    /// This tunnel, whose selectors it matches.
    Tunnel(TunnelId),
    /// The gateway itself.
    Local,
}

impl Worker {
    /// A packet that is out of its SA or that we made: for us, or for somebody else.
    #[inline]
    pub(super) fn deliver(
        &mut self,
        packet: Packet,
        info: &IpInfo,
        origin: Origin,
        now: u64,
        sealing: &mut SealQueue,
    ) {
        if self.tables.addresses.contains(info.destination) {
            self.receive(packet, info, origin, now, None);
        } else {
            self.forward(packet, info, origin, now, sealing);
        }
    }

    /// Forwards a packet, through a tunnel or in the clear, as policy says.
    #[inline]
    pub(super) fn forward(
        &mut self,
        mut packet: Packet,
        info: &IpInfo,
        origin: Origin,
        now: u64,
        sealing: &mut SealQueue,
    ) {
        // RFC 4301 s7.4: where policy looks at ports, fragments must show theirs.
        if info.fragment.is_some() && origin != Origin::Local && self.tables.spd.restricts_ports() {
            let Some(whole) = self.collect_fragment(packet, info, origin, now) else { return };
            return match ip::parse(whole.data()) {
                Ok(mut info) => {
                    // We took it apart ourselves, in effect: an IPv6 packet too may be fragmented again.
                    info.dont_fragment &= info.version == Version::V4;
                    self.forward(whole, &info, origin, now, sealing);
                }
                Err(reason) => self.drop_packet(whole, reason),
            };
        }
        let from_sa = packet.is_from_sa();
        match self.decide(packet.data_mut(), from_sa, info, origin) {
            Ok(Some(tunnel)) => self.protect(packet, 0, tunnel, info, origin, now, sealing),
            Ok(None) => self.route(packet, info, origin, now),
            Err(reason) => self.refuse_transit(packet, reason, info, origin, now),
        }
    }

    /// As [`Worker::forward`] for a packet from a port that is not a fragment and still has its link header, of
    /// `link_len` bytes.
    #[inline]
    pub(super) fn forward_frame(
        &mut self,
        mut packet: Packet,
        link_len: usize,
        info: &IpInfo,
        now: u64,
        sealing: &mut SealQueue,
    ) {
        let origin = Origin::Port(packet.rx_port);
        let decision =
            self.decide(packet.data_mut().get_mut(link_len..).unwrap_or_default(), false, info, origin);
        if let Ok(Some(tunnel)) = decision {
            return self.protect(packet, link_len, tunnel, info, origin, now, sealing);
        }
        strip(&mut packet, link_len, info);
        match decision {
            Ok(_) => self.route(packet, info, origin, now),
            Err(reason) => self.refuse_transit(packet, reason, info, origin, now),
        }
    }

    #[cold]
    fn refuse_transit(
        &mut self,
        packet: Packet,
        reason: DropReason,
        info: &IpInfo,
        origin: Origin,
        now: u64,
    ) {
        if reason == DropReason::TtlExceeded {
            self.complain(&packet, info, origin, Error::TimeExceeded, now);
        }
        self.drop_packet(packet, reason);
    }

    /// The tunnel that the packet goes through, or `None` for the clear. Takes one from its TTL.
    #[inline]
    fn decide(
        &mut self,
        packet: &mut [u8],
        from_sa: bool,
        info: &IpInfo,
        origin: Origin,
    ) -> Result<Option<TunnelId>, DropReason> {
        if origin != Origin::Local {
            ip::check_forwardable(info)?;
        }
        let mut may_be_from_afar = false;
        if let Origin::Port(port) = origin {
            let source = self.source(info.source);
            self.check_reverse_path(&source, port)?;
            may_be_from_afar = source.is_remote;
        }
        let (source, destination) = (info.source, info.destination);
        let (found, scope) = self.tables.spd.lookup_wide(source, destination, info.protocol, info.ports);
        if scope != Scope::Narrow && origin != Origin::Local {
            self.remember(info.destination, found, scope, matches!(origin, Origin::Tunnel(_)));
        }
        let spd = &self.tables.spd;
        let tunnel = match found {
            Some((id, Action::Protect(tunnel))) => {
                if may_be_from_afar && self.is_from_afar(info, id, tunnel) {
                    return Err(DropReason::PolicyClear);
                }
                Some(tunnel)
            }
            Some((_, Action::Discard)) => return Err(DropReason::PolicyDiscard),
            verdict => {
                if let Origin::Port(_) = origin {
                    // It came in the clear: had it to come through a tunnel (RFC 4301 s5.2 step 3)?
                    match (
                        spd.lookup_inbound(info.source, info.destination, info.protocol, info.ports),
                        verdict,
                    ) {
                        (Some((_, Action::Protect(_))), _) => return Err(DropReason::PolicyClear),
                        (Some((_, Action::Bypass)), _) | (None, Some(_)) => {}
                        _ => return Err(DropReason::PolicyDiscard),
                    }
                }
                // What came out of an SA has passed its selectors; what we send ourselves is ours to send, but not
                // what we say about the inside of an SA.
                if origin == Origin::Local && from_sa {
                    return Err(DropReason::PolicyDiscard);
                }
                None
            }
        };
        if origin != Origin::Local {
            ip::decrement_ttl(packet)?;
        }
        Ok(tunnel)
    }

    /// Whether a packet in the clear that policy `outbound` would send into a tunnel should itself have come out of
    /// another (RFC 4301 s5.2 step 3): else anybody could speak to one branch in the name of another. Both may match,
    /// when a policy's remote side is everything; then the side that names the source more closely is right.
    #[inline]
    fn is_from_afar(&self, info: &IpInfo, outbound: PolicyId, tunnel: TunnelId) -> bool {
        let spd = &self.tables.spd;
        match spd.lookup_inbound(info.source, info.destination, info.protocol, info.ports) {
            Some((inbound, Action::Protect(other))) if other != tunnel => {
                let remote = spd.get(inbound).map_or(0, |policy| policy.selector.remote.prefix_len());
                let local = spd.get(outbound).map_or(0, |policy| policy.selector.local.prefix_len());
                remote > 0 && remote >= local
            }
            _ => false,
        }
    }

    /// Strict reverse path check (RFC 3704 s2.2): the source must be reached by the port it comes from, and is not
    /// ourselves.
    #[inline]
    fn check_reverse_path(&self, source: &Source, port: PortId) -> Result<(), DropReason> {
        let strict = self.ports.get(usize::from(port)).is_some_and(|state| state.config.reverse_path);
        let good = !strict || (source.port == Some(port) && !source.is_ours);
        if good { Ok(()) } else { Err(DropReason::ReversePath) }
    }
}

/// Cuts the link header off, and what is behind the packet.
#[inline]
pub(super) fn strip(packet: &mut Packet, link_len: usize, info: &IpInfo) {
    packet.trim_front(link_len);
    packet.truncate(usize::from(info.total_len));
}
